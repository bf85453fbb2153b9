// The client that never waits (async.h).
//
// A request is in one of two lists: `waiting` for a connection, a leader or a moment of patience;
// or `sent`. One timer looks after time-outs; a connection on which nothing comes for a while is
// asked for a sign of life, and given up without one, since a member that hangs doesn't close
// anything.
#include "cluster/store/async.h"

#include <bsd/sys/queue.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/tls.h"
#include "cluster/member/connection.h"
#include "cluster/member/protocol.h"

enum { ADDRESSES_MAX = 16, TICK_MS = 50 };

#define RETRY_NS   (50 * NSEC_PER_MSEC)
#define DIAL_NS    NSEC_PER_SEC       // until another address is tried
#define QUIET_NS   NSEC_PER_SEC       // after that a sign of life is asked for,
#define GIVE_UP_NS (3 * NSEC_PER_SEC) // and the connection given up

struct request {
    TAILQ_ENTRY(request) link;
    uint64_t number; // in the frames; a new one each time it is sent
    enum protocol_request kind;
    bool read; // sent again if no answer came
    uint64_t deadline, not_before;
    enum store_status refusal; // the last one
    store_async_done *done;
    store_async_lease_done *lease_done;
    void *context;
    size_t length;
    uint8_t body[];
};

TAILQ_HEAD(request_list, request);

struct store_watch {
    LIST_ENTRY(store_watch) link;
    struct store_async *async;
    uint64_t number; // of the request that began it on this connection; 0: not begun
    uint64_t next;   // the first revision that was not delivered; 0: from now
    enum store_span span;
    struct store_bytes key, end; // behind this struct
    const struct store_watch_callbacks *callbacks;
    void *context;
};

struct store_async {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct connection_set connections;
    struct connection *connection; // NULL: none
    bool ready, leaving, destroyed;
    unsigned handles; // still to be closed, at the end
    uint64_t dial_again, dialled, heard, asked;
    uint64_t made; // connections
    char addresses[ADDRESSES_MAX][MEMBER_ADDRESS_SIZE];
    unsigned address_count, next_address;
    char hint[MEMBER_ADDRESS_SIZE], where[MEMBER_ADDRESS_SIZE];
    struct tls_credentials *tls;
    char *tls_name;
    uint64_t timeout_ns, number;
    struct request_list waiting, sent;
    unsigned request_count;
    LIST_HEAD(, store_watch) watches;
    struct store_event *events; // scratch, as is `asked_for`
    size_t event_room;
    struct store_txn_decoded *asked_for;
};

static void go_on(struct store_async *async);

// --- Settling
// ---------------------------------------------------------------------------------------

static void request_free(struct store_async *async, struct request_list *list,
                         struct request *request)
{
    TAILQ_REMOVE(list, request, link);
    async->request_count--;
    free(request);
}

// The request's one callback. It may destroy the client.
static void settle(struct store_async *async, struct request_list *list, struct request *request,
                   const struct store_result *result, uint64_t lease, uint64_t ttl)
{
    store_async_done *done = request->done;
    store_async_lease_done *lease_done = request->lease_done;
    void *context = request->context;
    request_free(async, list, request);
    if (done)
        done(context, result);
    else if (lease_done)
        lease_done(context, result->status, lease, ttl);
}

static void settle_status(struct store_async *async, struct request_list *list,
                          struct request *request, enum store_status status)
{
    struct store_result result = {.status = status};
    settle(async, list, request, &result, 0, 0);
}

static void wait_again(struct store_async *async, struct request *request, uint64_t pause)
{
    TAILQ_REMOVE(&async->sent, request, link);
    request->number = 0;
    request->not_before = clock_monotonic_ns() + pause;
    TAILQ_INSERT_HEAD(&async->waiting, request, link);
}

// --- The connection
// ---------------------------------------------------------------------------------

