// When a migration switches over: the policy alone, over invented measurements.
#include <check.h>

#include "base/clock.h"
#include "migrate/convergence.h"
#include "tests/unit/run_suite.h"

#define MS NSEC_PER_MSEC
#define MB UINT64_C(1000000)

struct step {
    uint64_t elapsed_ms, remaining, bandwidth;
    enum convergence_decision decision;
    unsigned throttle; // afterwards
    uint64_t sent;     // the round took what the bandwidth says
    unsigned cpu_share;
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
     {{10, 0, 0, CONVERGENCE_SWITCH, 0, 0, 0}},
     1},
    {"what is left fits exactly",
     {.downtime_ns = 10 * MS, .fixed_cost_ns = 2 * MS},
     {{10, 8 * MB, 1000 * MB, CONVERGENCE_SWITCH, 0, 0, 0}},
     1},
    {"a page more doesn't",
     {.downtime_ns = 10 * MS, .fixed_cost_ns = 2 * MS},
     {{10, 8 * MB + 4096, 1000 * MB, CONVERGENCE_ROUND, 0, 0, 0}},
     1},
    {"an unknown bandwidth is none",
     {.downtime_ns = UINT64_MAX - 1},
     {{10, 1, 0, CONVERGENCE_ROUND, 0, 0, 0}},
     1},
    {"sums don't wrap",
     {.downtime_ns = UINT64_MAX - 1, .fixed_cost_ns = UINT64_MAX},
     {{10, UINT64_MAX, 1, CONVERGENCE_ROUND, 0, 0, 0}},
     1},
    {"rounds that shrink need no throttle",
     {.downtime_ns = MS, .throttle_limit = 900},
     {{10, 512 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 1024 * MB, 0},
      {20, 300 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 512 * MB, 0},
      {30, 150 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 300 * MB, 0},
      {40, 75 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 150 * MB, 0},
      {50, MB, 1000 * MB, CONVERGENCE_SWITCH, 0, 75 * MB, 0}},
     5},
    {"a long flat round slows the guest at once to two fifths of the link",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 200 * MB, 1000},
      {20, 80 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 200 * MB, 400},
      {30, 32 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 80 * MB, 400},
      {40, MB, 1000 * MB, CONVERGENCE_SWITCH, 600, 32 * MB, 400}},
     4},
    {"who writes twice what the link carries has a fifth left",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, 400 * MB, 1000 * MB, CONVERGENCE_ROUND, 800, 200 * MB, 1000}},
     1},
    {"of a writer that mostly sleeps it is two fifths of what it uses",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 960, 200 * MB, 100}},
     1},
    {"an unknown use is all that it may have",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 200 * MB, 0}},
     1},
    {"a step that changed nothing is followed by a longer one, never beyond the limit",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 200 * MB, 1000},
      {20, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 920, 200 * MB, 400},
      {30, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 990, 200 * MB, 80},
      {40, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 990, 200 * MB, 10}},
     4},
    {"the limit holds for the first step as well",
     {.downtime_ns = MS, .throttle_limit = 250},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 250, 200 * MB, 1000},
      {20, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 250, 200 * MB, 1000}},
     2},
    {"without leave nobody is slowed",
     {.downtime_ns = MS},
     {{10, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 200 * MB, 1000},
      {20, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 200 * MB, 1000},
      {30, 200 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 200 * MB, 1000}},
     3},
    {"of short rounds it takes two in a row",
     {.downtime_ns = MS, .throttle_limit = 900},
     {{10, 20 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 20 * MB, 1000},
      {20, 10 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 20 * MB, 1000},
      {30, 10 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 10 * MB, 1000},
      {40, 10 * MB, 1000 * MB, CONVERGENCE_ROUND, 600, 10 * MB, 1000}},
     4},
    {"nobody is slowed where the next round leaves little enough",
     {.downtime_ns = 100 * MS, .throttle_limit = 900},
     {{10, 120 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 150 * MB, 1000},
      {20, 96 * MB, 1000 * MB, CONVERGENCE_SWITCH, 0, 120 * MB, 1000}},
     2},
    {"numbers without bounds",
     {.downtime_ns = MS, .throttle_limit = 990},
     {{10, UINT64_MAX, 1000 * MB, CONVERGENCE_ROUND, 0, 0, 1000},
      {20, UINT64_MAX, 1000 * MB, CONVERGENCE_ROUND, 990, 0, 1000}},
     2},
    {"the time-out cancels",
     {.downtime_ns = MS, .timeout_ns = 100 * MS},
     {{99, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 0, 0},
      {100, 100 * MB, 1000 * MB, CONVERGENCE_TIMEOUT, 0, 0, 0}},
     2},
    {"or forces",
     {.downtime_ns = MS, .timeout_ns = 100 * MS, .force_on_timeout = true},
     {{99, 100 * MB, 1000 * MB, CONVERGENCE_ROUND, 0, 0, 0},
      {100, 100 * MB, 1000 * MB, CONVERGENCE_FORCE, 0, 0, 0}},
     2},
    {"a switch that fits isn't too late",
     {.downtime_ns = MS, .timeout_ns = 100 * MS},
     {{500, 1000, 1000 * MB, CONVERGENCE_SWITCH, 0, 0, 0}},
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
            .sent = step->sent,
            .round_ns = step->bandwidth ? step->sent * 1000 / (step->bandwidth / MB + 1) : 0,
            .cpu_share = step->cpu_share,
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
    return run_suite(suite);
}
