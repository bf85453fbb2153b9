#include "vmm/vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { MSRS_LIMIT = 1024 };

static int vcpu_ioctl(int fd, unsigned long request, const void *argument)
{
    int rc;
    do {
        rc = ioctl(fd, request, argument);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

// The indices KVM calls state, as an empty kvm_msrs with room for each.
static int list_msrs(const struct kvm *kvm, struct kvm_msrs **out)
{
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + MSRS_LIMIT * sizeof(list->indices[0]));
    if (!list)
        return -ENOMEM;
    list->nmsrs = MSRS_LIMIT;
    int rc = vcpu_ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list);
    if (rc < 0) {
        free(list);
        return rc;
    }
    struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + list->nmsrs * sizeof(msrs->entries[0]));
    if (msrs) {
        msrs->nmsrs = list->nmsrs;
        for (uint32_t i = 0; i < list->nmsrs; i++)
            msrs->entries[i].index = list->indices[i];
    }
    free(list);
    *out = msrs;
    return msrs ? 0 : -ENOMEM;
}

// KVM_GET_MSRS stops at the first one it refuses: that one is dropped and the rest asked again.
static int get_msrs(const struct kvm *kvm, int vcpu_fd, struct kvm_msrs **out)
{
    struct kvm_msrs *msrs;
    int rc = list_msrs(kvm, &msrs);
    if (rc < 0)
        return rc;
    while (msrs->nmsrs > 0) {
        rc = vcpu_ioctl(vcpu_fd, KVM_GET_MSRS, msrs);
        if (rc < 0) {
            free(msrs);
            return rc;
        }
        if ((uint32_t)rc == msrs->nmsrs)
            break;
        msrs->nmsrs--;
        memmove(&msrs->entries[rc], &msrs->entries[rc + 1],
                (msrs->nmsrs - (uint32_t)rc) * sizeof(msrs->entries[0]));
    }
    *out = msrs;
    return 0;
}

// KVM_SET_MSRS stops at the first one it refuses: go on behind it.
static int put_msrs(const struct kvm_msrs *msrs, int vcpu_fd, unsigned *refused)
{
    struct kvm_msrs *rest = malloc(sizeof(*rest) + msrs->nmsrs * sizeof(rest->entries[0]));
    if (!rest)
        return -ENOMEM;
    uint32_t done = 0;
    int rc = 0;
    while (done < msrs->nmsrs) {
        rest->nmsrs = msrs->nmsrs - done;
        rest->pad = 0;
        memcpy(rest->entries, msrs->entries + done, rest->nmsrs * sizeof(rest->entries[0]));
        rc = vcpu_ioctl(vcpu_fd, KVM_SET_MSRS, rest);
        if (rc < 0)
            break;
        done += (uint32_t)rc;
        if (done < msrs->nmsrs) {
            done++;
            if (refused)
                (*refused)++;
        }
        rc = 0;
    }
    free(rest);
    return rc;
}

int vcpu_state_get(struct vcpu_state *state, const struct kvm *kvm, int vcpu_fd, struct error *err)
{
    vcpu_state_free(state);
    state->xsave = calloc(1, kvm->abilities.xsave_size);
    if (!state->xsave)
        return error_set_errno(err, ENOMEM, "taking the state of a vCPU");
    const struct {
        unsigned long request; // 0 = this host doesn't have it
        void *argument;
        const char *name;
    } steps[] = {
        // mp_state first: it makes KVM take pending INIT and SIPI into account.
        {KVM_GET_MP_STATE, &state->mp, "MP state"},
        {KVM_GET_REGS, &state->regs, "registers"},
        {KVM_GET_SREGS, &state->sregs, "control registers"},
        {kvm->abilities.xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, state->xsave, "XSAVE area"},
        {kvm->abilities.xcrs ? KVM_GET_XCRS : 0, &state->xcrs, "XCRs"},
        {KVM_GET_LAPIC, &state->lapic, "local APIC"},
        {KVM_GET_VCPU_EVENTS, &state->events, "events"},
        {KVM_GET_DEBUGREGS, &state->debug, "debug registers"},
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && rc >= 0; i++) {
        if (!steps[i].request)
            continue;
        rc = vcpu_ioctl(vcpu_fd, steps[i].request, steps[i].argument);
        if (rc < 0)
            error_set_errno(err, -rc, "reading a vCPU's %s", steps[i].name);
    }
    if (rc >= 0) {
        rc = get_msrs(kvm, vcpu_fd, &state->msrs);
        if (rc < 0)
            error_set_errno(err, -rc, "reading a vCPU's MSRs");
    }
    if (rc < 0)
        vcpu_state_free(state);
    return rc < 0 ? rc : 0;
}

