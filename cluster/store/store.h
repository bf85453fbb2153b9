// The cluster's key-value store, as its users see it: what can be asked, and what is answered.
//
// It is just what etcd 3.4 can give too, so that either can stand behind it. Keys and values are
// bytes. Every change has a revision: one number for the whole store, which grows by one with each
// transaction that changed anything.
//
// What always holds:
//   - A write ends as committed, refused (nothing was done, and never will be) or unknown. Who must
//     know puts a key of its own, made up for that one request, in the same transaction (comparing
//     that it isn't there), and reads it afterwards.
//   - Reads are linearizable unless STORE_STALE was asked for.
//   - A transaction writes no key twice, has at most STORE_OPS_MAX operations and compares in each
//     list and STORE_TXN_BYTES_MAX bytes.
//   - Ranges come in ascending order of keys (as unsigned bytes, a prefix before what continues
//   it).
//   - A watch delivers every change of its range once, in order of revisions, all of one revision
//     together. If it asks for what was compacted away, it ends with STORE_COMPACTED and the oldest
//     revision that can be had. A reader that is too slow is cut off.
//   - Keys that begin with a zero byte are the cluster's own (members, tokens): not seen, not
//     written.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum {
    STORE_OPS_MAX = 128,
    STORE_TXN_BYTES_MAX = 1 << 20,
    STORE_KEY_MAX = 4096,
    STORE_RANGE_BYTES_MAX = 1 << 20, // of one range's answer; beyond it `more` is set
    STORE_TTL_MAX = 1000000000,      // seconds
};

struct store_bytes {
    const uint8_t *data;
    size_t length;
};

static inline struct store_bytes store_string(const char *s)
{
    return (struct store_bytes){(const uint8_t *)s, __builtin_strlen(s)};
}

// -1, 0 or 1: the order of keys.
int store_bytes_compare(struct store_bytes a, struct store_bytes b);
static inline bool store_bytes_equal(struct store_bytes a, struct store_bytes b)
{
    return a.length == b.length && store_bytes_compare(a, b) == 0;
}

struct store_key_value {
    struct store_bytes key, value;
    uint64_t create_revision; // when it came to be, since it last wasn't there
    uint64_t mod_revision;    // of its last change
    uint64_t version;         // changes since it came to be: 1 at first
    uint64_t lease;           // 0: none
};

enum store_target { STORE_VERSION, STORE_CREATE, STORE_MOD, STORE_VALUE, STORE_LEASE };
enum store_relation { STORE_EQUAL, STORE_NOT_EQUAL, STORE_GREATER, STORE_LESS };

// "The key's `target` is `relation` to ...". A key that isn't there has zero everywhere and no
// value: a comparison of its value is false.
struct store_compare {
    enum store_target target;
    enum store_relation relation;
    struct store_bytes key;
    uint64_t number;          // all targets but the value
    struct store_bytes value; // STORE_VALUE
};

enum store_span {
    STORE_ONE = 0,   // just `key`
    STORE_UNTIL = 1, // from `key` to before `end`
    STORE_REST = 2   // from `key` on
};

enum store_op_kind { STORE_RANGE = 1, STORE_PUT = 2, STORE_DELETE = 3 };

enum store_range_flag { STORE_KEYS_ONLY = 1, STORE_COUNT_ONLY = 2 };

struct store_op {
    enum store_op_kind kind;
    struct store_bytes key;
    enum store_span span;     // STORE_RANGE, STORE_DELETE
    struct store_bytes end;   // STORE_UNTIL
    uint64_t limit;           // STORE_RANGE: keys at most; 0: all
    uint64_t revision;        // STORE_RANGE: as it was then; 0: now
    uint8_t flags;            // STORE_RANGE
    struct store_bytes value; // STORE_PUT
    uint64_t lease;           // STORE_PUT; 0: none
};

// If all compares hold, `then` is done, else `otherwise`: in one revision, or not at all.
struct store_txn {
    const struct store_compare *compares;
    size_t compare_count;
    const struct store_op *then;
    size_t then_count;
    const struct store_op *otherwise;
    size_t otherwise_count;
};

