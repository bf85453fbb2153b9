#include "vmm/sched/slicer.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/sched/sched_attributes.h"

#define ROUNDING_NS     UINT64_C(50000) // a run this near to its budget is at its end
#define LEAST_AWAKE_NS  UINT64_C(100000)
#define LOOK_LEAST      UINT64_C(250000)
#define STARVED_NS      UINT64_C(10000000)
#define KERNEL_SLICE_NS UINT64_C(100000) // the shortest
#define EXTEND_AT_NS    NSEC_PER_MSEC    // behind its lease by so much, a run asks for more of it
enum { LOOKS_AFTER_SLEEP = 16 };         // whole slices without sleep until looks end

enum mode {
    OUT,     // not running, and not wanting to
    GRANTED, // has a CPU
    ASLEEP,  // inside KVM without a CPU: halted, as far as we know
};

struct slot {
    void *vcpu;
    // The thread's own.
    bool has_timers, used_is_armed;
    timer_t look; // CLOCK_MONOTONIC
    timer_t used; // the thread's CPU clock
    enum mode mode;
    uint32_t cpu;
    uint64_t budget;
    // CPU time after which a sleeper counts as awake: half a slice, so that a short piece of work
    // is done as soon as its interrupt comes, and charged later.
    uint64_t awake_after;
    uint64_t began;              // of the grant, or of the sleep
    uint64_t began_cpu;          // up to where its CPU time is charged
    uint64_t looked, looked_cpu; // last look
    uint64_t look_at, interval;
    unsigned sleepy; // slices in which looks are still worth their cost
    // Guarded by the slicer's lock.
    uint32_t id;
    bool lost; // the board it had its grant from isn't in use any more
    unsigned throttle;
    struct sched_cpus place; // its thread's affinity
    // Any thread.
    _Atomic pid_t tid;
    _Atomic uint64_t waiting; // generation + 1 and number, of the wait it is in; 0 = none
    _Atomic uint64_t waits, withheld, wakes, runs, looks, sleeps, taken;
    _Atomic uint64_t wake_us[SLICER_WAIT_BUCKETS];
};

struct slicer {
    struct slicer_ops ops;
    struct board *board;
    struct sched_cpus allowed; // where its threads may run at all
    unsigned count;
    bool alone; // a CPU for each vCPU
    // Guards the board's calls and what is said so; taken before the board's lock.
    pthread_mutex_t lock;
    struct cpu_settings settings;
    uint64_t generation; // + 1, of the board that has our group
    uint32_t group;
    bool warned;
    struct slot slots[];
};

static void add(_Atomic uint64_t *counter, uint64_t more)
{
    // One writer: no locked instruction is needed, only whole values.
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more,
                          memory_order_relaxed);
}

