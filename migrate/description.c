#include "migrate/description.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/protocol.h"

// One entry: [leaf, subleaf, flags, eax, ebx, ecx, edx].
enum { CPUID_NUMBERS = 7 };

static json_t *cpuid_to_json(const struct cpuid_table *table)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < table->count; i++) {
        const struct kvm_cpuid_entry2 *e = &table->entries[i];
        const uint32_t numbers[CPUID_NUMBERS] = {e->function, e->index, e->flags, e->eax,
                                                 e->ebx,      e->ecx,   e->edx};
        json_t *entry = json_array();
        for (int n = 0; n < CPUID_NUMBERS; n++)
            json_array_append_new(entry, json_integer(numbers[n]));
        json_array_append_new(list, entry);
    }
    return list;
}

static int cpuid_from_json(struct cpuid_table *table, const json_t *list, struct error *err)
{
    size_t i;
    json_t *entry;
    if (!json_is_array(list) || json_array_size(list) > CPUID_ENTRIES_LIMIT)
        return error_set(err, EPROTO, "the description of the machine has no usable CPUID");
    table->count = 0;
    json_array_foreach(list, i, entry)
    {
        uint32_t numbers[CPUID_NUMBERS];
        if (!json_is_array(entry) || json_array_size(entry) != CPUID_NUMBERS)
            return error_set(err, EPROTO, "the CPUID entry %zu is malformed", i);
        for (int n = 0; n < CPUID_NUMBERS; n++) {
            json_t *number = json_array_get(entry, (size_t)n);
            json_int_t value = json_integer_value(number);
            if (!json_is_integer(number) || value < 0 || value > UINT32_MAX)
                return error_set(err, EPROTO, "the CPUID entry %zu is malformed", i);
            numbers[n] = (uint32_t)value;
        }
        table->entries[table->count++] = (struct kvm_cpuid_entry2){
            .function = numbers[0],
            .index = numbers[1],
            .flags = numbers[2] & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = numbers[3],
            .ebx = numbers[4],
            .ecx = numbers[5],
            .edx = numbers[6],
        };
    }
    return 0;
}

int migrate_description_encode(const struct migrate_description *d, struct byte_writer *w,
                               struct error *err)
{
    json_t *object = json_pack("{s:s, s:i, s:[I, I], s:o, s:o}", "version", FERRY_VERSION,
                               "streams", (int)d->streams, "images", (json_int_t)d->image_size[0],
                               (json_int_t)d->image_size[1], "cpuid", cpuid_to_json(&d->cpuid),
                               "machine", machine_config_to_json(&d->config));
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (text)
        byte_writer_bytes(w, text, strlen(text));
    int rc = !text || w->failed ? error_set_errno(err, ENOMEM, "describing the machine") : 0;
    free(text);
    return rc;
}

static int decode_sizes(struct migrate_description *d, const json_t *object, struct error *err)
{
    json_t *images = json_object_get(object, "images");
    json_int_t streams = json_integer_value(json_object_get(object, "streams"));
    if (streams < 1 || streams > MIGRATE_STREAMS_LIMIT)
        return error_set(err, EPROTO,
                         "the source wants %lld data connections (1 to %d are allowed)",
                         (long long)streams, MIGRATE_STREAMS_LIMIT);
    d->streams = (unsigned)streams;
    for (size_t i = 0; i < 2; i++) {
        json_int_t size = json_integer_value(json_array_get(images, i));
        // An image lies in the machine's RAM, so it can't be larger.
        if (size < 0 || (uint64_t)size > d->config.memory)
            return error_set(err, EPROTO, "the source has an image of %lld bytes, more than RAM",
                             (long long)size);
        d->image_size[i] = (uint64_t)size;
    }
    if (d->image_size[0] == 0 || (d->image_size[1] == 0) != (d->config.initrd == NULL))
        return error_set(err, EPROTO,
                         "the sizes of the machine's images don't fit its description");
    return 0;
}

static int decode(struct migrate_description *d, const json_t *object, struct error *err)
{
    int rc = machine_config_from_json(&d->config, json_object_get(object, "machine"), err);
    if (rc == 0)
        rc = machine_config_check(&d->config, err);
    if (rc == 0)
        rc = cpuid_from_json(&d->cpuid, json_object_get(object, "cpuid"), err);
    if (rc == 0)
        rc = decode_sizes(d, object, err);
    const char *version = json_string_value(json_object_get(object, "version"));
    snprintf(d->version, sizeof(d->version), "%s", version ? version : "unknown");
    return rc;
}

int migrate_description_decode(struct migrate_description *d, const void *data, size_t length,
                               struct error *err)
{
    memset(d, 0, sizeof(*d));
    json_error_t why;
    json_t *object = json_loadb(data, length, JSON_REJECT_DUPLICATES, &why);
    if (!object || !json_is_object(json_object_get(object, "machine"))) {
        json_decref(object);
        return error_set(err, EPROTO, "the description of the machine is not what it should be: %s",
                         object ? "no machine in it" : why.text);
    }
    int rc = machine_config_init(&d->config);
    if (rc < 0) {
        json_decref(object);
        return error_set_errno(err, -rc, "reading the description of the machine");
    }
    rc = decode(d, object, err);
    json_decref(object);
    if (rc < 0) {
        machine_config_free(&d->config);
        error_prefix(err, "the source's description of the machine");
    }
    return rc;
}
