// Which pages of RAM were written: KVM's log of the vCPUs ORed with the accessor's log of ferry's
// own writes.
//
// Invariant: dirty_log_take() clears both logs before it returns, so a page whose contents are read
// afterwards and then written again shows up in the next one. Nothing is lost when what was taken
// can't be sent: the caller keeps its bitmap and ORs the next take into it.
//
// Threads: one thread at a time; vCPUs and I/O threads may run.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "vmm/kvm.h"
#include "vmm/ram.h"

// One bit a page, one array a RAM region, in whole 64-bit words.
struct page_bitmap {
    uint64_t *words[GUEST_MEMORY_REGIONS];
    uint64_t word_count[GUEST_MEMORY_REGIONS];
    unsigned regions;
};

int page_bitmap_init(struct page_bitmap *bitmap, const struct guest_memory *memory);
void page_bitmap_free(struct page_bitmap *bitmap);
uint64_t page_bitmap_count(const struct page_bitmap *bitmap);
// Sets the bit of every page.
void page_bitmap_fill(struct page_bitmap *bitmap, const struct guest_memory *memory);
void page_bitmap_clear(struct page_bitmap *bitmap);

struct dirty_log {
    const struct kvm *kvm;
    struct guest_memory *memory;
    struct page_bitmap scratch; // KVM's answer
    bool manual;                // KVM clears only what it is told to (KVM_CLEAR_DIRTY_LOG)
};

// From its return on no write is missed. 0 or a sentence, and no log is on.
int dirty_log_start(struct dirty_log *log, const struct kvm *kvm, struct guest_memory *memory,
                    struct error *err);
// ORs what was written since the last take (or the start) into `bitmap`.
int dirty_log_take(struct dirty_log *log, struct page_bitmap *bitmap, struct error *err);
void dirty_log_stop(struct dirty_log *log);
