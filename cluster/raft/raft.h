// The Raft core: one server's share of agreeing on a log, as a pure state machine. It has no
// clock, socket, file or thread, and takes its randomness from its owner. Not thread-safe.
//
// The owner's loop:
//
//     raft_step() for each message that arrives, raft_tick() at a steady pace, raft_propose() ...
//     while (raft_ready(raft, &ready)) {
//         start making ready.write durable, if there is one    (copy: it lives until the advance)
//         send ready.messages                                   (all of them may go at once)
//         apply ready.committed to the state machine, in order
//         answer ready.reads
//         raft_advance(raft);
//     }
//     raft_written(raft, number) when that write is durable
//
// What must be durable before a message leaves is held back inside the core until raft_written():
// an owner can't send a vote or an acknowledgement too early. At most one write is under way, and
// whatever comes meanwhile goes into the next one; heartbeats and a leader's appends don't wait.
//
// ---------------------------------------------------------------------------------------------
// THE RULES. Those of the paper's Figure 2 and sections 5 to 8, with what the dissertation and
// later experience added. Each has a unit test of its name and most have a mutant (raft_mutant.h).
//
// State (Figure 2)
//   durable   currentTerm and votedFor (struct raft_hard_state), log[]
//   volatile  commit index, last applied
//   leaders   next index and match index of each follower
//
// All servers
//   ALL1  Entries are applied in order, each once, when committed and durable here.
//   ALL2  A message with a higher term makes a follower of that term. Not so: pre-vote requests,
//         granted pre-votes, and votes that LEASE1 ignores.
//   ALL3  A message with a lower term changes nothing. A request of a leader is answered with the
//         own term, and so is a pre-vote: whoever is behind must learn it to come back.
//   ALL4  No vote, pre-vote or acknowledgement leaves before what it rests on is durable: the
//         term and the vote, the entries up to `match`, the whole snapshot. That holds for a
//         candidate's vote for itself and a leader's own match index.
//
// Followers, candidates (5.2)
//   FOL1  A follower that hears nothing from a leader and grants no vote for an election time-out
//         starts an election, if it is a voter. Only a granted vote or a request of the current
//         leader restarts the timer.
//   CAND1 A candidate raises its term, votes for itself, and asks all voters.
//   CAND2 A majority of votes makes a leader; in a joint configuration, both majorities.
//   CAND3 A request of a leader of the same term makes a follower.
//   CAND4 After an election time-out it starts over. Time-outs are drawn anew each time.
//
// RequestVote (5.2, 5.4.1)
//   VOTE1 Refused if the term is lower than the own.
//   VOTE2 One vote a term, first come first served, repeated to the same candidate.
//   VOTE3 Only for a log at least as up-to-date: higher last term, or same and not shorter.
//   VOTE4 Also to servers that aren't in the own configuration, and also by learners: the
//         configuration here may be the old one (section 6; dissertation 4.2).
//
// Pre-vote and check-quorum (dissertation 6.2, 9.6)
//   PRE1  A time-out first asks whether an election could be won; terms don't change by that.
//   PRE2  Granted for a higher term than the own and an up-to-date log (VOTE3), never against
//         LEASE1. It is no vote, changes no state and restarts no timer.
//   LEASE1 Votes and pre-votes are ignored within the least election time-out of hearing from a
//         current leader, and by a leader, unless the leader itself asked for that election.
//   QUORUM1 A leader that hasn't heard from a majority (joint: both) for an election time-out
//         steps down.
//
// AppendEntries (5.3)
//   APP1  Refused if the term is lower than the own (ALL3).
//   APP2  Refused if the log doesn't hold `previous`; the refusal says how far back to look.
//   APP3  A conflicting entry and all that follow it are removed; one that is there already is
//         left alone, with what follows: requests come late and twice.
//   APP4  New entries are appended.
//   APP5  commit = min(leaderCommit, last entry that this request covered), never going back.
//   APP6  A heartbeat checks no log, so it carries min(commit, match).
//
// Leaders (5.3, 5.4.2, 8)
//   LEAD1 A new leader appends a no-op, and heartbeats go out from the start and all the time.
//   LEAD2 A proposal is appended to the own log; it is known to be committed when it is applied.
//         Refused by others than the leader, whose id raft_inspect() tells.
//   LEAD3 Followers are sent what they lack, pipelined within a window of messages and bytes.
//   LEAD4 Success moves match and next index forward; a refusal moves next index back, by the hint.
//         Replies of old terms or to old requests move nothing back.
//   LEAD5 The commit index moves to what a majority (joint: both) holds durably, and only to an
//         entry of the own term (Figure 8).
//   LEAD6 A leader never overwrites or removes entries of its log.
//   LEAD7 A leader whose own write takes longer than an election time-out hands over or steps
//         down, and doesn't campaign until a write has completed.
//
// Reads (section 8; dissertation 6.4)
//   READ1 A read gets the commit index of its arrival once a majority (joint: both) confirmed the
//         leader after that. The owner answers it when it has applied that index.
//   READ2 None before an entry of the own term is committed.
//   READ3 Reads share rounds of heartbeats. Lost leadership fails those that wait.
//
// Membership (section 6; dissertation 4)
//   CONF1 The latest configuration in the log counts, committed or not; a truncation brings the
//         one before back.
//   CONF2 A change of voters goes by a joint configuration, that decides by both majorities.
//   CONF3 No change before an entry of the own term is committed, and one at a time.
//   CONF4 Whoever leads when a joint configuration is committed leaves it, by itself.
//   CONF5 A leader that isn't in the new configuration leads, without counting itself, until that
//         is committed; then it steps down.
//   CONF6 New voters are learners first, and become voters when they have caught up.
//   CONF7 Learners and servers outside don't campaign, unless the configuration that makes them
//         such isn't known to be committed, and they voted in the one before; or a candidate whose
//         log is behind theirs asks for their vote, until somebody leads.
//
// Leadership transfer (dissertation 3.10)
//   TRANS1 The target is brought up to date, then told to campaign at once, past PRE1 and LEASE1.
//   TRANS2 No proposals meanwhile.
//   TRANS3 Given up after an election time-out.
//
// InstallSnapshot (section 7, Figure 13)
//   SNAP1 A follower that needs entries that are gone is sent the snapshot, in chunks.
//   SNAP2 Chunks name the snapshot and their offset; another snapshot, sender or term begins at 0,
//         and whatever is sent from 0 begins again.
//   SNAP3 A log that holds the snapshot's last entry keeps everything: nothing is installed.
//   SNAP4 Else the whole log is replaced, and the configuration is the snapshot's.
//   SNAP5 Entries after a snapshot that is being sent are kept (raft_retain_index()).
//
// Bounds: what is not yet applied, not yet written, sent but not acknowledged, asked to be read and
// held back is each limited by an option; beyond it proposals and reads are refused with
// RAFT_ERROR_BUSY and messages are dropped, as a network may do.
// ---------------------------------------------------------------------------------------------
#pragma once

