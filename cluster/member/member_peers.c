// Connections between members. Each dials every other one, and sends on the connection it dialled;
// what it accepted only brings messages. The hello names the cluster and both ids, so that neither
// a member of another cluster nor one that lost its disk is taken for somebody else.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cluster/member/member_internal.h"

enum { RETRY_TICKS_MAX = 100, PEER_QUEUE_MAX = 32 << 20, HELLO_VERSION = 1 };
enum { TAKES_CA = 1, HOLDS_CA = 2 }; // behind the hello; members of before say nothing there
enum { REFUSED_CLUSTER = 1, REFUSED_ID = 2, REFUSED_GONE = 3, REFUSED_VERSION = 4 };

static void send_hello(struct member *member, struct connection *connection, uint64_t to)
{
    struct byte_writer *w = &member->frame;
    byte_writer_reset(w);
    byte_writer_u32(w, HELLO_VERSION);
    byte_writer_bytes(w, member->identity.cluster, sizeof(member->identity.cluster));
    byte_writer_u64(w, member->id);
    byte_writer_u64(w, to);
    byte_writer_u32(w, member->options.newest_command);
    byte_writer_string(w, member->self.peer);
    byte_writer_u8(w, (uint8_t)(TAKES_CA | (member_ca_held(member) ? HOLDS_CA : 0)));
    if (!w->failed)
        connection_send(connection, PROTOCOL_HELLO, w->data, w->length);
}

struct hello {
    uint8_t cluster[16];
    uint64_t from, to;
    uint32_t newest_command;
    char address[MEMBER_ADDRESS_SIZE];
    uint8_t ca;
};

static bool decode_hello(struct hello *hello, const uint8_t *payload, size_t length)
{
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    if (byte_reader_u32(&r) != HELLO_VERSION)
        return false;
    byte_reader_bytes(&r, hello->cluster, sizeof(hello->cluster));
    hello->from = byte_reader_u64(&r);
    hello->to = byte_reader_u64(&r);
    hello->newest_command = byte_reader_u32(&r);
    byte_reader_string(&r, hello->address, sizeof(hello->address));
    hello->ca = byte_reader_left(&r) ? byte_reader_u8(&r) : 0;
    return !r.failed && hello->from != 0;
}

// --- Dialled
// ----------------------------------------------------------------------------------------

static void peer_down(struct peer *peer)
{
    peer->connection = NULL;
    peer->up = false;
    peer->tries++;
    peer->wait_ticks = peer->tries < 6 ? 1u << peer->tries : RETRY_TICKS_MAX;
}

static void peer_closed(void *owner, struct connection *connection, const char *reason)
{
    struct peer *peer = owner;
    if (peer->up)
        log_info("member %016" PRIx64 " at %s: connection lost: %s", peer->id, peer->address,
                 reason);
    peer_down(peer);
}

static void peer_ready(void *owner, struct connection *connection)
{
    struct peer *peer = owner;
    send_hello(peer->member, connection, peer->id);
}

static void log_refusal(const struct peer *peer, const uint8_t *payload, size_t length)
{
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    uint8_t why = byte_reader_u8(&r);
    uint64_t id = byte_reader_u64(&r);
    if (why == REFUSED_VERSION)
        log_warning(
            "the cluster uses commands that this version of ferry doesn't know: install the "
            "version that the other members run");
    else if (why == REFUSED_ID)
        log_warning("at %s, where member %016" PRIx64 " was, there is %016" PRIx64
                    " now: if its disk was lost, remove the old one",
                    peer->address, peer->id, id);
    else
        log_warning("at %s there is a member of another cluster", peer->address);
}

static bool peer_frame(void *owner, struct connection *connection, uint16_t type,
                       const uint8_t *payload, size_t length)
{
    struct peer *peer = owner;
    struct hello hello;
    if (type == PROTOCOL_REFUSE && length > 0 && payload[0] == REFUSED_GONE) {
        // It rests on a committed entry, and ids are never used again.
        member_end(peer->member, 0, "this member was removed from the cluster");
        return true;
    }
    if (type == PROTOCOL_REFUSE) {
        if (peer->tries % 64 == 0)
            log_refusal(peer, payload, length);
        return false;
    }
    if (type != PROTOCOL_HELLO || !decode_hello(&hello, payload, length) ||
        hello.from != peer->id || !member_is_who(peer->member, connection, hello.from) ||
        memcmp(hello.cluster, peer->member->identity.cluster, sizeof(hello.cluster)) != 0)
        return false;
    peer->up = true;
    peer->tries = 0;
    peer->newest_command = hello.newest_command;
    peer->takes_ca = hello.ca & TAKES_CA;
    peer->holds_ca = hello.ca & HOLDS_CA;
    return true;
}

