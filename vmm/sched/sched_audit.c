// Whether the policy's memory makes sense.
#include <string.h>

#include "vmm/sched/sched_internal.h"

enum { WORDS = SCHED_ENTITIES_LIMIT / 64 };

// What the entities say about a queue.
struct sums {
    uint32_t count, waiting, heavy;
    uint64_t total, weight, running, started;
    __int128 moment;
};

struct audit {
    const struct sched_policy *p;
    uint32_t highest;
    uint32_t throttled; // entities that are throttled or late
    struct sums queues[SCHED_CPUS_LIMIT];
    // The tree that is walked.
    uint64_t seen[WORDS];
    uint32_t found, queue;
    bool by_weight, first;
    uint64_t key;
    bool right;
};

// ---- entities ----

static bool cpus_are_some_of(const struct sched_cpus *cpus, const struct sched_cpus *all)
{
    uint64_t any = 0, others = 0;
    for (unsigned i = 0; i < SCHED_CPUS_LIMIT / 64; i++) {
        any |= cpus->bits[i];
        others |= cpus->bits[i] & ~all->bits[i];
    }
    return any && !others;
}

static bool is_in_throttled_tree(const struct sched_entity *e)
{
    return e->state == SCHED_THROTTLED || e->state == SCHED_LATE;
}

static bool cap_is_right(const struct sched_cap *cap)
{
    return !cap->limits.quota || cap->limits.period;
}

static bool settings_are_right(const struct sched_policy *p, const struct sched_entity *e)
{
    uint32_t weight = e->weight >> SCHED_WEIGHT_SHIFT;
    return weight >= SCHED_WEIGHT_LEAST && weight <= SCHED_WEIGHT_MOST && e->slice &&
           e->slice <= p->longest_slice && cap_is_right(&e->cap) &&
           cpus_are_some_of(&e->affinity, &p->cpus);
}

static bool state_is_right(const struct sched_policy *p, uint32_t id, const struct sched_entity *e)
{
    switch (e->state) {
    case SCHED_ASLEEP:
        return true;
    case SCHED_RUNNING:
        return e->queued && e->cpu < SCHED_CPUS_LIMIT &&
               p->current[e->cpu % SCHED_CPUS_LIMIT] == id;
    case SCHED_WAITING:
    case SCHED_LATE:
        return e->queued;
    case SCHED_THROTTLED:
        return !e->queued;
    default:
        return false;
    }
}

static void count(struct sums *s, const struct sched_queue *q, const struct sched_entity *e)
{
    s->count++;
    s->waiting += sched_is_in_tree(e);
    s->heavy += e->heavy != 0;
    s->total += e->effective;
    s->weight += e->weight;
    s->moment += (__int128)(int64_t)(e->time - q->base) * e->effective;
    if (e->state == SCHED_RUNNING) {
        s->running++;
        s->started += e->started;
    }
}

static bool entities_are_right(struct audit *a)
{
    const struct sched_policy *p = a->p;
    for (uint32_t id = 0; id < a->highest; id++) {
        const struct sched_entity *e = sched_entity(p, id);
        const struct sched_queue *q = sched_queue(p, e->queue);
        if (e->state == SCHED_FREE)
            continue;
        if (e->group >= p->groups || !sched_group(p, e->group)->used || !q->cpu_count ||
            !settings_are_right(p, e) || !state_is_right(p, id, e) || (e->heavy && !e->queued))
            return false;
        if (e->queued && !e->effective)
            return false;
        if (e->queued)
            count(&a->queues[e->queue], q, e);
        a->throttled += is_in_throttled_tree(e);
    }
    return true;
}

// ---- trees and lists ----

static bool look_at_node(void *opaque, uint32_t id)
{
    struct audit *a = opaque;
    const struct sched_entity *e = sched_entity(a->p, id);
    const struct sched_node *n = a->by_weight ? &e->by_weight : &e->by_time;
    bool belongs = a->queue == SCHED_NONE
                       ? is_in_throttled_tree(e)
                       : e->queue == a->queue && e->queued && (a->by_weight || sched_is_in_tree(e));
    bool again = a->seen[id / 64] >> (id % 64) & 1;
    bool in_order = a->first || !sched_before(n->key, a->key);
    a->seen[id / 64] |= UINT64_C(1) << (id % 64);
    a->first = false;
    a->key = n->key;
    a->found++;
    a->right = id < a->highest && e->state != SCHED_FREE && belongs && !again && in_order;
    return a->right;
}

