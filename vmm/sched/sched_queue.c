// A queue: virtual time, lag, and who is next.
#include "vmm/sched/sched_internal.h"

#define REBASE_DISTANCE (INT64_C(1) << 56)

void sched_queue_init(struct sched_queue *q)
{
    *q = (struct sched_queue){
        .waiting = SCHED_NONE, .weights = SCHED_NONE, .heavy = SCHED_NONE, .base = q->base};
}

static int64_t to_service(int64_t virtual_time, uint32_t weight)
{
    return (int64_t)((__int128)virtual_time * weight / (int64_t)SCHED_SCALE);
}

static int64_t to_virtual(int64_t service, uint32_t weight)
{
    return (int64_t)((__int128)service * (int64_t)SCHED_SCALE / sched_weight(&weight));
}

// Rounded down, also below zero: an entity exactly at the average must be eligible.
static int64_t average(const struct sched_queue *q, uint64_t now)
{
    // Weight times virtual time is CPU time times the scale, whatever the weight.
    __int128 in_runs = (__int128)(int64_t)(q->running * now - q->started) * (int64_t)SCHED_SCALE;
    __int128 moment = q->moment + in_runs, total = sched_divisor(&q->total);
    __int128 result = moment / total;
    if (moment % total < 0)
        result--;
    return (int64_t)result;
}

uint64_t sched_queue_time(const struct sched_queue *q, uint64_t now)
{
    return q->total ? q->base + (uint64_t)average(q, now) : q->base;
}

// CPU time of the run that it is in.
static int64_t in_run(const struct sched_entity *e, uint64_t now)
{
    return e->state == SCHED_RUNNING ? (int64_t)(now - e->started) : 0;
}

int64_t sched_queue_lag(const struct sched_queue *q, const struct sched_entity *e, uint64_t now)
{
    if (!e->queued)
        return e->lag;
    return to_service((int64_t)(sched_queue_time(q, now) - e->time), e->effective) - in_run(e, now);
}

static void count_in(struct sched_queue *q, const struct sched_entity *e)
{
    q->moment += (__int128)(int64_t)(e->time - q->base) * e->effective;
    q->total += e->effective;
    if (e->state == SCHED_RUNNING) {
        q->running++;
        q->started += e->started;
    }
}

static void count_out(struct sched_queue *q, const struct sched_entity *e)
{
    q->moment -= (__int128)(int64_t)(e->time - q->base) * e->effective;
    q->total -= e->effective;
    if (e->state == SCHED_RUNNING) {
        q->running--;
        q->started -= e->started;
    }
}

// Keeps differences from `base` far from where they would wrap.
static void rebase(struct sched_queue *q)
{
    int64_t distance = (int64_t)(q->moment / sched_divisor(&q->total));
    if (distance < REBASE_DISTANCE && distance > -REBASE_DISTANCE)
        return;
    q->base += (uint64_t)distance;
    q->moment -= (__int128)distance * q->total;
}

// Its virtual time and deadline from its lag and what is left of its slice, in ns of CPU.
static void place(const struct sched_queue *q, struct sched_entity *e, int64_t lag, int64_t left,
                  uint64_t now)
{
    int64_t used = in_run(e, now);
    e->time = sched_queue_time(q, now) - (uint64_t)to_virtual(lag + used, e->effective);
    e->deadline = e->time + (uint64_t)to_virtual(left, e->effective);
}

static void tree_add(struct sched_policy *p, struct sched_queue *q, uint32_t id)
{
    const struct sched_entity *e = sched_entity(p, id);
    sched_tree_insert(sched_nodes(p), &q->waiting, id, e->deadline, e->time);
}

static void tree_take(struct sched_policy *p, struct sched_queue *q, uint32_t id)
{
    sched_tree_remove(sched_nodes(p), &q->waiting, id);
}

// How much lag there may be. Where runs end as granted, nobody is further behind than the longest
// slice; on a host that is busy with other things CPUs are taken back, or give less than others do,
// and more is owed. A claim without end would let an entity run for too long, a debt keep it from
// running.
static int64_t bounded(const struct sched_policy *p, int64_t lag)
{
    int64_t most = 16 * (int64_t)p->longest_slice, least = -(most / 8) - 10000000;
    return lag > most ? most : lag < least ? least : lag;
}

// ---- weights that ask for more than one CPU ----

