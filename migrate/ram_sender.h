// The sending side of RAM: rounds over one to sixteen data connections, a thread each.
//
// A round is a set of pages. Threads take pieces of 2 MiB from it, so a page belongs to one
// connection in a round; when the set is used up each connection gets the barrier ROUND. A page is
// in flight at most once: the next round begins only after the target has confirmed the last (the
// caller waits for that).
//
// Not sent at all: pages that the guest never touched (read from the page map, so that looking
// doesn't allocate them), and zero pages that the target holds as zero already.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "migrate/channel.h"
#include "vmm/dirty_log.h"

struct ram_sender;

struct ram_sender_totals {
    uint64_t bytes;      // on the wire, frames included
    uint64_t pages;      // sent with their contents
    uint64_t zero_pages; // sent as zero
    uint64_t skipped;    // neither
    uint64_t left; // of the round under way, in bytes of RAM: at most so much is still to come
};

// `channels` (connected) outlive the sender. `bandwidth` caps all of them together, bytes a second;
// 0 = no cap. `announce` for a target that knows COMING. 0 or a sentence.
int ram_sender_start(struct ram_sender **sender, const struct guest_memory *memory,
                     struct channel *channels, unsigned count, uint64_t bandwidth, bool announce,
                     struct error *err);
// Sends the set and the barrier on every connection; returns when the last byte was handed to the
// kernel. `capped` false ignores the cap (for the switch). 0, or a sentence when a connection
// failed or ram_sender_cancel() was called.
int ram_sender_round(struct ram_sender *sender, const struct page_bitmap *pages, uint32_t round,
                     bool capped, struct error *err);
// Any thread; plain numbers.
struct ram_sender_totals ram_sender_totals(const struct ram_sender *sender);
// Any thread: a round under way fails soon (the caller also shuts the channels down).
void ram_sender_cancel(struct ram_sender *sender);
// Ends the threads. NULL is allowed.
void ram_sender_stop(struct ram_sender *sender);
