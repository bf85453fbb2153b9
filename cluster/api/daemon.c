#include "cluster/api/daemon.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "base/tls.h"
#include "cluster/agent/agent_driver.h"
#include "cluster/api/api.h"
#include "cluster/api/metrics.h"
#include "cluster/api/remote.h"
#include "cluster/manager/manager_driver.h"
#include "cluster/member/connection.h"

enum { LOOK_FOR_SETTINGS_MS = 300 };

struct host_daemon {
    struct host_daemon_options options;
    uv_loop_t *loop;
    char store[LOCAL_SOCKET_PATH_LIMIT + 8];
    char listen[RECORD_ADDRESS_SIZE]; // where machines come in
    char identity[UUID_TEXT_SIZE], boot_id[UUID_TEXT_SIZE];
    int lock_fd;
    struct host_lease lease;
    struct agent_driver agent;
    struct manager_driver manager;
    struct api api;
    struct remote remote;
    struct control_service streams;
    struct metrics metrics;
    uv_timer_t timer; // until the cluster is set up
    uv_work_t work, join;
    void (*stopped)(void *context);
    void *stopped_context;
    bool timer_open, looking, stopping, started;
    struct record settings;
};

// ---- before the member ----

static int take_host_lock(struct host_daemon *daemon, struct error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    const struct runtime_dir *dir = &daemon->agent.local.dir;
    daemon->lock_fd =
        openat(dir->fd, ".ferryd.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (daemon->lock_fd < 0)
        return error_set_errno(err, errno, "'%s/.ferryd.lock'", dir->path);
    if (fcntl(daemon->lock_fd, F_OFD_SETLK, &lock) != 0)
        return error_set(err, EBUSY,
                         "another ferryd runs for '%s': a host has one (or give this one a "
                         "--runtime-dir of its own)",
                         dir->path);
    return 0;
}

static int read_word(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    int r = fgets(out, (int)size, file) ? 0 : -ENODATA;
    fclose(file);
    out[strcspn(out, "\n")] = 0;
    return r;
}

// Made once with the data directory; a host that lost that is another host.
static int obtain_identity(struct host_daemon *daemon, struct error *err)
{
    char path[PATH_MAX];
    struct uuid uuid;
    snprintf(path, sizeof(path), "%s/host-id", daemon->options.data);
    int r = read_word(path, daemon->identity, sizeof(daemon->identity));
    if (r == 0 && uuid_parse(daemon->identity, &uuid) == 0)
        return 0;
    if (r != -ENOENT)
        return error_set(err, EINVAL, "'%s' doesn't hold this host's identity", path);
    if (uuid_generate_random(&uuid))
        return error_set(err, EIO, "this host gives no random bytes");
    uuid_format(&uuid, daemon->identity);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || dprintf(fd, "%s\n", daemon->identity) < 0 || fsync(fd) != 0)
        r = error_set_errno(err, errno, "writing '%s'", path);
    else
        r = 0;
    if (fd >= 0)
        close(fd);
    if (r)
        unlink(path);
    return r;
}

static uint64_t memory_of_host(void)
{
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    return all - all / 4;
}

static int set_up(struct host_daemon *daemon, struct error *err)
{
    const struct host_daemon_options *o = &daemon->options;
    const char *boot_id = o->boot_id;
    int r = boot_id ? 0
                    : read_word("/proc/sys/kernel/random/boot_id", daemon->boot_id,
                                sizeof(daemon->boot_id));
    if (r)
        return error_set_errno(err, -r, "finding out which boot this is");
    if (boot_id)
        snprintf(daemon->boot_id, sizeof(daemon->boot_id), "%s", boot_id);
    r = local_open(&daemon->agent.local, o->runtime_dir, NULL, daemon->boot_id, err);
    daemon->agent.local.witness = o->witness;
    daemon->agent.local.facts = o->facts;
    if (!r)
        r = take_host_lock(daemon, err);
    if (r)
        return r;
    int n = snprintf(daemon->store, sizeof(daemon->store), "unix:%s/.store.sock",
                     daemon->agent.local.dir.path);
    if (n < 0 || (size_t)n >= sizeof(daemon->store))
        return error_set(err, ENAMETOOLONG, "the runtime directory's path is too long");
    return 0;
}

