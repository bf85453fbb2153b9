// CPU time by control groups, where the host lets this user make them: one group for the machine
// and in it one for each vCPU's thread. Version 2: cpu.weight, cpu.max, cpuset.cpus. Version 1:
// cpu.shares, cpu.cfs_quota_us, cpuset.cpus.
//
// The groups lie below the one this process is in, named after the process; those that a process
// killed before left are removed by the next one. Slices go to the kernel as a wish
// (sched_setattr), which one from 6.12 on follows.
//
// Threads: one at a time.
#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "vmm/sched/cpu_settings.h"

struct cpu_cgroup;

// Whether groups of that version (1 or 2) can be made here: 0, or -ENOTSUP and why not.
int cpu_cgroup_usable(int version, struct error *err);
int cpu_cgroup_create(struct cpu_cgroup **cgroup, int version, unsigned vcpus, struct error *err);
// Removes the groups; the threads have ended. NULL is allowed.
void cpu_cgroup_destroy(struct cpu_cgroup *cgroup);
// For the sandbox: descriptors (not the caller's) of the machine's groups and of the directories
// they are in; how many of each.
unsigned cpu_cgroup_places(const struct cpu_cgroup *cgroup, int parents[2], int dirs[2]);
// Puts the threads into their groups, if they aren't there, and writes what holds for them.
int cpu_cgroup_apply(struct cpu_cgroup *cgroup, const struct cpu_settings *settings,
                     const pid_t *tids, unsigned count, struct error *err);

// For tests: the mount points, instead of those that /proc says.
struct cpu_cgroup_mounts {
    char cpu[4096];    // the directory of this process's own group
    char cpuset[4096]; // "" without
};
int cpu_cgroup_create_at(struct cpu_cgroup **cgroup, int version, unsigned vcpus,
                         const struct cpu_cgroup_mounts *places, struct error *err);
