// The CPUID table of a vCPU (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
//
// A pure function of what KVM supports, the model and the number of vCPUs, so that it is tested
// without KVM. Topology: one package, one core a vCPU, one thread a core; the APIC id is the vCPU's
// index. Leaves 1, 4, 0xb, 0x80000008, 0x8000001d and 0x8000001e say the same.
#pragma once

#include <linux/kvm.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/cpu_model.h"
#include "vmm/kvm.h"

enum { CPUID_ENTRIES_LIMIT = 256 };

struct cpuid_table {
    uint32_t count;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_LIMIT];
};

// What this host's KVM supports (KVM_GET_SUPPORTED_CPUID).
int cpuid_get_supported(const struct kvm *kvm, struct cpuid_table *table, struct error *err);
// The table that all vCPUs share, but for the APIC id. -ENOTSUP with a sentence that names the
// feature which the model has and the host lacks.
int cpuid_build(const struct cpuid_table *supported, const struct cpu_model *model, unsigned cpus,
                bool tsc_deadline, struct cpuid_table *table, struct error *err);
// Puts the APIC id into the leaves that have it.
void cpuid_set_apic_id(struct cpuid_table *table, uint32_t apic_id);

// Whether this host can run a machine that was given `wanted` on another: same vendor, and no
// feature that isn't supported here. 0 or -ENOTSUP with a sentence that names what lacks.
int cpuid_check(const struct cpuid_table *wanted, const struct cpuid_table *supported,
                bool tsc_deadline, struct error *err);
