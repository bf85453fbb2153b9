// The I/O APIC, and the MADT's overrides of ISA lines.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Sends a global system interrupt to a vCPU.
void ioapic_route(uint32_t gsi, uint32_t apic_id, uint8_t vector, bool level, bool active_low);

// The same for an ISA line, with polarity, trigger and GSI as the MADT overrides them.
void ioapic_route_isa(uint8_t line, uint32_t apic_id, uint8_t vector);
