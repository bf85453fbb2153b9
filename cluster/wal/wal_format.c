#include "cluster/wal/wal_format.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"

static const char segment_magic[8] = {'F', 'E', 'R', 'R', 'Y', 'W', 'A', 'L'};

enum { HEADER_CRC_OFFSET = 12, FRAME_RECORDS_OFFSET = 24 };

void wal_segment_header_encode(const struct wal_segment_header *header, uint8_t *block)
{
    struct byte_writer w;

    memset(block, 0, WAL_BLOCK);
    byte_writer_init_fixed(&w, block, WAL_BLOCK);
    byte_writer_bytes(&w, segment_magic, sizeof(segment_magic));
    byte_writer_u32(&w, WAL_VERSION);
    byte_writer_u32(&w, 0);
    byte_writer_bytes(&w, header->identity.cluster, sizeof(header->identity.cluster));
    byte_writer_u64(&w, header->identity.member);
    byte_writer_u64(&w, header->sequence);
    byte_writer_u64(&w, header->salt);
    byte_writer_u64(&w, header->size);
    byte_writer_u64(&w, header->previous_end);
    byte_writer_u64(&w, header->hard_state.term);
    byte_writer_u64(&w, header->hard_state.voted_for);
    byte_writer_u64(&w, header->last.index);
    byte_writer_u64(&w, header->last.term);
    bytes_put_u32(block + HEADER_CRC_OFFSET, crc32c(0, block, WAL_BLOCK));
}

int wal_segment_header_decode(struct wal_segment_header *header, const uint8_t *block)
{
    static const uint8_t zero[4];
    struct byte_reader r;

    if (memcmp(block, segment_magic, sizeof(segment_magic)) != 0)
        return -EBADMSG;
    // The version comes before the checksum: a later version may have another one.
    if (bytes_get_u32(block + 8) != WAL_VERSION)
        return -EPROTONOSUPPORT;
    uint32_t crc = crc32c(0, block, HEADER_CRC_OFFSET);
    crc = crc32c(crc, zero, sizeof(zero));
    crc = crc32c(crc, block + HEADER_CRC_OFFSET + 4, WAL_BLOCK - HEADER_CRC_OFFSET - 4);
    if (crc != bytes_get_u32(block + HEADER_CRC_OFFSET))
        return -EBADMSG;

    byte_reader_init(&r, block + HEADER_CRC_OFFSET + 4, WAL_BLOCK - HEADER_CRC_OFFSET - 4);
    byte_reader_bytes(&r, header->identity.cluster, sizeof(header->identity.cluster));
    header->identity.member = byte_reader_u64(&r);
    header->sequence = byte_reader_u64(&r);
    header->salt = byte_reader_u64(&r);
    header->size = byte_reader_u64(&r);
    header->previous_end = byte_reader_u64(&r);
    header->hard_state.term = byte_reader_u64(&r);
    header->hard_state.voted_for = byte_reader_u64(&r);
    header->last.index = byte_reader_u64(&r);
    header->last.term = byte_reader_u64(&r);
    return 0;
}

void wal_frame_begin(struct byte_writer *w)
{
    uint8_t *header = byte_writer_reserve(w, WAL_FRAME_HEADER);
    if (header)
        memset(header, 0, WAL_FRAME_HEADER);
}

static void count_record(struct byte_writer *w)
{
    if (!w->failed)
        byte_writer_patch_u32(w, FRAME_RECORDS_OFFSET,
                              bytes_get_u32(w->data + FRAME_RECORDS_OFFSET) + 1);
}

static void record_head(struct byte_writer *w, enum wal_record_kind kind, uint8_t type,
                        uint32_t length)
{
    count_record(w);
    byte_writer_u8(w, (uint8_t)kind);
    byte_writer_u8(w, type);
    byte_writer_u16(w, 0);
    byte_writer_u32(w, length);
}

void wal_frame_hard_state(struct byte_writer *w, const struct raft_hard_state *hard_state)
{
    record_head(w, WAL_HARD_STATE, 0, 0);
    byte_writer_u64(w, hard_state->term);
    byte_writer_u64(w, hard_state->voted_for);
}

