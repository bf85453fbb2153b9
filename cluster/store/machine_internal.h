// Shared by the state machine and its snapshots.
#pragma once

#include "cluster/store/machine.h"

int store_machine_lease_add(struct store_machine *machine, uint64_t id, uint64_t ttl,
                            uint64_t renewals);
uint64_t store_mix(uint64_t hash, uint64_t word);
uint64_t store_mix_bytes(uint64_t hash, const void *bytes, size_t length);
