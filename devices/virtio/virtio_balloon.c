#include "devices/virtio/virtio_balloon.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "devices/virtio/kinds.h"

enum {
    QUEUE_INFLATE = 0,
    QUEUE_DEFLATE = 1,
    QUEUE_STATISTICS = 2,
    QUEUES = 5,
    QUEUE_SIZE = 128,

    // Device configuration (virtio 1.2, 5.5.4), in pages of 4 KiB.
    CONFIG_NUM_PAGES = 0,
    CONFIG_ACTUAL = 4,
    CONFIG_SIZE = 8,

    PAGE_NUMBER_SIZE = 4,
    NUMBERS_A_READ = 256, // a driver sends as many in a chain
    // Page numbers that are looked at, of one chain and in one turn. A chain may hold a billion,
    // the same over and over, and each can cost a system call; what comes behind is kept by the
    // host.
    NUMBERS_LIMIT = 16 * 1024,
    STATISTIC_SIZE = 10, // tag (u16), value (u64)
    TURN = 64,           // chains
};

#define F_STATS_VQ       VIRTIO_FEATURE(1)
#define F_DEFLATE_ON_OOM VIRTIO_FEATURE(2)
#define F_REPORTING      VIRTIO_FEATURE(5)

struct virtio_balloon {
    struct virtio_device virtio; // first
    struct virtio_balloon_config config;
    struct virtqueue_chain chain; // on the I/O thread
    bool buffer_waits;            // the statistics' buffer is in the ring. On the I/O thread.
    _Atomic uint64_t discarded, reported;

    pthread_mutex_t lock; // guards the rest; innermost, nothing is called under it
    uint64_t statistics_count, known;
    uint64_t statistics[BALLOON_STATISTICS];
};

static struct virtio_balloon *from_virtio(struct virtio_device *d)
{
    return (struct virtio_balloon *)d; // its first member
}

static void tell_changed(struct virtio_balloon *b)
{
    if (b->config.changed)
        b->config.changed(b->config.opaque);
}

// What a queue is for. A driver finds the reporting queue behind those that its features give it:
// the standard numbers queues as if all were there (5.5.2), Linux leaves the absent ones out. No
// other queue can be meant, so both are right.
static bool is_statistics_queue(const struct virtio_device *d, unsigned index)
{
    return index == QUEUE_STATISTICS && virtio_device_has(d, F_STATS_VQ);
}

static bool is_reporting_queue(const struct virtio_device *d, unsigned index)
{
    return index >= QUEUE_STATISTICS && !is_statistics_queue(d, index) &&
           virtio_device_has(d, F_REPORTING);
}

// Inflating

// Discards the pages whose numbers are in the chain, neighbours by one call. Returns how many
// numbers it looked at.
static size_t discard_listed(struct virtio_balloon *b, struct virtio_queue *q)
{
    struct guest_memory *memory = b->virtio.machine->memory;
    uint8_t numbers[NUMBERS_A_READ * PAGE_NUMBER_SIZE];
    uint64_t first = 0, count = 0, total = 0;
    size_t offset = 0, got;
    do {
        got = virtqueue_chain_read(&b->chain, offset, numbers, sizeof(numbers));
        offset += got;
        for (size_t i = 0; i + PAGE_NUMBER_SIZE <= got; i += PAGE_NUMBER_SIZE) {
            uint64_t page = bytes_get_u32(numbers + i);
            if (count && (page == first + count || page + 1 == first)) {
                first = page < first ? page : first; // allocators give runs in either order
                count++;
                continue;
            }
            total +=
                guest_memory_discard(memory, first << GUEST_PAGE_SHIFT, count << GUEST_PAGE_SHIFT);
            first = page;
            count = 1;
        }
    } while (got == sizeof(numbers) && offset < (size_t)NUMBERS_LIMIT * PAGE_NUMBER_SIZE);
    total += guest_memory_discard(memory, first << GUEST_PAGE_SHIFT, count << GUEST_PAGE_SHIFT);
    atomic_fetch_add_explicit(&b->discarded, total, memory_order_relaxed);
    virtio_queue_count_bytes(q, total);
    return offset / PAGE_NUMBER_SIZE;
}

// Free page reporting

// Discards the chain's buffers themselves. Only whole pages: what is at the edge may be in use.
static void discard_buffers(struct virtio_balloon *b, struct virtio_queue *q)
{
    const struct virtqueue_chain *chain = &b->chain;
    uint64_t total = 0;
    for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count; i++) {
        uint64_t start = (chain->gpa[i] + GUEST_PAGE_SIZE - 1) & ~(uint64_t)(GUEST_PAGE_SIZE - 1);
        uint64_t end = (chain->gpa[i] + chain->iov[i].iov_len) & ~(uint64_t)(GUEST_PAGE_SIZE - 1);
        if (start < end)
            total += guest_memory_discard(b->virtio.machine->memory, start, end - start);
    }
    atomic_fetch_add_explicit(&b->reported, total, memory_order_relaxed);
    virtio_queue_count_bytes(q, total);
}

