// ELF files (32 and 64 bit, x86), as far as a loader needs them: segments and notes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    ELF_SEGMENTS_LIMIT = 64,
    // Notes that are looked at, of all segments; kernels have a dozen. Thousands of segments may
    // lie over the same notes of a large file.
    ELF_NOTES_LIMIT = 4096,
};

struct elf_segment {
    uint64_t offset, file_size; // in the file; checked to lie in it
    uint64_t vaddr, paddr, memory_size;
};

struct elf_image {
    const uint8_t *bytes;
    size_t size;
    bool is_64;
    uint64_t entry;                                  // virtual
    struct elf_segment segments[ELF_SEGMENTS_LIMIT]; // to load; memory_size isn't 0
    unsigned segment_count;
    unsigned note_count;
    bool has_pvh_entry;
    uint32_t pvh_entry; // physical
    bool lives_at_cpl3;
};

// Whether the bytes begin as an ELF file does.
bool elf_image_is(const uint8_t *bytes, size_t size);
// Headers, segments and notes. 0; -ENOEXEC with a sentence. `bytes` stay the caller's.
int elf_image_parse(struct elf_image *elf, const uint8_t *bytes, size_t size, struct error *err);
// The physical address of a virtual one by the segments; false when no segment has it.
bool elf_image_physical(const struct elf_image *elf, uint64_t virtual_address, uint64_t *physical);
// Whether a loaded segment covers the physical address.
bool elf_image_covers(const struct elf_image *elf, uint64_t physical_address);
