// The guest's output: whole machine-readable lines, one at a time whichever vCPU prints.
#pragma once

#include <stddef.h>

// Prints "ferry-guest: " and the formatted text as one line.
void console_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The bytes as they are (echo tests).
void console_write(const void *bytes, size_t size);

// Where the bytes go. The serial port until it's said otherwise; a driver that took over must not
// print from inside.
void console_output(void (*write)(const void *bytes, size_t size));
