// The hot-plug registers: what a guest finds there, what it says by them, state.
#include <check.h>
#include <string.h>

#include "devices/pci_hotplug.h"
#include "tests/unit/platform_fake.h"
#include "tests/unit/run_suite.h"

enum { PORT = 0x640, PM = 0x600, GPE = 0x620, SCI = 9, SLOT = 5 };

static struct fake_machine fake;
static struct acpi_pm *pm;
static struct pci_bus pci;
static struct pci_function function;
static struct pci_hotplug *hotplug;
static unsigned ejects;

static void ejected(void *opaque)
{
    ejects++;
}

static void set_up(void)
{
    const struct acpi_pm_config pm_config = {
        .id = "acpi-pm", .pm_port = PM, .gpe0_port = GPE, .sci_gsi = SCI};
    const struct pci_identity identity = {.vendor = 0x1af4, .device = 0x1042};
    memset(&fake, 0, sizeof(fake));
    fake_machine_open(&fake);
    ck_assert_int_eq(acpi_pm_create(&pm, &fake.bus, &fake.ports, &pm_config, NULL), 0);
    ck_assert_int_eq(pci_bus_init(&pci, &fake.bus, &fake.ports, &fake.mmio, 0xe0000000, 0xc0000000,
                                  0xdfffffff, NULL),
                     0);
    pci_function_init(&function, NULL, "test", &identity);
    ck_assert_int_eq(pci_bus_plug(&pci, &function, SLOT), 0);
    const struct pci_hotplug_config config = {
        .id = "hotplug0", .port = PORT, .pci = &pci, .pm = pm, .ejected = ejected};
    ck_assert_int_eq(pci_hotplug_create(&hotplug, &fake.ports, &config, NULL), 0);
    ejects = 0;
}

static void tear_down(void)
{
    pci_hotplug_device(hotplug)->ops->destroy(pci_hotplug_device(hotplug));
    pci_bus_unplug(&pci, &function);
    pci_bus_destroy(&pci);
    acpi_pm_device(pm)->ops->destroy(acpi_pm_device(pm));
    fake_machine_close(&fake);
}

START_TEST(events_are_told_and_taken)
{
    fake_out(&fake, GPE + 2, 1, 1 << PCI_HOTPLUG_GPE); // enabled
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 0);
    pci_hotplug_insert(hotplug, SLOT);
    ck_assert_uint_eq(fake_in(&fake, GPE, 1), 1 << PCI_HOTPLUG_GPE);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 1u << SLOT);
    fake_out(&fake, PORT + PCI_HOTPLUG_INSERTED, 4, 0);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 1u << SLOT);
    fake_out(&fake, PORT + PCI_HOTPLUG_INSERTED, 4, 1u << SLOT);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 0);
    fake_out(&fake, GPE, 1, 1 << PCI_HOTPLUG_GPE);
    pci_hotplug_ask_removal(hotplug, 31);
    ck_assert_uint_eq(fake_in(&fake, GPE, 1), 1 << PCI_HOTPLUG_GPE);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_REMOVAL, 4), 1u << 31);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_REMOVAL + 3, 1), 0x80);
    fake_out(&fake, PORT + PCI_HOTPLUG_REMOVAL, 4, 1u << 31);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_REMOVAL, 4), 0);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_PRESENT, 4), 1 | 1u << SLOT);
}
END_TEST

START_TEST(only_what_is_there_is_ejected)
{
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 4, 1u << 7);
    ck_assert_uint_eq(ejects, 0);
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 2, 1u << SLOT); // half a register
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 1, 1u << SLOT);
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT + 2, 4, UINT32_MAX);
    ck_assert_uint_eq(ejects, 0);
    ck_assert_uint_eq(pci_hotplug_take_ejected(hotplug), 0);
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 4, 1u << SLOT | 1u << 7);
    ck_assert_uint_eq(ejects, 1);
    ck_assert_uint_eq(pci_hotplug_take_ejected(hotplug), 1u << SLOT);
    ck_assert_uint_eq(pci_hotplug_take_ejected(hotplug), 0);
}
END_TEST

START_TEST(what_has_gone_is_forgotten)
{
    pci_hotplug_insert(hotplug, SLOT);
    pci_hotplug_ask_removal(hotplug, SLOT);
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 4, 1u << SLOT);
    pci_hotplug_forget(hotplug, SLOT);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 0);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_REMOVAL, 4), 0);
    ck_assert_uint_eq(pci_hotplug_take_ejected(hotplug), 0);
}
END_TEST

START_TEST(state_keeps_what_is_under_way)
{
    struct device *device = pci_hotplug_device(hotplug);
    struct byte_writer w;
    struct byte_reader r;
    pci_hotplug_insert(hotplug, 3);
    pci_hotplug_ask_removal(hotplug, 4);
    fake_out(&fake, PORT + PCI_HOTPLUG_PRESENT, 4, 1u << SLOT);
    byte_writer_init(&w);
    device->ops->save(device, &w);
    device->ops->reset(device);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 0);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_eq(device->ops->load(device, &r, NULL), 0);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_INSERTED, 4), 1u << 3);
    ck_assert_uint_eq(fake_in(&fake, PORT + PCI_HOTPLUG_REMOVAL, 4), 1u << 4);
    ck_assert_uint_eq(pci_hotplug_take_ejected(hotplug), 1u << SLOT);
    byte_writer_free(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pci-hotplug");
    TCase *t = tcase_create("hotplug");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, events_are_told_and_taken);
    tcase_add_test(t, only_what_is_there_is_ejected);
    tcase_add_test(t, what_has_gone_is_forgotten);
    tcase_add_test(t, state_keeps_what_is_under_way);
    suite_add_tcase(s, t);
    return run_suite(s);
}
