// Shares over a window, in simulated time, as the benchmark measures them: with sleepers beside
// those that work without a pause, on one CPU and on two.
#include <check.h>
#include <math.h>

#include "tests/unit/run_suite.h"
#include "tests/unit/sched_sim.h"

// What those that never sleep should have got of `total` ns: by weight, none more than `most`.
static void fair_shares(const struct sim *s, double total, double most, double wish[SIM_TASKS])
{
    double weights = 0;
    for (unsigned i = 0; i < s->count; i++) {
        wish[i] = 0;
        weights += s->tasks[i].burst_mean ? 0 : s->tasks[i].weight;
    }
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < s->count; i++) {
            if (s->tasks[i].burst_mean || wish[i] > 0 ||
                s->tasks[i].weight * total < most * weights)
                continue;
            wish[i] = most;
            total -= most;
            weights -= s->tasks[i].weight;
            again = true;
        }
    }
    for (unsigned i = 0; i < s->count; i++)
        if (!s->tasks[i].burst_mean && wish[i] == 0)
            wish[i] = s->tasks[i].weight * total / weights;
}

// Sleepers have what they wanted; the error is of the others, in per cent of their shares.
static double share_error(struct sim *s, uint64_t window)
{
    double before[SIM_TASKS], wish[SIM_TASKS], worst = 0;
    uint64_t idle = s->idle;
    for (unsigned i = 0; i < s->count; i++)
        before[i] = s->tasks[i].served;
    sim_run(s, s->now + window);
    double total = (double)(s->cpus * window - (s->idle - idle));
    for (unsigned i = 0; i < s->count; i++)
        if (s->tasks[i].burst_mean)
            total -= s->tasks[i].served - before[i];
    fair_shares(s, total, (double)window, wish);
    for (unsigned i = 0; i < s->count; i++)
        if (!s->tasks[i].burst_mean)
            worst = fmax(worst, fabs((s->tasks[i].served - before[i]) / wish[i] - 1) * 100);
    return worst;
}

static const unsigned weights[] = {100, 200, 400};

static const struct {
    unsigned cpus, busy, sleepers, sleeper_weight;
    uint64_t burst, window;
} cases[] = {
    {1, 3, 0, 0, 0, 8 * SEC},
    {1, 3, 1, 100, MS / 3, 8 * SEC},
    {2, 3, 0, 0, 0, 8 * SEC},
    {2, 3, 1, 100, MS / 3, 8 * SEC}, // weight 4 of 7: one CPU, whatever the sleeper takes
    {2, 3, 1, 100, 2 * MS, 8 * SEC},
    {2, 6, 2, 400, MS / 15, 8 * SEC},
    {2, 24, 8, 400, MS / 15, 32 * SEC},
    {4, 24, 8, 400, MS, 16 * SEC},
};

START_TEST(windows_have_fair_shares)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct sim s;
        sim_init(&s, cases[_i].cpus, seed);
        s.reference = false;
        for (unsigned i = 0; i < cases[_i].busy; i++)
            sim_add(&s, weights[i % 3], 3 * MS, 0, 0);
        for (unsigned i = 0; i < cases[_i].sleepers; i++)
            sim_add(&s, cases[_i].sleeper_weight, 3 * MS, cases[_i].burst, 10 * MS);
        sim_run(&s, SEC);
        double error = share_error(&s, cases[_i].window);
        ck_assert_msg(error < 0.5, "case %d, seed %u: %.2f %%", _i, (unsigned)seed, error);
        ck_assert_msg(s.worst_lag <= 1.0001, "case %d: %.3f slices behind", _i, s.worst_lag);
        ck_assert_msg(s.worst_lead <= 1.0001, "case %d: %.3f slices ahead", _i, s.worst_lead);
        ck_assert_uint_lt(s.idle, SEC); // all of it before the first ones began
        sim_free(&s);
    }
}
END_TEST

