// ferry wait
#include <stdio.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

struct wait_options {
    struct common_options common;
    int status; // of the last machine that ended
};

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static int report(const struct runtime_dir *dir, const char *name, struct wait_options *o,
                  struct error *err)
{
    json_t *status = runtime_dir_read_exit(dir, name);
    if (!status) {
        char death[RUNTIME_DEATH_SIZE];
        runtime_dir_read_death(dir, name, death);
        return error_set(err, ESRCH, "the process of '%s' %s", name, death);
    }
    const json_t *number = json_object_get(status, "exit_status");
    json_int_t value = json_integer_value(number);
    o->status = json_is_integer(number) && value >= 0 && value <= 255 ? (int)value : STATUS_FAILED;
    const char *reason = json_string_value(json_object_get(status, "reason"));
    if (o->common.format == OUTPUT_JSON)
        output_json_line(status);
    else
        printf("%s: %s\n", name, reason ? reason : "?");
    fflush(stdout);
    json_decref(status);
    return 0;
}

static int wait_one(const struct runtime_dir *dir, const char *name, void *opaque,
                    struct error *err)
{
    if (!name_is_valid(name) || runtime_dir_is_alive(dir, name) < 0)
        return error_set(err, ENOENT, "there is no machine named '%s' (`ferry ps -a` lists them)",
                         name);
    machine_access_await_end(dir, name, -1);
    return report(dir, name, opaque, err);
}

static int wait_for_machines(int argc, char **argv)
{
    struct wait_options o = {0};
    char **names;
    int status = options_parse(&command_wait, argc, argv, &o, &names);
    if (status != OPTIONS_GO)
        return status;
    status = machine_access_each(&command_wait, &o.common, names, wait_one, &o);
    return status == STATUS_OK ? o.status : status;
}

const struct subcommand command_wait = {
    .name = "wait",
    .arguments = "NAME...",
    .summary = "waits until machines have ended, and prints how",
    .details = "Exit status: that of the (last) machine's run, or 1 when it isn't known.",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = wait_for_machines,
};
