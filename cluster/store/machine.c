#include "cluster/store/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/store/machine_internal.h"

static int lease_order(const struct store_lease *a, const struct store_lease *b)
{
    return a->id < b->id ? -1 : a->id > b->id;
}

RB_GENERATE_INTERNAL(store_lease_tree, store_lease, node, lease_order,
                     __attribute__((unused)) static)

int store_machine_create(struct store_machine **out)
{
    struct store_machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return -ENOMEM;
    machine->scratch = malloc(sizeof(*machine->scratch));
    if (!machine->scratch) {
        free(machine);
        return -ENOMEM;
    }
    mvcc_init(&machine->mvcc);
    RB_INIT(&machine->leases);
    machine->version = 1;
    machine->newest = STORE_COMMAND_VERSION;
    *out = machine;
    return 0;
}

void store_machine_destroy(struct store_machine *machine)
{
    struct store_lease *lease;
    if (!machine)
        return;
    while ((lease = RB_MIN(store_lease_tree, &machine->leases))) {
        RB_REMOVE(store_lease_tree, &machine->leases, lease);
        free(lease);
    }
    mvcc_free(&machine->mvcc);
    free(machine->scratch);
    free(machine);
}

struct store_lease *store_machine_lease(struct store_machine *machine, uint64_t id)
{
    struct store_lease probe = {.id = id};
    return RB_FIND(store_lease_tree, &machine->leases, &probe);
}

struct store_lease *store_machine_lease_next(struct store_machine *machine, uint64_t after)
{
    struct store_lease probe = {.id = after + 1};
    return after == UINT64_MAX ? NULL : RB_NFIND(store_lease_tree, &machine->leases, &probe);
}

int store_machine_lease_add(struct store_machine *machine, uint64_t id, uint64_t ttl,
                            uint64_t renewals)
{
    struct store_lease *lease = calloc(1, sizeof(*lease));
    if (!lease)
        return -ENOMEM;
    lease->id = id;
    lease->ttl = ttl;
    lease->renewals = renewals;
    LIST_INIT(&lease->keys);
    RB_INSERT(store_lease_tree, &machine->leases, lease);
    machine->lease_count++;
    machine->touched = lease;
    return 0;
}

static void command_head(struct byte_writer *w, enum store_command_kind kind)
{
    byte_writer_u16(w, 1); // the version that this kind of command came with
    byte_writer_u8(w, (uint8_t)kind);
}

void store_command_txn(struct byte_writer *w, const void *txn, size_t length)
{
    command_head(w, STORE_COMMAND_TXN);
    byte_writer_bytes(w, txn, length);
}

void store_command_lease(struct byte_writer *w, enum store_command_kind kind, uint64_t lease,
                         uint64_t number)
{
    command_head(w, kind);
    byte_writer_u64(w, lease);
    byte_writer_u64(w, number);
}

void store_command_compact(struct byte_writer *w, uint64_t revision)
{
    command_head(w, STORE_COMMAND_COMPACT);
    byte_writer_u64(w, revision);
}

void store_command_set_version(struct byte_writer *w, uint32_t version)
{
    command_head(w, STORE_COMMAND_SET_VERSION);
    byte_writer_u32(w, version);
}

void store_answer_status(struct byte_writer *w, enum store_status status, uint64_t revision,
                         uint64_t oldest)
{
    byte_writer_u8(w, (uint8_t)status);
    byte_writer_u64(w, revision);
    if (status == STORE_COMPACTED)
        byte_writer_u64(w, oldest);
}

// Mixes a word into a hash: multiplication and rotation, as in many non-cryptographic hashes.
uint64_t store_mix(uint64_t hash, uint64_t word)
{
    hash ^= word * 0x9e3779b97f4a7c15u;
    hash = (hash << 29) | (hash >> 35);
    return hash * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
}

