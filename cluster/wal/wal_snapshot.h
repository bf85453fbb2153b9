// Snapshot files: the state machine's bytes, with the position and configuration they stand for.
//
// A snapshot exists under its final name only when it is complete and durable: it is written to a
// temporary name, synced, renamed, and the directory synced. Each 64 KiB of the payload has a
// checksum of its own, so that pieces can be read and sent without reading all of it.
#pragma once

#include "base/error.h"
#include "cluster/raft/raft_types.h"
#include "cluster/wal/files.h"
#include "cluster/wal/wal_format.h"

enum { WAL_SNAPSHOT_CHUNK = 65536 };

struct wal_snapshot_writer;
struct wal_snapshot_reader;

// "snap-INDEX-TERM" in hexadecimal.
void wal_snapshot_name(char name[FILES_NAME_SIZE], struct raft_position last);
bool wal_snapshot_name_parse(const char *name, struct raft_position *last);

// Starts `temporary` anew. `identity` and `snapshot` are copied.
int wal_snapshot_create(struct wal_snapshot_writer **writer, const struct files *files,
                        const char *temporary, const struct wal_identity *identity,
                        const struct raft_snapshot *snapshot);
// Appends to the payload. After -ENOSPC the same bytes may be appended again.
int wal_snapshot_append(struct wal_snapshot_writer *writer, const void *bytes, size_t length);
uint64_t wal_snapshot_written(const struct wal_snapshot_writer *writer);
// Makes it durable under its final name. After -ENOSPC it may be tried again; any other error means
// that nothing is known about the disk.
int wal_snapshot_finish(struct wal_snapshot_writer *writer);
// Frees the writer, and removes what is not finished.
void wal_snapshot_writer_free(struct wal_snapshot_writer *writer);

// -ENOENT, or -EBADMSG for damage (in the payload it shows only when that is read).
int wal_snapshot_open(struct wal_snapshot_reader **reader, const struct files *files,
                      const char *name, struct error *err);
const struct raft_snapshot *wal_snapshot_describe(const struct wal_snapshot_reader *reader);
const struct wal_identity *wal_snapshot_identity(const struct wal_snapshot_reader *reader);
uint64_t wal_snapshot_length(const struct wal_snapshot_reader *reader);
// At most `capacity` bytes from `offset` on, *length of them: 0 only at the end. -EIO for damage.
int wal_snapshot_read(struct wal_snapshot_reader *reader, uint64_t offset, void *buffer,
                      size_t capacity, size_t *length);
void wal_snapshot_reader_free(struct wal_snapshot_reader *reader);
