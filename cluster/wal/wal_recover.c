// From the files of a directory to the log they hold. The rules of what is a torn tail and what is
// damage are at the top of wal.h.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/wal/wal_internal.h"

enum { SNAPSHOTS_MAX = 16 };

struct listing {
    uint64_t lowest, highest, segments;
    struct raft_position snapshots[SNAPSHOTS_MAX]; // the newest ones
    unsigned snapshot_count;
    uint32_t spares[WAL_SPARES_MAX];
    unsigned spare_count;
    uint32_t spare_highest;
    char remove[FILES_NAME_SIZE]; // one that is left over
};

static bool is_temporary(const char *name)
{
    size_t length = strlen(name);
    return length > 4 && length < FILES_NAME_SIZE && strcmp(name + length - 4, ".tmp") == 0;
}

static void note_snapshot(struct listing *listing, struct raft_position last)
{
    unsigned place = listing->snapshot_count;
    while (place && listing->snapshots[place - 1].index < last.index)
        place--;
    if (place >= SNAPSHOTS_MAX)
        return;
    if (listing->snapshot_count < SNAPSHOTS_MAX)
        listing->snapshot_count++;
    memmove(&listing->snapshots[place + 1], &listing->snapshots[place],
            (listing->snapshot_count - place - 1) * sizeof(last));
    listing->snapshots[place] = last;
}

static void note_name(void *opaque, const char *name)
{
    struct listing *listing = opaque;
    char again[FILES_NAME_SIZE];
    struct raft_position last;
    uint64_t sequence;
    uint32_t number;

    if (sscanf(name, "wal-%" SCNx64, &sequence) == 1) {
        wal_segment_name(again, sequence);
        if (strcmp(again, name) != 0)
            return;
        listing->segments++;
        if (listing->segments == 1 || sequence < listing->lowest)
            listing->lowest = sequence;
        if (sequence > listing->highest)
            listing->highest = sequence;
    } else if (wal_snapshot_name_parse(name, &last)) {
        note_snapshot(listing, last);
    } else if (sscanf(name, "spare-%" SCNx32, &number) == 1) {
        wal_spare_name(again, number);
        if (strcmp(again, name) != 0)
            return;
        if (number >= listing->spare_highest)
            listing->spare_highest = number;
        if (listing->spare_count < WAL_SPARES_MAX)
            listing->spares[listing->spare_count++] = number;
        else
            snprintf(listing->remove, sizeof(listing->remove), "%.39s", name);
    } else if (is_temporary(name)) {
        snprintf(listing->remove, sizeof(listing->remove), "%.39s", name);
    }
}

// What a walk through one segment needs to know and finds out.
struct segment {
    char name[FILES_NAME_SIZE];
    uint64_t sequence;
    bool final; // no other follows
    int file;
    uint64_t size;
    uint8_t *bytes;
    struct wal_segment_header header;
    uint64_t end;        // of the frames
    uint64_t last_frame; // its offset, 0: none
};

static int damaged(struct error *err, const struct segment *segment, uint64_t offset,
                   const char *what)
{
    return error_set(
        err, EBADMSG,
        "write-ahead log: file '%s' is damaged at offset %" PRIu64
        ": %s. Valid records follow, or must: this is no interrupted write. Remove this "
        "member and let a new one join in its place",
        segment->name, offset, what);
}

static int segment_load(struct wal *wal, struct segment *segment, struct error *err)
{
    const struct files *files = wal->options.files;
    size_t got = 0;
    int error = files->open(files->context, segment->name, 0, &segment->file);
    if (error)
        return error_set_errno(err, -error, "write-ahead log: file '%s' can't be opened",
                               segment->name);
    error = files->size(files->context, segment->file, &segment->size);
    if (!error) {
        segment->bytes = malloc(segment->size ? segment->size : 1);
        error = segment->bytes ? files->read(files->context, segment->file, 0, segment->bytes,
                                             segment->size, &got)
                               : -ENOMEM;
    }
    if (error)
        return error_set_errno(err, -error, "write-ahead log: file '%s' can't be read",
                               segment->name);
    if (got != segment->size || got < WAL_BLOCK)
        return damaged(err, segment, got, "the file is too short");
    error = wal_segment_header_decode(&segment->header, segment->bytes);
    if (error == -EPROTONOSUPPORT)
        return error_set(err, EPROTONOSUPPORT,
                         "write-ahead log: file '%s' was written by another version of ferry",
                         segment->name);
    if (error)
        return damaged(err, segment, 0, "the header's checksum is wrong");
    if (segment->header.sequence != segment->sequence)
        return damaged(err, segment, 0, "the header is of another file");
    if (segment->header.size != segment->size)
        return damaged(err, segment, segment->size < segment->header.size ? segment->size : 0,
                       "its size isn't what the header says, so it was cut or grew");
    return 0;
}

