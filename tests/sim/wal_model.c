#include "wal_model.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool wrong(struct wal_model *model, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool wrong(struct wal_model *model, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(model->failure, sizeof(model->failure), format, arguments);
    va_end(arguments);
    return false;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t state = a * 0x9e3779b97f4a7c15u ^ b;

    return sim_random_mix(&state);
}

static uint32_t entry_length(uint64_t index, uint64_t term)
{
    uint64_t drawn = mix(index, term);

    if (drawn % 16 == 0)
        return 0;
    return drawn % 8 == 1 ? (uint32_t)(drawn >> 8) % WAL_MODEL_DATA : (uint32_t)(drawn >> 8) % 300;
}

static uint8_t entry_byte(uint64_t index, uint64_t term, size_t at)
{
    return (uint8_t)(index * 31 + term * 17 + at * 7 + (at >> 8));
}

struct raft_snapshot wal_model_snapshot(struct raft_position last)
{
    return (struct raft_snapshot){
        .last = last,
        .configuration = {.count = 1, .members = {{.id = 1 + last.index, .roles = RAFT_VOTER}}},
    };
}

uint32_t wal_model_snapshot_length(struct raft_position last)
{
    return (uint32_t)(mix(last.index, last.term) % 12000);
}

uint8_t wal_model_snapshot_byte(struct raft_position last, uint64_t at)
{
    return (uint8_t)(last.index * 13 + last.term * 5 + at * 3 + (at >> 9));
}

void wal_model_reset(struct wal_model *model, uint64_t seed)
{
    memset(&model->sure, 0, sizeof(model->sure));
    model->applied = 0;
    model->under_way = model->receiving = false;
    model->failure[0] = 0;
    sim_random_seed(&model->random, seed, 0x77616c00);
}

static uint64_t below(struct wal_model *model, uint64_t bound)
{
    return sim_random_below(&model->random, bound);
}

// ---- plans ----

static void plan_term(struct wal_model *model)
{
    model->after.hard_state.term += 1 + below(model, 2);
    model->after.hard_state.voted_for = below(model, 4);
    model->write.has_hard_state = true;
}

static void plan_entries(struct wal_model *model, uint64_t first, uint64_t count)
{
    uint64_t term = model->after.hard_state.term;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = first + i;
        uint32_t length = entry_length(index, term);

        for (uint32_t b = 0; b < length; b++)
            model->data[i][b] = entry_byte(index, term, b);
        model->entries[i] = (struct raft_entry){
            .index = index,
            .term = term,
            .type = RAFT_ENTRY_COMMAND,
            .length = length,
            .data = length ? model->data[i] : NULL,
        };
        model->after.terms[index] = term;
    }
    if (count)
        model->after.last = first + count - 1;
    model->write.entries = model->entries;
    model->write.entry_count = count;
}

// Begins to receive a snapshot that the log doesn't hold: beyond its end, or where it went another
// way.
static bool plan_incoming(struct wal_model *model)
{
    const struct wal_model_log *sure = &model->sure;
    uint64_t index = model->applied + 1 + below(model, sure->last - model->applied + 8);
    uint64_t term = model->after.hard_state.term;

    if (index <= sure->last && sure->terms[index] == term)
        index = sure->last + 1;
    if (index + WAL_MODEL_BATCH > WAL_MODEL_ENTRIES || term == 0)
        return false;
    model->receiving = true;
    model->incoming = (struct raft_position){index, term};
    model->incoming_offset = 0;
    return true;
}

static void plan_chunk(struct wal_model *model)
{
    struct raft_position last = model->incoming;
    uint32_t total = wal_model_snapshot_length(last), length = sizeof(model->chunk_data);
    uint64_t offset = model->incoming_offset;

    length = 1 + (uint32_t)below(model, length);
    if (length > total - offset)
        length = (uint32_t)(total - offset);
    for (uint32_t i = 0; i < length; i++)
        model->chunk_data[i] = wal_model_snapshot_byte(last, offset + i);
    model->configuration = wal_model_snapshot(last).configuration;
    model->chunk = (struct raft_snapshot_request){
        .last = last,
        .configuration = &model->configuration,
        .offset = offset,
        .data = model->chunk_data,
        .length = length,
        .done = offset + length == total,
    };
    model->write.chunk = &model->chunk;
    model->incoming_offset += length;
    if (!model->chunk.done)
        return;
    model->receiving = false;
    model->after.snapshot = last;
    model->after.last = last.index;
    model->after.terms[last.index] = last.term;
}

