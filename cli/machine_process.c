#include "cli/machine_process.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "base/last_word.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "base/runtime_dir.h"
#include "cli/foreground.h"
#include "cli/image_check.h"
#include "cli/options.h"
#include "devices/block/block_image.h"
#include "migrate/migrate_control.h"
#include "vmm/console_hub.h"
#include "vmm/control.h"
#include "vmm/cpu_control.h"
#include "vmm/machine.h"
#include "vmm/machine_migration.h"
#include "vmm/sandbox.h"
#include "vmm/sched/cpu_cgroup.h"

enum { LOG_LIMIT = 4 * 1024 * 1024, LOG_CHECK_MS = 5000, SIGNALS = 4, LOCK_RETRY_MS = 100 };

struct process {
    struct machine_config *config;
    const struct process_options *options;
    struct runtime_dir dir;
    struct runtime_machine place;
    uv_loop_t loop;
    uv_signal_t signals[SIGNALS];
    uv_timer_t log_timer;
    uv_timer_t lock_timer; // while a managed machine waits for its disks
    char waits_for[600];   // what was said of them last
    uv_async_t ended;
    int log_fd;
    int control_fd; // its socket, until somebody listens at it
    struct machine_files files;
    struct witness_file *witness; // NULL without
    struct console_hub *hub;
    struct machine *machine;
    struct control *control;
    struct migrate_control *migrate;
    struct cpu_prepared cpu;
    struct error incoming_err; // why a machine from another host never ran here
    struct foreground *foreground;
    bool button_pressed;
    bool ending; // the machine has stopped; what is left is to hand on its last words
    time_t started;
};

const char *const sandbox_choice_names[] = {"on", "off", NULL};

int machine_process_failure_status(const struct machine_config *config)
{
    return config->debug_exit ? STATUS_USAGE : STATUS_FAILED;
}

// A message beside the guest's console.
static void notify(const struct process *p, const char *text)
{
    log_info("%s", text);
    if (p->options->foreground)
        fprintf(stderr, "ferry: run: %s%s", text, foreground_is_raw(p->foreground) ? "\r\n" : "\n");
}

// ---- the end: stopped -> console drained -> foreground written -> clients told -> loop stopped
// ----

static void end_loop(void *opaque)
{
    struct process *p = opaque;
    uv_stop(&p->loop);
}

static void end_clients(void *opaque)
{
    struct process *p = opaque;
    control_drain(p->control, end_loop, p);
}

static void end_foreground(void *opaque)
{
    struct process *p = opaque;
    if (p->foreground)
        foreground_flush(p->foreground, end_clients, p);
    else
        end_clients(p);
}

static void on_ended(uv_async_t *ended)
{
    struct process *p = ended->data;
    console_hub_drain(p->hub, end_foreground, p);
}

static void on_machine_event(void *opaque, enum machine_event event)
{
    struct process *p = opaque;
    if (p->control)
        control_machine_event(p->control, event);
    if (event == MACHINE_EVENT_LEASE_LOST) // no move can be finished any more, if it isn't yet
        migrate_control_machine_stopped(p->migrate);
    if (event != MACHINE_EVENT_STOPPED || p->ending)
        return;
    p->ending = true;
    // A migration that is under way reports its end before the machine's process goes.
    migrate_control_machine_stopped(p->migrate);
    if (migrate_control_is_busy(p->migrate))
        return;
    // In a later turn of the loop: the machine is still in the middle of stopping.
    uv_async_send(&p->ended);
}

static void on_device_event(void *opaque, const char *event, const char *id)
{
    struct process *p = opaque;
    if (p->control)
        control_device_event(p->control, event, id);
}

static void on_migration_ended(void *opaque)
{
    struct process *p = opaque;
    if (p->ending)
        uv_async_send(&p->ended);
}

// ---- a machine from another host ----

static void on_incoming_started(void *opaque)
{
    struct process *p = opaque;
    p->started = time(NULL);
    log_info("the machine has moved here");
}

