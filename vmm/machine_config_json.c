// The description as JSON: one table of fields, read and written by it.
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "devices/virtio/virtio_vsock.h"
#include "vmm/machine_config_internal.h"
#include "vmm/machine_limits.h"

const char *const machine_on_reboot_names[] = {
    [ON_REBOOT_RESTART] = "restart", [ON_REBOOT_EXIT] = "exit", NULL};
const char *const machine_on_triple_fault_names[] = {
    [ON_TRIPLE_FAULT_CRASH] = "crash", [ON_TRIPLE_FAULT_RESET] = "reset", NULL};
const char *const machine_on_panic_names[] = {[ON_PANIC_CRASH] = "crash",
                                              [ON_PANIC_RESET] = "reset",
                                              [ON_PANIC_PAUSE] = "pause",
                                              [ON_PANIC_IGNORE] = "ignore",
                                              NULL};

// ---- JSON ----

// How a key is stored. The plain kinds are read and written by their offset.
enum field_kind { FIELD_TEXT, FIELD_TEXT_OR_NULL, FIELD_BOOL, FIELD_CHOICE, FIELD_OWN };

struct config_field {
    const char *key;
    enum field_kind kind;
    size_t offset;
    const char *const *choices; // FIELD_CHOICE: names by value; the member has the size of an enum
    // FIELD_OWN
    int (*read)(struct machine_config *config, const json_t *value, struct error *err);
    json_t *(*write)(const struct machine_config *config);
};

static int wrong_type(struct error *err, const char *wanted)
{
    return error_set(err, EINVAL, "must be %s", wanted);
}

static int read_name(struct machine_config *config, const json_t *value, struct error *err)
{
    const char *text = json_string_value(value);
    if (!text)
        return wrong_type(err, "a string");
    if (!name_is_valid(text))
        return error_set(err, EINVAL, "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})",
                         text);
    snprintf(config->name, sizeof(config->name), "%s", text);
    return 0;
}

static json_t *write_name(const struct machine_config *config)
{
    return json_string(config->name);
}

static int read_uuid(struct machine_config *config, const json_t *value, struct error *err)
{
    const char *text = json_string_value(value);
    if (!text || uuid_parse(text, &config->uuid) != 0)
        return wrong_type(err, "a UUID (8-4-4-4-12 hexadecimal digits)");
    return 0;
}

static json_t *write_uuid(const struct machine_config *config)
{
    char text[UUID_TEXT_SIZE];
    return json_string(uuid_format(&config->uuid, text));
}

static int read_cpus(struct machine_config *config, const json_t *value, struct error *err)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > MACHINE_CPUS_LIMIT)
        return error_set(err, EINVAL, "must be a number from 1 to %d", MACHINE_CPUS_LIMIT);
    config->cpus = (unsigned)n;
    return 0;
}

static json_t *write_cpus(const struct machine_config *config)
{
    return json_integer(config->cpus);
}

static int read_memory(struct machine_config *config, const json_t *value, struct error *err)
{
    if (json_is_string(value)) {
        if (units_parse_size(json_string_value(value), &config->memory) == 0)
            return 0;
    } else if (json_is_integer(value) && json_integer_value(value) > 0) {
        config->memory = (uint64_t)json_integer_value(value);
        return 0;
    }
    return wrong_type(err, "a size (bytes, or a string as \"512M\")");
}

static json_t *write_memory(const struct machine_config *config)
{
    return json_integer((json_int_t)config->memory);
}

static int unknown_key(struct error *err, const char *key)
{
    return error_set(err, EINVAL, "'%s' is not a key that is known here", key);
}

// "id" and "slot", which disks and networks share: 1 when `key` was one of them, 0 when not, or a
// sentence.
static int read_place(const char *kind, const char *key, const json_t *value, unsigned *number,
                      unsigned *slot, struct error *err)
{
    if (strcmp(key, "slot") == 0) {
        json_int_t n = json_integer_value(value);
        if (!json_is_integer(value) || n < 0 || n >= SLOT_LIMIT)
            return error_set(err, EINVAL, "slot: must be a number from 0 to %d", SLOT_LIMIT - 1);
        *slot = (unsigned)n;
        return 1;
    }
    if (strcmp(key, "id") != 0)
        return 0;
    const char *text = json_string_value(value);
    size_t prefix = strlen(kind);
    char *end;
    unsigned long n =
        text && strncmp(text, kind, prefix) == 0 && text[prefix] >= '0' && text[prefix] <= '9'
            ? strtoul(text + prefix, &end, 10)
            : NUMBER_LIMIT;
    if (n >= NUMBER_LIMIT || *end)
        return error_set(err, EINVAL, "id: must be \"%s0\" to \"%s%d\"", kind, kind,
                         NUMBER_LIMIT - 1);
    *number = (unsigned)n;
    return 1;
}

