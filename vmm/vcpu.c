#include "vmm/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cluster_mutant.h"
#include "base/filter/thread_filter.h"
#include "base/last_word.h"
#include "base/log.h"
#include "vmm/sched/slicer.h"

enum { STACK_SIZE = 256 * 1024 };

// Of this thread's vCPU.
static __thread struct kvm_run *current_run;

// Interrupts KVM_RUN, and the next one where the signal comes just before it: a timer that ends a
// run fires once only.
static void on_kick(int signal_number)
{
    (void)signal_number;
    if (current_run)
        __atomic_store_n(&current_run->immediate_exit, 1, __ATOMIC_RELAXED);
}

// Not a real-time signal: those are queued, and lost where the user's queue is full
// (RLIMIT_SIGPENDING); a vCPU that halts or spins would then never come to the gate. An ordinary
// one is always delivered.
enum { KICK_SIGNAL = SIGUSR1, LEASE_SIGNAL = SIGUSR2 };

// A lease timer has fired, on the thread of its vCPU: wherever that is between comparing the
// deadline and entering the guest, it won't enter.
static void on_lease_timer(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    if (info->si_code != SI_TIMER)
        return; // somebody's kill
    struct vcpu *v = info->si_value.sival_ptr;
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
}

// ---- exits ----

// What the run loop does after an exit was served.
enum exit_result { EXIT_CONTINUE, EXIT_FAILED };

static void record_exit(struct vcpu *v, uint64_t address, unsigned length, bool is_write,
                        const void *data)
{
    struct vcpu_exit_record *r = &v->last_exits[v->exit_count++ % VCPU_LAST_EXITS];
    *r = (struct vcpu_exit_record){
        .reason = v->run->exit_reason,
        .length = (uint8_t)length,
        .is_write = is_write,
        .address = address,
    };
    memcpy(&r->value, data, length < sizeof(r->value) ? length : sizeof(r->value));
}

static enum exit_result exit_io(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    bool is_write = run->io.direction == KVM_EXIT_IO_OUT;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (is_write)
            bus_write(v->all->ports, run->io.port, data, run->io.size);
        else
            bus_read(v->all->ports, run->io.port, data, run->io.size);
        record_exit(v, run->io.port, run->io.size, is_write, data);
    }
    return EXIT_CONTINUE;
}