// Why a request was refused, or what became of it. Numbers are those of the wire.
enum store_status {
    STORE_OK = 0,            // committed (a read: done)
    STORE_UNKNOWN = 1,       // it may have been, or may yet be, committed
    STORE_INVALID = 2,       // not a request that can be
    STORE_TOO_LARGE = 3,     // beyond STORE_OPS_MAX, STORE_TXN_BYTES_MAX or STORE_KEY_MAX
    STORE_DUPLICATE_KEY = 4, // a transaction writes a key twice
    STORE_COMPACTED = 5,     // that revision is gone; `oldest` is there
    STORE_FUTURE = 6,        // that revision has not come yet
    STORE_LEASE_NOT_FOUND = 7,
    STORE_LEASE_EXISTS = 8,
    STORE_FULL = 9, // the memory limit: only deletes and compaction
    STORE_DISK_FULL = 10,
    STORE_NOT_LEADER = 11, // ask elsewhere; a hint where comes with it
    STORE_BUSY = 12,       // later
    STORE_SLOW = 13,       // this watch was cut off
    STORE_MEMBER_NOT_FOUND = 14,
    STORE_CHANGE_PENDING = 15, // another change of the members is unfinished
    STORE_DENIED = 16,
    STORE_NO_LEADER = 17, // there is none now
    STORE_NO_CA = 18,     // this cluster's certificates are made elsewhere
    STORE_MEMBERS_ENOUGH = 19,
    STORE_NAME_TAKEN = 20,
    STORE_STATUS_LAST = STORE_NAME_TAKEN
};

// One line of plain words.
const char *store_status_text(enum store_status status);
// Whether nothing was done and never will be: neither STORE_OK nor STORE_UNKNOWN.
static inline bool store_status_is_refusal(enum store_status status)
{
    return status != STORE_OK && status != STORE_UNKNOWN;
}

// One operation's part of the answer. key_values live as long as the bytes they were decoded from.
struct store_op_result {
    enum store_op_kind kind;
    uint64_t count; // STORE_RANGE: keys in the range, whatever the limit. STORE_DELETE: deleted
    bool more;      // STORE_RANGE: there are more than were returned
    struct store_key_value *key_values; // count of them: key_value_count
    size_t key_value_count;
};

struct store_result {
    enum store_status status;
    uint64_t revision; // of the store: the write's own, if it changed anything
    uint64_t oldest;   // STORE_COMPACTED
    bool succeeded;    // the compares held
    struct store_op_result *ops;
    size_t op_count;
};

// Checks what can be checked without the store. `system` allows the cluster's own keys.
enum store_status store_txn_check(const struct store_txn *txn, bool system);
// No operation of it writes.
bool store_txn_is_read_only(const struct store_txn *txn);

void store_txn_encode(struct byte_writer *w, const struct store_txn *txn);
// A decoded transaction; keys and values stay in the bytes that it came from.
struct store_txn_decoded {
    struct store_txn txn;
    struct store_compare compares[STORE_OPS_MAX];
    struct store_op ops[2 * STORE_OPS_MAX];
};
// STORE_OK, STORE_INVALID or STORE_TOO_LARGE. Reads up to the end of the transaction.
enum store_status store_txn_decode(struct store_txn_decoded *decoded, struct byte_reader *r);

enum { STORE_KEY_VALUE_BYTES_MIN = 40 }; // of an encoded one
void store_key_value_encode(struct byte_writer *w, const struct store_key_value *kv);
bool store_key_value_decode(struct byte_reader *r, struct store_key_value *kv);

// Decodes an answer to a transaction. 0, -EBADMSG or -ENOMEM; free it with store_result_free().
int store_result_decode(struct store_result *result, const void *data, size_t length);
// Whether it has the results of just the operations that were asked for: callers take them by
// number.
bool store_result_fits(const struct store_result *result, const struct store_txn *txn);
void store_result_free(struct store_result *result);

// The first key after all that begin with `prefix`, into `end` (prefix.length bytes): its length, 0
// if there is no such key.
size_t store_prefix_end(struct store_bytes prefix, uint8_t *end);
