// The clock: time in every format, setting it, update and alarm interrupts, memory size, state.
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "devices/rtc.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

enum { PORT = 0x70, GSI = 8 };

struct fixture {
    struct fake_machine fake;
    struct rtc *rtc;
    struct device *device;
    struct io_thread *thread;
};

static void open_fixture(struct fixture *f)
{
    struct error err = {0};
    memset(f, 0, sizeof(*f));
    fake_machine_open(&f->fake);
    ck_assert_int_eq(io_thread_start(&f->thread, "test"), 0);
    const struct rtc_config config = {.id = "rtc0",
                                      .port = PORT,
                                      .gsi = GSI,
                                      .low_ram = UINT64_C(0x20000000),
                                      .high_ram = UINT64_C(0x40000000),
                                      .thread = f->thread};
    ck_assert_int_eq(rtc_create(&f->rtc, &f->fake.bus, &f->fake.ports, &config, &err), 0);
    f->device = rtc_device(f->rtc);
}

static void close_fixture(struct fixture *f)
{
    f->device->ops->destroy(f->device);
    io_thread_stop(f->thread);
    fake_machine_close(&f->fake);
}

static uint8_t get(struct fixture *f, uint8_t reg)
{
    fake_out(&f->fake, PORT, 1, reg | 0x80); // the NMI bit is ignored
    return (uint8_t)fake_in(&f->fake, PORT + 1, 1);
}

static void set(struct fixture *f, uint8_t reg, uint8_t value)
{
    fake_out(&f->fake, PORT, 1, reg);
    fake_out(&f->fake, PORT + 1, 1, value);
}

static int from_bcd(uint8_t value)
{
    ck_assert((value & 15) < 10 && value >> 4 < 10);
    return (value >> 4) * 10 + (value & 15);
}

// The clock's time as BCD registers say it, read until two readings agree.
static time_t read_clock(struct fixture *f)
{
    struct tm tm, again;
    memset(&again, 0xff, sizeof(again));
    do {
        memset(&tm, 0, sizeof(tm));
        tm.tm_sec = from_bcd(get(f, 0));
        tm.tm_min = from_bcd(get(f, 2));
        tm.tm_hour = from_bcd(get(f, 4));
        tm.tm_mday = from_bcd(get(f, 7));
        tm.tm_mon = from_bcd(get(f, 8)) - 1;
        tm.tm_year = from_bcd(get(f, 9)) + 100 * from_bcd(get(f, 0x32)) - 1900;
        struct tm swap = tm;
        tm = again;
        again = swap;
    } while (memcmp(&tm, &again, sizeof(tm)) != 0);
    return timegm(&tm);
}

static void set_clock(struct fixture *f, unsigned b, const uint8_t *century_to_second)
{
    static const uint8_t registers[] = {0x32, 9, 8, 7, 4, 2, 0};
    set(f, 0x0b, (uint8_t)(b | 0x80));
    for (unsigned i = 0; i < 7; i++)
        set(f, registers[i], century_to_second[i]);
    set(f, 0x0b, (uint8_t)b);
}

static void ck_near(time_t a, time_t b)
{
    ck_assert_msg(a - b <= 30 && b - a <= 30, "%lld is not near %lld", (long long)a, (long long)b);
}

START_TEST(time_of_day)
{
    struct fixture f;
    open_fixture(&f);
    ck_assert_uint_eq(get(&f, 0x0b), 0x02);
    ck_assert_uint_eq(get(&f, 0x0d), 0x80);
    ck_assert_uint_eq(get(&f, 0x0a) & 0x7f, 0x26);
    ck_near(read_clock(&f), time(NULL));
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    int weekday = get(&f, 6);
    ck_assert(weekday == tm.tm_wday + 1 || weekday == (tm.tm_wday + 1) % 7 + 1);
    ck_assert_uint_eq(fake_in(&f.fake, PORT, 1), 0xff); // the index can't be read
    set(&f, 0x60, 0x12);
    ck_assert_uint_eq(fake_in(&f.fake, PORT, 2), 0x12ff);
    ck_assert_uint_eq(fake_in(&f.fake, PORT, 4), 0xffff12ff);
    close_fixture(&f);
}
END_TEST

