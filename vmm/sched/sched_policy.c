#include "vmm/sched/sched_policy.h"

#include <string.h>

#include "vmm/sched/sched_internal.h"

#define LEAST_BUDGET_NS UINT64_C(50000)

size_t sched_policy_size(unsigned entities)
{
    return sizeof(struct sched_policy) + entities * sizeof(struct sched_entity);
}

// ---- which CPUs belong together ----

static uint32_t component_of(const struct sched_policy *p, uint32_t cpu)
{
    uint32_t rounds = SCHED_CPUS_LIMIT;
    while (p->component[cpu] != cpu && sched_goes_on(p, &rounds))
        cpu = p->component[cpu] % SCHED_CPUS_LIMIT;
    return cpu;
}

static void join_components(struct sched_policy *p, const struct sched_cpus *cpus)
{
    uint32_t first = SCHED_NONE;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        if (!sched_cpus_has(cpus, cpu))
            continue;
        uint32_t root = component_of(p, cpu);
        if (first == SCHED_NONE)
            first = root;
        else
            p->component[root] = first;
    }
}

static bool same_cpus(const struct sched_cpus *a, const struct sched_cpus *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static uint32_t first_cpu(const struct sched_cpus *cpus)
{
    uint32_t cpu = 0;
    while (cpu < SCHED_CPUS_LIMIT && !sched_cpus_has(cpus, cpu))
        cpu++;
    return cpu % SCHED_CPUS_LIMIT; // there is one, in a set that makes sense
}

// The queue of those that an entity may use whose CPUs have the least weight each.
static uint32_t lightest_queue(const struct sched_policy *p, const struct sched_entity *e)
{
    uint32_t best = SCHED_NONE;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        uint32_t queue = p->queue_of[cpu];
        if (queue == SCHED_NONE || !sched_cpus_has(&e->affinity, cpu))
            continue;
        const struct sched_queue *q = sched_queue(p, queue), *least = sched_queue(p, best);
        if (best == SCHED_NONE || q->weight * least->cpu_count < least->weight * q->cpu_count)
            best = queue;
    }
    return best;
}

// Finds components, and where all affinities of one are the same; then queues by that.
static void lay_out_queues(struct sched_policy *p)
{
    bool uneven[SCHED_CPUS_LIMIT] = {false};
    struct sched_cpus whole[SCHED_CPUS_LIMIT] = {0};
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++)
        p->component[cpu] = cpu;
    for (uint32_t id = 0; id < sched_highest(p); id++)
        if (sched_entity(p, id)->state != SCHED_FREE)
            join_components(p, &sched_entity(p, id)->affinity);
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        p->component[cpu] = component_of(p, cpu);
        if (sched_cpus_has(&p->cpus, cpu))
            sched_cpus_add(&whole[p->component[cpu] % SCHED_CPUS_LIMIT], cpu);
    }
    for (uint32_t id = 0; id < sched_highest(p); id++) {
        const struct sched_entity *e = sched_entity(p, id);
        if (e->state == SCHED_FREE)
            continue;
        uint32_t component = p->component[first_cpu(&e->affinity)] % SCHED_CPUS_LIMIT;
        uneven[component] |= !same_cpus(&e->affinity, &whole[component]);
    }
    p->mixed = false;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        sched_queue_init(&p->queues[cpu]);
        p->queue_of[cpu] = SCHED_NONE;
    }
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        if (!sched_cpus_has(&p->cpus, cpu))
            continue;
        uint32_t component = p->component[cpu] % SCHED_CPUS_LIMIT;
        p->mixed |= uneven[component];
        p->queue_of[cpu] = uneven[component] ? cpu : first_cpu(&whole[component]);
        struct sched_queue *q = sched_queue(p, p->queue_of[cpu]);
        q->cpu_count++;
        sched_cpus_add(&q->cpus, cpu);
    }
}

