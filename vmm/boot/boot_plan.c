#include "vmm/boot/boot_plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/units.h"
#include "vmm/boot/elf_image.h"
#include "vmm/layout.h"

void boot_plan_init(struct boot_plan *plan, const struct boot_images *images,
                    struct guest_memory *memory)
{
    memset(plan, 0, sizeof(*plan));
    plan->images = images;
    plan->memory = memory;
    memory_map_build(&plan->map, memory);
}

// The piece that overlaps [start, start + size), or NULL.
static const struct boot_piece *find_overlap(const struct boot_plan *plan, uint64_t start,
                                             uint64_t size)
{
    for (unsigned i = 0; i < plan->count; i++) {
        const struct boot_piece *p = &plan->pieces[i];
        if (start < p->gpa + p->size && p->gpa < start + size)
            return p;
    }
    return NULL;
}

static int error_no_room(const struct boot_plan *plan, const struct boot_piece *piece,
                         struct error *err)
{
    char wanted[32], present[32];
    return error_set(err, ENOMEM,
                     "no room for %s (%s) in the guest's memory of %s; give it more with --memory",
                     piece->what, units_format_size(piece->size, wanted, sizeof(wanted)),
                     units_format_size(guest_memory_size(plan->memory), present, sizeof(present)));
}

static int error_not_usable(const struct boot_plan *plan, const struct boot_piece *piece,
                            struct error *err)
{
    char present[32];
    // Elsewhere there is no RAM in a larger guest either.
    bool more_helps = piece->gpa >= LAYOUT_ONE_MIB && piece->size <= LAYOUT_LOW_RAM_END &&
                      piece->gpa <= LAYOUT_LOW_RAM_END - piece->size;
    return error_set(err, ENOMEM,
                     "%s needs the addresses 0x%" PRIx64 " to 0x%" PRIx64
                     ", which aren't all in the guest's memory of %s%s",
                     piece->what, piece->gpa, piece->gpa + piece->size - 1,
                     units_format_size(guest_memory_size(plan->memory), present, sizeof(present)),
                     more_helps ? "; give it more with --memory" : "");
}

int boot_plan_add(struct boot_plan *plan, const struct boot_piece *piece, struct error *err)
{
    if (piece->size == 0)
        return 0;
    if (plan->count == BOOT_PLAN_LIMIT)
        return error_set(err, ENOEXEC, "it has too many segments");
    if (!memory_map_is_usable(&plan->map, piece->gpa, piece->size))
        return error_not_usable(plan, piece, err);
    const struct boot_piece *other = find_overlap(plan, piece->gpa, piece->size);
    if (other)
        return error_set(err, ENOEXEC, "%s at 0x%" PRIx64 " overlaps %s at 0x%" PRIx64, piece->what,
                         piece->gpa, other->what, other->gpa);
    plan->pieces[plan->count++] = *piece;
    return 0;
}

int boot_plan_add_highest(struct boot_plan *plan, struct boot_piece *piece, uint64_t floor,
                          uint64_t ceiling, struct error *err)
{
    if (piece->size == 0)
        return 0;
    while (memory_map_find_highest(&plan->map, piece->size, GUEST_PAGE_SIZE, floor, ceiling,
                                   &piece->gpa)) {
        const struct boot_piece *other = find_overlap(plan, piece->gpa, piece->size);
        if (!other)
            return boot_plan_add(plan, piece, err);
        if (other->gpa <= floor)
            break;
        ceiling = other->gpa - 1;
    }
    return error_no_room(plan, piece, err);
}

int boot_plan_add_command_line(struct boot_plan *plan, const char *text, uint64_t limit,
                               struct error *err)
{
    enum { ROOM = 0x10000 }; // as layout.h says
    size_t length = strlen(text);
    if (limit > ROOM - 1)
        limit = ROOM - 1;
    if (length > limit)
        return error_set(err, E2BIG,
                         "the command line has %zu characters; this kernel takes %" PRIu64, length,
                         limit);
    const struct boot_piece piece = {.what = "the command line",
                                     .gpa = LAYOUT_BOOT_CMDLINE,
                                     .size = length + 1,
                                     .bytes = (const uint8_t *)text,
                                     .length = length + 1};
    return boot_plan_add(plan, &piece, err);
}

enum {
    SELECTOR_CODE = 0x10, // as the Linux boot protocol wants them
    SELECTOR_DATA = 0x18,
    SELECTOR_TASK = 0x20,

