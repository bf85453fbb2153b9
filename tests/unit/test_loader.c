// Kernel images: what loads, where everything lands, and that nothing hostile does harm.
#include <check.h>
#include <stdio.h>
#include <sys/mman.h>

#include "tests/unit/boot_images.h"
#include "tests/unit/run_suite.h"
#include "vmm/boot/boot_image.h"
#include "vmm/boot/memory_map.h"
#include "vmm/layout.h"

enum { MIB = 1 << 20 };

// RAM of a guest, filled with a pattern so that stray writes show.
struct ram {
    struct guest_memory memory;
    uint8_t *low, *high;
    uint64_t low_size, high_size;
};

static const uint8_t FILL = 0xa5;

static void ram_open(struct ram *ram, uint64_t low_size, uint64_t high_size)
{
    memset(ram, 0, sizeof(*ram));
    ram->low_size = low_size;
    ram->high_size = high_size;
    guest_memory_init(&ram->memory);
    ram->low = mmap(NULL, low_size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert(ram->low != MAP_FAILED);
    ck_assert_int_eq(guest_memory_add(&ram->memory, 0, ram->low, low_size), 0);
    if (high_size) {
        ram->high = mmap(NULL, high_size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ck_assert(ram->high != MAP_FAILED);
        ck_assert_int_eq(guest_memory_add(&ram->memory, LAYOUT_HIGH_RAM, ram->high, high_size), 0);
    }
}

static void ram_close(struct ram *ram)
{
    guest_memory_destroy(&ram->memory);
    munmap(ram->low, ram->low_size);
    if (ram->high)
        munmap(ram->high, ram->high_size);
}

static struct boot_images images_of(const struct test_image *image)
{
    return (struct boot_images){.kernel = image->bytes,
                                .kernel_size = image->size,
                                .kernel_name = "/some/where/a kernel",
                                .initrd_name = "initrd",
                                .command_line = "console=ttyS0 quiet"};
}

static const char initrd_text[] = "this would be an initrd";

static void add_initrd(struct boot_images *images)
{
    images->initrd = (const uint8_t *)initrd_text;
    images->initrd_size = sizeof(initrd_text);
}

static void *at(struct ram *ram, uint64_t gpa, uint64_t length)
{
    void *p = guest_memory_slice(&ram->memory, gpa, length);
    ck_assert_ptr_nonnull(p);
    return p;
}

// Every descriptor that the entry state names is the one in the table.
static void check_tables(struct ram *ram, const struct boot_entry *entry)
{
    const uint8_t *gdt = at(ram, entry->gdt_base, entry->gdt_limit + 1u);
    bool long_mode = entry->mode == BOOT_LONG_MODE;
    ck_assert_uint_eq(bytes_get_u64(gdt + entry->code_selector),
                      long_mode ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff));
    ck_assert_uint_eq(bytes_get_u64(gdt + entry->data_selector), UINT64_C(0x00cf93000000ffff));
    ck_assert_uint_eq(bytes_get_u64(gdt + entry->task_selector) >> 40 & 0xff, 0x8b);
    ck_assert_uint_eq(entry->cr0 & 1, 1);
    ck_assert_int_eq(entry->cr0 >> 31, long_mode);
}

// Walks the page tables for an address below 4 GiB.
static uint64_t walk(struct ram *ram, uint64_t cr3, uint64_t address)
{
    uint64_t table = cr3;
    for (unsigned level = 3; level > 0; level--) {
        uint64_t index = address >> (12 + 9 * level) & 511;
        uint64_t entry = bytes_get_u64(at(ram, table + 8 * index, 8));
        ck_assert_uint_eq(entry & 3, 3);
        if (level == 1) {
            ck_assert(entry & 0x80); // 2 MiB
            return (entry & ~UINT64_C(0x1fffff)) + (address & 0x1fffff);
        }
        table = entry & ~UINT64_C(0xfff);
    }
    return 0;
}

START_TEST(linux_loads)
{
    struct ram ram;
    ram_open(&ram, 64 * MIB, 0);
    struct test_image image = test_bzimage(0x20f);
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    struct error err = {0};
    add_initrd(&images);
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, &err), 0);
    ck_assert_str_eq(entry.protocol_name, "Linux 64-bit");
    ck_assert_int_eq(entry.mode, BOOT_LONG_MODE);
    ck_assert_uint_eq(entry.rip, TEST_BZIMAGE_PREFERRED + 0x200);
    check_tables(&ram, &entry);
    ck_assert_uint_eq(entry.efer, 0x500);
    for (uint64_t a = 0; a < UINT64_C(0x100000000); a += 0x12345678)
        ck_assert_uint_eq(walk(&ram, entry.cr3, a), a);
    ck_assert_mem_eq(at(&ram, TEST_BZIMAGE_PREFERRED, TEST_BZIMAGE_PAYLOAD),
                     image.bytes + TEST_BZIMAGE_SETUP, TEST_BZIMAGE_PAYLOAD);

    const uint8_t *zero = at(&ram, entry.rsi, 4096);
    ck_assert_mem_eq(zero + 0x202, "HdrS", 4);
    ck_assert_uint_eq(zero[0x210], 0xff);
    ck_assert_uint_eq(bytes_get_u64(zero + 0x70), 0xe0000);
    ck_assert_str_eq(at(&ram, bytes_get_u32(zero + 0x228), 64), images.command_line);
    uint32_t initrd = bytes_get_u32(zero + 0x218);
    ck_assert_uint_eq(bytes_get_u32(zero + 0x21c), sizeof(initrd_text));
    ck_assert_uint_eq(initrd, 64 * MIB - 4096);
    ck_assert_mem_eq(at(&ram, initrd, sizeof(initrd_text)), initrd_text, sizeof(initrd_text));
    ck_assert_uint_eq(zero[0x1e8], 6);
    ck_assert_uint_eq(bytes_get_u64(zero + 0x2d0 + 20 * 4), MIB); // low RAM from 1 MiB
    ck_assert_uint_eq(bytes_get_u64(zero + 0x2d0 + 20 * 4 + 8), 63 * MIB);
    ck_assert_uint_eq(bytes_get_u32(zero + 0x2d0 + 20 * 4 + 16), 1);
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

