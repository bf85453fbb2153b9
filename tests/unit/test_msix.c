// MSI-X: table and pending bits of any width, masks, delivery, state.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/pci.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

enum { VECTORS = 11, ENABLE = 0x8000, MASK_ALL = 0x4000 };

struct fixture {
    struct fake_machine fake;
    struct pci_bus pci;
    struct pci_function function;
    unsigned control; // config offset of the control word
};

static void open_fixture(struct fixture *f)
{
    static const struct pci_identity identity = {.vendor = 0x1af4, .device = 0x1041};
    struct error err = {0};
    memset(f, 0, sizeof(*f));
    fake_machine_open(&f->fake);
    ck_assert_int_eq(pci_bus_init(&f->pci, &f->fake.bus, &f->fake.ports, &f->fake.mmio, 0xe0000000,
                                  0xc0000000, 0xdfffffff, &err),
                     0);
    pci_function_init(&f->function, NULL, "device", &identity);
    ck_assert_int_eq(pci_function_add_msix(&f->function, &f->fake.bus, VECTORS, 0, 0, 0x800), 0);
    ck_assert_int_eq(pci_bus_plug(&f->pci, &f->function, 5), 0);
    f->control = f->function.config[0x34] + 2u;
}

static void close_fixture(struct fixture *f)
{
    pci_bus_unplug(&f->pci, &f->function);
    pci_bus_destroy(&f->pci);
    fake_machine_close(&f->fake);
}

static void set_control(struct fixture *f, unsigned value)
{
    fake_write(&f->fake.mmio, 0xe0000000 + (5 << 15) + f->control, 2, value);
}

// Programs and unmasks (or masks) vector `index`.
static void program(struct fixture *f, unsigned index, uint32_t data, bool masked)
{
    pci_msix_table_write(&f->function, index * 16, 8, 0xfee01000);
    pci_msix_table_write(&f->function, index * 16 + 8, 4, data);
    pci_msix_table_write(&f->function, index * 16 + 12, 4, masked);
}

START_TEST(vectors_are_delivered_only_when_nothing_masks)
{
    struct fixture f;
    open_fixture(&f);
    program(&f, 3, 0x4021, false);
    pci_msix_notify(&f.function, 3); // MSI-X is off: lost
    ck_assert(f.fake.vectors[3].masked);
    ck_assert(!pci_msix_enabled(&f.function));
    set_control(&f, ENABLE | MASK_ALL);
    ck_assert(pci_msix_enabled(&f.function));
    ck_assert(f.fake.vectors[3].masked);
    set_control(&f, ENABLE);
    ck_assert(!f.fake.vectors[3].masked);
    ck_assert_uint_eq(f.fake.vectors[3].data, 0x4021);
    ck_assert_uint_eq(f.fake.vectors[3].address, 0xfee01000);
    ck_assert(!fake_vector_fired(&f.fake, 3)); // the early one is not remembered
    pci_msix_notify(&f.function, 3);
    ck_assert(fake_vector_fired(&f.fake, 3));
    ck_assert(f.fake.vectors[4].masked); // was never unmasked
    // A new message while unmasked reaches the machine; an unchanged mask bit doesn't disturb.
    program(&f, 3, 0x4022, false);
    ck_assert_uint_eq(f.fake.vectors[3].data, 0x4022);
    program(&f, 3, 0x4022, true);
    ck_assert(f.fake.vectors[3].masked);
    unsigned updates = f.fake.vectors[3].updates;
    program(&f, 3, 0x4023, true);
    ck_assert_uint_eq(f.fake.vectors[3].updates, updates);
    pci_msix_notify(&f.function, VECTORS); // no such vector
    pci_msix_notify(&f.function, UINT32_MAX);
    close_fixture(&f);
}
END_TEST

