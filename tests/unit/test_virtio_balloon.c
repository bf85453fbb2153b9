// The balloon: pages that go, pages that are reported, statistics, state.
#include <check.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_balloon.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum { SLOT = 2, INFLATE = 0, DEFLATE = 1, STATISTICS = 2, QUEUE_SIZE = 16, PAGE = 4096 };

#define ALL       UINT64_MAX
#define F_STATS   VIRTIO_FEATURE(1)
#define F_REPORT  VIRTIO_FEATURE(5)
#define RAM_SIZE  (16u << 20)
#define DATA      UINT64_C(0xc00000) // where nobody else is
#define NUM_PAGES 0
#define ACTUAL    4

static struct fake_machine machine;
static struct device *balloon;
static struct virtio_driver driver;
static atomic_uint changes;

static void changed(void *opaque)
{
    atomic_fetch_add(&changes, 1);
}

static void make_device(void)
{
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "balloon0",
                                           .slot = SLOT};
    const struct virtio_balloon_config config = {.changed = changed};
    ck_assert_int_eq(virtio_balloon_create(&balloon, &env, &config, NULL), 0);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    balloon->ops->reset(balloon);
}

static void set_up(void)
{
    fake_machine_init(&machine, RAM_SIZE);
    atomic_store(&changes, 0);
    make_device();
    driver_open(&driver, &machine, SLOT);
}

static void tear_down(void)
{
    balloon->ops->destroy(balloon);
    fake_machine_destroy(&machine);
}

// How many of the pages from `gpa` on the host holds.
static unsigned resident(uint64_t gpa, unsigned pages)
{
    unsigned char in[1024];
    unsigned count = 0;
    ck_assert_uint_le(pages, sizeof(in));
    ck_assert_int_eq(mincore(machine.ram + gpa, (size_t)pages * PAGE, in), 0);
    for (unsigned i = 0; i < pages; i++)
        count += in[i] & 1;
    return count;
}

// Sends page numbers in segments of a few.
static void send_pages(unsigned queue, const uint32_t *numbers, unsigned count)
{
    struct driver_segment s[3];
    uint64_t list = driver_alloc(&driver, count * 4 + 4, 4);
    for (unsigned i = 0; i < count; i++)
        bytes_put_u32((uint8_t *)driver_hva(&driver, list) + 4 * i, numbers[i]);
    uint32_t bytes = count * 4, cut = bytes / 3 + 1; // not at the numbers' edges
    s[0] = (struct driver_segment){list, cut};
    s[1] = (struct driver_segment){list + cut, bytes - cut};
    ck_assert_uint_eq(driver_request(&driver, queue, s, bytes > cut ? 2 : 1, 0), 0);
}

START_TEST(inflating_gives_pages_to_the_host)
{
    struct virtio_balloon_status status;
    uint32_t numbers[64];
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    memset(machine.ram + DATA, 0x5a, (size_t)128 * PAGE);
    for (unsigned i = 0; i < 32; i++) { // a run upwards, one downwards
        numbers[i] = (uint32_t)(DATA / PAGE) + i;
        numbers[32 + i] = (uint32_t)(DATA / PAGE) + 95 - i;
    }
    send_pages(INFLATE, numbers, 64);
    ck_assert_uint_eq(resident(DATA, 32), 0);
    ck_assert_uint_eq(resident(DATA + 32 * PAGE, 32), 32);
    ck_assert_uint_eq(resident(DATA + 64 * PAGE, 32), 0);
    ck_assert_uint_eq(resident(DATA + 96 * PAGE, 32), 32);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_eq(status.discarded, 64 * PAGE);
    ck_assert_uint_eq(machine.ram[DATA], 0); // a page like any other when it is touched again
    ck_assert_uint_eq(machine.ram[DATA + 32 * PAGE], 0x5a);
    send_pages(DEFLATE, numbers, 64); // and given back
    ck_assert_uint_eq(machine.ram[DATA + 32 * PAGE], 0x5a);
    ck_assert(!(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET));
}
END_TEST

START_TEST(discarded_pages_count_as_written)
{
    uint64_t log[RAM_SIZE / PAGE / 64] = {0};
    uint32_t number = (uint32_t)(DATA / PAGE) + 3;
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    guest_memory_log_start(&machine.memory);
    send_pages(INFLATE, &number, 1);
    guest_memory_log_take(&machine.memory, 0, log);
    ck_assert_uint_eq(log[number / 64] >> (number % 64) & 1, 1);
    ck_assert_uint_eq(log[number / 64] >> ((number + 1) % 64) & 1, 0);
    guest_memory_log_stop(&machine.memory);
}
END_TEST

