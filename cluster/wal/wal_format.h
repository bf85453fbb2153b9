// The bytes of the write-ahead log (docs/wal.md has the tables): pure encoding and decoding.
//
// A segment is one header block and then frames, each starting at a multiple of WAL_BLOCK. A frame
// is what one write makes durable at once: one checksum over all its records, so that it is there
// wholly or not at all, and nothing that is durable shares a block with what is written later.
//
// The segment's salt is a random number in its header and in each of its frames. It keeps what an
// earlier use of a recycled file left behind, and bytes that a client chose, from looking like a
// frame of this segment.
#pragma once

#include <stdbool.h>

#include "base/bytes.h"
#include "cluster/raft/raft_types.h"

enum {
    WAL_VERSION = 1,
    WAL_BLOCK = 4096,
    WAL_FRAME_HEADER = 32,
    WAL_ENTRY_HEADER = 36, // what an entry takes in a frame beside its data
    WAL_HARD_STATE_BYTES = 24,
    WAL_INSTALL_BYTES = 24,
};

struct wal_identity {
    uint8_t cluster[16];
    uint64_t member;
};

struct wal_segment_header {
    struct wal_identity identity;
    uint64_t sequence;     // 1, 2, 3 ... without gaps
    uint64_t salt;         // random
    uint64_t size;         // of the file, header included
    uint64_t previous_end; // where the frames of the segment before end; 0 in the first one
    struct raft_hard_state hard_state; // this and the end of the log: as this segment begins
    struct raft_position last;
};

// `block` has WAL_BLOCK bytes.
void wal_segment_header_encode(const struct wal_segment_header *header, uint8_t *block);
// -EBADMSG if damaged, -EPROTONOSUPPORT for another version.
int wal_segment_header_decode(struct wal_segment_header *header, const uint8_t *block);

enum wal_record_kind { WAL_HARD_STATE = 1, WAL_ENTRY = 2, WAL_INSTALL = 3 };

struct wal_record {
    enum wal_record_kind kind;
    struct raft_hard_state hard_state; // WAL_HARD_STATE
    struct raft_position installed;    // WAL_INSTALL: that snapshot replaces the whole log
    struct raft_entry entry;           // WAL_ENTRY; its data lies in the frame
    uint64_t previous_term;            // of the entry before it
    uint32_t data_crc;
    size_t data_offset; // of the entry's data, from the frame's first byte
};

// A frame is built in a writer: begin, records, end. The writer is empty at the beginning, and
// holds a multiple of WAL_BLOCK after wal_frame_end(). Failures show in the writer.
void wal_frame_begin(struct byte_writer *w);
void wal_frame_hard_state(struct byte_writer *w, const struct raft_hard_state *hard_state);
void wal_frame_install(struct byte_writer *w, struct raft_position snapshot);
// Returns the offset of the entry's data in the frame.
size_t wal_frame_entry(struct byte_writer *w, const struct raft_entry *entry,
                       uint64_t previous_term);
void wal_frame_end(struct byte_writer *w);
// Binds a finished frame to its place; writes over its header only.
void wal_frame_seal(uint8_t *frame, uint64_t salt, uint64_t offset);

// Looks at `length` bytes that start at `offset` of a segment. Sets the length of the frame with
// its padding, or returns -EBADMSG: no frame of this segment, or a damaged one.
int wal_frame_check(const uint8_t *bytes, size_t length, uint64_t salt, uint64_t offset,
                    size_t *frame_length);

// Walks the records of a checked frame: *cursor is 0 at first. 1 with a record, 0 at the end,
// -EBADMSG for records that can't be.
int wal_frame_next(const uint8_t *frame, size_t *cursor, struct wal_record *record);

static inline size_t wal_align(size_t length)
{
    return (length + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
}
