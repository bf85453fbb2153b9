// What KVM's paravirtual leaf offers (Linux, Documentation/virt/kvm/x86/cpuid.rst and msr.rst).
#pragma once

#include <stdbool.h>
#include <stdint.h>

bool kvm_present(void);

// The TSC's frequency by the timing leaf (0x40000010) or by the clock's scale; 0 when that isn't
// offered.
uint64_t kvm_tsc_hz(void);
uint64_t kvm_clock_tsc_hz(void);

// kvmclock of this vCPU; switches it on when first asked. False when it isn't offered.
bool kvm_clock_start(void);
uint64_t kvm_clock_ns(void);

// Steal time of this vCPU in ns since it was switched on; kvm_steal_start returns false when it
// isn't offered.
bool kvm_steal_start(void);
uint64_t kvm_steal_ns(void);
