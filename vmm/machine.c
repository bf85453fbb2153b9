#include "vmm/machine.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "devices/pvpanic.h"
#include "vmm/cpu_model.h"
#include "vmm/cpuid.h"
#include "vmm/layout.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_migration.h"

void machine_emit(struct machine *m, enum machine_event event)
{
    if (m->listener.event)
        m->listener.event(m->listener.opaque, event);
}

// ---- stopping the world ----

// vCPUs out of the guest with pending exits completed, then I/O threads idle. In this order: a vCPU
// that still ran could ring a doorbell behind a device's back.
void machine_halt(struct machine *m)
{
    vcpus_park(&m->vcpus);
    for (struct device *d = m->devices; d; d = d->next)
        if (d->ops->quiesce)
            d->ops->quiesce(d);
    bus_reclaim(&m->ports);
    bus_reclaim(&m->mmio);
}

static void go(struct machine *m)
{
    for (struct device *d = m->devices; d; d = d->next)
        if (d->ops->resume)
            d->ops->resume(d);
    vcpus_open_gate(&m->vcpus);
}

void machine_let_go_on(struct machine *m)
{
    if (m->state == MACHINE_RUNNING && !m->frozen && !atomic_load(&m->request) &&
        !atomic_load(&m->failed_vcpu))
        vcpus_open_gate(&m->vcpus);
}

void machine_end(struct machine *m, enum machine_stop_reason reason)
{
    if (m->state == MACHINE_STOPPED)
        return;
    if (m->state == MACHINE_RUNNING)
        machine_halt(m);
    m->state = MACHINE_STOPPED;
    m->stop_reason = reason;
    log_info("machine stopped: %s", machine_stop_reason_name(reason));
    machine_emit(m, MACHINE_EVENT_STOPPED);
}

static void crash(struct machine *m, const struct vcpu *v)
{
    if (m->state == MACHINE_RUNNING)
        machine_halt(m);
    m->crash_report = crash_report_format(m, v);
    m->state = MACHINE_PAUSED; // nothing is left to halt
    machine_emit(m, MACHINE_EVENT_CRASHED);
    machine_end(m, MACHINE_STOP_CRASH);
}

// Everything back to power-on and the images loaded again; the machine is halted.
static int reset_halted(struct machine *m, struct error *err)
{
    for (struct device *d = m->devices; d; d = d->next)
        if (d->ops->reset)
            d->ops->reset(d);
    bus_reclaim(&m->ports);
    bus_reclaim(&m->mmio);
    // What came while the machine ran gets its addresses now, as at a start.
    int rc = pci_bus_assign(&m->pci, err);
    if (rc == 0)
        rc = irqchip_state_put(&m->reset_irqchip, &m->kvm, err);
    if (rc == 0)
        rc = vcpus_reset(&m->vcpus, err);
    if (rc < 0)
        return rc;
    ram_clear(&m->ram);
    return machine_boot(m, err);
}

// A reset that the guest asked for, or a person.
static int reset(struct machine *m, const char *why, struct error *err)
{
    bool was_running = m->state == MACHINE_RUNNING, last;
    if (was_running)
        machine_halt(m);
    // What other vCPUs asked for or died of on their way to the gate was the former guest's: served
    // later, it would stop or reset the new one.
    atomic_store(&m->request, 0);
    atomic_store(&m->failed_vcpu, NULL);
    int rc = reset_halted(m, err);
    if (rc < 0) {
        error_prefix(err, "resetting the machine");
        log_error("%s", err->message);
        m->state = MACHINE_PAUSED;
        machine_end(m, MACHINE_STOP_FAILED);
        return rc;
    }
    if (log_limit_allows(&m->resets_told, clock_monotonic_ns(), &last))
        log_info("machine reset%s%s", why, LOG_LIMIT_NOTE(last));
    machine_emit(m, MACHINE_EVENT_RESET);
    if (was_running)
        go(m);
    return 0;
}

// ---- requests of the guest ----

static void serve_failure(struct machine *m, struct vcpu *v)
{
    if (v->failure == VCPU_TRIPLE_FAULT && m->config.on_triple_fault == ON_TRIPLE_FAULT_RESET) {
        struct error err = {0};
        char why[48];
        snprintf(why, sizeof(why), " after a triple fault on vCPU %u", v->index);
        reset(m, why, &err);
        return;
    }
    crash(m, v);
}

