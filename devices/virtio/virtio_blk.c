#include "devices/virtio/virtio_blk.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "devices/virtio/kinds.h"

enum {
    SECTOR_SHIFT = 9,
    SECTOR = 1 << SECTOR_SHIFT,
    QUEUE_SIZE = 256,
    // Requests in flight a disk, whatever its queues hold.
    REQUESTS = 256,
    // Bytes in flight after which no further request is begun: a pause, a move or a reset waits for
    // all of them, and a guest may ask for 4 GiB at a time.
    BYTES_IN_FLIGHT = 128 << 20,
    // Requests after which those begun go to the host and those done to the guest, so that all
    // three work at the same time rather than wait for each other's batch.
    REQUESTS_A_PART = 8,
    // A driver that comes with its next request within this time is worth waiting for: it saves the
    // guest an exit for its kick, and this thread a sleep and a wake-up.
    LINGER_LIMIT_NS = 20000,
    LINGER_LEAST_NS = 2000,

    // Request format (virtio 1.2, 5.2.6): header, data, status byte.
    HEADER_SIZE = 16,
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    TYPE_DISCARD = 11,
    TYPE_WRITE_ZEROES = 13,
    STATUS_OK = 0,
    STATUS_IOERR = 1,
    STATUS_UNSUPP = 2,
    RANGE_SIZE = 16, // struct virtio_blk_discard_write_zeroes
    RANGE_UNMAP = 1,

    // Device configuration (5.2.4).
    CONFIG_CAPACITY = 0,
    CONFIG_SEG_MAX = 12,
    CONFIG_BLK_SIZE = 20,
    CONFIG_PHYSICAL_EXPONENT = 24,
    CONFIG_MIN_IO_SIZE = 26,
    CONFIG_QUEUES = 34,
    CONFIG_MAX_DISCARD = 36,
    CONFIG_MAX_DISCARD_SEG = 40,
    CONFIG_DISCARD_ALIGNMENT = 44,
    CONFIG_MAX_WRITE_ZEROES = 48,
    CONFIG_MAX_WRITE_ZEROES_SEG = 52,
    CONFIG_WRITE_ZEROES_MAY_UNMAP = 56,
    CONFIG_SIZE = 60,

    // Sectors of one such request. A file system deallocates any length in short time; zeroes may
    // have to be written where it can't, so they are limited to 32 MiB.
    DISCARD_SECTORS = 1 << 22,
    WRITE_ZEROES_SECTORS = 1 << 16,
};

#define ERRORS_APART_NS (10 * NSEC_PER_SEC)

#define F_SEG_MAX      VIRTIO_FEATURE(2)
#define F_RO           VIRTIO_FEATURE(5)
#define F_BLK_SIZE     VIRTIO_FEATURE(6)
#define F_FLUSH        VIRTIO_FEATURE(9)
#define F_TOPOLOGY     VIRTIO_FEATURE(10)
#define F_MQ           VIRTIO_FEATURE(12)
#define F_DISCARD      VIRTIO_FEATURE(13)
#define F_WRITE_ZEROES VIRTIO_FEATURE(14)

struct blk_request {
    struct block_request block; // first: completions get back from here
    struct blk_request *next_free;
    struct virtio_queue *queue;
    uint64_t started; // ns
    uint32_t type;
    uint32_t written; // bytes of data for the guest, once it succeeded
    uint32_t weight;  // its part of virtio_blk.bytes_in_flight
    struct virtqueue_chain chain;
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT]; // of the data; the backend may change it
};

struct virtio_blk {
    struct virtio_device virtio; // first
    struct block_backend *backend;
    char serial[VIRTIO_BLK_SERIAL_SIZE];
    // On the I/O thread. Requests are taken from `fresh` on only when `free` is empty, so memory
    // grows with the depth that the guest really uses.
    struct blk_request *requests, *free;
    unsigned fresh;
    uint64_t bytes_in_flight;
    struct latency latencies[VIRTIO_BLK_FLUSHES + 1];
    bool starved; // a queue was left with chains because nothing more may be in flight
    // How long to look out for requests once there is none, and since when there is none.
    uint64_t linger_ns, idle_since;
    struct rate_limiter limiter;
    _Atomic uint64_t errors;  // requests that the host failed
    uint64_t errors_reported; // when the log was told last, ns
};

