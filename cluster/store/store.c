// Requests and answers: checks, encoding, decoding. docs/store.md has the tables.
#include "cluster/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int store_bytes_compare(struct store_bytes a, struct store_bytes b)
{
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    if (order == 0 && a.length != b.length)
        return a.length < b.length ? -1 : 1;
    return order < 0 ? -1 : order > 0;
}

const char *store_status_text(enum store_status status)
{
    static const char *const texts[] = {
        [STORE_OK] = "done",
        [STORE_UNKNOWN] = "no answer: it may have been done or may yet be done",
        [STORE_INVALID] = "not a valid request",
        [STORE_TOO_LARGE] = "too large (at most 128 operations and 1 MiB, keys up to 4 KiB)",
        [STORE_DUPLICATE_KEY] = "a transaction can't write a key twice",
        [STORE_COMPACTED] = "that revision was compacted away",
        [STORE_FUTURE] = "that revision has not come yet",
        [STORE_LEASE_NOT_FOUND] = "there is no such lease",
        [STORE_LEASE_EXISTS] = "that lease exists already",
        [STORE_FULL] = "the store is full: delete keys, then compact",
        [STORE_DISK_FULL] = "the disk of the leader is full",
        [STORE_NOT_LEADER] = "this member doesn't lead",
        [STORE_BUSY] = "busy: try again later",
        [STORE_SLOW] = "the reader was too slow",
        [STORE_MEMBER_NOT_FOUND] = "there is no such member",
        [STORE_CHANGE_PENDING] = "another change of the members is unfinished",
        [STORE_DENIED] = "not allowed: the certificate isn't that of a host of this cluster, or a "
                         "client host's, which may not do this",
        [STORE_NO_LEADER] = "there is no leader at the moment",
        [STORE_NO_CA] = "this cluster makes no certificates: its CA is elsewhere",
        [STORE_MEMBERS_ENOUGH] = "the store has as many members as it can have",
        [STORE_NAME_TAKEN] = "another host has that name: `ferry cluster remove` it first, or take "
                             "another --name",
    };
    if ((size_t)status < sizeof(texts) / sizeof(texts[0]) && texts[status])
        return texts[status];
    return "an answer that this version doesn't know";
}

static bool key_is_valid(struct store_bytes key, bool system)
{
    if (key.length == 0 || key.length > STORE_KEY_MAX)
        return false;
    return system || key.data[0] != 0;
}

// Whether two writes of one transaction can meet in a key.
static bool writes_meet(const struct store_op *a, const struct store_op *b)
{
    if (a->kind == STORE_RANGE || b->kind == STORE_RANGE)
        return false;
    if (a->kind == STORE_DELETE && b->kind == STORE_DELETE)
        return false; // what is deleted twice is deleted once
    const struct store_op *put = a->kind == STORE_PUT ? a : b;
    const struct store_op *other = put == a ? b : a;
    int order = store_bytes_compare(put->key, other->key);
    if (other->kind == STORE_PUT || other->span == STORE_ONE)
        return order == 0;
    if (order < 0)
        return false;
    return other->span == STORE_REST || store_bytes_compare(put->key, other->end) < 0;
}

static enum store_status check_ops(const struct store_op *ops, size_t count, bool system)
{
    for (size_t i = 0; i < count; i++) {
        const struct store_op *op = &ops[i];
        if (op->key.length > STORE_KEY_MAX || op->end.length > STORE_KEY_MAX)
            return STORE_TOO_LARGE;
        // A range may begin before the first key: with the empty one.
        bool from_start = op->kind != STORE_PUT && op->span != STORE_ONE && op->key.length == 0;
        if (!from_start && !key_is_valid(op->key, system))
            return STORE_INVALID;
        if (op->span > STORE_REST || op->kind < STORE_RANGE || op->kind > STORE_DELETE)
            return STORE_INVALID;
        for (size_t j = 0; j < i; j++)
            if (writes_meet(op, &ops[j]))
                return STORE_DUPLICATE_KEY;
    }
    return STORE_OK;
}

static size_t ops_bytes(const struct store_op *ops, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += ops[i].key.length + ops[i].end.length + ops[i].value.length;
    return bytes;
}