// Another effective weight and lag for one that is queued; what is left of its slice stays. The
// lags of the others change by what makes the sum of all zero again.
static void change(struct sched_policy *p, struct sched_queue *q, uint32_t id, uint32_t weight,
                   int64_t lag, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    int64_t left = to_service((int64_t)(e->deadline - e->time), e->effective);
    uint64_t others = q->total - e->effective;
    // What it changes by moves the average as well: so much more that its lag is right afterwards.
    if (others)
        lag = (int64_t)(((__int128)lag * (int64_t)(others + weight) -
                         (__int128)sched_queue_lag(q, e, now) * weight) /
                        (__int128)others);
    if (sched_is_in_tree(e))
        tree_take(p, q, id);
    struct sched_entity changed = *e;
    changed.effective = weight;
    // While the average still has the former one in it.
    place(q, &changed, lag, left, now);
    count_out(q, e);
    *e = changed;
    count_in(q, e);
    if (sched_is_in_tree(e))
        tree_add(p, q, id);
}

static void reweigh(struct sched_policy *p, struct sched_queue *q, uint32_t id, uint32_t weight,
                    int64_t most_lag, uint64_t now)
{
    const struct sched_entity *e = sched_entity(p, id);
    int64_t lag = sched_queue_lag(q, e, now);
    if (e->effective != weight || lag > most_lag)
        change(p, q, id, weight, lag < most_lag ? lag : most_lag, now);
}

static void note_debt(const struct sched_queue *q, struct sched_entity *e, uint64_t now)
{
    int64_t lag = sched_queue_lag(q, e, now);
    e->debt = lag < 0 ? lag : 0;
}

struct heavy_search {
    struct sched_policy *p;
    uint64_t rest; // weight of those not found heavy
    uint32_t cpus; // that they have
    uint32_t found, most;
    uint32_t list;
};

// An entity is heavy when its weight asks for a whole one of the CPUs that are left, or more.
static bool look_at_weight(void *opaque, uint32_t id)
{
    struct heavy_search *s = opaque;
    struct sched_entity *e = sched_entity(s->p, id);
    uint64_t asked = (uint64_t)e->weight * s->cpus;
    if (s->found == s->most || asked < s->rest)
        return false;
    s->rest -= e->weight;
    s->cpus--;
    s->found++;
    e->heavy_next = s->list;
    s->list = id;
    return true;
}

// After who counts in the queue, or its weight, has changed.
static void find_heavy(struct sched_policy *p, struct sched_queue *q, uint64_t now)
{
    uint32_t cpus = q->cpu_count < q->count ? q->cpu_count : q->count;
    if (cpus < 2 && !q->heavy_count)
        return;
    uint32_t former = q->heavy, rounds = SCHED_CPUS_LIMIT;
    for (uint32_t id = former; id != SCHED_NONE; id = sched_entity(p, id)->heavy_next) {
        if (!sched_goes_on(p, &rounds))
            return;
        sched_entity(p, id)->heavy = false;
    }
    struct heavy_search s = {.p = p,
                             .rest = q->weight,
                             .cpus = cpus,
                             .most = q->count > q->cpu_count && cpus ? cpus - 1 : cpus,
                             .list = SCHED_NONE};
    // The search links the new list through the same member, so the former ones that are heavy no
    // more are put right first: by then nobody follows the old list.
    rounds = SCHED_CPUS_LIMIT;
    for (uint32_t id = former, next; id != SCHED_NONE && sched_goes_on(p, &rounds); id = next) {
        next = sched_entity(p, id)->heavy_next;
        sched_entity(p, id)->heavy_next = SCHED_NONE;
        reweigh(p, q, id, sched_entity(p, id)->weight, INT64_MAX, now);
    }
    sched_tree_walk(sched_weight_nodes(p), q->weights, look_at_weight, &s);
    q->heavy = s.list;
    q->heavy_count = s.found;
    // With a CPU for each they are all alike.
    uint64_t share = s.cpus ? s.rest / s.cpus : SCHED_WEIGHT_DEFAULT << SCHED_WEIGHT_SHIFT;
    rounds = SCHED_CPUS_LIMIT;
    for (uint32_t id = q->heavy; id != SCHED_NONE; id = sched_entity(p, id)->heavy_next) {
        if (!sched_goes_on(p, &rounds))
            return;
        // A whole CPU is all that it can use: nobody can owe it more.
        struct sched_entity *e = sched_entity(p, id);
        e->heavy = true;
        reweigh(p, q, id, share ? (uint32_t)share : 1, 0, now);
        if (e->heavy_round != q->heavy_round)
            note_debt(q, e, now);
        e->heavy_round = q->heavy_round + 1;
    }
    q->heavy_round++;
}

static void unlink_heavy(struct sched_policy *p, struct sched_queue *q, uint32_t id)
{
    uint32_t *at = &q->heavy, rounds = SCHED_CPUS_LIMIT;
    while (*at != SCHED_NONE && *at != id && sched_goes_on(p, &rounds))
        at = &sched_entity(p, *at)->heavy_next;
    if (*at == SCHED_NONE)
        return;
    *at = sched_entity(p, id)->heavy_next;
    q->heavy_count--;
}

