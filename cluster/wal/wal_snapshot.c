#include "cluster/wal/wal_snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"

static const char snapshot_magic[8] = {'F', 'E', 'R', 'R', 'Y', 'S', 'N', 'P'};

enum { SNAPSHOT_VERSION = 1, CRC_OFFSET = 12 };

struct wal_snapshot_writer {
    const struct files *files;
    char temporary[FILES_NAME_SIZE];
    struct wal_identity identity;
    struct raft_snapshot snapshot;
    int file;
    uint64_t length; // of the payload so far
    uint32_t *table; // the checksums of its chunks; the last one is of an unfinished chunk
    size_t table_room;
    bool finished;
};

struct wal_snapshot_reader {
    const struct files *files;
    int file;
    struct wal_identity identity;
    struct raft_snapshot snapshot;
    uint64_t length;
    uint32_t *table;
    uint64_t cached; // number of the chunk in `chunk`, UINT64_MAX: none
    uint8_t chunk[WAL_SNAPSHOT_CHUNK];
};

static uint64_t chunk_count(uint64_t length)
{
    return length / WAL_SNAPSHOT_CHUNK + (length % WAL_SNAPSHOT_CHUNK != 0);
}

void wal_snapshot_name(char name[FILES_NAME_SIZE], struct raft_position last)
{
    snprintf(name, FILES_NAME_SIZE, "snap-%016" PRIx64 "-%016" PRIx64, last.index, last.term);
}

bool wal_snapshot_name_parse(const char *name, struct raft_position *last)
{
    char again[FILES_NAME_SIZE];
    if (sscanf(name, "snap-%" SCNx64 "-%" SCNx64, &last->index, &last->term) != 2)
        return false;
    wal_snapshot_name(again, *last);
    return strcmp(name, again) == 0;
}

int wal_snapshot_create(struct wal_snapshot_writer **writer, const struct files *files,
                        const char *temporary, const struct wal_identity *identity,
                        const struct raft_snapshot *snapshot)
{
    struct wal_snapshot_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->files = files;
    w->identity = *identity;
    w->snapshot = *snapshot;
    snprintf(w->temporary, sizeof(w->temporary), "%s", temporary);
    int error = files->remove(files->context, temporary);
    if (error == 0 || error == -ENOENT)
        error = files->open(files->context, temporary, FILES_CREATE, &w->file);
    if (error) {
        free(w);
        return error;
    }
    *writer = w;
    return 0;
}

static int table_reserve(struct wal_snapshot_writer *w, uint64_t length)
{
    size_t wanted = chunk_count(length);
    if (wanted <= w->table_room)
        return 0;
    size_t room = wanted * 2 + 16;
    uint32_t *table = realloc(w->table, room * sizeof(*table));
    if (!table)
        return -ENOMEM;
    memset(table + w->table_room, 0, (room - w->table_room) * sizeof(*table));
    w->table = table;
    w->table_room = room;
    return 0;
}

int wal_snapshot_append(struct wal_snapshot_writer *w, const void *bytes, size_t length)
{
    int error = table_reserve(w, w->length + length);
    if (error)
        return error;
    error = w->files->write(w->files->context, w->file, WAL_BLOCK + w->length, bytes, length);
    if (error)
        return error;
    const uint8_t *p = bytes;
    while (length) {
        size_t part = WAL_SNAPSHOT_CHUNK - w->length % WAL_SNAPSHOT_CHUNK;
        if (part > length)
            part = length;
        uint32_t *crc = &w->table[w->length / WAL_SNAPSHOT_CHUNK];
        *crc = crc32c(*crc, p, part);
        w->length += part;
        p += part;
        length -= part;
    }
    return 0;
}

uint64_t wal_snapshot_written(const struct wal_snapshot_writer *w)
{
    return w->length;
}

static uint8_t *table_encode(const uint32_t *table, uint64_t count)
{
    uint8_t *bytes = malloc(count ? count * 4 : 1);
    for (uint64_t i = 0; bytes && i < count; i++)
        bytes_put_u32(bytes + i * 4, table[i]);
    return bytes;
}

