// PCI: config space by ports and ECAM, BAR sizing and moves, reset, MSI-X, state.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/pci.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

#define ECAM         UINT64_C(0xe0000000)
#define WINDOW_START UINT32_C(0xc0000000)
#define WINDOW_END   UINT32_C(0xdfffffff)

enum { VECTORS = 11, TABLE = 0x800, PENDING = 0xc00, BAR_SIZE = 0x1000 };

// A function with a 4 KiB BAR (MSI-X and a scratch register) and a 64 KiB one.
struct device_under_test {
    struct pci_function function;
    uint64_t scratch;
    unsigned mapped, unmapped;
    uint64_t last_address;
    unsigned last_offset, last_length; // of a config write
};

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned length)
{
    struct device_under_test *d = opaque;
    if (offset >= PENDING)
        return pci_msix_pending_read(&d->function, offset - PENDING, length);
    if (offset >= TABLE)
        return pci_msix_table_read(&d->function, offset - TABLE, length);
    return d->scratch;
}

static void bar_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct device_under_test *d = opaque;
    if (offset >= TABLE && offset < PENDING)
        pci_msix_table_write(&d->function, offset - TABLE, length, value);
    else
        d->scratch = value;
}

static const struct bus_handler bar_handler = {.read = bar_read, .write = bar_write};

static void bar_mapped(struct pci_function *function, unsigned index, uint64_t address, bool mapped)
{
    struct device_under_test *d = (struct device_under_test *)function;
    if (index == 0) {
        d->mapped += mapped;
        d->unmapped += !mapped;
        d->last_address = address;
    }
}

static void config_written(struct pci_function *function, unsigned offset, unsigned length)
{
    struct device_under_test *d = (struct device_under_test *)function;
    ck_assert(length == 1 || length == 2 || length == 4);
    ck_assert_uint_eq(offset % length, 0);
    ck_assert_uint_le(offset + length, PCI_CONFIG_SIZE);
    d->last_offset = offset;
    d->last_length = length;
}

static const struct pci_function_ops ops = {.bar_mapped = bar_mapped,
                                            .config_written = config_written};

struct fixture {
    struct fake_machine fake;
    struct pci_bus pci;
    struct device_under_test a, b;
};

static void make_function(struct fixture *f, struct device_under_test *d, const char *name)
{
    static const struct pci_identity identity = {.vendor = 0x1af4,
                                                 .device = 0x1042,
                                                 .subsystem_vendor = 0x1af4,
                                                 .subsystem = 0x1100,
                                                 .revision = 1,
                                                 .class_code = 0x018000};
    pci_function_init(&d->function, &ops, name, &identity);
    pci_function_add_bar(&d->function, 0, BAR_SIZE, &bar_handler, d);
    pci_function_add_bar(&d->function, 2, 0x10000, &bar_handler, d);
    ck_assert_uint_eq(pci_function_add_capability(&d->function, 9, 16), 0x40);
    ck_assert_int_eq(pci_function_add_msix(&d->function, &f->fake.bus, VECTORS, 0, TABLE, PENDING),
                     0);
    ck_assert_int_eq(pci_bus_plug(&f->pci, &d->function, 0), 0);
}

static void open_fixture(struct fixture *f)
{
    struct error err = {0};
    memset(f, 0, sizeof(*f));
    fake_machine_open(&f->fake);
    ck_assert_int_eq(pci_bus_init(&f->pci, &f->fake.bus, &f->fake.ports, &f->fake.mmio, ECAM,
                                  WINDOW_START, WINDOW_END, &err),
                     0);
    make_function(f, &f->a, "a");
    make_function(f, &f->b, "b");
    ck_assert_int_eq(pci_bus_assign(&f->pci, &err), 0);
}

static void close_fixture(struct fixture *f)
{
    pci_bus_unplug(&f->pci, &f->a.function);
    pci_bus_unplug(&f->pci, &f->b.function);
    pci_bus_destroy(&f->pci);
    ck_assert_uint_eq(f->a.mapped, f->a.unmapped);
    fake_machine_close(&f->fake);
}