static struct virtio_blk *from_virtio(struct virtio_device *d)
{
    return (struct virtio_blk *)d; // its first member
}

static struct blk_request *take_request(struct virtio_blk *blk)
{
    struct blk_request *r = blk->free;
    if (r)
        blk->free = r->next_free;
    else if (blk->fresh < REQUESTS)
        r = &blk->requests[blk->fresh++];
    return r;
}

static void give_request(struct virtio_blk *blk, struct blk_request *r)
{
    r->next_free = blk->free;
    blk->free = r;
}

// Completion

static void finish(struct virtio_blk *blk, struct blk_request *r, uint8_t status)
{
    struct virtqueue *ring = &r->queue->ring;
    uint32_t in_bytes = r->chain.in_bytes;
    virtqueue_chain_write(&r->chain, in_bytes - 1, &status, 1);
    // A read that failed may have written some of the data all the same: all of it is marked. But
    // the used ring promises only what is certain, counted from the start.
    virtqueue_chain_written(ring, &r->chain, 0, r->type == TYPE_IN ? in_bytes : r->written);
    virtqueue_chain_written(ring, &r->chain, in_bytes - 1, 1);
    uint32_t data = status == STATUS_OK ? r->written : 0;
    virtqueue_push_head(ring, r->chain.head, data == in_bytes - 1 ? in_bytes : data);
    if (status == STATUS_OK)
        virtio_queue_count_bytes(r->queue, r->block.length);
    give_request(blk, r);
}

static enum virtio_blk_latency latency_kind(uint32_t type)
{
    return type == TYPE_IN    ? VIRTIO_BLK_READS
           : type == TYPE_OUT ? VIRTIO_BLK_WRITES
                              : VIRTIO_BLK_FLUSHES;
}

static void submit(struct virtio_blk *blk, struct blk_request *r, enum block_operation operation)
{
    r->block.operation = operation;
    blk->backend->ops->submit(blk->backend, &r->block);
}

// The same for a request that takes the longer the more bytes it has.
static void submit_bytes(struct virtio_blk *blk, struct blk_request *r,
                         enum block_operation operation)
{
    r->weight = (uint32_t)r->block.length; // the chain's length has 32 bits
    blk->bytes_in_flight += r->weight;
    submit(blk, r, operation);
}

// The guest is told by the request's status; whoever runs it here, in the log and by a counter. A
// disk that fails everything doesn't fill the log.
static void note_error(struct virtio_blk *blk, const struct block_request *block)
{
    static const char *const names[] = {
        [BLOCK_READ] = "reading",         [BLOCK_WRITE] = "writing",
        [BLOCK_FLUSH] = "flushing",       [BLOCK_DISCARD] = "discarding",
        [BLOCK_WRITE_ZEROES] = "zeroing",
    };
    uint64_t now = clock_monotonic_ns();
    atomic_fetch_add_explicit(&blk->errors, 1, memory_order_relaxed);
    if (blk->errors_reported && now - blk->errors_reported < ERRORS_APART_NS)
        return;
    blk->errors_reported = now;
    log_error("disk '%s': %s %" PRIu64 " bytes at %" PRIu64 ": %s: an I/O error for the guest "
              "(others are only counted for %d s: `ferry stats`)",
              blk->virtio.device.id, names[block->operation], block->length, block->offset,
              strerror(-block->result), (int)(ERRORS_APART_NS / NSEC_PER_SEC));
}

static void completed(void *opaque, struct block_request *block)
{
    struct virtio_blk *blk = opaque;
    struct blk_request *r = (struct blk_request *)block; // its first member
    // A driver without FLUSH counts on each write being stable when it completes (5.2.6.2).
    bool write_through =
        r->type != TYPE_IN && r->type != TYPE_FLUSH && !virtio_device_has(&blk->virtio, F_FLUSH);
    if (block->result == 0 && write_through && block->operation != BLOCK_FLUSH) {
        submit(blk, r, BLOCK_FLUSH);
        return;
    }
    blk->bytes_in_flight -= r->weight;
    latency_record(&blk->latencies[latency_kind(r->type)], clock_monotonic_ns() - r->started);
    if (block->result < 0 && block->result != -EOPNOTSUPP)
        note_error(blk, block);
    finish(blk, r,
           block->result == 0             ? STATUS_OK
           : block->result == -EOPNOTSUPP ? STATUS_UNSUPP
                                          : STATUS_IOERR);
}

