// How subcommands reach machines: by name, through their control sockets.
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/control_client.h"
#include "base/runtime_dir.h"
#include "cli/options.h"

enum { ACCESS_TIMEOUT_MS = 10000 }; // for answers that a living machine gives at once

// Prints "ferry: COMMAND: message" and returns STATUS_FAILED.
int machine_access_fail(const struct subcommand *command, const struct error *err);
// Connects to a running machine. 0; -ENOENT (no such machine), -ESRCH (it doesn't run) or another,
// each with a sentence.
int machine_access_connect(const struct runtime_dir *dir, const char *name, int timeout_ms,
                           struct control_client **client, struct error *err);
// Connects, calls one method, closes.
int machine_access_call(const struct runtime_dir *dir, const char *name, const char *method,
                        json_t **result, struct error *err);
// Waits until the process of the machine is gone (lock given free), at most `timeout_ms` (-1: for
// ever). True when it is.
bool machine_access_await_end(const struct runtime_dir *dir, const char *name, int timeout_ms);

// A subcommand that does one thing to each of the machines that it is given: opens the runtime
// directory, calls act() for each name, prints the failures. act() returns 0 or -errno with a
// sentence.
int machine_access_each(const struct subcommand *command, const struct common_options *common,
                        char **names,
                        int (*act)(const struct runtime_dir *dir, const char *name, void *opaque,
                                   struct error *err),
                        void *opaque);
// Prints an answer {"state": ...} of the machine, in JSON with its name added.
void machine_access_print_state(const char *name, json_t *result, int format);
// The same where the thing is one method and its answer {"state": ...}.
int machine_access_method(const struct subcommand *command, int argc, char **argv,
                          const char *method);
