// The whole state of a halted machine, but for its RAM, as framed parts:
//
//   part: string name, u8 flags (1 = optional), blob contents; ended by a part with an empty name
//
// Parts: "clock", "irqchip", "vcpu0".., then one a device by its id. A part that the machine has
// and the stream lacks, or the other way round, is an error that names it, unless the part is
// optional.
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm/machine.h"

// The machine is halted (paused, or between halt and resume). Failure with a sentence.
int machine_state_save(struct machine *machine, struct byte_writer *writer, struct error *err);
// Into a machine of the same description that hasn't run. `advance` as in machine_clock.h. From a
// hostile source: 0 or a sentence; the machine must not be started after a failure.
int machine_state_load(struct machine *machine, struct byte_reader *reader, bool advance,
                       struct error *err);
