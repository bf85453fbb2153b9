#include "base/guest_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void guest_memory_init(struct guest_memory *mem)
{
    memset(mem, 0, sizeof(*mem));
}

void guest_memory_destroy(struct guest_memory *mem)
{
    for (unsigned i = 0; i < mem->count; i++)
        free((void *)mem->regions[i].log);
    guest_memory_init(mem);
}

static bool is_page_aligned(uint64_t v)
{
    return (v & (GUEST_PAGE_SIZE - 1)) == 0;
}

int guest_memory_add(struct guest_memory *mem, uint64_t gpa, void *hva, uint64_t size)
{
    if (size == 0 || gpa + size < gpa || !is_page_aligned(gpa) || !is_page_aligned(size) ||
        !is_page_aligned((uintptr_t)hva))
        return -EINVAL;
    if (mem->count == GUEST_MEMORY_REGIONS)
        return -ENOSPC;
    unsigned at = 0;
    while (at < mem->count && mem->regions[at].gpa < gpa)
        at++;
    if (at > 0 && mem->regions[at - 1].gpa + mem->regions[at - 1].size > gpa)
        return -EINVAL;
    if (at < mem->count && gpa + size > mem->regions[at].gpa)
        return -EINVAL;
    struct guest_memory_region region = {.gpa = gpa, .size = size, .hva = hva};
    region.log = calloc(guest_memory_log_words(&region), sizeof(*region.log));
    if (!region.log)
        return -ENOMEM;
    memmove(&mem->regions[at + 1], &mem->regions[at], (mem->count - at) * sizeof(region));
    mem->regions[at] = region;
    mem->count++;
    return 0;
}

uint64_t guest_memory_size(const struct guest_memory *mem)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < mem->count; i++)
        total += mem->regions[i].size;
    return total;
}

// The region that holds all of [gpa, gpa + length), or NULL.
static const struct guest_memory_region *find_region(const struct guest_memory *mem, uint64_t gpa,
                                                     uint64_t length)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct guest_memory_region *r = &mem->regions[i];
        // Written without a sum, so that nothing can wrap.
        if (gpa >= r->gpa && gpa - r->gpa < r->size && length <= r->size - (gpa - r->gpa))
            return r;
    }
    return NULL;
}

void *guest_memory_slice(const struct guest_memory *mem, uint64_t gpa, uint64_t length)
{
    const struct guest_memory_region *r = find_region(mem, gpa, length);
    return r ? r->hva + (gpa - r->gpa) : NULL;
}

void guest_memory_written(struct guest_memory *mem, uint64_t gpa, uint64_t length)
{
    // Full barrier between the caller's stores and this load: without it the stores could still be
    // in the store buffer when logging reads as off, while guest_memory_log_start() has already
    // returned and its caller reads the old contents; the write would be lost.
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load_explicit(&mem->logging, memory_order_relaxed) || length == 0)
        return;
    const struct guest_memory_region *r = find_region(mem, gpa, length);
    if (!r)
        return;
    uint64_t first = (gpa - r->gpa) >> GUEST_PAGE_SHIFT;
    uint64_t last = (gpa - r->gpa + length - 1) >> GUEST_PAGE_SHIFT;
    for (uint64_t page = first; page <= last; page++)
        // Release: whoever takes this bit sees the bytes it stands for.
        atomic_fetch_or_explicit(&r->log[page / 64], UINT64_C(1) << (page % 64),
                                 memory_order_release);
}

uint64_t guest_memory_discard(struct guest_memory *mem, uint64_t gpa, uint64_t length)
{
    if (length == 0 || !is_page_aligned(gpa) || !is_page_aligned(length))
        return 0;
    void *p = guest_memory_slice(mem, gpa, length);
    if (!p || madvise(p, length, MADV_DONTNEED) < 0)
        return 0;
    // Behind the discard: a log taken between the two would have the old contents sent, and this
    // change never.
    guest_memory_written(mem, gpa, length);
    return length;
}

int guest_memory_read(const struct guest_memory *mem, uint64_t gpa, void *out, size_t length)
{
    const void *p = guest_memory_slice(mem, gpa, length);
    if (!p)
        return -EFAULT;
    memcpy(out, p, length);
    return 0;
}

int guest_memory_write(struct guest_memory *mem, uint64_t gpa, const void *bytes, size_t length)
{
    void *p = guest_memory_slice(mem, gpa, length);
    if (!p)
        return -EFAULT;
    memcpy(p, bytes, length);
    guest_memory_written(mem, gpa, length);
    return 0;
}

void guest_memory_log_start(struct guest_memory *mem)
{
    for (unsigned i = 0; i < mem->count; i++)
        for (uint64_t w = 0; w < guest_memory_log_words(&mem->regions[i]); w++)
            atomic_store_explicit(&mem->regions[i].log[w], 0, memory_order_relaxed);
    // Pairs with the barrier in guest_memory_written().
    atomic_store(&mem->logging, true);
    atomic_thread_fence(memory_order_seq_cst);
}

void guest_memory_log_stop(struct guest_memory *mem)
{
    atomic_store(&mem->logging, false);
}

void guest_memory_log_take(struct guest_memory *mem, unsigned index, uint64_t *bitmap)
{
    const struct guest_memory_region *r = &mem->regions[index];
    for (uint64_t w = 0; w < guest_memory_log_words(r); w++) {
        if (atomic_load_explicit(&r->log[w], memory_order_relaxed))
            bitmap[w] |= atomic_exchange_explicit(&r->log[w], 0, memory_order_acq_rel);
    }
}