uint64_t store_mix_bytes(uint64_t hash, const void *bytes, size_t length)
{
    const uint8_t *p = bytes;
    hash = store_mix(hash, length);
    for (; length >= 8; length -= 8, p += 8)
        hash = store_mix(hash, bytes_get_u64(p));
    uint64_t last = 0;
    for (size_t i = 0; i < length; i++)
        last |= (uint64_t)p[i] << (8 * i);
    return store_mix(hash, last);
}

// --- Reading
// ----------------------------------------------------------------------------------------

static bool in_span(const struct mvcc_key *key, const struct store_op *op)
{
    switch (op->span) {
    case STORE_ONE:
        return store_bytes_equal(key->key, op->key);
    case STORE_UNTIL:
        return store_bytes_compare(key->key, op->end) < 0;
    case STORE_REST:
        return true;
    }
    return false;
}

static struct mvcc_key *span_first(const struct store_machine *machine, const struct store_op *op)
{
    static const uint8_t first_visible[1] = {1};
    if (op->span == STORE_ONE)
        return mvcc_find(&machine->mvcc, op->key);
    // An open beginning skips the cluster's own keys.
    struct store_bytes from = op->key;
    if (from.length == 0)
        from = (struct store_bytes){first_visible, 1};
    struct mvcc_key *key = mvcc_lower_bound(&machine->mvcc, from);
    return key && in_span(key, op) ? key : NULL;
}

static struct mvcc_key *span_next(struct mvcc_key *key, const struct store_op *op)
{
    if (op->span == STORE_ONE)
        return NULL;
    key = mvcc_following(key);
    return key && in_span(key, op) ? key : NULL;
}

static void answer_range(const struct store_machine *machine, const struct store_op *op,
                         uint64_t revision, struct byte_writer *w)
{
    uint64_t count = 0;
    uint32_t given = 0;
    bool more = false;
    size_t start = w->length;

    byte_writer_u8(w, STORE_RANGE);
    size_t count_at = w->length;
    byte_writer_u64(w, 0);
    size_t more_at = w->length;
    byte_writer_u8(w, 0);
    byte_writer_u32(w, 0);
    for (struct mvcc_key *key = span_first(machine, op); key; key = span_next(key, op)) {
        const struct mvcc_version *version = mvcc_at(key, revision);
        if (!version)
            continue;
        count++;
        if (op->flags & STORE_COUNT_ONLY)
            continue;
        if ((op->limit && given >= op->limit) || more ||
            (given && w->length - start + version->length > STORE_RANGE_BYTES_MAX)) {
            more = true;
            continue;
        }
        struct store_key_value kv = {
            .key = key->key,
            .value = {version->value, op->flags & STORE_KEYS_ONLY ? 0 : version->length},
            .create_revision = version->create,
            .mod_revision = version->mod,
            .version = version->version,
            .lease = version->lease,
        };
        store_key_value_encode(w, &kv);
        given++;
    }
    if (w->failed)
        return;
    bytes_put_u64(w->data + count_at, count);
    w->data[more_at] = more;
    bytes_put_u32(w->data + more_at + 1, given);
}

static bool relation_holds(enum store_relation relation, int order)
{
    switch (relation) {
    case STORE_EQUAL:
        return order == 0;
    case STORE_NOT_EQUAL:
        return order != 0;
    case STORE_GREATER:
        return order > 0;
    case STORE_LESS:
        return order < 0;
    }
    return false;
}

static bool compare_holds(const struct store_machine *machine, const struct store_compare *compare)
{
    const struct mvcc_version *version = mvcc_newest(mvcc_find(&machine->mvcc, compare->key));
    if (compare->target == STORE_VALUE) {
        if (!version)
            return false;
        struct store_bytes value = {version->value, version->length};
        return relation_holds(compare->relation, store_bytes_compare(value, compare->value));
    }
    uint64_t number = 0;
    if (version && compare->target == STORE_VERSION)
        number = version->version;
    else if (version && compare->target == STORE_CREATE)
        number = version->create;
    else if (version && compare->target == STORE_MOD)
        number = version->mod;
    else if (version)
        number = version->lease;
    return relation_holds(compare->relation,
                          number < compare->number ? -1 : number > compare->number);
}