// The vCPU that spoke to the panic device, to judge by its last exit.
static struct vcpu *find_panicked(struct machine *m)
{
    for (unsigned i = 0; i < m->vcpus.count; i++) {
        struct vcpu *v = &m->vcpus.list[i];
        const struct vcpu_exit_record *last = &v->last_exits[(v->exit_count - 1) % VCPU_LAST_EXITS];
        if (v->exit_count > 0 && last->reason == KVM_EXIT_IO && last->address == LAYOUT_PORT_PANIC)
            return v;
    }
    return &m->vcpus.list[0];
}

// The vCPUs are parked.
static void serve_panic(struct machine *m, unsigned events)
{
    struct error err = {0};
    m->panic = events;
    bool last;
    // The guest may go on and say it again, thousands of times a second: its listeners needn't hear
    // each of them either.
    if (log_limit_allows(&m->panics_told, clock_monotonic_ns(), &last)) {
        log_warning("the guest's kernel says that %s%s",
                    events & PVPANIC_PANICKED ? "it has panicked" : "it starts its crash kernel",
                    LOG_LIMIT_NOTE(last));
        machine_emit(m, MACHINE_EVENT_GUEST_CRASHED);
    }
    bool panicked = events & PVPANIC_PANICKED;
    if (panicked && m->config.on_panic == ON_PANIC_CRASH) {
        struct vcpu *v = find_panicked(m);
        v->failure = VCPU_PANICKED;
        crash(m, v);
    } else if (panicked && m->config.on_panic == ON_PANIC_RESET) {
        reset(m, " after a panic", &err);
    } else if (panicked && m->config.on_panic == ON_PANIC_PAUSE) {
        machine_halt(m);
        m->state = MACHINE_PAUSED;
        machine_emit(m, MACHINE_EVENT_PAUSED);
    } else {
        machine_let_go_on(m);
    }
}

static void serve_request(struct machine *m, enum machine_request request, int value)
{
    struct error err = {0};
    switch (request) {
    case MACHINE_REQUEST_POWER_OFF:
        machine_end(m, MACHINE_STOP_POWER_OFF);
        break;
    case MACHINE_REQUEST_RESET:
        if (m->config.on_reboot == ON_REBOOT_EXIT)
            machine_end(m, MACHINE_STOP_REBOOT);
        else
            reset(m, " by the guest", &err);
        break;
    case MACHINE_REQUEST_EXIT:
        m->exit_code = value;
        machine_end(m, MACHINE_STOP_EXIT);
        break;
    case MACHINE_REQUEST_PANIC:
        if (m->state == MACHINE_RUNNING)
            serve_panic(m, (unsigned)value);
        break;
    }
}

// What vCPU threads asked for since the last call. On the main thread; also before each change of
// state, so that a vCPU behind a closed gate is never let on past its own request.
static void serve_requests(struct machine *m)
{
    if (m->state == MACHINE_LEASE_LOST)
        return; // they wait, in case it is given back
    struct vcpu *failed = atomic_exchange(&m->failed_vcpu, NULL);
    uint64_t request = atomic_exchange(&m->request, 0);
    if (m->state == MACHINE_STOPPED || m->state == MACHINE_CREATED)
        return;
    if (request) {
        // The vCPU that asked has closed the gate but may still be on its way to it.
        vcpus_park(&m->vcpus);
        serve_request(m, (enum machine_request)((request & 0xff) - 1), (int)(request >> 8));
    } else if (failed) {
        vcpus_park(&m->vcpus);
        serve_failure(m, failed);
    }
}

static void on_wake_up(uv_async_t *wake_up)
{
    struct machine *m = wake_up->data;
    if (!m)
        return;
    machine_lease_look(m);
    serve_requests(m);
    machine_hotplug_serve(m);
    if (atomic_exchange(&m->balloon_changed, false))
        machine_emit(m, MACHINE_EVENT_BALLOON);
}

static void on_vcpu_failed(void *opaque, struct vcpu *v)
{
    struct machine *m = opaque;
    struct vcpu *none = NULL;
    atomic_compare_exchange_strong(&m->failed_vcpu, &none, v);
    uv_async_send(m->wake_up);
}

static void on_lease_lost(void *opaque)
{
    uv_async_send(((struct machine *)opaque)->wake_up);
}

