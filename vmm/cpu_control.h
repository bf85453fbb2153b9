// The CPU time of a machine: which backend enforces what its description says, what a move takes
// from it, and numbers about it.
//
// Threads: everything on the main thread, but for cpu_control_throttle(), sample() and
// writers_share(), which any may call.
#pragma once

#include <jansson.h>
#include <pthread.h>

#include "base/error.h"
#include "vmm/sched/cpu_settings.h"
#include "vmm/sched/slicer.h"

struct vcpus;
struct cpu_cgroup;

struct cpu_control {
    struct vcpus *vcpus;
    struct cpu_settings settings;
    enum cpu_backend backend; // in use; NONE at first
    struct cpu_cgroup *cgroup;
    pthread_mutex_t lock; // guards slicer: whether there is one
    struct slicer *slicer;
    unsigned throttled;                   // thousandths that a move takes
    uint64_t samples[CPU_SETTINGS_VCPUS]; // how much each had written, when sampled
    uint64_t used[CPU_SETTINGS_VCPUS];    // CPU time of each, ns, at `used_at`
    uint64_t used_at;
    uint64_t writers; // those that wrote most, a bit each; 0 = not known
};

// What is opened or made by name for the settings, before the process is shut in.
struct cpu_prepared {
    enum cpu_backend backend; // AUTO is resolved; NONE when nothing is asked for
    int board_fd;             // of ferry's own slicer, -1 without: a schedule of its own
    struct cpu_cgroup *cgroup;
};

// Chooses the backend and makes control groups; -ENOTSUP with a sentence when the wished one can't
// be had, or can't do what is asked. The board is the caller's to open.
int cpu_control_prepare(const struct cpu_settings *settings, unsigned vcpus,
                        struct cpu_prepared *prepared, struct error *err);
void cpu_control_unprepare(struct cpu_prepared *prepared);

void cpu_control_init(struct cpu_control *control, struct vcpus *vcpus);
void cpu_control_destroy(struct cpu_control *control); // after the vCPU threads
// Before the vCPUs' first run or later; takes over what was prepared, also on failure. A backend
// that is in use stays. On failure what held before holds again, as far as the host lets it.
int cpu_control_set(struct cpu_control *control, const struct cpu_settings *settings,
                    struct cpu_prepared *prepared, struct error *err);
// After the vCPU threads have started: backends that work on threads take hold of them.
int cpu_control_started(struct cpu_control *control, struct error *err);

// For a move: notes how much each vCPU has written to memory and how much time it used; finds those
// that have written most since the last look, and says how much of a CPU each of them used
// (thousandths, 1 to 1000: the most of them); takes that much (thousandths, below 1000) of their
// time.
void cpu_control_sample(struct cpu_control *control);
unsigned cpu_control_writers_share(struct cpu_control *control);
void cpu_control_throttle(struct cpu_control *control, unsigned thousandths);

// What `ferry stats` says of the machine, and of one vCPU; NULL without memory.
json_t *cpu_control_stats(struct cpu_control *control);
void cpu_control_vcpu_stats(struct cpu_control *control, unsigned index, json_t *object);
