// Keys with their past: the index of the store. Pure memory, one thread.
//
// Each key has its versions in ascending order of revision, a deletion being one without a value.
// Every version newer than the compaction is also an event, in a list in order of revision, which
// is what watches read and what compaction walks: pruning costs what has changed, not what is
// there.
//
// The tree is libbsd's intrusive red-black tree: ordered, deterministic, nothing to allocate but
// the keys themselves, so that running out of memory shows as an error where it can be reported
// (glib's trees abort).
#pragma once

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>

#include "cluster/store/store.h"

struct mvcc_version {
    uint64_t create; // revision
    uint64_t mod;    // revision
    uint64_t version;
    uint64_t lease;
    uint32_t sub; // place among the changes of that revision
    uint32_t length;
    uint8_t *value; // NULL: deleted. An empty value is not NULL.
};

struct mvcc_key {
    RB_ENTRY(mvcc_key) node;
    LIST_ENTRY(mvcc_key) of_lease; // while the newest version has a lease
    uint32_t count, room;
    struct mvcc_version *versions;
    struct store_bytes key; // points behind this struct
};

RB_HEAD(mvcc_tree, mvcc_key);
LIST_HEAD(mvcc_key_list, mvcc_key);

struct mvcc_event {
    uint64_t revision;
    struct mvcc_key *key;
};

struct mvcc {
    struct mvcc_tree tree;
    uint64_t revision;         // of the last change; 1 in an empty store
    uint64_t compacted;        // revisions below this are gone (reads at it are fine); 0 at first
    struct mvcc_event *events; // a ring: events of revisions > pruned
    size_t event_room, event_head, event_count;
    uint64_t pruned; // pruning has got to here; <= compacted
    uint64_t bytes;  // of keys and values, with their overhead
    uint64_t keys;   // in the tree
    uint64_t live;   // of these not deleted
};

void mvcc_init(struct mvcc *mvcc);
void mvcc_free(struct mvcc *mvcc);

// The newest version of a key is its last; NULL if the key isn't there or is deleted.
const struct mvcc_version *mvcc_newest(const struct mvcc_key *key);
// As of `revision`, which isn't compacted; NULL if it wasn't there.
const struct mvcc_version *mvcc_at(const struct mvcc_key *key, uint64_t revision);
// The version that the event tells of.
const struct mvcc_version *mvcc_version_of(const struct mvcc_key *key, uint64_t revision);

struct mvcc_key *mvcc_find(const struct mvcc *mvcc, struct store_bytes key);
// The first one not before `key`.
struct mvcc_key *mvcc_lower_bound(const struct mvcc *mvcc, struct store_bytes key);
struct mvcc_key *mvcc_following(const struct mvcc_key *key);

// Changes at `revision` > mvcc->revision (which the caller moves when its transaction is complete),
// as number `sub` of it. -ENOMEM changes nothing. *key may be NULL.
int mvcc_put(struct mvcc *mvcc, uint64_t revision, uint32_t sub, struct store_bytes key,
             struct store_bytes value, uint64_t lease, struct mvcc_key **changed);
int mvcc_delete(struct mvcc *mvcc, uint64_t revision, uint32_t sub, struct mvcc_key *key);

// Puts a version back from a snapshot: per key in ascending order; then mvcc_restored() once.
int mvcc_restore(struct mvcc *mvcc, struct store_bytes key, const struct mvcc_version *version);
int mvcc_restored(struct mvcc *mvcc);

// Does about `budget` events' worth of the pruning that mvcc->compacted allows; true when finished.
bool mvcc_prune(struct mvcc *mvcc, size_t budget);

// The number of the first event with a revision of at least `revision`, for mvcc_event_at();
// numbers count from 0 to event_count.
size_t mvcc_event_find(const struct mvcc *mvcc, uint64_t revision);
static inline const struct mvcc_event *mvcc_event_at(const struct mvcc *mvcc, size_t number)
{
    return &mvcc->events[(mvcc->event_head + number) & (mvcc->event_room - 1)];
}
