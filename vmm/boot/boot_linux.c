// Linux bzImage by the 64-bit entry (Linux Documentation/arch/x86/boot.rst, zero-page.rst).

#include <string.h>

#include "base/bytes.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/layout.h"

enum {
    // Offsets in the file and, up to the header's end, in the zero page alike.
    SETUP_SECTORS = 0x1f1,
    SYSTEM_SIZE = 0x1f4, // of the 64-bit part, in units of 16 bytes
    VIDEO_MODE = 0x1fa,
    BOOT_FLAG = 0x1fe,
    HEADER_END_BYTE = 0x201, // the header ends so many bytes behind 0x202
    HEADER_MAGIC = 0x202,
    VERSION = 0x206,
    LOADER_TYPE = 0x210,
    LOAD_FLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    COMMAND_LINE = 0x228,
    INITRD_ADDRESS_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    EXTENDED_LOAD_FLAGS = 0x236,
    COMMAND_LINE_SIZE = 0x238,
    SETUP_DATA = 0x250,
    PREFERRED_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_NEEDED = 0x264, // what version 2.12 has, HANDOVER_OFFSET aside

    // Zero page only.
    ZERO_ACPI_RSDP = 0x070,
    ZERO_EXT_RAMDISK_IMAGE = 0x0c0,
    ZERO_EXT_RAMDISK_SIZE = 0x0c4,
    ZERO_E820_ENTRIES = 0x1e8,
    ZERO_HEADER_LIMIT = 0x290, // the next field behind the header's copy
    ZERO_E820_TABLE = 0x2d0,
    E820_ENTRY_SIZE = 20,

    SECTOR = 512,
    VERSION_NEEDED = 0x20c,
    LOADED_HIGH = 1 << 0,
    KERNEL_64 = 1 << 0,
    ABOVE_4G = 1 << 1,
    LOADER_UNREGISTERED = 0xff,
    VIDEO_NORMAL = 0xffff,
    ENTRY_64 = 0x200, // of the 64-bit part
};

struct linux_image {
    uint64_t payload_offset, payload_size; // of the 64-bit part, in the file
    uint64_t header_end;
    uint64_t alignment, preferred, init_size;
    uint64_t initrd_max, command_line_limit;
    bool relocatable, above_4g;
};

bool boot_linux_is(const struct boot_images *images)
{
    return images->kernel_size >= HEADER_MAGIC + 6 &&
           bytes_get_u16(images->kernel + BOOT_FLAG) == 0xaa55 &&
           memcmp(images->kernel + HEADER_MAGIC, "HdrS", 4) == 0;
}

// The protocol must be new enough and the image of the kind that has a 64-bit entry.
static int check_kind(const uint8_t *kernel, size_t size, struct error *err)
{
    unsigned version = bytes_get_u16(kernel + VERSION);
    if (version < VERSION_NEEDED)
        return error_set(err, ENOEXEC,
                         "a Linux image of boot protocol %u.%02u; 2.12 or later is needed (Linux "
                         "3.8 and later have it)",
                         version >> 8, version & 0xff);
    if (size < HEADER_NEEDED)
        return error_set(err, ENOEXEC, "its Linux setup header is cut off");
    if (!(kernel[LOAD_FLAGS] & LOADED_HIGH))
        return error_set(err, ENOEXEC, "a Linux zImage; a bzImage is needed");
    if (!(bytes_get_u16(kernel + EXTENDED_LOAD_FLAGS) & KERNEL_64))
        return error_set(err, ENOEXEC,
                         "a Linux image without the 64-bit entry; a kernel built for x86-64 is "
                         "needed");
    return 0;
}

static int parse(const struct boot_images *images, struct linux_image *image, struct error *err)
{
    const uint8_t *kernel = images->kernel;
    size_t size = images->kernel_size;
    int rc = check_kind(kernel, size, err);
    if (rc < 0)
        return rc;
    unsigned sectors = kernel[SETUP_SECTORS] ? kernel[SETUP_SECTORS] : 4;
    image->payload_offset = (sectors + 1) * SECTOR;
    image->payload_size = (uint64_t)bytes_get_u32(kernel + SYSTEM_SIZE) * 16;
    image->header_end = HEADER_MAGIC + kernel[HEADER_END_BYTE];
    image->alignment = bytes_get_u32(kernel + KERNEL_ALIGNMENT);
    image->preferred = bytes_get_u64(kernel + PREFERRED_ADDRESS);
    image->init_size = bytes_get_u32(kernel + INIT_SIZE);
    image->initrd_max = bytes_get_u32(kernel + INITRD_ADDRESS_MAX);
    image->command_line_limit = bytes_get_u32(kernel + COMMAND_LINE_SIZE);
    image->relocatable = kernel[RELOCATABLE];
    image->above_4g = bytes_get_u16(kernel + EXTENDED_LOAD_FLAGS) & ABOVE_4G;
    if (image->header_end < HEADER_NEEDED || image->header_end > ZERO_HEADER_LIMIT ||
        image->header_end > image->payload_offset)
        return error_set(err, ENOEXEC, "its Linux setup header has an impossible length");
    if (image->payload_offset > size || image->payload_size > size - image->payload_offset)
        return error_set(err, ENOEXEC,
                         "the file is cut off: %zu bytes instead of the %llu that its header says",
                         size, (unsigned long long)(image->payload_offset + image->payload_size));
    if (image->payload_size <= ENTRY_64 || image->init_size < image->payload_size)
        return error_set(err, ENOEXEC, "its Linux header gives impossible sizes");
    if (image->alignment == 0 || (image->alignment & (image->alignment - 1)) ||
        image->preferred & (GUEST_PAGE_SIZE - 1) ||
        image->preferred + image->init_size < image->preferred)
        return error_set(err, ENOEXEC, "its Linux header gives an impossible load address");
    return 0;
}

