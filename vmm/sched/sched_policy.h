// Who runs on which CPU, and for how long: the pure policy of time slicing. No clock, no thread, no
// I/O: the caller says what happened and when, and asks who is next.
//
// Proportional share by virtual deadlines (EEVDF: Stoica and Abdel-Wahab, 1995). Each entity (a
// vCPU) has a virtual time that goes on by its CPU time divided by its weight; the average of those
// that want to run, by weight, is the virtual time of the queue. Who isn't ahead of it is eligible,
// and of these the one runs whose next slice would be done first in virtual time. An entity's lag
// is what it got less than its share of an ideal machine that runs everybody at once. Who goes to
// sleep with more than its share counts on until the others have caught up, so that sleeping
// cancels no debt.
//
// Several CPUs serve one queue where every entity of theirs may run on all of them. An entity can't
// use more than one CPU: whose weight asks for more counts as one CPU, and the others share the
// rest (Chandra et al., Surplus Fair Scheduling, 2000). Where affinities overlap without being
// equal each CPU has a queue of its own: entities are placed on the lightest one they may use, and
// a CPU without work takes from its neighbours.
//
// A group (a machine) may have a cap over its entities, and each entity one of its own; who has
// used it up leaves the queue until the next period.
//
// Everything lies in one piece of memory of the caller's without a pointer in it, so that processes
// can share it; they lock it themselves. Times are nanoseconds of one clock.
//
// What is in that memory is believed only as far as it hurts nobody but those who share it: one of
// them may write anything there, at any moment. Numbers of entities, groups, queues and CPUs are
// masked where they are used, each loop and recursion has an end of its own, and nothing is divided
// by what may be 0. So whatever the memory holds, a call returns soon and touches nothing outside
// of SCHED_ENTITIES_LIMIT entities, which the memory behind it must have room for (pages that
// nobody touches will do). Nonsense that is met is noted: sched_policy_is_sound().
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/sched/sched_cap.h"
#include "vmm/sched/sched_tree.h"

enum {
    SCHED_CPUS_LIMIT = 256, // this and the next two: powers of 2
    SCHED_GROUPS_LIMIT = 256,
    SCHED_ENTITIES_LIMIT = 16384,
    SCHED_WEIGHT_LEAST = 1,
    SCHED_WEIGHT_MOST = 10000,
    SCHED_WEIGHT_DEFAULT = 100,
};
#define SCHED_SLICE_LEAST   UINT64_C(100000)
#define SCHED_SLICE_MOST    UINT64_C(100000000)
#define SCHED_SLICE_DEFAULT UINT64_C(3000000)
// Who is late for longer is taken for asleep.
#define SCHED_LATE_NS UINT64_C(100000000)

struct sched_cpus {
    uint64_t bits[SCHED_CPUS_LIMIT / 64];
};

static inline bool sched_cpus_has(const struct sched_cpus *cpus, unsigned cpu)
{
    return cpus->bits[cpu / 64 % (SCHED_CPUS_LIMIT / 64)] >> (cpu % 64) & 1;
}
static inline void sched_cpus_add(struct sched_cpus *cpus, unsigned cpu)
{
    cpus->bits[cpu / 64 % (SCHED_CPUS_LIMIT / 64)] |= UINT64_C(1) << (cpu % 64);
}
static inline void sched_cpus_remove(struct sched_cpus *cpus, unsigned cpu)
{
    cpus->bits[cpu / 64 % (SCHED_CPUS_LIMIT / 64)] &= ~(UINT64_C(1) << (cpu % 64));
}

struct sched_params {
    unsigned weight; // SCHED_WEIGHT_LEAST..MOST
    uint64_t slice;  // ns, SCHED_SLICE_LEAST..MOST
    struct sched_cap_limits cap;
    struct sched_cpus affinity; // of the policy's CPUs, at least one
};

enum sched_state {
    SCHED_FREE, // no such entity
    SCHED_ASLEEP,
    SCHED_WAITING,   // wants to run
    SCHED_RUNNING,   // has a CPU
    SCHED_THROTTLED, // wants to run, but its cap or its group's is used up
    SCHED_LATE,      // lost its CPU or its place: counts on, but isn't picked until it wakes
};

struct sched_policy;

// Bytes for so many, at most SCHED_ENTITIES_LIMIT.
size_t sched_policy_size(unsigned entities);
// `p` is aligned to 16 bytes and has sched_policy_size() bytes, all zero; `groups` at most
// SCHED_GROUPS_LIMIT. `cpus` are those it gives away.
void sched_policy_init(struct sched_policy *p, unsigned entities, unsigned groups,
                       const struct sched_cpus *cpus);

// The group's number, or SCHED_NONE when there is no room.
uint32_t sched_policy_add_group(struct sched_policy *p);
void sched_policy_set_group_cap(struct sched_policy *p, uint32_t group,
                                const struct sched_cap_limits *cap, uint64_t now);
