// A lock between vCPUs. Interrupt stubs take no locks, so it needs no interrupt state.
#pragma once

#include <stdatomic.h>

struct spinlock {
    atomic_flag held;
};

static inline void spinlock_take(struct spinlock *lock)
{
    while (atomic_flag_test_and_set_explicit(&lock->held, memory_order_acquire))
        __builtin_ia32_pause();
}

static inline void spinlock_release(struct spinlock *lock)
{
    atomic_flag_clear_explicit(&lock->held, memory_order_release);
}
