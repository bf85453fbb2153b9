// Deliberately broken variants of the cluster's rules (docs/cluster.md, "A machine never runs
// twice"). They prove that tests would notice: a build with -DCLUSTER_MUTANTS can switch one on,
// and the simulator must find a seed that catches it (tests/never_twice), and tests with real
// processes a run (tests/cluster/mutants.py). Builds without that flag contain none of this.
//
// In base because machines and ferryd share the rules.
//
// X(NAME, "what it does wrong")
#pragma once

#define CLUSTER_MUTANT_LIST(X)                                                                     \
    X(DEADLINE_FROM_REPLY, "counts a deadline from the renewal's answer")                          \
    X(UNKNOWN_RENEWS, "counts a renewal of unknown outcome as committed")                          \
    X(FENCE_WITHOUT_COMPARE, "fences a host without comparing its renewal")                        \
    X(RENEWAL_WITHOUT_COMPARE, "renews without comparing that the host isn't fenced")              \
    X(TAKE_FROM_LIVE_HOST, "a manager takes a machine from a host that isn't fenced")              \
    X(RESUME_ON_UNKNOWN, "a source resumes when an abort's outcome is unknown")                    \
    X(RESUME_WITHOUT_ABORT, "a source resumes without an abort that has committed")                \
    X(COMMIT_ON_UNKNOWN, "a switch of unknown outcome lets the target run")                        \
    X(START_UNKNOWN_SPAWNS, "starts a process when its start's outcome is unknown")                \
    X(RESTART_KEEPS_EPOCH, "starts a process again under the same epoch")                          \
    X(GIVE_UP_WHILE_RUNNING, "gives a machine up before its process is gone")                      \
    X(SPAWN_FORGOTTEN, "a restarted agent doesn't wait for a start under way")                     \
    X(STALE_MEMORY_RETURNS, "lets old memory go on though the machine ran elsewhere since")        \
    X(FENCE_TAKES_UNBOUNDED, "takes a machine without a deadline from a host that is only fenced") \
    X(DECLARE_ON_LIVE_HOST, "declares a machine dead though its host isn't fenced")                \
    X(DECLARE_WITHOUT_COMPARE, "declares dead what nobody has looked at")                          \
    X(TOMBSTONE_DROPPED_EARLY, "a tombstone goes before the lost host has confirmed the end")      \
    X(MOVED_COPY_FORGOTTEN, "a tombstone doesn't wait for the source of a move")                   \
    X(END_CONFIRMED_UNSEEN, "an agent confirms a machine's end while its process is there")        \
    X(DEADLINE_RELATIVE, "a machine counts its deadline from the message")                         \
    X(RENEWED_AFTER_EXPIRY, "a machine takes a deadline after the last one passed")                \
    X(NO_CHECK_BEFORE_RUN, "a stopped machine goes on without looking at its deadline")            \
    X(DRIFT_ABOVE_RHO, "clocks differ by more than rho")                                           \
    X(LOCK_BEFORE_LAST_WRITE, "a disk's lock is dropped before its last write has ended")          \
    X(NO_DISK_LOCK, "a disk is written without its lock")

enum cluster_mutant {
    CLUSTER_MUTANT_NONE,
#define CLUSTER_MUTANT_ENUM(name, what) CLUSTER_MUTANT_##name,
    CLUSTER_MUTANT_LIST(CLUSTER_MUTANT_ENUM)
#undef CLUSTER_MUTANT_ENUM
        CLUSTER_MUTANT_COUNT
};

#ifdef CLUSTER_MUTANTS
extern enum cluster_mutant cluster_mutant;
// By its name; CLUSTER_MUTANT_COUNT when there is none of that name.
enum cluster_mutant cluster_mutant_named(const char *name);
const char *cluster_mutant_name(enum cluster_mutant mutant);
const char *cluster_mutant_text(enum cluster_mutant mutant);
// The one that FERRY_MUTANT in the environment names, which processes inherit. Ends the program
// when it is none.
void cluster_mutant_choose(void);
#define CLUSTER_IS_MUTANT(name) (cluster_mutant == CLUSTER_MUTANT_##name)
#else
#define CLUSTER_IS_MUTANT(name) false
#endif
