// The scheduling policy in simulated time: shares, waits, caps, changes, cost.
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/unit/run_suite.h"
#include "tests/unit/sched_sim.h"

// ---- shares ----

START_TEST(shares_follow_weights)
{
    struct sim s;
    sim_init(&s, 1, 1);
    struct sim_task *t[3];
    for (unsigned i = 0; i < 3; i++)
        t[i] = sim_add(&s, 100u << i, 3 * MS, 0, 0);
    sim_run(&s, 7 * SEC);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_double_eq_tol(sim_served_ms(t[i]), 1000 << i, 4);
    ck_assert_uint_eq(s.idle, 0);
    ck_assert_uint_eq(sched_policy_share(s.p, t[2]->id), 571);
    sim_free(&s);
}
END_TEST

// Weight 4 of 7 on two CPUs would be more than one CPU: it gets one, and 1 and 2 share the other.
START_TEST(nobody_gets_more_than_one_cpu)
{
    struct sim s;
    sim_init(&s, 2, 1);
    struct sim_task *t[3];
    for (unsigned i = 0; i < 3; i++)
        t[i] = sim_add(&s, 100u << i, 3 * MS, 0, 0);
    sim_run(&s, 3 * SEC);
    ck_assert_double_eq_tol(sim_served_ms(t[0]), 1000, 7);
    ck_assert_double_eq_tol(sim_served_ms(t[1]), 2000, 7);
    ck_assert_double_eq_tol(sim_served_ms(t[2]), 3000, 7);
    // Who was held at one CPU has no claim to be paid back when another comes.
    struct sim_task *late = sim_add(&s, 400, 3 * MS, 0, 0);
    double before[3] = {t[0]->served, t[1]->served, t[2]->served};
    sim_run(&s, 3 * SEC + 1100 * MS);
    ck_assert_double_eq_tol((t[0]->served - before[0]) / (double)MS, 200, 7);
    ck_assert_double_eq_tol((t[1]->served - before[1]) / (double)MS, 400, 7);
    ck_assert_double_eq_tol((t[2]->served - before[2]) / (double)MS, 800, 7);
    ck_assert_double_eq_tol(sim_served_ms(late), 800, 7);
    sim_free(&s);
}
END_TEST

// Random weights, slices, bursts and sleeps; the seed is the test's number.
static void random_workload(struct sim *s, unsigned cpus, uint64_t seed, bool sleepers)
{
    sim_init(s, cpus, seed + 1);
    s->reference = !sleepers;
    unsigned count = 2 + (unsigned)(sim_random(s) % 24);
    for (unsigned i = 0; i < count; i++) {
        unsigned weight = 1 + (unsigned)(sim_random(s) % (sim_random(s) % 2 ? 1000 : 50));
        uint64_t slice = (1 + sim_random(s) % 6) * MS;
        bool sleeps = sleepers && sim_random(s) % 3;
        sim_add(s, weight, slice, sleeps ? sim_around(s, 5 * MS) + 1000 : 0,
                sleeps ? sim_around(s, 20 * MS) + 1000 : 0);
    }
}

START_TEST(lag_stays_below_one_slice)
{
    struct sim s;
    random_workload(&s, 1, (uint64_t)_i, false);
    sim_run(&s, 2 * SEC);
    ck_assert_msg(s.worst_lag <= 1.0001, "seed %d: lag of %.3f slices", _i, s.worst_lag);
    ck_assert_msg(s.worst_lead <= 1.0001, "seed %d: %.3f slices ahead", _i, s.worst_lead);
    sim_free(&s);
}
END_TEST

START_TEST(lag_stays_below_one_slice_with_sleepers)
{
    struct sim s;
    random_workload(&s, 1, (uint64_t)_i, true);
    sim_run(&s, 2 * SEC);
    ck_assert_msg(s.worst_lag <= 1.0001, "seed %d: lag of %.3f slices", _i, s.worst_lag);
    ck_assert_msg(s.worst_lead <= 1.0001, "seed %d: %.3f slices ahead", _i, s.worst_lead);
    sim_free(&s);
}
END_TEST

