// A 16550A serial port on eight I/O ports with one interrupt line.
//
// Output goes to a sink that says how many bytes it took. What it didn't take stays in the
// transmitter, the guest sees a busy port and waits: back-pressure without a buffer that grows.
// Characters take no time: a byte has left when the sink has it, and received bytes that don't
// reach the FIFO's trigger level raise the time-out interrupt at once.
//
// Threads: register accesses on vCPU threads, serial_input() and serial_output_ready() on any
// thread. One mutex guards all state; irq_line is called under it. The sink's functions are called
// without it (write: by one thread at a time), so they may take locks under which others call
// serial_input() or serial_output_ready(). Between quiesce and resume no sink function is called
// and no input is taken.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

struct serial;

struct serial_config {
    const char *id; // "serial0"
    uint16_t port;
    uint32_t gsi;
    // Takes output without blocking; returns how many bytes it took, 0 for none. After it took
    // fewer than `length`, serial_output_ready() must come when there is room.
    size_t (*write)(void *opaque, const uint8_t *bytes, size_t length);
    // There is room for input again, after a serial_input() that didn't take all. May be NULL.
    void (*input_ready)(void *opaque);
    void *opaque;
};

// 0 or -errno with a sentence. The device is destroyed through its device_ops.
int serial_create(struct serial **serial, struct machine_bus *machine, struct bus *ports,
                  const struct serial_config *config, struct error *err);
struct device *serial_device(struct serial *serial);

// The sink has room again: what is waiting is offered to it.
void serial_output_ready(struct serial *serial);
// Bytes typed at the port. Returns how many the receiver took (0 to `length`).
size_t serial_input(struct serial *serial, const uint8_t *bytes, size_t length);