static void header_encode(const struct wal_snapshot_writer *w, uint32_t table_crc, uint8_t *block)
{
    struct byte_writer out;
    uint8_t configuration[RAFT_CONFIGURATION_BYTES_MAX];
    size_t length = raft_configuration_encode(&w->snapshot.configuration, configuration);

    memset(block, 0, WAL_BLOCK);
    byte_writer_init_fixed(&out, block, WAL_BLOCK);
    byte_writer_bytes(&out, snapshot_magic, sizeof(snapshot_magic));
    byte_writer_u32(&out, SNAPSHOT_VERSION);
    byte_writer_u32(&out, 0);
    byte_writer_bytes(&out, w->identity.cluster, sizeof(w->identity.cluster));
    byte_writer_u64(&out, w->identity.member);
    byte_writer_u64(&out, w->snapshot.last.index);
    byte_writer_u64(&out, w->snapshot.last.term);
    byte_writer_u64(&out, w->length);
    byte_writer_u32(&out, table_crc);
    byte_writer_blob(&out, configuration, length);
    bytes_put_u32(block + CRC_OFFSET, crc32c(0, block, WAL_BLOCK));
}

int wal_snapshot_finish(struct wal_snapshot_writer *w)
{
    const struct files *files = w->files;
    uint8_t block[WAL_BLOCK];
    char name[FILES_NAME_SIZE];
    uint64_t count = chunk_count(w->length);
    uint8_t *table = table_encode(w->table, count);
    if (!table)
        return -ENOMEM;
    header_encode(w, crc32c(0, table, count * 4), block);
    int error = files->write(files->context, w->file, WAL_BLOCK + w->length, table, count * 4);
    free(table);
    if (!error)
        error = files->write(files->context, w->file, 0, block, sizeof(block));
    if (error)
        return error;
    wal_snapshot_name(name, w->snapshot.last);
    error = files->sync(files->context, w->file);
    if (!error)
        error = files->rename(files->context, w->temporary, name);
    if (!error)
        error = files->sync_directory(files->context);
    // Even "no space" is no harmless answer once a sync was asked for.
    if (error)
        return error == -ENOSPC ? -EIO : error;
    w->finished = true;
    return 0;
}

void wal_snapshot_writer_free(struct wal_snapshot_writer *w)
{
    if (!w)
        return;
    w->files->close(w->files->context, w->file);
    if (!w->finished)
        w->files->remove(w->files->context, w->temporary);
    free(w->table);
    free(w);
}

static int header_decode(struct wal_snapshot_reader *r, uint8_t *block, uint32_t *table_crc)
{
    struct byte_reader in;
    size_t length;

    if (memcmp(block, snapshot_magic, sizeof(snapshot_magic)) != 0)
        return -EBADMSG;
    if (bytes_get_u32(block + 8) != SNAPSHOT_VERSION)
        return -EPROTONOSUPPORT;
    uint32_t crc = bytes_get_u32(block + CRC_OFFSET);
    bytes_put_u32(block + CRC_OFFSET, 0);
    if (crc32c(0, block, WAL_BLOCK) != crc)
        return -EBADMSG;
    byte_reader_init(&in, block + CRC_OFFSET + 4, WAL_BLOCK - CRC_OFFSET - 4);
    byte_reader_bytes(&in, r->identity.cluster, sizeof(r->identity.cluster));
    r->identity.member = byte_reader_u64(&in);
    r->snapshot.last.index = byte_reader_u64(&in);
    r->snapshot.last.term = byte_reader_u64(&in);
    r->length = byte_reader_u64(&in);
    *table_crc = byte_reader_u32(&in);
    const uint8_t *configuration = byte_reader_blob(&in, RAFT_CONFIGURATION_BYTES_MAX, &length);
    if (!configuration)
        return -EBADMSG;
    return raft_configuration_decode(&r->snapshot.configuration, configuration, length);
}