// Affinities have changed. All leave, with their lags, and come back to where they belong now.
static void lay_out(struct sched_policy *p, uint64_t now)
{
    for (uint32_t id = 0; id < sched_highest(p); id++) {
        struct sched_entity *e = sched_entity(p, id);
        e->moving = e->queued;
        if (e->queued)
            sched_queue_leave(p, id, now);
    }
    lay_out_queues(p);
    for (uint32_t id = 0; id < sched_highest(p); id++) {
        struct sched_entity *e = sched_entity(p, id);
        if (e->state == SCHED_FREE)
            continue;
        e->queue = e->state == SCHED_RUNNING && sched_cpus_has(&e->affinity, e->cpu)
                       ? p->queue_of[e->cpu % SCHED_CPUS_LIMIT]
                       : lightest_queue(p, e);
        if (e->moving)
            sched_queue_enter(p, id, now);
    }
}

// Whether queues stay as they are with one more of this affinity.
static bool fits_layout(const struct sched_policy *p, const struct sched_cpus *affinity)
{
    uint32_t queue = p->queue_of[first_cpu(affinity)];
    return !p->mixed && same_cpus(&sched_queue(p, queue)->cpus, affinity);
}

// ---- life ----

void sched_policy_init(struct sched_policy *p, unsigned entities, unsigned groups,
                       const struct sched_cpus *cpus)
{
    p->entities = entities;
    p->groups = groups;
    p->throttled = SCHED_NONE;
    p->cpus = *cpus;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        p->component[cpu] = cpu;
        p->current[cpu] = p->last[cpu] = SCHED_NONE;
        p->queue_of[cpu] = SCHED_NONE;
        sched_queue_init(&p->queues[cpu]);
    }
    // As if one that may run everywhere were here: that is what most are.
    uint32_t first = first_cpu(cpus);
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        if (!sched_cpus_has(cpus, cpu))
            continue;
        p->queue_of[cpu] = p->component[cpu] = first;
        p->queues[first].cpu_count++;
        sched_cpus_add(&p->queues[first].cpus, cpu);
    }
}

uint32_t sched_policy_add_group(struct sched_policy *p)
{
    for (uint32_t group = 0; group < sched_at_most(p->groups, SCHED_GROUPS_LIMIT); group++) {
        struct sched_group *g = sched_group(p, group);
        if (g->used)
            continue;
        *g = (struct sched_group){.used = true};
        return group;
    }
    return SCHED_NONE;
}

void sched_policy_set_group_cap(struct sched_policy *p, uint32_t group,
                                const struct sched_cap_limits *cap, uint64_t now)
{
    sched_cap_set(&sched_group(p, group)->cap, cap, now);
}

static void unthrottle(struct sched_policy *p, uint32_t id)
{
    sched_tree_remove(sched_nodes(p), &p->throttled, id);
    sched_entity(p, id)->state = SCHED_ASLEEP;
}

static void set_params(struct sched_policy *p, struct sched_entity *e,
                       const struct sched_params *params, uint64_t now)
{
    if (params->slice > p->longest_slice)
        p->longest_slice = params->slice;
    e->weight = params->weight << SCHED_WEIGHT_SHIFT;
    e->slice = params->slice;
    e->affinity = params->affinity;
    sched_cap_set(&e->cap, &params->cap, now);
}

uint32_t sched_policy_add(struct sched_policy *p, uint32_t group, const struct sched_params *params,
                          uint64_t now)
{
    for (uint32_t id = 0; id < sched_room(p); id++) {
        struct sched_entity *e = sched_entity(p, id);
        if (id < sched_highest(p) && e->state != SCHED_FREE)
            continue;
        *e = (struct sched_entity){.state = SCHED_ASLEEP, .group = group, .cpu = SCHED_NONE};
        set_params(p, e, params, now);
        if (id >= p->highest)
            p->highest = id + 1;
        if (fits_layout(p, &e->affinity))
            e->queue = p->queue_of[first_cpu(&e->affinity)];
        else
            lay_out(p, now);
        return id;
    }
    return SCHED_NONE;
}