// The deadline counts only once the APIC's timer is in TSC-deadline mode: KVM ignores it before.
static int put_deadline(const struct kvm_msrs *msrs, int vcpu_fd)
{
    for (uint32_t i = 0; i < msrs->nmsrs; i++) {
        if (msrs->entries[i].index != MSR_IA32_TSC_DEADLINE)
            continue;
        union {
            struct kvm_msrs msrs;
            uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
        } one = {.msrs = {.nmsrs = 1}};
        one.msrs.entries[0] = msrs->entries[i];
        int rc = vcpu_ioctl(vcpu_fd, KVM_SET_MSRS, &one);
        return rc < 0 ? rc : 0;
    }
    return 0;
}

int vcpu_state_put(const struct vcpu_state *state, const struct kvm *kvm, int vcpu_fd,
                   unsigned *refused, struct error *err)
{
    if (refused)
        *refused = 0;
    const struct {
        unsigned long request;
        const void *argument;
        const char *name;
    } before[] = {
        {KVM_SET_REGS, &state->regs, "registers"},
        // KVM_SET_XSAVE takes the larger area of KVM_GET_XSAVE2 as well.
        {KVM_SET_XSAVE, state->xsave, "XSAVE area"},
        {kvm->abilities.xcrs ? KVM_SET_XCRS : 0, &state->xcrs, "XCRs"},
        // Has the APIC base, so it comes before the APIC's registers.
        {KVM_SET_SREGS, &state->sregs, "control registers"},
    };
    const struct {
        unsigned long request;
        const void *argument;
        const char *name;
    } after[] = {
        {KVM_SET_LAPIC, &state->lapic, "local APIC"},
        {KVM_SET_VCPU_EVENTS, &state->events, "events"},
        {KVM_SET_MP_STATE, &state->mp, "MP state"},
        {KVM_SET_DEBUGREGS, &state->debug, "debug registers"},
    };
    for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
        if (!before[i].request)
            continue;
        int rc = vcpu_ioctl(vcpu_fd, before[i].request, before[i].argument);
        if (rc < 0)
            return error_set_errno(err, -rc, "setting a vCPU's %s", before[i].name);
    }
    int rc = put_msrs(state->msrs, vcpu_fd, refused);
    if (rc < 0)
        return error_set_errno(err, -rc, "setting a vCPU's MSRs");
    for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
        rc = vcpu_ioctl(vcpu_fd, after[i].request, after[i].argument);
        if (rc < 0)
            return error_set_errno(err, -rc, "setting a vCPU's %s", after[i].name);
    }
    rc = put_deadline(state->msrs, vcpu_fd);
    return rc < 0 ? error_set_errno(err, -rc, "setting a vCPU's deadline timer") : 0;
}

void vcpu_state_free(struct vcpu_state *state)
{
    free(state->xsave);
    free(state->msrs);
    memset(state, 0, sizeof(*state));
}

void vcpu_state_forget_msr(struct vcpu_state *state, uint32_t index)
{
    for (uint32_t i = 0; i < state->msrs->nmsrs; i++) {
        if (state->msrs->entries[i].index != index)
            continue;
        state->msrs->nmsrs--;
        memmove(&state->msrs->entries[i], &state->msrs->entries[i + 1],
                (state->msrs->nmsrs - i) * sizeof(state->msrs->entries[0]));
        return;
    }
}
