// PCI Local Bus 3.0, chapter 6; MSI-X is 6.8.2.
#include "guest/drivers/pci.h"

#include "guest/drivers/acpi.h"
#include "guest/lib/console.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/ports.h"
#include "guest/lib/spinlock.h"

enum {
    CONFIG_ADDRESS = 0xcf8,
    CONFIG_DATA = 0xcfc,

    REGISTER_COMMAND = 0x04,
    REGISTER_STATUS = 0x06,
    REGISTER_HEADER_TYPE = 0x0e,
    REGISTER_BARS = 0x10,
    REGISTER_SECONDARY_BUS = 0x19,
    REGISTER_CAPABILITIES = 0x34,

    COMMAND_MEMORY = 0x02,
    COMMAND_MASTER = 0x04,
    COMMAND_NO_INTX = 0x400,
    STATUS_CAPABILITIES = 0x10,
    HEADER_MULTIFUNCTION = 0x80,
    HEADER_BRIDGE = 0x01,

    CAPABILITY_MSIX = 0x11,
    MSIX_ENABLE = 0x8000,
    MSIX_MASK_ALL = 0x4000,
    BARS = 6,
};

// Where BARs go that no firmware placed: the hole below 4 GiB of microvm and ferry.
#define WINDOW_START 0xc0000000ul
#define WINDOW_END   0xe0000000ul
#define MICROVM_ECAM 0xe0000000ul

static struct spinlock port_lock; // guards the pair of config ports

// QEMU's microvm has no MCFG and no config ports; its ECAM is where it is. Nothing there reads as
// all ones.
static struct acpi_ecam ecam_of_microvm(void)
{
    port_write32(CONFIG_ADDRESS, 0x80000000u);
    if (port_read32(CONFIG_DATA) != 0xffffffff || *(volatile uint32_t *)MICROVM_ECAM == 0xffffffff)
        return (struct acpi_ecam){0};
    return (struct acpi_ecam){.base = MICROVM_ECAM, .last_bus = 255};
}

static struct acpi_ecam ecam_find(void)
{
    if (option_is("pci", "ports"))
        return (struct acpi_ecam){0};
    struct acpi_ecam ecam = acpi_ecam();
    if (!ecam.base)
        ecam = ecam_of_microvm();
    if (ecam.base)
        pages_map_device(ecam.base, (uint64_t)(ecam.last_bus - ecam.first_bus + 1) << 20);
    return ecam;
}

static volatile uint8_t *ecam_address(const struct pci_device *device, uint16_t offset)
{
    static struct acpi_ecam ecam;
    static bool known;
    if (!known)
        ecam = ecam_find();
    known = true;
    if (!ecam.base || device->bus < ecam.first_bus || device->bus > ecam.last_bus)
        return NULL;
    return (volatile uint8_t *)(ecam.base + ((uint64_t)(device->bus - ecam.first_bus) << 20) +
                                ((unsigned)device->slot << 15) +
                                ((unsigned)device->function << 12) + offset);
}

// Takes the lock: the caller transfers data and releases it.
static uint16_t port_select(const struct pci_device *device, uint16_t offset)
{
    spinlock_take(&port_lock);
    port_write32(CONFIG_ADDRESS, 0x80000000u | (uint32_t)device->bus << 16 |
                                     (uint32_t)device->slot << 11 |
                                     (uint32_t)device->function << 8 | (offset & 0xfcu));
    return (uint16_t)(CONFIG_DATA + (offset & 3));
}

uint8_t pci_read8(const struct pci_device *device, uint16_t offset)
{
    volatile uint8_t *memory = ecam_address(device, offset);
    if (memory)
        return *memory;
    uint8_t value = port_read8(port_select(device, offset));
    spinlock_release(&port_lock);
    return value;
}

