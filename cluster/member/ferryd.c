#include "cluster/member/ferryd.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "base/standard_files.h"
#include "base/tls.h"
#include "base/units.h"
#include "cluster/api/daemon.h"
#include "cluster/api/restore.h"
#include "cluster/api/waiting.h"
#include "cluster/member/client_host.h"
#include "cluster/member/client_host_file.h"
#include "cluster/member/connection.h"
#include "cluster/member/member.h"
#include "cluster/records/facts.h"

struct daemon {
    uv_loop_t loop;
    uv_signal_t interrupt, terminate;
    struct member *member;
    struct client_host *client_host; // in its place
    struct host_daemon *host;        // NULL with --store-only
    const char *store;               // where that one finds the store
    struct host_daemon_options host_options;
    bool store_only, insecure;
    char tls[3][PATH_MAX]; // the cluster's own certificates: ours, its key, the CA's
    struct files files;    // where `wrap` puts something between member and disk
    int exit_code;
};

static const char usage_text[] =
    "usage: ferryd [--store-only] --data DIR --name NAME --listen-peer HOST:PORT\n"
    "              --listen-client HOST:PORT|unix:PATH ... [--found | --join TOKEN@HOST:PORT]\n"
    "              [--role auto|member|learner|client]\n"
    "One host of a cluster: a member of its store, or a client of it, and what starts\n"
    "machines here (docs/cluster.md). NAME is the host's. While DIR is empty it waits\n"
    "for 'ferry cluster init' or 'ferry cluster join'.\n"
    "  --store-only            be a member of the cluster's store and nothing else\n"
    "  --data DIR              where the log and the snapshots are\n"
    "  --found                 found a new cluster if DIR is empty\n"
    "  --join TOKEN@ADDRESS    join one if DIR is empty ('ferry cluster token' makes tokens)\n"
    "  --role ROLE             what it joins as: a member, which has the whole store; a learner,\n"
    "                          which doesn't become a voter by itself; a client, which has none,\n"
    "                          and needs no --listen-peer; auto: a member while there are fewer\n"
    "                          than nine, then a client (auto; without --listen-peer client)\n"
    "  --advertise-peer A, --advertise-client A   where others reach this member, if not as above\n"
    "  --heartbeat 100ms  --election 1s-2s        time-outs; all members should have the same\n"
    "  --tls-cert F --tls-key F --tls-ca F        TLS by certificates of yours; without, beyond\n"
    "                          loopback, the cluster makes its own (DIR/tls)\n"
    "  --tls-name NAME         what other members' certificates must be for (else any of the CA)\n"
    "  --certificate-lifetime 8760h  of those that the cluster makes for hosts, which renew them\n"
    "  --insecure              allow TCP beyond loopback without TLS\n"
    "  --memory 1G             limit of the store; beyond it only deletes\n"
    "  --history 100000        revisions kept (0: all, until 'ferry store compact')\n"
    "  --snapshot-entries 50000  entries between snapshots\n"
    "  --segment 16M           size of a log segment\n"
    "  --runtime-dir DIR       where this host's machines are (or FERRY_RUNTIME_DIR)\n"
    "  --host-cpus N --host-memory SIZE   what machines may have (all, and three quarters)\n"
    "  --host-label L  --host-net N  --host-pool NAME=/DIR[,local]   what machines may ask for;\n"
    "                          each can be repeated\n"
    "  --host-cpu-ratio 4  --host-memory-ratio 1   how much may be promised of what there is\n"
    "  --metrics ADDRESS:PORT  answer monitors there (Prometheus' text format; plain HTTP)\n"
    "  --stop-timeout 30s      from a machine's power button to its kill\n"
    "  --boot-id TEXT          instead of the kernel's: for several hosts under one kernel\n"
    "  --witness DIR           for tests: where machines note when they ran (docs/leases.md)\n"
    "  --log-level error|warning|info|debug\n"
    "  --version\n";

