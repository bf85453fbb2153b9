// Latencies: 16 buckets for each power of two of ns, so percentiles are right within 6 %.
#pragma once

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 64 * 16 };

struct histogram {
    uint64_t count, sum, longest;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);

// The value below which `per_mille` of 1000 lie.
uint64_t histogram_percentile(const struct histogram *histogram, unsigned per_mille);
uint64_t histogram_mean(const struct histogram *histogram);
