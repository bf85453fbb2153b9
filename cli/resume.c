// ferry resume
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

#include <stdio.h>

struct resume_options {
    struct common_options common;
    bool force;
};

static const struct option_spec options[] = {
    {.name = "force",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct resume_options, force),
     .help = "also after a migration whose outcome is unknown: you answer for it that the machine "
             "doesn't run elsewhere"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int resume_one(const struct runtime_dir *dir, const char *name, void *opaque,
                      struct error *err)
{
    const struct resume_options *o = opaque;
    struct control_client *client;
    json_t *result = NULL;
    int r = machine_access_connect(dir, name, ACCESS_TIMEOUT_MS, &client, err);
    if (r)
        return r;
    r = control_client_call(client, "resume", json_pack("{s:b}", "force", o->force), NULL, 0,
                            ACCESS_TIMEOUT_MS, &result, err);
    control_client_close(client);
    if (!r)
        machine_access_print_state(name, result, o->common.format);
    json_decref(result);
    return r;
}

static int resume_machines(int argc, char **argv)
{
    struct resume_options o = {0};
    char **names;
    int status = options_parse(&command_resume, argc, argv, &o, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_resume, &o.common, names, resume_one, &o)
               : status;
}

const struct subcommand command_resume = {
    .name = "resume",
    .arguments = "NAME...",
    .summary = "lets a paused machine go on",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = resume_machines,
};
