// What a host does about one machine: a pure step from what the store says and what runs here to
// the next thing to do. No clock, no I/O; the driver (agent_driver.c, or the simulator) does what
// is asked and comes again.
//
// What always holds:
//   - A process is started only for an owner record that names this host, its present incarnation
//     and an epoch that this agent itself has committed, and knows that it has, for that one start.
//   - A machine is given up only after its process is gone, by compare-and-set.
//   - What has no deadline stays this host's when the host is fenced: its agent takes it up again,
//     under the new incarnation and in the same epoch, whether its process still runs or not.
//   - A process is destroyed on a committed record that says that it is not (or no longer) what
//     runs the machine: a larger epoch, a tombstone. That a record is merely absent says nothing.
//   - A deleted machine's end is confirmed only by who has looked and found no process of it.
#pragma once

#include "cluster/records/view.h"

// This host, as its agent knows it.
struct agent_self {
    const char *host;
    uint64_t incarnation, life_mod;
    uint64_t deadline; // of the renewals committed so far
    bool over;         // a renewal was refused: register first
};

// What is here of a machine. Its process is looked for by its lock, so that a restarted agent finds
// what its predecessor left, a start under way included.
enum local_process {
    LOCAL_NONE,
    LOCAL_STARTING, // on its way from fork to its lock, or told to end
    LOCAL_LIVE,     // it may run
    LOCAL_LOST,     // its deadline has passed: it stands, its memory is kept
    LOCAL_STANDING, // the source of a migration that doesn't know its outcome
    LOCAL_INCOMING, // the target of a migration, not started
};

enum local_end {
    END_UNKNOWN, // no word of it: killed, or never begun
    END_CLEAN,   // the guest switched itself off
    END_FAILED,
    END_NOT_STARTED, // an incoming one that never ran and never will
};

struct local_view {
    enum local_process process;
    uint64_t epoch;                    // of the process; LOCAL_NONE: of the last one, if known
    char migration_id[UUID_TEXT_SIZE]; // LOCAL_INCOMING, or the source of one under way; else ""
    char address[RECORD_ADDRESS_SIZE]; // LOCAL_INCOMING: where it waits; "" not yet
    char token[80];
    bool ran;           // it has entered its guest
    bool moving;        // a source that has been told to migrate, and hasn't failed
    enum local_end end; // LOCAL_NONE: how that one ended
};

// What the agent remembers about a machine between steps.
struct agent_machine {
    uint64_t to_start;    // epoch of a start that is committed and not yet done
    uint64_t to_continue; // 0, or the epoch of the process that goes on under it
    uint64_t started_at;
    uint64_t not_before; // no start before
    uint32_t failures;   // in a row
    // The change under way.
    bool committing;
    uint64_t committing_epoch, committing_continue;
};

enum agent_action {
    AGENT_WAIT,
    AGENT_COMMIT,         // *change; then agent_machine_outcome()
    AGENT_SPAWN,          // a process of epoch machine->to_start
    AGENT_CONTINUE,       // the process that is here goes on under machine->to_start
    AGENT_SPAWN_INCOMING, // a process that waits for a migration, of epoch owner.epoch + 1
    AGENT_MOVE_OUT,       // the process here migrates to migration.address
    AGENT_CANCEL_MOVE,    // it is told to give that up, if it still can
    AGENT_SHUT_DOWN,      // ask the guest to end, then end it
    AGENT_DESTROY,        // end the process
    AGENT_ORPHAN,         // the record of a process is gone: a person has to look
};

// `entry` may be NULL: the store has nothing about it. `now` is CLOCK_BOOTTIME.
enum agent_action agent_machine_step(const struct agent_self *self, const struct record_view *view,
                                     const struct machine_entry *entry,
                                     const struct local_view *local, struct agent_machine *machine,
                                     uint64_t now, struct change *change);
// What became of the change; the view must have been brought up to date since, unless the outcome
// is CHANGE_COMMITTED, when record_view_apply() will do.
void agent_machine_outcome(struct agent_machine *machine, enum change_outcome outcome);
// The process that AGENT_SPAWN, AGENT_CONTINUE asked for was begun, whatever becomes of it.
void agent_machine_started(struct agent_machine *machine, uint64_t now);

// Whether the process here may be given this host's deadlines.
bool agent_machine_is_renewed(const struct agent_self *self, const struct machine_entry *entry,
                              const struct local_view *local);

// ---- the arbiter of a migration ----

enum arbiter_role { ARBITER_SOURCE, ARBITER_TARGET };
enum arbiter_ask { ASK_COMMIT, ASK_ABORT, ASK_OUTCOME };
enum arbiter_decision { DECIDE_UNKNOWN, DECIDE_SOURCE, DECIDE_TARGET, DECIDE_COMMIT };

// Answers a machine that asks who goes on. `entry` is of a linearizable read after the question.
// DECIDE_COMMIT: commit *change and call arbiter_outcome(); any other is the answer.
enum arbiter_decision arbiter_step(const struct record_view *view,
                                   const struct machine_entry *entry, uint64_t epoch,
                                   const char *migration_id, enum arbiter_role role,
                                   enum arbiter_ask ask, struct change *change);
// DECIDE_UNKNOWN after anything but a commit: read again, and step again.
enum arbiter_decision arbiter_outcome(enum arbiter_ask ask, enum change_outcome outcome);
