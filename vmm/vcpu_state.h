// The state of a vCPU in KVM, as one value that can be taken and put back.
#pragma once

#include <linux/kvm.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm/kvm.h"

// MSRs (Intel SDM vol. 4) that need care of their own.
enum { MSR_IA32_TSC = 0x10, MSR_IA32_TSC_ADJUST = 0x3b, MSR_IA32_TSC_DEADLINE = 0x6e0 };

struct vcpu_state {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_mp_state mp;
    struct kvm_xsave *xsave; // abilities.xsave_size bytes
    struct kvm_msrs *msrs;   // what KVM lists and gives
    uint64_t withheld_ns;    // CPU time that ferry kept from it; the machine's, not KVM's
};

// Takes the state of a vCPU that isn't running. Frees what the struct held before; start with
// zeroes. MSRs that KVM lists but refuses to read are left out.
int vcpu_state_get(struct vcpu_state *state, const struct kvm *kvm, int vcpu_fd, struct error *err);
// Puts it back; the TSC must be right before, since the deadline timer is armed by this. MSRs that
// KVM refuses are skipped; *refused counts them (may be NULL).
int vcpu_state_put(const struct vcpu_state *state, const struct kvm *kvm, int vcpu_fd,
                   unsigned *refused, struct error *err);
void vcpu_state_free(struct vcpu_state *state);
// Removes MSR `index` from the state: putting it back then leaves it as it is.
void vcpu_state_forget_msr(struct vcpu_state *state, uint32_t index);

// As bytes (docs/state-format.md, "vcpu"). `xsave_size` is abilities.xsave_size of the host at
// hand. Saving a state without XSAVE area or MSRs isn't allowed; failure shows in the writer.
void vcpu_state_save(const struct vcpu_state *state, size_t xsave_size, struct byte_writer *w);
// From a hostile source: 0 or a sentence. Frees what the struct held before; start with zeroes.
int vcpu_state_load(struct vcpu_state *state, size_t xsave_size, struct byte_reader *r,
                    struct error *err);
