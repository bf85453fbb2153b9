#include "journal.h"

#include "machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define JOURNAL_NAME  "journal"
#define JOURNAL_NEW   "journal.new"
#define RECORD_HEADER 8
#define ARENA_BLOCK   (64u << 10)

enum record_kind {
    RECORD_HARD_STATE = 1,
    RECORD_ENTRY,
    RECORD_CHUNK,
    RECORD_SNAPSHOT,
    RECORD_COMPACT
};

uint64_t sim_entry_content(const struct raft_entry *entry)
{
    uint64_t hash = sim_hash(sim_hash(1, entry->term), entry->type);

    return sim_hash_bytes(hash, entry->data, entry->length);
}

static void blob_append(struct sim_blob *blob, const uint8_t *bytes, size_t length)
{
    if (blob->length + length > blob->room) {
        blob->room = (blob->length + length) * 2;
        blob->bytes = sim_reallocate(blob->bytes, blob->room);
    }
    if (length)
        memcpy(blob->bytes + blob->length, bytes, length);
    blob->length += length;
}

static uint8_t *arena_copy(struct sim_journal *journal, const uint8_t *bytes, size_t length)
{
    struct sim_arena_block *block = journal->arena;
    uint8_t *copy;

    if (length == 0)
        return NULL;
    if (!block || block->size - block->used < length) {
        if (journal->arena_spare && journal->arena_spare->size >= length) {
            block = journal->arena_spare;
            journal->arena_spare = block->next;
        } else {
            size_t size = length > ARENA_BLOCK ? length : ARENA_BLOCK;

            block = sim_allocate(sizeof(*block) + size);
            block->size = size;
        }
        block->used = 0;
        block->next = journal->arena;
        journal->arena = block;
    }
    copy = block->bytes + block->used;
    memcpy(copy, bytes, length);
    block->used += length;
    return copy;
}

static int journal_load(void *context, struct raft_stored *stored)
{
    const struct sim_journal *journal = context;

    stored->hard_state = journal->hard_state;
    stored->snapshot = journal->current.snapshot;
    stored->before = journal->before;
    stored->last_index = journal->last_index;
    return 0;
}

static int journal_read(void *context, uint64_t first, uint64_t last, size_t bytes_max,
                        struct raft_entry *entries, size_t *count)
{
    struct sim_journal *journal = context;
    size_t given = 0, bytes = 0;

    if (journal->refuse_memory && sim_random_chance(&journal->random, 20000))
        return -ENOMEM;
    if (first <= journal->before.index || last > journal->last_index)
        return -EIO;
    for (uint64_t index = first; index <= last && given < *count; index++) {
        const struct sim_stored_entry *entry = sim_journal_entry(journal, index);

        bytes += entry->length;
        if (given > 0 && bytes > bytes_max)
            break;
        entries[given++] = (struct raft_entry){
            .index = index,
            .term = entry->term,
            .type = entry->type,
            .length = entry->length,
            .data = entry->data,
        };
    }
    *count = given;
    return 0;
}

static int journal_read_snapshot(void *context, struct raft_position last, uint64_t offset,
                                 uint8_t *buffer, size_t capacity, size_t *length, bool *done)
{
    struct sim_journal *journal = context;
    const struct sim_kept_snapshot *kept = &journal->current;
    size_t left;

    if (kept->snapshot.last.index != last.index && journal->keep_previous)
        kept = &journal->previous;
    if (kept->snapshot.last.index != last.index || kept->snapshot.last.term != last.term ||
        offset > kept->data.length)
        return -ENOENT;
    left = kept->data.length - offset;
    *length = left < capacity ? left : capacity;
    *done = *length == left;
    memcpy(buffer, kept->data.bytes + offset, *length);
    return 0;
}

void sim_journal_init(struct sim_journal *journal, struct sim_disk *disk)
{
    memset(journal, 0, sizeof(*journal));
    journal->disk = disk;
    journal->storage = (struct raft_storage){
        .context = journal,
        .load = journal_load,
        .read = journal_read,
        .read_snapshot = journal_read_snapshot,
    };
    byte_writer_init(&journal->scratch);
}

static void arena_free(struct sim_arena_block *block)
{
    while (block) {
        struct sim_arena_block *next = block->next;

        free(block);
        block = next;
    }
}

void sim_journal_free(struct sim_journal *journal)
{
    arena_free(journal->arena);
    arena_free(journal->arena_spare);
    free(journal->entries);
    free(journal->current.data.bytes);
    free(journal->previous.data.bytes);
    free(journal->incoming.bytes);
    byte_writer_free(&journal->scratch);
}

