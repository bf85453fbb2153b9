#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// Reads leading decimal digits; returns what is behind them, NULL on no digit or overflow (errno
// set).
static const char *read_digits(const char *text, uint64_t *value)
{
    uint64_t v = 0;
    if (!isdigit((unsigned char)*text)) {
        errno = EINVAL;
        return NULL;
    }
    for (; isdigit((unsigned char)*text); text++) {
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v)) {
            errno = ERANGE;
            return NULL;
        }
    }
    *value = v;
    return text;
}

int units_parse_number(const char *text, uint64_t max, uint64_t *value)
{
    const char *rest = read_digits(text, value);
    if (!rest)
        return -errno;
    if (*rest)
        return -EINVAL;
    return *value > max ? -ERANGE : 0;
}

int units_parse_size(const char *text, uint64_t *bytes)
{
    static const char letters[] = "KMGT";
    uint64_t value;
    const char *rest = read_digits(text, &value);
    if (!rest)
        return -errno;
    unsigned shift = 0;
    const char *letter = *rest ? strchr(letters, toupper((unsigned char)*rest)) : NULL;
    if (letter) {
        shift = 10 * (unsigned)(letter - letters + 1);
        rest++;
        if (*rest == 'i')
            rest++;
    }
    if (*rest == 'B')
        rest++;
    if (*rest)
        return -EINVAL;
    if (shift && value >> (64 - shift))
        return -ERANGE;
    *bytes = value << shift;
    return 0;
}

int units_parse_duration(const char *text, uint64_t *ns)
{
    static const struct {
        const char *suffix;
        uint64_t factor;
    } units[] = {
        {"ns", 1},
        {"us", 1000},
        {"ms", 1000000},
        {"s", 1000000000},
        {"m", UINT64_C(60000000000)},
        {"h", UINT64_C(3600000000000)},
    };
    uint64_t value;
    const char *rest = read_digits(text, &value);
    if (!rest)
        return -errno;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(rest, units[i].suffix) == 0)
            return __builtin_mul_overflow(value, units[i].factor, ns) ? -ERANGE : 0;
    }
    return -EINVAL;
}

int units_parse_share(const char *text, uint32_t *thousandths)
{
    uint64_t whole, fraction = 0, scale = 1;
    const char *rest = read_digits(text, &whole);
    if (!rest)
        return -errno;
    if (*rest == '.') {
        const char *digits = rest + 1;
        rest = read_digits(digits, &fraction);
        if (!rest || rest - digits > 6)
            return -EINVAL;
        for (; digits < rest; digits++)
            scale *= 10;
    }
    uint64_t unit = 1000;
    if (*rest == '%') {
        unit = 10;
        rest++;
    }
    if (*rest)
        return -EINVAL;
    if (whole > 1000000)
        return -ERANGE;
    *thousandths = (uint32_t)(whole * unit + fraction * unit / scale);
    return 0;
}

char *units_format_size(uint64_t bytes, char *out, size_t size)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    uint64_t scaled = bytes, rest = 0;
    while (scaled >= 1024 && unit + 1 < sizeof(names) / sizeof(names[0])) {
        rest = scaled % 1024;
        scaled /= 1024;
        unit++;
    }
    if (rest)
        snprintf(out, size, "%" PRIu64 ".%" PRIu64 " %s", scaled, rest * 10 / 1024, names[unit]);
    else
        snprintf(out, size, "%" PRIu64 " %s", scaled, names[unit]);
    return out;
}
