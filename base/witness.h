// Evidence of when a machine ran and wrote, for tests: a mapped file per machine (uuid), shared by
// all processes that ever are this machine on one kernel. It outlives SIGKILL, as its pages are the
// page cache's. build/tests/cluster/witness_check looks for overlaps in it.
//
// Each thread writes into a slot of its own for the epoch that it acts under: when it first began,
// when it last began and ended, on CLOCK_BOOTTIME. A beginning is a vCPU's comparison of the
// deadline before KVM_RUN, or a disk's submission of a write; it proves that the machine acted
// then. An end is an upper bound only: a thread that was stopped sees it late.
//
// Layout, little-endian: a header of 4096 bytes, then slots of 64.
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/ids.h"

#define WITNESS_MAGIC "ferryWT1"
enum { WITNESS_HEADER_SIZE = 4096, WITNESS_SLOTS = 4096, WITNESS_BOOT_SIZE = 40 };
enum witness_kind { WITNESS_NONE, WITNESS_VCPU, WITNESS_DISK };

struct witness_slot {
    _Atomic uint32_t kind; // written last
    uint32_t index, pid, unused;
    uint64_t epoch;
    _Atomic uint64_t first_ns, last_begun_ns, last_ended_ns, count;
    uint64_t process; // which one: pids of two pid namespaces may be the same
};

struct witness_file {
    char magic[8];
    struct uuid uuid;
    char boot_id[WITNESS_BOOT_SIZE]; // of the kernel: times of another can't be compared
    _Atomic uint32_t used;           // slots
    uint8_t unused[WITNESS_HEADER_SIZE - 8 - 16 - WITNESS_BOOT_SIZE - 4];
    struct witness_slot slots[WITNESS_SLOTS];
};

// Maps DIRECTORY/UUID.witness, which is made where it isn't there. 0 or a sentence.
int witness_open(struct witness_file **file, const char *directory, const struct uuid *uuid,
                 struct error *err);
// The same of a file that is only looked at.
int witness_open_path(const struct witness_file **file, const char *path, struct error *err);
// NULL is allowed.
void witness_close(const struct witness_file *file);
// A new slot; NULL when there are no more (or no file). Any thread.
struct witness_slot *witness_slot(struct witness_file *file, uint64_t epoch, enum witness_kind kind,
                                  unsigned index);

// The slot's own thread.
static inline void witness_begin(struct witness_slot *slot, uint64_t now)
{
    if (atomic_load_explicit(&slot->first_ns, memory_order_relaxed) == 0)
        atomic_store_explicit(&slot->first_ns, now, memory_order_relaxed);
    atomic_store_explicit(&slot->last_begun_ns, now, memory_order_relaxed);
    atomic_store_explicit(&slot->count,
                          atomic_load_explicit(&slot->count, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}
static inline void witness_end(struct witness_slot *slot, uint64_t now)
{
    atomic_store_explicit(&slot->last_ended_ns, now, memory_order_relaxed);
}
