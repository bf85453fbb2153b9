#include "base/token_bucket.h"

#define NS_PER_SECOND UINT64_C(1000000000)

static uint64_t at_most(uint64_t value)
{
    return value < TOKEN_BUCKET_LIMIT ? value : TOKEN_BUCKET_LIMIT;
}

static void refill(struct token_bucket *b, uint64_t now)
{
    if (now <= b->now)
        return;
    unsigned __int128 come = (unsigned __int128)(now - b->now) * b->rate + b->left;
    uint64_t room = (uint64_t)((int64_t)b->burst - b->level); // level <= burst
    b->now = now;
    if (come / NS_PER_SECOND >= room) {
        b->level = (int64_t)b->burst;
        b->left = 0;
    } else {
        b->level += (int64_t)(come / NS_PER_SECOND);
        b->left = (uint64_t)(come % NS_PER_SECOND);
    }
}

void token_bucket_set(struct token_bucket *b, uint64_t rate, uint64_t burst, uint64_t now)
{
    bool was_limited = b->rate > 0;
    if (was_limited)
        refill(b, now); // at the old rate until now
    b->now = now;
    b->rate = at_most(rate);
    b->burst = burst ? at_most(burst) : 1;
    if (!was_limited)
        b->level = (int64_t)b->burst;
    if (b->level >= (int64_t)b->burst) {
        b->level = (int64_t)b->burst;
        b->left = 0;
    }
}

bool token_bucket_allows(struct token_bucket *b, uint64_t now)
{
    if (!b->rate)
        return true;
    refill(b, now);
    return b->level > 0;
}

void token_bucket_take(struct token_bucket *b, uint64_t cost)
{
    if (!b->rate)
        return;
    int64_t least = -(int64_t)TOKEN_BUCKET_LIMIT;
    b->level -= (int64_t)at_most(cost);
    if (b->level < least)
        b->level = least; // a debt that nobody lives to see paid
}

uint64_t token_bucket_wait_ns(const struct token_bucket *b)
{
    if (!b->rate || b->level > 0)
        return 0;
    // Until level is 1, rounded up.
    unsigned __int128 missing =
        (unsigned __int128)(uint64_t)(1 - b->level) * NS_PER_SECOND - b->left;
    unsigned __int128 wait = (missing + b->rate - 1) / b->rate;
    return wait < UINT64_MAX ? (uint64_t)wait : UINT64_MAX;
}
