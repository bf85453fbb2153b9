// When a migration switches over: the policy alone, over invented measurements.
#include <check.h>
#include <stdlib.h>

#include "base/clock.h"
#include "migrate/convergence.h"

#define MS NSEC_PER_MSEC
#define MB UINT64_C(1000000)

struct step {
    uint64_t elapsed_ms, remaining, bandwidth;
    enum convergence_decision decision;
    unsigned throttle; // afterwards
};

struct run {
    const char *name;
    struct convergence settings;
    struct step steps[8];
    unsigned count;
};

static const struct run runs[] = {
    {"nothing is left",
     {.downtime_ns = 0, .fixed_cost_ns = 2 * MS},
     {{10, 0, 0, CONVERGENCE_SWITCH, 0}},
     1},
    {"what is left fits exactly",
     {.downtime_ns = 10 * MS, .fixed_cost_ns = 2 * MS},
     {{10, 8 * MB, 1000 * MB, CONVERGENCE_SWITCH, 0}},
     1},
    {"a page more doesn't",
     {.downtime_ns = 10 * MS, .fixed_cost_ns = 2 * MS},
     {{10, 8 * MB + 4096, 1000 * MB, CONVERGENCE_ROUND, 0}},
     1},
    {"an unknown bandwidth is none",
     {.downtime_ns = UINT64_MAX - 1},
     {{10, 1, 0, CONVERGENCE_ROUND, 0}},
     1},
    {"sums don't wrap",
     {.downtime_ns = UINT64_MAX - 1, .fixed_cost_ns = UINT64_MAX},
     {{10, UINT64_MAX, 1, CONVERGENCE_ROUND, 0}},
     1},
    {"rounds that shrink need no throttle",
     {.downtime_ns = MS, .throttle_limit = 900},
     {{10, 512 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {20, 300 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {30, 150 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {40, 75 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {50, MB, 1000 * MB, CONVERGENCE_SWITCH, 0}},
     5},
    {"flat rounds slow the guest, step by step, and never beyond the limit",
     {.downtime_ns = MS, .throttle_limit = 250},
     {{10, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {20, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {30, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 200},
      {40, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 200},
      {50, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 250},
      {60, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 250},
      {70, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 250}},
     7},
    {"without leave nobody is slowed",
     {.downtime_ns = MS},
     {{10, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {20, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {30, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {40, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0}},
     4},
    {"one round that shrinks starts the count anew",
     {.downtime_ns = MS, .throttle_limit = 900},
     {{10, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {20, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {30, 50 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {40, 50 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {50, 50 * MB, 1000 * MB, CONVERGENCE_ROUND, 200}},
     5},
    {"the time-out cancels",
     {.downtime_ns = MS, .timeout_ns = 100 * MS},
     {{99, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {100, 100 * MB, 1000 * MB, CONVERGENCE_TIMEOUT, 0}},
     2},
    {"or forces",
     {.downtime_ns = MS, .timeout_ns = 100 * MS, .force_on_timeout = true},
     {{99, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0},
      {100, 100 * MB, 1000 * MB, CONVERGENCE_FORCE, 0}},
     2},
    {"a switch that fits isn't too late",
     {.downtime_ns = MS, .timeout_ns = 100 * MS},
     {{500, 1000, 1000 * MB, CONVERGENCE_SWITCH, 0}},
     1},
};

START_TEST(test_run)
{
    const struct run *run = &runs[_i];
    struct convergence c = run->settings;
    for (unsigned i = 0; i < run->count; i++) {
        const struct step *step = &run->steps[i];
        struct convergence_sample sample = {
            .elapsed_ns = step->elapsed_ms * MS,
            .remaining = step->remaining,
            .bandwidth = step->bandwidth,
        };
        ck_assert_msg(convergence_decide(&c, &sample) == step->decision, "%s, step %u", run->name,
                      i);
        ck_assert_msg(c.throttle == step->throttle, "%s, step %u: %u", run->name, i, c.throttle);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("convergence");
    TCase *tc = tcase_create("convergence");
    tcase_add_loop_test(tc, test_run, 0, sizeof(runs) / sizeof(runs[0]));
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