// Chooses the branch, and finds what would make it fail, before anything is changed.
static enum store_status txn_choose(struct store_machine *machine, const struct store_txn *txn,
                                    bool *succeeded, const struct store_op **ops, size_t *count)
{
    *succeeded = true;
    for (size_t i = 0; i < txn->compare_count && *succeeded; i++)
        *succeeded = compare_holds(machine, &txn->compares[i]);
    *ops = *succeeded ? txn->then : txn->otherwise;
    *count = *succeeded ? txn->then_count : txn->otherwise_count;
    for (size_t i = 0; i < *count; i++) {
        const struct store_op *op = &(*ops)[i];
        if (op->kind == STORE_PUT && op->lease && !store_machine_lease(machine, op->lease))
            return STORE_LEASE_NOT_FOUND;
        if (op->kind == STORE_RANGE && op->revision > machine->mvcc.revision)
            return STORE_FUTURE;
        if (op->kind == STORE_RANGE && op->revision && op->revision < machine->mvcc.compacted)
            return STORE_COMPACTED;
    }
    return STORE_OK;
}

static void answer_head(struct byte_writer *w, uint64_t revision, bool succeeded, size_t ops)
{
    byte_writer_u8(w, STORE_OK);
    byte_writer_u64(w, revision);
    byte_writer_u8(w, succeeded);
    byte_writer_u16(w, (uint16_t)ops);
}

int store_machine_read(struct store_machine *machine, const struct store_txn *txn,
                       struct byte_writer *answer)
{
    const struct store_op *ops;
    size_t count;
    bool succeeded;
    enum store_status status = txn_choose(machine, txn, &succeeded, &ops, &count);
    if (status != STORE_OK) {
        store_answer_status(answer, status, machine->mvcc.revision, machine->mvcc.compacted);
        return 0;
    }
    answer_head(answer, machine->mvcc.revision, succeeded, count);
    for (size_t i = 0; i < count; i++)
        answer_range(machine, &ops[i], ops[i].revision ? ops[i].revision : machine->mvcc.revision,
                     answer);
    return answer->failed ? -ENOMEM : 0;
}

// --- Writing
// ----------------------------------------------------------------------------------------

static void detach(struct mvcc_key *key)
{
    const struct mvcc_version *newest = mvcc_newest(key);
    if (newest && newest->lease)
        LIST_REMOVE(key, of_lease);
}

static int do_put(struct store_machine *machine, const struct store_op *op, uint64_t revision,
                  uint32_t *sub)
{
    struct mvcc_key *key = mvcc_find(&machine->mvcc, op->key);
    if (key)
        detach(key);
    int error = mvcc_put(&machine->mvcc, revision, (*sub)++, op->key, op->value, op->lease, &key);
    if (error)
        return error;
    if (op->lease)
        LIST_INSERT_HEAD(&store_machine_lease(machine, op->lease)->keys, key, of_lease);
    machine->system_changed |= op->key.data[0] == 0;
    machine->chain = store_mix_bytes(machine->chain, op->key.data, op->key.length);
    machine->chain = store_mix_bytes(machine->chain, op->value.data, op->value.length);
    return 0;
}

static int do_delete_key(struct store_machine *machine, struct mvcc_key *key, uint64_t revision,
                         uint32_t *sub)
{
    detach(key);
    machine->system_changed |= key->key.data[0] == 0;
    machine->chain = store_mix_bytes(machine->chain, key->key.data, key->key.length);
    return mvcc_delete(&machine->mvcc, revision, (*sub)++, key);
}

static int do_delete(struct store_machine *machine, const struct store_op *op, uint64_t revision,
                     uint32_t *sub, uint64_t *deleted)
{
    *deleted = 0;
    for (struct mvcc_key *key = span_first(machine, op); key; key = span_next(key, op)) {
        if (!mvcc_newest(key))
            continue;
        int error = do_delete_key(machine, key, revision, sub);
        if (error)
            return error;
        ++*deleted;
    }
    return 0;
}

