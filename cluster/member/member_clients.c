// Connections with clients: requests, their answers, and watches.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "cluster/member/member_internal.h"

enum { EVENTS_BYTES = 256 << 10, DISK_RESERVE = 1 << 20, ANSWER_ID = 8 };

void member_answer(struct client *client, uint64_t request, const void *bytes, size_t length)
{
    uint8_t id[ANSWER_ID];
    bytes_put_u64(id, request);
    connection_send2(client->connection, PROTOCOL_ANSWER, id, sizeof(id), bytes, length);
}

void member_answer_status(struct member *member, struct client *client, uint64_t request,
                          enum store_status status)
{
    struct byte_writer *w = &member->frame;
    char address[MEMBER_ADDRESS_SIZE];
    if (status == STORE_NOT_LEADER && !member_leader_address(member, address))
        status = STORE_NO_LEADER;
    byte_writer_reset(w);
    store_answer_status(w, status, member->machine->mvcc.revision, member->machine->mvcc.compacted);
    if (status == STORE_NOT_LEADER)
        byte_writer_string(w, address);
    if (!w->failed)
        member_answer(client, request, w->data, w->length);
}

// --- Requests
// ---------------------------------------------------------------------------------------

static bool writes_more(const struct store_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ops[i].kind == STORE_PUT)
            return true;
    return false;
}

static enum store_status check_room(struct member *member, const struct store_txn *txn)
{
    bool puts = !txn || writes_more(txn->then, txn->then_count) ||
                writes_more(txn->otherwise, txn->otherwise_count);
    if (wal_is_full(member->wal, DISK_RESERVE) && wal_thread_is_full(member->wal_thread))
        return STORE_DISK_FULL;
    if (puts && member->machine->mvcc.bytes > member->options.memory_limit)
        return STORE_FULL;
    return STORE_OK;
}

static enum store_status request_txn(struct member *member, struct client *client, uint64_t request,
                                     struct byte_reader *body)
{
    uint8_t flags = byte_reader_u8(body);
    const uint8_t *bytes = body->data + body->offset;
    size_t length = byte_reader_left(body);
    enum store_status status = store_txn_decode(member->txn, body);
    if (status == STORE_OK && byte_reader_left(body))
        status = STORE_INVALID;
    if (status == STORE_OK)
        status = store_txn_check(&member->txn->txn, false);
    if (status == STORE_OK && client->has_subject && subject_is_client_host(&client->subject) &&
        !client_host_may_txn(&client->subject, &member->txn->txn))
        status = STORE_DENIED;
    if (status != STORE_OK)
        return status;
    if (store_txn_is_read_only(&member->txn->txn)) {
        if (!(flags & PROTOCOL_STALE))
            return member_read(member, client, request, bytes, length);
        byte_writer_reset(&member->answer);
        if (store_machine_read(member->machine, &member->txn->txn, &member->answer))
            return STORE_BUSY;
        member_answer(client, request, member->answer.data, member->answer.length);
        return STORE_OK;
    }
    status = check_room(member, &member->txn->txn);
    if (status != STORE_OK)
        return status;
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_txn(&command, bytes, length);
    status = member_propose(member, &command, client, request, REQUEST_TXN);
    byte_writer_free(&command);
    return status;
}

static enum store_status request_lease(struct member *member, struct client *client,
                                       uint64_t request, enum protocol_request kind,
                                       struct byte_reader *body)
{
    static const enum store_command_kind commands[] = {
        [REQUEST_GRANT] = STORE_COMMAND_GRANT,
        [REQUEST_REVOKE] = STORE_COMMAND_REVOKE,
    };
    uint64_t id = byte_reader_u64(body);
    uint64_t ttl = kind == REQUEST_GRANT ? byte_reader_u64(body) : 0;
    if (body->failed || byte_reader_left(body))
        return STORE_INVALID;
    if (kind == REQUEST_RENEW)
        return id ? member_renew(member, client, request, id) : STORE_LEASE_NOT_FOUND;
    if (kind == REQUEST_GRANT && id == 0 && random_bytes(&id, sizeof(id)))
        return STORE_BUSY;
    if (kind == REQUEST_GRANT)
        id &= (UINT64_C(1) << 53) - 1; // a number that JSON tools carry without loss
    enum store_status status = kind == REQUEST_GRANT ? check_room(member, NULL) : STORE_OK;
    if (status != STORE_OK)
        return status;
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_lease(&command, commands[kind], id, ttl);
    status = member_propose(member, &command, client, request, kind);
    byte_writer_free(&command);
    return status;
}

