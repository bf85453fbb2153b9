#include "cluster/wal/wal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cluster/wal/wal_internal.h"

enum { MEASURE_ROUNDS = 16 };

void wal_options_default(struct wal_options *options, const struct files *files)
{
    *options = (struct wal_options){
        .files = files,
        .segment_bytes = 16 << 20,
        .cache_bytes = 16 << 20,
        .spares = 1,
    };
}

int wal_random(const struct wal_options *options, void *bytes, size_t length)
{
    if (options->random)
        return options->random(options->random_context, bytes, length);
    return random_bytes(bytes, length);
}

static int compare_times(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

// The ways to make a block durable.
static const struct {
    unsigned flags;
    bool sync;
} ways[] = {
    {0, true}, // a write and a sync
    {FILES_DSYNC, false},
    {FILES_DSYNC | FILES_DIRECT, false},
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]), DIRECT = WAYS - 1 };

// A block by each way in turn, so that all see the same disk.
static int measure_rounds(const struct files *files, const int file[WAYS],
                          uint64_t times[WAYS][MEASURE_ROUNDS])
{
    static _Alignas(FILES_ALIGNMENT) const uint8_t block[WAL_BLOCK] = {1};
    for (int round = 0; round < MEASURE_ROUNDS; round++) {
        for (int way = 0; way < WAYS; way++) {
            uint64_t offset = (uint64_t)(WAYS * round + way) * WAL_BLOCK;
            uint64_t start = clock_monotonic_ns();
            int error = files->write(files->context, file[way], offset, block, sizeof(block));
            if (!error && ways[way].sync)
                error = files->sync(files->context, file[way]);
            if (error)
                return error;
            times[way][round] = clock_monotonic_ns() - start;
        }
    }
    return 0;
}

static int measure_open(const struct files *files, int file[WAYS])
{
    static const uint8_t zeroes[WAL_BLOCK];
    int error = 0;
    for (int way = 0; way < WAYS && !error; way++)
        error =
            files->open(files->context, WAL_MEASURING, FILES_CREATE | ways[way].flags, &file[way]);
    for (uint64_t i = 0; i < WAYS * MEASURE_ROUNDS && !error; i++)
        error = files->write(files->context, file[0], i * WAL_BLOCK, zeroes, sizeof(zeroes));
    if (!error)
        error = files->sync(files->context, file[0]);
    return error;
}

// Then a direct write needs no thread that sleeps for it. What that saves (two wake-ups, which on a
// busy host wait for their turn) doesn't show in a write that is waited for.
static bool can_begin_writes(const struct files *files)
{
    return files->write_begin && files->write_descriptor(files->context) >= 0;
}

int wal_options_measure(struct wal_options *options, struct error *err)
{
    const struct files *files = options->files;
    uint64_t times[WAYS][MEASURE_ROUNDS];
    int file[WAYS] = {-1, -1, -1};
    int best = 0;
    int error = measure_open(files, file);
    if (!error)
        error = measure_rounds(files, file, times);
    for (int way = 0; way < WAYS; way++)
        if (file[way] >= 0)
            files->close(files->context, file[way]);
    files->remove(files->context, WAL_MEASURING);
    if (error == -ENOSPC || error == -EDQUOT)
        return 0; // a full disk is no reason not to start: what is in the log can be read
    if (error)
        return error_set_errno(err, -error, "write-ahead log: the disk can't be written");
    for (int way = 0; way < WAYS; way++) {
        qsort(times[way], MEASURE_ROUNDS, sizeof(times[way][0]), compare_times);
        // The better quarter: what else the disk does meanwhile says nothing about the way.
        if (times[way][MEASURE_ROUNDS / 4] < times[best][MEASURE_ROUNDS / 4])
            best = way;
    }
    if (can_begin_writes(files) &&
        times[DIRECT][MEASURE_ROUNDS / 4] <= times[best][MEASURE_ROUNDS / 4] * 5 / 4)
        best = DIRECT;
    options->write_through = (ways[best].flags & FILES_DSYNC) != 0;
    options->direct = (ways[best].flags & FILES_DIRECT) != 0;
    return 0;
}

static int check_options(const struct wal_options *options, struct error *err)
{
    if (options->segment_bytes % WAL_BLOCK || options->segment_bytes < 4 * WAL_BLOCK ||
        options->segment_bytes > UINT32_MAX)
        return error_set(err, EINVAL, "write-ahead log: a segment can't have %zu bytes",
                         options->segment_bytes);
    return 0;
}

struct creation {
    bool segments;
    char remove[FILES_NAME_SIZE];
};

static void note_existing(void *opaque, const char *name)
{
    struct creation *creation = opaque;
    if (strncmp(name, "wal-", 4) == 0)
        creation->segments = true;
    else if (strncmp(name, "snap-", 5) == 0 || strncmp(name, "spare-", 6) == 0)
        strncpy(creation->remove, name, sizeof(creation->remove) - 1);
}

static int clear_remains(const struct files *files)
{
    for (;;) {
        struct creation creation = {0};
        int error = files->list(files->context, note_existing, &creation);
        if (!error && creation.segments)
            error = -EEXIST;
        if (!error && creation.remove[0])
            error = files->remove(files->context, creation.remove);
        if (error || !creation.remove[0])
            return error;
    }
}

