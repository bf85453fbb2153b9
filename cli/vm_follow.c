// ferry vm events, logs, console: what a machine does
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cli/commands.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/vm.h"

enum { LOOK_EVERY_MS = 200 };

// ---- events ----

struct events_options {
    struct common_options common;
    uint64_t since;
    bool once;
};

static int events(int argc, char **argv);
static const struct option_spec events_options[] = {
    {.name = "since",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct events_options, since),
     .argument = "REVISION",
     .help = "what came after that one (else from now on)"},
    {.name = "once",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct events_options, once),
     .help = "what there is by now, then end"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
const struct subcommand vm_events = {
    .name = "vm events",
    .arguments = "[NAME]",
    .summary = "prints what happens to machines, as it happens",
    .details = "Each event has the store's revision: --since goes on behind it, on any host, and "
               "none is lost.",
    .options = events_options,
    .most = 1,
    .run = events,
};

static void print_event(const json_t *event, int format)
{
    const char *kind = output_text_of(event, "event"), *name = output_text_of(event, "name");
    const char *host = output_text_of(event, "host"), *stage = output_text_of(event, "migration");
    if (format == OUTPUT_JSON) {
        output_json_line(event);
        return;
    }
    printf("%" PRIu64 " %s ", output_number_of(event, "revision"),
           name[0] ? name : output_text_of(event, "uuid"));
    if (strcmp(kind, "declared-dead") == 0)
        printf("host %s was declared dead by a person", host);
    else if (strcmp(kind, "state") == 0)
        printf("%s%s%s%s%s", output_text_of(event, "state"), host[0] ? " on " : "", host,
               output_text_of(event, "reason")[0] ? ": " : "", output_text_of(event, "reason"));
    else if (strcmp(kind, "owner") == 0)
        printf("%s%s%s, epoch %" PRIu64, output_text_of(event, "stage"), host[0] ? " " : "", host,
               output_number_of(event, "epoch"));
    else if (strcmp(kind, "wish") == 0)
        printf("is to be %s%s%s", output_text_of(event, "wish"),
               output_text_of(event, "move_to")[0] ? " on " : "", output_text_of(event, "move_to"));
    else
        printf("%s", strcmp(kind, "delete") == 0 ? "is to be deleted" : kind);
    if (stage[0])
        printf(", move to %s: %s", output_text_of(event, "target"), stage);
    putchar('\n');
}

// One look; `since` moves on. With UINT64_MAX it only finds out where to begin.
static int look(const struct events_options *o, const char *name, uint64_t *since,
                struct error *err)
{
    json_t *params = json_object(), *result = NULL, *event;
    size_t i;
    if (name)
        json_object_set_new(params, "name", json_string(name));
    if (*since != UINT64_MAX)
        json_object_set_new(params, "since", json_integer((json_int_t)*since));
    int r = daemon_call(&o->common, "vm.events", params, &result, err);
    if (r)
        return r;
    json_array_foreach(json_object_get(result, "events"), i, event)
        print_event(event, o->common.format);
    fflush(stdout);
    *since = output_number_of(result, "revision");
    json_decref(result);
    return 0;
}

static int events(int argc, char **argv)
{
    struct events_options o = {.since = UINT64_MAX};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&vm_events, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    uint64_t since = o.since;
    int r = look(&o, arguments[0], &since, &err);
    // Later a store without a majority is waited for; a ferryd that is gone ends it.
    while (
        !o.once && !ferror(stdout) &&
        (!r || (r == -EREMOTEIO && since != UINT64_MAX && !strstr(err.message, "doesn't know")))) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_EVERY_MS * (long)NSEC_PER_MSEC}, NULL);
        err = (struct error){0};
        r = look(&o, arguments[0], &since, &err);
    }
    return r ? daemon_fail(&vm_events, &err) : STATUS_OK;
}

// ---- logs, console ----

struct here_options {
    struct common_options common;
    bool vmm, follow;
};

// The machine's UUID, which is its name on its host, if that is this one.
static int find_here(const struct here_options *o, const char *name, char uuid[UUID_TEXT_SIZE],
                     struct error *err)
{
    json_t *machine = NULL;
    int r = daemon_call(&o->common, "vm.show", json_pack("{s:s}", "name", name), &machine, err);
    if (r)
        return r;
    const char *host = output_text_of(machine, "host");
    snprintf(uuid, UUID_TEXT_SIZE, "%s", output_text_of(machine, "uuid"));
    if (!host[0])
        r = error_set(err, ESRCH, "'%s' is on no host (`ferry vm explain %s`)", name, name);
    else if (!json_is_true(json_object_get(machine, "here")))
        r = error_set(err, EREMOTE, "'%s' is on host '%s': ask there", name, host);
    json_decref(machine);
    return r;
}

// `ferry logs` and `ferry console` do the rest, under the name that the machine has here.
static int hand_on(const struct subcommand *command, const struct subcommand *local, int argc,
                   char **argv)
{
    struct here_options o = {0};
    struct error err = {0};
    char uuid[UUID_TEXT_SIZE], **arguments;
    int status = options_parse(command, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (find_here(&o, arguments[0], uuid, &err))
        return daemon_fail(command, &err);
    char *words[8] = {(char *)local->name, uuid};
    int count = 2;
    if (o.vmm)
        words[count++] = (char *)"--vmm";
    if (o.follow)
        words[count++] = (char *)"--follow";
    if (o.common.runtime_dir) {
        words[count++] = (char *)"--runtime-dir";
        words[count++] = (char *)o.common.runtime_dir;
    }
    return local->run(count, words);
}

static int logs(int argc, char **argv);
static const struct option_spec logs_options[] = {
    {.name = "vmm",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct here_options, vmm),
     .help = "what ferry has to say about the machine, not the guest"},
    {.name = "follow",
     .letter = 'f',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct here_options, follow),
     .help = "go on printing until the machine ends"},
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
const struct subcommand vm_logs = {
    .name = "vm logs",
    .arguments = "NAME",
    .summary = "prints what the console of a machine on this host has shown",
    .options = logs_options,
    .least = 1,
    .most = 1,
    .run = logs,
};

static int logs(int argc, char **argv)
{
    return hand_on(&vm_logs, &command_logs, argc, argv);
}

static int console(int argc, char **argv);
static const struct option_spec console_options[] = {OPTIONS_RUNTIME_DIR, OPTIONS_CLUSTER, {0}};
const struct subcommand vm_console = {
    .name = "vm console",
    .arguments = "NAME",
    .summary = "connects this terminal to the console of a machine on this host",
    .options = console_options,
    .least = 1,
    .most = 1,
    .run = console,
};

static int console(int argc, char **argv)
{
    return hand_on(&vm_console, &command_console, argc, argv);
}
