#include "vmm/machine_clock.h"

#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/state.h"

#define FIELD(kind, member) STATE_FIELD(kind, struct machine_clock, member)
#define ARRAY(kind, member) STATE_ARRAY(kind, struct machine_clock, member)

static const struct state_field fields[] = {
    FIELD(STATE_U64, kvmclock_ns),
    FIELD(STATE_BOOL, has_realtime),
    FIELD(STATE_BOOL, has_host_tsc),
    FIELD(STATE_U64, realtime_ns),
    FIELD(STATE_U64, host_tsc),
    FIELD(STATE_U32, tsc_khz),
    FIELD(STATE_U32, vcpu_count),
    ARRAY(STATE_U64, tsc),
    ARRAY(STATE_U64, tsc_offset),
    FIELD(STATE_BOOL, has_offsets),
    {0},
};

static const struct state_section section = {"clock", 1, fields};

void machine_clock_save(const struct machine_clock *clock, struct byte_writer *w)
{
    state_section_save(&section, clock, w);
}

int machine_clock_load(struct machine_clock *clock, struct byte_reader *r, struct error *err)
{
    *clock = (struct machine_clock){0};
    return state_section_load(&section, clock, r, err);
}

static int tsc_offset_attribute(int vcpu_fd, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };
    return ioctl(vcpu_fd, request, &attribute);
}

static int get_msr(int vcpu_fd, uint32_t index, uint64_t *value)
{
    union {
        struct kvm_msrs msrs;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } one = {.msrs = {.nmsrs = 1}};
    one.msrs.entries[0].index = index;
    if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1)
        return -EIO;
    *value = one.msrs.entries[0].data;
    return 0;
}

static int set_msr(int vcpu_fd, uint32_t index, uint64_t value)
{
    union {
        struct kvm_msrs msrs;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } one = {.msrs = {.nmsrs = 1}};
    one.msrs.entries[0].index = index;
    one.msrs.entries[0].data = value;
    return ioctl(vcpu_fd, KVM_SET_MSRS, &one) == 1 ? 0 : -EIO;
}

int machine_clock_get(struct machine_clock *clock, const struct vcpus *vcpus, struct error *err)
{
    *clock = (struct machine_clock){.vcpu_count = vcpus->count, .has_offsets = true};
    struct kvm_clock_data data = {0};
    int rc = kvm_vm_ioctl(vcpus->kvm, KVM_GET_CLOCK, &data);
    if (rc < 0)
        return error_set_errno(err, -rc, "reading kvmclock");
    clock->kvmclock_ns = data.clock;
    clock->has_realtime = data.flags & KVM_CLOCK_REALTIME;
    clock->realtime_ns = clock->has_realtime ? data.realtime : clock_realtime_ns();
    clock->has_host_tsc = data.flags & KVM_CLOCK_HOST_TSC;
    clock->host_tsc = data.host_tsc;
    int khz = ioctl(vcpus->list[0].fd, KVM_GET_TSC_KHZ, 0);
    clock->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    for (unsigned i = 0; i < vcpus->count; i++) {
        rc = get_msr(vcpus->list[i].fd, MSR_IA32_TSC, &clock->tsc[i]);
        if (rc < 0)
            return error_set_errno(err, -rc, "reading the TSC of vCPU %u", i);
        if (tsc_offset_attribute(vcpus->list[i].fd, KVM_GET_DEVICE_ATTR, &clock->tsc_offset[i]) < 0)
            clock->has_offsets = false;
    }
    return 0;
}

static uint64_t cycles_in(uint64_t ns, uint32_t khz)
{
    return (uint64_t)((unsigned __int128)ns * khz / 1000000);
}

static int keep_frequency(const struct machine_clock *clock, const struct vcpus *vcpus,
                          struct error *err)
{
    for (unsigned i = 0; i < vcpus->count; i++) {
        int khz = ioctl(vcpus->list[i].fd, KVM_GET_TSC_KHZ, 0);
        if (clock->tsc_khz == 0 || khz <= 0 || (uint32_t)khz == clock->tsc_khz)
            continue;
        if (ioctl(vcpus->list[i].fd, KVM_SET_TSC_KHZ, clock->tsc_khz) == 0)
            continue;
        // KVM itself takes clocks within 250 ppm for the same; so do we, where scaling isn't there.
        uint64_t difference = clock->tsc_khz > (uint32_t)khz ? clock->tsc_khz - (uint32_t)khz
                                                             : (uint32_t)khz - clock->tsc_khz;
        if (difference * 4000 > clock->tsc_khz)
            return error_set(err, ENOTSUP,
                             "the guest's TSC runs at %u kHz, this host's at %d kHz, and this "
                             "processor can't scale it",
                             clock->tsc_khz, khz);
    }
    return 0;
}

