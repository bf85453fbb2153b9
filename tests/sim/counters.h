// What happened, over all runs of a process: proof that the schedules reach what they are meant to
// reach.
//
// X(name, needed): a suite in which a needed counter stays 0 has not tested what it claims, and
// fails.
#pragma once

#include <stdint.h>

#define SIM_COUNTERS(X)                                                                            \
    X(pre_elections, true)                                                                         \
    X(pre_votes_granted, true)                                                                     \
    X(pre_votes_refused, true)                                                                     \
    X(elections, true)                                                                             \
    X(elections_won, true)                                                                         \
    X(votes_granted, true)                                                                         \
    X(votes_refused, true)                                                                         \
    X(stepped_down_quorum, true)                                                                   \
    X(stepped_down_disk, true)                                                                     \
    X(stepped_down_removed, true)                                                                  \
    X(truncations, true)                                                                           \
    X(appends_refused, true)                                                                       \
    X(probes_back, true)                                                                           \
    X(entries_committed, true)                                                                     \
    X(entries_applied, true)                                                                       \
    X(joint_entered, true)                                                                         \
    X(joint_left, true)                                                                            \
    X(configurations_undone, true)                                                                 \
    X(changes_refused, true)                                                                       \
    X(learners_added, true)                                                                        \
    X(leaders_removed, true)                                                                       \
    X(snapshots_taken, true)                                                                       \
    X(snapshots_of_joint, true)                                                                    \
    X(snapshots_sent, true)                                                                        \
    X(snapshots_restarted, true)                                                                   \
    X(snapshots_installed, true)                                                                   \
    X(chunks_received, true)                                                                       \
    X(compactions, true)                                                                           \
    X(transfers, true)                                                                             \
    X(transfers_completed, true)                                                                   \
    X(transfers_abandoned, true)                                                                   \
    X(timeout_now_received, true)                                                                  \
    X(reads_asked, true)                                                                           \
    X(reads_confirmed, true)                                                                       \
    X(reads_failed, true)                                                                          \
    X(read_rounds_shared, true)                                                                    \
    X(proposals, true)                                                                             \
    X(proposals_refused, true)                                                                     \
    X(commands_repeated, true)                                                                     \
    X(operations, true)                                                                            \
    X(operations_abandoned, true)                                                                  \
    X(client_retries, true)                                                                        \
    X(crashes, true)                                                                               \
    X(crashes_in_joint, true)                                                                      \
    X(crashes_between_writes, true)                                                                \
    X(kills, true)                                                                                 \
    X(restarts, true)                                                                              \
    X(pauses, true)                                                                                \
    X(leader_pauses, true)                                                                         \
    X(partitions, true)                                                                            \
    X(one_way_cuts, true)                                                                          \
    X(partition_rings, true)                                                                       \
    X(disk_hangs, true)                                                                            \
    X(disk_stalls, true)                                                                           \
    X(disk_full, true)                                                                             \
    X(disk_sync_errors, true)                                                                      \
    X(disks_lost, true)                                                                            \
    X(writes_torn, true)                                                                           \
    X(writes_lost, true)                                                                           \
    X(writes_zeroed, true)                                                                         \
    X(renames_lost, true)                                                                          \
    X(out_of_memory, true)                                                                         \
    X(packets_lost, true)                                                                          \
    X(packets_doubled, true)                                                                       \
    X(packets_overtaken, true)                                                                     \
    X(packets_cut, true)                                                                           \
    X(messages_dropped, false)                                                                     \
    X(undecided_histories, false)                                                                  \
    X(steps, true)                                                                                 \
    X(runs, true)

struct sim_counters {
#define SIM_COUNTER_FIELD(name, needed) uint64_t name;
    SIM_COUNTERS(SIM_COUNTER_FIELD)
#undef SIM_COUNTER_FIELD
    uint64_t simulated_microseconds;
};
