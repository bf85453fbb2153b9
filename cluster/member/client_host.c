#include "cluster/member/client_host.h"

#include <bsd/sys/queue.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "cluster/api/bridge.h"
#include "cluster/member/client_host_file.h"
#include "cluster/member/client_host_look.h"
#include "cluster/member/member_internal.h"

enum {
    TICK_MS = 200,
    DENIALS = 3,      // in a row: then it isn't a mistake of somebody who is behind
    CALLERS_MAX = 64, // that haven't said yet who they are, or what they want
    HINT_ROOM = 512,
};

#define LOOK_NS   NSEC_PER_SEC
#define DIAL_NS   NSEC_PER_SEC       // then another member is tried,
#define AVOID_NS  (2 * NSEC_PER_SEC) // and this one not so soon again
#define RELAY_NS  (5 * NSEC_PER_SEC) // nobody waits for longer
#define CALLER_NS (10 * NSEC_PER_SEC)

// Somebody of this host who wants the store.
struct relayed {
    LIST_ENTRY(relayed) link;
    struct client_host *host;
    int fd;                        // -1 once the bridge has it
    struct connection *connection; // to a member, while it is dialled
    struct bridge *bridge;
    unsigned member; // which one is dialled
    uint64_t begun, dialled;
};

// Somebody at the port for clients.
struct caller {
    LIST_ENTRY(caller) link;
    struct client_host *host;
    struct connection *connection;
    uint64_t since;
};

struct client_host {
    const struct member_options *options;
    const char *store;
    uv_loop_t *loop;
    struct client_host_file file;
    uint64_t avoided[CLIENT_HOST_MEMBERS]; // until when, as in the file
    unsigned next;                         // member to be tried when the first one is avoided
    struct tls_credentials *tls;
    struct retired_list retired;
    struct connection_set connections;
    bool set_open;
    uv_stream_t *listeners[4];
    uv_poll_t relay_poll;
    int relay_fd;
    bool relay_open;
    uv_timer_t timer;
    bool timer_open, stopping, ended;
    LIST_HEAD(, relayed) relayed;
    LIST_HEAD(, caller) callers;
    struct client_host_look look;
    uv_work_t work;
    bool looking, heard, in_touch;
    uint64_t looked;
    unsigned denials;
    struct client_host_lists lists;
};

// ---- whose certificates are good ----

static bool is_listed(const struct id_list *list, uint64_t id)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->ids[i] == id)
            return true;
    return false;
}

static const char *foreign_fault(const struct client_host *host, const struct tls_subject *subject)
{
    for (size_t i = 0; i < host->lists.refused_count; i++)
        if (strcmp(host->lists.refused[i], subject->digest) == 0)
            return "its host was removed from the cluster";
    return NULL; // its dates are its maker's to say
}

const char *client_host_certificate_fault_later(struct client_host *host,
                                                const struct tls_subject *subject)
{
    uint64_t id, now = clock_realtime_ns() / NSEC_PER_SEC;
    // A host has a new one by then, for its next connection.
    if (subject->client && subject->ends >= 0 && now > (uint64_t)subject->ends)
        return "it has expired";
    if (!host->options->own_tls)
        return foreign_fault(host, subject);
    if (!subject_id(subject, &id))
        return "it wasn't made by this version of ferry, or for something else";
    if (subject->client)
        return is_listed(&host->lists.revoked, id) ? "it was taken back" : NULL;
    return is_listed(&host->lists.gone, id) ? "its host was removed from the cluster" : NULL;
}

const char *client_host_certificate_fault(struct client_host *host,
                                          const struct tls_subject *subject)
{
    uint64_t now = clock_realtime_ns() / NSEC_PER_SEC;
    if (subject->ends >= 0 && now > (uint64_t)subject->ends)
        return "it has expired";
    if (!host->heard)
        return "this host hasn't heard yet which ones are good: try again";
    return client_host_certificate_fault_later(host, subject);
}

// ---- the relay ----

static void relayed_free(struct relayed *one)
{
    if (one->connection)
        connection_close(one->connection);
    if (one->fd >= 0)
        close(one->fd);
    LIST_REMOVE(one, link);
    free(one);
}

static void bridge_ended(void *context, const char *reason)
{
    struct relayed *one = context;
    (void)reason;
    one->bridge = NULL;
    relayed_free(one);
}

// The leader as last heard, if it answers; else one after the other.
static unsigned choose_member(struct client_host *host, uint64_t now)
{
    if (now >= host->avoided[0])
        return 0;
    for (unsigned i = 0; i < host->file.count; i++) {
        unsigned one = host->next++ % host->file.count;
        if (now >= host->avoided[one])
            return one;
    }
    return host->next++ % host->file.count;
}

