#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/virtio/virtio_net_parts.h"

enum {
    FRAMES_A_TURN = 64,
    FRAMES_A_PUBLISH = 8, // so that the guest can begin while the rest comes in
    // Ethernet header, VLAN tag and checksum beside the MTU.
    FRAME_OVERHEAD = 22,
    DEFAULT_MTU = 1500,
};

static struct virtio_queue *queue_of(struct net_receiver *r)
{
    return &r->net->virtio.queues[2 * r->pair];
}

static void count_drop(struct net_receiver *r)
{
    atomic_fetch_add_explicit(&r->net->receive_drops, 1, memory_order_relaxed);
}

static bool is_mergeable(const struct net_receiver *r)
{
    return virtio_device_has(&r->net->virtio, NET_F_MRG_RXBUF);
}

// The largest frame that may come, with its header.
static size_t largest_frame(const struct net_receiver *r)
{
    if (virtio_device_has(&r->net->virtio, NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6))
        return NET_HEADER_SIZE + NET_FRAME_LIMIT;
    size_t mtu = r->net->backend->mtu > DEFAULT_MTU ? r->net->backend->mtu : DEFAULT_MTU;
    return NET_HEADER_SIZE + FRAME_OVERHEAD + mtu;
}

// Buffers

static bool add_buffer(struct net_receiver *r, const struct virtqueue_chain *chain)
{
    if (chain->in_bytes == 0)
        return false;
    struct net_buffer *b = &r->buffers[r->buffer_count++];
    *b = (struct net_buffer){
        .head = chain->head, .segments = chain->in_count, .bytes = chain->in_bytes};
    memcpy(&r->iov[r->segment_count], &chain->iov[chain->out_count],
           chain->in_count * sizeof(r->iov[0]));
    memcpy(&r->gpa[r->segment_count], &chain->gpa[chain->out_count],
           chain->in_count * sizeof(r->gpa[0]));
    r->segment_count += chain->in_count;
    r->bytes += chain->in_bytes;
    return true;
}

// Pops buffers until the largest frame fits, or there are none. False when the ring is broken.
static bool refill(struct net_receiver *r)
{
    struct virtqueue *ring = &queue_of(r)->ring;
    struct virtqueue_chain *chain = &r->net->chain;
    size_t wanted = largest_frame(r);
    while (r->bytes < wanted && r->buffer_count < NET_RECEIVE_BUFFERS &&
           r->segment_count + VIRTQUEUE_CHAIN_LIMIT <= NET_RECEIVE_SEGMENTS) {
        int rc = virtqueue_pop(ring, chain);
        if (rc == 0)
            break;
        if (rc > 0 && !add_buffer(r, chain)) {
            virtqueue_rewind(ring, 1);
            rc = virtqueue_break(ring, "a receive buffer without room");
        }
        if (rc < 0)
            return false;
    }
    return !ring->broken;
}

// Forgets the first `count` buffers, which were used.
static void consume(struct net_receiver *r, unsigned count)
{
    unsigned segments = 0;
    for (unsigned i = 0; i < count; i++) {
        segments += r->buffers[i].segments;
        r->bytes -= r->buffers[i].bytes;
    }
    r->buffer_count -= count;
    r->segment_count -= segments;
    memmove(r->buffers, r->buffers + count, r->buffer_count * sizeof(r->buffers[0]));
    memmove(r->iov, r->iov + segments, r->segment_count * sizeof(r->iov[0]));
    memmove(r->gpa, r->gpa + segments, r->segment_count * sizeof(r->gpa[0]));
}

// Copies bytes to `offset` of the buffers.
static void write_buffers(struct net_receiver *r, size_t offset, const uint8_t *bytes,
                          size_t length)
{
    for (unsigned i = 0; i < r->segment_count && length > 0; i++) {
        size_t here = r->iov[i].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        size_t piece = here - offset < length ? here - offset : length;
        memcpy((uint8_t *)r->iov[i].iov_base + offset, bytes, piece);
        bytes += piece;
        length -= piece;
        offset = 0;
    }
}

static void mark_buffers(struct net_receiver *r, size_t length)
{
    for (unsigned i = 0; i < r->segment_count && length > 0; i++) {
        size_t piece = r->iov[i].iov_len < length ? r->iov[i].iov_len : length;
        guest_memory_written(r->net->virtio.machine->memory, r->gpa[i], piece);
        length -= piece;
    }
}