static enum store_status request_compact(struct member *member, struct client *client,
                                         uint64_t request, struct byte_reader *body)
{
    struct byte_writer command;
    uint64_t revision = byte_reader_u64(body);
    if (body->failed || byte_reader_left(body))
        return STORE_INVALID;
    byte_writer_init(&command);
    store_command_compact(&command, revision);
    enum store_status status = member_propose(member, &command, client, request, REQUEST_COMPACT);
    byte_writer_free(&command);
    return status;
}

static enum store_status request_snapshot(struct member *member, struct client *client,
                                          uint64_t request)
{
    if (client->streaming || store_snapshot_begin(&client->streaming, member->machine))
        return STORE_BUSY;
    client->stream_request = request;
    member_answer_status(member, client, request, STORE_OK);
    member_stream_snapshot(client);
    return STORE_OK;
}

static enum store_status request_hash(struct member *member, struct client *client,
                                      uint64_t request)
{
    struct byte_writer *w = &member->answer;
    byte_writer_reset(w);
    store_answer_status(w, STORE_OK, member->machine->mvcc.revision, 0);
    byte_writer_u64(w, member->machine->applied);
    byte_writer_u64(w, member->machine->chain);
    byte_writer_u64(w, store_machine_hash(member->machine));
    if (w->failed)
        return STORE_BUSY;
    member_answer(client, request, w->data, w->length);
    return STORE_OK;
}

// --- Watches
// ----------------------------------------------------------------------------------------

static void watch_free(struct watch *watch)
{
    watch->client->watch_count--;
    LIST_REMOVE(watch, link);
    free(watch);
}

static bool watch_sees(const struct watch *watch, struct store_bytes key)
{
    if (key.data[0] == 0)
        return false; // the cluster's own
    if (watch->span == STORE_ONE)
        return store_bytes_equal(key, watch->key);
    if (store_bytes_compare(key, watch->key) < 0)
        return false;
    return watch->span == STORE_REST || store_bytes_compare(key, watch->end) < 0;
}

static void encode_event(struct byte_writer *w, const struct mvcc_event *event)
{
    const struct mvcc_version *version = mvcc_version_of(event->key, event->revision);
    struct store_key_value kv = {
        .key = event->key->key,
        .value = {version->value, version->length},
        .create_revision = version->create,
        .mod_revision = version->mod,
        .version = version->version,
        .lease = version->lease,
    };
    byte_writer_u8(w, version->value ? STORE_PUT : STORE_DELETE);
    store_key_value_encode(w, &kv);
}

static void send_events(struct watch *watch, enum store_status status, uint64_t through,
                        uint32_t count, const void *events, size_t length)
{
    struct byte_writer head;
    uint8_t room[64];
    struct mvcc *mvcc = &watch->client->member->machine->mvcc;
    byte_writer_init_fixed(&head, room, sizeof(room));
    byte_writer_u64(&head, watch->request);
    // Of a compacted revision the state can still be read, but its changes are gone.
    store_answer_status(&head, status, through, mvcc->compacted + 1);
    byte_writer_u32(&head, count);
    connection_send2(watch->client->connection, PROTOCOL_EVENTS, head.data, head.length, events,
                     length);
}

// Delivers what the client has room for, whole revisions at a time. False: the watch has ended.
static bool serve_watch(struct watch *watch)
{
    struct client *client = watch->client;
    struct member *member = client->member;
    struct mvcc *mvcc = &member->machine->mvcc;
    struct byte_writer *w = &member->frame;

    if (watch->next <= mvcc->compacted) {
        send_events(watch, STORE_COMPACTED, mvcc->revision, 0, NULL, 0);
        return false;
    }
    size_t at = mvcc_event_find(mvcc, watch->next);
    while (at < mvcc->event_count && connection_queued(client->connection) < MEMBER_CLIENT_QUEUE) {
        uint32_t count = 0;
        uint64_t revision = watch->next - 1;
        byte_writer_reset(w);
        while (at < mvcc->event_count) {
            const struct mvcc_event *event = mvcc_event_at(mvcc, at);
            if (event->revision != revision && w->length > EVENTS_BYTES)
                break;
            revision = event->revision;
            if (watch_sees(watch, event->key->key)) {
                encode_event(w, event);
                count++;
            }
            at++;
        }
        if (w->failed)
            return true; // again with the next change
        watch->next = revision + 1;
        if (count)
            send_events(watch, STORE_OK, revision, count, w->data, w->length);
        if (count)
            watch->told = revision;
    }
    if (watch->progress && at == mvcc->event_count && watch->told < mvcc->revision) {
        send_events(watch, STORE_OK, mvcc->revision, 0, NULL, 0);
        watch->told = mvcc->revision;
    }
    return true;
}

