// ferry vm: machines that the cluster places: ls, show, start, stop, delete, migrate, explain;
// vm_create.c has create, vm_follow.c events, logs and console
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ids.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/vm.h"

// ---- waiting ----

// `opaque` is the state, or NULL: that it is gone.
static int look_at_state(void *opaque, const json_t *machine, struct error *err)
{
    const char *wanted = opaque ? opaque : "deleted";
    if (!machine && daemon_knows_no_machine(err))
        return opaque ? -ENOENT : 0;
    if (!machine)
        return 1;
    const char *state = output_text_of(machine, "state");
    const char *why = output_text_of(machine, "waits");
    why = why[0] ? why : output_text_of(machine, "reason");
    error_set(err, EAGAIN, "%.30s%s%.190s", state, why[0] ? ": " : "", why);
    return strcmp(state, wanted) != 0;
}

int vm_await_state(const struct vm_options *o, const char *name, const char *state, bool gone,
                   struct error *err)
{
    int r = daemon_await(&o->common, o->timeout, "vm.show", json_pack("{s:s}", "name", name),
                         look_at_state, gone ? NULL : (void *)state, err);
    return r == -ETIMEDOUT
               ? error_prefix(err, "'%s' is not %s in time", name, gone ? "gone" : state)
               : r;
}

// ---- ls, show ----

enum { PAGE = 400 }; // machines of one answer

static const struct option_spec look_options[] = {
    OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, OPTIONS_CLUSTER, {0}};

static const struct option_spec list_options[] = {
    {.name = "all",
     .letter = 'a',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, all),
     .help = "also deleted ones whose end a lost host hasn't confirmed"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};

static int list(int argc, char **argv);
static const struct subcommand vm_ls = {
    .name = "vm ls",
    .arguments = "",
    .summary = "lists machines: what is wanted, what is",
    .options = list_options,
    .run = list,
};

// One page after the other. The revision is that of the first one: what came later is in the
// events since.
static int list_all(const struct vm_options *o, json_t **result, struct error *err)
{
    char last[UUID_TEXT_SIZE] = "";
    bool more = true;
    while (more) {
        json_t *page = NULL, *params = json_pack("{s:b, s:i}", "all", o->all, "limit", PAGE);
        if (last[0])
            json_object_set_new(params, "after", json_string(last));
        int r = daemon_call(&o->common, "vm.list", params, &page, err);
        if (r) {
            json_decref(*result);
            *result = NULL;
            return r;
        }
        more = json_is_true(json_object_get(page, "more"));
        snprintf(last, sizeof(last), "%s", output_text_of(page, "last"));
        if (*result) {
            json_array_extend(json_object_get(*result, "machines"),
                              json_object_get(page, "machines"));
            json_decref(page);
        } else {
            *result = page;
        }
    }
    json_object_del(*result, "more");
    json_object_del(*result, "last");
    return 0;
}

