// A cap: so many nanoseconds of CPU in each period, and a bounded amount of what was left over.
//
// Pure: `now` comes from the caller. What a run used beyond its grant is a debt that the next
// periods pay. A remainder too small to be worth a run is kept for the next period rather than
// lost, so that a cap is reached on average and not only approached.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct sched_cap_limits {
    uint64_t quota;  // ns of CPU a period; 0 = no cap
    uint64_t period; // ns
    uint64_t burst;  // ns that unused periods may add
};

struct sched_cap {
    struct sched_cap_limits limits;
    uint64_t origin;  // when period 0 began
    uint64_t refills; // periods whose quota was added
    int64_t left;     // ns; negative is a debt
};

// Starts afresh with one quota; the same limits as before change nothing.
void sched_cap_set(struct sched_cap *cap, const struct sched_cap_limits *limits, uint64_t now);
// How much may be used now: 0 when it's not worth a run, UINT64_MAX without a cap.
uint64_t sched_cap_left(struct sched_cap *cap, uint64_t now);
// When sched_cap_left() won't be 0 any more.
uint64_t sched_cap_release(const struct sched_cap *cap);
// Takes (or gives back, negative).
void sched_cap_use(struct sched_cap *cap, int64_t ns);
