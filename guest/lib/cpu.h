// vCPUs: each one's block, the workers of the others than the boot vCPU, sleep and interrupt
// counts.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/layout.h"

struct cpu {
    uint32_t index; // CPU_INDEX
    uint32_t apic_id;
    volatile uint64_t irq_total;          // CPU_IRQ_TOTAL: interrupts the stub counted
    uint64_t tss_reloaded;                // CPU_TSS_RELOADED
    void (*volatile job)(void *argument); // what the worker shall do; NULL when it's idle
    void *job_argument;
    volatile bool online;
    uint64_t
        timer_deadline; // TSC value for which time_sleep_until_or armed the timer, 0 when it didn't
    uint64_t timer_count; // of the timer's interrupts, when it was armed
    void *steal_time;     // KVM's record of this vCPU, NULL when there's none
    struct pvclock *clock;
    volatile uint64_t irq_count[256] __attribute__((aligned(CPU_IRQ_COUNT))); // by vector
};

_Static_assert(__builtin_offsetof(struct cpu, index) == CPU_INDEX, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, irq_total) == CPU_IRQ_TOTAL, "layout.h");
_Static_assert(__builtin_offsetof(struct cpu, irq_count) == CPU_IRQ_COUNT, "layout.h");
_Static_assert(sizeof(struct cpu) <= CPU_TSS, "layout.h");

static inline struct cpu *this_cpu(void)
{
    uint64_t stack;
    __asm__("mov %%rsp, %0" : "=r"(stack));
    return (struct cpu *)(stack & -(uint64_t)CPU_BLOCK_SIZE);
}

// Starts the other vCPUs that the MADT lists, at most `cpus=` in all; returns how many run. Once is
// enough.
unsigned cpu_start_all(void);
unsigned cpu_count(void);
struct cpu *cpu_get(unsigned index);

// Runs job(argument(index)) on the first `count` vCPUs at once, the caller's (index 0) included,
// and waits for all. `arguments` is an array of elements of `size` bytes, one a vCPU.
void cpu_run(unsigned count, void (*job)(void *argument), void *arguments, uint64_t size);

// Sleeps unless an interrupt came since irq_total was `seen`.
void cpu_sleep(uint64_t seen);

// Wakes another vCPU.
void cpu_wake(struct cpu *cpu);

// Where a started vCPU arrives.
void cpu_worker(void) __attribute__((noreturn));
