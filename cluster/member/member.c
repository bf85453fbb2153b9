#include "cluster/member/member.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "base/tls.h"
#include "cluster/member/member_internal.h"

void member_options_default(struct member_options *options)
{
    *options = (struct member_options){
        .heartbeat_ns = 100 * NSEC_PER_MSEC,
        .election_min_ns = NSEC_PER_SEC,
        .election_max_ns = 2 * NSEC_PER_SEC,
        .memory_limit = UINT64_C(1) << 30,
        .snapshot_entries = 50000,
        .history = 100000,
        .segment_bytes = 16 << 20,
        .certificate_seconds = UINT64_C(365) * 24 * 3600,
        .newest_command = STORE_COMMAND_VERSION,
    };
}

void member_end(struct member *member, int error, const char *format, ...)
{
    char text[600];
    va_list args;
    if (member->ended || member->stopping)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (error)
        log_error("member stops: %s", text);
    else
        log_info("%s", text);
    member->ended = true;
    if (member->options.ended)
        member->options.ended(member->options.context, error);
}

static int check_address(const char *address, struct error *err)
{
    char host[256], port[16];
    if (!address || (strncmp(address, "unix:", 5) == 0 && address[5]) ||
        connection_address_split(address, host, port))
        return 0;
    return error_set(err, EINVAL, "'%s': not an address of the form HOST:PORT or unix:PATH",
                     address);
}

int member_options_check(const struct member_options *o, struct error *err)
{
    if (!name_is_valid(o->name))
        return error_set(err, EINVAL, "'%s': a name is [a-z0-9][a-z0-9._-]{0,39}", o->name);
    if (o->heartbeat_ns < 10 * NSEC_PER_MSEC || o->election_min_ns < 2 * o->heartbeat_ns ||
        o->election_max_ns < o->election_min_ns || o->election_max_ns > 3600 * NSEC_PER_SEC)
        return error_set(err, EINVAL,
                         "time-outs: a heartbeat is at least 10ms, and an election from twice "
                         "that on");
    if ((!o->listen_peer && o->wish != MEMBER_WISH_CLIENT) || o->listen_client_count == 0)
        return error_set(err, EINVAL,
                         "an address for peers (--listen-peer) and one for clients are needed");
    const char *peer = o->advertise_peer ? o->advertise_peer : o->listen_peer;
    if ((peer && strlen(peer) >= MEMBER_ADDRESS_SIZE) ||
        strlen(o->advertise_client ? o->advertise_client : o->listen_client[0]) >=
            MEMBER_ADDRESS_SIZE)
        return error_set(err, EINVAL, "an address is too long");
    int r = check_address(o->listen_peer, err);
    for (unsigned i = 0; !r && i < o->listen_client_count; i++)
        r = check_address(o->listen_client[i], err);
    if (!r)
        r = check_address(o->advertise_peer, err);
    return r ? r : check_address(o->advertise_client, err);
}

void member_fill_record(const struct member_options *o, struct member_record *record)
{
    record->wish = o->wish;
    snprintf(record->name, sizeof(record->name), "%s", o->name);
    const char *peer = o->advertise_peer ? o->advertise_peer : o->listen_peer;
    snprintf(record->peer, sizeof(record->peer), "%s", peer ? peer : "");
    snprintf(record->client, sizeof(record->client), "%s",
             o->advertise_client ? o->advertise_client : o->listen_client[0]);
}

static int open_files(struct member *member, struct error *err)
{
    if (member->options.files) {
        member->files = *member->options.files;
        return 0;
    }
    if (mkdir(member->options.directory, 0700) < 0 && errno != EEXIST)
        return error_set_errno(err, errno, "directory '%s' can't be made",
                               member->options.directory);
    int error = files_posix_open(&member->files, member->options.directory);
    if (error == -EWOULDBLOCK)
        return error_set(err, EWOULDBLOCK, "directory '%s': another process uses it",
                         member->options.directory);
    if (error)
        return error_set_errno(err, -error, "directory '%s' can't be opened",
                               member->options.directory);
    member->own_files = true;
    return 0;
}

