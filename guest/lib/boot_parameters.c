#include "guest/lib/boot_parameters.h"

#include "guest/lib/memory.h"
#include "guest/lib/options.h"

enum {
    PVH_MAGIC = 0x336ec578,
    MULTIBOOT_MAGIC = 0x2badb002,
};

// Xen's hvm_start_info, version 1.
struct pvh_start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp;
    uint64_t memory_map;
    uint32_t memory_map_entries, reserved;
};

struct pvh_memory_entry {
    uint64_t start, size;
    uint32_t type, reserved;
};

struct pvh_module {
    uint64_t start, size, command_line, reserved;
};

// Multiboot 0.6.96, 3.3.
struct multiboot_info {
    uint32_t flags, memory_lower, memory_upper, boot_device, command_line;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t memory_map_size, memory_map;
};

enum {
    MULTIBOOT_MEMORY = 1 << 0,
    MULTIBOOT_COMMAND_LINE = 1 << 2,
    MULTIBOOT_MODULES = 1 << 3,
    MULTIBOOT_MEMORY_MAP = 1 << 6,
};

struct multiboot_memory_entry {
    uint32_t entry_size; // of what follows
    uint64_t start, size;
    uint32_t type;
} __attribute__((packed));

struct multiboot_module {
    uint32_t start, end, command_line, reserved;
};

extern uint32_t boot_magic, boot_info;

static struct boot_parameters parameters = {.protocol = "unknown"};

static void range_add(uint64_t start, uint64_t size, uint32_t type)
{
    if (parameters.range_count < MEMORY_MAP_MAX && size)
        parameters.ranges[parameters.range_count++] = (struct memory_range){start, size, type};
}

static void read_pvh(const struct pvh_start_info *info)
{
    parameters.protocol = "pvh";
    parameters.rsdp = info->rsdp;
    if (info->command_line)
        options_set((const char *)info->command_line);
    if (info->module_count) {
        const struct pvh_module *module = (const void *)info->modules;
        parameters.module_start = module->start;
        parameters.module_size = module->size;
    }
    if (info->version < 1)
        return;
    const struct pvh_memory_entry *entry = (const void *)info->memory_map;
    for (uint32_t i = 0; i < info->memory_map_entries; i++)
        range_add(entry[i].start, entry[i].size, entry[i].type);
}

static void read_multiboot(const struct multiboot_info *info)
{
    parameters.protocol = "multiboot";
    if (info->flags & MULTIBOOT_COMMAND_LINE)
        options_set((const char *)(uint64_t)info->command_line);
    if (info->flags & MULTIBOOT_MODULES && info->module_count) {
        const struct multiboot_module *module = (const void *)(uint64_t)info->modules;
        parameters.module_start = module->start;
        parameters.module_size = module->end - module->start;
    }
    if (info->flags & MULTIBOOT_MEMORY_MAP) {
        for (uint32_t at = 0; at < info->memory_map_size;) {
            const struct multiboot_memory_entry *entry =
                (const void *)(uint64_t)(info->memory_map + at);
            range_add(entry->start, entry->size, entry->type);
            at += entry->entry_size + 4;
        }
    } else if (info->flags & MULTIBOOT_MEMORY) {
        range_add(0, (uint64_t)info->memory_lower << 10, MEMORY_RAM);
        range_add(0x100000, (uint64_t)info->memory_upper << 10, MEMORY_RAM);
    }
}

void boot_parameters_read(void)
{
    const struct pvh_start_info *pvh = (const void *)(uint64_t)boot_info;
    // PVH leaves EAX undefined, so its magic decides first. Multiboot's first field, flags, can't
    // look like it.
    if (pvh->magic == PVH_MAGIC)
        read_pvh(pvh);
    else if (boot_magic == MULTIBOOT_MAGIC)
        read_multiboot((const void *)(uint64_t)boot_info);
}

const struct boot_parameters *boot_parameters(void)
{
    return &parameters;
}

uint64_t memory_map_total(void)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < parameters.range_count; i++)
        if (parameters.ranges[i].type == MEMORY_RAM)
            total += parameters.ranges[i].size;
    return total;
}
