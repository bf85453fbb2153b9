// The machine's methods of the control protocol, on a machine that is made of this test (its
// functions stand in for vmm/machine.c).
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/control_peer.h"
#include "tests/unit/run_suite.h"
#include "vmm/control.h"
#include "vmm/machine_balloon.h"
#include "vmm/machine_hotplug.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"

struct machine {
    enum machine_state state;
    struct machine_config config;
    struct guest_memory memory;
    struct machine_listener listener;
    enum machine_stop_reason reason;
    bool has_balloon, answers;
    uint64_t balloon_size, balloon_count;
};
static struct machine fake;
static struct control *control;
static uint8_t ram[8192] __attribute__((aligned(4096)));

static int move_to(struct machine *machine, enum machine_state from, enum machine_state to,
                   struct error *why)
{
    if (machine->state != from)
        return error_set(why, EBUSY, "not now");
    machine->state = to;
    return 0;
}
int machine_pause(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_PAUSED, why);
}
int machine_resume(struct machine *machine, bool force, struct error *why)
{
    return move_to(machine, MACHINE_PAUSED, MACHINE_RUNNING, why);
}
int machine_reset(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_RUNNING, why);
}
int machine_set_cpu_time(struct machine *machine, const struct cpu_settings *settings,
                         struct cpu_prepared *prepared, struct error *why)
{
    (void)machine;
    (void)settings;
    (void)prepared;
    return error_set(why, ENOTSUP, "no CPU time here");
}

bool machine_is_held(const struct machine *machine)
{
    return false;
}
bool machine_is_in_doubt(const struct machine *machine)
{
    return false;
}
int machine_power_button(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_RUNNING, why);
}
void machine_kill(struct machine *machine)
{
    machine->state = MACHINE_STOPPED;
    machine->reason = MACHINE_STOP_KILLED;
    control_machine_event(control, MACHINE_EVENT_STOPPED);
}
enum machine_state machine_state(const struct machine *machine)
{
    return machine->state;
}
enum machine_stop_reason machine_stop_reason(const struct machine *machine)
{
    return machine->reason;
}
int machine_exit_code(const struct machine *machine)
{
    return 0;
}
const char *machine_state_name(enum machine_state state)
{
    static const char *const names[] = {"created", "running", "paused", "stopped", "lease-lost"};
    return names[state];
}
const char *machine_stop_reason_name(enum machine_stop_reason reason)
{
    return reason == MACHINE_STOP_KILLED ? "killed" : "other";
}
unsigned machine_panic(const struct machine *machine)
{
    return 1;
}
const char *machine_crash_report(const struct machine *machine)
{
    return NULL;
}
const struct machine_config *machine_config(const struct machine *machine)
{
    return &machine->config;
}
struct guest_memory *machine_memory(struct machine *machine)
{
    return &machine->memory;
}
json_t *machine_stats(struct machine *machine)
{
    return json_pack("{s:i}", "exits", 5);
}

int machine_devices_may_change(const struct machine *machine, struct error *error)
{
    return 0;
}
int machine_add_disk(struct machine *machine, json_t *disk, int fd, struct block_backend *connected,
                     char id[MACHINE_ID_SIZE], struct error *error)
{
    char text[8] = "";
    ck_assert_ptr_null(connected);
    ck_assert_ptr_null(json_object_get(disk, "file"));
    if (!json_object_get(disk, "path"))
        return error_set(error, EINVAL, "no path");
    ck_assert_int_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
    snprintf(id, MACHINE_ID_SIZE, "disk%.7s", text);
    close(fd);
    return 0;
}
int machine_add_net(struct machine *machine, json_t *net, const int *fds, unsigned fd_count,
                    uint16_t mtu, char id[MACHINE_ID_SIZE], struct error *error)
{
    snprintf(id, MACHINE_ID_SIZE, "net%u", fd_count);
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    return 0;
}
int machine_remove_device(struct machine *machine, const char *id, bool force, bool *gone,
                          struct error *error)
{
    *gone = force;
    return strcmp(id, "disk0") == 0 ? 0 : error_set(error, ENODEV, "no such device");
}
int machine_resize_disk(struct machine *machine, const char *id, uint64_t *size,
                        struct error *error)
{
    *size = *size ? *size : 4096;
    return 0;
}
int machine_set_limits(struct machine *machine, const char *id, const json_t *limits, json_t **now,
                       struct error *error)
{
    if (strcmp(id, "disk0") != 0)
        return error_set(error, ENODEV, "there is no disk or network '%s'", id);
    *now = json_deep_copy(limits);
    return 0;
}
int machine_set_link(struct machine *machine, const char *id, bool up, struct error *error)
{
    return strcmp(id, "net0") == 0 ? 0 : error_set(error, ENODEV, "there is no network '%s'", id);
}
json_t *machine_list_devices(struct machine *machine)
{
    return json_pack("[s]", "here");
}

