// What the host's scheduler takes from a thread itself: nice value, slice, CPUs.
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "vmm/sched/cpu_settings.h"

// Weights as nice values (each step is a factor of 1.25, as in the kernel), slices, affinities.
// More than the default weight needs CAP_SYS_NICE or RLIMIT_NICE: refused with a sentence.
int sched_attributes_apply(const struct cpu_settings *settings, const pid_t *tids, unsigned count,
                           struct error *err);
int sched_attributes_nice(unsigned weight);
// 0 or -errno. A kernel before 6.12 ignores the slice.
int sched_attributes_set_slice(pid_t tid, uint64_t slice_ns);
int sched_attributes_set_affinity(pid_t tid, const struct sched_cpus *cpus);
