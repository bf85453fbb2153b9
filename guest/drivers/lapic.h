// The local APIC, as x2APIC where CPUID offers it (`apic=xapic` declines), else by its page.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Switches on the APIC of the vCPU that calls.
void lapic_start(void);
bool lapic_x2apic(void);
uint32_t lapic_id(void);

void lapic_send(uint32_t apic_id, uint8_t vector);
void lapic_send_init(uint32_t apic_id);
void lapic_send_startup(uint32_t apic_id, uint8_t page);

// For the vectors whose EOI the stub leaves to the driver.
void lapic_end_of_interrupt(void);

// One interrupt at VECTOR_TIMER after so many ns (by TSC deadline where CPUID offers it); 0
// disarms.
void lapic_timer_after_ns(uint64_t ns);

// An interrupt each so many ns, until lapic_timer_after_ns.
void lapic_timer_every_ns(uint64_t ns);