// `queue`: whose tree it is; SCHED_NONE: that of the throttled ones.
static bool tree_is_right(struct audit *a, uint32_t root, uint32_t queue, bool by_weight,
                          uint32_t nodes)
{
    if (nodes == 0)
        return root == SCHED_NONE;
    struct sched_nodes at = by_weight ? sched_weight_nodes(a->p) : sched_nodes(a->p);
    memset(a->seen, 0, sizeof(a->seen));
    a->found = 0;
    a->queue = queue;
    a->by_weight = by_weight;
    a->first = a->right = true;
    return sched_tree_walk(at, root, look_at_node, a) && a->right && a->found == nodes;
}

static bool heavy_list_is_right(const struct audit *a, uint32_t queue, uint32_t count)
{
    const struct sched_policy *p = a->p;
    uint32_t id = sched_queue(p, queue)->heavy;
    for (uint32_t i = 0; i < count; i++) {
        if (id == SCHED_NONE || id >= a->highest || !sched_entity(p, id)->heavy ||
            sched_entity(p, id)->queue != queue)
            return false;
        id = sched_entity(p, id)->heavy_next;
    }
    return id == SCHED_NONE; // so none is in it twice
}

static bool queue_is_right(struct audit *a, uint32_t queue)
{
    const struct sched_queue *q = sched_queue(a->p, queue);
    const struct sums *s = &a->queues[queue];
    uint32_t cpus = 0;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++)
        cpus += a->p->queue_of[cpu] == queue && sched_cpus_has(&q->cpus, cpu);
    return cpus == q->cpu_count && s->count == q->count && s->total == q->total &&
           s->weight == q->weight && s->running == q->running && s->started == q->started &&
           s->moment == q->moment && s->heavy == q->heavy_count &&
           heavy_list_is_right(a, queue, s->heavy) &&
           tree_is_right(a, q->waiting, queue, false, s->waiting) &&
           tree_is_right(a, q->weights, queue, true, s->count);
}

// ---- the whole ----

static bool cpus_are_right(const struct audit *a)
{
    const struct sched_policy *p = a->p;
    for (uint32_t cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++) {
        uint32_t queue = p->queue_of[cpu], id = p->current[cpu];
        if ((queue == SCHED_NONE) == sched_cpus_has(&p->cpus, cpu) ||
            (queue != SCHED_NONE && queue >= SCHED_CPUS_LIMIT))
            return false;
        if (id != SCHED_NONE && (id >= a->highest || sched_entity(p, id)->cpu != cpu ||
                                 sched_entity(p, id)->state != SCHED_RUNNING))
            return false;
    }
    return true;
}

bool sched_policy_is_sound(const struct sched_policy *p, unsigned entities, unsigned groups)
{
    return p->entities == entities && p->groups == groups && p->highest <= entities && !p->damaged;
}

bool sched_policy_audit(struct sched_policy *p)
{
    struct audit a = {.p = p, .highest = sched_highest(p)};
    bool right = !p->damaged && p->longest_slice <= SCHED_SLICE_MOST && cpus_are_right(&a) &&
                 entities_are_right(&a);
    for (uint32_t queue = 0; queue < SCHED_CPUS_LIMIT && right; queue++)
        if (sched_queue(p, queue)->cpu_count)
            right = queue_is_right(&a, queue);
    right = right && tree_is_right(&a, p->throttled, SCHED_NONE, false, a.throttled);
    for (uint32_t group = 0; group < SCHED_GROUPS_LIMIT && right; group++)
        right = cap_is_right(&sched_group(p, group)->cap);
    if (!right)
        sched_policy_condemn(p);
    return right;
}

void sched_policy_condemn(struct sched_policy *p)
{
    p->damaged = 1;
}
