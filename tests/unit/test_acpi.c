// ACPI tables: checksums, links, contents that Linux depends on, and iasl's opinion of them; then
// the ACPI registers.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "devices/acpi_pm.h"
#include "devices/pci_hotplug.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/memory_map.h"
#include "vmm/layout.h"
#include "vmm/machine_config.h"

enum { RAM_SIZE = 32 << 20 };

struct tables {
    struct guest_memory memory;
    uint8_t *ram;
    uint64_t rsdp;
};

static void tables_open(struct tables *t, unsigned cpus, uint32_t first_id)
{
    uint32_t ids[MACHINE_CPUS_LIMIT];
    for (unsigned i = 0; i < MACHINE_CPUS_LIMIT; i++)
        ids[i] = first_id + i;
    guest_memory_init(&t->memory);
    t->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(t->ram != MAP_FAILED);
    ck_assert_int_eq(guest_memory_add(&t->memory, 0, t->ram, RAM_SIZE), 0);
    const struct acpi_tables_config config = {.cpus = cpus, .apic_ids = ids};
    struct error err = {0};
    ck_assert_int_eq(acpi_tables_write(&config, &t->memory, &t->rsdp, &err), 0);
}

static void tables_close(struct tables *t)
{
    guest_memory_destroy(&t->memory);
    munmap(t->ram, RAM_SIZE);
}

static uint8_t sum(const uint8_t *bytes, size_t length)
{
    uint8_t s = 0;
    for (size_t i = 0; i < length; i++)
        s = (uint8_t)(s + bytes[i]);
    return s;
}

static bool lies_in(const struct guest_memory *memory, uint64_t at, uint64_t length,
                    enum memory_kind kind)
{
    struct memory_map map;
    memory_map_build(&map, memory);
    for (unsigned i = 0; i < map.count; i++)
        if (map.entries[i].kind == kind && at >= map.entries[i].start &&
            at + length <= map.entries[i].start + map.entries[i].size)
            return true;
    return false;
}

// A table with a valid checksum and signature, where the memory map has ACPI tables.
static const uint8_t *table_at(const struct tables *t, uint64_t at, const char *signature)
{
    const uint8_t *table = t->ram + at;
    uint32_t length = bytes_get_u32(table + 4);
    ck_assert_mem_eq(table, signature, 4);
    ck_assert_uint_eq(at % 4, 0);
    ck_assert(lies_in(&t->memory, at, length, MEMORY_ACPI_TABLES));
    ck_assert_uint_eq(sum(table, length), 0);
    return table;
}

static const uint8_t *find_table(const struct tables *t, const char *signature)
{
    const uint8_t *rsdp = t->ram + t->rsdp;
    const uint8_t *xsdt = table_at(t, bytes_get_u64(rsdp + 24), "XSDT");
    for (uint32_t at = 36; at < bytes_get_u32(xsdt + 4); at += 8) {
        uint64_t gpa = bytes_get_u64(xsdt + at);
        if (memcmp(t->ram + gpa, signature, 4) == 0)
            return table_at(t, gpa, signature);
    }
    return NULL;
}

START_TEST(roots)
{
    struct tables t;
    tables_open(&t, 1, 0);
    const uint8_t *rsdp = t.ram + t.rsdp;
    ck_assert_uint_eq(t.rsdp % 16, 0);
    ck_assert(t.rsdp >= 0xe0000 && t.rsdp < 0x100000);
    ck_assert_mem_eq(rsdp, "RSD PTR ", 8);
    ck_assert_uint_eq(sum(rsdp, 20), 0);
    ck_assert_uint_eq(sum(rsdp, 36), 0);
    ck_assert_ptr_nonnull(find_table(&t, "FACP"));
    ck_assert_ptr_nonnull(find_table(&t, "APIC"));
    ck_assert_ptr_nonnull(find_table(&t, "MCFG"));
    tables_close(&t);
}
END_TEST