// It is gone: reads wait for the next one, of writes nobody knows, watches begin again.
static void connection_is_gone(struct store_async *async, uint64_t pause)
{
    struct store_watch *watch;
    struct request *request;
    async->connection = NULL;
    async->ready = async->leaving = false;
    async->dial_again = clock_monotonic_ns() + pause;
    LIST_FOREACH(watch, &async->watches, link)
    watch->number = 0;
    while (!async->destroyed && (request = TAILQ_LAST(&async->sent, request_list))) {
        if (request->read)
            wait_again(async, request, 0);
        else
            settle_status(async, &async->sent, request, STORE_UNKNOWN);
    }
}

static void drop_connection(struct store_async *async, uint64_t pause)
{
    if (async->connection)
        connection_close(async->connection);
    connection_is_gone(async, pause);
}

static void ready(void *owner, struct connection *connection)
{
    struct store_async *async = owner;
    async->ready = true;
    async->made++;
    async->heard = clock_monotonic_ns();
    async->asked = 0;
    go_on(async);
}

static void closed(void *owner, struct connection *connection, const char *reason)
{
    struct store_async *async = owner;
    connection_is_gone(async, RETRY_NS);
    if (!async->destroyed)
        go_on(async);
}

static bool frame(void *owner, struct connection *connection, uint16_t type, const uint8_t *payload,
                  size_t length);
static const struct connection_callbacks callbacks = {
    .ready = ready, .frame = frame, .closed = closed};

static void dial(struct store_async *async)
{
    const char *from = async->hint;
    if (!from[0])
        from = async->addresses[async->next_address++ % async->address_count];
    memcpy(async->where, from, sizeof(async->where));
    async->hint[0] = 0;
    async->dialled = clock_monotonic_ns();
    async->connection =
        connection_dial(&async->connections, async->where, async->tls, &callbacks, async);
    if (!async->connection)
        async->dial_again = async->dialled + RETRY_NS;
}

// --- Sending
// ----------------------------------------------------------------------------------------

static uint64_t send_frame(struct store_async *async, enum protocol_request kind, const void *body,
                           size_t length)
{
    uint8_t head[9];
    bytes_put_u64(head, ++async->number);
    head[8] = (uint8_t)kind;
    connection_send2(async->connection, PROTOCOL_REQUEST, head, sizeof(head), body, length);
    return async->number;
}

static void begin_watch(struct store_async *async, struct store_watch *watch)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_blob(&w, watch->key.data, watch->key.length);
    byte_writer_u8(&w, (uint8_t)watch->span);
    byte_writer_blob(&w, watch->end.data, watch->end.length);
    byte_writer_u64(&w, watch->next);
    if (!w.failed)
        watch->number = send_frame(async, REQUEST_WATCH, w.data, w.length);
    byte_writer_free(&w);
}

static void send_waiting(struct store_async *async)
{
    uint64_t now = clock_monotonic_ns();
    struct request *request, *next;
    struct store_watch *watch;
    LIST_FOREACH(watch, &async->watches, link)
    if (!watch->number)
        begin_watch(async, watch);
    for (request = TAILQ_FIRST(&async->waiting); request; request = next) {
        next = TAILQ_NEXT(request, link);
        if (request->not_before > now)
            continue;
        TAILQ_REMOVE(&async->waiting, request, link);
        TAILQ_INSERT_TAIL(&async->sent, request, link);
        request->number = send_frame(async, request->kind, request->body, request->length);
    }
}

// Does what can be done now: dials, leaves for the leader, sends.
static void go_on(struct store_async *async)
{
    if (async->connection && async->leaving && TAILQ_EMPTY(&async->sent))
        drop_connection(async, 0);
    if (!async->connection && clock_monotonic_ns() >= async->dial_again)
        dial(async);
    if (async->connection && async->ready && !async->leaving)
        send_waiting(async);
}

// --- Answers
// ----------------------------------------------------------------------------------------

static bool is_retried(enum store_status status)
{
    return status == STORE_NOT_LEADER || status == STORE_NO_LEADER || status == STORE_BUSY;
}