static void settled(void *opaque)
{
    struct virtio_blk *blk = opaque;
    for (unsigned i = 0; i < blk->virtio.queue_count; i++) {
        struct virtio_queue *q = &blk->virtio.queues[i];
        virtqueue_publish(&q->ring);
        if (blk->starved && q->watch)
            virtio_queue_ring(q);
    }
    blk->starved = false;
}

// Requests

// Whether [sector, sector + sectors) is on the disk; written without a sum, so nothing can wrap.
static bool range_fits(const struct virtio_blk *blk, uint64_t sector, uint64_t sectors)
{
    uint64_t capacity = blk->backend->size >> SECTOR_SHIFT;
    return sector <= capacity && sectors <= capacity - sector;
}

static void begin_transfer(struct virtio_blk *blk, struct blk_request *r, uint64_t sector)
{
    bool reads = r->type == TYPE_IN;
    uint32_t length = reads ? r->chain.in_bytes - 1 : r->chain.out_bytes - HEADER_SIZE;
    if (length % SECTOR != 0 || !range_fits(blk, sector, length / SECTOR) ||
        (!reads && blk->backend->read_only)) {
        finish(blk, r, STATUS_IOERR);
        return;
    }
    rate_limiter_charge(&blk->limiter, 0, length);
    r->block.offset = sector << SECTOR_SHIFT;
    r->block.length = length;
    r->written = reads ? length : 0;
    r->block.iov = r->iov;
    r->block.iov_count =
        virtqueue_chain_slice(&r->chain, reads, reads ? 0 : HEADER_SIZE, length, r->iov);
    submit_bytes(blk, r, reads ? BLOCK_READ : BLOCK_WRITE);
}

static void begin_range(struct virtio_blk *blk, struct blk_request *r)
{
    bool discard = r->type == TYPE_DISCARD;
    uint8_t range[RANGE_SIZE];
    uint8_t status = STATUS_IOERR;
    if (!virtio_device_has(&blk->virtio, discard ? F_DISCARD : F_WRITE_ZEROES)) {
        status = STATUS_UNSUPP;
        goto failed;
    }
    // One range a request was offered.
    if (r->chain.out_bytes != HEADER_SIZE + RANGE_SIZE || blk->backend->read_only)
        goto failed;
    virtqueue_chain_read(&r->chain, HEADER_SIZE, range, sizeof(range));
    uint64_t sector = bytes_get_u64(range);
    uint32_t sectors = bytes_get_u32(range + 8);
    uint32_t flags = bytes_get_u32(range + 12);
    if (flags & ~(discard ? 0u : RANGE_UNMAP)) {
        status = STATUS_UNSUPP; // unknown flags, or unmap for a discard (5.2.6.2)
        goto failed;
    }
    if (sectors > (discard ? DISCARD_SECTORS : WRITE_ZEROES_SECTORS) ||
        !range_fits(blk, sector, sectors))
        goto failed;
    r->block.offset = sector << SECTOR_SHIFT;
    r->block.length = (uint64_t)sectors << SECTOR_SHIFT;
    r->block.may_unmap = flags & RANGE_UNMAP;
    if (discard)
        submit(blk, r, BLOCK_DISCARD);
    else
        submit_bytes(blk, r, BLOCK_WRITE_ZEROES);
    return;

failed:
    finish(blk, r, status);
}

static void answer_id(struct virtio_blk *blk, struct blk_request *r)
{
    // 20 bytes, not terminated when full (5.2.6).
    size_t length = r->chain.in_bytes - 1;
    r->written = (uint32_t)virtqueue_chain_write(
        &r->chain, 0, blk->serial, length < sizeof(blk->serial) ? length : sizeof(blk->serial));
    finish(blk, r, STATUS_OK);
}

