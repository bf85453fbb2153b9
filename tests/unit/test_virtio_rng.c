// The entropy device.
#include <check.h>
#include <string.h>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_rng.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum { SLOT = 2, QUEUE_SIZE = 64 };

static struct fake_machine machine;
static struct device *rng;
static struct virtio_driver driver;

static void set_up(void)
{
    fake_machine_init(&machine, 16 << 20);
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "rng0",
                                           .slot = SLOT};
    ck_assert_int_eq(virtio_rng_create(&rng, &env, NULL), 0);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    rng->ops->reset(rng);
    driver_open(&driver, &machine, SLOT);
    driver_start(&driver, UINT64_MAX, 1, QUEUE_SIZE);
}

static void tear_down(void)
{
    rng->ops->destroy(rng);
    fake_machine_destroy(&machine);
}

START_TEST(bytes_are_random)
{
    uint64_t data = driver_alloc(&driver, 4096, 64);
    const struct driver_segment segments[] = {{data, 1}, {data + 100, 1000}, {data + 2000, 2000}};
    ck_assert_uint_eq(driver_request(&driver, 0, segments, 0, 3), 3001);
    const uint8_t *p = driver_hva(&driver, data);
    unsigned ones = 0;
    for (unsigned i = 0; i < 2000; i++)
        ones += (unsigned)__builtin_popcount(p[2000 + i]);
    ck_assert_uint_gt(ones, 7500); // 8000 expected, standard deviation 63
    ck_assert_uint_lt(ones, 8500);
    ck_assert_uint_eq(p[50], 0);
    ck_assert_uint_eq(p[1500], 0);
}
END_TEST

START_TEST(large_buffers_get_a_part)
{
    uint64_t data = driver_alloc(&driver, 1 << 20, 64);
    const struct driver_segment segment = {data, 1 << 20};
    uint32_t got = driver_request(&driver, 0, &segment, 0, 1);
    ck_assert_uint_gt(got, 0);
    ck_assert_uint_lt(got, 1 << 20);
    for (uint32_t i = got; i < 1 << 20; i++)
        ck_assert_uint_eq(*((uint8_t *)driver_hva(&driver, data) + i), 0);
}
END_TEST

START_TEST(chains_without_room_come_back_empty)
{
    const struct driver_segment segment = {driver_alloc(&driver, 64, 64), 64};
    ck_assert_uint_eq(driver_request(&driver, 0, &segment, 1, 0), 0);
    ck_assert_uint_eq(driver_request(&driver, 0, &segment, 0, 1), 64);
}
END_TEST

START_TEST(a_full_ring_is_served)
{
    uint64_t data = driver_alloc(&driver, 64 * QUEUE_SIZE, 64);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < QUEUE_SIZE; i++) {
            const struct driver_segment segment = {data + 64 * i, 64};
            ck_assert_int_ge(driver_add(&driver, 0, &segment, 0, 1, false), 0);
        }
        fake_machine_write(&machine, driver.queues[0].notify_address, 2, 0);
        for (unsigned i = 0; i < QUEUE_SIZE; i++)
            ck_assert_int_ge(driver_wait_used(&driver, 0, NULL), 0);
    }
    // A batch costs few interrupts.
    struct virtio_queue_counters c;
    fake_machine_settle(&machine);
    ck_assert(virtio_device_counters(rng, 0, &c));
    ck_assert_uint_eq(c.requests, 20 * QUEUE_SIZE);
    ck_assert_uint_lt(c.interrupts, 20 * QUEUE_SIZE / 4);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("virtio-rng");
    TCase *t = tcase_create("rng");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, bytes_are_random);
    tcase_add_test(t, large_buffers_get_a_part);
    tcase_add_test(t, chains_without_room_come_back_empty);
    tcase_add_test(t, a_full_ring_is_served);
    suite_add_tcase(s, t);
    return run_suite(s);
}