static void retry(struct store_async *async, struct request *request, enum store_status status,
                  struct byte_reader answer)
{
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    request->refusal = status == STORE_NOT_LEADER ? STORE_NO_LEADER : status;
    bool hinted = status == STORE_NOT_LEADER &&
                  byte_reader_string(&answer, async->hint, sizeof(async->hint)) && async->hint[0];
    if (!hinted)
        async->hint[0] = 0;
    async->leaving = async->leaving || status != STORE_BUSY;
    wait_again(async, request, hinted ? 0 : RETRY_NS);
}

// Whether it has what the request asked for, so that whoever asked can take it by number.
static bool fits(struct store_async *async, const struct request *request,
                 const struct store_result *result)
{
    struct byte_reader r;
    byte_reader_init(&r, request->body, request->length);
    byte_reader_u8(&r); // flags
    return store_txn_decode(async->asked_for, &r) == STORE_OK &&
           store_result_fits(result, &async->asked_for->txn);
}

static void take_txn_answer(struct store_async *async, struct request *request,
                            const struct byte_reader *answer)
{
    struct store_result result = {0};
    int error = store_result_decode(&result, answer->data + answer->offset,
                                    answer->length - answer->offset);
    if (!error && !fits(async, request, &result)) {
        store_result_free(&result);
        error = -EBADMSG;
    }
    if (error) // it came, but what it says can't be known
        result = (struct store_result){.status = STORE_UNKNOWN};
    settle(async, &async->sent, request, &result, 0, 0);
    if (!error)
        store_result_free(&result);
}

static void take_lease_answer(struct store_async *async, struct request *request,
                              struct byte_reader answer)
{
    struct store_result result = {.status = (enum store_status)byte_reader_u8(&answer)};
    uint64_t lease = 0, ttl = 0;
    result.revision = byte_reader_u64(&answer);
    if (result.status == STORE_OK) {
        lease = byte_reader_u64(&answer);
        ttl = byte_reader_u64(&answer);
    }
    if (answer.failed || result.status > STORE_STATUS_LAST)
        result.status = STORE_UNKNOWN;
    settle(async, &async->sent, request, &result, lease, ttl);
}

static struct store_watch *find_watch(struct store_async *async, uint64_t number)
{
    struct store_watch *watch;
    LIST_FOREACH(watch, &async->watches, link)
    if (number && watch->number == number) // 0: not begun
        return watch;
    return NULL;
}

static void watch_end(struct store_watch *watch, enum store_status status, uint64_t oldest)
{
    void (*ended)(void *, enum store_status, uint64_t) = watch->callbacks->ended;
    void *context = watch->context;
    LIST_REMOVE(watch, link);
    free(watch);
    ended(context, status, oldest);
}

static bool take_answer(struct store_async *async, uint64_t number, struct byte_reader answer)
{
    struct request *request;
    struct store_watch *watch;
    struct byte_reader r = answer;
    enum store_status status = (enum store_status)byte_reader_u8(&r);
    uint64_t revision = byte_reader_u64(&r);
    if (r.failed)
        return false;
    TAILQ_FOREACH(request, &async->sent, link)
    if (request->number == number)
        break;
    if (request) {
        if (is_retried(status))
            retry(async, request, status, answer);
        else if (request->done)
            take_txn_answer(async, request, &answer);
        else
            take_lease_answer(async, request, answer);
    } else if ((watch = find_watch(async, number))) {
        if (status == STORE_OK && watch->next == 0)
            watch->next = revision + 1;
        else if (status == STORE_BUSY)
            watch->number = 0; // again with the next tick
        else if (status != STORE_OK)
            watch_end(watch, status, 0);
    }
    return true; // others are of requests that nobody waits for any more
}