static void on_incoming_ask(void *opaque, enum arbiter_question question)
{
    migrate_control_ask(((struct process *)opaque)->migrate, question);
}

static void on_incoming_failed(void *opaque, const struct error *err)
{
    struct process *p = opaque;
    p->incoming_err = *err;
    p->ending = true;
    uv_stop(&p->loop);
}

// ---- what people do ----

static void press_power_button(void *opaque)
{
    struct process *p = opaque;
    struct error err = {0};
    if (machine_power_button(p->machine, &err) != 0)
        notify(p, err.message);
}

static void pause_or_resume(void *opaque)
{
    struct process *p = opaque;
    struct error err = {0};
    bool paused = machine_state(p->machine) == MACHINE_PAUSED;
    if ((paused ? machine_resume(p->machine, false, &err) : machine_pause(p->machine, &err)) != 0)
        notify(p, err.message);
    else
        notify(p, paused ? "resumed" : "paused");
}

static void reset(void *opaque)
{
    struct process *p = opaque;
    struct error err = {0};
    if (machine_reset(p->machine, &err) != 0)
        notify(p, err.message);
}

static void kill_machine(void *opaque)
{
    struct process *p = opaque;
    machine_kill(p->machine);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct process *p = handle->data;
    struct error err = {0};
    bool gently = number == SIGINT || number == SIGTERM;
    if (p->ending) {
        uv_stop(&p->loop); // somebody doesn't take the last words, and nobody wants to wait
    } else if (gently && !p->button_pressed && machine_power_button(p->machine, &err) == 0) {
        p->button_pressed = true;
        notify(p, "pressed the guest's power button; the same signal again kills it");
    } else {
        log_info("killed by SIG%s", sigabbrev_np(number));
        machine_kill(p->machine);
    }
}

static void on_log_timer(uv_timer_t *timer)
{
    struct process *p = timer->data;
    struct stat st;
    if (fstat(p->log_fd, &st) == 0 && st.st_size > LOG_LIMIT && ftruncate(p->log_fd, 0) == 0)
        log_warning("the log had reached %d bytes: what was before is gone", LOG_LIMIT);
}

static int start_handles(struct process *p, struct error *err)
{
    static const int numbers[SIGNALS] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); // beyond the caller's limit a write fails: an I/O error of the guest
    int r = uv_async_init(&p->loop, &p->ended, on_ended);
    if (r)
        return error_set_errno(err, -r, "preparing the event loop");
    p->ended.data = p;
    for (int i = 0; i < SIGNALS; i++) {
        uv_signal_init(&p->loop, &p->signals[i]);
        p->signals[i].data = p;
        uv_signal_start(&p->signals[i], on_signal, numbers[i]);
    }
    uv_timer_init(&p->loop, &p->log_timer);
    p->log_timer.data = p;
    uv_timer_start(&p->log_timer, on_log_timer, LOG_CHECK_MS, LOG_CHECK_MS);
    uv_timer_init(&p->loop, &p->lock_timer);
    p->lock_timer.data = p;
    return 0;
}

// ---- exit.json and the exit status ----

static int exit_status(const struct process *p)
{
    switch (machine_stop_reason(p->machine)) {
    case MACHINE_STOP_POWER_OFF:
    case MACHINE_STOP_REBOOT:
    case MACHINE_STOP_MOVED:
        return STATUS_OK;
    case MACHINE_STOP_EXIT:
        return machine_exit_code(p->machine) & 0xff;
    case MACHINE_STOP_CRASH:
        return STATUS_CRASHED;
    case MACHINE_STOP_NONE:
    case MACHINE_STOP_KILLED:
    case MACHINE_STOP_FAILED:
    case MACHINE_STOP_LEASE_LOST:
        break;
    }
    return machine_process_failure_status(p->config);
}

static json_t *time_text(time_t when)
{
    char text[32];
    struct tm utc;
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&when, &utc));
    return json_string(text);
}

