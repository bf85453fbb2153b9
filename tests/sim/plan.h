// What a seed means: the shape of the cluster, how often what goes wrong, and for how long.
#pragma once

#include "cluster/raft/raft.h"
#include "disk.h"
#include "network.h"

#define SIM_FAULTS(X)                                                                              \
    X(CRASH)       /* power loss of one member */                                                  \
    X(KILL)        /* its process dies, the page cache stays */                                    \
    X(WRITE_CRASH) /* power loss right before one of its next writes or syncs */                   \
    X(CRASH_ALL)   /* power loss of everyone */                                                    \
    X(PAUSE)       /* a process is stopped for a while */                                          \
    X(PAUSE_LEADER)                                                                                \
    X(PARTITION) /* two groups */                                                                  \
    X(ONE_WAY)   /* one direction of some links */                                                 \
    X(RING)      /* each member reaches only its neighbours */                                     \
    X(HEAL)      /* all links whole again */                                                       \
    X(DISK_HANG) /* syncs don't end for a while */                                                 \
    X(DISK_FULL)                                                                                   \
    X(DISK_LOST)  /* the member never comes back */                                                \
    X(MEMBERSHIP) /* an operator changes the members */                                            \
    X(REMOVE_LEADER)                                                                               \
    X(TRANSFER) /* an operator moves the leadership */

enum sim_fault {
#define SIM_FAULT_ENUM(name) SIM_FAULT_##name,
    SIM_FAULTS(SIM_FAULT_ENUM)
#undef SIM_FAULT_ENUM
        SIM_FAULT_COUNT
};

struct sim_plan {
    unsigned voters, learners, clients;
    sim_time duration; // of the part with faults
    sim_time tick_length;
    struct raft_options options; // the times and bounds; the rest is filled in for each member
    struct sim_network_faults network;
    struct sim_disk_faults disk;
    int32_t drift_max_ppm;
    sim_time every[SIM_FAULT_COUNT]; // mean time between two of that kind; 0: never
    sim_time down_max;               // how long a member stays down, and links cut
    sim_time pause_max, hang_max;
    unsigned missed_ticks_max; // made up for after a pause

    sim_time think_max, client_timeout;
    uint32_t read_ppm;     // operations that read
    uint32_t read_log_ppm; // reads that go through the log
    uint32_t abandon_ppm;  // operations given up after a time-out
    size_t command_pad;    // bytes that make commands larger

    uint32_t snapshot_every; // entries
    uint32_t snapshot_keep;  // entries kept before a snapshot
    size_t machine_pad;
    bool keep_previous;    // snapshots outlive the next one, as a file that is still open does
    bool write_first;      // begin the write before sending, or after
    uint32_t memory_ppm;   // allocations that fail
    bool fixed_timeouts;   // the core's random numbers are all the same
    bool aligned;          // all members tick at the same moments
    uint32_t drop_percent; // voters that an operator takes out in one change, at most
};

struct sim_profile {
    const char *name, *what;
    void (*change)(struct sim_plan *plan, struct sim_random *random);
};

extern const struct sim_profile sim_profiles[];
extern const unsigned sim_profile_count;
const struct sim_profile *sim_profile_find(const char *name);

// Draws the plan of a seed; the profile then shifts its weights.
void sim_plan_draw(struct sim_plan *plan, uint64_t seed, const struct sim_profile *profile);