uint16_t pci_read16(const struct pci_device *device, uint16_t offset)
{
    volatile uint8_t *memory = ecam_address(device, offset);
    if (memory)
        return *(volatile uint16_t *)memory;
    uint16_t value = port_read16(port_select(device, offset));
    spinlock_release(&port_lock);
    return value;
}

uint32_t pci_read32(const struct pci_device *device, uint16_t offset)
{
    volatile uint8_t *memory = ecam_address(device, offset);
    if (memory)
        return *(volatile uint32_t *)memory;
    uint32_t value = port_read32(port_select(device, offset));
    spinlock_release(&port_lock);
    return value;
}

void pci_write16(const struct pci_device *device, uint16_t offset, uint16_t value)
{
    volatile uint8_t *memory = ecam_address(device, offset);
    if (memory) {
        *(volatile uint16_t *)memory = value;
        return;
    }
    port_write16(port_select(device, offset), value);
    spinlock_release(&port_lock);
}

void pci_write32(const struct pci_device *device, uint16_t offset, uint32_t value)
{
    volatile uint8_t *memory = ecam_address(device, offset);
    if (memory) {
        *(volatile uint32_t *)memory = value;
        return;
    }
    port_write32(port_select(device, offset), value);
    spinlock_release(&port_lock);
}

static bool visit_bus(uint8_t bus, bool (*visit)(const struct pci_device *, void *),
                      void *argument);

static bool visit_function(struct pci_device *device,
                           bool (*visit)(const struct pci_device *, void *), void *argument)
{
    device->vendor = pci_read16(device, 0);
    if (device->vendor == 0xffff)
        return true;
    device->device = pci_read16(device, 2);
    if (!visit(device, argument))
        return false;
    if ((pci_read8(device, REGISTER_HEADER_TYPE) & ~HEADER_MULTIFUNCTION) != HEADER_BRIDGE)
        return true;
    uint8_t secondary = pci_read8(device, REGISTER_SECONDARY_BUS);
    return secondary <= device->bus || visit_bus(secondary, visit, argument);
}

static bool visit_bus(uint8_t bus, bool (*visit)(const struct pci_device *, void *), void *argument)
{
    for (uint8_t slot = 0; slot < 32; slot++) {
        struct pci_device device = {.bus = bus, .slot = slot};
        if (pci_read16(&device, 0) == 0xffff)
            continue;
        bool many = pci_read8(&device, REGISTER_HEADER_TYPE) & HEADER_MULTIFUNCTION;
        for (uint8_t function = 0; function < (many ? 8 : 1); function++) {
            device.function = function;
            if (!visit_function(&device, visit, argument))
                return false;
        }
    }
    return true;
}

void pci_visit(bool (*visit)(const struct pci_device *device, void *argument), void *argument)
{
    visit_bus(0, visit, argument);
}

uint8_t pci_capability(const struct pci_device *device, uint8_t id, uint8_t after)
{
    if (!(pci_read16(device, REGISTER_STATUS) & STATUS_CAPABILITIES))
        return 0;
    uint8_t at = pci_read8(device, after ? (uint16_t)(after + 1) : REGISTER_CAPABILITIES);
    for (unsigned steps = 0; at && steps < 48; steps++) { // bounded: a list that loops ends
        if (pci_read8(device, at) == id)
            return at;
        at = pci_read8(device, (uint16_t)(at + 1));
    }
    return 0;
}

static uint64_t bar_address(const struct pci_device *device, uint8_t bar)
{
    uint16_t offset = (uint16_t)(REGISTER_BARS + 4 * bar);
    uint32_t low = pci_read32(device, offset);
    if (low & 1)
        return 0;
    uint64_t address = low & ~15u;
    if ((low & 6) == 4)
        address |= (uint64_t)pci_read32(device, (uint16_t)(offset + 4)) << 32;
    return address;
}

