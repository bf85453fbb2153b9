// The in-kernel PIC, IOAPIC and PIT, as one value that can be taken and put back.
#pragma once

#include <linux/kvm.h>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm/kvm.h"

struct irqchip_state {
    struct kvm_irqchip chips[3]; // first PIC, second PIC, IOAPIC
    struct kvm_pit_state2 pit;
};

int irqchip_state_get(struct irqchip_state *state, const struct kvm *kvm, struct error *err);
int irqchip_state_put(const struct irqchip_state *state, const struct kvm *kvm, struct error *err);

// As bytes (docs/state-format.md, "irqchip").
void irqchip_state_save(const struct irqchip_state *state, struct byte_writer *w);
int irqchip_state_load(struct irqchip_state *state, struct byte_reader *r, struct error *err);