static enum store_status request_watch(struct member *member, struct client *client,
                                       uint64_t request, struct byte_reader *body)
{
    struct store_bytes key, end = {0};
    key.data = byte_reader_blob(body, STORE_KEY_MAX, &key.length);
    uint8_t span = byte_reader_u8(body);
    end.data = byte_reader_blob(body, STORE_KEY_MAX, &end.length);
    uint64_t from = byte_reader_u64(body);
    uint8_t flags = byte_reader_left(body) ? byte_reader_u8(body) : 0;
    if (body->failed || byte_reader_left(body) || span > STORE_REST ||
        (flags & ~PROTOCOL_WATCH_PROGRESS))
        return STORE_INVALID;
    if (client->has_subject && subject_is_client_host(&client->subject) &&
        !client_host_may_watch(key, (enum store_span)span, end))
        return STORE_DENIED;
    if (client->watch_count >= MEMBER_WATCHES_MAX)
        return STORE_TOO_LARGE;
    struct watch *watch = malloc(sizeof(*watch) + key.length + end.length);
    if (!watch)
        return STORE_BUSY;
    uint8_t *room = (uint8_t *)(watch + 1);
    *watch = (struct watch){.client = client, .request = request, .span = (enum store_span)span};
    if (key.length)
        memcpy(room, key.data, key.length);
    if (end.length)
        memcpy(room + key.length, end.data, end.length);
    watch->key = (struct store_bytes){room, key.length};
    watch->end = (struct store_bytes){room + key.length, end.length};
    watch->next = from ? from : member->machine->mvcc.revision + 1;
    watch->told = watch->next - 1;
    watch->progress = flags & PROTOCOL_WATCH_PROGRESS;
    LIST_INSERT_HEAD(&client->watches, watch, link);
    client->watch_count++;
    member_answer_status(member, client, request, STORE_OK);
    if (!serve_watch(watch))
        watch_free(watch);
    return STORE_OK;
}

static enum store_status request_watch_cancel(struct member *member, struct client *client,
                                              uint64_t request, struct byte_reader *body)
{
    struct watch *watch;
    uint64_t which = byte_reader_u64(body);
    LIST_FOREACH(watch, &client->watches, link)
    if (watch->request == which)
        break;
    if (!watch)
        return STORE_INVALID;
    watch_free(watch);
    member_answer_status(member, client, request, STORE_OK);
    return STORE_OK;
}

static void serve_client(struct client *client)
{
    struct watch *watch, *next;
    for (watch = LIST_FIRST(&client->watches); watch; watch = next) {
        next = LIST_NEXT(watch, link);
        if (!serve_watch(watch))
            watch_free(watch);
    }
}

void member_serve_watches(struct member *member)
{
    struct client *client;
    if (member->watched_revision == member->machine->mvcc.revision)
        return;
    member->watched_revision = member->machine->mvcc.revision;
    LIST_FOREACH(client, &member->clients, link)
    serve_client(client);
}

// --- Connections
// ------------------------------------------------------------------------------------

static void client_free(struct client *client)
{
    struct watch *watch, *next;
    member_forget_client(client->member, client);
    LIST_FOREACH_SAFE(watch, &client->watches, link, next)
    watch_free(watch);
    store_snapshot_end(client->streaming);
    LIST_REMOVE(client, link);
    free(client);
}

static void client_closed(void *owner, struct connection *connection, const char *reason)
{
    struct client *client = owner;
    struct member *member = client->member;
    // Who never got to ask anything may wonder why.
    if (!client->asked)
        member_log_turned_away(member, connection, "a client", reason);
    client_free(client);
}

static void client_end(struct client *client, const char *reason)
{
    connection_close(client->connection);
    client_closed(client, client->connection, reason);
}

