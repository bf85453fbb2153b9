// The host's lease as its agent sees it: renewals, and the deadline that follows from them.
//
// A deadline is s + D on this host's CLOCK_BOOTTIME, where s was read before the first attempt to
// send a renewal that was committed. It only grows. A renewal of unknown outcome gives nothing. One
// that was refused says that this incarnation is over: no deadline comes of it any more.
//
// No clock, no I/O: time and outcomes are handed in.
#pragma once

#include "cluster/records/records.h"

struct renewal {
    char host[NAME_LIMIT + 1];
    uint64_t incarnation, life_mod;
    uint64_t deadline_ns; // D
    uint64_t deadline;    // absolute; 0: none yet
    uint64_t began;       // s of the attempt under way
    uint64_t count;
    bool over;
};

// For the incarnation that `life` (revision `life_mod`) has just been read or written as.
void renewal_init(struct renewal *renewal, const char *host, const struct life_record *life,
                  uint64_t life_mod, const struct settings_record *settings);
// The transaction to send. `now` was read before it.
void renewal_attempt(struct renewal *renewal, uint64_t now, struct change *change);
void renewal_outcome(struct renewal *renewal, enum change_outcome outcome, uint64_t now);

// Decides how this host is registered: 1 with *change as what to commit first (a first
// registration, a new boot, the return after a fence); else 0: `life` stands and goes on. -EEXIST
// with a sentence: the name is another host's.
int renewal_register(const struct record *life, const char *host, const char *identity,
                     const char *boot_id, struct change *change, struct error *err);