static const struct option long_options[] = {
    {"store-only", no_argument, NULL, 'o'},
    {"data", required_argument, NULL, 'd'},
    {"name", required_argument, NULL, 'n'},
    {"listen-peer", required_argument, NULL, 'p'},
    {"listen-client", required_argument, NULL, 'c'},
    {"advertise-peer", required_argument, NULL, 'P'},
    {"advertise-client", required_argument, NULL, 'C'},
    {"found", no_argument, NULL, 'f'},
    {"join", required_argument, NULL, 'j'},
    {"role", required_argument, NULL, 'O'},
    {"heartbeat", required_argument, NULL, 'b'},
    {"election", required_argument, NULL, 'e'},
    {"tls-cert", required_argument, NULL, '1'},
    {"tls-key", required_argument, NULL, '2'},
    {"tls-ca", required_argument, NULL, '3'},
    {"tls-name", required_argument, NULL, '4'},
    {"certificate-lifetime", required_argument, NULL, '5'},
    {"insecure", no_argument, NULL, 'i'},
    {"memory", required_argument, NULL, 'm'},
    {"history", required_argument, NULL, 'H'},
    {"snapshot-entries", required_argument, NULL, 's'},
    {"segment", required_argument, NULL, 'S'},
    {"log-level", required_argument, NULL, 'l'},
    {"runtime-dir", required_argument, NULL, 'r'},
    {"host-cpus", required_argument, NULL, 'u'},
    {"host-memory", required_argument, NULL, 'M'},
    {"metrics", required_argument, NULL, 'X'},
    {"host-label", required_argument, NULL, 'L'},
    {"host-net", required_argument, NULL, 'N'},
    {"host-pool", required_argument, NULL, 'Q'},
    {"host-cpu-ratio", required_argument, NULL, 'R'},
    {"host-memory-ratio", required_argument, NULL, 'Z'},
    {"stop-timeout", required_argument, NULL, 't'},
    {"boot-id", required_argument, NULL, 'B'},
    {"witness", required_argument, NULL, 'w'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool parse_election(char *text, struct member_options *options)
{
    char *dash = strchr(text, '-');
    if (!dash)
        return false;
    *dash = 0;
    return units_parse_duration(text, &options->election_min_ns) == 0 &&
           units_parse_duration(dash + 1, &options->election_max_ns) == 0;
}

static bool parse_level(const char *text)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            log_open(STDERR_FILENO, (enum log_level)i);
            return true;
        }
    }
    return false;
}

// What placement is told of this host.
static bool parse_fact(struct host_daemon_options *o, int option, const char *value,
                       struct error *err)
{
    int r;
    if (!o->facts)
        o->facts = json_object();
    switch (option) {
    case 'L':
        r = facts_add_label(o->facts, value, err);
        break;
    case 'N':
        r = facts_add_net(o->facts, value, err);
        break;
    case 'Q':
        r = facts_add_pool(o->facts, value, err);
        break;
    default:
        r = facts_set_ratio(o->facts, option == 'R' ? "cpu_ratio" : "memory_ratio", value, err);
    }
    return r == 0;
}

static bool parse_host_option(struct host_daemon_options *o, int option, char *value)
{
    uint64_t number;
    switch (option) {
    case 'r':
        o->runtime_dir = value;
        return true;
    case 'u':
        if (units_parse_number(value, 65536, &number) || number == 0)
            return false;
        o->cpus = (uint32_t)number;
        return true;
    case 'M':
        return units_parse_size(value, &o->memory) == 0;
    case 't':
        return units_parse_duration(value, &o->stop_timeout_ns) == 0;
    case 'w':
        o->witness = value;
        return true;
    case 'X':
        o->metrics = value;
        return true;
    default:
        o->boot_id = value;
        return strlen(value) < UUID_TEXT_SIZE && *value;
    }
}