// One key of a disk. 0 or a sentence.
static int read_disk_key(struct disk_config *disk, const char **path, const char *key,
                         const json_t *value, struct error *err)
{
    const char *text = json_string_value(value);
    int r = read_place("disk", key, value, &disk->number, &disk->slot, err);
    if (r)
        return r < 0 ? r : 0;
    if (strcmp(key, "limits") == 0)
        return machine_limits_from_json(&disk->limits, value, err);
    if (strcmp(key, "path") == 0) {
        *path = text;
        return text ? 0 : error_set(err, EINVAL, "path: must be a string");
    }
    if (strcmp(key, "read_only") == 0) {
        disk->read_only = json_is_true(value);
        return json_is_boolean(value) ? 0
                                      : error_set(err, EINVAL, "read_only: must be true or false");
    }
    if (strcmp(key, "cache") == 0) {
        int cache = text ? config_find_name(config_disk_cache_names, text, strlen(text)) : -1;
        if (cache < 0)
            return error_set(err, EINVAL, "cache: must be \"writeback\", \"none\" or \"unsafe\"");
        disk->cache = (enum block_cache)cache;
        return 0;
    }
    return unknown_key(err, key);
}

int machine_config_add_disk_json(struct machine_config *config, json_t *value, struct error *err)
{
    if (!json_is_object(value))
        return wrong_type(err, "an object");
    struct disk_config disk = {.number = NUMBER_ANY};
    const char *path = NULL, *key;
    json_t *member;
    json_object_foreach(value, key, member)
    {
        int r = read_disk_key(&disk, &path, key, member, err);
        if (r)
            return r;
    }
    if (!path)
        return error_set(err, EINVAL, "no path given");
    disk.path = strdup(path);
    return config_add_disk(config, &disk, err);
}

static int read_disks(struct machine_config *config, const json_t *value, struct error *err)
{
    if (!json_is_array(value))
        return wrong_type(err, "an array");
    config_clear_disks(config);
    size_t i;
    json_t *element;
    json_array_foreach(value, i, element)
    {
        if (machine_config_add_disk_json(config, element, err) != 0)
            return error_prefix(err, "number %zu", i);
    }
    return 0;
}

// A new object that has "id", and "slot" where one is given.
static json_t *write_place(const char *kind, unsigned number, unsigned slot)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", json_sprintf("%s%u", kind, number));
    if (slot)
        json_object_set_new(object, "slot", json_integer(slot));
    return object;
}

json_t *machine_config_disk_json(const struct machine_config *config, unsigned index)
{
    const struct disk_config *disk = &config->disks[index];
    json_t *object = write_place("disk", disk->number, disk->slot);
    json_object_set_new(object, "path", json_string(disk->path));
    json_object_set_new(object, "read_only", json_boolean(disk->read_only));
    json_object_set_new(object, "cache", json_string(config_disk_cache_names[disk->cache]));
    if (!machine_limits_are_none(&disk->limits))
        json_object_set_new(object, "limits", machine_limits_to_json(&disk->limits));
    return object;
}

