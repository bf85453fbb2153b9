// The members themselves: their records, who is removed, what the cluster says about itself.
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "cluster/member/member_internal.h"

static const uint8_t members_first[] = {0, 'm', 'e', 'm', 'b', 'e', 'r', '/'};

// --- Records
// ----------------------------------------------------------------------------------------

bool member_find_record(struct member *member, uint64_t id, struct member_record *record)
{
    uint8_t key[MEMBER_KEY_SIZE];
    member_key(key, id);
    const struct mvcc_version *version =
        mvcc_newest(mvcc_find(&member->machine->mvcc, (struct store_bytes){key, sizeof(key)}));
    return version &&
           member_record_decode(record, (struct store_bytes){version->value, version->length});
}

bool member_is_gone(struct member *member, uint64_t id)
{
    uint8_t key[MEMBER_GONE_KEY_SIZE];
    member_gone_key(key, id);
    return mvcc_newest(mvcc_find(&member->machine->mvcc, (struct store_bytes){key, sizeof(key)})) !=
           NULL;
}

const char *member_leader_address(struct member *member, char out[MEMBER_ADDRESS_SIZE])
{
    struct raft_status status;
    struct member_record record;
    raft_inspect(member->raft, &status);
    if (status.leader == RAFT_NONE || status.leader == member->id ||
        !member_find_record(member, status.leader, &record))
        return NULL;
    snprintf(out, MEMBER_ADDRESS_SIZE, "%s", record.client);
    return out;
}

unsigned member_list_records(struct member *member, struct member_record *records, unsigned max)
{
    struct mvcc_key *key = mvcc_lower_bound(
        &member->machine->mvcc, (struct store_bytes){members_first, sizeof(members_first)});
    unsigned count = 0;
    uint64_t id;
    for (; key && member_key_parse(key->key, &id) && count < max; key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        if (version && member_record_decode(&records[count],
                                            (struct store_bytes){version->value, version->length}))
            count++;
    }
    return count;
}

// Its removal is a committed entry, and no configuration names this member any more: nothing is
// left to do. That no configuration names it says nothing by itself: a new member that catches up
// passes all those from before it joined, for as long as its disk takes.
static bool was_removed(struct member *member)
{
    struct raft_status status;
    raft_inspect(member->raft, &status);
    return status.configuration_index <= status.commit &&
           !raft_configuration_roles(status.configuration, member->id) &&
           member_is_gone(member, member->id);
}

// --- Removing
// ---------------------------------------------------------------------------------------

enum store_status member_propose_txn(struct member *member, const struct store_txn *txn,
                                     struct client *client, uint64_t request,
                                     enum protocol_request kind)
{
    struct byte_writer bytes, command;
    byte_writer_init(&bytes);
    byte_writer_init(&command);
    enum store_status status = store_txn_check(txn, true);
    store_txn_encode(&bytes, txn);
    store_command_txn(&command, bytes.data, bytes.length);
    if (bytes.failed)
        status = STORE_BUSY;
    if (status == STORE_OK)
        status = member_propose(member, &command, client, request, kind);
    byte_writer_free(&bytes);
    byte_writer_free(&command);
    return status;
}

static enum store_status request_remove(struct member *member, struct client *client,
                                        uint64_t request, struct byte_reader *body)
{
    uint8_t keys[RAFT_MEMBERS_MAX][MEMBER_KEY_SIZE];
    uint8_t gone[RAFT_MEMBERS_MAX][MEMBER_GONE_KEY_SIZE];
    struct member_record records[RAFT_MEMBERS_MAX];
    struct store_op ops[2 * RAFT_MEMBERS_MAX];
    struct raft_status status;
    unsigned count = byte_reader_u16(body), members = 0;
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER)
        return STORE_NOT_LEADER;
    if (count == 0 || count > RAFT_MEMBERS_MAX)
        return STORE_INVALID;
    for (unsigned i = 0; i < count; i++) {
        uint64_t id = byte_reader_u64(body);
        size_t length = MEMBER_KEY_SIZE;
        if (body->failed)
            return STORE_INVALID;
        if (member_find_record(member, id, &records[0])) {
            member_key(keys[i], id);
            members++;
        } else if (member_find_client_host(member, id, &records[0])) {
            client_host_key(keys[i], id);
            length = CLIENT_HOST_KEY_SIZE;
        } else {
            return STORE_MEMBER_NOT_FOUND;
        }
        member_gone_key(gone[i], id);
        ops[2 * i] = (struct store_op){.kind = STORE_DELETE, .key = {keys[i], length}};
        ops[2 * i + 1] =
            (struct store_op){.kind = STORE_PUT, .key = {gone[i], MEMBER_GONE_KEY_SIZE}};
    }
    if (members && members >= member_list_records(member, records, RAFT_MEMBERS_MAX))
        return STORE_INVALID; // somebody must stay
    struct store_txn txn = {.then = ops, .then_count = 2 * count};
    return member_propose_txn(member, &txn, client, request, REQUEST_MEMBER_REMOVE);
}

