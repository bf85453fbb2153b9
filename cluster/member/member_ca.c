// The key of the cluster's CA: on the disks of voters, in DIR/tls/ca.key, and nowhere else.
//
// Whoever has it makes hosts. In the store it would be with every learner, in every snapshot and
// every backup. Encrypted there to each voter's own key it would be no safer than in a file beside
// that key, and every copy of the past would still open with any key that a voter ever had. So it
// never goes through the log: one member hands it to another by the connection between them, whose
// certificate says which member that is.
//
//   who is to become a voter  gets it from the leader first; only who says that it has it on its
//   disk
//                             becomes one (member_roles.c). So all voters have it, always, and the
//                             last that goes has passed it on.
//   a voter that lost it      asks, and gets it from any other.
//   who isn't a voter (any more)  removes it after a while.
//
// Clusters founded by older versions have it in the store: voters take it from there, and when all
// have it the leader deletes it there, with the past in which it still is.
//
// Threads: the loop's; files are written and removed by one of the pool's.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"

enum { AGAIN_MS = 500, NO_VOTER_SECONDS = 10 };

static void start_work(struct member *member);

static struct store_bytes key_in_store(struct member *member)
{
    static const struct store_bytes key = {(const uint8_t *)MEMBER_CA_KEY_KEY,
                                           sizeof(MEMBER_CA_KEY_KEY) - 1};
    const struct mvcc_version *version = mvcc_newest(mvcc_find(&member->machine->mvcc, key));
    return version ? (struct store_bytes){version->value, version->length}
                   : (struct store_bytes){NULL, 0};
}

static bool is_voter(struct member *member, uint64_t id)
{
    struct raft_status status;
    raft_inspect(member->raft, &status);
    return raft_configuration_roles(status.configuration, id) & (RAFT_VOTER | RAFT_VOTER_OLD);
}

static void forget_text(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

// ---- the file ----

static void work(uv_work_t *request)
{
    struct member *member = request->data;
    struct error err = {0};
    char path[PATH_MAX];
    if (member->ca.writing) {
        member->ca.failed =
            member_write_tls_file(member->options.directory, "ca.key", member->ca.writing, &err);
    } else {
        snprintf(path, sizeof(path), "%s/tls/ca.key", member->options.directory);
        member->ca.failed = unlink(path) != 0 && errno != ENOENT ? -errno : 0;
        if (member->ca.failed)
            error_set_errno(&err, errno, "'%s' can't be removed", path);
    }
    if (member->ca.failed)
        log_warning("the CA's key: %s", err.message);
}

static void worked(uv_work_t *request, int status)
{
    struct member *member = request->data;
    bool wrote = member->ca.writing != NULL;
    member->ca.working = false;
    if (status || member->ca.failed) {
        forget_text(&member->ca.writing); // tried again when it comes again
        return;
    }
    forget_text(&member->ca.key);
    member->ca.key = member->ca.writing;
    member->ca.writing = NULL;
    member->ca.no_voter_since = member->ticks;
    if (!member->stopping && !member->ended)
        member_peers_send_ca_held(member);
    log_info("the CA's key is %s this host's disk", wrote ? "on" : "no longer on");
}

static void start_work(struct member *member)
{
    member->ca.work.data = member;
    member->ca.working = uv_queue_work(member->loop, &member->ca.work, work, worked) == 0;
    if (!member->ca.working)
        forget_text(&member->ca.writing);
}

// Takes a key that was handed over, if it is that of the CA.
static void take_key(struct member *member, const void *bytes, size_t length)
{
    if (member->ca.working || member->stopping || member->ended)
        return;
    char *text = strndup(bytes, length);
    if (text && certificate_key_is_of(member->options.tls_ca, text)) {
        member->ca.writing = text;
        start_work(member);
        return;
    }
    if (text)
        log_warning("a key was handed over that isn't the CA's");
    forget_text(&text);
}

int member_ca_load(struct member *member, struct error *err)
{
    char path[PATH_MAX], text[CERTIFICATE_TEXT_MAX];
    if (!member->options.own_tls)
        return 0;
    snprintf(path, sizeof(path), "%s/tls/ca.key", member->options.directory);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "'%s' can't be opened", path);
    size_t length = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[length] = 0;
    if (certificate_key_is_of(member->options.tls_ca, text))
        member->ca.key = strdup(text);
    else
        log_warning("'%s' isn't the key of the CA in %s: another voter is asked for it", path,
                    member->options.tls_ca);
    explicit_bzero(text, sizeof(text));
    return 0;
}

void member_ca_free(struct member *member)
{
    forget_text(&member->ca.key);
    forget_text(&member->ca.writing);
}

// ---- using it ----