static void write_exit(const struct process *p, int status)
{
    struct error err = {0};
    char uuid[UUID_TEXT_SIZE];
    json_t *object = control_exit_status(p->machine);
    json_object_set_new(object, "name", json_string(p->config->name));
    json_object_set_new(object, "uuid", json_string(uuid_format(&p->config->uuid, uuid)));
    json_object_set_new(object, "exit_status", json_integer(status));
    json_object_set_new(object, "started", time_text(p->started));
    json_object_set_new(object, "ended", time_text(time(NULL)));
    if (!object || runtime_machine_write_exit(&p->place, object, &err) != 0)
        log_error("%s", err.message);
    json_decref(object);
}

// One entry a line: a log entry is bounded, and a report is longer than that.
static void log_report(const char *report)
{
    log_error("the guest crashed:");
    while (*report) {
        int length = (int)strcspn(report, "\n");
        log_error("  %.*s", length, report);
        report += length + (report[length] == '\n');
    }
}

static void report_end(const struct process *p)
{
    const char *crash = machine_crash_report(p->machine);
    enum machine_stop_reason reason = machine_stop_reason(p->machine);
    if (crash)
        log_report(crash);
    if (!p->options->foreground)
        return;
    if (crash)
        fprintf(stderr, "ferry: run: the guest crashed:\n%s", crash);
    else if (reason == MACHINE_STOP_KILLED)
        fprintf(stderr, "ferry: run: '%s' was killed\n", p->config->name);
    else if (reason == MACHINE_STOP_LEASE_LOST)
        fprintf(stderr, "ferry: run: '%s' lost its lease\n", p->config->name);
    else if (reason == MACHINE_STOP_FAILED)
        fprintf(stderr, "ferry: run: '%s' could not go on: `ferry logs --vmm %s` says why\n",
                p->config->name, p->config->name);
}

// ---- from the description to a machine ----

// 1. a place in the runtime directory  2. files  3. console  4. machine  5. control socket
// 6. foreground  7. the first instruction. The place comes first: it decides who may be this
// machine, and disks are locked after it.
static int claim(struct process *p, struct error *err)
{
    int r = runtime_dir_open(&p->dir, p->options->runtime_dir, err);
    if (r)
        return r;
    r = runtime_machine_claim(&p->dir, p->config->name, &p->place, err);
    if (r)
        return r;
    snprintf(p->config->name, sizeof(p->config->name), "%s", p->place.name);
    p->log_fd = runtime_machine_open(&p->place, "log", O_WRONLY | O_CREAT | O_APPEND, err);
    if (p->log_fd < 0)
        return p->log_fd;
    log_open(p->log_fd, LOG_LEVEL_INFO);
    last_word_prepare();
    log_info("ferry %s, machine '%s'", FERRY_VERSION, p->config->name);
    return 0;
}

static int listen_at(const struct process *p, const char *file, struct error *err)
{
    char path[PATH_MAX];
    return local_socket_listen(runtime_machine_path(&p->place, file, path), err);
}

// Made before the sandbox, in which its path can't be found; served once the machine is there.
// Until then clients are told that it's starting.
static int make_control_socket(struct process *p, struct error *err)
{
    char path[PATH_MAX];
    p->control_fd = local_socket_bind(runtime_machine_path(&p->place, "control.sock", path), err);
    return p->control_fd < 0 ? p->control_fd : 0;
}

static int create_console(struct process *p, struct error *err)
{
    int log_fd = runtime_machine_open(&p->place, "console.log", O_RDWR | O_CREAT | O_TRUNC, err);
    if (log_fd < 0)
        return log_fd;
    int listen_fd = listen_at(p, "console.sock", err);
    int r = listen_fd;
    if (r >= 0)
        r = console_hub_create(&p->hub, &p->loop, log_fd, listen_fd, err);
    if (r < 0) {
        close(log_fd);
        if (listen_fd >= 0)
            close(listen_fd);
    }
    return r;
}

