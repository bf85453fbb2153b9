#include "migrate/ram_sender.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/filter/thread_filter.h"
#include "migrate/protocol.h"

enum {
    PIECE_PAGES = 512, // whole words of the bitmap, so that pieces share none
    PIECE_WORDS = PIECE_PAGES / 64,
    AHEAD = 3,         // pieces of a connection that the target is told of before they come
    SAMPLE_STEP = 64,  // pages between those that are looked at for it
    CAP_BURST_MS = 20, // how far the cap lets the wire run ahead of its clock
    CAP_RUN_MS = 100,  // a capped run takes no longer, or a target would think the source dead
    CAP_SLEEP_MS = 50, // between looks whether somebody cancelled
};

// What a page map entry says (Linux, Documentation/admin-guide/mm/pagemap.rst).
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

struct stream {
    struct ram_sender *sender;
    struct channel *channel;
    pthread_t thread;
    bool started;
    int result; // of the round under way
};

struct ram_sender {
    const struct guest_memory *memory;
    struct stream streams[MIGRATE_STREAMS_LIMIT];
    unsigned stream_count;
    int pagemap_fd;             // -1: every page counts as touched
    struct page_bitmap nonzero; // pages that the target holds with contents
    uint64_t piece_count;

    pthread_mutex_t lock; // guards what follows, but for the atomics
    pthread_cond_t changed;
    uint32_t round; // the one under way or done; 0 before the first
    bool ending;
    unsigned busy; // streams that haven't finished the round
    const struct page_bitmap *pages;
    bool first_round;
    bool announce; // the target knows COMING

    atomic_bool cancelled;
    _Atomic uint64_t next_piece;
    _Atomic uint64_t bytes, page_total, zero_total, skipped;

    uint64_t bandwidth;
    bool capped;
    pthread_mutex_t cap_lock; // guards cap_clock
    uint64_t cap_clock;       // when the bytes handed out so far may have left
};

static const uint8_t zero_page[GUEST_PAGE_SIZE];

// ---- the cap ----

static void wait_for_cap(struct ram_sender *s, uint64_t bytes)
{
    if (!s->bandwidth || !s->capped)
        return;
    uint64_t cost = (uint64_t)((unsigned __int128)bytes * NSEC_PER_SEC / s->bandwidth);
    uint64_t now = clock_monotonic_ns(), burst = CAP_BURST_MS * NSEC_PER_MSEC;
    pthread_mutex_lock(&s->cap_lock);
    if (s->cap_clock < now)
        s->cap_clock = now;
    s->cap_clock += cost;
    uint64_t until = s->cap_clock;
    pthread_mutex_unlock(&s->cap_lock);
    if (until <= now + burst)
        return;
    for (uint64_t wake = until - burst; now < wake && !atomic_load(&s->cancelled);
         now = clock_monotonic_ns()) {
        uint64_t left = wake - now, most = CAP_SLEEP_MS * NSEC_PER_MSEC;
        struct timespec t = {.tv_nsec = (long)(left < most ? left : most)};
        nanosleep(&t, NULL);
    }
}

// Pages in a run at most.
static unsigned run_limit(const struct ram_sender *s)
{
    if (!s->bandwidth || !s->capped)
        return MIGRATE_RUN_LIMIT;
    uint64_t pages = s->bandwidth / 1000 * CAP_RUN_MS / GUEST_PAGE_SIZE;
    return pages > MIGRATE_RUN_LIMIT ? MIGRATE_RUN_LIMIT : pages < 1 ? 1 : (unsigned)pages;
}

// ---- one piece ----

struct piece {
    unsigned region;
    uint64_t first_page; // in the region
    unsigned pages;
    const uint64_t *words; // of the round's set
    uint64_t *nonzero;     // of the same pages
    uint64_t touched[PIECE_WORDS];
};

static uint8_t *piece_hva(const struct ram_sender *s, const struct piece *p)
{
    return s->memory->regions[p->region].hva + p->first_page * GUEST_PAGE_SIZE;
}