START_TEST(formats)
{
    struct fixture f;
    open_fixture(&f);
    // 1999-12-31 23:59:40, BCD, 24 hours.
    set_clock(&f, 0x02, (const uint8_t[]){0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x40});
    ck_near(read_clock(&f), 946684780);
    // 2038-01-20 12:30:00 in binary, then read in 12 hours.
    set_clock(&f, 0x06, (const uint8_t[]){20, 38, 1, 20, 12, 30, 0});
    ck_assert_uint_eq(get(&f, 9), 38);
    ck_assert_uint_eq(get(&f, 4), 12);
    set(&f, 0x0b, 0x04);
    ck_assert_uint_eq(get(&f, 4), 0x80 | 12);
    // 12-hour input: 12 am is midnight, 12 pm noon.
    static const struct {
        uint8_t hours;
        int hour;
    } cases[] = {{0x12, 0}, {0x01, 1}, {0x11, 11}, {0x92, 12}, {0x81, 13}, {0x91, 23}};
    for (unsigned i = 0; i < 6; i++) {
        set_clock(&f, 0x00, (const uint8_t[]){0x20, 0x30, 0x06, 0x15, cases[i].hours, 0x10, 0x00});
        ck_assert_uint_eq(get(&f, 4), cases[i].hours);
        set(&f, 0x0b, 0x06);
        ck_assert_int_eq(get(&f, 4), cases[i].hour);
    }
    // One field of the running clock.
    set_clock(&f, 0x02, (const uint8_t[]){0x20, 0x26, 0x03, 0x04, 0x05, 0x06, 0x07});
    set(&f, 9, 0x27);
    struct tm tm = {.tm_year = 127, .tm_mon = 2, .tm_mday = 4, .tm_hour = 5, .tm_min = 6};
    ck_near(read_clock(&f), timegm(&tm));
    // Nonsense does no harm.
    set_clock(&f, 0x02, (const uint8_t[]){0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    set_clock(&f, 0x06, (const uint8_t[]){0, 0, 0, 0, 0, 0, 0});
    for (unsigned i = 0; i < 256; i++)
        get(&f, (uint8_t)i);
    close_fixture(&f);
}
END_TEST

START_TEST(set_holds_the_clock)
{
    struct fixture f;
    open_fixture(&f);
    set(&f, 0x0b, 0x82);
    set(&f, 0, 0x59);
    set(&f, 2, 0x59);
    uint64_t start = clock_monotonic_ns();
    while (clock_monotonic_ns() - start < 1100 * NSEC_PER_MSEC)
        ck_assert_uint_eq(get(&f, 0), 0x59);
    ck_assert_uint_eq(get(&f, 0x0a) & 0x80, 0);
    close_fixture(&f);
}
END_TEST

// Waits for the line, generously.
static bool line_rises(struct fixture *f)
{
    volatile bool *line = &f->fake.lines[GSI];
    for (unsigned i = 0; i < 3000 && !*line; i++)
        poll(NULL, 0, 10);
    return *line;
}

START_TEST(update_and_alarm_interrupts)
{
    struct fixture f;
    open_fixture(&f);
    set(&f, 0x0b, 0x12); // update
    ck_assert(line_rises(&f));
    ck_assert_uint_eq(get(&f, 0x0c) & 0x90, 0x90);
    ck_assert(!f.fake.lines[GSI]);
    set(&f, 0x0b, 0x02);
    // 23:59:58; the alarm at midnight.
    set_clock(&f, 0x02, (const uint8_t[]){0x20, 0x26, 0x03, 0x04, 0x23, 0x59, 0x58});
    set(&f, 1, 0x00);
    set(&f, 3, 0x00);
    set(&f, 5, 0x00);
    get(&f, 0x0c);
    set(&f, 0x0b, 0x22);
    ck_assert(line_rises(&f));
    ck_assert_uint_eq(get(&f, 0x0c) & 0xa0, 0xa0);
    ck_assert_uint_eq(get(&f, 4), 0);
    ck_assert_uint_eq(get(&f, 2), 0);
    // "Any" in every field: each second.
    set(&f, 1, 0xff);
    set(&f, 3, 0xc0);
    set(&f, 5, 0xff);
    ck_assert(line_rises(&f));
    close_fixture(&f);
}
END_TEST

START_TEST(periodic_interrupt)
{
    struct fixture f;
    open_fixture(&f);
    set(&f, 0x0a, 0x2f); // 2 Hz
    set(&f, 0x0b, 0x42);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(line_rises(&f));
        ck_assert_uint_eq(get(&f, 0x0c) & 0xc0, 0xc0);
        ck_assert(!f.fake.lines[GSI]);
    }
    set(&f, 0x0a, 0x26); // 1024 Hz, quiesced: no more of them
    f.device->ops->quiesce(f.device);
    get(&f, 0x0c);
    unsigned changes = f.fake.line_changes[GSI];
    poll(NULL, 0, 50);
    ck_assert_uint_eq(f.fake.line_changes[GSI], changes);
    f.device->ops->resume(f.device);
    ck_assert(line_rises(&f));
    f.device->ops->reset(f.device);
    ck_assert(!f.fake.lines[GSI]);
    close_fixture(&f);
}
END_TEST

START_TEST(memory_and_sizes)
{
    struct fixture f;
    open_fixture(&f);
    ck_assert_uint_eq(get(&f, 0x15) | get(&f, 0x16) << 8, 640);
    ck_assert_uint_eq(get(&f, 0x30) | get(&f, 0x31) << 8, 0xffff); // more than 64 MiB
    ck_assert_uint_eq(get(&f, 0x34) | get(&f, 0x35) << 8, (0x20000000 - 0x1000000) >> 16);
    ck_assert_uint_eq(get(&f, 0x5b) | get(&f, 0x5c) << 8 | get(&f, 0x5d) << 16, 0x4000);
    set(&f, 0x70, 0x12);
    set(&f, 0x0d, 0x00);
    set(&f, 0x0f, 0x0a);
    fake_out(&f.fake, PORT, 2, 0x3440); // index and data in one word
    ck_assert_uint_eq(get(&f, 0x40), 0x34);
    ck_assert_uint_eq(get(&f, 0x70), 0x12);
    ck_assert_uint_eq(get(&f, 0x0d), 0x80);
    f.device->ops->reset(f.device);
    ck_assert_uint_eq(get(&f, 0x70), 0x12);
    ck_assert_uint_eq(get(&f, 0x0f), 0);
    close_fixture(&f);
}
END_TEST

START_TEST(state_round_trip)
{
    struct fixture f, g;
    open_fixture(&f);
    open_fixture(&g);
    set_clock(&f, 0x12, (const uint8_t[]){0x20, 0x40, 0x03, 0x04, 0x05, 0x06, 0x07});
    set(&f, 0x50, 0x99);
    ck_assert(line_rises(&f));
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
    ck_assert_uint_eq(get(&g, 0x50), 0x99);
    ck_near(read_clock(&g), read_clock(&f));
    for (size_t length = 0; length < w.length; length++) {
        byte_reader_init(&r, w.data, length);
        ck_assert_int_lt(g.device->ops->load(g.device, &r, &err), 0);
    }
    // Every byte turned over: refused, or a clock that still answers.
    for (size_t i = 0; i < w.length; i++) {
        w.data[i] ^= 0xff;
        byte_reader_init(&r, w.data, w.length);
        g.device->ops->load(g.device, &r, &err);
        w.data[i] ^= 0xff;
        for (unsigned reg = 0; reg < 128; reg++)
            get(&g, (uint8_t)reg);
    }
    // The furthest time that a guest can set may be loaded as well.
    set_clock(&f, 0x06, (const uint8_t[]){255, 255, 255, 255, 255, 255, 255});
    byte_writer_reset(&w);
    f.device->ops->save(f.device, &w);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(g.device->ops->load(g.device, &r, &err), 0);
    byte_writer_free(&w);
    close_fixture(&f);
    close_fixture(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rtc");
    TCase *tests = tcase_create("rtc");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, time_of_day);
    tcase_add_test(tests, formats);
    tcase_add_test(tests, set_holds_the_clock);
    tcase_add_test(tests, update_and_alarm_interrupts);
    tcase_add_test(tests, periodic_interrupt);
    tcase_add_test(tests, memory_and_sizes);
    tcase_add_test(tests, state_round_trip);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
