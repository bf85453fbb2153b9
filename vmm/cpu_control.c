#include "vmm/cpu_control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/kvm_statistics.h"
#include "vmm/sched/cpu_cgroup.h"
#include "vmm/sched/sched_attributes.h"
#include "vmm/vcpu.h"

// ---- which backend ----

static bool asks_for_cap(const struct cpu_settings *settings)
{
    bool any = settings->machine.cap != 0;
    for (unsigned i = 0; i < CPU_SETTINGS_VCPUS; i++)
        any |= settings->vcpu[i].cap != 0;
    return any;
}

static int choose(const struct cpu_settings *settings, enum cpu_backend *backend, struct error *err)
{
    struct error why = {0};
    *backend = settings->backend;
    switch (settings->backend) {
    case CPU_BACKEND_AUTO:
        if (!cpu_settings_any(settings))
            *backend = CPU_BACKEND_NONE;
        else if (cpu_cgroup_usable(2, &why) == 0)
            *backend = CPU_BACKEND_CGROUP2;
        else if (cpu_cgroup_usable(1, &why) == 0)
            *backend = CPU_BACKEND_CGROUP1;
        else
            *backend = CPU_BACKEND_OWN;
        return 0;
    case CPU_BACKEND_CGROUP2:
        return cpu_cgroup_usable(2, err);
    case CPU_BACKEND_CGROUP1:
        return cpu_cgroup_usable(1, err);
    case CPU_BACKEND_SCHED:
        if (asks_for_cap(settings))
            return error_set(err, ENOTSUP,
                             "the CPU backend 'sched' knows no caps: choose another with "
                             "--cpu-backend, or none at all");
        return 0;
    case CPU_BACKEND_NONE:
    case CPU_BACKEND_OWN:
        break;
    }
    return 0;
}

int cpu_control_prepare(const struct cpu_settings *settings, unsigned vcpus,
                        struct cpu_prepared *prepared, struct error *err)
{
    *prepared = (struct cpu_prepared){.board_fd = -1};
    int rc = choose(settings, &prepared->backend, err);
    if (rc == 0 &&
        (prepared->backend == CPU_BACKEND_CGROUP1 || prepared->backend == CPU_BACKEND_CGROUP2))
        rc = cpu_cgroup_create(&prepared->cgroup, prepared->backend == CPU_BACKEND_CGROUP2 ? 2 : 1,
                               vcpus, err);
    return rc;
}

void cpu_control_unprepare(struct cpu_prepared *prepared)
{
    if (prepared->board_fd >= 0)
        close(prepared->board_fd);
    prepared->board_fd = -1;
    cpu_cgroup_destroy(prepared->cgroup);
    prepared->cgroup = NULL;
}

static int check_affinity(const struct cpu_settings *settings, unsigned count, struct error *err)
{
    struct sched_cpus allowed;
    cpu_list_allowed(&allowed);
    for (unsigned i = 0; i < count; i++) {
        struct sched_params params;
        char asked[1024], have[1024];
        uint64_t any = 0;
        cpu_settings_resolve(settings, i, &params);
        for (unsigned word = 0; word < SCHED_CPUS_LIMIT / 64; word++)
            any |= params.affinity.bits[word] & allowed.bits[word];
        if (!any)
            return error_set(err, EINVAL,
                             "none of the CPUs %s of vCPU %u is one that this process may use (%s)",
                             cpu_list_format(&params.affinity, asked, sizeof(asked)), i,
                             cpu_list_format(&allowed, have, sizeof(have)));
    }
    return 0;
}

// ---- ferry's own slicer ----

// A vCPU that polls for its next interrupt keeps the CPU from the others: with slices there is
// none. A KVM that can't be told polls on; its time is charged.
static void stop_halt_polling(const struct vcpus *vcpus)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_HALT_POLL};
    int rc = kvm_vm_ioctl(vcpus->kvm, KVM_ENABLE_CAP, &cap);
    if (rc < 0)
        log_debug("KVM keeps polling at halts: %s", strerror(-rc));
}

