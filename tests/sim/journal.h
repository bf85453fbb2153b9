// What a simulated member keeps on its simulated disk: a journal of checksummed records, behind the
// interface that the Raft core reads through (cluster/raft/storage.h).
//
// Records are appended and synced; what a completed sync covers is then replayed into the view that
// the core reads, by the same code that replays the whole file after a crash. The tail that a crash
// tore ends the replay and is cut off.
//
//   u32 length of the body, u32 checksum of the body, body: u8 kind, fields as below
//
//   HARD_STATE  u64 term, u64 voted_for
//   ENTRY       u64 index, u64 term, u8 type, data                     removes what is at index and
//   after it first CHUNK       position, u64 offset, u8 done, u16 length of the configuration,
//   configuration, data
//               a piece of a leader's snapshot; the last one replaces the log
//   SNAPSHOT    position, u16 length of the configuration, configuration, data       our own; the
//   log stays COMPACT     position                                               entries up to it
//   are gone
#pragma once

#include "cluster/raft/raft.h"
#include "disk.h"

#include "base/bytes.h"

struct sim_stored_entry {
    uint64_t term, content; // content: hash of term, type and data
    uint8_t *data;
    uint32_t length;
    enum raft_entry_type type;
};

// Bytes of entries: freed all at once, at the end of a run.
struct sim_arena_block {
    struct sim_arena_block *next;
    size_t used, size;
    uint8_t bytes[];
};

struct sim_blob {
    uint8_t *bytes;
    size_t length, room;
};

struct sim_kept_snapshot {
    struct raft_snapshot snapshot;
    struct sim_blob data;
};

struct sim_journal {
    struct sim_disk *disk;
    int file;
    size_t end; // of the file
    struct raft_storage storage;

    // The view: what is known to be durable.
    struct raft_hard_state hard_state;
    struct raft_position before;
    uint64_t last_index;
    struct sim_stored_entry *entries; // entries[0] has index before.index + 1
    size_t entry_room;
    struct sim_kept_snapshot current, previous; // previous: may still be on its way to a follower
    bool keep_previous;
    uint64_t installs; // snapshots installed from a leader

    // A snapshot that is being received.
    struct sim_blob incoming;
    struct raft_position incoming_last;

    struct byte_writer scratch;
    struct sim_arena_block *arena, *arena_spare;
    uint32_t read_error_ppm;
    bool refuse_memory; // reads fail with -ENOMEM by chance
    struct sim_random random;
};

void sim_journal_init(struct sim_journal *journal, struct sim_disk *disk);
void sim_journal_free(struct sim_journal *journal);
void sim_journal_reset(struct sim_journal *journal);

// A new member's disk: the configuration at index 0, empty or the one that founds the cluster, and
// the state machine.
int sim_journal_found(struct sim_journal *journal, const struct raft_configuration *configuration,
                      const uint8_t *machine, size_t length);

// Reads the disk after a start: replays up to the first bad record, then writes the result to a new
// file.
int sim_journal_open(struct sim_journal *journal);

// Appends the write's records. The caller then syncs, and calls sim_journal_replay() up to the end
// as it was.
int sim_journal_write(struct sim_journal *journal, const struct raft_write *write);

// The owner's snapshot and the removal of entries up to `before` (0: none).
int sim_journal_snapshot(struct sim_journal *journal, const struct raft_snapshot *snapshot,
                         const uint8_t *machine, size_t length, uint64_t before);

// Takes over what lies in [from, to) of the file. False if a record there is bad.
bool sim_journal_replay(struct sim_journal *journal, size_t from, size_t to, size_t *good);

// The entry at `index`, or NULL if it isn't kept (compacted or beyond the end).
const struct sim_stored_entry *sim_journal_entry(const struct sim_journal *journal, uint64_t index);

// Whether the journal holds the position: as an entry, or because it is compacted away.
bool sim_journal_holds(const struct sim_journal *journal, uint64_t index, uint64_t term);

uint64_t sim_entry_content(const struct raft_entry *entry);