int host_daemon_create(struct host_daemon **out, uv_loop_t *loop,
                       const struct host_daemon_options *options, const char **store,
                       struct error *err)
{
    struct host_daemon *daemon = calloc(1, sizeof(*daemon));
    if (!daemon)
        return error_set(err, ENOMEM, "out of memory");
    daemon->options = *options;
    json_incref(daemon->options.facts);
    daemon->loop = loop;
    daemon->lock_fd = -1;
    daemon->agent.local.dir.fd = -1;
    int r = set_up(daemon, err);
    if (r) {
        host_daemon_free(daemon);
        return r;
    }
    *store = daemon->store;
    *out = daemon;
    return 0;
}

// ---- the threads ----

static struct exchange exchange_of(const struct host_daemon *daemon)
{
    return (struct exchange){
        .local = daemon->store,
        .certificate = daemon->options.certificate,
        .key = daemon->options.key,
        .ca = daemon->options.ca,
        .timeout_ns = 2 * NSEC_PER_SEC,
    };
}

// By which one other hosts know this one, and refuse it when it was removed. Those that the cluster
// makes are made again for the same id; others are what they are.
static void describe_certificate(const struct host_daemon_options *o, char *text, size_t size)
{
    struct tls_subject own;
    struct error err = {0};
    text[0] = 0;
    if (!o->certificate)
        return;
    if (tls_file_subject(tls_source(o->certificate), &own, &err))
        log_warning("this host's certificate: %s", err.message);
    else if (!o->own_tls)
        snprintf(text, size, "sha256:%s", own.digest);
    else if (own.id[0])
        snprintf(text, size, "id:%s", own.id);
}

