// A guest that does anything to the platform devices: each five bytes are one access (kind and
// width, address, value) to the config ports, the ECAM, the BARs, the serial port, the clock and
// the ACPI registers. In between the state is saved and loaded, whole or bent.
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"
#include "devices/rtc.h"
#include "devices/serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ECAM         UINT64_C(0xe0000000)
#define WINDOW_START UINT32_C(0xc0000000)

enum { VECTORS = 9, FUNCTIONS = 3, VECTORS_ALL = VECTORS * FUNCTIONS, ACCESS = 5, ACCESSES = 100 };

struct machine {
    struct machine_bus bus;
    struct bus *ports, *mmio;
    struct pci_bus pci;
    struct pci_function functions[FUNCTIONS];
    struct device *devices[3];
    struct serial *serial;
    struct acpi_pm *pm;
    unsigned vectors;
    unsigned mapped[FUNCTIONS * PCI_BARS];
};

static void irq_line(void *machine, uint32_t gsi, bool level)
{
    if (gsi >= 24)
        abort();
}

// The descriptors are kept for the next input: making them is what would take the time.
static int msi_new(void *machine, int *event_fd)
{
    static int kept[VECTORS_ALL];
    struct machine *m = machine;
    unsigned i = m->vectors++;
    uint64_t count;
    if (kept[i] == 0)
        kept[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (read(kept[i], &count, sizeof(count)) < 0)
        count = 0;
    *event_fd = kept[i];
    return (int)i;
}

static int msi_update(void *machine, int vector, uint64_t address, uint32_t data, bool masked)
{
    return !masked && address >> 20 != 0xfee ? -22 : 0;
}

static void msi_free(void *machine, int vector)
{
    struct machine *m = machine;
    m->vectors--;
}

static void request(void *machine, enum machine_request what, int value)
{
}

static const struct machine_ops machine_ops = {
    .irq_line = irq_line,
    .msi_new = msi_new,
    .msi_update = msi_update,
    .msi_free = msi_free,
    .request = request,
};

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned length)
{
    if (offset & 0x800)
        return pci_msix_pending_read(opaque, offset & 0x7ff, length);
    return pci_msix_table_read(opaque, offset, length);
}

static void bar_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    if (offset & 0x800)
        pci_msix_notify(opaque, (unsigned)value & 15);
    else
        pci_msix_table_write(opaque, offset, length, value);
}

static const struct bus_handler bar_handler = {.read = bar_read, .write = bar_write};

// A BAR is never mapped twice, nor unmapped without having been mapped, nor outside of the window.
static void bar_mapped(struct pci_function *function, unsigned index, uint64_t address, bool mapped)
{
    struct machine *m = function->bus->machine->machine;
    unsigned at = (unsigned)(function - m->functions) * PCI_BARS + index;
    if (m->mapped[at] == mapped || address < WINDOW_START || address >= ECAM)
        abort();
    m->mapped[at] = mapped;
}

static void config_access(struct pci_function *function, unsigned offset, unsigned length)
{
    if ((length != 1 && length != 2 && length != 4) || offset % length ||
        offset + length > PCI_CONFIG_SIZE)
        abort();
}

static const struct pci_function_ops function_ops = {
    .bar_mapped = bar_mapped, .config_written = config_access, .config_read = config_access};

static size_t take_output(void *opaque, const uint8_t *bytes, size_t length)
{
    return length > 0 ? bytes[0] % (length + 1) : 0;
}

static void input_wanted(void *opaque)
{
    struct machine *m = opaque;
    serial_input(m->serial, (const uint8_t *)"input", 3);
}

// The buses and the clock live as long as the process: the clock's I/O thread would take most of
// the time otherwise.
static struct device *lasting_clock(struct machine_bus *machine, struct bus *ports)
{
    static struct machine_bus lasting;
    struct rtc_config config = {.id = "rtc0", .port = 0x70, .gsi = 8};
    struct rtc *rtc;
    lasting = *machine;
    if (io_thread_start(&config.thread, "fuzz") < 0 ||
        rtc_create(&rtc, &lasting, ports, &config, NULL) < 0)
        abort();
    return rtc_device(rtc);
}

