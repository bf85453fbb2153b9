// KVM as ferry uses it: the checks, and thin wrappers of the VM's ioctls.
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

// Optional abilities that change what ferry does.
struct kvm_abilities {
    bool tsc_deadline;  // the LAPIC timer's TSC-deadline mode
    bool x2apic_api;    // interrupt routes with 32-bit destinations
    bool binary_stats;  // KVM_GET_STATS_FD
    bool kvmclock_ctrl; // tells the guest's watchdog about a pause
    bool exception_payload;
    bool xcrs; // extended control registers: absent on a CPU without XSAVE
    bool xsave2;
    bool tsc_control;    // TSC scaling
    uint32_t vcpus;      // most vCPUs of a VM
    uint32_t slots;      // most memory slots of a VM
    uint32_t xsave_size; // bytes of struct kvm_xsave with what the host has enabled
};

struct kvm {
    int fd;          // /dev/kvm; belongs to the caller
    int vm_fd;       // -1 before kvm_create_vm()
    size_t run_size; // of a vCPU's shared page
    struct kvm_abilities abilities;
};

// Checks the API version and every capability that ferry can't do without; a missing one is named.
int kvm_check(struct kvm *kvm, int kvm_fd, struct error *err);
// The VM with in-kernel LAPICs, IOAPIC, PIC and PIT (speaker port included).
int kvm_create_vm(struct kvm *kvm, struct error *err);
void kvm_close(struct kvm *kvm);
// ioctl on the VM that goes on after EINTR: 0 or above, or -errno.
int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *argument);
// Backs [gpa, gpa + size) with host memory; size 0 removes the slot. `flags` are KVM_MEM_*.
int kvm_set_slot(const struct kvm *kvm, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva,
                 uint64_t size);