// Statistics

static void take_statistics(struct virtio_balloon *b)
{
    uint64_t values[BALLOON_STATISTICS] = {0}, known = 0;
    uint8_t entry[STATISTIC_SIZE];
    for (size_t offset = 0;
         offset < (size_t)BALLOON_STATISTICS * 2 * STATISTIC_SIZE &&
         virtqueue_chain_read(&b->chain, offset, entry, STATISTIC_SIZE) == STATISTIC_SIZE;
         offset += STATISTIC_SIZE) {
        uint16_t tag = bytes_get_u16(entry);
        if (tag >= BALLOON_STATISTICS)
            continue; // of a newer driver
        values[tag] = bytes_get_u64(entry + 2);
        known |= UINT64_C(1) << tag;
    }
    pthread_mutex_lock(&b->lock);
    memcpy(b->statistics, values, sizeof(values));
    b->known = known;
    b->statistics_count++;
    pthread_mutex_unlock(&b->lock);
    tell_changed(b);
}

// The driver's one buffer stays in the ring until new statistics are wanted: so nothing is in
// flight when the device is stopped.
static bool serve_statistics(struct virtio_balloon *b, struct virtio_queue *q)
{
    int rc = virtqueue_pop(&q->ring, &b->chain);
    if (rc <= 0)
        return rc == 0 && virtqueue_kicks_on(&q->ring);
    virtqueue_rewind(&q->ring, 1);
    if (!b->buffer_waits)
        take_statistics(b);
    b->buffer_waits = true;
    return false;
}

static bool serve_pages(struct virtio_balloon *b, struct virtio_queue *q)
{
    bool again = true;
    size_t numbers = 0;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < TURN && numbers < NUMBERS_LIMIT; n++) {
        if (!virtqueue_next(&q->ring, &b->chain, &again))
            break;
        if (q->index == QUEUE_INFLATE)
            numbers += discard_listed(b, q);
        else if (is_reporting_queue(&b->virtio, q->index))
            discard_buffers(b, q);
        virtqueue_push(&q->ring, &b->chain, 0);
    }
    virtqueue_publish(&q->ring);
    return again;
}

static bool balloon_serve(struct virtio_device *d, unsigned index)
{
    struct virtio_balloon *b = from_virtio(d);
    if (is_statistics_queue(d, index))
        return serve_statistics(b, &d->queues[index]);
    return serve_pages(b, &d->queues[index]);
}

// Life

static void balloon_config_write(struct virtio_device *d, uint32_t offset, unsigned length,
                                 uint64_t value)
{
    // The driver says how large the balloon is; the rest isn't its to write (5.5.4).
    if (offset != CONFIG_ACTUAL || length != 4)
        return;
    pthread_mutex_lock(&d->config_lock);
    bytes_put_u32(d->config + CONFIG_ACTUAL, (uint32_t)value);
    pthread_mutex_unlock(&d->config_lock);
    tell_changed(from_virtio(d));
}

static void forget_statistics(struct virtio_balloon *b)
{
    pthread_mutex_lock(&b->lock);
    b->known = b->statistics_count = 0;
    pthread_mutex_unlock(&b->lock);
}

static void balloon_reset(struct virtio_device *d)
{
    struct virtio_balloon *b = from_virtio(d);
    // Without a driver the guest has all its pages again. What it was asked for stays.
    pthread_mutex_lock(&d->config_lock);
    bytes_put_u32(d->config + CONFIG_ACTUAL, 0);
    pthread_mutex_unlock(&d->config_lock);
    b->buffer_waits = false;
    forget_statistics(b);
}

struct balloon_state {
    uint32_t num_pages, actual;
};

static const struct state_field balloon_fields[] = {
    STATE_FIELD(STATE_U32, struct balloon_state, num_pages),
    STATE_FIELD(STATE_U32, struct balloon_state, actual),
    {.name = NULL},
};

static const struct state_section balloon_section = {
    .name = "virtio-balloon", .version = 1, .fields = balloon_fields};

static void balloon_save(struct virtio_device *d, struct byte_writer *writer)
{
    const struct balloon_state state = {.num_pages = bytes_get_u32(d->config + CONFIG_NUM_PAGES),
                                        .actual = bytes_get_u32(d->config + CONFIG_ACTUAL)};
    state_section_save(&balloon_section, &state, writer);
}

