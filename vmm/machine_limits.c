#include "vmm/machine_limits.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"

static int check_burst(uint64_t ns, struct error *err)
{
    if (ns && (ns < RATE_LIMIT_BURST_LEAST_NS || ns > RATE_LIMIT_BURST_LIMIT_S * NSEC_PER_SEC))
        return error_set(err, EINVAL, "burst: must be a time from 1ms to 1h");
    return 0;
}

// A number of operations; k, M, G mean thousands here, not powers of 1024, so none is taken.
static int parse_operations(const char *text, uint64_t *value)
{
    return units_parse_number(text, TOKEN_BUCKET_LIMIT, value);
}

static const struct {
    const char *option, *json;
    size_t member;
    int (*parse)(const char *text, uint64_t *value);
    const char *wanted;
} keys[] = {
    {"bps", "bytes_per_second", offsetof(struct rate_limits, bytes_per_second), units_parse_size,
     "a size a second (examples: 10M, 1G; 0 for no limit)"},
    {"iops", "operations_per_second", offsetof(struct rate_limits, operations_per_second),
     parse_operations, "a number a second (0 for no limit)"},
    {"burst", "burst_ns", offsetof(struct rate_limits, burst_ns), units_parse_duration,
     "a time (examples: 100ms, 2s)"},
};
enum { KEYS = sizeof(keys) / sizeof(keys[0]) };

static uint64_t *member_of(struct rate_limits *limits, size_t key)
{
    return (uint64_t *)((char *)limits + keys[key].member);
}

// The index of the key that `option` has, with its value; KEYS when it is no limit; -errno with a
// sentence.
static int parse_option(const char *option, size_t length, uint64_t *value, struct error *err)
{
    char text[64];
    for (size_t i = 0; i < KEYS; i++) {
        size_t name = strlen(keys[i].option);
        if (length <= name || option[name] != '=' || strncmp(option, keys[i].option, name) != 0)
            continue;
        snprintf(text, sizeof(text), "%.*s", (int)(length - name - 1), option + name + 1);
        if (keys[i].parse(text, value) != 0)
            return error_set(err, EINVAL, "%s: '%s' is not %s", keys[i].option, text,
                             keys[i].wanted);
        return (int)i;
    }
    return KEYS;
}

int machine_limits_set_option(struct rate_limits *limits, const char *option, size_t length,
                              struct error *err)
{
    uint64_t value;
    int key = parse_option(option, length, &value, err);
    if (key < 0 || key == KEYS)
        return key < 0 ? key : 0;
    *member_of(limits, (size_t)key) = value;
    int rc = check_burst(limits->burst_ns, err);
    return rc ? rc : 1;
}

int machine_limits_add_option(json_t *object, const char *option, struct error *err)
{
    uint64_t value;
    int key = parse_option(option, strlen(option), &value, err);
    if (key == KEYS)
        return error_set(err, EINVAL, "'%s' is no limit (known: " MACHINE_LIMITS_KEYS ")", option);
    if (key >= 0)
        json_object_set_new(object, keys[key].json, json_integer((json_int_t)value));
    return key < 0 ? key : 0;
}

int machine_limits_from_json(struct rate_limits *limits, const json_t *object, struct error *err)
{
    const char *name;
    json_t *value;
    struct rate_limits read = *limits;
    if (!json_is_object(object))
        return error_set(err, EINVAL, "limits: must be an object");
    json_object_foreach((json_t *)object, name, value)
    {
        size_t i = 0;
        while (i < KEYS && strcmp(name, keys[i].json) != 0)
            i++;
        if (i == KEYS)
            return error_set(err, EINVAL, "limits: '%s' is not a key that is known here", name);
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return error_set(err, EINVAL, "limits: %s: must be a number from 0", name);
        *member_of(&read, i) = (uint64_t)json_integer_value(value);
    }
    int rc = check_burst(read.burst_ns, err);
    if (rc == 0)
        *limits = read;
    return rc;
}

bool machine_limits_are_none(const struct rate_limits *limits)
{
    return !limits->bytes_per_second && !limits->operations_per_second && !limits->burst_ns;
}

json_t *machine_limits_to_json(const struct rate_limits *limits)
{
    json_t *object = json_object();
    for (size_t i = 0; i < KEYS; i++)
        json_object_set_new(object, keys[i].json,
                            json_integer((json_int_t)*member_of((struct rate_limits *)limits, i)));
    return object;
}