static bool parse_size_option(int option, char *value, struct member_options *o)
{
    uint64_t size;
    switch (option) {
    case 'b':
        return units_parse_duration(value, &o->heartbeat_ns) == 0;
    case 'e':
        return parse_election(value, o);
    case 'm':
        return units_parse_size(value, &o->memory_limit) == 0 && o->memory_limit > 0;
    case 'H':
        return units_parse_number(value, UINT64_MAX / 4, &o->history) == 0;
    case '5':
        if (units_parse_duration(value, &size) || size < 10 * NSEC_PER_SEC)
            return false;
        o->certificate_seconds = size / NSEC_PER_SEC;
        return o->certificate_seconds <= MEMBER_CLIENT_SECONDS_MAX;
    case 's':
        return units_parse_number(value, UINT32_MAX, &o->snapshot_entries) == 0 &&
               o->snapshot_entries > 0;
    case 'S':
        if (units_parse_size(value, &size) || size > UINT32_MAX)
            return false;
        o->segment_bytes = (size_t)size;
        return size >= (8 << 20); // a transaction must fit
    default:
        return parse_level(value);
    }
}

// False, with a sentence where it's known what is wrong.
static bool parse_option(struct daemon *daemon, struct member_options *o, int option, char *value,
                         struct error *err)
{
    switch (option) {
    case 'o':
        daemon->store_only = true;
        return true;
    case 'd':
        o->directory = value;
        return true;
    case 'n':
        o->name = value;
        return true;
    case 'p':
        o->listen_peer = value;
        return true;
    case 'c':
        if (o->listen_client_count == 4)
            return error_set(err, EINVAL, "it can be given four times") == 0;
        o->listen_client[o->listen_client_count++] = value;
        return true;
    case 'P':
        o->advertise_peer = value;
        return true;
    case 'C':
        o->advertise_client = value;
        return true;
    case 'f':
        o->found = true;
        return true;
    case 'j':
        o->join = value;
        return true;
    case 'O':
        return member_wish_of_role(value, &o->wish);
    case '1':
        o->tls_certificate = value;
        return true;
    case '2':
        o->tls_key = value;
        return true;
    case '3':
        o->tls_ca = value;
        return true;
    case '4':
        o->tls_name = value;
        return true;
    case 'i':
        daemon->insecure = true;
        return true;
    case 'L':
    case 'N':
    case 'Q':
    case 'R':
    case 'Z':
        return parse_fact(&daemon->host_options, option, value, err);
    case 'r':
    case 'u':
    case 'M':
    case 't':
    case 'B':
    case 'w':
    case 'X':
        return parse_host_option(&daemon->host_options, option, value);
    default:
        return parse_size_option(option, value, o);
    }
}

// What a value must be, for those that don't say it themselves.
static const char *wanted(int option)
{
    switch (option) {
    case 'b':
    case 't':
        return "a time such as 100ms or 30s";
    case 'e':
        return "two times such as 1s-2s";
    case '5':
        return "a time from 10s to ten years (87600h)";
    case 'm':
    case 'M':
        return "a size such as 512M or 1G";
    case 'S':
        return "a size from 8M to below 4G";
    case 's':
        return "a number from 1 on";
    case 'u':
        return "a number from 1 to 65536";
    case 'l':
        return "error, warning, info or debug";
    case 'O':
        return "auto, member, learner or client";
    case 'B':
        return "a text of 1 to 36 characters";
    default:
        return "a whole number";
    }
}

static int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("ferryd: ", stderr);
    vfprintf(stderr, format, args);
    fputs(" (`ferryd --help` shows what there is)\n", stderr);
    va_end(args);
    return 2;
}

// 0, or the exit status; -1 where it is 0, as all was said.
static int parse_command_line(struct daemon *daemon, struct member_options *o, int argc,
                              char **argv)
{
    int option, index;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
        struct error err = {0};
        if (option == 'h' || option == 'V') {
            printf("%s", option == 'h' ? usage_text : "ferryd " FERRY_VERSION "\n");
            return -1;
        }
        if (option == ':')
            return usage_error("option %s needs a value", argv[optind - 1]);
        if (option == '?')
            return usage_error("option %s is not known, or not told in full", argv[optind - 1]);
        if (parse_option(daemon, o, option, optarg, &err))
            continue;
        if (err.code)
            return usage_error("--%s: %s", long_options[index].name, err.message);
        return usage_error("--%s: '%s' is not %s", long_options[index].name, optarg,
                           wanted(option));
    }
    if (optind != argc)
        return usage_error("'%s' is one argument too many", argv[optind]);
    if (!o->directory)
        return usage_error("--data DIR is missing");
    if (!o->name)
        return usage_error("--name NAME is missing");
    if (!o->listen_peer && (daemon->store_only || o->found))
        return usage_error("--listen-peer HOST:PORT is missing");
    if (!o->listen_client_count)
        return usage_error("--listen-client HOST:PORT|unix:PATH is missing");
    return 0;
}

