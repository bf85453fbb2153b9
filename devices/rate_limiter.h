// How much a device may do: bytes and operations a second, each with a burst; two token buckets
// (base/token_bucket.h) and the timer that goes on when there was too much.
//
// Threads: everything is on the device's I/O thread, but rate_limiter_init() and
// rate_limiter_throttled().
//
// Use: before something is done, rate_limiter_allows(); false means that `go_on` will be called
// once it may be done. Afterwards rate_limiter_charge(). While there is no limit this costs one
// comparison. There's no waiting thread and no polling: one timer, armed only while there is
// something to wait for.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/io_thread.h"
#include "base/token_bucket.h"

struct rate_limits {
    uint64_t bytes_per_second; // 0: no limit
    uint64_t operations_per_second;
    uint64_t burst_ns; // what may be saved up: so much time's worth; 0: the default
};

enum { RATE_LIMIT_BURST_MS = 100, RATE_LIMIT_BURST_LIMIT_S = 3600 };
// Below this the timer's own lateness would cost a part of the rate.
#define RATE_LIMIT_BURST_LEAST_NS UINT64_C(1000000)

struct rate_limiter {
    struct io_thread *thread;
    void (*go_on)(void *opaque);
    void *opaque;
    bool limited; // there is a rate
    bool waiting;
    struct token_bucket bytes, operations;
    int timer_fd; // -1 until it is first needed
    struct io_watch *watch;
    _Atomic uint64_t throttled; // how often something had to wait
};

void rate_limiter_init(struct rate_limiter *limiter, struct io_thread *thread,
                       void (*go_on)(void *opaque), void *opaque);
// New limits; who waits looks again at once. 0, or -errno: then the old ones hold.
int rate_limiter_set(struct rate_limiter *limiter, const struct rate_limits *limits);
// Whether the next thing may be done now.
static inline bool rate_limiter_allows(struct rate_limiter *limiter);
static inline void rate_limiter_charge(struct rate_limiter *limiter, uint64_t operations,
                                       uint64_t bytes);
// The device stops: nothing is called any more until something has to wait again. What was done is
// remembered.
void rate_limiter_stop(struct rate_limiter *limiter);
// While the device is stopped, on any thread.
void rate_limiter_destroy(struct rate_limiter *limiter);
// Any thread.
uint64_t rate_limiter_throttled(const struct rate_limiter *limiter);

// ---- inside ----

bool rate_limiter_allows_limited(struct rate_limiter *limiter);

static inline bool rate_limiter_allows(struct rate_limiter *limiter)
{
    return !limiter->limited || rate_limiter_allows_limited(limiter);
}

static inline void rate_limiter_charge(struct rate_limiter *limiter, uint64_t operations,
                                       uint64_t bytes)
{
    if (!limiter->limited)
        return;
    token_bucket_take(&limiter->operations, operations);
    token_bucket_take(&limiter->bytes, bytes);
}
