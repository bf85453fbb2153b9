#include "migrate/ram_receiver.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/filter/thread_filter.h"
#include "migrate/protocol.h"
#include "migrate/ram_prefault.h"

struct stream {
    struct ram_receiver *receiver;
    struct channel *channel;
    pthread_t thread;
    bool started;
    bool later;                    // beyond the first round
    struct ram_prefault *prefault; // from the first COMING to the first barrier
};

struct ram_receiver {
    struct guest_memory *memory;
    struct stream streams[MIGRATE_STREAMS_LIMIT];
    unsigned stream_count;
    struct ram_receiver_events events;
    _Atomic uint64_t bytes;

    pthread_mutex_t lock; // guards what follows
    pthread_cond_t changed;
    uint32_t round;   // the last one that all passed
    unsigned waiting; // streams at the barrier of round + 1
    bool failed, ending;
};

static int bad(struct error *err, const char *what)
{
    return error_set(err, EPROTO, "the stream of RAM is damaged: %s", what);
}

static int receive_failed(int rc, struct error *err)
{
    return channel_exchange_error(rc, "receiving RAM from the source", err);
}

// The memory of whole pages at `gpa`, or NULL.
static uint8_t *find_pages(const struct ram_receiver *r, uint64_t gpa, uint64_t pages)
{
    if (gpa % GUEST_PAGE_SIZE || pages == 0 || pages > UINT64_MAX / GUEST_PAGE_SIZE)
        return NULL;
    return guest_memory_slice(r->memory, gpa, pages * GUEST_PAGE_SIZE);
}

// Gives pages their memory before the kernel copies into them. It would do so by itself, but with
// the socket locked: clearing 2 MiB (of a host that is itself a guest, perhaps page by page from
// its own) takes so long that the sender hears nothing meanwhile, takes its packets for lost, and
// slows down.
static void populate(const struct stream *t, uint8_t *hva, uint64_t pages)
{
    // What was written once is there.
    if (!t->later)
        ram_prefault_finish(t->prefault, hva, pages * GUEST_PAGE_SIZE);
}

static int receive_pages(struct stream *t, uint32_t length, struct error *err)
{
    struct ram_receiver *r = t->receiver;
    uint8_t gpa[8];
    if (length < sizeof(gpa) || (length - sizeof(gpa)) % GUEST_PAGE_SIZE ||
        (length - sizeof(gpa)) / GUEST_PAGE_SIZE > MIGRATE_RUN_LIMIT)
        return bad(err, "a run of pages has an impossible length");
    int rc = channel_receive(t->channel, gpa, sizeof(gpa));
    if (rc < 0)
        return receive_failed(rc, err);
    uint64_t pages = (length - sizeof(gpa)) / GUEST_PAGE_SIZE;
    uint8_t *hva = find_pages(r, bytes_get_u64(gpa), pages);
    if (!hva)
        return bad(err, "a run of pages lies outside of RAM");
    populate(t, hva, pages);
    rc = channel_receive(t->channel, hva, pages * GUEST_PAGE_SIZE);
    return rc < 0 ? receive_failed(rc, err) : 0;
}

// The source says what comes next. In later rounds it is of no use.
static int receive_coming(struct stream *t, uint32_t length, struct error *err)
{
    uint8_t range[16];
    if (length != sizeof(range))
        return bad(err, "an announcement of pages has an impossible length");
    int rc = channel_receive(t->channel, range, sizeof(range));
    if (rc < 0)
        return receive_failed(rc, err);
    uint64_t pages = bytes_get_u64(range + 8);
    uint8_t *hva = find_pages(t->receiver, bytes_get_u64(range), pages);
    if (!hva || pages > MIGRATE_COMING_LIMIT)
        return bad(err, "announced pages lie outside of RAM or are too many");
    if (t->later)
        return 0;
    if (!t->prefault)
        t->prefault = ram_prefault_start();
    if (t->prefault)
        ram_prefault_ask(t->prefault, hva, pages * GUEST_PAGE_SIZE);
    return 0;
}

static int receive_zero(struct stream *t, uint32_t length, struct error *err)
{
    uint8_t run[16];
    if (length != sizeof(run))
        return bad(err, "a run of zero pages has an impossible length");
    int rc = channel_receive(t->channel, run, sizeof(run));
    if (rc < 0)
        return receive_failed(rc, err);
    uint64_t pages = bytes_get_u64(run + 8);
    uint8_t *hva = find_pages(t->receiver, bytes_get_u64(run), pages);
    if (!hva)
        return bad(err, "a run of zero pages lies outside of RAM");
    // Private anonymous memory: what is given back reads as zero.
    if (madvise(hva, pages * GUEST_PAGE_SIZE, MADV_DONTNEED) < 0)
        memset(hva, 0, pages * GUEST_PAGE_SIZE);
    return 0;
}