static void describe_host(struct host_daemon *daemon, struct host_record *about)
{
    const struct host_daemon_options *o = &daemon->options;
    describe_certificate(o, about->certificate, sizeof(about->certificate));
    snprintf(about->address, sizeof(about->address), "%s", o->address);
    snprintf(about->version, sizeof(about->version), "%s", FERRY_VERSION);
    about->cpus = o->cpus ? o->cpus : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    about->memory = o->memory ? o->memory : memory_of_host();
    about->facts = o->facts ? json_dumps(o->facts, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
}

static int start_threads(struct host_daemon *daemon, struct error *err)
{
    const struct settings_record *settings = &daemon->settings.value.settings;
    int r = settings_check(settings, daemon->options.election_max_ns, err);
    if (r)
        return r;
    daemon->lease.host = daemon->agent.host = daemon->manager.host = daemon->options.host;
    daemon->lease.settings = daemon->agent.settings = daemon->manager.settings = *settings;
    daemon->lease.identity = daemon->identity;
    daemon->lease.boot_id = daemon->boot_id;
    daemon->lease.runtime_dir = daemon->agent.local.dir.path;
    daemon->lease.exchange = daemon->agent.exchange = daemon->manager.exchange =
        exchange_of(daemon);
    daemon->agent.lease = &daemon->lease;
    daemon->agent.stop_timeout_ns = daemon->options.stop_timeout_ns;
    describe_host(daemon, &daemon->agent.about);
    daemon->agent.about.client = daemon->api.client_host;
    char host[256], port[16];
    if (!connection_address_split(daemon->options.address, host, port))
        strcpy(host, "127.0.0.1"); // a host by itself
    bool v6 = strchr(host, ':') != NULL;
    snprintf(daemon->listen, sizeof(daemon->listen), "%s://%s%s%s:0",
             daemon->options.ca ? "tls" : "tcp", v6 ? "[" : "", host, v6 ? "]" : "");
    daemon->agent.local.listen = daemon->listen;
    daemon->agent.local.certificate = daemon->options.certificate;
    daemon->agent.local.key = daemon->options.key;
    daemon->agent.local.ca = daemon->options.ca;
    r = host_lease_start(&daemon->lease, err);
    if (!r)
        r = agent_driver_start(&daemon->agent, err);
    if (!r && !daemon->api.client_host)
        r = manager_driver_start(&daemon->manager, err);
    return r;
}

static void look_for_settings(uv_work_t *work)
{
    struct host_daemon *daemon = work->data;
    struct exchange exchange = exchange_of(daemon);
    struct error err;
    exchange_get(&exchange, RECORD_SETTINGS, "", &daemon->settings, &err);
    exchange_close(&exchange);
}

static void close_timer(struct host_daemon *daemon)
{
    if (daemon->timer_open)
        uv_close((uv_handle_t *)&daemon->timer, NULL);
    daemon->timer_open = false;
}

static void settings_looked_for(uv_work_t *work, int status)
{
    struct host_daemon *daemon = work->data;
    struct error err = {0};
    daemon->looking = false;
    if (status || daemon->stopping || daemon->started || !daemon->settings.mod)
        return;
    daemon->started = true;
    close_timer(daemon);
    if (start_threads(daemon, &err))
        log_error("this host takes no part in the cluster: %s", err.message);
}

static void look(uv_timer_t *timer)
{
    struct host_daemon *daemon = timer->data;
    daemon->work.data = daemon;
    if (!daemon->looking &&
        uv_queue_work(daemon->loop, &daemon->work, look_for_settings, settings_looked_for) == 0)
        daemon->looking = true;
}

static const struct control_method stream_methods[] = {{"vm.stream", streams_call}, {NULL, NULL}};
static const char *const stream_features[] = {"stream", NULL};

int host_daemon_start(struct host_daemon *daemon, bool client_host, struct error *err)
{
    char path[PATH_MAX + 16];
    int r = obtain_identity(daemon, err);
    if (r)
        return r;
    daemon->api = (struct api){
        .host = daemon->options.host,
        .store = daemon->store,
        .certificate = daemon->options.certificate,
        .key = daemon->options.key,
        .ca = daemon->options.ca,
        .election_max_ns = daemon->options.election_max_ns,
        .started_at = clock_boottime_ns(),
        .client_host = client_host,
    };
    snprintf(path, sizeof(path), "%s/.ferryd.sock", daemon->agent.local.dir.path);
    daemon->remote = (struct remote){
        .api = &daemon->api, .fault = daemon->options.fault, .context = daemon->options.context};
    daemon->remote.streams = (struct streams){.loop = daemon->loop,
                                              .dir = &daemon->agent.local.dir,
                                              .program = daemon->agent.local.program,
                                              .dial = daemon->options.dial,
                                              .fault = daemon->options.fault,
                                              .context = daemon->options.context};
    daemon->streams = (struct control_service){
        .methods = stream_methods, .features = stream_features, .opaque = &daemon->remote.streams};
    daemon->api.more = &daemon->streams;
    r = api_start(&daemon->api, daemon->loop, path, err);
    if (!r)
        remote_start(&daemon->remote, daemon->loop);
    daemon->metrics = (struct metrics){
        .api = &daemon->api, .agent = &daemon->agent, .manages = &daemon->manager.leads};
    if (!r && daemon->options.metrics)
        r = metrics_start(&daemon->metrics, daemon->loop, daemon->options.metrics, err);
    if (r)
        return r;
    uv_timer_init(daemon->loop, &daemon->timer);
    daemon->timer.data = daemon;
    daemon->timer_open = true;
    uv_timer_start(&daemon->timer, look, 0, LOOK_FOR_SETTINGS_MS);
    return 0;
}

void host_daemon_accept(void *daemon, struct connection *connection,
                        const struct tls_subject *subject, const char *refusal)
{
    remote_accept(&((struct host_daemon *)daemon)->remote, connection, subject, refusal);
}

static void join_threads(uv_work_t *work)
{
    struct host_daemon *daemon = work->data;
    // All at once: each may be in the middle of a request.
    atomic_store(&daemon->manager.stop, true);
    atomic_store(&daemon->agent.stop, true);
    atomic_store(&daemon->lease.stop, true);
    manager_driver_stop(&daemon->manager);
    agent_driver_stop(&daemon->agent);
    host_lease_stop(&daemon->lease);
}

static void threads_joined(uv_work_t *work, int status)
{
    struct host_daemon *daemon = work->data;
    (void)status;
    daemon->stopped(daemon->stopped_context);
}

void host_daemon_stop(struct host_daemon *daemon, void (*stopped)(void *context), void *context)
{
    if (daemon->stopping)
        return;
    daemon->stopping = true;
    close_timer(daemon);
    remote_stop(&daemon->remote);
    api_stop(&daemon->api);
    metrics_stop(&daemon->metrics);
    daemon->stopped = stopped;
    daemon->stopped_context = context;
    daemon->join.data = daemon;
    if (uv_queue_work(daemon->loop, &daemon->join, join_threads, threads_joined)) {
        join_threads(&daemon->join);
        stopped(context);
    }
}

void host_daemon_free(struct host_daemon *daemon)
{
    if (!daemon)
        return;
    if (daemon->agent.local.dir.fd >= 0)
        local_close(&daemon->agent.local);
    if (daemon->lock_fd >= 0)
        close(daemon->lock_fd);
    free(daemon->agent.about.facts);
    json_decref(daemon->options.facts);
    free(daemon);
}
