#include "guest/drivers/virtio_blk.h"

enum {
    CONFIG_CAPACITY = 0,
    CONFIG_QUEUES = 34,
};

bool blk_open(struct blk *blk, unsigned index)
{
    if (!virtio_open(&blk->device, VIRTIO_BLK, index,
                     BLK_F_RO | BLK_F_FLUSH | BLK_F_MQ | BLK_F_DISCARD | BLK_F_WRITE_ZEROES))
        return false;
    virtio_config_read(&blk->device, CONFIG_CAPACITY, &blk->sectors, 8);
    blk->queue_count = 1;
    if (blk->device.features & BLK_F_MQ)
        virtio_config_read(&blk->device, CONFIG_QUEUES, &blk->queue_count, 2);
    blk->read_only = blk->device.features & BLK_F_RO;
    return true;
}

bool blk_submit(struct virtqueue *queue, struct blk_request *request)
{
    struct virtqueue_buffer buffers[BLK_SEGMENTS_MAX + 2];
    unsigned count = 0;
    uint32_t type = request->header.type;
    bool to_guest = type == BLK_READ || type == BLK_GET_ID;
    uint32_t segments = request->segments ? request->segments : 1, at = 0;
    if (segments > BLK_SEGMENTS_MAX)
        segments = BLK_SEGMENTS_MAX;

    request->status = BLK_NONE;
    buffers[count++] = (struct virtqueue_buffer){&request->header, sizeof(request->header), false};
    for (uint32_t i = 0; i < segments && request->size; i++) {
        uint32_t part = i + 1 == segments ? request->size - at : request->size / segments;
        buffers[count++] = (struct virtqueue_buffer){request->data + at, part, to_guest};
        at += part;
    }
    buffers[count++] = (struct virtqueue_buffer){(void *)&request->status, 1, true};
    return virtqueue_add(queue, buffers, count, request);
}

enum blk_status blk_do(struct virtqueue *queue, struct blk_request *request,
                       enum blk_operation what, uint64_t sector, void *data, uint32_t size)
{
    request->header.type = what;
    request->header.reserved = 0;
    request->header.sector = sector;
    request->data = data;
    request->size = size;
    if (!blk_submit(queue, request))
        return BLK_NONE;
    virtqueue_kick(queue);
    void *token;
    while (!virtqueue_take(queue, &token, 0))
        virtqueue_wait(queue, 0);
    return request->status;
}
