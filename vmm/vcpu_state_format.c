// The state of a vCPU as bytes: declared fields over struct vcpu_state, then the two parts whose
// size depends on the host: the XSAVE area and the MSRs.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "vmm/vcpu_state.h"

#define FIELD(kind, member) STATE_FIELD(kind, struct vcpu_state, member)
#define ARRAY(kind, member) STATE_ARRAY(kind, struct vcpu_state, member)

#define SEGMENT(name)                                                                              \
    FIELD(STATE_U64, sregs.name.base), FIELD(STATE_U32, sregs.name.limit),                         \
        FIELD(STATE_U16, sregs.name.selector), FIELD(STATE_U8, sregs.name.type),                   \
        FIELD(STATE_U8, sregs.name.present), FIELD(STATE_U8, sregs.name.dpl),                      \
        FIELD(STATE_U8, sregs.name.db), FIELD(STATE_U8, sregs.name.s),                             \
        FIELD(STATE_U8, sregs.name.l), FIELD(STATE_U8, sregs.name.g),                              \
        FIELD(STATE_U8, sregs.name.avl), FIELD(STATE_U8, sregs.name.unusable)

static const struct state_field fields[] = {
    FIELD(STATE_U64, regs.rax),
    FIELD(STATE_U64, regs.rbx),
    FIELD(STATE_U64, regs.rcx),
    FIELD(STATE_U64, regs.rdx),
    FIELD(STATE_U64, regs.rsi),
    FIELD(STATE_U64, regs.rdi),
    FIELD(STATE_U64, regs.rsp),
    FIELD(STATE_U64, regs.rbp),
    FIELD(STATE_U64, regs.r8),
    FIELD(STATE_U64, regs.r9),
    FIELD(STATE_U64, regs.r10),
    FIELD(STATE_U64, regs.r11),
    FIELD(STATE_U64, regs.r12),
    FIELD(STATE_U64, regs.r13),
    FIELD(STATE_U64, regs.r14),
    FIELD(STATE_U64, regs.r15),
    FIELD(STATE_U64, regs.rip),
    FIELD(STATE_U64, regs.rflags),
    SEGMENT(cs),
    SEGMENT(ds),
    SEGMENT(es),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ss),
    SEGMENT(tr),
    SEGMENT(ldt),
    FIELD(STATE_U64, sregs.gdt.base),
    FIELD(STATE_U16, sregs.gdt.limit),
    FIELD(STATE_U64, sregs.idt.base),
    FIELD(STATE_U16, sregs.idt.limit),
    FIELD(STATE_U64, sregs.cr0),
    FIELD(STATE_U64, sregs.cr2),
    FIELD(STATE_U64, sregs.cr3),
    FIELD(STATE_U64, sregs.cr4),
    FIELD(STATE_U64, sregs.cr8),
    FIELD(STATE_U64, sregs.efer),
    FIELD(STATE_U64, sregs.apic_base),
    ARRAY(STATE_U64, sregs.interrupt_bitmap),
    FIELD(STATE_U32, xcrs.nr_xcrs),
    FIELD(STATE_U32, xcrs.flags),
    FIELD(STATE_U32, xcrs.xcrs[0].xcr),
    FIELD(STATE_U64, xcrs.xcrs[0].value),
    ARRAY(STATE_U8, lapic.regs),
    FIELD(STATE_U8, events.exception.injected),
    FIELD(STATE_U8, events.exception.nr),
    FIELD(STATE_U8, events.exception.has_error_code),
    FIELD(STATE_U8, events.exception.pending),
    FIELD(STATE_U32, events.exception.error_code),
    FIELD(STATE_U8, events.interrupt.injected),
    FIELD(STATE_U8, events.interrupt.nr),
    FIELD(STATE_U8, events.interrupt.soft),
    FIELD(STATE_U8, events.interrupt.shadow),
    FIELD(STATE_U8, events.nmi.injected),
    FIELD(STATE_U8, events.nmi.pending),
    FIELD(STATE_U8, events.nmi.masked),
    FIELD(STATE_U32, events.sipi_vector),
    FIELD(STATE_U32, events.flags),
    FIELD(STATE_U8, events.exception_has_payload),
    FIELD(STATE_U64, events.exception_payload),
    ARRAY(STATE_U64, debug.db),
    FIELD(STATE_U64, debug.dr6),
    FIELD(STATE_U64, debug.dr7),
    FIELD(STATE_U64, debug.flags),
    FIELD(STATE_U32, mp.mp_state),
    {.name = "withheld_ns",
     .type = STATE_U64,
     .offset = offsetof(struct vcpu_state, withheld_ns),
     .count = 1,
     .since = 1,
     .optional = true},
    {0},
};