enum store_status store_txn_check(const struct store_txn *txn, bool system)
{
    size_t bytes =
        ops_bytes(txn->then, txn->then_count) + ops_bytes(txn->otherwise, txn->otherwise_count);
    if (txn->compare_count > STORE_OPS_MAX || txn->then_count > STORE_OPS_MAX ||
        txn->otherwise_count > STORE_OPS_MAX)
        return STORE_TOO_LARGE;
    for (size_t i = 0; i < txn->compare_count; i++) {
        const struct store_compare *compare = &txn->compares[i];
        bytes += compare->key.length + compare->value.length;
        if (compare->key.length > STORE_KEY_MAX)
            return STORE_TOO_LARGE;
        if (!key_is_valid(compare->key, system) || compare->target > STORE_LEASE ||
            compare->relation > STORE_LESS)
            return STORE_INVALID;
    }
    if (bytes > STORE_TXN_BYTES_MAX)
        return STORE_TOO_LARGE;
    enum store_status status = check_ops(txn->then, txn->then_count, system);
    if (status == STORE_OK)
        status = check_ops(txn->otherwise, txn->otherwise_count, system);
    return status;
}

static bool ops_read_only(const struct store_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ops[i].kind != STORE_RANGE)
            return false;
    return true;
}

bool store_txn_is_read_only(const struct store_txn *txn)
{
    return ops_read_only(txn->then, txn->then_count) &&
           ops_read_only(txn->otherwise, txn->otherwise_count);
}

static void put_bytes(struct byte_writer *w, struct store_bytes bytes)
{
    byte_writer_blob(w, bytes.data, bytes.length);
}

static struct store_bytes get_bytes(struct byte_reader *r)
{
    struct store_bytes bytes;
    bytes.data = byte_reader_blob(r, byte_reader_left(r), &bytes.length);
    if (!bytes.data)
        bytes.length = 0;
    return bytes;
}

static void encode_ops(struct byte_writer *w, const struct store_op *ops, size_t count)
{
    byte_writer_u16(w, (uint16_t)count);
    for (size_t i = 0; i < count; i++) {
        const struct store_op *op = &ops[i];
        byte_writer_u8(w, (uint8_t)op->kind);
        put_bytes(w, op->key);
        if (op->kind == STORE_PUT) {
            put_bytes(w, op->value);
            byte_writer_u64(w, op->lease);
            continue;
        }
        byte_writer_u8(w, (uint8_t)op->span);
        if (op->span == STORE_UNTIL)
            put_bytes(w, op->end);
        if (op->kind == STORE_RANGE) {
            byte_writer_u64(w, op->limit);
            byte_writer_u64(w, op->revision);
            byte_writer_u8(w, op->flags);
        }
    }
}

void store_txn_encode(struct byte_writer *w, const struct store_txn *txn)
{
    byte_writer_u16(w, (uint16_t)txn->compare_count);
    for (size_t i = 0; i < txn->compare_count; i++) {
        const struct store_compare *compare = &txn->compares[i];
        byte_writer_u8(w, (uint8_t)compare->target);
        byte_writer_u8(w, (uint8_t)compare->relation);
        put_bytes(w, compare->key);
        if (compare->target == STORE_VALUE)
            put_bytes(w, compare->value);
        else
            byte_writer_u64(w, compare->number);
    }
    encode_ops(w, txn->then, txn->then_count);
    encode_ops(w, txn->otherwise, txn->otherwise_count);
}

static enum store_status decode_ops(struct byte_reader *r, struct store_op *ops, size_t *count)
{
    *count = byte_reader_u16(r);
    if (*count > STORE_OPS_MAX)
        return STORE_TOO_LARGE;
    for (size_t i = 0; i < *count && !r->failed; i++) {
        struct store_op *op = &ops[i];
        *op = (struct store_op){.kind = (enum store_op_kind)byte_reader_u8(r)};
        op->key = get_bytes(r);
        if (op->kind == STORE_PUT) {
            op->value = get_bytes(r);
            op->lease = byte_reader_u64(r);
            continue;
        }
        op->span = (enum store_span)byte_reader_u8(r);
        if (op->span == STORE_UNTIL)
            op->end = get_bytes(r);
        if (op->kind == STORE_RANGE) {
            op->limit = byte_reader_u64(r);
            op->revision = byte_reader_u64(r);
            op->flags = byte_reader_u8(r);
        } else if (op->kind != STORE_DELETE) {
            return STORE_INVALID;
        }
    }
    return r->failed ? STORE_INVALID : STORE_OK;
}

