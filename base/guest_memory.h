// Guest RAM and the one way to it.
//
// Invariants:
// - guest_memory_slice() is the only thing in ferry that turns a guest-physical address (gpa) into
// a host
//   pointer. It knows RAM only: ROM, MMIO and holes are not found.
// - Looking up never marks. Whoever wrote calls guest_memory_written() after the last byte is
// stored; for
//   asynchronous I/O that is at its completion, also when it failed half-way.
// - Regions are added before the first vCPU runs and never move; so look-ups take no lock.
//
// Threads: slice and written from any thread; the log functions from one thread at a time.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GUEST_PAGE_SHIFT = 12, GUEST_PAGE_SIZE = 1 << GUEST_PAGE_SHIFT, GUEST_MEMORY_REGIONS = 8 };

struct guest_memory_region {
    uint64_t gpa;  // page-aligned
    uint64_t size; // bytes, page-aligned, not 0
    uint8_t *hva;  // page-aligned; the mapping belongs to whoever added it
    // A page that nobody has touched isn't zero but has the contents of a file (a restored
    // snapshot).
    bool from_file;
    // One bit a page, allocated with the region: pages that ferry itself wrote while the log was
    // on.
    _Atomic uint64_t *log;
};

struct guest_memory {
    struct guest_memory_region regions[GUEST_MEMORY_REGIONS]; // ascending, not overlapping
    unsigned count;
    atomic_bool logging;
};

void guest_memory_init(struct guest_memory *mem);
// Frees the logs, not the mappings.
void guest_memory_destroy(struct guest_memory *mem);
// 0; -EINVAL when misaligned, empty, wrapping or overlapping; -ENOSPC; -ENOMEM.
int guest_memory_add(struct guest_memory *mem, uint64_t gpa, void *hva, uint64_t size);
// Bytes of RAM in all regions.
uint64_t guest_memory_size(const struct guest_memory *mem);

// The host address of [gpa, gpa + length), which must lie in one region; NULL otherwise, also when
// the sum wraps. A length of 0 is valid anywhere inside a region.
void *guest_memory_slice(const struct guest_memory *mem, uint64_t gpa, uint64_t length);
// Says that [gpa, gpa + length) was written by ferry. Ranges outside of RAM are ignored.
void guest_memory_written(struct guest_memory *mem, uint64_t gpa, uint64_t length);

// Gives the pages of [gpa, gpa + length), whole pages of RAM, back to the host, and marks them as
// written: they read as zero from then on, or as the file they came from. Returns how many bytes
// went: 0 when the range isn't such a one. Whoever has I/O in flight to such a page loses what it
// transfers, nothing else: the addresses stay valid.
uint64_t guest_memory_discard(struct guest_memory *mem, uint64_t gpa, uint64_t length);

// Copies out of, or into, RAM; the latter marks. 0 or -EFAULT (nothing was copied).
int guest_memory_read(const struct guest_memory *mem, uint64_t gpa, void *out, size_t length);
int guest_memory_write(struct guest_memory *mem, uint64_t gpa, const void *bytes, size_t length);

// Starts with an empty log; from its return on no write is missed.
void guest_memory_log_start(struct guest_memory *mem);
void guest_memory_log_stop(struct guest_memory *mem);
// ORs the log of region `index` into `bitmap` (one bit a page, whole 64-bit words) and clears it. A
// page's contents may be read only after this call: a write that comes later marks again.
void guest_memory_log_take(struct guest_memory *mem, unsigned index, uint64_t *bitmap);
static inline uint64_t guest_memory_log_words(const struct guest_memory_region *region)
{
    return (region->size / GUEST_PAGE_SIZE + 63) / 64;
}
