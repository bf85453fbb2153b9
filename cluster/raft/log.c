// The log: entries that aren't durable yet are kept here, the others are the storage's. Terms and
// configurations of the whole log are known without reading it.
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

// Makes room for `more` elements after `used`; *array and *capacity follow.
static int array_reserve(const struct raft_allocator *allocator, void **array, size_t *capacity,
                         size_t used, size_t more, size_t element)
{
    size_t wanted = *capacity ? *capacity : 8;

    if (more <= *capacity - used)
        return 0;
    while (wanted - used < more)
        wanted *= 2;
    void *grown = raft_allocate(allocator, *array, wanted * element);
    if (!grown)
        return -ENOMEM;
    *array = grown;
    *capacity = wanted;
    return 0;
}

int raft_log_reserve(struct raft_log *log, size_t entries, size_t configurations)
{
    int error;

    if (log->unwritten_head > 0 &&
        log->unwritten_capacity - log->unwritten_head - log->unwritten_count < entries) {
        memmove(log->unwritten, log->unwritten + log->unwritten_head,
                log->unwritten_count * sizeof(*log->unwritten));
        log->unwritten_head = 0;
    }
    error =
        array_reserve(log->allocator, (void **)&log->unwritten, &log->unwritten_capacity,
                      log->unwritten_head + log->unwritten_count, entries, sizeof(*log->unwritten));
    if (!error)
        error = array_reserve(log->allocator, (void **)&log->runs, &log->run_capacity,
                              log->run_count, entries, sizeof(*log->runs));
    if (!error)
        error = array_reserve(log->allocator, (void **)&log->configurations,
                              &log->configuration_capacity, log->configuration_count,
                              configurations, sizeof(*log->configurations));
    return error;
}

// Notes what is known of every entry, written or not: its term, and its configuration if it is one.
static int entry_note(struct raft_log *log, const struct raft_entry *entry)
{
    if (entry->type == RAFT_ENTRY_CONFIGURATION) {
        struct raft_configuration_record *record = &log->configurations[log->configuration_count];

        if (raft_configuration_decode(&record->configuration, entry->data, entry->length) ||
            record->configuration.count == 0)
            return RAFT_ERROR_STORAGE;
        record->index = entry->index;
        log->configuration_count++;
    }
    if (log->runs[log->run_count - 1].term != entry->term)
        log->runs[log->run_count++] = (struct raft_term_run){entry->index, entry->term};
    log->last = entry->index;
    return 0;
}

// One pass over the stored log, at the start of a server's life.
static int log_scan(struct raft_log *log, const struct raft_stored *stored)
{
    struct raft_entry entries[64];

    while (log->last < stored->last_index) {
        size_t count = sizeof(entries) / sizeof(entries[0]);
        int error = log->storage->read(log->storage->context, log->last + 1, stored->last_index,
                                       1 << 20, entries, &count);

        if (!error && (count == 0 || count > sizeof(entries) / sizeof(entries[0])))
            error = RAFT_ERROR_STORAGE;
        for (size_t i = 0; !error && i < count; i++) {
            if (entries[i].index != log->last + 1 || entries[i].term < raft_log_last(log).term ||
                entries[i].term > stored->hard_state.term)
                return RAFT_ERROR_STORAGE;
            error = array_reserve(log->allocator, (void **)&log->runs, &log->run_capacity,
                                  log->run_count, 1, sizeof(*log->runs));
            if (!error)
                error = array_reserve(log->allocator, (void **)&log->configurations,
                                      &log->configuration_capacity, log->configuration_count, 1,
                                      sizeof(*log->configurations));
            // What the snapshot covers has its configuration in the snapshot.
            if (!error && entries[i].index <= stored->snapshot.last.index)
                entries[i].type = RAFT_ENTRY_NOOP;
            if (!error)
                error = entry_note(log, &entries[i]);
        }
        if (log->storage->release)
            log->storage->release(log->storage->context);
        if (error)
            return error;
    }
    return 0;
}

int raft_log_load(struct raft_log *log, const struct raft_stored *stored)
{
    const struct raft_snapshot *snapshot = &stored->snapshot;
    int error;

    if (stored->before.index > snapshot->last.index || snapshot->last.index > stored->last_index ||
        stored->before.term > snapshot->last.term || stored->last_index > RAFT_NUMBER_MAX ||
        stored->hard_state.term > RAFT_NUMBER_MAX ||
        snapshot->last.term > stored->hard_state.term ||
        raft_configuration_check(&snapshot->configuration))
        return RAFT_ERROR_STORAGE;
    error = raft_log_reserve(log, 1, 1);
    if (error)
        return error;
    raft_log_restore(log, snapshot);
    log->applied = snapshot->last.index;
    log->before = stored->before;
    log->runs[0] = (struct raft_term_run){stored->before.index, stored->before.term};
    log->last = stored->before.index;
    error = log_scan(log, stored);
    if (!error && raft_log_term_at(log, snapshot->last.index) != snapshot->last.term)
        error = RAFT_ERROR_STORAGE;
    log->durable = log->handed = log->last;
    return error;
}

static void unwritten_release(struct raft_log *log, struct raft_entry *entry)
{
    log->unwritten_bytes -= entry->length + RAFT_ENTRY_COST;
    raft_allocate(log->allocator, (void *)(uintptr_t)entry->data, 0);
}

static void unwritten_clear(struct raft_log *log)
{
    for (size_t i = 0; i < log->unwritten_count; i++)
        unwritten_release(log, &log->unwritten[log->unwritten_head + i]);
    log->unwritten_head = 0;
    log->unwritten_count = 0;
}