#include "cluster/raft/raft_message.h"
#include "cluster/raft/raft_types.h"
#include "cluster/raft/storage.h"
#ifdef RAFT_MUTANTS
#include "cluster/raft/raft_mutant.h"
#endif

struct raft;

// Beside these, -ENOMEM, -EINVAL (a call that can't be right) and what the storage returned.
enum raft_error {
    RAFT_ERROR_NOT_LEADER = -2001,     // ask the leader; raft_inspect() may know it
    RAFT_ERROR_BUSY = -2002,           // a bound is reached; try again later
    RAFT_ERROR_TOO_LARGE = -2003,      // such an entry is never accepted
    RAFT_ERROR_TRANSFERRING = -2004,   // leadership is being handed over
    RAFT_ERROR_NOT_READY = -2005,      // no entry of this term is committed yet
    RAFT_ERROR_CHANGE_PENDING = -2006, // a configuration change is unfinished
    RAFT_ERROR_NOT_CAUGHT_UP = -2007,  // a new voter must be a learner that has caught up
    RAFT_ERROR_NOT_VOTER = -2008,      // this server, or the target, is no voter
    RAFT_ERROR_CONFIGURATION = -2009,  // not a configuration that can be
    RAFT_ERROR_MALFORMED = -2010,      // a message that no correct server sends
    RAFT_ERROR_STORAGE = -2011         // the storage is inconsistent
};

// One line of plain words for any error that this module returns, errnos included.
const char *raft_strerror(int error);

enum raft_role {
    RAFT_FOLLOWER, // learners as well
    RAFT_PRE_CANDIDATE,
    RAFT_CANDIDATE,
    RAFT_LEADER
};

const char *raft_role_name(enum raft_role role);

// realloc() with a context: NULL allocates, size 0 frees and gives NULL.
struct raft_allocator {
    void *context;
    void *(*resize)(void *context, void *pointer, size_t size);
};

struct raft_options {
    uint64_t id;                        // this server; random, never reused, never RAFT_NONE
    const struct raft_storage *storage; // outlives the raft
    struct raft_allocator allocator;    // resize NULL: the C library's

    // Any 64 random bits. Drawn for each election time-out, and for nothing else.
    uint64_t (*random)(void *context);
    void *random_context;