static uint64_t piece_gpa(const struct ram_sender *s, const struct piece *p)
{
    return s->memory->regions[p->region].gpa + p->first_page * GUEST_PAGE_SIZE;
}

static struct piece find_piece(const struct ram_sender *s, uint64_t index)
{
    unsigned region = 0;
    for (;; region++) {
        uint64_t pages = s->memory->regions[region].size / GUEST_PAGE_SIZE;
        uint64_t pieces = (pages + PIECE_PAGES - 1) / PIECE_PAGES;
        if (index >= pieces) {
            index -= pieces;
            continue;
        }
        uint64_t first = index * PIECE_PAGES;
        return (struct piece){
            .region = region,
            .first_page = first,
            .pages = (unsigned)(pages - first < PIECE_PAGES ? pages - first : PIECE_PAGES),
            .words = &s->pages->words[region][first / 64],
            .nonzero = &s->nonzero.words[region][first / 64],
        };
    }
}

// What of the piece is in memory or swap; without a page map everything.
static void read_touched(const struct ram_sender *s, struct piece *p)
{
    uint64_t entries[PIECE_PAGES];
    const uint8_t *hva = piece_hva(s, p);
    ssize_t wanted = (ssize_t)(p->pages * sizeof(entries[0]));
    memset(p->touched, 0xff, sizeof(p->touched));
    if (!s->first_round || s->pagemap_fd < 0 || s->memory->regions[p->region].from_file ||
        pread(s->pagemap_fd, entries, (size_t)wanted,
              (off_t)((uintptr_t)hva / GUEST_PAGE_SIZE * sizeof(entries[0]))) != wanted)
        return;
    for (unsigned i = 0; i < p->pages; i++)
        if (!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
            p->touched[i / 64] &= ~(UINT64_C(1) << i % 64);
}

static bool bit(const uint64_t *words, unsigned i)
{
    return words[i / 64] >> i % 64 & 1;
}

enum page_kind { PAGE_SKIP, PAGE_ZERO, PAGE_FULL };

static enum page_kind classify(const struct piece *p, const uint8_t *hva, unsigned i)
{
    if (!bit(p->words, i))
        return PAGE_SKIP;
    if (bit(p->touched, i) &&
        memcmp(hva + (size_t)i * GUEST_PAGE_SIZE, zero_page, GUEST_PAGE_SIZE) != 0)
        return PAGE_FULL;
    return bit(p->nonzero, i) ? PAGE_ZERO : PAGE_SKIP;
}

static int send_full(struct stream *t, uint64_t gpa, uint8_t *hva, unsigned count)
{
    struct ram_sender *s = t->sender;
    size_t length = (size_t)count * GUEST_PAGE_SIZE;
    uint8_t header[FRAME_HEADER_SIZE + 8];
    bytes_put_u32(header, MIGRATE_PAGES);
    bytes_put_u32(header + 4, (uint32_t)(length + 8));
    bytes_put_u64(header + 8, gpa);
    struct iovec iov[2] = {{header, sizeof(header)}, {hva, length}};
    wait_for_cap(s, length + sizeof(header));
    int rc = channel_send(t->channel, iov, 2);
    atomic_fetch_add_explicit(&s->bytes, length + sizeof(header), memory_order_relaxed);
    atomic_fetch_add_explicit(&s->page_total, count, memory_order_relaxed);
    return rc;
}

static int send_zero(struct stream *t, uint64_t gpa, unsigned count)
{
    struct ram_sender *s = t->sender;
    uint8_t frame[FRAME_HEADER_SIZE + 16];
    bytes_put_u32(frame, MIGRATE_ZERO);
    bytes_put_u32(frame + 4, 16);
    bytes_put_u64(frame + 8, gpa);
    bytes_put_u64(frame + 16, count);
    struct iovec iov = {frame, sizeof(frame)};
    int rc = channel_send(t->channel, &iov, 1);
    atomic_fetch_add_explicit(&s->bytes, sizeof(frame), memory_order_relaxed);
    atomic_fetch_add_explicit(&s->zero_total, count, memory_order_relaxed);
    return rc;
}

static int send_piece(struct stream *t, const struct piece *p)
{
    const struct ram_sender *s = t->sender;
    uint8_t *hva = piece_hva(s, p);
    uint64_t gpa = piece_gpa(s, p);
    unsigned limit = run_limit(s);
    for (unsigned i = 0; i < p->pages;) {
        enum page_kind kind = classify(p, hva, i);
        unsigned run = 1;
        while (i + run < p->pages && run < limit && classify(p, hva, i + run) == kind)
            run++;
        uint64_t at = gpa + (uint64_t)i * GUEST_PAGE_SIZE;
        int rc = 0;
        if (kind == PAGE_FULL)
            rc = send_full(t, at, hva + (size_t)i * GUEST_PAGE_SIZE, run);
        else if (kind == PAGE_ZERO)
            rc = send_zero(t, at, run);
        if (rc < 0)
            return rc;
        for (unsigned k = i; k < i + run && kind != PAGE_SKIP; k++) {
            // This thread alone has these words in this round.
            if (kind == PAGE_FULL)
                p->nonzero[k / 64] |= UINT64_C(1) << k % 64;
            else
                p->nonzero[k / 64] &= ~(UINT64_C(1) << k % 64);
        }
        i += run;
    }
    return 0;
}

// Whether most of it will be sent, by a few of its pages: more isn't worth a second look at all.
static bool is_full(const struct ram_sender *s, const struct piece *p)
{
    const uint8_t *hva = piece_hva(s, p);
    for (unsigned i = 0; i < p->pages; i += SAMPLE_STEP)
        if (classify(p, hva, i) != PAGE_FULL)
            return false;
    return true;
}

// Tells the target of a piece, so that it has memory for it when it comes.
static int announce(struct stream *t, const struct piece *p)
{
    struct ram_sender *s = t->sender;
    uint8_t frame[FRAME_HEADER_SIZE + 16];
    if (!s->announce || !s->first_round || !is_full(s, p))
        return 0;
    bytes_put_u32(frame, MIGRATE_COMING);
    bytes_put_u32(frame + 4, 16);
    bytes_put_u64(frame + 8, piece_gpa(s, p));
    bytes_put_u64(frame + 16, p->pages);
    struct iovec iov = {frame, sizeof(frame)};
    atomic_fetch_add_explicit(&s->bytes, sizeof(frame), memory_order_relaxed);
    return channel_send(t->channel, &iov, 1);
}

// ---- rounds ----

// The next piece of the round that has anything; false at its end.
static bool claim(struct ram_sender *s, struct piece *piece)
{
    for (;;) {
        uint64_t index = atomic_fetch_add(&s->next_piece, 1), any = 0;
        if (index >= s->piece_count)
            return false;
        *piece = find_piece(s, index);
        for (unsigned w = 0; w < (piece->pages + 63) / 64; w++)
            any |= piece->words[w];
        if (any)
            return true;
    }
}

static int send_round(struct stream *t, uint32_t round)
{
    struct ram_sender *s = t->sender;
    struct piece pieces[AHEAD + 1]; // a ring: those claimed and not sent yet
    unsigned claimed = 0, sent = 0, ahead = s->announce && s->first_round ? AHEAD : 0;
    for (;;) {
        int rc = 0;
        while (rc == 0 && claimed - sent <= ahead && claim(s, &pieces[claimed % (AHEAD + 1)])) {
            struct piece *piece = &pieces[claimed++ % (AHEAD + 1)];
            read_touched(s, piece);
            rc = announce(t, piece);
        }
        if (claimed == sent)
            break;
        if (atomic_load(&s->cancelled))
            return -ECANCELED;
        if (rc == 0)
            rc = send_piece(t, &pieces[sent++ % (AHEAD + 1)]);
        if (rc < 0)
            return rc;
    }
    uint8_t number[4];
    bytes_put_u32(number, round);
    struct byte_writer w;
    byte_writer_init_fixed(&w, number, sizeof(number));
    w.length = sizeof(number);
    return channel_send_frame(t->channel, MIGRATE_ROUND, &w);
}

static void *stream_main(void *opaque)
{
    struct stream *t = opaque;
    struct ram_sender *s = t->sender;
    uint32_t done = 0;
    pthread_setname_np(pthread_self(), "migrate-data");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->round == done && !s->ending)
            pthread_cond_wait(&s->changed, &s->lock);
        if (s->ending)
            break;
        done = s->round;
        pthread_mutex_unlock(&s->lock);
        int rc = send_round(t, done);
        pthread_mutex_lock(&s->lock);
        t->result = rc;
        s->busy--;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int ram_sender_round(struct ram_sender *s, const struct page_bitmap *pages, uint32_t round,
                     bool capped, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    s->first_round = s->round == 0;
    s->pages = pages;
    s->capped = capped;
    s->busy = s->stream_count;
    atomic_store(&s->next_piece, 0);
    s->round = round;
    pthread_cond_broadcast(&s->changed);
    while (s->busy > 0)
        pthread_cond_wait(&s->changed, &s->lock);
    int rc = 0;
    for (unsigned i = 0; i < s->stream_count && rc == 0; i++)
        rc = s->streams[i].result;
    pthread_mutex_unlock(&s->lock);
    return rc < 0 ? channel_exchange_error(rc, "sending RAM to the target", err) : 0;
}

// ---- life ----

int ram_sender_start(struct ram_sender **sender, const struct guest_memory *memory,
                     struct channel *channels, unsigned count, uint64_t bandwidth, bool announce,
                     struct error *err)
{
    struct ram_sender *s = calloc(1, sizeof(*s));
    int rc = s ? page_bitmap_init(&s->nonzero, memory) : -ENOMEM;
    if (rc < 0) {
        free(s);
        return error_set_errno(err, -rc, "preparing to send RAM");
    }
    s->memory = memory;
    s->bandwidth = bandwidth;
    s->announce = announce;
    s->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < memory->count; i++)
        s->piece_count +=
            (memory->regions[i].size / GUEST_PAGE_SIZE + PIECE_PAGES - 1) / PIECE_PAGES;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->cap_lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    for (unsigned i = 0; i < count && rc == 0; i++) {
        struct stream *t = &s->streams[i];
        t->sender = s;
        t->channel = &channels[i];
        rc = -pthread_create(&t->thread, NULL, stream_main, t);
        t->started = rc == 0;
        s->stream_count = i + 1;
    }
    if (rc < 0) {
        ram_sender_stop(s);
        return error_set_errno(err, -rc, "starting a migration thread");
    }
    *sender = s;
    return 0;
}

struct ram_sender_totals ram_sender_totals(const struct ram_sender *s)
{
    uint64_t claimed = atomic_load(&s->next_piece); // beyond the last one at the end
    uint64_t pieces = claimed < s->piece_count ? s->piece_count - claimed : 0;
    return (struct ram_sender_totals){
        .bytes = atomic_load(&s->bytes),
        .pages = atomic_load(&s->page_total),
        .zero_pages = atomic_load(&s->zero_total),
        .skipped = atomic_load(&s->skipped),
        .left = pieces * PIECE_PAGES * GUEST_PAGE_SIZE,
    };
}

void ram_sender_cancel(struct ram_sender *s)
{
    atomic_store(&s->cancelled, true);
}

void ram_sender_stop(struct ram_sender *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->stream_count; i++)
        if (s->streams[i].started)
            pthread_join(s->streams[i].thread, NULL);
    if (s->pagemap_fd >= 0)
        close(s->pagemap_fd);
    page_bitmap_free(&s->nonzero);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->cap_lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}
