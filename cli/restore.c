// ferry restore
#include <stdio.h>
#include <string.h>

#include "base/ids.h"
#include "cli/commands.h"
#include "cli/detach.h"
#include "cli/lease_option.h"
#include "cli/machine_process.h"

struct restore_options {
    struct common_options common;
    struct lease_option lease;
    bool detach, preload, force;
    int sandbox;
};

static int set_lease(void *values, const char *text, struct error *err)
{
    return lease_option_parse(&((struct restore_options *)values)->lease, text, err);
}

static const struct option_spec options[] = {
    {.name = "detach",
     .letter = 'D',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct restore_options, detach),
     .help = "return once the machine runs"},
    {.name = "preload",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct restore_options, preload),
     .help = "read all of the file first; without it the file must stay as it is while the machine "
             "lives"},
    {.name = "force",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct restore_options, force),
     .help = "also when a disk has changed since the snapshot, or is a cluster's"},
    {.name = "lease",
     .kind = OPTION_CALL,
     .argument = LEASE_OPTION_ARGUMENT,
     .call = set_lease,
     .help = LEASE_OPTION_HELP},
    OPTION_SANDBOX(struct restore_options, sandbox),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int restore(int argc, char **argv)
{
    struct restore_options o = {0};
    struct error err = {0};
    struct snapshot_file *file;
    char **arguments;
    int status = options_parse(&command_restore, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (arguments[1] && !name_is_valid(arguments[1])) {
        fprintf(stderr, "ferry: restore: '%s' is not a name for a machine\n", arguments[1]);
        return STATUS_USAGE;
    }
    if (snapshot_open(&file, arguments[0], &err) < 0) {
        fprintf(stderr, "ferry: restore: %s\n", err.message);
        return STATUS_FAILED;
    }
    struct machine_config *config = snapshot_config(file);
    struct process_options process = {.runtime_dir = o.common.runtime_dir,
                                      .foreground = !o.detach,
                                      .snapshot = file,
                                      .load_whole = o.preload,
                                      .force = o.force,
                                      .lease = lease_option_params(&o.lease),
                                      .sandbox_off = o.sandbox == SANDBOX_OFF};
    if (arguments[1])
        snprintf(config->name, sizeof(config->name), "%s", arguments[1]);
    if (lease_option_apply(&o.lease, config, &err) < 0) {
        fprintf(stderr, "ferry: restore: %s\n", err.message);
        status = STATUS_FAILED;
    } else if (o.detach) {
        status = detach_machine(config, &process, o.common.format, &command_restore);
    } else {
        status = machine_process_run(config, &process, &err);
        if (err.code)
            fprintf(stderr, "ferry: restore: %s\n", err.message);
    }
    snapshot_close(file);
    return status;
}

const struct subcommand command_restore = {
    .name = "restore",
    .arguments = "FILE [NAME]",
    .summary = "runs a machine from where `ferry snapshot` took it",
    .details = "The machine has its own name, or gets NAME; it is paused when it was. In the "
               "foreground the\n"
               "terminal is its console, as with ferry run.",
    .options = options,
    .least = 1,
    .most = 2,
    .run = restore,
};
