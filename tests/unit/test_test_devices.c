// The devices of --debug-exit.
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "devices/test_devices.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

struct fixture {
    struct fake_machine fake;
    struct test_devices *devices;
    struct device *device;
};

#define MMIO UINT64_C(0xff000000)

static void open_fixture(struct fixture *f)
{
    const struct test_devices_config config = {.id = "test0", .exit_port = 0xf4, .mmio_base = MMIO};
    struct error err = {0};
    memset(f, 0, sizeof(*f));
    fake_machine_open(&f->fake);
    ck_assert_int_eq(test_devices_create(&f->devices, &f->fake.bus, &f->fake.ports, &f->fake.mmio,
                                         &config, &err),
                     0);
    f->device = test_devices_device(f->devices);
}

static void close_fixture(struct fixture *f)
{
    f->device->ops->destroy(f->device);
    fake_machine_close(&f->fake);
}

START_TEST(exit_codes)
{
    static const struct {
        uint64_t value;
        unsigned length;
        int code;
    } cases[] = {{0, 1, 1}, {1, 1, 3}, {0x7f, 1, 255}, {0x80, 1, 1}, {0x12345610, 4, 0x21}};
    struct fixture f;
    open_fixture(&f);
    for (unsigned i = 0; i < 5; i++) {
        fake_out(&f.fake, 0xf4, cases[i].length, cases[i].value);
        ck_assert_uint_eq(f.fake.request_count, i + 1);
        ck_assert_int_eq(f.fake.last_request, MACHINE_REQUEST_EXIT);
        ck_assert_int_eq(f.fake.last_value, cases[i].code);
    }
    close_fixture(&f);
}
END_TEST

START_TEST(latch)
{
    struct fixture f;
    open_fixture(&f);
    fake_out(&f.fake, 0xe0, 4, 0x44332211);
    ck_assert_uint_eq(fake_in(&f.fake, 0xe0, 4), 0x44332211);
    ck_assert_uint_eq(fake_in(&f.fake, 0xe0, 1), 0x11);
    ck_assert_uint_eq(fake_in(&f.fake, 0xe2, 2), 0x4433);
    fake_out(&f.fake, 0xe1, 2, 0xbbaa);
    ck_assert_uint_eq(fake_in(&f.fake, 0xe0, 4), 0x44bbaa11);
    close_fixture(&f);
}
END_TEST

START_TEST(lines)
{
    struct fixture f;
    open_fixture(&f);
    fake_out(&f.fake, 0x2000, 1, 1);
    fake_out(&f.fake, 0x2017, 1, 1);
    fake_out(&f.fake, 0x2018, 1, 1); // nobody
    ck_assert(f.fake.lines[0] && f.fake.lines[23]);
    fake_out(&f.fake, 0x2000, 1, 0);
    ck_assert(!f.fake.lines[0]);
    unsigned changes = f.fake.line_changes[5];
    f.device->ops->reset(f.device);
    ck_assert(!f.fake.lines[23]);
    ck_assert_uint_eq(f.fake.line_changes[5], changes); // never touched: another device's
    close_fixture(&f);
}
END_TEST

START_TEST(memory)
{
    struct fixture f;
    open_fixture(&f);
    for (unsigned length = 1; length <= 8; length++) {
        fake_write(&f.fake.mmio, MMIO + 0x123 * length, length, UINT64_C(0x8877665544332211));
        uint64_t mask = length == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * length)) - 1;
        ck_assert_uint_eq(fake_read(&f.fake.mmio, MMIO + 0x123 * length, length),
                          UINT64_C(0x8877665544332211) & mask);
    }
    fake_write(&f.fake.mmio, MMIO + 0xfffe, 4, 0xddccbbaa); // across the end
    ck_assert_uint_eq(fake_read(&f.fake.mmio, MMIO + 0xfffe, 4), 0xffffbbaa);
    close_fixture(&f);
}
END_TEST

START_TEST(state_round_trip)
{
    struct fixture f, g;
    open_fixture(&f);
    open_fixture(&g);
    fake_out(&f.fake, 0xe0, 4, 0x01020304);
    fake_out(&f.fake, 0x2003, 1, 1);
    fake_write(&f.fake.mmio, MMIO + 0x8000, 8, 0x55);
    struct byte_writer w;
    byte_writer_init(&w);
    f.device->ops->save(f.device, &w);
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(g.device->ops->load(g.device, &r, &err), 0);
    ck_assert_uint_eq(fake_in(&g.fake, 0xe0, 4), 0x01020304);
    ck_assert(g.fake.lines[3]);
    ck_assert_uint_eq(g.fake.line_changes[4], 0); // never raised: another device's line
    ck_assert_uint_eq(fake_read(&g.fake.mmio, MMIO + 0x8000, 8), 0x55);
    byte_reader_init(&r, w.data, w.length - 1);
    ck_assert_int_lt(g.device->ops->load(g.device, &r, &err), 0);
    byte_writer_free(&w);
    close_fixture(&f);
    close_fixture(&g);
}
END_TEST

START_TEST(taken_ports_leave_nothing)
{
    struct fixture f;
    struct test_devices *again;
    const struct test_devices_config config = {
        .id = "test1", .exit_port = 0x1f4, .mmio_base = MMIO + 0x20000};
    struct error err = {0};
    open_fixture(&f);
    ck_assert_int_eq(
        test_devices_create(&again, &f.fake.bus, &f.fake.ports, &f.fake.mmio, &config, &err),
        -EEXIST);
    fake_out(&f.fake, 0x1f4, 1, 1);
    ck_assert_uint_eq(f.fake.request_count, 0);
    close_fixture(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("test-devices");
    TCase *tests = tcase_create("test-devices");
    tcase_add_test(tests, exit_codes);
    tcase_add_test(tests, latch);
    tcase_add_test(tests, lines);
    tcase_add_test(tests, memory);
    tcase_add_test(tests, state_round_trip);
    tcase_add_test(tests, taken_ports_leave_nothing);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
