// The memory map that every boot protocol hands to the guest (as e820, PVH memmap or multiboot
// mmap): one list, made from the RAM regions and the layout. What isn't listed is nobody's.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/guest_memory.h"

// Values as in e820 (ACPI 6.4, table 15.4).
enum memory_kind {
    MEMORY_USABLE = 1,
    MEMORY_RESERVED = 2,
    MEMORY_ACPI_TABLES = 3,
    MEMORY_ACPI_NVS = 4,
};

enum { MEMORY_MAP_LIMIT = 16 };

struct memory_map_entry {
    uint64_t start, size;
    enum memory_kind kind;
};

// Ascending, not overlapping.
struct memory_map {
    struct memory_map_entry entries[MEMORY_MAP_LIMIT];
    unsigned count;
};

void memory_map_build(struct memory_map *map, const struct guest_memory *memory);
// Whether [start, start + size) lies in one usable entry.
bool memory_map_is_usable(const struct memory_map *map, uint64_t start, uint64_t size);
// The highest aligned address for `size` bytes in a usable entry, within [floor, ceiling]
// (`ceiling` is the last byte allowed). `align` is a power of two. False when there is none.
bool memory_map_find_highest(const struct memory_map *map, uint64_t size, uint64_t align,
                             uint64_t floor, uint64_t ceiling, uint64_t *address);