// Who it is, and what is spoken, is known only now that TLS is there.
static void client_ready(void *owner, struct connection *connection)
{
    struct client *client = owner;
    struct member *member = client->member;
    const char *fault = "it shows no certificate of this cluster";
    client->has_subject = connection_subject(connection, &client->subject);
    if (client->has_subject)
        fault = member_certificate_fault(member, &client->subject);
    if (!fault && connection_speaks(connection, PROTOCOL_CONTROL) &&
        subject_is_client_host(&client->subject))
        fault = "a client host asks the store alone";
    if (connection_speaks(connection, PROTOCOL_CONTROL) ||
        connection_speaks(connection, PROTOCOL_STREAM)) {
        struct tls_subject subject = client->subject;
        if (fault)
            member_log_turned_away(member, connection, "a client's certificate", fault);
        client_free(client);
        member->options.remote(member->options.remote_context, connection, &subject, fault);
        return;
    }
    if (!client->has_subject)
        return; // whoever joins
    if (!fault && client->subject.client && member->options.hosts_only)
        fault = "it is a client's, which is good for `ferry vm` and `ferry cluster` alone";
    client->denied = fault != NULL;
    if (fault)
        member_log_turned_away(member, connection, "a client's certificate", fault);
}

static enum store_status handle_request(struct client *client, uint64_t request,
                                        enum protocol_request kind, struct byte_reader *body)
{
    struct member *member = client->member;
    // Whoever has no certificate may ask for one, and for nothing else.
    if (client->denied || (kind != REQUEST_ENROL && connection_is_stranger(client->connection)))
        return STORE_DENIED;
    if (client->has_subject && subject_is_client_host(&client->subject) &&
        !client_host_may_ask(kind))
        return STORE_DENIED;
    switch (kind) {
    case REQUEST_TXN:
        return request_txn(member, client, request, body);
    case REQUEST_GRANT:
    case REQUEST_REVOKE:
    case REQUEST_RENEW:
        return request_lease(member, client, request, kind, body);
    case REQUEST_COMPACT:
        return request_compact(member, client, request, body);
    case REQUEST_WATCH:
        return request_watch(member, client, request, body);
    case REQUEST_WATCH_CANCEL:
        return request_watch_cancel(member, client, request, body);
    case REQUEST_SNAPSHOT:
        return request_snapshot(member, client, request);
    case REQUEST_HASH:
        return request_hash(member, client, request);
    default:
        return member_admin_request(member, client, request, kind, body);
    }
}

static bool client_frame(void *owner, struct connection *connection, uint16_t type,
                         const uint8_t *payload, size_t length)
{
    struct client *client = owner;
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    uint64_t request = byte_reader_u64(&r);
    enum protocol_request kind = (enum protocol_request)byte_reader_u8(&r);
    if (type != PROTOCOL_REQUEST || r.failed)
        return false;
    client->asked = true;
    enum store_status status = STORE_BUSY;
    if (!client->member->ended && client->requests < MEMBER_REQUESTS_MAX)
        status = handle_request(client, request, kind, &r);
    if (status != STORE_OK)
        member_answer_status(client->member, client, request, status);
    // Who doesn't take the answers is asked no further questions.
    if (connection_queued(connection) > MEMBER_CLIENT_QUEUE)
        connection_pause(connection, true);
    return true;
}

static const struct connection_callbacks client_callbacks = {
    .ready = client_ready, .frame = client_frame, .closed = client_closed};

// Whoever hasn't said who they are, or has no certificate to show, must not keep others out: of
// those there are few, and the next one takes the place of the oldest.
static bool is_unknown(const struct client *client)
{
    return !connection_is_ready(client->connection) || connection_is_stranger(client->connection);
}

static void make_room(struct member *member)
{
    struct client *client, *oldest = NULL;
    unsigned unknown = 0, all = 0;
    LIST_FOREACH(client, &member->clients, link)
    {
        all++;
        if (!is_unknown(client))
            continue;
        unknown++;
        oldest = client; // the newest is the list's head
    }
    if (oldest && (unknown >= MEMBER_UNKNOWN_MAX || all >= MEMBER_CLIENTS_MAX))
        client_end(oldest, "there are too many that haven't said who they are");
}

static bool has_room(struct member *member)
{
    struct client *client;
    unsigned all = 0;
    LIST_FOREACH(client, &member->clients, link)
    all++;
    return all < MEMBER_CLIENTS_MAX;
}