static enum exit_result exit_mmio(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    if (run->mmio.is_write)
        bus_write(v->all->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(v->all->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    record_exit(v, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write, run->mmio.data);
    return EXIT_CONTINUE;
}

static enum exit_result exit_nothing(struct vcpu *v)
{
    (void)v;
    return EXIT_CONTINUE;
}

static enum exit_result exit_hypercall(struct vcpu *v)
{
    v->run->hypercall.ret = (uint64_t)-ENOSYS;
    return EXIT_CONTINUE;
}

static enum exit_result exit_system_event(struct vcpu *v)
{
    enum vcpu_system_event event =
        v->run->system_event.type == KVM_SYSTEM_EVENT_RESET   ? VCPU_SYSTEM_RESET
        : v->run->system_event.type == KVM_SYSTEM_EVENT_CRASH ? VCPU_SYSTEM_CRASH
                                                              : VCPU_SYSTEM_SHUTDOWN;
    vcpus_close_gate(v->all);
    v->all->listener.system_event(v->all->listener.opaque, event);
    return EXIT_CONTINUE;
}

static enum exit_result exit_shutdown(struct vcpu *v)
{
    v->failure = VCPU_TRIPLE_FAULT;
    return EXIT_FAILED;
}

static enum exit_result exit_internal_error(struct vcpu *v)
{
    v->failure_suberror = v->run->internal.suberror;
    v->failure = v->failure_suberror == KVM_INTERNAL_ERROR_EMULATION ? VCPU_EMULATION_FAILED
                                                                     : VCPU_INTERNAL_ERROR;
    for (unsigned i = 0; i < 4 && i < v->run->internal.ndata; i++)
        v->failure_data[i] = v->run->internal.data[i];
    return EXIT_FAILED;
}

static enum exit_result exit_fail_entry(struct vcpu *v)
{
    v->failure_data[0] = v->run->fail_entry.hardware_entry_failure_reason;
    v->failure = VCPU_ENTRY_FAILED;
    return EXIT_FAILED;
}

static const struct {
    const char *name;
    enum exit_result (*serve)(struct vcpu *v);
} exit_table[VCPU_EXIT_KINDS] = {
    [KVM_EXIT_IO] = {"io", exit_io},
    [KVM_EXIT_MMIO] = {"mmio", exit_mmio},
    [KVM_EXIT_HYPERCALL] = {"hypercall", exit_hypercall},
    [KVM_EXIT_HLT] = {"hlt", exit_nothing}, // only where KVM has no LAPIC to wake it: it spins
    [KVM_EXIT_IRQ_WINDOW_OPEN] = {"irq-window", exit_nothing},
    [KVM_EXIT_INTR] = {"signal", exit_nothing},
    [KVM_EXIT_SET_TPR] = {"set-tpr", exit_nothing},
    [KVM_EXIT_TPR_ACCESS] = {"tpr-access", exit_nothing},
    [KVM_EXIT_SHUTDOWN] = {"shutdown", exit_shutdown},
    [KVM_EXIT_FAIL_ENTRY] = {"fail-entry", exit_fail_entry},
    [KVM_EXIT_INTERNAL_ERROR] = {"internal-error", exit_internal_error},
    [KVM_EXIT_SYSTEM_EVENT] = {"system-event", exit_system_event},
};

const char *vcpu_exit_name(uint32_t reason)
{
    return reason < VCPU_EXIT_KINDS ? exit_table[reason].name : NULL;
}

const char *vcpu_failure_name(enum vcpu_failure failure)
{
    static const char *const names[] = {
        [VCPU_OK] = "none",
        [VCPU_TRIPLE_FAULT] = "triple fault",
        [VCPU_EMULATION_FAILED] = "KVM could not emulate an instruction",
        [VCPU_INTERNAL_ERROR] = "KVM internal error",
        [VCPU_ENTRY_FAILED] = "the processor refused to enter the guest",
        [VCPU_UNKNOWN_EXIT] = "an exit that this version doesn't know",
        [VCPU_RUN_FAILED] = "KVM_RUN failed",
        [VCPU_PANICKED] = "its kernel panicked (what it printed is on its console)",
        [VCPU_NO_TIMER] = "no timer for the lease's deadline could be made",
    };
    return names[failure];
}

static enum exit_result serve_exit(struct vcpu *v)
{
    uint32_t reason = v->run->exit_reason;
    if (reason >= VCPU_EXIT_KINDS || !exit_table[reason].serve) {
        v->failure = VCPU_UNKNOWN_EXIT;
        v->failure_data[0] = reason;
        return EXIT_FAILED;
    }
    // Only this thread writes the counter; atomic so that a reader sees whole values.
    atomic_store_explicit(&v->exits[reason],
                          atomic_load_explicit(&v->exits[reason], memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return exit_table[reason].serve(v);
}

// ---- the run loop and the gate ----

// Waits at the gate until it opens, or the vCPU may complete its pending exit behind the closed
// gate. False when the thread shall end.
static bool wait_at_gate(struct vcpu *v, bool *finish)
{
    struct vcpus *all = v->all;
    *finish = false;
    pthread_mutex_lock(&all->lock);
    all->parked++;
    all->unfinished += v->unfinished;
    pthread_cond_broadcast(&all->changed);
    while (atomic_load(&all->closed) && !atomic_load(&all->ending) && !*finish) {
        pthread_cond_wait(&all->changed, &all->lock);
        *finish = v->unfinished && atomic_load(&all->closed) && lease_holds(all->lease);
    }
    all->parked--;
    all->unfinished -= v->unfinished;
    v->unfinished = false;
    pthread_mutex_unlock(&all->lock);
    return !atomic_load(&all->ending);
}

// Its turn by the slicer: false when the gate closes meanwhile.
static bool wait_for_turn(struct vcpu *v, struct slicer *slicer)
{
    uint64_t withheld;
    int failed;
    bool go = slicer_enter(slicer, v->index, &withheld, &failed);
    if (failed && !v->slicing_failed) {
        log_warning("vCPU %u runs without slices: the host gives no timers (%s; ulimit -i)",
                    v->index, strerror(-failed));
        v->slicing_failed = true;
    }
    cpu_time_add(v->all->cpu_time, v->index, v->fd, withheld);
    return go;
}

// KVM_RUN returned EINTR, or the thread begins.
static bool pass_gate(struct vcpu *v)
{
    for (;;) {
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
        // Between clearing immediate_exit and reading the gate: whoever closes it sets the gate
        // first and immediate_exit second. Without the barrier both could be missed and this vCPU
        // would run on.
        atomic_thread_fence(memory_order_seq_cst);
        struct slicer *slicer = atomic_load(&v->all->slicer);
        if (!atomic_load(&v->all->closed)) {
            if (!slicer || wait_for_turn(v, slicer))
                return true;
            continue;
        }
        if (slicer)
            slicer_leave(slicer, v->index);
        bool finish;
        if (!wait_at_gate(v, &finish))
            return false;
        if (finish) { // KVM_RUN does that, and comes back here
            __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
            return true;
        }
    }
}

// This vCPU can't go on: everybody parks, and the main thread hears of it. Returns as pass_gate().
static bool fail(struct vcpu *v)
{
    vcpus_close_gate(v->all);
    v->all->listener.failed(v->all->listener.opaque, v);
    return pass_gate(v);
}

// The lease is lost: not a step further. Returns as pass_gate().
static bool stop_unfinished(struct vcpu *v)
{
    v->unfinished = true;
    vcpus_close_gate(v->all);
    v->all->listener.lease_lost(v->all->listener.opaque);
    return pass_gate(v);
}

static void arm_lease_timer(struct vcpu *v, uint64_t deadline_ns)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
                     .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)},
    };
    if (deadline_ns == LEASE_LOST) // a time of 0 would disarm
        when.it_value.tv_nsec = 1;
    timer_settime(v->lease_timer, TIMER_ABSTIME, &when, NULL);
}

