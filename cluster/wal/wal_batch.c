// Writing: what a ready wants durable becomes frames, and frames become durable one after another.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/wal/wal_internal.h"

enum { BEGIN_BYTES_MAX = 256 << 10 };

// Room for records in one frame. A write that needs more is cut into several.
static size_t frame_room(const struct wal *wal)
{
    size_t room = wal->options.segment_bytes / 4;
    return room < (4 << 20) ? room : (4 << 20);
}

static int batch_add_frame(struct wal_batch *batch, struct byte_writer *w)
{
    wal_frame_end(w);
    struct wal_frame *frames =
        realloc(batch->frames, (batch->frame_count + 1) * sizeof(*batch->frames));
    struct wal_block *block = frames ? wal_block_create() : NULL;
    if (frames)
        batch->frames = frames;
    if (!block || w->failed) {
        free(block);
        return -ENOMEM;
    }
    block->bytes = w->data;
    block->length = w->length;
    byte_writer_init(w); // the block owns the bytes now
    batch->frames[batch->frame_count++] = (struct wal_frame){.block = block};
    return 0;
}

static int batch_encode(struct wal_batch *batch, const struct raft_write *write)
{
    struct wal *wal = batch->wal;
    struct byte_writer w;
    size_t room = frame_room(wal);
    size_t largest = wal->options.segment_bytes - WAL_BLOCK;
    int error = 0;

    byte_writer_init(&w);
    wal_frame_begin(&w);
    if (write->has_hard_state)
        wal_frame_hard_state(&w, &write->hard_state);
    if (batch->installs)
        wal_frame_install(&w, batch->installed.last);
    for (size_t i = 0; !error && i < write->entry_count; i++) {
        const struct raft_entry *entry = &write->entries[i];
        size_t size = WAL_ENTRY_HEADER + (size_t)entry->length;
        bool begun = w.length > WAL_FRAME_HEADER;
        if (wal_align(WAL_FRAME_HEADER + WAL_HARD_STATE_BYTES + WAL_INSTALL_BYTES + size) >
            largest) {
            error = -EINVAL;
            break;
        }
        if (begun && (w.length + size > room || wal_align(w.length + size) > largest)) {
            error = batch_add_frame(batch, &w);
            wal_frame_begin(&w);
        }
        if (entry->index != batch->last.index + 1 || entry->term < batch->last.term)
            error = -EINVAL;
        if (!error)
            wal_frame_entry(&w, entry, batch->last.term);
        batch->last = (struct raft_position){entry->index, entry->term};
    }
    if (!error && w.length > WAL_FRAME_HEADER)
        error = batch_add_frame(batch, &w);
    byte_writer_free(&w);
    return error;
}

static int batch_copy_chunk(struct wal_batch *batch, const struct raft_snapshot_request *chunk)
{
    batch->has_chunk = true;
    batch->chunk_offset = chunk->offset;
    batch->chunk_length = chunk->length;
    batch->chunk_done = chunk->done;
    batch->chunk_of.last = chunk->last;
    batch->chunk_of.configuration = *chunk->configuration;
    batch->installs = chunk->done;
    batch->installed = batch->chunk_of;
    if (chunk->done)
        batch->last = chunk->last;
    if (chunk->length == 0)
        return 0;
    batch->chunk_data = malloc(chunk->length);
    if (!batch->chunk_data)
        return -ENOMEM;
    memcpy(batch->chunk_data, chunk->data, chunk->length);
    return 0;
}

int wal_batch_prepare(struct wal *wal, const struct raft_write *write, struct wal_batch **out)
{
    struct wal_log *log = &wal->log;
    if (wal->options.read_only)
        return -EROFS;
    struct wal_batch *batch = calloc(1, sizeof(*batch));
    if (!batch)
        return -ENOMEM;
    batch->wal = wal;
    batch->hard_state = write->has_hard_state ? write->hard_state : log->hard_state;
    batch->last =
        (struct raft_position){wal_log_last(log), wal_log_term_at(log, wal_log_last(log))};
    int error = 0;
    if (write->has_hard_state && write->hard_state.term < log->hard_state.term)
        error = -EINVAL;
    if (!error && write->chunk)
        error = batch_copy_chunk(batch, write->chunk);
    if (!error && write->entry_count && !batch->installs) {
        uint64_t previous = write->entries[0].index - 1;
        if (previous < log->before.index || previous > wal_log_last(log))
            error = -EINVAL;
        batch->last = (struct raft_position){previous, wal_log_term_at(log, previous)};
    }
    if (!error)
        error = batch_encode(batch, write);
    if (!error)
        error = wal_log_reserve(log, write->entry_count);
    if (error) {
        wal_batch_abandon(batch);
        return error;
    }
    *out = batch;
    return 0;
}

bool wal_batch_installs(const struct wal_batch *batch, struct raft_position *last)
{
    if (batch->installs)
        *last = batch->installed.last;
    return batch->installs;
}