void raft_log_free(struct raft_log *log)
{
    unwritten_clear(log);
    raft_allocate(log->allocator, log->unwritten, 0);
    raft_allocate(log->allocator, log->runs, 0);
    raft_allocate(log->allocator, log->configurations, 0);
}

void raft_log_append(struct raft_log *log, const struct raft_entry *entry)
{
    assert(entry->index == log->last + 1);
    assert(log->unwritten_head + log->unwritten_count < log->unwritten_capacity);
    log->unwritten[log->unwritten_head + log->unwritten_count++] = *entry;
    log->unwritten_bytes += entry->length + RAFT_ENTRY_COST;
    int error = entry_note(log, entry);
    assert(!error); // whoever takes entries from outside has checked them
    (void)error;
}

void raft_log_truncate(struct raft_log *log, uint64_t from, bool keep_configuration)
{
    assert(from > log->before.index);
    while (log->unwritten_count > 0 && log->last >= from) {
        unwritten_release(log, &log->unwritten[log->unwritten_head + --log->unwritten_count]);
        log->last--;
    }
    log->last = from - 1;
    if (log->durable > log->last)
        log->durable = log->last;
    if (log->handed > log->last)
        log->handed = log->last;
    while (log->run_count > 1 && log->runs[log->run_count - 1].first >= from)
        log->run_count--;
    while (log->configuration_count > 1 && raft_log_configuration(log)->index >= from) {
        if (keep_configuration) {
            log->configurations[log->configuration_count - 1].index = log->last;
            break;
        }
        log->configuration_count--;
    }
}

void raft_log_restore(struct raft_log *log, const struct raft_snapshot *snapshot)
{
    unwritten_clear(log);
    log->before = snapshot->last;
    log->last = log->durable = log->handed = log->commit = snapshot->last.index;
    log->runs[0] = (struct raft_term_run){snapshot->last.index, snapshot->last.term};
    log->run_count = 1;
    log->configurations[0].index = snapshot->last.index;
    log->configurations[0].configuration = snapshot->configuration;
    log->configuration_count = 1;
}

void raft_log_compact(struct raft_log *log, struct raft_position before)
{
    size_t gone = 0;

    while (gone + 1 < log->run_count && log->runs[gone + 1].first <= before.index)
        gone++;
    memmove(log->runs, log->runs + gone, (log->run_count - gone) * sizeof(*log->runs));
    log->run_count -= gone;
    log->runs[0].first = before.index;
    log->before = before;
}

void raft_log_written(struct raft_log *log)
{
    while (log->durable < log->handed) {
        unwritten_release(log, &log->unwritten[log->unwritten_head++]);
        log->unwritten_count--;
        log->durable++;
    }
    if (log->unwritten_count == 0)
        log->unwritten_head = 0;
}

void raft_log_applied(struct raft_log *log, uint64_t index)
{
    size_t gone = 0;

    log->applied = index;
    while (gone + 1 < log->configuration_count && log->configurations[gone + 1].index <= index)
        gone++;
    if (gone == 0)
        return;
    log->configuration_count -= gone;
    memmove(log->configurations, log->configurations + gone,
            log->configuration_count * sizeof(*log->configurations));
}

uint64_t raft_log_term_at(const struct raft_log *log, uint64_t index)
{
    size_t low = 0, high = log->run_count - 1;

    if (index < log->before.index || index > log->last)
        return 0;
    if (index >= log->runs[high].first)
        return log->runs[high].term;
    while (low + 1 < high) {
        size_t middle = (low + high) / 2;

        if (log->runs[middle].first <= index)
            low = middle;
        else
            high = middle;
    }
    return log->runs[low].term;
}

struct raft_position raft_log_find(const struct raft_log *log, struct raft_position limit)
{
    uint64_t index = limit.index < log->last ? limit.index : log->last;

    for (size_t run = log->run_count; run-- > 0;) {
        uint64_t first = log->runs[run].first;

        if (first <= index && log->runs[run].term <= limit.term)
            return (struct raft_position){.index = index, .term = log->runs[run].term};
        // Before this run is the last entry that may still do.
        if (first <= index && run > 0)
            index = first - 1;
    }
    return log->before;
}

static size_t read_unwritten(const struct raft_log *log, uint64_t first, uint64_t last,
                             size_t bytes_left, struct raft_entry *entries, size_t room, bool any)
{
    size_t count = 0;

    for (uint64_t index = first; index <= last && count < room; index++) {
        const struct raft_entry *entry =
            &log->unwritten[log->unwritten_head + (size_t)(index - log->durable - 1)];

        if ((any || count > 0) && entry->length > bytes_left)
            break;
        bytes_left -= entry->length < bytes_left ? entry->length : bytes_left;
        entries[count++] = *entry;
    }
    return count;
}

int raft_log_read(const struct raft_log *log, uint64_t first, uint64_t last, size_t bytes_max,
                  struct raft_entry *entries, size_t *count)
{
    size_t room = *count, got = 0;

    *count = 0;
    assert(first > log->before.index && last <= log->last);
    if (first <= log->durable) {
        uint64_t end = last < log->durable ? last : log->durable;

        got = room;
        int error = log->storage->read(log->storage->context, first, end, bytes_max, entries, &got);
        if (error)
            return error;
        if (got == 0 || got > room || entries[0].index != first ||
            entries[got - 1].index != first + got - 1 || first + got - 1 > end)
            return RAFT_ERROR_STORAGE;
        if (first + got <= end) {
            *count = got;
            return 0;
        }
        for (size_t i = 0; i < got; i++)
            bytes_max -= entries[i].length < bytes_max ? entries[i].length : bytes_max;
    }
    *count =
        got + read_unwritten(log, first + got, last, bytes_max, entries + got, room - got, got > 0);
    return 0;
}