// On the vCPU's thread. The machine of nobody needs no timer.
static bool make_lease_timer(struct vcpu *v)
{
    struct vcpus *all = v->all;
    struct sigevent event = {
        .sigev_notify = SIGEV_THREAD_ID,
        .sigev_signo = LEASE_SIGNAL,
        .sigev_value.sival_ptr = v,
        ._sigev_un._tid = gettid(),
    };
    if (lease_deadline(all->lease) == LEASE_UNBOUNDED || CLUSTER_IS_MUTANT(NO_CHECK_BEFORE_RUN))
        return true;
    if (timer_create(CLOCK_BOOTTIME, &event, &v->lease_timer) < 0) {
        v->failure = VCPU_NO_TIMER;
        v->error = errno;
        return false;
    }
    pthread_mutex_lock(&all->lock); // a renewal comes before this, or finds the timer
    v->has_lease_timer = true;
    arm_lease_timer(v, lease_deadline(all->lease));
    pthread_mutex_unlock(&all->lock);
    return true;
}

// Whether the guest may be entered. The clock is read only where somebody wants to know.
static bool may_enter(struct vcpu *v)
{
    struct lease *lease = v->all->lease;
    if (lease_deadline(lease) == LEASE_UNBOUNDED && !v->witness)
        return true;
    uint64_t now = clock_boottime_ns();
    if (!lease_holds_at(lease, now) && !CLUSTER_IS_MUTANT(NO_CHECK_BEFORE_RUN))
        return false;
    if (v->witness)
        witness_begin(v->witness, now);
    return true;
}

