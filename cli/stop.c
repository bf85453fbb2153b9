// ferry stop
#include <stdio.h>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/kill.h"
#include "cli/output.h"

struct stop_options {
    struct common_options common;
    uint64_t timeout_ns;
};

static const struct option_spec options[] = {
    {.name = "timeout",
     .letter = 't',
     .kind = OPTION_DURATION,
     .offset = offsetof(struct stop_options, timeout_ns),
     .argument = "TIME",
     .help = "how long the guest may take before it is killed (30s)"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int stop_one(const struct runtime_dir *dir, const char *name, void *opaque,
                    struct error *err)
{
    const struct stop_options *o = opaque;
    const char *how = "stopped";
    uint64_t timeout_ms = o->timeout_ns / NSEC_PER_MSEC;
    int r = machine_access_call(dir, name, "power-button", NULL, err);
    if (r)
        return r;
    if (!machine_access_await_end(dir, name,
                                  timeout_ms < INT32_MAX ? (int)timeout_ms : INT32_MAX)) {
        r = kill_machine(dir, name, err);
        if (r)
            return r;
        how = "killed"; // the guest didn't follow its power button
    }
    output_ended(name, how, o->common.format);
    return 0;
}

static int stop(int argc, char **argv)
{
    struct stop_options o = {.timeout_ns = 30 * NSEC_PER_SEC};
    char **names;
    int status = options_parse(&command_stop, argc, argv, &o, &names);
    return status == OPTIONS_GO ? machine_access_each(&command_stop, &o.common, names, stop_one, &o)
                                : status;
}

const struct subcommand command_stop = {
    .name = "stop",
    .arguments = "NAME...",
    .summary = "presses the power button, and kills what hasn't ended in time",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = stop,
};