// The same kernel in less memory than its preferred address needs.
START_TEST(linux_moves_down)
{
    struct ram ram;
    ram_open(&ram, 16 * MIB, 0);
    struct test_image image = test_bzimage(0x20c);
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, NULL), 0);
    ck_assert_uint_eq(entry.rip, 2 * MIB + 0x200); // by its alignment
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

START_TEST(linux_initrd_above_4g)
{
    struct ram ram;
    ram_open(&ram, 32 * MIB, 32 * MIB);
    struct test_image image = test_bzimage(0x20c);
    bytes_put_u16(image.bytes + 0x236, 3);
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    size_t size = 24 * MIB;
    uint8_t *initrd = malloc(size);
    memset(initrd, 0x42, size);
    images.initrd = initrd;
    images.initrd_size = size;
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, NULL), 0);
    const uint8_t *zero = at(&ram, entry.rsi, 4096);
    ck_assert_uint_eq(bytes_get_u32(zero + 0xc0), 1);
    ck_assert_uint_eq(bytes_get_u32(zero + 0x218), 8 * MIB);
    ck_assert_mem_eq(at(&ram, LAYOUT_HIGH_RAM + 8 * MIB, size), initrd, size);
    free(initrd);
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

static void check_pvh(bool is_64)
{
    struct ram ram;
    ram_open(&ram, 32 * MIB, 16 * MIB);
    memset(ram.low, FILL, ram.low_size);
    struct test_image image = test_elf(&(struct test_elf_options){.is_64 = is_64,
                                                                  .pvh = true,
                                                                  .ferry = true,
                                                                  .multiboot = true,
                                                                  .multiboot_addresses = true});
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    add_initrd(&images);
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, NULL), 0);
    ck_assert_str_eq(entry.protocol_name, "PVH"); // before multiboot
    ck_assert(entry.lives_at_cpl3);
    ck_assert_int_eq(entry.mode, BOOT_PROTECTED_MODE);
    ck_assert_uint_eq(entry.rip, TEST_ELF_BASE + TEST_ELF_ENTRY);
    check_tables(&ram, &entry);
    const uint8_t *text = at(&ram, TEST_ELF_BASE, TEST_ELF_TEXT_SIZE + TEST_ELF_BSS + 1);
    ck_assert_mem_eq(text, image.bytes + TEST_ELF_TEXT, TEST_ELF_TEXT_SIZE);
    for (unsigned i = 0; i < TEST_ELF_BSS; i++)
        ck_assert_uint_eq(text[TEST_ELF_TEXT_SIZE + i], 0);
    ck_assert_uint_eq(text[TEST_ELF_TEXT_SIZE + TEST_ELF_BSS], FILL);

    const uint8_t *info = at(&ram, entry.rbx, 56);
    ck_assert_uint_eq(bytes_get_u32(info), 0x336ec578);
    ck_assert_uint_eq(bytes_get_u32(info + 4), 1);
    ck_assert_uint_eq(bytes_get_u32(info + 12), 1);
    const uint8_t *module = at(&ram, bytes_get_u64(info + 16), 32);
    ck_assert_uint_eq(bytes_get_u64(module + 8), sizeof(initrd_text));
    ck_assert_mem_eq(at(&ram, bytes_get_u64(module), sizeof(initrd_text)), initrd_text,
                     sizeof(initrd_text));
    ck_assert_str_eq(at(&ram, bytes_get_u64(info + 24), 64), images.command_line);
    ck_assert_uint_eq(bytes_get_u64(info + 32), 0xe0000);
    uint32_t count = bytes_get_u32(info + 48);
    ck_assert_uint_eq(count, 7);
    const uint8_t *map = at(&ram, bytes_get_u64(info + 40), count * 24);
    ck_assert_uint_eq(bytes_get_u64(map + 24 * 6), LAYOUT_HIGH_RAM);
    ck_assert_uint_eq(bytes_get_u64(map + 24 * 6 + 8), 16 * MIB);
    free(image.bytes);
    ram_close(&ram);
}

