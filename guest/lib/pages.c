#include "guest/lib/pages.h"

#include "guest/lib/boot_parameters.h"
#include "guest/lib/memory.h"
#include "guest/lib/privileged.h"
#include "guest/lib/spinlock.h"

enum {
    PAGE = 4096,
    RANGES_MAX = PAGES_RANGES_MAX,
};
_Static_assert((int)PAGES_RANGES_MAX >= (int)MEMORY_MAP_MAX, "a mark holds every range");
#define BIG_PAGE 0x200000ul
#define FOUR_GIB 0x100000000ul

// Page table entries (SDM volume 3, 4.5): present, write, user, write-through, cache-disable,
// accessed, dirty, size.
#define TABLE_BITS   0x27ul
#define RAM_BITS     0xe7ul
#define DEVICE_BITS  0xfful
#define ADDRESS_BITS 0xffffffffff000ul

extern uint64_t page_map_level4[512], low_pages[512];
extern char image_end[];

// Free RAM, each range taken from its start on.
static struct {
    uint64_t start, end;
} ranges[RANGES_MAX];
static unsigned range_count;
static struct spinlock range_lock; // guards ranges; taken inside map_lock
static struct spinlock map_lock;   // guards the page tables

// The lowest address that may be given away: what lies below is the image, its stacks and the
// trampoline.
static uint64_t floor_address(void)
{
    return (uint64_t)image_end;
}

static uint64_t *table_below(uint64_t *entry)
{
    if (!(*entry & 1)) {
        void *table = pages_allocate_zeroed(PAGE, PAGE);
        if (!table)
            return NULL;
        *entry = (uint64_t)table | TABLE_BITS;
    }
    return (uint64_t *)(*entry & ADDRESS_BITS);
}

// Maps whole 2 MiB pages. Returns whether an entry that was present changed.
static bool map(uint64_t start, uint64_t end, uint64_t bits)
{
    bool changed = false;
    for (uint64_t at = start & -BIG_PAGE; at < end; at += BIG_PAGE) {
        uint64_t *pointers = table_below(&page_map_level4[at >> 39 & 511]);
        uint64_t *directory = pointers ? table_below(&pointers[at >> 30 & 511]) : NULL;
        if (!directory)
            return changed;
        uint64_t *entry = &directory[at >> 21 & 511];
        if (*entry == (at | bits) || at == 0)
            continue;
        changed |= *entry & 1;
        *entry = at | bits;
    }
    return changed;
}

void pages_start(void)
{
    const struct boot_parameters *boot = boot_parameters();
    low_pages[0] = 0; // nothing reads page 0 any more, but for mistakes
    tlb_flush();
    // Below 4 GiB first: page tables for the rest come from there.
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < boot->range_count; i++) {
            uint64_t start = boot->ranges[i].start, end = start + boot->ranges[i].size;
            if (boot->ranges[i].type != MEMORY_RAM || (start >= FOUR_GIB) != pass)
                continue;
            start = (start + PAGE - 1) & -(uint64_t)PAGE;
            end &= -(uint64_t)PAGE;
            if (start < floor_address())
                start = floor_address();
            if (boot->module_size && start < boot->module_start + boot->module_size &&
                boot->module_start < end)
                start = (boot->module_start + boot->module_size + PAGE - 1) & -(uint64_t)PAGE;
            if (start >= end)
                continue;
            ranges[range_count].start = start;
            ranges[range_count++].end = end;
            if (pass)
                map(start, end, RAM_BITS);
        }
    }
}

void *pages_allocate(uint64_t size, uint64_t alignment)
{
    void *pages = NULL;
    size = (size + PAGE - 1) & -(uint64_t)PAGE;
    spinlock_take(&range_lock);
    for (unsigned i = 0; i < range_count && !pages; i++) {
        uint64_t start = (ranges[i].start + alignment - 1) & -alignment;
        if (start >= ranges[i].end || ranges[i].end - start < size)
            continue;
        ranges[i].start = start + size;
        pages = (void *)start;
    }
    spinlock_release(&range_lock);
    return pages;
}

void *pages_allocate_zeroed(uint64_t size, uint64_t alignment)
{
    void *pages = pages_allocate(size, alignment);
    return pages ? memset(pages, 0, size) : NULL;
}

uint64_t pages_largest(void)
{
    uint64_t largest = 0;
    for (unsigned i = 0; i < range_count; i++)
        if (ranges[i].end - ranges[i].start > largest)
            largest = ranges[i].end - ranges[i].start;
    return largest;
}

bool pages_take(uint64_t start, uint64_t size)
{
    for (unsigned i = 0; i < range_count; i++) {
        if (start < ranges[i].start || start >= ranges[i].end || ranges[i].end - start < size)
            continue;
        // The part in front stays usable as a range of its own.
        if (start > ranges[i].start && range_count < RANGES_MAX) {
            ranges[range_count].start = ranges[i].start;
            ranges[range_count++].end = start;
        }
        ranges[i].start = start + size;
        return true;
    }
    return false;
}

void pages_mark_take(struct pages_mark *mark)
{
    spinlock_take(&range_lock);
    for (unsigned i = 0; i < range_count; i++)
        mark->starts[i] = ranges[i].start;
    spinlock_release(&range_lock);
}

void pages_mark_return(const struct pages_mark *mark)
{
    spinlock_take(&range_lock);
    for (unsigned i = 0; i < range_count; i++)
        ranges[i].start = mark->starts[i];
    spinlock_release(&range_lock);
}

void pages_map_device(uint64_t start, uint64_t size)
{
    spinlock_take(&map_lock);
    bool changed = map(start, start + size, DEVICE_BITS);
    spinlock_release(&map_lock);
    if (changed)
        tlb_flush();
}