static void on_system_event(void *opaque, enum vcpu_system_event event)
{
    machine_request(
        opaque, event == VCPU_SYSTEM_SHUTDOWN ? MACHINE_REQUEST_POWER_OFF : MACHINE_REQUEST_RESET,
        0);
}

// ---- life ----

static int copy_config(struct machine *m, const struct machine_config *config, struct error *err)
{
    // Through JSON: one place knows every field, and it is the description that inspect prints.
    json_t *json = machine_config_to_json(config);
    int rc = json ? machine_config_init(&m->config) : -ENOMEM;
    if (rc == 0)
        rc = machine_config_from_json(&m->config, json, err);
    else
        error_set_errno(err, -rc, "copying the machine's description");
    json_decref(json);
    return rc;
}

static int create_wake_up(struct machine *m, struct error *err)
{
    m->wake_up = calloc(1, sizeof(*m->wake_up));
    int rc = m->wake_up ? uv_async_init(m->loop, m->wake_up, on_wake_up) : -ENOMEM;
    if (rc < 0) {
        free(m->wake_up);
        m->wake_up = NULL;
        return error_set_errno(err, -rc, "preparing the machine's event loop");
    }
    m->wake_up->data = m;
    return 0;
}

static void free_wake_up(uv_handle_t *handle)
{
    free(handle);
}

// The CPUID of the model, or that of the host a machine comes from.
static int choose_cpuid(struct machine *m, const struct cpuid_table *given, struct error *err)
{
    bool deadline = m->kvm.abilities.tsc_deadline;
    struct cpuid_table *supported = calloc(1, sizeof(*supported));
    m->cpuid = calloc(1, sizeof(*m->cpuid));
    if (!supported || !m->cpuid) {
        free(supported);
        return error_set_errno(err, ENOMEM, "building the CPUID table");
    }
    struct cpu_model model;
    int rc = cpuid_get_supported(&m->kvm, supported, err);
    if (rc == 0 && given) {
        *m->cpuid = *given;
        rc = cpuid_check(given, supported, deadline, err);
    } else if (rc == 0) {
        rc = cpu_model_parse(m->config.cpu_model, &model, err);
        if (rc == 0)
            rc = cpuid_build(supported, &model, m->config.cpus, deadline, m->cpuid, err);
    }
    free(supported);
    return rc;
}

static int create_vcpus(struct machine *m, const struct cpuid_table *given, struct error *err)
{
    struct vcpus_listener listener = {.failed = on_vcpu_failed,
                                      .system_event = on_system_event,
                                      .lease_lost = on_lease_lost,
                                      .opaque = m};
    int rc = choose_cpuid(m, given, err);
    if (rc < 0)
        return rc;
    rc = vcpus_create(&m->vcpus, &m->kvm, m->config.cpus, m->cpuid, &m->ports, &m->mmio, &listener,
                      err);
    if (rc < 0)
        return rc;
    m->vcpus.lease = &m->lease;
    cpu_time_create(&m->cpu_time, &m->ram.memory, m->config.cpus, &machine_bus_ops, m);
    m->vcpus.cpu_time = &m->cpu_time;
    cpu_control_init(&m->cpu, &m->vcpus);
    return 0;
}

static void destroy_vcpus(struct machine *m)
{
    vcpus_destroy(&m->vcpus);
    cpu_time_destroy(&m->cpu_time);
}

static int open_statistics(struct machine *m)
{
    m->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (m->kvm.abilities.binary_stats)
        m->stats_fd = kvm_vm_ioctl(&m->kvm, KVM_GET_STATS_FD, NULL);
    if (m->stats_fd < 0)
        m->stats_fd = -1; // statistics only: the machine does without
    return 0;
}