static int table_read(struct wal_snapshot_reader *r, uint32_t expected)
{
    uint64_t size;
    uint64_t count = chunk_count(r->length);
    int error = r->files->size(r->files->context, r->file, &size);
    if (error)
        return error;
    // Bounds the length by the file before anything is allocated for it.
    if (r->length > size || size - r->length != WAL_BLOCK + count * 4)
        return -EBADMSG;
    uint8_t *bytes = malloc(count ? count * 4 : 1);
    r->table = malloc(count ? count * sizeof(*r->table) : 1);
    if (!bytes || !r->table) {
        free(bytes);
        return -ENOMEM;
    }
    size_t got;
    error =
        r->files->read(r->files->context, r->file, WAL_BLOCK + r->length, bytes, count * 4, &got);
    if (!error && (got != count * 4 || crc32c(0, bytes, got) != expected))
        error = -EBADMSG;
    for (uint64_t i = 0; !error && i < count; i++)
        r->table[i] = bytes_get_u32(bytes + i * 4);
    free(bytes);
    return error;
}

int wal_snapshot_open(struct wal_snapshot_reader **reader, const struct files *files,
                      const char *name, struct error *err)
{
    uint8_t block[WAL_BLOCK];
    uint32_t table_crc = 0;
    size_t got;
    struct wal_snapshot_reader *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, ENOMEM, "snapshot '%s': out of memory", name);
    r->files = files;
    r->cached = UINT64_MAX;
    int error = files->open(files->context, name, 0, &r->file);
    if (error) {
        free(r);
        return error_set_errno(err, -error, "snapshot '%s': can't be opened", name);
    }
    error = files->read(files->context, r->file, 0, block, sizeof(block), &got);
    if (!error)
        error = got == sizeof(block) ? header_decode(r, block, &table_crc) : -EBADMSG;
    if (!error)
        error = table_read(r, table_crc);
    if (error == -EBADMSG)
        error_set(err, EBADMSG, "snapshot '%s': damaged (a checksum or length is wrong)", name);
    else if (error == -EPROTONOSUPPORT)
        error_set(err, EPROTONOSUPPORT, "snapshot '%s': written by another version of ferry", name);
    else if (error)
        error_set_errno(err, -error, "snapshot '%s': can't be read", name);
    if (error) {
        wal_snapshot_reader_free(r);
        return error;
    }
    *reader = r;
    return 0;
}

const struct raft_snapshot *wal_snapshot_describe(const struct wal_snapshot_reader *r)
{
    return &r->snapshot;
}

const struct wal_identity *wal_snapshot_identity(const struct wal_snapshot_reader *r)
{
    return &r->identity;
}

uint64_t wal_snapshot_length(const struct wal_snapshot_reader *r)
{
    return r->length;
}

static int chunk_load(struct wal_snapshot_reader *r, uint64_t number)
{
    uint64_t start = number * WAL_SNAPSHOT_CHUNK;
    size_t wanted = WAL_SNAPSHOT_CHUNK;
    size_t got;

    if (r->cached == number)
        return 0;
    if (wanted > r->length - start)
        wanted = r->length - start;
    r->cached = UINT64_MAX;
    int error =
        r->files->read(r->files->context, r->file, WAL_BLOCK + start, r->chunk, wanted, &got);
    if (error)
        return error;
    if (got != wanted || crc32c(0, r->chunk, got) != r->table[number])
        return -EIO;
    r->cached = number;
    return 0;
}

int wal_snapshot_read(struct wal_snapshot_reader *r, uint64_t offset, void *buffer, size_t capacity,
                      size_t *length)
{
    uint8_t *out = buffer;
    *length = 0;
    while (capacity > *length && offset < r->length) {
        size_t within = offset % WAL_SNAPSHOT_CHUNK;
        int error = chunk_load(r, offset / WAL_SNAPSHOT_CHUNK);
        if (error)
            return error;
        size_t part = WAL_SNAPSHOT_CHUNK - within;
        if (part > capacity - *length)
            part = capacity - *length;
        if (part > r->length - offset)
            part = r->length - offset;
        memcpy(out + *length, r->chunk + within, part);
        *length += part;
        offset += part;
    }
    return 0;
}

void wal_snapshot_reader_free(struct wal_snapshot_reader *r)
{
    if (!r)
        return;
    r->files->close(r->files->context, r->file);
    free(r->table);
    free(r);
}
