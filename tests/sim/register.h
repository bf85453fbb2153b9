// What the simulated clients do: operations on small registers, one a key. This is the sequential
// specification, used both by the replicated state machine and by the checker that judges what
// clients saw.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SIM_KEYS 8

enum sim_register_kind {
    SIM_REGISTER_GET,     // result: the value
    SIM_REGISTER_PUT,     // value = argument; result: the value before
    SIM_REGISTER_APPEND,  // value = mix(value, argument); result: the value after, which tells the
                          // whole history
    SIM_REGISTER_COMPARE, // value = argument if it was `expected`; result: the value before
    SIM_REGISTER_KINDS
};

// Does the operation on `*value` and gives its result.
static inline uint64_t sim_register_apply(uint64_t *value, enum sim_register_kind kind,
                                          uint64_t argument, uint64_t expected)
{
    uint64_t before = *value;

    switch (kind) {
    case SIM_REGISTER_PUT:
        *value = argument;
        return before;
    case SIM_REGISTER_APPEND:
        *value = (before ^ argument) * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
        *value ^= *value >> 29;
        return *value;
    case SIM_REGISTER_COMPARE:
        if (before == expected)
            *value = argument;
        return before;
    default:
        return before;
    }
}