bool wal_model_plan(struct wal_model *model)
{
    struct wal_model_log *sure = &model->sure;
    uint64_t kind = below(model, 16), first = sure->last + 1, count = 1 + below(model, 3);

    if (sure->last + 2 * WAL_MODEL_BATCH > WAL_MODEL_ENTRIES)
        return false;
    model->after = *sure;
    model->write = (struct raft_write){0};
    if (kind == 0 || sure->hard_state.term == 0)
        plan_term(model);
    if (kind == 1)
        count = WAL_MODEL_BATCH;
    if (kind == 2 && sure->last > model->applied) { // what another leader wrote goes
        plan_term(model);
        first = sure->last - below(model, sure->last - model->applied);
    }
    if (model->receiving && (below(model, 20) == 0 || model->incoming.index <= model->applied))
        model->receiving = false; // its sender went away, or it is of no use any more
    if (model->receiving || (kind == 3 && plan_incoming(model))) {
        plan_chunk(model);
        first = model->after.last + 1;
        // Entries come with a chunk only when it is the last one.
        count = model->chunk.done ? below(model, 3) : 0;
    }
    if (kind == 4 && !model->write.chunk) { // a vote
        plan_term(model);
        count = 0;
    }
    plan_entries(model, first, count);
    model->write.hard_state = model->after.hard_state;
    model->under_way = true;
    return true;
}

static void adopt(struct wal_model *model, const struct wal_model_log *log)
{
    assert(model->applied <= log->last);
    if (log != &model->sure)
        model->sure = *log;
    if (model->applied < log->snapshot.index)
        model->applied = log->snapshot.index;
    model->applied += below(model, log->last - model->applied + 1);
}

void wal_model_done(struct wal_model *model)
{
    adopt(model, &model->after);
    model->under_way = false;
}

void wal_model_ended(struct wal_model *model)
{
    model->receiving = false;
}

// ---- judging ----

static bool entry_is_right(struct wal_model *model, struct wal *wal, uint64_t index, uint64_t term)
{
    const struct raft_storage *storage = wal_storage(wal);
    struct raft_entry entry;
    size_t one = 1;
    int error = storage->read(storage->context, index, index, 1, &entry, &one);
    bool good = error == 0 && one == 1 && entry.index == index && entry.term == term &&
                entry.length == entry_length(index, term);

    for (uint32_t b = 0; good && b < entry.length; b++)
        good = entry.data[b] == entry_byte(index, term, b);
    storage->release(storage->context);
    return good || wrong(model, "entry %lu of term %lu reads otherwise (error %d)",
                         (unsigned long)index, (unsigned long)term, error);
}

bool wal_model_read_one(struct wal_model *model, struct wal *wal)
{
    const struct raft_storage *storage = wal_storage(wal);
    struct raft_stored stored;
    uint64_t index;

    if (storage->load(storage->context, &stored))
        return wrong(model, "it can't be loaded");
    if (stored.last_index != model->sure.last)
        return wrong(model, "it ends at %lu and not at %lu", (unsigned long)stored.last_index,
                     (unsigned long)model->sure.last);
    if (stored.last_index == stored.before.index)
        return true;
    index = stored.before.index + 1 + below(model, stored.last_index - stored.before.index);
    return entry_is_right(model, wal, index, model->sure.terms[index]);
}

static bool same_hard_state(struct raft_hard_state a, struct raft_hard_state b)
{
    return a.term == b.term && a.voted_for == b.voted_for;
}

// Whether the terms that the log shows are those of `log` up to where it ends.
static bool terms_match(const struct raft_stored *stored, struct wal *wal,
                        const struct wal_model_log *log)
{
    const struct raft_storage *storage = wal_storage(wal);

    if (stored->last_index > log->last)
        return false;
    if (stored->before.index && stored->before.term != log->terms[stored->before.index])
        return false;
    for (uint64_t index = stored->before.index + 1; index <= stored->last_index; index++) {
        struct raft_entry entry;
        size_t one = 1;
        bool same = storage->read(storage->context, index, index, 1, &entry, &one) == 0 &&
                    entry.term == log->terms[index];

        storage->release(storage->context);
        if (!same)
            return false;
    }
    return true;
}