static int list(int argc, char **argv)
{
    struct vm_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL, *machine;
    size_t i;
    int status = options_parse(&vm_ls, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (list_all(&o, &result, &err))
        return daemon_fail(&vm_ls, &err);
    if (o.common.format == OUTPUT_JSON) {
        output_json(result);
    } else {
        printf("%-20s %-8s %-10s %-16s %5s %10s %s\n", "NAME", "WANTED", "STATE", "HOST", "CPUS",
               "MEMORY", "WHY");
        json_array_foreach(json_object_get(result, "machines"), i, machine)
        {
            char memory[32];
            printf(
                "%-20s %-8s %-10s %-16s %5" PRIu64 " %10s %s\n", output_text_of(machine, "name"),
                output_text_of(machine, "wish"), output_text_of(machine, "state"),
                output_text_of(machine, "host"), output_number_of(machine, "cpus"),
                units_format_size(output_number_of(machine, "memory"), memory, sizeof(memory)),
                output_text_of(machine, output_text_of(machine, "waits")[0] ? "waits" : "reason"));
        }
    }
    json_decref(result);
    return STATUS_OK;
}

static int show(int argc, char **argv);
static const struct subcommand vm_show = {
    .name = "vm show",
    .arguments = "NAME",
    .summary = "shows all about a machine",
    .options = look_options,
    .least = 1,
    .most = 1,
    .run = show,
};

static int show(int argc, char **argv)
{
    struct vm_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL;
    int status = options_parse(&vm_show, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (daemon_call(&o.common, "vm.show", json_pack("{s:s}", "name", arguments[0]), &result, &err))
        return daemon_fail(&vm_show, &err);
    if (o.common.format == OUTPUT_JSON)
        output_json(result);
    else
        output_flat(result);
    json_decref(result);
    return STATUS_OK;
}

// ---- start, stop, delete ----

static const struct option_spec change_options[] = {
    VM_OPTIONS_WAIT("return when it is so"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};

// Does `method` to each of the machines; `state` is what --wait waits for, NULL: that it is gone.
static int change(const struct subcommand *command, int argc, char **argv, const char *method,
                  const char *state)
{
    struct vm_options o = {0};
    char **arguments;
    int status = options_parse(command, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    status = STATUS_OK;
    for (; *arguments; arguments++) {
        struct error err = {0};
        int r = daemon_call(&o.common, method, json_pack("{s:s}", "name", *arguments), NULL, &err);
        if (!r && o.wait)
            r = vm_await_state(&o, *arguments, state, !state, &err);
        if (r)
            status = daemon_fail(command, &err);
        else
            output_name(*arguments, state ? state : "deleted", o.common.format);
    }
    return status;
}

static int start(int argc, char **argv);
static const struct subcommand vm_start = {
    .name = "vm start",
    .arguments = "NAME...",
    .summary = "wants machines to run",
    .options = change_options,
    .least = 1,
    .most = UINT32_MAX,
    .run = start,
};

static int start(int argc, char **argv)
{
    return change(&vm_start, argc, argv, "vm.start", "running");
}

static int stop(int argc, char **argv);
static const struct subcommand vm_stop = {
    .name = "vm stop",
    .arguments = "NAME...",
    .summary = "wants machines to be stopped: the power button, and after a time a kill",
    .options = change_options,
    .least = 1,
    .most = UINT32_MAX,
    .run = stop,
};

static int stop(int argc, char **argv)
{
    return change(&vm_stop, argc, argv, "vm.stop", "stopped");
}

static int delete (int argc, char **argv);
static const struct subcommand vm_delete = {
    .name = "vm delete",
    .arguments = "NAME...",
    .summary = "ends machines and forgets them; their disks stay",
    .options = change_options,
    .least = 1,
    .most = UINT32_MAX,
    .run = delete,
};

static int delete (int argc, char **argv)
{
    return change(&vm_delete, argc, argv, "vm.delete", NULL);
}

// ---- migrate ----

static int migrate(int argc, char **argv);
static const struct option_spec migrate_options[] = {
    {.name = "to",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct vm_options, host),
     .argument = "HOST",
     .help = "where to (the best host)"},
    {.name = "cancel",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, cancel),
     .help = "call off the move under way; one whose switch is made goes on"},
    VM_OPTIONS_WAIT("return when it runs there, or the move was called off"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
static const struct subcommand vm_migrate = {
    .name = "vm migrate",
    .arguments = "NAME",
    .summary = "moves a running machine to another host",
    .options = migrate_options,
    .least = 1,
    .most = 1,
    .run = migrate,
};

struct awaited_move {
    const char *name, *to;
    const char *before; // the id of the migration that was called off before this one, if any
};

static int look_at_move(void *opaque, const json_t *machine, struct error *err)
{
    const struct awaited_move *move = opaque;
    if (!machine)
        return daemon_knows_no_machine(err) ? -ENOENT : 1;
    const json_t *migration = json_object_get(machine, "migration");
    const char *host = output_text_of(machine, "host"), *state = output_text_of(machine, "state");
    const char *stage = output_text_of(migration, "stage");
    if (strcmp(stage, "aborted") == 0 && strcmp(output_text_of(migration, "id"), move->before) != 0)
        return error_set(err, ECANCELED,
                         "the move was called off; '%s' runs on '%s' (its log, and that of ferryd "
                         "there, say why)",
                         move->name, host);
    if (strcmp(host, move->to) == 0 && strcmp(state, "running") == 0)
        return 0;
    const char *waits = output_text_of(machine, "waits");
    error_set(err, EAGAIN, "it is %s on '%s', %s%s", state, host,
              waits[0]   ? "and waits "
              : stage[0] ? "its move is "
                         : "the manager hasn't begun yet",
              waits[0] ? waits : stage);
    return 1;
}

static int await_move(const struct vm_options *o, const char *name, const char *before,
                      struct error *err)
{
    struct awaited_move move = {.name = name, .to = o->host, .before = before};
    int r = daemon_await(&o->common, o->timeout, "vm.show", json_pack("{s:s}", "name", name),
                         look_at_move, &move, err);
    return r == -ETIMEDOUT ? error_prefix(err, "'%s' is still on its way to '%s'", name, o->host)
                           : r;
}

static int migrate_machine(struct vm_options *o, const char *name, struct error *err)
{
    json_t *machine = NULL, *result = NULL, *params = json_pack("{s:s}", "name", name);
    char to[NAME_LIMIT + 1];
    int r = daemon_call(&o->common, "vm.show", json_pack("{s:s}", "name", name), &machine, err);
    if (o->host)
        json_object_set_new(params, "to", json_string(o->host));
    if (!r)
        r = daemon_call(&o->common, "vm.migrate", params, &result, err);
    else
        json_decref(params);
    snprintf(to, sizeof(to), "%s", o->host ? o->host : output_text_of(result, "to"));
    o->host = to;
    if (!r && o->wait)
        r = await_move(o, name, output_text_of(json_object_get(machine, "migration"), "id"), err);
    o->host = NULL;
    json_decref(machine);
    json_decref(result);
    return r;
}

static int migrate(int argc, char **argv)
{
    struct vm_options o = {0};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&vm_migrate, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (o.cancel) {
        json_t *params = json_pack("{s:s}", "name", arguments[0]);
        if (daemon_call(&o.common, "vm.cancel_move", params, NULL, &err))
            return daemon_fail(&vm_migrate, &err);
        output_name(arguments[0], "cancelling", o.common.format);
        return STATUS_OK;
    }
    if (migrate_machine(&o, arguments[0], &err))
        return daemon_fail(&vm_migrate, &err);
    output_name(arguments[0], o.wait ? "running" : "moving", o.common.format);
    return STATUS_OK;
}

// ---- explain ----

static int explain(int argc, char **argv);
static const struct subcommand vm_explain = {
    .name = "vm explain",
    .arguments = "NAME",
    .summary = "says of each host why a machine could go there, or couldn't",
    .options = look_options,
    .least = 1,
    .most = 1,
    .run = explain,
};

static int explain(int argc, char **argv)
{
    struct vm_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL, *host;
    size_t i;
    int status = options_parse(&vm_explain, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (daemon_call(&o.common, "vm.explain", json_pack("{s:s}", "name", arguments[0]), &result,
                    &err))
        return daemon_fail(&vm_explain, &err);
    if (o.common.format == OUTPUT_JSON) {
        output_json(result);
        json_decref(result);
        return STATUS_OK;
    }
    const char *here = output_text_of(result, "host"), *best = output_text_of(result, "best");
    printf("%s is %s%s\n", arguments[0], here[0] ? "on " : "nowhere", here);
    if (best[0])
        printf("it %s go to %s\n", here[0] ? "could" : "should", best);
    else
        printf("%s\n", output_text_of(result, "why_not"));
    if (output_text_of(result, "waits")[0])
        printf("it waits: %s\n", output_text_of(result, "waits"));
    printf("%-16s %8s  %s\n", "HOST", "SCORE", "WHY");
    json_array_foreach(json_object_get(result, "hosts"), i, host)
    {
        bool fits = strcmp(output_text_of(host, "reason"), "fits") == 0;
        char score[24] = "-";
        if (fits)
            snprintf(score, sizeof(score), "%" PRId64, (int64_t)output_number_of(host, "score"));
        printf("%-16s %8s  %s\n", output_text_of(host, "host"), score,
               output_text_of(host, "text"));
    }
    json_decref(result);
    return STATUS_OK;
}

static const struct subcommand *const subcommands[] = {
    &vm_create,  &vm_ls,     &vm_show, &vm_start,   &vm_stop,         &vm_delete, &vm_migrate,
    &vm_explain, &vm_events, &vm_logs, &vm_console, &vm_declare_dead, NULL,
};

static int vm(int argc, char **argv)
{
    return daemon_group("vm", "Machines that the cluster places on its hosts.", subcommands, argc,
                        argv);
}

const struct subcommand command_vm = {
    .name = "vm",
    .arguments = "COMMAND ...",
    .summary = "machines that the cluster places on its hosts",
    .run = vm,
};