START_TEST(pending_while_masked)
{
    struct fixture f;
    open_fixture(&f);
    set_control(&f, ENABLE);
    for (unsigned i = 0; i < VECTORS; i++)
        program(&f, i, i, true);
    pci_msix_notify(&f.function, 0);
    pci_msix_notify(&f.function, 9);
    pci_msix_notify(&f.function, 9);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 8), 0x201);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 1), 0x01);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 1, 1), 0x02);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 1, 4), 0x02);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 3), 0x201);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, UINT64_MAX, 8) & 0xff, 0);
    program(&f, 9, 9, false);
    ck_assert(fake_vector_fired(&f.fake, 9));
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 8), 0x001);
    // The function mask holds back as well.
    set_control(&f, ENABLE | MASK_ALL);
    pci_msix_notify(&f.function, 9);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 8), 0x201);
    set_control(&f, ENABLE);
    ck_assert(fake_vector_fired(&f.fake, 9));
    // Off forgets.
    set_control(&f, 0);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 8), 0);
    close_fixture(&f);
}
END_TEST

START_TEST(table_of_any_width)
{
    struct fixture f;
    uint8_t table[VECTORS * 16 + 16];
    open_fixture(&f);
    memset(table, 0xff, sizeof(table)); // behind the end reads as ones
    for (unsigned i = 0; i < VECTORS; i++) {
        for (unsigned at = 0; at < 16; at++)
            pci_msix_table_write(&f.function, i * 16 + at, 1, 0x31 + i * 16 + at);
        for (unsigned at = 0; at < 16; at++)
            table[i * 16 + at] = (uint8_t)(0x31 + i * 16 + at);
        table[i * 16] &= 0xfc;
        table[i * 16 + 12] &= 1;
        memset(table + i * 16 + 13, 0, 3);
    }
    for (unsigned at = 0; at < VECTORS * 16; at++) {
        for (unsigned length = 1; length <= 8; length++) {
            uint64_t got = pci_msix_table_read(&f.function, at, length);
            for (unsigned i = 0; i < length; i++)
                ck_assert_uint_eq(got >> (8 * i) & 0xff, table[at + i]);
        }
    }
    // Across two entries, across the end, far outside.
    pci_msix_table_write(&f.function, 12, 8, UINT64_C(0xfee00004ffffffff));
    ck_assert_uint_eq(pci_msix_table_read(&f.function, 12, 8), UINT64_C(0xfee0000400000001));
    pci_msix_table_write(&f.function, VECTORS * 16 - 4, 8, UINT64_MAX);
    pci_msix_table_write(&f.function, VECTORS * 16, 4, 0);
    pci_msix_table_write(&f.function, UINT64_MAX, 8, 0);
    ck_assert_uint_eq(pci_msix_table_read(&f.function, UINT64_MAX - 2, 8), UINT64_MAX);
    close_fixture(&f);
}
END_TEST

START_TEST(refused_message_stays_masked)
{
    struct fixture f;
    open_fixture(&f);
    set_control(&f, ENABLE);
    pci_msix_table_write(&f.function, 0, 8, 0x1000); // no interrupt address
    pci_msix_table_write(&f.function, 12, 4, 0);
    ck_assert(f.fake.vectors[0].masked);
    pci_msix_notify(&f.function, 0);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 1), 1);
    pci_msix_table_write(&f.function, 0, 8, 0xfee00000);
    ck_assert(!f.fake.vectors[0].masked);
    ck_assert(fake_vector_fired(&f.fake, 0));
    pci_msix_table_write(&f.function, 0, 8, 0x1000); // of a vector that was delivered
    ck_assert(f.fake.vectors[0].masked);
    pci_msix_notify(&f.function, 0);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 1), 1);
    close_fixture(&f);
}
END_TEST

