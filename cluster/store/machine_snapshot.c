// Snapshots of the state machine, and its hash. Both see the logical state: what pruning has not
// got round to yet is left out, so that members agree whatever each has pruned.
//
// Format, version 1: "FERRYSTO", u32 version, then records (u8 kind): a head, leases, versions key
// by key, an end with the number of records. docs/store.md has the table.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/store/machine_internal.h"

static const char machine_magic[8] = {'F', 'E', 'R', 'R', 'Y', 'S', 'T', 'O'};

enum { MACHINE_VERSION = 1, MACHINE_PREFIX = 12 };
enum { RECORD_HEAD = 1, RECORD_LEASE = 2, RECORD_VERSION = 3, RECORD_END = 4 };
// The largest record is a version with its key and value, which came in one command.
enum { RECORD_BYTES_MAX = STORE_TXN_BYTES_MAX + STORE_KEY_MAX + 128 };

// Calls for each version of the key that exists as of `revision`, given the compaction.
typedef int version_visitor(void *opaque, const struct mvcc_key *key,
                            const struct mvcc_version *version);

static int visit_versions(const struct mvcc_key *key, uint64_t compacted, uint64_t revision,
                          version_visitor *visit, void *opaque)
{
    for (uint32_t i = 0; i < key->count; i++) {
        const struct mvcc_version *version = &key->versions[i];
        if (version->mod > revision)
            break;
        bool superseded = i + 1 < key->count && key->versions[i + 1].mod <= compacted;
        if (superseded || (!version->value && version->mod <= compacted))
            continue;
        int error = visit(opaque, key, version);
        if (error)
            return error;
    }
    return 0;
}

static int hash_version(void *opaque, const struct mvcc_key *key,
                        const struct mvcc_version *version)
{
    uint64_t *hash = opaque;
    *hash = store_mix_bytes(*hash, key->key.data, key->key.length);
    *hash = store_mix(store_mix(*hash, version->mod), version->create);
    *hash = store_mix(store_mix(*hash, version->version), version->lease);
    *hash = store_mix(store_mix(*hash, version->sub), version->value != NULL);
    *hash = store_mix_bytes(*hash, version->value, version->length);
    return 0;
}

uint64_t store_machine_hash(const struct store_machine *machine)
{
    const struct mvcc *mvcc = &machine->mvcc;
    uint64_t hash = store_mix(0, mvcc->revision);
    hash = store_mix(store_mix(hash, mvcc->compacted), machine->version);
    hash = store_mix(store_mix(hash, machine->chain), machine->applied);
    struct store_lease *lease;
    for (lease = store_machine_lease_next((struct store_machine *)machine, 0); lease;
         lease = store_machine_lease_next((struct store_machine *)machine, lease->id))
        hash = store_mix(store_mix(store_mix(hash, lease->id), lease->ttl), lease->renewals);
    struct mvcc_key *key = mvcc_lower_bound(mvcc, (struct store_bytes){0});
    for (; key; key = mvcc_following(key))
        visit_versions(key, mvcc->compacted, mvcc->revision, hash_version, &hash);
    return hash;
}

struct store_snapshot {
    struct store_machine *machine;
    uint64_t revision, compacted;
    uint64_t records;
    struct byte_writer head;   // everything but the versions, as of the beginning
    struct byte_writer cursor; // the last key that was encoded
    bool started;
};

int store_snapshot_begin(struct store_snapshot **out, struct store_machine *machine)
{
    if (machine->pinned)
        return -EBUSY;
    struct store_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot)
        return -ENOMEM;
    struct byte_writer *w = &snapshot->head;
    snapshot->machine = machine;
    snapshot->revision = machine->mvcc.revision;
    snapshot->compacted = machine->mvcc.compacted;
    byte_writer_init(w);
    byte_writer_init(&snapshot->cursor);
    byte_writer_bytes(w, machine_magic, sizeof(machine_magic));
    byte_writer_u32(w, MACHINE_VERSION);
    byte_writer_u8(w, RECORD_HEAD);
    byte_writer_u64(w, machine->applied);
    byte_writer_u64(w, snapshot->revision);
    byte_writer_u64(w, snapshot->compacted);
    byte_writer_u32(w, machine->version);
    byte_writer_u64(w, machine->chain);
    snapshot->records = 1;
    struct store_lease *lease;
    for (lease = store_machine_lease_next(machine, 0); lease;
         lease = store_machine_lease_next(machine, lease->id)) {
        byte_writer_u8(w, RECORD_LEASE);
        byte_writer_u64(w, lease->id);
        byte_writer_u64(w, lease->ttl);
        byte_writer_u64(w, lease->renewals);
        snapshot->records++;
    }
    if (w->failed) {
        byte_writer_free(w);
        free(snapshot);
        return -ENOMEM;
    }
    machine->pinned = true;
    *out = snapshot;
    return 0;
}

