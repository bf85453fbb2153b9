// What the files of the Raft core share. Nothing outside cluster/raft includes this.
//
// raft.c         life, dispatch of messages, ticks, readies and writes
// election.c     votes, pre-votes, becoming follower, candidate and leader
// replication.c  the leader's side of AppendEntries, commit rule
// follower.c     the follower's side of AppendEntries and heartbeats
// snapshot.c     both sides of InstallSnapshot, compaction
// membership.c   configuration changes, peers, leadership transfer
// read.c         ReadIndex
// log.c          the log: what is unwritten, terms, configurations in it
// quorum.c       majorities of a configuration, joint or not
// configuration.c, message.c  encodings
#pragma once

#include "cluster/raft/raft.h"

// Terms and indexes beyond this are no correct server's; below it nothing overflows.
#define RAFT_NUMBER_MAX ((uint64_t)INT64_MAX - 1)

#define RAFT_WINDOW_MAX 64 // append requests in flight to one follower
#define RAFT_OUTBOX_MAX 512
#define RAFT_HELD_MAX   128

// What an entry costs beside its data, for the bounds in bytes: many empty ones are no way out.
#define RAFT_ENTRY_COST 64

#ifdef RAFT_MUTANTS
#define RAFT_BROKEN(raft, name) ((raft)->mutant == RAFT_MUTANT_##name)
#else
#define RAFT_BROKEN(raft, name) false
#endif

// Memory for one ready: allocated piecemeal, given back all at once by the advance.
struct raft_arena_block {
    struct raft_arena_block *next;
    size_t size;
    size_t used;
};

struct raft_arena {
    const struct raft_allocator *allocator;
    struct raft_arena_block *blocks;
};

void *raft_arena_take(struct raft_arena *arena, size_t size);
// Gives back everything; keeps one block of usual size, so that a steady state allocates nothing.
void raft_arena_reset(struct raft_arena *arena);
void raft_arena_free(struct raft_arena *arena);

// A run of entries of one term: from `first` to where the next run begins.
struct raft_term_run {
    uint64_t first;
    uint64_t term;
};

struct raft_configuration_record {
    uint64_t index;
    struct raft_configuration configuration;
};

// The log. Entries up to `durable` are the storage's, those after it are kept here, with data that
// the log owns, until they are durable.
//
//     before < ... <= durable <= handed <= last      commit <= last, applied <= min(commit,
//     durable)
//
// A truncation lowers `durable` and `handed` at once, while the storage may still hold the removed
// entries or even be writing them: the next write begins at durable + 1 and removes them there.
struct raft_log {
    const struct raft_storage *storage;
    const struct raft_allocator *allocator;
    struct raft_position before; // of the first entry
    uint64_t durable;
    uint64_t handed; // up to here the write under way covers it
    uint64_t last;
    uint64_t commit;
    uint64_t applied;

    struct raft_entry *unwritten; // (durable, last], at [unwritten_head, + unwritten_count)
    size_t unwritten_head;
    size_t unwritten_count;
    size_t unwritten_capacity;
    uint64_t unwritten_bytes;

    // Ascending in index and term; the first run begins at before.index. So a term is found
    // without a read of the storage.
    struct raft_term_run *runs;
    size_t run_count;
    size_t run_capacity;

    // The configuration as of `applied` (or of the snapshot), then each later one in the log.
    struct raft_configuration_record *configurations;
    size_t configuration_count;
    size_t configuration_capacity;
};

int raft_log_load(struct raft_log *log, const struct raft_stored *stored);
void raft_log_free(struct raft_log *log);
// After this, that many appends, of which so many configurations, need no memory but their data's.
int raft_log_reserve(struct raft_log *log, size_t entries, size_t configurations);
// Appends after the last. `entry->data` becomes the log's own (from its allocator). Reserved
// before.
void raft_log_append(struct raft_log *log, const struct raft_entry *entry);
void raft_log_truncate(struct raft_log *log, uint64_t from, bool keep_configuration);
// Throws everything away for a snapshot. Keeps one slot of each array, so it can't fail.
void raft_log_restore(struct raft_log *log, const struct raft_snapshot *snapshot);
void raft_log_compact(struct raft_log *log, struct raft_position before);
// The write under way is durable.
void raft_log_written(struct raft_log *log);
void raft_log_applied(struct raft_log *log, uint64_t index);
uint64_t raft_log_term_at(const struct raft_log *log, uint64_t index);
static inline struct raft_position raft_log_last(const struct raft_log *log)
{
    return (struct raft_position){.index = log->last, .term = log->runs[log->run_count - 1].term};
}
// The last position not after `limit` whose term isn't higher than limit.term.
struct raft_position raft_log_find(const struct raft_log *log, struct raft_position limit);
// Reads [first, last], as struct raft_storage's read() does, wherever the entries are.
int raft_log_read(const struct raft_log *log, uint64_t first, uint64_t last, size_t bytes_max,
                  struct raft_entry *entries, size_t *count);