static int txn_execute(struct store_machine *machine, const struct store_op *ops, size_t count,
                       struct byte_writer *answer)
{
    uint64_t revision = machine->mvcc.revision + 1;
    uint32_t sub = 0;
    int error = 0;
    for (size_t i = 0; !error && i < count; i++) {
        const struct store_op *op = &ops[i];
        uint64_t deleted = 0;
        if (op->kind == STORE_PUT)
            error = do_put(machine, op, revision, &sub);
        else if (op->kind == STORE_DELETE)
            error = do_delete(machine, op, revision, &sub, &deleted);
        if (!answer || error)
            continue;
        if (op->kind == STORE_RANGE) {
            answer_range(machine, op, op->revision ? op->revision : revision, answer);
            continue;
        }
        byte_writer_u8(answer, (uint8_t)op->kind);
        if (op->kind == STORE_DELETE)
            byte_writer_u64(answer, deleted);
    }
    if (!error && sub)
        machine->mvcc.revision = revision;
    return error;
}

static int apply_txn(struct store_machine *machine, struct byte_reader *r,
                     struct byte_writer *answer)
{
    struct store_txn_decoded *decoded = machine->scratch;
    const struct store_op *ops;
    size_t count;
    bool succeeded;
    if (store_txn_decode(decoded, r) != STORE_OK || byte_reader_left(r))
        return -EBADMSG;
    enum store_status status = txn_choose(machine, &decoded->txn, &succeeded, &ops, &count);
    if (status != STORE_OK) {
        if (answer)
            store_answer_status(answer, status, machine->mvcc.revision, machine->mvcc.compacted);
        return 0;
    }
    size_t head = answer ? answer->length : 0;
    if (answer)
        answer_head(answer, 0, succeeded, count);
    int error = txn_execute(machine, ops, count, answer);
    if (!error && answer && !answer->failed)
        bytes_put_u64(answer->data + head + 1, machine->mvcc.revision);
    return error;
}

static int pointer_order(const void *a, const void *b)
{
    return store_bytes_compare((*(struct mvcc_key *const *)a)->key,
                               (*(struct mvcc_key *const *)b)->key);
}

// Ends a lease, and deletes its keys in one revision.
static int lease_end(struct store_machine *machine, struct store_lease *lease)
{
    uint64_t revision = machine->mvcc.revision + 1;
    uint32_t sub = 0;
    size_t count = 0, filled = 0;
    struct mvcc_key *key;
    LIST_FOREACH(key, &lease->keys, of_lease)
    count++;
    struct mvcc_key **keys = malloc(count ? count * sizeof(struct mvcc_key *) : 1);
    if (!keys)
        return -ENOMEM;
    LIST_FOREACH(key, &lease->keys, of_lease)
    keys[filled++] = key;
    // The list's order is that of the log, which a snapshot doesn't keep: so keys go in their own.
    if (count)
        qsort(keys, count, sizeof(struct mvcc_key *), pointer_order);
    int error = 0;
    for (size_t i = 0; !error && i < count; i++)
        error = do_delete_key(machine, keys[i], revision, &sub);
    free(keys);
    if (error)
        return error;
    if (sub)
        machine->mvcc.revision = revision;
    RB_REMOVE(store_lease_tree, &machine->leases, lease);
    machine->lease_count--;
    free(lease);
    return 0;
}

static enum store_status apply_grant(struct store_machine *machine, uint64_t id, uint64_t ttl,
                                     int *error)
{
    if (id == 0 || ttl == 0 || ttl > STORE_TTL_MAX)
        return STORE_INVALID;
    if (store_machine_lease(machine, id))
        return STORE_LEASE_EXISTS;
    *error = store_machine_lease_add(machine, id, ttl, 0);
    return STORE_OK;
}

