// virtio-console, its first port (virtio 1.2, 5.3).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool virtio_console_open(void);

// The same, and takes over the guest's output. Any vCPU may print, and before interrupts are on: so
// it waits for the device by looking at the ring.
bool virtio_console_take_output(void);

// Waits until the device has taken the bytes.
void virtio_console_write(const void *bytes, size_t size);

// Takes what has arrived, up to size bytes; sleeps until the TSC passes `until` (0: for ever) or
// another interrupt comes when there's nothing yet.
size_t virtio_console_read(void *bytes, size_t size, uint64_t until);
