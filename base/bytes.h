// The byte cursor: the only way bytes of a wire or file format are written and read.
//
// Everything is little-endian and of fixed width. Both cursors carry a sticky failure: after the
// first write that found no memory (or room), or the first read past the end, further calls do
// nothing (reads give zero) and `failed` stays set, so that an encoder or decoder checks once, at
// its end.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// A growing (or fixed) output buffer. Invariant: length <= capacity; data[0..length) was written.
struct byte_writer {
    uint8_t *data;
    size_t length;
    size_t capacity;
    bool fixed;  // data belongs to the caller and never moves
    bool failed; // out of memory, or the fixed buffer is full
};

// Starts an empty buffer that grows by realloc; byte_writer_free() gives it back.
void byte_writer_init(struct byte_writer *w);
// Starts a writer over `capacity` bytes that the caller owns.
void byte_writer_init_fixed(struct byte_writer *w, void *buffer, size_t capacity);
void byte_writer_free(struct byte_writer *w);
// Forgets the contents and the failure, keeps the memory.
void byte_writer_reset(struct byte_writer *w);

void byte_writer_u8(struct byte_writer *w, uint8_t v);
void byte_writer_u16(struct byte_writer *w, uint16_t v);
void byte_writer_u32(struct byte_writer *w, uint32_t v);
void byte_writer_u64(struct byte_writer *w, uint64_t v);
void byte_writer_bytes(struct byte_writer *w, const void *bytes, size_t length);
// A u32 length, then the bytes.
void byte_writer_blob(struct byte_writer *w, const void *bytes, size_t length);
// As a blob, without the terminating zero.
void byte_writer_string(struct byte_writer *w, const char *s);
// Room for `length` bytes that the caller fills at once; NULL after a failure.
uint8_t *byte_writer_reserve(struct byte_writer *w, size_t length);
// All that the stream still has. 0; -EIO: it can't be read; -ENOMEM.
int byte_writer_stream(struct byte_writer *w, FILE *in);
// Writes over four bytes at `offset`, which were written before (a length known only later).
void byte_writer_patch_u32(struct byte_writer *w, size_t offset, uint32_t v);

// A read cursor over bytes that the caller owns. Invariant: offset <= length.
struct byte_reader {
    const uint8_t *data;
    size_t length;
    size_t offset;
    bool failed; // something was read past the end
};

void byte_reader_init(struct byte_reader *r, const void *data, size_t length);
static inline size_t byte_reader_left(const struct byte_reader *r)
{
    return r->failed ? 0 : r->length - r->offset;
}
uint8_t byte_reader_u8(struct byte_reader *r);
uint16_t byte_reader_u16(struct byte_reader *r);
uint32_t byte_reader_u32(struct byte_reader *r);
uint64_t byte_reader_u64(struct byte_reader *r);
// Copies `length` bytes out; on failure the output is zeroed.
void byte_reader_bytes(struct byte_reader *r, void *out, size_t length);
// `length` bytes in place, NULL on failure. They live as long as the reader's data.
const uint8_t *byte_reader_view(struct byte_reader *r, size_t length);
// A blob in place: its length is bounded by what is left and by `limit`; NULL on failure.
const uint8_t *byte_reader_blob(struct byte_reader *r, size_t limit, size_t *length);
// A string (blob without inner zero bytes) copied to `out` of `size` bytes, terminated. False on
// failure.
bool byte_reader_string(struct byte_reader *r, char *out, size_t size);

// Unaligned little-endian access to memory, for headers of formats that are not read in sequence.
static inline uint16_t bytes_get_u16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t bytes_get_u32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t bytes_get_u64(const void *p)
{
    const uint8_t *b = p;
    return bytes_get_u32(b) | (uint64_t)bytes_get_u32(b + 4) << 32;
}
static inline void bytes_put_u16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}
static inline void bytes_put_u32(void *p, uint32_t v)
{
    bytes_put_u16(p, (uint16_t)v);
    bytes_put_u16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void bytes_put_u64(void *p, uint64_t v)
{
    bytes_put_u32(p, (uint32_t)v);
    bytes_put_u32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}