static uint64_t cpu_clock(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

// ---- the board ----

static void params_of(const struct slicer *s, const struct sched_policy *p, unsigned index,
                      struct sched_params *params)
{
    cpu_settings_resolve(&s->settings, index, params);
    uint64_t any = 0;
    if (s->alone)
        memset(&params->affinity, 0xff, sizeof(params->affinity));
    for (unsigned i = 0; i < SCHED_CPUS_LIMIT / 64; i++) {
        params->affinity.bits[i] &= sched_policy_cpus(p)->bits[i];
        if (!s->alone)
            params->affinity.bits[i] &= s->allowed.bits[i];
        any |= params->affinity.bits[i];
    }
    if (!any)
        params->affinity = *sched_policy_cpus(p);
    if (s->slots[index].throttle < 1000) {
        struct sched_cap_limits limits = cpu_cap_limits(s->slots[index].throttle);
        if (!params->cap.quota || limits.quota < params->cap.quota)
            params->cap = limits;
    }
}

// On a board that doesn't know this machine yet.
static void join(struct slicer *s, struct sched_policy *p, uint64_t generation)
{
    uint64_t now = clock_monotonic_ns();
    struct sched_cap_limits cap = cpu_cap_limits(s->settings.machine.cap);
    s->generation = generation + 1;
    s->group = board_add_group(s->board);
    for (unsigned i = 0; i < s->count; i++) {
        struct sched_params params;
        s->slots[i].lost = true;
        s->slots[i].id = SCHED_NONE;
        params_of(s, p, i, &params);
        if (s->group != SCHED_NONE)
            s->slots[i].id = sched_policy_add(p, s->group, &params, now);
        if (s->slots[i].id == SCHED_NONE && !s->warned) {
            log_warning("the schedule board has no room for vCPU %u: it runs as the host likes", i);
            s->warned = true;
        }
    }
    if (s->group != SCHED_NONE)
        sched_policy_set_group_cap(p, s->group, &cap, now);
}

static struct sched_policy *lock(struct slicer *s)
{
    uint64_t generation;
    pthread_mutex_lock(&s->lock);
    struct sched_policy *p = board_lock(s->board, &generation);
    if (s->generation != generation + 1)
        join(s, p, generation);
    return p;
}

static void unlock(struct slicer *s)
{
    board_unlock(s->board);
    pthread_mutex_unlock(&s->lock);
}

// Where a thread may be: what was asked for of what this process may use.
static bool allowed_place(const struct slicer *s, unsigned index, struct sched_cpus *place)
{
    struct sched_params params;
    uint64_t any = 0;
    cpu_settings_resolve(&s->settings, index, &params);
    for (unsigned i = 0; i < SCHED_CPUS_LIMIT / 64; i++) {
        place->bits[i] = params.affinity.bits[i] & s->allowed.bits[i];
        any |= place->bits[i];
    }
    return any != 0;
}

// With the slicer's lock held, so that what is noted and what holds are the same.
static void set_place(struct slot *slot, unsigned index, pid_t tid, const struct sched_cpus *place)
{
    int rc = sched_attributes_set_affinity(tid, place);
    if (rc < 0)
        log_warning("the host refused the CPUs of vCPU %u: %s", index, strerror(-rc));
    slot->place = *place;
}

// unlock(), and its thread goes where the policy wants it. The board isn't held meanwhile.
static void unlock_in_place(struct slicer *s, const struct sched_policy *p, struct slot *slot)
{
    unsigned index = (unsigned)(slot - s->slots);
    struct sched_cpus place, allowed;
    bool move = !s->alone && slot->id != SCHED_NONE && allowed_place(s, index, &allowed);
    if (move) {
        uint64_t any = 0;
        sched_policy_place(p, slot->id, &place);
        for (unsigned i = 0; i < SCHED_CPUS_LIMIT / 64; i++) {
            place.bits[i] &= allowed.bits[i];
            any |= place.bits[i];
        }
        move = any && memcmp(&place, &slot->place, sizeof(place)) != 0;
    }
    board_unlock(s->board);
    if (move)
        set_place(slot, index, 0, &place);
    pthread_mutex_unlock(&s->lock);
}

// ---- timers ----

static int make_timers(struct slicer *s, struct slot *slot)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = s->ops.signal};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &event, &slot->look) != 0)
        return -errno;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &slot->used) != 0) {
        int rc = -errno;
        timer_delete(slot->look);
        return rc;
    }
    slot->has_timers = true;
    return 0;
}

static void arm(timer_t timer, uint64_t at)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at / NSEC_PER_SEC), .tv_nsec = (long)(at % NSEC_PER_SEC)}};
    timer_settime(timer, TIMER_ABSTIME, &when, NULL);
}

static void disarm(timer_t timer)
{
    struct itimerspec never = {0};
    timer_settime(timer, 0, &never, NULL);
}

static void arm_look(struct slot *slot, uint64_t now, uint64_t cpu)
{
    uint64_t used = cpu - slot->began_cpu;
    uint64_t left = slot->budget > used + ROUNDING_NS ? slot->budget - used : ROUNDING_NS;
    slot->looked = now;
    slot->looked_cpu = cpu;
    slot->look_at = now + (slot->interval < left ? slot->interval : left);
    arm(slot->look, slot->look_at);
}

// ---- runs ----

// What the thread used to get here, since the end of its last run, is in its account as well: on a
// CPU where everybody's turn costs something, who has many short ones would get more than the rest.
static void begin_run(struct slot *slot, const struct sched_policy *p)
{
    if (slot->mode == OUT)
        slot->began_cpu = cpu_clock();
    slot->mode = GRANTED;
    slot->lost = false;
    slot->cpu = sched_policy_cpu(p, slot->id);
    slot->budget = sched_policy_budget(p, slot->id);
    slot->began = clock_monotonic_ns();
    slot->interval = slot->budget;
    if (slot->sleepy)
        slot->interval = slot->budget / 8 > LOOK_LEAST ? slot->budget / 8 : LOOK_LEAST;
    add(&slot->runs, 1);
}

