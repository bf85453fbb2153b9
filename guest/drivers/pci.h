// PCI: configuration space by ECAM where the MCFG has the bus (`pci=ports` declines), else by
// 0xcf8/0xcfc; BARs; MSI-X.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pci_device {
    uint8_t bus, slot, function;
    uint16_t vendor, device;
};

uint8_t pci_read8(const struct pci_device *device, uint16_t offset);
uint16_t pci_read16(const struct pci_device *device, uint16_t offset);
uint32_t pci_read32(const struct pci_device *device, uint16_t offset);
void pci_write16(const struct pci_device *device, uint16_t offset, uint16_t value);
void pci_write32(const struct pci_device *device, uint16_t offset, uint32_t value);

// Visits every function, bus by bus; stops when visit returns false.
void pci_visit(bool (*visit)(const struct pci_device *device, void *argument), void *argument);

// The capability of that id after `after` (0: the first); 0 at the end.
uint8_t pci_capability(const struct pci_device *device, uint8_t id, uint8_t after);

// Maps a memory BAR and switches decoding and bus mastering on; gives it an address when no
// firmware did. 0 when it isn't a memory BAR.
uint64_t pci_bar_map(const struct pci_device *device, uint8_t bar);

struct pci_msix {
    const struct pci_device *device;
    volatile uint32_t *table; // 4 words an entry
    uint16_t entries;
    uint8_t capability;
};

// Finds the table and switches MSI-X on, every entry masked.
bool pci_msix_enable(const struct pci_device *device, struct pci_msix *msix);
bool pci_msix_route(struct pci_msix *msix, uint16_t entry, uint32_t apic_id, uint8_t vector);
