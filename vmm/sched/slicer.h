// ferry's own slicer: keeps the vCPU threads of a machine to what the policy says, without any
// privilege.
//
// A vCPU thread enters the guest only with a grant of the board. A run is measured by the thread's
// CPU clock and ended by a one-shot CLOCK_MONOTONIC timer that signals the thread: timers on the
// CPU clock fire on the kernel's tick only. A vCPU that halts does so inside KVM, out of our sight:
// looks in the middle of a slice find that it slept, its CPU goes to somebody else, and it stays
// inside KVM, so that its interrupts wake it at once. What it uses after that is noticed at the
// next tick, by a timer on its CPU clock, and charged.
//
// Threads: each vCPU's calls on its own thread; the others on any, one at a time (configure,
// throttle) or at any time (wake, statistics).
#pragma once

#include <stdatomic.h>

#include "base/error.h"
#include "vmm/sched/cpu_settings.h"
#include "vmm/sched/sched_board.h"

enum { SLICER_WAIT_BUCKETS = 24 }; // bucket n: waits below 2^n us

struct slicer;

struct slicer_ops {
    // On the vCPU's thread. Whether it sleeps inside KVM, or was never started.
    bool (*is_asleep)(void *vcpu);
    // On the vCPU's thread. Whether it is wanted elsewhere: the wait for its turn ends then.
    bool (*must_leave)(void *vcpu);
    int signal; // ends KVM_RUN; its handler must make sure that the next one ends as well
};

// For `count` vCPUs; `vcpus` is an array of what the operations are called with. `board` belongs to
// the slicer once this succeeded. `alone`: it has a CPU for each vCPU, and only caps are of use;
// the host's own scheduler does the rest.
int slicer_create(struct slicer **slicer, unsigned count, void *const *vcpus,
                  const struct slicer_ops *ops, struct board *board,
                  const struct cpu_settings *settings, bool alone, struct error *err);
// No vCPU thread uses it any more.
void slicer_destroy(struct slicer *slicer);

void slicer_configure(struct slicer *slicer, const struct cpu_settings *settings);
// A cap for some vCPUs (a bit each) beside the configured ones; thousandths of a CPU, 1000 = none.
void slicer_throttle(struct slicer *slicer, uint64_t vcpus, unsigned thousandths);

// On the vCPU's thread: before it enters the guest, and whenever KVM_RUN was interrupted. Returns
// when it may run; *withheld_ns is the time that it wanted to and was kept from it. False when
// must_leave() says so. -errno in *failed when the thread's timers can't be made.
bool slicer_enter(struct slicer *slicer, unsigned index, uint64_t *withheld_ns, int *failed);
// On the vCPU's thread: it won't run for a while (paused) and gives its CPU back.
void slicer_leave(struct slicer *slicer, unsigned index);
// On the vCPU's thread, at its end.
void slicer_thread_end(struct slicer *slicer, unsigned index);
// Any thread: must_leave() has become true.
void slicer_wake(struct slicer *slicer, unsigned index);

struct slicer_numbers {
    uint64_t waits, withheld_ns;           // waits for a turn that have ended
    uint64_t wakes;                        // of these: for the first one after a sleep
    uint64_t wake_us[SLICER_WAIT_BUCKETS]; // how long those took
    uint64_t runs, looks, sleeps;          // grants, looks inside of them, sleeps found
    uint64_t taken;                        // runs that lost their CPU before they ended
    unsigned share;                        // wanted: thousandths of a CPU, as things are
};
void slicer_numbers(struct slicer *slicer, unsigned index, struct slicer_numbers *numbers);