static const struct connection_callbacks relay_callbacks;

static void avoid(const struct relayed *one)
{
    one->host->avoided[one->member] = clock_monotonic_ns() + AVOID_NS;
}

static void dial(struct relayed *one)
{
    struct client_host *host = one->host;
    one->dialled = clock_monotonic_ns();
    one->member = choose_member(host, one->dialled);
    one->connection = connection_dial(&host->connections, host->file.members[one->member],
                                      host->tls, &relay_callbacks, one);
    if (!one->connection)
        avoid(one);
}

static void member_reached(void *owner, struct connection *connection)
{
    struct relayed *one = owner;
    one->connection = NULL;
    // Whoever has gone meanwhile has given up what he sent: it needn't be done any more.
    struct pollfd state = {.fd = one->fd, .events = 0};
    if (poll(&state, 1, 0) > 0) {
        connection_close(connection);
        relayed_free(one);
        return;
    }
    if (bridge_create(&one->bridge, one->host->loop, connection, one->fd, NULL, 0, bridge_ended,
                      one) == 0) {
        one->fd = -1;
        return;
    }
    connection_close(connection);
    relayed_free(one);
}

// Dialled again with the next tick: not in a circle.
static void member_lost(void *owner, struct connection *connection, const char *reason)
{
    struct relayed *one = owner;
    (void)connection;
    log_debug("no connection to %s: %s", one->host->file.members[one->member], reason);
    one->connection = NULL;
    avoid(one);
}

// Before it is a bridge's nothing is sent by a member.
static void too_early(void *owner, struct connection *connection, const uint8_t *bytes,
                      size_t length)
{
    struct relayed *one = owner;
    (void)connection;
    (void)bytes;
    (void)length;
    relayed_free(one);
}

static const struct connection_callbacks relay_callbacks = {
    .ready = member_reached, .closed = member_lost, .bytes = too_early};

static void relay_accept(uv_poll_t *poll, int status, int events)
{
    struct client_host *host = poll->data;
    int fd = status < 0 || host->stopping ? -1 : local_socket_accept(host->relay_fd);
    (void)events;
    if (fd < 0)
        return;
    struct relayed *one = calloc(1, sizeof(*one));
    if (!one) {
        close(fd);
        return;
    }
    one->host = host;
    one->fd = fd;
    one->begun = clock_monotonic_ns();
    LIST_INSERT_HEAD(&host->relayed, one, link);
    dial(one);
}

static void relay_tick(struct client_host *host, uint64_t now)
{
    struct relayed *one, *next;
    LIST_FOREACH_SAFE(one, &host->relayed, link, next)
    {
        if (one->bridge)
            continue;
        if (now - one->begun > RELAY_NS) {
            relayed_free(one);
            continue;
        }
        if (one->connection && now - one->dialled > DIAL_NS) {
            connection_close(one->connection);
            one->connection = NULL;
            avoid(one);
        }
        if (!one->connection)
            dial(one);
    }
}

// ---- the port for clients ----

static void caller_free(struct caller *caller)
{
    LIST_REMOVE(caller, link);
    free(caller);
}

static void caller_end(struct caller *caller)
{
    connection_close(caller->connection);
    caller_free(caller);
}

static void caller_closed(void *owner, struct connection *connection, const char *reason)
{
    (void)connection;
    (void)reason;
    caller_free(owner);
}

static void caller_ready(void *owner, struct connection *connection)
{
    struct caller *caller = owner;
    struct client_host *host = caller->host;
    struct tls_subject subject = {.client = false};
    const char *fault = "it shows no certificate of this cluster";
    if (connection_subject(connection, &subject))
        fault = client_host_certificate_fault(host, &subject);
    if (!connection_speaks(connection, PROTOCOL_CONTROL) &&
        !connection_speaks(connection, PROTOCOL_STREAM))
        return; // looks for the store
    if (!fault && subject_is_client_host(&subject) &&
        connection_speaks(connection, PROTOCOL_CONTROL))
        fault = "a client host asks the store alone";
    if (fault)
        log_info("a client's certificate at %s was turned away: %s",
                 connection_peer_address(connection), fault);
    caller_free(caller);
    host->options->remote(host->options->remote_context, connection, &subject, fault);
}

