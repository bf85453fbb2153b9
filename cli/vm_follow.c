// ferry vm events, logs, console: what a machine does
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cli/cluster_access.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/vm.h"
#include "cli/vm_stream.h"

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

static void print_left(const json_t *event)
{
    const char *reason = output_text_of(event, "reason");
    const json_t *host;
    size_t i;
    printf("%s%s", reason, reason[0] ? "; " : "");
    json_array_foreach(json_object_get(event, "hosts"), i, host)
        printf("%s%s", i ? ", " : "is waited for on ", json_string_value(host));
    if (!i)
        printf("nothing of it is waited for any more");
}

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
    else if (strcmp(kind, "left") == 0)
        print_left(event);
    else
        printf("%s", strcmp(kind, "delete") == 0      ? "is to be deleted"
                     : strcmp(kind, "forgotten") == 0 ? "has ended everywhere"
                                                      : kind);
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
    // Later a store without a majority is waited for, elsewhere also a host that answers. A ferryd
    // of this host that is gone ends it.
    bool elsewhere = cluster_access_is_elsewhere(&o.common);
    while (!o.once && !ferror(stdout) &&
           (!r || ((elsewhere || r == -EREMOTEIO) && since != UINT64_MAX &&
                   !strstr(err.message, "doesn't know")))) {
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

// `ferry logs` and `ferry console` do it for a machine of this host, under the name that it has
// here.
static int hand_on(const struct subcommand *local, const struct here_options *o,
                   const json_t *machine)
{
    char *words[8] = {(char *)local->name, (char *)(uintptr_t)output_text_of(machine, "uuid")};
    int count = 2;
    if (o->vmm)
        words[count++] = (char *)"--vmm";
    if (o->follow)
        words[count++] = (char *)"--follow";
    if (o->common.runtime_dir) {
        words[count++] = (char *)"--runtime-dir";
        words[count++] = (char *)(uintptr_t)o->common.runtime_dir;
    }
    return local->run(count, words);
}

static int print_log(int fd, struct error *err)
{
    char bytes[65536];
    ssize_t n;
    int r = 0;
    while (!r && (n = read(fd, bytes, sizeof(bytes))) != 0) {
        if (n < 0 && errno != EINTR)
            r = error_set_errno(err, errno, "reading the log");
        else if (n > 0 && (fwrite(bytes, 1, (size_t)n, stdout) != (size_t)n || fflush(stdout)))
            r = error_set_errno(err, errno, "printing the log");
    }
    close(fd);
    return r;
}

// On another host: the same bytes, over TLS.
static int reach(const struct here_options *o, const json_t *machine, bool is_console,
                 struct error *err)
{
    struct vm_stream stream;
    const char *what = is_console ? "console" : o->vmm ? "vmm-log" : "log";
    int r = vm_stream_open(&stream, &o->common, machine, what, o->follow, err);
    if (!r)
        r = is_console ? console_on(stream.fd, err) : print_log(stream.fd, err);
    else
        error_prefix(err, "host '%s'", output_text_of(machine, "host"));
    vm_stream_close(&stream);
    return r;
}

static int look_at_machine(const struct subcommand *command, const struct subcommand *local,
                           int argc, char **argv)
{
    struct here_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *machine = NULL;
    int status = options_parse(command, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    int r =
        daemon_call(&o.common, "vm.show", json_pack("{s:s}", "name", arguments[0]), &machine, &err);
    bool here =
        json_is_true(json_object_get(machine, "here")) && !cluster_access_is_elsewhere(&o.common);
    if (!r && !output_text_of(machine, "host")[0])
        r = error_set(&err, ESRCH, "'%s' is on no host (`ferry vm explain %s`)", arguments[0],
                      arguments[0]);
    else if (!r && here)
        status = hand_on(local, &o, machine);
    else if (!r)
        r = reach(&o, machine, local == &command_console, &err);
    json_decref(machine);
    if (r)
        return daemon_fail(command, &err);
    return status == OPTIONS_GO ? STATUS_OK : status;
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
    .summary = "prints what the console of a machine has shown, on whichever host it is",
    .options = logs_options,
    .least = 1,
    .most = 1,
    .run = logs,
};

static int logs(int argc, char **argv)
{
    return look_at_machine(&vm_logs, &command_logs, argc, argv);
}

static int console(int argc, char **argv);
static const struct option_spec console_options[] = {OPTIONS_RUNTIME_DIR, OPTIONS_CLUSTER, {0}};
const struct subcommand vm_console = {
    .name = "vm console",
    .arguments = "NAME",
    .summary = "connects this terminal to the console of a machine, on whichever host it is",
    .options = console_options,
    .least = 1,
    .most = 1,
    .run = console,
};

static int console(int argc, char **argv)
{
    return look_at_machine(&vm_console, &command_console, argc, argv);
}