// 1. VM and RAM  2. interrupts  3. devices  4. vCPUs  5. images. Interrupts before devices, which
// take vectors; the in-kernel interrupt chips exist before the first vCPU, or it has no LAPIC.
static int build(struct machine *m, const struct cpuid_table *cpuid, struct error *err)
{
    int rc = kvm_check(&m->kvm, m->files.kvm_fd, err);
    if (rc < 0)
        return rc;
    rc = kvm_create_vm(&m->kvm, err);
    if (rc < 0)
        return rc;
    rc = ram_create(&m->ram, &m->kvm, m->config.memory, err);
    if (rc < 0)
        goto close_vm;
    rc = interrupts_init(&m->interrupts, &m->kvm, err);
    if (rc < 0)
        goto destroy_ram;
    rc = machine_devices_create(m, err);
    if (rc < 0)
        goto destroy_interrupts;
    rc = create_vcpus(m, cpuid, err);
    if (rc < 0)
        goto destroy_devices;
    rc = irqchip_state_get(&m->reset_irqchip, &m->kvm, err);
    if (rc == 0 && !m->incoming)
        rc = machine_boot(m, err);
    if (rc < 0)
        goto destroy_vcpus;
    return open_statistics(m);

destroy_vcpus:
    destroy_vcpus(m);
destroy_devices:
    machine_devices_destroy(m);
destroy_interrupts:
    interrupts_destroy(&m->interrupts);
destroy_ram:
    ram_destroy(&m->ram);
close_vm:
    kvm_close(&m->kvm);
    return rc;
}

static int create(struct machine **machine, const struct machine_config *config,
                  struct machine_files *files, uv_loop_t *loop, struct console_hub *hub,
                  const struct machine_listener *listener, bool incoming,
                  const struct cpuid_table *cpuid, struct error *err)
{
    struct machine *m = calloc(1, sizeof(*m));
    if (!m)
        return error_set_errno(err, ENOMEM, "creating the machine");
    m->loop = loop;
    m->hub = hub;
    m->listener = *listener;
    m->stats_fd = m->statm_fd = -1;
    m->incoming = incoming;
    atomic_init(&m->lease.deadline_ns, LEASE_UNBOUNDED); // until machine_manage()
    memset(m->lock_fds, 0xff, sizeof(m->lock_fds));      // all -1
    m->files = *files;
    pthread_mutex_init(&m->slots_lock, NULL);
    int rc = copy_config(m, config, err);
    if (rc < 0)
        goto free_machine;
    rc = create_wake_up(m, err);
    if (rc < 0)
        goto free_machine;
    rc = build(m, cpuid, err);
    if (rc < 0)
        goto close_wake_up;
    memset(files, 0xff, sizeof(*files)); // the machine's now
    *machine = m;
    return 0;

close_wake_up:
    m->wake_up->data = NULL;
    uv_close((uv_handle_t *)m->wake_up, free_wake_up);
    *files = m->files; // without those that a half-made device took, and closed
free_machine:
    free(m->cpuid);
    machine_config_free(&m->config);
    pthread_mutex_destroy(&m->slots_lock);
    free(m);
    return rc;
}

int machine_create(struct machine **machine, const struct machine_config *config,
                   struct machine_files *files, uv_loop_t *loop, struct console_hub *hub,
                   const struct machine_listener *listener, struct error *err)
{
    return create(machine, config, files, loop, hub, listener, false, NULL, err);
}

int machine_create_incoming(struct machine **machine, const struct machine_config *config,
                            const struct cpuid_table *cpuid, struct machine_files *files,
                            uv_loop_t *loop, struct console_hub *hub,
                            const struct machine_listener *listener, struct error *err)
{
    return create(machine, config, files, loop, hub, listener, true, cpuid, err);
}

void machine_destroy(struct machine *m)
{
    if (!m)
        return;
    machine_announce_stop(m);
    destroy_vcpus(m);
    machine_devices_destroy(m);
    interrupts_destroy(&m->interrupts);
    ram_destroy(&m->ram);
    kvm_close(&m->kvm);
    machine_lease_close(m);
    m->wake_up->data = NULL;
    uv_close((uv_handle_t *)m->wake_up, free_wake_up);
    if (m->stats_fd >= 0)
        close(m->stats_fd);
    if (m->statm_fd >= 0)
        close(m->statm_fd);
    // Only now: KVM has threads of its own in this process (Linux 6.12), which a vCPU's thread
    // began and which are in its control group until nothing holds the VM any more.
    cpu_control_destroy(&m->cpu);
    machine_files_close(&m->files);
    machine_config_free(&m->config);
    free(m->crash_report);
    free(m->cpuid);
    pthread_mutex_destroy(&m->slots_lock);
    free(m);
}

// ---- what people ask for ----

static int refuse(const struct machine *m, const char *what, struct error *err)
{
    return error_set(err, EBUSY, "can't %s: the machine is %s", what, machine_state_name(m->state));
}