static uint64_t bar_size(const struct pci_device *device, uint8_t bar)
{
    uint16_t offset = (uint16_t)(REGISTER_BARS + 4 * bar);
    uint32_t low = pci_read32(device, offset), high = 0;
    bool wide = (low & 6) == 4;
    uint16_t command = pci_read16(device, REGISTER_COMMAND);
    pci_write16(device, REGISTER_COMMAND, command & (uint16_t)~COMMAND_MEMORY);
    pci_write32(device, offset, 0xffffffff);
    uint64_t mask = pci_read32(device, offset) & ~15u;
    pci_write32(device, offset, low);
    if (wide) {
        high = pci_read32(device, (uint16_t)(offset + 4));
        pci_write32(device, (uint16_t)(offset + 4), 0xffffffff);
        mask |= (uint64_t)pci_read32(device, (uint16_t)(offset + 4)) << 32;
        pci_write32(device, (uint16_t)(offset + 4), high);
    } else if (mask) {
        mask |= 0xffffffff00000000ul;
    }
    pci_write16(device, REGISTER_COMMAND, command);
    return mask ? -mask : 0;
}

static bool window_raise(const struct pci_device *device, void *argument)
{
    uint64_t *next = argument;
    if (pci_read8(device, REGISTER_HEADER_TYPE) & 0x7f)
        return true;
    for (uint8_t bar = 0; bar < BARS; bar++) {
        uint64_t address = bar_address(device, bar);
        bool wide = (pci_read32(device, (uint16_t)(REGISTER_BARS + 4 * bar)) & 7) == 4;
        if (address >= *next && address < WINDOW_END)
            *next = address + bar_size(device, bar);
        bar += wide;
    }
    return true;
}

// An address behind all that are taken.
static uint64_t window_take(uint64_t size)
{
    static uint64_t next;
    if (!next) {
        next = WINDOW_START;
        pci_visit(window_raise, &next);
    }
    uint64_t address = (next + size - 1) & -size;
    if (address + size > WINDOW_END)
        return 0;
    next = address + size;
    return address;
}

uint64_t pci_bar_map(const struct pci_device *device, uint8_t bar)
{
    if (bar >= BARS)
        return 0;
    uint16_t offset = (uint16_t)(REGISTER_BARS + 4 * bar);
    uint64_t address = bar_address(device, bar), size = bar_size(device, bar);
    if (!size || pci_read32(device, offset) & 1)
        return 0;
    if (!address) {
        address = window_take(size);
        if (!address)
            return 0;
        pci_write32(device, offset, (uint32_t)address);
    }
    uint16_t command = pci_read16(device, REGISTER_COMMAND);
    pci_write16(device, REGISTER_COMMAND,
                command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX);
    pages_map_device(address, size);
    return address;
}

bool pci_msix_enable(const struct pci_device *device, struct pci_msix *msix)
{
    uint8_t at = pci_capability(device, CAPABILITY_MSIX, 0);
    if (!at)
        return false;
    uint16_t control = pci_read16(device, (uint16_t)(at + 2));
    uint32_t place = pci_read32(device, (uint16_t)(at + 4));
    uint64_t bar = pci_bar_map(device, place & 7);
    if (!bar)
        return false;
    *msix = (struct pci_msix){
        .device = device,
        .table = (volatile uint32_t *)(bar + (place & ~7u)),
        .entries = (uint16_t)((control & 0x7ff) + 1),
        .capability = at,
    };
    for (unsigned i = 0; i < msix->entries; i++)
        msix->table[4 * i + 3] = 1;
    pci_write16(device, (uint16_t)(at + 2), (uint16_t)((control & ~MSIX_MASK_ALL) | MSIX_ENABLE));
    return true;
}

bool pci_msix_route(struct pci_msix *msix, uint16_t entry, uint32_t apic_id, uint8_t vector)
{
    if (entry >= msix->entries)
        return false;
    volatile uint32_t *words = msix->table + 4 * entry;
    words[0] = 0xfee00000u | apic_id << 12;
    words[1] = 0;
    words[2] = vector;
    words[3] = 0;
    return true;
}
