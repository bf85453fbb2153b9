#include "cluster/wal/wal_thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

enum { RETRY_MILLISECONDS = 200 };

struct piece {
    struct piece *next;
    uint8_t *bytes;
    size_t length;
};

struct wal_thread {
    struct wal *wal;
    void (*notify)(void *context);
    void *context;
    int descriptor; // of the end of what was begun; -1: everything goes by the writer
    pthread_t writer, keeper;
    pthread_mutex_t mutex; // guards everything below
    pthread_cond_t writer_wakes, keeper_wakes;
    bool stopping;
    struct wal_batch *batch; // submitted, or being written
    bool batch_done, batch_waits;
    bool batch_begun; // it isn't the writer's: the disk has it
    int batch_error;
    bool maintain;
    bool keeper_full;
    // A snapshot being written.
    bool snapshot_active, snapshot_ended, snapshot_complete, snapshot_done;
    int snapshot_error;
    struct raft_snapshot snapshot;
    struct piece *pieces, **pieces_end;
    size_t backlog;
};

static void wait_for_a_while(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += RETRY_MILLISECONDS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(condition, mutex, &until);
}

static void *writer_main(void *argument)
{
    struct wal_thread *thread = argument;
    pthread_mutex_lock(&thread->mutex);
    while (!thread->stopping) {
        if (!thread->batch || thread->batch_done || thread->batch_begun) {
            pthread_cond_wait(&thread->writer_wakes, &thread->mutex);
            continue;
        }
        struct wal_batch *batch = thread->batch;
        pthread_mutex_unlock(&thread->mutex);
        int error = wal_batch_commit(batch);
        pthread_mutex_lock(&thread->mutex);
        bool wait = error == -ENOSPC || error == -ENOMEM;
        if (wait && !thread->batch_waits)
            log_warning("write-ahead log: %s; writing waits", strerror(-error));
        thread->batch_waits = wait;
        if (wait) {
            wait_for_a_while(&thread->writer_wakes, &thread->mutex);
            continue;
        }
        thread->batch_done = true;
        thread->batch_error = error;
        pthread_mutex_unlock(&thread->mutex);
        thread->notify(thread->context);
        // Who waits for the batch goes first; and mostly there is nothing to maintain.
        if (wal_needs_maintenance(thread->wal))
            wal_thread_maintain(thread);
        pthread_mutex_lock(&thread->mutex);
    }
    pthread_mutex_unlock(&thread->mutex);
    return NULL;
}

static struct piece *take_piece(struct wal_thread *thread)
{
    struct piece *piece = thread->pieces;
    thread->pieces = piece->next;
    if (!thread->pieces)
        thread->pieces_end = &thread->pieces;
    thread->backlog--;
    return piece;
}

static void piece_free(struct piece *piece)
{
    free(piece->bytes);
    free(piece);
}

// Called and returns with the mutex held.
static void write_snapshot(struct wal_thread *thread)
{
    struct wal_snapshot_writer *writer = NULL;
    struct raft_snapshot snapshot = thread->snapshot;
    pthread_mutex_unlock(&thread->mutex);
    int error = wal_snapshot_begin(thread->wal, &snapshot, &writer);
    pthread_mutex_lock(&thread->mutex);
    while (!thread->stopping && (thread->pieces || !thread->snapshot_ended)) {
        if (!thread->pieces) {
            pthread_cond_wait(&thread->keeper_wakes, &thread->mutex);
            continue;
        }
        struct piece *piece = take_piece(thread);
        pthread_mutex_unlock(&thread->mutex);
        if (!error)
            error = wal_snapshot_append(writer, piece->bytes, piece->length);
        piece_free(piece);
        thread->notify(thread->context); // room for the next piece
        pthread_mutex_lock(&thread->mutex);
    }
    bool complete = thread->snapshot_complete && thread->snapshot_ended && !thread->stopping;
    pthread_mutex_unlock(&thread->mutex);
    if (!error && !complete)
        error = -ECANCELED;
    if (!error)
        error = wal_snapshot_finish(writer);
    wal_snapshot_writer_free(writer);
    pthread_mutex_lock(&thread->mutex);
    thread->snapshot_active = false;
    thread->snapshot_done = true;
    thread->snapshot_error = error;
}

