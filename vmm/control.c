#include "vmm/control.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/control_server.h"
#include "devices/pvpanic.h"
#include "vmm/control_balloon.h"
#include "vmm/control_cpu.h"
#include "vmm/control_devices.h"
#include "vmm/machine_lease.h"

enum { MEMORY_READ_LIMIT = 256 * 1024 };

struct control {
    struct control_server *server;
    struct control_service service;
    struct machine *machine;
    struct control_balloon *balloon;
    struct control_devices *devices;
    uint64_t running_since; // monotonic; 0 before the first run
};

// ---- what a machine looks like from outside ----

json_t *control_exit_status(const struct machine *machine)
{
    enum machine_stop_reason reason = machine_stop_reason(machine);
    json_t *status = json_pack("{s:s}", "reason", machine_stop_reason_name(reason));
    if (status && machine_is_managed(machine))
        json_object_set_new(status, "epoch",
                            json_integer((json_int_t)machine_lease_epoch(machine)));
    if (status && reason == MACHINE_STOP_EXIT)
        json_object_set_new(status, "guest_code", json_integer(machine_exit_code(machine)));
    const char *report = machine_crash_report(machine);
    if (status && report)
        json_object_set_new(status, "crash_report", json_string(report));
    return status;
}

// A deadline of 0 is that of a lost lease; one without a deadline has none to show.
static json_t *lease_summary(const struct machine *machine)
{
    uint64_t deadline = machine_lease_deadline(machine);
    json_t *lease = json_pack("{s:I, s:b}", "epoch", (json_int_t)machine_lease_epoch(machine),
                              "lost", deadline == LEASE_LOST);
    if (lease && deadline != LEASE_LOST && deadline != LEASE_UNBOUNDED)
        json_object_set_new(lease, "deadline_ns", json_integer((json_int_t)deadline));
    return lease;
}

static json_t *machine_summary(const struct control *control)
{
    const struct machine_config *config = machine_config(control->machine);
    char uuid[UUID_TEXT_SIZE];
    uint64_t uptime = control->running_since ? clock_monotonic_ns() - control->running_since : 0;
    json_t *summary =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:s}", "name", config->name, "uuid",
                  uuid_format(&config->uuid, uuid), "state",
                  machine_state_name(machine_state(control->machine)), "pid", (int)getpid(), "cpus",
                  (int)config->cpus, "memory", (json_int_t)config->memory, "uptime_ms",
                  (json_int_t)(uptime / NSEC_PER_MSEC), "version", FERRY_VERSION);
    if (summary && machine_is_managed(control->machine))
        json_object_set_new(summary, "lease", lease_summary(control->machine));
    return summary;
}

// ---- leases ----

int control_check_epoch(const struct machine *machine, const json_t *params, struct error *err)
{
    const json_t *epoch = json_object_get(params, "epoch");
    bool given = json_is_integer(epoch);
    return machine_lease_check_epoch(machine, given, (uint64_t)json_integer_value(epoch), err);
}

// A time or an epoch: a whole number that is not negative.
static int read_count(const json_t *params, const char *key, uint64_t *value, struct error *err)
{
    const json_t *number = json_object_get(params, key);
    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return error_set(err, EINVAL, "\"%s\" must be a whole number", key);
    *value = (uint64_t)json_integer_value(number);
    return 0;
}

static int read_lease(const json_t *params, struct machine_lease_name *name, uint64_t *deadline_ns,
                      struct error *err)
{
    const char *uuid = json_string_value(json_object_get(params, "uuid"));
    name->boot_id = json_string_value(json_object_get(params, "boot_id"));
    if (!uuid || uuid_parse(uuid, &name->uuid) < 0 || !name->boot_id)
        return error_set(err, EINVAL, "\"uuid\" and \"boot_id\" say whose lease it is");
    int rc = read_count(params, "epoch", &name->epoch, err);
    return rc < 0 ? rc : read_count(params, "deadline_ns", deadline_ns, err);
}