START_TEST(pvh_loads)
{
    check_pvh(true);
    check_pvh(false);
}
END_TEST

static void check_multiboot(struct test_image *image, size_t text_offset)
{
    struct ram ram;
    ram_open(&ram, 32 * MIB, 0);
    memset(ram.low, FILL, ram.low_size);
    struct boot_images images = images_of(image);
    struct boot_entry entry;
    add_initrd(&images);
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, NULL), 0);
    ck_assert_str_eq(entry.protocol_name, "multiboot");
    ck_assert_int_eq(entry.mode, BOOT_PROTECTED_MODE);
    ck_assert_uint_eq(entry.rip, TEST_ELF_BASE + TEST_ELF_ENTRY);
    ck_assert_uint_eq(entry.rax, 0x2badb002);
    check_tables(&ram, &entry);
    const uint8_t *text = at(&ram, TEST_ELF_BASE, TEST_ELF_TEXT_SIZE + TEST_ELF_BSS + 1);
    ck_assert_mem_eq(text, image->bytes + text_offset, TEST_ELF_TEXT_SIZE);
    ck_assert_uint_eq(text[TEST_ELF_TEXT_SIZE + TEST_ELF_BSS - 1], 0);
    ck_assert_uint_eq(text[TEST_ELF_TEXT_SIZE + TEST_ELF_BSS], FILL);
    const uint8_t *info = at(&ram, entry.rbx, 120);
    ck_assert_uint_eq(bytes_get_u32(info), 0x24d);
    ck_assert_uint_eq(bytes_get_u32(info + 4), 639);
    ck_assert_uint_eq(bytes_get_u32(info + 8), 31 * 1024);
    ck_assert_str_eq(at(&ram, bytes_get_u32(info + 16), 64), "a_kernel console=ttyS0 quiet");
    const uint8_t *module = at(&ram, bytes_get_u32(info + 24), 16);
    uint32_t start = bytes_get_u32(module);
    ck_assert_uint_eq(start % 4096, 0);
    ck_assert_uint_eq(bytes_get_u32(module + 4) - start, sizeof(initrd_text));
    ck_assert_mem_eq(at(&ram, start, sizeof(initrd_text)), initrd_text, sizeof(initrd_text));
    ck_assert_str_eq(at(&ram, bytes_get_u32(module + 8), 1), "");
    ck_assert_str_eq(at(&ram, bytes_get_u32(info + 64), 6), "ferry");
    const uint8_t *map = at(&ram, bytes_get_u32(info + 48), bytes_get_u32(info + 44));
    ck_assert_uint_eq(bytes_get_u32(map), 20);
    ck_assert_uint_eq(bytes_get_u64(map + 4), 0);
    ck_assert_uint_eq(bytes_get_u64(map + 12), LAYOUT_EBDA);
    free(image->bytes);
    ram_close(&ram);
}

