// Exceptions that nobody expects: report and end.
#pragma once

#include <stdint.h>

// What the stub pushes, lowest address first.
struct exception_frame {
    uint64_t cr2, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

// Fills the IDT: every vector to its stub, the gate open to CPL 3.
void exception_table_fill(void);

// Called by the stub, in ring 0.
void exception_report(const struct exception_frame *frame);