// A run on one CPU can't be taken back on another: the bound is a little wider there.
START_TEST(lag_stays_below_one_slice_on_several_cpus)
{
    struct sim s;
    unsigned cpus = 2 + (unsigned)_i % 7;
    random_workload(&s, cpus, (uint64_t)_i, _i % 2);
    sim_run(&s, 2 * SEC);
    ck_assert_msg(s.worst_lag <= 1.2, "seed %d, %u CPUs: lag of %.3f slices", _i, cpus,
                  s.worst_lag);
    ck_assert_msg(s.worst_lead <= 1.2, "seed %d, %u CPUs: %.3f slices ahead", _i, cpus,
                  s.worst_lead);
    sim_free(&s);
}
END_TEST

// Nobody waits for ever, and no CPU idles while somebody could use it.
START_TEST(nobody_starves_and_no_cpu_idles)
{
    struct sim s;
    unsigned cpus = 1 + (unsigned)_i % 4;
    random_workload(&s, cpus, (uint64_t)_i + 1000, _i % 2);
    for (unsigned i = 0; i < cpus; i++) // so many never sleep
        sim_add(&s, 1 + (unsigned)(sim_random(&s) % 100), 3 * MS, 0, 0);
    uint64_t idle = 0;
    double weights = 0, slices = 0, before[SIM_TASKS] = {0};
    for (unsigned i = 0; i < s.count; i++) {
        weights += s.tasks[i].weight;
        slices += (double)s.tasks[i].slice;
    }
    for (unsigned step = 0; step < 3; step++) {
        sim_run(&s, (step + 1) * 10 * SEC);
        if (step == 0)
            idle = s.idle; // before everybody had begun
        ck_assert_uint_eq(s.idle, idle);
        for (unsigned i = 0; i < s.count; i++) {
            struct sim_task *t = &s.tasks[i];
            double least = 10e9 * t->weight / weights - 3 * slices;
            if (!t->burst_mean)
                ck_assert_msg(t->served - before[i] >= least, "seed %d: task %u got %.3f ms", _i, i,
                              (t->served - before[i]) / 1e6);
            before[i] = t->served;
        }
    }
    sim_free(&s);
}
END_TEST

// Who sleeps most of the time and uses less than its share is served within the slices of those
// that may be ahead: each other once, and its own.
START_TEST(wake_up_latency_is_bounded)
{
    struct sim s;
    sim_init(&s, 1, (uint64_t)_i + 1);
    uint64_t bound = 0;
    for (unsigned i = 0; i < 1 + (unsigned)_i % 7; i++) {
        struct sim_task *t = sim_add(&s, 100, (1 + sim_random(&s) % 5) * MS, 0, 0);
        bound += t->slice;
    }
    // It asks for little and soon: by its deadline it goes before whole slices.
    struct sim_task *sleeper = sim_add(&s, 100, MS, 200000, 40 * MS);
    sim_run(&s, 8 * SEC);
    ck_assert_uint_gt(sleeper->wakes, 100);
    ck_assert_msg(sleeper->worst_wait <= bound, "waited %.3f ms of at most %.3f",
                  (double)sleeper->worst_wait / 1e6, (double)bound / 1e6);
    // With the shortest slice of all it waits for the one that runs, and no more.
    ck_assert_msg(sleeper->worst_wait <= 2 * 5 * MS, "waited %.3f ms",
                  (double)sleeper->worst_wait / 1e6);
    sim_free(&s);
}
END_TEST

// Sleeping doesn't pay: who takes a nap now and then gets no more than its share (but less: a run
// that ends early is not made up for).
START_TEST(short_sleeps_win_nothing)
{
    struct sim s;
    sim_init(&s, 1, 7);
    s.reference = false;
    struct sim_task *busy = sim_add(&s, 100, 3 * MS, 0, 0);
    struct sim_task *napper = sim_add(&s, 100, 3 * MS, 2 * MS, 1000);
    sim_run(&s, 20 * SEC);
    ck_assert_double_le(napper->served, busy->served * 1.01);
    ck_assert_double_ge(napper->served, busy->served * 0.5);
    sim_free(&s);
}
END_TEST

// ---- caps ----

static void set_cap(struct sim *s, struct sim_task *t, uint64_t quota, uint64_t period,
                    uint64_t burst)
{
    struct sched_params params = sim_params(t);
    params.cap = (struct sched_cap_limits){quota, period, burst};
    sched_policy_set(s->p, t->id, &params, s->now);
}

