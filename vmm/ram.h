// Guest RAM: the host mappings behind the accessor, and their KVM slots.
//
// Slot numbers: RAM regions take 0 and 1; what devices map comes behind (memory_slots.used).
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/guest_memory.h"
#include "vmm/kvm.h"

enum { RAM_SLOTS = 2, MAPPED_SLOTS = 16 };

struct ram {
    struct guest_memory memory;
};

// Maps `size` bytes (page-aligned, at least LAYOUT_RAM_MINIMUM) and gives them to the accessor and
// the VM.
int ram_create(struct ram *ram, const struct kvm *kvm, uint64_t size, struct error *err);
void ram_destroy(struct ram *ram);
// Makes all RAM zero again and gives the pages back to the host. No vCPU runs, nothing is in
// flight.
void ram_clear(struct ram *ram);
