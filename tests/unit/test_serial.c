// The serial port: what Linux's probe looks at, interrupts, back-pressure, input, state.
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/serial.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

enum { PORT = 0x3f8, GSI = 4 };

struct fixture {
    struct fake_machine fake;
    struct serial *serial;
    struct device *device;
    uint8_t out[256];
    size_t out_length, room; // what the sink took, will take
    unsigned calls, input_ready;
};

static size_t sink_write(void *opaque, const uint8_t *bytes, size_t length)
{
    struct fixture *f = opaque;
    size_t taken = length < f->room ? length : f->room;
    f->calls++;
    f->room -= taken;
    ck_assert_uint_le(f->out_length + taken, sizeof(f->out));
    memcpy(f->out + f->out_length, bytes, taken);
    f->out_length += taken;
    return taken;
}

static void input_ready(void *opaque)
{
    struct fixture *f = opaque;
    f->input_ready++;
}

static void open_fixture(struct fixture *f)
{
    struct error err = {0};
    memset(f, 0, sizeof(*f));
    f->room = SIZE_MAX;
    fake_machine_open(&f->fake);
    const struct serial_config config = {.id = "serial0",
                                         .port = PORT,
                                         .gsi = GSI,
                                         .write = sink_write,
                                         .input_ready = input_ready,
                                         .opaque = f};
    ck_assert_int_eq(serial_create(&f->serial, &f->fake.bus, &f->fake.ports, &config, &err), 0);
    f->device = serial_device(f->serial);
}

static void close_fixture(struct fixture *f)
{
    f->device->ops->destroy(f->device);
    fake_machine_close(&f->fake);
}

static uint8_t in(struct fixture *f, unsigned reg)
{
    return (uint8_t)fake_in(&f->fake, PORT + reg, 1);
}

static void out(struct fixture *f, unsigned reg, uint8_t value)
{
    fake_out(&f->fake, PORT + reg, 1, value);
}

// The steps by which Linux tells a 16550A from what is none.
START_TEST(probe)
{
    struct fixture f;
    open_fixture(&f);
    out(&f, 1, 0);
    ck_assert_uint_eq(in(&f, 1), 0);
    out(&f, 1, 0x0f);
    ck_assert_uint_eq(in(&f, 1), 0x0f);
    out(&f, 1, 0xff); // no sleep mode, no XScale bit
    ck_assert_uint_eq(in(&f, 1), 0x0f);
    out(&f, 1, 0);
    out(&f, 4, 0x1a); // loopback, OUT2, RTS
    ck_assert_uint_eq(in(&f, 6) & 0xf0, 0x90);
    out(&f, 4, 0);
    ck_assert_uint_eq(in(&f, 6) & 0xf0, 0xb0);
    out(&f, 2, 1);
    ck_assert_uint_eq(in(&f, 2), 0xc1);
    out(&f, 2, 0);
    ck_assert_uint_eq(in(&f, 2), 0x01);
    out(&f, 7, 0x5a);
    ck_assert_uint_eq(in(&f, 7), 0x5a);
    out(&f, 3, 0x83); // divisor
    out(&f, 0, 1);
    out(&f, 1, 2);
    ck_assert_uint_eq(fake_in(&f.fake, PORT, 2), 0x0201);
    out(&f, 3, 0x03);
    ck_assert_uint_eq(in(&f, 1), 0);
    ck_assert_uint_eq(in(&f, 5), 0x60);
    ck_assert_uint_eq(f.out_length, 0);
    close_fixture(&f);
}
END_TEST

START_TEST(output_and_its_interrupt)
{
    struct fixture f;
    open_fixture(&f);
    out(&f, 0, 'a');
    ck_assert(!f.fake.lines[GSI]);
    out(&f, 1, 2);
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 2), 0x02);
    ck_assert(!f.fake.lines[GSI]); // acknowledged
    ck_assert_uint_eq(in(&f, 2), 0x01);
    out(&f, 1, 0);
    out(&f, 1, 2); // enabling raises it again
    ck_assert(f.fake.lines[GSI]);
    out(&f, 0, 'b');
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(f.out_length, 2);
    ck_assert_mem_eq(f.out, "ab", 2);
    close_fixture(&f);
}
END_TEST