void member_admin_answer(struct member *member, const struct pending *pending,
                         const struct byte_writer *answer)
{
    struct byte_writer *w = &member->frame;
    bool done = answer->length > 10 && answer->data[0] == STORE_OK && answer->data[9];
    byte_writer_reset(w);
    store_answer_status(w, done ? STORE_OK : STORE_DENIED, member->machine->mvcc.revision, 0);
    if (done && (pending->kind == REQUEST_JOIN || pending->kind == REQUEST_ENROL)) {
        struct member_record records[RAFT_MEMBERS_MAX];
        unsigned count = member_list_records(member, records, RAFT_MEMBERS_MAX);
        byte_writer_bytes(w, member->identity.cluster, sizeof(member->identity.cluster));
        byte_writer_u16(w, (uint16_t)count);
        for (unsigned i = 0; i < count; i++)
            member_record_encode(w, &records[i]);
    }
    if (done && pending->kind == REQUEST_ENROL)
        member_answer_certificate(member, answer, w);
    if (done && pending->kind == REQUEST_CLIENT_SIGN)
        member_answer_client_certificate(member, answer, w);
    if (!w->failed)
        member_answer(pending->client, pending->request, w->data, w->length);
}

enum store_status member_admin_request(struct member *member, struct client *client,
                                       uint64_t request, enum protocol_request kind,
                                       struct byte_reader *body)
{
    struct raft_status status;
    int error;
    if (kind == REQUEST_STATUS) {
        member_answer_json_status(member, client, request);
        return STORE_OK;
    }
    // The rest is the leader's to say: others may be behind.
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER)
        return STORE_NOT_LEADER;
    switch (kind) {
    case REQUEST_MEMBERS:
        member_answer_json_members(member, client, request);
        return STORE_OK;
    case REQUEST_LEASES:
        member_answer_json_leases(member, client, request);
        return STORE_OK;
    case REQUEST_CLIENTS:
        member_answer_json_clients(member, client, request);
        return STORE_OK;
    case REQUEST_ACCESS:
        return member_request_access(member, client, request, body);
    case REQUEST_HOST_RENEW:
        return member_request_host_renew(member, client, request, body);
    case REQUEST_CLIENT_SIGN:
        return member_request_client_sign(member, client, request, body);
    case REQUEST_CLIENT_REVOKE:
        return member_request_client_revoke(member, client, request, body);
    case REQUEST_TOKEN:
        return member_request_token(member, client, request, body);
    case REQUEST_JOIN:
    case REQUEST_ENROL:
        return member_request_join(member, client, request, kind, body);
    case REQUEST_MEMBER_REMOVE:
        return request_remove(member, client, request, body);
    case REQUEST_MEMBER_ROLES:
        return member_request_roles(member, client, request, body);
    case REQUEST_MOVE_LEADER:
        error = raft_transfer_leadership(member->raft, byte_reader_u64(body));
        if (error == 0)
            member_answer_status(member, client, request, STORE_OK);
        return member_status_of(error);
    default:
        return STORE_INVALID;
    }
}

// --- What the cluster says about itself
// -------------------------------------------------------------

static void answer_json(struct member *member, struct client *client, uint64_t request,
                        json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) {
        member_answer_status(member, client, request, STORE_BUSY);
        return;
    }
    struct byte_writer *w = &member->frame;
    byte_writer_reset(w);
    store_answer_status(w, STORE_OK, member->machine->mvcc.revision, 0);
    byte_writer_string(w, text);
    free(text);
    if (!w->failed)
        member_answer(client, request, w->data, w->length);
}

static json_t *json_id(uint64_t id)
{
    return id ? json_sprintf("%016" PRIx64, id) : json_null();
}

void member_answer_json_status(struct member *member, struct client *client, uint64_t request)
{
    const struct mvcc *mvcc = &member->machine->mvcc;
    struct raft_status status;
    struct wal_status wal;
    struct member_record leader = {.name = ""};
    char cluster[UUID_TEXT_SIZE];
    struct uuid uuid;
    raft_inspect(member->raft, &status);
    wal_inspect(member->wal, &wal);
    if (status.leader)
        member_find_record(member, status.leader, &leader);
    memcpy(uuid.bytes, member->identity.cluster, sizeof(uuid.bytes));
    json_t *object = json_pack(
        "{s:s, s:o, s:s, s:s, s:s, s:I, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:i}",
        "cluster", uuid_format(&uuid, cluster), "id", json_id(member->id), "name",
        member->self.name, "version", FERRY_VERSION, "role", raft_role_name(status.role), "term",
        (json_int_t)status.hard_state.term, "leader", json_id(status.leader), "leader_name",
        leader.name, "commit", (json_int_t)status.commit, "applied", (json_int_t)status.applied,
        "durable", (json_int_t)status.durable, "snapshot", (json_int_t)status.snapshot.index,
        "log_first", (json_int_t)status.before.index + 1, "revision", (json_int_t)mvcc->revision,
        "compacted", (json_int_t)mvcc->compacted, "keys", (json_int_t)mvcc->live, "bytes",
        (json_int_t)mvcc->bytes, "leases", (json_int_t)member->machine->lease_count, "log_segments",
        (json_int_t)(wal.last_segment - wal.first_segment + 1), "log_frames",
        (json_int_t)wal.frames, "elections", (json_int_t)status.counters->elections, "disk_full",
        wal_thread_is_full(member->wal_thread), "write_through", wal.write_through, "direct",
        wal.direct, "cluster_version", (int)member->machine->version);
    answer_json(member, client, request, object);
}

