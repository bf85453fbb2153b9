// The in-kernel interrupt chips and timer as bytes: declared fields over struct irqchip_state.
#include "base/state.h"
#include "vmm/irqchip.h"

#define FIELD(kind, member) STATE_FIELD(kind, struct irqchip_state, member)

#define PIC(i)                                                                                     \
    FIELD(STATE_U8, chips[i].chip.pic.last_irr), FIELD(STATE_U8, chips[i].chip.pic.irr),           \
        FIELD(STATE_U8, chips[i].chip.pic.imr), FIELD(STATE_U8, chips[i].chip.pic.isr),            \
        FIELD(STATE_U8, chips[i].chip.pic.priority_add),                                           \
        FIELD(STATE_U8, chips[i].chip.pic.irq_base),                                               \
        FIELD(STATE_U8, chips[i].chip.pic.read_reg_select),                                        \
        FIELD(STATE_U8, chips[i].chip.pic.poll), FIELD(STATE_U8, chips[i].chip.pic.special_mask),  \
        FIELD(STATE_U8, chips[i].chip.pic.init_state),                                             \
        FIELD(STATE_U8, chips[i].chip.pic.auto_eoi),                                               \
        FIELD(STATE_U8, chips[i].chip.pic.rotate_on_auto_eoi),                                     \
        FIELD(STATE_U8, chips[i].chip.pic.special_fully_nested_mode),                              \
        FIELD(STATE_U8, chips[i].chip.pic.init4), FIELD(STATE_U8, chips[i].chip.pic.elcr),         \
        FIELD(STATE_U8, chips[i].chip.pic.elcr_mask)

// count_load_time is a time of the host's clock: KVM takes a new one when the state is put.
#define PIT_CHANNEL(i)                                                                             \
    FIELD(STATE_U32, pit.channels[i].count), FIELD(STATE_U16, pit.channels[i].latched_count),      \
        FIELD(STATE_U8, pit.channels[i].count_latched),                                            \
        FIELD(STATE_U8, pit.channels[i].status_latched), FIELD(STATE_U8, pit.channels[i].status),  \
        FIELD(STATE_U8, pit.channels[i].read_state), FIELD(STATE_U8, pit.channels[i].write_state), \
        FIELD(STATE_U8, pit.channels[i].write_latch), FIELD(STATE_U8, pit.channels[i].rw_mode),    \
        FIELD(STATE_U8, pit.channels[i].mode), FIELD(STATE_U8, pit.channels[i].bcd),               \
        FIELD(STATE_U8, pit.channels[i].gate)

static const struct state_field fields[] = {
    PIC(0),
    PIC(1),
    FIELD(STATE_U64, chips[2].chip.ioapic.base_address),
    FIELD(STATE_U32, chips[2].chip.ioapic.ioregsel),
    FIELD(STATE_U32, chips[2].chip.ioapic.id),
    FIELD(STATE_U32, chips[2].chip.ioapic.irr),
    // Each redirection entry is one u64 register.
    {"ioapic.redirtbl", STATE_U64, offsetof(struct irqchip_state, chips[2].chip.ioapic.redirtbl),
     KVM_IOAPIC_NUM_PINS, 1, false},
    PIT_CHANNEL(0),
    PIT_CHANNEL(1),
    PIT_CHANNEL(2),
    FIELD(STATE_U32, pit.flags),
    {0},
};

static const struct state_section section = {"irqchip", 1, fields};

void irqchip_state_save(const struct irqchip_state *state, struct byte_writer *w)
{
    state_section_save(&section, state, w);
}

int irqchip_state_load(struct irqchip_state *state, struct byte_reader *r, struct error *err)
{
    *state = (struct irqchip_state){
        .chips = {{.chip_id = KVM_IRQCHIP_PIC_MASTER},
                  {.chip_id = KVM_IRQCHIP_PIC_SLAVE},
                  {.chip_id = KVM_IRQCHIP_IOAPIC}},
    };
    return state_section_load(&section, state, r, err);
}
