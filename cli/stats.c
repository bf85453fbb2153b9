// ferry stats
#include <stdio.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

struct stats_options {
    struct common_options common;
    bool watch;
};

static const struct option_spec options[] = {
    {.name = "watch",
     .letter = 'w',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct stats_options, watch),
     .help = "print again each second, until the machine ends"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static void print_stats(const struct stats_options *o, const json_t *stats)
{
    if (o->common.format == OUTPUT_JSON && o->watch) {
        output_json_line(stats);
    } else if (o->common.format == OUTPUT_JSON) {
        output_json(stats);
    } else {
        if (o->watch)
            printf(isatty(STDOUT_FILENO) ? "\033[H\033[J" : "\n");
        output_flat(stats);
    }
}

static int print_once(struct control_client *client, const struct stats_options *o,
                      struct error *err)
{
    json_t *stats = NULL;
    int r = control_client_call(client, "stats", NULL, NULL, 0, ACCESS_TIMEOUT_MS, &stats, err);
    if (!r)
        print_stats(o, stats);
    json_decref(stats);
    return r;
}

static int stats_one(const struct runtime_dir *dir, const char *name, void *opaque,
                     struct error *err)
{
    const struct stats_options *o = opaque;
    struct control_client *client = NULL;
    int r = machine_access_connect(dir, name, ACCESS_TIMEOUT_MS, &client, err);
    if (r)
        return r;
    r = print_once(client, o, err);
    while (o->watch && !r && !ferror(stdout)) {
        sleep(1);
        r = print_once(client, o, err);
        if (r == -ECONNRESET) { // that is how a watch ends
            r = 0;
            break;
        }
    }
    control_client_close(client);
    return r;
}

static int stats(int argc, char **argv)
{
    struct stats_options o = {0};
    char **names;
    int status = options_parse(&command_stats, argc, argv, &o, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_stats, &o.common, names, stats_one, &o)
               : status;
}

const struct subcommand command_stats = {
    .name = "stats",
    .arguments = "NAME",
    .summary = "prints what a machine has been doing, in numbers",
    .options = options,
    .least = 1,
    .most = 1,
    .run = stats,
};