START_TEST(pages_that_are_not_ram_are_ignored)
{
    struct virtio_balloon_status status;
    const uint32_t numbers[] = {RAM_SIZE / PAGE, UINT32_MAX, 0xfee00, RAM_SIZE / PAGE - 1,
                                RAM_SIZE / PAGE};
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    memset(machine.ram + RAM_SIZE - PAGE, 1, PAGE);
    send_pages(INFLATE, numbers, 5);
    virtio_balloon_status(balloon, &status);
    // The last page forms a run with one that isn't there, which isn't RAM as a whole.
    ck_assert_uint_eq(status.discarded, 0);
    send_pages(INFLATE, numbers + 3, 1);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_eq(status.discarded, PAGE);
    struct driver_segment odd = {driver_alloc(&driver, 8, 8), 3}; // not one whole number
    ck_assert_uint_eq(driver_request(&driver, INFLATE, &odd, 1, 0), 0);
    ck_assert(!(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET));
}
END_TEST

// By the standard's numbers and by Linux's: statistics not negotiated, the queue is the third.
static const struct {
    uint64_t features;
    unsigned queue;
} reporting[] = {{ALL, 3}, {ALL, 4}, {~F_STATS, 2}, {~F_STATS, 4}};

// A list may be as long as a chain: the same numbers over and over by descriptors that lie on one
// another. It is taken in part, or the I/O thread, and all that wait for it, stood still for hours.
START_TEST(a_list_without_end_is_cut)
{
    enum { PIECES = 100, PIECE = 4 << 20, LIST = 8 << 20 };
    struct driver_segment s[PIECES];
    struct virtio_balloon_status status;
    uint32_t number = (uint32_t)(DATA / PAGE);
    driver_start(&driver, ALL, 4, 128);
    for (uint64_t at = 0; at < PIECE; at += 8) { // no neighbours: a call each
        bytes_put_u32(machine.ram + LIST + at, number);
        bytes_put_u32(machine.ram + LIST + at + 4, number + 2);
    }
    for (unsigned i = 0; i < PIECES; i++)
        s[i] = (struct driver_segment){LIST, PIECE};
    ck_assert_uint_eq(driver_request(&driver, INFLATE, s, PIECES, 0), 0);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_ge(status.discarded, 1024 * PAGE); // what drivers send in one chain
    ck_assert(!(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET));
}
END_TEST

START_TEST(free_pages_are_reported)
{
    struct virtio_balloon_status status;
    driver_start(&driver, reporting[_i].features, 5, QUEUE_SIZE);
    memset(machine.ram + DATA, 0x5a, (size_t)64 * PAGE);
    // Only whole pages of what was reported go.
    const struct driver_segment s[] = {{DATA, 16 * PAGE}, {DATA + 32 * PAGE + 100, 2 * PAGE}};
    ck_assert_uint_eq(driver_request(&driver, reporting[_i].queue, s, 0, 2), 0);
    virtio_balloon_status(balloon, &status);
    ck_assert(status.reports_free_pages);
    ck_assert_uint_eq(status.reported, 17 * PAGE);
    ck_assert_uint_eq(status.discarded, 0);
    ck_assert_uint_eq(resident(DATA, 16), 0);
    ck_assert_uint_eq(machine.ram[DATA + 32 * PAGE + 100], 0x5a);
    ck_assert_uint_eq(machine.ram[DATA + 33 * PAGE], 0);
    ck_assert_uint_eq(machine.ram[DATA + 34 * PAGE], 0x5a);
}
END_TEST

START_TEST(without_the_feature_nothing_is_discarded)
{
    struct virtio_balloon_status status;
    driver_start(&driver, ~F_REPORT, 4, QUEUE_SIZE);
    const struct driver_segment s = {DATA, 16 * PAGE};
    driver_request(&driver, 3, &s, 0, 1);
    virtio_balloon_status(balloon, &status);
    ck_assert(!status.reports_free_pages);
    ck_assert_uint_eq(status.reported, 0);
}
END_TEST

START_TEST(target_and_size)
{
    struct virtio_balloon_status status;
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    virtio_balloon_set_target(balloon, 1000 * PAGE);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + NUM_PAGES, 4), 1000);
    fake_machine_write(&machine, driver.device + ACTUAL, 4, 600);
    fake_machine_write(&machine, driver.device + NUM_PAGES, 4, 7); // not the driver's
    fake_machine_write(&machine, driver.device + ACTUAL + 1, 1, 7);
    virtio_balloon_status(balloon, &status);
    ck_assert(status.driver);
    ck_assert_uint_eq(status.target, 1000 * PAGE);
    ck_assert_uint_eq(status.actual, 600 * PAGE);
    ck_assert_uint_eq(atomic_load(&changes), 1);
    driver_reset(&driver);
    virtio_balloon_status(balloon, &status);
    ck_assert(!status.driver);
    ck_assert_uint_eq(status.target, 1000 * PAGE); // what is wanted is the host's
    ck_assert_uint_eq(status.actual, 0);
}
END_TEST