static void answer_lease(struct control *control, struct control_request *request, int result,
                         const struct error *err)
{
    static const struct {
        int code;
        const char *name;
    } codes[] = {{ENOTSUP, "not-managed"},
                 {EXDEV, "wrong-uuid"},
                 {ESTALE, "wrong-epoch"},
                 {EREMCHG, "wrong-boot"},
                 {ETIMEDOUT, "lease-lost"}};
    if (result == 0) {
        control_request_reply(
            request, json_pack("{s:s, s:I, s:I}", "state",
                               machine_state_name(machine_state(control->machine)), "now_ns",
                               (json_int_t)clock_boottime_ns(), "deadline_ns",
                               (json_int_t)(machine_lease_deadline(control->machine) & INT64_MAX)));
        return;
    }
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].code == -result) {
            control_request_fail(request, codes[i].name, "%s", err->message);
            return;
        }
    }
    control_request_fail_error(request, err);
}

static void lease_renew_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct machine_lease_name name;
    struct error err = {0};
    uint64_t deadline = 0;
    int rc = read_lease(params, &name, &deadline, &err);
    if (rc == 0)
        rc = machine_lease_renew(control->machine, &name, deadline, &err);
    answer_lease(control, request, rc, &err);
}

static void lease_reinstate_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct machine_lease_name name;
    struct error err = {0};
    uint64_t deadline = 0, not_started = 0;
    int rc = read_lease(params, &name, &deadline, &err);
    if (rc == 0 && json_object_get(params, "not_started"))
        rc = read_count(params, "not_started", &not_started, &err);
    if (rc == 0)
        rc = machine_lease_reinstate(control->machine, &name, deadline, not_started, &err);
    answer_lease(control, request, rc, &err);
}

// ---- methods ----

static void query(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    control_request_reply(request, machine_summary(control));
}

static void inspect(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    control_request_reply(request, machine_config_to_json(machine_config(control->machine)));
}

static void stats(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    control_request_reply(request, machine_stats(control->machine));
}

static void answer_state(struct control *control, struct control_request *request, int result,
                         const struct error *err)
{
    if (result)
        control_request_fail_error(request, err);
    else
        control_request_reply(
            request,
            json_pack("{s:s}", "state", machine_state_name(machine_state(control->machine))));
}

static void pause_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct error err = {0};
    answer_state(control, request, machine_pause(control->machine, &err), &err);
}

static void resume_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    bool force = json_is_true(json_object_get(params, "force"));
    struct error err = {0};
    int rc = force ? control_check_epoch(control->machine, params, &err) : 0;
    if (rc == 0)
        rc = machine_resume(control->machine, force, &err);
    answer_state(control, request, rc, &err);
}

static void reset_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct error err = {0};
    answer_state(control, request, machine_reset(control->machine, &err), &err);
}

static void power_button(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct error err = {0};
    answer_state(control, request, machine_power_button(control->machine, &err), &err);
}

static void kill_machine(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    struct error none = {0};
    machine_kill(control->machine);
    answer_state(control, request, 0, &none);
}

static void cpu(void *opaque, struct control_request *request, json_t *params)
{
    control_cpu(((struct control *)opaque)->machine, request, params);
}

static json_t *hex_string(const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * length + 1);
    if (!text)
        return NULL;
    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = 0;
    json_t *string = json_string(text);
    free(text);
    return string;
}

static void memory_read(void *opaque, struct control_request *request, json_t *params)
{
    struct control *control = opaque;
    json_t *gpa = json_object_get(params, "gpa"), *length = json_object_get(params, "length");
    json_int_t address = json_integer_value(gpa), count = json_integer_value(length);
    if (!json_is_integer(gpa) || address < 0 || !json_is_integer(length) || count < 1 ||
        count > MEMORY_READ_LIMIT) {
        control_request_fail(request, "invalid-params",
                             "memory.read wants \"gpa\" (a number) and \"length\" (1 to %d)",
                             MEMORY_READ_LIMIT);
        return;
    }
    uint8_t *bytes = malloc((size_t)count);
    if (!bytes) {
        control_request_fail(request, "no-memory", "out of memory");
        return;
    }
    if (guest_memory_read(machine_memory(control->machine), (uint64_t)address, bytes,
                          (size_t)count) != 0)
        control_request_fail(request, "invalid-params", "this range is not in the machine's RAM");
    else
        control_request_reply(request,
                              json_pack("{s:o}", "data", hex_string(bytes, (size_t)count)));
    free(bytes);
}