static int open_epochs(struct process *p, struct error *err)
{
    const struct machine_lease_params *lease = p->options->lease;
    if (!lease)
        return 0;
    int r = machine_files_open_epochs(&p->files, p->config, lease->new_disks, err);
    if (!r && lease->witness[0])
        r = witness_open(&p->witness, lease->witness, &lease->uuid, err);
    return r;
}

// A managed machine waits for its disks while it is shut in, and can't find out then for whom.
static void log_holders(const struct process *p)
{
    char holder[80];
    for (unsigned i = 0; i < p->config->disk_count; i++) {
        const struct disk_config *disk = &p->config->disks[i];
        if (block_image_holder(p->files.disk_fds[i], disk->read_only, holder, sizeof(holder)))
            log_info("disk image '%s' is in use by %s", disk->path,
                     *holder ? holder : "another process (perhaps on another host)");
    }
}

// The schedule that this host's machines share is opened for those that take part in it.
static int prepare_cpu_time(struct process *p, struct error *err)
{
    int r = cpu_control_prepare(&p->config->cpu_time, p->config->cpus, &p->cpu, err);
    if (!r && p->cpu.backend == CPU_BACKEND_OWN) {
        r = runtime_dir_open_board(&p->dir, err);
        p->cpu.board_fd = r < 0 ? -1 : r;
    }
    return r < 0 ? r : 0;
}

// Between the last file that is opened by name and the first thread.
static int shut_in(struct process *p, struct error *err)
{
    struct sandbox_places places = {.machine_dir = p->place.fd, .runtime_dir = p->dir.fd};
    int r = prepare_cpu_time(p, err);
    if (r)
        return r;
    places.cgroups = cpu_cgroup_places(p->cpu.cgroup, places.cgroup_parents, places.cgroup_dirs);
    if (p->options->lease)
        log_holders(p);
    if (!p->options->sandbox_off)
        return sandbox_shut(&places, err);
    log_warning("sandbox: off: who takes this process over has all rights of its user");
    return 0;
}

static int create_incoming(struct process *p, struct error *err)
{
    const struct machine_listener listener = {
        .event = on_machine_event, .device_event = on_device_event, .opaque = p};
    struct migration_target *target = p->options->incoming;
    int r = machine_files_open_incoming(&p->files, p->config, err);
    if (!r)
        r = open_epochs(p, err);
    if (!r)
        r = shut_in(p, err);
    if (!r) {
        migration_target_give_images(target, &p->files);
        r = machine_create_incoming(&p->machine, p->config, migration_target_cpuid(target),
                                    &p->files, &p->loop, p->hub, &listener, err);
    }
    if (r)
        machine_files_close(&p->files);
    return r;
}

static int create_restored(struct process *p, struct error *err)
{
    const struct machine_listener listener = {
        .event = on_machine_event, .device_event = on_device_event, .opaque = p};
    struct snapshot_file *snapshot = p->options->snapshot;
    int r = machine_files_open_incoming(&p->files, p->config, err);
    if (!r)
        r = open_epochs(p, err);
    if (!r && !p->options->force && !p->options->lease)
        r = machine_files_check_unmanaged(p->config, err);
    if (!r && !p->options->force)
        r = snapshot_check_disks(snapshot, &p->files, err);
    if (!r)
        r = snapshot_give_images(snapshot, &p->files, err);
    if (!r)
        r = shut_in(p, err);
    if (!r)
        r = machine_create_incoming(&p->machine, p->config, snapshot_cpuid(snapshot), &p->files,
                                    &p->loop, p->hub, &listener, err);
    if (r) {
        machine_files_close(&p->files);
        return r;
    }
    return snapshot_load(snapshot, p->machine, p->options->load_whole, err);
}

// The first run: of images, or of what a snapshot had.
static int start_machine(struct process *p, struct error *err)
{
    int r = p->options->snapshot || p->options->lease ? machine_disks_acquire(p->machine, err) : 0;
    if (r)
        return r;
    return p->options->snapshot
               ? machine_start_loaded(p->machine, snapshot_was_running(p->options->snapshot), err)
               : machine_start(p->machine, err);
}

