// The few lines of TAP that the simulator's programs print.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct tap {
    int count, failed;
};

// Prints `ok N - name` or `not ok N - name`; returns `good`.
__attribute__((format(printf, 3, 4))) static inline bool tap_ok(struct tap *tap, bool good,
                                                                const char *format, ...)
{
    va_list arguments;

    printf("%s %d - ", good ? "ok" : "not ok", ++tap->count);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    tap->failed += !good;
    return good;
}

// Prints the plan; the exit code of the program.
static inline int tap_end(const struct tap *tap)
{
    printf("1..%d\n", tap->count);
    return tap->failed != 0;
}
