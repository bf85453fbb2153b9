#include "vmm/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/units.h"
#include "vmm/layout.h"

// Guest and host address agree modulo this, so that second-level tables can use 2 MiB entries.
#define HUGE_PAGE UINT64_C(0x200000)

// Advice only: without huge pages the guest is slower, nothing else.
static void advise(void *start, uint64_t size)
{
    madvise(start, size, MADV_HUGEPAGE);
    madvise(start, size, MADV_DONTDUMP);
}

static void *map_region(uint64_t size, struct error *err)
{
    uint64_t padded = size + HUGE_PAGE;
    uint8_t *room =
        mmap(NULL, padded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        error_set_errno(err, errno, "reserving addresses for guest RAM");
        return NULL;
    }
    uint8_t *start = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    if (start > room)
        munmap(room, (size_t)(start - room));
    uint8_t *end = room + padded;
    if (end > start + size)
        munmap(start + size, (size_t)(end - (start + size)));
    if (mmap(start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        MAP_FAILED) {
        char text[32];
        error_set_errno(err, errno, "mapping %s of guest RAM (choose less with --memory)",
                        units_format_size(size, text, sizeof(text)));
        munmap(start, size);
        return NULL;
    }
    advise(start, size);
    return start;
}

static int add_region(struct ram *ram, const struct kvm *kvm, uint64_t gpa, uint64_t size,
                      struct error *err)
{
    uint32_t slot = ram->memory.count;
    void *hva = map_region(size, err);
    if (!hva)
        return -err->code;
    int rc = guest_memory_add(&ram->memory, gpa, hva, size);
    if (rc < 0) {
        munmap(hva, size);
        return error_set_errno(err, -rc, "adding guest RAM at 0x%llx", (unsigned long long)gpa);
    }
    rc = kvm_set_slot(kvm, slot, 0, gpa, hva, size);
    if (rc < 0)
        return error_set_errno(err, -rc, "giving KVM the guest RAM at 0x%llx",
                               (unsigned long long)gpa);
    return 0;
}

int ram_create(struct ram *ram, const struct kvm *kvm, uint64_t size, struct error *err)
{
    guest_memory_init(&ram->memory);
    uint64_t low = size < LAYOUT_LOW_RAM_END ? size : LAYOUT_LOW_RAM_END;
    int rc = add_region(ram, kvm, 0, low, err);
    if (rc == 0 && size > low)
        rc = add_region(ram, kvm, LAYOUT_HIGH_RAM, size - low, err);
    if (rc < 0)
        ram_destroy(ram);
    return rc;
}

void ram_destroy(struct ram *ram)
{
    for (unsigned i = 0; i < ram->memory.count; i++)
        munmap(ram->memory.regions[i].hva, ram->memory.regions[i].size);
    guest_memory_destroy(&ram->memory);
}

void ram_clear(struct ram *ram)
{
    for (unsigned i = 0; i < ram->memory.count; i++) {
        struct guest_memory_region *r = &ram->memory.regions[i];
        // A fresh mapping in place of the old one: what was restored from a file would come back
        // otherwise.
        if (mmap(r->hva, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                 -1, 0) == MAP_FAILED) {
            memset(r->hva, 0, r->size);
        } else {
            advise(r->hva, r->size);
            r->from_file = false;
        }
        guest_memory_written(&ram->memory, r->gpa, r->size);
    }
}
