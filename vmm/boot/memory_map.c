#include "vmm/boot/memory_map.h"

#include "vmm/layout.h"

static void add(struct memory_map *map, uint64_t start, uint64_t end, enum memory_kind kind)
{
    if (start < end && map->count < MEMORY_MAP_LIMIT)
        map->entries[map->count++] =
            (struct memory_map_entry){.start = start, .size = end - start, .kind = kind};
}

// The part of a RAM region below 1 MiB. From 0xa0000 to 0xdffff a PC has no RAM that it would tell
// of.
static void add_first_mib(struct memory_map *map, uint64_t end)
{
    const uint64_t video = 0xa0000;
    add(map, 0, end < LAYOUT_EBDA ? end : LAYOUT_EBDA, MEMORY_USABLE);
    add(map, LAYOUT_EBDA, end < video ? end : video, MEMORY_RESERVED);
    // The first page of the tables has the FACS, which the guest must leave alone (ACPI 6.4,
    // 15.1); the rest it may reclaim.
    uint64_t tables = LAYOUT_ACPI_TABLES + GUEST_PAGE_SIZE;
    if (end >= LAYOUT_ONE_MIB) {
        add(map, LAYOUT_ACPI_TABLES, tables, MEMORY_ACPI_NVS);
        add(map, tables, LAYOUT_ONE_MIB, MEMORY_ACPI_TABLES);
    }
}

void memory_map_build(struct memory_map *map, const struct guest_memory *memory)
{
    map->count = 0;
    bool ecam_added = false;
    for (unsigned i = 0; i < memory->count; i++) {
        uint64_t start = memory->regions[i].gpa;
        uint64_t end = start + memory->regions[i].size;
        if (start >= LAYOUT_HIGH_RAM && !ecam_added) {
            add(map, LAYOUT_PCI_ECAM, LAYOUT_PCI_ECAM + (1 << 20), MEMORY_RESERVED);
            ecam_added = true;
        }
        if (start < LAYOUT_ONE_MIB) {
            add_first_mib(map, end);
            start = LAYOUT_ONE_MIB;
        }
        add(map, start, end, MEMORY_USABLE);
    }
    if (!ecam_added)
        add(map, LAYOUT_PCI_ECAM, LAYOUT_PCI_ECAM + (1 << 20), MEMORY_RESERVED);
}

bool memory_map_is_usable(const struct memory_map *map, uint64_t start, uint64_t size)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct memory_map_entry *e = &map->entries[i];
        if (e->kind == MEMORY_USABLE && start >= e->start && start - e->start < e->size &&
            size <= e->size - (start - e->start))
            return true;
    }
    return false;
}

bool memory_map_find_highest(const struct memory_map *map, uint64_t size, uint64_t align,
                             uint64_t floor, uint64_t ceiling, uint64_t *address)
{
    for (unsigned i = map->count; i-- > 0;) {
        const struct memory_map_entry *e = &map->entries[i];
        uint64_t last = e->start + e->size - 1;
        uint64_t lowest = e->start > floor ? e->start : floor;
        if (last > ceiling)
            last = ceiling;
        if (e->kind != MEMORY_USABLE || size == 0 || lowest > last || size - 1 > last - lowest)
            continue;
        uint64_t start = (last - (size - 1)) & ~(align - 1);
        if (start >= lowest) {
            *address = start;
            return true;
        }
    }
    return false;
}