bool machine_has_balloon(const struct machine *machine)
{
    return machine->has_balloon;
}
int machine_balloon_set(struct machine *machine, uint64_t bytes, struct error *error)
{
    if (bytes > 1000)
        return error_set(error, EINVAL, "too much");
    machine->balloon_size = bytes;
    return 0;
}
bool machine_balloon_ask(struct machine *machine)
{
    return machine->answers;
}
uint64_t machine_balloon_count(const struct machine *machine)
{
    return machine->balloon_count;
}
json_t *machine_balloon_status(struct machine *machine)
{
    return json_pack("{s:i, s:i, s:i}", "current_bytes", (int)machine->balloon_size, "target_bytes",
                     9, "count", (int)machine->balloon_count);
}

// The lease: what was asked last, and what is answered.
static struct machine_lease_name asked;
static char asked_boot_id[LEASE_BOOT_ID_SIZE];
static uint64_t asked_deadline, asked_not_started;
static int lease_answer;
static bool managed;

bool machine_is_managed(const struct machine *machine)
{
    return managed;
}
uint64_t machine_lease_epoch(const struct machine *machine)
{
    return 7;
}
uint64_t machine_lease_deadline(const struct machine *machine)
{
    return asked_deadline;
}
int machine_lease_check_epoch(const struct machine *machine, bool given, uint64_t epoch,
                              struct error *why)
{
    return !managed || (given && epoch == 7) ? 0 : error_set(why, EPERM, "whose epoch?");
}
static int keep_lease(const struct machine_lease_name *name, uint64_t deadline_ns,
                      struct error *why)
{
    asked = *name;
    snprintf(asked_boot_id, sizeof(asked_boot_id), "%s", name->boot_id);
    asked_deadline = deadline_ns;
    return lease_answer ? error_set(why, lease_answer, "no") : 0;
}
int machine_lease_renew(struct machine *machine, const struct machine_lease_name *name,
                        uint64_t deadline_ns, struct error *why)
{
    return keep_lease(name, deadline_ns, why);
}
int machine_lease_reinstate(struct machine *machine, const struct machine_lease_name *name,
                            uint64_t deadline_ns, uint64_t not_started, struct error *why)
{
    asked_not_started = not_started;
    return keep_lease(name, deadline_ns, why);
}

static void set_up_machine(void)
{
    managed = false;
    lease_answer = 0;
    uv_loop_init(&control_place.loop);
    fake = (struct machine){.state = MACHINE_RUNNING};
    machine_config_init(&fake.config);
    strcpy(fake.config.name, "fake");
    guest_memory_init(&fake.memory);
    ck_assert_int_eq(guest_memory_add(&fake.memory, 0x10000, ram, sizeof(ram)), 0);
    ck_assert_int_eq(
        control_create(&control, &control_place.loop, listen_here(), &fake, &control_place.err), 0);
}

static void tear_down_machine(void)
{
    control_destroy(control);
    guest_memory_destroy(&fake.memory);
    machine_config_free(&fake.config);
    leave_place();
}

START_TEST(machine_states)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"pause\"}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"state\": \"paused\"}}");
    send_text(fd, "{\"id\": 2, \"method\": \"reset\"}\n");
    expect_error(fd, "2", "wrong-state");
    send_text(fd, "{\"id\": 3, \"method\": \"power-button\"}\n");
    expect_error(fd, "3", "wrong-state");
    send_text(fd, "{\"id\": 4, \"method\": \"resume\"}\n");
    expect_line(fd, "{\"id\": 4, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 5, \"method\": \"reset\"}\n");
    expect_line(fd, "{\"id\": 5, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 6, \"method\": \"stats\"}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {\"exits\": 5}}");
    send_text(fd, "{\"id\": 7, \"method\": \"query\"}\n");
    json_t *line = next_line(fd), *summary = json_object_get(line, "result");
    ck_assert_str_eq(json_string_value(json_object_get(summary, "name")), "fake");
    ck_assert_str_eq(json_string_value(json_object_get(summary, "state")), "running");
    ck_assert_int_eq(json_integer_value(json_object_get(summary, "pid")), getpid());
    json_decref(line);
    send_text(fd, "{\"id\": 8, \"method\": \"inspect\"}\n");
    line = next_line(fd);
    struct machine_config copy;
    machine_config_init(&copy);
    ck_assert_int_eq(
        machine_config_from_json(&copy, json_object_get(line, "result"), &control_place.err), 0);
    ck_assert_str_eq(copy.name, "fake");
    machine_config_free(&copy);
    json_decref(line);
    close(fd);
}
END_TEST