// Frames

// Gives up the frame that waits for more buffers, if there is one. Those that there were have been
// scribbled on, though the driver won't be told.
static void drop_held(struct net_receiver *r)
{
    if (!r->held)
        return;
    mark_buffers(r, r->held_in_buffers);
    count_drop(r);
    r->held = 0;
}

// Hands the first `length` bytes of the buffers, one frame with its header, to the driver.
static void deliver(struct net_receiver *r, size_t length)
{
    struct virtio_queue *q = queue_of(r);
    unsigned count = 0;
    size_t covered = 0;
    while (covered < length)
        covered += r->buffers[count++].bytes;
    uint8_t num_buffers[2]; // always there and never 0 (5.1.6.4.1)
    bytes_put_u16(num_buffers, (uint16_t)count);
    write_buffers(r, HEADER_NUM_BUFFERS, num_buffers, sizeof(num_buffers));
    mark_buffers(r, length);
    size_t left = length;
    for (unsigned i = 0; i < count; i++) {
        uint32_t used = r->buffers[i].bytes < left ? r->buffers[i].bytes : (uint32_t)left;
        virtqueue_push_head(&q->ring, r->buffers[i].head, used);
        left -= used;
    }
    virtio_queue_count_bytes(q, length - NET_HEADER_SIZE);
    consume(r, count);
}

// Whether it makes sense to keep a frame until the driver gives more buffers: only if its queue can
// hold two of the largest. A driver may wait with refilling until half of its buffers are used; if
// that half was too small for the frame, both sides would wait for each other.
static bool may_hold(struct net_receiver *r)
{
    size_t average = r->bytes / r->buffer_count;
    return is_mergeable(r) && queue_of(r)->ring.size * average >= 2 * largest_frame(r);
}

// A byte of a frame that was read into the first `capacity` bytes of the buffers and the spill.
static uint8_t *frame_byte(struct net_receiver *r, size_t offset, size_t capacity)
{
    if (offset >= capacity)
        return &r->spill[offset - capacity];
    unsigned i = 0;
    for (; offset >= r->iov[i].iov_len; i++)
        offset -= r->iov[i].iov_len;
    return (uint8_t *)r->iov[i].iov_base + offset;
}

// Whether the driver may be given a frame with this header; what it isn't to see is cleared
// (5.1.6.4.1). A tap marks frames whose checksum was looked at without being asked to, and may have
// kept some from when another driver had agreed on more.
static bool clean_header(struct net_receiver *r, size_t capacity)
{
    const struct virtio_device *d = &r->net->virtio;
    uint8_t *flags = frame_byte(r, HEADER_FLAGS, capacity);
    uint8_t type = *frame_byte(r, HEADER_GSO_TYPE, capacity);
    bool partial = *flags & FLAG_NEEDS_CSUM;
    uint64_t needs = 0;
    *flags &= virtio_device_has(d, NET_F_GUEST_CSUM) ? FLAG_NEEDS_CSUM | FLAG_DATA_VALID : 0;
    switch (type & ~GSO_ECN) {
    case GSO_NONE:
        break;
    case GSO_TCPV4:
        needs |= NET_F_GUEST_TSO4;
        break;
    case GSO_TCPV6:
        needs |= NET_F_GUEST_TSO6;
        break;
    default:
        return false;
    }
    if (partial)
        needs |= NET_F_GUEST_CSUM;
    if (type & GSO_ECN)
        needs |= NET_F_GUEST_ECN;
    return (d->features & needs) == needs;
}

// Takes a frame of `length` bytes that was read into the first `capacity` bytes of the buffers and
// the spill.
static void place(struct net_receiver *r, size_t length, size_t capacity)
{
    if (length < NET_HEADER_SIZE + ETHERNET_HEADER || !clean_header(r, capacity)) {
        mark_buffers(r, length < capacity ? length : capacity);
        count_drop(r);
    } else if (length <= capacity) {
        deliver(r, length);
    } else if (length - capacity < sizeof(r->spill) && may_hold(r)) {
        r->held = length;
        r->held_in_buffers = capacity;
    } else {
        mark_buffers(r, capacity); // scribbled on, though the driver won't be told
        count_drop(r);
    }
}

