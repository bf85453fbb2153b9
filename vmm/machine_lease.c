#include "vmm/machine_lease.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/cluster_mutant.h"
#include "base/log.h"
#include "vmm/disk_epoch.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_migration.h"

struct machine_lease {
    struct machine *machine;
    struct machine_lease_params params;
    int timer_fd; // CLOCK_BOOTTIME, which libuv's timers don't have
    uv_poll_t timer;
    uv_timer_t keep;
    unsigned open_handles;
    bool was_running; // before it was lost
    struct witness_file *witness;
};

int machine_lease_boot_id(char *out, size_t size)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, out, size - 1);
    int rc = n < 0 ? -errno : 0;
    close(fd);
    out[n < 0 ? 0 : n] = 0;
    out[strcspn(out, "\n")] = 0;
    return rc;
}

// ---- the loss ----

static void on_keep_over(uv_timer_t *keep)
{
    struct machine_lease *l = keep->data;
    log_error("the lease was not given back: the machine's memory is given up");
    machine_end(l->machine, MACHINE_STOP_LEASE_LOST);
}

static void lose(struct machine *m)
{
    struct machine_lease *l = m->managed;
    log_error("the lease with epoch %" PRIu64 " has run out: the machine stands", l->params.epoch);
    if (m->state == MACHINE_CREATED) { // it has no memory worth keeping
        machine_end(m, MACHINE_STOP_LEASE_LOST);
        return;
    }
    l->was_running = m->state == MACHINE_RUNNING || (m->frozen && m->frozen_running);
    if (CLUSTER_IS_MUTANT(LOCK_BEFORE_LAST_WRITE))
        machine_disks_unlock(m);
    if (m->state == MACHINE_RUNNING)
        machine_halt(m); // returns when nothing is in flight any more
    m->state = MACHINE_LEASE_LOST;
    // Flushed before the locks go: nothing that this host still has cached may land behind the back
    // of the next owner.
    machine_disks_give_up(m);
    uv_timer_start(&l->keep, on_keep_over, l->params.keep_ns / NSEC_PER_MSEC, 0);
    machine_emit(m, MACHINE_EVENT_LEASE_LOST);
}

void machine_lease_look(struct machine *m)
{
    if (!m->managed || m->state == MACHINE_STOPPED || m->state == MACHINE_LEASE_LOST)
        return;
    if (!lease_holds(&m->lease))
        lose(m);
}

static void on_timer(uv_poll_t *timer, int status, int events)
{
    struct machine_lease *l = timer->data;
    uint64_t expirations;
    (void)status;
    (void)events;
    if (read(l->timer_fd, &expirations, sizeof(expirations)) < 0 && errno != EAGAIN)
        log_error("the lease's timer: %s", strerror(errno));
    machine_lease_look(l->machine);
}

static void arm(struct machine_lease *l, uint64_t deadline_ns)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
                     .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)},
    };
    if (deadline_ns != LEASE_UNBOUNDED)
        timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

// ---- evidence ----

// New slots for what is done under the epoch. Nothing runs, and nothing is in flight.
static void begin_tenure(struct machine *m)
{
    struct machine_lease *l = m->managed;
    for (unsigned i = 0; i < m->vcpus.count; i++)
        m->vcpus.list[i].witness = witness_slot(l->witness, l->params.epoch, WITNESS_VCPU, i);
    for (unsigned i = 0; i < m->config.disk_count; i++)
        m->disks[i]->witness = witness_slot(l->witness, l->params.epoch, WITNESS_DISK, i);
}

// ---- life ----

static void on_closed(uv_handle_t *handle)
{
    struct machine_lease *l = handle->data;
    if (--l->open_handles > 0)
        return;
    close(l->timer_fd);
    free(l);
}

void machine_lease_close(struct machine *m)
{
    struct machine_lease *l = m->managed;
    if (!l)
        return;
    m->managed = NULL;
    uv_close((uv_handle_t *)&l->timer, on_closed);
    uv_close((uv_handle_t *)&l->keep, on_closed);
}