static int refuse_without_lease(struct error *err)
{
    return error_set(err, ETIMEDOUT, "can't start: the machine's lease has run out");
}

// ---- moves and snapshots ----

void machine_hold(struct machine *m, bool on)
{
    if (on)
        cpu_control_sample(&m->cpu);
    m->holds += on ? 1u : -1u;
    if (m->holds == 0)
        machine_hotplug_serve(m);
}

bool machine_is_held(const struct machine *m)
{
    return m->holds > 0;
}

int machine_freeze(struct machine *m, bool *was_running, struct error *err)
{
    serve_requests(m);
    if (m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED)
        return refuse(m, "freeze", err);
    *was_running = m->state == MACHINE_RUNNING;
    if (*was_running) {
        machine_halt(m);
        machine_lease_look(m); // lost meanwhile: requests may be held back
        if (m->state == MACHINE_LEASE_LOST)
            return refuse(m, "freeze", err);
        if (atomic_load(&m->request) || atomic_load(&m->failed_vcpu)) {
            // The last thing it did before it parked was to ask for its end: that comes first.
            serve_requests(m);
            return error_set(err, ECANCELED, "the guest ended or reset itself");
        }
        m->state = MACHINE_PAUSED;
    }
    machine_announce_stop(m); // it may be about to move on
    m->frozen = true;
    m->frozen_running = *was_running;
    return 0;
}

void machine_thaw(struct machine *m, bool go_on)
{
    m->frozen = false;
    if (m->state != MACHINE_PAUSED || !go_on)
        return;
    m->state = MACHINE_RUNNING;
    go(m);
}

void machine_moved(struct machine *m)
{
    machine_end(m, MACHINE_STOP_MOVED);
}

// The vCPU threads, and what keeps them to their shares of CPU time.
static int start_vcpus(struct machine *m, struct error *err)
{
    int rc = vcpus_start(&m->vcpus, err);
    return rc < 0 ? rc : cpu_control_started(&m->cpu, err);
}

int machine_start_loaded(struct machine *m, bool running, struct error *err)
{
    if (m->state != MACHINE_CREATED)
        return refuse(m, "start", err);
    if (!lease_holds(&m->lease))
        return refuse_without_lease(err);
    int rc = start_vcpus(m, err);
    if (rc < 0)
        return rc;
    m->state = running ? MACHINE_RUNNING : MACHINE_PAUSED;
    machine_emit(m, running ? MACHINE_EVENT_RUNNING : MACHINE_EVENT_PAUSED);
    machine_hotplug_serve(m); // what the guest ejected while it was moved
    if (running)
        go(m);
    return 0;
}

const struct kvm *machine_kvm(const struct machine *m)
{
    return &m->kvm;
}

const struct cpuid_table *machine_cpuid(const struct machine *m)
{
    return m->cpuid;
}

void machine_set_doubt(struct machine *m, bool in_doubt)
{
    m->in_doubt = in_doubt;
}

bool machine_is_in_doubt(const struct machine *m)
{
    return m->in_doubt;
}

int machine_image_fd(const struct machine *m, unsigned index)
{
    return index == 0 ? m->files.kernel_fd : m->files.initrd_fd;
}

unsigned machine_writers_share(struct machine *m)
{
    return cpu_control_writers_share(&m->cpu);
}

void machine_throttle(struct machine *m, unsigned thousandths)
{
    cpu_control_throttle(&m->cpu, thousandths);
}

// ---- CPU time ----

int machine_set_cpu_time(struct machine *m, const struct cpu_settings *settings,
                         struct cpu_prepared *prepared, struct error *err)
{
    int rc = cpu_control_set(&m->cpu, settings, prepared, err);
    if (rc == 0)
        m->config.cpu_time = *settings;
    return rc;
}

// ---- first run, pause, resume, reset ----

int machine_start(struct machine *m, struct error *err)
{
    if (m->state != MACHINE_CREATED)
        return refuse(m, "start", err);
    if (!lease_holds(&m->lease))
        return refuse_without_lease(err);
    int rc = start_vcpus(m, err);
    if (rc < 0)
        return rc;
    m->state = MACHINE_RUNNING;
    machine_emit(m, MACHINE_EVENT_RUNNING);
    vcpus_open_gate(&m->vcpus);
    return 0;
}