START_TEST(multiboot_loads)
{
    struct test_image elf32 = test_elf(&(struct test_elf_options){.multiboot = true});
    struct test_image elf64 = test_elf(
        &(struct test_elf_options){.is_64 = true, .multiboot = true, .multiboot_addresses = true});
    struct test_image flat = test_flat();
    check_multiboot(&elf32, TEST_ELF_TEXT);
    check_multiboot(&elf64, TEST_ELF_TEXT);
    check_multiboot(&flat, 0);
}
END_TEST

// A change to a valid image, and the words that the refusal must have.
struct refusal {
    const char *words;
    enum { BZIMAGE, ELF64_PVH, ELF32_MULTIBOOT, ELF64_MULTIBOOT, FLAT } image;
    unsigned offset, width;
    uint64_t value;
    uint64_t ram;
};

enum { PHDR64 = 64, PHDR32 = 52, MB = TEST_ELF_TEXT + TEST_ELF_MULTIBOOT };

static const struct refusal refusals[] = {
    {"not a kernel this version knows (bzImage with 64-bit entry, ELF with PVH note, multiboot)",
     BZIMAGE, 0x202, 4, 0, 24},
    {"protocol 2.11; 2.12 or later is needed", BZIMAGE, 0x206, 2, 0x20b, 24},
    {"a bzImage is needed", BZIMAGE, 0x211, 1, 0, 24},
    {"without the 64-bit entry", BZIMAGE, 0x236, 2, 0, 24},
    {"impossible length", BZIMAGE, 0x201, 1, 0x10, 24},
    {"impossible length", BZIMAGE, 0x201, 1, 0xff, 24},
    {"cut off", BZIMAGE, 0x1f1, 1, 9, 24},
    {"cut off", BZIMAGE, 0x1f4, 4, 0x81, 24},
    {"cut off", BZIMAGE, 0x1f4, 4, 0xffffffff, 24},
    {"impossible sizes", BZIMAGE, 0x1f4, 4, 0, 24},
    {"impossible sizes", BZIMAGE, 0x260, 4, 0x7ff, 24},
    {"impossible load address", BZIMAGE, 0x230, 4, 0, 24},
    {"impossible load address", BZIMAGE, 0x230, 4, 0x300000, 24},
    {"impossible load address", BZIMAGE, 0x258, 8, 0x1000001, 24},
    {"impossible load address", BZIMAGE, 0x258, 8, UINT64_C(0xfffffffffffff000), 24},
    {"memory of 16 MiB; give it more with --memory", BZIMAGE, 0x234, 1, 0, 16},
    {"needs the addresses", BZIMAGE, 0x260, 4, 0x7fffffff, 24},
    {"the command line has 19 characters; this kernel takes 4", BZIMAGE, 0x238, 4, 4, 24},
    {"not an x86 executable", ELF64_PVH, 18, 2, EM_AARCH64, 24},
    {"not an x86 executable", ELF64_PVH, 16, 2, ET_REL, 24},
    {"not an x86 executable", ELF64_PVH, EI_DATA, 1, ELFDATA2MSB, 24},
    {"program headers", ELF64_PVH, 32, 8, UINT64_MAX - 10, 24},
    {"program headers", ELF64_PVH, 54, 2, 55, 24},
    {"program headers", ELF64_PVH, 56, 2, 0xffff, 24},
    {"program headers", ELF64_PVH, 56, 2, 0, 24},
    {"nothing to load", ELF64_PVH, PHDR64, 4, PT_NULL, 24},
    {"outside of the file", ELF64_PVH, PHDR64 + 8, 8, 0x1001, 24},
    {"outside of the file", ELF64_PVH, PHDR64 + 8, 8, UINT64_MAX, 24},
    {"longer in the file than in memory", ELF64_PVH, PHDR64 + 40, 8, 0x2ff, 24},
    {"wraps around", ELF64_PVH, PHDR64 + 40, 8, UINT64_MAX, 24},
    {"PVH entry 0x200040 is in no ELF segment", ELF64_PVH, PHDR64 + 24, 8, 0x300000, 24},
    {"needs the addresses", ELF64_PVH, PHDR64 + 40, 8, UINT64_C(0x100000000), 24},
    {"not a kernel this version knows", ELF64_PVH, TEST_ELF_NOTES + 8, 4, 17, 24},
    {"program headers", ELF32_MULTIBOOT, 28, 4, 0xfffffff0, 24},
    {"is in no ELF segment", ELF32_MULTIBOOT, 24, 4, 0x1000, 24},
    {"overlaps the descriptor table", ELF32_MULTIBOOT, PHDR32 + 12, 4, 0x1000, 24},
    {"aren't all in the guest's memory", ELF32_MULTIBOOT, PHDR32 + 12, 4, 0x9f000, 24},
    {"aren't all in the guest's memory", ELF32_MULTIBOOT, PHDR32 + 12, 4, 0xfffff000, 24},
    {"not a kernel this version knows", ELF32_MULTIBOOT, MB + 8, 4, 0, 24},
    {"impossible addresses", ELF64_MULTIBOOT, MB + 12, 4, TEST_ELF_BASE - 1, 24},
    {"impossible addresses", ELF64_MULTIBOOT, MB + 12, 4, TEST_ELF_BASE + 0x10000, 24},
    {"impossible addresses", ELF64_MULTIBOOT, MB + 20, 4, TEST_ELF_BASE - 1, 24},
    {"cut off", ELF64_MULTIBOOT, MB + 20, 4, TEST_ELF_BASE + 0x10000, 24},
    {"impossible addresses", ELF64_MULTIBOOT, MB + 24, 4, TEST_ELF_BASE + 1, 24},
    {"outside of what it loads", ELF64_MULTIBOOT, MB + 28, 4, TEST_ELF_BASE - 1, 24},
    {"aren't all in the guest's memory", FLAT, TEST_ELF_MULTIBOOT + 24, 4, 0xffffffff, 24},
};

