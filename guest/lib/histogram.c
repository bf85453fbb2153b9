#include "guest/lib/histogram.h"

#include "guest/lib/arithmetic.h"

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 16)
        return (unsigned)ns;
    unsigned power = 63 - (unsigned)__builtin_clzl(ns);
    return (power - 3) * 16 + (unsigned)(ns >> (power - 4) & 15);
}

// The first value of the bucket behind this one.
static uint64_t bucket_end(unsigned bucket)
{
    if (bucket < 16)
        return bucket + 1;
    unsigned power = bucket / 16 + 3;
    return (16ul + bucket % 16 + 1) << (power - 4);
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->count++;
    histogram->sum += ns;
    if (ns > histogram->longest)
        histogram->longest = ns;
    histogram->buckets[bucket_of(ns)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    into->count += from->count;
    into->sum += from->sum;
    if (from->longest > into->longest)
        into->longest = from->longest;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

uint64_t histogram_percentile(const struct histogram *histogram, unsigned per_mille)
{
    uint64_t wanted = multiply_divide(histogram->count, per_mille, 1000), below = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += histogram->buckets[i];
        if (below > wanted)
            return bucket_end(i);
    }
    return histogram->longest;
}

uint64_t histogram_mean(const struct histogram *histogram)
{
    return histogram->count ? histogram->sum / histogram->count : 0;
}