void sim_journal_reset(struct sim_journal *journal)
{
    while (journal->arena) {
        struct sim_arena_block *block = journal->arena;

        journal->arena = block->next;
        block->next = journal->arena_spare;
        journal->arena_spare = block;
    }
    journal->file = -1;
    journal->end = 0;
    journal->hard_state = (struct raft_hard_state){0};
    journal->before = (struct raft_position){0};
    journal->last_index = 0;
    memset(&journal->current.snapshot, 0, sizeof(journal->current.snapshot));
    memset(&journal->previous.snapshot, 0, sizeof(journal->previous.snapshot));
    journal->current.data.length = journal->previous.data.length = journal->incoming.length = 0;
    journal->incoming_last = (struct raft_position){0};
}

const struct sim_stored_entry *sim_journal_entry(const struct sim_journal *journal, uint64_t index)
{
    if (index <= journal->before.index || index > journal->last_index)
        return NULL;
    return &journal->entries[index - journal->before.index - 1];
}

bool sim_journal_holds(const struct sim_journal *journal, uint64_t index, uint64_t term)
{
    const struct sim_stored_entry *entry = sim_journal_entry(journal, index);

    return index <= journal->before.index || (entry && entry->term == term);
}

// ---- writing ----

static uint32_t record_checksum(const uint8_t *body, size_t length)
{
    uint64_t hash = sim_hash_bytes(0x6a6f75726e616cu, body, length);

    return (uint32_t)(hash ^ hash >> 32);
}

static void record_begin(struct sim_journal *journal, enum record_kind kind)
{
    byte_writer_reset(&journal->scratch);
    byte_writer_u64(&journal->scratch, 0);
    byte_writer_u8(&journal->scratch, (uint8_t)kind);
}

static int record_end(struct sim_journal *journal)
{
    struct byte_writer *scratch = &journal->scratch;
    size_t body = scratch->length - RECORD_HEADER;
    int error;

    bytes_put_u32(scratch->data, (uint32_t)body);
    bytes_put_u32(scratch->data + 4, record_checksum(scratch->data + RECORD_HEADER, body));
    error =
        sim_disk_write(journal->disk, journal->file, journal->end, scratch->data, scratch->length);
    if (!error)
        journal->end += scratch->length;
    return error;
}

static void record_position(struct sim_journal *journal, struct raft_position position)
{
    byte_writer_u64(&journal->scratch, position.index);
    byte_writer_u64(&journal->scratch, position.term);
}

static void record_configuration(struct sim_journal *journal,
                                 const struct raft_configuration *configuration)
{
    uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX];
    size_t length = raft_configuration_encode(configuration, bytes);

    byte_writer_u16(&journal->scratch, (uint16_t)length);
    byte_writer_bytes(&journal->scratch, bytes, length);
}

static int journal_write_hard_state(struct sim_journal *journal,
                                    const struct raft_hard_state *hard_state)
{
    record_begin(journal, RECORD_HARD_STATE);
    byte_writer_u64(&journal->scratch, hard_state->term);
    byte_writer_u64(&journal->scratch, hard_state->voted_for);
    return record_end(journal);
}

static int journal_write_entry(struct sim_journal *journal, const struct raft_entry *entry)
{
    record_begin(journal, RECORD_ENTRY);
    byte_writer_u64(&journal->scratch, entry->index);
    byte_writer_u64(&journal->scratch, entry->term);
    byte_writer_u8(&journal->scratch, (uint8_t)entry->type);
    byte_writer_bytes(&journal->scratch, entry->data, entry->length);
    return record_end(journal);
}

static int journal_write_chunk(struct sim_journal *journal,
                               const struct raft_snapshot_request *chunk)
{
    record_begin(journal, RECORD_CHUNK);
    record_position(journal, chunk->last);
    byte_writer_u64(&journal->scratch, chunk->offset);
    byte_writer_u8(&journal->scratch, chunk->done);
    record_configuration(journal, chunk->configuration);
    byte_writer_bytes(&journal->scratch, chunk->data, chunk->length);
    return record_end(journal);
}

static int journal_write_compact(struct sim_journal *journal, struct raft_position before)
{
    record_begin(journal, RECORD_COMPACT);
    record_position(journal, before);
    return record_end(journal);
}

static int journal_write_snapshot(struct sim_journal *journal, const struct raft_snapshot *snapshot,
                                  const uint8_t *machine, size_t length)
{
    record_begin(journal, RECORD_SNAPSHOT);
    record_position(journal, snapshot->last);
    record_configuration(journal, &snapshot->configuration);
    byte_writer_bytes(&journal->scratch, machine, length);
    return record_end(journal);
}