static bool is_local(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 || strncmp(address, "127.", 4) == 0 ||
           strncmp(address, "localhost:", 10) == 0 || strncmp(address, "[::1]:", 6) == 0;
}

// Certificates that were made while founding or joining are in the data directory.
static void use_own_tls(struct daemon *daemon, struct member_options *o)
{
    static const char *const names[] = {"host.pem", "host.key", "ca.pem"};
    for (int i = 0; i < 3; i++)
        snprintf(daemon->tls[i], sizeof(daemon->tls[i]), "%s/tls/%s", o->directory, names[i]);
    o->tls_certificate = daemon->tls[0];
    o->tls_key = daemon->tls[1];
    o->tls_ca = daemon->tls[2];
}

static int check_security(struct daemon *daemon, struct member_options *o)
{
    bool local = !o->listen_peer || is_local(o->listen_peer);
    bool exists = member_exists(o->directory) || client_host_file_exists(o->directory);
    for (unsigned i = 0; i < o->listen_client_count; i++)
        local = local && is_local(o->listen_client[i]);
    unsigned given = !!o->tls_certificate + !!o->tls_key + !!o->tls_ca;
    if (given != 0 && given != 3) {
        fprintf(stderr, "ferryd: --tls-cert, --tls-key and --tls-ca belong together\n");
        return 2;
    }
    if (given || daemon->insecure)
        return 0;
    use_own_tls(daemon, o);
    bool there = exists && access(o->tls_ca, F_OK) == 0;
    if (there || (!exists && !local)) {
        o->own_tls = true;
        return 0;
    }
    o->tls_certificate = o->tls_key = o->tls_ca = NULL;
    if (!local) {
        fprintf(stderr, "ferryd: listening beyond loopback without TLS would let anybody write: "
                        "this member was made without certificates of its own, so give --tls-cert, "
                        "--tls-key, --tls-ca, or --insecure\n");
        return 2;
    }
    return 0;
}

static void stop_member(void *context)
{
    struct daemon *daemon = context;
    if (daemon->member)
        member_stop(daemon->member);
    if (daemon->client_host)
        client_host_stop(daemon->client_host);
    if (!uv_is_closing((uv_handle_t *)&daemon->interrupt)) {
        uv_close((uv_handle_t *)&daemon->interrupt, NULL);
        uv_close((uv_handle_t *)&daemon->terminate, NULL);
    }
}

static void stop_daemon(struct daemon *daemon)
{
    // The host's threads speak with the member: first they.
    if (daemon->host)
        host_daemon_stop(daemon->host, stop_member, daemon);
    else
        stop_member(daemon);
}

static void signalled(uv_signal_t *handle, int number)
{
    log_info("stopping: signal %d", number);
    stop_daemon(handle->data);
}

static void member_ended(void *context, int error)
{
    struct daemon *daemon = context;
    daemon->exit_code = error ? 1 : 0;
    // Not from here: the member is in the middle of something.
    uv_stop(&daemon->loop);
}

static const char *certificate_fault(void *context, const struct tls_subject *subject)
{
    struct daemon *daemon = context;
    if (daemon->client_host)
        return client_host_certificate_fault_later(daemon->client_host, subject);
    return daemon->member ? member_certificate_fault_later(daemon->member, subject) : NULL;
}

static struct connection *dial_stream(void *context, const char *address,
                                      const struct connection_callbacks *callbacks, void *owner)
{
    struct daemon *daemon = context;
    if (daemon->client_host)
        return client_host_dial_stream(daemon->client_host, address, callbacks, owner);
    return daemon->member ? member_dial_stream(daemon->member, address, callbacks, owner) : NULL;
}

