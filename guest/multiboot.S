// Multiboot 1 header. The image is an ELF64, which the standard doesn't know, so bit 16 gives the addresses of the one
// flat segment. QEMU prefers this header to the PVH note: a second image is linked without this file to have both.
    .section .multiboot, "a"
    .balign 4
    .set FLAGS, 0x00010003 // page-aligned modules, memory map, address fields
multiboot_header:
    .long 0x1badb002
    .long FLAGS
    .long -(0x1badb002 + FLAGS)
    .long multiboot_header
    .long image_start
    .long image_loaded_end
    .long image_end
    .long start32

    .section .note.GNU-stack, "", @progbits
