// The write-ahead log of one member: term, vote, entries and snapshots, on a disk.
//
// Invariants:
//   - What wal_batch_commit() reported as done survives any crash. Of a batch under way a crash
//     leaves some prefix, whole frames of it.
//   - The batches come one at a time: prepare, commit, finish (or abandon, after which the member
//     ends). The struct raft_storage shows what was finished and nothing else.
//   - A sync that failed is final: from then on every commit fails, because what the kernel kept of
//     the write is unknown. A full disk is not: commit says -ENOSPC, nothing was harmed, and the
//     same batch can be committed again when there is room.
//   - A bad frame is cut as a torn tail only if it is in the last segment and no valid frame of
//     that segment follows; that is exact because one frame is begun only after the one before is
//     durable. Everything else is damage: the log is not opened, and the error names file and
//     offset. Rot in the very last frame can't be told from a torn write, and is cut.
//   - The last frame is written again at opening before it counts: a process that died between
//     write and sync, or after a failed sync, may have left it in the page cache only.
//
// Threads: commit may run on another thread than everything else; so may wal_maintain() and a
// snapshot's writer, on a third one. `mutex` guards the pool of spare and retired segments, which
// they share. It is the only lock, and is never held across I/O.
#pragma once

#include <pthread.h>

#include "base/error.h"
#include "cluster/raft/raft.h"
#include "cluster/wal/files.h"
#include "cluster/wal/wal_format.h"
#include "cluster/wal/wal_snapshot.h"

struct wal;
struct wal_batch;

struct wal_options {
    const struct files *files; // outlives the wal
    size_t segment_bytes;      // a multiple of WAL_BLOCK, at least 4; fits any entry
    size_t cache_bytes;        // data of recent entries that is kept in memory
    unsigned spares;           // segments that are kept written with zeroes, ready for use
    bool write_through;        // synchronous writes instead of a sync after each,
    bool direct;               // and past the page cache
    bool read_only;            // only looks: repairs, removes and writes nothing
    // Random bytes for salts; NULL: the kernel's.
    int (*random)(void *context, void *bytes, size_t length);
    void *random_context;
};

// 16 MiB segments, 16 MiB cache, one spare, sync after each write.
void wal_options_default(struct wal_options *options, const struct files *files);

// Which is fastest on this disk: a write and a sync, a synchronous write, or one past the page
// cache? A few of each are tried in a file that is removed afterwards. Sets options->write_through
// and direct; on a full disk they stay as they are.
int wal_options_measure(struct wal_options *options, struct error *err);

// Founds the log of a new member in an empty directory: its identity, and the snapshot it begins
// with (at index 0 for a new cluster, or for a server that waits to be added). Snapshots and spare
// files without any segment are the remains of a creation that was cut short, and are replaced.
// -EEXIST if there is a log already.
int wal_create(const struct wal_options *options, const struct wal_identity *identity,
               const struct raft_snapshot *snapshot, const void *payload, size_t length,
               struct error *err);

// Opens and recovers. -ENOENT if no log was created, -EBADMSG for damage, -EPROTONOSUPPORT for
// files of another version.
int wal_open(struct wal **wal, const struct wal_options *options, struct error *err);
void wal_close(struct wal *wal);

const struct wal_identity *wal_identity(const struct wal *wal);
// For raft_create(); lives as long as the wal.
const struct raft_storage *wal_storage(const struct wal *wal);

// Copies what a ready wants written. -ENOMEM, or -EINVAL for a write that doesn't continue the log.
int wal_batch_prepare(struct wal *wal, const struct raft_write *write, struct wal_batch **batch);
// Makes it durable. -ENOSPC: try again later. Any other error: the member must end.
int wal_batch_commit(struct wal_batch *batch);
// The same without waiting, for the one frame that most batches are, from the thread that does
// everything else. An error: nothing was begun, wal_batch_commit() is the way. Otherwise
// wal_batch_commit_poll() tells the end: 0 committed, 1 under way, -EAGAIN: commit it anew. Any
// other error: the member must end. Needs wal_commit_descriptor(), which becomes readable then.
int wal_batch_commit_begin(struct wal_batch *batch);
int wal_batch_commit_poll(struct wal_batch *batch, bool wait);
// -errno where this can't be had, or isn't the fastest way (wal_options_measure()).
int wal_commit_descriptor(const struct wal *wal);
// Shows a committed batch to the storage, and consumes it. What it needs was allocated before; an
// error (-EBADMSG) would be a defect here, and the member ends.
int wal_batch_finish(struct wal_batch *batch);
void wal_batch_abandon(struct wal_batch *batch);
// Whether the batch installs a snapshot; after the commit its file can be opened.
bool wal_batch_installs(const struct wal_batch *batch, struct raft_position *last);

// Recycles retired segments, and writes spare ones. -ENOSPC: full; try again later.
int wal_maintain(struct wal *wal);
bool wal_needs_maintenance(struct wal *wal);
// No spare segment is left, and the one in use has room for less than `bytes`.
bool wal_is_full(struct wal *wal, size_t bytes);

// Begins a snapshot of the state machine: a writer to fill and finish on any thread.
int wal_snapshot_begin(struct wal *wal, const struct raft_snapshot *snapshot,
                       struct wal_snapshot_writer **writer);
// The snapshot was finished: it is the one that counts from now on. The one before it is kept for
// those who read it. Then raft_compacted().
int wal_snapshot_adopt(struct wal *wal, const struct raft_snapshot *snapshot);
// Opens the payload of the snapshot at `last`, the current one or the one before.
int wal_snapshot_load(const struct wal *wal, struct raft_position last,
                      struct wal_snapshot_reader **reader, struct error *err);

// Lets go of entries up to `index`, as whole segments allow. `index` is covered by the snapshot and
// by raft_retain_index().
void wal_compact(struct wal *wal, uint64_t index);

struct wal_status {
    uint64_t first_segment, last_segment;
    uint64_t entries;      // in the log
    uint64_t cached_bytes; // of their data
    uint64_t frames;       // written since opening
    uint64_t bytes;        // and their bytes
    uint64_t cut_bytes;    // of a torn tail, at opening
    unsigned spares;
    bool write_through, direct;
};
void wal_inspect(struct wal *wal, struct wal_status *status);
