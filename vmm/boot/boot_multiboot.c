// Multiboot 1 (Multiboot Specification 0.6.96).

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/boot/elf_image.h"
#include "vmm/layout.h"

enum {
    HEADER_MAGIC = 0x1badb002,
    HEADER_SEARCH = 8192,
    HEADER_SIZE = 12,
    HEADER_SIZE_ADDRESSES = 32,
    FLAG_PAGE_ALIGN = 1 << 0,
    FLAG_MEMORY = 1 << 1,
    FLAG_ADDRESSES = 1 << 16,
    FLAGS_REQUIRED = 0xffff, // those that a loader must know or refuse
    BOOT_MAGIC = 0x2badb002,

    // Info structure, then the tables it points at, in one block at LAYOUT_BOOT_INFO.
    INFO_MEMORY = 1 << 0,
    INFO_COMMAND_LINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MEMORY_MAP = 1 << 6,
    INFO_LOADER_NAME = 1 << 9,
    INFO_SIZE = 120,
    MODULE_OFFSET = INFO_SIZE,
    MODULE_SIZE = 16,
    LOADER_OFFSET = MODULE_OFFSET + MODULE_SIZE,
    LOADER_SIZE = 8, // "ferry", zeros: the module's empty string is the last of them
    MAP_OFFSET = LOADER_OFFSET + LOADER_SIZE,
    MAP_ENTRY_SIZE = 24,
    BLOCK_SIZE = MAP_OFFSET + MEMORY_MAP_LIMIT * MAP_ENTRY_SIZE,
};

bool boot_multiboot_find(const struct boot_images *images, struct multiboot_header *header)
{
    const uint8_t *kernel = images->kernel;
    size_t end = images->kernel_size < HEADER_SEARCH ? images->kernel_size : HEADER_SEARCH;
    for (size_t at = 0; at + HEADER_SIZE <= end; at += 4) {
        uint32_t flags = bytes_get_u32(kernel + at + 4);
        if (bytes_get_u32(kernel + at) != HEADER_MAGIC ||
            (uint32_t)(HEADER_MAGIC + flags + bytes_get_u32(kernel + at + 8)) != 0)
            continue;
        *header = (struct multiboot_header){.offset = at, .flags = flags};
        if (flags & FLAG_ADDRESSES && images->kernel_size - at >= HEADER_SIZE_ADDRESSES) {
            header->header_address = bytes_get_u32(kernel + at + 12);
            header->load_address = bytes_get_u32(kernel + at + 16);
            header->load_end = bytes_get_u32(kernel + at + 20);
            header->bss_end = bytes_get_u32(kernel + at + 24);
            header->entry = bytes_get_u32(kernel + at + 28);
        }
        return true;
    }
    return false;
}

// The one piece of an image with address fields (3.1.3).
static int address_piece(const struct boot_images *images, const struct multiboot_header *header,
                         struct boot_piece *piece, struct error *err)
{
    uint64_t before = (uint64_t)header->header_address - header->load_address;
    if (images->kernel_size - header->offset < HEADER_SIZE_ADDRESSES)
        return error_set(err, ENOEXEC, "its multiboot header is cut off");
    if (header->header_address < header->load_address || before > header->offset)
        return error_set(err, ENOEXEC, "its multiboot header gives impossible addresses");
    uint64_t start = header->offset - before; // in the file
    uint64_t length = header->load_end ? (uint64_t)header->load_end - header->load_address
                                       : images->kernel_size - start;
    if (header->load_end && header->load_end < header->load_address)
        return error_set(err, ENOEXEC, "its multiboot header gives impossible addresses");
    if (length > images->kernel_size - start)
        return error_set(err, ENOEXEC,
                         "the file is cut off: its multiboot header says that %llu bytes are to be "
                         "loaded, it has %llu",
                         (unsigned long long)length,
                         (unsigned long long)(images->kernel_size - start));
    uint64_t size = header->bss_end ? (uint64_t)header->bss_end - header->load_address : length;
    if (header->bss_end && (header->bss_end < header->load_address || size < length))
        return error_set(err, ENOEXEC, "its multiboot header gives impossible addresses");
    if (header->entry < header->load_address || header->entry - header->load_address >= size)
        return error_set(err, ENOEXEC, "its multiboot entry 0x%x is outside of what it loads",
                         header->entry);
    *piece = (struct boot_piece){.what = "the kernel",
                                 .gpa = header->load_address,
                                 .size = size,
                                 .bytes = images->kernel + start,
                                 .length = length};
    return 0;
}

int boot_multiboot_check(const struct boot_images *images, const struct multiboot_header *header,
                         const struct elf_image *elf, struct error *err)
{
    uint32_t unknown = header->flags & FLAGS_REQUIRED & ~(FLAG_PAGE_ALIGN | FLAG_MEMORY);
    uint64_t entry;
    struct boot_piece piece;
    if (unknown)
        return error_set(err, ENOEXEC,
                         "its multiboot header demands features (0x%x) that aren't offered: only "
                         "aligned modules and memory information are",
                         unknown);
    if (header->flags & FLAG_ADDRESSES)
        return address_piece(images, header, &piece, err);
    if (!elf)
        return error_set(err, ENOEXEC,
                         "its multiboot header has no address fields and the file isn't ELF");
    if (elf->is_64)
        return error_set(err, ENOEXEC,
                         "a 64-bit ELF needs address fields in its multiboot header (or a PVH "
                         "note)");
    if (!elf_image_physical(elf, elf->entry, &entry))
        return error_set(err, ENOEXEC, "its entry 0x%llx is in no ELF segment",
                         (unsigned long long)elf->entry);
    return 0;
}