static int apply_lease(struct store_machine *machine, enum store_command_kind kind,
                       struct byte_reader *r, struct byte_writer *answer)
{
    uint64_t id = byte_reader_u64(r);
    uint64_t number = byte_reader_u64(r);
    struct store_lease *lease = store_machine_lease(machine, id);
    enum store_status status = lease ? STORE_OK : STORE_LEASE_NOT_FOUND;
    uint64_t ttl = 0;
    int error = 0;
    if (r->failed || byte_reader_left(r))
        return -EBADMSG;
    machine->chain = store_mix(store_mix(machine->chain, id), number);
    if (kind == STORE_COMMAND_GRANT) {
        status = apply_grant(machine, id, number, &error);
        ttl = number;
    } else if (lease && kind == STORE_COMMAND_RENEW) {
        lease->renewals++;
        ttl = lease->ttl;
        machine->touched = lease;
    } else if (lease && kind == STORE_COMMAND_REVOKE) {
        error = lease_end(machine, lease);
    } else if (lease && kind == STORE_COMMAND_EXPIRE) {
        lease->expiring = false;
        if (lease->renewals == number)
            error = lease_end(machine, lease);
    }
    if (answer) {
        store_answer_status(answer, status, machine->mvcc.revision, 0);
        if (status == STORE_OK) {
            byte_writer_u64(answer, id);
            byte_writer_u64(answer, ttl);
        }
    }
    return error;
}

static int apply_compact(struct store_machine *machine, struct byte_reader *r,
                         struct byte_writer *answer)
{
    struct mvcc *mvcc = &machine->mvcc;
    uint64_t revision = byte_reader_u64(r);
    enum store_status status = STORE_OK;
    if (r->failed || byte_reader_left(r))
        return -EBADMSG;
    if (revision > mvcc->revision)
        status = STORE_FUTURE;
    else if (revision <= mvcc->compacted)
        status = STORE_COMPACTED;
    else
        mvcc->compacted = revision;
    machine->chain = store_mix(machine->chain, mvcc->compacted);
    if (answer)
        store_answer_status(answer, status, mvcc->revision, mvcc->compacted);
    return 0;
}

static int apply_set_version(struct store_machine *machine, struct byte_reader *r,
                             struct byte_writer *answer)
{
    uint32_t version = byte_reader_u32(r);
    if (r->failed || byte_reader_left(r))
        return -EBADMSG;
    if (version > machine->newest)
        return -EPROTONOSUPPORT;
    if (version > machine->version)
        machine->version = version;
    machine->chain = store_mix(machine->chain, machine->version);
    if (answer)
        store_answer_status(answer, STORE_OK, machine->mvcc.revision, 0);
    return 0;
}

int store_machine_apply(struct store_machine *machine, uint64_t index, const void *data,
                        size_t length, struct byte_writer *answer)
{
    struct byte_reader r;
    int error = 0;

    machine->touched = NULL;
    if (index != machine->applied + 1)
        return -EINVAL;
    if (length) {
        byte_reader_init(&r, data, length);
        uint16_t version = byte_reader_u16(&r);
        enum store_command_kind kind = (enum store_command_kind)byte_reader_u8(&r);
        if (version > machine->newest)
            return -EPROTONOSUPPORT;
        switch (kind) {
        case STORE_COMMAND_TXN:
            error = apply_txn(machine, &r, answer);
            break;
        case STORE_COMMAND_GRANT:
        case STORE_COMMAND_REVOKE:
        case STORE_COMMAND_RENEW:
        case STORE_COMMAND_EXPIRE:
            error = apply_lease(machine, kind, &r, answer);
            break;
        case STORE_COMMAND_COMPACT:
            error = apply_compact(machine, &r, answer);
            break;
        case STORE_COMMAND_SET_VERSION:
            error = apply_set_version(machine, &r, answer);
            break;
        default:
            return -EPROTONOSUPPORT;
        }
    }
    if (error)
        return error;
    machine->applied = index;
    machine->chain = store_mix(store_mix(machine->chain, index), machine->mvcc.revision);
    // An answer that found no memory is one that the client never gets: the command was applied.
    return 0;
}

bool store_machine_idle(struct store_machine *machine, size_t budget)
{
    if (machine->pinned)
        return false;
    return !mvcc_prune(&machine->mvcc, budget);
}