static int run_guest(struct vcpu *v)
{
    int rc = ioctl(v->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    if (v->witness)
        witness_end(v->witness, clock_boottime_ns());
    return rc;
}

static int open_schedstat(void)
{
    char path[64]; // not thread-self, which the sandbox hasn't
    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", (int)syscall(SYS_gettid));
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *v = opaque;
    char name[16];
    snprintf(name, sizeof(name), "vcpu%u", v->index);
    pthread_setname_np(pthread_self(), name);
    current_run = v->run;
    // Asked for here: later the call would wait until KVM_RUN returns.
    if (v->all->kvm->abilities.binary_stats)
        v->stats_fd = ioctl(v->fd, KVM_GET_STATS_FD, NULL);
    atomic_store(&v->tid, (pid_t)syscall(SYS_gettid));
    v->schedstat_fd = open_schedstat();
    thread_filter_enter(THREAD_FILTER_VCPU);
    bool has_timer = make_lease_timer(v);
    bool go_on = pass_gate(v);
    if (go_on && !has_timer)
        go_on = fail(v);
    while (go_on) {
        if (!may_enter(v)) {
            go_on = stop_unfinished(v);
            continue;
        }
        int rc = run_guest(v);
        if (rc == 0) {
            if (serve_exit(v) == EXIT_FAILED)
                go_on = fail(v);
        } else if (rc == -EINTR) {
            go_on = pass_gate(v);
        } else if (rc != -EAGAIN) { // EAGAIN: an AP was woken by INIT or SIPI
            v->failure = VCPU_RUN_FAILED;
            v->error = -rc;
            go_on = fail(v);
        }
    }
    struct slicer *slicer = atomic_load(&v->all->slicer);
    if (slicer)
        slicer_thread_end(slicer, v->index);
    current_run = NULL;
    return NULL;
}

// Makes every vCPU come to pass_gate() soon.
static void kick_all(struct vcpus *vcpus)
{
    struct slicer *slicer = atomic_load(&vcpus->slicer);
    atomic_thread_fence(memory_order_seq_cst); // see pass_gate()
    for (unsigned i = 0; i < vcpus->count; i++) {
        struct vcpu *v = &vcpus->list[i];
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
        if (v->thread_started)
            pthread_kill(v->thread, KICK_SIGNAL);
        if (slicer)
            slicer_wake(slicer, i);
    }
}

void vcpus_close_gate(struct vcpus *vcpus)
{
    atomic_store(&vcpus->closed, true);
    kick_all(vcpus);
}

static unsigned threads_started(const struct vcpus *vcpus)
{
    unsigned started = 0;
    for (unsigned i = 0; i < vcpus->count; i++)
        started += vcpus->list[i].thread_started;
    return started;
}

void vcpus_park(struct vcpus *vcpus)
{
    vcpus_close_gate(vcpus);
    unsigned all = threads_started(vcpus);
    pthread_mutex_lock(&vcpus->lock);
    while (vcpus->parked < all)
        pthread_cond_wait(&vcpus->changed, &vcpus->lock);
    pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_open_gate(struct vcpus *vcpus)
{
    pthread_mutex_lock(&vcpus->lock);
    atomic_store(&vcpus->closed, false);
    pthread_cond_broadcast(&vcpus->changed);
    pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_set_deadline(struct vcpus *vcpus, uint64_t deadline_ns)
{
    pthread_mutex_lock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->count; i++)
        if (vcpus->list[i].has_lease_timer)
            arm_lease_timer(&vcpus->list[i], deadline_ns);
    pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_finish_exits(struct vcpus *vcpus)
{
    unsigned all = threads_started(vcpus);
    pthread_mutex_lock(&vcpus->lock);
    pthread_cond_broadcast(&vcpus->changed);
    // Unless the lease is lost once more: then they stay as they are.
    while ((vcpus->unfinished > 0 && lease_holds(vcpus->lease)) || vcpus->parked < all) {
        struct timespec soon;
        clock_gettime(CLOCK_MONOTONIC, &soon);
        soon.tv_sec++;
        pthread_cond_clockwait(&vcpus->changed, &vcpus->lock, CLOCK_MONOTONIC, &soon);
    }
    pthread_mutex_unlock(&vcpus->lock);
}

// ---- slices ----

// Halted inside KVM, or an AP that nobody has started.
static bool is_asleep(void *opaque)
{
    const struct vcpu *v = opaque;
    struct kvm_mp_state state;
    return ioctl(v->fd, KVM_GET_MP_STATE, &state) == 0 && state.mp_state != KVM_MP_STATE_RUNNABLE;
}

static bool must_leave(void *opaque)
{
    const struct vcpu *v = opaque;
    return atomic_load(&v->all->closed);
}

const struct slicer_ops vcpu_slicer_ops = {is_asleep, must_leave, KICK_SIGNAL};

void vcpus_set_slicer(struct vcpus *vcpus, struct slicer *slicer)
{
    atomic_store(&vcpus->slicer, slicer);
    kick_all(vcpus);
}

// ---- life ----

static int create_vcpu(struct vcpu *v, struct vcpus *all, unsigned index, struct cpuid_table *cpuid,
                       struct error *err)
{
    v->all = all;
    v->index = index;
    v->fd = ioctl(all->kvm->vm_fd, KVM_CREATE_VCPU, index);
    if (v->fd < 0)
        return error_set_errno(err, errno, "creating vCPU %u", index);
    v->run = mmap(NULL, all->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (v->run == MAP_FAILED) {
        v->run = NULL;
        return error_set_errno(err, errno, "mapping the page of vCPU %u", index);
    }
    cpuid_set_apic_id(cpuid, index);
    struct kvm_cpuid2 *raw = calloc(1, sizeof(*raw) + cpuid->count * sizeof(raw->entries[0]));
    if (!raw)
        return error_set_errno(err, ENOMEM, "setting the CPUID of vCPU %u", index);
    raw->nent = cpuid->count;
    memcpy(raw->entries, cpuid->entries, cpuid->count * sizeof(raw->entries[0]));
    int rc = 0;
    if (ioctl(v->fd, KVM_SET_CPUID2, raw) < 0)
        rc = error_set_errno(err, errno, "setting the CPUID of vCPU %u", index);
    free(raw);
    if (rc == 0)
        rc = vcpu_state_get(&v->reset_state, all->kvm, v->fd, err);
    if (rc == 0) {
        // Time goes on over a reset.
        vcpu_state_forget_msr(&v->reset_state, MSR_IA32_TSC);
        vcpu_state_forget_msr(&v->reset_state, MSR_IA32_TSC_ADJUST);
    }
    return rc;
}

static void destroy_vcpu(struct vcpu *v)
{
    if (v->has_lease_timer)
        timer_delete(v->lease_timer);
    vcpu_state_free(&v->reset_state);
    if (v->run)
        munmap(v->run, v->all->kvm->run_size);
    if (v->fd >= 0)
        close(v->fd);
    if (v->schedstat_fd >= 0)
        close(v->schedstat_fd);
    if (v->stats_fd >= 0)
        close(v->stats_fd);
}

int vcpus_create(struct vcpus *vcpus, const struct kvm *kvm, unsigned count,
                 struct cpuid_table *cpuid, struct bus *ports, struct bus *mmio,
                 const struct vcpus_listener *listener, struct error *err)
{
    *vcpus = (struct vcpus){.kvm = kvm, .ports = ports, .mmio = mmio, .listener = *listener};
    if (count > kvm->abilities.vcpus)
        return error_set(err, EINVAL, "this host's KVM allows %u vCPUs, not %u",
                         kvm->abilities.vcpus, count);
    atomic_init(&vcpus->closed, true);
    pthread_mutex_init(&vcpus->lock, NULL);
    pthread_cond_init(&vcpus->changed, NULL);
    vcpus->list = calloc(count, sizeof(vcpus->list[0]));
    if (!vcpus->list)
        return error_set_errno(err, ENOMEM, "creating vCPUs");
    for (unsigned i = 0; i < count; i++)
        vcpus->list[i].fd = vcpus->list[i].schedstat_fd = vcpus->list[i].stats_fd = -1;
    for (unsigned i = 0; i < count; i++) {
        vcpus->count = i + 1;
        int rc = create_vcpu(&vcpus->list[i], vcpus, i, cpuid, err);
        if (rc < 0) {
            vcpus_destroy(vcpus);
            return rc;
        }
    }
    return 0;
}

int vcpus_start(struct vcpus *vcpus, struct error *err)
{
    struct sigaction action = {.sa_handler = on_kick}; // no SA_RESTART: KVM_RUN must return
    sigemptyset(&action.sa_mask);
    sigaction(KICK_SIGNAL, &action, NULL);
    struct sigaction lease_action = {.sa_sigaction = on_lease_timer, .sa_flags = SA_SIGINFO};
    sigemptyset(&lease_action.sa_mask);
    sigaction(LEASE_SIGNAL, &lease_action, NULL);
    // The process's other signals go to the main thread.
    sigset_t all, old;
    sigfillset(&all);
    last_word_leave_open(&all);
    sigdelset(&all, KICK_SIGNAL);
    sigdelset(&all, LEASE_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    int rc = 0;
    for (unsigned i = 0; i < vcpus->count && rc == 0; i++) {
        struct vcpu *v = &vcpus->list[i];
        rc = pthread_create(&v->thread, &attributes, vcpu_main, v);
        if (rc == 0)
            v->thread_started = true;
        else
            error_set_errno(err, rc, "starting the thread of vCPU %u", i);
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

uint64_t vcpu_cpu_time_ns(const struct vcpu *v)
{
    clockid_t clock;
    return v->thread_started && pthread_getcpuclockid(v->thread, &clock) == 0 ? clock_read_ns(clock)
                                                                              : 0;
}

uint64_t vcpu_run_delay_ns(const struct vcpu *v)
{
    char text[96];
    if (!atomic_load(&v->tid) || v->schedstat_fd < 0)
        return 0;
    ssize_t n = pread(v->schedstat_fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = 0;
    const char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) : 0;
}

void vcpus_destroy(struct vcpus *vcpus)
{
    if (!vcpus->list)
        return;
    vcpus_close_gate(vcpus);
    pthread_mutex_lock(&vcpus->lock);
    atomic_store(&vcpus->ending, true);
    pthread_cond_broadcast(&vcpus->changed);
    pthread_mutex_unlock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->count; i++)
        if (vcpus->list[i].thread_started)
            pthread_join(vcpus->list[i].thread, NULL);
    slicer_destroy(atomic_load(&vcpus->slicer));
    for (unsigned i = 0; i < vcpus->count; i++)
        destroy_vcpu(&vcpus->list[i]);
    free(vcpus->list);
    vcpus->list = NULL;
    pthread_cond_destroy(&vcpus->changed);
    pthread_mutex_destroy(&vcpus->lock);
}

int vcpus_reset(struct vcpus *vcpus, struct error *err)
{
    for (unsigned i = 0; i < vcpus->count; i++) {
        struct vcpu *v = &vcpus->list[i];
        // Asking for the MP state makes KVM take a pending INIT or SIPI now: it would otherwise
        // stay pending and start this vCPU in the new guest.
        struct kvm_mp_state taken;
        if (ioctl(v->fd, KVM_GET_MP_STATE, &taken) < 0)
            return error_set_errno(err, errno, "resetting vCPU %u: reading its MP state", i);
        unsigned refused;
        int rc = vcpu_state_put(&v->reset_state, vcpus->kvm, v->fd, &refused, err);
        if (rc < 0)
            return error_prefix(err, "resetting vCPU %u", i);
        if (refused)
            log_debug("reset of vCPU %u: KVM refused %u of its own MSRs", i, refused);
        v->failure = VCPU_OK;
    }
    return 0;
}