    uint32_t heartbeat_ticks;    // 1 <= heartbeat < election_min <= election_max
    uint32_t election_ticks_min; // time-outs are drawn evenly from min to max
    uint32_t election_ticks_max;

    uint32_t message_entries_max;   // of one append request, 1 to RAFT_MESSAGE_ENTRIES_MAX
    size_t message_bytes_max;       // of one append request (but one entry always fits)
    uint32_t window_messages;       // unacknowledged append requests to a follower, 1 to 64
    size_t window_bytes;            // and their data
    size_t snapshot_chunk_bytes;    // data of one chunk; one a follower is under way
    size_t entry_bytes_max;         // of one proposal
    size_t unapplied_bytes_max;     // of a leader's proposals not yet applied
    size_t unwritten_bytes_max;     // of entries a follower takes before they are durable
    size_t committed_bytes_max;     // of one ready's committed entries (but one always fits)
    uint32_t committed_entries_max; // the same in entries, 1 to RAFT_MESSAGE_ENTRIES_MAX
    uint32_t reads_max;             // reads that wait for their confirmation
};

// Ten ticks a heartbeat, 100 to 200 an election: 10 ms a tick gives design defaults.
void raft_options_default(struct raft_options *options);

// Starts from what the storage holds. Founding a cluster is a storage whose snapshot at index 0
// has the first configuration; a server to be added has none there. -EINVAL for options outside
// their ranges, RAFT_ERROR_STORAGE for a storage that breaks its invariants.
int raft_create(struct raft **raft, const struct raft_options *options);
void raft_destroy(struct raft *raft);

// Everything below returns 0 or an error that leaves the server as if the call had not been made;
// a message that meets -ENOMEM is as good as lost, but for its term, which counts. The exception is
// a storage that fails to read: that server is stopped, and every later call returns the same error
// (raft_inspect() still works).
//
// While a ready is out (between raft_ready() and raft_advance()) they all return -EBUSY.

// A message arrived. It need not be for this server, from a member, or plausible: what no correct
// server sends is refused with RAFT_ERROR_MALFORMED, the rest follows the rules above. Everything
// that is kept is copied.
int raft_step(struct raft *raft, const struct raft_message *message);

// One tick of time has passed.
int raft_tick(struct raft *raft);

// Appends a command if this server leads. *position (may be NULL) is where: it is committed if an
// entry with that index *and term* is applied, and lost if another one is at that index.
int raft_propose(struct raft *raft, const void *data, size_t length,
                 struct raft_position *position);

// Begins to change the members to `members` (roles VOTER or LEARNER): by a joint configuration if
// the voters change, in one step if only learners do. Reports as raft_propose() does; the change is
// finished when raft_inspect() shows a configuration that isn't joint and is committed.
int raft_propose_configuration(struct raft *raft, const struct raft_member *members, size_t count,
                               struct raft_position *position);

// Asks for a linearizable read; `context` comes back in ready.reads, exactly once.
int raft_read_index(struct raft *raft, uint64_t context);

// Hands leadership to `target`, a voter. 0: begun (again), not done.
int raft_transfer_leadership(struct raft *raft, uint64_t target);

// Starts an election without waiting for the time-out, with its pre-vote. No effect on a leader.
int raft_campaign(struct raft *raft);

// What must become durable, in this order: hard state, snapshot chunk, entries.
struct raft_write {
    uint64_t number; // for raft_written()
    bool has_hard_state;
    struct raft_hard_state hard_state;
    // A chunk of a snapshot that is being received, or NULL. Offset 0 throws away what was received
    // of any other. With the last one (`done`) the snapshot is installed: the storage replaces its
    // snapshot and its whole log, and the owner its state machine, before raft_written().
    const struct raft_snapshot_request *chunk;
    // To append, removing what the log has from entries[0].index on first.
    const struct raft_entry *entries;
    size_t entry_count;
};

struct raft_read {
    uint64_t context;
    uint64_t index; // answer when this is applied
    int result;     // 0, or RAFT_ERROR_NOT_LEADER: not confirmed, ask again elsewhere
};

struct raft_ready {
    const struct raft_write *write; // NULL: nothing to write
    const struct raft_message *messages;
    size_t message_count;
    const struct raft_entry *committed; // all types: the owner skips no-ops itself
    size_t committed_count;
    const struct raft_read *reads;
    size_t read_count;
};

// What there is to do, if anything (true). Pointers live until raft_advance(). A storage that fails
// shows as false, with the error in raft_inspect().
bool raft_ready(struct raft *raft, struct raft_ready *ready);

