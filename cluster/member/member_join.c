// Tokens, and who joins by one. A token admits one member: what uses it up, the member's record and
// its certificate are one transaction. It stays known until it expires, for that member alone: one
// that was killed before it had the answer may ask again, under the same id.
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"
#include "cluster/store/store_admin.h"

enum {
    TOKEN_PREFIX = 7,
    DIGEST_BYTES = 32,
    TOKEN_KEY_SIZE = TOKEN_PREFIX + 2 * DIGEST_BYTES,
    TOKEN_UNUSED = 8, // bytes of the value: until when
    TOKEN_USED = 16,  // and by which member
    EXPIRED_AT_ONCE = 16,
    CERTIFICATE_PREFIX = 13,
    CERTIFICATE_KEY_SIZE = CERTIFICATE_PREFIX + 16,
};

static const char token_prefix[TOKEN_PREFIX] = {0, 't', 'o', 'k', 'e', 'n', '/'};

static bool token_key(uint8_t key[TOKEN_KEY_SIZE], const char *secret)
{
    // Kept as a digest: who can read the store can't join by that.
    uint8_t digest[DIGEST_BYTES];
    char digits[2 * DIGEST_BYTES + 1];
    if (strlen(secret) != STORE_SECRET_SIZE - 1 ||
        gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, STORE_SECRET_SIZE - 1, digest) < 0)
        return false;
    for (int i = 0; i < DIGEST_BYTES; i++)
        snprintf(digits + 2 * i, 3, "%02x", digest[i]);
    memcpy(key, token_prefix, TOKEN_PREFIX);
    memcpy(key + TOKEN_PREFIX, digits, 2 * DIGEST_BYTES);
    return true;
}

static void certificate_key(uint8_t key[CERTIFICATE_KEY_SIZE], uint64_t id)
{
    char digits[17];
    snprintf(digits, sizeof(digits), "%016" PRIx64, id);
    memcpy(key, "\0certificate/", CERTIFICATE_PREFIX);
    memcpy(key + CERTIFICATE_PREFIX, digits, 16);
}

static const struct mvcc_version *find(struct member *member, const void *key, size_t length)
{
    return mvcc_newest(mvcc_find(&member->machine->mvcc, (struct store_bytes){key, length}));
}

// The clock decides only what is proposed.
static bool has_expired(const struct mvcc_version *token)
{
    return token->length < TOKEN_UNUSED ||
           bytes_get_u64(token->value) < clock_realtime_ns() / NSEC_PER_SEC;
}

// ---- making one ----

// What has expired goes when the next one is made.
static unsigned list_expired(struct member *member, struct store_op *ops, unsigned max)
{
    struct mvcc_key *key = mvcc_lower_bound(
        &member->machine->mvcc, (struct store_bytes){(const uint8_t *)token_prefix, TOKEN_PREFIX});
    unsigned count = 0;
    for (; key && count < max; key = mvcc_following(key)) {
        const struct mvcc_version *version = mvcc_newest(key);
        if (key->key.length != TOKEN_KEY_SIZE ||
            memcmp(key->key.data, token_prefix, TOKEN_PREFIX) != 0)
            break;
        if (version && has_expired(version))
            ops[count++] = (struct store_op){.kind = STORE_DELETE, .key = key->key};
    }
    return count;
}

enum store_status member_request_token(struct member *member, struct client *client,
                                       uint64_t request, struct byte_reader *body)
{
    struct store_op ops[1 + EXPIRED_AT_ONCE];
    uint8_t key[TOKEN_KEY_SIZE], value[TOKEN_UNUSED];
    char secret[STORE_SECRET_SIZE];
    uint64_t until = byte_reader_u64(body);
    if (body->failed || !byte_reader_string(body, secret, sizeof(secret)) ||
        !token_key(key, secret))
        return STORE_INVALID;
    if (find(member, key, sizeof(key)))
        return STORE_DENIED;
    bytes_put_u64(value, until);
    ops[0] = (struct store_op){
        .kind = STORE_PUT, .key = {key, sizeof(key)}, .value = {value, sizeof(value)}};
    struct store_txn txn = {.then = ops,
                            .then_count = 1 + list_expired(member, ops + 1, EXPIRED_AT_ONCE)};
    return member_propose_txn(member, &txn, client, request, REQUEST_TOKEN);
}

// ---- using it ----

