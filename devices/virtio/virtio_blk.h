// virtio-blk (virtio 1.2, 5.2): a disk whose bytes come from a block backend.
#pragma once

#include "devices/block/block_backend.h"
#include "devices/rate_limiter.h"
#include "devices/virtio/latency.h"
#include "devices/virtio/virtio.h"

enum { VIRTIO_BLK_SERIAL_SIZE = 20, VIRTIO_BLK_QUEUES_LIMIT = 64 };

struct virtio_blk_config {
    struct block_backend *backend; // owned by the device from a successful create on
    const char *serial;            // what GET_ID answers, cut at 20 bytes; NULL = env->id
    unsigned queues;               // 0 = 1
    struct rate_limits limits;
};

int virtio_blk_create(struct device **device, const struct virtio_environment *env,
                      const struct virtio_blk_config *config, struct error *err);
// Bytes, as the guest was told last. Any thread.
uint64_t virtio_blk_size(const struct device *device);
// The image was made larger (or smaller): looks again, and tells the guest. On the main thread.
int virtio_blk_refresh_size(struct device *device, struct error *err);

enum virtio_blk_latency { VIRTIO_BLK_READS, VIRTIO_BLK_WRITES, VIRTIO_BLK_FLUSHES };
// How long requests took, from being taken off the queue to being put back. Flushes include
// discards and write zeroes. Any thread.
void virtio_blk_latency(const struct device *device, enum virtio_blk_latency kind,
                        struct latency_snapshot *snapshot);

// Requests that failed on the host, each an I/O error of the guest. Any thread.
uint64_t virtio_blk_errors(const struct device *device);

// Reads, writes and whatever else is asked of the disk count as operations, data of reads and
// writes as bytes. On the main thread; 0 or -errno.
int virtio_blk_set_limits(struct device *device, const struct rate_limits *limits);
// How often requests had to wait for the limits. Any thread.
uint64_t virtio_blk_throttled(const struct device *device);
