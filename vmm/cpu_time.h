// What a guest is told of CPU time that ferry withheld from it.
//
// KVM counts in its steal-time record what the host's scheduler withheld while the thread wanted to
// run. A thread that waits for its turn sleeps, which KVM doesn't count: ferry adds that to the
// same record. Guests that can't use the record find the sum in a read-only page of ferry's own at
// LAYOUT_CPU_TIME (docs/scheduling.md): no exit, no MSR.
//
//   0   u64 magic "FERRYCPU", u32 version (1), u32 vCPUs
//   64  for each vCPU 64 bytes: u32 sequence (odd while it is written), u32 0, u64 withheld ns
//
// Threads: add and total of a vCPU on its thread, or while it is parked.
#pragma once

#include "base/error.h"
#include "base/guest_memory.h"

struct machine_ops;

struct cpu_time {
    struct guest_memory *memory;
    uint8_t *page; // NULL: the guest isn't told by a page
    unsigned count;
};

// Makes the page, and has it mapped. On failure the machine does without: a warning is logged.
void cpu_time_create(struct cpu_time *cpu_time, struct guest_memory *memory, unsigned vcpus,
                     const struct machine_ops *ops, void *machine);
// The machine's memory slots are gone already, or go with the VM.
void cpu_time_destroy(struct cpu_time *cpu_time);

// So much more was withheld from this vCPU, which isn't in the guest.
void cpu_time_add(struct cpu_time *cpu_time, unsigned index, int vcpu_fd, uint64_t ns);
uint64_t cpu_time_total(const struct cpu_time *cpu_time, unsigned index);
// As another host, or a former run, left it. The guest's steal-time record came with its RAM.
void cpu_time_restore(struct cpu_time *cpu_time, unsigned index, uint64_t total);
