// Privileged operations, called from CPL 3 through the gate.
#pragma once

#include <stdint.h>

struct cpuid_registers {
    uint32_t eax, ebx, ecx, edx;
};

uint64_t msr_read(uint32_t index);
void msr_write(uint32_t index, uint64_t value);

// CPUID as the hypervisor defines it. Where ring 0 is emulated, CPUID at CPL 3 shows the host's
// values instead.
struct cpuid_registers cpuid_read(uint32_t leaf, uint32_t subleaf);

// Reloads CR3, so that changed page tables count.
void tlb_flush(void);

// Each of these ends the machine in its own way (test=crash).
void privileged_triple_fault(void);
void privileged_halt_for_good(void);
void privileged_jump(uint64_t address);
void privileged_page_table(uint64_t address); // one that maps nothing
void privileged_bad_state(void);
void privileged_vector_load(uint64_t address); // a machine whose emulator knows PADDB survives it