static const struct {
    unsigned thousandths, cpus, tasks;
    bool group;
} caps[] = {{250, 1, 1, false}, {500, 1, 1, false}, {500, 1, 3, false}, {10, 1, 1, false},
            {1500, 2, 2, true}, {250, 2, 4, true},  {990, 1, 1, false}, {333, 1, 2, false}};

// A cap is never exceeded, and reached where the CPUs are free for it.
START_TEST(caps_are_kept_and_reached)
{
    struct sim s;
    sim_init(&s, caps[_i].cpus, 1);
    s.reference = false;
    uint64_t period = 20 * MS, quota = period * caps[_i].thousandths / 1000;
    struct sched_cap_limits limits = {quota, period, 0};
    if (caps[_i].group)
        sched_policy_set_group_cap(s.p, 0, &limits, 0);
    struct sim_task *capped = NULL;
    for (unsigned i = 0; i < caps[_i].tasks; i++) {
        struct sim_task *t = sim_add(&s, 100, 3 * MS, 0, 0);
        capped = capped ? capped : t;
    }
    if (!caps[_i].group)
        set_cap(&s, capped, quota, period, 0);
    sim_run(&s, 10 * SEC);
    double used = 0, wanted = 10e9 * caps[_i].thousandths / 1000;
    for (unsigned i = 0; i < s.count; i++)
        used += s.tasks[i].served;
    if (!caps[_i].group && capped->served < wanted * 0.999)
        // Then it was its share that held it.
        ck_assert_double_ge(capped->served, 10e9 / caps[_i].tasks - 10e6);
    double held = caps[_i].group ? used : capped->served;
    ck_assert_msg(held <= wanted + (double)quota, "used %.3f of %.3f ms", held / 1e6, wanted / 1e6);
    if (caps[_i].group)
        ck_assert_double_ge(held, wanted * 0.999 - (double)quota);
    if (caps[_i].tasks > 1 && !caps[_i].group)
        ck_assert_uint_eq(s.idle, 0); // what the capped one leaves is used by the others
    sim_free(&s);
}
END_TEST

START_TEST(bursts_are_bounded)
{
    struct sched_cap cap = {0};
    const struct sched_cap_limits limits = {10 * MS, 20 * MS, 5 * MS};
    sched_cap_set(&cap, &limits, 0);
    ck_assert_uint_eq(sched_cap_left(&cap, 0), 10 * MS);
    // However long it didn't use any: one quota and the burst, and a remainder below one run.
    ck_assert_uint_le(sched_cap_left(&cap, 1000 * SEC), 15 * MS + MS / 10);
    ck_assert_uint_ge(sched_cap_left(&cap, 1000 * SEC), 15 * MS);
    sched_cap_use(&cap, (int64_t)(35 * MS)); // a debt of 20 ms
    ck_assert_uint_eq(sched_cap_left(&cap, 1000 * SEC), 0);
    uint64_t release = sched_cap_release(&cap);
    ck_assert_uint_eq(release, 1000 * SEC + 40 * MS);
    ck_assert_uint_eq(sched_cap_left(&cap, release - 1), 0);
    ck_assert_uint_gt(sched_cap_left(&cap, release), 0);
    // The same limits again don't forget what was used.
    sched_cap_use(&cap, (int64_t)(30 * MS));
    sched_cap_set(&cap, &limits, release);
    ck_assert_uint_eq(sched_cap_left(&cap, release), 0);
    // None: no end.
    const struct sched_cap_limits none = {0};
    sched_cap_set(&cap, &none, release);
    ck_assert_uint_eq(sched_cap_left(&cap, release), UINT64_MAX);
}
END_TEST

// ---- affinity, joining and leaving ----

static void set_affinity(struct sim *s, struct sim_task *t, uint64_t mask)
{
    memset(&t->affinity, 0, sizeof(t->affinity));
    t->affinity.bits[0] = mask;
    struct sched_params params = sim_params(t);
    sched_policy_set(s->p, t->id, &params, s->now);
}

START_TEST(disjoint_affinities_are_apart)
{
    struct sim s;
    sim_init(&s, 2, 1);
    s.reference = false;
    struct sim_task *a = sim_add(&s, 100, 3 * MS, 0, 0), *b = sim_add(&s, 300, 3 * MS, 0, 0);
    struct sim_task *c = sim_add(&s, 1, 3 * MS, 0, 0);
    set_affinity(&s, a, 1);
    set_affinity(&s, b, 1);
    set_affinity(&s, c, 2);
    sim_run(&s, 4 * SEC);
    ck_assert_double_eq_tol(sim_served_ms(a), 1000, 4);
    ck_assert_double_eq_tol(sim_served_ms(b), 3000, 4);
    ck_assert_double_eq_tol(sim_served_ms(c), 4000, 1);
    sim_free(&s);
}
END_TEST

