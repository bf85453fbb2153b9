// Numbers that assembler and C must agree on.
//
// Each vCPU owns one block, aligned to its size: struct cpu, the TSS, the ring-0 stack and the
// ring-3 stack. Both rings find "their" struct cpu by masking the stack pointer, so nothing depends
// on GS or on SWAPGS.
#pragma once

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_DATA   0x1b // index 3, RPL 3
#define USER_CODE   0x23 // index 4, RPL 3
#define TSS_FIRST   0x28 // 16 bytes a vCPU from here

#define CPU_MAX 64

#define CPU_BLOCK_SIZE   0x10000
#define CPU_INDEX        0x00
#define CPU_IRQ_TOTAL    0x08
#define CPU_TSS_RELOADED 0x10  // TSC when a fault made the stub load the TSS again
#define CPU_IRQ_COUNT    0x800 // 256 counters
#define CPU_TSS          0x1000
#define CPU_RING0_TOP    0x6000
#define CPU_RING3_TOP    0x10000

#define TSS_SIZE         104
#define TSS_BITMAP_BYTES 8192
#define TSS_LIMIT                                                                                  \
    (TSS_SIZE + TSS_BITMAP_BYTES) // the last byte is the 0xff that must follow the bitmap

#define TSS_RELOAD_CYCLES 1000000 // a fault this soon after the last is not the TSS's

#define CR0_VALUE 0x80010033 // PG WP NE ET MP PE
#define CR4_VALUE 0x620      // PAE OSFXSR OSXMMEXCPT: SSE at CPL 3
#define MSR_EFER  0xc0000080
#define EFER_LME  0x100

#define VECTOR_NMI        2
#define VECTOR_GATE       3
#define VECTOR_GP         13
#define VECTOR_SCI        0x20 // level-triggered: its EOI is the driver's, after it cleared the cause
#define VECTOR_FIRST_FREE 0x30
#define VECTOR_TIMER      0xe0
#define VECTOR_WAKE       0xe1
#define VECTOR_SPURIOUS   0xff

#define TRAMPOLINE 0x8000 // where a starting vCPU begins in real mode: a page below 1 MiB

#define GATE_SLEEP 0 // any other value in RAX is a function to call in ring 0
