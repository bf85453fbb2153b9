// The gate from CPL 3 into ring 0: INT3, about 4 us there and back where ring 0 is emulated. What
// little needs privilege goes through it.
#pragma once

#include <stdint.h>

#include "guest/layout.h"

// Calls a function in ring 0, interrupts off. It must be built for ring 0 (guest/lib/privileged.c:
// no SSE, no red zone).
static inline uint64_t gate_call(const void *function, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t result = (uint64_t)function;
    __asm__ volatile("int3"
                     : "+a"(result), "+D"(a), "+S"(b), "+d"(c)
                     :
                     : "rcx", "r8", "r9", "r10", "r11", "cc", "memory");
    return result;
}

// Halts until an interrupt, unless *counter no longer equals `seen`. The look and the halt are one
// step as far as interrupts of this vCPU go.
static inline void gate_sleep(const volatile uint64_t *counter, uint64_t seen)
{
    __asm__ volatile("int3"
                     :
                     : "a"((uint64_t)GATE_SLEEP), "D"(counter), "S"(seen)
                     : "cc", "memory");
}
