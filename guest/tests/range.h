// The memory that a test works on: gpa= and size=, cut into one part for each vCPU.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_BYTES = 4096 };

struct range {
    uint64_t start, pages;
};

// Takes size= bytes (default_size; less when no range has so much; "max" for all) at gpa= or
// anywhere. Prints why when it can't be had. Start the vCPUs first: what they need comes from the
// same memory.
bool range_take(struct range *range, uint64_t default_size);

// Part `index` of `count`; the last one has the rest.
struct range range_part(const struct range *range, unsigned index, unsigned count);