    PAGE_PRESENT_WRITABLE = 0x3,
    PAGE_LARGE = 0x80,
    PAGE_DIRECTORIES = 4, // one for each GiB
};
#define SEGMENT_CODE_64 UINT64_C(0x00af9b000000ffff)
#define SEGMENT_CODE_32 UINT64_C(0x00cf9b000000ffff)
#define SEGMENT_DATA    UINT64_C(0x00cf93000000ffff)
#define SEGMENT_TASK    UINT64_C(0x00008b0000000067) // busy, base 0, limit 0x67

static void build_page_tables(uint8_t *tables)
{
    const uint64_t at = LAYOUT_BOOT_PAGES;
    uint8_t *pml4 = tables, *pdpt = tables + GUEST_PAGE_SIZE, *pd = tables + 2 * GUEST_PAGE_SIZE;
    bytes_put_u64(pml4, (at + GUEST_PAGE_SIZE) | PAGE_PRESENT_WRITABLE);
    for (unsigned i = 0; i < PAGE_DIRECTORIES; i++)
        bytes_put_u64(pdpt + 8 * i, (at + (2 + i) * GUEST_PAGE_SIZE) | PAGE_PRESENT_WRITABLE);
    for (uint64_t i = 0; i < PAGE_DIRECTORIES * 512; i++)
        bytes_put_u64(pd + 8 * i, i << 21 | PAGE_LARGE | PAGE_PRESENT_WRITABLE);
}

int boot_plan_add_tables(struct boot_plan *plan, enum boot_mode mode, struct boot_entry *entry,
                         struct error *err)
{
    bool long_mode = mode == BOOT_LONG_MODE;
    bytes_put_u64(plan->gdt + SELECTOR_CODE, long_mode ? SEGMENT_CODE_64 : SEGMENT_CODE_32);
    bytes_put_u64(plan->gdt + SELECTOR_DATA, SEGMENT_DATA);
    bytes_put_u64(plan->gdt + SELECTOR_TASK, SEGMENT_TASK);
    entry->mode = mode;
    entry->gdt_base = LAYOUT_BOOT_GDT;
    entry->gdt_limit = sizeof(plan->gdt) - 1;
    entry->code_selector = SELECTOR_CODE;
    entry->data_selector = SELECTOR_DATA;
    entry->task_selector = SELECTOR_TASK;
    entry->cr0 = 0x11; // PE, ET
    const struct boot_piece gdt = {.what = "the descriptor table",
                                   .gpa = LAYOUT_BOOT_GDT,
                                   .size = sizeof(plan->gdt),
                                   .bytes = plan->gdt,
                                   .length = sizeof(plan->gdt)};
    int rc = boot_plan_add(plan, &gdt, err);
    if (rc < 0 || !long_mode)
        return rc;
    build_page_tables(plan->page_tables);
    entry->cr0 |= UINT64_C(0x80000000); // PG
    entry->cr3 = LAYOUT_BOOT_PAGES;
    entry->cr4 = 0x20;   // PAE
    entry->efer = 0x500; // LME, LMA
    const struct boot_piece pages = {.what = "the page tables",
                                     .gpa = LAYOUT_BOOT_PAGES,
                                     .size = sizeof(plan->page_tables),
                                     .bytes = plan->page_tables,
                                     .length = sizeof(plan->page_tables)};
    return boot_plan_add(plan, &pages, err);
}

int boot_plan_add_elf(struct boot_plan *plan, const struct elf_image *elf, struct error *err)
{
    for (unsigned i = 0; i < elf->segment_count; i++) {
        const struct elf_segment *s = &elf->segments[i];
        const struct boot_piece piece = {.what = "a segment of the kernel",
                                         .gpa = s->paddr,
                                         .size = s->memory_size,
                                         .bytes = elf->bytes + s->offset,
                                         .length = s->file_size};
        int rc = boot_plan_add(plan, &piece, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

void boot_plan_commit(const struct boot_plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++) {
        const struct boot_piece *p = &plan->pieces[i];
        uint8_t *to = guest_memory_slice(plan->memory, p->gpa, p->size);
        if (!to)
            continue; // can't be: the map is made from the regions
        uint64_t written = p->keep_rest ? p->length : p->size;
        if (p->length > 0)
            memcpy(to, p->bytes, p->length);
        memset(to + p->length, 0, written - p->length);
        guest_memory_written(plan->memory, p->gpa, written);
    }
}
