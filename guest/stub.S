// The ring-0 stub: interrupts are counted, INT3 is the gate from CPL 3, other exceptions end in a report; and the path
// of a starting vCPU from real mode to CPL 3.
#include "guest/layout.h"

    .section .text
    .code64

    // One entry of 16 bytes for each vector.
    .balign 16
    .globl stub_vectors
stub_vectors:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == VECTOR_GATE
    jmp gate
    .elseif vector == VECTOR_NMI || vector >= 32
    push %rax
    mov $vector, %eax
    jmp interrupt
    .else
    // Vectors 8, 10 to 14, 17, 21, 29 and 30 come with an error code; the others get a zero in its place.
    .if !((0x60227d00 >> vector) & 1)
    push $0
    .endif
    push $vector
    jmp exception
    .endif
    .set vector, vector + 1
    .endr

    .balign 16
interrupt:
    push %rcx
    mov %rsp, %rcx
    and $-CPU_BLOCK_SIZE, %rcx
    incq CPU_IRQ_COUNT(%rcx, %rax, 8)
    incq CPU_IRQ_TOTAL(%rcx)
    cmp $VECTOR_SCI, %eax
    jbe 2f
    cmp $VECTOR_SPURIOUS, %eax
    je 2f
    cmpb $0, lapic_is_x2apic
    jne 1f
    mov lapic_base, %rcx
    movl $0, 0xb0(%rcx)
    jmp 2f
1:  push %rdx
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    pop %rdx
2:  pop %rcx
    pop %rax
    iretq

    // RAX = GATE_SLEEP: halt unless *RDI differs from RSI. Interrupts are off here, so nothing is lost between the look
    // and the HLT (STI takes effect after it). Otherwise: call RAX(RDI, RSI, RDX) in ring 0.
    .balign 16
gate:
    test %rax, %rax
    jnz 1f
    cmp %rsi, (%rdi)
    jne 2f
    sti
    hlt
    cli
2:  iretq
1:  sub $8, %rsp
    call *%rax
    add $8, %rsp
    iretq

    .balign 16
exception:
    // A port access at CPL 3 may fault because the hypervisor below emulates SVM and takes the I/O bitmap only from a
    // TSS that it has loaded itself (QEMU's TCG, after a restore or a move): load it again and try once more. A
    // second fault right behind the first is a real one.
    cmpq $VECTOR_GP, (%rsp)
    jne 2f
    testb $3, 24(%rsp)
    jz 2f
    push %rax
    push %rcx
    push %rdx
    mov %rsp, %rcx
    and $-CPU_BLOCK_SIZE, %rcx
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    mov %rax, %rdx
    sub CPU_TSS_RELOADED(%rcx), %rdx
    mov %rax, CPU_TSS_RELOADED(%rcx)
    cmp $TSS_RELOAD_CYCLES, %rdx
    jb 1f
    mov CPU_INDEX(%rcx), %eax
    shl $4, %eax
    add $TSS_FIRST, %eax
    andb $~2, gdt + 5(%rax) // not busy, or LTR refuses it
    ltr %ax
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
1:  pop %rdx
    pop %rcx
    pop %rax
2:  push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %cr2, %rax
    push %rax
    mov %rsp, %rdi
    and $-16, %rsp
    call exception_report
1:  cli
    hlt
    jmp 1b

    // ---- A starting vCPU. Copied to TRAMPOLINE; trampoline_cpu holds its block's address. ----
    .code16
    .globl trampoline_start, trampoline_end, trampoline_cpu
trampoline_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + (trampoline_gdt - trampoline_start)
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $page_map_level4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0
    ljmpl $KERNEL_CODE, $cpu_start64
trampoline_gdt:
    .word TSS_FIRST + 16 * CPU_MAX - 1
    .long gdt
trampoline_cpu:
    .quad 0
trampoline_end:

    .code64
cpu_start64:
    mov $KERNEL_DATA, %eax
    mov %eax, %ss
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov TRAMPOLINE + (trampoline_cpu - trampoline_start), %rbx
    lea CPU_RING0_TOP(%rbx), %rsp
    mov CPU_INDEX(%rbx), %eax
    shl $4, %eax
    add $TSS_FIRST, %eax
    ltr %ax
    lidt idt_pointer
    pushq $USER_DATA
    lea CPU_RING3_TOP - 8(%rbx), %rax
    push %rax
    pushq $0x202
    pushq $USER_CODE
    pushq $cpu_worker
    iretq

    .section .note.GNU-stack, "", @progbits
