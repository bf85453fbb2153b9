// printf-like formatting: %s %c %u %d %x %lu %ld %lx %%, with a width and zero padding. uint64_t is
// unsigned long here.
#pragma once

#include <stdarg.h>
#include <stddef.h>

// Writes at most size - 1 characters and a NUL; returns the length written (never more than size -
// 1).
size_t format_arguments(char *to, size_t size, const char *format, va_list arguments);
size_t format_text(char *to, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
