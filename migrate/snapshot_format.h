// The bytes of a snapshot file that writer and reader share.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/guest_memory.h"
#include "vmm/machine_config.h"

#define SNAPSHOT_MAGIC UINT64_C(0x504e535952524546) // "FERRYSNP"

enum {
    SNAPSHOT_VERSION_MAJOR = 1,
    SNAPSHOT_VERSION_MINOR = 0,
    SNAPSHOT_HEADER_SIZE = 40,
    SNAPSHOT_METADATA_OFFSET = 4096,
    SNAPSHOT_METADATA_LIMIT = 64 << 20,
    SNAPSHOT_RAM_ALIGN = 2 << 20,
};

struct snapshot_region {
    uint64_t gpa, size, offset;
};

struct snapshot_disk {
    uint64_t size, changed_ns; // as stat says, after everything was flushed
};

// What the metadata say beside the description and the machine state, which are blobs.
struct snapshot_layout {
    uint64_t image_offset[2];
    uint32_t region_count;
    struct snapshot_region regions[GUEST_MEMORY_REGIONS];
    uint32_t disk_count;
    struct snapshot_disk disks[MACHINE_DISKS_LIMIT];
    bool running;
};

void snapshot_layout_encode(const struct snapshot_layout *layout, struct byte_writer *w);
// -EPROTO with a sentence on anything that can't be; offsets are checked against the file by the
// caller.
int snapshot_layout_decode(struct snapshot_layout *layout, struct byte_reader *r,
                           struct error *err);
void snapshot_header_encode(const struct byte_writer *metadata,
                            uint8_t header[SNAPSHOT_HEADER_SIZE]);
// The length of the metadata and their checksum. -EPROTO, -ENOTSUP with a sentence.
int snapshot_header_decode(const uint8_t header[SNAPSHOT_HEADER_SIZE], uint64_t *length,
                           uint32_t *checksum, struct error *err);