static uint64_t ecam(unsigned slot, unsigned reg)
{
    return ECAM + (slot << 15) + reg;
}

static uint64_t config(struct fixture *f, unsigned slot, unsigned reg, unsigned length)
{
    return fake_read(&f->fake.mmio, ecam(slot, reg), length);
}

static void set_config(struct fixture *f, unsigned slot, unsigned reg, unsigned length,
                       uint64_t value)
{
    fake_write(&f->fake.mmio, ecam(slot, reg), length, value);
}

static void select_port(struct fixture *f, unsigned slot, unsigned reg)
{
    fake_out(&f->fake, 0xcf8, 4, 0x80000000 | slot << 11 | reg);
}

START_TEST(config_by_ports_and_ecam)
{
    struct fixture f;
    open_fixture(&f);
    for (unsigned slot = 0; slot < 3; slot++) {
        for (unsigned reg = 0; reg < 256; reg += 4) {
            select_port(&f, slot, reg);
            ck_assert_uint_eq(fake_in(&f.fake, 0xcfc, 4), config(&f, slot, reg, 4));
            for (unsigned i = 0; i < 4; i++)
                ck_assert_uint_eq(fake_in(&f.fake, 0xcfc + i, 1), config(&f, slot, reg + i, 1));
            ck_assert_uint_eq(fake_in(&f.fake, 0xcfe, 2), config(&f, slot, reg + 2, 2));
        }
    }
    ck_assert_uint_eq(config(&f, 1, 0, 4), 0x10421af4);
    ck_assert_uint_eq(config(&f, 1, 8, 4), 0x01800001);
    ck_assert_uint_eq(config(&f, 1, 0x2c, 4), 0x11001af4);
    ck_assert_uint_eq(config(&f, 0, 8, 4) >> 8, 0x060000);
    // Nobody: other slots, other functions, other buses, enable bit off.
    ck_assert_uint_eq(config(&f, 3, 0, 4), 0xffffffff);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, ecam(1, 0) + 0x1000, 4), 0xffffffff);
    fake_out(&f.fake, 0xcf8, 4, 0x80010000 | 1 << 11);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcfc, 4), 0xffffffff);
    fake_out(&f.fake, 0xcf8, 4, 1 << 11);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcfc, 4), 0xffffffff);
    close_fixture(&f);
}
END_TEST

START_TEST(config_of_odd_widths)
{
    struct fixture f;
    open_fixture(&f);
    uint8_t bytes[PCI_CONFIG_SIZE];
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        bytes[i] = (uint8_t)config(&f, 1, i, 1);
    for (unsigned i = 0; i < 0x120; i++) {
        for (unsigned length = 1; length <= 8; length++) {
            uint8_t got[8];
            bus_read(&f.fake.mmio, ecam(1, i), got, length);
            ck_assert_mem_eq(got, bytes + i, length);
        }
    }
    // Across the end of a function's space, and of the ECAM.
    ck_assert_uint_eq(fake_read(&f.fake.mmio, ecam(0, 0xffe) + 7 * 0x1000, 4), 0x1af4ffff);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, ECAM + PCI_ECAM_SIZE - 2, 8), UINT64_MAX);
    fake_write(&f.fake.mmio, ECAM + PCI_ECAM_SIZE - 2, 8, 0);
    set_config(&f, 1, 0xffd, 8, UINT64_MAX);
    // Unaligned writes reach the owner as aligned pieces (config_written checks).
    set_config(&f, 1, 0x3b, 4, 0x5a5a5a5a);
    ck_assert_uint_eq(config(&f, 1, 0x3c, 1), 0x5a);
    ck_assert_uint_eq(config(&f, 1, 0x3d, 1), 0);
    close_fixture(&f);
}
END_TEST

