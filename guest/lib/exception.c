// Exceptions that nobody expects, and the IDT. The report runs in ring 0, with interrupts off,
// perhaps while another vCPU holds the console's lock: so it prints past it.
#include "guest/lib/exception.h"

#include "guest/drivers/serial.h"
#include "guest/layout.h"
#include "guest/lib/format.h"
#include "guest/lib/machine_end.h"

struct idt_entry {
    uint16_t offset_low, selector, type, offset_middle;
    uint32_t offset_high, reserved;
};
_Static_assert(sizeof(struct idt_entry) == 16, "a 64-bit gate (SDM volume 3, 6.14.1)");

extern struct idt_entry idt[256];
extern const char stub_vectors[256][16];

void exception_table_fill(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t stub = (uint64_t)stub_vectors[vector];
        idt[vector] = (struct idt_entry){
            .offset_low = (uint16_t)stub,
            .selector = KERNEL_CODE,
            .type =
                vector == VECTOR_GATE ? 0xee00 : 0x8e00, // interrupt gate; DPL 3 for the gate alone
            .offset_middle = (uint16_t)(stub >> 16),
            .offset_high = (uint32_t)(stub >> 32),
        };
    }
}

void exception_report(const struct exception_frame *frame)
{
    char line[512];
    size_t length =
        format_text(line, sizeof(line),
                    "ferry-guest: exception vector=%lu error=0x%lx rip=0x%lx cs=0x%lx rsp=0x%lx "
                    "cr2=0x%lx rax=0x%lx "
                    "rbx=0x%lx rcx=0x%lx rdx=0x%lx rsi=0x%lx rdi=0x%lx result=fail\n",
                    frame->vector, frame->error, frame->rip, frame->cs, frame->rsp, frame->cr2,
                    frame->rax, frame->rbx, frame->rcx, frame->rdx, frame->rsi, frame->rdi);
    serial_write(line, length);
    machine_end_from_ring0(1);
}