struct version_sink {
    struct byte_writer *w;
    uint64_t records;
};

static int encode_version(void *opaque, const struct mvcc_key *key,
                          const struct mvcc_version *version)
{
    struct version_sink *sink = opaque;
    struct byte_writer *w = sink->w;
    byte_writer_u8(w, RECORD_VERSION);
    byte_writer_blob(w, key->key.data, key->key.length);
    byte_writer_u64(w, version->create);
    byte_writer_u64(w, version->mod);
    byte_writer_u64(w, version->version);
    byte_writer_u64(w, version->lease);
    byte_writer_u32(w, version->sub);
    byte_writer_u8(w, version->value != NULL);
    byte_writer_blob(w, version->value, version->length);
    sink->records++;
    return w->failed ? -ENOMEM : 0;
}

// The first key after the cursor. Keys may have come and gone since it was set.
static struct mvcc_key *cursor_next(struct store_snapshot *snapshot)
{
    struct store_bytes at = {snapshot->cursor.data, snapshot->cursor.length};
    struct mvcc_key *key = mvcc_lower_bound(&snapshot->machine->mvcc, at);
    if (key && at.length && store_bytes_equal(key->key, at))
        key = mvcc_following(key);
    return key;
}

int store_snapshot_encode(struct store_snapshot *snapshot, struct byte_writer *w, size_t bytes,
                          bool *done)
{
    size_t start = w->length;
    struct version_sink sink = {.w = w};
    *done = false;
    if (!snapshot->started) {
        byte_writer_bytes(w, snapshot->head.data, snapshot->head.length);
        snapshot->started = true;
    }
    struct mvcc_key *key = cursor_next(snapshot);
    struct mvcc_key *last = NULL;
    while (key && w->length - start < bytes) {
        int error =
            visit_versions(key, snapshot->compacted, snapshot->revision, encode_version, &sink);
        if (error)
            return error;
        last = key;
        key = mvcc_following(key);
    }
    snapshot->records += sink.records;
    if (last) {
        byte_writer_reset(&snapshot->cursor);
        byte_writer_bytes(&snapshot->cursor, last->key.data, last->key.length);
    }
    if (!key) {
        byte_writer_u8(w, RECORD_END);
        byte_writer_u64(w, snapshot->records);
        *done = true;
    }
    return w->failed || snapshot->cursor.failed ? -ENOMEM : 0;
}

void store_snapshot_end(struct store_snapshot *snapshot)
{
    if (!snapshot)
        return;
    snapshot->machine->pinned = false;
    byte_writer_free(&snapshot->head);
    byte_writer_free(&snapshot->cursor);
    free(snapshot);
}

struct store_restore {
    struct store_machine *machine;
    struct byte_writer input; // what has come and not been taken yet
    uint64_t records;
    bool prefix, head, end;
};

int store_restore_begin(struct store_restore **out)
{
    struct store_restore *restore = calloc(1, sizeof(*restore));
    if (!restore)
        return -ENOMEM;
    int error = store_machine_create(&restore->machine);
    if (error) {
        free(restore);
        return error;
    }
    byte_writer_init(&restore->input);
    *out = restore;
    return 0;
}

void store_restore_understand(struct store_restore *restore, uint32_t newest)
{
    restore->machine->newest = newest;
}

static int take_head(struct store_restore *restore, struct byte_reader *r)
{
    struct store_machine *machine = restore->machine;
    machine->applied = byte_reader_u64(r);
    machine->mvcc.revision = byte_reader_u64(r);
    machine->mvcc.compacted = byte_reader_u64(r);
    machine->version = byte_reader_u32(r);
    machine->chain = byte_reader_u64(r);
    if (r->failed)
        return -EAGAIN;
    if (restore->head || machine->mvcc.compacted > machine->mvcc.revision ||
        machine->mvcc.revision == 0)
        return -EBADMSG;
    if (machine->version > machine->newest)
        return -EPROTONOSUPPORT;
    restore->head = true;
    return 0;
}

static int take_lease(struct store_restore *restore, struct byte_reader *r)
{
    uint64_t id = byte_reader_u64(r);
    uint64_t ttl = byte_reader_u64(r);
    uint64_t renewals = byte_reader_u64(r);
    if (r->failed)
        return -EAGAIN;
    if (id == 0 || ttl == 0 || ttl > STORE_TTL_MAX || store_machine_lease(restore->machine, id))
        return -EBADMSG;
    return store_machine_lease_add(restore->machine, id, ttl, renewals);
}