// Where affinities overlap: no CPU idles, nobody starves, and who may move goes where there is
// room.
START_TEST(overlapping_affinities_use_all_cpus)
{
    struct sim s;
    sim_init(&s, 2, 1);
    s.reference = false;
    struct sim_task *a = sim_add(&s, 100, 3 * MS, 0, 0), *b = sim_add(&s, 100, 3 * MS, 0, 0);
    struct sim_task *c = sim_add(&s, 100, 3 * MS, 0, 0);
    set_affinity(&s, a, 1);
    set_affinity(&s, b, 1);
    sim_run(&s, 4 * SEC);
    ck_assert_double_ge(sim_served_ms(c), 3900);
    ck_assert_double_eq_tol(sim_served_ms(a), 2000, 60);
    ck_assert_double_eq_tol(sim_served_ms(b), 2000, 60);
    ck_assert_uint_le(s.idle, 20 * MS);
    set_affinity(&s, c, 1); // now all are on one CPU
    double before = c->served;
    sim_run(&s, 7 * SEC);
    ck_assert_double_eq_tol((c->served - before) / 1e6, 1000, 60);
    sim_free(&s);
}
END_TEST

// Entities that come, go, change and are taken away in the middle of a run: the others' shares stay
// right, and nothing is left of those that went.
START_TEST(changes_at_random_keep_order)
{
    struct sim s;
    random_workload(&s, 1 + (unsigned)_i % 3, (uint64_t)_i, true);
    for (unsigned step = 0; step < 100; step++) {
        sim_run(&s, s.now + sim_around(&s, 20 * MS));
        struct sim_task *t = &s.tasks[sim_random(&s) % s.count];
        t->weight = 1 + (unsigned)(sim_random(&s) % 1000);
        switch (sim_random(&s) % 4) {
        case 0:
            set_affinity(&s, t, 1 + sim_random(&s) % ((1u << s.cpus) - 1));
            break;
        case 1:
            set_cap(&s, t, sim_random(&s) % 2 ? sim_around(&s, 5 * MS) : 0, 20 * MS, 0);
            break;
        case 2:
            for (unsigned cpu = 0; cpu < s.cpus; cpu++)
                if (s.cpu[cpu].task == t)
                    s.cpu[cpu].task = NULL;
            sched_policy_remove(s.p, t->id, s.now);
            ck_assert_uint_eq(sched_policy_state(s.p, t->id), SCHED_FREE);
            struct sched_params params = sim_params(t);
            t->id = sched_policy_add(s.p, 0, &params, s.now);
            t->active = false;
            t->kept = 0;
            t->wake_at = s.now;
            break;
        default:
            set_affinity(&s, t, t->affinity.bits[0]);
            break;
        }
        for (uint32_t cpu = 0; cpu < s.cpus; cpu++)
            sim_give(&s, cpu);
    }
    // All CPUs again, no caps: what a fresh machine would do.
    for (unsigned i = 0; i < s.count; i++) {
        s.tasks[i].weight = 100;
        s.tasks[i].burst_mean = 0;
        set_affinity(&s, &s.tasks[i], (1u << s.cpus) - 1);
        if (s.tasks[i].wake_at != NEVER)
            s.tasks[i].wake_at = s.now;
    }
    sim_run(&s, s.now + SEC);
    double before[SIM_TASKS];
    for (unsigned i = 0; i < s.count; i++)
        before[i] = s.tasks[i].served;
    sim_run(&s, s.now + 10 * SEC);
    double fair = 10e9 * fmin(1, (double)s.cpus / s.count);
    for (unsigned i = 0; i < s.count; i++)
        ck_assert_msg(fabs(s.tasks[i].served - before[i] - fair) < 40e6, "task %u: %.3f ms of %.3f",
                      i, (s.tasks[i].served - before[i]) / 1e6, fair / 1e6);
    sim_free(&s);
}
END_TEST