static const struct connection_callbacks peer_callbacks = {
    .ready = peer_ready, .frame = peer_frame, .closed = peer_closed};

static void peer_dial(struct peer *peer)
{
    struct member *member = peer->member;
    peer->connection =
        connection_dial(&member->connections, peer->address, member->tls, &peer_callbacks, peer);
    if (!peer->connection)
        peer_down(peer);
}

static struct peer *find_peer(struct member *member, uint64_t id)
{
    struct peer *peer;
    LIST_FOREACH(peer, &member->peers, link)
    if (peer->id == id)
        return peer;
    return NULL;
}

struct peer *member_peer_find(struct member *member, uint64_t id)
{
    return find_peer(member, id);
}

struct peer *member_peer_with_ca(struct member *member)
{
    struct peer *peer;
    LIST_FOREACH(peer, &member->peers, link)
    if (peer->up && peer->holds_ca)
        return peer;
    return NULL;
}

void member_peers_send_ca_held(struct member *member)
{
    uint8_t held = member_ca_held(member);
    struct peer *peer;
    LIST_FOREACH(peer, &member->peers, link)
    if (peer->up && peer->takes_ca)
        connection_send(peer->connection, PROTOCOL_CA_HELD, &held, sizeof(held));
}

void member_peers_ask_for_ca(struct member *member)
{
    struct peer *peer;
    LIST_FOREACH(peer, &member->peers, link)
    if (peer->up && peer->holds_ca)
        connection_send(peer->connection, PROTOCOL_CA_WANTED, NULL, 0);
}

static void peer_free(struct peer *peer)
{
    if (peer->connection)
        connection_close(peer->connection);
    LIST_REMOVE(peer, link);
    free(peer);
}

void member_peer_learn(struct member *member, uint64_t id, const char *address)
{
    struct peer *peer = find_peer(member, id);
    if (id == member->id || !address[0])
        return;
    if (!peer) {
        peer = calloc(1, sizeof(*peer));
        if (!peer)
            return; // learnt again with the next hello
        peer->member = member;
        peer->id = id;
        LIST_INSERT_HEAD(&member->peers, peer, link);
    }
    if (strcmp(peer->address, address) == 0)
        return;
    snprintf(peer->address, sizeof(peer->address), "%s", address);
    if (peer->connection) {
        connection_close(peer->connection);
        peer->connection = NULL;
    }
    peer->up = false;
    peer->wait_ticks = 0;
}

void member_peer_send(struct member *member, const struct raft_message *message)
{
    struct peer *peer = find_peer(member, message->to);
    struct byte_writer *w = &member->frame;
    if (!peer || !peer->up || connection_queued(peer->connection) > PEER_QUEUE_MAX)
        return; // as lost on the way; the core is used to it
    size_t length = raft_message_size(message);
    byte_writer_reset(w);
    uint8_t *room = byte_writer_reserve(w, length);
    if (room && raft_message_encode(message, room, length, &length) == 0)
        connection_send(peer->connection, PROTOCOL_RAFT, w->data, length);
}

static void end_those_that_are_late(struct member *member);

void member_peers_tick(struct member *member)
{
    struct peer *peer;
    end_those_that_are_late(member);
    LIST_FOREACH(peer, &member->peers, link)
    {
        if (peer->connection)
            continue;
        if (peer->wait_ticks)
            peer->wait_ticks--;
        else
            peer_dial(peer);
    }
}

static void tell_the_gone(struct member *member);

static bool is_calling(const struct member *member, uint64_t id)
{
    struct inbound *inbound;
    LIST_FOREACH(inbound, &member->inbound, link)
    if (inbound->id == id)
        return true;
    return false;
}

// Whether messages for `id` may still be wanted. Who calls is known by that alone: a member that
// joins may have a state in which its leader doesn't occur yet, and has to answer it.
static bool is_known(struct member *member, const struct raft_status *status, uint64_t id)
{
    struct member_record record;
    return member_find_record(member, id, &record) ||
           raft_configuration_roles(status->configuration, id) ||
           (is_calling(member, id) && !member_is_gone(member, id));
}

// Addresses come from the records, and from who calls. Members that are gone are forgotten with
// their record, but not before Raft's configuration has forgotten them.

