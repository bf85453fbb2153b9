// Bytes as a part of a machine's state: the first says which.
#include <stdlib.h>

#include "vmm/irqchip.h"
#include "vmm/machine_clock.h"
#include "vmm/vcpu_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { XSAVE_SIZE = 4096 };

// What loads can be saved, and loads again.
static void check(int result, const struct error *err)
{
    if (result < 0 && !err->message[0])
        abort();
}

static void try_vcpu(struct byte_reader *r)
{
    struct vcpu_state state = {0};
    struct error err = {0};
    int rc = vcpu_state_load(&state, XSAVE_SIZE, r, &err);
    check(rc, &err);
    if (rc == 0) {
        struct byte_writer w;
        struct byte_reader again;
        byte_writer_init(&w);
        vcpu_state_forget_msr(&state, MSR_IA32_TSC);
        vcpu_state_save(&state, XSAVE_SIZE, &w);
        byte_reader_init(&again, w.data, w.length);
        if (vcpu_state_load(&state, XSAVE_SIZE, &again, &err) < 0)
            abort();
        byte_writer_free(&w);
    }
    vcpu_state_free(&state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_reader r;
    struct error err = {0};
    struct irqchip_state irqchip;
    struct machine_clock clock;
    if (size == 0)
        return 0;
    byte_reader_init(&r, data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        try_vcpu(&r);
        break;
    case 1:
        check(irqchip_state_load(&irqchip, &r, &err), &err);
        break;
    case 2:
        check(machine_clock_load(&clock, &r, &err), &err);
        break;
    }
    return 0;
}
