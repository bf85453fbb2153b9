// From the loader's 32-bit entry to C at CPL 3, in as few ring-0 instructions as possible: where ring 0 is emulated each
// of them costs half a microsecond. That's why the page tables below are data made by the assembler.
#include "guest/layout.h"

    // PVH: the entry point, in the note by which Xen's ABI finds it (owner Xen, type 18).
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start32

    // "This image lives at CPL 3": it runs at full speed also where KVM emulates ring 0 (owner ferry, type 1).
    .section .note.ferry, "a", @note
    .balign 4
    .long 6, 4, 1
    .asciz "ferry"
    .balign 4
    .long 1

    .section .text.start, "ax"
    .code32
    .globl start32
start32:
    cli
    cld
    mov %eax, boot_magic
    mov %ebx, boot_info

    mov $page_map_level4, %eax
    mov %eax, %cr3
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0

    mov $(boot_cpu + CPU_TSS), %eax
    mov %ax, gdt + TSS_FIRST + 2
    shr $16, %eax
    mov %al, gdt + TSS_FIRST + 4
    mov %ah, gdt + TSS_FIRST + 7
    lgdt gdt_pointer
    ljmp $KERNEL_CODE, $start64

    .code64
start64:
    mov $KERNEL_DATA, %eax
    mov %eax, %ss
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $(boot_cpu + CPU_RING0_TOP), %esp
    // The bitmap itself is zero with .bss: all ports are ring 3's.
    mov %rsp, boot_cpu + CPU_TSS + 4
    movw $TSS_SIZE, boot_cpu + CPU_TSS + 102
    movb $0xff, boot_cpu + CPU_TSS + TSS_LIMIT
    mov $TSS_FIRST, %eax
    ltr %ax
    lidt idt_pointer
    // Interrupts are on from the first instruction at CPL 3, so the 8259s must be silent before.
    mov $0xff, %al
    out %al, $0x21
    out %al, $0xa1

    pushq $USER_DATA
    pushq $(boot_cpu + CPU_RING3_TOP - 8) // as if called: RSP + 8 is a multiple of 16
    pushq $0x202
    pushq $USER_CODE
    pushq $guest_main
    iretq

    .section .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff // 64-bit code, CPL 0
    .quad 0x00cf93000000ffff // data, CPL 0
    .quad 0x00cff3000000ffff // data, CPL 3
    .quad 0x00affb000000ffff // 64-bit code, CPL 3
    .quad 0x0000890000000000 | (TSS_LIMIT & 0xffff) // the boot vCPU's TSS; its base is filled in above
    .quad 0
    .skip 16 * (CPU_MAX - 1)
gdt_end:
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .globl idt_pointer
idt_pointer:
    .word 16 * 256 - 1
    .quad idt

    // 4 GiB, identity mapped, open to ring 3, in 2 MiB pages; the first 2 MiB in small ones so that page 0 can go, for a
    // null pointer to show, once what a loader left there has been read. A (0x20) and D (0x40) are set so that the processor needn't write them.
    .balign 4096
    .globl page_map_level4
page_map_level4:
    .quad page_directory_pointers + 0x27
    .fill 511, 8, 0
    .globl page_directory_pointers
page_directory_pointers:
    .set gigabyte, 0
    .rept 4
    .quad page_directories + 4096 * gigabyte + 0x27
    .set gigabyte, gigabyte + 1
    .endr
    .fill 508, 8, 0
    .globl page_directories
page_directories:
    .quad low_pages + 0x27
    .set address, 0x200000
    .rept 2047
    .quad address + 0xe7
    .set address, address + 0x200000
    .endr
    .globl low_pages
low_pages:
    .quad 0x25 // read-only
    .set address, 0x1000
    .rept 511
    .quad address + 0x67
    .set address, address + 0x1000
    .endr

    .globl boot_magic, boot_info
boot_magic:
    .long 0
boot_info:
    .long 0

    .section .bss
    .balign CPU_BLOCK_SIZE
    .globl boot_cpu
boot_cpu:
    .skip CPU_BLOCK_SIZE
    .globl idt
    .balign 4096
idt:
    .skip 16 * 256

    .section .note.GNU-stack, "", @progbits
