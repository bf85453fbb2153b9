#include "devices/rate_limiter.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

void rate_limiter_init(struct rate_limiter *l, struct io_thread *thread,
                       void (*go_on)(void *opaque), void *opaque)
{
    *l = (struct rate_limiter){.thread = thread, .go_on = go_on, .opaque = opaque, .timer_fd = -1};
}

// Tokens that `burst_ns` bring, at least one.
static uint64_t tokens_of(uint64_t rate, uint64_t burst_ns)
{
    unsigned __int128 tokens = (unsigned __int128)rate * burst_ns / NSEC_PER_SEC;
    if (tokens > TOKEN_BUCKET_LIMIT)
        return TOKEN_BUCKET_LIMIT;
    return tokens ? (uint64_t)tokens : 1;
}

static void stop_waiting(struct rate_limiter *l)
{
    const struct itimerspec never = {0};
    if (l->timer_fd >= 0)
        timerfd_settime(l->timer_fd, 0, &never, NULL);
    l->waiting = false;
}

static void timer_fired(void *opaque)
{
    struct rate_limiter *l = opaque;
    uint64_t count;
    if (read(l->timer_fd, &count, sizeof(count)) < 0 || !l->waiting)
        return;
    l->waiting = false;
    l->go_on(l->opaque);
}

int rate_limiter_set(struct rate_limiter *l, const struct rate_limits *limits)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t burst = limits->burst_ns ? limits->burst_ns : RATE_LIMIT_BURST_MS * NSEC_PER_MSEC;
    bool limited = limits->bytes_per_second || limits->operations_per_second;
    if (limited && l->timer_fd < 0) {
        l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (l->timer_fd < 0)
            return -errno;
    }
    token_bucket_set(&l->bytes, limits->bytes_per_second,
                     tokens_of(limits->bytes_per_second, burst), now);
    token_bucket_set(&l->operations, limits->operations_per_second,
                     tokens_of(limits->operations_per_second, burst), now);
    l->limited = limited;
    if (l->waiting) {
        stop_waiting(l);
        l->go_on(l->opaque);
    }
    return 0;
}

// 0, or -errno: nobody would go on.
static int arm(struct rate_limiter *l, uint64_t wait)
{
    struct itimerspec in = {.it_value = {.tv_sec = (time_t)(wait / NSEC_PER_SEC),
                                         .tv_nsec = (long)(wait % NSEC_PER_SEC)}};
    int rc = l->watch ? 0 : io_thread_watch(l->thread, l->timer_fd, timer_fired, l, &l->watch);
    if (rc == 0 && timerfd_settime(l->timer_fd, 0, &in, NULL) < 0)
        rc = -errno;
    return rc;
}

bool rate_limiter_allows_limited(struct rate_limiter *l)
{
    enum { LONGEST_S = 3600 }; // then it looks again
    if (l->waiting)
        return false;
    uint64_t now = clock_monotonic_ns();
    bool bytes = token_bucket_allows(&l->bytes, now);
    bool operations = token_bucket_allows(&l->operations, now);
    if (bytes && operations)
        return true;
    uint64_t wait = token_bucket_wait_ns(&l->bytes);
    uint64_t other = token_bucket_wait_ns(&l->operations);
    wait = wait > other ? wait : other;
    if (wait > LONGEST_S * NSEC_PER_SEC)
        wait = LONGEST_S * NSEC_PER_SEC;
    // Without memory for a watch the device would hang; it had better be too fast.
    if (arm(l, wait) < 0)
        return true;
    l->waiting = true;
    atomic_fetch_add_explicit(&l->throttled, 1, memory_order_relaxed);
    return false;
}

void rate_limiter_stop(struct rate_limiter *l)
{
    stop_waiting(l);
    io_thread_unwatch(l->watch);
    l->watch = NULL;
}

void rate_limiter_destroy(struct rate_limiter *l)
{
    if (l->timer_fd >= 0)
        close(l->timer_fd);
    l->timer_fd = -1;
}

uint64_t rate_limiter_throttled(const struct rate_limiter *l)
{
    return atomic_load_explicit(&l->throttled, memory_order_relaxed);
}