enum store_status store_txn_decode(struct store_txn_decoded *decoded, struct byte_reader *r)
{
    struct store_txn *txn = &decoded->txn;
    txn->compares = decoded->compares;
    txn->compare_count = byte_reader_u16(r);
    if (txn->compare_count > STORE_OPS_MAX)
        return STORE_TOO_LARGE;
    for (size_t i = 0; i < txn->compare_count && !r->failed; i++) {
        struct store_compare *compare = &decoded->compares[i];
        *compare = (struct store_compare){.target = (enum store_target)byte_reader_u8(r)};
        compare->relation = (enum store_relation)byte_reader_u8(r);
        compare->key = get_bytes(r);
        if (compare->target == STORE_VALUE)
            compare->value = get_bytes(r);
        else
            compare->number = byte_reader_u64(r);
    }
    txn->then = decoded->ops;
    txn->otherwise = decoded->ops + STORE_OPS_MAX;
    enum store_status status = decode_ops(r, decoded->ops, &txn->then_count);
    if (status == STORE_OK)
        status = decode_ops(r, decoded->ops + STORE_OPS_MAX, &txn->otherwise_count);
    return status;
}

void store_key_value_encode(struct byte_writer *w, const struct store_key_value *kv)
{
    put_bytes(w, kv->key);
    put_bytes(w, kv->value);
    byte_writer_u64(w, kv->create_revision);
    byte_writer_u64(w, kv->mod_revision);
    byte_writer_u64(w, kv->version);
    byte_writer_u64(w, kv->lease);
}

bool store_key_value_decode(struct byte_reader *r, struct store_key_value *kv)
{
    kv->key = get_bytes(r);
    kv->value = get_bytes(r);
    kv->create_revision = byte_reader_u64(r);
    kv->mod_revision = byte_reader_u64(r);
    kv->version = byte_reader_u64(r);
    kv->lease = byte_reader_u64(r);
    return !r->failed;
}

static int decode_range(struct store_op_result *op, struct byte_reader *r)
{
    op->count = byte_reader_u64(r);
    op->more = byte_reader_u8(r);
    size_t count = byte_reader_u32(r);
    // Bounds the allocation by what is there.
    if (r->failed || count > byte_reader_left(r) / STORE_KEY_VALUE_BYTES_MIN)
        return -EBADMSG;
    op->key_values = calloc(count ? count : 1, sizeof(*op->key_values));
    if (!op->key_values)
        return -ENOMEM;
    for (; op->key_value_count < count; op->key_value_count++)
        if (!store_key_value_decode(r, &op->key_values[op->key_value_count]))
            return -EBADMSG;
    return 0;
}

static int decode_results(struct store_result *result, struct byte_reader *r)
{
    size_t count = byte_reader_u16(r);
    if (r->failed || count > STORE_OPS_MAX)
        return -EBADMSG;
    result->ops = calloc(count ? count : 1, sizeof(*result->ops));
    if (!result->ops)
        return -ENOMEM;
    while (result->op_count < count) {
        struct store_op_result *op = &result->ops[result->op_count++];
        op->kind = (enum store_op_kind)byte_reader_u8(r);
        int error = 0;
        if (op->kind == STORE_RANGE)
            error = decode_range(op, r);
        else if (op->kind == STORE_DELETE)
            op->count = byte_reader_u64(r);
        else if (op->kind != STORE_PUT)
            error = -EBADMSG;
        if (error)
            return error;
    }
    return r->failed || byte_reader_left(r) ? -EBADMSG : 0;
}

int store_result_decode(struct store_result *result, const void *data, size_t length)
{
    struct byte_reader r;
    byte_reader_init(&r, data, length);
    *result = (struct store_result){.status = (enum store_status)byte_reader_u8(&r)};
    result->revision = byte_reader_u64(&r);
    if (result->status == STORE_COMPACTED)
        result->oldest = byte_reader_u64(&r);
    if (result->status != STORE_OK)
        return r.failed || result->status > STORE_STATUS_LAST ? -EBADMSG : 0;
    result->succeeded = byte_reader_u8(&r);
    int error = decode_results(result, &r);
    if (error)
        store_result_free(result);
    return error;
}

bool store_result_fits(const struct store_result *result, const struct store_txn *txn)
{
    const struct store_op *ops = result->succeeded ? txn->then : txn->otherwise;
    size_t count = result->succeeded ? txn->then_count : txn->otherwise_count;
    if (result->status != STORE_OK)
        return true;
    if (result->op_count != count || (!result->succeeded && txn->compare_count == 0))
        return false;
    for (size_t i = 0; i < count; i++)
        if (result->ops[i].kind != ops[i].kind)
            return false;
    return true;
}

void store_result_free(struct store_result *result)
{
    for (size_t i = 0; i < result->op_count; i++)
        free(result->ops[i].key_values);
    free(result->ops);
    *result = (struct store_result){0};
}

size_t store_prefix_end(struct store_bytes prefix, uint8_t *end)
{
    size_t length = prefix.length;
    if (length)
        memcpy(end, prefix.data, length);
    while (length && end[length - 1] == 0xff)
        length--;
    if (length)
        end[length - 1]++;
    return length;
}
