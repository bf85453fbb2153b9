// ELF by the PVH entry (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h, version
// 1).

#include "base/bytes.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/boot/elf_image.h"
#include "vmm/layout.h"

enum {
    START_INFO_MAGIC = 0x336ec578,
    START_INFO_VERSION = 1,
    START_INFO_SIZE = 56,
    MODULE_SIZE = 32,
    MEMORY_ENTRY_SIZE = 24,

    // Where they are in the block that goes to LAYOUT_BOOT_INFO.
    MODULE_OFFSET = START_INFO_SIZE,
    MEMORY_OFFSET = MODULE_OFFSET + MODULE_SIZE,
    BLOCK_SIZE = MEMORY_OFFSET + MEMORY_MAP_LIMIT * MEMORY_ENTRY_SIZE,
};

static void write_block(const struct boot_plan *plan, const struct boot_piece *initrd,
                        uint64_t rsdp, uint8_t *block)
{
    bytes_put_u32(block, START_INFO_MAGIC);
    bytes_put_u32(block + 4, START_INFO_VERSION);
    if (initrd->size > 0) {
        bytes_put_u32(block + 12, 1); // modules
        bytes_put_u64(block + 16, LAYOUT_BOOT_INFO + MODULE_OFFSET);
        bytes_put_u64(block + MODULE_OFFSET, initrd->gpa);
        bytes_put_u64(block + MODULE_OFFSET + 8, initrd->size);
    }
    bytes_put_u64(block + 24, LAYOUT_BOOT_CMDLINE);
    bytes_put_u64(block + 32, rsdp);
    bytes_put_u64(block + 40, LAYOUT_BOOT_INFO + MEMORY_OFFSET);
    bytes_put_u32(block + 48, plan->map.count);
    for (unsigned i = 0; i < plan->map.count; i++) {
        uint8_t *entry = block + MEMORY_OFFSET + (size_t)i * MEMORY_ENTRY_SIZE;
        bytes_put_u64(entry, plan->map.entries[i].start);
        bytes_put_u64(entry + 8, plan->map.entries[i].size);
        bytes_put_u32(entry + 16, plan->map.entries[i].kind);
    }
}

int boot_pvh_load(struct boot_plan *plan, const struct elf_image *elf, uint64_t rsdp,
                  struct boot_entry *entry, struct error *err)
{
    const struct boot_images *images = plan->images;
    uint8_t block[BLOCK_SIZE] = {0};
    const struct boot_piece block_piece = {.what = "the start info",
                                           .gpa = LAYOUT_BOOT_INFO,
                                           .size = sizeof(block),
                                           .bytes = block,
                                           .length = sizeof(block)};
    struct boot_piece initrd = {.what = "the initrd",
                                .size = images->initrd ? images->initrd_size : 0,
                                .bytes = images->initrd,
                                .length = images->initrd ? images->initrd_size : 0};
    int rc = boot_plan_add_tables(plan, BOOT_PROTECTED_MODE, entry, err);
    if (rc == 0)
        rc = boot_plan_add(plan, &block_piece, err);
    if (rc == 0)
        rc = boot_plan_add_command_line(plan, images->command_line, UINT64_MAX, err);
    if (rc == 0)
        rc = boot_plan_add_elf(plan, elf, err);
    if (rc == 0)
        rc = boot_plan_add_highest(plan, &initrd, LAYOUT_ONE_MIB, LAYOUT_HIGH_RAM - 1, err);
    if (rc < 0)
        return rc;
    write_block(plan, &initrd, rsdp, block);
    boot_plan_commit(plan);
    entry->rip = elf->pvh_entry;
    entry->rbx = LAYOUT_BOOT_INFO;
    return 0;
}
