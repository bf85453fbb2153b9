// Who loses its CPU because the host ran something else: what it is owed, and for how long; and
// who works while it is thought asleep.
#include <check.h>
#include <stdlib.h>

#include "tests/unit/run_suite.h"
#include "vmm/sched/sched_policy.h"

#define MS UINT64_C(1000000)

enum { ENTITIES = 4 };

static struct sched_policy *p;
static uint32_t ids[ENTITIES];
static const unsigned weights[ENTITIES] = {100, 200, 400, 100};

static void setup(void)
{
    struct sched_cpus one = {.bits = {1}};
    p = calloc(1, sched_policy_size(ENTITIES));
    sched_policy_init(p, ENTITIES, 2, &one);
    sched_policy_add_group(p);
    for (unsigned i = 0; i < ENTITIES; i++) {
        struct sched_params params = {.weight = weights[i], .slice = 3 * MS, .affinity = one};
        ids[i] = sched_policy_add(p, 0, &params, 0);
    }
}

static void teardown(void)
{
    free(p);
}

static unsigned index_of(uint32_t id)
{
    unsigned i = 0;
    while (ids[i] != id)
        i++;
    return i;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

// Three that want all they can get. Every eighth run loses its CPU, is heard of again when other
// runs have passed, and has used anything up to its budget by then.
START_TEST(who_loses_its_cpu_loses_no_share)
{
    uint64_t now = 0, random = (uint64_t)_i * 7919 + 1, served[3] = {0}, back_at[3] = {0},
             taken = 0;
    uint64_t used[3] = {0}, budget[3] = {0}, total = 0;
    for (unsigned i = 0; i < 3; i++)
        sched_policy_wake(p, ids[i], now);
    while (now < 60000 * MS) {
        struct sched_grant grant;
        for (unsigned i = 0; i < 3; i++) {
            if (!back_at[i] || back_at[i] > now)
                continue;
            back_at[i] = 0;
            served[i] += used[i];
            sched_policy_charge(p, ids[i], (int64_t)used[i] - (int64_t)budget[i], now);
            sched_policy_wake(p, ids[i], now);
        }
        if (!sched_policy_pick(p, 0, now, &grant)) {
            now += MS; // all are late
            continue;
        }
        unsigned i = index_of(grant.id);
        if (next_random(&random) % 8 == 0) {
            now += grant.budget + 5 * MS;
            sched_policy_suspend(p, grant.id, now);
            ck_assert_int_eq(sched_policy_state(p, grant.id), SCHED_LATE);
            budget[i] = grant.budget;
            used[i] = next_random(&random) % grant.budget;
            back_at[i] = now + next_random(&random) % (10 * MS);
            taken++;
            continue;
        }
        now += grant.budget;
        served[i] += grant.budget;
        sched_policy_stop(p, grant.id, grant.budget, true, now);
    }
    ck_assert_uint_gt(taken, 500);
    for (unsigned i = 0; i < 3; i++)
        total += served[i];
    for (unsigned i = 0; i < 3; i++) {
        double ratio = (double)served[i] / (double)total / (weights[i] / 700.0);
        ck_assert_msg(ratio > 0.99 && ratio < 1.01, "weight %u: %.4f of its share", weights[i],
                      ratio);
    }
}
END_TEST

// One that is stopped holds nobody up, and is owed nothing when it comes back after a while.
START_TEST(late_for_long_is_asleep)
{
    struct sched_grant grant;
    uint64_t now = 0;
    sched_policy_wake(p, ids[0], now);
    sched_policy_wake(p, ids[2], now);
    ck_assert(sched_policy_pick(p, 0, now, &grant));
    uint32_t stopped = grant.id, other = stopped == ids[0] ? ids[2] : ids[0];
    now += 8 * MS;
    sched_policy_suspend(p, stopped, now);
    ck_assert(sched_policy_counts(p, stopped));
    for (uint64_t end = now + 2 * SCHED_LATE_NS; now < end; now += grant.budget) {
        ck_assert(sched_policy_pick(p, 0, now, &grant));
        ck_assert_uint_eq(grant.id, other);
        sched_policy_stop(p, other, grant.budget, true, now + grant.budget);
    }
    ck_assert_int_eq(sched_policy_state(p, stopped), SCHED_ASLEEP);
    ck_assert(!sched_policy_counts(p, stopped));
    sched_policy_wake(p, stopped, now);
    ck_assert_int_le(sched_policy_lag(p, stopped, now), (int64_t)(3 * MS));
    // Both go on.
    bool seen[2] = {false, false};
    for (unsigned i = 0; i < 20; i++, now += grant.budget) {
        ck_assert(sched_policy_pick(p, 0, now, &grant));
        seen[grant.id == stopped] = true;
        sched_policy_stop(p, grant.id, grant.budget, true, now + grant.budget);
    }
    ck_assert(seen[0] && seen[1]);
}
END_TEST

// While it is late it may be removed, changed, put to sleep, or lose its place a second time.
START_TEST(late_and_then_anything)
{
    struct sched_grant grant;
    struct sched_params params = {.weight = 300, .slice = 5 * MS, .affinity = {.bits = {1}}};
    for (unsigned i = 0; i < ENTITIES; i++)
        sched_policy_wake(p, ids[i], 0);
    ck_assert(sched_policy_pick(p, 0, 0, &grant));
    uint32_t first = grant.id;
    for (unsigned i = 0; i < ENTITIES; i++)
        sched_policy_suspend(p, ids[i], MS);
    ck_assert(!sched_policy_pick(p, 0, MS, &grant)); // nobody is there
    sched_policy_suspend(p, first, 2 * MS);
    sched_policy_set(p, first, &params, 2 * MS);
    ck_assert_int_eq(sched_policy_state(p, first), SCHED_LATE);
    sched_policy_sleep(p, ids[1], 2 * MS);
    ck_assert_int_eq(sched_policy_state(p, ids[1]), SCHED_ASLEEP);
    sched_policy_remove(p, ids[2], 2 * MS);
    ck_assert_int_eq(sched_policy_state(p, ids[2]), SCHED_FREE);
    uint32_t back = first == ids[0] ? ids[3] : ids[0];
    ck_assert_uint_eq(sched_policy_wake(p, back, 3 * MS), 0);
    ck_assert(sched_policy_pick(p, 0, 3 * MS, &grant));
    ck_assert_uint_eq(grant.id, back);
    sched_policy_stop(p, back, grant.budget, false, 6 * MS);
    for (uint64_t now = 6 * MS; now < 3 * SCHED_LATE_NS; now += 10 * MS)
        ck_assert(!sched_policy_pick(p, 0, now, &grant));
    sched_policy_remove_group(p, 0, 3 * SCHED_LATE_NS);
    for (unsigned i = 0; i < ENTITIES; i++)
        ck_assert_int_eq(sched_policy_state(p, ids[i]), SCHED_FREE);
}
END_TEST

// Who works a little now and then, without asking, is in debt only beyond its share.
START_TEST(work_in_sleep_is_debt_beyond_the_share)
{
    struct sched_grant grant;
    sched_policy_wake(p, ids[0], 0);
    sched_policy_wake(p, ids[1], 0);
    // 100 beside 300: a quarter of the CPU is its share.
    ck_assert(!sched_policy_charge_since(p, ids[3], 2 * MS, 0, 10 * MS));
    ck_assert(sched_policy_charge_since(p, ids[3], 3 * MS, 10 * MS, 20 * MS));
    ck_assert_int_lt(sched_policy_lag(p, ids[3], 20 * MS), 0);
    // A debt is paid by working less than that.
    ck_assert(sched_policy_charge_since(p, ids[3], 3 * MS, 20 * MS, 30 * MS));
    ck_assert(!sched_policy_charge_since(p, ids[3], 1 * MS, 30 * MS, 40 * MS));
    // In a cap it counts as well.
    struct sched_cap_limits cap = {.quota = MS, .period = 20 * MS};
    sched_policy_set_group_cap(p, 0, &cap, 40 * MS);
    ck_assert(sched_policy_charge_since(p, ids[3], 2 * MS, 40 * MS, 55 * MS));
    ck_assert(!sched_policy_pick(p, 0, 55 * MS, &grant));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_late");
    TCase *tc = tcase_create("late");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, who_loses_its_cpu_loses_no_share, 0, 4);
    tcase_add_test(tc, late_for_long_is_asleep);
    tcase_add_test(tc, late_and_then_anything);
    tcase_add_test(tc, work_in_sleep_is_debt_beyond_the_share);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