// The offset rule; true when it could be used.
static bool put_offsets(const struct machine_clock *clock, const struct kvm_clock_data *now,
                        const struct vcpus *vcpus)
{
    if (!clock->has_offsets || !clock->has_host_tsc || !(now->flags & KVM_CLOCK_HOST_TSC) ||
        clock->tsc_khz == 0)
        return false;
    // Signed: the guest's clock may have gone on (a move) or stood (a restore) since.
    int64_t passed_ns = (int64_t)(now->clock - clock->kvmclock_ns);
    uint64_t passed = passed_ns >= 0 ? cycles_in((uint64_t)passed_ns, clock->tsc_khz)
                                     : -cycles_in((uint64_t)-passed_ns, clock->tsc_khz);
    for (unsigned i = 0; i < vcpus->count; i++) {
        uint64_t offset = clock->tsc_offset[i] + passed + (clock->host_tsc - now->host_tsc);
        if (tsc_offset_attribute(vcpus->list[i].fd, KVM_SET_DEVICE_ATTR, &offset) < 0)
            return false;
    }
    return true;
}

// Without the rule: each TSC is written as it was, plus the time that passed.
static void put_values(const struct machine_clock *clock, uint64_t passed_ns,
                       const struct vcpus *vcpus)
{
    for (unsigned i = 0; i < vcpus->count; i++) {
        uint64_t value = clock->tsc[i] + cycles_in(passed_ns, clock->tsc_khz);
        if (set_msr(vcpus->list[i].fd, MSR_IA32_TSC, value) < 0)
            log_warning("vCPU %u: KVM refused to set the TSC", i);
    }
}

int machine_clock_put(const struct machine_clock *clock, const struct vcpus *vcpus, bool advance,
                      struct error *err)
{
    if (clock->vcpu_count != vcpus->count)
        return error_set(err, EPROTO, "the clock state is of %u vCPUs, the machine has %u",
                         clock->vcpu_count, vcpus->count);
    int rc = keep_frequency(clock, vcpus, err);
    if (rc < 0)
        return rc;
    uint64_t realtime = clock_realtime_ns();
    uint64_t passed = advance && realtime > clock->realtime_ns ? realtime - clock->realtime_ns : 0;
    struct kvm_clock_data data = {.clock = clock->kvmclock_ns};
    if (advance && clock->has_realtime) {
        // KVM adds what passed itself, at the moment it takes the value.
        data.flags = KVM_CLOCK_REALTIME;
        data.realtime = clock->realtime_ns;
    } else {
        data.clock += passed;
    }
    rc = kvm_vm_ioctl(vcpus->kvm, KVM_SET_CLOCK, &data);
    if (rc == -EINVAL && data.flags) { // an older KVM doesn't know the flag
        data = (struct kvm_clock_data){.clock = clock->kvmclock_ns + passed};
        rc = kvm_vm_ioctl(vcpus->kvm, KVM_SET_CLOCK, &data);
    }
    struct kvm_clock_data now = {0};
    if (rc == 0)
        rc = kvm_vm_ioctl(vcpus->kvm, KVM_GET_CLOCK, &now);
    if (rc < 0)
        return error_set_errno(err, -rc, "setting kvmclock");
    if (now.clock < clock->kvmclock_ns)
        return error_set(err, EIO, "kvmclock would go backwards by %llu ns",
                         (unsigned long long)(clock->kvmclock_ns - now.clock));
    if (!put_offsets(clock, &now, vcpus))
        put_values(clock, passed, vcpus);
    for (unsigned i = 0; i < vcpus->count; i++) {
        uint64_t tsc;
        if (get_msr(vcpus->list[i].fd, MSR_IA32_TSC, &tsc) == 0 && tsc < clock->tsc[i])
            log_warning("vCPU %u: this KVM doesn't keep the TSC: it goes back by %llu cycles", i,
                        (unsigned long long)(clock->tsc[i] - tsc));
    }
    return 0;
}
