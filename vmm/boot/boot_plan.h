// What a loader is going to put where in guest RAM: a list of pieces, each checked against the
// memory map and the others when it is added. Only boot_plan_commit() writes, and it can't fail.
// So a refused image leaves no trace.
//
// For the loaders only; others use boot_image.h.
#pragma once

#include "base/error.h"
#include "vmm/boot/boot_image.h"
#include "vmm/boot/memory_map.h"

enum {
    BOOT_PLAN_LIMIT = 96,
    BOOT_PAGE_TABLES_SIZE = 6 * GUEST_PAGE_SIZE, // 4-level tables for 4 GiB by 2 MiB pages
    BOOT_GDT_ENTRIES = 6,                        // a 64-bit task descriptor takes two
};

struct boot_piece {
    const char *what; // for sentences: "the kernel", "the initrd"
    uint64_t gpa, size;
    const uint8_t *bytes; // stays valid until the commit
    uint64_t length;      // of bytes, at most `size`
    bool keep_rest;       // what is behind `length` is only reserved; else it is zeroed
};

struct boot_plan {
    const struct boot_images *images;
    struct guest_memory *memory;
    struct memory_map map;
    struct boot_piece pieces[BOOT_PLAN_LIMIT];
    unsigned count;
    uint8_t page_tables[BOOT_PAGE_TABLES_SIZE];
    uint8_t gdt[BOOT_GDT_ENTRIES * 8];
};

void boot_plan_init(struct boot_plan *plan, const struct boot_images *images,
                    struct guest_memory *memory);
// 0; -ENOMEM when it isn't all usable RAM, -ENOEXEC when it overlaps another piece; with a sentence
// that has no "kernel 'x': " before it yet. An empty piece is left out.
int boot_plan_add(struct boot_plan *plan, const struct boot_piece *piece, struct error *err);
// As boot_plan_add(), at the highest page-aligned place from `floor` to `ceiling` (the last byte
// allowed) that is free; *piece gets its gpa.
int boot_plan_add_highest(struct boot_plan *plan, struct boot_piece *piece, uint64_t floor,
                          uint64_t ceiling, struct error *err);
// The command line with its terminating zero, at LAYOUT_BOOT_CMDLINE. -E2BIG with a sentence when
// it is longer than `limit` characters. `text` stays valid until the commit.
int boot_plan_add_command_line(struct boot_plan *plan, const char *text, uint64_t limit,
                               struct error *err);
// Descriptor and (in long mode) page tables, and everything in *entry but the general registers.
int boot_plan_add_tables(struct boot_plan *plan, enum boot_mode mode, struct boot_entry *entry,
                         struct error *err);
// The segments of an ELF file at their physical addresses.
struct elf_image;
int boot_plan_add_elf(struct boot_plan *plan, const struct elf_image *elf, struct error *err);
void boot_plan_commit(const struct boot_plan *plan);

// The formats. Each load fills the empty plan and *entry and, as its last step, commits.
bool boot_linux_is(const struct boot_images *images);
int boot_linux_check(const struct boot_images *images, struct error *err);
int boot_linux_load(struct boot_plan *plan, uint64_t rsdp, struct boot_entry *entry,
                    struct error *err);

int boot_pvh_load(struct boot_plan *plan, const struct elf_image *elf, uint64_t rsdp,
                  struct boot_entry *entry, struct error *err);

// A multiboot 1 header (Multiboot 0.6.96, 3.1).
struct multiboot_header {
    size_t offset; // in the file
    uint32_t flags;
    uint32_t header_address, load_address, load_end, bss_end, entry; // with address fields only
};
// Whether the file has one. Unaligned or behind the first 8 KiB doesn't count.
bool boot_multiboot_find(const struct boot_images *images, struct multiboot_header *header);
// `elf` is NULL for a file that is none.
int boot_multiboot_check(const struct boot_images *images, const struct multiboot_header *header,
                         const struct elf_image *elf, struct error *err);
int boot_multiboot_load(struct boot_plan *plan, const struct multiboot_header *header,
                        const struct elf_image *elf, struct boot_entry *entry, struct error *err);