START_TEST(reset_control_is_a_byte_of_its_own)
{
    struct fixture f;
    open_fixture(&f);
    fake_out(&f.fake, 0xcf8, 4, 0x80000604); // has 0x06 at 0xcf9
    ck_assert_uint_eq(f.fake.request_count, 0);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcf8, 4), 0x80000604);
    fake_out(&f.fake, 0xcf8, 2, 0x0600);
    fake_out(&f.fake, 0xcf8, 1, 0x06);
    fake_out(&f.fake, 0xcfa, 2, 0x06);
    fake_out(&f.fake, 0xcf9, 2, 0x06);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcf8, 4), 0x80000604);
    ck_assert_uint_eq(f.fake.request_count, 0);
    fake_out(&f.fake, 0xcf9, 1, 0x02);
    ck_assert_uint_eq(f.fake.request_count, 0);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcf9, 1), 0x02);
    fake_out(&f.fake, 0xcf9, 1, 0x06);
    ck_assert_uint_eq(f.fake.request_count, 1);
    ck_assert_int_eq(f.fake.last_request, MACHINE_REQUEST_RESET);
    fake_out(&f.fake, 0xcf9, 1, 0x0e);
    ck_assert_uint_eq(f.fake.request_count, 2);
    close_fixture(&f);
}
END_TEST

START_TEST(bars_are_assigned_sized_and_moved)
{
    struct fixture f;
    open_fixture(&f);
    uint32_t a0 = (uint32_t)config(&f, 1, 0x10, 4), a2 = (uint32_t)config(&f, 1, 0x18, 4);
    uint32_t b0 = (uint32_t)config(&f, 2, 0x10, 4), b2 = (uint32_t)config(&f, 2, 0x18, 4);
    const uint32_t all[] = {a0, a2, b0, b2};
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(all[i] >= WINDOW_START && all[i] <= WINDOW_END);
        ck_assert_uint_eq(all[i] % (i % 2 ? 0x10000 : BAR_SIZE), 0);
        for (unsigned j = 0; j < i; j++) {
            uint32_t size_i = i % 2 ? 0x10000 : BAR_SIZE, size_j = j % 2 ? 0x10000 : BAR_SIZE;
            ck_assert(all[i] >= all[j] + size_j || all[j] >= all[i] + size_i);
        }
    }
    ck_assert_uint_eq(config(&f, 1, 4, 2) & 2, 2);
    ck_assert_uint_eq(f.a.last_address, a0);
    fake_write(&f.fake.mmio, a0 + 8, 4, 0x1234);
    ck_assert_uint_eq(f.a.scratch, 0x1234);

    // Sizing while decoding: the range goes and comes back; registers without a BAR stay 0.
    set_config(&f, 1, 0x10, 4, 0xffffffff);
    ck_assert_uint_eq(config(&f, 1, 0x10, 4), 0xfffff000);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 4), 0xffffffff);
    set_config(&f, 1, 0x14, 4, 0xffffffff);
    ck_assert_uint_eq(config(&f, 1, 0x14, 4), 0);
    set_config(&f, 1, 0x10, 4, a0);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 4), 0x1234);
    ck_assert_uint_eq(f.a.mapped, 2);

    // A move, byte by byte, ends where it should.
    uint32_t to = 0xd1230000;
    for (unsigned i = 0; i < 4; i++)
        set_config(&f, 1, 0x10 + i, 1, to >> (8 * i));
    ck_assert_uint_eq(f.a.last_address, to);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, to, 4), 0x1234);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 4), 0xffffffff);

    // Decoding off and on.
    set_config(&f, 1, 4, 2, 0);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, to, 4), 0xffffffff);
    set_config(&f, 1, 4, 2, 0xffff);
    ck_assert_uint_eq(config(&f, 1, 4, 2), 0x0546);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, to, 4), 0x1234);

    // Outside of the window nothing is decoded: RAM, the ECAM, the IOAPIC are there.
    static const uint32_t outside[] = {0,          0x100000,   0xbffff000, 0xe0000000,
                                       0xfec00000, 0xfffff000, 0xbfffffff};
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        set_config(&f, 1, 0x10, 4, outside[i]);
        ck_assert_uint_eq(f.a.mapped, f.a.unmapped);
    }
    close_fixture(&f);
}
END_TEST

