// Token buckets in simulated time: the rate is kept to the token, bursts are as large as allowed,
// and what costs more than there is is paid off.
#include <check.h>
#include <stdlib.h>

#include "base/token_bucket.h"
#include "tests/unit/run_suite.h"

#define SECOND UINT64_C(1000000000)

START_TEST(without_a_rate_everything_is_allowed)
{
    struct token_bucket b = {0};
    for (uint64_t now = 0; now < 10; now++) {
        ck_assert(token_bucket_allows(&b, now));
        token_bucket_take(&b, UINT64_MAX);
        ck_assert_uint_eq(token_bucket_wait_ns(&b), 0);
    }
}
END_TEST

START_TEST(begins_with_a_burst_and_then_keeps_the_rate)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, 1000, 50, SECOND);
    unsigned done = 0;
    while (token_bucket_allows(&b, SECOND)) {
        token_bucket_take(&b, 1);
        done++;
    }
    ck_assert_uint_eq(done, 50);
    ck_assert_uint_eq(token_bucket_wait_ns(&b), SECOND / 1000);
    ck_assert(!token_bucket_allows(&b, SECOND + SECOND / 1000 - 1));
    ck_assert(token_bucket_allows(&b, SECOND + SECOND / 1000));
}
END_TEST

// Whatever the rate, and however often one looks: over a time of n seconds n * rate come in, to the
// token.
START_TEST(nothing_is_lost_to_rounding)
{
    static const struct {
        uint64_t rate, step; // step in ns
    } cases[] = {
        {1, 1},         {3, 7},          {7, 999999},          {333, 1000},
        {1000003, 13},  {10, SECOND},    {123456789, 1234567}, {UINT64_C(40000000000), 1},
        {999, 1000001}, {3000000000, 3},
    };
    struct token_bucket b = {0};
    uint64_t now = 5, end, taken = 0;
    token_bucket_set(&b, cases[_i].rate, UINT64_C(1) << 40, now);
    token_bucket_take(&b, UINT64_C(1) << 40); // empty
    unsigned steps = 100000;
    end = now + steps * cases[_i].step;
    for (; now < end; now += cases[_i].step)
        while (token_bucket_allows(&b, now)) {
            uint64_t all = (uint64_t)b.level;
            token_bucket_take(&b, all);
            taken += all;
        }
    token_bucket_allows(&b, end);
    taken += (uint64_t)b.level;
    unsigned __int128 expected =
        (unsigned __int128)cases[_i].rate * steps * cases[_i].step / SECOND;
    ck_assert_uint_eq(taken, (uint64_t)expected);
}
END_TEST

START_TEST(what_is_owed_is_paid_first)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, 100, 10, 0);
    ck_assert(token_bucket_allows(&b, 0));
    token_bucket_take(&b, 1010); // 1000 more than there is
    ck_assert(!token_bucket_allows(&b, 0));
    ck_assert_uint_eq(token_bucket_wait_ns(&b), 1001 * SECOND / 100);
    ck_assert(!token_bucket_allows(&b, 10 * SECOND));
    ck_assert_uint_eq(token_bucket_wait_ns(&b), SECOND / 100);
    ck_assert(token_bucket_allows(&b, 1001 * SECOND / 100));
}
END_TEST

// The wait that is told is exact: never too early, never a nanosecond later than needed.
START_TEST(the_wait_is_exact)
{
    srand(7);
    for (unsigned i = 0; i < 2000; i++) {
        struct token_bucket b = {0};
        uint64_t now = (uint64_t)rand();
        uint64_t rate = 1 + (uint64_t)rand() % (i % 2 ? 100 : 1000000000);
        token_bucket_set(&b, rate, 1 + (uint64_t)rand() % 1000, now);
        for (unsigned k = 0; k < 5; k++) {
            token_bucket_take(&b, (uint64_t)rand() % 5000);
            uint64_t wait = token_bucket_wait_ns(&b);
            struct token_bucket early = b;
            if (wait > 0)
                ck_assert(!token_bucket_allows(&early, now + wait - 1));
            now += wait;
            ck_assert(token_bucket_allows(&b, now));
        }
    }
}
END_TEST

START_TEST(time_that_stands_or_goes_back_brings_nothing)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, 1000, 10, 10 * SECOND);
    token_bucket_take(&b, 10);
    ck_assert(!token_bucket_allows(&b, 10 * SECOND));
    ck_assert(!token_bucket_allows(&b, 0));
    ck_assert(!token_bucket_allows(&b, 10 * SECOND));
    ck_assert(token_bucket_allows(&b, 11 * SECOND));
    ck_assert_int_eq(b.level, 10);
}
END_TEST

START_TEST(a_long_sleep_brings_one_burst)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, TOKEN_BUCKET_LIMIT, 1000, 0);
    token_bucket_take(&b, 500);
    ck_assert(token_bucket_allows(&b, UINT64_MAX));
    ck_assert_int_eq(b.level, 1000);
    ck_assert_uint_eq(b.left, 0);
}
END_TEST

START_TEST(a_new_rate_keeps_what_is_owed)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, 10, 10, 0);
    token_bucket_take(&b, 110);                 // 100 owed: 10 s
    token_bucket_set(&b, 1000, 10, 5 * SECOND); // 50 of them paid by now
    ck_assert_int_eq(b.level, -50);
    ck_assert_uint_eq(token_bucket_wait_ns(&b), 51 * SECOND / 1000);
    // A smaller burst takes what was saved up.
    ck_assert(token_bucket_allows(&b, 20 * SECOND));
    ck_assert_int_eq(b.level, 10);
    token_bucket_set(&b, 1000, 3, 20 * SECOND);
    ck_assert_int_eq(b.level, 3);
    // No limit, and one again: it begins full.
    token_bucket_take(&b, 1000);
    token_bucket_set(&b, 0, 0, 21 * SECOND);
    ck_assert(token_bucket_allows(&b, 21 * SECOND));
    token_bucket_set(&b, 5, 7, 22 * SECOND);
    ck_assert_int_eq(b.level, 7);
}
END_TEST

START_TEST(huge_numbers_do_not_wrap)
{
    struct token_bucket b = {0};
    token_bucket_set(&b, UINT64_MAX, UINT64_MAX, 0);
    ck_assert_uint_eq(b.rate, TOKEN_BUCKET_LIMIT);
    for (unsigned i = 0; i < 100; i++)
        token_bucket_take(&b, UINT64_MAX);
    ck_assert_int_lt(b.level, 0);
    ck_assert(!token_bucket_allows(&b, 0));
    ck_assert_uint_gt(token_bucket_wait_ns(&b), 0);
    ck_assert(token_bucket_allows(&b, UINT64_MAX));
    token_bucket_set(&b, 1, 1, UINT64_MAX);
    token_bucket_take(&b, UINT64_MAX);
    ck_assert_uint_eq(token_bucket_wait_ns(&b), UINT64_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("token bucket");
    TCase *tests = tcase_create("token bucket");
    tcase_add_test(tests, without_a_rate_everything_is_allowed);
    tcase_add_test(tests, begins_with_a_burst_and_then_keeps_the_rate);
    tcase_add_loop_test(tests, nothing_is_lost_to_rounding, 0, 10);
    tcase_add_test(tests, what_is_owed_is_paid_first);
    tcase_add_test(tests, the_wait_is_exact);
    tcase_add_test(tests, time_that_stands_or_goes_back_brings_nothing);
    tcase_add_test(tests, a_long_sleep_brings_one_burst);
    tcase_add_test(tests, a_new_rate_keeps_what_is_owed);
    tcase_add_test(tests, huge_numbers_do_not_wrap);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