// The ready is dealt with: messages sent or dropped, entries applied, the write begun.
void raft_advance(struct raft *raft);

// The write of that number is durable. A write that failed is never reported, and never tried
// again: the owner stops (what a failed fsync left on the disk is unknown).
int raft_written(struct raft *raft, uint64_t number);

// The storage took a snapshot of its own or removed entries; the core looks again.
int raft_compacted(struct raft *raft);

// The highest index that may be compacted away. Never above what is applied, nor above a snapshot
// on its way to a follower that is alive. (A transfer that begins after an owner asked, and before
// the compaction is done, begins again with the newer snapshot.)
uint64_t raft_retain_index(const struct raft *raft);

// The configuration as of `index`, for a snapshot that ends there: from the last compaction's
// snapshot, or what was applied before this ready, to the last index. NULL if not known or empty
// (a server that was not added yet takes no snapshots).
const struct raft_configuration *raft_configuration_at(const struct raft *raft, uint64_t index);

// How often things happened since raft_create().
struct raft_counters {
    uint64_t pre_elections; // pre-votes started
    uint64_t elections;     // real elections started
    uint64_t elections_won;
    uint64_t stepped_down_quorum;  // QUORUM1
    uint64_t stepped_down_disk;    // LEAD7
    uint64_t stepped_down_removed; // CONF5
    uint64_t truncations;          // times a suffix was removed
    uint64_t appends_refused;      // APP2
    uint64_t probes_back;          // next index moved back by a refusal
    uint64_t snapshots_sent;       // transfers begun
    uint64_t snapshots_restarted;  // begun again at offset 0
    uint64_t snapshots_installed;
    uint64_t joint_entered;         // as leader
    uint64_t joint_left;            // as leader
    uint64_t configurations_undone; // by truncation
    uint64_t transfers;             // begun
    uint64_t transfers_abandoned;
    uint64_t reads_confirmed;
    uint64_t messages_dropped; // by a bound
};

// Everything about a server that its owner, an operator or a checker may want to see.
struct raft_status {
    int failure; // not 0: stopped by its storage
    uint64_t id;
    enum raft_role role;
    struct raft_hard_state hard_state; // current, maybe not yet durable
    uint64_t leader;                   // RAFT_NONE if unknown
    uint64_t commit;
    uint64_t applied;
    uint64_t durable;                               // the last index that is durable here
    struct raft_position before;                    // of the entry before the first one kept
    struct raft_position snapshot;                  // the last snapshot taken or installed
    struct raft_position last;                      // the last entry of the log
    const struct raft_configuration *configuration; // the one that counts; lives until it changes
    uint64_t configuration_index;                   // of its entry, or its snapshot's index
    uint64_t transfer_target;                       // RAFT_NONE if there is no transfer
    uint64_t write_in_flight;                       // its number, or 0
    uint32_t write_ticks;                           // how long it has been under way
    uint64_t unapplied_bytes;
    uint64_t unwritten_bytes;
    uint32_t reads_waiting;
    const struct raft_counters *counters;
};

void raft_inspect(const struct raft *raft, struct raft_status *status);

enum raft_progress {
    RAFT_PROGRESS_PROBE,     // next index is a guess: one request at a time
    RAFT_PROGRESS_REPLICATE, // next index is right: pipelined
    RAFT_PROGRESS_SNAPSHOT   // waits for a snapshot
};

// A leader's view of another member.
struct raft_peer_status {
    enum raft_progress progress;
    uint64_t match;
    uint64_t next;
    bool active;    // heard from since the last check of QUORUM1
    bool caught_up; // CONF6: may become a voter
    uint32_t messages_in_flight;
    size_t bytes_in_flight;
    struct raft_position snapshot; // under way, else {0, 0}
    uint64_t snapshot_offset;
};

// -ENOENT if this server doesn't lead or `id` is no other member.
int raft_inspect_peer(const struct raft *raft, uint64_t id, struct raft_peer_status *status);

// The term of the log's entry at `index`, durable or not, also of the one just before the first.
// 0 if it isn't there (or is 0). Costs no read: O(log of the number of terms in the log).
uint64_t raft_log_term(const struct raft *raft, uint64_t index);

// The log's entry at `index`. Its data lives until the next call that isn't an inspection; a read
// of the storage may be needed, and its error is returned. -ENOENT if it isn't there.
int raft_log_entry(const struct raft *raft, uint64_t index, struct raft_entry *entry);

#ifdef RAFT_MUTANTS
// Only in test builds (-DRAFT_MUTANTS): breaks one rule from now on. RAFT_MUTANT_NONE mends it.
void raft_set_mutant(struct raft *raft, enum raft_mutant mutant);
#endif