static inline const struct raft_configuration_record *
raft_log_configuration(const struct raft_log *log)
{
    return &log->configurations[log->configuration_count - 1];
}

struct raft_in_flight {
    uint64_t last;
    size_t bytes;
};

// Another member, or this server itself where it is one. Every server keeps them for its
// configuration; progress means something on a leader only.
struct raft_peer {
    uint64_t id;
    uint8_t roles;

    bool voted; // answered in this election
    bool vote_granted;

    bool active;
    bool paused;    // PROBE: the request is out. Until it is answered, or a heartbeat is.
    bool ping;      // REPLICATE: something may be lost; ask with an empty request
    bool caught_up; // CONF6
    enum raft_progress progress;
    uint64_t match;
    uint64_t next;
    uint64_t commit_sent;
    uint64_t round_confirmed; // ReadIndex

    uint64_t catch_up_target; // 0: no round of catching up is under way
    uint64_t catch_up_since;  // tick

    // Requests in flight, a ring.
    uint32_t window_head;
    uint32_t window_count;
    size_t window_bytes;
    struct raft_in_flight window[RAFT_WINDOW_MAX];

    struct raft_snapshot snapshot; // SNAPSHOT: the one under way
    uint64_t snapshot_offset;      // the first byte not yet acknowledged
    uint64_t snapshot_sent_to;     // the byte after the last one ever sent
    uint64_t snapshot_sent_at;     // tick
    bool snapshot_waits;           // a chunk is out
};

struct raft_pending_read {
    uint64_t context;
    uint64_t index;
    uint64_t round;
};

// A message that waits for a write.
struct raft_held {
    uint64_t number;
    struct raft_message message;
};

struct raft {
    struct raft_options options;
    struct raft_allocator allocator;
    int failure;
    bool ready_out;
#ifdef RAFT_MUTANTS
    enum raft_mutant mutant;
#endif

    enum raft_role role;
    struct raft_hard_state hard_state;
    struct raft_hard_state hard_state_handed; // as of the last write handed out
    uint64_t leader;
    bool vote_missed; // CONF7: somebody needs it whose log is behind, and nobody leads since
    struct raft_log log;
    struct raft_snapshot snapshot; // the storage's

    uint64_t ticks;
    uint32_t election_elapsed;
    uint32_t election_timeout;
    uint32_t heartbeat_elapsed;

    // Of the configuration that counts, which is that of `configuration_index`.
    uint64_t configuration_index;
    struct raft_configuration configuration;
    bool joint;
    uint32_t peer_count;
    struct raft_peer peers[RAFT_MEMBERS_MAX];

    // A leader's.
    uint64_t term_start; // index of the no-op
    uint64_t unapplied_bytes;
    uint64_t transfer_target;
    uint32_t transfer_elapsed;
    uint64_t round; // of heartbeats
    struct raft_pending_read *reads;
    uint32_t read_count;
    struct raft_read *reads_done; // read_count + read_done_count <= options.reads_max
    uint32_t read_done_count;
#ifdef RAFT_MUTANTS
    bool entered_joint;
#endif

    // A candidate's vote for itself counts when this write is durable.
    uint64_t own_vote_number;

    // Writes.
    uint64_t write_number; // of the last one handed out
    uint64_t write_in_flight;
    bool write_has_hard_state;
    uint32_t write_ticks;
    struct raft_held held[RAFT_HELD_MAX];
    uint32_t held_count;

    // The snapshot that is being received: from whom, which, and the next byte wanted.
    uint64_t receiving_from;
    uint64_t receiving_term;
    struct raft_position receiving;
    uint64_t receiving_offset;
    uint64_t chunk_number; // the write that the last chunk is in
    bool chunk_pending;    // and not yet handed out
    struct raft_snapshot_request chunk;
    struct raft_configuration chunk_configuration;
    uint8_t *chunk_data;
    size_t chunk_capacity;
    uint64_t install_number; // the write that installs one, 0 if none is pending
    uint64_t install_index;

    struct raft_message outbox[RAFT_OUTBOX_MAX];
    uint32_t outbox_count;
    struct raft_arena arena;
    struct raft_write write;
    struct raft_entry *committed; // options.committed_entries_max
    size_t committed_count;
    struct raft_counters counters;
};

