// Memory: allocation from the RAM that the loader's map names, and the page tables beyond what
// boot.S made.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Takes over the memory map and maps the RAM above 4 GiB.
void pages_start(void);

// Allocates contiguous memory, never to be freed; alignment is a power of two of at least 4096. The
// contents are whatever was there. NULL when no range has so much.
void *pages_allocate(uint64_t size, uint64_t alignment);

// The same, zeroed.
void *pages_allocate_zeroed(uint64_t size, uint64_t alignment);

// The most that pages_allocate could give in one piece with 4 KiB alignment.
uint64_t pages_largest(void);

// Whether [start, start + size) is RAM that pages_allocate hasn't given away; takes it if so.
bool pages_take(uint64_t start, uint64_t size);

// What is free now; giving that back makes everything allocated since free again. Nothing may have
// been mapped meanwhile, since page tables are allocated too.
enum { PAGES_RANGES_MAX = 64 };
struct pages_mark {
    uint64_t starts[PAGES_RANGES_MAX];
};
void pages_mark_take(struct pages_mark *mark);
void pages_mark_return(const struct pages_mark *mark);

// Maps device memory, uncached, at its physical address.
void pages_map_device(uint64_t start, uint64_t size);