START_TEST(machine_kill_is_answered_after_its_event)
{
    int fd = join_past_hello();
    send_text(fd,
              "{\"id\": 1, \"method\": \"events.subscribe\"}\n{\"id\": 2, \"method\": \"kill\"}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    json_t *event = next_line(fd), *data = json_object_get(event, "data");
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "stopped");
    ck_assert_str_eq(json_string_value(json_object_get(data, "reason")), "killed");
    json_decref(event);
    expect_line(fd, "{\"id\": 2, \"result\": {\"state\": \"stopped\"}}");
    close(fd);
}
END_TEST

START_TEST(machine_devices)
{
    int fd = join_past_hello(), files[2];
    FILE *image = tmpfile();
    fputs("7", image);
    fflush(image);
    files[0] = files[1] = fileno(image);
    send_with_fds(fd,
                  "{\"id\": 1, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"/x\", \"file\": {\"fd\": 0}}}}\n",
                  files, 1);
    expect_line(fd, "{\"id\": 1, \"result\": {\"id\": \"disk7\"}}");
    send_with_fds(fd,
                  "{\"id\": 2, \"method\": \"device.add\", \"fds\": 2, \"params\": {\"net\": "
                  "{\"kind\": \"tap\", \"files\": [{\"fd\": 0}, {\"fd\": 1}]}}}\n",
                  files, 2);
    expect_line(fd, "{\"id\": 2, \"result\": {\"id\": \"net2\"}}");
    static const char *const bad[] = {
        "device.add\", \"params\": {}",
        "device.add\", \"params\": {\"disk\": 1}",
        "device.add\", \"params\": {\"disk\": {\"path\": \"/x\"}}",
        "device.add\", \"params\": {\"disk\": {\"path\": \"/x\", \"file\": {\"fd\": 0}}}",
        "device.add\", \"params\": {\"net\": {}}",
        "device.add\", \"params\": {\"net\": {\"files\": [1]}}",
        "device.add\", \"params\": {\"net\": {\"files\": []}, \"disk\": {}}",
        "device.remove\", \"params\": {\"id\": 3}",
        "device.resize\", \"params\": {}",
        "device.resize\", \"params\": {\"id\": \"disk0\", \"size\": 0}",
        "device.resize\", \"params\": {\"id\": \"disk0\", \"size\": \"1\"}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char line[200];
        snprintf(line, sizeof(line), "{\"id\": 3, \"method\": \"%s}\n", bad[i]);
        send_text(fd, line);
        expect_error(fd, "3", "invalid-params");
    }
    send_text(fd, "{\"id\": 4, \"method\": \"device.remove\", \"params\": {\"id\": \"disk1\"}}\n");
    expect_error(fd, "4", "failed");
    send_text(fd, "{\"id\": 5, \"method\": \"device.remove\", \"params\": {\"id\": \"disk0\"}}\n");
    expect_line(fd, "{\"id\": 5, \"result\": {\"removed\": false}}");
    send_text(fd, "{\"id\": 6, \"method\": \"device.remove\", \"params\": {\"id\": \"disk0\", "
                  "\"force\": true}}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {\"removed\": true}}");
    send_text(fd, "{\"id\": 7, \"method\": \"device.resize\", \"params\": {\"id\": \"disk0\"}}\n");
    expect_line(fd, "{\"id\": 7, \"result\": {\"size_bytes\": 4096}}");
    send_text(fd, "{\"id\": 8, \"method\": \"device.list\"}\n");
    expect_line(fd, "{\"id\": 8, \"result\": {\"devices\": [\"here\"]}}");
    send_text(fd, "{\"id\": 9, \"method\": \"events.subscribe\"}\n");
    expect_line(fd, "{\"id\": 9, \"result\": {}}");
    control_device_event(control, "device-removed", "disk0");
    json_t *event = next_line(fd);
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "device-removed");
    json_decref(event);
    fclose(image);
    close(fd);
}
END_TEST