START_TEST(fadt)
{
    struct tables t;
    tables_open(&t, 2, 0);
    const uint8_t *f = find_table(&t, "FACP");
    ck_assert_uint_eq(bytes_get_u32(f + 4), 276);
    uint32_t facs = bytes_get_u32(f + 36);
    ck_assert_mem_eq(t.ram + facs, "FACS", 4);
    ck_assert_uint_eq(facs % 64, 0);
    ck_assert(lies_in(&t.memory, facs, 64, MEMORY_ACPI_NVS));
    ck_assert_uint_eq(bytes_get_u32(f + 40), bytes_get_u64(f + 140));
    table_at(&t, bytes_get_u64(f + 140), "DSDT");
    ck_assert_uint_eq(bytes_get_u16(f + 46), LAYOUT_GSI_SCI);
    ck_assert_uint_eq(bytes_get_u32(f + 48), 0);      // SMI command port
    ck_assert_uint_eq(bytes_get_u16(f + 109) & 2, 0); // no 8042
    ck_assert_uint_eq(bytes_get_u16(f + 109) & 4, 4); // no VGA
    uint32_t flags = bytes_get_u32(f + 112);
    ck_assert_uint_eq(flags & (1u << 20), 0);        // not hardware-reduced
    ck_assert_uint_eq(flags & (1u << 4), 0);         // the power button is a fixed event
    ck_assert_uint_eq(flags & (1u << 8), 1u << 8);   // 32-bit timer
    ck_assert_uint_eq(flags & (1u << 10), 1u << 10); // reset register
    ck_assert_uint_eq(bytes_get_u64(f + 120), LAYOUT_PORT_RESET);
    ck_assert_uint_eq(f[128], 6);
    // 32-bit fields and generic addresses agree, in address and width.
    static const struct {
        unsigned old, length, generic;
    } blocks[] = {{56, 88, 148}, {64, 89, 172}, {76, 91, 208}, {80, 92, 220}};
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_uint_eq(f[blocks[i].generic], 1);
        ck_assert_uint_eq(f[blocks[i].generic + 1], 8 * f[blocks[i].length]);
        ck_assert_uint_eq(bytes_get_u64(f + blocks[i].generic + 4),
                          bytes_get_u32(f + blocks[i].old));
    }
    tables_close(&t);
}
END_TEST

// CPUs, and the two overrides that KVM's routing needs.
static void check_madt(unsigned cpus, uint32_t first_id)
{
    struct tables t;
    tables_open(&t, cpus, first_id);
    const uint8_t *m = find_table(&t, "APIC");
    unsigned found = 0, overrides = 0, io_apics = 0;
    uint32_t at = 44, length = bytes_get_u32(m + 4);
    for (; at < length; at += m[at + 1]) {
        const uint8_t *e = m + at;
        ck_assert_uint_gt(e[1], 0);
        if (e[0] == 0) {
            ck_assert_uint_eq(e[3], first_id + found);
            ck_assert_uint_eq(bytes_get_u32(e + 4), 1);
            found++;
        } else if (e[0] == 9) {
            ck_assert_uint_eq(bytes_get_u32(e + 4), first_id + found);
            ck_assert_uint_eq(bytes_get_u32(e + 8), 1);
            found++;
        } else if (e[0] == 2) {
            overrides++;
            ck_assert((e[3] == 0 && bytes_get_u32(e + 4) == 2 && bytes_get_u16(e + 8) == 0) ||
                      (e[3] == 9 && bytes_get_u32(e + 4) == 9 && bytes_get_u16(e + 8) == 0xd));
        } else if (e[0] == 1) {
            io_apics++;
            ck_assert_uint_eq(bytes_get_u32(e + 4), LAYOUT_IOAPIC);
        }
    }
    ck_assert_uint_eq(at, length);
    ck_assert_uint_eq(found, cpus);
    ck_assert_uint_eq(overrides, 2);
    ck_assert_uint_eq(io_apics, 1);
    tables_close(&t);
}

START_TEST(madt)
{
    check_madt(1, 0);
    check_madt(2, 0);
    check_madt(64, 0);
    check_madt(64, 230); // on both sides of what an 8-bit id can say
}
END_TEST

START_TEST(limits)
{
    struct guest_memory empty;
    guest_memory_init(&empty);
    const uint32_t ids[MACHINE_CPUS_LIMIT + 1] = {0};
    uint64_t rsdp;
    struct acpi_tables_config config = {.cpus = 0, .apic_ids = ids};
    ck_assert_int_eq(acpi_tables_write(&config, &empty, &rsdp, NULL), -EINVAL);
    config.cpus = MACHINE_CPUS_LIMIT + 1;
    ck_assert_int_eq(acpi_tables_write(&config, &empty, &rsdp, NULL), -EINVAL);
    config.cpus = 1;
    ck_assert_int_eq(acpi_tables_write(&config, &empty, &rsdp, NULL), -ENOSPC);
}
END_TEST

static bool contains(const uint8_t *haystack, size_t length, const void *needle, size_t size)
{
    return memmem(haystack, length, needle, size) != NULL;
}