// What this host runs beside the member, which listens for it on a socket of its own.
static int create_host(struct daemon *daemon, struct member_options *options, struct error *err)
{
    struct host_daemon_options *o = &daemon->host_options;
    if (daemon->store_only)
        return 0;
    if (!name_is_valid(options->name))
        return error_set(err, EINVAL, "'%s' is not a host name ([a-z0-9][a-z0-9._-]{0,39})",
                         options->name);
    if (options->listen_client_count == 4)
        return error_set(err, EINVAL, "--listen-client can be given three times");
    if (!o->facts)
        o->facts = json_object();
    if (facts_add_cpu(o->facts, err))
        return -err->code;
    o->host = options->name;
    o->data = options->directory;
    o->address = options->advertise_client ? options->advertise_client : options->listen_client[0];
    o->election_max_ns = options->election_max_ns;
    o->certificate = options->tls_certificate;
    o->key = options->tls_key;
    o->ca = options->tls_ca;
    o->own_tls = options->own_tls;
    o->fault = certificate_fault;
    o->dial = dial_stream;
    o->context = daemon;
    int r = host_daemon_create(&daemon->host, &daemon->loop, o, &daemon->store, err);
    if (r)
        return r;
    options->hosts_only = true;
    options->remote = host_daemon_accept;
    options->remote_context = daemon->host;
    return 0;
}

static int prepare(void *context, bool found, const char *join, const char *role, struct error *err)
{
    struct member_options options = *(const struct member_options *)context;
    options.found = found;
    options.join = join;
    if (role && !member_wish_of_role(role, &options.wish))
        return error_set(err, EINVAL, "'%s' is no role: auto, member, learner or client", role);
    if (found && !options.listen_peer)
        return error_set(err, EINVAL, "without --listen-peer this host can only be a client");
    if (found)
        options.wish = MEMBER_WISH_AUTO;
    return member_prepare(&options, err);
}

static int restore(void *context, const char *path, struct error *err)
{
    struct member_options options = *(const struct member_options *)context;
    if (!options.listen_peer)
        return error_set(err, EINVAL, "without --listen-peer this host can only be a client");
    options.wish = MEMBER_WISH_AUTO;
    return restore_cluster(&options, path, err);
}

// Whoever starts without a member, and isn't told here how to become one, is told by its socket.
static int obtain_member(const struct daemon *daemon, struct member_options *o, struct error *err)
{
    if (member_exists(o->directory) || client_host_file_exists(o->directory))
        return 0;
    if (daemon->store_only || o->found || o->join)
        return member_prepare(o, err);
    struct waiting waiting = {
        .runtime_dir = daemon->host_options.runtime_dir,
        .election_max_ns = o->election_max_ns,
        .prepare = prepare,
        .restore = restore,
        .context = o,
    };
    return waiting_run(&waiting, err);
}

// The member, or what a client host has in its place.
static int start_member(struct daemon *daemon, struct member_options *options, struct error *err)
{
    bool member = member_exists(options->directory);
    bool client_host = client_host_file_exists(options->directory);
    if (member && client_host)
        return error_set(err, EINVAL,
                         "'%s' holds both a member's log and a client host's file: which one this "
                         "host is can't be known; let it join anew with an empty directory",
                         options->directory);
    if (client_host && daemon->store_only)
        return error_set(err, EINVAL, "'%s' is a client host's: it has no store",
                         options->directory);
    if (client_host)
        return client_host_start(&daemon->client_host, &daemon->loop, options, daemon->store, err);
    if (!options->listen_peer)
        return error_set(err, EINVAL, "this host is a member: --listen-peer is missing");
    if (daemon->store)
        options->listen_client[options->listen_client_count++] = daemon->store;
    return member_start(&daemon->member, &daemon->loop, options, err);
}

