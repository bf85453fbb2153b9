// The 16550 at COM1: polled output, input polled or announced by its interrupt.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// Whether something answers at the port.
bool serial_present(void);

void serial_write(const void *bytes, size_t size);

// Takes what has arrived, up to size bytes, without waiting.
size_t serial_read(void *bytes, size_t size);

// Received bytes raise the port's interrupt (ISA line 4).
void serial_interrupt_on_input(void);
