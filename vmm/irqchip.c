#include "vmm/irqchip.h"

static const struct {
    uint32_t id;
    const char *name;
} chips[3] = {
    {KVM_IRQCHIP_PIC_MASTER, "first PIC"},
    {KVM_IRQCHIP_PIC_SLAVE, "second PIC"},
    {KVM_IRQCHIP_IOAPIC, "IOAPIC"},
};

int irqchip_state_get(struct irqchip_state *state, const struct kvm *kvm, struct error *err)
{
    for (unsigned i = 0; i < 3; i++) {
        state->chips[i] = (struct kvm_irqchip){.chip_id = chips[i].id};
        int rc = kvm_vm_ioctl(kvm, KVM_GET_IRQCHIP, &state->chips[i]);
        if (rc < 0)
            return error_set_errno(err, -rc, "reading the state of the %s", chips[i].name);
    }
    int rc = kvm_vm_ioctl(kvm, KVM_GET_PIT2, &state->pit);
    return rc < 0 ? error_set_errno(err, -rc, "reading the state of the PIT") : 0;
}

int irqchip_state_put(const struct irqchip_state *state, const struct kvm *kvm, struct error *err)
{
    for (unsigned i = 0; i < 3; i++) {
        struct kvm_irqchip chip = state->chips[i];
        int rc = kvm_vm_ioctl(kvm, KVM_SET_IRQCHIP, &chip);
        if (rc < 0)
            return error_set_errno(err, -rc, "setting the state of the %s", chips[i].name);
    }
    struct kvm_pit_state2 pit = state->pit;
    int rc = kvm_vm_ioctl(kvm, KVM_SET_PIT2, &pit);
    return rc < 0 ? error_set_errno(err, -rc, "setting the state of the PIT") : 0;
}
