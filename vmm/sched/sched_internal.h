// The inside of the scheduling policy, for its files. All of it lies in memory that others may
// write nonsense to (sched_policy.h): no `bool`, which has values that aren't any, every number is
// masked where it is an index, and arithmetic wraps (-fwrapv in vmm/module.mk).
#pragma once

#include "vmm/sched/sched_policy.h"

// Virtual time: ns of CPU times SCHED_SCALE over the weight, which has SCHED_WEIGHT_SHIFT more bits
// here than people see, so that a share of several CPUs can be split evenly.
enum { SCHED_WEIGHT_SHIFT = 10 };
#define SCHED_SCALE ((uint64_t)SCHED_WEIGHT_DEFAULT << (SCHED_WEIGHT_SHIFT + 8))

struct sched_entity {
    uint32_t state; // enum sched_state
    uint32_t group;
    uint8_t queue; // can't be beyond the last
    // Counts in its queue: waiting, running, late, or asleep with more than its share.
    uint8_t queued;
    uint8_t moving; // between queues
    uint8_t heavy;
    uint32_t cpu;       // where it runs, or ran last; SCHED_NONE at first
    uint32_t weight;    // as asked for, shifted
    uint32_t effective; // what counts: less than `weight` where that asks for more than one CPU
    uint32_t heavy_next;
    uint64_t slice;
    uint64_t time, deadline; // virtual; while queued
    int64_t lag;             // ns of CPU; while not queued
    int64_t debt;            // its lag, if below zero, when its run began or it became heavy
    uint64_t heavy_round;    // the queue's, when it was last found heavy
    uint64_t budget;         // of its grant
    uint64_t started;        // its run; while running
    uint64_t release;        // while throttled; while late, when it is taken for asleep
    struct sched_cap cap;
    struct sched_cpus affinity;
    struct sched_node by_time;   // deadline, or release
    struct sched_node by_weight; // while queued
};

struct sched_queue {
    uint32_t waiting; // root of the tree by deadline
    uint32_t weights; // root of the tree by weight, heaviest first, of all that count here
    uint32_t heavy;   // list of those whose effective weight isn't their own
    uint32_t heavy_count;
    uint64_t heavy_round; // number of searches for them
    uint32_t cpu_count;
    uint32_t count;
    struct sched_cpus cpus;
    uint64_t base;   // virtual time from which `moment` counts
    uint64_t total;  // sum of the effective weights
    uint64_t weight; // sum of the weights
    __int128 moment; // sum of effective weight times (virtual time - base)
    // What the running ones have used so far is charged at the end of their runs, but counts in the
    // average at once: their number, and the sum of the moments at which their runs began.
    uint64_t running, started;
};

struct sched_group {
    uint32_t used;
    struct sched_cap cap;
};

struct sched_policy {
    uint32_t entities, groups; // room
    uint32_t highest;          // no entity from this number on was ever used
    uint32_t damaged;          // nonsense was met
    uint32_t throttled;        // root of the tree by release time, of the late ones as well
    uint64_t longest_slice;    // that anybody had
    uint32_t mixed;            // some affinities overlap without being equal
    struct sched_cpus cpus;
    uint32_t queue_of[SCHED_CPUS_LIMIT]; // SCHED_NONE: not a CPU of ours
    uint32_t component[SCHED_CPUS_LIMIT];
    uint32_t current[SCHED_CPUS_LIMIT];
    uint32_t last[SCHED_CPUS_LIMIT]; // who ran there last
    struct sched_queue queues[SCHED_CPUS_LIMIT];
    struct sched_group group[SCHED_GROUPS_LIMIT];
    struct sched_entity entity[];
};