START_TEST(overlapping_bars_wait_and_swap)
{
    struct fixture f;
    open_fixture(&f);
    uint32_t a0 = (uint32_t)config(&f, 1, 0x10, 4), b0 = (uint32_t)config(&f, 2, 0x10, 4);
    f.a.scratch = 0xa;
    f.b.scratch = 0xb;
    set_config(&f, 1, 0x10, 4, b0); // b is still there
    ck_assert_uint_eq(fake_read(&f.fake.mmio, b0, 1), 0xb);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 1), 0xff);
    set_config(&f, 2, 0x10, 4, a0); // now a gets its place
    ck_assert_uint_eq(fake_read(&f.fake.mmio, b0, 1), 0xa);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 1), 0xb);
    ck_assert_uint_eq(f.a.last_address, b0);
    // Unplugging leaves the place to who waits for it.
    set_config(&f, 2, 0x10, 4, b0);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, b0, 1), 0xa);
    pci_bus_unplug(&f.pci, &f.a.function);
    ck_assert_uint_eq(fake_read(&f.fake.mmio, b0, 1), 0xb);
    close_fixture(&f);
}
END_TEST

START_TEST(slots_and_window_run_out)
{
    struct fixture f;
    open_fixture(&f);
    struct pci_function *functions = calloc(PCI_SLOTS, sizeof(*functions));
    static const struct pci_identity identity = {.vendor = 1, .device = 2};
    int rc = 0;
    unsigned count = 0;
    for (; count < PCI_SLOTS; count++) {
        pci_function_init(&functions[count], NULL, "filler", &identity);
        pci_function_add_bar(&functions[count], 0, 0x08000000, &bar_handler, &f.a);
        rc = pci_bus_plug(&f.pci, &functions[count], 0);
        if (rc < 0)
            break;
    }
    ck_assert_int_eq(rc, -ENOSPC);
    ck_assert_uint_eq(count, PCI_SLOTS - 3);
    ck_assert_int_eq(pci_bus_plug(&f.pci, &functions[count], 1), -EBUSY);
    struct error err = {0};
    ck_assert_int_eq(pci_bus_assign(&f.pci, &err), -ENOSPC); // 4 fit into 512 MiB, less one
    ck_assert_ptr_nonnull(strstr(err.message, "filler"));
    for (unsigned i = 0; i < count; i++)
        pci_bus_unplug(&f.pci, &functions[i]);
    free(functions);
    close_fixture(&f);
}
END_TEST

START_TEST(capabilities_are_a_list)
{
    struct fixture f;
    open_fixture(&f);
    ck_assert_uint_eq(config(&f, 1, 6, 2) & 0x10, 0x10);
    ck_assert_uint_eq(config(&f, 0, 6, 2) & 0x10, 0);
    unsigned first = (unsigned)config(&f, 1, 0x34, 1);
    ck_assert_uint_eq(config(&f, 1, first, 1), 9);
    unsigned second = (unsigned)config(&f, 1, first + 1, 1);
    ck_assert_uint_eq(config(&f, 1, second, 1), 0x11);
    ck_assert_uint_eq(config(&f, 1, second + 1, 1), 0);
    ck_assert_uint_eq(config(&f, 1, second + 2, 2), VECTORS - 1);
    ck_assert_uint_eq(config(&f, 1, second + 4, 4), TABLE);
    ck_assert_uint_eq(config(&f, 1, second + 8, 4), PENDING);
    set_config(&f, 1, second + 4, 4, 0xffffffff);
    ck_assert_uint_eq(config(&f, 1, second + 4, 4), TABLE);
    // No room beyond the first 256 bytes.
    struct pci_function function;
    pci_function_init(&function, NULL, "x", &(struct pci_identity){.vendor = 1});
    ck_assert_uint_eq(pci_function_add_capability(&function, 9, 0xc0), 0x40);
    ck_assert_uint_eq(pci_function_add_capability(&function, 9, 4), 0);
    close_fixture(&f);
}
END_TEST

