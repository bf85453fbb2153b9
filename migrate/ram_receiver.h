// The receiving side of RAM: a thread a data connection.
//
// Rounds are barriers: a thread that has read ROUND n goes on only when all have; so nothing of
// round n + 1 is applied before every page of round n is. The stream is hostile: addresses and
// lengths are checked against RAM before use, and anything else ends the attempt.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/guest_memory.h"
#include "migrate/channel.h"

struct ram_receiver;

struct ram_receiver_events {
    // All connections passed round `round`. On one of the receiver's threads.
    void (*round_done)(void *opaque, uint32_t round);
    // The first failure, with its sentence. On one of the receiver's threads.
    void (*failed)(void *opaque, const struct error *err);
    void *opaque;
};

// The memory is fresh: all zero. `channels` outlive the receiver.
int ram_receiver_start(struct ram_receiver **receiver, struct guest_memory *memory,
                       struct channel *channels, unsigned count,
                       const struct ram_receiver_events *events, struct error *err);
// Any thread: bytes received so far (for "is it still alive").
uint64_t ram_receiver_bytes(const struct ram_receiver *receiver);
// Any thread: the last round that all connections passed.
uint32_t ram_receiver_round(struct ram_receiver *receiver);
// Shuts the channels down and ends the threads; no event comes any more. NULL is allowed.
void ram_receiver_stop(struct ram_receiver *receiver);