int sim_journal_write(struct sim_journal *journal, const struct raft_write *write)
{
    int error = 0;

    if (write->has_hard_state)
        error = journal_write_hard_state(journal, &write->hard_state);
    if (!error && write->chunk)
        error = journal_write_chunk(journal, write->chunk);
    for (size_t i = 0; i < write->entry_count && !error; i++)
        error = journal_write_entry(journal, &write->entries[i]);
    return error;
}

int sim_journal_snapshot(struct sim_journal *journal, const struct raft_snapshot *snapshot,
                         const uint8_t *machine, size_t length, uint64_t before)
{
    int error = journal_write_snapshot(journal, snapshot, machine, length);
    const struct sim_stored_entry *entry = sim_journal_entry(journal, before);

    if (!error && entry)
        error = journal_write_compact(journal,
                                      (struct raft_position){.index = before, .term = entry->term});
    return error;
}

// ---- reading ----

static struct raft_position read_position(struct byte_reader *reader)
{
    struct raft_position position = {.index = byte_reader_u64(reader)};

    position.term = byte_reader_u64(reader);
    return position;
}

static bool read_configuration(struct byte_reader *reader, struct raft_configuration *configuration)
{
    size_t length = byte_reader_u16(reader);
    const uint8_t *bytes = byte_reader_view(reader, length);

    return bytes && raft_configuration_decode(configuration, bytes, length) == 0;
}

static void replay_entry(struct sim_journal *journal, struct byte_reader *reader)
{
    struct raft_entry entry = {.index = byte_reader_u64(reader)};
    size_t slot;

    entry.term = byte_reader_u64(reader);
    entry.type = (enum raft_entry_type)byte_reader_u8(reader);
    entry.length = (uint32_t)byte_reader_left(reader);
    entry.data = byte_reader_view(reader, entry.length);
    if (entry.index <= journal->before.index || entry.index > journal->last_index + 1)
        return; // compacted since; can't be a gap: the core numbers without gaps
    slot = entry.index - journal->before.index - 1;
    if (slot >= journal->entry_room) {
        journal->entry_room = journal->entry_room ? journal->entry_room * 2 : 256;
        journal->entries =
            sim_reallocate(journal->entries, journal->entry_room * sizeof(*journal->entries));
    }
    journal->entries[slot] = (struct sim_stored_entry){
        .term = entry.term,
        .content = sim_entry_content(&entry),
        .data = arena_copy(journal, entry.data, entry.length),
        .length = entry.length,
        .type = entry.type,
    };
    journal->last_index = entry.index;
}

static void replay_compact(struct sim_journal *journal, struct raft_position before)
{
    uint64_t gone = before.index - journal->before.index;

    if (before.index <= journal->before.index || before.index > journal->last_index)
        return;
    memmove(journal->entries, journal->entries + gone,
            (journal->last_index - before.index) * sizeof(*journal->entries));
    journal->before = before;
}

// The blob that held the snapshot before the previous one is used for the new one.
static void snapshot_replace(struct sim_journal *journal, const struct raft_snapshot *snapshot,
                             const uint8_t *data, size_t length)
{
    struct sim_kept_snapshot old = journal->previous;

    journal->previous = journal->current;
    journal->current.snapshot = *snapshot;
    journal->current.data = old.data;
    journal->current.data.length = 0;
    blob_append(&journal->current.data, data, length);
}

static bool replay_snapshot(struct sim_journal *journal, struct byte_reader *reader)
{
    struct raft_snapshot snapshot = {.last = read_position(reader)};
    size_t length;

    if (!read_configuration(reader, &snapshot.configuration))
        return false;
    length = byte_reader_left(reader);
    if (snapshot.last.index > journal->current.snapshot.last.index || snapshot.last.index == 0)
        snapshot_replace(journal, &snapshot, byte_reader_view(reader, length), length);
    return true;
}

static bool replay_chunk(struct sim_journal *journal, struct byte_reader *reader)
{
    struct raft_snapshot snapshot = {.last = read_position(reader)};
    uint64_t offset = byte_reader_u64(reader);
    bool done = byte_reader_u8(reader);
    size_t length;

    if (!read_configuration(reader, &snapshot.configuration))
        return false;
    length = byte_reader_left(reader);
    if (offset == 0) {
        journal->incoming.length = 0;
        journal->incoming_last = snapshot.last;
    }
    if (offset != journal->incoming.length || snapshot.last.index != journal->incoming_last.index ||
        snapshot.last.term != journal->incoming_last.term)
        return true; // no beginning: of use to nobody, and the core knows that as well
    blob_append(&journal->incoming, byte_reader_view(reader, length), length);
    if (!done)
        return true;
    snapshot_replace(journal, &snapshot, journal->incoming.bytes, journal->incoming.length);
    journal->before = snapshot.last;
    journal->last_index = snapshot.last.index;
    journal->incoming.length = 0;
    journal->incoming_last = (struct raft_position){0};
    journal->installs++;
    return true;
}

