// Client hosts, on the side of the members: hosts that run machines and hold no log and no store.
// They have a record of their own kind, come to the port for clients by a host's certificate whose
// unit says what they are, and may do there just what an agent needs: read and watch the records of
// machines and hosts, and write them, but of hosts only those under its own name; nothing of what
// lets others in, changes members, or has the whole store.
//
// The certificate says it, and not the store: a member that is behind must not take one for a host
// that may do everything.
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"
#include "cluster/records/records.h"

static const uint8_t client_hosts_first[] = {0, 'a', 'g', 'e', 'n', 't', '/'};
static const uint8_t gone_first[] = {0, 'g', 'o', 'n', 'e', '/'};
static const uint8_t clients_first[] = {0, 'c', 'l', 'i', 'e', 'n', 't', '/'};

static struct mvcc_key *first_of(struct member *member, const uint8_t *prefix, size_t length)
{
    return mvcc_lower_bound(&member->machine->mvcc, (struct store_bytes){prefix, length});
}

static bool take_record(const struct mvcc_key *key, struct member_record *record)
{
    const struct mvcc_version *version = mvcc_newest(key);
    return version &&
           member_record_decode(record, (struct store_bytes){version->value, version->length});
}

bool member_find_client_host(struct member *member, uint64_t id, struct member_record *record)
{
    uint8_t key[CLIENT_HOST_KEY_SIZE];
    client_host_key(key, id);
    const struct mvcc_key *found =
        mvcc_find(&member->machine->mvcc, (struct store_bytes){key, sizeof(key)});
    return found && take_record(found, record);
}

void member_each_client_host(struct member *member,
                             void (*each)(void *context, const struct member_record *record),
                             void *context)
{
    struct mvcc_key *key = first_of(member, client_hosts_first, sizeof(client_hosts_first));
    struct member_record record;
    uint64_t id;
    for (; key && client_host_key_parse(key->key, &id); key = mvcc_following(key))
        if (take_record(key, &record))
            each(context, &record);
}

// ---- what they may ----

static bool begins_with(struct store_bytes key, const char *prefix)
{
    size_t length = strlen(prefix);
    return key.length >= length && memcmp(key.data, prefix, length) == 0;
}

// All of a range is within the records.
static bool is_of_records(struct store_bytes key, enum store_span span, struct store_bytes end)
{
    uint8_t last[sizeof(RECORD_PREFIX)];
    struct store_bytes limit = {last, store_prefix_end(store_string(RECORD_PREFIX), last)};
    if (!begins_with(key, RECORD_PREFIX))
        return false;
    return span == STORE_ONE || (span == STORE_UNTIL && store_bytes_compare(end, limit) <= 0);
}

static bool may_write(const struct tls_subject *who, const struct store_op *op)
{
    static const enum record_kind own[] = {RECORD_HOST, RECORD_LIFE, RECORD_RENEWAL};
    struct record_key key;
    if (op->kind == STORE_DELETE && op->span != STORE_ONE)
        return false;
    if (record_key_parse(op->key, &key) || key.kind == RECORD_SETTINGS ||
        key.kind == RECORD_MANAGER || key.kind == RECORD_REFUSED)
        return false;
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
        if (key.kind == own[i])
            return strcmp(key.name, who->name) == 0;
    return true;
}

static bool may_all(const struct tls_subject *who, const struct store_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ops[i].kind == STORE_RANGE ? !is_of_records(ops[i].key, ops[i].span, ops[i].end)
                                       : !may_write(who, &ops[i]))
            return false;
    return true;
}

bool client_host_may_txn(const struct tls_subject *who, const struct store_txn *txn)
{
    for (size_t i = 0; i < txn->compare_count; i++)
        if (!begins_with(txn->compares[i].key, RECORD_PREFIX))
            return false;
    return may_all(who, txn->then, txn->then_count) &&
           may_all(who, txn->otherwise, txn->otherwise_count);
}

bool client_host_may_watch(struct store_bytes key, enum store_span span, struct store_bytes end)
{
    return is_of_records(key, span, end);
}

bool client_host_may_ask(enum protocol_request kind)
{
    switch (kind) {
    case REQUEST_TXN: // what is in it is looked at as well
    case REQUEST_WATCH:
    case REQUEST_WATCH_CANCEL:
    case REQUEST_STATUS:
    case REQUEST_MEMBERS:
    case REQUEST_ACCESS:
    case REQUEST_HOST_RENEW:
        return true;
    default:
        return false;
    }
}

bool subject_is_client_host(const struct tls_subject *subject)
{
    return strcmp(subject->unit, MEMBER_UNIT_CLIENT_HOST) == 0;
}

// ---- what they have to know ----

static void put_members(struct member *member, struct byte_writer *w)
{
    struct member_record records[RAFT_MEMBERS_MAX];
    unsigned count = member_list_records(member, records, RAFT_MEMBERS_MAX);
    byte_writer_u16(w, (uint16_t)count);
    // This one first: it leads.
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < count; i++)
            if ((records[i].id == member->id) == (pass == 0))
                byte_writer_string(w, records[i].client);
}