// Starts the request that was popped into r. -EPROTO when the chain is no request at all.
static int begin(struct virtio_blk *blk, struct blk_request *r)
{
    uint8_t header[HEADER_SIZE];
    if (virtqueue_chain_read(&r->chain, 0, header, sizeof(header)) < sizeof(header) ||
        r->chain.in_bytes == 0)
        return -EPROTO;
    rate_limiter_charge(&blk->limiter, 1, 0);
    r->type = bytes_get_u32(header);
    r->started = clock_monotonic_ns();
    r->written = r->weight = 0;
    r->block.length = 0;
    r->block.offset = 0;
    r->block.iov_count = 0;
    r->block.may_unmap = false;
    switch (r->type) {
    case TYPE_IN:
    case TYPE_OUT:
        begin_transfer(blk, r, bytes_get_u64(header + 8));
        break;
    case TYPE_FLUSH:
        submit(blk, r, BLOCK_FLUSH);
        break;
    case TYPE_GET_ID:
        answer_id(blk, r);
        break;
    case TYPE_DISCARD:
    case TYPE_WRITE_ZEROES:
        begin_range(blk, r);
        break;
    default:
        finish(blk, r, STATUS_UNSUPP);
        break;
    }
    return 0;
}

static void ring_all(void *opaque)
{
    struct virtio_blk *blk = opaque;
    for (unsigned i = 0; i < blk->virtio.queue_count; i++)
        if (blk->virtio.queues[i].watch)
            virtio_queue_ring(&blk->virtio.queues[i]);
}

// Shows what was begun to the host, and what is done to the guest.
static void hand_over(struct virtio_blk *blk, struct virtio_queue *q)
{
    blk->backend->ops->kick(blk->backend);
    virtqueue_publish(&q->ring);
}

// Whether nothing is left to do: no queue has a request, in flight or waiting.
static bool is_idle(const struct virtio_blk *blk)
{
    for (unsigned i = 0; i < blk->virtio.queue_count; i++) {
        const struct virtqueue *ring = &blk->virtio.queues[i].ring;
        if (ring->enabled && (virtqueue_in_flight(ring) || virtqueue_waiting(ring)))
            return false;
    }
    return true;
}

// A request came: the time for which it let us wait decides whether the next one is waited for.
static void learn_to_linger(struct virtio_blk *blk)
{
    uint64_t gap = clock_monotonic_ns() - blk->idle_since;
    blk->idle_since = 0;
    if (gap > LINGER_LIMIT_NS)
        blk->linger_ns = blk->linger_ns / 2 < LINGER_LEAST_NS ? 0 : blk->linger_ns / 2;
    else if (gap > blk->linger_ns)
        blk->linger_ns = gap < LINGER_LIMIT_NS / 2 ? 2 * gap : LINGER_LIMIT_NS;
}

// All requests are done and no more are there: looks out for the next one for a moment, kicks off.
static void linger(struct virtio_blk *blk)
{
    enum { LOOKS_A_TIME = 16 };
    blk->idle_since = clock_monotonic_ns();
    if (blk->linger_ns == 0)
        return;
    do
        for (unsigned i = 0; i < LOOKS_A_TIME; i++) {
            if (!is_idle(blk))
                return;
            __builtin_ia32_pause();
        }
    while (clock_monotonic_ns() - blk->idle_since < blk->linger_ns);
}

static bool blk_serve(struct virtio_device *d, unsigned index)
{
    struct virtio_blk *blk = from_virtio(d);
    struct virtio_queue *q = &d->queues[index];
    bool again = true;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < VIRTQUEUE_TURN; n++) {
        bool none = virtqueue_waiting(&q->ring) == 0;
        if (none || (n && n % REQUESTS_A_PART == 0))
            hand_over(blk, q);
        if (none && n && is_idle(blk))
            linger(blk);
        if (!rate_limiter_allows(&blk->limiter)) {
            again = false; // it rings every queue; until then no kick is needed
            break;
        }
        struct blk_request *r = blk->bytes_in_flight < BYTES_IN_FLIGHT ? take_request(blk) : NULL;
        if (!r) {
            // The next completion rings every queue. Until then no kick is needed.
            blk->starved = true;
            again = false;
            break;
        }
        if (!virtqueue_next(&q->ring, &r->chain, &again)) {
            give_request(blk, r);
            break;
        }
        r->queue = q;
        if (blk->idle_since)
            learn_to_linger(blk);
        if (begin(blk, r) < 0) {
            // Nowhere to put a status: the chain goes back unanswered.
            virtqueue_rewind(&q->ring, 1);
            give_request(blk, r);
            virtqueue_break(&q->ring, "a block request without header or status byte");
            again = false;
            break;
        }
    }
    hand_over(blk, q);
    return again;
}

