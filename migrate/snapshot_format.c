#include "migrate/snapshot_format.h"

#include <string.h>

#include "base/crc32c.h"

void snapshot_layout_encode(const struct snapshot_layout *l, struct byte_writer *w)
{
    byte_writer_u64(w, l->image_offset[0]);
    byte_writer_u64(w, l->image_offset[1]);
    byte_writer_u32(w, l->region_count);
    for (uint32_t i = 0; i < l->region_count; i++) {
        byte_writer_u64(w, l->regions[i].gpa);
        byte_writer_u64(w, l->regions[i].size);
        byte_writer_u64(w, l->regions[i].offset);
    }
    byte_writer_u32(w, l->disk_count);
    for (uint32_t i = 0; i < l->disk_count; i++) {
        byte_writer_u64(w, l->disks[i].size);
        byte_writer_u64(w, l->disks[i].changed_ns);
    }
    byte_writer_u8(w, l->running);
}

int snapshot_layout_decode(struct snapshot_layout *l, struct byte_reader *r, struct error *err)
{
    memset(l, 0, sizeof(*l));
    l->image_offset[0] = byte_reader_u64(r);
    l->image_offset[1] = byte_reader_u64(r);
    l->region_count = byte_reader_u32(r);
    if (l->region_count > GUEST_MEMORY_REGIONS)
        return error_set(err, EPROTO, "the snapshot has %u regions of RAM", l->region_count);
    for (uint32_t i = 0; i < l->region_count; i++) {
        l->regions[i].gpa = byte_reader_u64(r);
        l->regions[i].size = byte_reader_u64(r);
        l->regions[i].offset = byte_reader_u64(r);
    }
    l->disk_count = byte_reader_u32(r);
    if (l->disk_count > MACHINE_DISKS_LIMIT)
        return error_set(err, EPROTO, "the snapshot has %u disks", l->disk_count);
    for (uint32_t i = 0; i < l->disk_count; i++) {
        l->disks[i].size = byte_reader_u64(r);
        l->disks[i].changed_ns = byte_reader_u64(r);
    }
    l->running = byte_reader_u8(r) != 0;
    return r->failed ? error_set(err, EPROTO, "the snapshot's metadata are cut off") : 0;
}

void snapshot_header_encode(const struct byte_writer *metadata,
                            uint8_t header[SNAPSHOT_HEADER_SIZE])
{
    struct byte_writer w;
    byte_writer_init_fixed(&w, header, SNAPSHOT_HEADER_SIZE);
    byte_writer_u64(&w, SNAPSHOT_MAGIC);
    byte_writer_u16(&w, SNAPSHOT_VERSION_MAJOR);
    byte_writer_u16(&w, SNAPSHOT_VERSION_MINOR);
    byte_writer_u32(&w, 0);
    byte_writer_u64(&w, SNAPSHOT_METADATA_OFFSET);
    byte_writer_u64(&w, metadata->length);
    byte_writer_u32(&w, crc32c(0, metadata->data, metadata->length));
    byte_writer_u32(&w, crc32c(0, header, w.length));
}

int snapshot_header_decode(const uint8_t header[SNAPSHOT_HEADER_SIZE], uint64_t *length,
                           uint32_t *checksum, struct error *err)
{
    struct byte_reader r;
    byte_reader_init(&r, header, SNAPSHOT_HEADER_SIZE);
    if (byte_reader_u64(&r) != SNAPSHOT_MAGIC)
        return error_set(err, EPROTO, "not a snapshot, or one that was never finished");
    uint16_t major = byte_reader_u16(&r), minor = byte_reader_u16(&r);
    byte_reader_u32(&r);
    uint64_t offset = byte_reader_u64(&r);
    *length = byte_reader_u64(&r);
    *checksum = byte_reader_u32(&r);
    uint32_t own = byte_reader_u32(&r);
    if (own != crc32c(0, header, SNAPSHOT_HEADER_SIZE - sizeof(own)))
        return error_set(err, EPROTO, "the snapshot's header is damaged");
    if (major != SNAPSHOT_VERSION_MAJOR)
        return error_set(err, ENOTSUP, "the snapshot is of format %u.%u, known is %u.%u", major,
                         minor, SNAPSHOT_VERSION_MAJOR, SNAPSHOT_VERSION_MINOR);
    if (offset != SNAPSHOT_METADATA_OFFSET || *length > SNAPSHOT_METADATA_LIMIT)
        return error_set(err, EPROTO, "the snapshot's header has impossible lengths");
    return 0;
}