static void *keeper_main(void *argument)
{
    struct wal_thread *thread = argument;
    pthread_mutex_lock(&thread->mutex);
    while (!thread->stopping) {
        if (thread->snapshot_active) {
            write_snapshot(thread);
            pthread_mutex_unlock(&thread->mutex);
            thread->notify(thread->context);
            pthread_mutex_lock(&thread->mutex);
            continue;
        }
        if (!thread->maintain) {
            pthread_cond_wait(&thread->keeper_wakes, &thread->mutex);
            continue;
        }
        thread->maintain = false;
        pthread_mutex_unlock(&thread->mutex);
        int error = wal_needs_maintenance(thread->wal) ? wal_maintain(thread->wal) : 0;
        pthread_mutex_lock(&thread->mutex);
        if (error && !thread->keeper_full)
            log_warning("write-ahead log: no spare segment can be made: %s", strerror(-error));
        thread->keeper_full = error != 0;
        if (error) {
            thread->maintain = true;
            wait_for_a_while(&thread->keeper_wakes, &thread->mutex);
        }
    }
    pthread_mutex_unlock(&thread->mutex);
    return NULL;
}

int wal_thread_start(struct wal_thread **out, struct wal *wal, void (*notify)(void *context),
                     void *context)
{
    struct wal_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return -ENOMEM;
    thread->wal = wal;
    thread->notify = notify;
    thread->context = context;
    thread->maintain = true;
    thread->descriptor = wal_commit_descriptor(wal);
    if (thread->descriptor < 0)
        thread->descriptor = -1;
    thread->pieces_end = &thread->pieces;
    pthread_mutex_init(&thread->mutex, NULL);
    pthread_cond_init(&thread->writer_wakes, NULL);
    pthread_cond_init(&thread->keeper_wakes, NULL);
    int error = pthread_create(&thread->writer, NULL, writer_main, thread);
    if (error) {
        free(thread);
        return -error;
    }
    error = pthread_create(&thread->keeper, NULL, keeper_main, thread);
    if (error) {
        pthread_mutex_lock(&thread->mutex);
        thread->stopping = true;
        pthread_cond_signal(&thread->writer_wakes);
        pthread_mutex_unlock(&thread->mutex);
        pthread_join(thread->writer, NULL);
        free(thread);
        return -error;
    }
    *out = thread;
    return 0;
}

void wal_thread_stop(struct wal_thread *thread)
{
    if (!thread)
        return;
    pthread_mutex_lock(&thread->mutex);
    thread->stopping = true;
    pthread_cond_signal(&thread->writer_wakes);
    pthread_cond_signal(&thread->keeper_wakes);
    pthread_mutex_unlock(&thread->mutex);
    pthread_join(thread->writer, NULL);
    pthread_join(thread->keeper, NULL);
    while (thread->pieces)
        piece_free(take_piece(thread));
    if (thread->batch_begun) // the disk still reads from the log's memory
        wal_batch_commit_poll(thread->batch, true);
    wal_batch_abandon(thread->batch);
    pthread_cond_destroy(&thread->writer_wakes);
    pthread_cond_destroy(&thread->keeper_wakes);
    pthread_mutex_destroy(&thread->mutex);
    free(thread);
}

int wal_thread_descriptor(const struct wal_thread *thread)
{
    return thread->descriptor;
}

static void leave_to_writer(struct wal_thread *thread)
{
    pthread_mutex_lock(&thread->mutex);
    thread->batch_begun = false;
    pthread_mutex_unlock(&thread->mutex);
    // Not before: the one that wakes would find the mutex locked.
    pthread_cond_signal(&thread->writer_wakes);
}

int wal_thread_submit(struct wal_thread *thread, struct wal_batch *batch)
{
    pthread_mutex_lock(&thread->mutex);
    bool busy = thread->batch != NULL;
    if (!busy) {
        thread->batch = batch;
        thread->batch_done = false;
        thread->batch_begun = thread->descriptor >= 0;
    }
    pthread_mutex_unlock(&thread->mutex);
    if (busy)
        return -EBUSY;
    if (thread->descriptor < 0 || wal_batch_commit_begin(batch))
        leave_to_writer(thread);
    return 0;
}