// Life

static void blk_stop(struct virtio_device *d)
{
    struct virtio_blk *blk = from_virtio(d);
    rate_limiter_stop(&blk->limiter);
    blk->backend->ops->drain(blk->backend);
    d->holding = blk->backend->holding;
    for (unsigned i = 0; i < d->queue_count; i++)
        virtqueue_publish(&d->queues[i].ring);
    blk->starved = false;
}

static void detach(void *opaque)
{
    struct block_backend *backend = opaque;
    backend->ops->detach(backend);
}

static void blk_destroy(struct virtio_device *d)
{
    struct virtio_blk *blk = from_virtio(d);
    io_thread_call(d->io_thread, detach, blk->backend);
    blk->backend->ops->destroy(blk->backend);
    rate_limiter_destroy(&blk->limiter);
    free(blk->requests);
    free(blk);
}

const struct virtio_device_ops virtio_blk_ops = {
    .kind = "virtio-blk",
    .virtio_id = 2,
    .class_code = 0x010000, // mass storage
    .stop = blk_stop,
    .serve = blk_serve,
    .destroy = blk_destroy,
};

static uint8_t exponent_of(uint32_t physical, uint32_t logical)
{
    uint8_t exponent = 0;
    while (logical < physical) {
        logical *= 2;
        exponent++;
    }
    return exponent;
}

static uint64_t fill_config(struct virtio_blk *blk)
{
    const struct block_backend *b = blk->backend;
    uint8_t *config = blk->virtio.config;
    uint32_t logical_sectors = b->logical_block_size >> SECTOR_SHIFT;
    uint64_t features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
    bytes_put_u64(config + CONFIG_CAPACITY, b->size >> SECTOR_SHIFT);
    bytes_put_u32(config + CONFIG_SEG_MAX, VIRTQUEUE_CHAIN_LIMIT - 2); // beside header and status
    bytes_put_u32(config + CONFIG_BLK_SIZE, b->logical_block_size);
    config[CONFIG_PHYSICAL_EXPONENT] = exponent_of(b->physical_block_size, b->logical_block_size);
    bytes_put_u16(config + CONFIG_MIN_IO_SIZE,
                  (uint16_t)(b->physical_block_size / b->logical_block_size));
    bytes_put_u16(config + CONFIG_QUEUES, (uint16_t)blk->virtio.queue_count);
    if (b->read_only)
        features |= F_RO;
    if (b->can_discard) {
        features |= F_DISCARD;
        bytes_put_u32(config + CONFIG_MAX_DISCARD, DISCARD_SECTORS);
        bytes_put_u32(config + CONFIG_MAX_DISCARD_SEG, 1);
        bytes_put_u32(config + CONFIG_DISCARD_ALIGNMENT, logical_sectors);
    }
    if (b->can_write_zeroes) {
        features |= F_WRITE_ZEROES;
        bytes_put_u32(config + CONFIG_MAX_WRITE_ZEROES, WRITE_ZEROES_SECTORS);
        bytes_put_u32(config + CONFIG_MAX_WRITE_ZEROES_SEG, 1);
        config[CONFIG_WRITE_ZEROES_MAY_UNMAP] = 1;
    }
    blk->virtio.config_size = CONFIG_SIZE;
    return features;
}

struct attach_call {
    struct block_backend *backend;
    struct io_thread *thread;
    int result;
};

static void attach(void *opaque)
{
    struct attach_call *call = opaque;
    call->result = call->backend->ops->attach(call->backend, call->thread);
}

