// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), the checksum of ferry's file and wire
// formats. By the processor's instruction where there is one.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Continues `crc` (0 to begin) over more bytes: crc32c(crc32c(0, a), b) is that of a and b joined.
uint32_t crc32c(uint32_t crc, const void *bytes, size_t length);
// The same without the instruction, for processors that lack it and for the test.
uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t length);