// What would else show only when the host is told to found or to join, which may be days later.
static int check_early(const struct daemon *daemon, const struct member_options *o,
                       struct error *err)
{
    struct stat there;
    struct tls_credentials *tls = NULL;
    char host[256], port[16];
    const char *metrics = daemon->host_options.metrics;
    int r = member_options_check(o, err);
    if (r)
        return r;
    if (metrics && !connection_address_split(metrics, host, port))
        return error_set(err, EINVAL, "--metrics: '%s': not an address of the form HOST:PORT",
                         metrics);
    if (mkdir(o->directory, 0700) < 0 && errno != EEXIST)
        return error_set_errno(err, errno, "directory '%s' can't be made", o->directory);
    if (stat(o->directory, &there) == 0 && !S_ISDIR(there.st_mode))
        return error_set(err, ENOTDIR, "--data: '%s' is not a directory", o->directory);
    if (access(o->directory, R_OK | W_OK | X_OK) < 0)
        return error_set_errno(err, errno, "directory '%s' can't be used", o->directory);
    if (!o->tls_ca || o->own_tls)
        return 0;
    r = tls_credentials_load(&tls, tls_source(o->tls_certificate), tls_source(o->tls_key),
                             tls_source(o->tls_ca), err);
    tls_credentials_free(tls);
    return r;
}

static int run(struct daemon *daemon, struct member_options *options,
               const struct ferryd_test *test)
{
    struct error err = {0};
    int error;
    if (test && test->newest_command)
        options->newest_command = test->newest_command;
    if (test && test->wrap) {
        mkdir(options->directory, 0700);
        error = files_posix_open(&daemon->files, options->directory);
        if (error) {
            fprintf(stderr, "ferryd: '%s': %s\n", options->directory, strerror(-error));
            return 1;
        }
        test->wrap(&daemon->files);
        options->files = &daemon->files;
    }
    if (uv_loop_init(&daemon->loop))
        return 1;
    options->ended = member_ended;
    options->context = daemon;
    if (check_early(daemon, options, &err) || create_host(daemon, options, &err) ||
        obtain_member(daemon, options, &err) || start_member(daemon, options, &err)) {
        fprintf(stderr, "ferryd: %s\n", err.message);
        host_daemon_free(daemon->host);
        return 1;
    }
    uv_signal_init(&daemon->loop, &daemon->interrupt);
    uv_signal_init(&daemon->loop, &daemon->terminate);
    daemon->interrupt.data = daemon->terminate.data = daemon;
    uv_signal_start(&daemon->interrupt, signalled, SIGINT);
    uv_signal_start(&daemon->terminate, signalled, SIGTERM);
    if (daemon->host && host_daemon_start(daemon->host, daemon->client_host != NULL, &err)) {
        fprintf(stderr, "ferryd: %s\n", err.message);
        daemon->exit_code = 1;
        stop_daemon(daemon);
    }
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    stop_daemon(daemon);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    member_free(daemon->member);
    client_host_free(daemon->client_host);
    host_daemon_free(daemon->host);
    uv_loop_close(&daemon->loop);
    return daemon->exit_code;
}

int ferryd_run(int argc, char **argv, const struct ferryd_test *test)
{
    struct daemon daemon = {.host_options.stop_timeout_ns = 30 * NSEC_PER_SEC};
    struct member_options options;
    log_open(STDERR_FILENO, LOG_LEVEL_INFO);
    signal(SIGPIPE, SIG_IGN);
    member_options_default(&options);
    options.wish = MEMBER_WISH_ANY;
    int code = parse_command_line(&daemon, &options, argc, argv);
    // Hosts come in any number, voters shouldn't.
    if (daemon.store_only)
        options.wish = MEMBER_WISH_VOTER;
    else if (options.found)
        options.wish = MEMBER_WISH_AUTO;
    else if (!options.listen_peer)
        options.wish = MEMBER_WISH_CLIENT;
    if (!code)
        code = check_security(&daemon, &options);
    if (!code)
        code = run(&daemon, &options, test);
    json_decref(daemon.host_options.facts);
    const char *fault = standard_output_end();
    if (fault)
        fprintf(stderr, "ferryd: what it has to print can't be written: %s\n", fault);
    return code >= 0 ? code : fault ? 1 : 0;
}
