// ACPI fixed hardware (ACPI 6.4, 4.8): PM1a event and control blocks, the PM timer, one
// general-purpose event block, and the SCI, a level-triggered interrupt line.
//
// The power button is the PM1 fixed event. Writing SLP_EN with the type of S5 asks the machine to
// power off. There is no SMI command port: the machine is always in ACPI mode (SCI_EN reads 1).
//
// Threads: registers on vCPU threads, events from any thread. One mutex guards all state; irq_line
// and request are called under it.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

enum {
    // Offsets from the PM base port.
    ACPI_PM1_EVENT = 0,
    ACPI_PM1_EVENT_LENGTH = 4, // status word, enable word
    ACPI_PM1_CONTROL = 4,
    ACPI_PM1_CONTROL_LENGTH = 2,
    ACPI_PM_TIMER = 8,
    ACPI_PM_TIMER_LENGTH = 4,
    ACPI_PM_LENGTH = 12,
    ACPI_GPE0_LENGTH = 4, // two status bytes, two enable bytes: 16 events
    ACPI_GPE0_EVENTS = 16,
    ACPI_SLEEP_TYPE_S5 = 5, // SLP_TYP of \_S5 in the DSDT
    ACPI_PM_TIMER_HZ = 3579545,
};

struct acpi_pm;

struct acpi_pm_config {
    const char *id; // "acpi-pm"
    uint16_t pm_port, gpe0_port;
    uint32_t sci_gsi;
};

int acpi_pm_create(struct acpi_pm **pm, struct machine_bus *machine, struct bus *ports,
                   const struct acpi_pm_config *config, struct error *err);
struct device *acpi_pm_device(struct acpi_pm *pm);

// The power button was pressed. Any thread.
void acpi_pm_power_button(struct acpi_pm *pm);
// Raises general-purpose event `event` (below ACPI_GPE0_EVENTS). Any thread.
void acpi_pm_raise_gpe(struct acpi_pm *pm, unsigned event);
