// The console: output with back-pressure, input that waits, state.
#include <check.h>
#include <stdatomic.h>
#include <string.h>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_console.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum { SLOT = 2, RECEIVE = 0, TRANSMIT = 1, QUEUE_SIZE = 16, SINK_SIZE = 1 << 20 };

#define ALL UINT64_MAX

static struct fake_machine machine;
static struct device *console;
static struct virtio_driver driver;
// What the sink took, and how much more it will take. On the I/O thread, or while that is idle.
static char taken[SINK_SIZE];
static size_t taken_length, room;
static atomic_uint rooms_told;

static size_t output(void *opaque, const void *bytes, size_t length)
{
    size_t n = length < room ? length : room;
    memcpy(taken + taken_length, bytes, n);
    taken_length += n;
    room -= n;
    return n;
}

static void input_room(void *opaque)
{
    atomic_fetch_add(&rooms_told, 1);
}

static void make_device(void)
{
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "console0",
                                           .slot = SLOT};
    const struct virtio_console_config config = {.output = output, .input_room = input_room};
    ck_assert_int_eq(virtio_console_create(&console, &env, &config, NULL), 0);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    console->ops->reset(console);
}

static void set_up(void)
{
    fake_machine_init(&machine, 16 << 20);
    taken_length = 0;
    room = SINK_SIZE;
    make_device();
    driver_open(&driver, &machine, SLOT);
}

static void tear_down(void)
{
    console->ops->destroy(console);
    fake_machine_destroy(&machine);
}

static int print(const char *text)
{
    struct driver_segment s = {driver_alloc(&driver, strlen(text) + 1, 1), (uint32_t)strlen(text)};
    memcpy(driver_hva(&driver, s.gpa), text, s.length);
    int head = driver_add(&driver, TRANSMIT, &s, 1, 0, false);
    driver_kick(&driver, TRANSMIT);
    return head;
}

static struct driver_segment offer_buffer(uint32_t length)
{
    struct driver_segment s = {driver_alloc(&driver, length, 1), length};
    ck_assert_int_ge(driver_add(&driver, RECEIVE, &s, 0, 1, false), 0);
    driver_kick(&driver, RECEIVE);
    return s;
}

START_TEST(output_arrives)
{
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    ck_assert_int_eq(print("hello, "), driver_wait_used(&driver, TRANSMIT, NULL));
    ck_assert_int_eq(print("world"), driver_wait_used(&driver, TRANSMIT, NULL));
    ck_assert_uint_eq(taken_length, 12);
    ck_assert_mem_eq(taken, "hello, world", 12);
}
END_TEST

START_TEST(slow_sink_slows_the_guest_and_loses_nothing)
{
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    room = 3;
    print("abcdef");
    print("ghi");
    fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, TRANSMIT, NULL), -1);
    ck_assert_mem_eq(taken, "abc", 3);
    room = 1; // again not enough, and a call too many
    virtio_console_room(console);
    virtio_console_room(console);
    fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, TRANSMIT, NULL), -1);
    ck_assert_mem_eq(taken, "abcd", 4);
    // A pause in the middle of a chain.
    console->ops->quiesce(console);
    console->ops->resume(console);
    fake_machine_settle(&machine);
    ck_assert_uint_eq(taken_length, 4);
    room = 100;
    virtio_console_room(console);
    ck_assert_int_ge(driver_wait_used(&driver, TRANSMIT, NULL), 0);
    ck_assert_int_ge(driver_wait_used(&driver, TRANSMIT, NULL), 0);
    ck_assert_uint_eq(taken_length, 9);
    ck_assert_mem_eq(taken, "abcdefghi", 9);
}
END_TEST

// A chain longer than a turn's budget comes out whole.
START_TEST(long_output)
{
    const uint32_t length = 700000;
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    struct driver_segment s = {driver_alloc(&driver, length, 1), length};
    for (uint32_t i = 0; i < length; i++)
        *((uint8_t *)driver_hva(&driver, s.gpa) + i) = (uint8_t)(i * 13 >> 3);
    driver_request(&driver, TRANSMIT, &s, 1, 0);
    ck_assert_uint_eq(taken_length, length);
    ck_assert_mem_eq(taken, driver_hva(&driver, s.gpa), length);
}
END_TEST

START_TEST(input_waits_for_buffers)
{
    uint32_t length;
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    ck_assert_uint_eq(virtio_console_input(console, "12345678", 8), 8);
    struct driver_segment a = offer_buffer(5), b = offer_buffer(5);
    ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(driver_hva(&driver, a.gpa), "12345", 5);
    ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
    ck_assert_uint_eq(length, 3);
    ck_assert_mem_eq(driver_hva(&driver, b.gpa), "678", 3);
    a = offer_buffer(5); // buffers that wait for input
    virtio_console_input(console, "x", 1);
    ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
    ck_assert_uint_eq(length, 1);
    ck_assert_mem_eq(driver_hva(&driver, a.gpa), "x", 1);
}
END_TEST