// Does this segment continue what came before it?
static int segment_continues(struct wal *wal, const struct segment *segment,
                             const struct segment *previous, struct error *err)
{
    const struct wal_segment_header *header = &segment->header;
    struct wal_log *log = &wal->log;

    if (!previous) {
        wal->identity = header->identity;
        log->hard_state = header->hard_state;
        log->before = header->last;
        log->first_segment = segment->sequence;
        log->last_segment = segment->sequence;
        return 0;
    }
    if (memcmp(header->identity.cluster, wal->identity.cluster, sizeof(wal->identity.cluster)) !=
            0 ||
        header->identity.member != wal->identity.member)
        return damaged(err, segment, 0, "it belongs to another member");
    if (header->previous_end != previous->end)
        return damaged(err, previous, previous->end, "records are missing or damaged");
    uint64_t last = wal_log_last(log);
    if (header->last.index != last || header->last.term != wal_log_term_at(log, last) ||
        header->hard_state.term != log->hard_state.term ||
        header->hard_state.voted_for != log->hard_state.voted_for)
        return damaged(err, segment, 0, "it doesn't continue the segment before");
    return 0;
}

static int frame_apply(struct wal *wal, struct segment *segment, uint64_t offset, struct error *err)
{
    struct wal_record record;
    size_t cursor = 0;
    int found;
    while ((found = wal_frame_next(segment->bytes + offset, &cursor, &record)) == 1) {
        int error = wal_log_apply(&wal->log, &record, NULL, segment->sequence, offset, true);
        if (error == -ENOMEM)
            return error_set(err, ENOMEM, "write-ahead log: out of memory");
        if (error)
            return damaged(err, segment, offset, "a record doesn't fit the ones before");
    }
    if (found < 0)
        return damaged(err, segment, offset, "a record can't be understood");
    return 0;
}

static int segment_walk(struct wal *wal, struct segment *segment, struct error *err)
{
    uint64_t offset = WAL_BLOCK;
    uint64_t salt = segment->header.salt;
    size_t length;

    while (offset < segment->size &&
           wal_frame_check(segment->bytes + offset, segment->size - offset, salt, offset,
                           &length) == 0) {
        int error = frame_apply(wal, segment, offset, err);
        if (error)
            return error;
        segment->last_frame = offset;
        wal->log.last_segment = segment->sequence;
        offset += length;
    }
    segment->end = offset;
    if (!segment->final)
        return 0; // the next segment's header knows where this one must end
    for (uint64_t later = offset + WAL_BLOCK; later < segment->size; later += WAL_BLOCK)
        if (wal_frame_check(segment->bytes + later, segment->size - later, salt, later, &length) ==
            0)
            return damaged(err, segment, offset, "a record's checksum is wrong");
    if (offset < segment->size && bytes_get_u64(segment->bytes + offset + 8) == salt)
        wal->cut_bytes = WAL_FRAME_HEADER + (uint64_t)bytes_get_u32(segment->bytes + offset + 4);
    return 0;
}

// The last frame may be in the page cache only: writes it again, so that it is on the disk.
static int segment_settle(struct wal *wal, struct segment *segment, struct error *err)
{
    const struct files *files = wal->options.files;
    int error = 0;
    if (segment->last_frame)
        error =
            files->write(files->context, segment->file, segment->last_frame,
                         segment->bytes + segment->last_frame, segment->end - segment->last_frame);
    if (!error)
        error = files->sync(files->context, segment->file);
    if (!error)
        error = files->sync_directory(files->context);
    if (error)
        return error_set_errno(err, -error, "write-ahead log: file '%s' can't be written",
                               segment->name);
    return 0;
}

static int writer_start(struct wal *wal, const struct segment *segment, struct error *err)
{
    const struct files *files = wal->options.files;
    struct wal_writer *writer = &wal->writer;
    uint64_t last = wal_log_last(&wal->log);
    int error = files->open(files->context, segment->name, wal_writer_flags(wal), &writer->file);
    if (error)
        return error_set_errno(err, -error, "write-ahead log: file '%s' can't be opened",
                               segment->name);
    writer->sequence = segment->sequence;
    writer->salt = segment->header.salt;
    writer->offset = segment->end;
    writer->size = segment->size;
    writer->hard_state = wal->log.hard_state;
    writer->last = (struct raft_position){last, wal_log_term_at(&wal->log, last)};
    wal_publish_room(wal);
    return 0;
}

static void segment_free(struct wal *wal, struct segment *segment)
{
    if (segment->file >= 0)
        wal->options.files->close(wal->options.files->context, segment->file);
    free(segment->bytes);
    segment->file = -1;
    segment->bytes = NULL;
}

