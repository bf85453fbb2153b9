// The daemon as a function, so that tests can run it on a disk that fails.
#pragma once

#include "cluster/wal/files.h"

// What tests put in another place than it has.
struct ferryd_test {
    void (*wrap)(struct files *files); // puts something between the log and its directory's files
    uint32_t newest_command;           // that it understands; 0: all
};

// Reads the options and runs until a signal, or until the member ends. Returns the exit code.
// `test` may be NULL.
int ferryd_run(int argc, char **argv, const struct ferryd_test *test);
