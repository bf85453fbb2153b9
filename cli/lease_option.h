// --lease, by which a cluster's agent starts a machine that it manages.
#pragma once

#include <stdbool.h>

#include "vmm/machine_config.h"
#include "vmm/machine_lease.h"

struct lease_option {
    bool given;
    struct machine_lease_params params;
    // Until when a source must have come to a receiver (CLOCK_BOOTTIME), a late process must have
    // begun; without, the deadline. Machines without one have this.
    uint64_t accept_ns;
};

// uuid=UUID,epoch=N,deadline=NS|none[,boot=ID][,keep=TIME][,new-disks][,witness=DIR][,accept=NS]. 0
// or a sentence.
int lease_option_parse(struct lease_option *option, const char *text, struct error *err);
// Gives a machine without a UUID that of the lease; another one is an error. Nothing without a
// lease.
int lease_option_apply(const struct lease_option *option, struct machine_config *config,
                       struct error *err);
const struct machine_lease_params *lease_option_params(const struct lease_option *option);

#define LEASE_OPTION_ARGUMENT "uuid=U,epoch=N,deadline=NS[,...]"
#define LEASE_OPTION_HELP                                                                          \
    "for a cluster's agent: the machine runs only until the deadline (CLOCK_BOOTTIME, or none), "  \
    "unless it is renewed; also boot=ID, keep=TIME (10m), new-disks, witness=DIR, accept=NS (the " \
    "last moment to begin, where the deadline is none)"
