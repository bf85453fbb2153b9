// ferry cpu: what a machine gets of the CPUs, while it runs.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/cpu_options.h"
#include "cli/machine_access.h"
#include "cli/output.h"

struct cpu_command_options {
    struct common_options common;
    struct cpu_settings scratch; // to find wrong values before anybody is asked
    json_t *changes;
};

// "N=VALUE" or "VALUE" of `key`, as the description has it.
static int add_change(void *values, const char *key, const char *text, struct error *err)
{
    struct cpu_command_options *o = values;
    int r = cpu_settings_parse(&o->scratch, key, text, err);
    if (r)
        return r;
    if (!o->changes)
        o->changes = json_object();
    json_t *to = o->changes;
    const char *equals = strchr(text, '=');
    if (equals) {
        char number[16];
        snprintf(number, sizeof(number), "%.*s", (int)(equals - text), text);
        if (!json_object_get(to, "vcpus"))
            json_object_set_new(to, "vcpus", json_object());
        json_t *vcpus = json_object_get(to, "vcpus");
        if (!json_object_get(vcpus, number))
            json_object_set_new(vcpus, number, json_object());
        to = json_object_get(vcpus, number);
        text = equals + 1;
    }
    return json_object_set_new(to, key, json_string(text)) == 0
               ? 0
               : error_set(err, ENOMEM, "out of memory");
}

static int change_weight(void *values, const char *text, struct error *err)
{
    return add_change(values, "weight", text, err);
}

static int change_cap(void *values, const char *text, struct error *err)
{
    return add_change(values, "cap", text, err);
}

static int change_slice(void *values, const char *text, struct error *err)
{
    return add_change(values, "slice", text, err);
}

static int change_affinity(void *values, const char *text, struct error *err)
{
    return add_change(values, "affinity", text, err);
}

static int change_backend(void *values, const char *text, struct error *err)
{
    struct cpu_command_options *o = values;
    int r = cpu_options_backend(&o->scratch, text, err);
    if (!o->changes)
        o->changes = json_object();
    return r ? r : json_object_set_new(o->changes, "backend", json_string(text));
}

static int change_group(void *values, const char *text, struct error *err)
{
    struct cpu_command_options *o = values;
    int r = cpu_settings_parse_group(&o->scratch, text, err);
    if (!o->changes)
        o->changes = json_object();
    return r ? r : json_object_set_new(o->changes, "group", json_string(text));
}

static const struct option_spec options[] = {
    CPU_OPTIONS(change_weight, change_cap, change_slice, change_affinity, change_backend,
                change_group),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int cpu_one(const struct runtime_dir *dir, const char *name, void *opaque, struct error *err)
{
    const struct cpu_command_options *o = opaque;
    struct control_client *client = NULL;
    json_t *params = NULL, *result = NULL;
    int board = -1, r = machine_access_connect(dir, name, ACCESS_TIMEOUT_MS, &client, err);
    if (r)
        return r;
    if (o->changes) {
        // A machine that takes part in no schedule yet needs the one of this host.
        board = runtime_dir_open_board(dir, err);
        r = board < 0 ? board : 0;
        params = json_pack("{s:O, s:{s:i}}", "cpu_time", o->changes, "board", "fd", 0);
    }
    if (!r)
        r = control_client_call(client, "cpu", params, &board, board >= 0 ? 1 : 0,
                                ACCESS_TIMEOUT_MS, &result, err);
    else
        json_decref(params);
    if (!r && o->common.format == OUTPUT_JSON)
        output_json(result);
    else if (!r)
        output_flat(result);
    else
        error_prefix(err, "'%s'", name);
    json_decref(result);
    if (board >= 0)
        close(board);
    control_client_close(client);
    return r;
}

static int cpu(int argc, char **argv)
{
    struct cpu_command_options o = {0};
    char **names;
    int status = options_parse(&command_cpu, argc, argv, &o, &names);
    if (status == OPTIONS_GO)
        status = machine_access_each(&command_cpu, &o.common, names, cpu_one, &o);
    json_decref(o.changes);
    return status;
}

const struct subcommand command_cpu = {
    .name = "cpu",
    .arguments = "NAME",
    .summary = "shows or changes what a machine gets of the CPUs",
    .details = "Without an option it prints what was asked for. `none` as a value takes it back.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = cpu,
};
