// A token bucket: how much may be done by now, at a rate, with bursts. Pure: no clock, no thread.
//
// `rate` tokens come in each second, and at most `burst` of them are kept. Something may be done
// while there is any token, whatever it costs; what it costs beyond that is owed, and paid off
// before anything else may be done. So the cost needn't be known before, nothing is ever too large,
// and the mean over any time is the rate, plus at most one burst and the largest cost.
//
// Invariant: level <= burst. Time that goes backwards counts as none.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
    uint64_t rate;  // tokens a second; 0 = no limit
    uint64_t burst; // at least 1 where there's a rate
    int64_t level;  // below 0: owed
    uint64_t now;   // ns, of the last look
    uint64_t left;  // of a token, in 1/10^9, that had come in then
};

// Rates and bursts above this are taken for this; sums of them then stay within the level's type.
#define TOKEN_BUCKET_LIMIT (UINT64_C(1) << 60)

// Sets the rate. A bucket that had none begins full; otherwise what there is stays, up to the new
// burst, and so does what is owed.
void token_bucket_set(struct token_bucket *bucket, uint64_t rate, uint64_t burst, uint64_t now);
// Whether something may be done now.
bool token_bucket_allows(struct token_bucket *bucket, uint64_t now);
// Something was done.
void token_bucket_take(struct token_bucket *bucket, uint64_t cost);
// How long until token_bucket_allows(), from the time of its last call: 0 when it does.
uint64_t token_bucket_wait_ns(const struct token_bucket *bucket);