START_TEST(back_pressure)
{
    struct fixture f;
    open_fixture(&f);
    out(&f, 2, 1);
    out(&f, 1, 2);
    in(&f, 2);
    f.room = 3;
    for (unsigned i = 0; i < 10; i++)
        out(&f, 0, (uint8_t)('0' + i));
    ck_assert_uint_eq(f.out_length, 3);
    ck_assert_uint_eq(in(&f, 5), 0); // busy
    in(&f, 2);
    ck_assert(!f.fake.lines[GSI]);
    f.room = 5;
    serial_output_ready(f.serial);
    ck_assert_uint_eq(f.out_length, 8);
    ck_assert_uint_eq(in(&f, 5), 0);
    ck_assert(!f.fake.lines[GSI]);
    f.room = SIZE_MAX;
    serial_output_ready(f.serial);
    ck_assert_mem_eq(f.out, "0123456789", 10);
    ck_assert_uint_eq(in(&f, 5), 0x60);
    ck_assert(f.fake.lines[GSI]);
    // Nothing waits: the sink isn't asked.
    unsigned calls = f.calls;
    serial_output_ready(f.serial);
    ck_assert_uint_eq(f.calls, calls);
    // A guest that doesn't look overwrites the last of sixteen; clearing drops what waits.
    f.room = 0;
    for (unsigned i = 0; i < 20; i++)
        out(&f, 0, (uint8_t)('a' + i));
    f.room = SIZE_MAX;
    serial_output_ready(f.serial);
    ck_assert_mem_eq(f.out + 10, "abcdefghijklmnot", 16);
    f.room = 0;
    out(&f, 0, 'x');
    out(&f, 2, 0x05);
    ck_assert_uint_eq(in(&f, 5), 0x60);
    f.room = SIZE_MAX;
    serial_output_ready(f.serial);
    ck_assert_uint_eq(f.out_length, 26);
    close_fixture(&f);
}
END_TEST

START_TEST(input_and_its_interrupts)
{
    struct fixture f;
    uint8_t bytes[64];
    open_fixture(&f);
    for (unsigned i = 0; i < 64; i++)
        bytes[i] = (uint8_t)i;
    // Without FIFOs: one byte.
    ck_assert_uint_eq(serial_input(f.serial, bytes, 2), 1);
    ck_assert_uint_eq(in(&f, 5), 0x61);
    ck_assert_uint_eq(in(&f, 0), 0);
    ck_assert_uint_eq(f.input_ready, 1);
    out(&f, 2, 0x81); // trigger at 8
    out(&f, 1, 1);
    ck_assert_uint_eq(serial_input(f.serial, bytes, 3), 3);
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 2), 0xcc); // time-out
    ck_assert_uint_eq(serial_input(f.serial, bytes + 3, 61), 13);
    ck_assert_uint_eq(in(&f, 2), 0xc4);
    for (unsigned i = 0; i < 15; i++)
        ck_assert_uint_eq(in(&f, 0), i);
    ck_assert_uint_eq(f.input_ready, 1);
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 0), 15);
    ck_assert_uint_eq(f.input_ready, 2);
    ck_assert(!f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 0), 0); // empty
    // Clearing the receiver makes room too.
    ck_assert_uint_eq(serial_input(f.serial, bytes, 20), 16);
    out(&f, 2, 0x03);
    ck_assert_uint_eq(f.input_ready, 3);
    ck_assert_uint_eq(in(&f, 5) & 1, 0);
    close_fixture(&f);
}
END_TEST