bool member_ca(struct member *member, struct certificate_pair *ca)
{
    static const struct store_bytes key = {(const uint8_t *)MEMBER_CA_CERTIFICATE_KEY,
                                           sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1};
    const struct mvcc_version *version = mvcc_newest(mvcc_find(&member->machine->mvcc, key));
    struct store_bytes old = key_in_store(member);
    *ca = (struct certificate_pair){0};
    if (!version || !version->value)
        return false;
    ca->certificate = strndup((const char *)version->value, version->length);
    if (member->ca.key)
        ca->key = strdup(member->ca.key);
    else if (old.data)
        ca->key = strndup((const char *)old.data, old.length);
    if (ca->certificate && ca->key)
        return true;
    certificate_pair_free(ca);
    return false;
}

bool member_ca_held(const struct member *member)
{
    return member->ca.key != NULL;
}

// ---- handing it over ----

static void hand_over(struct member *member, struct peer *peer)
{
    struct byte_writer w;
    if (!member->ca.key || !peer->up || !peer->takes_ca || member->ticks < peer->ca_again ||
        !connection_is_remote(peer->connection))
        return;
    peer->ca_again = member->ticks + AGAIN_MS * NSEC_PER_MSEC / member->tick_ns;
    byte_writer_init(&w);
    byte_writer_string(&w, member->ca.key);
    if (!w.failed) {
        connection_send(peer->connection, PROTOCOL_CA_KEY, w.data, w.length);
        explicit_bzero(w.data, w.length);
    }
    byte_writer_free(&w);
}

bool member_ca_is_with(struct member *member, struct peer *peer)
{
    if (!member->options.own_tls)
        return true;
    // One of an older version reads it in the store, while it still is there.
    if (!peer || peer->holds_ca || (!peer->takes_ca && key_in_store(member).data))
        return peer != NULL;
    hand_over(member, peer);
    return false;
}

bool member_ca_take_frame(struct member *member, struct peer *peer, uint16_t type,
                          const uint8_t *payload, size_t length)
{
    struct byte_reader r;
    size_t size;
    byte_reader_init(&r, payload, length);
    if (!member->options.own_tls)
        return true;
    if (type == PROTOCOL_CA_HELD) {
        uint8_t held = byte_reader_u8(&r);
        if (peer && !r.failed)
            peer->holds_ca = held;
        return !r.failed;
    }
    if (type == PROTOCOL_CA_WANTED) {
        if (peer && is_voter(member, peer->id))
            hand_over(member, peer);
        return true;
    }
    const uint8_t *key = byte_reader_blob(&r, CERTIFICATE_TEXT_MAX, &size);
    if (!key)
        return false;
    if (member->ca.key)
        member_peers_send_ca_held(member); // said before, and not heard
    else
        take_key(member, key, size);
    return true;
}

// ---- looking after it ----

// All voters have it: it need not be in the store any more. Nor in the store's past.
static void clear_store(struct member *member)
{
    static const struct store_bytes key = {(const uint8_t *)MEMBER_CA_KEY_KEY,
                                           sizeof(MEMBER_CA_KEY_KEY) - 1};
    struct store_op op = {.kind = STORE_DELETE, .key = key};
    struct store_txn txn = {.then = &op, .then_count = 1};
    if (key_in_store(member).data) {
        member->ca.clear_past = member_propose_txn(member, &txn, NULL, 0, REQUEST_TXN) == STORE_OK;
        return;
    }
    if (!member->ca.clear_past)
        return;
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_compact(&command, member->machine->mvcc.revision);
    member->ca.clear_past = member_propose(member, &command, NULL, 0, REQUEST_COMPACT) != STORE_OK;
    byte_writer_free(&command);
}

static void look_as_leader(struct member *member)
{
    struct raft_status status;
    bool all = true;
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER || !member->ca.key)
        return;
    for (unsigned i = 0; i < status.configuration->count; i++) {
        const struct raft_member *one = &status.configuration->members[i];
        if (one->id == member->id || !(one->roles & (RAFT_VOTER | RAFT_VOTER_OLD)))
            continue;
        struct peer *peer = member_peer_find(member, one->id);
        bool held = peer && peer->holds_ca;
        if (peer && !held)
            hand_over(member, peer);
        all = all && held;
    }
    if (all)
        clear_store(member);
}

void member_ca_tick(struct member *member)
{
    if (!member->options.own_tls || member->ca.working ||
        member->ticks % (AGAIN_MS * NSEC_PER_MSEC / member->tick_ns + 1))
        return;
    struct store_bytes old = key_in_store(member);
    bool voter = is_voter(member, member->id);
    if (voter)
        member->ca.no_voter_since = member->ticks;
    if (voter && !member->ca.key && old.data)
        take_key(member, old.data, old.length);
    else if (voter && !member->ca.key)
        member_peers_ask_for_ca(member);
    else if (member->ca.key &&
             member->ticks - member->ca.no_voter_since > member_ticks_of(member, NO_VOTER_SECONDS))
        start_work(member); // with nothing to write: removes it
    else
        look_as_leader(member);
}
