#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

void byte_writer_init(struct byte_writer *w)
{
    *w = (struct byte_writer){0};
}

void byte_writer_init_fixed(struct byte_writer *w, void *buffer, size_t capacity)
{
    *w = (struct byte_writer){.data = buffer, .capacity = capacity, .fixed = true};
}

void byte_writer_free(struct byte_writer *w)
{
    if (!w->fixed)
        free(w->data);
    *w = (struct byte_writer){0};
}

void byte_writer_reset(struct byte_writer *w)
{
    w->length = 0;
    w->failed = false;
}

uint8_t *byte_writer_reserve(struct byte_writer *w, size_t length)
{
    if (w->failed)
        return NULL;
    if (length > w->capacity - w->length) {
        size_t wanted;
        if (w->fixed || __builtin_add_overflow(w->length, length, &wanted)) {
            w->failed = true;
            return NULL;
        }
        size_t capacity = w->capacity ? w->capacity : FIRST_CAPACITY;
        while (capacity < wanted)
            capacity = capacity > SIZE_MAX / 2 ? wanted : capacity * 2;
        uint8_t *data = realloc(w->data, capacity);
        if (!data) {
            w->failed = true;
            return NULL;
        }
        w->data = data;
        w->capacity = capacity;
    }
    uint8_t *room = w->data + w->length;
    w->length += length;
    return room;
}

void byte_writer_u8(struct byte_writer *w, uint8_t v)
{
    uint8_t *p = byte_writer_reserve(w, 1);
    if (p)
        *p = v;
}

void byte_writer_u16(struct byte_writer *w, uint16_t v)
{
    uint8_t *p = byte_writer_reserve(w, 2);
    if (p)
        bytes_put_u16(p, v);
}

void byte_writer_u32(struct byte_writer *w, uint32_t v)
{
    uint8_t *p = byte_writer_reserve(w, 4);
    if (p)
        bytes_put_u32(p, v);
}

void byte_writer_u64(struct byte_writer *w, uint64_t v)
{
    uint8_t *p = byte_writer_reserve(w, 8);
    if (p)
        bytes_put_u64(p, v);
}

void byte_writer_bytes(struct byte_writer *w, const void *bytes, size_t length)
{
    if (length == 0)
        return;
    uint8_t *p = byte_writer_reserve(w, length);
    if (p)
        memcpy(p, bytes, length);
}

void byte_writer_blob(struct byte_writer *w, const void *bytes, size_t length)
{
    if (length > UINT32_MAX) {
        w->failed = true;
        return;
    }
    byte_writer_u32(w, (uint32_t)length);
    byte_writer_bytes(w, bytes, length);
}

void byte_writer_string(struct byte_writer *w, const char *s)
{
    byte_writer_blob(w, s, strlen(s));
}

int byte_writer_stream(struct byte_writer *w, FILE *in)
{
    char buffer[65536];
    size_t got;
    while ((got = fread(buffer, 1, sizeof(buffer), in)) > 0)
        byte_writer_bytes(w, buffer, got);
    return ferror(in) ? -EIO : w->failed ? -ENOMEM : 0;
}

void byte_writer_patch_u32(struct byte_writer *w, size_t offset, uint32_t v)
{
    if (w->failed)
        return;
    bytes_put_u32(w->data + offset, v);
}

void byte_reader_init(struct byte_reader *r, const void *data, size_t length)
{
    *r = (struct byte_reader){.data = data, .length = length};
}

const uint8_t *byte_reader_view(struct byte_reader *r, size_t length)
{
    if (r->failed || length > r->length - r->offset) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->offset;
    r->offset += length;
    return p;
}

uint8_t byte_reader_u8(struct byte_reader *r)
{
    const uint8_t *p = byte_reader_view(r, 1);
    return p ? *p : 0;
}

uint16_t byte_reader_u16(struct byte_reader *r)
{
    const uint8_t *p = byte_reader_view(r, 2);
    return p ? bytes_get_u16(p) : 0;
}

uint32_t byte_reader_u32(struct byte_reader *r)
{
    const uint8_t *p = byte_reader_view(r, 4);
    return p ? bytes_get_u32(p) : 0;
}

uint64_t byte_reader_u64(struct byte_reader *r)
{
    const uint8_t *p = byte_reader_view(r, 8);
    return p ? bytes_get_u64(p) : 0;
}

void byte_reader_bytes(struct byte_reader *r, void *out, size_t length)
{
    if (length == 0)
        return;
    const uint8_t *p = byte_reader_view(r, length);
    if (p)
        memcpy(out, p, length);
    else
        memset(out, 0, length);
}

const uint8_t *byte_reader_blob(struct byte_reader *r, size_t limit, size_t *length)
{
    uint32_t n = byte_reader_u32(r);
    if (n > limit)
        r->failed = true;
    const uint8_t *p = byte_reader_view(r, n);
    *length = p ? n : 0;
    return p;
}

bool byte_reader_string(struct byte_reader *r, char *out, size_t size)
{
    size_t length;
    const uint8_t *p = byte_reader_blob(r, size - 1, &length);
    if (p && memchr(p, 0, length))
        r->failed = true;
    if (r->failed) {
        out[0] = 0;
        return false;
    }
    memcpy(out, p, length);
    out[length] = 0;
    return true;
}