START_TEST(input_is_bounded_and_says_when_there_is_room)
{
    static char big[10000];
    static char got[10000];
    uint32_t length;
    for (unsigned i = 0; i < sizeof(big); i++)
        big[i] = (char)(i * 7 >> 2);
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    size_t given = virtio_console_input(console, big, sizeof(big));
    ck_assert_uint_gt(given, 0);
    ck_assert_uint_lt(given, sizeof(big));
    ck_assert_uint_eq(virtio_console_input(console, big, 1), 0);
    ck_assert_uint_eq(rooms_told, 0);
    size_t seen = 0;
    while (seen < sizeof(big)) {
        struct driver_segment s = offer_buffer(777);
        ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
        memcpy(got + seen, driver_hva(&driver, s.gpa), length);
        seen += length;
        fake_machine_settle(&machine);
        ck_assert_uint_ge(rooms_told, 1);
        given += virtio_console_input(console, big + given, sizeof(big) - given);
    }
    ck_assert_mem_eq(got, big, sizeof(big));
}
END_TEST

START_TEST(receive_buffer_without_room_breaks_the_queue)
{
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    struct driver_segment s = {driver_alloc(&driver, 8, 8), 8};
    driver_add(&driver, RECEIVE, &s, 1, 0, false); // readable
    virtio_console_input(console, "x", 1);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    print("still here");
    ck_assert_int_ge(driver_wait_used(&driver, TRANSMIT, NULL), 0);
}
END_TEST

START_TEST(input_before_the_driver_and_over_a_reset)
{
    uint32_t length;
    ck_assert_uint_eq(virtio_console_input(console, "early", 5), 5);
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    driver_start(&driver, ALL, 2, QUEUE_SIZE); // resets first
    struct driver_segment s = offer_buffer(16);
    ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(driver_hva(&driver, s.gpa), "early", 5);
}
END_TEST

START_TEST(size_changes_are_told)
{
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device, 2), 80);
    virtio_console_resize(console, 132, 43);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device, 2), 132);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 2, 2), 43);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 4, 4), 1);
}
END_TEST

START_TEST(emergency_write_needs_no_queue)
{
    fake_machine_write(&machine, driver.device + 8, 4, 'A');
    fake_machine_write(&machine, driver.device + 8, 4, 'B');
    ck_assert_uint_eq(taken_length, 2);
    ck_assert_mem_eq(taken, "AB", 2);
}
END_TEST

START_TEST(state_carries_half_a_chain_and_waiting_input)
{
    uint32_t length;
    driver_start(&driver, ALL, 2, QUEUE_SIZE);
    room = 2;
    print("abcdef");
    virtio_console_input(console, "typed", 5);
    fake_machine_settle(&machine);
    struct byte_writer w;
    byte_writer_init(&w);
    console->ops->quiesce(console);
    console->ops->save(console, &w);
    console->ops->destroy(console);
    make_device();
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_msg(console->ops->load(console, &r, &err) == 0, "%s", err.message);
    room = 100;
    console->ops->resume(console);
    ck_assert_int_ge(driver_wait_used(&driver, TRANSMIT, NULL), 0);
    ck_assert_uint_eq(taken_length, 6);
    ck_assert_mem_eq(taken, "abcdef", 6);
    struct driver_segment s = offer_buffer(16);
    ck_assert_int_ge(driver_wait_used(&driver, RECEIVE, &length), 0);
    ck_assert_uint_eq(length, 5);
    ck_assert_mem_eq(driver_hva(&driver, s.gpa), "typed", 5);
    byte_writer_free(&w);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *s = suite_create("virtio-console");
    TCase *t = tcase_create("console");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, output_arrives);
    tcase_add_test(t, slow_sink_slows_the_guest_and_loses_nothing);
    tcase_add_test(t, long_output);
    tcase_add_test(t, input_waits_for_buffers);
    tcase_add_test(t, input_is_bounded_and_says_when_there_is_room);
    tcase_add_test(t, receive_buffer_without_room_breaks_the_queue);
    tcase_add_test(t, input_before_the_driver_and_over_a_reset);
    tcase_add_test(t, size_changes_are_told);
    tcase_add_test(t, emergency_write_needs_no_queue);
    tcase_add_test(t, state_carries_half_a_chain_and_waiting_input);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(make_suite());
}
