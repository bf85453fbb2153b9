// PCI: one host bridge with bus 0, 32 slots of one function, config space by ports 0xcf8/0xcfc
// (PCI Local Bus 3.0, 3.2.2.3.2) and by ECAM (PCI Express 7.2.2).
//
// A function's config space is 4096 bytes with a mask of the bits that the guest may write. BARs
// are 32-bit memory; there is no firmware, so pci_bus_assign() gives each an address before the
// first vCPU runs, and the guest may move it: the range on the MMIO bus and the owner's doorbells
// follow in the same call.
//
// The range on the MMIO bus lasts as long as memory decoding is on and the BAR lies in the bus's
// window without overlapping another's; a BAR that had to stay undecoded gets its range as soon as
// the other one has moved away.
//
// Port 0xcf9, in the middle of the config ports, is the reset control register.
//
// Threads: config accesses come from vCPU threads and take the bus's mutex; BAR handlers run
// without it. Lock order: pci_bus.lock, then a device's own mutex (a function's callbacks run under
// pci_bus.lock).
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

enum {
    PCI_SLOTS = 32,
    PCI_BARS = 6,
    PCI_CONFIG_SIZE = 4096,
    PCI_ECAM_SIZE = 1 << 20, // bus 0
};

struct pci_function;

// What the owner of a function may want to know; both may be NULL. Called under pci_bus.lock.
struct pci_function_ops {
    // BAR `index` is decoded at `address` now; or not at all (mapped = false). Doorbells follow
    // here.
    void (*bar_mapped)(struct pci_function *function, unsigned index, uint64_t address,
                       bool mapped);
    // The guest wrote config bytes that the owner keeps (e.g. the window of virtio's PCI
    // capability); `offset` and `length` say which: a naturally aligned byte, word or double word.
    // The bytes are in function->config already.
    void (*config_written)(struct pci_function *function, unsigned offset, unsigned length);
    // The guest reads config bytes: the owner may refresh them first.
    void (*config_read)(struct pci_function *function, unsigned offset, unsigned length);
};

struct pci_bar {
    uint32_t size;                     // power of two >= 16; 0 = no BAR
    const struct bus_handler *handler; // of the MMIO range
    void *opaque;
    uint32_t assigned;  // where pci_bus_assign() put it, 0 before; a reset returns to it
    uint32_t mapped_at; // 0 while not decoded
};

struct pci_msix;

struct pci_function {
    const struct pci_function_ops *ops;
    struct pci_bus *bus;
    const char *name;
    uint8_t slot;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; // bits that the guest may set and clear
    struct pci_bar bars[PCI_BARS];
    struct pci_msix *msix;   // NULL without MSI-X
    uint16_t capability_end; // first free byte for the next capability
};

struct pci_bus {
    struct device device; // of the host bridge: resets, saves and loads what isn't of a function
    struct machine_bus *machine;
    struct bus *ports, *mmio;
    struct pci_function bridge; // slot 0
    struct pci_function *slots[PCI_SLOTS];
    pthread_mutex_t lock;    // guards config spaces, BAR positions and slots
    uint32_t config_address; // latch of port 0xcf8
    uint8_t reset_control;   // port 0xcf9
    uint64_t ecam_base;
    uint32_t window_start, window_end; // where BARs may be
};

struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; // base class, subclass, interface in the low 24 bits
};

// Makes the bus with its host bridge in slot 0, the config ports on `ports` and the ECAM on `mmio`.
int pci_bus_init(struct pci_bus *bus, struct machine_bus *machine, struct bus *ports,
                 struct bus *mmio, uint64_t ecam_base, uint32_t window_start, uint32_t window_end,
                 struct error *err);
// Every function was unplugged before. It is also what the device's destroy does; the memory of
// *bus belongs to the caller.
void pci_bus_destroy(struct pci_bus *bus);

// Fills in the header of a new function; BARs and capabilities are added before it is plugged.
void pci_function_init(struct pci_function *function, const struct pci_function_ops *ops,
                       const char *name, const struct pci_identity *identity);
void pci_function_add_bar(struct pci_function *function, unsigned index, uint32_t size,
                          const struct bus_handler *handler, void *opaque);
// Adds a capability of `length` bytes (with its two header bytes); returns its config offset, 0
// when full.
uint16_t pci_function_add_capability(struct pci_function *function, uint8_t id, uint8_t length);
// Adds MSI-X (PCI 3.0, 6.8.2) with `vectors` entries; table and pending bits live in BAR `bar` at
// `offset` (the owner's BAR handler forwards accesses there to pci_msix_read/write). 0 or -errno.
int pci_function_add_msix(struct pci_function *function, struct machine_bus *machine,
                          unsigned vectors, unsigned bar, uint32_t table_offset,
                          uint32_t pending_offset);
// Takes the lowest free slot, or `slot` when it is not 0. 0; -ENOSPC; -EBUSY.
int pci_bus_plug(struct pci_bus *bus, struct pci_function *function, uint8_t slot);
// Unmaps the BARs, frees the vectors and the slot. Also right for a function that was never
// plugged.
void pci_bus_unplug(struct pci_bus *bus, struct pci_function *function);
// Bit N: slot N has a function.
uint32_t pci_bus_present(struct pci_bus *bus);
// Gives each BAR without an address one in the window and turns memory decoding on. -ENOSPC when
// full.
int pci_bus_assign(struct pci_bus *bus, struct error *err);
// Writable config bits to 0 and MSI-X to power-on state, then the BARs and the command register as
// pci_bus_assign() left them. Vectors that were pending are forgotten.
void pci_function_reset(struct pci_function *function);
// Config space and MSI-X state of one function. Loading takes the writable bits only, refuses the
// state of another kind of function, and moves BARs (with their callbacks) as the state has them.
void pci_function_save(struct pci_function *function, struct byte_writer *writer);
int pci_function_load(struct pci_function *function, struct byte_reader *reader, struct error *err);

// MSI-X table and pending-bit array, for the owner's BAR handler: offsets from the table's, and the
// pending array's, start. Any width.
uint64_t pci_msix_table_read(struct pci_function *function, uint64_t offset, unsigned length);
void pci_msix_table_write(struct pci_function *function, uint64_t offset, unsigned length,
                          uint64_t value);
uint64_t pci_msix_pending_read(struct pci_function *function, uint64_t offset, unsigned length);
// Raises vector `index`: writes its eventfd. Out of range or MSI-X disabled: nothing. Any thread.
void pci_msix_notify(struct pci_function *function, unsigned index);
bool pci_msix_enabled(const struct pci_function *function);

// For pci.c: what changes with the config space. Under pci_bus.lock.
void pci_msix_control_written(struct pci_function *function);
void pci_msix_reset(struct pci_function *function);
void pci_msix_save(struct pci_function *function, struct byte_writer *writer);
int pci_msix_load(struct pci_function *function, struct byte_reader *reader, struct error *err);
// Frees the vectors. function->msix is NULL afterwards.
void pci_msix_free(struct pci_function *function);
