// Clocks, in nanoseconds. Deadlines of leases count suspend, so they use boottime; everything else
// that measures uses monotonic. Code that is tested in simulated time takes `now` as an argument
// instead.
#pragma once

#include <stdint.h>
#include <time.h>

#define NSEC_PER_SEC  UINT64_C(1000000000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_USEC UINT64_C(1000)

static inline uint64_t clock_read_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}
static inline uint64_t clock_monotonic_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}
static inline uint64_t clock_boottime_ns(void)
{
    return clock_read_ns(CLOCK_BOOTTIME);
}
static inline uint64_t clock_realtime_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}
