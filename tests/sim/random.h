// The simulator's randomness: xoshiro256** seeded by splitmix64.
//
// Every choice of a run comes from one of these generators and they are seeded from the run's seed
// alone, so that a seed means the same schedule on every machine. Independent parts (network,
// disks, faults, each member's core) have a generator of their own: one more draw in one part does
// not shift the choices of all others.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct sim_random {
    uint64_t state[4];
};

static inline uint64_t sim_random_mix(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// `stream` tells the generators of one seed apart.
static inline void sim_random_seed(struct sim_random *random, uint64_t seed, uint64_t stream)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + stream * 0xd1342543de82ef95u + 1;

    for (int i = 0; i < 4; i++)
        random->state[i] = sim_random_mix(&state);
}

static inline uint64_t sim_random_rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline uint64_t sim_random_next(struct sim_random *random)
{
    uint64_t *s = random->state;
    uint64_t result = sim_random_rotate(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = sim_random_rotate(s[3], 45);
    return result;
}

// Uniform in [0, bound); 0 for a bound of 0. The multiply-shift bias is below 2^-32 for the small
// bounds used here.
static inline uint64_t sim_random_below(struct sim_random *random, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)sim_random_next(random) * bound) >> 64);
}

// Uniform in [low, high], both included.
static inline uint64_t sim_random_between(struct sim_random *random, uint64_t low, uint64_t high)
{
    return low + sim_random_below(random, high - low + 1);
}

// True `per_million` times in a million. Draws nothing for 0, so that a fault that is off costs
// nothing.
static inline bool sim_random_chance(struct sim_random *random, uint32_t per_million)
{
    return per_million != 0 && sim_random_below(random, 1000000) < per_million;
}