int machine_manage(struct machine *m, const struct machine_lease_params *params,
                   struct witness_file *witness, struct error *err)
{
    char text[UUID_TEXT_SIZE];
    if (!uuid_equal(&params->uuid, &m->config.uuid))
        return error_set(err, EINVAL, "the lease is of another machine: this one is %s",
                         uuid_format(&m->config.uuid, text));
    atomic_store(&m->lease.deadline_ns, params->deadline_ns);
    if (!lease_holds(&m->lease))
        return error_set(err, ETIMEDOUT, "the lease has run out before the machine's start");
    struct machine_lease *l = calloc(1, sizeof(*l));
    if (!l)
        return error_set_errno(err, ENOMEM, "preparing for the lease");
    l->machine = m;
    l->params = *params;
    l->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    int rc = l->timer_fd < 0 ? -errno : uv_poll_init(m->loop, &l->timer, l->timer_fd);
    if (rc < 0) {
        if (l->timer_fd >= 0)
            close(l->timer_fd);
        free(l);
        return error_set_errno(err, -rc, "preparing a timer for the lease");
    }
    uv_timer_init(m->loop, &l->keep);
    l->timer.data = l->keep.data = l;
    l->open_handles = 2;
    uv_poll_start(&l->timer, UV_READABLE, on_timer);
    arm(l, params->deadline_ns);
    m->managed = l;
    l->witness = witness;
    begin_tenure(m);
    return 0;
}

// ---- what the agent asks ----

bool machine_is_managed(const struct machine *m)
{
    return m->managed != NULL;
}

uint64_t machine_lease_epoch(const struct machine *m)
{
    return m->managed->params.epoch;
}

bool machine_lease_has_new_disks(const struct machine *m)
{
    return m->managed->params.new_disks;
}

uint64_t machine_lease_deadline(const struct machine *m)
{
    return lease_deadline(&m->lease);
}

bool machine_lease_holds(struct machine *m)
{
    return lease_holds(&m->lease);
}

int machine_lease_check_epoch(const struct machine *m, bool given, uint64_t epoch,
                              struct error *err)
{
    if (!m->managed || (given && epoch == m->managed->params.epoch))
        return 0;
    if (!given)
        return error_set(err, EPERM,
                         "this machine is managed by a cluster, which decides where it runs: only "
                         "who names its epoch can do that");
    return error_set(err, EPERM, "the machine has the epoch %" PRIu64 ", not %" PRIu64,
                     m->managed->params.epoch, epoch);
}

static int check_name(const struct machine *m, const struct machine_lease_name *name,
                      struct error *err)
{
    if (!m->managed)
        return error_set(err, ENOTSUP, "this machine has no lease: nobody manages it");
    if (!uuid_equal(&name->uuid, &m->config.uuid))
        return error_set(err, EXDEV, "another machine's lease: its uuid isn't this one's");
    if (strcmp(name->boot_id, m->managed->params.boot_id) != 0)
        return error_set(err, EREMCHG, "a lease of another boot: its deadline means nothing here");
    return 0;
}

#ifdef CLUSTER_MUTANTS
static int take_late_deadline(struct machine *m, uint64_t deadline_ns)
{
    bool run = m->state == MACHINE_LEASE_LOST && m->managed->was_running;
    vcpus_set_deadline(&m->vcpus, deadline_ns);
    lease_reinstate(&m->lease, deadline_ns, clock_boottime_ns());
    arm(m->managed, deadline_ns);
    uv_timer_stop(&m->managed->keep);
    vcpus_finish_exits(&m->vcpus);
    m->state = MACHINE_PAUSED;
    if (run)
        machine_continue(m);
    return 0;
}
#endif

