#include "cluster/store/store_admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/tls.h"

enum { SECRET_BYTES = (STORE_SECRET_SIZE - 1) / 2 };

static void copy_text(char *to, size_t size, const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(to, size, "%s", text ? text : "");
}

static void take_member(struct store_member *to, const json_t *object)
{
    const json_t *match = json_object_get(object, "match");
    const char *id = json_string_value(json_object_get(object, "id"));
    *to = (struct store_member){
        .id = id ? strtoull(id, NULL, 16) : 0,
        .heard_of = json_is_integer(match),
        .stored = (uint64_t)json_integer_value(match),
    };
    copy_text(to->name, sizeof(to->name), object, "name");
    copy_text(to->role, sizeof(to->role), object, "role");
    copy_text(to->peer, sizeof(to->peer), object, "peer");
    copy_text(to->client, sizeof(to->client), object, "client");
}

json_t *store_admin_json(struct byte_reader *answer, struct error *err)
{
    size_t length;
    byte_reader_u8(answer);
    byte_reader_u64(answer);
    const uint8_t *text = byte_reader_blob(answer, byte_reader_left(answer), &length);
    json_t *object = text ? json_loadb((const char *)text, length, 0, NULL) : NULL;
    if (!object)
        error_set(err, EBADMSG, "store: the answer can't be understood");
    return object;
}

enum store_status store_admin_members(struct store_client *client, struct store_members *members,
                                      struct error *err)
{
    struct byte_reader answer;
    size_t i;
    json_t *object, *member;
    enum store_status status = store_client_request(client, REQUEST_MEMBERS, NULL, 0, &answer, err);
    if (status != STORE_OK)
        return status;
    object = store_admin_json(&answer, err);
    if (!object)
        return STORE_UNKNOWN;
    members->changing = json_is_true(json_object_get(object, "changing"));
    members->count = 0;
    json_array_foreach(json_object_get(object, "members"), i, member)
    {
        if (members->count < STORE_MEMBERS_MAX)
            take_member(&members->members[members->count++], member);
    }
    json_decref(object);
    return STORE_OK;
}

static enum store_status request(struct store_client *client, enum protocol_request kind,
                                 struct byte_writer *body, struct error *err)
{
    struct byte_reader answer;
    enum store_status status = STORE_BUSY;
    if (!body->failed)
        status = store_client_request(client, kind, body->data, body->length, &answer, err);
    byte_writer_free(body);
    return status;
}

enum store_status store_admin_remove(struct store_client *client, const uint64_t *ids,
                                     unsigned count, struct error *err)
{
    struct byte_writer body;
    byte_writer_init(&body);
    byte_writer_u16(&body, (uint16_t)count);
    for (unsigned i = 0; i < count; i++)
        byte_writer_u64(&body, ids[i]);
    return request(client, REQUEST_MEMBER_REMOVE, &body, err);
}

enum store_status store_admin_move_leader(struct store_client *client, uint64_t id,
                                          struct error *err)
{
    struct byte_writer body;
    byte_writer_init(&body);
    byte_writer_u64(&body, id);
    return request(client, REQUEST_MOVE_LEADER, &body, err);
}

