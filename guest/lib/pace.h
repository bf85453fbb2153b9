// Holds a loop to a rate: so many bytes a second, in slices of a millisecond, asleep in between.
#pragma once

#include <stdint.h>

struct pace {
    uint64_t bytes_per_second; // 0: as fast as it goes
    uint64_t start;            // TSC
    uint64_t due;              // bytes done that were accounted for
};

void pace_start(struct pace *pace, uint64_t bytes_per_second);

// How many bytes to do before the next pace_wait: one slice's worth, at least `least`.
uint64_t pace_slice(const struct pace *pace, uint64_t least);

// Tells that so many bytes were done, and sleeps until they are due. After a pause of the whole
// machine it doesn't try to catch up.
void pace_wait(struct pace *pace, uint64_t bytes);
