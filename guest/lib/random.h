// Pseudo-random numbers, the same for the same seed.
#pragma once

#include <stdint.h>

// Mixes a number into another that looks like noise (also usable as a hash).
static inline uint64_t random_mix(uint64_t value)
{
    value += 0x9e3779b97f4a7c15ul;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ul;
    value = (value ^ value >> 27) * 0x94d049bb133111ebul;
    return value ^ value >> 31;
}

static inline uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ul;
    return random_mix(*state);
}

// Below a limit.
static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
    return (uint64_t)((unsigned __int128)random_next(state) * limit >> 64);
}
