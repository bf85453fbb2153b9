#include "vmm/boot/elf_image.h"

#include <elf.h>
#include <string.h>

#include "base/bytes.h"

enum {
    NOTE_PVH_ENTRY = 18,    // owner "Xen": XEN_ELFNOTE_PHYS32_ENTRY
    NOTE_LIVES_AT_CPL3 = 1, // owner "ferry"
    HEADER_SIZE_32 = 52,
    HEADER_SIZE_64 = 64,
    PROGRAM_HEADER_SIZE_32 = 32,
    PROGRAM_HEADER_SIZE_64 = 56,
};

struct program_header {
    uint32_t type;
    uint64_t offset, vaddr, paddr, file_size, memory_size, align;
};

static bool is_inside(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

bool elf_image_is(const uint8_t *bytes, size_t size)
{
    return size >= SELFMAG && memcmp(bytes, ELFMAG, SELFMAG) == 0;
}

static struct program_header read_program_header(const uint8_t *p, bool is_64)
{
    if (is_64)
        return (struct program_header){.type = bytes_get_u32(p),
                                       .offset = bytes_get_u64(p + 8),
                                       .vaddr = bytes_get_u64(p + 16),
                                       .paddr = bytes_get_u64(p + 24),
                                       .file_size = bytes_get_u64(p + 32),
                                       .memory_size = bytes_get_u64(p + 40),
                                       .align = bytes_get_u64(p + 48)};
    return (struct program_header){.type = bytes_get_u32(p),
                                   .offset = bytes_get_u32(p + 4),
                                   .vaddr = bytes_get_u32(p + 8),
                                   .paddr = bytes_get_u32(p + 12),
                                   .file_size = bytes_get_u32(p + 16),
                                   .memory_size = bytes_get_u32(p + 20),
                                   .align = bytes_get_u32(p + 28)};
}

static bool owner_is(const uint8_t *name, uint32_t length, const char *owner)
{
    return length == strlen(owner) + 1 && memcmp(name, owner, length) == 0;
}

static void take_note(struct elf_image *elf, uint32_t type, const uint8_t *name,
                      uint32_t name_length, const uint8_t *desc, uint32_t desc_length)
{
    if (type == NOTE_PVH_ENTRY && owner_is(name, name_length, "Xen") && desc_length >= 4) {
        // A 64-bit description must still be a 32-bit address.
        if (desc_length >= 8 && bytes_get_u32(desc + 4) != 0)
            return;
        elf->has_pvh_entry = true;
        elf->pvh_entry = bytes_get_u32(desc);
    } else if (type == NOTE_LIVES_AT_CPL3 && owner_is(name, name_length, "ferry")) {
        elf->lives_at_cpl3 = true;
    }
}

// Notes of one segment: name size, description size, type, name, description, both padded. A
// malformed note ends the list: there is no way to find the next one.
static void read_notes(struct elf_image *elf, const struct program_header *header)
{
    const uint8_t *p = elf->bytes + header->offset;
    uint64_t left = header->file_size;
    uint64_t pad = header->align == 8 ? 7 : 3;
    while (left >= 12 && elf->note_count++ < ELF_NOTES_LIMIT) {
        uint32_t name_length = bytes_get_u32(p), desc_length = bytes_get_u32(p + 4);
        // Padding is counted from the note's start, which is itself aligned.
        uint64_t desc = (12 + (uint64_t)name_length + pad) & ~pad;
        uint64_t end = desc + desc_length;
        if (end > left)
            return;
        take_note(elf, bytes_get_u32(p + 8), p + 12, name_length, p + desc, desc_length);
        uint64_t next = (end + pad) & ~pad;
        if (next > left)
            return;
        p += next;
        left -= next;
    }
}

static int take_segment(struct elf_image *elf, const struct program_header *header,
                        struct error *err)
{
    if (header->memory_size == 0)
        return 0;
    if (header->file_size > header->memory_size)
        return error_set(err, ENOEXEC, "an ELF segment is longer in the file than in memory");
    if (header->paddr + header->memory_size < header->paddr)
        return error_set(err, ENOEXEC, "an ELF segment wraps around the end of memory");
    if (elf->segment_count == ELF_SEGMENTS_LIMIT)
        return error_set(err, ENOEXEC, "it has more than %d ELF segments", ELF_SEGMENTS_LIMIT);
    elf->segments[elf->segment_count++] = (struct elf_segment){.offset = header->offset,
                                                               .file_size = header->file_size,
                                                               .vaddr = header->vaddr,
                                                               .paddr = header->paddr,
                                                               .memory_size = header->memory_size};
    return 0;
}

static int read_program_headers(struct elf_image *elf, struct error *err)
{
    const uint8_t *bytes = elf->bytes;
    uint64_t offset = elf->is_64 ? bytes_get_u64(bytes + 32) : bytes_get_u32(bytes + 28);
    uint64_t entry_size = bytes_get_u16(bytes + (elf->is_64 ? 54 : 42));
    uint64_t count = bytes_get_u16(bytes + (elf->is_64 ? 56 : 44));
    if (entry_size < (elf->is_64 ? PROGRAM_HEADER_SIZE_64 : PROGRAM_HEADER_SIZE_32) || count == 0 ||
        !is_inside(offset, entry_size * count, elf->size))
        return error_set(err, ENOEXEC, "its ELF program headers are missing or cut off");
    for (uint64_t i = 0; i < count; i++) {
        struct program_header header =
            read_program_header(bytes + offset + i * entry_size, elf->is_64);
        if (header.type != PT_LOAD && header.type != PT_NOTE)
            continue;
        if (!is_inside(header.offset, header.file_size, elf->size))
            return error_set(err, ENOEXEC,
                             "an ELF segment lies outside of the file; is it cut off?");
        if (header.type == PT_NOTE) {
            read_notes(elf, &header);
            continue;
        }
        int rc = take_segment(elf, &header, err);
        if (rc < 0)
            return rc;
    }
    if (elf->segment_count == 0)
        return error_set(err, ENOEXEC, "the ELF file has nothing to load");
    return 0;
}

int elf_image_parse(struct elf_image *elf, const uint8_t *bytes, size_t size, struct error *err)
{
    memset(elf, 0, sizeof(*elf));
    elf->bytes = bytes;
    elf->size = size;
    if (size < HEADER_SIZE_32)
        return error_set(err, ENOEXEC, "its ELF header is cut off");
    elf->is_64 = bytes[EI_CLASS] == ELFCLASS64;
    if (elf->is_64 && size < HEADER_SIZE_64)
        return error_set(err, ENOEXEC, "its ELF header is cut off");
    uint16_t type = bytes_get_u16(bytes + 16), machine = bytes_get_u16(bytes + 18);
    if ((!elf->is_64 && bytes[EI_CLASS] != ELFCLASS32) || bytes[EI_DATA] != ELFDATA2LSB ||
        bytes[EI_VERSION] != EV_CURRENT || (type != ET_EXEC && type != ET_DYN) ||
        (machine != EM_X86_64 && (machine != EM_386 || elf->is_64)))
        return error_set(err, ENOEXEC, "the ELF file is not an x86 executable");
    elf->entry = elf->is_64 ? bytes_get_u64(bytes + 24) : bytes_get_u32(bytes + 24);
    return read_program_headers(elf, err);
}

bool elf_image_physical(const struct elf_image *elf, uint64_t virtual_address, uint64_t *physical)
{
    for (unsigned i = 0; i < elf->segment_count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        if (virtual_address >= s->vaddr && virtual_address - s->vaddr < s->memory_size) {
            *physical = s->paddr + (virtual_address - s->vaddr);
            return true;
        }
    }
    return false;
}

bool elf_image_covers(const struct elf_image *elf, uint64_t physical_address)
{
    for (unsigned i = 0; i < elf->segment_count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        if (physical_address >= s->paddr && physical_address - s->paddr < s->memory_size)
            return true;
    }
    return false;
}
