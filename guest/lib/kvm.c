#include "guest/lib/kvm.h"

#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/pages.h"
#include "guest/lib/privileged.h"
#include "guest/lib/time.h"

enum {
    FEATURE_CLOCK2 = 1 << 3,
    FEATURE_STEAL_TIME = 1 << 5,
};
#define LEAF_KVM       0x40000000u
#define LEAF_FEATURES  0x40000001u
#define LEAF_TIMING    0x40000010u
#define MSR_CLOCK      0x4b564d01
#define MSR_STEAL_TIME 0x4b564d03

struct pvclock {
    uint32_t version, padding0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_multiplier;
    int8_t tsc_shift;
    uint8_t flags, padding[2];
};

struct steal_time {
    uint64_t steal;
    uint32_t version, flags;
    uint8_t preempted, padding[47];
};
_Static_assert(sizeof(struct steal_time) == 64, "KVM's record");

bool kvm_present(void)
{
    struct cpuid_registers leaf = cpuid_read(LEAF_KVM, 0);
    return leaf.ebx == 0x4b4d564b && leaf.ecx == 0x564b4d56 && leaf.edx == 0x4d; // "KVMKVMKVM"
}

static bool kvm_has(uint32_t feature)
{
    return kvm_present() && cpuid_read(LEAF_FEATURES, 0).eax & feature;
}

uint64_t kvm_tsc_hz(void)
{
    if (!kvm_present() || cpuid_read(LEAF_KVM, 0).eax < LEAF_TIMING)
        return 0;
    return (uint64_t)cpuid_read(LEAF_TIMING, 0).eax * 1000;
}

bool kvm_clock_start(void)
{
    struct cpu *cpu = this_cpu();
    if (cpu->clock)
        return true;
    if (!kvm_has(FEATURE_CLOCK2))
        return false;
    struct pvclock *clock = pages_allocate_zeroed(sizeof(*clock), 4096);
    if (!clock)
        return false;
    msr_write(MSR_CLOCK, (uint64_t)clock | 1);
    cpu->clock = clock;
    return true;
}

uint64_t kvm_clock_ns(void)
{
    const volatile struct pvclock *clock = this_cpu()->clock;
    uint32_t version;
    uint64_t ns;
    do {
        version = clock->version & ~1u; // odd while the host writes
        uint64_t ticks = time_tsc_ordered() - clock->tsc_timestamp;
        ticks = clock->tsc_shift < 0 ? ticks >> -clock->tsc_shift : ticks << clock->tsc_shift;
        ns = clock->system_time +
             (uint64_t)((unsigned __int128)ticks * clock->tsc_to_system_multiplier >> 32);
        __asm__ volatile("lfence" : : : "memory");
    } while (version != clock->version);
    return ns;
}

uint64_t kvm_clock_tsc_hz(void)
{
    if (!kvm_clock_start())
        return 0;
    const struct pvclock *clock = this_cpu()->clock;
    if (!clock->tsc_to_system_multiplier)
        return 0;
    uint64_t khz = (1000000ul << 32) / clock->tsc_to_system_multiplier;
    return (clock->tsc_shift < 0 ? khz << -clock->tsc_shift : khz >> clock->tsc_shift) * 1000;
}

bool kvm_steal_start(void)
{
    struct cpu *cpu = this_cpu();
    if (cpu->steal_time)
        return true;
    if (!kvm_has(FEATURE_STEAL_TIME))
        return false;
    struct steal_time *steal = pages_allocate_zeroed(sizeof(*steal), 4096);
    if (!steal)
        return false;
    msr_write(MSR_STEAL_TIME, (uint64_t)steal | 1);
    cpu->steal_time = steal;
    return true;
}

uint64_t kvm_steal_ns(void)
{
    const volatile struct steal_time *steal = this_cpu()->steal_time;
    if (!steal)
        return 0;
    uint32_t version;
    uint64_t ns;
    do {
        version = steal->version & ~1u;
        __asm__ volatile("" : : : "memory");
        ns = steal->steal;
        __asm__ volatile("" : : : "memory");
    } while (version != steal->version);
    return ns;
}
