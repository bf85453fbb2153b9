// What the loader told: the memory map, the command line, the RSDP, by PVH's start info or
// multiboot's.
#pragma once

#include <stdint.h>

enum { MEMORY_MAP_MAX = 64 };

enum memory_type { // e820's numbers
    MEMORY_RAM = 1,
    MEMORY_RESERVED = 2,
    MEMORY_ACPI = 3,
    MEMORY_ACPI_NVS = 4,
};

struct memory_range {
    uint64_t start, size;
    uint32_t type;
};

struct boot_parameters {
    const char *protocol; // "pvh", "multiboot" or "unknown"
    uint64_t rsdp;        // 0: not told
    uint64_t module_start, module_size;
    unsigned range_count;
    struct memory_range ranges[MEMORY_MAP_MAX];
};

// Reads what boot.S saved; the command line goes to options_set. Everything is copied, so the
// loader's pages are free.
void boot_parameters_read(void);
const struct boot_parameters *boot_parameters(void);

// Sum of all RAM.
uint64_t memory_map_total(void);
