// A machine's balloon. Main thread.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/machine.h"

// Asks the guest to make do with `bytes` of its RAM (whole pages, not more than it has). -ENOTSUP
// with a sentence when the machine has no balloon.
int machine_balloon_set(struct machine *machine, uint64_t bytes, struct error *err);
// Asks the guest for new statistics; MACHINE_EVENT_BALLOON comes when machine_balloon_count()
// has changed. False when none will come.
bool machine_balloon_ask(struct machine *machine);
// How often statistics came.
uint64_t machine_balloon_count(const struct machine *machine);
// A new object (docs/control.md), NULL without memory; only for a machine with a balloon.
json_t *machine_balloon_status(struct machine *machine);
bool machine_has_balloon(const struct machine *machine);
