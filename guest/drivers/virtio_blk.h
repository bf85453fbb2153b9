// virtio-blk (virtio 1.2, 5.2).
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/drivers/virtio.h"

enum blk_operation {
    BLK_READ = 0,
    BLK_WRITE = 1,
    BLK_FLUSH = 4,
    BLK_GET_ID = 8,
    BLK_DISCARD = 11,
    BLK_WRITE_ZEROES = 13,
};

enum blk_status {
    BLK_OK = 0,
    BLK_IO_ERROR = 1,
    BLK_UNSUPPORTED = 2,
    BLK_NONE = 0xff, // the device hasn't answered
};

enum {
    BLK_SECTOR = 512,
    BLK_QUEUES_MAX = 16,
    BLK_SEGMENTS_MAX = 8,
};

#define BLK_F_RO           (1ul << 5)
#define BLK_F_FLUSH        (1ul << 9)
#define BLK_F_MQ           (1ul << 12)
#define BLK_F_DISCARD      (1ul << 13)
#define BLK_F_WRITE_ZEROES (1ul << 14)

struct blk {
    struct virtio_device device;
    uint64_t sectors;
    uint16_t queue_count; // that the device has
    bool read_only;
};

// One request; it and its data stay untouched until it comes back.
struct blk_request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t *data;
    uint32_t size;
    uint32_t segments; // pieces to hand the data over in, 0 for one
    volatile uint8_t status;
    uint64_t started; // for the caller
};

// Opens the index-th disk.
bool blk_open(struct blk *blk, unsigned index);

// False when the queue is full.
bool blk_submit(struct virtqueue *queue, struct blk_request *request);

// Submits, kicks and waits; returns the status.
enum blk_status blk_do(struct virtqueue *queue, struct blk_request *request,
                       enum blk_operation what, uint64_t sector, void *data, uint32_t size);
