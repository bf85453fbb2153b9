// The bus: look-ups, splitting, overlaps, changes under traffic.
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

// Remembers what reached it.
struct probe {
    unsigned reads, writes;
    uint64_t offset, value;
    unsigned length;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned length)
{
    struct probe *p = opaque;
    p->reads++;
    p->offset = offset;
    p->length = length;
    return 0x1122334455667788 + offset;
}

static void probe_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct probe *p = opaque;
    p->writes++;
    p->offset = offset;
    p->length = length;
    p->value = value;
}

static const struct bus_handler probe_handler = {.read = probe_read, .write = probe_write};

static int add(struct bus *bus, uint64_t start, uint64_t size, struct probe *probe)
{
    const struct bus_range range = {
        .start = start, .size = size, .handler = &probe_handler, .opaque = probe, .name = "probe"};
    return bus_add(bus, &range);
}

START_TEST(accesses_reach_their_range)
{
    struct bus bus;
    struct probe a = {0}, b = {0};
    ck_assert_int_eq(bus_init(&bus), 0);
    ck_assert_int_eq(add(&bus, 0x100, 0x10, &a), 0);
    ck_assert_int_eq(add(&bus, 0x110, 0x10, &b), 0);
    ck_assert_uint_eq(fake_read(&bus, 0x104, 4), 0x5566778c);
    ck_assert_uint_eq(a.offset, 4);
    ck_assert_uint_eq(a.length, 4);
    ck_assert_uint_eq(fake_read(&bus, 0x110, 8), 0x1122334455667788);
    fake_write(&bus, 0x11e, 2, 0xbeef);
    ck_assert_uint_eq(b.value, 0xbeef);
    ck_assert_uint_eq(b.offset, 0xe);
    // Nobody's addresses.
    ck_assert_uint_eq(fake_read(&bus, 0xff, 1), 0xff);
    ck_assert_uint_eq(fake_read(&bus, 0x120, 8), UINT64_MAX);
    fake_write(&bus, 0x200, 4, 1);
    ck_assert_uint_eq(b.writes, 1);
    bus_destroy(&bus);
}
END_TEST

START_TEST(accesses_across_ends_are_split)
{
    struct bus bus;
    struct probe a = {0}, b = {0};
    ck_assert_int_eq(bus_init(&bus), 0);
    ck_assert_int_eq(add(&bus, 0x100, 6, &a), 0);
    ck_assert_int_eq(add(&bus, 0x106, 1, &b), 0);
    // Bytes 4 and 5 of a, byte 0 of b, nobody.
    ck_assert_uint_eq(fake_read(&bus, 0x104, 4), 0xff888d8c);
    ck_assert_uint_eq(a.reads, 2);
    ck_assert_uint_eq(b.reads, 1);
    fake_write(&bus, 0xfe, 4, 0x44332211);
    ck_assert_uint_eq(a.writes, 2);
    ck_assert_uint_eq(a.value, 0x44);
    // Odd lengths, and the end of the address space.
    ck_assert_uint_eq(fake_read(&bus, 0x100, 3), 0x8a8988);
    struct probe last = {0};
    ck_assert_int_eq(add(&bus, UINT64_MAX, 1, &last), 0);
    fake_write(&bus, UINT64_MAX, 8, 0x99);
    ck_assert_uint_eq(last.value, 0x99);
    ck_assert_uint_eq(fake_read(&bus, UINT64_MAX - 1, 4) & 0xff00, 0x8800);
    bus_destroy(&bus);
}
END_TEST

START_TEST(overlaps_are_refused)
{
    struct bus bus;
    struct probe p = {0};
    ck_assert_int_eq(bus_init(&bus), 0);
    ck_assert_int_eq(add(&bus, 0x100, 0x10, &p), 0);
    static const struct {
        uint64_t start, size;
        int result;
    } cases[] = {
        {0x100, 1, -EEXIST},
        {0x10f, 1, -EEXIST},
        {0xff, 2, -EEXIST},
        {0x80, 0x100, -EEXIST},
        {0x100, 0x10, -EEXIST},
        {0, 0, -EINVAL},
        {UINT64_MAX, 2, -EINVAL},
        {1, UINT64_MAX, -EEXIST},
        {0xff, 1, 0},
        {0x110, 1, 0},
        {0x111, UINT64_MAX - 0x110, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(add(&bus, cases[i].start, cases[i].size, &p) == cases[i].result, "case %zu",
                      i);
    bus_remove(&bus, 0x100);
    bus_remove(&bus, 0x105); // no range starts there
    ck_assert_uint_eq(fake_read(&bus, 0x105, 1), 0xff);
    ck_assert_int_eq(add(&bus, 0x108, 8, &p), 0);
    bus_reclaim(&bus);
    bus_destroy(&bus);
}
END_TEST

// One thread adds and removes a range for ever; look-ups of others must go on, find the lasting
// range always, and the replaced tables must not pile up.
struct traffic {
    struct bus bus;
    struct probe lasting, passing;
    atomic_bool stop;
    atomic_ulong lookups;
};

static uint64_t constant_read(void *opaque, uint64_t offset, unsigned length)
{
    return 0x42;
}

static const struct bus_handler constant = {.read = constant_read};

static void *look_up(void *opaque)
{
    struct traffic *t = opaque;
    while (!atomic_load(&t->stop)) {
        if (fake_read(&t->bus, 0x1000, 1) != 0x42)
            return "the lasting range was not found";
        uint64_t passing = fake_read(&t->bus, 0x2000, 1);
        if (passing != 0x42 && passing != 0xff)
            return "the passing range gave something else";
        atomic_fetch_add(&t->lookups, 1);
    }
    return NULL;
}

START_TEST(changes_under_traffic)
{
    struct traffic *t = calloc(1, sizeof(*t));
    const struct bus_range lasting = {.start = 0x1000, .size = 1, .handler = &constant};
    const struct bus_range passing = {.start = 0x2000, .size = 1, .handler = &constant};
    pthread_t threads[2];
    ck_assert_int_eq(bus_init(&t->bus), 0);
    ck_assert_int_eq(bus_add(&t->bus, &lasting), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, look_up, t), 0);
    unsigned long rounds = 0;
    while (rounds++ < 20000 || atomic_load(&t->lookups) < 1000) {
        ck_assert_int_eq(bus_add(&t->bus, &passing), 0);
        bus_remove(&t->bus, 0x2000);
    }
    atomic_store(&t->stop, true);
    for (int i = 0; i < 2; i++) {
        void *complaint;
        pthread_join(threads[i], &complaint);
        ck_assert_msg(!complaint, "%s", (char *)complaint);
    }
    // Without look-ups a change frees everything that was replaced.
    ck_assert_int_eq(bus_add(&t->bus, &passing), 0);
    ck_assert_ptr_null(t->bus.retired);
    bus_destroy(&t->bus);
    free(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bus");
    TCase *tests = tcase_create("bus");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, accesses_reach_their_range);
    tcase_add_test(tests, accesses_across_ends_are_split);
    tcase_add_test(tests, overlaps_are_refused);
    tcase_add_test(tests, changes_under_traffic);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
