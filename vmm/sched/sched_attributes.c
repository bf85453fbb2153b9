#include "vmm/sched/sched_attributes.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// The first version of the kernel's struct (Linux include/uapi/linux/sched/types.h), which the C
// library of Debian 12 doesn't have.
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

int sched_attributes_nice(unsigned weight)
{
    // 100 is nice 0; the kernel's steps are a factor of 1.25 each.
    int nice = 0;
    double at = SCHED_WEIGHT_DEFAULT;
    while (nice > -20 && weight > at * 1.118) { // nearest: the step's square root
        at *= 1.25;
        nice--;
    }
    while (nice < 19 && weight * 1.118 < at) {
        at /= 1.25;
        nice++;
    }
    return nice;
}

int sched_attributes_set_slice(pid_t tid, uint64_t slice_ns)
{
    struct attributes a = {.size = sizeof(a)};
    if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0) != 0)
        return -errno;
    a.size = sizeof(a);
    a.runtime = slice_ns;
    return syscall(SYS_sched_setattr, tid, &a, 0) == 0 ? 0 : -errno;
}

int sched_attributes_set_affinity(pid_t tid, const struct sched_cpus *cpus)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned cpu = 0; cpu < SCHED_CPUS_LIMIT; cpu++)
        if (sched_cpus_has(cpus, cpu))
            CPU_SET(cpu, &set);
    return sched_setaffinity(tid, sizeof(set), &set) == 0 ? 0 : -errno;
}

static int apply_one(const struct cpu_settings *settings, unsigned index, pid_t tid,
                     struct error *err)
{
    struct sched_params params;
    cpu_settings_resolve(settings, index, &params);
    // Weight 100 is what ferry itself was started with (nice(1)); the kernel has nothing above 19.
    int started = getpriority(PRIO_PROCESS, (id_t)getpid());
    int nice = started + sched_attributes_nice(params.weight);
    if (setpriority(PRIO_PROCESS, (id_t)tid, nice > 19 ? 19 : nice < -20 ? -20 : nice) != 0)
        return error_set_errno(err, errno,
                               "weight %u of vCPU %u: nice %d, which for a thread that had a "
                               "higher one needs CAP_SYS_NICE (weights up to 100 don't, unless "
                               "they are raised again; other backends need no right)",
                               params.weight, index, nice);
    int rc = sched_attributes_set_affinity(tid, &params.affinity);
    if (rc < 0)
        return error_set_errno(err, -rc, "the CPUs of vCPU %u", index);
    rc = sched_attributes_set_slice(tid, params.slice);
    return rc < 0 ? error_set_errno(err, -rc, "the slice of vCPU %u", index) : 0;
}

int sched_attributes_apply(const struct cpu_settings *settings, const pid_t *tids, unsigned count,
                           struct error *err)
{
    for (unsigned i = 0; i < count; i++) {
        int rc = apply_one(settings, i, tids[i], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