// With the lock held.
static int make_slicer(struct cpu_control *c, int board_fd, struct error *err)
{
    struct sched_cpus cpus = {0};
    struct board *board;
    void *list[CPU_SETTINGS_VCPUS];
    // Alone it gives each vCPU a CPU of its own: only caps hold them.
    if (board_fd >= 0)
        cpu_list_allowed(&cpus);
    else
        for (unsigned i = 0; i < c->vcpus->count; i++)
            sched_cpus_add(&cpus, i);
    int rc = board_open(&board, board_fd, &cpus, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < c->vcpus->count; i++)
        list[i] = &c->vcpus->list[i];
    rc = slicer_create(&c->slicer, c->vcpus->count, list, &vcpu_slicer_ops, board, &c->settings,
                       board_fd < 0, err);
    if (rc < 0) {
        board_close(board);
        return rc;
    }
    stop_halt_polling(c->vcpus);
    vcpus_set_slicer(c->vcpus, c->slicer);
    return 0;
}

static int set_own(struct cpu_control *c, int board_fd, struct error *err)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (c->slicer && board_fd >= 0)
        close(board_fd);
    if (c->slicer)
        slicer_configure(c->slicer, &c->settings);
    else
        rc = make_slicer(c, board_fd, err);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

// ---- backends ----

static int apply(struct cpu_control *c, struct error *err)
{
    pid_t tids[CPU_SETTINGS_VCPUS];
    for (unsigned i = 0; i < c->vcpus->count; i++) {
        tids[i] = atomic_load(&c->vcpus->list[i].tid);
        if (!tids[i])
            return 0; // not started yet: cpu_control_started() comes
    }
    if (c->backend == CPU_BACKEND_SCHED)
        return sched_attributes_apply(&c->settings, tids, c->vcpus->count, err);
    if (c->cgroup)
        return cpu_cgroup_apply(c->cgroup, &c->settings, tids, c->vcpus->count, err);
    return 0;
}

// A cookie for this process: its threads share a core with each other only (Linux
// Documentation/admin-guide/hw-vuln/core-scheduling.rst).
static int make_core_group(struct error *err)
{
    if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0) == 0)
        return 0;
    int code = errno == EINVAL ? ENOTSUP : errno;
    return error_set(err, code,
                     "--cpu-group: this host's kernel has no core scheduling%s, so vCPUs of "
                     "different machines can't be kept off the two threads of one core",
                     errno == ENODEV ? " for a processor without threads" : "");
}

static int check(const struct cpu_control *c, const struct cpu_settings *settings,
                 enum cpu_backend backend, struct error *err)
{
    int rc = cpu_settings_check(settings, c->vcpus->count, err);
    if (rc == 0)
        rc = check_affinity(settings, c->vcpus->count, err);
    if (rc == 0 && settings->backend != CPU_BACKEND_AUTO && settings->backend != backend)
        rc =
            error_set(err, EBUSY,
                      "the CPU backend is '%s': another can only be chosen when the machine starts",
                      cpu_backend_names[backend]);
    if (rc == 0 && backend == CPU_BACKEND_SCHED && asks_for_cap(settings))
        rc = error_set(err, ENOTSUP, "the CPU backend 'sched' knows no caps");
    if (rc == 0 && settings->core_group && !c->settings.core_group)
        rc = make_core_group(err);
    return rc;
}

static int put_in_force(struct cpu_control *c, struct cpu_prepared *prepared, struct error *err)
{
    if (c->backend != CPU_BACKEND_OWN)
        return apply(c, err);
    int rc = set_own(c, prepared->board_fd, err);
    prepared->board_fd = -1;
    return rc;
}