// Two have a CPU each, and the host takes half of the one. The other is no debtor for that: when
// more come, all have their shares from then on.
START_TEST(who_has_a_cpu_owes_nobody)
{
    struct sim s;
    unsigned cpus = 2 + (unsigned)_i / 2;
    sim_init(&s, cpus, 1);
    s.reference = false;
    s.speed[_i % 2] = 0.5;
    for (unsigned i = 0; i < cpus; i++)
        sim_add(&s, weights[i % 3], 3 * MS, 0, 0);
    sim_run(&s, 10 * SEC);
    for (unsigned i = 0; i < 12; i++)
        sim_add(&s, weights[i % 3], 3 * MS, 0, 0)->wake_at = s.now;
    s.speed[_i % 2] = 1;
    double error = share_error(&s, 10 * SEC);
    ck_assert_msg(error < 2, "%u CPUs: %.2f %%", cpus, error);
    sim_free(&s);
}
END_TEST

// One whose weight asks for a whole CPU, or nearly, doesn't get it as the host takes a part. It
// can't catch up, and has no claim when the others become more.
START_TEST(what_the_host_took_is_not_owed_for_ever)
{
    static const unsigned heavy[] = {400, 299, 290};
    struct sim s;
    sim_init(&s, 2, 1);
    s.reference = false;
    s.speed[0] = s.speed[1] = 1;
    sim_add(&s, heavy[_i], 3 * MS, 0, 0);
    for (unsigned i = 0; i < 2; i++)
        sim_add(&s, weights[i], 3 * MS, 0, 0);
    sim_run(&s, SEC);
    for (unsigned i = 0; i < 2; i++)
        s.speed[i] = s.cpu[i].task == &s.tasks[0] ? 0.5 : 1;
    sim_run(&s, 10 * SEC);
    for (unsigned i = 0; i < 12; i++)
        sim_add(&s, weights[i % 3], 3 * MS, 0, 0)->wake_at = s.now;
    s.speed[0] = s.speed[1] = 1;
    double error = share_error(&s, 10 * SEC);
    ck_assert_msg(error < 8, "weight %u: %.2f %%", heavy[_i], error);
    sim_free(&s);
}
END_TEST

// The host takes a part of the CPU that the light ones share. The heavy one, which has the other
// for itself, owes them nothing for that: it goes on, on its CPU, without waiting, also beside a
// sleeper that wakes and has a debt at times.
START_TEST(who_has_a_cpu_keeps_it)
{
    struct sim s;
    sim_init(&s, 2, 1 + (uint64_t)_i);
    s.reference = false;
    struct sim_task *heavy = sim_add(&s, 400, 3 * MS, 0, 0);
    struct sim_task *light = sim_add(&s, 100, 3 * MS, 0, 0);
    struct sim_task *middle = sim_add(&s, 200, 3 * MS, 0, 0);
    if (_i % 2)
        sim_add(&s, 100, 3 * MS, MS / 3, 10 * MS);
    sim_run(&s, SEC);
    uint32_t cpu = s.cpu[1].task == heavy;
    ck_assert_ptr_eq(s.cpu[cpu].task, heavy);
    s.speed[!cpu] = 0.9;
    double before[] = {heavy->served - (double)s.now, light->served, middle->served};
    for (uint64_t end = s.now + 10 * SEC; s.now < end;) {
        sim_run(&s, s.now + 1);
        ck_assert_ptr_eq(s.cpu[cpu].task, heavy);
        uint64_t next = s.cpu[0].ends < s.cpu[1].ends ? s.cpu[0].ends : s.cpu[1].ends;
        sim_run(&s, next > s.now ? next : s.now + 1);
    }
    ck_assert(fabs(heavy->served - (double)s.now - before[0]) < 1e3);
    double ratio = (middle->served - before[2]) / (light->served - before[1]);
    ck_assert_msg(fabs(ratio / 2 - 1) < 0.005, "%.4f times the light one's", ratio);
    sim_free(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_shares");
    TCase *tc = tcase_create("shares");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, windows_have_fair_shares, 0, sizeof(cases) / sizeof(cases[0]));
    tcase_add_loop_test(tc, who_has_a_cpu_owes_nobody, 0, 4);
    tcase_add_loop_test(tc, what_the_host_took_is_not_owed_for_ever, 0, 3);
    tcase_add_loop_test(tc, who_has_a_cpu_keeps_it, 0, 4);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
