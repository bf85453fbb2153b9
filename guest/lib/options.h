// The command line: words `key=value` separated by spaces; a value with spaces stands in double
// quotes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Keeps a copy of the line.
void options_set(const char *command_line);
const char *options_line(void);

// The value for a key, or the default when it isn't given. The last one given counts.
const char *option_string(const char *key, const char *otherwise);

// Decimal or 0x number, with an optional suffix k, M, G, T (powers of 1024).
uint64_t option_number(const char *key, uint64_t otherwise);

bool option_is(const char *key, const char *value);

// Dotted quad in host order.
uint32_t option_ipv4(const char *key, uint32_t otherwise);
