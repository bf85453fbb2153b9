// What the files of `ferry vm` share.
#pragma once

#include <jansson.h>

#include "base/error.h"
#include "cli/options.h"

struct vm_options {
    struct common_options common;
    const char *file, *host, *restart, *request;
    json_t *flags;     // what the options say of the description
    json_t *placement; // and of the host
    bool stopped, wait, force, debug_exit, cancel, no_ha, all;
    uint64_t timeout;
};

// --wait and --timeout, of commands whose values are vm_options.
#define VM_OPTIONS_WAIT(until)                                                                     \
    {.name = "wait",                                                                               \
     .letter = 'w',                                                                                \
     .kind = OPTION_FLAG,                                                                          \
     .offset = offsetof(struct vm_options, wait),                                                  \
     .help = (until)},                                                                             \
    {                                                                                              \
        .name = "timeout", .kind = OPTION_DURATION,                                                \
        .offset = offsetof(struct vm_options, timeout), .argument = "TIME",                        \
        .help = "how long to wait (60s)"                                                           \
    }

// Until the machine is as wanted (`gone`: isn't there any more); 0 or a sentence.
int vm_await_state(const struct vm_options *o, const char *name, const char *state, bool gone,
                   struct error *err);

extern const struct subcommand vm_create, vm_events, vm_logs, vm_console, vm_declare_dead;