// The DSDT repeats numbers of the layout: they must be the same.
START_TEST(dsdt_agrees_with_layout)
{
    struct tables t;
    tables_open(&t, 1, 0);
    const uint8_t *dsdt = t.ram + bytes_get_u64(find_table(&t, "FACP") + 140);
    size_t length = bytes_get_u32(dsdt + 4);
    uint8_t window[16], ecam[8], pm[8], gpe[8], serial[8], rtc[8], panic[8], hotplug[8];
    bytes_put_u32(window, LAYOUT_PCI_WINDOW); // min, max, translation, length
    bytes_put_u32(window + 4, LAYOUT_PCI_WINDOW_END);
    bytes_put_u32(window + 8, 0);
    bytes_put_u32(window + 12, LAYOUT_PCI_WINDOW_END - LAYOUT_PCI_WINDOW + 1);
    bytes_put_u32(ecam, (uint32_t)LAYOUT_PCI_ECAM);
    bytes_put_u32(ecam + 4, 1 << 20);
    struct {
        uint8_t *bytes;
        uint16_t port;
        uint8_t count;
    } ios[] = {
        {pm, LAYOUT_PORT_PM, ACPI_PM_LENGTH}, {gpe, LAYOUT_PORT_GPE0, ACPI_GPE0_LENGTH},
        {serial, LAYOUT_PORT_SERIAL, 8},      {rtc, LAYOUT_PORT_CMOS, 2},
        {panic, LAYOUT_PORT_PANIC, 1},        {hotplug, LAYOUT_PORT_HOTPLUG, PCI_HOTPLUG_LENGTH}};
    ck_assert(contains(dsdt, length, window, sizeof(window)));
    ck_assert(contains(dsdt, length, ecam, sizeof(ecam)));
    for (size_t i = 0; i < sizeof(ios) / sizeof(ios[0]);
         i++) { // 16-bit decode, min, max, align, length
        ios[i].bytes[0] = 0x47;
        ios[i].bytes[1] = 1;
        bytes_put_u16(ios[i].bytes + 2, ios[i].port);
        bytes_put_u16(ios[i].bytes + 4, ios[i].port);
        ios[i].bytes[6] = 1;
        ios[i].bytes[7] = ios[i].count;
        ck_assert_msg(contains(dsdt, length, ios[i].bytes, 8), "port 0x%x", ios[i].port);
    }
    const uint8_t serial_irq[] = {0x22, 1 << LAYOUT_GSI_SERIAL, 0};
    const uint8_t rtc_irq[] = {0x22, 0, 1 << (LAYOUT_GSI_RTC - 8)};
    const uint8_t s5[] = {'_', 'S', '5', '_', 0x12, 0x07, 4, 0x0a, ACPI_SLEEP_TYPE_S5};
    ck_assert(contains(dsdt, length, serial_irq, 3));
    ck_assert(contains(dsdt, length, rtc_irq, 3));
    ck_assert(contains(dsdt, length, s5, sizeof(s5)));
    tables_close(&t);
}
END_TEST

// Every table goes through iasl's disassembler, which checks structure and checksum.
START_TEST(iasl_takes_the_tables)
{
    static const char *const names[] = {"FACP", "APIC", "MCFG", "DSDT"};
    struct tables t;
    char folder[] = "/tmp/ferry-acpi.XXXXXX", command[400];
    if (system("command -v iasl >/dev/null 2>&1") != 0)
        return; // it is what compiled the DSDT, so it is there wherever ferry was built
    tables_open(&t, 3, 254);
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *table =
            i == 3 ? t.ram + bytes_get_u64(find_table(&t, "FACP") + 140) : find_table(&t, names[i]);
        snprintf(command, sizeof(command), "%s/%s.aml", folder, names[i]);
        FILE *file = fopen(command, "w");
        ck_assert_ptr_nonnull(file);
        ck_assert_uint_eq(fwrite(table, 1, bytes_get_u32(table + 4), file),
                          bytes_get_u32(table + 4));
        fclose(file);
        snprintf(command, sizeof(command),
                 "cd %s && iasl -d %s.aml >%s.log 2>&1 && ! grep -Ei "
                 "'error|warning|invalid|unknown|incorrect|bad' %s.log %s.dsl >&2",
                 folder, names[i], names[i], names[i], names[i]);
        ck_assert_msg(system(command) == 0, "iasl doesn't like %s", names[i]);
    }
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
    tables_close(&t);
}
END_TEST

// The registers

enum { PM = 0x600, GPE = 0x620, SCI = 9 };

struct pm_fixture {
    struct fake_machine fake;
    struct acpi_pm *pm;
    struct device *device;
};

static void pm_open(struct pm_fixture *f)
{
    const struct acpi_pm_config config = {
        .id = "acpi-pm", .pm_port = PM, .gpe0_port = GPE, .sci_gsi = SCI};
    struct error err = {0};
    fake_machine_open(&f->fake);
    ck_assert_int_eq(acpi_pm_create(&f->pm, &f->fake.bus, &f->fake.ports, &config, &err), 0);
    f->device = acpi_pm_device(f->pm);
}