// Whether queues have to be laid out again without it.
static bool take_out(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (e->state == SCHED_RUNNING)
        sched_policy_stop(p, id, 0, false, now);
    else
        sched_policy_sleep(p, id, now);
    if (e->queued)
        sched_queue_leave(p, id, now);
    e->state = SCHED_FREE;
    return p->mixed || !same_cpus(&sched_queue(p, e->queue)->cpus, &p->cpus);
}

void sched_policy_remove(struct sched_policy *p, uint32_t id, uint64_t now)
{
    if (take_out(p, id, now))
        lay_out(p, now);
}

void sched_policy_remove_group(struct sched_policy *p, uint32_t group, uint64_t now)
{
    bool uneven = false;
    for (uint32_t id = 0; id < sched_highest(p); id++)
        if (sched_entity(p, id)->state != SCHED_FREE && sched_entity(p, id)->group == group)
            uneven |= take_out(p, id, now);
    sched_group(p, group)->used = false;
    if (uneven)
        lay_out(p, now);
}

void sched_policy_set(struct sched_policy *p, uint32_t id, const struct sched_params *params,
                      uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    bool moved = !same_cpus(&e->affinity, &params->affinity);
    bool queued = e->queued;
    if (queued)
        sched_queue_leave(p, id, now);
    set_params(p, e, params, now);
    if (e->state == SCHED_THROTTLED) {
        unthrottle(p, id); // perhaps it has no cap any more
        e->state = SCHED_WAITING;
        queued = true;
    }
    if (queued)
        sched_queue_enter(p, id, now);
    if (moved)
        lay_out(p, now);
}

// ---- waking, sleeping, caps ----

static struct sched_cap *group_cap(const struct sched_policy *p, const struct sched_entity *e)
{
    return &sched_group(p, e->group)->cap;
}

static uint64_t cap_left(struct sched_policy *p, struct sched_entity *e, uint64_t now)
{
    uint64_t own = sched_cap_left(&e->cap, now), group = sched_cap_left(group_cap(p, e), now);
    return own < group ? own : group;
}

// Out of its queue until there is something left to use.
static void throttle(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (e->queued)
        sched_queue_leave(p, id, now);
    e->state = SCHED_THROTTLED;
    uint64_t own = sched_cap_release(&e->cap), group = sched_cap_release(group_cap(p, e));
    e->release = own > group ? own : group;
    if (!sched_before(now, e->release))
        e->release = now + 1; // it was found empty just now
    sched_tree_insert(sched_nodes(p), &p->throttled, id, e->release, 0);
}

static uint32_t first_throttled(const struct sched_policy *p)
{
    return sched_tree_first(sched_nodes(p), p->throttled);
}

static void enter_or_throttle(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (cap_left(p, e, now) == 0) {
        throttle(p, id, now);
        return;
    }
    if (p->mixed)
        e->queue = lightest_queue(p, e);
    e->state = SCHED_WAITING;
    sched_queue_enter(p, id, now);
}

// One that was late for too long: it's asleep, and nobody owes it anything.
static void give_up(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    sched_tree_remove(sched_nodes(p), &p->throttled, id);
    sched_queue_leave(p, id, now); // still as a late one, which isn't among those that wait
    e->state = SCHED_ASLEEP;
    if (e->lag > 0)
        e->lag = 0;
}

// Those whose next period has begun, and late ones. Who still has nothing is throttled again.
static void release_due(struct sched_policy *p, uint64_t now)
{
    uint32_t id, rounds = sched_room(p) * 2;
    while ((id = first_throttled(p)) != SCHED_NONE &&
           !sched_before(now, sched_entity(p, id)->release) && sched_goes_on(p, &rounds)) {
        if (sched_entity(p, id)->state == SCHED_LATE) {
            give_up(p, id, now);
            continue;
        }
        unthrottle(p, id);
        enter_or_throttle(p, id, now);
    }
}

static void become_late(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    e->release = now + SCHED_LATE_NS;
    sched_tree_insert(sched_nodes(p), &p->throttled, id, e->release, 0);
}

