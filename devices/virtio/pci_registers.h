// The registers of the virtio PCI transport: decoding of accesses to BAR 0 and to the PCI
// configuration access window (virtio 1.2, 4.1.4). What a register does to the device's life is in
// pci_transport.c.
#pragma once

#include "devices/virtio/pci_transport.h"

// Handles BAR 0; the opaque value is the virtio_device. Takes the device's lock.
extern const struct bus_handler virtio_bar_handler;

// Adds the five vendor capabilities to device->function. 0, or -ENOSPC.
int virtio_registers_add_capabilities(struct virtio_device *device);
// The driver read or wrote PCI configuration bytes: serves the access window when they are its
// data. Under pci_bus.lock.
void virtio_registers_config_read(struct pci_function *function, unsigned offset, unsigned length);
void virtio_registers_config_written(struct pci_function *function, unsigned offset,
                                     unsigned length);

// What registers cause; all under device->lock. In pci_transport.c.
void virtio_transport_reset(struct virtio_device *device);
bool virtio_transport_accept_features(struct virtio_device *device);
void virtio_transport_start(struct virtio_device *device);
void virtio_transport_enable_queue(struct virtio_device *device, struct virtio_queue *queue);
void virtio_transport_reset_queue(struct virtio_device *device, struct virtio_queue *queue);
