// ACPI 6.5: chapter 5.2 (tables), 4.8 (fixed hardware), 7.4.2 (_S5).
#include "guest/drivers/acpi.h"

#include <stddef.h>

#include "guest/drivers/ioapic.h"
#include "guest/drivers/lapic.h"
#include "guest/layout.h"
#include "guest/lib/boot_parameters.h"
#include "guest/lib/memory.h"
#include "guest/lib/pages.h"
#include "guest/lib/ports.h"

struct rsdp {
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct table {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], oem_table[8];
    uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

// Offsets in the FADT (table 5.9).
enum {
    FADT_DSDT = 40,
    FADT_SCI = 46,
    FADT_SMI_COMMAND = 48,
    FADT_ACPI_ENABLE = 52,
    FADT_PM1A_EVENT = 56,
    FADT_PM1A_CONTROL = 64,
    FADT_PM_TIMER = 76,
    FADT_PM1_EVENT_LENGTH = 88,
    FADT_FLAGS = 112,
    FADT_RESET_REGISTER = 116,
    FADT_RESET_VALUE = 128,
    FADT_X_DSDT = 140,
    FADT_SLEEP_CONTROL = 244,

    FLAG_POWER_BUTTON_IS_DEVICE = 1 << 4,
    FLAG_RESET = 1 << 10,
    FLAG_HARDWARE_REDUCED = 1 << 20,

