// Who may do what, by certificates that the cluster made.
//
// A host's carries its member's id: it is good until that member was removed, which every member
// knows by "\0gone/" and the id as soon as it has applied that. A client's carries an id of its
// own, under which the store says whether it was taken back. Both are lists of what is not good any
// more: a member that is behind may let in whom others don't, but never keeps out the one that
// would bring it up to date.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"
#include "cluster/records/records.h"

enum { REVOKED_AT_ONCE = 64, EXPIRED_AT_ONCE = 16, HEX = 16 };

static const uint8_t clients_first[] = {0, 'c', 'l', 'i', 'e', 'n', 't', '/'};

uint64_t member_ticks_of(const struct member *member, unsigned seconds)
{
    return seconds * NSEC_PER_SEC / member->tick_ns;
}

void member_log_turned_away(struct member *member, const struct connection *connection,
                            const char *whom, const char *reason)
{
    // Nobody may fill the log by it.
    if (member->ticks < member->turned_away_ticks)
        return;
    log_info("%s at %s was turned away: %s", whom, connection_peer_address(connection), reason);
    member->turned_away_ticks = member->ticks + member_ticks_of(member, 1);
}

// ---- looking ----

static bool parse_id(const char *text, uint64_t *id)
{
    char *end;
    *id = strtoull(text, &end, 16);
    return strlen(text) == HEX && *end == 0 && *id != 0;
}

bool subject_id(const struct tls_subject *subject, uint64_t *id)
{
    return parse_id(subject->id, id);
}

static bool find_client(struct member *member, uint64_t id, struct client_record *record)
{
    uint8_t key[CLIENT_KEY_SIZE];
    client_key(key, id);
    const struct mvcc_version *version =
        mvcc_newest(mvcc_find(&member->machine->mvcc, (struct store_bytes){key, sizeof(key)}));
    return version &&
           client_record_decode(record, (struct store_bytes){version->value, version->length});
}

static bool is_a_members_name(struct member *member, const char *name)
{
    struct member_record records[RAFT_MEMBERS_MAX];
    unsigned count = member_list_records(member, records, RAFT_MEMBERS_MAX);
    for (unsigned i = 0; i < count; i++)
        if (strcmp(records[i].name, name) == 0)
            return true;
    return count == 0; // whoever is just joining knows nobody
}

static const char *host_fault(struct member *member, const struct tls_subject *subject)
{
    uint64_t id;
    // Those of before certificates carried ids are known by their names alone.
    if (!parse_id(subject->id, &id))
        return is_a_members_name(member, subject->name)
                   ? NULL
                   : "its host isn't one of this cluster (any more)";
    return member_is_gone(member, id) ? "its host was removed from the cluster" : NULL;
}

static const char *client_fault(struct member *member, const struct tls_subject *subject)
{
    struct client_record record;
    uint64_t id;
    if (!parse_id(subject->id, &id))
        return "it wasn't made by this version of ferry, or for something else";
    return find_client(member, id, &record) && record.revoked ? "it was taken back" : NULL;
}

// What another CA has made is known by its digest alone (RECORD_REFUSED).
static const char *foreign_fault(struct member *member, const struct tls_subject *subject)
{
    const struct record_key key = record_key_of(RECORD_REFUSED, subject->digest);
    char text[RECORD_KEY_SIZE];
    record_key_format(&key, text);
    return mvcc_newest(mvcc_find(&member->machine->mvcc, store_string(text)))
               ? "its host was removed from the cluster"
               : NULL; // its dates are its maker's to say
}

const char *member_certificate_fault(struct member *member, const struct tls_subject *subject)
{
    uint64_t now = clock_realtime_ns() / NSEC_PER_SEC;
    if (subject->ends >= 0 && now > (uint64_t)subject->ends)
        return "it has expired";
    if (!member->options.own_tls)
        return foreign_fault(member, subject);
    return subject->client ? client_fault(member, subject) : host_fault(member, subject);
}