static inline struct sched_entity *sched_entity(const struct sched_policy *p, uint32_t id)
{
    return (struct sched_entity *)&p->entity[id & (SCHED_ENTITIES_LIMIT - 1)];
}
static inline struct sched_group *sched_group(const struct sched_policy *p, uint32_t group)
{
    return (struct sched_group *)&p->group[group & (SCHED_GROUPS_LIMIT - 1)];
}
static inline struct sched_queue *sched_queue(const struct sched_policy *p, uint32_t queue)
{
    return (struct sched_queue *)&p->queues[queue & (SCHED_CPUS_LIMIT - 1)];
}
static inline struct sched_nodes sched_nodes_at(const struct sched_policy *p, size_t offset)
{
    return (struct sched_nodes){.first = (char *)p->entity + offset,
                                .damaged = (uint32_t *)&p->damaged,
                                .stride = sizeof(struct sched_entity),
                                .mask = SCHED_ENTITIES_LIMIT - 1};
}
static inline struct sched_nodes sched_nodes(const struct sched_policy *p)
{
    return sched_nodes_at(p, offsetof(struct sched_entity, by_time));
}
static inline struct sched_nodes sched_weight_nodes(const struct sched_policy *p)
{
    return sched_nodes_at(p, offsetof(struct sched_entity, by_weight));
}

// Room, and how far it was used: never more than there is.
static inline uint32_t sched_at_most(uint32_t number, uint32_t limit)
{
    return number < limit ? number : limit;
}
static inline uint32_t sched_room(const struct sched_policy *p)
{
    return sched_at_most(p->entities, SCHED_ENTITIES_LIMIT);
}
static inline uint32_t sched_highest(const struct sched_policy *p)
{
    return sched_at_most(p->highest, SCHED_ENTITIES_LIMIT);
}

// Whether it is in the tree of those that wait: also one that went to sleep with more than its
// share, until the others have caught up.
static inline bool sched_is_in_tree(const struct sched_entity *e)
{
    return e->queued && e->state != SCHED_RUNNING && e->state != SCHED_LATE;
}

// For what something is divided by: read once, and never 0.
static inline uint64_t sched_divisor(const uint64_t *number)
{
    uint64_t value = __atomic_load_n(number, __ATOMIC_RELAXED);
    return value ? value : 1;
}
static inline uint32_t sched_weight(const uint32_t *number)
{
    uint32_t value = __atomic_load_n(number, __ATOMIC_RELAXED);
    return value ? value : 1;
}

// The end of a loop that a whole board never comes to.
static inline bool sched_goes_on(const struct sched_policy *p, uint32_t *rounds)
{
    if ((*rounds)--)
        return true;
    __atomic_store_n((uint32_t *)&p->damaged, 1, __ATOMIC_RELAXED);
    return false;
}

// sched_queue.c
void sched_queue_init(struct sched_queue *q);
uint64_t sched_queue_time(const struct sched_queue *q, uint64_t now);
// Counts it in, with the lag it has; into the tree if it waits.
void sched_queue_enter(struct sched_policy *p, uint32_t id, uint64_t now);
// Counts it out; its lag is kept in the entity.
void sched_queue_leave(struct sched_policy *p, uint32_t id, uint64_t now);
// It waited and runs from now on; it ran for so many ns of CPU, and waits or is about to leave.
void sched_queue_run(struct sched_policy *p, uint32_t id, uint64_t now);
void sched_queue_ran(struct sched_policy *p, uint32_t id, int64_t ran, enum sched_state after);
// Takes the bounds of lags to it, which its run may have moved: who has a whole CPU for itself has
// all that it can use, so nobody owes it anything, even where the host gave it less of that CPU;
// nor does it owe anything where the host gave the others less of theirs.
void sched_queue_settle(struct sched_policy *p, uint32_t id, uint64_t now);
// Who has this idle CPU for itself and wants to go on, or SCHED_NONE. Another one's turn there
// would only put two on the CPU that is left.
uint32_t sched_queue_own(const struct sched_policy *p, uint32_t cpu, uint64_t now);
// It was late, and waits.
void sched_queue_return(struct sched_policy *p, uint32_t id);
// Who is next, or SCHED_NONE.
uint32_t sched_queue_first(const struct sched_policy *p, const struct sched_queue *q, uint64_t now);
int64_t sched_queue_lag(const struct sched_queue *q, const struct sched_entity *e, uint64_t now);