static const struct state_section section = {"vcpu", 1, fields};

// Bounds for what a stream may claim; far above what any processor has.
enum { XSAVE_LIMIT = 1 << 20, MSRS_LIMIT = 4096 };

void vcpu_state_save(const struct vcpu_state *state, size_t xsave_size, struct byte_writer *w)
{
    state_section_save(&section, state, w);
    byte_writer_blob(w, state->xsave, xsave_size);
    byte_writer_u32(w, state->msrs->nmsrs);
    for (uint32_t i = 0; i < state->msrs->nmsrs; i++) {
        byte_writer_u32(w, state->msrs->entries[i].index);
        byte_writer_u64(w, state->msrs->entries[i].data);
    }
}

static int load_xsave(struct vcpu_state *state, size_t xsave_size, struct byte_reader *r,
                      struct error *err)
{
    size_t length;
    const uint8_t *bytes = byte_reader_blob(r, XSAVE_LIMIT, &length);
    if (!bytes)
        return error_set(err, EPROTO, "the XSAVE area is cut off");
    // A larger area of zeroes at its end is one whose components this host lacks but nobody used.
    for (size_t i = xsave_size; i < length; i++)
        if (bytes[i])
            return error_set(err, ENOTSUP,
                             "the XSAVE area has %zu bytes in use, but this host's has %zu", length,
                             xsave_size);
    state->xsave = calloc(1, xsave_size);
    if (!state->xsave)
        return error_set_errno(err, ENOMEM, "loading the XSAVE area");
    memcpy(state->xsave, bytes, length < xsave_size ? length : xsave_size);
    return 0;
}

static int load_msrs(struct vcpu_state *state, struct byte_reader *r, struct error *err)
{
    uint32_t count = byte_reader_u32(r);
    if (r->failed || count > MSRS_LIMIT)
        return error_set(err, EPROTO, "the list of MSRs is cut off or too long");
    state->msrs = calloc(1, sizeof(*state->msrs) + count * sizeof(state->msrs->entries[0]));
    if (!state->msrs)
        return error_set_errno(err, ENOMEM, "loading MSRs");
    state->msrs->nmsrs = count;
    for (uint32_t i = 0; i < count; i++) {
        state->msrs->entries[i].index = byte_reader_u32(r);
        state->msrs->entries[i].data = byte_reader_u64(r);
    }
    return r->failed ? error_set(err, EPROTO, "the list of MSRs is cut off") : 0;
}

int vcpu_state_load(struct vcpu_state *state, size_t xsave_size, struct byte_reader *r,
                    struct error *err)
{
    vcpu_state_free(state);
    int rc = state_section_load(&section, state, r, err);
    if (rc == 0 && state->xcrs.nr_xcrs > 1)
        rc = error_set(err, EPROTO, "the vCPU has %u extended control registers, known is 1",
                       state->xcrs.nr_xcrs);
    if (rc == 0)
        rc = load_xsave(state, xsave_size, r, err);
    if (rc == 0)
        rc = load_msrs(state, r, err);
    if (rc < 0)
        vcpu_state_free(state);
    return rc;
}
