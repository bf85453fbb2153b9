#include "base/state.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 64, FLAG_OPTIONAL = 1, FIELDS_LIMIT = 256 };

static const uint8_t widths[] = {
    [STATE_U8] = 1, [STATE_U16] = 2, [STATE_U32] = 4, [STATE_U64] = 8, [STATE_BOOL] = 1};

static unsigned count_fields(const struct state_section *section)
{
    unsigned n = 0;
    while (section->fields[n].name)
        n++;
    return n;
}

static void save_element(struct byte_writer *w, enum state_type type, const uint8_t *p)
{
    switch (type) {
    case STATE_U8:
        byte_writer_u8(w, *p);
        break;
    case STATE_U16:
        byte_writer_u16(w, *(const uint16_t *)(const void *)p);
        break;
    case STATE_U32:
        byte_writer_u32(w, *(const uint32_t *)(const void *)p);
        break;
    case STATE_U64:
        byte_writer_u64(w, *(const uint64_t *)(const void *)p);
        break;
    case STATE_BOOL:
        byte_writer_u8(w, *(const bool *)(const void *)p);
        break;
    }
}

void state_section_save(const struct state_section *section, const void *object,
                        struct byte_writer *w)
{
    byte_writer_string(w, section->name);
    byte_writer_u16(w, section->version);
    byte_writer_u16(w, (uint16_t)count_fields(section));
    for (const struct state_field *f = section->fields; f->name; f++) {
        byte_writer_string(w, f->name);
        byte_writer_u8(w, (uint8_t)f->type);
        byte_writer_u8(w, f->optional ? FLAG_OPTIONAL : 0);
        byte_writer_u32(w, f->count);
        const uint8_t *p = (const uint8_t *)object + f->offset;
        for (uint32_t i = 0; i < f->count; i++)
            save_element(w, f->type, p + (size_t)i * widths[f->type]);
    }
}

static void load_element(struct byte_reader *r, enum state_type type, uint8_t *p)
{
    switch (type) {
    case STATE_U8:
        *p = byte_reader_u8(r);
        break;
    case STATE_U16:
        *(uint16_t *)(void *)p = byte_reader_u16(r);
        break;
    case STATE_U32:
        *(uint32_t *)(void *)p = byte_reader_u32(r);
        break;
    case STATE_U64:
        *(uint64_t *)(void *)p = byte_reader_u64(r);
        break;
    case STATE_BOOL:
        *(bool *)(void *)p = byte_reader_u8(r) != 0;
        break;
    }
}

static const struct state_field *find_field(const struct state_section *section, const char *name)
{
    for (const struct state_field *f = section->fields; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

// Reads one field into the object; sets the bit of a known one in `seen`.
static int load_field(const struct state_section *section, void *object, struct byte_reader *r,
                      bool *seen, struct error *err)
{
    char name[NAME_SIZE];
    byte_reader_string(r, name, sizeof(name));
    uint8_t type = byte_reader_u8(r);
    uint8_t flags = byte_reader_u8(r);
    uint32_t count = byte_reader_u32(r);
    if (r->failed || type < STATE_U8 || type > STATE_BOOL)
        return error_set(err, EPROTO, "section '%s': a field is cut off or of an unknown type",
                         section->name);
    const struct state_field *f = find_field(section, name);
    if (!f) {
        if (!(flags & FLAG_OPTIONAL))
            return error_set(err, ENOTSUP,
                             "section '%s' has the field '%s', which this version doesn't know",
                             section->name, name);
        byte_reader_view(r, (size_t)count * widths[type]);
        return r->failed ? error_set(err, EPROTO, "section '%s': field '%s' is cut off",
                                     section->name, name)
                         : 0;
    }
    if (f->type != type || f->count != count || seen[f - section->fields])
        return error_set(err, EPROTO,
                         "section '%s': field '%s' has another type or size, or comes twice",
                         section->name, name);
    uint8_t *p = (uint8_t *)object + f->offset;
    for (uint32_t i = 0; i < count; i++)
        load_element(r, f->type, p + (size_t)i * widths[type]);
    if (r->failed)
        return error_set(err, EPROTO, "section '%s': field '%s' is cut off", section->name, name);
    seen[f - section->fields] = true;
    return 0;
}

int state_section_load(const struct state_section *section, void *object, struct byte_reader *r,
                       struct error *err)
{
    char name[NAME_SIZE];
    byte_reader_string(r, name, sizeof(name));
    uint16_t version = byte_reader_u16(r);
    uint16_t count = byte_reader_u16(r);
    if (r->failed)
        return error_set(err, EPROTO, "the state is cut off where section '%s' should begin",
                         section->name);
    if (strcmp(name, section->name) != 0)
        return error_set(err, EPROTO, "found section '%s' where '%s' should be", name,
                         section->name);
    if (version > section->version)
        return error_set(err, ENOTSUP, "section '%s' is of version %u, newer than the known %u",
                         name, version, section->version);
    bool seen[FIELDS_LIMIT] = {false};
    for (unsigned i = 0; i < count; i++) {
        int rc = load_field(section, object, r, seen, err);
        if (rc < 0)
            return rc;
    }
    for (const struct state_field *f = section->fields; f->name; f++)
        if (!seen[f - section->fields] && f->since <= version && !f->optional)
            return error_set(err, EBADMSG, "section '%s' lacks the field '%s'", section->name,
                             f->name);
    return 0;
}