// A managed machine waits for its disks however long its predecessor takes to end its last I/O, as
// long as the lease is renewed. Its control socket is there meanwhile.
static void on_lock_timer(uv_timer_t *timer)
{
    struct process *p = timer->data;
    struct error err = {0};
    int r = p->ending ? 0 : start_machine(p, &err);
    if (r == -EAGAIN && strcmp(p->waits_for, err.message) != 0) {
        snprintf(p->waits_for, sizeof(p->waits_for), "%s", err.message);
        notify(p, err.message);
        control_event(p->control, "waiting", json_pack("{s:s}", "reason", err.message));
    } else if (r && r != -EAGAIN) {
        log_error("%s", err.message);
        machine_fail(p->machine);
    }
    if (r != -EAGAIN)
        uv_timer_stop(timer);
}

static int start_or_wait(struct process *p, struct error *err)
{
    int r = start_machine(p, err);
    if (r != -EAGAIN || !p->options->lease)
        return r;
    err->code = 0;
    uv_timer_start(&p->lock_timer, on_lock_timer, 0, LOCK_RETRY_MS);
    return 0;
}

static int create_machine(struct process *p, struct error *err)
{
    const struct machine_listener listener = {
        .event = on_machine_event, .device_event = on_device_event, .opaque = p};
    if (p->options->incoming)
        return create_incoming(p, err);
    if (p->options->snapshot)
        return create_restored(p, err);
    // A managed one may have to wait for its disks.
    int r = p->options->lease ? machine_files_open_unlocked(&p->files, p->config, err)
                              : machine_files_open(&p->files, p->config, err);
    if (r)
        return r;
    r = open_epochs(p, err);
    if (!r)
        r = image_check(&p->dir, p->config, p->files.kvm_fd, p->files.kernel_fd, err);
    if (!r)
        r = shut_in(p, err);
    if (!r)
        r = machine_create(&p->machine, p->config, &p->files, &p->loop, p->hub, &listener, err);
    if (r)
        machine_files_close(&p->files);
    return r;
}

static int create_control(struct process *p, struct error *err)
{
    if (listen(p->control_fd, LOCAL_SOCKET_BACKLOG) != 0)
        return error_set_errno(err, errno, "listening at the control socket");
    int r = control_create(&p->control, &p->loop, p->control_fd, p->machine, err);
    if (r)
        return r;
    p->control_fd = -1; // the server's
    const struct migrate_control_listener listener = {on_migration_ended, p};
    return migrate_control_create(&p->migrate, &p->loop, p->machine, p->control, &listener, err);
}

static int start_foreground(struct process *p, struct error *err)
{
    const struct foreground_actions actions = {
        .power_button = press_power_button,
        .pause_or_resume = pause_or_resume,
        .reset = reset,
        .kill = kill_machine,
        .opaque = p,
    };
    if (!p->options->foreground)
        return 0;
    return foreground_start(&p->foreground, &p->loop, p->hub, &actions, err);
}

static int start(struct process *p, struct error *err)
{
    int r = claim(p, err);
    if (!r)
        r = start_handles(p, err);
    if (!r)
        r = create_console(p, err);
    if (!r)
        r = make_control_socket(p, err);
    if (!r)
        r = create_machine(p, err);
    if (!r && p->options->lease)
        r = machine_manage(p->machine, p->options->lease, p->witness, err);
    if (!r)
        r = machine_set_cpu_time(p->machine, &p->config->cpu_time, &p->cpu, err);
    if (!r)
        r = create_control(p, err);
    if (!r)
        sandbox_filter_main();
    if (!r)
        r = start_foreground(p, err);
    const struct migration_target_listener incoming = {
        .started = on_incoming_started,
        .failed = on_incoming_failed,
        .ask = on_incoming_ask,
        .opaque = p,
    };
    if (!r && p->options->incoming)
        migrate_control_set_target(p->migrate, p->options->incoming);
    if (!r && p->options->incoming)
        return migration_target_start(p->options->incoming, p->machine, &p->loop, &incoming, err);
    if (!r)
        r = start_or_wait(p, err);
    if (r) {
        if (p->options->incoming)
            migration_target_refuse(p->options->incoming, err);
        return r;
    }
    p->started = time(NULL);
    if (p->options->started)
        p->options->started(p->options->opaque, p->config->name);
    return 0;
}