static int open_log(struct member *member, struct error *err)
{
    struct wal_options options;
    wal_options_default(&options, &member->files);
    options.segment_bytes = member->options.segment_bytes;
    int error = wal_options_measure(&options, err);
    if (!error)
        error = wal_open(&member->wal, &options, err);
    if (error != -ENOENT)
        return error;
    if (member->options.join)
        error = member_join(member, &options, err);
    else if (member->options.found)
        error = member_found(member, &options, err);
    else
        return error_set(err, ENOENT,
                         "directory '%s' holds no member yet: found a cluster or join one",
                         member->options.directory);
    if (error || member->is_client_host)
        return error;
    return wal_open(&member->wal, &options, err);
}

static int load_state(struct member *member, struct error *err)
{
    const struct raft_storage *storage = wal_storage(member->wal);
    struct raft_stored stored;
    storage->load(storage->context, &stored);
    member->identity = *wal_identity(member->wal);
    member->id = member->identity.member;
    member->self.id = member->id;
    return member_load_machine(member->wal, stored.snapshot.last, member->options.newest_command,
                               &member->machine, err);
}

static void timer_fired(uv_timer_t *timer)
{
    struct member *member = timer->data;
    if (member->ended || member->stopping)
        return;
    member->ticks++;
    member_raft_tick(member);
    member_peers_tick(member);
    member_clients_tick(member);
    member_snapshot_tick(member);
    member_ca_tick(member);
    member_renew_tick(member);
    if (!member->ended)
        member_tick_ended(member);
}

static void wal_event_arrived(uv_async_t *async)
{
    struct member *member = async->data;
    if (!member->stopping)
        member_wal_events(member);
}

static void wal_became_readable(uv_poll_t *poll, int status, int events)
{
    struct member *member = poll->data;
    // Of a member that has ended nobody takes the outcome: the descriptor would stay readable.
    if (member->stopping || member->ended)
        uv_poll_stop(poll);
    else
        member_wal_events(member);
}

// On the log's threads.
static void notify(void *context)
{
    struct member *member = context;
    uv_async_send(&member->wal_event);
}

static void before_flush(void *context)
{
    member_pump(context);
}

static int start_loop(struct member *member, struct error *err)
{
    int code = connection_set_init(&member->connections, member->loop);
    if (!code)
        code = uv_timer_init(member->loop, &member->timer);
    member->timer_open = code == 0;
    if (!code)
        code = uv_async_init(member->loop, &member->wal_event, wal_event_arrived);
    member->async_open = code == 0;
    if (code)
        return error_set(err, -code, "event loop: %s", uv_strerror(code));
    member->timer.data = member;
    member->wal_event.data = member;
    member->connections.before_flush = before_flush;
    member->connections.context = member;
    member->connections.peer_name = member->options.tls_name;
    int error = wal_thread_start(&member->wal_thread, member->wal, notify, member);
    if (error)
        return error_set_errno(err, -error, "the log's threads can't be started");
    int descriptor = wal_thread_descriptor(member->wal_thread);
    if (descriptor >= 0) {
        code = uv_poll_init(member->loop, &member->wal_poll, descriptor);
        member->poll_open = code == 0;
        member->wal_poll.data = member;
        if (!code)
            code = uv_poll_start(&member->wal_poll, UV_READABLE, wal_became_readable);
        if (code)
            return error_set(err, -code, "event loop: %s", uv_strerror(code));
    }
    uint64_t tick_ms = member->tick_ns / NSEC_PER_MSEC;
    uv_timer_start(&member->timer, timer_fired, tick_ms, tick_ms);
    return 0;
}

static int start_listening(struct member *member, struct error *err)
{
    const struct member_options *o = &member->options;
    int error = connection_listen(member->loop, o->listen_peer, member_peer_accept, member,
                                  &member->peer_listener, err);
    for (unsigned i = 0; !error && i < o->listen_client_count; i++)
        error = connection_listen(member->loop, o->listen_client[i], member_client_accept, member,
                                  &member->client_listeners[i], err);
    return error;
}

static struct member *member_create(uv_loop_t *loop, const struct member_options *options)
{
    struct member *member = calloc(1, sizeof(*member));
    if (!member)
        return NULL;
    member->options = *options;
    member->loop = loop;
    member->tick_ns = options->heartbeat_ns / MEMBER_TICK_DIVIDER;
    // Whole milliseconds are what the loop's timer has.
    member->tick_ns = member->tick_ns / NSEC_PER_MSEC * NSEC_PER_MSEC;
    if (member->tick_ns == 0)
        member->tick_ns = NSEC_PER_MSEC;
    LIST_INIT(&member->peers);
    LIST_INIT(&member->inbound);
    LIST_INIT(&member->clients);
    TAILQ_INIT(&member->pending);
    TAILQ_INIT(&member->readings);
    member->next_context = 1;
    byte_writer_init(&member->answer);
    byte_writer_init(&member->frame);
    member->decoded = malloc(sizeof(*member->decoded));
    member->txn = malloc(sizeof(*member->txn));
    if (!member->decoded || !member->txn) {
        member_free(member);
        return NULL;
    }
    member_fill_record(options, &member->self);
    return member;
}

