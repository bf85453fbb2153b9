#include "migrate/ram_prefault.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/filter/thread_filter.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // linux/mman.h, which older headers lack
#endif

enum { PIECE_LIMIT = 8 }; // remembered; the source says of two or three ahead

enum piece_state { PIECE_FREE, PIECE_WANTED, PIECE_WORKED_AT, PIECE_THERE };

struct piece {
    uint8_t *hva;
    size_t length;
    enum piece_state state;
};

struct ram_prefault {
    pthread_t thread;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t changed;
    struct piece pieces[PIECE_LIMIT]; // a ring: `next` is the oldest
    unsigned next;
    bool ending;
};

static void populate(uint8_t *hva, size_t length)
{
    madvise(hva, length, MADV_POPULATE_WRITE);
}

static struct piece *oldest_wanted(struct ram_prefault *p)
{
    for (unsigned i = 0; i < PIECE_LIMIT; i++) {
        struct piece *piece = &p->pieces[(p->next + i) % PIECE_LIMIT];
        if (piece->state == PIECE_WANTED)
            return piece;
    }
    return NULL;
}

// With the lock held, which is dropped meanwhile.
static void work_at(struct ram_prefault *p, struct piece *piece)
{
    piece->state = PIECE_WORKED_AT;
    pthread_mutex_unlock(&p->lock);
    populate(piece->hva, piece->length);
    pthread_mutex_lock(&p->lock);
    piece->state = PIECE_THERE;
    pthread_cond_broadcast(&p->changed);
}

static void *prefault_main(void *opaque)
{
    struct ram_prefault *p = opaque;
    pthread_setname_np(pthread_self(), "migrate-memory");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    pthread_mutex_lock(&p->lock);
    while (!p->ending) {
        struct piece *piece = oldest_wanted(p);
        if (piece)
            work_at(p, piece);
        else
            pthread_cond_wait(&p->changed, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct ram_prefault *ram_prefault_start(void)
{
    struct ram_prefault *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    if (pthread_create(&p->thread, NULL, prefault_main, p) == 0)
        return p;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p);
    return NULL;
}

void ram_prefault_ask(struct ram_prefault *p, uint8_t *hva, size_t length)
{
    pthread_mutex_lock(&p->lock);
    struct piece *piece = &p->pieces[p->next];
    if (piece->state == PIECE_FREE || piece->state == PIECE_THERE) {
        *piece = (struct piece){hva, length, PIECE_WANTED};
        p->next = (p->next + 1) % PIECE_LIMIT;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
}

static struct piece *find_piece(struct ram_prefault *p, const uint8_t *hva, size_t length)
{
    for (unsigned i = 0; i < PIECE_LIMIT; i++) {
        struct piece *piece = &p->pieces[i];
        if (piece->state != PIECE_FREE && hva >= piece->hva &&
            hva + length <= piece->hva + piece->length)
            return piece;
    }
    return NULL;
}

void ram_prefault_finish(struct ram_prefault *p, uint8_t *hva, size_t length)
{
    struct piece *piece = NULL;
    if (p) {
        pthread_mutex_lock(&p->lock);
        piece = find_piece(p, hva, length);
        if (piece && piece->state == PIECE_WANTED)
            work_at(p, piece);
        while (piece && piece->state == PIECE_WORKED_AT)
            pthread_cond_wait(&p->changed, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    if (!piece)
        populate(hva, length);
}

void ram_prefault_stop(struct ram_prefault *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p);
}