static struct test_image make(int kind)
{
    switch (kind) {
    case BZIMAGE:
        return test_bzimage(0x20f);
    case ELF64_PVH:
        return test_elf(&(struct test_elf_options){.is_64 = true, .pvh = true});
    case ELF32_MULTIBOOT:
        return test_elf(&(struct test_elf_options){.multiboot = true});
    case ELF64_MULTIBOOT:
        return test_elf(&(struct test_elf_options){
            .is_64 = true, .multiboot = true, .multiboot_addresses = true});
    default:
        return test_flat();
    }
}

// Whether all of RAM still has the pattern.
static bool is_untouched(const struct ram *ram)
{
    return ram->low[0] == FILL && memcmp(ram->low, ram->low + 1, ram->low_size - 1) == 0;
}

START_TEST(refusals_say_why_and_write_nothing)
{
    const struct refusal *r = &refusals[_i];
    struct ram ram;
    ram_open(&ram, r->ram * MIB, 0);
    memset(ram.low, FILL, ram.low_size);
    struct test_image image = make(r->image);
    for (unsigned i = 0; i < r->width; i++)
        image.bytes[r->offset + i] = (uint8_t)(r->value >> (8 * i));
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    struct error err = {0};
    int rc = boot_image_load(&images, &ram.memory, 0xe0000, &entry, &err);
    ck_assert_msg(rc < 0 && rc == -err.code, "case %d: %d, %s", _i, rc, err.message);
    ck_assert_msg(strstr(err.message, r->words), "case %d: %s", _i, err.message);
    ck_assert_msg(strncmp(err.message, "kernel '/some/where/a kernel': ", 31) == 0, "case %d: %s",
                  _i, err.message);
    ck_assert(is_untouched(&ram));
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

START_TEST(features_that_are_not_offered)
{
    struct test_image image =
        test_elf(&(struct test_elf_options){.multiboot = true, .multiboot_flags = 7});
    struct boot_images images = images_of(&image);
    struct boot_image_info info;
    struct error err = {0};
    ck_assert_int_eq(boot_image_probe(&images, &info, &err), -ENOEXEC);
    ck_assert_ptr_nonnull(strstr(err.message, "demands features (0x4)"));
    free(image.bytes);
    image = test_elf(&(struct test_elf_options){.is_64 = true, .multiboot = true});
    images = images_of(&image);
    ck_assert_int_eq(boot_image_probe(&images, &info, &err), -ENOEXEC);
    ck_assert_ptr_nonnull(strstr(err.message, "64-bit ELF needs address fields"));
    free(image.bytes);
}
END_TEST

START_TEST(initrd_that_does_not_fit)
{
    static const int kinds[] = {BZIMAGE, ELF64_PVH, ELF32_MULTIBOOT, FLAT};
    size_t size = 20 * MIB;
    uint8_t *initrd = calloc(1, size);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct ram ram;
        ram_open(&ram, 20 * MIB, 0);
        memset(ram.low, FILL, ram.low_size);
        struct test_image image = make(kinds[i]);
        struct boot_images images = images_of(&image);
        images.initrd = initrd;
        images.initrd_size = size;
        struct boot_entry entry;
        struct error err = {0};
        ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0xe0000, &entry, &err), -ENOMEM);
        ck_assert_ptr_nonnull(strstr(err.message, "give it more with --memory"));
        ck_assert(is_untouched(&ram));
        free(image.bytes);
        ram_close(&ram);
    }
    free(initrd);
}
END_TEST

