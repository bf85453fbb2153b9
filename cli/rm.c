// ferry rm
#include <stdio.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

struct rm_options {
    struct common_options common;
    bool all;
};

static const struct option_spec options[] = {
    {.name = "all",
     .letter = 'a',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct rm_options, all),
     .help = "every machine that isn't running"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int remove_one(const struct runtime_dir *dir, const char *name, void *opaque,
                      struct error *err)
{
    const struct common_options *common = opaque;
    int r = runtime_dir_remove(dir, name, err);
    if (r == 0 && common->format == OUTPUT_JSON)
        output_name(name, "removed", common->format);
    return r;
}

struct removal {
    const struct runtime_dir *dir;
    int format;
};

static int remove_if_dead(const char *name, bool alive, void *opaque)
{
    const struct removal *removal = opaque;
    struct error err = {0};
    // One that has just been started again, or that somebody else removed, is no failure here.
    if (!alive && runtime_dir_remove(removal->dir, name, &err) == 0)
        output_name(name, "removed", removal->format);
    else if (!alive && err.code != EBUSY && err.code != ENOENT)
        fprintf(stderr, "ferry: rm: %s\n", err.message);
    return 0;
}

static int remove_all(const struct common_options *common)
{
    struct runtime_dir dir;
    struct error err = {0};
    if (runtime_dir_open(&dir, common->runtime_dir, &err) != 0)
        return machine_access_fail(&command_rm, &err);
    struct removal removal = {.dir = &dir, .format = common->format};
    int r = runtime_dir_list(&dir, remove_if_dead, &removal, &err);
    runtime_dir_close(&dir);
    return r ? machine_access_fail(&command_rm, &err) : STATUS_OK;
}

static int rm(int argc, char **argv)
{
    struct rm_options o = {0};
    char **names;
    int status = options_parse(&command_rm, argc, argv, &o, &names);
    if (status != OPTIONS_GO)
        return status;
    if (o.all == (*names != NULL)) {
        fprintf(stderr, "ferry: rm: give names, or --all\n");
        return STATUS_USAGE;
    }
    return o.all ? remove_all(&o.common)
                 : machine_access_each(&command_rm, &o.common, names, remove_one, &o.common);
}

const struct subcommand command_rm = {
    .name = "rm",
    .arguments = "NAME...|--all",
    .summary = "removes what ended machines left: logs and exit status",
    .options = options,
    .least = 0,
    .most = UINT32_MAX,
    .run = rm,
};
