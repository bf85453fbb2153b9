// Built without SSE and red zone, because these functions run in ring 0 (those named ring0_) on the
// stub's stack.
#include "guest/lib/privileged.h"

#include "guest/lib/gate.h"

static uint64_t ring0_msr_read(uint64_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"((uint32_t)index));
    return (uint64_t)high << 32 | low;
}

static void ring0_msr_write(uint64_t index, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"((uint32_t)index)
                     : "memory");
}

static void ring0_cpuid(struct cpuid_registers *registers, uint64_t leaf, uint64_t subleaf)
{
    __asm__ volatile("cpuid"
                     : "=a"(registers->eax), "=b"(registers->ebx), "=c"(registers->ecx),
                       "=d"(registers->edx)
                     : "a"((uint32_t)leaf), "c"((uint32_t)subleaf));
}

static void ring0_tlb_flush(void)
{
    uint64_t cr3;
    __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(cr3) : : "memory");
}

uint64_t msr_read(uint32_t index)
{
    return gate_call(ring0_msr_read, index, 0, 0);
}

void msr_write(uint32_t index, uint64_t value)
{
    gate_call(ring0_msr_write, index, value, 0);
}

struct cpuid_registers cpuid_read(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_registers registers;
    gate_call(ring0_cpuid, (uint64_t)&registers, leaf, subleaf);
    return registers;
}

void tlb_flush(void)
{
    gate_call(ring0_tlb_flush, 0, 0, 0);
}

static void ring0_triple_fault(void)
{
    // With an IDT of no length the exception has no handler, nor has the double fault that follows.
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
}

static void ring0_halt_for_good(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void ring0_jump(uint64_t address)
{
    __asm__ volatile("jmp *%0" : : "r"(address));
}

static void ring0_page_table(uint64_t address)
{
    __asm__ volatile("mov %0, %%cr3; nop" : : "r"(address) : "memory");
}

static void ring0_bad_state(void)
{
    // Long mode can't go without PAE: #GP, and with no IDT that is a shutdown.
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0; mov %1, %%cr4" : : "m"(none), "r"(0x600ul));
}

static void ring0_vector_load(uint64_t address)
{
    // From device memory the processor leaves it to the hypervisor, whose emulator may not know the
    // instruction.
    __asm__ volatile("paddb (%0), %%xmm0" : : "r"(address) : "memory");
}

void privileged_triple_fault(void)
{
    gate_call(ring0_triple_fault, 0, 0, 0);
}

void privileged_halt_for_good(void)
{
    gate_call(ring0_halt_for_good, 0, 0, 0);
}

void privileged_jump(uint64_t address)
{
    gate_call(ring0_jump, address, 0, 0);
}

void privileged_page_table(uint64_t address)
{
    gate_call(ring0_page_table, address, 0, 0);
}

void privileged_bad_state(void)
{
    gate_call(ring0_bad_state, 0, 0, 0);
}

void privileged_vector_load(uint64_t address)
{
    gate_call(ring0_vector_load, address, 0, 0);
}
