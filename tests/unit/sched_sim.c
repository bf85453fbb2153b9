#include "tests/unit/sched_sim.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

uint64_t sim_random(struct sim *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

uint64_t sim_around(struct sim *s, uint64_t mean)
{
    return mean / 8 + sim_random(s) % (mean * 7 / 4 + 1);
}

struct sched_cpus sim_cpus(unsigned count)
{
    struct sched_cpus cpus = {0};
    for (unsigned i = 0; i < count; i++)
        sched_cpus_add(&cpus, i);
    return cpus;
}

void sim_init(struct sim *s, unsigned cpus, uint64_t seed)
{
    struct sched_cpus all = sim_cpus(cpus);
    *s = (struct sim){.cpus = cpus, .random = seed * 0x9e3779b97f4a7c15u + 1, .reference = true};
    for (unsigned i = 0; i < cpus; i++)
        s->speed[i] = 1;
    s->p = calloc(1, sched_policy_size(SIM_TASKS));
    sched_policy_init(s->p, SIM_TASKS, 8, &all);
    ck_assert_uint_eq(sched_policy_add_group(s->p), 0);
}

void sim_free(struct sim *s)
{
    free(s->p);
}

struct sched_params sim_params(const struct sim_task *t)
{
    return (struct sched_params){.weight = t->weight, .slice = t->slice, .affinity = t->affinity};
}

struct sim_task *sim_add(struct sim *s, unsigned weight, uint64_t slice, uint64_t burst,
                         uint64_t sleep)
{
    struct sim_task *t = &s->tasks[s->count++];
    *t = (struct sim_task){.weight = weight,
                           .slice = slice,
                           .burst_mean = burst,
                           .sleep_mean = sleep,
                           .affinity = sim_cpus(s->cpus)};
    struct sched_params params = sim_params(t);
    t->id = sched_policy_add(s->p, 0, &params, s->now);
    ck_assert_uint_ne(t->id, SCHED_NONE);
    t->wake_at = s->now + (sleep ? sim_around(s, sleep) : 0);
    return t;
}

static struct sim_task *task_of(struct sim *s, uint32_t id)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->tasks[i].id == id)
            return &s->tasks[i];
    ck_abort_msg("nobody has number %u", id);
}

// ---- the ideal machine ----

static int heavier(const void *a, const void *b)
{
    const struct sim_task *const *x = a, *const *y = b;
    return (*y)->weight > (*x)->weight ? 1 : (*y)->weight < (*x)->weight ? -1 : 0;
}

// Shares of one CPU of those that are active: by weight, none above one CPU.
static unsigned ideal_shares(struct sim *s, struct sim_task *active[SIM_TASKS],
                             double share[SIM_TASKS])
{
    unsigned count = 0;
    double rest = 0;
    for (unsigned i = 0; i < s->count; i++) {
        if (!s->tasks[i].active)
            continue;
        active[count++] = &s->tasks[i];
        rest += s->tasks[i].weight;
    }
    qsort(active, count, sizeof(active[0]), heavier);
    double cpus = s->cpus;
    for (unsigned i = 0; i < count; i++) {
        double fair = cpus * active[i]->weight / rest;
        share[i] = fair > 1 ? 1 : fair;
        if (fair > 1) {
            rest -= active[i]->weight;
            cpus -= 1;
        }
    }
    return count;
}

// `lag` more for those that are active, by their shares.
static void spread(struct sim *s, double lag)
{
    struct sim_task *active[SIM_TASKS];
    double share[SIM_TASKS], sum = 0;
    unsigned count = ideal_shares(s, active, share);
    for (unsigned i = 0; i < count; i++)
        sum += share[i];
    for (unsigned i = 0; i < count; i++)
        active[i]->ideal += lag * share[i] / sum;
}

static void check_lags(struct sim *s)
{
    double slice = 0;
    if (s->checks++ % 64 == 0)
        ck_assert_msg(sched_policy_audit(s->p), "nonsense after %u steps", s->checks);
    for (unsigned i = 0; i < s->count; i++)
        slice = fmax(slice, (double)s->tasks[i].slice);
    for (unsigned i = 0; i < s->count; i++) {
        if (!s->tasks[i].active)
            continue;
        double lag = s->reference ? s->tasks[i].ideal - s->tasks[i].served
                                  : (double)sched_policy_lag(s->p, s->tasks[i].id, s->now);
        lag /= slice;
        s->worst_lag = fmax(s->worst_lag, lag);
        s->worst_lead = fmax(s->worst_lead, -lag);
    }
}

