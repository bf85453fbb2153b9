// ferry cluster client-certificate, clients, client-revoke: who may use the cluster from elsewhere
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cluster.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/whole_file.h"

struct client_options {
    struct common_options common;
    const char *out;
    uint64_t ttl;
    bool read_only;
};

// ---- client-certificate ----

static int make(int argc, char **argv);
static const struct option_spec make_options[] = {
    {.name = "out",
     .letter = 'o',
     .kind = OPTION_TEXT,
     .offset = offsetof(struct client_options, out),
     .argument = "DIR",
     .help = "the directory to make (NAME)"},
    {.name = "ttl",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct client_options, ttl),
     .argument = "TIME",
     .help = "how long it is good for (8760h, a year)"},
    {.name = "read-only",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct client_options, read_only),
     .help = "it is good for looking, and changes nothing"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};
const struct subcommand cluster_client_certificate = {
    .name = "cluster client-certificate",
    .arguments = "NAME",
    .summary = "lets somebody use the cluster from another machine",
    .details =
        "Makes a directory with a key, a certificate, the cluster's CA and the addresses of its "
        "hosts. Who has it\nuses `ferry vm` and `ferry cluster` from anywhere: --cluster DIR, or "
        "FERRY_CLUSTER=DIR. It can't stand for\na host. `ferry cluster client-revoke NAME` takes "
        "it "
        "back.",
    .options = make_options,
    .least = 1,
    .most = 1,
    .run = make,
};

static int write_file(const char *directory, const char *name, const char *text, struct error *err)
{
    char path[PATH_MAX];
    struct whole_file file;
    int n = snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof(path))
        return error_set(err, ENAMETOOLONG, "'%s': the path is too long", directory);
    int r = whole_file_open(&file, path, err);
    if (r)
        return r;
    if (fputs(text, file.stream) < 0)
        r = error_set_errno(err, errno, "'%s' can't be written", path);
    return whole_file_end(&file, r, err);
}

static int write_addresses(const char *directory, const json_t *addresses, struct error *err)
{
    char text[4096] = "";
    size_t i, used = 0;
    const json_t *one;
    json_array_foreach(addresses, i, one)
    {
        const char *address = json_string_value(one);
        if (address && used + strlen(address) + 2 < sizeof(text))
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n", address);
    }
    return write_file(directory, "addresses", text, err);
}

static int write_directory(const char *directory, const json_t *result, struct error *err)
{
    static const struct {
        const char *name, *member;
    } files[] = {{"ca.pem", "ca"}, {"cert.pem", "certificate"}, {"key.pem", "key"}};
    int r = write_addresses(directory, json_object_get(result, "addresses"), err);
    for (size_t i = 0; !r && i < sizeof(files) / sizeof(files[0]); i++)
        r = write_file(directory, files[i].name, output_text_of(result, files[i].member), err);
    return r;
}

static int make(int argc, char **argv)
{
    struct client_options o = {.ttl = 365 * 24 * 3600 * NSEC_PER_SEC};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL;
    int status = options_parse(&cluster_client_certificate, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *directory = o.out ? o.out : arguments[0];
    json_t *params = json_pack("{s:s, s:b}", "name", arguments[0], "read_only", o.read_only);
    json_object_set_new(params, "ttl_ns", json_integer((json_int_t)o.ttl));
    // The directory first: a certificate that can't be written down would be one that nobody has.
    if (mkdir(directory, 0700) != 0) {
        error_set_errno(&err, errno, "directory '%s' can't be made", directory);
        json_decref(params);
        return daemon_fail(&cluster_client_certificate, &err);
    }
    int r = daemon_call(&o.common, "cluster.client_certificate", params, &result, &err);
    if (!r)
        r = write_directory(directory, result, &err);
    json_decref(result);
    if (r) {
        rmdir(directory); // where nothing is in it yet
        return daemon_fail(&cluster_client_certificate, &err);
    }
    output_name(directory, "made", o.common.format);
    return STATUS_OK;
}

// ---- clients ----

static int list(int argc, char **argv);
static const struct option_spec list_options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};
const struct subcommand cluster_clients = {
    .name = "cluster clients",
    .arguments = "",
    .summary = "lists the certificates that clients were given",
    .options = list_options,
    .run = list,
};

static void print_client(const json_t *client)
{
    char ends[32] = "?";
    time_t when = (time_t)output_number_of(client, "ends");
    struct tm utc;
    strftime(ends, sizeof(ends), "%Y-%m-%d %H:%M", gmtime_r(&when, &utc));
    const char *state = json_is_true(json_object_get(client, "revoked")) ? "revoked"
                        : when < time(NULL)                              ? "expired"
                                                                         : "good";
    printf("%-24s %-16s %-9s %-9s %s\n", output_text_of(client, "name"),
           output_text_of(client, "id"), state,
           json_is_true(json_object_get(client, "read_only")) ? "read-only" : "all", ends);
}

static int list(int argc, char **argv)
{
    struct client_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL, *client;
    size_t i;
    int status = options_parse(&cluster_clients, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (daemon_call(&o.common, "cluster.clients", NULL, &result, &err))
        return daemon_fail(&cluster_clients, &err);
    if (o.common.format == OUTPUT_JSON) {
        output_json(result);
    } else {
        printf("%-24s %-16s %-9s %-9s %s\n", "NAME", "ID", "STATE", "MAY", "UNTIL (UTC)");
        json_array_foreach(json_object_get(result, "clients"), i, client) print_client(client);
    }
    json_decref(result);
    return STATUS_OK;
}

// ---- client-revoke ----

static int take_back(int argc, char **argv);
const struct subcommand cluster_client_revoke = {
    .name = "cluster client-revoke",
    .arguments = "NAME|ID",
    .summary = "takes certificates of a client back",
    .details = "All of that name, or the one of that id. From then on no host accepts them; "
               "connections that use them end.",
    .options = list_options,
    .least = 1,
    .most = 1,
    .run = take_back,
};

static int take_back(int argc, char **argv)
{
    struct client_options o = {0};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&cluster_client_revoke, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (daemon_call(&o.common, "cluster.client_revoke", json_pack("{s:s}", "name", arguments[0]),
                    NULL, &err))
        return daemon_fail(&cluster_client_revoke, &err);
    output_name(arguments[0], "revoked", o.common.format);
    return STATUS_OK;
}
