// Identities: random UUIDs (RFC 4122, version 4) and the names people give to machines.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UUID_TEXT_SIZE = 37, NAME_LIMIT = 40 };

struct uuid {
    uint8_t bytes[16]; // in the order of the text form
};

// Random bytes from the kernel, however many: 0 or -errno.
int random_bytes(void *out, size_t length);
int uuid_generate_random(struct uuid *id);
// Lower-case 8-4-4-4-12 into UUID_TEXT_SIZE bytes. Returns `out`.
char *uuid_format(const struct uuid *id, char *out);
// -EINVAL for anything but 8-4-4-4-12 hexadecimal digits.
int uuid_parse(const char *text, struct uuid *id);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
// Names are [a-z0-9][a-z0-9._-]{0,39}: safe as a file name, in a shell and in a host name.
bool name_is_valid(const char *name);
