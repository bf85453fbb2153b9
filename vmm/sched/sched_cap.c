#include "vmm/sched/sched_cap.h"

#include "vmm/sched/sched_internal.h"

enum { LEAST_RUN_NS = 100000 };

// A run shorter than this isn't granted.
static int64_t least_run(const struct sched_cap *cap)
{
    int64_t half = (int64_t)(cap->limits.quota / 2);
    return half < LEAST_RUN_NS ? half + 1 : LEAST_RUN_NS;
}

static void refill(struct sched_cap *cap, uint64_t now)
{
    uint64_t period = sched_divisor(&cap->limits.period);
    uint64_t periods = now > cap->origin ? (now - cap->origin) / period + 1 : 0;
    if (periods <= cap->refills)
        return;
    int64_t most = (int64_t)(cap->limits.quota + cap->limits.burst) + least_run(cap);
    __int128 left = cap->left + (__int128)(periods - cap->refills) * cap->limits.quota;
    cap->left = left > most ? most : (int64_t)left;
    cap->refills = periods;
}

void sched_cap_set(struct sched_cap *cap, const struct sched_cap_limits *limits, uint64_t now)
{
    if (cap->limits.quota == limits->quota && cap->limits.period == limits->period &&
        cap->limits.burst == limits->burst)
        return;
    *cap = (struct sched_cap){.limits = *limits, .origin = now};
    if (limits->quota) {
        cap->refills = 1;
        cap->left = (int64_t)limits->quota;
    }
}

uint64_t sched_cap_left(struct sched_cap *cap, uint64_t now)
{
    if (!cap->limits.quota)
        return UINT64_MAX;
    refill(cap, now);
    return cap->left >= least_run(cap) ? (uint64_t)cap->left : 0;
}

uint64_t sched_cap_release(const struct sched_cap *cap)
{
    int64_t lacking = least_run(cap) - cap->left;
    uint64_t quota = __atomic_load_n(&cap->limits.quota, __ATOMIC_RELAXED);
    if (!quota || lacking <= 0)
        return cap->origin;
    uint64_t periods = ((uint64_t)lacking + quota - 1) / quota;
    // Refill number r (from 1) comes at the beginning of period r - 1.
    return cap->origin + (cap->refills + periods - 1) * cap->limits.period;
}

void sched_cap_use(struct sched_cap *cap, int64_t ns)
{
    if (cap->limits.quota)
        cap->left -= ns;
}