static bool decode_events(struct store_async *async, struct byte_reader *r, uint32_t count)
{
    // A kind and a key-value each: bounds the memory by what is there.
    if (count > byte_reader_left(r) / (1 + STORE_KEY_VALUE_BYTES_MIN))
        return false;
    if (count > async->event_room) {
        struct store_event *events = realloc(async->events, count * sizeof(*events));
        if (!events)
            return false;
        async->events = events;
        async->event_room = count;
    }
    for (uint32_t i = 0; i < count; i++) {
        async->events[i].kind = (enum store_op_kind)byte_reader_u8(r);
        if (async->events[i].kind != STORE_PUT && async->events[i].kind != STORE_DELETE)
            return false;
        if (!store_key_value_decode(r, &async->events[i].key_value))
            return false;
    }
    return !r->failed && byte_reader_left(r) == 0;
}

// False: the connection is of no use any more.
static bool take_events(struct store_async *async, uint64_t number, struct byte_reader r)
{
    struct store_watch *watch = find_watch(async, number);
    enum store_status status = (enum store_status)byte_reader_u8(&r);
    uint64_t revision = byte_reader_u64(&r);
    uint64_t oldest = status == STORE_COMPACTED ? byte_reader_u64(&r) : 0;
    uint32_t count = byte_reader_u32(&r);
    if (r.failed)
        return false;
    if (!watch)
        return true; // ended by its owner meanwhile
    if (status == STORE_NO_LEADER)
        return false; // that member has lost the others: another one knows more
    if (status != STORE_OK) {
        watch_end(watch, status, oldest);
        return true;
    }
    if (!decode_events(async, &r, count))
        return false;
    if (revision < watch->next) // only a member that broke the rules sends that
        return true;
    watch->next = revision + 1;
    watch->callbacks->events(watch->context, revision, async->events, count);
    return true;
}

static bool frame(void *owner, struct connection *connection, uint16_t type, const uint8_t *payload,
                  size_t length)
{
    struct store_async *async = owner;
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    uint64_t number = byte_reader_u64(&r);
    bool good = !r.failed;
    async->heard = clock_monotonic_ns();
    async->asked = 0;
    if (good && type == PROTOCOL_ANSWER)
        good = take_answer(async, number, r);
    else if (good && type == PROTOCOL_EVENTS)
        good = take_events(async, number, r);
    if (good && !async->destroyed && async->connection == connection)
        go_on(async);
    return good;
}

// --- Time
// -------------------------------------------------------------------------------------------

static void expire(struct store_async *async, struct request_list *list, uint64_t now)
{
    struct request *request, *next;
    for (request = TAILQ_FIRST(list); request && !async->destroyed; request = next) {
        next = TAILQ_NEXT(request, link);
        if (now < request->deadline)
            continue;
        bool was_sent = list == &async->sent;
        // A member that leaves a request unanswered for so long isn't asked another one.
        async->leaving = async->leaving || was_sent;
        settle_status(async, list, request, was_sent ? STORE_UNKNOWN : request->refusal);
        // The callback may have ended others.
        next = TAILQ_FIRST(list);
    }
}

static void ask_for_a_sign_of_life(struct store_async *async, uint64_t now)
{
    // A read of nothing, of whatever state that member has.
    static const uint8_t body[] = {PROTOCOL_STALE, 0, 0, 0, 0, 0, 0};
    if (async->asked && now - async->asked > GIVE_UP_NS - QUIET_NS) {
        drop_connection(async, 0);
    } else if (!async->asked && now - async->heard > QUIET_NS) {
        async->asked = now;
        send_frame(async, REQUEST_TXN, body, sizeof(body));
    }
}

static void tick(uv_timer_t *timer)
{
    struct store_async *async = timer->data;
    uint64_t now = clock_monotonic_ns();
    expire(async, &async->waiting, now);
    if (!async->destroyed)
        expire(async, &async->sent, now);
    if (async->destroyed)
        return;
    if (async->connection && !async->ready && now - async->dialled > DIAL_NS)
        drop_connection(async, 0);
    else if (async->connection && async->ready)
        ask_for_a_sign_of_life(async, now);
    if (!async->destroyed)
        go_on(async);
}

