// ferry ps
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

enum { ANSWER_MS = 5000 }; // a busy host may be slow; one that hangs is shown as such

struct ps_options {
    struct common_options common;
    bool all;
    const struct runtime_dir *dir;
    json_t *list;
};

static const struct option_spec options[] = {
    {.name = "all",
     .letter = 'a',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct ps_options, all),
     .help = "also machines that have ended"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

// What a living machine says of itself; NULL when it has ended meanwhile.
static json_t *describe_alive(const struct runtime_dir *dir, const char *name)
{
    struct error err = {0};
    struct control_client *client;
    json_t *summary = NULL;
    int r = machine_access_connect(dir, name, ANSWER_MS, &client, &err);
    if (!r) {
        r = control_client_call(client, "query", NULL, NULL, 0, ANSWER_MS, &summary, &err);
        control_client_close(client);
    }
    if (!r)
        return summary;
    if (runtime_dir_is_alive(dir, name) != 1)
        return NULL;
    return json_pack("{s:s, s:s}", "name", name, "state",
                     r == -EAGAIN ? "starting" : "unresponsive");
}

static json_t *describe_dead(const struct runtime_dir *dir, const char *name)
{
    json_t *summary = json_pack("{s:s, s:s}", "name", name, "state", "ended");
    json_t *status = runtime_dir_read_exit(dir, name);
    json_t *reason = json_object_get(status, "reason");
    if (reason) {
        json_object_set(summary, "reason", reason);
    } else {
        char death[RUNTIME_DEATH_SIZE];
        runtime_dir_read_death(dir, name, death);
        json_object_set_new(summary, "reason", json_string("died"));
        json_object_set_new(summary, "death", json_string(death));
    }
    json_t *code = json_object_get(status, "exit_status");
    if (code)
        json_object_set(summary, "exit_status", code);
    json_decref(status);
    return summary;
}

static int visit(const char *name, bool alive, void *opaque)
{
    struct ps_options *o = opaque;
    json_t *summary = alive ? describe_alive(o->dir, name) : NULL;
    if (!summary && o->all)
        summary = describe_dead(o->dir, name);
    if (summary)
        json_array_append_new(o->list, summary);
    return 0;
}

static const char *format_uptime(json_int_t ms, char *out, size_t size)
{
    long long s = ms / 1000;
    if (s < 3600)
        snprintf(out, size, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, size, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(out, size, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    return out;
}

static void print_row(const json_t *machine)
{
    char memory[32] = "-", uptime[32] = "-", cpus[24] = "-", pid[24] = "-", state[64];
    const char *name = json_string_value(json_object_get(machine, "name"));
    const char *reason = json_string_value(json_object_get(machine, "reason"));
    snprintf(state, sizeof(state), "%s%s%s%s", json_string_value(json_object_get(machine, "state")),
             reason ? " (" : "", reason ? reason : "", reason ? ")" : "");
    if (json_object_get(machine, "pid")) {
        snprintf(pid, sizeof(pid), "%lld",
                 (long long)json_integer_value(json_object_get(machine, "pid")));
        snprintf(cpus, sizeof(cpus), "%lld",
                 (long long)json_integer_value(json_object_get(machine, "cpus")));
        units_format_size((uint64_t)json_integer_value(json_object_get(machine, "memory")), memory,
                          sizeof(memory));
        format_uptime(json_integer_value(json_object_get(machine, "uptime_ms")), uptime,
                      sizeof(uptime));
    }
    printf("%-20s %-18s %4s %10s %8s %8s\n", name, state, cpus, memory, uptime, pid);
}

static void print_table(const json_t *list)
{
    size_t i;
    json_t *machine;
    printf("%-20s %-18s %4s %10s %8s %8s\n", "NAME", "STATE", "CPUS", "MEMORY", "UPTIME", "PID");
    json_array_foreach(list, i, machine) print_row(machine);
}

static int ps(int argc, char **argv)
{
    struct ps_options o = {0};
    struct runtime_dir dir;
    struct error err = {0};
    char **arguments;
    int status = options_parse(&command_ps, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (runtime_dir_open(&dir, o.common.runtime_dir, &err) != 0)
        return machine_access_fail(&command_ps, &err);
    o.dir = &dir;
    o.list = json_array();
    int r = runtime_dir_list(&dir, visit, &o, &err);
    if (!r && o.common.format == OUTPUT_JSON)
        output_json(o.list);
    else if (!r)
        print_table(o.list);
    json_decref(o.list);
    runtime_dir_close(&dir);
    return r ? machine_access_fail(&command_ps, &err) : STATUS_OK;
}

const struct subcommand command_ps = {
    .name = "ps",
    .arguments = "",
    .summary = "lists machines",
    .options = options,
    .run = ps,
};