static bool replay_record(struct sim_journal *journal, const uint8_t *body, size_t length)
{
    struct byte_reader reader;

    byte_reader_init(&reader, body, length);
    switch (byte_reader_u8(&reader)) {
    case RECORD_HARD_STATE:
        journal->hard_state.term = byte_reader_u64(&reader);
        journal->hard_state.voted_for = byte_reader_u64(&reader);
        break;
    case RECORD_ENTRY:
        replay_entry(journal, &reader);
        break;
    case RECORD_CHUNK:
        return replay_chunk(journal, &reader);
    case RECORD_SNAPSHOT:
        return replay_snapshot(journal, &reader);
    case RECORD_COMPACT:
        replay_compact(journal, read_position(&reader));
        break;
    default:
        return false;
    }
    return !reader.failed;
}

bool sim_journal_replay(struct sim_journal *journal, size_t from, size_t to, size_t *good)
{
    const uint8_t *bytes = sim_disk_bytes(journal->disk, journal->file);

    *good = from;
    while (from < to) {
        size_t length;

        if (to - from < RECORD_HEADER)
            return false;
        length = bytes_get_u32(bytes + from);
        if (length == 0 || length > to - from - RECORD_HEADER ||
            bytes_get_u32(bytes + from + 4) !=
                record_checksum(bytes + from + RECORD_HEADER, length) ||
            !replay_record(journal, bytes + from + RECORD_HEADER, length))
            return false;
        from += RECORD_HEADER + length;
        *good = from;
    }
    return true;
}

// ---- starting ----

// Writes the view as a fresh file beside the old one, and puts it in its place when it is durable.
static int journal_rewrite(struct sim_journal *journal)
{
    int error, file = sim_disk_open(journal->disk, JOURNAL_NEW, true);

    if (file < 0)
        return file;
    error = sim_disk_truncate(journal->disk, file, 0);
    journal->file = file;
    journal->end = 0;
    if (!error)
        error = journal_write_hard_state(journal, &journal->hard_state);
    // As a chunk: it makes `before` the snapshot's end. Entries that the snapshot covers are let
    // go.
    if (!error)
        error = journal_write_chunk(journal,
                                    &(struct raft_snapshot_request){
                                        .last = journal->current.snapshot.last,
                                        .configuration = &journal->current.snapshot.configuration,
                                        .data = journal->current.data.bytes,
                                        .length = (uint32_t)journal->current.data.length,
                                        .done = true,
                                    });
    for (uint64_t i = journal->current.snapshot.last.index + 1; i <= journal->last_index && !error;
         i++) {
        const struct sim_stored_entry *entry = sim_journal_entry(journal, i);

        error = journal_write_entry(journal, &(struct raft_entry){.index = i,
                                                                  .term = entry->term,
                                                                  .type = entry->type,
                                                                  .length = entry->length,
                                                                  .data = entry->data});
    }
    if (!error)
        error = sim_disk_sync(journal->disk, file);
    if (!error)
        error = sim_disk_rename(journal->disk, JOURNAL_NEW, JOURNAL_NAME);
    if (!error)
        error = sim_disk_sync_directory(journal->disk);
    return error;
}

int sim_journal_found(struct sim_journal *journal, const struct raft_configuration *configuration,
                      const uint8_t *machine, size_t length)
{
    struct raft_snapshot snapshot = {.configuration = *configuration};

    sim_journal_reset(journal);
    snapshot_replace(journal, &snapshot, machine, length);
    return journal_rewrite(journal);
}

// What was read may be in the page cache alone, and if a sync failed before, no later sync would
// write it: so everything is written anew to another file, which also cuts off a torn tail and
// gives back the room of what was compacted.
int sim_journal_open(struct sim_journal *journal)
{
    size_t size, good;
    int error;

    sim_journal_reset(journal);
    journal->file = sim_disk_open(journal->disk, JOURNAL_NAME, false);
    if (journal->file < 0)
        return journal->file;
    size = sim_disk_size(journal->disk, journal->file);
    sim_journal_replay(journal, 0, size, &good);
    error = journal_rewrite(journal);
    if (error)
        return error;
    return sim_journal_replay(journal, 0, journal->end, &good) ? 0 : -EIO;
}
