// The parts of the log share these; nobody else includes this.
//
//   wal_log.c      what is in the log, in memory: the storage's view
//   wal_recover.c  from files to that view
//   wal_batch.c    writing: frames, rotation, received snapshots
//   wal_pool.c     spare and retired segments
//   wal.c          creation, opening, snapshots, status
#pragma once

#include "cluster/wal/wal.h"

#define WAL_RECEIVING "receiving.tmp"
#define WAL_TAKING    "taking.tmp"
#define WAL_FILLING   "filling.tmp"
#define WAL_HURRYING  "hurrying.tmp"
#define WAL_MEASURING "measuring.tmp"

enum { WAL_FILL_BYTES = 1 << 20 };

// A frame's bytes, for as long as an entry's data in them is wanted.
struct wal_block {
    uint32_t references;
    bool dead; // on the list of those that wait for release()
    struct wal_block *next;
    size_t length;
    uint8_t *bytes;
};

struct wal_entry {
    uint64_t term;
    uint64_t sequence; // of its segment
    uint64_t offset;   // of its data in that file
    uint32_t length;
    uint32_t data_crc;
    enum raft_entry_type type;
    struct wal_block *block; // where its data is in memory, or NULL
    const uint8_t *data;
};

// Data that read() fetched from the disk.
struct wal_fetched {
    struct wal_fetched *next;
    uint8_t bytes[];
};

// The storage's view. Entry `index` is at ring[(head + index - before.index - 1) & (room - 1)].
struct wal_log {
    const struct files *files;
    size_t cache_bytes;
    struct raft_hard_state hard_state;
    struct raft_snapshot snapshot;
    struct raft_position before;
    struct wal_entry *ring;
    size_t room; // a power of two, or 0
    size_t head;
    size_t count;
    uint64_t first_segment;
    uint64_t last_segment; // where something was written that shows
    uint64_t frames, bytes;
    uint64_t uncached; // entries up to this index have no data in memory
    size_t cached;     // bytes of data in memory
    bool reading;      // something that read() gave is in use
    struct wal_block *dead;
    struct wal_fetched *fetched;
    uint64_t open_sequence; // the segment that is open for reading, 0: none
    int open_file;
    struct wal_snapshot_reader *sending;
};

struct wal_frame {
    struct wal_block *block;
    uint64_t sequence; // where it was written
    uint64_t offset;
};

struct wal_batch {
    struct wal *wal;
    struct raft_hard_state hard_state; // as of its end, and so are these
    struct raft_position last;
    bool installs;
    struct raft_snapshot installed;
    bool has_chunk, chunk_written;
    uint64_t chunk_offset;
    struct raft_snapshot chunk_of;
    bool chunk_done;
    uint8_t *chunk_data;
    uint32_t chunk_length;
    struct wal_frame *frames;
    size_t frame_count;
    size_t frames_written;
    struct wal_block *building; // the frame that is being put together
};

// Where the next frame goes. Belongs to whoever commits.
struct wal_writer {
    int file;
    uint64_t sequence;
    uint64_t salt;
    uint64_t offset;
    uint64_t size; // of the file
    struct raft_hard_state hard_state;
    struct raft_position last;
    struct wal_snapshot_writer *receiving;
    uint8_t *aligned; // where direct writes start from
    size_t aligned_room;
    bool failed;
};

enum { WAL_SPARES_MAX = 8 };

struct wal_pool {
    pthread_mutex_t mutex; // guards the rest of this struct
    uint32_t spares[WAL_SPARES_MAX];
    unsigned spare_count;
    uint32_t next_spare;
    uint64_t retired_first; // segments retired_first <= s < retired_end wait to be recycled
    uint64_t retired_end;
    uint64_t active_left;     // bytes left in the segment in use
    uint64_t oldest_snapshot; // snapshots of lower indexes may go
    bool snapshots_to_remove;
};

struct wal {
    struct wal_options options;
    struct files files;
    struct wal_identity identity;
    struct raft_storage storage;
    struct wal_log log;
    struct wal_writer writer;
    struct wal_pool pool;
    uint64_t cut_bytes;
};

void wal_segment_name(char name[FILES_NAME_SIZE], uint64_t sequence);
void wal_spare_name(char name[FILES_NAME_SIZE], uint32_t number);
int wal_random(const struct wal_options *options, void *bytes, size_t length);

// wal_log.c
void wal_log_init(struct wal_log *log, const struct wal_options *options);
void wal_log_free(struct wal_log *log);
uint64_t wal_log_last(const struct wal_log *log);
// Of an entry in the log, or of the one before it; 0 for others.
uint64_t wal_log_term_at(const struct wal_log *log, uint64_t index);
// Makes room for more entries, so that wal_log_apply() can't fail for memory.
int wal_log_reserve(struct wal_log *log, size_t more);
// Takes one record. `block` may be NULL: then the data stays on the disk. -EBADMSG if the record
// doesn't fit the log. `recovering` allows what only the remains of a compacted log may have.
int wal_log_apply(struct wal_log *log, const struct wal_record *record, struct wal_block *block,
                  uint64_t sequence, uint64_t frame_offset, bool recovering);
// The lowest segment that must be kept if entries up to `index` aren't needed any more.
uint64_t wal_log_first_needed_segment(const struct wal_log *log, uint64_t index);
// Removes the entries of segments before `sequence`, which are a prefix of the log.
void wal_log_drop_segments(struct wal_log *log, uint64_t sequence);
void wal_log_trim_cache(struct wal_log *log);
struct wal_block *wal_block_create(void);
void wal_block_unref(struct wal_log *log, struct wal_block *block);
void wal_log_storage(struct wal_log *log, struct raft_storage *storage);

// wal_recover.c
int wal_recover(struct wal *wal, struct error *err);

// wal_pool.c
int wal_pool_take(struct wal *wal, uint32_t *spare); // -ENOSPC if there is none
void wal_pool_retire(struct wal *wal, uint64_t end); // segments before `end`
// Writes a spare segment of that name, by way of `temporary`: each thread that may do so at the
// same time as another has a temporary name of its own, else one would go on writing zeroes into
// what the other has put to use.
int wal_pool_fill(struct wal *wal, const char *temporary, const char *name);
// A spare segment made at once, by the one who needs it and found none.
int wal_pool_hurry(struct wal *wal, uint32_t *spare);
// Snapshots older than that of `oldest` may be removed.
void wal_pool_keep_snapshots(struct wal *wal, struct raft_position oldest);

// wal_batch.c
// How a segment is opened for frames.
unsigned wal_writer_flags(const struct wal *wal);
// Writes the header of segment `sequence` into the spare and gives it its name.
void wal_publish_room(struct wal *wal);
int wal_segment_activate(struct wal *wal, uint32_t spare, const struct wal_segment_header *header);