static void pm_close(struct pm_fixture *f)
{
    f->device->ops->destroy(f->device);
    fake_machine_close(&f->fake);
}

START_TEST(power_button_raises_sci)
{
    struct pm_fixture f;
    pm_open(&f);
    ck_assert_uint_eq(fake_in(&f.fake, PM + 4, 2), 1); // SCI_EN
    acpi_pm_power_button(f.pm);
    ck_assert(!f.fake.lines[SCI]); // not enabled
    fake_out(&f.fake, PM + 2, 2, 0x100);
    ck_assert(f.fake.lines[SCI]);
    ck_assert_uint_eq(fake_in(&f.fake, PM, 2), 0x100);
    ck_assert_uint_eq(fake_in(&f.fake, PM, 4), 0x01000100);
    fake_out(&f.fake, PM, 2, 0x001); // another bit
    ck_assert(f.fake.lines[SCI]);
    fake_out(&f.fake, PM + 1, 1, 0x01);
    ck_assert(!f.fake.lines[SCI]);
    ck_assert_uint_eq(fake_in(&f.fake, PM, 2), 0);
    pm_close(&f);
}
END_TEST

START_TEST(gpe_raises_sci)
{
    struct pm_fixture f;
    pm_open(&f);
    acpi_pm_raise_gpe(f.pm, 9);
    acpi_pm_raise_gpe(f.pm, ACPI_GPE0_EVENTS); // no such
    ck_assert_uint_eq(fake_in(&f.fake, GPE, 2), 0x200);
    fake_out(&f.fake, GPE + 3, 1, 0x02);
    ck_assert(f.fake.lines[SCI]);
    ck_assert_uint_eq(fake_in(&f.fake, GPE, 4), 0x02000200);
    fake_out(&f.fake, GPE + 1, 1, 0x02);
    ck_assert(!f.fake.lines[SCI]);
    pm_close(&f);
}
END_TEST

START_TEST(sleep_types)
{
    struct pm_fixture f;
    pm_open(&f);
    fake_out(&f.fake, PM + 4, 2, 5 << 10);           // type alone
    fake_out(&f.fake, PM + 4, 2, 1 << 13 | 1 << 10); // S1
    ck_assert_uint_eq(f.fake.request_count, 0);
    fake_out(&f.fake, PM + 4, 2, 1 << 13 | 5 << 10);
    ck_assert_uint_eq(f.fake.request_count, 1);
    ck_assert_int_eq(f.fake.last_request, MACHINE_REQUEST_POWER_OFF);
    ck_assert_uint_eq(fake_in(&f.fake, PM + 4, 2), 5 << 10 | 1); // SLP_EN reads 0
    pm_close(&f);
}
END_TEST

START_TEST(timer_runs_and_survives_a_move)
{
    struct pm_fixture f, g;
    pm_open(&f);
    uint32_t first = (uint32_t)fake_in(&f.fake, PM + 8, 4), second;
    do
        second = (uint32_t)fake_in(&f.fake, PM + 8, 4);
    while (second == first);
    ck_assert_uint_lt(second - first, 1u << 31); // forwards
    struct byte_writer w;
    byte_writer_init(&w);
    acpi_pm_power_button(f.pm);
    fake_out(&f.fake, PM + 2, 2, 0x100);
    f.device->ops->save(f.device, &w);
    uint32_t saved = (uint32_t)fake_in(&f.fake, PM + 8, 4);
    pm_open(&g);
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(g.device->ops->load(g.device, &r, &err), 0);
    ck_assert(g.fake.lines[SCI]);
    // It went on from the saved value, not from 0: both count the same clock.
    uint32_t loaded = (uint32_t)fake_in(&g.fake, PM + 8, 4);
    ck_assert_uint_lt(saved - loaded + (1u << 30), 1u << 31);
    for (size_t length = 0; length < w.length; length++) {
        byte_reader_init(&r, w.data, length);
        ck_assert_int_lt(g.device->ops->load(g.device, &r, &err), 0);
    }
    byte_writer_free(&w);
    g.device->ops->reset(g.device);
    ck_assert(!g.fake.lines[SCI]);
    pm_close(&f);
    pm_close(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("acpi");
    TCase *tests = tcase_create("acpi");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, roots);
    tcase_add_test(tests, fadt);
    tcase_add_test(tests, madt);
    tcase_add_test(tests, limits);
    tcase_add_test(tests, dsdt_agrees_with_layout);
    tcase_add_test(tests, iasl_takes_the_tables);
    tcase_add_test(tests, power_button_raises_sci);
    tcase_add_test(tests, gpe_raises_sci);
    tcase_add_test(tests, sleep_types);
    tcase_add_test(tests, timer_runs_and_survives_a_move);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