static void go_on_asleep(struct slot *slot)
{
    slot->began = clock_monotonic_ns();
    arm(slot->used, slot->began_cpu + slot->awake_after);
    slot->used_is_armed = true;
}

// The vCPU stays inside KVM, which wakes it; when it has used a little we hear of it.
static void begin_sleep(struct slot *slot)
{
    slot->mode = ASLEEP;
    slot->sleepy = LOOKS_AFTER_SLEEP;
    disarm(slot->look);
    slot->awake_after = slot->budget / 2 > LEAST_AWAKE_NS ? slot->budget / 2 : LEAST_AWAKE_NS;
    add(&slot->sleeps, 1);
    go_on_asleep(slot);
}

// With the lock held: the grant goes back, unless it was taken back meanwhile; what was used counts
// in any case.
static void end_run(struct slicer *s, struct sched_policy *p, struct slot *slot, bool wants_more)
{
    uint64_t now = clock_monotonic_ns(), used = cpu_clock() - slot->began_cpu;
    slot->began_cpu += used;
    if (slot->lost) // by a board that is gone
        return;
    board_ran(s->board, slot->cpu, used, now - slot->began);
    if (sched_policy_state(p, slot->id) != SCHED_RUNNING ||
        sched_policy_cpu(p, slot->id) != slot->cpu) {
        // The budget was charged when it was taken back.
        sched_policy_charge(p, slot->id, (int64_t)(used - slot->budget), now);
        add(&slot->taken, 1);
        if (!wants_more)
            sched_policy_sleep(p, slot->id, now);
        return;
    }
    sched_policy_stop(p, slot->id, used, wants_more, now);
    board_give(s->board, slot->cpu, wants_more ? slot->id : SCHED_NONE);
}

// What a look at a running vCPU finds.
enum finding { RUNS_ON, SLICE_IS_OVER, SLEEPS };

static enum finding look_at_run(struct slicer *s, struct slot *slot)
{
    uint64_t now = clock_monotonic_ns(), cpu = cpu_clock();
    uint64_t used = cpu - slot->began_cpu;
    if (used + ROUNDING_NS >= slot->budget) {
        slot->sleepy -= slot->sleepy > 0;
        return SLICE_IS_OVER;
    }
    if (now < slot->look_at)
        return RUNS_ON; // interrupted for something else; the timer is still armed
    add(&slot->looks, 1);
    if ((cpu - slot->looked_cpu) * 2 < now - slot->looked && s->ops.is_asleep(slot->vcpu))
        return SLEEPS;
    // The host gives it less than a CPU; that must not keep others waiting for ever.
    if (now - slot->began > 2 * slot->budget + STARVED_NS)
        return SLICE_IS_OVER;
    slot->interval *= 2;
    arm_look(slot, now, cpu);
    if (now - slot->began > used + EXTEND_AT_NS) {
        lock(s);
        if (!slot->lost)
            board_extend(s->board, slot->cpu, slot->budget - used, now);
        unlock(s);
    }
    return RUNS_ON;
}

// ---- waiting ----

static void note_wait(struct slot *slot, uint64_t waited, bool woke)
{
    unsigned bucket = 0;
    for (uint64_t us = waited / 1000; us && bucket < SLICER_WAIT_BUCKETS - 1; us >>= 1)
        bucket++;
    if (waited) {
        add(&slot->waits, 1);
        add(&slot->withheld, waited);
    }
    if (woke) {
        add(&slot->wakes, 1);
        add(&slot->wake_us[bucket], 1);
    }
}

// With the lock held: asks for a CPU unless it has one, or waits already.
static void ask(struct slicer *s, struct sched_policy *p, struct slot *slot)
{
    if (sched_policy_state(p, slot->id) == SCHED_RUNNING)
        return;
    uint32_t cpu = sched_policy_wake(p, slot->id, clock_monotonic_ns());
    board_give(s->board, cpu, slot->id);
}

static uint64_t look_again(struct slicer *s, const struct sched_policy *p, const struct slot *slot,
                           bool begins)
{
    uint64_t until = board_watch(s->board, slot->id, begins, clock_monotonic_ns());
    if (sched_policy_state(p, slot->id) == SCHED_THROTTLED &&
        sched_policy_release(p, slot->id) < until)
        until = sched_policy_release(p, slot->id);
    return until;
}