static int balloon_load(struct virtio_device *d, struct byte_reader *reader, struct error *err)
{
    struct virtio_balloon *b = from_virtio(d);
    struct balloon_state state = {0};
    int rc = state_section_load(&balloon_section, &state, reader, err);
    if (rc < 0)
        return rc;
    bytes_put_u32(d->config + CONFIG_NUM_PAGES, state.num_pages);
    bytes_put_u32(d->config + CONFIG_ACTUAL, state.actual);
    // The buffer that waits in the ring is looked at again, and its statistics taken.
    b->buffer_waits = false;
    forget_statistics(b);
    return 0;
}

static void balloon_destroy(struct virtio_device *d)
{
    struct virtio_balloon *b = from_virtio(d);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

const struct virtio_device_ops virtio_balloon_ops = {
    .kind = "virtio-balloon",
    .virtio_id = 5,
    .class_code = 0x00ff00,
    .config_write = balloon_config_write,
    .serve = balloon_serve,
    .reset = balloon_reset,
    .save = balloon_save,
    .load = balloon_load,
    .destroy = balloon_destroy,
};

int virtio_balloon_create(struct device **device, const struct virtio_environment *env,
                          const struct virtio_balloon_config *config, struct error *err)
{
    struct virtio_balloon *b = calloc(1, sizeof(*b));
    if (!b)
        return error_set(err, ENOMEM, "balloon '%s': no memory", env->id);
    b->config = *config;
    b->virtio.config_size = CONFIG_SIZE;
    pthread_mutex_init(&b->lock, NULL);
    int rc =
        virtio_device_init(&b->virtio, &virtio_balloon_ops, env,
                           F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING, QUEUES, QUEUE_SIZE, err);
    if (rc < 0) {
        pthread_mutex_destroy(&b->lock);
        free(b);
        return rc;
    }
    *device = &b->virtio.device;
    return 0;
}

// Commands of the machine

static struct virtio_balloon *from_device(struct device *device)
{
    struct virtio_balloon *b = (struct virtio_balloon *)device; // the first member of the first
    assert(b->virtio.ops == &virtio_balloon_ops);
    return b;
}

void virtio_balloon_set_target(struct device *device, uint64_t bytes)
{
    struct virtio_balloon *b = from_device(device);
    uint8_t pages[4];
    bytes_put_u32(pages, (uint32_t)(bytes >> GUEST_PAGE_SHIFT));
    virtio_device_config_change(&b->virtio, CONFIG_NUM_PAGES, pages, sizeof(pages));
}

struct ask_call {
    struct virtio_balloon *balloon;
    bool asked;
};

static void ask(void *opaque)
{
    struct ask_call *call = opaque;
    struct virtio_balloon *b = call->balloon;
    struct virtqueue *ring = virtio_device_ring(&b->virtio, QUEUE_STATISTICS);
    if (!b->virtio.started || !b->buffer_waits || virtqueue_pop(ring, &b->chain) <= 0)
        return;
    // Giving the buffer back is the question; the driver's answer is to offer it again.
    b->buffer_waits = false;
    virtqueue_push(ring, &b->chain, 0);
    // The next one is to be kicked for.
    bool more = virtqueue_kicks_on(ring);
    virtqueue_publish(ring);
    if (more)
        virtio_queue_ring(&b->virtio.queues[QUEUE_STATISTICS]);
    call->asked = true;
}

bool virtio_balloon_ask_statistics(struct device *device)
{
    struct ask_call call = {.balloon = from_device(device)};
    virtio_device_call(&call.balloon->virtio, ask, &call);
    return call.asked;
}

void virtio_balloon_status(struct device *device, struct virtio_balloon_status *status)
{
    struct virtio_balloon *b = from_device(device);
    struct virtio_device *d = &b->virtio;
    uint8_t config[CONFIG_SIZE];
    virtio_device_config_copy(d, 0, config, sizeof(config));
    pthread_mutex_lock(&d->lock);
    bool driver = atomic_load(&d->status) & VIRTIO_STATUS_DRIVER_OK;
    *status = (struct virtio_balloon_status){
        .driver = driver,
        .gives_statistics = driver && virtio_device_has(d, F_STATS_VQ),
        .reports_free_pages = driver && virtio_device_has(d, F_REPORTING),
        .target = (uint64_t)bytes_get_u32(config + CONFIG_NUM_PAGES) << GUEST_PAGE_SHIFT,
        .actual = (uint64_t)bytes_get_u32(config + CONFIG_ACTUAL) << GUEST_PAGE_SHIFT,
        .discarded = atomic_load_explicit(&b->discarded, memory_order_relaxed),
        .reported = atomic_load_explicit(&b->reported, memory_order_relaxed),
    };
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_lock(&b->lock);
    status->statistics_count = b->statistics_count;
    status->known = b->known;
    memcpy(status->statistics, b->statistics, sizeof(b->statistics));
    pthread_mutex_unlock(&b->lock);
}