void wal_frame_install(struct byte_writer *w, struct raft_position snapshot)
{
    record_head(w, WAL_INSTALL, 0, 0);
    byte_writer_u64(w, snapshot.index);
    byte_writer_u64(w, snapshot.term);
}

size_t wal_frame_entry(struct byte_writer *w, const struct raft_entry *entry,
                       uint64_t previous_term)
{
    record_head(w, WAL_ENTRY, (uint8_t)entry->type, entry->length);
    byte_writer_u64(w, entry->index);
    byte_writer_u64(w, entry->term);
    byte_writer_u64(w, previous_term);
    byte_writer_u32(w, crc32c(0, entry->data, entry->length));
    size_t offset = w->length;
    byte_writer_bytes(w, entry->data, entry->length);
    return offset;
}

void wal_frame_end(struct byte_writer *w)
{
    size_t length = w->length;
    size_t padding = wal_align(length) - length;
    uint8_t *room = byte_writer_reserve(w, padding);
    if (!room)
        return;
    memset(room, 0, padding);
    byte_writer_patch_u32(w, 4, (uint32_t)(length - WAL_FRAME_HEADER));
}

void wal_frame_seal(uint8_t *frame, uint64_t salt, uint64_t offset)
{
    bytes_put_u64(frame + 8, salt);
    bytes_put_u64(frame + 16, offset);
    size_t length = WAL_FRAME_HEADER + bytes_get_u32(frame + 4);
    bytes_put_u32(frame, crc32c(0, frame + 4, length - 4));
}

int wal_frame_check(const uint8_t *bytes, size_t length, uint64_t salt, uint64_t offset,
                    size_t *frame_length)
{
    if (length < WAL_FRAME_HEADER || bytes_get_u64(bytes + 8) != salt ||
        bytes_get_u64(bytes + 16) != offset)
        return -EBADMSG;
    size_t payload = bytes_get_u32(bytes + 4);
    if (payload == 0 || payload > length - WAL_FRAME_HEADER)
        return -EBADMSG;
    if (crc32c(0, bytes + 4, WAL_FRAME_HEADER + payload - 4) != bytes_get_u32(bytes))
        return -EBADMSG;
    *frame_length = wal_align(WAL_FRAME_HEADER + payload);
    return *frame_length <= length ? 0 : -EBADMSG;
}

int wal_frame_next(const uint8_t *frame, size_t *cursor, struct wal_record *record)
{
    struct byte_reader r;
    size_t end = WAL_FRAME_HEADER + bytes_get_u32(frame + 4);

    if (*cursor == 0)
        *cursor = WAL_FRAME_HEADER;
    if (*cursor == end)
        return 0;
    byte_reader_init(&r, frame, end);
    r.offset = *cursor;
    *record = (struct wal_record){.kind = (enum wal_record_kind)byte_reader_u8(&r)};
    uint8_t type = byte_reader_u8(&r);
    uint16_t zero = byte_reader_u16(&r);
    uint32_t length = byte_reader_u32(&r);
    switch (record->kind) {
    case WAL_HARD_STATE:
        record->hard_state.term = byte_reader_u64(&r);
        record->hard_state.voted_for = byte_reader_u64(&r);
        break;
    case WAL_INSTALL:
        record->installed.index = byte_reader_u64(&r);
        record->installed.term = byte_reader_u64(&r);
        break;
    case WAL_ENTRY:
        record->entry.type = (enum raft_entry_type)type;
        record->entry.length = length;
        record->entry.index = byte_reader_u64(&r);
        record->entry.term = byte_reader_u64(&r);
        record->previous_term = byte_reader_u64(&r);
        record->data_crc = byte_reader_u32(&r);
        record->data_offset = r.offset;
        record->entry.data = byte_reader_view(&r, length);
        if (length == 0)
            record->entry.data = NULL;
        if (type > RAFT_ENTRY_CONFIGURATION || record->entry.index == 0 || record->entry.term == 0)
            return -EBADMSG;
        break;
    default:
        return -EBADMSG;
    }
    if (r.failed || zero != 0 || (record->kind != WAL_ENTRY && (length != 0 || type != 0)))
        return -EBADMSG;
    *cursor = r.offset;
    return 1;
}