int boot_linux_check(const struct boot_images *images, struct error *err)
{
    struct linux_image image;
    return parse(images, &image, err);
}

// Puts the kernel at its preferred address or, when that isn't free RAM and it can be moved, at the
// lowest aligned one from 1 MiB on.
static int place_kernel(struct boot_plan *plan, const struct linux_image *image, uint64_t *address,
                        struct error *err)
{
    uint64_t at = image->preferred;
    // The entry's page tables map 4 GiB.
    bool reachable = at + image->init_size <= LAYOUT_HIGH_RAM;
    if (image->relocatable &&
        !(reachable && memory_map_is_usable(&plan->map, at, image->init_size)))
        at = (LAYOUT_ONE_MIB + image->alignment - 1) & ~(image->alignment - 1);
    else if (!reachable)
        return error_set(err, ENOEXEC, "it wants to be loaded above 4 GiB and can't be moved");
    *address = at;
    const struct boot_piece piece = {.what = "the kernel",
                                     .gpa = at,
                                     .size = image->init_size,
                                     .bytes = plan->images->kernel + image->payload_offset,
                                     .length = image->payload_size,
                                     .keep_rest = true};
    return boot_plan_add(plan, &piece, err);
}

// As high as the kernel allows: below 4 GiB if there is room, else anywhere if it can take that.
static int place_initrd(struct boot_plan *plan, const struct linux_image *image,
                        struct boot_piece *piece, struct error *err)
{
    uint64_t ceiling = image->above_4g ? LAYOUT_HIGH_RAM - 1 : image->initrd_max;
    int rc = boot_plan_add_highest(plan, piece, LAYOUT_ONE_MIB, ceiling, err);
    if (rc < 0 && image->above_4g)
        rc = boot_plan_add_highest(plan, piece, LAYOUT_HIGH_RAM, UINT64_MAX, err);
    return rc;
}

static void write_e820(const struct memory_map *map, uint8_t *zero_page)
{
    zero_page[ZERO_E820_ENTRIES] = (uint8_t)map->count;
    for (unsigned i = 0; i < map->count; i++) {
        uint8_t *entry = zero_page + ZERO_E820_TABLE + (size_t)i * E820_ENTRY_SIZE;
        bytes_put_u64(entry, map->entries[i].start);
        bytes_put_u64(entry + 8, map->entries[i].size);
        bytes_put_u32(entry + 16, map->entries[i].kind);
    }
}

static void write_zero_page(const struct boot_plan *plan, const struct linux_image *image,
                            uint64_t kernel, const struct boot_piece *initrd, uint64_t rsdp,
                            uint8_t *zero_page)
{
    memcpy(zero_page + SETUP_SECTORS, plan->images->kernel + SETUP_SECTORS,
           image->header_end - SETUP_SECTORS);
    zero_page[LOADER_TYPE] = LOADER_UNREGISTERED;
    bytes_put_u16(zero_page + VIDEO_MODE, VIDEO_NORMAL);
    bytes_put_u32(zero_page + CODE32_START, (uint32_t)kernel);
    bytes_put_u32(zero_page + RAMDISK_IMAGE, (uint32_t)initrd->gpa);
    bytes_put_u32(zero_page + RAMDISK_SIZE, (uint32_t)initrd->size);
    bytes_put_u32(zero_page + ZERO_EXT_RAMDISK_IMAGE, (uint32_t)(initrd->gpa >> 32));
    bytes_put_u32(zero_page + ZERO_EXT_RAMDISK_SIZE, (uint32_t)(initrd->size >> 32));
    bytes_put_u32(zero_page + COMMAND_LINE, (uint32_t)LAYOUT_BOOT_CMDLINE);
    bytes_put_u64(zero_page + SETUP_DATA, 0);
    bytes_put_u64(zero_page + ZERO_ACPI_RSDP, rsdp);
    write_e820(&plan->map, zero_page);
}

int boot_linux_load(struct boot_plan *plan, uint64_t rsdp, struct boot_entry *entry,
                    struct error *err)
{
    const struct boot_images *images = plan->images;
    struct linux_image image;
    uint64_t kernel = 0;
    uint8_t zero_page[GUEST_PAGE_SIZE] = {0};
    const struct boot_piece zero_piece = {.what = "the zero page",
                                          .gpa = LAYOUT_BOOT_INFO,
                                          .size = sizeof(zero_page),
                                          .bytes = zero_page,
                                          .length = sizeof(zero_page)};
    struct boot_piece initrd = {.what = "the initrd",
                                .size = images->initrd ? images->initrd_size : 0,
                                .bytes = images->initrd,
                                .length = images->initrd ? images->initrd_size : 0};
    int rc = parse(images, &image, err);
    if (rc == 0)
        rc = boot_plan_add_tables(plan, BOOT_LONG_MODE, entry, err);
    if (rc == 0)
        rc = boot_plan_add(plan, &zero_piece, err);
    if (rc == 0)
        rc = boot_plan_add_command_line(plan, images->command_line, image.command_line_limit, err);
    if (rc == 0)
        rc = place_kernel(plan, &image, &kernel, err);
    if (rc == 0)
        rc = place_initrd(plan, &image, &initrd, err);
    if (rc < 0)
        return rc;
    write_zero_page(plan, &image, kernel, &initrd, rsdp, zero_page);
    boot_plan_commit(plan);
    entry->rip = kernel + ENTRY_64;
    entry->rsi = LAYOUT_BOOT_INFO;
    entry->rsp = LAYOUT_BOOT_PAGES; // grows down into what is free above the zero page
    return 0;
}