// A server that says nothing: it is waited for while others are answered, and given up at the end.
START_TEST(machine_goes_on_while_a_disk_is_connected)
{
    int fd = join_past_hello(), silent[2], ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, silent), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    send_with_fds(fd,
                  "{\"id\": 1, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"nbd://localhost\", \"file\": {\"fd\": 0}}}}\n"
                  "{\"id\": 2, \"method\": \"device.list\"}\n",
                  silent, 1);
    expect_line(fd, "{\"id\": 2, \"result\": {\"devices\": [\"here\"]}}");
    // Its helper says why there is none.
    send_with_fds(fd,
                  "{\"id\": 3, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"nbd://localhost\", \"file\": {\"fd\": 0}}}}\n",
                  ends, 1);
    ck_assert_int_eq(send(ends[1], "it is gone", 10, 0), 10);
    json_t *answer = next_event(fd);
    const char *text =
        json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    char *shown = json_dumps(answer, 0);
    ck_assert_msg(text && strstr(text, "it is gone"), "%s", shown ? shown : "nothing");
    free(shown);
    json_decref(answer);
    close(silent[0]);
    close(silent[1]);
    close(ends[0]);
    close(ends[1]);
    close(fd);
}
END_TEST

START_TEST(machine_balloon)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"balloon\"}\n");
    expect_error(fd, "1", "not-supported");
    fake.has_balloon = true;
    send_text(fd, "{\"id\": 2, \"method\": \"balloon\", \"params\": {\"size\": -1}}\n");
    expect_error(fd, "2", "invalid-params");
    send_text(fd, "{\"id\": 3, \"method\": \"balloon\", \"params\": {\"size\": 1001}}\n");
    expect_error(fd, "3", "invalid-params");
    send_text(fd, "{\"id\": 4, \"method\": \"balloon\", \"params\": {\"size\": 700}}\n");
    expect_line(fd, "{\"id\": 4, \"result\": {\"current_bytes\": 700, \"target_bytes\": 9, "
                    "\"count\": 0}}");
    // A look waits for the guest's statistics, if it gives any.
    fake.answers = true;
    send_text(fd, "{\"id\": 5, \"method\": \"balloon\"}\n{\"id\": 6, \"method\": "
                  "\"events.subscribe\"}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {}}");
    fake.balloon_count = 1;
    control_machine_event(control, MACHINE_EVENT_BALLOON);
    expect_line(fd, "{\"id\": 5, \"result\": {\"current_bytes\": 700, \"target_bytes\": 9, "
                    "\"count\": 1}}");
    json_t *event = next_event(fd);
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "balloon");
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(event, "data"), "current_bytes")), 700);
    json_decref(event);
    // It needn't come at all.
    send_text(fd, "{\"id\": 7, \"method\": \"balloon\"}\n");
    json_t *late = next_event(fd);
    ck_assert_int_eq(json_integer_value(json_object_get(late, "id")), 7);
    json_decref(late);
    close(fd);
}
END_TEST

START_TEST(machine_memory_read)
{
    int fd = join_past_hello();
    memcpy(ram + 16, "\x00\x01\xfe\xff", 4);
    send_text(
        fd,
        "{\"id\": 1, \"method\": \"memory.read\", \"params\": {\"gpa\": 65552, \"length\": 4}}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"data\": \"0001feff\"}}");
    static const char *const bad[] = {
        "{}",
        "{\"gpa\": 65552}",
        "{\"gpa\": \"65552\", \"length\": 1}",
        "{\"gpa\": -1, \"length\": 1}",
        "{\"gpa\": 65536, \"length\": 0}",
        "{\"gpa\": 65536, \"length\": 262145}",
        "{\"gpa\": 65536, \"length\": 8193}",
        "{\"gpa\": 0, \"length\": 1}",
        "{\"gpa\": 9223372036854775807, \"length\": 262144}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char line[200];
        snprintf(line, sizeof(line), "{\"id\": 2, \"method\": \"memory.read\", \"params\": %s}\n",
                 bad[i]);
        send_text(fd, line);
        expect_error(fd, "2", "invalid-params");
    }
    close(fd);
}
END_TEST

