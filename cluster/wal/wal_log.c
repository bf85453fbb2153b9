// What is in the log, in memory, and the storage interface of the Raft core over it.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "cluster/wal/wal_internal.h"

void wal_log_init(struct wal_log *log, const struct wal_options *options)
{
    *log = (struct wal_log){.files = options->files, .cache_bytes = options->cache_bytes};
}

static struct wal_entry *entry_at(const struct wal_log *log, uint64_t index)
{
    return &log->ring[(log->head + (index - log->before.index - 1)) & (log->room - 1)];
}

uint64_t wal_log_last(const struct wal_log *log)
{
    return log->before.index + log->count;
}

uint64_t wal_log_term_at(const struct wal_log *log, uint64_t index)
{
    if (index == log->before.index)
        return log->before.term;
    if (index < log->before.index || index > wal_log_last(log))
        return 0;
    return entry_at(log, index)->term;
}

struct wal_block *wal_block_create(void)
{
    struct wal_block *block = calloc(1, sizeof(*block));
    if (block)
        block->references = 1;
    return block;
}

static void block_free(struct wal_block *block)
{
    free(block->bytes);
    free(block);
}

void wal_block_unref(struct wal_log *log, struct wal_block *block)
{
    if (!block || --block->references > 0)
        return;
    if (!log->reading) {
        block_free(block);
        return;
    }
    // The core may still look at an entry in it.
    block->dead = true;
    block->next = log->dead;
    log->dead = block;
}

int wal_log_reserve(struct wal_log *log, size_t more)
{
    size_t wanted = log->count + more;
    if (wanted <= log->room)
        return 0;
    size_t room = log->room ? log->room : 64;
    while (room < wanted)
        room *= 2;
    struct wal_entry *ring = malloc(room * sizeof(*ring));
    if (!ring)
        return -ENOMEM;
    for (size_t i = 0; i < log->count; i++)
        ring[i] = log->ring[(log->head + i) & (log->room - 1)];
    free(log->ring);
    log->ring = ring;
    log->room = room;
    log->head = 0;
    return 0;
}

static void entry_uncache(struct wal_log *log, struct wal_entry *entry)
{
    if (!entry->block)
        return;
    log->cached -= entry->length;
    wal_block_unref(log, entry->block);
    entry->block = NULL;
    entry->data = NULL;
}

void wal_log_trim_cache(struct wal_log *log)
{
    if (log->uncached < log->before.index)
        log->uncached = log->before.index;
    while (log->cached > log->cache_bytes && log->uncached < wal_log_last(log))
        entry_uncache(log, entry_at(log, ++log->uncached));
}

static void truncate_from(struct wal_log *log, uint64_t index)
{
    while (log->count && wal_log_last(log) >= index) {
        entry_uncache(log, entry_at(log, wal_log_last(log)));
        log->count--;
    }
    if (log->uncached > wal_log_last(log))
        log->uncached = wal_log_last(log);
}

static void reset_to(struct wal_log *log, struct raft_position before)
{
    truncate_from(log, 0);
    log->before = before;
    log->head = 0;
    log->uncached = before.index;
}

static int apply_entry(struct wal_log *log, const struct wal_record *record,
                       struct wal_block *block, uint64_t sequence, uint64_t frame_offset,
                       bool recovering)
{
    const struct raft_entry *entry = &record->entry;
    if (entry->index <= log->before.index) {
        // The first segment that is left begins after entries that were overwritten later, and
        // compaction took the segments of those before them: the log begins here instead.
        if (!recovering)
            return -EBADMSG;
        reset_to(log, (struct raft_position){entry->index - 1, record->previous_term});
    }
    if (entry->index > wal_log_last(log) + 1 ||
        record->previous_term != wal_log_term_at(log, entry->index - 1) ||
        entry->term < record->previous_term)
        return -EBADMSG;
    truncate_from(log, entry->index);
    int error = wal_log_reserve(log, 1);
    if (error)
        return error;
    log->count++;
    struct wal_entry *slot = entry_at(log, entry->index);
    *slot = (struct wal_entry){
        .term = entry->term,
        .sequence = sequence,
        .offset = frame_offset + record->data_offset,
        .length = entry->length,
        .data_crc = record->data_crc,
        .type = entry->type,
    };
    if (block) {
        block->references++;
        slot->block = block;
        slot->data = entry->data;
        log->cached += entry->length;
    } else {
        log->uncached = entry->index;
    }
    return 0;
}

int wal_log_apply(struct wal_log *log, const struct wal_record *record, struct wal_block *block,
                  uint64_t sequence, uint64_t frame_offset, bool recovering)
{
    switch (record->kind) {
    case WAL_HARD_STATE:
        if (record->hard_state.term < log->hard_state.term)
            return -EBADMSG;
        log->hard_state = record->hard_state;
        return 0;
    case WAL_INSTALL:
        reset_to(log, record->installed);
        log->snapshot.last = record->installed;
        return 0;
    case WAL_ENTRY:
        return apply_entry(log, record, block, sequence, frame_offset, recovering);
    }
    return -EBADMSG;
}

uint64_t wal_log_first_needed_segment(const struct wal_log *log, uint64_t index)
{
    uint64_t next = (index > log->before.index ? index : log->before.index) + 1;
    return next <= wal_log_last(log) ? entry_at(log, next)->sequence : log->last_segment;
}