START_TEST(reset_returns_to_the_assigned_places)
{
    struct fixture f;
    open_fixture(&f);
    uint32_t a0 = (uint32_t)config(&f, 1, 0x10, 4);
    set_config(&f, 1, 0x10, 4, 0xd8000000);
    set_config(&f, 1, 0x3c, 1, 0x77);
    set_config(&f, 1, 4, 2, 0x6);
    select_port(&f, 1, 0x10);
    pci_function_reset(&f.a.function);
    ck_assert_uint_eq(config(&f, 1, 0x10, 4), a0);
    ck_assert_uint_eq(config(&f, 1, 0x3c, 1), 0);
    ck_assert_uint_eq(config(&f, 1, 4, 2), 2);
    ck_assert_uint_eq(config(&f, 1, 0, 4), 0x10421af4);
    f.a.scratch = 0x99;
    ck_assert_uint_eq(fake_read(&f.fake.mmio, a0, 1), 0x99);
    f.pci.device.ops->reset(&f.pci.device);
    ck_assert_uint_eq(fake_in(&f.fake, 0xcf8, 4), 0);
    close_fixture(&f);
}
END_TEST

START_TEST(state_round_trip)
{
    struct fixture f, g;
    open_fixture(&f);
    open_fixture(&g);
    uint32_t a0 = (uint32_t)config(&f, 1, 0x10, 4), b0 = (uint32_t)config(&f, 2, 0x10, 4);
    // Swapped places: each state alone would collide with the other's start.
    set_config(&f, 1, 0x10, 4, b0);
    set_config(&f, 2, 0x10, 4, a0);
    set_config(&f, 1, 4, 2, 0x6);
    select_port(&f, 2, 0x14);
    struct byte_writer w;
    byte_writer_init(&w);
    f.pci.device.ops->save(&f.pci.device, &w);
    pci_function_save(&f.a.function, &w);
    size_t first = w.length;
    pci_function_save(&f.b.function, &w);
    ck_assert(!w.failed);

    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(g.pci.device.ops->load(&g.pci.device, &r, &err), 0);
    ck_assert_int_eq(pci_function_load(&g.a.function, &r, &err), 0);
    ck_assert_int_eq(pci_function_load(&g.b.function, &r, &err), 0);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    ck_assert_uint_eq(fake_in(&g.fake, 0xcf8, 4), 0x80001014);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i += 4)
        ck_assert_uint_eq(config(&g, 1, i, 4), config(&f, 1, i, 4));
    g.a.scratch = 0xa;
    g.b.scratch = 0xb;
    ck_assert_uint_eq(fake_read(&g.fake.mmio, b0, 1), 0xa);
    ck_assert_uint_eq(fake_read(&g.fake.mmio, a0, 1), 0xb);
    ck_assert_uint_eq(g.a.last_address, b0);

    // Hostile: cut off, of another device.
    for (size_t length = first; length < w.length; length += 1 + length % 7) {
        byte_reader_init(&r, w.data + first, length - first);
        ck_assert_int_lt(pci_function_load(&g.b.function, &r, &err), 0);
    }
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(g.pci.device.ops->load(&g.pci.device, &r, &err), 0);
    uint8_t *id = memmem(w.data + r.offset, w.length - r.offset, "\xf4\x1a\x42\x10", 4);
    ck_assert_ptr_nonnull(id);
    id[2] = 0x41;
    ck_assert_int_eq(pci_function_load(&g.a.function, &r, &err), -EPROTO);
    byte_writer_free(&w);
    close_fixture(&f);
    close_fixture(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pci");
    TCase *tests = tcase_create("pci");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, config_by_ports_and_ecam);
    tcase_add_test(tests, config_of_odd_widths);
    tcase_add_test(tests, reset_control_is_a_byte_of_its_own);
    tcase_add_test(tests, bars_are_assigned_sized_and_moved);
    tcase_add_test(tests, overlapping_bars_wait_and_swap);
    tcase_add_test(tests, slots_and_window_run_out);
    tcase_add_test(tests, capabilities_are_a_list);
    tcase_add_test(tests, reset_returns_to_the_assigned_places);
    tcase_add_test(tests, state_round_trip);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
