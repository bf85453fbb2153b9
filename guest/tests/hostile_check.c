// Whether a device that was attacked and reset works: the work of a driver that knows nothing of
// it.
#include "guest/tests/hostile.h"

#include "guest/drivers/virtio_blk.h"
#include "guest/drivers/virtio_console.h"
#include "guest/drivers/virtio_net.h"
#include "guest/lib/console.h"
#include "guest/lib/inet.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"

enum { SECONDS = 30, BLOCK = 4096, RANDOM_BYTES = 64 };

// Waits for the next chain to come back; false after a time that no device needs.
static bool taken(struct virtqueue *queue, void **token, uint32_t *written)
{
    uint64_t limit = time_tsc() + SECONDS * time_tsc_hz();
    while (!virtqueue_take(queue, token, written)) {
        if (time_tsc() > limit)
            return false;
        virtqueue_wait(queue, limit);
    }
    return true;
}

static bool check_rng(unsigned index)
{
    static struct virtio_device device;
    static struct virtqueue queue;
    uint8_t *bytes = pages_allocate_zeroed(BLOCK, BLOCK);
    if (!bytes || !virtio_open(&device, VIRTIO_RNG, index, 0) ||
        !virtqueue_open(&queue, &device, 0, 0))
        return false;
    virtio_ready(&device);
    struct virtqueue_buffer buffer = {bytes, RANDOM_BYTES, true};
    uint32_t written, sum = 0;
    void *token;
    if (!virtqueue_add(&queue, &buffer, 1, bytes))
        return false;
    virtqueue_kick(&queue);
    if (!taken(&queue, &token, &written))
        return false;
    for (unsigned i = 0; i < RANDOM_BYTES; i++)
        sum += bytes[i];
    return written == RANDOM_BYTES && sum;
}

static bool blk_one(struct virtqueue *queue, struct blk_request *request, enum blk_operation what,
                    uint64_t sector, uint8_t *data)
{
    void *token;
    request->header.type = what;
    request->header.reserved = 0;
    request->header.sector = sector;
    request->data = data;
    request->size = BLOCK;
    request->segments = 2;
    if (!blk_submit(queue, request))
        return false;
    virtqueue_kick(queue);
    return taken(queue, &token, NULL) && token == request && request->status == BLK_OK;
}

// The attacks write to the disk what they like: the last block gets something known, and must give
// it back.
static bool check_blk(unsigned index)
{
    static struct blk blk;
    static struct virtqueue queue;
    struct blk_request *request = pages_allocate_zeroed(sizeof(*request), 4096);
    uint8_t *out = pages_allocate_zeroed(BLOCK, BLOCK), *in = pages_allocate_zeroed(BLOCK, BLOCK);
    if (!request || !out || !in || !blk_open(&blk, index) ||
        !virtqueue_open(&queue, &blk.device, 0, 0))
        return false;
    virtio_ready(&blk.device);
    uint64_t sector = blk.sectors - BLOCK / BLK_SECTOR, seed = time_tsc();
    for (unsigned i = 0; i < BLOCK / 8; i++)
        ((uint64_t *)out)[i] = seed + i;
    if (blk.read_only)
        return blk_one(&queue, request, BLK_READ, sector, in);
    return blk_one(&queue, request, BLK_WRITE, sector, out) &&
           blk_one(&queue, request, BLK_READ, sector, in) && !memcmp(in, out, BLOCK);
}

// With peer= a round trip to it; otherwise a frame that the device takes.
static bool check_net(unsigned index)
{
    static struct net net;
    static struct inet inet;
    uint32_t peer = option_ipv4("peer", 0);
    uint8_t mac[6];
    if (!net_open(&net, index))
        return false;
    unsigned all = net.free_count;
    inet_start(&inet, &net);
    if (peer && !index) {
        bool found = false;
        for (unsigned i = 0; i < 6 && !found; i++)
            found = inet_resolve(&inet, peer, mac);
        return found;
    }
    uint64_t limit = time_tsc() + SECONDS * time_tsc_hz();
    uint8_t *frame;
    while ((frame = net_frame_begin(&net)) && net.free_count + 1 < all && time_tsc() < limit) {
        net.free_frames[net.free_count++] = frame;
        virtqueue_wait(&net.transmit, limit);
    }
    return frame && net.free_count + 1 == all;
}

static bool check_console(void)
{
    if (!virtio_console_open())
        return false;
    virtio_console_write("hostile: the console works\n", 27);
    return true;
}

// A device whose work this test doesn't know: it must at least start.
static bool check_start(const struct hostile_victim *victim)
{
    static struct virtio_device device;
    if (!virtio_open(&device, victim->type, victim->index, 0))
        return false;
    virtio_ready(&device);
    return !virtio_needs_reset(&device);
}

bool hostile_check(const struct hostile_victim *victim)
{
    bool works;
    switch (victim->type) {
    case VIRTIO_RNG:
        works = check_rng(victim->index);
        break;
    case VIRTIO_BLK:
        works = check_blk(victim->index);
        break;
    case VIRTIO_NET:
        works = check_net(victim->index);
        break;
    case VIRTIO_CONSOLE:
        works = check_console();
        break;
    default:
        works = check_start(victim);
    }
    if (!works)
        console_line("hostile type=%u index=%u doesn't work after a reset", victim->type,
                     victim->index);
    return works;
}
