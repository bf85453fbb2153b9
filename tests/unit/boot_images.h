// Makes small valid kernel images of each format, for the loader's unit tests and as seeds of its
// fuzz target. Every test includes this once, so it is a header of static functions.
#pragma once

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define IMAGE_UNUSED __attribute__((unused))

struct test_image {
    uint8_t *bytes;
    size_t size;
};

enum {
    TEST_BZIMAGE_SETUP = 2 * 512, // one sector of setup behind the first
    TEST_BZIMAGE_PAYLOAD = 0x800,
    TEST_BZIMAGE_INIT_SIZE = 0x100000,
    TEST_BZIMAGE_PREFERRED = 0x1000000,
};

static IMAGE_UNUSED struct test_image test_bzimage(unsigned version)
{
    struct test_image image = {.size = TEST_BZIMAGE_SETUP + TEST_BZIMAGE_PAYLOAD};
    uint8_t *b = image.bytes = calloc(1, image.size);
    b[0x1f1] = 1;                                        // setup sectors
    bytes_put_u32(b + 0x1f4, TEST_BZIMAGE_PAYLOAD / 16); // syssize
    bytes_put_u16(b + 0x1fe, 0xaa55);
    b[0x200] = 0xeb;
    b[0x201] = 0x66; // the header ends at 0x268
    memcpy(b + 0x202, "HdrS", 4);
    bytes_put_u16(b + 0x206, (uint16_t)version);
    b[0x211] = 1;                         // LOADED_HIGH
    bytes_put_u32(b + 0x22c, 0x7fffffff); // initrd_addr_max
    bytes_put_u32(b + 0x230, 0x200000);   // kernel_alignment
    b[0x234] = 1;                         // relocatable
    bytes_put_u16(b + 0x236, 1);          // XLF_KERNEL_64
    bytes_put_u32(b + 0x238, 2047);       // cmdline_size
    bytes_put_u64(b + 0x258, TEST_BZIMAGE_PREFERRED);
    bytes_put_u32(b + 0x260, TEST_BZIMAGE_INIT_SIZE);
    for (size_t i = 0; i < TEST_BZIMAGE_PAYLOAD; i++)
        b[TEST_BZIMAGE_SETUP + i] = (uint8_t)(i * 7 + 1);
    return image;
}

struct test_elf_options {
    bool is_64;
    bool pvh, ferry;
    bool multiboot, multiboot_addresses;
    uint32_t multiboot_flags; // further ones
};

enum {
    TEST_ELF_BASE = 0x200000,      // physical address of the text segment
    TEST_ELF_VIRTUAL = 0x40000000, // added to get the virtual one
    TEST_ELF_TEXT = 0x1000,        // offset in the file
    TEST_ELF_TEXT_SIZE = 0x300,
    TEST_ELF_BSS = 0x5000,     // memory behind it
    TEST_ELF_ENTRY = 0x40,     // offset in the text
    TEST_ELF_MULTIBOOT = 0x80, // offset in the text
    TEST_ELF_NOTES = 0x200,    // offset in the file
};

static IMAGE_UNUSED size_t test_put_note(uint8_t *at, const char *owner, uint32_t type,
                                         uint64_t value, uint32_t size)
{
    uint32_t name = (uint32_t)strlen(owner) + 1, name_padded = (name + 3) & ~3u;
    bytes_put_u32(at, name);
    bytes_put_u32(at + 4, size);
    bytes_put_u32(at + 8, type);
    memcpy(at + 12, owner, name);
    if (size == 8)
        bytes_put_u64(at + 12 + name_padded, value);
    else if (size == 4)
        bytes_put_u32(at + 12 + name_padded, (uint32_t)value);
    return 12 + name_padded + size;
}

static IMAGE_UNUSED void test_put_program_header(uint8_t *at, bool is_64, uint32_t type,
                                                 uint32_t offset, uint32_t vaddr, uint32_t paddr,
                                                 uint32_t file_size, uint32_t memory_size)
{
    bytes_put_u32(at, type);
    if (is_64) {
        bytes_put_u64(at + 8, offset);
        bytes_put_u64(at + 16, vaddr);
        bytes_put_u64(at + 24, paddr);
        bytes_put_u64(at + 32, file_size);
        bytes_put_u64(at + 40, memory_size);
        bytes_put_u64(at + 48, 4);
    } else {
        bytes_put_u32(at + 4, offset);
        bytes_put_u32(at + 8, vaddr);
        bytes_put_u32(at + 12, paddr);
        bytes_put_u32(at + 16, file_size);
        bytes_put_u32(at + 20, memory_size);
        bytes_put_u32(at + 28, 4);
    }
}

