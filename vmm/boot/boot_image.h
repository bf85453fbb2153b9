// Kernel images: finds out by content what a file is, checks it, puts it into guest RAM and says
// how the first vCPU must start.
//
// Formats: Linux bzImage with the 64-bit entry (boot protocol 2.12 and later), ELF with a PVH note
// (32-bit entry), multiboot 1 (ELF or address fields in the header). An ELF with both starts by
// PVH.
//
// Everything here is a pure function of bytes and guest memory: no KVM, no files. The same call is
// made for the first start and for each reset; the caller keeps the images' bytes until then.
//
// Everything is checked before the first byte of guest RAM is written.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/guest_memory.h"

struct boot_images {
    const uint8_t *kernel;
    size_t kernel_size;
    const char *kernel_name; // for error sentences
    const uint8_t *initrd;   // NULL without one
    size_t initrd_size;
    const char *initrd_name;
    const char *command_line; // "" for none
};

// Files that no guest could use are refused before they are read: the size that a file claims costs
// nothing, its bytes cost the host's memory. A kernel may bring symbols that aren't loaded, so its
// limit is a plain one; an initrd has to fit into `memory` bytes of RAM. 0 or -ENOEXEC, -ENOMEM
// with a sentence.
int boot_image_check_sizes(uint64_t kernel_size, uint64_t initrd_size, uint64_t memory,
                           struct error *err);

enum boot_protocol { BOOT_LINUX, BOOT_PVH, BOOT_MULTIBOOT };

// What can be said of a kernel before there is a machine.
struct boot_image_info {
    enum boot_protocol protocol;
    const char *protocol_name; // "Linux 64-bit", "PVH", "multiboot"
    bool lives_at_cpl3;        // has the ELF note of owner "ferry", type 1
};

enum boot_mode { BOOT_LONG_MODE, BOOT_PROTECTED_MODE };

// The state in which the first vCPU starts. General registers that aren't named are 0; RFLAGS is 2
// (interrupts off); IDT limit 0; other control registers and MSRs as after reset.
//
// The GDT lies in guest memory at gdt_base. Segments are flat (base 0, limit 4 GiB, granularity
// set, present, DPL 0, accessed):
//   CS = code_selector: type 0xb; long mode: L = 1, D = 0; protected mode: L = 0, D = 1
//   DS, ES, FS, GS, SS = data_selector: type 0x3, D = 1
//   TR = task_selector: type 0xb (busy TSS, 64-bit in long mode, 32-bit otherwise), S = 0, G = 0,
//        base 0, limit 0x67;  LDT: unusable
// Long mode: 4-level paging is on (cr0, cr3, cr4, efer as below), the first 4 GiB are mapped 1:1
// by 2 MiB pages. Protected mode: paging is off, cr3 is 0.
struct boot_entry {
    enum boot_mode mode;
    uint64_t rip, rsp, rax, rbx, rsi;
    uint64_t cr0, cr3, cr4, efer;
    uint64_t gdt_base;
    uint16_t gdt_limit;
    uint16_t code_selector, data_selector, task_selector;
    bool lives_at_cpl3;
    const char *protocol_name; // static
};

// Recognises the format and checks its header. 0; -ENOEXEC with a sentence (it begins with
// "kernel 'NAME':").
int boot_image_probe(const struct boot_images *images, struct boot_image_info *info,
                     struct error *err);
// Loads kernel, initrd, command line and the protocol's tables. `rsdp` is the gpa of the ACPI root
// pointer (acpi_tables_write() comes before or after, in any order). 0, or -ENOEXEC, -ENOMEM (the
// guest's RAM is too small), -E2BIG (command line) with a sentence; nothing was written then.
int boot_image_load(const struct boot_images *images, struct guest_memory *memory, uint64_t rsdp,
                    struct boot_entry *entry, struct error *err);