static int commit_chunk(struct wal *wal, struct wal_batch *batch)
{
    struct wal_writer *writer = &wal->writer;
    int error;

    if (batch->chunk_offset == 0 && !batch->chunk_written) {
        wal_snapshot_writer_free(writer->receiving);
        writer->receiving = NULL;
        error = wal_snapshot_create(&writer->receiving, wal->options.files, WAL_RECEIVING,
                                    &wal->identity, &batch->chunk_of);
        if (error)
            return error;
    }
    if (!writer->receiving)
        return -EINVAL;
    if (!batch->chunk_written) {
        if (wal_snapshot_written(writer->receiving) != batch->chunk_offset)
            return -EINVAL;
        error = wal_snapshot_append(writer->receiving, batch->chunk_data, batch->chunk_length);
        if (error)
            return error;
        batch->chunk_written = true;
    }
    if (batch->chunk_done) {
        error = wal_snapshot_finish(writer->receiving);
        if (error)
            return error;
        wal_snapshot_writer_free(writer->receiving);
        writer->receiving = NULL;
    }
    batch->has_chunk = false;
    return 0;
}

unsigned wal_writer_flags(const struct wal *wal)
{
    if (!wal->options.write_through)
        return 0;
    return wal->options.direct ? FILES_DSYNC | FILES_DIRECT : FILES_DSYNC;
}

static bool aligned_copy(struct wal_writer *writer, const uint8_t *bytes, size_t length)
{
    if (length > writer->aligned_room) {
        uint8_t *room = aligned_alloc(FILES_ALIGNMENT, length);
        if (!room)
            return false;
        free(writer->aligned);
        writer->aligned = room;
        writer->aligned_room = length;
    }
    memcpy(writer->aligned, bytes, length);
    return true;
}

// Writes whole blocks and makes them durable.
static int write_durably(struct wal *wal, int file, uint64_t offset, const uint8_t *bytes,
                         size_t length)
{
    const struct files *files = wal->options.files;
    struct wal_writer *writer = &wal->writer;
    if (wal->options.write_through && wal->options.direct) {
        if (!aligned_copy(writer, bytes, length))
            return -ENOMEM;
        bytes = writer->aligned;
    }
    int error = files->write(files->context, file, offset, bytes, length);
    if (error == -ENOSPC && !wal->options.write_through)
        return error; // a file system that allocates anew on each write; nothing was synced yet
    if (!error && !wal->options.write_through)
        error = files->sync(files->context, file);
    return error == -ENOSPC ? -EIO : error;
}

int wal_segment_activate(struct wal *wal, uint32_t spare, const struct wal_segment_header *header)
{
    const struct files *files = wal->options.files;
    char name[FILES_NAME_SIZE], from[FILES_NAME_SIZE];
    uint8_t block[WAL_BLOCK];
    int file;

    wal_spare_name(from, spare);
    wal_segment_name(name, header->sequence);
    int error = files->open(files->context, from, wal_writer_flags(wal), &file);
    if (error)
        return error;
    wal_segment_header_encode(header, block);
    // The header is durable before the name: a segment of that name always has a good header.
    error = write_durably(wal, file, 0, block, sizeof(block));
    if (!error)
        error = files->rename(files->context, from, name);
    if (!error)
        error = files->sync_directory(files->context);
    if (error) {
        files->close(files->context, file);
        return error == -ENOSPC ? -EIO : error;
    }
    wal->writer.file = file;
    wal->writer.sequence = header->sequence;
    wal->writer.salt = header->salt;
    wal->writer.offset = WAL_BLOCK;
    wal->writer.size = header->size;
    return 0;
}

void wal_publish_room(struct wal *wal)
{
    struct wal_pool *pool = &wal->pool;
    pthread_mutex_lock(&pool->mutex);
    pool->active_left = wal->writer.size - wal->writer.offset;
    pthread_mutex_unlock(&pool->mutex);
}

static int rotate(struct wal *wal)
{
    struct wal_writer *writer = &wal->writer;
    uint32_t spare;
    int old = writer->file;
    int error = wal_pool_take(wal, &spare);
    if (error == -ENOSPC) {
        // Nobody had the time to make one, or the disk is full. Recycling stays with whoever
        // maintains the log: it may be at it right now.
        error = wal_pool_hurry(wal, &spare);
        if (error)
            return error == -EDQUOT ? -ENOSPC : error;
    }
    struct wal_segment_header header = {
        .identity = wal->identity,
        .sequence = writer->sequence + 1,
        .size = wal->options.segment_bytes,
        .previous_end = writer->offset,
        .hard_state = writer->hard_state,
        .last = writer->last,
    };
    error = wal_random(&wal->options, &header.salt, sizeof(header.salt));
    if (!error)
        error = wal_segment_activate(wal, spare, &header);
    if (error)
        return error == -ENOSPC ? -EIO : error;
    wal->options.files->close(wal->options.files->context, old);
    return 0;
}

