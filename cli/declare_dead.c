// ferry vm declare-dead, ferry cluster declare-dead: a person says that something is gone for sure
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cluster.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/vm.h"

struct declare_options {
    struct common_options common;
    bool yes;
};

static const struct option_spec options[] = {
    {.name = "yes",
     .letter = 'y',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct declare_options, yes),
     .help = "don't ask"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};

// What is at stake has been printed. 0, or a sentence.
static int make_sure(const struct declare_options *o, const char *name, struct error *err)
{
    char line[128] = "";
    if (o->yes)
        return 0;
    if (!isatty(STDIN_FILENO))
        return error_set(err, EPERM, "nobody is asked here: say --yes if you are sure");
    fprintf(stderr, "Type '%s' if it is gone for sure: ", name);
    if (!fgets(line, sizeof(line), stdin))
        line[0] = 0;
    line[strcspn(line, "\n")] = 0;
    return strcmp(line, name) == 0 ? 0 : error_set(err, ECANCELED, "nothing was declared");
}

// ---- a machine ----

static int declare_machine(int argc, char **argv);
const struct subcommand vm_declare_dead = {
    .name = "vm declare-dead",
    .arguments = "NAME",
    .summary = "says that a machine without a deadline is gone for sure, with its host",
    .details =
        "A machine that was made with --no-ha runs on when its host doesn't answer, so nobody but "
        "you can\nknow that it has stopped: the host is without power, or its process and its "
        "host's ferryd are ended.\nThen it may start elsewhere. If it still runs, it runs twice; "
        "only the locks of its disks are left\nto keep both from writing, where the storage has "
        "them. Its host must be dead in `ferry cluster hosts`.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = declare_machine,
};

static json_t *seen_machine(const char *name, const json_t *machine)
{
    return json_pack("{s:s, s:s, s:I, s:I}", "name", name, "host", output_text_of(machine, "host"),
                     "incarnation", (json_int_t)output_number_of(machine, "incarnation"), "epoch",
                     (json_int_t)output_number_of(machine, "epoch"));
}

static int declare_machine(int argc, char **argv)
{
    struct declare_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *machine = NULL;
    int status = options_parse(&vm_declare_dead, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *name = arguments[0];
    int r = daemon_call(&o.common, "vm.show", json_pack("{s:s}", "name", name), &machine, &err);
    if (!r && strcmp(output_text_of(machine, "state"), "lost") == 0) {
        fprintf(stderr,
                "'%s' was started on host '%s' (epoch %" PRIu64
                ") without a deadline. If it, or ferryd there, still runs, it will run twice, and "
                "two may write to what has no lock.\n",
                name, output_text_of(machine, "host"), output_number_of(machine, "epoch"));
        r = make_sure(&o, name, &err);
    }
    if (!r)
        r = daemon_call(&o.common, "vm.declare_dead", seen_machine(name, machine), NULL, &err);
    json_decref(machine);
    if (r)
        return daemon_fail(&vm_declare_dead, &err);
    output_name(name, "declared dead", o.common.format);
    return STATUS_OK;
}

// ---- a host ----

static int declare_host(int argc, char **argv);
const struct subcommand cluster_declare_dead = {
    .name = "cluster declare-dead",
    .arguments = "HOST",
    .summary = "says that a host is gone for sure, with all that it ran",
    .details = "It must be dead in `ferry cluster hosts`, or unreported after a restore, and "
               "without power or for\never away from its disks: what it ran without a deadline "
               "(--no-ha) may then start elsewhere, and a\nrestored cluster waits for it no "
               "longer. A host that comes back all the same registers anew, and ends\nwhat "
               "others have taken.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = declare_host,
};

// The host as `ferry cluster hosts` shows it; NULL with a sentence.
static json_t *look_at_host(const struct declare_options *o, const char *name, struct error *err)
{
    json_t *result = NULL, *host, *found = NULL;
    size_t i;
    if (daemon_call(&o->common, "cluster.hosts", NULL, &result, err))
        return NULL;
    json_array_foreach(json_object_get(result, "hosts"), i, host)
    {
        if (strcmp(output_text_of(host, "name"), name) == 0)
            found = json_incref(host);
    }
    json_decref(result);
    if (!found)
        error_set(err, ENOENT, "there is no host '%s' (`ferry cluster hosts`)", name);
    return found;
}

// The machines whose fate hangs on it.
static int print_stakes(const struct declare_options *o, const char *name, const char *state,
                        struct error *err)
{
    json_t *result = NULL, *machine;
    size_t i;
    int r = daemon_call(&o->common, "vm.list", json_pack("{s:s, s:i}", "host", name, "limit", 1000),
                        &result, err);
    if (r)
        return r;
    if (strcmp(state, "unreported") == 0)
        fprintf(stderr,
                "Host '%s' hasn't joined since the restore: what it still runs of the old "
                "cluster will run twice.\n",
                name);
    json_array_foreach(json_object_get(result, "machines"), i, machine)
    {
        if (strcmp(output_text_of(machine, "host"), name) == 0 &&
            json_is_false(json_object_get(machine, "ha")))
            fprintf(stderr,
                    "'%s' ran there without a deadline: if it still does, it will run twice.\n",
                    output_text_of(machine, "name"));
    }
    json_decref(result);
    return 0;
}

static int declare_host(int argc, char **argv)
{
    struct declare_options o = {0};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&cluster_declare_dead, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *name = arguments[0];
    json_t *host = look_at_host(&o, name, &err);
    const char *state = output_text_of(host, "state");
    int r = host ? 0 : -err.code;
    if (!r && (strcmp(state, "dead") == 0 || strcmp(state, "unreported") == 0)) {
        r = print_stakes(&o, name, state, &err);
        if (!r)
            r = make_sure(&o, name, &err);
    }
    if (!r)
        r = daemon_call(&o.common, "cluster.declare_dead",
                        json_pack("{s:s, s:I}", "host", name, "incarnation",
                                  (json_int_t)output_number_of(host, "incarnation")),
                        NULL, &err);
    json_decref(host);
    if (r)
        return daemon_fail(&cluster_declare_dead, &err);
    output_name(name, "declared dead", o.common.format);
    return STATUS_OK;
}
