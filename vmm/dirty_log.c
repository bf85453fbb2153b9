#include "vmm/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

// Pages cleared by one call: KVM holds its MMU lock for that long.
enum { CLEAR_STEP = 64 * 1024 };

// ---- bitmaps ----

int page_bitmap_init(struct page_bitmap *bitmap, const struct guest_memory *memory)
{
    *bitmap = (struct page_bitmap){0};
    for (unsigned i = 0; i < memory->count; i++) {
        bitmap->word_count[i] = guest_memory_log_words(&memory->regions[i]);
        bitmap->words[i] = calloc(bitmap->word_count[i], sizeof(uint64_t));
        bitmap->regions = i + 1;
        if (!bitmap->words[i]) {
            page_bitmap_free(bitmap);
            return -ENOMEM;
        }
    }
    return 0;
}

void page_bitmap_free(struct page_bitmap *bitmap)
{
    for (unsigned i = 0; i < bitmap->regions; i++)
        free(bitmap->words[i]);
    *bitmap = (struct page_bitmap){0};
}

uint64_t page_bitmap_count(const struct page_bitmap *bitmap)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < bitmap->regions; i++)
        for (uint64_t w = 0; w < bitmap->word_count[i]; w++)
            count += (uint64_t)__builtin_popcountll(bitmap->words[i][w]);
    return count;
}

void page_bitmap_fill(struct page_bitmap *bitmap, const struct guest_memory *memory)
{
    for (unsigned i = 0; i < bitmap->regions; i++) {
        uint64_t pages = memory->regions[i].size / GUEST_PAGE_SIZE;
        memset(bitmap->words[i], 0xff, pages / 64 * sizeof(uint64_t));
        if (pages % 64)
            bitmap->words[i][pages / 64] = (UINT64_C(1) << pages % 64) - 1;
    }
}

void page_bitmap_clear(struct page_bitmap *bitmap)
{
    for (unsigned i = 0; i < bitmap->regions; i++)
        memset(bitmap->words[i], 0, bitmap->word_count[i] * sizeof(uint64_t));
}

// ---- the log ----

// Slots of RAM have the numbers of their regions (ram.h).
static int set_logging(const struct dirty_log *log, unsigned slot, bool on)
{
    const struct guest_memory_region *r = &log->memory->regions[slot];
    return kvm_set_slot(log->kvm, slot, on ? KVM_MEM_LOG_DIRTY_PAGES : 0, r->gpa, r->hva, r->size);
}

// Manual clearing lets a page be write-protected again only just before it is read. "Initially set"
// saves protecting all of RAM at the start: the first take says that everything is dirty, which it
// is.
static bool enable_manual(const struct kvm *kvm)
{
    int offered = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    if (offered <= 0)
        return false;
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        .args = {(uint64_t)offered &
                 (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)},
    };
    return kvm_vm_ioctl(kvm, KVM_ENABLE_CAP, &cap) == 0;
}

int dirty_log_start(struct dirty_log *log, const struct kvm *kvm, struct guest_memory *memory,
                    struct error *err)
{
    *log = (struct dirty_log){.kvm = kvm, .memory = memory};
    int rc = page_bitmap_init(&log->scratch, memory);
    if (rc < 0)
        return error_set_errno(err, -rc, "starting the dirty log");
    log->manual = enable_manual(kvm);
    guest_memory_log_start(memory);
    for (unsigned i = 0; i < memory->count; i++) {
        rc = set_logging(log, i, true);
        if (rc < 0) {
            dirty_log_stop(log);
            return error_set_errno(err, -rc, "starting KVM's dirty log");
        }
    }
    return 0;
}

void dirty_log_stop(struct dirty_log *log)
{
    if (!log->memory)
        return;
    for (unsigned i = 0; i < log->memory->count; i++)
        set_logging(log, i, false);
    guest_memory_log_stop(log->memory);
    page_bitmap_free(&log->scratch);
    *log = (struct dirty_log){0};
}

static int clear_kvm(const struct dirty_log *log, unsigned region)
{
    uint64_t pages = log->memory->regions[region].size / GUEST_PAGE_SIZE;
    for (uint64_t first = 0; first < pages; first += CLEAR_STEP) {
        uint64_t count = pages - first < CLEAR_STEP ? pages - first : CLEAR_STEP;
        struct kvm_clear_dirty_log clear = {
            .slot = region,
            .first_page = first,
            .num_pages = (uint32_t)count,
            .dirty_bitmap = &log->scratch.words[region][first / 64],
        };
        int rc = kvm_vm_ioctl(log->kvm, KVM_CLEAR_DIRTY_LOG, &clear);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int dirty_log_take(struct dirty_log *log, struct page_bitmap *bitmap, struct error *err)
{
    for (unsigned i = 0; i < log->memory->count; i++) {
        uint64_t *words = log->scratch.words[i];
        memset(words, 0, log->scratch.word_count[i] * sizeof(uint64_t));
        struct kvm_dirty_log get = {.slot = i, .dirty_bitmap = words};
        int rc = kvm_vm_ioctl(log->kvm, KVM_GET_DIRTY_LOG, &get);
        // Into the caller's bitmap before anything is cleared: a failure then loses nothing.
        for (uint64_t w = 0; rc == 0 && w < log->scratch.word_count[i]; w++)
            bitmap->words[i][w] |= words[w];
        if (rc == 0 && log->manual)
            rc = clear_kvm(log, i);
        if (rc < 0)
            return error_set_errno(err, -rc, "reading KVM's dirty log");
        guest_memory_log_take(log->memory, i, bitmap->words[i]);
    }
    return 0;
}