START_TEST(room_is_bounded)
{
    struct sim s;
    sim_init(&s, 1, 1);
    struct sched_params params = {.weight = 100, .slice = 3 * MS, .affinity = sim_cpus(1)};
    for (unsigned i = 0; i < SIM_TASKS; i++)
        ck_assert_uint_ne(sched_policy_add(s.p, 0, &params, 0), SCHED_NONE);
    ck_assert_uint_eq(sched_policy_add(s.p, 0, &params, 0), SCHED_NONE);
    for (unsigned i = 1; i < 8; i++)
        ck_assert_uint_eq(sched_policy_add_group(s.p), i);
    ck_assert_uint_eq(sched_policy_add_group(s.p), SCHED_NONE);
    sched_policy_remove_group(s.p, 0, 0);
    ck_assert_uint_eq(sched_policy_add_group(s.p), 0);
    ck_assert_uint_eq(sched_policy_add(s.p, 0, &params, 0), 0);
    sim_free(&s);
}
END_TEST

// ---- cost ----

// ns of a decision (the end of a run and the next pick) among so many that want to run.
static double decision_ns(unsigned count)
{
    struct sched_cpus one = sim_cpus(1);
    struct sched_policy *p = calloc(1, sched_policy_size(count));
    sched_policy_init(p, count, 1, &one);
    sched_policy_add_group(p);
    for (unsigned i = 0; i < count; i++) {
        struct sched_params params = {.weight = 1 + i * 7 % 500, .slice = 3 * MS, .affinity = one};
        sched_policy_wake(p, sched_policy_add(p, 0, &params, 0), 0);
    }
    enum { DECISIONS = 10000 };
    uint64_t now = 0;
    struct sched_grant grant;
    struct timespec start, end;
    ck_assert(sched_policy_pick(p, 0, now, &grant));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    for (unsigned i = 0; i < DECISIONS; i++) {
        now += grant.budget;
        sched_policy_stop(p, grant.id, grant.budget, true, now);
        ck_assert(sched_policy_pick(p, 0, now, &grant));
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    free(p);
    return ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) /
           DECISIONS;
}

// A thousand times as many may cost a few times as much; a linear scan would cost a thousand times.
START_TEST(decisions_cost_little)
{
    static const unsigned counts[] = {10, 100, 1000, 10000};
    double cost[4];
    for (unsigned i = 0; i < 4; i++) {
        cost[i] = decision_ns(counts[i]);
        printf("# %u vCPUs: %.0f ns a decision\n", counts[i], cost[i]);
    }
    ck_assert_double_le(cost[3], 100 * cost[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_policy");
    TCase *shares = tcase_create("shares");
    tcase_set_timeout(shares, 60);
    tcase_add_test(shares, shares_follow_weights);
    tcase_add_test(shares, nobody_gets_more_than_one_cpu);
    tcase_add_loop_test(shares, lag_stays_below_one_slice, 0, 16);
    tcase_add_loop_test(shares, lag_stays_below_one_slice_with_sleepers, 0, 16);
    tcase_add_loop_test(shares, lag_stays_below_one_slice_on_several_cpus, 0, 16);
    suite_add_tcase(suite, shares);
    TCase *waits = tcase_create("waits");
    tcase_set_timeout(waits, 60);
    tcase_add_loop_test(waits, nobody_starves_and_no_cpu_idles, 0, 8);
    tcase_add_loop_test(waits, wake_up_latency_is_bounded, 0, 7);
    tcase_add_test(waits, short_sleeps_win_nothing);
    suite_add_tcase(suite, waits);
    TCase *limits = tcase_create("caps");
    tcase_add_loop_test(limits, caps_are_kept_and_reached, 0, sizeof(caps) / sizeof(caps[0]));
    tcase_add_test(limits, bursts_are_bounded);
    suite_add_tcase(suite, limits);
    TCase *changes = tcase_create("changes");
    tcase_set_timeout(changes, 60);
    tcase_add_test(changes, disjoint_affinities_are_apart);
    tcase_add_test(changes, overlapping_affinities_use_all_cpus);
    tcase_add_loop_test(changes, changes_at_random_keep_order, 0, 8);
    tcase_add_test(changes, room_is_bounded);
    suite_add_tcase(suite, changes);
    TCase *cost = tcase_create("cost");
    tcase_set_timeout(cost, 60);
    tcase_add_test(cost, decisions_cost_little);
    suite_add_tcase(suite, cost);
    return run_suite(suite);
}