// The lock is held at first, with the end of the former run noted. True with a grant; false when it
// must leave.
static bool wait_for_turn(struct slicer *s, struct sched_policy *p, struct slot *slot,
                          uint64_t *withheld)
{
    uint64_t since = clock_monotonic_ns(), waited = 0;
    bool go = true, woke = slot->mode != GRANTED;
    for (bool begins = true;; begins = false) {
        if (slot->id == SCHED_NONE) { // no room on the board
            slot->mode = OUT;
            break;
        }
        ask(s, p, slot);
        if (sched_policy_state(p, slot->id) == SCHED_RUNNING) {
            begin_run(slot, p);
            break;
        }
        uint64_t generation = s->generation - 1, until = look_again(s, p, slot, begins);
        uint32_t id = slot->id, turn = board_turn(s->board, id);
        // Looking may have freed a CPU, for this one as well.
        if (sched_policy_state(p, id) == SCHED_RUNNING)
            continue;
        atomic_store(&slot->waiting, (generation + 1) << 16 | id);
        unlock(s);
        // Whoever makes it leave changes the word after that is to be seen: read before, the word
        // or the answer tells.
        if (!s->ops.must_leave(slot->vcpu))
            board_wait(s->board, generation, id, turn, until);
        atomic_store(&slot->waiting, 0);
        waited = clock_monotonic_ns() - since;
        p = lock(s);
        if (s->ops.must_leave(slot->vcpu)) {
            go = false;
            break;
        }
    }
    if (!go && slot->id != SCHED_NONE) {
        // It may have been given a CPU in this moment.
        slot->cpu = sched_policy_cpu(p, slot->id);
        if (sched_policy_state(p, slot->id) == SCHED_RUNNING) {
            sched_policy_stop(p, slot->id, 0, false, clock_monotonic_ns());
            board_give(s->board, slot->cpu, SCHED_NONE);
        } else {
            sched_policy_sleep(p, slot->id, clock_monotonic_ns());
        }
        slot->mode = OUT;
    }
    if (slot->mode == GRANTED)
        unlock_in_place(s, p, slot);
    else
        unlock(s);
    if (go)
        note_wait(slot, waited, woke);
    *withheld = waited;
    return go;
}

// ---- a vCPU's thread ----

static int begin_thread(struct slicer *s, unsigned index)
{
    struct slot *slot = &s->slots[index];
    int rc = make_timers(s, slot);
    if (rc < 0)
        return rc;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    // A wish that an older kernel doesn't know. Who comes with little to do, or with a turn that
    // others wait behind, then needn't wait for the end of the kernel's own slices.
    sched_attributes_set_slice(tid, KERNEL_SLICE_NS);
    struct sched_cpus allowed;
    pthread_mutex_lock(&s->lock);
    atomic_store(&slot->tid, tid);
    if (allowed_place(s, index, &allowed))
        set_place(slot, index, tid, &allowed);
    pthread_mutex_unlock(&s->lock);
    slot->sleepy = LOOKS_AFTER_SLEEP;
    return 0;
}

bool slicer_enter(struct slicer *s, unsigned index, uint64_t *withheld_ns, int *failed)
{
    struct slot *slot = &s->slots[index];
    *withheld_ns = 0;
    *failed = slot->has_timers ? 0 : begin_thread(s, index);
    if (*failed)
        return true;
    struct sched_policy *p;
    if (slot->mode == GRANTED) {
        enum finding finding = look_at_run(s, slot);
        if (finding == RUNS_ON)
            return true;
        p = lock(s);
        end_run(s, p, slot, finding == SLICE_IS_OVER);
        if (finding == SLEEPS) {
            unlock_in_place(s, p, slot);
            begin_sleep(slot);
            return true;
        }
    } else if (slot->mode == ASLEEP) {
        uint64_t used = cpu_clock() - slot->began_cpu;
        if (used < slot->awake_after)
            return true; // the timer is still armed
        slot->began_cpu += used;
        p = lock(s);
        // Within its share it needs nobody's leave: it would only wait for what it is owed.
        if (slot->id != SCHED_NONE &&
            !sched_policy_charge_since(p, slot->id, used, slot->began, clock_monotonic_ns())) {
            unlock_in_place(s, p, slot);
            go_on_asleep(slot);
            return true;
        }
    } else {
        p = lock(s);
    }
    if (!wait_for_turn(s, p, slot, withheld_ns))
        return false;
    if (slot->used_is_armed)
        disarm(slot->used);
    slot->used_is_armed = false;
    if (slot->mode == GRANTED)
        arm_look(slot, clock_monotonic_ns(), cpu_clock());
    return true;
}