static void close_handle(uv_handle_t *handle, void *opaque)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

// In reverse order; whatever start() didn't reach is NULL.
static void clean_up(struct process *p, bool forget)
{
    p->ending = true; // for signals that still come
    foreground_stop(p->foreground);
    // Threads of a migration call into the loop and the machine: they end first.
    migration_target_stop(p->options->incoming);
    migrate_control_destroy(p->migrate);
    control_destroy(p->control);
    if (p->control_fd >= 0)
        close(p->control_fd);
    machine_destroy(p->machine);
    cpu_control_unprepare(&p->cpu);
    witness_close(p->witness);
    console_hub_destroy(p->hub);
    // What these closed goes in a turn of the loop; then the process's own handles.
    uv_run(&p->loop, UV_RUN_NOWAIT);
    uv_walk(&p->loop, close_handle, NULL);
    uv_run(&p->loop, UV_RUN_NOWAIT);
    uv_loop_close(&p->loop);
    if (p->log_fd >= 0) {
        log_open(STDERR_FILENO, LOG_LEVEL_WARNING);
        close(p->log_fd);
    }
    runtime_machine_release(&p->dir, &p->place, forget);
    runtime_dir_close(&p->dir);
}

// What is large and zero at first, and used in part or for a moment only, gets pages of its own. In
// the heap it would lie where something else has been, so that calloc() writes its zeros.
static void spare_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 << 10);
    mallopt(M_TRIM_THRESHOLD, 32 << 10);
    mallopt(M_TOP_PAD, 0);
}

// A stack as large as the shell's limit (8 MiB) gets a huge page on hosts that give those to all:
// 2 MiB of memory for a few frames, and each thread has one. Smaller than that page, none can.
static void limit_thread_stacks(void)
{
    enum { STACK_SIZE = 1 << 20 };
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (pthread_attr_setstacksize(&attributes, STACK_SIZE) ||
        pthread_setattr_default_np(&attributes))
        log_debug("threads keep their large stacks");
    pthread_attr_destroy(&attributes);
}

int machine_process_run(struct machine_config *config, const struct process_options *options,
                        struct error *err)
{
    struct process p = {
        .config = config,
        .options = options,
        .dir.fd = -1,
        .place = {.fd = -1, .lock_fd = -1},
        .log_fd = -1,
        .control_fd = -1,
        .cpu.board_fd = -1,
    };
    memset(&p.files, 0xff, sizeof(p.files));
    limit_thread_stacks();
    spare_memory();
    int r = uv_loop_init(&p.loop);
    if (r) {
        error_set_errno(err, -r, "preparing the event loop");
        return machine_process_failure_status(config);
    }
    r = start(&p, err);
    int status = machine_process_failure_status(config);
    if (!r) {
        malloc_trim(0); // what the start needed for a moment: images, texts
        uv_run(&p.loop, UV_RUN_DEFAULT);
    }
    if (!r && p.incoming_err.code) {
        *err = p.incoming_err;
        r = -err->code; // nothing stays of a machine that never ran here
    }
    if (!r) {
        status = exit_status(&p);
        foreground_stop(p.foreground); // the report is for a terminal in its usual mode
        p.foreground = NULL;
        report_end(&p);
        // Before the sockets close: who sees them close reads it.
        write_exit(&p, status);
    }
    clean_up(&p, r != 0);
    return status;
}