const char *member_certificate_fault_later(struct member *member, const struct tls_subject *subject)
{
    // A host has a new one by then, for its next connection.
    if (!subject->client && !member->options.own_tls)
        return foreign_fault(member, subject);
    if (!subject->client)
        return host_fault(member, subject);
    return member_certificate_fault(member, subject);
}

bool member_is_who(struct member *member, const struct connection *connection, uint64_t id)
{
    struct tls_subject subject;
    struct member_record record;
    uint64_t shown;
    if (!member->options.own_tls || !connection_is_remote(connection))
        return true;
    // A client host is no member, whatever id it has.
    if (!connection_subject(connection, &subject) || subject.client ||
        subject_is_client_host(&subject))
        return false;
    if (parse_id(subject.id, &shown))
        return shown == id;
    return !member_find_record(member, id, &record) || strcmp(record.name, subject.name) == 0;
}

// ---- making one ----

// What has ended by itself goes when the next one is made.
static unsigned list_expired(struct member *member, struct store_op *ops, unsigned max)
{
    uint64_t now = clock_realtime_ns() / NSEC_PER_SEC, id;
    struct mvcc_key *key = mvcc_lower_bound(
        &member->machine->mvcc, (struct store_bytes){clients_first, sizeof(clients_first)});
    struct client_record record;
    unsigned count = 0;
    for (; key && count < max && client_key_parse(key->key, &id); key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        if (version &&
            client_record_decode(&record, (struct store_bytes){version->value, version->length}) &&
            record.ends < now)
            ops[count++] = (struct store_op){.kind = STORE_DELETE, .key = key->key};
    }
    return count;
}

static enum store_status propose_client(struct member *member, struct client *client,
                                        uint64_t request, const struct client_record *record)
{
    struct byte_writer value;
    uint8_t key[CLIENT_KEY_SIZE];
    struct store_op ops[2 + EXPIRED_AT_ONCE];
    client_key(key, record->id);
    byte_writer_init(&value);
    client_record_encode(&value, record);
    unsigned expired = list_expired(member, ops, EXPIRED_AT_ONCE);
    ops[expired] = (struct store_op){
        .kind = STORE_PUT, .key = {key, sizeof(key)}, .value = {value.data, value.length}};
    ops[expired + 1] = (struct store_op){.kind = STORE_RANGE, .key = {key, sizeof(key)}};
    struct store_txn txn = {.then = ops, .then_count = expired + 2};
    enum store_status status =
        value.failed ? STORE_BUSY
                     : member_propose_txn(member, &txn, client, request, REQUEST_CLIENT_SIGN);
    byte_writer_free(&value);
    return status;
}

static enum store_status sign(struct member *member, const char *csr, struct client_record *record,
                              char **certificate)
{
    struct certificate_pair ca;
    struct error err = {0};
    char id[HEX + 1];
    if (!member_ca(member, &ca))
        return STORE_NO_CA;
    snprintf(id, sizeof(id), "%016" PRIx64, record->id);
    struct certificate_subject subject = {.client = true,
                                          .name = record->name,
                                          .id = id,
                                          .unit = record->read_only ? MEMBER_UNIT_READ_ONLY : NULL,
                                          .seconds = record->ends - record->made};
    int r = certificate_sign(&ca, csr, &subject, certificate, &err);
    certificate_pair_free(&ca);
    if (!r)
        return STORE_OK;
    log_info("a certificate for client '%s': %s", record->name, err.message);
    return err.code == EBADMSG ? STORE_INVALID : STORE_BUSY;
}

