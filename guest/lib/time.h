// Time by the TSC, whose frequency is found when it's first asked for; and KVM's paravirtual clock.
#pragma once

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t time_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

// With all earlier loads done: for comparing clocks.
static inline uint64_t time_tsc_ordered(void)
{
    __asm__ volatile("lfence" : : : "memory");
    return time_tsc();
}

uint64_t time_tsc_hz(void);

// How the frequency was found: "kvm-leaf", "kvmclock", "cpuid", "pm-timer" or "pit".
const char *time_tsc_source(void);

uint64_t time_tsc_to_ns(uint64_t ticks);
uint64_t time_ns_to_tsc(uint64_t ns);
uint64_t time_now_ns(void);

// Spins.
void time_delay_ns(uint64_t ns);

// Sleeps until the TSC has passed or another interrupt than the timer's came; returns the TSC.
uint64_t time_sleep_until(uint64_t tsc);

// Sleeps until the TSC has passed or any interrupt came since irq_total was `seen`.
void time_sleep_until_or(uint64_t tsc, uint64_t seen);

// Sleeps as long as it takes, whatever interrupts come.
void time_sleep_ns(uint64_t ns);