// What was written before a file refused is written back, as far as the host lets us: the machine
// goes on with what its description says.
static void take_back(struct cpu_control *c, const struct cpu_settings *former,
                      enum cpu_backend former_backend)
{
    struct error why = {0};
    bool was_in_force = former_backend == c->backend;
    c->settings = *former;
    c->backend = former_backend;
    if (was_in_force && apply(c, &why) < 0)
        log_warning("the former CPU settings can't be written back: %s", why.message);
}

int cpu_control_set(struct cpu_control *c, const struct cpu_settings *settings,
                    struct cpu_prepared *prepared, struct error *err)
{
    enum cpu_backend former_backend = c->backend;
    enum cpu_backend backend = c->backend == CPU_BACKEND_NONE ? prepared->backend : c->backend;
    int rc = check(c, settings, backend, err);
    if (rc == 0) {
        struct cpu_settings former = c->settings;
        c->settings = *settings;
        c->backend = backend;
        if (!c->cgroup) {
            c->cgroup = prepared->cgroup;
            prepared->cgroup = NULL;
        }
        rc = put_in_force(c, prepared, err);
        if (rc < 0)
            take_back(c, &former, former_backend);
    }
    cpu_control_unprepare(prepared);
    return rc;
}

int cpu_control_started(struct cpu_control *c, struct error *err)
{
    if (c->backend == CPU_BACKEND_NONE || c->backend == CPU_BACKEND_OWN)
        return 0;
    vcpus_park(c->vcpus); // at the gate each thread has said who it is
    return apply(c, err);
}

void cpu_control_init(struct cpu_control *c, struct vcpus *vcpus)
{
    *c = (struct cpu_control){.vcpus = vcpus, .backend = CPU_BACKEND_NONE};
    pthread_mutex_init(&c->lock, NULL);
}

void cpu_control_destroy(struct cpu_control *c)
{
    if (!c->vcpus)
        return;
    cpu_cgroup_destroy(c->cgroup);
    pthread_mutex_destroy(&c->lock);
    c->vcpus = NULL;
}

// ---- what a move takes ----

// Page faults: while a move watches memory, the first write to each page is one. Where the
// processor itself keeps the log there are none.
static void take_sample(const struct cpu_control *c, uint64_t values[CPU_SETTINGS_VCPUS])
{
    for (unsigned i = 0; i < c->vcpus->count; i++) {
        int fd = c->vcpus->list[i].stats_fd;
        values[i] = fd >= 0 ? kvm_statistic(fd, "pf_taken") : 0;
    }
}

static void take_used(struct cpu_control *c)
{
    c->used_at = clock_monotonic_ns();
    for (unsigned i = 0; i < c->vcpus->count; i++)
        c->used[i] = vcpu_cpu_time_ns(&c->vcpus->list[i]);
}

void cpu_control_sample(struct cpu_control *c)
{
    pthread_mutex_lock(&c->lock);
    take_sample(c, c->samples);
    take_used(c);
    c->writers = 0;
    pthread_mutex_unlock(&c->lock);
}

// Those that wrote at least half as much as the average since the last sample. Who is slowed a lot
// writes too little to be told from the others: then it's those of before.
static void find_writers(struct cpu_control *c)
{
    enum { FAULTS_THAT_TELL = 256 };
    uint64_t now[CPU_SETTINGS_VCPUS], total = 0;
    take_sample(c, now);
    for (unsigned i = 0; i < c->vcpus->count; i++)
        total += now[i] - c->samples[i];
    if (total < FAULTS_THAT_TELL)
        return;
    c->writers = 0;
    for (unsigned i = 0; i < c->vcpus->count; i++)
        if ((now[i] - c->samples[i]) * 2 * c->vcpus->count >= total)
            c->writers |= UINT64_C(1) << i;
    memcpy(c->samples, now, sizeof(now));
}

