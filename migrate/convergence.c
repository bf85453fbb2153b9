#include "migrate/convergence.h"

#include "base/clock.h"

enum {
    // Thousandths of what the round carried that were written meanwhile, that is of the link.
    FLAT = 750,   // from here on rounds hardly shrink
    WANTED = 400, // so much of the link may be written by a guest that is slowed
    LEAST_WANTED = 50,
    FLAT_ROUNDS = 2, // in a row, where they are too short for one to tell
};
#define TELLING_ROUND (100 * NSEC_PER_MSEC)

static uint64_t time_for(uint64_t bytes, uint64_t bandwidth)
{
    if (bytes == 0)
        return 0;
    if (bandwidth == 0)
        return UINT64_MAX;
    unsigned __int128 ns = (unsigned __int128)bytes * NSEC_PER_SEC / bandwidth;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

// How long it would stand for so much.
static uint64_t downtime_for(const struct convergence *c, uint64_t bytes, uint64_t bandwidth)
{
    uint64_t transfer = time_for(bytes, bandwidth);
    return transfer > UINT64_MAX - c->fixed_cost_ns ? UINT64_MAX : transfer + c->fixed_cost_ns;
}

// How much of what the link carried the guest wrote meanwhile, thousandths. All that was written
// again counts once, so of a fast writer in little memory it is less than what it wrote.
static uint64_t written_share(const struct convergence_sample *sample)
{
    uint64_t sent = sample->sent ? sample->sent : 1;
    unsigned __int128 share = (unsigned __int128)sample->remaining * 1000 / sent;
    return share > UINT32_MAX ? UINT32_MAX : (uint64_t)share;
}

// Whether the guest has to be slowed: another round leaves too much as well, and hardly less.
static bool is_flat(struct convergence *c, const struct convergence_sample *sample, uint64_t share)
{
    uint64_t left = (uint64_t)((unsigned __int128)sample->remaining * share / 1000);
    bool enough = share < 1000 && downtime_for(c, left, sample->bandwidth) <= c->downtime_ns;
    if (share <= FLAT || enough) {
        c->flat_rounds = 0;
        return false;
    }
    return sample->round_ns >= TELLING_ROUND || ++c->flat_rounds >= FLAT_ROUNDS;
}

// What they write follows the time that they have. When less time has changed nothing they write
// far more than is seen, the same pages again and again: then the step is twice as long.
static void slow_down(struct convergence *c, const struct convergence_sample *sample,
                      uint64_t share)
{
    unsigned has = 1000 - c->throttle;
    unsigned used = sample->cpu_share && sample->cpu_share < has ? sample->cpu_share : has;
    unsigned wanted = WANTED;
    for (unsigned i = 0; i < c->steps && wanted > LEAST_WANTED; i++)
        wanted /= 2;
    uint64_t left = (uint64_t)used * wanted / share;
    unsigned throttle = left < 1 ? 999 : 1000 - (unsigned)left;
    c->throttle = throttle < c->throttle_limit ? throttle : c->throttle_limit;
    c->flat_rounds = 0;
    c->steps++;
}

enum convergence_decision convergence_decide(struct convergence *c,
                                             const struct convergence_sample *sample)
{
    c->expected_downtime_ns = downtime_for(c, sample->remaining, sample->bandwidth);
    if (c->expected_downtime_ns <= c->downtime_ns || sample->remaining == 0)
        return CONVERGENCE_SWITCH;
    if (c->timeout_ns && sample->elapsed_ns >= c->timeout_ns)
        return c->force_on_timeout ? CONVERGENCE_FORCE : CONVERGENCE_TIMEOUT;
    uint64_t share = written_share(sample);
    if (c->throttle < c->throttle_limit && is_flat(c, sample, share))
        slow_down(c, sample, share);
    return CONVERGENCE_ROUND;
}