static IMAGE_UNUSED void test_put_multiboot(uint8_t *at, uint32_t flags, uint32_t header_address)
{
    bytes_put_u32(at, 0x1badb002);
    bytes_put_u32(at + 4, flags);
    bytes_put_u32(at + 8, 0 - (0x1badb002 + flags));
    bytes_put_u32(at + 12, header_address);
    bytes_put_u32(at + 16, TEST_ELF_BASE);
    bytes_put_u32(at + 20, TEST_ELF_BASE + TEST_ELF_TEXT_SIZE);
    bytes_put_u32(at + 24, TEST_ELF_BASE + TEST_ELF_TEXT_SIZE + TEST_ELF_BSS);
    bytes_put_u32(at + 28, TEST_ELF_BASE + TEST_ELF_ENTRY);
}

static IMAGE_UNUSED struct test_image test_elf(const struct test_elf_options *options)
{
    bool is_64 = options->is_64;
    struct test_image image = {.size = TEST_ELF_TEXT + TEST_ELF_TEXT_SIZE};
    uint8_t *b = image.bytes = calloc(1, image.size);
    size_t notes = 0;
    if (options->pvh)
        notes += test_put_note(b + TEST_ELF_NOTES, "Xen", 18, TEST_ELF_BASE + TEST_ELF_ENTRY,
                               is_64 ? 8 : 4);
    if (options->ferry)
        notes += test_put_note(b + TEST_ELF_NOTES + notes, "ferry", 1, 0, 0);
    for (size_t i = 0; i < TEST_ELF_TEXT_SIZE; i++)
        b[TEST_ELF_TEXT + i] = (uint8_t)(i * 3 + 1);
    if (options->multiboot)
        test_put_multiboot(b + TEST_ELF_TEXT + TEST_ELF_MULTIBOOT,
                           options->multiboot_flags | (options->multiboot_addresses ? 0x10000 : 0),
                           TEST_ELF_BASE + TEST_ELF_MULTIBOOT);
    memcpy(b, ELFMAG, SELFMAG);
    b[EI_CLASS] = is_64 ? ELFCLASS64 : ELFCLASS32;
    b[EI_DATA] = ELFDATA2LSB;
    b[EI_VERSION] = EV_CURRENT;
    bytes_put_u16(b + 16, ET_EXEC);
    bytes_put_u16(b + 18, is_64 ? EM_X86_64 : EM_386);
    bytes_put_u32(b + 20, EV_CURRENT);
    uint32_t headers = is_64 ? 64 : 52, header_size = is_64 ? 56 : 32;
    uint32_t entry = TEST_ELF_BASE + TEST_ELF_VIRTUAL + TEST_ELF_ENTRY;
    if (is_64) {
        bytes_put_u64(b + 24, entry);
        bytes_put_u64(b + 32, headers);
    } else {
        bytes_put_u32(b + 24, entry);
        bytes_put_u32(b + 28, headers);
    }
    bytes_put_u16(b + (is_64 ? 54 : 42), (uint16_t)header_size);
    bytes_put_u16(b + (is_64 ? 56 : 44), notes ? 2 : 1);
    test_put_program_header(b + headers, is_64, PT_LOAD, TEST_ELF_TEXT,
                            TEST_ELF_BASE + TEST_ELF_VIRTUAL, TEST_ELF_BASE, TEST_ELF_TEXT_SIZE,
                            TEST_ELF_TEXT_SIZE + TEST_ELF_BSS);
    if (notes)
        test_put_program_header(b + headers + header_size, is_64, PT_NOTE, TEST_ELF_NOTES, 0, 0,
                                (uint32_t)notes, (uint32_t)notes);
    return image;
}

// Not ELF at all: the multiboot header's address fields say everything.
static IMAGE_UNUSED struct test_image test_flat(void)
{
    struct test_image image = {.size = TEST_ELF_TEXT_SIZE};
    image.bytes = malloc(image.size);
    for (size_t i = 0; i < image.size; i++)
        image.bytes[i] = (uint8_t)(i * 3 + 1);
    test_put_multiboot(image.bytes + TEST_ELF_MULTIBOOT, 0x10003,
                       TEST_ELF_BASE + TEST_ELF_MULTIBOOT);
    return image;
}