void slicer_leave(struct slicer *s, unsigned index)
{
    struct slot *slot = &s->slots[index];
    if (slot->mode == GRANTED) {
        struct sched_policy *p = lock(s);
        end_run(s, p, slot, false);
        unlock(s);
    }
    if (slot->has_timers) {
        disarm(slot->look);
        disarm(slot->used);
    }
    slot->used_is_armed = false;
    slot->mode = OUT;
}

void slicer_thread_end(struct slicer *s, unsigned index)
{
    struct slot *slot = &s->slots[index];
    slicer_leave(s, index);
    atomic_store(&slot->tid, 0);
    if (!slot->has_timers)
        return;
    timer_delete(slot->look);
    timer_delete(slot->used);
    slot->has_timers = false;
}

void slicer_wake(struct slicer *s, unsigned index)
{
    uint64_t waiting = atomic_load(&s->slots[index].waiting);
    if (waiting)
        board_wake(s->board, (waiting >> 16) - 1, (uint32_t)(waiting & 0xffff));
}

// ---- life, and changes ----

int slicer_create(struct slicer **out, unsigned count, void *const *vcpus,
                  const struct slicer_ops *ops, struct board *board,
                  const struct cpu_settings *settings, bool alone, struct error *err)
{
    struct slicer *s = calloc(1, sizeof(*s) + count * sizeof(s->slots[0]));
    if (!s)
        return error_set_errno(err, ENOMEM, "creating the slicer");
    s->ops = *ops;
    s->board = board;
    s->count = count;
    s->settings = *settings;
    s->alone = alone;
    cpu_list_allowed(&s->allowed);
    pthread_mutex_init(&s->lock, NULL);
    for (unsigned i = 0; i < count; i++) {
        s->slots[i].vcpu = vcpus[i];
        s->slots[i].id = SCHED_NONE;
        s->slots[i].throttle = 1000;
    }
    *out = s;
    return 0;
}

void slicer_destroy(struct slicer *s)
{
    if (!s)
        return;
    board_close(s->board);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

// With the lock held: what has changed, for all vCPUs.
static void tell_policy(struct slicer *s, struct sched_policy *p)
{
    uint64_t now = clock_monotonic_ns();
    struct sched_cap_limits cap = cpu_cap_limits(s->settings.machine.cap);
    if (s->group != SCHED_NONE)
        sched_policy_set_group_cap(p, s->group, &cap, now);
    for (unsigned i = 0; i < s->count; i++) {
        struct sched_params params;
        params_of(s, p, i, &params);
        if (s->slots[i].id != SCHED_NONE)
            sched_policy_set(p, s->slots[i].id, &params, now);
    }
    board_give_all(s->board, SCHED_NONE);
}

void slicer_configure(struct slicer *s, const struct cpu_settings *settings)
{
    struct sched_policy *p = lock(s);
    s->settings = *settings;
    tell_policy(s, p);
    for (unsigned i = 0; i < s->count; i++) {
        struct sched_cpus allowed;
        pid_t tid = atomic_load(&s->slots[i].tid);
        if (tid && allowed_place(s, i, &allowed))
            set_place(&s->slots[i], i, tid, &allowed);
    }
    unlock(s);
}

void slicer_throttle(struct slicer *s, uint64_t vcpus, unsigned thousandths)
{
    struct sched_policy *p = lock(s);
    for (unsigned i = 0; i < s->count; i++)
        s->slots[i].throttle = vcpus >> i & 1 ? thousandths : 1000;
    tell_policy(s, p);
    unlock(s);
}

void slicer_numbers(struct slicer *s, unsigned index, struct slicer_numbers *n)
{
    const struct slot *slot = &s->slots[index];
    *n = (struct slicer_numbers){
        .waits = atomic_load(&slot->waits),
        .wakes = atomic_load(&slot->wakes),
        .withheld_ns = atomic_load(&slot->withheld),
        .runs = atomic_load(&slot->runs),
        .looks = atomic_load(&slot->looks),
        .sleeps = atomic_load(&slot->sleeps),
        .taken = atomic_load(&slot->taken),
    };
    for (unsigned i = 0; i < SLICER_WAIT_BUCKETS; i++)
        n->wake_us[i] = atomic_load(&slot->wake_us[i]);
    struct sched_policy *p = lock(s);
    n->share = slot->id != SCHED_NONE ? sched_policy_share(p, slot->id) : 0;
    unlock(s);
}