// The log with some, maybe none, of the entries of the write under way.
static bool shows_part_of_write(const struct wal_model *model, const struct raft_stored *stored,
                                struct wal *wal)
{
    const struct wal_model_log *after = &model->after;
    uint64_t least = after->last + 1 - model->write.entry_count;

    if (!model->write.chunk || !model->chunk.done)
        least++; // at least one of them: without any the log would be as before
    return same_hard_state(stored->hard_state, after->hard_state) &&
           stored->last_index + 1 >= least && terms_match(stored, wal, after);
}

static bool snapshot_is_right(struct wal_model *model, struct wal *wal,
                              const struct raft_snapshot *snapshot)
{
    static uint8_t bytes[16384];
    struct raft_position last = snapshot->last;
    uint32_t length = last.index ? wal_model_snapshot_length(last) : 0;
    struct wal_snapshot_reader *reader;
    struct error err = {0};
    size_t got = 0, more = 0;
    int error = wal_snapshot_load(wal, last, &reader, &err);

    if (error)
        return wrong(model, "snapshot %lu can't be opened: %s", (unsigned long)last.index,
                     err.message);
    while (!error && got < sizeof(bytes)) {
        error = wal_snapshot_read(reader, got, bytes + got, sizeof(bytes) - got, &more);
        got += more;
        if (more == 0)
            break;
    }
    wal_snapshot_reader_free(reader);
    if (error || got != length)
        return wrong(model, "snapshot %lu has %zu of %u bytes (error %d)",
                     (unsigned long)last.index, got, length, error);
    for (uint32_t i = 0; i < length; i++)
        if (bytes[i] != wal_model_snapshot_byte(last, i))
            return wrong(model, "snapshot %lu differs at %u", (unsigned long)last.index, i);
    if (snapshot->configuration.count != 1 ||
        snapshot->configuration.members[0].id != 1 + last.index)
        return wrong(model, "snapshot %lu has another configuration", (unsigned long)last.index);
    return true;
}

bool wal_model_judge(struct wal_model *model, struct wal *wal)
{
    const struct raft_storage *storage = wal_storage(wal);
    struct wal_model_log *sure = &model->sure, *after = &model->after;
    struct raft_stored stored;

    if (storage->load(storage->context, &stored))
        return wrong(model, "it can't be loaded");
    bool old_vote = same_hard_state(stored.hard_state, sure->hard_state);
    bool new_vote = model->under_way && same_hard_state(stored.hard_state, after->hard_state);
    bool as_before = stored.last_index == sure->last && terms_match(&stored, wal, sure);
    if (!((old_vote || new_vote) && as_before)) {
        if (!model->under_way || !shows_part_of_write(model, &stored, wal))
            return wrong(
                model,
                "acknowledged: term %lu, vote %lu, %lu entries; there: term %lu, vote "
                "%lu, %lu entries",
                (unsigned long)sure->hard_state.term, (unsigned long)sure->hard_state.voted_for,
                (unsigned long)sure->last, (unsigned long)stored.hard_state.term,
                (unsigned long)stored.hard_state.voted_for, (unsigned long)stored.last_index);
        *sure = *after;
        sure->last = stored.last_index;
    }
    sure->hard_state = stored.hard_state;
    if (sure->last < model->applied)
        return wrong(model, "entries up to %lu were applied, %lu are there",
                     (unsigned long)model->applied, (unsigned long)sure->last);
    if (stored.before.index > stored.snapshot.last.index ||
        stored.snapshot.last.index > stored.last_index)
        return wrong(model, "snapshot %lu isn't between entries %lu and %lu",
                     (unsigned long)stored.snapshot.last.index, (unsigned long)stored.before.index,
                     (unsigned long)stored.last_index);
    if (stored.snapshot.last.index < sure->snapshot.index)
        return wrong(model, "snapshot %lu is lost, %lu came back",
                     (unsigned long)sure->snapshot.index,
                     (unsigned long)stored.snapshot.last.index);
    sure->snapshot = stored.snapshot.last;
    for (uint64_t index = stored.before.index + 1; index <= stored.last_index; index++)
        if (!entry_is_right(model, wal, index, sure->terms[index]))
            return false;
    adopt(model, sure);
    model->under_way = false;
    return snapshot_is_right(model, wal, &stored.snapshot);
}