#define LEASE_PARAMS                                                                               \
    "\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": 7, "    \
    "\"deadline_ns\": 123456789012345"

START_TEST(machine_lease)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"lease.renew\", \"params\": {" LEASE_PARAMS "}}\n");
    json_t *line = next_line(fd), *result = json_object_get(line, "result");
    ck_assert_str_eq(json_string_value(json_object_get(result, "state")), "running");
    ck_assert_int_gt(json_integer_value(json_object_get(result, "now_ns")), 0);
    json_decref(line);
    ck_assert_uint_eq(asked.epoch, 7);
    ck_assert_uint_eq(asked.uuid.bytes[15], 0x10);
    ck_assert_str_eq(asked_boot_id, "this");
    ck_assert_uint_eq(asked_deadline, 123456789012345);
    send_text(fd, "{\"id\": 2, \"method\": \"lease.reinstate\", \"params\": {" LEASE_PARAMS
                  ", \"not_started\": 6}}\n");
    json_decref(next_line(fd));
    ck_assert_uint_eq(asked_not_started, 6);

    static const struct {
        int number;
        const char *code;
    } refusals[] = {{ENOTSUP, "not-managed"}, {EXDEV, "wrong-uuid"},     {ESTALE, "wrong-epoch"},
                    {EREMCHG, "wrong-boot"},  {ETIMEDOUT, "lease-lost"}, {EBUSY, "wrong-state"},
                    {EAGAIN, "in-use"}};
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        lease_answer = refusals[i].number;
        send_text(fd, "{\"id\": 3, \"method\": \"lease.renew\", \"params\": {" LEASE_PARAMS "}}\n");
        expect_error(fd, "3", refusals[i].code);
    }
    static const char *const bad[] = {
        "{}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": 7}",
        "{\"uuid\": \"nobody\", \"boot_id\": \"this\", \"epoch\": 7, \"deadline_ns\": 5}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": "
        "-7, "
        "\"deadline_ns\": 5}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"epoch\": 7, \"deadline_ns\": 5}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char request[300];
        snprintf(request, sizeof(request),
                 "{\"id\": 4, \"method\": \"lease.renew\", \"params\": %s}\n", bad[i]);
        send_text(fd, request);
        expect_error(fd, "4", "invalid-params");
    }
    close(fd);
}
END_TEST

START_TEST(machine_managed)
{
    int fd = join_past_hello();
    managed = true;
    fake.state = MACHINE_PAUSED;
    send_text(fd, "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true}}\n");
    expect_error(fd, "1", "not-allowed");
    send_text(fd,
              "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true, \"epoch\": 6}}\n");
    expect_error(fd, "1", "not-allowed");
    send_text(fd,
              "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true, \"epoch\": 7}}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 2, \"method\": \"pause\"}\n{\"id\": 3, \"method\": \"resume\"}\n");
    expect_line(fd, "{\"id\": 2, \"result\": {\"state\": \"paused\"}}");
    expect_line(fd, "{\"id\": 3, \"result\": {\"state\": \"running\"}}");
    asked_deadline = 5000;
    send_text(fd, "{\"id\": 4, \"method\": \"query\"}\n");
    json_t *line = next_line(fd);
    json_t *lease = json_object_get(json_object_get(line, "result"), "lease");
    ck_assert_int_eq(json_integer_value(json_object_get(lease, "epoch")), 7);
    ck_assert_int_eq(json_integer_value(json_object_get(lease, "deadline_ns")), 5000);
    ck_assert(json_is_false(json_object_get(lease, "lost")));
    json_decref(line);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("control_machine");
    TCase *machine = tcase_create("machine");
    tcase_set_timeout(machine, 120);
    tcase_add_checked_fixture(machine, set_up_machine, tear_down_machine);
    tcase_add_test(machine, machine_states);
    tcase_add_test(machine, machine_kill_is_answered_after_its_event);
    tcase_add_test(machine, machine_devices);
    tcase_add_test(machine, machine_goes_on_while_a_disk_is_connected);
    tcase_add_test(machine, machine_balloon);
    tcase_add_test(machine, machine_memory_read);
    tcase_add_test(machine, machine_lease);
    tcase_add_test(machine, machine_managed);
    suite_add_tcase(suite, machine);
    return run_suite(suite);
}