START_TEST(loopback)
{
    struct fixture f;
    uint8_t byte = 'z';
    open_fixture(&f);
    out(&f, 2, 1);
    out(&f, 4, 0x10);
    ck_assert_uint_eq(in(&f, 6), 0x0b); // CTS, DSR, DCD went
    ck_assert_uint_eq(in(&f, 6), 0);
    out(&f, 0, 'q');
    ck_assert_uint_eq(f.out_length, 0);
    ck_assert_uint_eq(in(&f, 5), 0x61);
    ck_assert_uint_eq(serial_input(f.serial, &byte, 1), 0); // the wire is cut
    ck_assert_uint_eq(in(&f, 0), 'q');
    for (unsigned i = 0; i < 17; i++)
        out(&f, 0, (uint8_t)i);
    out(&f, 1, 4);
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 2), 0xc6);
    ck_assert_uint_eq(in(&f, 5) & 2, 2); // overrun, once
    ck_assert_uint_eq(in(&f, 5) & 2, 0);
    ck_assert(!f.fake.lines[GSI]);
    out(&f, 1, 8);
    out(&f, 4, 0x14); // OUT1: ring starts, which no delta says
    ck_assert(!f.fake.lines[GSI]);
    out(&f, 4, 0x10); // ends
    ck_assert(f.fake.lines[GSI]);
    ck_assert_uint_eq(in(&f, 2), 0xc0);
    ck_assert_uint_eq(in(&f, 6), 0x04);
    ck_assert(!f.fake.lines[GSI]);
    out(&f, 2, 3); // empties the receiver
    out(&f, 4, 0);
    ck_assert_uint_eq(f.input_ready, 1); // the wire is back for who waits
    ck_assert_uint_eq(serial_input(f.serial, &byte, 1), 1);
    close_fixture(&f);
}
END_TEST

START_TEST(quiesce_holds_still)
{
    struct fixture f;
    uint8_t byte = 'z';
    open_fixture(&f);
    f.room = 0;
    out(&f, 0, 'a');
    f.device->ops->quiesce(f.device);
    f.room = SIZE_MAX;
    serial_output_ready(f.serial);
    ck_assert_uint_eq(f.out_length, 0);
    ck_assert_uint_eq(serial_input(f.serial, &byte, 1), 0);
    f.device->ops->resume(f.device);
    ck_assert_uint_eq(f.out_length, 1);
    ck_assert_uint_eq(f.input_ready, 1);
    ck_assert_uint_eq(serial_input(f.serial, &byte, 1), 1);
    f.device->ops->reset(f.device);
    ck_assert_uint_eq(in(&f, 5), 0x60);
    close_fixture(&f);
}
END_TEST

START_TEST(state_round_trip)
{
    struct fixture f, g;
    open_fixture(&f);
    open_fixture(&g);
    f.room = 0;
    out(&f, 2, 0x41);
    out(&f, 1, 0x03);
    out(&f, 4, 0x0b);
    out(&f, 3, 0x13);
    out(&f, 0, 'u');
    out(&f, 0, 'v');
    ck_assert_uint_eq(serial_input(f.serial, (const uint8_t *)"typed", 5), 5);
    struct byte_writer w;
    byte_writer_init(&w);
    f.device->ops->quiesce(f.device);
    f.device->ops->save(f.device, &w);
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    g.device->ops->quiesce(g.device);
    ck_assert_int_eq(g.device->ops->load(g.device, &r, &err), 0);
    ck_assert(g.fake.lines[GSI]);
    g.device->ops->resume(g.device);
    ck_assert_mem_eq(g.out, "uv", 2);
    ck_assert_uint_eq(in(&g, 1), 3);
    ck_assert_uint_eq(in(&g, 3), 0x13);
    ck_assert_uint_eq(in(&g, 4), 0x0b);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_uint_eq(in(&g, 0), "typed"[i]);

    for (size_t length = 0; length < w.length; length++) {
        byte_reader_init(&r, w.data, length);
        ck_assert_int_lt(g.device->ops->load(g.device, &r, &err), 0);
    }
    // Every byte of the state turned over: refused, or a port that still works.
    for (size_t i = 0; i < w.length; i++) {
        w.data[i] ^= 0xff;
        byte_reader_init(&r, w.data, w.length);
        g.device->ops->load(g.device, &r, &err);
        w.data[i] ^= 0xff;
        for (unsigned reg = 0; reg < 8; reg++)
            in(&g, reg);
        g.out_length = 0;
        out(&g, 0, 'x');
        serial_output_ready(g.serial);
        serial_input(g.serial, w.data, 40);
    }
    byte_writer_free(&w);
    close_fixture(&f);
    close_fixture(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("serial");
    TCase *tests = tcase_create("serial");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, probe);
    tcase_add_test(tests, output_and_its_interrupt);
    tcase_add_test(tests, back_pressure);
    tcase_add_test(tests, input_and_its_interrupts);
    tcase_add_test(tests, loopback);
    tcase_add_test(tests, quiesce_holds_still);
    tcase_add_test(tests, state_round_trip);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
