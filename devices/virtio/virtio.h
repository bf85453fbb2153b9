// Virtio devices, as the machine builder sees them: what each needs to be made, and what it counts.
//
// Each virtio_*_create() makes one device, plugs it into the PCI bus and returns a `struct device`
// that the machine handles like any other (devices/device.h). On failure nothing is left and what
// the configuration handed in stays the caller's; on success it belongs to the device.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/io_thread.h"
#include "devices/device.h"
#include "devices/machine_ops.h"
#include "devices/pci.h"

struct virtio_environment {
    struct machine_bus *machine;
    struct pci_bus *pci;
    struct io_thread *io_thread; // serves all queues of the device; outlives it
    const char *id;              // "disk0": goes to device->id
    uint8_t slot;                // PCI slot; 0 = the lowest free one
};

// Per queue, since the device was made. Plain numbers: a snapshot.
struct virtio_queue_counters {
    uint64_t requests;      // descriptor chains completed
    uint64_t bytes;         // payload, both directions
    uint64_t notifications; // kicks that reached the device
    uint64_t interrupts;    // sent to the driver
    uint64_t suppressed;    // not sent, because the driver had asked for none
};

// True for what a virtio_*_create() returned.
bool virtio_device_is(const struct device *device);
unsigned virtio_device_queue_count(const struct device *device);
// Its PCI slot, and the thread that serves its queues.
uint8_t virtio_device_slot(const struct device *device);
struct io_thread *virtio_device_thread(const struct device *device);
// Any thread. False when there is no such queue.
bool virtio_device_counters(const struct device *device, unsigned queue,
                            struct virtio_queue_counters *counters);