static void put_hex(char *to, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

enum store_status store_admin_token(struct store_client *client, uint64_t seconds, const char *ca,
                                    char token[STORE_TOKEN_SIZE], struct error *err)
{
    struct byte_writer body;
    uint8_t random[SECRET_BYTES], fingerprint[TLS_FINGERPRINT_BYTES];
    if (ca && tls_ca_fingerprint(tls_source(ca), fingerprint, err))
        return STORE_INVALID;
    if (random_bytes(random, sizeof(random))) {
        error_set(err, EIO, "no random numbers");
        return STORE_BUSY;
    }
    put_hex(token, random, sizeof(random));
    byte_writer_init(&body);
    byte_writer_u64(&body, clock_realtime_ns() / NSEC_PER_SEC + seconds);
    byte_writer_string(&body, token);
    enum store_status status = request(client, REQUEST_TOKEN, &body, err);
    if (ca) {
        token[STORE_SECRET_SIZE - 1] = '.';
        put_hex(token + STORE_SECRET_SIZE, fingerprint, sizeof(fingerprint));
    }
    return status;
}

int store_token_parse(const char *token, size_t length, const char *ca,
                      char secret[STORE_SECRET_SIZE], struct error *err)
{
    uint8_t bytes[TLS_FINGERPRINT_BYTES];
    char digits[2 * TLS_FINGERPRINT_BYTES + 1];
    bool has_ca = length == STORE_TOKEN_SIZE - 1 && token[STORE_SECRET_SIZE - 1] == '.';
    if (length != STORE_SECRET_SIZE - 1 && !has_ca)
        return error_set(err, EINVAL, "'%.*s': not a token ('ferry store members token' makes one)",
                         (int)length, token);
    memcpy(secret, token, STORE_SECRET_SIZE - 1);
    secret[STORE_SECRET_SIZE - 1] = 0;
    if (!has_ca)
        return 0;
    if (!ca)
        return error_set(err, EINVAL,
                         "the token is of a cluster that uses TLS: give --tls-cert, --tls-key and "
                         "--tls-ca");
    int error = tls_ca_fingerprint(tls_source(ca), bytes, err);
    if (error)
        return error;
    put_hex(digits, bytes, sizeof(bytes));
    if (memcmp(digits, token + STORE_SECRET_SIZE, sizeof(digits) - 1) != 0)
        return error_set(err, EACCES, "CA file '%s' isn't that of the cluster which made the token",
                         ca);
    return 0;
}

int store_token_split(const char *token, size_t length, char secret[STORE_SECRET_SIZE],
                      uint8_t fingerprint[TLS_FINGERPRINT_BYTES], struct error *err)
{
    if (length == STORE_SECRET_SIZE - 1)
        return error_set(
            err, EINVAL,
            "the token names no CA: it is of a cluster without TLS, which a host joins "
            "with --insecure");
    if (length != STORE_TOKEN_SIZE - 1 || token[STORE_SECRET_SIZE - 1] != '.')
        return error_set(err, EINVAL, "'%.*s': not a token ('ferry cluster token' makes one)",
                         (int)length, token);
    memcpy(secret, token, STORE_SECRET_SIZE - 1);
    secret[STORE_SECRET_SIZE - 1] = 0;
    for (size_t i = 0; i < TLS_FINGERPRINT_BYTES; i++) {
        const char *digits = token + STORE_SECRET_SIZE + 2 * i;
        char pair[3] = {digits[0], digits[1], 0}, *end;
        fingerprint[i] = (uint8_t)strtoul(pair, &end, 16);
        if (end != pair + 2)
            return error_set(err, EINVAL, "'%.*s': not a token ('ferry cluster token' makes one)",
                             (int)length, token);
    }
    return 0;
}

enum store_status store_admin_hash(struct store_client *client, struct store_hash *hash,
                                   struct error *err)
{
    struct byte_reader answer;
    enum store_status status = store_client_request(client, REQUEST_HASH, NULL, 0, &answer, err);
    if (status != STORE_OK)
        return status;
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    hash->applied = byte_reader_u64(&answer);
    hash->running = byte_reader_u64(&answer);
    hash->state = byte_reader_u64(&answer);
    if (answer.failed)
        error_set(err, EBADMSG, "store: the hash can't be understood");
    return answer.failed ? STORE_UNKNOWN : STORE_OK;
}

int store_admin_snapshot(struct store_client *client,
                         int (*piece)(void *context, const void *bytes, size_t length),
                         void *context, struct error *err)
{
    struct byte_reader r;
    uint16_t type;
    bool done = false;
    enum store_status status = store_client_request(client, REQUEST_SNAPSHOT, NULL, 0, &r, err);
    if (status != STORE_OK)
        return err->code && status == STORE_UNKNOWN
                   ? -err->code
                   : error_set(err, EAGAIN, "%s", store_status_text(status));
    while (!done) {
        int error = store_client_next(client, 30 * NSEC_PER_SEC, &type, &r, err);
        if (error || type != PROTOCOL_CHUNK)
            return error_set(err, EIO, "the member stopped sending");
        done = byte_reader_u8(&r);
        size_t length = byte_reader_left(&r);
        const uint8_t *bytes = byte_reader_view(&r, length);
        error = length ? piece(context, bytes, length) : 0;
        if (error)
            return error;
    }
    return 0;
}
