// Declared state: what a device keeps over pause, snapshot and migration, as a table beside its
// struct.
//
// A section is written self-describing: its name, version and fields, each field with its name,
// type and count. So a reader takes what it knows, names what it doesn't, and an added field that
// old readers may skip is marked optional. Field by field, little-endian, fixed width.
//
//   section: string name, u16 version, u16 field count, fields
//   field:   string name, u8 type, u8 flags (1 = optional), u32 count, count * width bytes
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

enum state_type { STATE_U8 = 1, STATE_U16 = 2, STATE_U32 = 3, STATE_U64 = 4, STATE_BOOL = 5 };

struct state_field {
    const char *name;
    enum state_type type;
    size_t offset;
    uint32_t count; // elements; 1 for a plain member
    uint16_t
        since; // section version in which it came; an older stream keeps the value that load found
    bool optional; // a reader that doesn't know it may skip it
};

#define STATE_FIELD(kind, structure, member)                                                       \
    {                                                                                              \
        .name = #member, .type = kind, .offset = offsetof(structure, member), .count = 1,          \
        .since = 1                                                                                 \
    }
#define STATE_ARRAY(kind, structure, member)                                                       \
    {                                                                                              \
        .name = #member, .type = kind, .offset = offsetof(structure, member),                      \
        .count = sizeof(((structure *)0)->member) / sizeof(((structure *)0)->member[0]),           \
        .since = 1                                                                                 \
    }

struct state_section {
    const char *name;
    uint16_t version;
    const struct state_field *fields; // ended by one without a name
};

// Appends the section; failure shows in the writer.
void state_section_save(const struct state_section *section, const void *object,
                        struct byte_writer *w);
// Reads one section, which must have this name. -EPROTO on a malformed one, -ENOTSUP on a newer
// version or an unknown field that isn't optional (both named), -EBADMSG when a field of the
// stream's version lacks. The object may be half-loaded after an error.
int state_section_load(const struct state_section *section, void *object, struct byte_reader *r,
                       struct error *err);