enum store_status member_request_client_sign(struct member *member, struct client *client,
                                             uint64_t request, struct byte_reader *body)
{
    struct client_record record = {.made = clock_realtime_ns() / NSEC_PER_SEC};
    char *certificate = NULL;
    size_t length;
    if (!byte_reader_string(body, record.name, sizeof(record.name)) || !name_is_valid(record.name))
        return STORE_INVALID;
    record.read_only = byte_reader_u8(body);
    uint64_t seconds = byte_reader_u64(body);
    const uint8_t *bytes = byte_reader_blob(body, CERTIFICATE_TEXT_MAX, &length);
    if (!bytes || !seconds || seconds > MEMBER_CLIENT_SECONDS_MAX)
        return STORE_INVALID;
    if (random_bytes(&record.id, sizeof(record.id)))
        return STORE_BUSY;
    record.id |= 1; // not none
    record.ends = record.made + seconds;
    char *csr = strndup((const char *)bytes, length);
    enum store_status status = csr ? sign(member, csr, &record, &certificate) : STORE_BUSY;
    if (status == STORE_OK) {
        record.certificate = store_string(certificate);
        status = propose_client(member, client, request, &record);
    }
    free(certificate);
    free(csr);
    return status;
}

void member_answer_client_certificate(struct member *member, const struct byte_writer *answer,
                                      struct byte_writer *w)
{
    struct store_result result;
    struct client_record record;
    const struct mvcc_version *ca = mvcc_newest(mvcc_find(
        &member->machine->mvcc, (struct store_bytes){(const uint8_t *)MEMBER_CA_CERTIFICATE_KEY,
                                                     sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1}));
    if (store_result_decode(&result, answer->data, answer->length)) {
        w->failed = true;
        return;
    }
    const struct store_op_result *last = result.op_count ? &result.ops[result.op_count - 1] : NULL;
    if (!ca || !last || !last->key_value_count ||
        !client_record_decode(&record, last->key_values[0].value)) {
        w->failed = true;
    } else {
        byte_writer_blob(w, record.certificate.data, record.certificate.length);
        byte_writer_blob(w, ca->value, ca->length);
    }
    store_result_free(&result);
}

// ---- taking one back ----

// All of that name, or the one of that id.
enum store_status member_request_client_revoke(struct member *member, struct client *client,
                                               uint64_t request, struct byte_reader *body)
{
    struct byte_writer values[REVOKED_AT_ONCE];
    struct store_op ops[REVOKED_AT_ONCE];
    char whom[MEMBER_NAME_SIZE];
    uint64_t id, wanted = 0;
    unsigned count = 0;
    bool known = false, complete = true;
    if (!byte_reader_string(body, whom, sizeof(whom)))
        return STORE_INVALID;
    if (!parse_id(whom, &wanted))
        wanted = 0;
    struct mvcc_key *key = mvcc_lower_bound(
        &member->machine->mvcc, (struct store_bytes){clients_first, sizeof(clients_first)});
    for (; key && client_key_parse(key->key, &id) && count < REVOKED_AT_ONCE;
         key = mvcc_following(key)) {
        struct client_record record;
        const struct mvcc_version *version = mvcc_newest(key);
        if (!version ||
            !client_record_decode(&record, (struct store_bytes){version->value, version->length}) ||
            (strcmp(record.name, whom) != 0 && id != wanted))
            continue;
        known = true;
        if (record.revoked)
            continue;
        record.revoked = true;
        byte_writer_init(&values[count]);
        client_record_encode(&values[count], &record);
        complete = complete && !values[count].failed;
        ops[count] = (struct store_op){.kind = STORE_PUT,
                                       .key = key->key,
                                       .value = {values[count].data, values[count].length}};
        count++;
    }
    struct store_txn txn = {.then = ops, .then_count = count};
    enum store_status status = STORE_MEMBER_NOT_FOUND;
    if (count && complete)
        status = member_propose_txn(member, &txn, client, request, REQUEST_CLIENT_REVOKE);
    else if (count)
        status = STORE_BUSY;
    else if (known)
        member_answer_status(member, client, request, status = STORE_OK);
    while (count > 0)
        byte_writer_free(&values[--count]);
    return status;
}