START_TEST(command_line_limits)
{
    char *text = malloc(0x20000);
    memset(text, 'x', 0x20000);
    text[0x1ffff] = 0;
    static const int kinds[] = {BZIMAGE, ELF64_PVH, ELF32_MULTIBOOT};
    struct ram ram;
    ram_open(&ram, 32 * MIB, 0);
    for (size_t i = 0; i < 3; i++) {
        struct test_image image = make(kinds[i]);
        struct boot_images images = images_of(&image);
        struct boot_entry entry;
        struct error err = {0};
        images.command_line = text;
        ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0, &entry, &err), -E2BIG);
        images.command_line = text + 0x10000; // 65535
        int rc = boot_image_load(&images, &ram.memory, 0, &entry, &err);
        ck_assert_int_eq(rc, kinds[i] == ELF64_PVH ? 0 : -E2BIG);
        free(image.bytes);
    }
    free(text);
    ram_close(&ram);
}
END_TEST

// Every shorter version of a valid image is refused or loads; a sanitizer sees reads past its end.
START_TEST(truncations)
{
    struct ram ram;
    ram_open(&ram, 32 * MIB, 0);
    struct test_image image = make(_i);
    unsigned refused = 0;
    for (size_t length = 0; length <= image.size; length++) {
        struct test_image cut = {.bytes = malloc(length ? length : 1), .size = length};
        memcpy(cut.bytes, image.bytes, length);
        struct boot_images images = images_of(&cut);
        struct boot_entry entry;
        struct error err = {0};
        int rc = boot_image_load(&images, &ram.memory, 0xe0000, &entry, &err);
        ck_assert(rc == 0 || (rc == -err.code && err.message[0]));
        refused += rc < 0;
        free(cut.bytes);
    }
    ck_assert_uint_eq(refused, image.size); // all but the whole one
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

// Random bits flipped in the headers. What still loads stays inside of RAM (the accessor sees to
// that) and starts inside of RAM.
START_TEST(bit_flips)
{
    static const struct {
        size_t start, length;
    } headers[] = {{0x1f1, 0x80}, {0, 0x240}, {0, 0x100}, {0, 0x1100}, {0x80, 32}};
    struct ram ram;
    ram_open(&ram, 32 * MIB, 0);
    uint64_t seed = 0x9e3779b97f4a7c15 + (uint64_t)_i;
    for (unsigned round = 0; round < 3000; round++) {
        struct test_image image = make(_i);
        unsigned flips = 1 + (unsigned)(next_random(&seed) % 4);
        while (flips-- > 0) {
            uint64_t r = next_random(&seed);
            image.bytes[headers[_i].start + (r >> 8) % headers[_i].length] ^=
                (uint8_t)(1 << (r & 7));
        }
        struct boot_images images = images_of(&image);
        struct boot_entry entry;
        struct error err = {0};
        add_initrd(&images);
        int rc = boot_image_load(&images, &ram.memory, 0xe0000, &entry, &err);
        ck_assert(rc == 0 || (rc == -err.code && err.message[0]));
        if (rc == 0)
            ck_assert_ptr_nonnull(guest_memory_slice(&ram.memory, entry.rip, 1));
        free(image.bytes);
    }
    ram_close(&ram);
}
END_TEST

START_TEST(overlapping_segments)
{
    struct ram ram;
    ram_open(&ram, 32 * MIB, 0);
    struct test_image image =
        test_elf(&(struct test_elf_options){.is_64 = true, .pvh = true, .ferry = true});
    // A third header: the text once more, one page on.
    bytes_put_u16(image.bytes + 56, 3);
    test_put_program_header(image.bytes + 64 + 2 * 56, true, PT_LOAD, TEST_ELF_TEXT, 0,
                            TEST_ELF_BASE + 0x1000, TEST_ELF_TEXT_SIZE, TEST_ELF_TEXT_SIZE);
    struct boot_images images = images_of(&image);
    struct boot_entry entry;
    struct error err = {0};
    ck_assert_int_eq(boot_image_load(&images, &ram.memory, 0, &entry, &err), -ENOEXEC);
    ck_assert_ptr_nonnull(strstr(err.message, "overlaps"));
    free(image.bytes);
    ram_close(&ram);
}
END_TEST

// As many program headers as the format allows, each over the same two million empty notes.
START_TEST(notes_over_and_over)
{
    enum { HEADERS = 65535, NOTES = 24 * MIB };
    struct test_image image = test_elf(&(struct test_elf_options){.is_64 = true, .pvh = true});
    size_t table = image.size, notes = table + (size_t)HEADERS * 56, size = notes + NOTES;
    uint8_t *bytes = calloc(1, size);
    memcpy(bytes, image.bytes, image.size);
    memcpy(bytes + table, image.bytes + 64, 2 * 56); // its own: text, then notes
    bytes_put_u64(bytes + 32, table);
    bytes_put_u16(bytes + 56, HEADERS);
    for (unsigned i = 2; i < HEADERS; i++)
        test_put_program_header(bytes + table + i * 56u, true, PT_NOTE, (uint32_t)notes, 0, 0,
                                NOTES, NOTES);
    struct boot_images images = {.kernel = bytes, .kernel_size = size, .kernel_name = "notes"};
    struct boot_image_info info;
    struct error err = {0};
    ck_assert_msg(boot_image_probe(&images, &info, &err) == 0, "%s", err.message);
    ck_assert_int_eq(info.protocol, BOOT_PVH);
    free(bytes);
    free(image.bytes);
}
END_TEST

START_TEST(sizes_that_no_guest_can_use)
{
    struct error err = {0};
    ck_assert_int_eq(boot_image_check_sizes(UINT64_C(1) << 30, 64 * MIB, 64 * MIB, &err), 0);
    ck_assert_int_eq(boot_image_check_sizes((UINT64_C(1) << 30) + 1, 0, UINT64_MAX, &err),
                     -ENOEXEC);
    ck_assert_int_eq(boot_image_check_sizes(1, 64 * MIB + 1, 64 * MIB, &err), -ENOMEM);
    ck_assert_ptr_nonnull(strstr(err.message, "give it more with --memory"));
}
END_TEST

START_TEST(map_finds_places)
{
    struct ram ram;
    ram_open(&ram, 64 * MIB, 16 * MIB);
    struct memory_map map;
    memory_map_build(&map, &ram.memory);
    uint64_t last = 0, place;
    for (unsigned i = 0; i < map.count; i++) {
        ck_assert(map.entries[i].size > 0 && map.entries[i].start >= last);
        last = map.entries[i].start + map.entries[i].size;
    }
    ck_assert(memory_map_is_usable(&map, 0, LAYOUT_EBDA));
    ck_assert(!memory_map_is_usable(&map, 0, LAYOUT_EBDA + 1));
    ck_assert(!memory_map_is_usable(&map, LAYOUT_ACPI_TABLES, 1));
    ck_assert(!memory_map_is_usable(&map, LAYOUT_PCI_ECAM, 1));
    ck_assert(!memory_map_is_usable(&map, MIB, UINT64_MAX));
    ck_assert(memory_map_find_highest(&map, MIB, 4096, MIB, UINT64_C(0xffffffff), &place));
    ck_assert_uint_eq(place, 63 * MIB);
    ck_assert(memory_map_find_highest(&map, 1, 4096, 0, UINT64_MAX, &place));
    ck_assert_uint_eq(place, LAYOUT_HIGH_RAM + 16 * MIB - 4096);
    ck_assert(!memory_map_find_highest(&map, 64 * MIB, 4096, 0, UINT64_MAX, &place));
    ck_assert(!memory_map_find_highest(&map, MIB, 4096, 60 * MIB, 60 * MIB + 100, &place));
    ram_close(&ram);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loader");
    TCase *tests = tcase_create("loader");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, linux_loads);
    tcase_add_test(tests, linux_moves_down);
    tcase_add_test(tests, linux_initrd_above_4g);
    tcase_add_test(tests, pvh_loads);
    tcase_add_test(tests, multiboot_loads);
    tcase_add_loop_test(tests, refusals_say_why_and_write_nothing, 0,
                        sizeof(refusals) / sizeof(refusals[0]));
    tcase_add_test(tests, features_that_are_not_offered);
    tcase_add_test(tests, initrd_that_does_not_fit);
    tcase_add_test(tests, command_line_limits);
    tcase_add_loop_test(tests, truncations, BZIMAGE, FLAT + 1);
    tcase_add_loop_test(tests, bit_flips, BZIMAGE, FLAT + 1);
    tcase_add_test(tests, overlapping_segments);
    tcase_add_test(tests, notes_over_and_over);
    tcase_add_test(tests, sizes_that_no_guest_can_use);
    tcase_add_test(tests, map_finds_places);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