bool member_exists(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry = NULL;
    bool found = false;
    while (dir && !found && (entry = readdir(dir)))
        found = strncmp(entry->d_name, "wal-", 4) == 0;
    if (dir)
        closedir(dir);
    return found;
}

// From now on the log says who this is. Were it lost but not this file, the same id would come back
// without what it had promised.
static int forget_joining(const struct member_options *options, struct error *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/joining", options->directory);
    if (unlink(path) != 0 && errno != ENOENT)
        return error_set_errno(err, errno, "'%s' can't be removed", path);
    return 0;
}

int member_prepare(const struct member_options *options, struct error *err)
{
    int error = member_options_check(options, err);
    struct member *member = error ? NULL : member_create(NULL, options);
    if (!member)
        return error ? error : error_set(err, ENOMEM, "out of memory");
    error = open_files(member, err);
    if (!error)
        error = open_log(member, err);
    if (!error)
        error = forget_joining(options, err);
    member_free(member);
    return error;
}

int member_start(struct member **out, uv_loop_t *loop, const struct member_options *options,
                 struct error *err)
{
    int error = member_options_check(options, err);
    if (error)
        return error;
    struct member *member = member_create(loop, options);
    if (!member)
        return error_set(err, ENOMEM, "out of memory");
    error = open_files(member, err);
    if (!error && options->tls_ca)
        error =
            tls_credentials_load(&member->tls, tls_source(options->tls_certificate),
                                 tls_source(options->tls_key), tls_source(options->tls_ca), err);
    if (!error)
        error = member_ca_load(member, err);
    if (!error)
        error = open_log(member, err);
    // Again: whoever prepared it may have been killed in between.
    if (!error)
        error = forget_joining(options, err);
    if (!error)
        error = load_state(member, err);
    if (!error)
        error = member_raft_create(member, err);
    if (error) {
        member_free(member);
        return error;
    }
    error = start_loop(member, err);
    if (!error)
        error = start_listening(member, err);
    if (error) {
        member_stop(member);
        uv_run(loop, UV_RUN_DEFAULT);
        member_free(member);
        return error;
    }
    member_peers_refresh(member);
    log_info("member %016" PRIx64 " '%s': peers at %s, clients at %s", member->id,
             member->self.name, options->listen_peer, options->listen_client[0]);
    *out = member;
    return 0;
}

void member_stop(struct member *member)
{
    if (member->stopping)
        return;
    member->stopping = true;
    connection_unlisten(member->peer_listener);
    for (unsigned i = 0; i < member->options.listen_client_count; i++)
        connection_unlisten(member->client_listeners[i]);
    member_clients_close(member);
    member_peers_free(member);
    connection_set_close(&member->connections, NULL);
    if (member->wal_thread)
        member_snapshot_cancel(member);
    if (member->poll_open)
        uv_close((uv_handle_t *)&member->wal_poll, NULL);
    wal_thread_stop(member->wal_thread);
    member->wal_thread = NULL;
    if (member->timer_open)
        uv_close((uv_handle_t *)&member->timer, NULL);
    if (member->async_open)
        uv_close((uv_handle_t *)&member->wal_event, NULL);
}

void member_free(struct member *member)
{
    struct pending *pending;
    struct reading *reading;
    if (!member)
        return;
    while ((pending = TAILQ_FIRST(&member->pending))) {
        TAILQ_REMOVE(&member->pending, pending, link);
        free(pending);
    }
    while ((reading = TAILQ_FIRST(&member->readings))) {
        TAILQ_REMOVE(&member->readings, reading, link);
        free(reading);
    }
    raft_destroy(member->raft);
    store_machine_destroy(member->machine);
    wal_close(member->wal);
    if (member->own_files)
        files_posix_close(&member->files);
    tls_credentials_free(member->tls);
    member_ca_free(member);
    member_renew_free(member);
    byte_writer_free(&member->answer);
    byte_writer_free(&member->frame);
    free(member->decoded);
    free(member->txn);
    free(member);
}
