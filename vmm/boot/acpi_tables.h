// The ACPI tables of the machine: RSDP, XSDT, FADT, FACS, DSDT, MADT, MCFG (ACPI 6.4, 5.2), written
// into guest RAM at LAYOUT_ACPI_TABLES. Classic hardware model, not hardware-reduced.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/guest_memory.h"

struct acpi_tables_config {
    unsigned cpus;            // 1 to MACHINE_CPUS_LIMIT
    const uint32_t *apic_ids; // one for each CPU, the boot CPU first
};

// 0 with the gpa of the RSDP in *rsdp; -EINVAL, -ENOSPC with a sentence. The gpa doesn't depend on
// the configuration.
int acpi_tables_write(const struct acpi_tables_config *config, struct guest_memory *memory,
                      uint64_t *rsdp, struct error *err);