// The store isn't here: where it is, whoever asks may know, also who only wants to join.
static bool caller_frame(void *owner, struct connection *connection, uint16_t type,
                         const uint8_t *payload, size_t length)
{
    struct caller *caller = owner;
    uint8_t room[HINT_ROOM];
    struct byte_writer w;
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    uint64_t request = byte_reader_u64(&r);
    if (type != PROTOCOL_REQUEST || r.failed)
        return false;
    byte_writer_init_fixed(&w, room, sizeof(room));
    byte_writer_u64(&w, request);
    store_answer_status(&w, STORE_NOT_LEADER, 0, 0);
    byte_writer_string(&w, caller->host->file.members[0]);
    if (!w.failed && connection_queued(connection) < MEMBER_CLIENT_QUEUE)
        connection_send(connection, PROTOCOL_ANSWER, w.data, w.length);
    return !w.failed;
}

static const struct connection_callbacks caller_callbacks = {
    .ready = caller_ready, .frame = caller_frame, .closed = caller_closed};

static void caller_accept(uv_stream_t *listener, int status)
{
    static const char *const protocols[] = {PROTOCOL_CONTROL, PROTOCOL_STREAM};
    struct client_host *host = listener->data;
    struct caller *caller = status < 0 ? NULL : calloc(1, sizeof(*caller)), *one, *oldest = NULL;
    unsigned count = 0;
    if (!caller)
        return;
    // Whoever hasn't said what he wants must not keep others out.
    LIST_FOREACH(one, &host->callers, link)
    {
        count++;
        oldest = one; // the newest is the list's head
    }
    if (count >= CALLERS_MAX)
        caller_end(oldest);
    caller->host = host;
    caller->since = clock_monotonic_ns();
    caller->connection =
        connection_accept(&host->connections, listener, host->tls, &caller_callbacks, caller);
    if (!caller->connection) {
        free(caller);
        return;
    }
    if (host->options->own_tls)
        connection_admit_strangers(caller->connection);
    else
        connection_admit_clients(caller->connection);
    connection_offer(caller->connection, protocols, 2);
    LIST_INSERT_HEAD(&host->callers, caller, link);
}

static void callers_tick(struct client_host *host, uint64_t now)
{
    struct caller *caller, *next;
    LIST_FOREACH_SAFE(caller, &host->callers, link, next)
    {
        if (now - caller->since > CALLER_NS)
            caller_end(caller);
    }
}

struct connection *client_host_dial_stream(struct client_host *host, const char *address,
                                           const struct connection_callbacks *callbacks,
                                           void *owner)
{
    static const char *const protocol = PROTOCOL_STREAM;
    struct connection *connection = NULL;
    if (host->tls && !host->stopping)
        connection = connection_dial(&host->connections, address, host->tls, callbacks, owner);
    if (connection)
        connection_offer(connection, &protocol, 1);
    return connection;
}

// ---- looking ----

static void end(struct client_host *host, int error)
{
    if (host->ended || host->stopping)
        return;
    host->ended = true;
    host->options->ended(host->options->context, error);
}

static void take_lists(struct client_host *host)
{
    struct client_host_look *look = &host->look;
    if (look->has_lists) {
        client_host_lists_free(&host->lists);
        host->lists = look->lists;
        look->lists = (struct client_host_lists){.sum = 0};
        host->file = look->file;
        memset(host->avoided, 0, sizeof(host->avoided));
    }
    host->heard = true;
}

static void tell_touch(struct client_host *host, bool in_touch)
{
    if (in_touch && !host->in_touch)
        log_info("in touch with the cluster: %s leads", host->file.members[0]);
    else if (!in_touch && host->in_touch)
        log_warning("out of touch with the cluster: %s", host->look.err.message);
    host->in_touch = in_touch;
}

static void look_work(uv_work_t *work)
{
    client_host_look(&((struct client_host *)work->data)->look);
}

static void look_done(uv_work_t *work, int status)
{
    struct client_host *host = work->data;
    struct client_host_look *look = &host->look;
    struct error err = {0};
    host->looking = false;
    if (status || host->stopping || host->ended)
        return;
    bool gone = look->status == STORE_MEMBER_NOT_FOUND || look->status == STORE_DENIED;
    host->denials = gone ? host->denials + 1 : 0;
    if (look->status == STORE_OK)
        take_lists(host);
    else
        host->avoided[0] = clock_monotonic_ns() + AVOID_NS;
    tell_touch(host, look->status == STORE_OK);
    if (look->renewed && member_tls_load(host->options, &host->tls, &host->retired, &err))
        log_warning("renewing this host's certificate: %s", err.message);
    else if (look->renewed)
        log_info("this host's certificate is a new one");
    if (look->other_cluster) {
        log_error("at the members' addresses there is another cluster: this host stops");
        end(host, EPROTO);
    } else if (host->denials >= DENIALS) {
        log_info("this host was removed from the cluster");
        end(host, 0);
    }
}

