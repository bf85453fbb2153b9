// ACPI tables as far as the guest needs them: vCPUs and interrupts (MADT), ECAM (MCFG), power (FADT
// and the DSDT's _S5). Without tables everything answers "none".
#pragma once

#include <stdbool.h>
#include <stdint.h>

// APIC ids of the enabled vCPUs; returns how many were listed (at most `room`).
unsigned acpi_cpus(uint32_t *apic_ids, unsigned room);

// The I/O APIC that serves a GSI; the usual address when the MADT is silent.
uint64_t acpi_ioapic(uint32_t gsi, uint32_t *gsi_base);

struct acpi_isa_line {
    uint32_t gsi;
    bool level, active_low;
};
struct acpi_isa_line acpi_isa_line(uint8_t line);

struct acpi_ecam {
    uint64_t base; // 0: none
    uint8_t first_bus, last_bus;
};
struct acpi_ecam acpi_ecam(void);

// The PM timer's port (3.579545 MHz), 0 when there's none.
uint16_t acpi_pm_timer(void);

bool acpi_present(void);
bool acpi_can_power_off(void);

// Go on when the machine has no such thing.
void acpi_power_off(void);
void acpi_reset(void);

// The power button as a fixed event: switches it on and routes the SCI to VECTOR_SCI; false when
// there's none.
bool acpi_power_button_enable(uint32_t apic_id);

// Takes a press: true once for each. Ends the SCI.
bool acpi_power_button_take(void);