static int write_first_snapshot(const struct wal *wal, const struct raft_snapshot *snapshot,
                                const void *payload, size_t length)
{
    struct wal_snapshot_writer *writer;
    int error =
        wal_snapshot_create(&writer, wal->options.files, WAL_TAKING, &wal->identity, snapshot);
    if (error)
        return error;
    if (length)
        error = wal_snapshot_append(writer, payload, length);
    if (!error)
        error = wal_snapshot_finish(writer);
    wal_snapshot_writer_free(writer);
    return error;
}

int wal_create(const struct wal_options *options, const struct wal_identity *identity,
               const struct raft_snapshot *snapshot, const void *payload, size_t length,
               struct error *err)
{
    struct wal wal = {.options = *options, .identity = *identity};
    struct wal_segment_header header = {
        .identity = *identity,
        .sequence = 1,
        .size = options->segment_bytes,
        .last = snapshot->last,
        .hard_state = {.term = snapshot->last.term},
    };
    char name[FILES_NAME_SIZE];
    int error = check_options(options, err);
    if (error)
        return error;
    pthread_mutex_init(&wal.pool.mutex, NULL);
    error = clear_remains(options->files);
    if (error == -EEXIST) {
        error_set(err, EEXIST, "write-ahead log: the directory holds one already");
        goto out;
    }
    if (!error)
        error = write_first_snapshot(&wal, snapshot, payload, length);
    wal_spare_name(name, 0);
    if (!error)
        error = wal_pool_fill(&wal, WAL_FILLING, name);
    if (!error)
        error = wal_random(options, &header.salt, sizeof(header.salt));
    if (!error) {
        // The segment's name comes last: from then on the directory holds a log.
        error = wal_segment_activate(&wal, 0, &header);
        if (!error)
            options->files->close(options->files->context, wal.writer.file);
        free(wal.writer.aligned);
    }
    if (error)
        error_set_errno(err, -error, "write-ahead log: can't be created");
out:
    pthread_mutex_destroy(&wal.pool.mutex);
    return error;
}

int wal_open(struct wal **out, const struct wal_options *options, struct error *err)
{
    int error = check_options(options, err);
    if (error)
        return error;
    struct wal *wal = calloc(1, sizeof(*wal));
    if (!wal)
        return error_set(err, ENOMEM, "write-ahead log: out of memory");
    wal->files = *options->files;
    wal->options = *options;
    wal->options.files = &wal->files;
    wal->writer.file = -1;
    pthread_mutex_init(&wal->pool.mutex, NULL);
    wal_log_init(&wal->log, &wal->options);
    wal_log_storage(&wal->log, &wal->storage);
    error = wal_recover(wal, err);
    if (error) {
        wal_close(wal);
        return error;
    }
    *out = wal;
    return 0;
}

void wal_close(struct wal *wal)
{
    if (!wal)
        return;
    wal_snapshot_writer_free(wal->writer.receiving);
    free(wal->writer.aligned);
    if (wal->writer.file >= 0)
        wal->files.close(wal->files.context, wal->writer.file);
    wal_log_free(&wal->log);
    pthread_mutex_destroy(&wal->pool.mutex);
    free(wal);
}

const struct wal_identity *wal_identity(const struct wal *wal)
{
    return &wal->identity;
}

const struct raft_storage *wal_storage(const struct wal *wal)
{
    return &wal->storage;
}

int wal_snapshot_begin(struct wal *wal, const struct raft_snapshot *snapshot,
                       struct wal_snapshot_writer **writer)
{
    return wal_snapshot_create(writer, &wal->files, WAL_TAKING, &wal->identity, snapshot);
}

int wal_snapshot_adopt(struct wal *wal, const struct raft_snapshot *snapshot)
{
    if (snapshot->last.index <= wal->log.snapshot.last.index ||
        wal_log_term_at(&wal->log, snapshot->last.index) != snapshot->last.term)
        return -ESTALE; // another one was installed meanwhile
    wal_pool_keep_snapshots(wal, wal->log.snapshot.last);
    wal->log.snapshot = *snapshot;
    return 0;
}

int wal_snapshot_load(const struct wal *wal, struct raft_position last,
                      struct wal_snapshot_reader **reader, struct error *err)
{
    char name[FILES_NAME_SIZE];
    wal_snapshot_name(name, last);
    return wal_snapshot_open(reader, &wal->files, name, err);
}

void wal_compact(struct wal *wal, uint64_t index)
{
    struct wal_log *log = &wal->log;
    if (index > log->snapshot.last.index)
        index = log->snapshot.last.index;
    uint64_t keep = wal_log_first_needed_segment(log, index);
    if (keep <= log->first_segment)
        return;
    wal_log_drop_segments(log, keep);
    wal_pool_retire(wal, keep);
}

void wal_inspect(struct wal *wal, struct wal_status *status)
{
    pthread_mutex_lock(&wal->pool.mutex);
    unsigned spares = wal->pool.spare_count;
    pthread_mutex_unlock(&wal->pool.mutex);
    *status = (struct wal_status){
        .first_segment = wal->log.first_segment,
        .last_segment = wal->log.last_segment,
        .entries = wal->log.count,
        .cached_bytes = wal->log.cached,
        .frames = wal->log.frames,
        .bytes = wal->log.bytes,
        .cut_bytes = wal->cut_bytes,
        .spares = spares,
        .write_through = wal->options.write_through,
        .direct = wal->options.direct,
    };
}