START_TEST(vectors_run_out)
{
    struct fixture f;
    struct pci_function other;
    open_fixture(&f);
    f.fake.vectors_limit = VECTORS + 3;
    pci_function_init(&other, NULL, "other", &(struct pci_identity){.vendor = 1});
    ck_assert_int_eq(pci_function_add_msix(&other, &f.fake.bus, 4, 0, 0, 0x800), -ENOSPC);
    ck_assert_ptr_null(other.msix);
    for (unsigned i = VECTORS; i < FAKE_VECTORS; i++)
        ck_assert(!f.fake.vectors[i].used);
    ck_assert_int_eq(pci_function_add_msix(&other, &f.fake.bus, 0, 0, 0, 0x800), -EINVAL);
    ck_assert_int_eq(pci_function_add_msix(&other, &f.fake.bus, 2049, 0, 0, 0x800), -EINVAL);
    ck_assert_int_eq(pci_function_add_msix(&other, &f.fake.bus, 3, 0, 0, 0x800), 0);
    pci_bus_unplug(&f.pci, &other); // never plugged: only frees
    close_fixture(&f);
}
END_TEST

START_TEST(reset_forgets)
{
    struct fixture f;
    open_fixture(&f);
    set_control(&f, ENABLE);
    program(&f, 2, 7, false);
    program(&f, 3, 7, true);
    pci_msix_notify(&f.function, 3);
    pci_function_reset(&f.function);
    ck_assert(!pci_msix_enabled(&f.function));
    ck_assert(f.fake.vectors[2].masked);
    ck_assert_uint_eq(pci_msix_pending_read(&f.function, 0, 8), 0);
    ck_assert_uint_eq(pci_msix_table_read(&f.function, 32, 8), 0);
    ck_assert_uint_eq(pci_msix_table_read(&f.function, 40, 8), UINT64_C(1) << 32);
    close_fixture(&f);
}
END_TEST

START_TEST(state_round_trip)
{
    struct fixture f, g;
    open_fixture(&f);
    open_fixture(&g);
    set_control(&f, ENABLE);
    program(&f, 1, 0x41, false);
    program(&f, 10, 0x4a, true);
    pci_msix_notify(&f.function, 10);
    struct byte_writer w;
    byte_writer_init(&w);
    pci_function_save(&f.function, &w);
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(pci_function_load(&g.function, &r, &err), 0);
    ck_assert(pci_msix_enabled(&g.function));
    ck_assert(!g.fake.vectors[1].masked);
    ck_assert_uint_eq(g.fake.vectors[1].data, 0x41);
    ck_assert(g.fake.vectors[10].masked);
    ck_assert_uint_eq(pci_msix_pending_read(&g.function, 0, 8), 0x400);
    program(&g, 10, 0x4a, false);
    ck_assert(fake_vector_fired(&g.fake, 10));

    for (size_t length = 4200; length < w.length; length++) {
        uint8_t *cut = malloc(length);
        memcpy(cut, w.data, length);
        byte_reader_init(&r, cut, length);
        ck_assert_int_lt(pci_function_load(&g.function, &r, &err), 0);
        free(cut);
    }
    // Another number of vectors.
    struct fixture h;
    open_fixture(&h);
    struct pci_function other;
    pci_function_init(&other, NULL, "other",
                      &(struct pci_identity){.vendor = 0x1af4, .device = 0x1041});
    ck_assert_int_eq(pci_function_add_msix(&other, &h.fake.bus, VECTORS + 1, 0, 0, 0x800), 0);
    ck_assert_int_eq(pci_bus_plug(&h.pci, &other, 0), 0);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(pci_function_load(&other, &r, &err), -EPROTO);
    pci_bus_unplug(&h.pci, &other);
    byte_writer_free(&w);
    close_fixture(&f);
    close_fixture(&g);
    close_fixture(&h);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("msix");
    TCase *tests = tcase_create("msix");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, vectors_are_delivered_only_when_nothing_masks);
    tcase_add_test(tests, pending_while_masked);
    tcase_add_test(tests, table_of_any_width);
    tcase_add_test(tests, refused_message_stays_masked);
    tcase_add_test(tests, vectors_run_out);
    tcase_add_test(tests, reset_forgets);
    tcase_add_test(tests, state_round_trip);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
