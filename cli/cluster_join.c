// ferry cluster init, join, restore, release: how a host comes to belong to a cluster
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cluster.h"
#include "cli/daemon_access.h"
#include "cli/output.h"

struct join_options {
    struct common_options common;
    uint64_t lease, deadline, renew, stop, timeout;
    const char *role;
};

#define TIME_OPTION(option, member, text)                                                          \
    {                                                                                              \
        .name = (option), .kind = OPTION_DURATION,                                                 \
        .offset = offsetof(struct join_options, member), .argument = "TIME", .help = (text)        \
    }

static int take_answer(void *opaque, const json_t *answer, struct error *err)
{
    (void)err; // the sentence is there
    *(json_t **)opaque = json_incref((json_t *)(uintptr_t)answer);
    return answer ? 0 : 1;
}

// Calls until it succeeds or the time is up: a ferryd that has just become a member answers again
// only when there is a leader.
static int call_until(const struct join_options *o, const char *method, json_t *params,
                      json_t **result, struct error *err)
{
    return daemon_await(&o->common, o->timeout, method, params, take_answer, result, err);
}

static void print_result(const struct join_options *o, json_t *result, const char *text)
{
    if (o->common.format == OUTPUT_JSON)
        output_json(result);
    else
        printf("%s\n", text);
    json_decref(result);
}

// ---- init ----

static int init(int argc, char **argv);
static const struct option_spec init_options[] = {
    TIME_OPTION("lease", lease, "a host that was silent for so long is declared dead (10s)"),
    TIME_OPTION("deadline", deadline, "machines run so long after a renewal (8s)"),
    TIME_OPTION("renew", renew, "how often hosts renew (1s)"),
    TIME_OPTION("stop", stop, "how long a machine may take to stop (1s)"),
    TIME_OPTION("timeout", timeout, "how long to wait for the first leader (60s)"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};
const struct subcommand cluster_init = {
    .name = "cluster init",
    .arguments = "",
    .summary = "founds a cluster of this host, once",
    .details = "This host's ferryd founds the store, if it hasn't yet, and makes the cluster's CA "
               "and its own\ncertificate (docs/cluster.md). Times that could let a machine run "
               "twice are refused.",
    .options = init_options,
    .run = init,
};

static json_t *times_of(const struct join_options *o)
{
    json_t *params = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } times[] = {{"lease_ns", o->lease},
                 {"deadline_ns", o->deadline},
                 {"renew_ns", o->renew},
                 {"stop_ns", o->stop}};
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        if (times[i].value)
            json_object_set_new(params, times[i].name, json_integer((json_int_t)times[i].value));
    return params;
}

static int init(int argc, char **argv)
{
    struct join_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL;
    int status = options_parse(&cluster_init, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    int r = daemon_call(&o.common, "cluster.init", times_of(&o), &result, &err);
    if (!r && json_object_get(result, "prepared")) {
        // The store is there now; the cluster's settings come next.
        json_decref(result);
        result = NULL;
        r = call_until(&o, "cluster.init", times_of(&o), &result, &err);
    }
    if (r)
        return daemon_fail(&cluster_init, &err);
    char cluster[64];
    snprintf(cluster, sizeof(cluster), "%s", output_text_of(result, "cluster"));
    print_result(&o, result, cluster);
    return STATUS_OK;
}

// ---- join ----

static int join(int argc, char **argv);
static const struct option_spec join_options[] = {
    {.name = "role",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct join_options, role),
     .argument = "ROLE",
     .help = "auto, member, learner or client (what ferryd's --role says, else auto)"},
    TIME_OPTION("timeout", timeout, "how long to wait until the cluster knows this host (60s)"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};
const struct subcommand cluster_join = {
    .name = "cluster join",
    .arguments = "TOKEN@HOST:PORT",
    .summary = "makes this host one of a cluster",
    .details =
        "TOKEN is what `ferry cluster token` printed on a host of it, HOST:PORT that one's "
        "address for\nclients. This host's ferryd checks by the token that it speaks with that "
        "cluster, makes a key, and\ngets a certificate for it. If this is cut short, the same "
        "token can be used again here.\n"
        "A member has the whole store, and becomes a voter where an odd number of them, up to "
        "seven, comes\nof it; a learner has it and doesn't become one by itself; a client has no "
        "store, and asks the\nmembers: all but a few hosts of a large cluster should be clients. "
        "auto: a member while there are\nfewer than nine, then a client.",
    .options = join_options,
    .least = 1,
    .most = 1,
    .run = join,
};

static int join(int argc, char **argv)
{
    struct join_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL;
    int status = options_parse(&cluster_join, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    json_t *params = json_pack("{s:s}", "token", arguments[0]);
    if (o.role)
        json_object_set_new(params, "role", json_string(o.role));
    int r = daemon_call(&o.common, "cluster.join", params, &result, &err);
    json_decref(result);
    result = NULL;
    if (!r)
        r = call_until(&o, "cluster.status", json_object(), &result, &err);
    if (r)
        return daemon_fail(&cluster_join, &err);
    char text[100];
    snprintf(text, sizeof(text), "%s",
             output_text_of(json_object_get(result, "settings"), "cluster"));
    print_result(&o, result, text);
    return STATUS_OK;
}

// ---- restore, release ----

static int restore(int argc, char **argv);
const struct subcommand cluster_restore = {
    .name = "cluster restore",
    .arguments = "FILE",
    .summary = "makes a new cluster of this host out of a backup",
    .details =
        "This host's ferryd must have an empty data directory. Hosts of the old cluster can't come "
        "back into\nthis one: each joins anew, with an empty directory. Nothing is started until "
        "each has, or\nwas declared dead (`ferry cluster declare-dead`), or `ferry cluster "
        "release`.",
    .options = join_options,
    .least = 1,
    .most = 1,
    .run = restore,
};

static int restore(int argc, char **argv)
{
    struct join_options o = {0};
    struct error err = {0};
    char **arguments, path[PATH_MAX];
    json_t *result = NULL;
    int status = options_parse(&cluster_restore, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    int r = realpath(arguments[0], path)
                ? daemon_call(&o.common, "cluster.restore", json_pack("{s:s}", "file", path),
                              &result, &err)
                : error_set_errno(&err, errno, "backup '%s' can't be opened", arguments[0]);
    json_decref(result);
    result = NULL;
    if (!r)
        r = call_until(&o, "cluster.status", json_object(), &result, &err);
    if (r)
        return daemon_fail(&cluster_restore, &err);
    print_result(
        &o, result,
        "restored, and held: see to it that nothing of the old cluster runs, then let its hosts "
        "join anew, or `ferry cluster declare-dead`, `ferry cluster release`");
    return STATUS_OK;
}

static int release(int argc, char **argv);
static const struct option_spec release_options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};
const struct subcommand cluster_release = {
    .name = "cluster release",
    .arguments = "",
    .summary = "after a restore: says that nothing of the old cluster runs",
    .details = "From then on machines are started. Say it when each host of the old cluster is "
               "off, has joined this\none anew, or is lost for good; `ferry cluster status` has "
               "those that haven't joined.",
    .options = release_options,
    .run = release,
};

static int release(int argc, char **argv)
{
    struct join_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL;
    int status = options_parse(&cluster_release, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (daemon_call(&o.common, "cluster.release", NULL, &result, &err))
        return daemon_fail(&cluster_release, &err);
    json_decref(result);
    return STATUS_OK;
}