static const struct control_method machine_methods[] = {
    {"query", query},
    {"inspect", inspect},
    {"stats", stats},
    {"pause", pause_machine},
    {"resume", resume_machine},
    {"reset", reset_machine},
    {"power-button", power_button},
    {"kill", kill_machine},
    {"cpu", cpu},
    {"memory.read", memory_read},
    {"lease.renew", lease_renew_machine},
    {"lease.reinstate", lease_reinstate_machine},
    {NULL, NULL},
};

static const char *const machine_features[] = {"events", "descriptors", "memory.read", "lease",
                                               NULL};

// ---- events ----

void control_device_event(struct control *control, const char *event, const char *id)
{
    control_server_event(control->server, event, json_pack("{s:s}", "id", id));
}

static json_t *guest_crash(const struct machine *machine)
{
    static const char *const actions[] = {[ON_PANIC_CRASH] = "crash",
                                          [ON_PANIC_RESET] = "reset",
                                          [ON_PANIC_PAUSE] = "pause",
                                          [ON_PANIC_IGNORE] = "ignore"};
    unsigned events = machine_panic(machine);
    bool panicked = events & PVPANIC_PANICKED;
    return json_pack("{s:b, s:b, s:s}", "panicked", panicked, "crash_kernel",
                     (events & PVPANIC_CRASH_KERNEL) != 0, "action",
                     panicked ? actions[machine_config(machine)->on_panic] : "ignore");
}

void control_machine_event(struct control *control, enum machine_event event)
{
    static const char *const names[] = {
        [MACHINE_EVENT_RUNNING] = "running",
        [MACHINE_EVENT_PAUSED] = "paused",
        [MACHINE_EVENT_RESUMED] = "resumed",
        [MACHINE_EVENT_RESET] = "reset",
        [MACHINE_EVENT_POWER_BUTTON] = "power-button",
        [MACHINE_EVENT_CRASHED] = "crashed",
        [MACHINE_EVENT_GUEST_CRASHED] = "guest-crashed",
        [MACHINE_EVENT_STOPPED] = "stopped",
        [MACHINE_EVENT_LEASE_LOST] = "lease-lost",
        [MACHINE_EVENT_REINSTATED] = "reinstated",
    };
    if (event == MACHINE_EVENT_BALLOON) {
        control_balloon_changed(control->balloon);
        return;
    }
    if (event == MACHINE_EVENT_RUNNING)
        control->running_since = clock_monotonic_ns();
    json_t *data = NULL;
    if (event == MACHINE_EVENT_STOPPED)
        data = control_exit_status(control->machine);
    else if (event == MACHINE_EVENT_GUEST_CRASHED)
        data = guest_crash(control->machine);
    else if (event == MACHINE_EVENT_LEASE_LOST || event == MACHINE_EVENT_REINSTATED)
        data = lease_summary(control->machine);
    else if (event == MACHINE_EVENT_CRASHED)
        data = json_pack("{s:s?}", "crash_report", machine_crash_report(control->machine));
    control_server_event(control->server, names[event], data);
}

// ---- life ----

int control_create(struct control **out, uv_loop_t *loop, int listen_fd, struct machine *machine,
                   struct error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control)
        return error_set(err, ENOMEM, "control socket: out of memory");
    control->machine = machine;
    control->service = (struct control_service){machine_methods, machine_features, control, NULL};
    int r = control_devices_create(&control->devices, loop, control, machine, err);
    if (r == 0)
        r = control_balloon_create(&control->balloon, loop, control, machine, err);
    if (r == 0)
        r = control_server_create(&control->server, loop, listen_fd, &control->service, err);
    if (r) {
        control_balloon_destroy(control->balloon);
        control_devices_destroy(control->devices);
        free(control);
    } else {
        *out = control;
    }
    return r;
}

void control_add_service(struct control *control, struct control_service *service)
{
    service->more = control->service.more;
    control->service.more = service;
}

void control_event(struct control *control, const char *event, json_t *data)
{
    control_server_event(control->server, event, data);
}

void control_drain(struct control *control, void (*done)(void *opaque), void *opaque)
{
    control_server_drain(control->server, done, opaque);
}

void control_destroy(struct control *control)
{
    if (!control)
        return;
    control_server_destroy(control->server);
    control_balloon_destroy(control->balloon);
    control_devices_destroy(control->devices);
    free(control);
}