void member_peers_refresh(struct member *member)
{
    static const uint8_t first[] = {0, 'm', 'e', 'm', 'b', 'e', 'r', '/'};
    struct mvcc_key *key =
        mvcc_lower_bound(&member->machine->mvcc, (struct store_bytes){first, sizeof(first)});
    struct raft_status status;
    uint64_t id;
    for (; key && member_key_parse(key->key, &id); key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        struct member_record record;
        if (version &&
            member_record_decode(&record, (struct store_bytes){version->value, version->length}))
            member_peer_learn(member, id, record.peer);
    }
    raft_inspect(member->raft, &status);
    struct peer *peer, *next;
    for (peer = LIST_FIRST(&member->peers); peer; peer = next) {
        next = LIST_NEXT(peer, link);
        if (!is_known(member, &status, peer->id))
            peer_free(peer);
    }
    tell_the_gone(member);
}

// The newest version of commands that all members understand; 0 if that isn't known of all.
uint32_t member_peers_understand(struct member *member)
{
    struct raft_status status;
    uint32_t newest = member->options.newest_command;
    raft_inspect(member->raft, &status);
    for (unsigned i = 0; i < status.configuration->count; i++) {
        uint64_t id = status.configuration->members[i].id;
        struct peer *peer = id == member->id ? NULL : find_peer(member, id);
        if (id == member->id)
            continue;
        if (!peer || !peer->up)
            return 0;
        if (peer->newest_command < newest)
            newest = peer->newest_command;
    }
    return newest;
}

void member_peers_send_hash(struct member *member)
{
    struct raft_status status;
    struct byte_writer *w = &member->frame;
    struct peer *peer;
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER)
        return;
    byte_writer_reset(w);
    byte_writer_u64(w, member->machine->applied);
    byte_writer_u64(w, member->machine->chain);
    LIST_FOREACH(peer, &member->peers, link)
    if (peer->up)
        connection_send(peer->connection, PROTOCOL_HASH, w->data, w->length);
}

// --- Accepted
// ---------------------------------------------------------------------------------------

static void inbound_closed(void *owner, struct connection *connection, const char *reason)
{
    struct inbound *inbound = owner;
    if (!inbound->id && connection)
        member_log_turned_away(inbound->member, connection, "a caller at the port for members",
                               reason);
    LIST_REMOVE(inbound, link);
    free(inbound);
}

static void refuse(struct inbound *inbound, uint8_t why)
{
    uint8_t refusal[9] = {why};
    bytes_put_u64(refusal + 1, inbound->member->id);
    connection_send(inbound->connection, PROTOCOL_REFUSE, refusal, sizeof(refusal));
}

// Members that were removed may not hear of it through the log: the leader stops sending to them.
static void tell_the_gone(struct member *member)
{
    struct inbound *inbound;
    LIST_FOREACH(inbound, &member->inbound, link)
    if (inbound->id && member_is_gone(member, inbound->id))
        refuse(inbound, REFUSED_GONE);
}

static bool take_hello(struct inbound *inbound, const uint8_t *payload, size_t length)
{
    struct member *member = inbound->member;
    struct hello hello;
    if (inbound->id || !decode_hello(&hello, payload, length))
        return false;
    if (!member_is_who(member, inbound->connection, hello.from)) {
        member_log_turned_away(member, inbound->connection, "a caller at the port for members",
                               "its certificate is another host's than the one that it says it is");
        return false;
    }
    struct tls_subject subject;
    const char *fault =
        !member->options.own_tls && connection_subject(inbound->connection, &subject)
            ? member_certificate_fault(member, &subject)
            : NULL;
    uint8_t why = 0;
    if (memcmp(hello.cluster, member->identity.cluster, sizeof(hello.cluster)) != 0)
        why = REFUSED_CLUSTER;
    else if (hello.to != member->id)
        why = REFUSED_ID;
    else if (member_is_gone(member, hello.from))
        why = REFUSED_GONE;
    else if (hello.newest_command < member->machine->version)
        why = REFUSED_VERSION;
    else if (fault) {
        // Under whatever id it comes.
        member_log_turned_away(member, inbound->connection, "a caller at the port for members",
                               fault);
        return false;
    }
    if (why) {
        refuse(inbound, why);
        return true; // it closes when it has read that
    }
    inbound->id = hello.from;
    member_peer_learn(member, hello.from, hello.address);
    send_hello(member, inbound->connection, hello.from);
    return true;
}

static bool take_message(struct inbound *inbound, const uint8_t *payload, size_t length)
{
    struct member *member = inbound->member;
    if (!inbound->id || raft_message_decode(member->decoded, payload, length) ||
        member->decoded->message.from != inbound->id)
        return false;
    int error = raft_step(member->raft, &member->decoded->message);
    return error != RAFT_ERROR_MALFORMED;
}

