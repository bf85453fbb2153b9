#include "base/ids.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int random_bytes(void *out, size_t length)
{
    uint8_t *p = out;
    while (length > 0) {
        ssize_t n = getrandom(p, length, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        length -= (size_t)n;
    }
    return 0;
}

int uuid_generate_random(struct uuid *id)
{
    int rc = random_bytes(id->bytes, sizeof(id->bytes));
    if (rc < 0)
        return rc;
    id->bytes[6] = (uint8_t)((id->bytes[6] & 0x0f) | 0x40); // version 4
    id->bytes[8] = (uint8_t)((id->bytes[8] & 0x3f) | 0x80); // variant 10
    return 0;
}

static bool dash_before(size_t byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

char *uuid_format(const struct uuid *id, char *out)
{
    char *p = out;
    for (size_t i = 0; i < sizeof(id->bytes); i++)
        p += sprintf(p, dash_before(i) ? "-%02x" : "%02x", id->bytes[i]);
    return out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int uuid_parse(const char *text, struct uuid *id)
{
    for (size_t i = 0; i < sizeof(id->bytes); i++) {
        if (dash_before(i) && *text++ != '-')
            return -EINVAL;
        int high = hex_digit(text[0]);
        int low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0)
            return -EINVAL;
        id->bytes[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return *text ? -EINVAL : 0;
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool name_is_valid(const char *name)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(name);
    return length >= 1 && length <= NAME_LIMIT && strchr(first, name[0]) &&
           strspn(name, rest) == length;
}
