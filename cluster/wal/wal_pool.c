// Spare segments: files written with zeroes from end to end, so that a write into one changes no
// metadata. Retired segments become spare ones. All that crosses threads is under the pool's mutex.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/wal/wal_internal.h"

void wal_segment_name(char name[FILES_NAME_SIZE], uint64_t sequence)
{
    snprintf(name, FILES_NAME_SIZE, "wal-%016" PRIx64, sequence);
}

void wal_spare_name(char name[FILES_NAME_SIZE], uint32_t number)
{
    snprintf(name, FILES_NAME_SIZE, "spare-%08" PRIx32, number);
}

int wal_pool_take(struct wal *wal, uint32_t *spare)
{
    struct wal_pool *pool = &wal->pool;
    int error = -ENOSPC;
    pthread_mutex_lock(&pool->mutex);
    if (pool->spare_count) {
        *spare = pool->spares[--pool->spare_count];
        error = 0;
    }
    pthread_mutex_unlock(&pool->mutex);
    return error;
}

void wal_pool_retire(struct wal *wal, uint64_t end)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    if (end > pool->retired_end)
        pool->retired_end = end;
    pthread_mutex_unlock(&pool->mutex);
}

int wal_pool_fill(struct wal *wal, const char *temporary, const char *name)
{
    const struct files *files = wal->options.files;
    int file;
    int error = files->remove(files->context, temporary);
    if (error == 0 || error == -ENOENT)
        error = files->open(files->context, temporary, FILES_CREATE, &file);
    if (error)
        return error;
    size_t piece = wal->options.segment_bytes;
    if (piece > WAL_FILL_BYTES)
        piece = WAL_FILL_BYTES;
    uint8_t *zeroes = calloc(1, piece);
    if (!zeroes)
        error = -ENOMEM;
    for (size_t done = 0; !error && done < wal->options.segment_bytes; done += piece) {
        if (piece > wal->options.segment_bytes - done)
            piece = wal->options.segment_bytes - done;
        error = files->write(files->context, file, done, zeroes, piece);
    }
    free(zeroes);
    // Nothing is lost with this file, so that even a failed sync of it is only a lack of room.
    if (!error)
        error = files->sync(files->context, file);
    files->close(files->context, file);
    if (!error)
        error = files->rename(files->context, temporary, name);
    if (error)
        files->remove(files->context, temporary);
    return error;
}

static uint32_t next_number(struct wal *wal)
{
    pthread_mutex_lock(&wal->pool.mutex);
    uint32_t number = wal->pool.next_spare++;
    pthread_mutex_unlock(&wal->pool.mutex);
    return number;
}

int wal_pool_hurry(struct wal *wal, uint32_t *spare)
{
    char name[FILES_NAME_SIZE];
    *spare = next_number(wal);
    wal_spare_name(name, *spare);
    return wal_pool_fill(wal, WAL_HURRYING, name);
}

static bool add_spare(struct wal *wal, uint32_t number)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    bool wanted = pool->spare_count < WAL_SPARES_MAX;
    if (wanted)
        pool->spares[pool->spare_count++] = number;
    pthread_mutex_unlock(&pool->mutex);
    return wanted;
}

static unsigned spares_missing(struct wal *wal)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    unsigned wanted = wal->options.spares < WAL_SPARES_MAX ? wal->options.spares : WAL_SPARES_MAX;
    unsigned missing = pool->spare_count < wanted ? wanted - pool->spare_count : 0;
    pthread_mutex_unlock(&pool->mutex);
    return missing;
}

static bool next_retired(struct wal *wal, uint64_t *sequence)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    *sequence = pool->retired_first;
    bool found = pool->retired_first < pool->retired_end;
    pthread_mutex_unlock(&pool->mutex);
    return found;
}

// Oldest first, each made durable before the next: segments never have a gap.
static int recycle(struct wal *wal, uint64_t sequence)
{
    const struct files *files = wal->options.files;
    char name[FILES_NAME_SIZE], spare[FILES_NAME_SIZE];
    bool keep = spares_missing(wal) > 0;
    uint32_t number = keep ? next_number(wal) : 0;

    wal_segment_name(name, sequence);
    wal_spare_name(spare, number);
    int error =
        keep ? files->rename(files->context, name, spare) : files->remove(files->context, name);
    if (!error)
        error = files->sync_directory(files->context);
    if (error)
        return error;
    pthread_mutex_lock(&wal->pool.mutex);
    wal->pool.retired_first = sequence + 1;
    pthread_mutex_unlock(&wal->pool.mutex);
    if (keep)
        add_spare(wal, number);
    return 0;
}

void wal_pool_keep_snapshots(struct wal *wal, struct raft_position oldest)
{
    pthread_mutex_lock(&wal->pool.mutex);
    wal->pool.oldest_snapshot = oldest.index;
    wal->pool.snapshots_to_remove = true;
    pthread_mutex_unlock(&wal->pool.mutex);
}

struct old_snapshot {
    uint64_t below;
    bool found;
    char name[FILES_NAME_SIZE];
};

static void find_old_snapshot(void *opaque, const char *name)
{
    struct old_snapshot *old = opaque;
    struct raft_position last;
    if (!old->found && wal_snapshot_name_parse(name, &last) && last.index < old->below) {
        old->found = true;
        wal_snapshot_name(old->name, last);
    }
}

static int remove_old_snapshots(struct wal *wal)
{
    const struct files *files = wal->options.files;
    struct old_snapshot old;
    pthread_mutex_lock(&wal->pool.mutex);
    bool wanted = wal->pool.snapshots_to_remove;
    old.below = wal->pool.oldest_snapshot;
    wal->pool.snapshots_to_remove = false;
    pthread_mutex_unlock(&wal->pool.mutex);
    while (wanted) {
        old.found = false;
        int error = files->list(files->context, find_old_snapshot, &old);
        if (!error && old.found)
            error = files->remove(files->context, old.name);
        if (error || !old.found)
            return error;
    }
    return 0;
}

bool wal_needs_maintenance(struct wal *wal)
{
    uint64_t sequence;
    pthread_mutex_lock(&wal->pool.mutex);
    bool snapshots = wal->pool.snapshots_to_remove;
    pthread_mutex_unlock(&wal->pool.mutex);
    return snapshots || next_retired(wal, &sequence) || spares_missing(wal) > 0;
}

int wal_maintain(struct wal *wal)
{
    uint64_t sequence;
    int removed = remove_old_snapshots(wal);
    if (removed)
        return removed;
    while (next_retired(wal, &sequence)) {
        int error = recycle(wal, sequence);
        if (error)
            return error;
    }
    while (spares_missing(wal)) {
        char name[FILES_NAME_SIZE];
        uint32_t number = next_number(wal);
        wal_spare_name(name, number);
        int error = wal_pool_fill(wal, WAL_FILLING, name);
        if (error)
            return error;
        add_spare(wal, number);
    }
    return 0;
}

bool wal_is_full(struct wal *wal, size_t bytes)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    bool full = pool->spare_count == 0 && pool->active_left < bytes;
    pthread_mutex_unlock(&pool->mutex);
    return full;
}
