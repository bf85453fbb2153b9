// Machines that outlive the command that started them.
#pragma once

#include "cli/machine_process.h"
#include "cli/options.h"

// Forks; the child becomes the machine in a session of its own. Prints its name (as `format`, an
// output_format, says) and returns once it runs, or prints its error. Returns the command's exit
// status. `options` are completed here (started, opaque).
int detach_machine(struct machine_config *config, struct process_options *options, int format,
                   const struct subcommand *command);