// "NAME OPTIONS": by custom the first word is the kernel's name. Blanks in it would shift the
// options.
static void join_command_line(const struct boot_images *images, char *out, size_t size)
{
    const char *slash = strrchr(images->kernel_name, '/');
    const char *name = slash ? slash + 1 : images->kernel_name;
    int length = snprintf(out, size, "%.255s", name);
    for (int i = 0; i < length; i++)
        if (out[i] == ' ' || out[i] == '\t')
            out[i] = '_';
    if (images->command_line[0])
        snprintf(out + length, size - (size_t)length, " %s", images->command_line);
}

static void write_memory(const struct memory_map *map, uint8_t *block)
{
    uint64_t upper = 0;
    for (unsigned i = 0; i < map->count; i++) {
        const struct memory_map_entry *e = &map->entries[i];
        uint8_t *entry = block + MAP_OFFSET + (size_t)i * MAP_ENTRY_SIZE;
        bytes_put_u32(entry, MAP_ENTRY_SIZE - 4); // the size field doesn't count itself
        bytes_put_u64(entry + 4, e->start);
        bytes_put_u64(entry + 12, e->size);
        bytes_put_u32(entry + 20, e->kind);
        if (e->start == LAYOUT_ONE_MIB && e->kind == MEMORY_USABLE)
            upper = e->size;
    }
    bytes_put_u32(block + 4, (uint32_t)(LAYOUT_EBDA / 1024)); // KiB from 0, from 1 MiB
    bytes_put_u32(block + 8, (uint32_t)(upper / 1024));
    bytes_put_u32(block + 44, map->count * MAP_ENTRY_SIZE);
    bytes_put_u32(block + 48, (uint32_t)LAYOUT_BOOT_INFO + MAP_OFFSET);
}

static void write_block(const struct boot_plan *plan, const struct boot_piece *module,
                        uint8_t *block)
{
    uint32_t flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME;
    bytes_put_u32(block + 16, (uint32_t)LAYOUT_BOOT_CMDLINE);
    if (module->size > 0) {
        flags |= INFO_MODULES;
        bytes_put_u32(block + 20, 1);
        bytes_put_u32(block + 24, (uint32_t)LAYOUT_BOOT_INFO + MODULE_OFFSET);
        bytes_put_u32(block + MODULE_OFFSET, (uint32_t)module->gpa);
        bytes_put_u32(block + MODULE_OFFSET + 4, (uint32_t)(module->gpa + module->size));
        bytes_put_u32(block + MODULE_OFFSET + 8,
                      (uint32_t)LAYOUT_BOOT_INFO + LOADER_OFFSET + LOADER_SIZE - 1);
    }
    memcpy(block + LOADER_OFFSET, "ferry", 6);
    bytes_put_u32(block + 64, (uint32_t)LAYOUT_BOOT_INFO + LOADER_OFFSET);
    bytes_put_u32(block, flags);
    write_memory(&plan->map, block);
}

// Adds the image and finds its entry.
static int add_kernel(struct boot_plan *plan, const struct multiboot_header *header,
                      const struct elf_image *elf, uint64_t *entry, struct error *err)
{
    if (!(header->flags & FLAG_ADDRESSES)) {
        elf_image_physical(elf, elf->entry, entry); // was checked
        return boot_plan_add_elf(plan, elf, err);
    }
    struct boot_piece piece;
    int rc = address_piece(plan->images, header, &piece, err);
    if (rc < 0)
        return rc;
    *entry = header->entry;
    return boot_plan_add(plan, &piece, err);
}

int boot_multiboot_load(struct boot_plan *plan, const struct multiboot_header *header,
                        const struct elf_image *elf, struct boot_entry *entry, struct error *err)
{
    const struct boot_images *images = plan->images;
    static const size_t name_room = 256;
    uint8_t block[BLOCK_SIZE] = {0};
    char command_line[0x10000 + 512];
    if (strlen(images->command_line) + name_room >= sizeof(command_line))
        return error_set(err, E2BIG, "the command line is longer than the 64 KiB that there are");
    join_command_line(images, command_line, sizeof(command_line));
    const struct boot_piece block_piece = {.what = "the multiboot info",
                                           .gpa = LAYOUT_BOOT_INFO,
                                           .size = sizeof(block),
                                           .bytes = block,
                                           .length = sizeof(block)};
    struct boot_piece module = {.what = "the module (initrd)",
                                .size = images->initrd ? images->initrd_size : 0,
                                .bytes = images->initrd,
                                .length = images->initrd ? images->initrd_size : 0};
    int rc = boot_plan_add_tables(plan, BOOT_PROTECTED_MODE, entry, err);
    if (rc == 0)
        rc = boot_plan_add(plan, &block_piece, err);
    if (rc == 0)
        rc = boot_plan_add_command_line(plan, command_line, UINT64_MAX, err);
    if (rc == 0)
        rc = add_kernel(plan, header, elf, &entry->rip, err);
    if (rc == 0)
        rc = boot_plan_add_highest(plan, &module, LAYOUT_ONE_MIB, LAYOUT_HIGH_RAM - 1, err);
    if (rc < 0)
        return rc;
    write_block(plan, &module, block);
    boot_plan_commit(plan);
    entry->rax = BOOT_MAGIC;
    entry->rbx = LAYOUT_BOOT_INFO;
    return 0;
}