// ---- coming and going ----

void sched_queue_enter(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    struct sched_queue *q = sched_queue(p, e->queue);
    int64_t lag = bounded(p, e->lag);
    e->effective = e->weight;
    // Its coming moves the average towards it: so much more that its lag is right afterwards. Alone
    // it has nobody to be behind of.
    if (q->total)
        lag = (int64_t)((__int128)lag * (int64_t)(q->total + e->effective) /
                        sched_divisor(&q->total));
    else
        lag = 0;
    place(q, e, lag, (int64_t)e->slice, now);
    e->queued = true;
    q->count++;
    q->weight += e->weight;
    count_in(q, e);
    rebase(q);
    // Negative: the heaviest is the first.
    sched_tree_insert(sched_weight_nodes(p), &q->weights, id, -(uint64_t)e->weight, 0);
    if (sched_is_in_tree(e))
        tree_add(p, q, id);
    find_heavy(p, q, now);
}

void sched_queue_leave(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    struct sched_queue *q = sched_queue(p, e->queue);
    uint64_t time = sched_queue_time(q, now);
    e->lag = bounded(p, sched_queue_lag(q, e, now));
    if (sched_is_in_tree(e))
        tree_take(p, q, id);
    if (e->heavy)
        unlink_heavy(p, q, id);
    e->heavy = e->queued = false;
    sched_tree_remove(sched_weight_nodes(p), &q->weights, id);
    count_out(q, e);
    q->count--;
    q->weight -= e->weight;
    if (!q->total) {
        q->base = time;
        q->moment = 0;
    }
    find_heavy(p, q, now);
}

void sched_queue_run(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    struct sched_queue *q = sched_queue(p, e->queue);
    tree_take(p, q, id);
    note_debt(q, e, now);
    count_out(q, e);
    e->state = SCHED_RUNNING;
    e->started = now;
    count_in(q, e);
}

void sched_queue_ran(struct sched_policy *p, uint32_t id, int64_t ran, enum sched_state after)
{
    struct sched_entity *e = sched_entity(p, id);
    struct sched_queue *q = sched_queue(p, e->queue);
    if (sched_is_in_tree(e))
        tree_take(p, q, id);
    count_out(q, e);
    e->state = after;
    e->time += (uint64_t)to_virtual(ran, e->effective);
    // A remainder that isn't worth a run counts as done: the next request is a whole slice again.
    uint64_t done = e->time + (uint64_t)to_virtual((int64_t)e->slice / 16, e->effective);
    if (!sched_before(done, e->deadline))
        e->deadline = e->time + (uint64_t)to_virtual((int64_t)e->slice, e->effective);
    count_in(q, e);
    rebase(q);
    if (sched_is_in_tree(e))
        tree_add(p, q, id);
}

void sched_queue_settle(struct sched_policy *p, uint32_t id, uint64_t now)
{
    struct sched_entity *e = sched_entity(p, id);
    struct sched_queue *q = sched_queue(p, e->queue);
    int64_t lag = sched_queue_lag(q, e, now);
    int64_t settled = bounded(p, lag), most = (int64_t)p->longest_slice;
    if (e->heavy)
        settled = settled > most ? most : settled < e->debt ? e->debt : settled;
    if (lag != settled)
        change(p, q, id, e->effective, settled, now);
}

void sched_queue_return(struct sched_policy *p, uint32_t id)
{
    struct sched_entity *e = sched_entity(p, id);
    e->state = SCHED_WAITING;
    tree_add(p, sched_queue(p, e->queue), id);
}

uint32_t sched_queue_own(const struct sched_policy *p, uint32_t cpu, uint64_t now)
{
    uint32_t id = p->last[cpu % SCHED_CPUS_LIMIT];
    if (id == SCHED_NONE)
        return SCHED_NONE;
    const struct sched_entity *e = sched_entity(p, id);
    const struct sched_queue *q = sched_queue(p, e->queue);
    bool goes_on = e->state == SCHED_WAITING && e->heavy && e->cpu == cpu &&
                   e->queue == p->queue_of[cpu % SCHED_CPUS_LIMIT] &&
                   sched_queue_lag(q, e, now) >= 0;
    return goes_on ? id % SCHED_ENTITIES_LIMIT : SCHED_NONE;
}

uint32_t sched_queue_first(const struct sched_policy *p, const struct sched_queue *q, uint64_t now)
{
    uint32_t id = sched_tree_find(sched_nodes(p), q->waiting, sched_queue_time(q, now));
    // The eligible ones may all be running on other CPUs: then whoever is least ahead.
    return id != SCHED_NONE ? id : sched_tree_least(sched_nodes(p), q->waiting);
}
