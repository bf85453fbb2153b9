#include "migrate/convergence.h"

enum {
    FLAT_ROUNDS = 2,      // in a row that didn't shrink by a quarter, before the guest is slowed
    FIRST_THROTTLE = 200, // thousandths
    THROTTLE_STEP = 100,
};

static uint64_t time_for(uint64_t bytes, uint64_t bandwidth)
{
    if (bytes == 0)
        return 0;
    if (bandwidth == 0)
        return UINT64_MAX;
    unsigned __int128 ns = (unsigned __int128)bytes * 1000000000u / bandwidth;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static void slow_down(struct convergence *c)
{
    unsigned wanted = c->throttle ? c->throttle + THROTTLE_STEP : FIRST_THROTTLE;
    c->throttle = wanted < c->throttle_limit ? wanted : c->throttle_limit;
}

enum convergence_decision convergence_decide(struct convergence *c,
                                             const struct convergence_sample *sample)
{
    uint64_t transfer = time_for(sample->remaining, sample->bandwidth);
    c->expected_downtime_ns =
        transfer > UINT64_MAX - c->fixed_cost_ns ? UINT64_MAX : transfer + c->fixed_cost_ns;
    if (c->expected_downtime_ns <= c->downtime_ns || sample->remaining == 0)
        return CONVERGENCE_SWITCH;
    if (c->timeout_ns && sample->elapsed_ns >= c->timeout_ns)
        return c->force_on_timeout ? CONVERGENCE_FORCE : CONVERGENCE_TIMEOUT;
    // The first round sends everything, so the second is the first that can be compared.
    if (c->rounds > 0 && sample->remaining > c->last_remaining / 4 * 3)
        c->flat_rounds++;
    else
        c->flat_rounds = 0;
    if (c->flat_rounds >= FLAT_ROUNDS) {
        slow_down(c);
        c->flat_rounds = 0;
    }
    c->last_remaining = sample->remaining;
    c->rounds++;
    return CONVERGENCE_ROUND;
}
