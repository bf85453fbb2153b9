// Sizes, durations and percentages as people write them on a command line.
#pragma once

#include <stddef.h>
#include <stdint.h>

// "512M", "4G", "65536", "1.5G" is refused: integers with K, M, G, T (powers of 1024) and an
// optional "iB" or "B". 0, or -EINVAL (not a size) or -ERANGE (more than 2^64 - 1).
int units_parse_size(const char *text, uint64_t *bytes);
// "10ms", "3s", "250us", "5m", "2h", "100ns"; a bare number is an error. Nanoseconds out.
int units_parse_duration(const char *text, uint64_t *ns);
// "150%" or "0.5" (of one CPU); in thousandths out (150% = 1500).
int units_parse_share(const char *text, uint32_t *thousandths);
// A whole unsigned decimal number with nothing behind it, at most `max`.
int units_parse_number(const char *text, uint64_t max, uint64_t *value);
// "512 MiB", "1.5 GiB", "17 B". Returns `out`.
char *units_format_size(uint64_t bytes, char *out, size_t size);