static void put_gone(struct member *member, struct byte_writer *w)
{
    struct mvcc_key *key = first_of(member, gone_first, sizeof(gone_first));
    size_t at = w->length;
    uint32_t count = 0;
    uint64_t id;
    byte_writer_u32(w, 0);
    for (; key && member_gone_key_parse(key->key, &id); key = mvcc_following(key)) {
        if (!mvcc_newest(key))
            continue;
        byte_writer_u64(w, id);
        count++;
    }
    byte_writer_patch_u32(w, at, count);
}

static void put_revoked(struct member *member, struct byte_writer *w)
{
    struct mvcc_key *key = first_of(member, clients_first, sizeof(clients_first));
    size_t at = w->length;
    uint32_t count = 0;
    uint64_t id;
    byte_writer_u32(w, 0);
    for (; key && client_key_parse(key->key, &id); key = mvcc_following(key)) {
        struct client_record record;
        const struct mvcc_version *version = mvcc_newest(key);
        if (!version ||
            !client_record_decode(&record, (struct store_bytes){version->value, version->length}) ||
            !record.revoked)
            continue;
        byte_writer_u64(w, id);
        count++;
    }
    byte_writer_patch_u32(w, at, count);
}

static void put_refused(struct member *member, struct byte_writer *w)
{
    const struct store_bytes prefix = store_string(record_kind_prefix(RECORD_REFUSED));
    struct mvcc_key *at_key = first_of(member, prefix.data, prefix.length);
    size_t at = w->length;
    uint32_t count = 0;
    byte_writer_u32(w, 0);
    for (; at_key; at_key = mvcc_following(at_key)) {
        struct record_key key;
        if (record_key_parse(at_key->key, &key) || key.kind != RECORD_REFUSED)
            break;
        if (!mvcc_newest(at_key))
            continue;
        byte_writer_string(w, key.name);
        count++;
    }
    byte_writer_patch_u32(w, at, count);
}

enum store_status member_request_access(struct member *member, struct client *client,
                                        uint64_t request, struct byte_reader *body)
{
    struct byte_writer lists;
    struct byte_writer *w = &member->frame;
    struct member_record record;
    uint64_t id = byte_reader_u64(body);
    uint32_t known = byte_reader_u32(body);
    if (body->failed || byte_reader_left(body))
        return STORE_INVALID;
    if (member_is_gone(member, id) || !member_find_client_host(member, id, &record))
        return STORE_MEMBER_NOT_FOUND;
    byte_writer_init(&lists);
    put_members(member, &lists);
    put_gone(member, &lists);
    put_revoked(member, &lists);
    put_refused(member, &lists);
    uint32_t sum = crc32c(0, lists.data, lists.length);
    byte_writer_reset(w);
    store_answer_status(w, STORE_OK, member->machine->mvcc.revision, 0);
    byte_writer_bytes(w, member->identity.cluster, sizeof(member->identity.cluster));
    byte_writer_u32(w, sum);
    if (sum != known)
        byte_writer_bytes(w, lists.data, lists.length);
    bool failed = lists.failed || w->failed;
    byte_writer_free(&lists);
    if (failed)
        return STORE_BUSY;
    member_answer(client, request, w->data, w->length);
    return STORE_OK;
}

enum store_status member_request_host_renew(struct member *member, struct client *client,
                                            uint64_t request, struct byte_reader *body)
{
    struct member_record record;
    struct byte_writer *w = &member->frame;
    char *certificate = NULL, *text;
    size_t length;
    uint64_t id;
    const uint8_t *csr = byte_reader_blob(body, CERTIFICATE_TEXT_MAX, &length);
    if (!csr || byte_reader_left(body))
        return STORE_INVALID;
    // For whom its present certificate says it is, and nobody else.
    if (!member->options.own_tls)
        return STORE_NO_CA;
    if (!client->has_subject || !subject_is_client_host(&client->subject) ||
        !subject_id(&client->subject, &id) || member_is_gone(member, id) ||
        !member_find_client_host(member, id, &record))
        return STORE_DENIED;
    if (member->ticks < client->renewal_again)
        return STORE_BUSY;
    client->renewal_again = member->ticks + member_ticks_of(member, 1);
    text = strndup((const char *)csr, length);
    enum store_status status =
        text ? member_sign_host(member, &record, text, &certificate) : STORE_BUSY;
    free(text);
    if (status != STORE_OK)
        return status;
    byte_writer_reset(w);
    store_answer_status(w, STORE_OK, member->machine->mvcc.revision, 0);
    byte_writer_string(w, certificate);
    free(certificate);
    if (w->failed)
        return STORE_BUSY;
    member_answer(client, request, w->data, w->length);
    return STORE_OK;
}