// The records of a frame that is durable now count for the next segment's header.
static void writer_note(struct wal_writer *writer, const struct wal_frame *frame)
{
    struct wal_record record;
    size_t cursor = 0;
    while (wal_frame_next(frame->block->bytes, &cursor, &record) == 1) {
        if (record.kind == WAL_HARD_STATE)
            writer->hard_state = record.hard_state;
        else if (record.kind == WAL_INSTALL)
            writer->last = record.installed;
        else
            writer->last = (struct raft_position){record.entry.index, record.entry.term};
    }
}

static void frame_is_durable(struct wal *wal, struct wal_frame *frame)
{
    struct wal_writer *writer = &wal->writer;
    frame->sequence = writer->sequence;
    frame->offset = writer->offset;
    writer->offset += frame->block->length;
    writer_note(writer, frame);
    wal_publish_room(wal);
}

static int commit_frame(struct wal *wal, struct wal_frame *frame)
{
    struct wal_writer *writer = &wal->writer;
    struct wal_block *block = frame->block;

    if (block->length > writer->size - writer->offset) {
        int error = rotate(wal);
        if (error)
            return error;
    }
    wal_frame_seal(block->bytes, writer->salt, writer->offset);
    int error = write_durably(wal, writer->file, writer->offset, block->bytes, block->length);
    if (!error)
        frame_is_durable(wal, frame);
    return error;
}

int wal_batch_commit(struct wal_batch *batch)
{
    struct wal *wal = batch->wal;
    int error = 0;

    if (wal->writer.failed)
        return -EIO;
    if (batch->has_chunk)
        error = commit_chunk(wal, batch);
    while (!error && batch->frames_written < batch->frame_count) {
        error = commit_frame(wal, &batch->frames[batch->frames_written]);
        if (!error)
            batch->frames_written++;
    }
    if (error == -EDQUOT)
        error = -ENOSPC;
    if (error && error != -ENOSPC && error != -ENOMEM)
        wal->writer.failed = true;
    return error;
}

int wal_commit_descriptor(const struct wal *wal)
{
    const struct files *files = wal->options.files;
    if (!files->write_begin || !wal->options.write_through || !wal->options.direct)
        return -EOPNOTSUPP;
    return files->write_descriptor(files->context);
}

int wal_batch_commit_begin(struct wal_batch *batch)
{
    struct wal *wal = batch->wal;
    struct wal_writer *writer = &wal->writer;
    const struct files *files = wal->options.files;

    if (writer->failed || batch->has_chunk || batch->frame_count != 1 || batch->frames_written)
        return -EAGAIN;
    struct wal_block *block = batch->frames[0].block;
    // Another segment takes more than one write; and a long one isn't for the loop to prepare.
    if (block->length > writer->size - writer->offset || block->length > BEGIN_BYTES_MAX)
        return -EAGAIN;
    wal_frame_seal(block->bytes, writer->salt, writer->offset);
    if (!aligned_copy(writer, block->bytes, block->length))
        return -ENOMEM;
    return files->write_begin(files->context, writer->file, writer->offset, writer->aligned,
                              block->length);
}

int wal_batch_commit_poll(struct wal_batch *batch, bool wait)
{
    struct wal *wal = batch->wal;
    int state = wal->options.files->write_poll(wal->options.files->context, wait);

    if (state == 1 || state == -EAGAIN)
        return state;
    if (state == 0) {
        frame_is_durable(wal, &batch->frames[0]);
        batch->frames_written = 1;
        return 0;
    }
    // As in wal_batch_commit(): the segment was written before, so a full disk is no excuse here.
    wal->writer.failed = true;
    return state == -ENOSPC || state == -EDQUOT ? -EIO : state;
}

int wal_batch_finish(struct wal_batch *batch)
{
    struct wal *wal = batch->wal;
    int error = 0;

    for (size_t i = 0; !error && i < batch->frame_count; i++) {
        struct wal_frame *frame = &batch->frames[i];
        struct wal_record record;
        size_t cursor = 0;
        wal->log.last_segment = frame->sequence;
        wal->log.frames++;
        wal->log.bytes += frame->block->length;
        while (!error && wal_frame_next(frame->block->bytes, &cursor, &record) == 1)
            error = wal_log_apply(&wal->log, &record, frame->block, frame->sequence, frame->offset,
                                  false);
    }
    if (error)
        return error;
    if (batch->installs) {
        wal_pool_keep_snapshots(wal, wal->log.snapshot.last);
        wal->log.snapshot = batch->installed;
        // What the snapshot replaced is in earlier segments, and in this one before the record.
        uint64_t first = batch->frames[0].sequence;
        if (first > wal->log.first_segment)
            wal->log.first_segment = first;
        wal_pool_retire(wal, first);
    }
    wal_log_trim_cache(&wal->log);
    wal_batch_abandon(batch);
    return 0;
}

void wal_batch_abandon(struct wal_batch *batch)
{
    if (!batch)
        return;
    for (size_t i = 0; i < batch->frame_count; i++)
        wal_block_unref(&batch->wal->log, batch->frames[i].block);
    free(batch->frames);
    free(batch->chunk_data);
    free(batch);
}