void member_client_accept(uv_stream_t *listener, int status)
{
    static const char *const protocols[] = {PROTOCOL_CONTROL, PROTOCOL_STREAM};
    struct member *member = listener->data;
    struct client *client = status < 0 ? NULL : calloc(1, sizeof(*client));
    if (!client)
        return;
    client->member = member;
    client->since = member->ticks;
    LIST_INIT(&client->watches);
    make_room(member);
    client->connection =
        connection_accept(&member->connections, listener, member->tls, &client_callbacks, client);
    if (!client->connection) {
        free(client);
        return;
    }
    if (member->options.own_tls)
        connection_admit_strangers(client->connection);
    else
        connection_admit_clients(client->connection);
    if (member->options.remote)
        connection_offer(client->connection, protocols, 2);
    LIST_INSERT_HEAD(&member->clients, client, link);
    // This host's own are never turned away.
    if (connection_is_remote(client->connection) && !has_room(member))
        client_end(client, "there are too many clients");
}

static void end_those_that_are_late(struct member *member)
{
    struct client *client, *next;
    LIST_FOREACH_SAFE(client, &member->clients, link, next)
    {
        uint64_t age = member->ticks - client->since;
        if (!is_unknown(client))
            continue;
        if (!connection_is_ready(client->connection)
                ? age > member_ticks_of(member, MEMBER_UNKNOWN_SECONDS)
                : age > member_ticks_of(member, MEMBER_STRANGER_SECONDS))
            client_end(client, "it didn't say who it is, or what it wants, in time");
    }
}

// Certificates that were good when their connections began. What takes them back is in the store;
// that they expire is looked at once a second.
static void end_those_without_right(struct member *member)
{
    struct client *client, *next;
    uint64_t revision = member->machine->mvcc.revision;
    if (member->access_revision == revision && member->ticks % member_ticks_of(member, 1))
        return;
    member->access_revision = revision;
    LIST_FOREACH_SAFE(client, &member->clients, link, next)
    {
        const char *fault = client->has_subject && !client->denied
                                ? member_certificate_fault_later(member, &client->subject)
                                : NULL;
        if (!fault)
            continue;
        member_log_turned_away(member, client->connection, "a client's certificate", fault);
        client_end(client, fault);
    }
    member_peers_end_gone(member);
}

struct connection *member_dial_stream(struct member *member, const char *address,
                                      const struct connection_callbacks *callbacks, void *owner)
{
    static const char *const protocol = PROTOCOL_STREAM;
    struct connection *connection = NULL;
    if (member->tls && !member->stopping)
        connection = connection_dial(&member->connections, address, member->tls, callbacks, owner);
    if (connection)
        connection_offer(connection, &protocol, 1);
    return connection;
}

// A client that leaves more unread than its share for too long is cut off.
static bool client_is_stalled(struct client *client)
{
    size_t queued = connection_queued(client->connection);
    bool slow = queued >= MEMBER_CLIENT_QUEUE && queued >= client->queued_before;
    client->queued_before = queued;
    client->stalled_ticks = slow ? client->stalled_ticks + 1 : 0;
    return client->stalled_ticks > MEMBER_CLIENT_STALLED_TICKS;
}

// A member that lost touch with the others would leave its watches waiting for ever, without a
// word, while the cluster goes on.
static void end_watches_without_leader(struct member *member)
{
    struct raft_status status;
    struct client *client;
    uint64_t limit =
        MEMBER_LEADERLESS_ELECTIONS * (member->options.election_max_ns / member->tick_ns);
    raft_inspect(member->raft, &status);
    member->leaderless_ticks = status.leader == RAFT_NONE ? member->leaderless_ticks + 1 : 0;
    if (member->leaderless_ticks < limit)
        return;
    LIST_FOREACH(client, &member->clients, link)
    {
        struct watch *watch, *next;
        LIST_FOREACH_SAFE(watch, &client->watches, link, next)
        {
            send_events(watch, STORE_NO_LEADER, watch->next - 1, 0, NULL, 0);
            watch_free(watch);
        }
    }
}

void member_clients_tick(struct member *member)
{
    struct client *client, *next;
    end_watches_without_leader(member);
    end_those_that_are_late(member);
    end_those_without_right(member);
    for (client = LIST_FIRST(&member->clients); client; client = next) {
        next = LIST_NEXT(client, link);
        if (client_is_stalled(client)) {
            connection_close(client->connection);
            client_free(client);
            continue;
        }
        if (connection_queued(client->connection) >= MEMBER_CLIENT_QUEUE)
            continue;
        serve_client(client); // those that had no room before
        if (client->streaming)
            member_stream_snapshot(client);
        connection_pause(client->connection, false);
    }
}

void member_clients_close(struct member *member)
{
    struct client *client, *next;
    LIST_FOREACH_SAFE(client, &member->clients, link, next)
    {
        connection_close(client->connection);
        client_free(client);
    }
}
