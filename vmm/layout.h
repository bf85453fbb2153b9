// Where things are in the guest-physical address space. Part of what a running guest has seen, so a
// change here is a change of the machine's version.
#pragma once

#include <stdint.h>

// RAM: from 0 up to LAYOUT_LOW_RAM_END, the rest from 4 GiB on.
#define LAYOUT_LOW_RAM_END UINT64_C(0xc0000000)
#define LAYOUT_HIGH_RAM    UINT64_C(0x100000000)
#define LAYOUT_RAM_MINIMUM UINT64_C(0x1000000) // 16 MiB

// Below 1 MiB (RAM as well; what the e820 map calls reserved is marked so there).
#define LAYOUT_BOOT_GDT UINT64_C(0x1000)
#define LAYOUT_BOOT_INFO                                                                           \
    UINT64_C(0x2000) // zero page, PVH start info or multiboot info, with its tables
#define LAYOUT_BOOT_PAGES   UINT64_C(0x9000)  // page tables of the 64-bit entry (24 KiB)
#define LAYOUT_BOOT_CMDLINE UINT64_C(0x20000) // command line, up to 64 KiB
#define LAYOUT_EBDA         UINT64_C(0x9fc00) // usable RAM ends here
#define LAYOUT_ACPI_TABLES                                                                         \
    UINT64_C(0xe0000) // RSDP first (ACPI 6.4, 5.2.5.1), then the tables, below 1 MiB
#define LAYOUT_ONE_MIB UINT64_C(0x100000)

// Below 4 GiB.
#define LAYOUT_PCI_WINDOW     UINT32_C(0xc0000000)
#define LAYOUT_PCI_WINDOW_END UINT32_C(0xdfffffff) // last byte
#define LAYOUT_PCI_ECAM       UINT64_C(0xe0000000) // 1 MiB: bus 0
#define LAYOUT_CPU_TIME       UINT64_C(0xfe000000) // read-only page: CPU time that was withheld
#define LAYOUT_CPU_TIME_SIZE  UINT64_C(0x2000)
#define LAYOUT_IOAPIC         UINT64_C(0xfec00000)
#define LAYOUT_LAPIC          UINT64_C(0xfee00000)
#define LAYOUT_TEST_MMIO      UINT64_C(0xff000000) // 64 KiB, with --debug-exit
#define LAYOUT_KVM_IDENTITY                                                                        \
    UINT64_C(0xfffbc000) // KVM's own page and TSS (only used by old Intel CPUs)
#define LAYOUT_KVM_TSS UINT64_C(0xfffbd000)

// Interrupt lines (GSI). IRQ0 reaches the IOAPIC at pin 2, as KVM's default routing and the MADT
// say.
enum {
    LAYOUT_GSI_SERIAL = 4,
    LAYOUT_GSI_RTC = 8,
    LAYOUT_GSI_SCI = 9,
    LAYOUT_IOAPIC_PINS = 24,
};

// Ports.
enum {
    LAYOUT_PORT_CMOS = 0x70,
    LAYOUT_PORT_SERIAL = 0x3f8,
    LAYOUT_PORT_PCI_CONFIG = 0xcf8,
    LAYOUT_PORT_RESET = 0xcf9,
    LAYOUT_PORT_PM = 0x600,        // PM1 event block (4), PM1 control (2), PM timer at +8 (4)
    LAYOUT_PORT_GPE0 = 0x620,      // GPE0 block: status and enable bytes
    LAYOUT_PORT_HOTPLUG = 0x640,   // PCI hot plug: inserted, removal, present
    LAYOUT_PORT_PANIC = 0x505,     // as guests of other hypervisors know it
    LAYOUT_PORT_DEBUG_EXIT = 0xf4, // with --debug-exit
};