static json_t *json_member(struct member *member, const struct raft_status *status,
                           const struct member_record *record)
{
    uint8_t roles = raft_configuration_roles(status->configuration, record->id);
    struct raft_peer_status peer;
    json_t *match = json_null();
    const char *role = "joining";
    if (roles & RAFT_VOTER)
        role = record->id == status->leader ? "leader" : "voter";
    else if (roles & RAFT_VOTER_OLD)
        role = "leaving";
    else if (roles & RAFT_LEARNER)
        role = "learner";
    if (record->id == member->id)
        match = json_integer((json_int_t)status->durable);
    else if (raft_inspect_peer(member->raft, record->id, &peer) == 0)
        match = json_integer((json_int_t)peer.match);
    return json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:o}", "id", json_id(record->id), "name",
                     record->name, "role", role, "wish", member_wish_name(record->wish), "peer",
                     record->peer, "client", record->client, "match", match);
}

static void add_client_host(void *context, const struct member_record *record)
{
    json_array_append_new(context, json_pack("{s:o, s:s, s:s}", "id", json_id(record->id), "name",
                                             record->name, "client", record->client));
}

void member_answer_json_members(struct member *member, struct client *client, uint64_t request)
{
    struct member_record records[RAFT_MEMBERS_MAX];
    struct raft_status status;
    unsigned count = member_list_records(member, records, RAFT_MEMBERS_MAX);
    json_t *list = json_array(), *hosts = json_array();
    raft_inspect(member->raft, &status);
    for (unsigned i = 0; list && i < count; i++)
        json_array_append_new(list, json_member(member, &status, &records[i]));
    if (hosts)
        member_each_client_host(member, add_client_host, hosts);
    answer_json(member, client, request,
                json_pack("{s:b, s:o, s:o}", "changing",
                          raft_configuration_is_joint(status.configuration) ||
                              status.configuration_index > status.commit,
                          "members", list, "client_hosts", hosts));
}

void member_answer_json_leases(struct member *member, struct client *client, uint64_t request)
{
    struct store_lease *lease = store_machine_lease_next(member->machine, 0);
    uint64_t now = clock_boottime_ns();
    json_t *list = json_array();
    for (; list && lease; lease = store_machine_lease_next(member->machine, lease->id)) {
        struct mvcc_key *key;
        json_int_t keys = 0;
        LIST_FOREACH(key, &lease->keys, of_lease)
        keys++;
        uint64_t left = lease->deadline > now ? lease->deadline - now : 0;
        json_array_append_new(list, json_pack("{s:o, s:I, s:f, s:I}", "id", json_id(lease->id),
                                              "ttl", (json_int_t)lease->ttl, "left",
                                              (double)left / NSEC_PER_SEC, "keys", keys));
    }
    answer_json(member, client, request, json_pack("{s:o}", "leases", list));
}

void member_answer_json_clients(struct member *member, struct client *client, uint64_t request)
{
    static const uint8_t first[] = {0, 'c', 'l', 'i', 'e', 'n', 't', '/'};
    struct mvcc_key *key =
        mvcc_lower_bound(&member->machine->mvcc, (struct store_bytes){first, sizeof(first)});
    json_t *list = json_array();
    uint64_t id;
    for (; list && key && client_key_parse(key->key, &id); key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        struct client_record record;
        if (version &&
            client_record_decode(&record, (struct store_bytes){version->value, version->length}))
            json_array_append_new(list, json_pack("{s:s, s:o, s:b, s:b, s:I, s:I}", "name",
                                                  record.name, "id", json_id(id), "read_only",
                                                  record.read_only, "revoked", record.revoked,
                                                  "made", (json_int_t)record.made, "ends",
                                                  (json_int_t)record.ends));
    }
    answer_json(member, client, request, json_pack("{s:o}", "clients", list));
}

void member_tick_ended(struct member *member)
{
    // Removal shows when the change is committed; a moment more lets others hear of it from us.
    member->removed_ticks = was_removed(member) ? member->removed_ticks + 1 : 0;
    if (member->removed_ticks > 50)
        member_end(member, 0, "this member was removed from the cluster");
}