    PM1_POWER_BUTTON = 1 << 8,
    PM1_SCI_ENABLE = 1 << 0,
    PM1_SLEEP_ENABLE = 1 << 13,
};

// Structures in the MADT (5.2.12).
enum {
    MADT_FIRST = 44,
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_X2APIC = 9,
};

static uint32_t get16(const void *base, unsigned offset)
{
    const uint8_t *bytes = (const uint8_t *)base + offset;
    return bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t get32(const void *base, unsigned offset)
{
    return get16(base, offset) | get16(base, offset + 2) << 16;
}

static uint64_t get64(const void *base, unsigned offset)
{
    return get32(base, offset) | (uint64_t)get32(base, offset + 4) << 32;
}

static bool checksum_holds(const void *bytes, unsigned size)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < size; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return sum == 0;
}

static const struct rsdp *scan(uint64_t start, uint64_t end)
{
    for (; start < end; start += 16) {
        const struct rsdp *rsdp = (const void *)start;
        if (!memcmp(rsdp->signature, "RSD PTR ", 8) && checksum_holds(rsdp, 20))
            return rsdp;
    }
    return NULL;
}

static const struct rsdp *rsdp_find(void)
{
    if (boot_parameters()->rsdp)
        return (const void *)boot_parameters()->rsdp;
    // Multiboot doesn't tell: it's in the BIOS area or at the end of low memory (5.2.5.1).
    const struct rsdp *rsdp = scan(0xe0000, 0x100000);
    return rsdp ? rsdp : scan(0x80000, 0xa0000);
}

static const struct table *acpi_table(const char *signature)
{
    static const struct rsdp *rsdp;
    static bool searched;
    if (!searched)
        rsdp = rsdp_find();
    searched = true;
    if (!rsdp)
        return NULL;
    bool wide = rsdp->revision >= 2 && rsdp->xsdt;
    const struct table *root = (const void *)(wide ? rsdp->xsdt : rsdp->rsdt);
    unsigned size = wide ? 8 : 4;
    for (unsigned at = sizeof(*root); at + size <= root->length; at += size) {
        const struct table *table =
            (const void *)(wide ? get64(root, at) : (uint64_t)get32(root, at));
        if (!memcmp(table->signature, signature, 4))
            return table;
    }
    return NULL;
}

bool acpi_present(void)
{
    return acpi_table("FACP") != NULL;
}

// The next structure of that type after `after` (NULL: the first), NULL at the end.
static const uint8_t *madt_next(const uint8_t *after, uint8_t type)
{
    const struct table *madt = acpi_table("APIC");
    if (!madt)
        return NULL;
    const uint8_t *end = (const uint8_t *)madt + madt->length;
    const uint8_t *at = after ? after + after[1] : (const uint8_t *)madt + MADT_FIRST;
    for (; at + 2 <= end && at[1] >= 2; at += at[1])
        if (at[0] == type)
            return at;
    return NULL;
}

unsigned acpi_cpus(uint32_t *apic_ids, unsigned room)
{
    unsigned count = 0;
    for (const uint8_t *at = NULL; (at = madt_next(at, MADT_LAPIC)) && count < room;)
        if (at[4] & 1)
            apic_ids[count++] = at[3];
    for (const uint8_t *at = NULL; (at = madt_next(at, MADT_X2APIC)) && count < room;)
        if (at[8] & 1)
            apic_ids[count++] = get32(at, 4);
    return count;
}

uint64_t acpi_ioapic(uint32_t gsi, uint32_t *gsi_base)
{
    uint64_t address = 0xfec00000;
    *gsi_base = 0;
    for (const uint8_t *at = NULL; (at = madt_next(at, MADT_IOAPIC));) {
        if (get32(at, 8) > gsi)
            continue;
        address = get32(at, 4);
        *gsi_base = get32(at, 8);
    }
    return address;
}

struct acpi_isa_line acpi_isa_line(uint8_t line)
{
    struct acpi_isa_line found = {.gsi = line};
    for (const uint8_t *at = NULL; (at = madt_next(at, MADT_OVERRIDE));) {
        if (at[3] != line)
            continue;
        found.gsi = get32(at, 4);
        found.active_low = (at[8] & 3) == 3;
        found.level = (at[8] >> 2 & 3) == 3;
    }
    return found;
}

struct acpi_ecam acpi_ecam(void)
{
    struct acpi_ecam ecam = {0};
    const struct table *mcfg = acpi_table("MCFG");
    if (mcfg && mcfg->length >= 44 + 16) {
        ecam.base = get64(mcfg, 44);
        ecam.first_bus = ((const uint8_t *)mcfg)[44 + 10];
        ecam.last_bus = ((const uint8_t *)mcfg)[44 + 11];
    }
    return ecam;
}

uint16_t acpi_pm_timer(void)
{
    const struct table *fadt = acpi_table("FACP");
    if (!fadt || get32(fadt, FADT_FLAGS) & FLAG_HARDWARE_REDUCED)
        return 0;
    return (uint16_t)get32(fadt, FADT_PM_TIMER);
}

// A byte of a package in AML: ZeroOp, OneOp or BytePrefix (20.2.3).
static const uint8_t *aml_byte(const uint8_t *at, uint8_t *value)
{
    if (*at == 0x0a) {
        *value = at[1];
        return at + 2;
    }
    *value = *at;
    return at + 1;
}

// The sleep types of _S5, read from the DSDT's bytes: Name(_S5, Package() { a, b, ... }).
static bool acpi_s5_types(uint8_t *pm1a, uint8_t *pm1b)
{
    const struct table *fadt = acpi_table("FACP");
    if (!fadt)
        return false;
    const struct table *dsdt = (const void *)(uint64_t)get32(fadt, FADT_DSDT);
    if (!dsdt && fadt->length >= FADT_X_DSDT + 8)
        dsdt = (const void *)get64(fadt, FADT_X_DSDT);
    if (!dsdt)
        return false;
    const uint8_t *bytes = (const uint8_t *)dsdt;
    for (unsigned i = sizeof(*dsdt); i + 9 <= dsdt->length; i++) {
        if (memcmp(bytes + i, "_S5_\x12", 5))
            continue;
        const uint8_t *at = bytes + i + 5;
        at += 1 + (*at >> 6); // PkgLength: its first byte says how many follow
        at += 1;              // NumElements
        at = aml_byte(at, pm1a);
        aml_byte(at, pm1b);
        return true;
    }
    return false;
}

bool acpi_can_power_off(void)
{
    uint8_t a, b;
    return acpi_s5_types(&a, &b);
}

// A generic address structure (5.2.3.2).
static void gas_write8(const void *gas, uint8_t value)
{
    uint64_t address = get64(gas, 4);
    if (*(const uint8_t *)gas == 1) {
        port_write8((uint16_t)address, value);
    } else if (*(const uint8_t *)gas == 0 && address) {
        pages_map_device(address, 1);
        *(volatile uint8_t *)address = value;
    }
}

static void acpi_mode_enter(const struct table *fadt)
{
    uint16_t control = (uint16_t)get32(fadt, FADT_PM1A_CONTROL);
    uint16_t command = (uint16_t)get32(fadt, FADT_SMI_COMMAND);
    if (!command || port_read16(control) & PM1_SCI_ENABLE)
        return;
    port_write8(command, ((const uint8_t *)fadt)[FADT_ACPI_ENABLE]);
    for (unsigned i = 0; i < 1000 && !(port_read16(control) & PM1_SCI_ENABLE); i++)
        __builtin_ia32_pause();
}

void acpi_power_off(void)
{
    uint8_t pm1a, pm1b;
    if (!acpi_s5_types(&pm1a, &pm1b))
        return;
    const struct table *fadt = acpi_table("FACP");
    if (get32(fadt, FADT_FLAGS) & FLAG_HARDWARE_REDUCED) {
        if (fadt->length >= FADT_SLEEP_CONTROL + 12)
            gas_write8((const uint8_t *)fadt + FADT_SLEEP_CONTROL, (uint8_t)(pm1a << 2 | 0x20));
        return;
    }
    uint16_t control = (uint16_t)get32(fadt, FADT_PM1A_CONTROL);
    if (!control)
        return;
    acpi_mode_enter(fadt);
    port_write16(control, (uint16_t)(PM1_SLEEP_ENABLE | pm1a << 10));
}

void acpi_reset(void)
{
    const struct table *fadt = acpi_table("FACP");
    if (!fadt || fadt->length <= FADT_RESET_VALUE || !(get32(fadt, FADT_FLAGS) & FLAG_RESET))
        return;
    const uint8_t *bytes = (const uint8_t *)fadt;
    gas_write8(bytes + FADT_RESET_REGISTER, bytes[FADT_RESET_VALUE]);
}

bool acpi_power_button_enable(uint32_t apic_id)
{
    const struct table *fadt = acpi_table("FACP");
    if (!fadt)
        return false;
    uint32_t flags = get32(fadt, FADT_FLAGS);
    uint16_t event = (uint16_t)get32(fadt, FADT_PM1A_EVENT);
    if (flags & (FLAG_HARDWARE_REDUCED | FLAG_POWER_BUTTON_IS_DEVICE) || !event)
        return false;
    acpi_mode_enter(fadt);
    struct acpi_isa_line sci = acpi_isa_line((uint8_t)get16(fadt, FADT_SCI));
    // Without an override the SCI is level-triggered, active low (5.2.9, SCI_INT).
    bool overridden = sci.level;
    ioapic_route(sci.gsi, apic_id, VECTOR_SCI, true, overridden ? sci.active_low : true);
    port_write16(event, PM1_POWER_BUTTON);
    uint16_t enable = (uint16_t)(event + ((const uint8_t *)fadt)[FADT_PM1_EVENT_LENGTH] / 2);
    port_write16(enable, PM1_POWER_BUTTON);
    return true;
}

bool acpi_power_button_take(void)
{
    const struct table *fadt = acpi_table("FACP");
    uint16_t event = (uint16_t)get32(fadt, FADT_PM1A_EVENT);
    bool pressed = port_read16(event) & PM1_POWER_BUTTON;
    // Clear every status bit, else the line stays up; only then end the interrupt.
    port_write16(event, port_read16(event));
    lapic_end_of_interrupt();
    return pressed;
}