// Takes its entities along.
void sched_policy_remove_group(struct sched_policy *p, uint32_t group, uint64_t now);

// A sleeping entity; its number, or SCHED_NONE.
uint32_t sched_policy_add(struct sched_policy *p, uint32_t group, const struct sched_params *params,
                          uint64_t now);
void sched_policy_remove(struct sched_policy *p, uint32_t id, uint64_t now);
// A running entity keeps its grant.
void sched_policy_set(struct sched_policy *p, uint32_t id, const struct sched_params *params,
                      uint64_t now);

// The entity wants to run. Returns an idle CPU on which sched_policy_pick() would take it (or one
// that waits longer), or SCHED_NONE. Also for one that is waiting or throttled already.
uint32_t sched_policy_wake(struct sched_policy *p, uint32_t id, uint64_t now);
// It doesn't want to run any more, or for the moment. It isn't running.
void sched_policy_sleep(struct sched_policy *p, uint32_t id, uint64_t now);
// The end of a run: `ran` ns of CPU. The CPU is idle then, so pick for it.
void sched_policy_stop(struct sched_policy *p, uint32_t id, uint64_t ran, bool wants_more,
                       uint64_t now);
// Takes the CPU of one that should have ended its run and hasn't: its whole budget counts as used.
// One that waits loses its place. They are late: until they wake nobody picks them, but for
// SCHED_LATE_NS they count as before. A host that is busy with other things delays them like that,
// the heavy ones most often as they run most often; what they miss meanwhile is owed to them.
void sched_policy_suspend(struct sched_policy *p, uint32_t id, uint64_t now);
// CPU time that was used without a grant; negative: that was charged and wasn't used.
void sched_policy_charge(struct sched_policy *p, uint32_t id, int64_t ran, uint64_t now);
// What one that was thought asleep used since that moment, in pieces nobody saw: a debt only as far
// as it is more than its share of that time.
// True when it is one: who used no more than its share needn't wait for its turn.
bool sched_policy_charge_since(struct sched_policy *p, uint32_t id, uint64_t ran, uint64_t since,
                               uint64_t now);

struct sched_grant {
    uint32_t id;
    uint64_t budget; // ns of CPU, at most a slice
};

// Gives an idle CPU to who is next. False when nobody may run on it now.
bool sched_policy_pick(struct sched_policy *p, uint32_t cpu, uint64_t now,
                       struct sched_grant *grant);

// ---- nonsense ----

// Whether it is for so many, and no nonsense has been met. Cheap.
bool sched_policy_is_sound(const struct sched_policy *p, unsigned entities, unsigned groups);
// Whether all of it makes sense: each entity is where its state says, trees and lists are whole,
// and sums are right. Looks at everything: O(n log n).
bool sched_policy_audit(struct sched_policy *p);
// It makes no sense to who knows more.
void sched_policy_condemn(struct sched_policy *p);

// ---- to be looked at ----

enum sched_state sched_policy_state(const struct sched_policy *p, uint32_t id);
uint32_t sched_policy_group(const struct sched_policy *p, uint32_t id);
// Those that the policy gives away.
const struct sched_cpus *sched_policy_cpus(const struct sched_policy *p);
bool sched_policy_may_use(const struct sched_policy *p, uint32_t id, uint32_t cpu);
uint32_t sched_policy_cpu(const struct sched_policy *p, uint32_t id);      // of a running one
uint64_t sched_policy_budget(const struct sched_policy *p, uint32_t id);   // of its grant
uint32_t sched_policy_current(const struct sched_policy *p, uint32_t cpu); // SCHED_NONE: idle
// Where its thread should be, given that the host's scheduler doesn't know who is granted what: one
// whose share is a whole CPU, and runs, on that CPU; all others, also those that work a little
// while they are thought asleep, on the rest, or they would take from its share what they owe to
// their own. Where there's a CPU for each the host may place them as it likes. Never empty.
void sched_policy_place(const struct sched_policy *p, uint32_t id, struct sched_cpus *cpus);
// When a throttled entity may run again.
uint64_t sched_policy_release(const struct sched_policy *p, uint32_t id);
// ns of CPU that it got less than its share; negative: more.
int64_t sched_policy_lag(const struct sched_policy *p, uint32_t id, uint64_t now);
// The share of one CPU that it would have if everybody who wants to run now did so for ever, by
// weights alone; in thousandths. 0 for one that sleeps.
unsigned sched_policy_share(const struct sched_policy *p, uint32_t id);
// Whether it counts in its queue: it wants to run, or sleeps but had more than its share and the
// others have not caught up yet.
bool sched_policy_counts(const struct sched_policy *p, uint32_t id);
