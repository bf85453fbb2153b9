// Latency histograms: how long requests took, in powers of two of a microsecond.
//
// One thread records, any thread takes a snapshot; no order between counters is promised.
#pragma once

#include <stdatomic.h>
#include <stdint.h>

// Bucket 0 counts what took less than 1 us, bucket i less than 2^i us (and not less than half of
// that), the last one everything from 2^(LATENCY_BUCKETS - 2) us on: about 4 s.
enum { LATENCY_BUCKETS = 24 };

struct latency {
    _Atomic uint64_t total_ns;
    _Atomic uint64_t buckets[LATENCY_BUCKETS];
};

struct latency_snapshot {
    uint64_t count, total_ns;
    uint64_t buckets[LATENCY_BUCKETS];
};

unsigned latency_bucket(uint64_t ns);
void latency_record(struct latency *latency, uint64_t ns);
void latency_read(const struct latency *latency, struct latency_snapshot *snapshot);
// An upper bound, in microseconds, of what `per_mille` thousandths of the requests took at most; 0
// without requests, UINT64_MAX when they are in the last bucket.
uint64_t latency_percentile_us(const struct latency_snapshot *snapshot, unsigned per_mille);
