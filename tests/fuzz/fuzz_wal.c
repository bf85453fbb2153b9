// Bytes as the files of a log: opening it must say what is wrong, and nothing else may happen.
#include <stdlib.h>

#include "base/crc32c.h"
#include "cluster/wal/wal.h"
#include "tests/unit/model_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_SEGMENT = 4 * WAL_BLOCK };

static struct model_disk disk;

static void put_file(const struct files *files, const char *name, const void *bytes, size_t length)
{
    int file;
    if (files->open(files->context, name, FILES_CREATE, &file))
        return;
    files->write(files->context, file, 0, bytes, length);
    files->close(files->context, file);
}

// The input is the payload of one frame, which gets a good checksum, so that records are reached.
static void put_segment(const struct files *files, const uint8_t *data, size_t size)
{
    static uint8_t segment[FUZZ_SEGMENT];
    struct wal_segment_header header = {
        .identity = {.cluster = {1}, .member = 2}, .sequence = 1, .salt = 3, .size = FUZZ_SEGMENT};
    uint8_t *frame = segment + WAL_BLOCK;
    if (size > FUZZ_SEGMENT - WAL_BLOCK - WAL_FRAME_HEADER)
        size = FUZZ_SEGMENT - WAL_BLOCK - WAL_FRAME_HEADER;
    memset(segment, 0, sizeof(segment));
    wal_segment_header_encode(&header, segment);
    memcpy(frame + WAL_FRAME_HEADER, data, size);
    bytes_put_u32(frame + 4, (uint32_t)size);
    wal_frame_seal(frame, header.salt, WAL_BLOCK);
    put_file(files, "wal-0000000000000001", segment, sizeof(segment));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wal_options options;
    struct files files;
    struct wal *wal;
    if (size == 0)
        return 0;
    model_disk_init(&disk, &files, 1);
    wal_options_default(&options, &files);
    options.segment_bytes = FUZZ_SEGMENT;
    struct wal_identity identity = {.cluster = {1}, .member = 2};
    struct raft_snapshot first = {.last = {0, 0}};
    if (data[0] & 1) {
        wal_create(&options, &identity, &first, "x", 1, NULL);
        put_segment(&files, data + 1, size - 1);
    } else if (data[0] & 2) {
        wal_create(&options, &identity, &first, "x", 1, NULL);
        put_file(&files, "snap-0000000000000000-0000000000000000", data + 1, size - 1);
    } else {
        put_file(&files, "wal-0000000000000001", data + 1, size - 1);
    }
    if (wal_open(&wal, &options, NULL) == 0)
        wal_close(wal);
    model_disk_free(&disk);
    return 0;
}
