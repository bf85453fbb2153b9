// What a device may ask of the machine it is in. Devices know nothing else of it, and nothing of
// KVM: vmm/ implements this with irqfd, ioeventfd and routes, tests with counters.
//
// Invariant: nothing that a device got here outlives it; its destroy gives everything back before
// its memory goes.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/guest_memory.h"
#include "base/lease.h"

// Why a device ends or restarts the machine.
enum machine_request {
    MACHINE_REQUEST_POWER_OFF, // the guest entered S5
    MACHINE_REQUEST_RESET,     // the guest wrote the reset register
    MACHINE_REQUEST_EXIT,      // the guest wrote the debug-exit port; value = process exit code
    MACHINE_REQUEST_PANIC,     // the guest's kernel says it crashed; value = events of pvpanic.h
};

// A guest write to this address rings an eventfd without leaving the kernel.
struct doorbell {
    uint64_t address; // port or gpa
    uint32_t length;  // bytes of the access: 1, 2, 4, 8; 0 = any (only without match)
    bool port;        // a port, else MMIO
    bool match;       // only writes of `value`
    uint64_t value;
    int event_fd;
};

struct machine_ops {
    // Level of an interrupt line by global system interrupt number. Any thread.
    void (*irq_line)(void *machine, uint32_t gsi, bool level);

    // A message-signalled interrupt vector. *event_fd belongs to the vector: the device writes 1 to
    // it to raise the interrupt, from any thread. While masked the count stays in the eventfd
    // (readable = pending); unmasking delivers it. Returns a handle >= 0, or -errno. New vectors
    // are masked.
    int (*msi_new)(void *machine, int *event_fd);
    // The guest programmed address and data, or the mask. 0 or -errno.
    int (*msi_update)(void *machine, int vector, uint64_t address, uint32_t data, bool masked);
    void (*msi_free)(void *machine, int vector);

    // 0 or -errno; the address may not have a doorbell with the same match yet.
    int (*doorbell_add)(void *machine, const struct doorbell *doorbell);
    void (*doorbell_remove)(void *machine, const struct doorbell *doorbell);

    // Maps host memory (page-aligned) into the guest; not RAM in the sense of the accessor.
    int (*memory_map)(void *machine, uint64_t gpa, void *hva, uint64_t size, bool read_only);
    void (*memory_unmap)(void *machine, uint64_t gpa, uint64_t size);

    // Asks for the end or restart of the machine; returns at once, the calling vCPU stops soon
    // after.
    void (*request)(void *machine, enum machine_request request, int value);
};

// The machine as its devices see it.
struct machine_bus {
    const struct machine_ops *ops;
    void *machine;
    struct guest_memory *memory;
    struct lease *lease; // NULL: none
};

// Whether a device may act for the machine towards others: before each frame it sends. Any thread.
static inline bool machine_may_act(const struct machine_bus *machine)
{
    return !machine->lease || lease_holds(machine->lease);
}