// Everything that one request to join becomes.
struct admission {
    struct member_record record;
    const struct mvcc_version *token;
    uint8_t token_key[TOKEN_KEY_SIZE], token_value[TOKEN_USED];
    uint8_t member_key[MEMBER_KEY_SIZE], certificate_key[CERTIFICATE_KEY_SIZE];
    size_t member_key_length;
    struct byte_writer value; // of the record
    char *certificate;        // NULL: none was asked for
    bool again;
};

// A host's certificate carries its member's id, which is never used again.
enum store_status member_sign_host(struct member *member, const struct member_record *record,
                                   const char *csr, char **certificate)
{
    struct certificate_pair ca;
    struct error err = {0};
    char id[17];
    if (!member_ca(member, &ca))
        return STORE_NO_CA;
    snprintf(id, sizeof(id), "%016" PRIx64, record->id);
    struct certificate_subject subject = {
        .name = record->name,
        .id = id,
        .unit = record->wish == MEMBER_WISH_CLIENT ? MEMBER_UNIT_CLIENT_HOST : NULL,
        .seconds = member->options.certificate_seconds};
    int r = certificate_sign(&ca, csr, &subject, certificate, &err);
    certificate_pair_free(&ca);
    if (!r)
        return STORE_OK;
    log_info("a certificate for host '%s': %s", record->name, err.message);
    return err.code == EBADMSG ? STORE_INVALID : STORE_BUSY;
}

struct namesake {
    const struct member_record *record;
    bool found;
};

static void compare_name(void *context, const struct member_record *other)
{
    struct namesake *namesake = context;
    if (other->id != namesake->record->id && strcmp(other->name, namesake->record->name) == 0)
        namesake->found = true;
}

// What a client host may do goes by its name. (Members of one name are told apart by their ids, and
// their hosts when they register.)
static bool name_is_taken(struct member *member, const struct member_record *record,
                          const struct member_record *members, unsigned count)
{
    struct namesake namesake = {.record = record};
    member_each_client_host(member, compare_name, &namesake);
    for (unsigned i = 0; record->wish == MEMBER_WISH_CLIENT && i < count; i++)
        compare_name(&namesake, &members[i]);
    return namesake.found;
}

// What comes of somebody who leaves it to the cluster. Who asks again stays what he was made.
static enum store_status settle_wish(struct member *member, struct admission *a)
{
    struct member_record records[RAFT_MEMBERS_MAX], there;
    enum member_wish wish = a->record.wish;
    unsigned count = member_list_records(member, records, RAFT_MEMBERS_MAX);
    if (a->again && member_find_record(member, a->record.id, &there))
        a->record.wish = there.wish;
    else if (a->again)
        a->record.wish = MEMBER_WISH_CLIENT;
    else if (wish == MEMBER_WISH_ANY)
        a->record.wish = count < MEMBER_MEMBERS_AUTO ? MEMBER_WISH_AUTO : MEMBER_WISH_CLIENT;
    else if (wish != MEMBER_WISH_CLIENT && count >= RAFT_MEMBERS_MAX)
        return STORE_MEMBERS_ENOUGH;
    if (name_is_taken(member, &a->record, records, count))
        return STORE_NAME_TAKEN;
    if (a->record.wish == MEMBER_WISH_CLIENT)
        a->record.peer[0] = 0; // nobody calls it there
    else if (!a->record.peer[0])
        return STORE_INVALID;
    return STORE_OK;
}

// Unused, or used by this very member, which has never got further than that.
static bool is_admitted(struct member *member, struct admission *a)
{
    struct raft_status status;
    struct member_record there;
    if (!a->token || has_expired(a->token))
        return false;
    bool known = member_find_record(member, a->record.id, &there) ||
                 member_find_client_host(member, a->record.id, &there);
    if (a->token->length == TOKEN_UNUSED)
        return !known && !member_is_gone(member, a->record.id);
    raft_inspect(member->raft, &status);
    a->again = a->token->length == TOKEN_USED &&
               bytes_get_u64(a->token->value + TOKEN_UNUSED) == a->record.id && known &&
               !(raft_configuration_roles(status.configuration, a->record.id) & RAFT_VOTER);
    return a->again;
}