static json_t *write_disks(const struct machine_config *config)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < config->disk_count; i++) {
        if (json_array_append_new(array, machine_config_disk_json(config, i)) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static const char *const net_kind_names[] = {
    [NET_TAP] = "tap", [NET_NONE] = "none", [NET_USER] = "user", [NET_SOCKET] = "socket", NULL};

// Keys of each kind, beside "kind", "id", "slot" and "mac".
static const char *const net_keys[] = {[NET_TAP] = "interface queues",
                                       [NET_NONE] = "",
                                       [NET_USER] = "forward",
                                       [NET_SOCKET] = "path listen"};

static int read_forwards(struct net_config *net, const json_t *value, struct error *err)
{
    size_t i;
    json_t *element;
    if (!json_is_array(value))
        return wrong_type(err, "an array");
    json_array_foreach(value, i, element)
    {
        const char *text = json_string_value(element);
        if (!text || (strncmp(text, "tcp=", 4) != 0 && strncmp(text, "udp=", 4) != 0))
            return error_set(err, EINVAL, "must be of \"tcp=SPEC\" and \"udp=SPEC\"");
        int r = config_add_forward(net, text[0] == 't' ? "tcp" : "udp", text + 4, err);
        if (r)
            return r;
    }
    return 0;
}

static int read_net_key(struct net_config *net, const char *key, const json_t *value,
                        struct error *err)
{
    if (net->kind != NET_NONE && strcmp(key, "limits") == 0)
        return machine_limits_from_json(&net->limits, value, err);
    const char *text = json_string_value(value);
    int r = read_place("net", key, value, &net->number, &net->slot, err);
    if (r)
        return r < 0 ? r : 0;
    if (strcmp(key, "kind") == 0)
        return 0;
    const char *found = strstr(net_keys[net->kind], key);
    if (strcmp(key, "mac") == 0 && net->kind != NET_NONE) {
        if (!text)
            return error_set(err, EINVAL, "mac: must be a string");
        return config_parse_mac(text, net->mac, err) ? error_prefix(err, "mac") : 0;
    }
    if (!found || (found[strlen(key)] && found[strlen(key)] != ' '))
        return unknown_key(err, key);
    if (strcmp(key, "queues") == 0) {
        json_int_t n = json_integer_value(value);
        if (!json_is_integer(value) || n < 1 || n > MACHINE_NET_QUEUES_LIMIT)
            return error_set(err, EINVAL, "queues: must be a number from 1 to %d",
                             MACHINE_NET_QUEUES_LIMIT);
        net->queues = (unsigned)n;
        return 0;
    }
    if (strcmp(key, "listen") == 0) {
        net->listens = json_is_true(value);
        return json_is_boolean(value) ? 0 : error_set(err, EINVAL, "listen: must be true or false");
    }
    if (strcmp(key, "forward") == 0)
        return read_forwards(net, value, err) ? error_prefix(err, "forward") : 0;
    if (!text) // interface or path
        return error_set(err, EINVAL, "%s: must be a string", key);
    free(net->interface);
    net->interface = strdup(text);
    return net->interface ? 0 : error_set(err, ENOMEM, "out of memory");
}

static int read_net(struct net_config *net, json_t *value, struct error *err)
{
    const json_t *kind = json_object_get(value, "kind");
    const char *text = json_string_value(kind), *key;
    json_t *member;
    if (kind && !text)
        return error_set(err, EINVAL, "kind: must be a string");
    int found = text ? config_find_name(net_kind_names, text, strlen(text)) : -1;
    if (found < 0)
        return error_set(err, EINVAL,
                         "kind: must be \"tap\", \"user\", \"socket\" or \"none\" (alone)");
    net->kind = (enum net_kind)found;
    json_object_foreach(value, key, member)
    {
        int r = read_net_key(net, key, member, err);
        if (r)
            return r;
    }
    if (net->kind == NET_TAP && (!net->interface || !*net->interface))
        return error_set(err, EINVAL, "no interface given");
    if (net->kind == NET_SOCKET && (!net->interface || !*net->interface))
        return error_set(err, EINVAL, "no path given");
    return 0;
}

int machine_config_add_net_json(struct machine_config *config, json_t *value, struct error *err)
{
    if (!json_is_object(value))
        return wrong_type(err, "an object");
    struct net_config net = {.number = NUMBER_ANY, .queues = 1};
    int r = read_net(&net, value, err);
    if (r) {
        config_free_net(&net);
        return r;
    }
    return config_add_net(config, &net, err);
}

static int read_nets(struct machine_config *config, const json_t *value, struct error *err)
{
    if (!json_is_array(value))
        return wrong_type(err, "an array");
    config_clear_nets(config);
    size_t i;
    json_t *element;
    json_array_foreach(value, i, element)
    {
        if (machine_config_add_net_json(config, element, err) != 0)
            return error_prefix(err, "number %zu", i);
    }
    return 0;
}

static json_t *write_forwards(const char *forwards)
{
    json_t *array = json_array();
    while (forwards && *forwards) {
        size_t length = strcspn(forwards, ",");
        json_array_append_new(array, json_stringn(forwards, length));
        forwards += length + (forwards[length] == ',');
    }
    return array;
}

json_t *machine_config_net_json(const struct machine_config *config, unsigned index)
{
    static const uint8_t derived[6];
    const struct net_config *net = &config->nets[index];
    const uint8_t *m = net->mac;
    if (net->kind == NET_NONE)
        return json_pack("{s:s}", "kind", "none");
    json_t *object = write_place("net", net->number, net->slot);
    json_object_set_new(object, "kind", json_string(net_kind_names[net->kind]));
    if (net->kind == NET_TAP) {
        json_object_set_new(object, "interface", json_string(net->interface));
        json_object_set_new(object, "queues", json_integer(net->queues));
    } else if (net->kind == NET_USER) {
        json_object_set_new(object, "forward", write_forwards(net->forwards));
    } else {
        json_object_set_new(object, "path", json_string(net->interface));
        json_object_set_new(object, "listen", json_boolean(net->listens));
    }
    if (!machine_limits_are_none(&net->limits))
        json_object_set_new(object, "limits", machine_limits_to_json(&net->limits));
    if (memcmp(m, derived, 6) != 0)
        json_object_set_new(
            object, "mac",
            json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]));
    return object;
}