// raft.c
// What every call asks first: stopped, or a ready is out?
int raft_guard(const struct raft *raft);
void *raft_allocate(const struct raft_allocator *allocator, void *pointer, size_t size);
// NULL if there is no room: the message is dropped. Zeroed but for type, to, from, term.
struct raft_message *raft_send(struct raft *raft, enum raft_message_type type, uint64_t to);
// Sends once write `number` is durable; 0: at once.
void raft_send_after(struct raft *raft, uint64_t number, const struct raft_message *message);
struct raft_message raft_message_new(const struct raft *raft, enum raft_message_type type,
                                     uint64_t to);
// The number of the write that makes the current hard state durable, 0 if it is.
uint64_t raft_number_of_hard_state(const struct raft *raft);
// The same for the hard state and the log up to `index`.
uint64_t raft_number_of_entry(const struct raft *raft, uint64_t index);
// Stops the server if the storage failed for good. Returns `error`.
int raft_storage_failed(struct raft *raft, int error);
static inline bool raft_disk_hangs(const struct raft *raft)
{
    return raft->write_in_flight != 0 && raft->write_ticks >= raft->options.election_ticks_min;
}

// election.c
void raft_election_timer_restart(struct raft *raft);
void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader);
int raft_election_start(struct raft *raft);
void raft_election_own_vote(struct raft *raft);
int raft_step_vote_request(struct raft *raft, const struct raft_message *message);
int raft_step_vote_reply(struct raft *raft, const struct raft_message *message);
int raft_step_timeout_now(struct raft *raft);
bool raft_election_lease_holds(const struct raft *raft);
bool raft_election_may_campaign(const struct raft *raft);

// replication.c
void raft_leader_append(struct raft *raft, enum raft_entry_type type, uint8_t *data,
                        uint32_t length);
void raft_leader_tick(struct raft *raft);
void raft_leader_written(struct raft *raft);
void raft_heartbeat_all(struct raft *raft);
void raft_replicate_all(struct raft *raft);
void raft_progress_probe(struct raft_peer *peer, uint64_t next);
void raft_progress_success(struct raft *raft, struct raft_peer *peer, uint64_t match);
void raft_commit_advance(struct raft *raft);
int raft_step_append_reply(struct raft *raft, const struct raft_message *message);
int raft_step_heartbeat_reply(struct raft *raft, const struct raft_message *message);

// follower.c
int raft_step_append_request(struct raft *raft, const struct raft_message *message);
int raft_step_heartbeat_request(struct raft *raft, const struct raft_message *message);
void raft_commit_to(struct raft *raft, uint64_t index);

// snapshot.c
bool raft_snapshot_begin(struct raft *raft, struct raft_peer *peer);
void raft_snapshot_send_chunk(struct raft *raft, struct raft_peer *peer);
int raft_step_snapshot_request(struct raft *raft, const struct raft_message *message);
int raft_step_snapshot_reply(struct raft *raft, const struct raft_message *message);
void raft_snapshot_written(struct raft *raft, uint64_t number);

// membership.c
// Takes the configuration that counts from the log, and its members into peers.
void raft_configuration_refresh(struct raft *raft);
struct raft_peer *raft_peer_find(struct raft *raft, uint64_t id);
void raft_peer_reset(struct raft *raft, struct raft_peer *peer);
// After a commit, and with each tick: leaves a joint configuration, or leadership (CONF4, CONF5).
void raft_configuration_follow_up(struct raft *raft);
void raft_transfer_try(struct raft *raft);
// The voter that is best to lead next, RAFT_NONE if there is none to be heard of.
uint64_t raft_transfer_best(const struct raft *raft);

// read.c
void raft_read_begin_round(struct raft *raft);
void raft_read_confirm(struct raft *raft);
void raft_read_fail_all(struct raft *raft);

// quorum.c
enum raft_vote_result { RAFT_VOTE_PENDING, RAFT_VOTE_WON, RAFT_VOTE_LOST };
enum raft_vote_result raft_quorum_votes(const struct raft *raft);
// The highest index that a majority (joint: both) holds; 0 without voters.
uint64_t raft_quorum_match(const struct raft *raft);
// The highest round that a majority (joint: both) confirmed.
uint64_t raft_quorum_round(const struct raft *raft);
bool raft_quorum_active(const struct raft *raft);

// configuration.c: `data` is one, or an error (RAFT_ERROR_CONFIGURATION).
int raft_configuration_check(const struct raft_configuration *configuration);
// configuration.c: the joint configuration (or, if the voters stay, the new one) from `from` to
// the members given.
int raft_configuration_change(const struct raft_configuration *from,
                              const struct raft_member *members, size_t count,
                              struct raft_configuration *result);
void raft_configuration_leave(struct raft_configuration *configuration);
