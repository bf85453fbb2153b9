#include "cluster/member/protocol.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char member_prefix[8] = {0, 'm', 'e', 'm', 'b', 'e', 'r', '/'};

static const char client_prefix[8] = {0, 'c', 'l', 'i', 'e', 'n', 't', '/'};

static const char gone_prefix[6] = {0, 'g', 'o', 'n', 'e', '/'};

static const char client_host_prefix[7] = {0, 'a', 'g', 'e', 'n', 't', '/'};

enum { RECORD_VERSION = 1, CLIENT_REVOKED = 1, CLIENT_READ_ONLY = 2, CERTIFICATE_MAX = 32768 };

static void put_key(uint8_t *key, const char *prefix, size_t length, uint64_t id)
{
    char digits[17];
    snprintf(digits, sizeof(digits), "%016" PRIx64, id);
    memcpy(key, prefix, length);
    memcpy(key + length, digits, 16);
}

static bool parse_key(struct store_bytes key, const char *prefix, size_t length, uint64_t *id)
{
    char digits[17] = {0}, *end;
    if (key.length != length + 16 || memcmp(key.data, prefix, length) != 0)
        return false;
    memcpy(digits, key.data + length, 16);
    *id = strtoull(digits, &end, 16);
    return *end == 0 && *id != 0;
}

void member_key(uint8_t key[MEMBER_KEY_SIZE], uint64_t id)
{
    put_key(key, member_prefix, sizeof(member_prefix), id);
}

void member_gone_key(uint8_t key[MEMBER_GONE_KEY_SIZE], uint64_t id)
{
    put_key(key, gone_prefix, sizeof(gone_prefix), id);
}

bool member_gone_key_parse(struct store_bytes key, uint64_t *id)
{
    return parse_key(key, gone_prefix, sizeof(gone_prefix), id);
}

void client_host_key(uint8_t key[CLIENT_HOST_KEY_SIZE], uint64_t id)
{
    put_key(key, client_host_prefix, sizeof(client_host_prefix), id);
}

bool client_host_key_parse(struct store_bytes key, uint64_t *id)
{
    return parse_key(key, client_host_prefix, sizeof(client_host_prefix), id);
}

bool member_key_parse(struct store_bytes key, uint64_t *id)
{
    return parse_key(key, member_prefix, sizeof(member_prefix), id);
}

void client_key(uint8_t key[CLIENT_KEY_SIZE], uint64_t id)
{
    put_key(key, client_prefix, sizeof(client_prefix), id);
}

bool client_key_parse(struct store_bytes key, uint64_t *id)
{
    return parse_key(key, client_prefix, sizeof(client_prefix), id);
}

void client_record_encode(struct byte_writer *w, const struct client_record *record)
{
    byte_writer_u16(w, RECORD_VERSION);
    byte_writer_u64(w, record->id);
    byte_writer_u8(w, (uint8_t)((record->revoked ? CLIENT_REVOKED : 0) |
                                (record->read_only ? CLIENT_READ_ONLY : 0)));
    byte_writer_u64(w, record->made);
    byte_writer_u64(w, record->ends);
    byte_writer_string(w, record->name);
    byte_writer_blob(w, record->certificate.data, record->certificate.length);
}

bool client_record_decode(struct client_record *record, struct store_bytes value)
{
    struct byte_reader r;
    byte_reader_init(&r, value.data, value.length);
    if (byte_reader_u16(&r) != RECORD_VERSION)
        return false;
    record->id = byte_reader_u64(&r);
    uint8_t flags = byte_reader_u8(&r);
    record->revoked = flags & CLIENT_REVOKED;
    record->read_only = flags & CLIENT_READ_ONLY;
    record->made = byte_reader_u64(&r);
    record->ends = byte_reader_u64(&r);
    if (!byte_reader_string(&r, record->name, sizeof(record->name)))
        return false;
    record->certificate.data = byte_reader_blob(&r, CERTIFICATE_MAX, &record->certificate.length);
    return !r.failed;
}

void member_record_encode(struct byte_writer *w, const struct member_record *record)
{
    byte_writer_u16(w, RECORD_VERSION);
    byte_writer_u64(w, record->id);
    byte_writer_string(w, record->name);
    byte_writer_string(w, record->peer);
    byte_writer_string(w, record->client);
    byte_writer_u8(w, (uint8_t)record->wish);
}

// All but the wish.
static bool read_head(struct byte_reader *r, struct member_record *record)
{
    if (byte_reader_u16(r) != RECORD_VERSION)
        return false;
    record->id = byte_reader_u64(r);
    return byte_reader_string(r, record->name, sizeof(record->name)) &&
           byte_reader_string(r, record->peer, sizeof(record->peer)) &&
           byte_reader_string(r, record->client, sizeof(record->client));
}

static bool read_wish(struct byte_reader *r, struct member_record *record)
{
    uint8_t wish = byte_reader_u8(r);
    record->wish = (enum member_wish)wish;
    return !r->failed && wish <= MEMBER_WISH_LAST;
}

bool member_record_read(struct byte_reader *r, struct member_record *record)
{
    return read_head(r, record) && read_wish(r, record);
}

bool member_record_decode(struct member_record *record, struct store_bytes value)
{
    struct byte_reader r;
    byte_reader_init(&r, value.data, value.length);
    if (!read_head(&r, record))
        return false;
    record->wish = MEMBER_WISH_VOTER;
    return !byte_reader_left(&r) || read_wish(&r, record);
}

const char *member_wish_name(enum member_wish wish)
{
    static const char *const names[] = {"voter", "auto", "learner", "client", "any"};
    return wish <= MEMBER_WISH_LAST ? names[wish] : "?";
}

bool member_wish_of_role(const char *role, enum member_wish *wish)
{
    static const struct {
        const char *role;
        enum member_wish wish;
    } roles[] = {{"auto", MEMBER_WISH_ANY},
                 {"member", MEMBER_WISH_AUTO},
                 {"learner", MEMBER_WISH_LEARNER},
                 {"client", MEMBER_WISH_CLIENT}};
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        *wish = roles[i].wish;
        if (strcmp(role, roles[i].role) == 0)
            return true;
    }
    return false;
}