// Waits at the barrier of round `number`.
static int pass_round(struct stream *t, uint32_t number, struct error *err)
{
    struct ram_receiver *r = t->receiver;
    int rc = 0;
    pthread_mutex_lock(&r->lock);
    if (number != r->round + 1) {
        rc = bad(err, "rounds are out of order");
    } else if (++r->waiting == r->stream_count) {
        r->waiting = 0;
        r->round = number;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->lock);
        r->events.round_done(r->events.opaque, number);
        return 0;
    }
    while (rc == 0 && r->round < number && !r->failed && !r->ending)
        pthread_cond_wait(&r->changed, &r->lock);
    if (rc == 0 && r->round < number)
        rc = error_set(err, ECANCELED, "another connection failed");
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static int receive_round(struct stream *t, uint32_t length, struct error *err)
{
    uint8_t number[4];
    if (length != sizeof(number))
        return bad(err, "a barrier has an impossible length");
    int rc = channel_receive(t->channel, number, sizeof(number));
    if (rc < 0)
        return receive_failed(rc, err);
    ram_prefault_stop(t->prefault);
    t->prefault = NULL;
    t->later = true;
    return pass_round(t, bytes_get_u32(number), err);
}

static int receive_one(struct stream *t, struct error *err)
{
    uint32_t type, length;
    int rc = channel_receive_header(t->channel, &type, &length);
    if (rc < 0)
        return receive_failed(rc, err);
    atomic_fetch_add_explicit(&t->receiver->bytes, length + FRAME_HEADER_SIZE,
                              memory_order_relaxed);
    switch (type) {
    case MIGRATE_PAGES:
        return receive_pages(t, length, err);
    case MIGRATE_ZERO:
        return receive_zero(t, length, err);
    case MIGRATE_ROUND:
        return receive_round(t, length, err);
    case MIGRATE_COMING:
        return receive_coming(t, length, err);
    default:
        return error_set(err, EPROTO, "the stream of RAM is damaged: %s in it",
                         migrate_frame_name(type));
    }
}

static void *stream_main(void *opaque)
{
    struct stream *t = opaque;
    struct ram_receiver *r = t->receiver;
    struct error err = {0};
    pthread_setname_np(pthread_self(), "migrate-data");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    while (receive_one(t, &err) == 0)
        continue;
    ram_prefault_stop(t->prefault);
    t->prefault = NULL;
    pthread_mutex_lock(&r->lock);
    bool first = !r->failed && !r->ending;
    r->failed = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (first)
        r->events.failed(r->events.opaque, &err);
    return NULL;
}

int ram_receiver_start(struct ram_receiver **receiver, struct guest_memory *memory,
                       struct channel *channels, unsigned count,
                       const struct ram_receiver_events *events, struct error *err)
{
    struct ram_receiver *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set_errno(err, ENOMEM, "preparing to receive RAM");
    r->memory = memory;
    r->events = *events;
    r->stream_count = count; // before the first thread: it counts at the barrier
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    int rc = 0;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        struct stream *t = &r->streams[i];
        t->receiver = r;
        t->channel = &channels[i];
        rc = -pthread_create(&t->thread, NULL, stream_main, t);
        t->started = rc == 0;
    }
    if (rc < 0) {
        ram_receiver_stop(r);
        return error_set_errno(err, -rc, "starting a migration thread");
    }
    *receiver = r;
    return 0;
}

uint64_t ram_receiver_bytes(const struct ram_receiver *r)
{
    return atomic_load_explicit(&r->bytes, memory_order_relaxed);
}

uint32_t ram_receiver_round(struct ram_receiver *r)
{
    pthread_mutex_lock(&r->lock);
    uint32_t round = r->round;
    pthread_mutex_unlock(&r->lock);
    return round;
}

void ram_receiver_stop(struct ram_receiver *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->ending = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (unsigned i = 0; i < r->stream_count; i++)
        if (r->streams[i].channel)
            channel_shutdown(r->streams[i].channel);
    for (unsigned i = 0; i < r->stream_count; i++)
        if (r->streams[i].started)
            pthread_join(r->streams[i].thread, NULL);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    free(r);
}