static json_t *write_nets(const struct machine_config *config)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < config->net_count; i++) {
        if (json_array_append_new(array, machine_config_net_json(config, i)) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int read_vsock(struct machine_config *config, const json_t *value, struct error *err)
{
    const char *key, *path = NULL;
    json_int_t cid = 0;
    json_t *member;
    if (json_is_null(value)) {
        free(config->vsock.socket);
        config->vsock = (struct vsock_config){0};
        return 0;
    }
    if (!json_is_object(value))
        return wrong_type(err, "an object or null");
    json_object_foreach((json_t *)value, key, member)
    {
        if (strcmp(key, "cid") == 0)
            cid = json_integer_value(member);
        else if (strcmp(key, "socket") == 0)
            path = json_string_value(member);
        else
            return unknown_key(err, key);
    }
    if (cid < VIRTIO_VSOCK_GUEST_CID_MIN || cid >= UINT32_MAX || !path || !*path)
        return error_set(err, EINVAL, "must have \"cid\" (%d to 4294967294) and \"socket\", a path",
                         VIRTIO_VSOCK_GUEST_CID_MIN);
    char *copy = strdup(path);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    free(config->vsock.socket);
    config->vsock = (struct vsock_config){(uint32_t)cid, copy};
    return 0;
}

static json_t *write_vsock(const struct machine_config *config)
{
    if (!config->vsock.socket)
        return json_null();
    return json_pack("{s:I, s:s}", "cid", (json_int_t)config->vsock.cid, "socket",
                     config->vsock.socket);
}

static int read_cpu_time(struct machine_config *config, const json_t *value, struct error *err)
{
    config->cpu_time = (struct cpu_settings){0};
    return cpu_settings_from_json(&config->cpu_time, value, err);
}

static json_t *write_cpu_time(const struct machine_config *config)
{
    return cpu_settings_to_json(&config->cpu_time);
}

#define MEMBER(m) offsetof(struct machine_config, m)

static const struct config_field config_fields[] = {
    {"name", FIELD_OWN, 0, NULL, read_name, write_name},
    {"uuid", FIELD_OWN, 0, NULL, read_uuid, write_uuid},
    {"kernel", FIELD_TEXT_OR_NULL, MEMBER(kernel), NULL, NULL, NULL},
    {"initrd", FIELD_TEXT_OR_NULL, MEMBER(initrd), NULL, NULL, NULL},
    {"append", FIELD_TEXT, MEMBER(append), NULL, NULL, NULL},
    {"cpus", FIELD_OWN, 0, NULL, read_cpus, write_cpus},
    {"memory", FIELD_OWN, 0, NULL, read_memory, write_memory},
    {"cpu", FIELD_TEXT, MEMBER(cpu_model), NULL, NULL, NULL},
    {"cpu_time", FIELD_OWN, 0, NULL, read_cpu_time, write_cpu_time},
    {"disks", FIELD_OWN, 0, NULL, read_disks, write_disks},
    {"nets", FIELD_OWN, 0, NULL, read_nets, write_nets},
    {"virtio_console", FIELD_BOOL, MEMBER(virtio_console), NULL, NULL, NULL},
    {"rng", FIELD_BOOL, MEMBER(rng), NULL, NULL, NULL},
    {"balloon", FIELD_BOOL, MEMBER(balloon), NULL, NULL, NULL},
    {"vsock", FIELD_OWN, 0, NULL, read_vsock, write_vsock},
    {"on_reboot", FIELD_CHOICE, MEMBER(on_reboot), machine_on_reboot_names, NULL, NULL},
    {"on_triple_fault", FIELD_CHOICE, MEMBER(on_triple_fault), machine_on_triple_fault_names, NULL,
     NULL},
    {"on_panic", FIELD_CHOICE, MEMBER(on_panic), machine_on_panic_names, NULL, NULL},
    {"debug_exit", FIELD_BOOL, MEMBER(debug_exit), NULL, NULL, NULL},
    {"force", FIELD_BOOL, MEMBER(force), NULL, NULL, NULL},
};
enum { CONFIG_FIELDS = sizeof(config_fields) / sizeof(config_fields[0]) };

// The choices share one representation.
_Static_assert(sizeof(enum on_reboot) == sizeof(int) &&
                   sizeof(enum on_triple_fault) == sizeof(int) &&
                   sizeof(enum on_panic) == sizeof(int),
               "choices are stored as int");

static json_t *field_to_json(const struct machine_config *config, const struct config_field *field)
{
    const void *member = (const char *)config + field->offset;
    const char *text;
    switch (field->kind) {
    case FIELD_TEXT:
    case FIELD_TEXT_OR_NULL:
        text = *(char *const *)member;
        return text ? json_string(text) : json_null();
    case FIELD_BOOL:
        return json_boolean(*(const bool *)member);
    case FIELD_CHOICE:
        return json_string(field->choices[*(const int *)member]);
    case FIELD_OWN:
        break;
    }
    return field->write(config);
}

json_t *machine_config_to_json(const struct machine_config *config)
{
    json_t *object = json_object();
    for (int i = 0; i < CONFIG_FIELDS; i++) {
        if (config_fields[i].write == write_cpu_time && cpu_settings_are_default(&config->cpu_time))
            continue; // so that a version that doesn't know it takes the description
        json_t *value = field_to_json(config, &config_fields[i]);
        if (json_object_set_new(object, config_fields[i].key, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static int read_text(char **member, bool nullable, const json_t *value, struct error *err)
{
    if (nullable && json_is_null(value)) {
        free(*member);
        *member = NULL;
        return 0;
    }
    if (!json_is_string(value))
        return wrong_type(err, nullable ? "a string or null" : "a string");
    char *copy = strdup(json_string_value(value));
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    free(*member);
    *member = copy;
    return 0;
}

static int read_choice(int *member, const char *const *choices, const json_t *value,
                       struct error *err)
{
    const char *text = json_string_value(value);
    int found = text ? config_find_name(choices, text, strlen(text)) : -1;
    if (found >= 0) {
        *member = found;
        return 0;
    }
    char list[128];
    size_t used = 0;
    for (int i = 0; choices[i] && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s\"%s\"",
                                 i == 0           ? ""
                                 : choices[i + 1] ? ", "
                                                  : " or ",
                                 choices[i]);
    return error_set(err, EINVAL, "must be %s", list);
}

static int field_from_json(struct machine_config *config, const struct config_field *field,
                           const json_t *value, struct error *err)
{
    void *member = (char *)config + field->offset;
    switch (field->kind) {
    case FIELD_TEXT:
    case FIELD_TEXT_OR_NULL:
        return read_text(member, field->kind == FIELD_TEXT_OR_NULL, value, err);
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return wrong_type(err, "true or false");
        *(bool *)member = json_is_true(value);
        return 0;
    case FIELD_CHOICE:
        return read_choice(member, field->choices, value, err);
    case FIELD_OWN:
        break;
    }
    return field->read(config, value, err);
}

int machine_config_from_json(struct machine_config *config, const json_t *object, struct error *err)
{
    if (!json_is_object(object))
        return error_set(err, EINVAL, "a machine description must be an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        const struct config_field *field = NULL;
        for (int i = 0; i < CONFIG_FIELDS && !field; i++)
            field = strcmp(config_fields[i].key, key) == 0 ? &config_fields[i] : NULL;
        if (!field)
            return unknown_key(err, key);
        if (field_from_json(config, field, value, err) != 0)
            return error_prefix(err, "%s", key);
    }
    return 0;
}

int machine_config_from_file(struct machine_config *config, const char *path, struct error *err)
{
    json_error_t why;
    json_t *object = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (!object && why.line < 1)
        return error_set(err, EINVAL, "%s", why.text);
    if (!object)
        return error_set(err, EINVAL, "%s, line %d: %s", path, why.line, why.text);
    int r = machine_config_from_json(config, object, err);
    json_decref(object);
    return r ? error_prefix(err, "%s", path) : 0;
}