int virtio_blk_create(struct device **device, const struct virtio_environment *env,
                      const struct virtio_blk_config *config, struct error *err)
{
    unsigned queues = config->queues ? config->queues : 1;
    if (queues > VIRTIO_BLK_QUEUES_LIMIT)
        return error_set(err, EINVAL, "disk '%s': at most %d queues", env->id,
                         VIRTIO_BLK_QUEUES_LIMIT);
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    struct blk_request *requests = calloc(REQUESTS, sizeof(*requests));
    int rc = -ENOMEM;
    if (!blk || !requests) {
        error_set(err, ENOMEM, "disk '%s': no memory", env->id);
        free(requests);
        free(blk);
        return rc;
    }
    blk->requests = requests;
    blk->backend = config->backend;
    blk->backend->completed = completed;
    blk->backend->settled = settled;
    blk->backend->opaque = blk;
    rate_limiter_init(&blk->limiter, env->io_thread, ring_all, blk);
    rc = rate_limiter_set(&blk->limiter, &config->limits);
    if (rc < 0) {
        error_set_errno(err, -rc, "disk '%s': its limits", env->id);
        goto free_blk;
    }
    const char *serial = config->serial ? config->serial : env->id;
    memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
    struct attach_call call = {.backend = blk->backend, .thread = env->io_thread};
    io_thread_call(env->io_thread, attach, &call);
    rc = call.result;
    if (rc < 0) {
        error_set_errno(err, -rc, "disk '%s': its image can't be used", env->id);
        goto free_blk;
    }
    blk->virtio.queue_count = queues; // for the configuration
    uint64_t features = fill_config(blk) | (queues > 1 ? F_MQ : 0);
    rc = virtio_device_init(&blk->virtio, &virtio_blk_ops, env, features, queues, QUEUE_SIZE, err);
    if (rc < 0)
        goto detach_backend;
    *device = &blk->virtio.device;
    return 0;

detach_backend:
    io_thread_call(env->io_thread, detach, blk->backend);
free_blk:
    rate_limiter_destroy(&blk->limiter);
    free(requests);
    free(blk);
    return rc;
}

struct refresh_call {
    struct block_backend *backend;
    int result;
};

static void refresh(void *opaque)
{
    struct refresh_call *call = opaque;
    call->result = call->backend->ops->refresh(call->backend);
}

int virtio_blk_refresh_size(struct device *device, struct error *err)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    struct refresh_call call = {.backend = blk->backend};
    virtio_device_call(&blk->virtio, refresh, &call);
    if (call.result < 0)
        return error_set_errno(err, -call.result, "disk '%s': can't find out its size", device->id);
    uint8_t capacity[8];
    bytes_put_u64(capacity, blk->backend->size >> SECTOR_SHIFT);
    virtio_device_config_change(&blk->virtio, CONFIG_CAPACITY, capacity, sizeof(capacity));
    return 0;
}

uint64_t virtio_blk_size(const struct device *device)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    uint8_t capacity[8];
    virtio_device_config_copy(&blk->virtio, CONFIG_CAPACITY, capacity, sizeof(capacity));
    return bytes_get_u64(capacity) << SECTOR_SHIFT;
}

void virtio_blk_latency(const struct device *device, enum virtio_blk_latency kind,
                        struct latency_snapshot *snapshot)
{
    const struct virtio_blk *blk = (const struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    latency_read(&blk->latencies[kind], snapshot);
}

struct limits_call {
    struct rate_limiter *limiter;
    const struct rate_limits *limits;
    int result;
};

static void set_limits(void *opaque)
{
    struct limits_call *call = opaque;
    call->result = rate_limiter_set(call->limiter, call->limits);
}

int virtio_blk_set_limits(struct device *device, const struct rate_limits *limits)
{
    struct virtio_blk *blk = (struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    struct limits_call call = {.limiter = &blk->limiter, .limits = limits};
    virtio_device_call(&blk->virtio, set_limits, &call);
    return call.result;
}

uint64_t virtio_blk_errors(const struct device *device)
{
    const struct virtio_blk *blk = (const struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    return atomic_load_explicit(&blk->errors, memory_order_relaxed);
}

uint64_t virtio_blk_throttled(const struct device *device)
{
    const struct virtio_blk *blk = (const struct virtio_blk *)device;
    assert(blk->virtio.ops == &virtio_blk_ops);
    return rate_limiter_throttled(&blk->limiter);
}