static bool take_hash(struct inbound *inbound, const uint8_t *payload, size_t length)
{
    struct member *member = inbound->member;
    struct byte_reader r;
    byte_reader_init(&r, payload, length);
    uint64_t index = byte_reader_u64(&r);
    uint64_t chain = byte_reader_u64(&r);
    if (r.failed || !inbound->id)
        return false;
    if (member->chains[index % MEMBER_CHAINS].index == index &&
        member->chains[index % MEMBER_CHAINS].chain != chain)
        member_end(member, EIO,
                   "the store differs from that of member %016" PRIx64 " as of entry %" PRIu64
                   ": remove one of them and let it join again",
                   inbound->id, index);
    return true;
}

static bool inbound_frame(void *owner, struct connection *connection, uint16_t type,
                          const uint8_t *payload, size_t length)
{
    struct inbound *inbound = owner;
    if (inbound->member->ended)
        return true;
    switch (type) {
    case PROTOCOL_HELLO:
        return take_hello(inbound, payload, length);
    case PROTOCOL_RAFT:
        return take_message(inbound, payload, length);
    case PROTOCOL_HASH:
        return take_hash(inbound, payload, length);
    case PROTOCOL_CA_KEY:
    case PROTOCOL_CA_HELD:
    case PROTOCOL_CA_WANTED:
        return inbound->id &&
               member_ca_take_frame(inbound->member, find_peer(inbound->member, inbound->id), type,
                                    payload, length);
    case PROTOCOL_CERTIFICATE_WANTED:
    case PROTOCOL_CERTIFICATE:
        return inbound->id &&
               member_renew_take_frame(inbound->member, find_peer(inbound->member, inbound->id),
                                       type, payload, length);
    default:
        return false;
    }
}

static const struct connection_callbacks inbound_callbacks = {.frame = inbound_frame,
                                                              .closed = inbound_closed};

static void inbound_end(struct inbound *inbound, const char *reason)
{
    connection_close(inbound->connection);
    inbound_closed(inbound, inbound->connection, reason);
}

// Of those that haven't said who they are, the next one takes the place of the oldest.
static void make_room(struct member *member)
{
    struct inbound *inbound, *oldest = NULL;
    unsigned unknown = 0;
    LIST_FOREACH(inbound, &member->inbound, link)
    {
        if (inbound->id)
            continue;
        unknown++;
        oldest = inbound; // the newest is the list's head
    }
    if (unknown >= MEMBER_UNKNOWN_MAX)
        inbound_end(oldest, "there are too many that haven't said who they are");
}

static void end_those_that_are_late(struct member *member)
{
    struct inbound *inbound, *next;
    LIST_FOREACH_SAFE(inbound, &member->inbound, link, next)
    {
        if (!inbound->id &&
            member->ticks - inbound->since > member_ticks_of(member, MEMBER_UNKNOWN_SECONDS))
            inbound_end(inbound, "it didn't say who it is in time");
    }
}

// They were told (tell_the_gone); whoever stays nevertheless has no honest reason to.
void member_peers_end_gone(struct member *member)
{
    struct inbound *inbound, *next;
    LIST_FOREACH_SAFE(inbound, &member->inbound, link, next)
    {
        struct tls_subject subject;
        const char *fault =
            !member->options.own_tls && connection_subject(inbound->connection, &subject)
                ? member_certificate_fault_later(member, &subject)
                : NULL;
        if (fault && !member_is_gone(member, inbound->id))
            inbound_end(inbound, fault);
        else if (!inbound->id || !member_is_gone(member, inbound->id))
            inbound->gone_since = 0;
        else if (!inbound->gone_since)
            inbound->gone_since = member->ticks + 1;
        else if (member->ticks - inbound->gone_since >
                 member_ticks_of(member, MEMBER_UNKNOWN_SECONDS))
            inbound_end(inbound, "its member was removed");
    }
}

void member_peer_accept(uv_stream_t *listener, int status)
{
    struct member *member = listener->data;
    struct inbound *inbound = status < 0 ? NULL : calloc(1, sizeof(*inbound));
    if (!inbound)
        return;
    inbound->member = member;
    inbound->since = member->ticks;
    make_room(member);
    inbound->connection =
        connection_accept(&member->connections, listener, member->tls, &inbound_callbacks, inbound);
    if (!inbound->connection) {
        free(inbound);
        return;
    }
    LIST_INSERT_HEAD(&member->inbound, inbound, link);
}

void member_peers_free(struct member *member)
{
    struct peer *peer, *next;
    LIST_FOREACH_SAFE(peer, &member->peers, link, next)
    peer_free(peer);
    while (!LIST_EMPTY(&member->inbound)) {
        struct inbound *inbound = LIST_FIRST(&member->inbound);
        connection_close(inbound->connection);
        inbound_closed(inbound, NULL, NULL);
    }
}
