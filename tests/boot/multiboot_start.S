// The entry of the multiboot test kernel: header, stack, then C. Built with and without address
// fields in the header.
    .set FLAGS, 3 // aligned modules, memory information
#ifdef ADDRESS_FIELDS
    .set FLAGS_ALL, FLAGS | 0x10000
#else
    .set FLAGS_ALL, FLAGS
#endif

    .section .header, "ax"
    .code32
    .balign 4
header:
    .long 0x1badb002
    .long FLAGS_ALL
    .long -(0x1badb002 + FLAGS_ALL)
#ifdef ADDRESS_FIELDS
    .long header
    .long image_start
    .long data_end
    .long bss_end
    .long start
#endif

    .globl start
start:
    mov $stack_top, %esp
    push %ebx
    push %eax
    call kernel_main
1:  hlt
    jmp 1b

    .bss
    .balign 16
    .space 0x4000
stack_top:

    .section .note.GNU-stack, "", @progbits