static void open_machine(struct machine *m)
{
    static struct bus ports, mmio;
    static struct device *clock;
    static const struct pci_identity identity = {.vendor = 0x1af4, .device = 0x1041};
    const struct serial_config serial_config = {.id = "serial0",
                                                .port = 0x3f8,
                                                .gsi = 4,
                                                .write = take_output,
                                                .input_ready = input_wanted,
                                                .opaque = m};
    const struct acpi_pm_config pm_config = {
        .id = "acpi-pm", .pm_port = 0x600, .gpe0_port = 0x620, .sci_gsi = 9};
    memset(m, 0, sizeof(*m));
    m->bus = (struct machine_bus){.ops = &machine_ops, .machine = m};
    m->ports = &ports;
    m->mmio = &mmio;
    if (!clock) {
        if (bus_init(&ports) < 0 || bus_init(&mmio) < 0)
            abort();
        clock = lasting_clock(&m->bus, &ports);
    }
    clock->ops->reset(clock);
    if (pci_bus_init(&m->pci, &m->bus, &ports, &mmio, ECAM, WINDOW_START, ECAM - 1, NULL) < 0)
        abort();
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct pci_function *f = &m->functions[i];
        pci_function_init(f, &function_ops, "device", &identity);
        pci_function_add_bar(f, 0, 0x1000, &bar_handler, f);
        pci_function_add_bar(f, 4, 16u << (4 * i), &bar_handler, f);
        pci_function_add_capability(f, 9, 20);
        if (pci_function_add_msix(f, &m->bus, VECTORS, 0, 0, 0x800) < 0 ||
            pci_bus_plug(&m->pci, f, 0) < 0)
            abort();
    }
    if (pci_bus_assign(&m->pci, NULL) < 0 ||
        serial_create(&m->serial, &m->bus, &ports, &serial_config, NULL) < 0 ||
        acpi_pm_create(&m->pm, &m->bus, &ports, &pm_config, NULL) < 0)
        abort();
    m->devices[0] = serial_device(m->serial);
    m->devices[1] = acpi_pm_device(m->pm);
    m->devices[2] = clock;
}

static void close_machine(struct machine *m)
{
    for (unsigned i = 0; i < 2; i++)
        m->devices[i]->ops->destroy(m->devices[i]);
    for (unsigned i = 0; i < FUNCTIONS; i++)
        pci_bus_unplug(&m->pci, &m->functions[i]);
    for (unsigned i = 0; i < FUNCTIONS * PCI_BARS; i++)
        if (m->mapped[i])
            abort();
    pci_bus_destroy(&m->pci);
    bus_reclaim(m->ports);
    bus_reclaim(m->mmio);
}

// Saves everything, bends one byte (`where` 0: none), loads it again. Only a straight state must
// load.
static void save_and_load(struct machine *m, unsigned where, uint8_t how)
{
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    int rc;
    byte_writer_init(&w);
    m->pci.device.ops->save(&m->pci.device, &w);
    for (unsigned i = 0; i < FUNCTIONS; i++)
        pci_function_save(&m->functions[i], &w);
    for (unsigned i = 0; i < 3; i++)
        m->devices[i]->ops->save(m->devices[i], &w);
    if (where)
        w.data[where % w.length] ^= how;
    byte_reader_init(&r, w.data, w.length);
    rc = m->pci.device.ops->load(&m->pci.device, &r, &err);
    for (unsigned i = 0; i < FUNCTIONS && rc == 0; i++)
        rc = pci_function_load(&m->functions[i], &r, &err);
    for (unsigned i = 0; i < 3 && rc == 0; i++)
        rc = m->devices[i]->ops->load(m->devices[i], &r, &err);
    if (!where && rc < 0) {
        fprintf(stderr, "a straight state was refused: %s\n", err.message);
        abort();
    }
    byte_writer_free(&w);
}

// One access. The kind is in the first byte's low half, the width in its high half.
static void run(struct machine *m, const uint8_t *p)
{
    static const uint16_t port_bases[] = {0xcf8, 0x3f8, 0x600, 0x620, 0x70};
    unsigned kind = p[0] & 15, length = 1 + (p[0] >> 5), address = p[1] | p[2] << 8;
    uint64_t value = (uint64_t)p[3] * 0x0101010101010101 ^ p[4];
    uint8_t bytes[8];
    bytes_put_u64(bytes, value);
    bool write = p[0] & 16;
    struct bus *bus = kind < 5 ? m->ports : m->mmio;
    uint64_t at;
    if (kind < 5) {
        at = port_bases[kind] + (address & 15);
        if (kind == 0 && (address & 15) == 0) // the address latch: something that exists
            bytes_put_u32(bytes, 0x80000000 | (p[3] & 3) << 11 | (p[4] & 0xfcu));
    } else if (kind < 9) {
        at = ECAM + ((uint64_t)(address >> 14) << 15) + (address & (kind < 8 ? 0x7f : 0xfff));
    } else if (kind < 13) {
        const struct pci_function *f = &m->functions[(address >> 14) % FUNCTIONS];
        at = f->bars[kind & 4].mapped_at + (address & 0xfff);
    } else if (kind == 13) {
        save_and_load(m, address, p[3]);
        return;
    } else if (kind == 14) {
        pci_function_reset(&m->functions[address % FUNCTIONS]);
        return;
    } else {
        struct device *device = m->devices[address % 3];
        if (address & 4)
            device->ops->reset(device);
        serial_output_ready(m->serial);
        acpi_pm_power_button(m->pm);
        return;
    }
    if (write)
        bus_write(bus, at, bytes, length);
    else
        bus_read(bus, at, bytes, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine m;
    open_machine(&m);
    // Longer inputs find nothing more and are slow.
    for (unsigned i = 0; i < ACCESSES && (i + 1) * ACCESS <= size; i++)
        run(&m, data + (size_t)i * ACCESS);
    close_machine(&m);
    return 0;
}