static int recover_segments(struct wal *wal, const struct listing *listing, struct error *err)
{
    struct segment segment = {.file = -1}, previous = {.file = -1};
    int error = 0;

    for (uint64_t s = listing->lowest; !error && s <= listing->highest; s++) {
        segment = (struct segment){.sequence = s, .final = s == listing->highest, .file = -1};
        wal_segment_name(segment.name, s);
        error = segment_load(wal, &segment, err);
        if (!error)
            error = segment_continues(wal, &segment, s > listing->lowest ? &previous : NULL, err);
        if (!error)
            error = segment_walk(wal, &segment, err);
        if (!error && segment.final && !wal->options.read_only) {
            error = segment_settle(wal, &segment, err);
            if (!error)
                error = writer_start(wal, &segment, err);
        }
        segment_free(wal, &segment);
        previous = segment;
    }
    return error;
}

// The newest snapshot whose last entry is in the log, or just before it.
static int recover_snapshot(struct wal *wal, const struct listing *listing, struct error *err)
{
    struct wal_log *log = &wal->log;
    for (unsigned i = 0; i < listing->snapshot_count; i++) {
        struct raft_position last = listing->snapshots[i];
        struct wal_snapshot_reader *reader;
        char name[FILES_NAME_SIZE];
        if (last.index < log->before.index || last.index > wal_log_last(log) ||
            wal_log_term_at(log, last.index) != last.term)
            continue;
        wal_snapshot_name(name, last);
        int error = wal_snapshot_open(&reader, wal->options.files, name, err);
        if (error)
            return error;
        log->snapshot = *wal_snapshot_describe(reader);
        bool ours = memcmp(wal_snapshot_identity(reader)->cluster, wal->identity.cluster,
                           sizeof(wal->identity.cluster)) == 0 &&
                    log->snapshot.last.index == last.index && log->snapshot.last.term == last.term;
        wal_snapshot_reader_free(reader);
        if (!ours)
            return error_set(err, EBADMSG, "snapshot '%s': belongs to another cluster or position",
                             name);
        return 0;
    }
    return error_set(err, EBADMSG,
                     "write-ahead log: no snapshot for the log that begins after entry %" PRIu64
                     ": a file 'snap-...' is missing",
                     log->before.index);
}

// Removes what no crash-free run leaves behind. Failing to is no reason not to start.
static void clean_up(struct wal *wal, struct listing *listing)
{
    const struct files *files = wal->options.files;
    for (unsigned i = 0; i < listing->snapshot_count; i++) {
        char name[FILES_NAME_SIZE];
        if (listing->snapshots[i].index == wal->log.snapshot.last.index &&
            listing->snapshots[i].term == wal->log.snapshot.last.term)
            continue;
        wal_snapshot_name(name, listing->snapshots[i]);
        files->remove(files->context, name);
    }
    for (unsigned i = 0; i < listing->spare_count; i++) {
        char name[FILES_NAME_SIZE];
        uint64_t size = 0;
        int file;
        wal_spare_name(name, listing->spares[i]);
        if (files->open(files->context, name, 0, &file) == 0) {
            files->size(files->context, file, &size);
            files->close(files->context, file);
        }
        if (size == wal->options.segment_bytes && wal->pool.spare_count < wal->options.spares)
            wal->pool.spares[wal->pool.spare_count++] = listing->spares[i];
        else
            files->remove(files->context, name);
    }
    for (int rounds = 0; listing->remove[0] && rounds < 64; rounds++) {
        files->remove(files->context, listing->remove);
        *listing = (struct listing){0};
        files->list(files->context, note_name, listing);
    }
}

int wal_recover(struct wal *wal, struct error *err)
{
    const struct files *files = wal->options.files;
    struct listing listing = {0};
    int error = files->list(files->context, note_name, &listing);
    if (error)
        return error_set_errno(err, -error, "write-ahead log: the directory can't be listed");
    if (listing.segments == 0) {
        // Index 0 may be left over from a creation that was cut short. More than that is a log
        // whose segments someone removed.
        if (listing.snapshot_count && listing.snapshots[0].index > 0)
            return error_set(err, EBADMSG,
                             "write-ahead log: there is a snapshot but no segment 'wal-...'");
        return error_set(err, ENOENT, "write-ahead log: the directory holds no log");
    }
    if (listing.highest - listing.lowest + 1 != listing.segments)
        return error_set(err, EBADMSG,
                         "write-ahead log: a segment between 'wal-%016" PRIx64
                         "' and 'wal-%016" PRIx64 "' is missing",
                         listing.lowest, listing.highest);
    error = recover_segments(wal, &listing, err);
    if (!error)
        error = recover_snapshot(wal, &listing, err);
    if (error)
        return error;
    wal->pool.next_spare = listing.spare_highest + 1;
    wal->pool.retired_first = wal->pool.retired_end = listing.lowest;
    if (!wal->options.read_only)
        clean_up(wal, &listing);
    return 0;
}