void wal_log_drop_segments(struct wal_log *log, uint64_t sequence)
{
    while (log->count) {
        struct wal_entry *entry = entry_at(log, log->before.index + 1);
        if (entry->sequence >= sequence)
            break;
        entry_uncache(log, entry);
        log->before = (struct raft_position){log->before.index + 1, entry->term};
        log->head = (log->head + 1) & (log->room - 1);
        log->count--;
    }
    if (log->uncached < log->before.index)
        log->uncached = log->before.index;
    if (sequence > log->first_segment)
        log->first_segment = sequence;
}

static void close_segment(struct wal_log *log)
{
    if (log->open_sequence)
        log->files->close(log->files->context, log->open_file);
    log->open_sequence = 0;
}

static void storage_release(void *context)
{
    struct wal_log *log = context;
    log->reading = false;
    while (log->dead) {
        struct wal_block *block = log->dead;
        log->dead = block->next;
        block_free(block);
    }
    while (log->fetched) {
        struct wal_fetched *fetched = log->fetched;
        log->fetched = fetched->next;
        free(fetched);
    }
    wal_log_trim_cache(log);
}

void wal_log_free(struct wal_log *log)
{
    storage_release(log);
    truncate_from(log, 0);
    close_segment(log);
    wal_snapshot_reader_free(log->sending);
    free(log->ring);
    *log = (struct wal_log){0};
}

static int storage_load(void *context, struct raft_stored *stored)
{
    struct wal_log *log = context;
    *stored = (struct raft_stored){
        .hard_state = log->hard_state,
        .snapshot = log->snapshot,
        .before = log->before,
        .last_index = wal_log_last(log),
    };
    return 0;
}

static int open_segment(struct wal_log *log, uint64_t sequence)
{
    char name[FILES_NAME_SIZE];
    if (log->open_sequence == sequence)
        return 0;
    close_segment(log);
    wal_segment_name(name, sequence);
    int error = log->files->open(log->files->context, name, 0, &log->open_file);
    if (!error)
        log->open_sequence = sequence;
    return error;
}

// Reads an entry's data back from its segment.
static int fetch(struct wal_log *log, const struct wal_entry *entry, const uint8_t **data)
{
    size_t got;
    int error = open_segment(log, entry->sequence);
    if (error)
        return error == -ENOMEM ? error : -EIO;
    struct wal_fetched *fetched = malloc(sizeof(*fetched) + entry->length);
    if (!fetched)
        return -ENOMEM;
    error = log->files->read(log->files->context, log->open_file, entry->offset, fetched->bytes,
                             entry->length, &got);
    if (error || got != entry->length || crc32c(0, fetched->bytes, got) != entry->data_crc) {
        free(fetched);
        return -EIO;
    }
    fetched->next = log->fetched;
    log->fetched = fetched;
    *data = fetched->bytes;
    return 0;
}

static int storage_read(void *context, uint64_t first, uint64_t last, size_t bytes_max,
                        struct raft_entry *entries, size_t *count)
{
    struct wal_log *log = context;
    size_t capacity = *count;
    size_t bytes = 0;

    *count = 0;
    if (first <= log->before.index || last > wal_log_last(log) || first > last)
        return -EIO;
    log->reading = true;
    while (*count < capacity && first + *count <= last) {
        uint64_t index = first + *count;
        struct wal_entry *entry = entry_at(log, index);
        if (*count && bytes + entry->length > bytes_max)
            break;
        const uint8_t *data = entry->data;
        if (!data && entry->length) {
            int error = fetch(log, entry, &data);
            // What was read already is an answer; the rest is asked for again.
            if (error)
                return *count && error == -ENOMEM ? 0 : error;
        }
        entries[*count] = (struct raft_entry){
            .index = index,
            .term = entry->term,
            .type = entry->type,
            .length = entry->length,
            .data = entry->length ? data : NULL,
        };
        bytes += entry->length;
        ++*count;
    }
    return 0;
}

static int storage_read_snapshot(void *context, struct raft_position last, uint64_t offset,
                                 uint8_t *buffer, size_t capacity, size_t *length, bool *done)
{
    struct wal_log *log = context;
    const struct raft_snapshot *open = log->sending ? wal_snapshot_describe(log->sending) : NULL;
    if (!open || open->last.index != last.index || open->last.term != last.term) {
        char name[FILES_NAME_SIZE];
        struct wal_snapshot_reader *reader;
        wal_snapshot_name(name, last);
        int error = wal_snapshot_open(&reader, log->files, name, NULL);
        if (error)
            return error == -ENOENT || error == -ENOMEM ? error : -EIO;
        wal_snapshot_reader_free(log->sending);
        log->sending = reader;
    }
    int error = wal_snapshot_read(log->sending, offset, buffer, capacity, length);
    if (error)
        return error;
    *done = offset + *length >= wal_snapshot_length(log->sending);
    return 0;
}

void wal_log_storage(struct wal_log *log, struct raft_storage *storage)
{
    *storage = (struct raft_storage){
        .context = log,
        .load = storage_load,
        .read = storage_read,
        .read_snapshot = storage_read_snapshot,
        .release = storage_release,
    };
}
