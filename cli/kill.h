// Ending a machine, for `ferry kill` and for `ferry stop` when its patience ends.
#pragma once

#include "base/local_socket.h"
#include "cli/machine_access.h"

// Ends the machine and waits until its process is gone. 0 or a sentence.
int kill_machine(const struct runtime_dir *dir, const char *name, struct error *err);