// It is there again. With its cap used up meanwhile it's found so when it is picked.
static void return_late(struct sched_policy *p, uint32_t id)
{
    unthrottle(p, id);
    sched_queue_return(p, id);
}

static uint32_t idle_cpu(const struct sched_policy *p, const struct sched_entity *e)
{
    const struct sched_queue *q = sched_queue(p, e->queue);
    if (e->cpu != SCHED_NONE && sched_cpus_has(&q->cpus, e->cpu) &&
        p->current[e->cpu % SCHED_CPUS_LIMIT] == SCHED_NONE)
        return e->cpu % SCHED_CPUS_LIMIT;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        // In a mixed layout a neighbour's CPU takes what it finds here.
        bool usable = p->mixed ? sched_cpus_has(&e->affinity, cpu) : sched_cpus_has(&q->cpus, cpu);
        if (usable && p->queue_of[cpu] != SCHED_NONE && p->current[cpu] == SCHED_NONE)
            return cpu;
    }
    return SCHED_NONE;
}

uint32_t sched_policy_wake(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    release_due(p, now);
    if (e->state == SCHED_LATE)
        return_late(p, id);
    else if (e->state == SCHED_ASLEEP && e->queued && cap_left(p, e, now))
        e->state = SCHED_WAITING; // where it was
    else if (e->state == SCHED_ASLEEP)
        enter_or_throttle(p, id, now);
    return e->state == SCHED_WAITING ? idle_cpu(p, e) : SCHED_NONE;
}

// It has what it wanted. More than its share: it counts on, without running, until the others have
// caught up; to leave at once would be to leave the debt to them. Less: nobody owes it anything.
static void fall_asleep(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    e->state = SCHED_ASLEEP;
    if (sched_queue_lag(sched_queue(p, e->queue), e, now) < 0)
        return;
    sched_queue_leave(p, id, now);
    e->lag = 0;
}

void sched_policy_sleep(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (e->state == SCHED_LATE)
        return_late(p, id);
    if (e->state == SCHED_WAITING)
        fall_asleep(p, id, now);
    else if (e->state == SCHED_THROTTLED)
        unthrottle(p, id);
}

void sched_policy_charge(struct sched_policy *p, uint32_t id, int64_t ran, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    sched_cap_left(&e->cap, now); // what is left of past periods counts before this use
    sched_cap_left(group_cap(p, e), now);
    sched_cap_use(&e->cap, ran);
    sched_cap_use(group_cap(p, e), ran);
    if (e->queued)
        sched_queue_ran(p, id, ran, (enum sched_state)e->state);
    else
        e->lag -= ran;
}

bool sched_policy_charge_since(struct sched_policy *p, uint32_t id, uint64_t ran, uint64_t since,
                               uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    const struct sched_queue *q = sched_queue(p, e->queue);
    sched_policy_charge(p, id, (int64_t)ran, now);
    if (e->queued || now <= since)
        return sched_queue_lag(q, e, now) < 0;
    uint64_t weights = q->total + e->weight;
    uint64_t due = (uint64_t)((unsigned __int128)(now - since) * e->weight * q->cpu_count /
                              sched_divisor(&weights));
    e->lag += (int64_t)(due < now - since ? due : now - since);
    if (e->lag < 0 || cap_left(p, e, now) == 0)
        return true;
    e->lag = 0;
    return false;
}

// ---- runs ----

// Moves one that goes on to a lighter queue of those it may use. Where one queue serves all, it
// never has to.
static void balance(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    uint32_t lightest = lightest_queue(p, e);
    const struct sched_queue *to = sched_queue(p, lightest), *from = sched_queue(p, e->queue);
    if (lightest == e->queue || to->weight + e->weight >= from->weight)
        return;
    sched_queue_leave(p, id, now);
    e->queue = lightest;
    sched_queue_enter(p, id, now);
}

