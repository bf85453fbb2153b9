// a * b / c without losing the upper half of the product.
#pragma once

#include <stdint.h>

// Rounds down; all ones when the result doesn't fit.
static inline uint64_t multiply_divide(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t low, high, quotient, remainder;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "a"(a), "rm"(b));
    if (high >= c)
        return ~0ul;
    __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "a"(low), "d"(high), "rm"(c));
    return quotient;
}