// Places a held frame if there is room by now.
static bool place_held(struct net_receiver *r)
{
    if (r->bytes < r->held) {
        if (r->buffer_count == NET_RECEIVE_BUFFERS ||
            r->segment_count + VIRTQUEUE_CHAIN_LIMIT > NET_RECEIVE_SEGMENTS) {
            drop_held(r); // buffers so small that it never fits
            return true;
        }
        return false;
    }
    write_buffers(r, r->held_in_buffers, r->spill, r->held - r->held_in_buffers);
    size_t length = r->held;
    r->held = 0;
    deliver(r, length);
    return true;
}

// Reads one frame. False when there is none.
static bool receive_frame(struct net_receiver *r)
{
    struct net_backend *backend = r->net->backend;
    struct iovec spill = {.iov_base = r->spill, .iov_len = sizeof(r->spill)};
    if (!r->net->link_up) {
        drop_held(r);
        if (backend->ops->receive(backend, r->pair, &spill, 1) <= 0)
            return false;
        count_drop(r);
        return true;
    }
    size_t capacity = is_mergeable(r) ? r->bytes : r->buffers[0].bytes;
    unsigned segments = is_mergeable(r) ? r->segment_count : r->buffers[0].segments;
    struct iovec kept = r->iov[segments]; // the next buffer's, when only the first is used
    r->iov[segments] = spill;
    ssize_t n = backend->ops->receive(backend, r->pair, r->iov, segments + 1);
    r->iov[segments] = kept;
    if (n <= 0)
        return false;
    rate_limiter_charge(&r->net->receive_limiter, 1, (size_t)n);
    place(r, (size_t)n, capacity);
    return true;
}

static void pause_watch(struct net_receiver *r)
{
    if (r->watch && !r->paused)
        io_watch_pause(r->watch);
    r->paused = r->watch != NULL;
}

// Nothing can be received before the driver gives buffers. False when it has done so just now.
static bool wait_for_buffers(struct net_receiver *r)
{
    if (virtqueue_kicks_on(&queue_of(r)->ring))
        return false;
    pause_watch(r);
    return true;
}

bool net_receiver_serve(struct net_receiver *r)
{
    struct virtio_queue *q = queue_of(r);
    bool again = true;
    if (!r->watch)
        return false; // the pair is off
    if (r->paused) {
        io_watch_resume(r->watch);
        r->paused = false;
    }
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 1; n <= FRAMES_A_TURN; n++) {
        if (!rate_limiter_allows(&r->net->receive_limiter)) {
            pause_watch(r); // until the limiter rings the queue
            again = false;
            break;
        }
        if (!refill(r)) {
            again = !wait_for_buffers(r);
            break;
        }
        bool short_of_buffers =
            r->net->link_up && (r->held ? !place_held(r) : r->buffer_count == 0);
        if (short_of_buffers) {
            if (!wait_for_buffers(r))
                continue;
            again = false;
            break;
        }
        if (!r->held && r->net->link_up && r->buffer_count == 0)
            continue; // a held frame took the last ones
        if (!receive_frame(r)) {
            again = false; // the watch tells of the next one
            break;
        }
        if (n % FRAMES_A_PUBLISH == 0)
            virtqueue_publish(&q->ring);
    }
    virtqueue_publish(&q->ring);
    return again;
}

static void frames_arrived(void *opaque)
{
    // When the turn was too short the watch, level-triggered, calls again.
    net_receiver_serve(opaque);
}

int net_receiver_start(struct net_receiver *r)
{
    struct virtio_net *net = r->net;
    if (r->watch || !queue_of(r)->ring.enabled)
        return 0; // on already: it may be paused, and stays that
    r->paused = false;
    int fd = net->backend->ops->receive_fd(net->backend, r->pair);
    return io_thread_watch(net->virtio.io_thread, fd, frames_arrived, r, &r->watch);
}

void net_receiver_stop(struct net_receiver *r)
{
    io_thread_unwatch(r->watch);
    r->watch = NULL;
    drop_held(r);
    virtqueue_rewind(&queue_of(r)->ring, (uint16_t)r->buffer_count);
    r->buffer_count = r->segment_count = 0;
    r->bytes = 0;
    virtqueue_publish(&queue_of(r)->ring);
}