// The end of what the disk has, if it came. `batch_begun` is only changed by the caller's thread.
static void look_after_begun(struct wal_thread *thread)
{
    int state = wal_batch_commit_poll(thread->batch, false);
    if (state == 1)
        return;
    if (state == -EAGAIN) {
        leave_to_writer(thread);
        return;
    }
    pthread_mutex_lock(&thread->mutex);
    thread->batch_begun = false;
    thread->batch_done = true;
    thread->batch_error = state;
    pthread_mutex_unlock(&thread->mutex);
    if (wal_needs_maintenance(thread->wal))
        wal_thread_maintain(thread);
}

bool wal_thread_next_event(struct wal_thread *thread, struct wal_event *event)
{
    *event = (struct wal_event){0};
    if (thread->batch_begun)
        look_after_begun(thread);
    pthread_mutex_lock(&thread->mutex);
    if (thread->batch && thread->batch_done) {
        event->kind = WAL_EVENT_BATCH;
        event->error = thread->batch_error;
        event->batch = thread->batch;
        thread->batch = NULL;
    } else if (thread->snapshot_done) {
        event->kind = WAL_EVENT_SNAPSHOT;
        event->error = thread->snapshot_error;
        event->snapshot = thread->snapshot;
        thread->snapshot_done = false;
    }
    pthread_mutex_unlock(&thread->mutex);
    return event->kind != 0;
}

void wal_thread_maintain(struct wal_thread *thread)
{
    pthread_mutex_lock(&thread->mutex);
    thread->maintain = true;
    pthread_cond_signal(&thread->keeper_wakes);
    pthread_mutex_unlock(&thread->mutex);
}

bool wal_thread_is_full(struct wal_thread *thread)
{
    pthread_mutex_lock(&thread->mutex);
    bool full = thread->batch_waits || thread->keeper_full;
    pthread_mutex_unlock(&thread->mutex);
    return full;
}

int wal_thread_snapshot_begin(struct wal_thread *thread, const struct raft_snapshot *snapshot)
{
    pthread_mutex_lock(&thread->mutex);
    bool busy = thread->snapshot_active || thread->snapshot_done;
    if (!busy) {
        thread->snapshot_active = true;
        thread->snapshot_ended = false;
        thread->snapshot_complete = false;
        thread->snapshot = *snapshot;
        pthread_cond_signal(&thread->keeper_wakes);
    }
    pthread_mutex_unlock(&thread->mutex);
    return busy ? -EBUSY : 0;
}

void wal_thread_snapshot_piece(struct wal_thread *thread, uint8_t *bytes, size_t length)
{
    struct piece *piece = malloc(sizeof(*piece));
    pthread_mutex_lock(&thread->mutex);
    if (piece && bytes) {
        *piece = (struct piece){.bytes = bytes, .length = length};
        *thread->pieces_end = piece;
        thread->pieces_end = &piece->next;
        thread->backlog++;
    } else { // the snapshot has a hole now
        free(piece);
        free(bytes);
        thread->snapshot_ended = true;
        thread->snapshot_complete = false;
    }
    pthread_cond_signal(&thread->keeper_wakes);
    pthread_mutex_unlock(&thread->mutex);
}

void wal_thread_snapshot_end(struct wal_thread *thread, bool complete)
{
    pthread_mutex_lock(&thread->mutex);
    if (!thread->snapshot_ended)
        thread->snapshot_complete = complete;
    thread->snapshot_ended = true;
    pthread_cond_signal(&thread->keeper_wakes);
    pthread_mutex_unlock(&thread->mutex);
}

size_t wal_thread_snapshot_backlog(struct wal_thread *thread)
{
    pthread_mutex_lock(&thread->mutex);
    size_t backlog = thread->backlog;
    pthread_mutex_unlock(&thread->mutex);
    return backlog;
}