int machine_lease_renew(struct machine *m, const struct machine_lease_name *name,
                        uint64_t deadline_ns, struct error *err)
{
    int rc = check_name(m, name, err);
    if (rc < 0)
        return rc;
    struct machine_lease *l = m->managed;
    if (name->epoch != l->params.epoch)
        return error_set(err, ESTALE, "the machine has the epoch %" PRIu64 ", not %" PRIu64,
                         l->params.epoch, name->epoch);
    if (CLUSTER_IS_MUTANT(DEADLINE_RELATIVE))
        deadline_ns += clock_boottime_ns();
    machine_lease_look(m);
#ifdef CLUSTER_MUTANTS
    if (CLUSTER_IS_MUTANT(RENEWED_AFTER_EXPIRY) && m->state == MACHINE_LEASE_LOST)
        return take_late_deadline(m, deadline_ns);
#endif
    uint64_t before = lease_deadline(&m->lease);
    if (before != LEASE_LOST && deadline_ns <= before)
        return 0;
    if (before != LEASE_LOST)
        vcpus_set_deadline(&m->vcpus, deadline_ns);
    rc = lease_renew(&m->lease, deadline_ns, clock_boottime_ns());
    if (rc < 0) {
        machine_lease_look(m);
        return error_set(err, ETIMEDOUT,
                         "the lease had run out already; only a larger epoch gives it back");
    }
    arm(l, deadline_ns);
    return 0;
}

// The disks again: locked, and not used by anybody since.
static int take_disks(struct machine *m, uint64_t epoch, uint64_t not_started, struct error *err)
{
    uint64_t own = m->managed->params.epoch;
    int rc = machine_disks_lock(m, err);
    if (rc < 0)
        return rc;
    rc = machine_disks_claim(m, epoch, not_started > own ? not_started : own, err);
    if (rc < 0)
        machine_disks_unlock(m);
    return rc;
}

static int check_reinstatement(const struct machine *m, const struct machine_lease_name *name,
                               uint64_t deadline_ns, struct error *err)
{
    if (name->epoch <= m->managed->params.epoch)
        return error_set(err, ESTALE, "only an epoch above %" PRIu64 " gives the lease back",
                         m->managed->params.epoch);
    if (m->frozen)
        return error_set(err, EBUSY, "a migration or snapshot of the machine has not ended yet");
    if (m->state != MACHINE_LEASE_LOST && !m->in_doubt)
        return error_set(err, EBUSY, "the machine is %s and has its lease",
                         machine_state_name(m->state));
    if (clock_boottime_ns() >= deadline_ns)
        return error_set(err, ETIMEDOUT, "the new deadline has passed as well");
    return 0;
}

int machine_lease_reinstate(struct machine *m, const struct machine_lease_name *name,
                            uint64_t deadline_ns, uint64_t not_started, struct error *err)
{
    int rc = check_name(m, name, err);
    if (rc < 0)
        return rc;
    struct machine_lease *l = m->managed;
    machine_lease_look(m);
    rc = check_reinstatement(m, name, deadline_ns, err);
    if (rc == 0)
        rc = take_disks(m, name->epoch, not_started, err);
    if (rc < 0)
        return rc;
    bool run = m->state == MACHINE_LEASE_LOST ? l->was_running : m->frozen_running;
    vcpus_set_deadline(&m->vcpus, deadline_ns);
    uint64_t now = clock_boottime_ns();
    rc = lease_deadline(&m->lease) == LEASE_LOST ? lease_reinstate(&m->lease, deadline_ns, now)
                                                 : lease_renew(&m->lease, deadline_ns, now);
    if (rc < 0) {
        machine_disks_unlock(m);
        machine_lease_look(m);
        return error_set(err, ETIMEDOUT, "the new deadline has passed as well");
    }
    arm(l, deadline_ns);
    l->params.epoch = name->epoch;
    uv_timer_stop(&l->keep);
    m->state = MACHINE_PAUSED;
    m->in_doubt = false;
    begin_tenure(m);
    vcpus_finish_exits(&m->vcpus);
    log_info("reinstated with epoch %" PRIu64, name->epoch);
    if (run)
        machine_continue(m);
    machine_emit(m, MACHINE_EVENT_REINSTATED);
    return 0;
}