static void tick(uv_timer_t *timer)
{
    struct client_host *host = timer->data;
    uint64_t now = clock_monotonic_ns();
    if (host->ended || host->stopping)
        return;
    relay_tick(host, now);
    callers_tick(host, now);
    if (host->looking || (host->looked && now - host->looked < LOOK_NS))
        return;
    host->looked = now;
    host->look.file = host->file;
    host->look.known = host->heard ? host->lists.sum : 0;
    host->work.data = host;
    host->looking = uv_queue_work(host->loop, &host->work, look_work, look_done) == 0;
}

// ---- life ----

static int start_relay(struct client_host *host, struct error *err)
{
    const char *path = host->store + strlen("unix:");
    host->relay_fd = local_socket_listen(path, err);
    if (host->relay_fd < 0)
        return host->relay_fd;
    int code = uv_poll_init(host->loop, &host->relay_poll, host->relay_fd);
    host->relay_open = code == 0;
    host->relay_poll.data = host;
    if (!code)
        code = uv_poll_start(&host->relay_poll, UV_READABLE, relay_accept);
    return code ? error_set(err, -code, "event loop: %s", uv_strerror(code)) : 0;
}

static int start(struct client_host *host, struct error *err)
{
    const struct member_options *o = host->options;
    int r = client_host_file_load(&host->file, o->directory, err);
    if (!r && o->tls_ca)
        r = member_tls_load(host->options, &host->tls, &host->retired, err);
    if (r)
        return r;
    int code = connection_set_init(&host->connections, host->loop);
    host->set_open = code == 0;
    if (!code)
        code = uv_timer_init(host->loop, &host->timer);
    host->timer_open = code == 0 && host->set_open;
    if (code)
        return error_set(err, -code, "event loop: %s", uv_strerror(code));
    host->timer.data = host;
    host->connections.peer_name = o->tls_name;
    for (unsigned i = 0; i < o->listen_client_count && !r; i++)
        r = connection_listen(host->loop, o->listen_client[i], caller_accept, host,
                              &host->listeners[i], err);
    if (!r)
        r = start_relay(host, err);
    if (!r)
        uv_timer_start(&host->timer, tick, 0, TICK_MS);
    return r;
}

int client_host_start(struct client_host **out, uv_loop_t *loop,
                      const struct member_options *options, const char *store, struct error *err)
{
    struct client_host *host = calloc(1, sizeof(*host));
    if (!host)
        return error_set(err, ENOMEM, "out of memory");
    host->options = options;
    host->store = store;
    host->loop = loop;
    host->relay_fd = -1;
    host->in_touch = true; // so that it is told if there is none from the beginning
    host->look.options = options;
    LIST_INIT(&host->relayed);
    LIST_INIT(&host->callers);
    LIST_INIT(&host->retired);
    int r = start(host, err);
    if (r) {
        client_host_stop(host);
        uv_run(loop, UV_RUN_DEFAULT);
        client_host_free(host);
        return r;
    }
    log_info("client host %016" PRIx64 " '%s': clients at %s, %u member%s known", host->file.id,
             options->name, options->listen_client[0], host->file.count,
             host->file.count == 1 ? "" : "s");
    *out = host;
    return 0;
}

void client_host_stop(struct client_host *host)
{
    struct relayed *one, *next;
    if (host->stopping)
        return;
    host->stopping = true;
    for (unsigned i = 0; i < host->options->listen_client_count; i++)
        connection_unlisten(host->listeners[i]);
    while (!LIST_EMPTY(&host->callers))
        caller_end(LIST_FIRST(&host->callers));
    LIST_FOREACH_SAFE(one, &host->relayed, link, next)
    {
        if (one->bridge)
            bridge_end(one->bridge, "ferryd stops");
        else
            relayed_free(one);
    }
    if (host->set_open)
        connection_set_close(&host->connections, NULL);
    if (host->relay_open)
        uv_close((uv_handle_t *)&host->relay_poll, NULL);
    if (host->timer_open)
        uv_close((uv_handle_t *)&host->timer, NULL);
}

void client_host_free(struct client_host *host)
{
    if (!host)
        return;
    member_tls_free_retired(&host->retired);
    if (host->relay_fd >= 0)
        close(host->relay_fd);
    client_host_look_free(&host->look);
    client_host_lists_free(&host->lists);
    tls_credentials_free(host->tls);
    free(host);
}
