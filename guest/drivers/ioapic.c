// Intel 82093AA.
#include "guest/drivers/ioapic.h"

#include "guest/drivers/acpi.h"
#include "guest/lib/pages.h"

static void ioapic_write(uint64_t base, uint32_t index, uint32_t value)
{
    *(volatile uint32_t *)base = index;
    *(volatile uint32_t *)(base + 0x10) = value;
}

void ioapic_route(uint32_t gsi, uint32_t apic_id, uint8_t vector, bool level, bool active_low)
{
    uint32_t gsi_base;
    uint64_t base = acpi_ioapic(gsi, &gsi_base);
    uint32_t entry = 0x10 + 2 * (gsi - gsi_base);
    pages_map_device(base, 4096);
    ioapic_write(base, entry, 0x10000);
    ioapic_write(base, entry + 1, apic_id << 24);
    ioapic_write(base, entry, vector | (active_low ? 0x2000u : 0) | (level ? 0x8000u : 0));
}

void ioapic_route_isa(uint8_t line, uint32_t apic_id, uint8_t vector)
{
    struct acpi_isa_line isa = acpi_isa_line(line);
    ioapic_route(isa.gsi, apic_id, vector, isa.level, isa.active_low);
}
