// The right of a machine to run and to do I/O, which ends by itself at a deadline.
//
// One word holds it all: an absolute CLOCK_BOOTTIME (so it counts the host's suspend),
// LEASE_UNBOUNDED for a machine that nobody manages, or LEASE_LOST. Whoever is about to act
// compares first. The first who finds the deadline passed latches that: from then on only
// lease_reinstate() gives the right back, no renewal does. A deadline only grows.
//
// Any thread; no locks, and no system call where the clock is read without one.
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define LEASE_LOST      UINT64_C(0)
#define LEASE_UNBOUNDED UINT64_MAX

struct lease {
    _Atomic uint64_t deadline_ns;
};

static inline uint64_t lease_deadline(const struct lease *lease)
{
    return atomic_load_explicit(&lease->deadline_ns, memory_order_acquire);
}

// Whether it still holds at `now`; latches the loss when it doesn't.
static inline bool lease_holds_at(struct lease *lease, uint64_t now)
{
    uint64_t deadline = lease_deadline(lease);
    while (now >= deadline) {
        // A renewal may have come in between: then the comparison is made anew with its deadline.
        if (deadline == LEASE_LOST ||
            atomic_compare_exchange_weak(&lease->deadline_ns, &deadline, LEASE_LOST))
            return false;
    }
    return true;
}

// The same at this moment.
static inline bool lease_holds(struct lease *lease)
{
    return lease_deadline(lease) == LEASE_UNBOUNDED || lease_holds_at(lease, clock_boottime_ns());
}

// 0, also for a deadline that isn't later than the one there is, which stays; -ETIMEDOUT when the
// lease is lost.
static inline int lease_renew(struct lease *lease, uint64_t deadline_ns, uint64_t now)
{
    uint64_t before = lease_deadline(lease);
    do {
        if (!lease_holds_at(lease, now))
            return -ETIMEDOUT;
        if (deadline_ns <= before)
            return 0;
    } while (!atomic_compare_exchange_weak(&lease->deadline_ns, &before, deadline_ns));
    return 0;
}

// Gives a lost lease back, under a new deadline. -ETIMEDOUT when that has passed too, -EALREADY
// when the lease isn't lost.
static inline int lease_reinstate(struct lease *lease, uint64_t deadline_ns, uint64_t now)
{
    uint64_t lost = LEASE_LOST;
    if (now >= deadline_ns)
        return -ETIMEDOUT;
    return atomic_compare_exchange_strong(&lease->deadline_ns, &lost, deadline_ns) ? 0 : -EALREADY;
}