void sched_policy_stop(struct sched_policy *p, uint32_t id, uint64_t ran, bool wants_more,
                       uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (e->state != SCHED_RUNNING)
        return;
    p->current[e->cpu % SCHED_CPUS_LIMIT] = SCHED_NONE;
    int64_t unused = (int64_t)e->budget - (int64_t)ran;
    sched_cap_use(&e->cap, -unused);
    sched_cap_use(group_cap(p, e), -unused);
    bool waits = wants_more && cap_left(p, e, now) != 0;
    sched_queue_ran(p, id, (int64_t)ran, waits ? SCHED_WAITING : SCHED_ASLEEP);
    sched_queue_settle(p, id, now);
    if (!wants_more)
        fall_asleep(p, id, now);
    else if (!waits)
        throttle(p, id, now);
    else if (p->mixed)
        balance(p, id, now);
}

void sched_policy_suspend(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    if (e->state == SCHED_THROTTLED)
        unthrottle(p, id);
    int64_t ran = 0;
    if (e->state == SCHED_RUNNING) {
        p->current[e->cpu % SCHED_CPUS_LIMIT] = SCHED_NONE;
        ran = (int64_t)e->budget;
    } else if (e->state != SCHED_WAITING) {
        return;
    }
    sched_queue_ran(p, id, ran, SCHED_LATE);
    become_late(p, id, now);
}

struct neighbour_search {
    const struct sched_policy *p;
    uint32_t cpu, found;
};

static bool may_use(void *opaque, uint32_t id)
{
    struct neighbour_search *s = opaque;
    const struct sched_entity *e = sched_entity(s->p, id);
    if (e->state != SCHED_WAITING || !sched_cpus_has(&e->affinity, s->cpu))
        return true;
    s->found = id;
    return false;
}

// For a CPU without work: somebody who waits at a neighbour's and may use this one. Linear in who
// waits there, but only where affinities overlap and a CPU is idle.
static bool take_from_neighbour(struct sched_policy *p, uint32_t cpu, uint64_t now)
{
    struct neighbour_search s = {.p = p, .cpu = cpu, .found = SCHED_NONE};
    for (uint32_t other = 0; other < SCHED_CPUS_LIMIT && s.found == SCHED_NONE; other++)
        if (p->queue_of[other] != SCHED_NONE && p->component[other] == p->component[cpu])
            sched_tree_walk(sched_nodes(p), sched_queue(p, p->queue_of[other])->waiting, may_use,
                            &s);
    if (s.found == SCHED_NONE)
        return false;
    sched_queue_leave(p, s.found, now);
    sched_entity(p, s.found)->queue = p->queue_of[cpu];
    sched_queue_enter(p, s.found, now);
    return true;
}

static void grant_cpu(struct sched_policy *p, uint32_t cpu, uint32_t id, uint64_t left,
                      uint64_t now, struct sched_grant *grant)
{
    struct sched_entity *e = sched_entity(p, id);
    sched_queue_run(p, id, now);
    uint64_t slice =
        (uint64_t)((unsigned __int128)(e->deadline - e->time) * e->effective / SCHED_SCALE);
    uint64_t budget = slice > e->slice          ? e->slice
                      : slice < LEAST_BUDGET_NS ? LEAST_BUDGET_NS
                                                : slice;
    e->budget = budget < left ? budget : left;
    sched_cap_use(&e->cap, (int64_t)e->budget);
    sched_cap_use(group_cap(p, e), (int64_t)e->budget);
    e->cpu = cpu;
    p->current[cpu] = p->last[cpu] = id;
    *grant = (struct sched_grant){.id = id, .budget = e->budget};
}

// One that sleeps is next: the others have caught up with it, or there are none.
static void leave_asleep(struct sched_policy *p, uint32_t id, uint64_t now)
{
    sched_queue_leave(p, id, now);
    if (sched_entity(p, id)->lag > 0)
        sched_entity(p, id)->lag = 0;
}