// --- Requests
// ---------------------------------------------------------------------------------------

static enum store_status enqueue(struct store_async *async, enum protocol_request kind,
                                 const struct byte_writer *body, struct request *like)
{
    struct request *request =
        body->failed ? NULL : malloc(sizeof(*request) + (body->length ? body->length : 1));
    if (!request)
        return STORE_BUSY;
    *request = *like;
    request->kind = kind;
    request->deadline = clock_monotonic_ns() + async->timeout_ns;
    request->refusal = STORE_NO_LEADER;
    request->length = body->length;
    memcpy(request->body, body->data, body->length);
    TAILQ_INSERT_TAIL(&async->waiting, request, link);
    async->request_count++;
    if (async->connection && async->ready && !async->leaving)
        send_waiting(async);
    return STORE_OK;
}

enum store_status store_async_txn(struct store_async *async, const struct store_txn *txn,
                                  bool stale, store_async_done *done, void *context)
{
    struct request like = {.read = store_txn_is_read_only(txn), .done = done, .context = context};
    struct byte_writer body;
    enum store_status status = store_txn_check(txn, false);
    if (status != STORE_OK)
        return status;
    byte_writer_init(&body);
    byte_writer_u8(&body, stale ? PROTOCOL_STALE : 0);
    store_txn_encode(&body, txn);
    status = enqueue(async, REQUEST_TXN, &body, &like);
    byte_writer_free(&body);
    return status;
}

static enum store_status lease_request(struct store_async *async, enum protocol_request kind,
                                       uint64_t lease, uint64_t ttl, store_async_lease_done *done,
                                       void *context)
{
    struct request like = {.lease_done = done, .context = context};
    struct byte_writer body;
    byte_writer_init(&body);
    byte_writer_u64(&body, lease);
    if (kind == REQUEST_GRANT)
        byte_writer_u64(&body, ttl);
    enum store_status status = enqueue(async, kind, &body, &like);
    byte_writer_free(&body);
    return status;
}

enum store_status store_async_grant(struct store_async *async, uint64_t lease, uint64_t ttl,
                                    store_async_lease_done *done, void *context)
{
    if (ttl == 0 || ttl > STORE_TTL_MAX)
        return STORE_INVALID;
    return lease_request(async, REQUEST_GRANT, lease, ttl, done, context);
}

enum store_status store_async_renew(struct store_async *async, uint64_t lease,
                                    store_async_lease_done *done, void *context)
{
    return lease_request(async, REQUEST_RENEW, lease, 0, done, context);
}

enum store_status store_async_revoke(struct store_async *async, uint64_t lease,
                                     store_async_lease_done *done, void *context)
{
    return lease_request(async, REQUEST_REVOKE, lease, 0, done, context);
}

struct store_watch *store_async_watch(struct store_async *async, struct store_bytes key,
                                      enum store_span span, struct store_bytes end, uint64_t from,
                                      const struct store_watch_callbacks *watch_callbacks,
                                      void *context)
{
    if (key.length > STORE_KEY_MAX || end.length > STORE_KEY_MAX || span > STORE_REST)
        return NULL;
    struct store_watch *watch = malloc(sizeof(*watch) + key.length + end.length);
    if (!watch)
        return NULL;
    uint8_t *room = (uint8_t *)(watch + 1);
    *watch = (struct store_watch){.async = async,
                                  .next = from,
                                  .span = span,
                                  .key = {room, key.length},
                                  .end = {room + key.length, end.length},
                                  .callbacks = watch_callbacks,
                                  .context = context};
    if (key.length)
        memcpy(room, key.data, key.length);
    if (end.length)
        memcpy(room + key.length, end.data, end.length);
    LIST_INSERT_HEAD(&async->watches, watch, link);
    if (async->connection && async->ready && !async->leaving)
        begin_watch(async, watch);
    return watch;
}

