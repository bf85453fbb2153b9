// A machine without KVM for tests of devices: RAM, the buses, PCI, an I/O thread, and a machine_ops
// that counts. Doorbells work as KVM's do: a matching write rings and goes no further.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/guest_memory.h"
#include "base/io_thread.h"
#include "devices/bus.h"
#include "devices/machine_ops.h"
#include "devices/pci.h"

enum { FAKE_VECTORS = 512, FAKE_DOORBELLS = 256, FAKE_PCI_WINDOW = 0xc0000000u };
#define FAKE_ECAM UINT64_C(0xe0000000)

struct fake_vector {
    bool used, masked;
    int event_fd;
    uint64_t address;
    uint32_t data;
};

struct fake_machine {
    struct machine_bus bus;
    struct guest_memory memory;
    uint8_t *ram; // at gpa 0
    uint64_t ram_size;
    struct bus ports, mmio;
    struct pci_bus pci;
    struct io_thread *thread;
    pthread_mutex_t lock; // guards the rest
    struct fake_vector vectors[FAKE_VECTORS];
    struct doorbell doorbells[FAKE_DOORBELLS];
    unsigned doorbell_count;
    unsigned doorbell_adds, doorbell_removes;
    bool refuse_doorbells;
};

// Never fails: aborts instead.
void fake_machine_init(struct fake_machine *m, uint64_t ram_size);
// Every device was destroyed. Aborts when a vector or doorbell is left.
void fake_machine_destroy(struct fake_machine *m);

// What a vCPU does.
uint64_t fake_machine_read(struct fake_machine *m, uint64_t address, unsigned length);
void fake_machine_write(struct fake_machine *m, uint64_t address, unsigned length, uint64_t value);
uint32_t fake_machine_config_read(struct fake_machine *m, unsigned slot, unsigned offset,
                                  unsigned length);
void fake_machine_config_write(struct fake_machine *m, unsigned slot, unsigned offset,
                               unsigned length, uint32_t value);

// The eventfd of the unmasked vector that was programmed with this data; -1 when there is none.
int fake_machine_vector_fd(struct fake_machine *m, uint32_t data);
// Returns when the I/O thread has served what was ready when this was called.
void fake_machine_settle(struct fake_machine *m);
