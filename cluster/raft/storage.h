// What the Raft core reads back from the disk. The core never writes through this interface: what
// must become durable comes out in `struct raft_write` (raft.h), and the owner says when it is.
//
// Invariants that a storage keeps:
//   - It shows exactly what was written by the writes that raft_written() has confirmed. A write
//     under way may show or not: the core asks for nothing that it contains.
//   - After a crash it holds every confirmed write, and of an unconfirmed one some prefix in the
//     order: hard state, snapshot, entries one by one. (An entry whose term outran the hard state,
//     or a gap, makes raft_create() refuse the storage.)
//   - Appending at an index that exists removes the entries from there on first.
//   - Installing a snapshot is atomic, and replaces the whole log: before = the snapshot's last
//     entry, nothing after it.
//   - Compaction is the owner's: it records a snapshot of its state machine, removes entries from
//     the front that the snapshot covers and raft_retain_index() allows, then raft_compacted().
#pragma once

#include "cluster/raft/raft_types.h"

// What a storage holds. before.index <= snapshot.last.index <= last_index.
struct raft_stored {
    struct raft_hard_state hard_state;
    struct raft_snapshot snapshot;
    struct raft_position before; // of the entry just before the first one kept; {0, 0} at first
    uint64_t last_index;         // of the last entry kept, before.index if there are none
};

struct raft_storage {
    void *context;

    // Read at raft_create() and, for the snapshot and `before`, at raft_compacted().
    int (*load)(void *context, struct raft_stored *stored);

    // Reads entries from index `first` on, at most *count of them and none beyond `last`, and stops
    // when the data of one more would pass bytes_max (but always gives at least one). Sets *count.
    // The data stays readable until release(). Fails with -errno (-EIO, -ENOMEM): -ENOMEM is tried
    // again later, anything else stops the member, since its log can't be trusted any more.
    int (*read)(void *context, uint64_t first, uint64_t last, size_t bytes_max,
                struct raft_entry *entries, size_t *count);

    // Reads a piece of the snapshot that ends at `last`, from `offset` on: at most `capacity`
    // bytes, *length of them, *done when they reach its end. -ENOENT if that snapshot is gone (a
    // newer one took its place). It is best to keep a snapshot that is being read until the
    // transfer ends: a new one makes it begin again.
    int (*read_snapshot)(void *context, struct raft_position last, uint64_t offset, uint8_t *buffer,
                         size_t capacity, size_t *length, bool *done);

    // Nothing that read() gave is in use any more. May be NULL.
    void (*release)(void *context);
};
