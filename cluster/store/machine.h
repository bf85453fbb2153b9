// The replicated state machine: applies committed commands to the store, each member the same.
//
// Deterministic: no clock, no randomness, no order but that of the log. What depends on time is
// decided by the leader and comes as a command: an expiry names the lease and how often it had been
// renewed, and does nothing if it was renewed since.
//
// A command that this version doesn't know stops the member (-EPROTONOSUPPORT): skipping it would
// make its state another one than that of the others. Commands above version 1 may be proposed only
// when the cluster's version, which is set by a command itself, allows them.
#pragma once

#include "base/error.h"
#include "cluster/store/mvcc.h"

enum { STORE_COMMAND_VERSION = 1 }; // the newest that this program understands

enum store_command_kind {
    STORE_COMMAND_TXN = 1,
    STORE_COMMAND_GRANT = 2,
    STORE_COMMAND_REVOKE = 3,
    STORE_COMMAND_RENEW = 4,
    STORE_COMMAND_EXPIRE = 5,
    STORE_COMMAND_COMPACT = 6,
    STORE_COMMAND_SET_VERSION = 7,
};

struct store_lease {
    RB_ENTRY(store_lease) node;
    uint64_t id;
    uint64_t ttl;      // seconds
    uint64_t renewals; // how often it was renewed
    struct mvcc_key_list keys;
    // The leader's, and no part of the replicated state.
    uint64_t deadline;
    bool expiring; // an expiry was proposed
};

RB_HEAD(store_lease_tree, store_lease);

struct store_machine {
    struct mvcc mvcc;
    struct store_lease_tree leases;
    uint64_t lease_count;
    uint32_t version;            // the cluster's
    uint32_t newest;             // commands up to this version are understood
    uint64_t applied;            // index of the last entry applied
    uint64_t chain;              // hash over everything applied, in order
    bool pinned;                 // a snapshot is being taken: nothing is pruned
    struct store_lease *touched; // granted or renewed by the last apply, else NULL
    bool system_changed;         // a key of the cluster's own was written; the owner clears it
    struct store_txn_decoded *scratch; // a decoded transaction
};

int store_machine_create(struct store_machine **machine);
void store_machine_destroy(struct store_machine *machine);

// Commands, as the data of log entries.
void store_command_txn(struct byte_writer *w, const void *txn, size_t length); // encoded
void store_command_lease(struct byte_writer *w, enum store_command_kind kind, uint64_t lease,
                         uint64_t number); // TTL for GRANT, renewals for EXPIRE, else 0
void store_command_compact(struct byte_writer *w, uint64_t revision);
void store_command_set_version(struct byte_writer *w, uint32_t version);

// Applies the entry at `index`, which follows the last one applied; `data` is empty for entries
// that aren't commands. The answer for whoever asked goes to `answer`, which may be NULL.
// -EPROTONOSUPPORT, -EBADMSG and -ENOMEM: the member must stop, its state is behind.
int store_machine_apply(struct store_machine *machine, uint64_t index, const void *data,
                        size_t length, struct byte_writer *answer);

// Answers a transaction that only reads.
int store_machine_read(struct store_machine *machine, const struct store_txn *txn,
                       struct byte_writer *answer);

// Answers of the forms that applying gives, for what is refused before it gets into the log.
void store_answer_status(struct byte_writer *w, enum store_status status, uint64_t revision,
                         uint64_t oldest);

struct store_lease *store_machine_lease(struct store_machine *machine, uint64_t id);
struct store_lease *store_machine_lease_next(struct store_machine *machine, uint64_t after);

// A hash over all that the state is: the same on all members that applied the same. Walks all of
// it.
uint64_t store_machine_hash(const struct store_machine *machine);

// Work that may be put off: pruning after a compaction. True if there is more to do.
bool store_machine_idle(struct store_machine *machine, size_t budget);

// --- Snapshots: taken in pieces, between which the machine goes on
// ----------------------------------

struct store_snapshot; // the state as of one applied index

// Pins the state as it is now. One at a time (-EBUSY).
int store_snapshot_begin(struct store_snapshot **snapshot, struct store_machine *machine);
// Appends about `bytes` more to the writer; *done with the last ones.
int store_snapshot_encode(struct store_snapshot *snapshot, struct byte_writer *w, size_t bytes,
                          bool *done);
void store_snapshot_end(struct store_snapshot *snapshot);

// The other way: a machine from a snapshot's bytes, which come in pieces of any size.
struct store_restore;
int store_restore_begin(struct store_restore **restore);
// What the machine's `newest` is to be, if not STORE_COMMAND_VERSION. Before the first bytes.
void store_restore_understand(struct store_restore *restore, uint32_t newest);
int store_restore_feed(struct store_restore *restore, const void *bytes, size_t length);
// Hands the machine over if the snapshot was whole: else -EBADMSG. Frees `restore` in any case.
int store_restore_finish(struct store_restore *restore, struct store_machine **machine);
