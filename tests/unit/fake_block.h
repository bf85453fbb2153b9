// A block backend in memory for tests: it can hold requests back, fail them, and counts.
#pragma once

#include "devices/block/block_backend.h"

struct fake_block {
    struct block_backend backend; // first
    uint8_t *bytes;
    bool hold;   // requests stay in flight until drain or fake_block_release()
    int failure; // -errno that every request ends with; 0 = none
    bool attached, destroyed;
    unsigned drains, kicks;
    unsigned operations[BLOCK_WRITE_ZEROES + 1];
    struct block_request *held;
    unsigned held_count, held_most;
};

void fake_block_init(struct fake_block *fake, uint64_t size);
// Completes what is held. On the I/O thread.
void fake_block_release(void *fake);
void fake_block_free(struct fake_block *fake);