bool sched_policy_pick(struct sched_policy *p, uint32_t cpu, uint64_t now,
                       struct sched_grant *grant)
{
    cpu %= SCHED_CPUS_LIMIT;
    if (p->queue_of[cpu] == SCHED_NONE || p->current[cpu] != SCHED_NONE || p->damaged)
        return false;
    release_due(p, now);
    for (uint32_t rounds = sched_room(p) * 2; sched_goes_on(p, &rounds);) {
        uint32_t id = sched_queue_own(p, cpu, now);
        if (id == SCHED_NONE)
            id = sched_queue_first(p, sched_queue(p, p->queue_of[cpu]), now);
        if (id == SCHED_NONE) {
            if (!p->mixed || !take_from_neighbour(p, cpu, now))
                return false;
            continue;
        }
        if (sched_policy_state(p, id) == SCHED_ASLEEP) {
            leave_asleep(p, id, now);
            continue;
        }
        uint64_t left = cap_left(p, sched_entity(p, id), now);
        if (left) {
            grant_cpu(p, cpu, id, left, now, grant);
            return true;
        }
        throttle(p, id, now); // its group has used up the cap meanwhile
    }
    return false;
}

// ---- to be looked at ----

enum sched_state sched_policy_state(const struct sched_policy *p, uint32_t id)
{
    return (enum sched_state)sched_entity(p, id)->state;
}

uint32_t sched_policy_group(const struct sched_policy *p, uint32_t id)
{
    return sched_entity(p, id)->group;
}

const struct sched_cpus *sched_policy_cpus(const struct sched_policy *p)
{
    return &p->cpus;
}

bool sched_policy_may_use(const struct sched_policy *p, uint32_t id, uint32_t cpu)
{
    return sched_cpus_has(&sched_entity(p, id)->affinity, cpu);
}

uint32_t sched_policy_cpu(const struct sched_policy *p, uint32_t id)
{
    return sched_entity(p, id)->cpu;
}

uint64_t sched_policy_budget(const struct sched_policy *p, uint32_t id)
{
    return sched_entity(p, id)->budget;
}

uint32_t sched_policy_current(const struct sched_policy *p, uint32_t cpu)
{
    return p->current[cpu % SCHED_CPUS_LIMIT];
}

void sched_policy_place(const struct sched_policy *p, uint32_t id, struct sched_cpus *cpus)
{
    const struct sched_entity *e = sched_entity(p, id);
    const struct sched_queue *q = sched_queue(p, e->queue);
    *cpus = e->affinity;
    if (q->count <= q->cpu_count)
        return;
    uint32_t rounds = SCHED_CPUS_LIMIT;
    for (uint32_t heavy = q->heavy; heavy != SCHED_NONE && sched_goes_on(p, &rounds);
         heavy = sched_entity(p, heavy)->heavy_next) {
        const struct sched_entity *h = sched_entity(p, heavy);
        if (h->state != SCHED_RUNNING)
            continue;
        if (heavy == id) {
            *cpus = (struct sched_cpus){0};
            sched_cpus_add(cpus, h->cpu);
            return;
        }
        sched_cpus_remove(cpus, h->cpu);
    }
}

uint64_t sched_policy_release(const struct sched_policy *p, uint32_t id)
{
    return sched_entity(p, id)->release;
}

int64_t sched_policy_lag(const struct sched_policy *p, uint32_t id, uint64_t now)
{
    const struct sched_entity *e = sched_entity(p, id);
    return sched_queue_lag(sched_queue(p, e->queue), e, now);
}

unsigned sched_policy_share(const struct sched_policy *p, uint32_t id)
{
    const struct sched_entity *e = sched_entity(p, id);
    const struct sched_queue *q = sched_queue(p, e->queue);
    if (!e->queued || e->state == SCHED_ASLEEP)
        return 0;
    uint64_t cpus = q->cpu_count < q->count ? q->cpu_count : q->count;
    uint64_t share = 1000 * cpus * e->effective / sched_divisor(&q->total);
    return share > 1000 ? 1000 : (unsigned)share;
}

bool sched_policy_counts(const struct sched_policy *p, uint32_t id)
{
    return sched_entity(p, id)->queued != 0;
}
