// The threads of a log: one that makes batches durable, and one for what may take longer: spare
// segments, recycling, snapshots of the state machine. So a slow disk never holds up the member's
// loop, and writing a snapshot never holds up a commit.
//
// One batch is under way at a time, which is what the Raft core gives; that is the group commit:
// what comes while a batch is being written goes into the next one. Where the disk takes writes
// that nobody waits for (wal_batch_commit_begin()), the usual batch goes to it at once, without the
// thread.
//
// Locks: `mutex` guards the queues. It is never held across I/O or the pool's mutex (wal.h).
#pragma once

#include "cluster/wal/wal.h"

struct wal_thread;

enum wal_event_kind {
    WAL_EVENT_BATCH = 1,   // the batch is durable, or `error`: the member must end
    WAL_EVENT_SNAPSHOT = 2 // a snapshot was written (or not: `error`; the member goes on)
};

struct wal_event {
    enum wal_event_kind kind;
    int error;
    struct wal_batch *batch;
    struct raft_snapshot snapshot;
};

// `notify` is called on those threads whenever wal_thread_next_event() has something.
int wal_thread_start(struct wal_thread **thread, struct wal *wal, void (*notify)(void *context),
                     void *context);
// Waits for what is being written, drops the rest. The wal stays.
void wal_thread_stop(struct wal_thread *thread);

// What the loop that calls all this must watch too, or -1: wal_thread_next_event() may have
// something when it becomes readable.
int wal_thread_descriptor(const struct wal_thread *thread);
// Takes the batch; it comes back in an event. -EBUSY while another one is under way.
int wal_thread_submit(struct wal_thread *thread, struct wal_batch *batch);
// False if there is none.
bool wal_thread_next_event(struct wal_thread *thread, struct wal_event *event);
// There is something to maintain: after wal_compact().
void wal_thread_maintain(struct wal_thread *thread);
// The disk is full: the last batch waits for room, or no spare segment could be made.
bool wal_thread_is_full(struct wal_thread *thread);

// Snapshot of the state machine: begin, pieces (whose bytes are taken over; NULL data: -ENOMEM),
// end. The outcome comes as an event. At most one at a time (-EBUSY).
int wal_thread_snapshot_begin(struct wal_thread *thread, const struct raft_snapshot *snapshot);
void wal_thread_snapshot_piece(struct wal_thread *thread, uint8_t *bytes, size_t length);
void wal_thread_snapshot_end(struct wal_thread *thread, bool complete);
// Pieces that are not written yet; whoever makes them waits while there are many.
size_t wal_thread_snapshot_backlog(struct wal_thread *thread);
