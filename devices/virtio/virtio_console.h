// virtio-console (virtio 1.2, 5.3) with one port.
//
// Output: the device hands bytes to the sink on its I/O thread. A sink that takes fewer than it was
// offered gets no more until virtio_console_room() is called; meanwhile the guest's buffers wait in
// the queue, so a slow reader slows the guest's writer and nothing is lost or buffered without end.
// Input: virtio_console_input() takes what fits into a small buffer and says how much that was.
#pragma once

#include "devices/virtio/virtio.h"

struct virtio_console_config {
    // Takes up to `length` bytes of guest output, returns how many. On the I/O thread.
    size_t (*output)(void *opaque, const void *bytes, size_t length);
    // There is room for input again, after virtio_console_input() had taken less than it was given.
    // On the I/O thread. May be NULL.
    void (*input_room)(void *opaque);
    void *opaque;
};

int virtio_console_create(struct device **device, const struct virtio_environment *env,
                          const struct virtio_console_config *config, struct error *err);
// The sink has room again. Any thread; a call too many does no harm.
void virtio_console_room(struct device *device);
// Bytes for the guest; returns how many were taken. Any thread.
size_t virtio_console_input(struct device *device, const void *bytes, size_t length);
// The terminal has this size now; the guest is told. Any thread.
void virtio_console_resize(struct device *device, uint16_t columns, uint16_t rows);