static enum store_status propose_admission(struct member *member, struct admission *a,
                                           struct client *client, uint64_t request,
                                           enum protocol_request kind)
{
    bytes_put_u64(a->token_value, bytes_get_u64(a->token->value));
    bytes_put_u64(a->token_value + TOKEN_UNUSED, a->record.id);
    member_key(a->member_key, a->record.id);
    a->member_key_length = MEMBER_KEY_SIZE;
    if (a->record.wish == MEMBER_WISH_CLIENT) {
        client_host_key(a->member_key, a->record.id);
        a->member_key_length = CLIENT_HOST_KEY_SIZE;
    }
    certificate_key(a->certificate_key, a->record.id);
    const struct store_bytes token = {a->token_key, TOKEN_KEY_SIZE};
    const struct store_bytes member_bytes = {a->member_key, a->member_key_length};
    const struct store_bytes certificate = {a->certificate_key, CERTIFICATE_KEY_SIZE};
    struct store_compare compares[2] = {
        {.target = STORE_MOD, .relation = STORE_EQUAL, .key = token, .number = a->token->mod},
        {.target = STORE_VERSION,
         .relation = a->again ? STORE_GREATER : STORE_EQUAL,
         .key = member_bytes},
    };
    struct store_op ops[4] = {
        {.kind = STORE_PUT, .key = token, .value = {a->token_value, TOKEN_USED}},
        {.kind = STORE_PUT, .key = member_bytes, .value = {a->value.data, a->value.length}},
    };
    struct store_txn txn = {.compares = compares, .compare_count = 2, .then = ops, .then_count = 2};
    if (a->certificate) {
        ops[2] = (struct store_op){
            .kind = STORE_PUT, .key = certificate, .value = store_string(a->certificate)};
        ops[3] = (struct store_op){.kind = STORE_RANGE, .key = certificate};
        txn.then_count = 4;
    }
    return a->value.failed ? STORE_BUSY : member_propose_txn(member, &txn, client, request, kind);
}

enum store_status member_request_join(struct member *member, struct client *client,
                                      uint64_t request, enum protocol_request kind,
                                      struct byte_reader *body)
{
    struct admission a = {.again = false};
    char secret[STORE_SECRET_SIZE], *csr = NULL;
    enum store_status status = STORE_OK;
    if (!byte_reader_string(body, secret, sizeof(secret)) || !token_key(a.token_key, secret))
        return STORE_DENIED;
    if (kind == REQUEST_ENROL) {
        size_t length;
        const uint8_t *bytes = byte_reader_blob(body, CERTIFICATE_TEXT_MAX, &length);
        csr = bytes ? strndup((const char *)bytes, length) : NULL;
        if (!csr)
            return STORE_INVALID;
    }
    size_t left = byte_reader_left(body);
    byte_writer_init(&a.value);
    if (!member_record_decode(&a.record,
                              (struct store_bytes){byte_reader_view(body, left), left}) ||
        a.record.id == RAFT_NONE)
        status = STORE_INVALID;
    a.token = find(member, a.token_key, TOKEN_KEY_SIZE);
    if (status == STORE_OK && !is_admitted(member, &a))
        status = STORE_DENIED;
    if (status == STORE_OK)
        status = settle_wish(member, &a);
    // Whoever has no token is given no work to do.
    if (status == STORE_OK && csr)
        status = member_sign_host(member, &a.record, csr, &a.certificate);
    if (status == STORE_OK) {
        member_record_encode(&a.value, &a.record);
        status = propose_admission(member, &a, client, request, kind);
    }
    byte_writer_free(&a.value);
    free(a.certificate);
    free(csr);
    return status;
}

void member_answer_certificate(struct member *member, const struct byte_writer *answer,
                               struct byte_writer *w)
{
    struct store_result result;
    const struct mvcc_version *ca =
        find(member, MEMBER_CA_CERTIFICATE_KEY, sizeof(MEMBER_CA_CERTIFICATE_KEY) - 1);
    if (store_result_decode(&result, answer->data, answer->length)) {
        w->failed = true;
        return;
    }
    const struct store_op_result *last = result.op_count ? &result.ops[result.op_count - 1] : NULL;
    if (!ca || !last || !last->key_value_count) {
        w->failed = true;
    } else {
        struct store_bytes own = last->key_values[0].value;
        byte_writer_blob(w, own.data, own.length);
        byte_writer_blob(w, ca->value, ca->length);
    }
    store_result_free(&result);
}