void store_async_unwatch(struct store_watch *watch)
{
    struct store_async *async = watch->async;
    uint8_t body[8];
    bytes_put_u64(body, watch->number);
    if (watch->number && async->connection && async->ready)
        send_frame(async, REQUEST_WATCH_CANCEL, body, sizeof(body));
    LIST_REMOVE(watch, link);
    free(watch);
}

// --- Life
// -------------------------------------------------------------------------------------------

static int take_addresses(struct store_async *async, const char *addresses, struct error *err)
{
    for (const char *at = addresses; *at;) {
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= MEMBER_ADDRESS_SIZE || async->address_count == ADDRESSES_MAX)
            return error_set(err, EINVAL, "'%s': not a list of addresses HOST:PORT or unix:PATH",
                             addresses);
        memcpy(async->addresses[async->address_count++], at, length);
        at += length + (at[length] == ',');
    }
    return async->address_count ? 0 : error_set(err, EINVAL, "store: no address is given");
}

static void async_free(struct store_async *async)
{
    tls_credentials_free(async->tls);
    free(async->tls_name);
    free(async->events);
    free(async->asked_for);
    free(async);
}

int store_async_create(struct store_async **out, uv_loop_t *loop,
                       const struct store_async_options *options, struct error *err)
{
    struct store_async *async = calloc(1, sizeof(*async));
    if (!async)
        return error_set(err, ENOMEM, "store client: out of memory");
    async->loop = loop;
    async->timeout_ns = options->timeout_ns ? options->timeout_ns : 5 * NSEC_PER_SEC;
    TAILQ_INIT(&async->waiting);
    TAILQ_INIT(&async->sent);
    LIST_INIT(&async->watches);
    int error = take_addresses(async, options->addresses, err);
    if (!error && options->tls_ca)
        error =
            tls_credentials_load(&async->tls, tls_source(options->tls_certificate),
                                 tls_source(options->tls_key), tls_source(options->tls_ca), err);
    if (!error && !(async->asked_for = malloc(sizeof(*async->asked_for))))
        error = error_set(err, ENOMEM, "store client: out of memory");
    if (!error && options->tls_name && !(async->tls_name = strdup(options->tls_name)))
        error = error_set(err, ENOMEM, "store client: out of memory");
    if (!error && connection_set_init(&async->connections, loop))
        error = error_set(err, ENOMEM, "store client: the loop takes no handle");
    if (error) {
        async_free(async);
        return error;
    }
    async->connections.peer_name = async->tls_name;
    async->timer.data = async;
    uv_timer_init(loop, &async->timer);
    uv_timer_start(&async->timer, tick, TICK_MS, TICK_MS);
    dial(async);
    *out = async;
    return 0;
}

static void handle_closed(struct store_async *async)
{
    if (--async->handles == 0)
        async_free(async);
}

static void timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void flush_closed(uv_handle_t *handle)
{
    struct connection_set *set = handle->data;
    handle_closed((struct store_async *)((char *)set - offsetof(struct store_async, connections)));
}

void store_async_destroy(struct store_async *async)
{
    struct store_watch *watch;
    struct request *request;
    async->destroyed = true;
    while ((request = TAILQ_FIRST(&async->waiting)))
        request_free(async, &async->waiting, request);
    while ((request = TAILQ_FIRST(&async->sent)))
        request_free(async, &async->sent, request);
    while ((watch = LIST_FIRST(&async->watches))) {
        LIST_REMOVE(watch, link);
        free(watch);
    }
    async->connection = NULL;
    async->handles = 2;
    connection_set_close(&async->connections, flush_closed);
    uv_close((uv_handle_t *)&async->timer, timer_closed);
}

void store_async_inspect(const struct store_async *async, struct store_async_status *status)
{
    struct store_watch *watch;
    *status = (struct store_async_status){
        .connected = async->ready,
        .requests = async->request_count,
        .connections = async->made,
    };
    memcpy(status->address, async->where, sizeof(status->address));
    LIST_FOREACH(watch, &async->watches, link)
    status->watches++;
}