unsigned cpu_control_writers_share(struct cpu_control *c)
{
    uint64_t before[CPU_SETTINGS_VCPUS], most = 0;
    pthread_mutex_lock(&c->lock);
    uint64_t before_at = c->used_at;
    memcpy(before, c->used, sizeof(before));
    find_writers(c);
    take_used(c);
    for (unsigned i = 0; i < c->vcpus->count; i++)
        if ((!c->writers || c->writers >> i & 1) && c->used[i] - before[i] > most)
            most = c->used[i] - before[i];
    uint64_t share = most * 1000 / (c->used_at - before_at + 1);
    pthread_mutex_unlock(&c->lock);
    return share < 1 ? 1 : share > 1000 ? 1000 : (unsigned)share;
}

void cpu_control_throttle(struct cpu_control *c, unsigned thousandths)
{
    struct error err = {0};
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    c->throttled = thousandths;
    uint64_t vcpus = !thousandths ? 0 : c->writers ? c->writers : UINT64_MAX;
    if (!c->slicer && thousandths)
        rc = make_slicer(c, -1, &err);
    if (rc == 0 && c->slicer)
        slicer_throttle(c->slicer, vcpus, 1000 - thousandths);
    pthread_mutex_unlock(&c->lock);
    if (rc < 0)
        log_warning("the vCPUs can't be slowed: %s", err.message);
}

// ---- numbers ----

static void set_integer(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

json_t *cpu_control_stats(struct cpu_control *c)
{
    json_t *object = json_object();
    json_object_set_new(object, "backend", json_string(cpu_backend_names[c->backend]));
    set_integer(object, "cap", c->settings.machine.cap);
    pthread_mutex_lock(&c->lock);
    set_integer(object, "throttled", c->throttled);
    pthread_mutex_unlock(&c->lock);
    return object;
}

// The upper bound in us of the bucket that has the wait at that rank.
static uint64_t wait_at(const struct slicer_numbers *n, uint64_t total, unsigned per_mille)
{
    uint64_t rank = total * per_mille / 1000, seen = 0;
    for (unsigned i = 0; i < SLICER_WAIT_BUCKETS; i++) {
        seen += n->wake_us[i];
        if (seen > rank)
            return i ? UINT64_C(1) << i : 1;
    }
    return 0;
}

static void slicer_stats(struct slicer *slicer, unsigned index, json_t *object)
{
    struct slicer_numbers n;
    slicer_numbers(slicer, index, &n);
    set_integer(object, "share", n.share);
    set_integer(object, "runs", n.runs);
    set_integer(object, "looks", n.looks);
    set_integer(object, "sleeps", n.sleeps);
    set_integer(object, "taken", n.taken);
    set_integer(object, "waits", n.waits);
    set_integer(object, "wakes", n.wakes);
    set_integer(object, "wake_p50_us", wait_at(&n, n.wakes, 500));
    set_integer(object, "wake_p99_us", wait_at(&n, n.wakes, 990));
}

void cpu_control_vcpu_stats(struct cpu_control *c, unsigned index, json_t *object)
{
    struct sched_params params;
    char affinity[1024];
    const struct vcpu *v = &c->vcpus->list[index];
    cpu_settings_resolve(&c->settings, index, &params);
    set_integer(object, "weight", params.weight);
    set_integer(object, "slice_us", params.slice / 1000);
    if (c->settings.vcpu[index].cap)
        set_integer(object, "cap", c->settings.vcpu[index].cap);
    if (c->settings.vcpu[index].has_affinity || c->settings.machine.has_affinity)
        json_object_set_new(
            object, "affinity",
            json_string(cpu_list_format(&params.affinity, affinity, sizeof(affinity))));
    set_integer(object, "cpu_ns", vcpu_cpu_time_ns(v));
    set_integer(object, "run_delay_ns", vcpu_run_delay_ns(v));
    set_integer(object, "withheld_ns", cpu_time_total(c->vcpus->cpu_time, index));
    pthread_mutex_lock(&c->lock);
    if (c->slicer)
        slicer_stats(c->slicer, index, object);
    pthread_mutex_unlock(&c->lock);
}
