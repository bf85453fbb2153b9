// ferry cluster: status, hosts, token, drain, undrain, remove; the table of all its commands
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cluster.h"
#include "cli/commands.h"
#include "cli/daemon_access.h"
#include "cli/output.h"

struct cluster_options {
    struct common_options common;
    uint64_t ttl, timeout;
    bool wait;
    const char *host; // the argument, where there is one
};

enum { STUCK_LOOKS = 20 }; // in a row, before a drain is given up

static const struct subcommand cluster_token;
static const struct option_spec common_options[] = {
    OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, OPTIONS_CLUSTER, {0}};

// Parses, calls, and gives the result; OPTIONS_GO or the status to end with.
static int ask(const struct subcommand *command, int argc, char **argv, const char *method,
               struct cluster_options *o, json_t **result)
{
    struct error err = {0};
    char **arguments;
    int status = options_parse(command, argc, argv, o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (command == &cluster_token && !o->ttl) {
        fprintf(stderr, "ferry: cluster token: --ttl 0: such a token would let nobody in\n");
        return STATUS_USAGE;
    }
    json_t *params = json_object();
    if (o->ttl)
        json_object_set_new(params, "ttl_ns", json_integer((json_int_t)o->ttl));
    o->host = command->least ? arguments[0] : NULL;
    if (o->host)
        json_object_set_new(params, "host", json_string(arguments[0]));
    if (daemon_call(&o->common, method, params, result, &err))
        return daemon_fail(command, &err);
    if (o->common.format != OUTPUT_JSON)
        return OPTIONS_GO;
    output_json(*result);
    json_decref(*result);
    return STATUS_OK;
}

// ---- token ----

static int token(int argc, char **argv);
static const struct option_spec token_options[] = {
    {.name = "ttl",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct cluster_options, ttl),
     .argument = "TIME",
     .help = "how long it can be used (1h)"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};
static const struct subcommand cluster_token = {
    .name = "cluster token",
    .arguments = "",
    .summary = "makes a token by which one host can join",
    .details = "On the new host: ferry cluster join TOKEN@HOST:PORT, with a member's address for "
               "clients. It\ncarries the SHA-256 of the cluster's CA: a host that joins by it "
               "speaks with that cluster or with none.",
    .options = token_options,
    .run = token,
};

static int token(int argc, char **argv)
{
    struct cluster_options o = {.ttl = 3600 * NSEC_PER_SEC};
    json_t *result = NULL;
    int status = ask(&cluster_token, argc, argv, "cluster.token", &o, &result);
    if (status != OPTIONS_GO)
        return status;
    printf("%s\n", output_text_of(result, "token"));
    json_decref(result);
    return STATUS_OK;
}

// ---- status, hosts ----

static int status_command(int argc, char **argv);
static const struct subcommand cluster_status = {
    .name = "cluster status",
    .arguments = "",
    .summary = "shows whether all is well",
    .options = common_options,
    .run = status_command,
};

static void print_voters(const json_t *status)
{
    uint64_t may_fail = output_number_of(status, "may_fail"),
             voters = output_number_of(status, "voters");
    const json_t *member;
    size_t i;
    printf("store     %" PRIu64 " voter%s (", voters, voters == 1 ? "" : "s");
    const char *between = "";
    json_array_foreach(json_object_get(status, "members"), i, member)
    {
        const char *role = output_text_of(member, "role");
        if (strcmp(role, "voter") != 0 && strcmp(role, "leader") != 0)
            continue;
        printf("%s%s", between, output_text_of(member, "name"));
        between = ", ";
    }
    if (may_fail)
        printf("): %" PRIu64 " may fail\n", may_fail);
    else if (voters == 1)
        printf("): its loss stops everything, running machines included\n");
    else
        printf("): the loss of one stops everything, running machines included; make it one or "
               "three\n");
    json_array_foreach(json_object_get(status, "members"), i, member)
    {
        const char *role = output_text_of(member, "role");
        if (strcmp(role, "voter") != 0 && strcmp(role, "leader") != 0)
            printf("          %s: %s\n", output_text_of(member, "name"), role);
    }
    uint64_t clients = output_number_of(status, "client_hosts");
    if (clients)
        printf("          and %" PRIu64 " client host%s, which ask%s them\n", clients,
               clients == 1 ? "" : "s", clients == 1 ? "s" : "");
}

static void print_hold(const json_t *status)
{
    const json_t *name;
    size_t i;
    printf("held      restored from a backup: machines start when each host of the old cluster has "
           "joined or is declared dead\n");
    json_array_foreach(json_object_get(status, "unreported"), i, name)
        printf("          %s: not yet\n", json_string_value(name));
}

static int status_command(int argc, char **argv)
{
    struct cluster_options o = {0};
    json_t *result = NULL;
    int status = ask(&cluster_status, argc, argv, "cluster.status", &o, &result);
    if (status != OPTIONS_GO)
        return status;
    const json_t *settings = json_object_get(result, "settings");
    printf("cluster   %s\n", output_text_of(settings, "cluster"));
    printf("hosts     %" PRIu64 ", %" PRIu64 " alive\n", output_number_of(result, "hosts"),
           output_number_of(result, "hosts_alive"));
    printf("machines  %" PRIu64 ", %" PRIu64 " running", output_number_of(result, "machines"),
           output_number_of(result, "machines_running"));
    if (output_number_of(result, "machines_deleted"))
        printf("; %" PRIu64 " deleted, lost hosts may have something of them (`ferry vm ls --all`)",
               output_number_of(result, "machines_deleted"));
    putchar('\n');
    if (output_number_of(result, "moves") || output_number_of(result, "moves_waiting"))
        printf("moves     %" PRIu64 " under way, %" PRIu64 " waiting (`ferry vm ls`)\n",
               output_number_of(result, "moves"), output_number_of(result, "moves_waiting"));
    printf("manager   %s\n", output_text_of(result, "manager"));
    print_voters(result);
    if (json_is_true(json_object_get(settings, "held")))
        print_hold(result);
    printf("lease     %.1f s, machines stop after %.1f s\n",
           (double)output_number_of(settings, "lease_ns") / 1e9,
           (double)output_number_of(settings, "deadline_ns") / 1e9);
    json_decref(result);
    return STATUS_OK;
}

static int hosts(int argc, char **argv);
static const struct subcommand cluster_hosts = {
    .name = "cluster hosts",
    .arguments = "",
    .summary = "lists the hosts and what they have",
    .options = common_options,
    .run = hosts,
};

// Labels, pools, nets and the CPU's level: what machines can ask for.
static void print_has(const json_t *host)
{
    static const char *const lists[] = {"labels", "pools", "nets"};
    const json_t *one;
    size_t k;
    if (output_number_of(host, "cpu_level"))
        printf(" cpu=x86-64-v%" PRIu64, output_number_of(host, "cpu_level"));
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        json_array_foreach(json_object_get(host, lists[i]), k, one)
        {
            const char *name =
                json_is_string(one) ? json_string_value(one) : output_text_of(one, "name");
            printf("%s%s", k ? "," : i == 0 ? " labels=" : i == 1 ? " pools=" : " nets=", name);
        }
    printf("\n");
}

static int hosts(int argc, char **argv)
{
    struct cluster_options o = {0};
    json_t *result = NULL, *host;
    size_t i;
    int status = ask(&cluster_hosts, argc, argv, "cluster.hosts", &o, &result);
    if (status != OPTIONS_GO)
        return status;
    printf("%-16s %-8s %-8s %5s %10s %10s %8s %-12s %-22s %s\n", "NAME", "STATE", "STORE", "CPUS",
           "MEMORY", "USED", "MACHINES", "VERSION", "ADDRESS", "HAS");
    json_array_foreach(json_object_get(result, "hosts"), i, host)
    {
        char memory[32], used[32];
        printf("%-16s %-8s %-8s %5" PRIu64 " %10s %10s %8" PRIu64 " %-12s %-22s",
               output_text_of(host, "name"), output_text_of(host, "state"),
               output_text_of(host, "role"), output_number_of(host, "cpus"),
               units_format_size(output_number_of(host, "memory"), memory, sizeof(memory)),
               units_format_size(output_number_of(host, "memory_used"), used, sizeof(used)),
               output_number_of(host, "machines"), output_text_of(host, "version"),
               output_text_of(host, "address"));
        print_has(host);
    }
    json_decref(result);
    return STATUS_OK;
}

// ---- drain, undrain ----

static int drain(int argc, char **argv);
static const struct option_spec drain_options[] = {
    {.name = "wait",
     .letter = 'w',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct cluster_options, wait),
     .help = "return when no machine is left, or none that can leave"},
    {.name = "timeout",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct cluster_options, timeout),
     .argument = "TIME",
     .help = "how long to wait (no limit)"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
static const struct subcommand cluster_drain = {
    .name = "cluster drain",
    .arguments = "HOST",
    .summary = "moves all machines away from a host, and lets none start there",
    .details = "Two at a time; `ferry vm ls` shows which are left, and why. With --wait it returns "
               "when none is\nleft, or fails when those that are left can't leave, and says why.",
    .options = drain_options,
    .least = 1,
    .most = 1,
    .run = drain,
};

// A drain that is waited for.
struct emptying {
    const char *host;
    unsigned left, stuck; // machines that it has, and how many of them can't leave
    unsigned still;       // looks in a row at which none could
    json_t *last;         // what was listed last
};

static int look_at_rest(void *opaque, const json_t *list, struct error *err)
{
    struct emptying *emptying = opaque;
    const json_t *machine;
    size_t i;
    if (!list)
        return 1;
    json_decref(emptying->last);
    emptying->last = json_incref((json_t *)(uintptr_t)list);
    emptying->left = emptying->stuck = 0;
    json_array_foreach(json_object_get(list, "machines"), i, machine)
    {
        if (strcmp(output_text_of(machine, "host"), emptying->host) != 0)
            continue;
        emptying->left++;
        emptying->stuck += json_is_true(json_object_get(machine, "stuck"));
    }
    // A short while: what is on its way may make room.
    emptying->still = emptying->stuck == emptying->left ? emptying->still + 1 : 0;
    if (!emptying->left)
        return 0;
    error_set(err, EBUSY, "%u machine%s on '%s' %s", emptying->left,
              emptying->left == 1 ? " is still" : "s are still", emptying->host,
              emptying->still < STUCK_LOOKS ? "after that time" : "and can't leave");
    return emptying->still < STUCK_LOOKS ? 1 : -EBUSY;
}

static void print_rest(const struct emptying *emptying)
{
    const json_t *machine;
    size_t i;
    json_array_foreach(json_object_get(emptying->last, "machines"), i, machine)
    {
        if (strcmp(output_text_of(machine, "host"), emptying->host) == 0)
            fprintf(stderr, "%s: %s\n", output_text_of(machine, "name"),
                    output_text_of(machine, "waits"));
    }
}

static int await_empty(const struct cluster_options *o, struct error *err)
{
    struct emptying emptying = {.host = o->host};
    int r = daemon_await(&o->common, o->timeout ? o->timeout : DAEMON_WAIT_FOR_EVER, "vm.list",
                         json_pack("{s:s, s:i}", "host", o->host, "limit", 1000), look_at_rest,
                         &emptying, err);
    if (r)
        print_rest(&emptying);
    json_decref(emptying.last);
    return r == -ETIMEDOUT ? error_prefix(err, "host '%s' isn't known to be empty", o->host) : r;
}

static int drain(int argc, char **argv)
{
    struct cluster_options o = {0};
    struct error err = {0};
    json_t *result = NULL;
    int status = ask(&cluster_drain, argc, argv, "cluster.drain", &o, &result);
    json_decref(status == OPTIONS_GO ? result : NULL);
    status = status == OPTIONS_GO ? STATUS_OK : status;
    if (status != STATUS_OK || !o.wait || !o.host)
        return status;
    return await_empty(&o, &err) ? daemon_fail(&cluster_drain, &err) : STATUS_OK;
}

static int undrain(int argc, char **argv);
static const struct subcommand cluster_undrain = {
    .name = "cluster undrain",
    .arguments = "HOST",
    .summary = "lets machines start on it again",
    .options = common_options,
    .least = 1,
    .most = 1,
    .run = undrain,
};

static int undrain(int argc, char **argv)
{
    struct cluster_options o = {0};
    json_t *result = NULL;
    int status = ask(&cluster_undrain, argc, argv, "cluster.undrain", &o, &result);
    json_decref(status == OPTIONS_GO ? result : NULL);
    return status == OPTIONS_GO ? STATUS_OK : status;
}

static int remove_host(int argc, char **argv);
static const struct subcommand cluster_remove = {
    .name = "cluster remove",
    .arguments = "HOST",
    .summary = "forgets a dead host, and its member of the store",
    .details = "A host that lost its data directory is removed before it joins again under its "
               "name.",
    .options = common_options,
    .least = 1,
    .most = 1,
    .run = remove_host,
};

static int remove_host(int argc, char **argv)
{
    struct cluster_options o = {0};
    json_t *result = NULL;
    int status = ask(&cluster_remove, argc, argv, "cluster.remove", &o, &result);
    json_decref(status == OPTIONS_GO ? result : NULL);
    return status == OPTIONS_GO ? STATUS_OK : status;
}

static const struct subcommand *const subcommands[] = {
    &cluster_init,
    &cluster_join,
    &cluster_token,
    &cluster_status,
    &cluster_hosts,
    &cluster_drain,
    &cluster_undrain,
    &cluster_remove,
    &cluster_voter,
    &cluster_backup,
    &cluster_restore,
    &cluster_release,
    &cluster_client_certificate,
    &cluster_clients,
    &cluster_client_revoke,
    &cluster_declare_dead,
    NULL,
};

static int cluster(int argc, char **argv)
{
    return daemon_group("cluster", "The hosts that run machines together.", subcommands, argc,
                        argv);
}

const struct subcommand command_cluster = {
    .name = "cluster",
    .arguments = "COMMAND ...",
    .summary = "sets up and looks after a cluster of hosts",
    .run = cluster,
};