static uint64_t give_statistics(uint64_t free_bytes)
{
    static uint64_t buffer;
    if (!buffer)
        buffer = driver_alloc(&driver, 64, 8);
    uint8_t *p = driver_hva(&driver, buffer);
    bytes_put_u16(p, BALLOON_FREE);
    bytes_put_u64(p + 2, free_bytes);
    bytes_put_u16(p + 10, 999); // of a driver of the future
    bytes_put_u64(p + 12, 1);
    bytes_put_u16(p + 20, BALLOON_MAJOR_FAULTS);
    bytes_put_u64(p + 22, 77);
    const struct driver_segment s = {buffer, 30};
    ck_assert_int_ge(driver_add(&driver, STATISTICS, &s, 1, 0, false), 0);
    driver_kick(&driver, STATISTICS);
    fake_machine_settle(&machine);
    return buffer;
}

START_TEST(statistics_come_when_asked_for)
{
    struct virtio_balloon_status status;
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    ck_assert(!virtio_balloon_ask_statistics(balloon)); // there is nothing to ask with yet
    give_statistics(1234);
    virtio_balloon_status(balloon, &status);
    ck_assert(status.gives_statistics);
    ck_assert_uint_eq(status.statistics_count, 1);
    ck_assert_uint_eq(status.known, 1u << BALLOON_FREE | 1u << BALLOON_MAJOR_FAULTS);
    ck_assert_uint_eq(status.statistics[BALLOON_FREE], 1234);
    ck_assert_uint_eq(status.statistics[BALLOON_MAJOR_FAULTS], 77);
    // The buffer stays with the device until then; kicks and pauses change nothing.
    fake_machine_write(&machine, driver.queues[STATISTICS].notify_address, 2, STATISTICS);
    balloon->ops->quiesce(balloon);
    balloon->ops->resume(balloon);
    fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, STATISTICS, NULL), -1);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_eq(status.statistics_count, 1);
    ck_assert(virtio_balloon_ask_statistics(balloon));
    ck_assert(!virtio_balloon_ask_statistics(balloon)); // one question at a time
    ck_assert_int_ge(driver_wait_used(&driver, STATISTICS, NULL), 0);
    give_statistics(99);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_eq(status.statistics_count, 2);
    ck_assert_uint_eq(status.statistics[BALLOON_FREE], 99);
}
END_TEST

START_TEST(state_keeps_sizes_and_the_waiting_buffer)
{
    struct virtio_balloon_status status;
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    driver_start(&driver, ALL, 4, QUEUE_SIZE);
    virtio_balloon_set_target(balloon, 500 * PAGE);
    fake_machine_write(&machine, driver.device + ACTUAL, 4, 321);
    give_statistics(1);
    byte_writer_init(&w);
    balloon->ops->quiesce(balloon);
    balloon->ops->save(balloon, &w);
    balloon->ops->destroy(balloon);
    make_device();
    byte_reader_init(&r, w.data, w.length);
    ck_assert_msg(balloon->ops->load(balloon, &r, &err) == 0, "%s", err.message);
    balloon->ops->resume(balloon);
    fake_machine_settle(&machine);
    virtio_balloon_status(balloon, &status);
    ck_assert_uint_eq(status.target, 500 * PAGE);
    ck_assert_uint_eq(status.actual, 321 * PAGE);
    ck_assert_uint_eq(status.statistics_count, 1);
    ck_assert(virtio_balloon_ask_statistics(balloon));
    ck_assert_int_ge(driver_wait_used(&driver, STATISTICS, NULL), 0);
    byte_writer_free(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("virtio-balloon");
    TCase *t = tcase_create("balloon");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, inflating_gives_pages_to_the_host);
    tcase_add_test(t, discarded_pages_count_as_written);
    tcase_add_test(t, pages_that_are_not_ram_are_ignored);
    tcase_add_test(t, a_list_without_end_is_cut);
    tcase_add_loop_test(t, free_pages_are_reported, 0,
                        (int)(sizeof(reporting) / sizeof(reporting[0])));
    tcase_add_test(t, without_the_feature_nothing_is_discarded);
    tcase_add_test(t, target_and_size);
    tcase_add_test(t, statistics_come_when_asked_for);
    tcase_add_test(t, state_keeps_sizes_and_the_waiting_buffer);
    suite_add_tcase(s, t);
    return run_suite(s);
}
