// Hot plug of PCI slots, as ACPI has it (ACPI 6.4, 5.6.6): registers behind which the DSDT's
// methods find out what to notify, and through which the guest ejects.
//
// Ports, as double words; bit N is slot N:
//   0  inserted   devices came; writing ones clears
//   4  removal    the guest is asked to give devices up; writing ones clears
//   8  present    read: slots with a device; write: eject these
//
// Each event also raises a general-purpose event, whose handler looks here. Ejecting tells the
// machine, which removes the device before the guest's next instruction; or later, when something
// stands against it: until then the wish is kept here, also over a move.
//
// Threads: registers on vCPU threads, the rest from any. One mutex guards all state; it is never
// held while the PCI bus's is taken.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"

enum {
    PCI_HOTPLUG_INSERTED = 0,
    PCI_HOTPLUG_REMOVAL = 4,
    PCI_HOTPLUG_PRESENT = 8,
    PCI_HOTPLUG_LENGTH = 12,
    PCI_HOTPLUG_GPE = 1, // the event's number: _E01 in the DSDT
};

struct pci_hotplug;

struct pci_hotplug_config {
    const char *id; // "hotplug0"
    uint16_t port;
    struct pci_bus *pci;
    struct acpi_pm *pm;
    // The guest ejects: pci_hotplug_take_ejected() has something. On a vCPU thread.
    void (*ejected)(void *opaque);
    void *opaque;
};

int pci_hotplug_create(struct pci_hotplug **hotplug, struct bus *ports,
                       const struct pci_hotplug_config *config, struct error *err);
struct device *pci_hotplug_device(struct pci_hotplug *hotplug);

// Tells the guest that the slot has a device now.
void pci_hotplug_insert(struct pci_hotplug *hotplug, unsigned slot);
// Asks the guest to give the slot's device up.
void pci_hotplug_ask_removal(struct pci_hotplug *hotplug, unsigned slot);
// The slot's device has gone: what was to be said of it is forgotten.
void pci_hotplug_forget(struct pci_hotplug *hotplug, unsigned slot);
// Slots that the guest ejects, each told once.
uint32_t pci_hotplug_take_ejected(struct pci_hotplug *hotplug);