static int take_version(struct store_restore *restore, struct byte_reader *r)
{
    struct store_bytes key, value;
    struct mvcc_version version = {0};
    struct mvcc *mvcc = &restore->machine->mvcc;
    key.data = byte_reader_blob(r, STORE_KEY_MAX, &key.length);
    if (!key.data)
        return -EAGAIN;
    version.create = byte_reader_u64(r);
    version.mod = byte_reader_u64(r);
    version.version = byte_reader_u64(r);
    version.lease = byte_reader_u64(r);
    version.sub = byte_reader_u32(r);
    bool present = byte_reader_u8(r);
    value.data = byte_reader_blob(r, STORE_TXN_BYTES_MAX, &value.length);
    if (!value.data)
        return -EAGAIN;
    if (key.length == 0 || version.mod == 0 || version.mod > mvcc->revision ||
        version.create > version.mod || (!present && value.length) ||
        (version.lease && version.mod > mvcc->revision))
        return -EBADMSG;
    version.value = present ? (uint8_t *)value.data : NULL;
    version.length = (uint32_t)value.length;
    return mvcc_restore(mvcc, key, &version);
}

static int take_end(struct store_restore *restore, struct byte_reader *r)
{
    uint64_t records = byte_reader_u64(r);
    if (r->failed)
        return -EAGAIN;
    if (records != restore->records)
        return -EBADMSG;
    restore->end = true;
    return 0;
}

static int take_record(struct store_restore *restore, struct byte_reader *r)
{
    uint8_t kind = byte_reader_u8(r);
    if (r->failed)
        return -EAGAIN;
    if (restore->end || (kind != RECORD_HEAD && !restore->head))
        return -EBADMSG;
    int error = -EBADMSG;
    if (kind == RECORD_HEAD)
        error = take_head(restore, r);
    else if (kind == RECORD_LEASE)
        error = take_lease(restore, r);
    else if (kind == RECORD_VERSION)
        error = take_version(restore, r);
    else if (kind == RECORD_END)
        return take_end(restore, r);
    if (!error)
        restore->records++;
    return error;
}

static int take_prefix(struct store_restore *restore, struct byte_reader *r)
{
    const uint8_t *prefix = byte_reader_view(r, MACHINE_PREFIX);
    if (!prefix)
        return -EAGAIN;
    if (memcmp(prefix, machine_magic, sizeof(machine_magic)) != 0)
        return -EBADMSG;
    if (bytes_get_u32(prefix + 8) != MACHINE_VERSION)
        return -EPROTONOSUPPORT;
    restore->prefix = true;
    return 0;
}

int store_restore_feed(struct store_restore *restore, const void *bytes, size_t length)
{
    struct byte_writer *input = &restore->input;
    byte_writer_bytes(input, bytes, length);
    if (input->failed)
        return -ENOMEM;
    size_t taken = 0;
    int error = 0;
    while (!error) {
        struct byte_reader r;
        byte_reader_init(&r, input->data, input->length);
        r.offset = taken;
        error = restore->prefix ? take_record(restore, &r) : take_prefix(restore, &r);
        if (!error)
            taken = r.offset;
    }
    // "Again" is for a record that has not come as a whole; but none is as long as this.
    if (error == -EAGAIN)
        error = input->length - taken > RECORD_BYTES_MAX ? -EBADMSG : 0;
    if (taken) {
        memmove(input->data, input->data + taken, input->length - taken);
        input->length -= taken;
    }
    return error;
}

// Leases know their keys by the newest versions.
static int attach_keys(struct store_machine *machine)
{
    struct mvcc_key *key = mvcc_lower_bound(&machine->mvcc, (struct store_bytes){0});
    for (; key; key = mvcc_following(key)) {
        const struct mvcc_version *newest = mvcc_newest(key);
        if (!newest || !newest->lease)
            continue;
        struct store_lease *lease = store_machine_lease(machine, newest->lease);
        if (!lease)
            return -EBADMSG;
        LIST_INSERT_HEAD(&lease->keys, key, of_lease);
    }
    return 0;
}

int store_restore_finish(struct store_restore *restore, struct store_machine **machine)
{
    int error = restore->end && restore->input.length == 0 ? 0 : -EBADMSG;
    if (!error)
        error = mvcc_restored(&restore->machine->mvcc);
    if (!error)
        error = attach_keys(restore->machine);
    if (error)
        store_machine_destroy(restore->machine);
    else
        *machine = restore->machine;
    byte_writer_free(&restore->input);
    free(restore);
    return error;
}