int machine_pause(struct machine *m, struct error *err)
{
    serve_requests(m);
    if (m->frozen) // it may go on by itself in a moment
        return error_set(
            err, EBUSY,
            "can't pause: a migration or snapshot has stopped the machine for a moment");
    if (m->state == MACHINE_PAUSED)
        return 0;
    if (m->state != MACHINE_RUNNING)
        return refuse(m, "pause", err);
    machine_halt(m);
    machine_lease_look(m);
    if (m->state == MACHINE_LEASE_LOST)
        return refuse(m, "pause", err);
    m->state = MACHINE_PAUSED;
    machine_emit(m, MACHINE_EVENT_PAUSED);
    return 0;
}

void machine_continue(struct machine *m)
{
    // Clocks went on: tell the guest's watchdog why. A guest without kvmclock refuses, rightly.
    if (m->kvm.abilities.kvmclock_ctrl)
        for (unsigned i = 0; i < m->vcpus.count; i++)
            ioctl(m->vcpus.list[i].fd, KVM_KVMCLOCK_CTRL, 0);
    m->state = MACHINE_RUNNING;
    go(m);
}

int machine_resume(struct machine *m, bool force, struct error *err)
{
    serve_requests(m);
    if (m->state == MACHINE_LEASE_LOST)
        return error_set(err, EBUSY,
                         "can't resume: the machine's lease is lost, it may run on another host; "
                         "only the cluster can give it back");
    if (m->frozen)
        return error_set(
            err, EBUSY,
            "can't resume: a migration or snapshot has stopped the machine for a moment");
    if (m->in_doubt) {
        if (!force)
            return error_set(err, EBUSY,
                             "can't resume: the machine may be running where it was moved to; look "
                             "there first, and only if it doesn't: `ferry resume --force`");
        int rc = machine_disks_acquire(m, err);
        if (rc < 0)
            return rc;
        m->in_doubt = false;
    }
    if (m->state == MACHINE_RUNNING)
        return 0;
    if (m->state != MACHINE_PAUSED)
        return refuse(m, "resume", err);
    m->state = MACHINE_RUNNING;
    machine_emit(m, MACHINE_EVENT_RESUMED);
    machine_continue(m);
    return 0;
}

int machine_reset(struct machine *m, struct error *err)
{
    serve_requests(m);
    if (m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED)
        return refuse(m, "reset", err);
    if (m->holds)
        return error_set(err, EBUSY, "can't reset: a migration or snapshot is under way");
    if (m->state == MACHINE_RUNNING) {
        machine_halt(m);
        // The last thing it did before it parked may have been to ask for its end: that came first.
        serve_requests(m);
        if (m->state == MACHINE_STOPPED)
            return refuse(m, "reset", err);
    }
    return reset(m, "", err);
}

int machine_power_button(struct machine *m, struct error *err)
{
    serve_requests(m);
    if (m->state != MACHINE_RUNNING)
        return refuse(m, "press the power button", err);
    acpi_pm_power_button(m->acpi_pm);
    machine_emit(m, MACHINE_EVENT_POWER_BUTTON);
    return 0;
}

void machine_kill(struct machine *m)
{
    machine_end(m, MACHINE_STOP_KILLED);
}

void machine_fail(struct machine *m)
{
    machine_end(m, MACHINE_STOP_FAILED);
}

// ---- what people see ----

enum machine_state machine_state(const struct machine *m)
{
    return m->state;
}

enum machine_stop_reason machine_stop_reason(const struct machine *m)
{
    return m->stop_reason;
}

int machine_exit_code(const struct machine *m)
{
    return m->exit_code;
}

const char *machine_state_name(enum machine_state state)
{
    static const char *const names[] = {"created", "running", "paused", "stopped", "lease-lost"};
    return names[state];
}

const char *machine_stop_reason_name(enum machine_stop_reason reason)
{
    static const char *const names[] = {"none",   "power-off", "reboot", "exit",      "crash",
                                        "killed", "failed",    "moved",  "lease-lost"};
    return names[reason];
}

unsigned machine_panic(const struct machine *m)
{
    return m->panic;
}

const char *machine_crash_report(const struct machine *m)
{
    return m->crash_report;
}

const struct machine_config *machine_config(const struct machine *m)
{
    return &m->config;
}

struct guest_memory *machine_memory(struct machine *m)
{
    return &m->ram.memory;
}
