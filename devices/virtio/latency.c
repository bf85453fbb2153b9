#include "devices/virtio/latency.h"

unsigned latency_bucket(uint64_t ns)
{
    uint64_t us = ns / 1000;
    unsigned bucket = us == 0 ? 0 : 64 - (unsigned)__builtin_clzll(us);
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

void latency_record(struct latency *l, uint64_t ns)
{
    atomic_fetch_add_explicit(&l->total_ns, ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->buckets[latency_bucket(ns)], 1, memory_order_relaxed);
}

void latency_read(const struct latency *l, struct latency_snapshot *s)
{
    s->count = 0;
    s->total_ns = atomic_load_explicit(&l->total_ns, memory_order_relaxed);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        s->buckets[i] = atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
        s->count += s->buckets[i];
    }
}

uint64_t latency_percentile_us(const struct latency_snapshot *s, unsigned per_mille)
{
    uint64_t seen = 0;
    // Rounded up, so that the slowest of few requests counts.
    uint64_t wanted = s->count / 1000 * per_mille + (s->count % 1000 * per_mille + 999) / 1000;
    for (unsigned i = 0; i < LATENCY_BUCKETS - 1 && s->count > 0; i++) {
        seen += s->buckets[i];
        if (seen >= wanted)
            return UINT64_C(1) << i;
    }
    return s->count > 0 ? UINT64_MAX : 0;
}
