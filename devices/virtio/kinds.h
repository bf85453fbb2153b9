// Every kind of virtio device: the one place where they are listed. virtio_device_init() refuses
// what isn't here.
#pragma once

#include "devices/virtio/pci_transport.h"

extern const struct virtio_device_ops virtio_blk_ops;
extern const struct virtio_device_ops virtio_net_ops;
extern const struct virtio_device_ops virtio_console_ops;
extern const struct virtio_device_ops virtio_rng_ops;
extern const struct virtio_device_ops virtio_balloon_ops;
extern const struct virtio_device_ops virtio_vsock_ops;

// Ended by NULL.
extern const struct virtio_device_ops *const virtio_device_kinds[];