static void advance(struct sim *s, uint64_t to)
{
    struct sim_task *active[SIM_TASKS];
    double share[SIM_TASKS], passed = (double)(to - s->now);
    if (s->reference) {
        unsigned count = ideal_shares(s, active, share);
        for (unsigned i = 0; i < count; i++)
            active[i]->ideal += passed * share[i];
    }
    for (unsigned i = 0; i < s->cpus; i++) {
        if (s->cpu[i].task)
            s->cpu[i].task->served += passed * s->speed[i];
        else
            s->idle += to - s->now;
    }
    s->now = to;
    check_lags(s);
}

// Whether the task counts follows what the policy says of it. Who has gone to sleep has what it
// wanted: it leaves no claim, and while it has a debt it must not leave (but where nobody waits).
static void follow(struct sim *s, struct sim_task *t)
{
    bool active = sched_policy_counts(s->p, t->id);
    if (active == t->active)
        return;
    unsigned others = 0;
    for (unsigned i = 0; i < s->count; i++)
        others += s->tasks[i].active && &s->tasks[i] != t;
    if (active) {
        if (!others || t->kept > 0)
            t->kept = 0;
        spread(s, -t->kept);
        t->active = true;
        t->ideal = t->served + t->kept;
    } else {
        t->active = false;
        t->kept = t->ideal - t->served;
        spread(s, t->kept);
    }
}

static void follow_all(struct sim *s)
{
    for (unsigned i = 0; i < s->count; i++)
        follow(s, &s->tasks[i]);
}

// ---- events ----

void sim_give(struct sim *s, uint32_t cpu)
{
    struct sched_grant grant;
    if (s->cpu[cpu].task || !sched_policy_pick(s->p, cpu, s->now, &grant))
        return;
    struct sim_task *t = task_of(s, grant.id);
    uint64_t run = t->burst_mean && t->work < grant.budget ? t->work : grant.budget;
    ck_assert_uint_le(grant.budget, t->slice);
    ck_assert(sched_cpus_has(&t->affinity, cpu));
    if (t->waiting_since && s->now - t->waiting_since > t->worst_wait)
        t->worst_wait = s->now - t->waiting_since;
    t->waiting_since = 0;
    s->cpu[cpu] = (struct sim_cpu){.task = t,
                                   .started = s->now,
                                   .ends = s->now + (uint64_t)((double)run / s->speed[cpu]),
                                   .run = run};
}

static void wake(struct sim *s, struct sim_task *t)
{
    if (t->burst_mean && !t->work) {
        t->work = sim_around(s, t->burst_mean);
        t->wakes++;
        t->waiting_since = s->now;
    }
    t->wake_at = NEVER;
    uint32_t cpu = sched_policy_wake(s->p, t->id, s->now);
    if (cpu != SCHED_NONE)
        sim_give(s, cpu);
    if (sched_policy_state(s->p, t->id) == SCHED_THROTTLED)
        t->wake_at = sched_policy_release(s->p, t->id);
}

static void end_run(struct sim *s, uint32_t cpu)
{
    struct sim_task *t = s->cpu[cpu].task;
    uint64_t ran = s->cpu[cpu].run;
    if (t->burst_mean)
        t->work -= ran;
    bool more = !t->burst_mean || t->work;
    s->cpu[cpu].task = NULL;
    sched_policy_stop(s->p, t->id, ran, more, s->now);
    if (!more)
        t->wake_at = s->now + sim_around(s, t->sleep_mean);
    else if (sched_policy_state(s->p, t->id) == SCHED_THROTTLED)
        t->wake_at = sched_policy_release(s->p, t->id);
    sim_give(s, cpu);
}

void sim_run(struct sim *s, uint64_t until)
{
    while (s->now < until) {
        uint64_t next = until;
        for (unsigned i = 0; i < s->cpus; i++)
            if (s->cpu[i].task && s->cpu[i].ends < next)
                next = s->cpu[i].ends;
        for (unsigned i = 0; i < s->count; i++)
            if (s->tasks[i].wake_at < next)
                next = s->tasks[i].wake_at;
        advance(s, next);
        for (uint32_t i = 0; i < s->cpus; i++)
            if (s->cpu[i].task && s->cpu[i].ends <= s->now)
                end_run(s, i);
        for (unsigned i = 0; i < s->count; i++)
            if (s->tasks[i].wake_at <= s->now)
                wake(s, &s->tasks[i]);
        // Who was throttled is told by its own release only when that is noted.
        for (unsigned i = 0; i < s->count; i++) {
            struct sim_task *t = &s->tasks[i];
            if (sched_policy_state(s->p, t->id) == SCHED_THROTTLED && t->wake_at == NEVER)
                t->wake_at = sched_policy_release(s->p, t->id);
        }
        follow_all(s);
    }
}

double sim_served_ms(const struct sim_task *t)
{
    return t->served / (double)MS;
}
