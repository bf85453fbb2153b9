#include "cluster/records/records.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What has no deadline is written in the second form: a manager that doesn't know of it would take
// it for stopped, and must rather understand nothing.
enum { FORM_VERSION = 1, FORM_UNBOUNDED = 2 };

static const char *const kind_prefixes[RECORD_KINDS] = {
    [RECORD_SETTINGS] = "ferry/settings", [RECORD_MANAGER] = "ferry/manager",
    [RECORD_HOST] = "ferry/hosts/",       [RECORD_LIFE] = "ferry/lives/",
    [RECORD_RENEWAL] = "ferry/renewals/", [RECORD_MACHINE] = "ferry/machines/",
    [RECORD_OWNER] = "ferry/owners/",     [RECORD_STATE] = "ferry/states/",
    [RECORD_NAME] = "ferry/names/",       [RECORD_TOMBSTONE] = "ferry/tombstones/",
    [RECORD_REQUEST] = "ferry/requests/", [RECORD_REFUSED] = "ferry/refused/",
};

static const char *const owner_stages[] = {"none", "assigned", "started", NULL};
static const char *const migration_stages[] = {"none", "reserved", "incoming", "switching",
                                               "done", "aborted",  NULL};
static const char *const wishes[] = {"stopped", "running", NULL};
static const char *const policies[] = {"always", "on-failure", "never", NULL};

const char *owner_stage_name(enum owner_stage stage)
{
    return owner_stages[stage];
}

const char *migration_stage_name(enum migration_stage stage)
{
    return migration_stages[stage];
}

const char *wish_name(enum machine_wish wish)
{
    return wishes[wish];
}

const char *restart_policy_name(enum restart_policy policy)
{
    return policies[policy];
}

static int find_name(const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -EINVAL;
}

int restart_policy_parse(const char *text, enum restart_policy *policy)
{
    int found = find_name(policies, text);
    if (found >= 0)
        *policy = (enum restart_policy)found;
    return found < 0 ? found : 0;
}

// ---- keys ----

struct record_key record_key_of(enum record_kind kind, const char *name)
{
    struct record_key key = {.kind = kind};
    snprintf(key.name, sizeof(key.name), "%s", name ? name : "");
    return key;
}

void record_key_format(const struct record_key *key, char out[RECORD_KEY_SIZE])
{
    snprintf(out, RECORD_KEY_SIZE, "%s%s", kind_prefixes[key->kind], key->name);
}

const char *record_kind_prefix(enum record_kind kind)
{
    return kind_prefixes[kind];
}

int record_key_parse(struct store_bytes bytes, struct record_key *key)
{
    for (int kind = 0; kind < RECORD_KINDS; kind++) {
        size_t length = strlen(kind_prefixes[kind]);
        bool one = kind_prefixes[kind][length - 1] != '/';
        if (bytes.length < length || memcmp(bytes.data, kind_prefixes[kind], length) != 0)
            continue;
        size_t rest = bytes.length - length;
        if (one != (rest == 0) || rest >= RECORD_NAME_SIZE ||
            memchr(bytes.data + length, 0, rest) || memchr(bytes.data + length, '/', rest))
            return -EINVAL;
        *key = (struct record_key){.kind = (enum record_kind)kind};
        memcpy(key->name, bytes.data + length, rest);
        return 0;
    }
    return -EINVAL;
}

// ---- fields of values ----

enum field_kind { FIELD_TEXT, FIELD_NUMBER, FIELD_SMALL, FIELD_BOOL, FIELD_NAME };

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset, size;
    bool optional;
    const char *const *names; // FIELD_NAME: an enum
};

// The type and the member can't be put into parentheses.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define FIELD(what, type, member, how, may)                                                        \
    {                                                                                              \
        .name = (what), .kind = (how), .offset = offsetof(struct type, member),                    \
        .size = sizeof(((struct type *)0)->member), .optional = (may)                              \
    }
#define CHOICE(what, type, member, list)                                                           \
    {                                                                                              \
        .name = (what), .kind = FIELD_NAME, .offset = offsetof(struct type, member),               \
        .size = sizeof(((struct type *)0)->member), .names = (list)                                \
    }
// NOLINTEND(bugprone-macro-parentheses)

static const struct field settings_fields[] = {
    FIELD("cluster", settings_record, cluster, FIELD_TEXT, false),
    FIELD("generation", settings_record, generation, FIELD_SMALL, false),
    FIELD("lease_ns", settings_record, lease_ns, FIELD_NUMBER, false),
    FIELD("deadline_ns", settings_record, deadline_ns, FIELD_NUMBER, false),
    FIELD("renew_ns", settings_record, renew_ns, FIELD_NUMBER, false),
    FIELD("stop_ns", settings_record, stop_ns, FIELD_NUMBER, false),
    FIELD("drift_ppm", settings_record, drift_ppm, FIELD_SMALL, false),
    FIELD("held", settings_record, held, FIELD_BOOL, true),
    {0},
};

static const struct field manager_fields[] = {
    FIELD("host", manager_record, host, FIELD_TEXT, false),
    FIELD("instance", manager_record, instance, FIELD_TEXT, false),
    FIELD("count", manager_record, count, FIELD_NUMBER, true),
    {0},
};

static const struct field host_fields[] = {
    FIELD("address", host_record, address, FIELD_TEXT, true),
    FIELD("version", host_record, version, FIELD_TEXT, true),
    FIELD("cpus", host_record, cpus, FIELD_SMALL, false),
    FIELD("memory", host_record, memory, FIELD_NUMBER, false),
    FIELD("draining", host_record, draining, FIELD_BOOL, true),
    FIELD("client", host_record, client, FIELD_BOOL, true),
    FIELD("certificate", host_record, certificate, FIELD_TEXT, true),
    {0},
};

static const struct field life_fields[] = {
    FIELD("incarnation", life_record, incarnation, FIELD_NUMBER, false),
    FIELD("identity", life_record, identity, FIELD_TEXT, false),
    FIELD("boot_id", life_record, boot_id, FIELD_TEXT, false),
    FIELD("fenced", life_record, fenced, FIELD_BOOL, false),
    FIELD("declared_dead", life_record, declared_dead, FIELD_BOOL, true),
    FIELD("unreported", life_record, unreported, FIELD_BOOL, true),
    {0},
};

static const struct field renewal_fields[] = {
    FIELD("incarnation", renewal_record, incarnation, FIELD_NUMBER, false),
    FIELD("count", renewal_record, count, FIELD_NUMBER, false),
    {0},
};

static const struct field machine_fields[] = {
    FIELD("name", machine_record, name, FIELD_TEXT, false),
    CHOICE("wish", machine_record, wish, wishes),
    CHOICE("restart", machine_record, restart, policies),
    FIELD("no_ha", machine_record, no_ha, FIELD_BOOL, true),
    FIELD("cpus", machine_record, cpus, FIELD_SMALL, false),
    FIELD("memory", machine_record, memory, FIELD_NUMBER, false),
    FIELD("wish_number", machine_record, wish_number, FIELD_NUMBER, false),
    FIELD("host", machine_record, host, FIELD_TEXT, true),
    FIELD("move_to", machine_record, move_to, FIELD_TEXT, true),
    FIELD("move_asked", machine_record, move_asked, FIELD_NUMBER, true),
    FIELD("cancel", machine_record, cancel, FIELD_TEXT, true),
    {0},
};

static const struct field migration_fields[] = {
    CHOICE("stage", migration_record, stage, migration_stages),
    FIELD("id", migration_record, id, FIELD_TEXT, false),
    FIELD("target", migration_record, target, FIELD_TEXT, false),
    FIELD("target_incarnation", migration_record, target_incarnation, FIELD_NUMBER, false),
    FIELD("source", migration_record, source, FIELD_TEXT, true),
    FIELD("source_incarnation", migration_record, source_incarnation, FIELD_NUMBER, true),
    FIELD("address", migration_record, address, FIELD_TEXT, true),
    FIELD("token", migration_record, token, FIELD_TEXT, true),
    FIELD("tries", migration_record, tries, FIELD_SMALL, true),
    {0},
};

static const struct field owner_fields[] = {
    CHOICE("stage", owner_record, stage, owner_stages),
    FIELD("host", owner_record, host, FIELD_TEXT, false),
    FIELD("incarnation", owner_record, incarnation, FIELD_NUMBER, false),
    FIELD("epoch", owner_record, epoch, FIELD_NUMBER, false),
    FIELD("kept_epoch", owner_record, kept_epoch, FIELD_NUMBER, true),
    FIELD("unbounded", owner_record, unbounded, FIELD_BOOL, true),
    FIELD("ran", owner_record, ran, FIELD_BOOL, true),
    FIELD("home", owner_record, home, FIELD_TEXT, true),
    {0},
};

static const struct field state_fields[] = {
    FIELD("state", state_record, state, FIELD_TEXT, false),
    FIELD("host", state_record, host, FIELD_TEXT, true),
    FIELD("reason", state_record, reason, FIELD_TEXT, true),
    FIELD("since_ms", state_record, since_ms, FIELD_NUMBER, true),
    FIELD("restarts", state_record, restarts, FIELD_SMALL, true),
    {0},
};

static const struct field uuid_fields[] = {
    FIELD("uuid", uuid_record, uuid, FIELD_TEXT, false),
    {0},
};

static const struct field tombstone_fields[] = {
    FIELD("epoch", tombstone_record, epoch, FIELD_NUMBER, false),
    FIELD("name", tombstone_record, name, FIELD_TEXT, false),
    FIELD("reason", tombstone_record, reason, FIELD_TEXT, true),
    {0},
};

static const struct field refused_fields[] = {
    FIELD("host", refused_record, host, FIELD_TEXT, false),
    {0},
};

static const struct field left_fields[] = {
    FIELD("host", left_host, host, FIELD_TEXT, false),
    FIELD("incarnation", left_host, incarnation, FIELD_NUMBER, false),
    {0},
};

static const struct field *const kind_fields[RECORD_KINDS] = {
    [RECORD_SETTINGS] = settings_fields, [RECORD_MANAGER] = manager_fields,
    [RECORD_HOST] = host_fields,         [RECORD_LIFE] = life_fields,
    [RECORD_RENEWAL] = renewal_fields,   [RECORD_MACHINE] = machine_fields,
    [RECORD_OWNER] = owner_fields,       [RECORD_STATE] = state_fields,
    [RECORD_NAME] = uuid_fields,         [RECORD_TOMBSTONE] = tombstone_fields,
    [RECORD_REQUEST] = uuid_fields,      [RECORD_REFUSED] = refused_fields,
};

// An enum of one of the lists above; all have the size of an int.
static int get_enum(const void *at)
{
    int value;
    memcpy(&value, at, sizeof(value));
    return value;
}

static json_t *encode_field(const struct field *field, const void *at)
{
    switch (field->kind) {
    case FIELD_TEXT:
        return json_string(at);
    case FIELD_NUMBER:
        return json_integer((json_int_t) * (const uint64_t *)at);
    case FIELD_SMALL:
        return json_integer(*(const uint32_t *)at);
    case FIELD_BOOL:
        return json_boolean(*(const bool *)at);
    case FIELD_NAME:
        return json_string(field->names[get_enum(at)]);
    }
    return NULL;
}

static json_t *encode_fields(const struct field *fields, const void *base)
{
    json_t *object = json_object();
    for (const struct field *field = fields; field->name; field++) {
        json_t *value = encode_field(field, (const char *)base + field->offset);
        if (!object || json_object_set_new(object, field->name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static int wrong(const struct field *field, struct error *err)
{
    return error_set(err, EBADMSG, "the field '%s' is missing or not what it should be",
                     field->name);
}

static int decode_text(const struct field *field, const char *text, char *at, struct error *err)
{
    if (!text || strlen(text) >= field->size)
        return wrong(field, err);
    memcpy(at, text, strlen(text) + 1);
    return 0;
}

static int decode_field(const struct field *field, const json_t *value, void *at, struct error *err)
{
    json_int_t number = json_integer_value(value);
    int found;
    switch (field->kind) {
    case FIELD_TEXT:
        return decode_text(field, json_string_value(value), at, err);
    case FIELD_NUMBER:
        if (!json_is_integer(value) || number < 0)
            return wrong(field, err);
        *(uint64_t *)at = (uint64_t)number;
        return 0;
    case FIELD_SMALL:
        if (!json_is_integer(value) || number < 0 || number > UINT32_MAX)
            return wrong(field, err);
        *(uint32_t *)at = (uint32_t)number;
        return 0;
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return wrong(field, err);
        *(bool *)at = json_is_true(value);
        return 0;
    case FIELD_NAME:
        found = json_is_string(value) ? find_name(field->names, json_string_value(value)) : -1;
        if (found < 0)
            return wrong(field, err);
        memcpy(at, &found, sizeof(found));
        return 0;
    }
    return wrong(field, err);
}

static int decode_fields(const struct field *fields, const json_t *object, void *base,
                         struct error *err)
{
    for (const struct field *field = fields; field->name; field++) {
        const json_t *value = json_object_get(object, field->name);
        if (!value && field->optional)
            continue;
        int r = decode_field(field, value, (char *)base + field->offset, err);
        if (r)
            return r;
    }
    return 0;
}

// ---- values ----

// Texts of JSON objects that values own.
static const struct owned {
    enum record_kind kind;
    const char *field;
    size_t offset; // of the char * within the value
} owned_texts[] = {
    {RECORD_HOST, "facts", offsetof(union record_value, host.facts)},
    {RECORD_MACHINE, "description", offsetof(union record_value, machine.description)},
    {RECORD_MACHINE, "placement", offsetof(union record_value, machine.placement)},
};
enum { OWNED_TEXTS = sizeof(owned_texts) / sizeof(owned_texts[0]) };

static char **owned_text(const struct owned *owned, const union record_value *value)
{
    return (char **)((char *)value + owned->offset);
}

static struct left_hosts *left_of(enum record_kind kind, union record_value *value)
{
    return kind == RECORD_OWNER       ? &value->owner.left
           : kind == RECORD_TOMBSTONE ? &value->tombstone.left
                                      : NULL;
}

static int encode_left(const struct left_hosts *left, json_t *object)
{
    json_t *list = json_array();
    int r = list ? 0 : -ENOMEM;
    for (unsigned i = 0; i < left->count && !r; i++)
        r = json_array_append_new(list, encode_fields(left_fields, &left->hosts[i]));
    if (!r)
        return json_object_set_new(object, "left", list);
    json_decref(list);
    return r;
}

static int decode_left(const json_t *list, struct left_hosts *left, struct error *err)
{
    const json_t *one;
    size_t i;
    if (!json_is_array(list) || json_array_size(list) > LEFT_HOSTS)
        return error_set(err, EBADMSG, "the field 'left' is not what it should be");
    json_array_foreach(list, i, one)
    {
        int r = decode_fields(left_fields, one, &left->hosts[left->count], err);
        if (r)
            return r;
        left->count++;
    }
    return 0;
}

// What the tables can't say: a record within a record, a list, and texts that are owned.
static int encode_rest(enum record_kind kind, const union record_value *value, json_t *object)
{
    int r = 0;
    if (kind == RECORD_OWNER && value->owner.migration.stage != MIGRATION_NONE)
        r = json_object_set_new(object, "migration",
                                encode_fields(migration_fields, &value->owner.migration));
    const struct left_hosts *left = left_of(kind, (union record_value *)(uintptr_t)value);
    if (!r && left && left->count)
        r = encode_left(left, object);
    for (int i = 0; i < OWNED_TEXTS && !r; i++) {
        const char *text = owned_texts[i].kind == kind ? *owned_text(&owned_texts[i], value) : NULL;
        if (text)
            r = json_object_set_new(object, owned_texts[i].field, json_loads(text, 0, NULL));
    }
    return r;
}

static int decode_rest(enum record_kind kind, const json_t *object, union record_value *value,
                       struct error *err)
{
    const json_t *part = json_object_get(object, "left");
    struct left_hosts *left = left_of(kind, value);
    int r = left && part ? decode_left(part, left, err) : 0;
    part = json_object_get(object, "migration");
    if (!r && kind == RECORD_OWNER && part)
        r = decode_fields(migration_fields, part, &value->owner.migration, err);
    if (r)
        return r;
    for (int i = 0; i < OWNED_TEXTS; i++) {
        part = owned_texts[i].kind == kind ? json_object_get(object, owned_texts[i].field) : NULL;
        if (!part)
            continue;
        char **text = owned_text(&owned_texts[i], value);
        *text = json_dumps(part, JSON_COMPACT | JSON_SORT_KEYS);
        if (!*text) {
            record_free(kind, value);
            return error_set(err, EBADMSG, "'%s' can't be read", owned_texts[i].field);
        }
    }
    return 0;
}

int record_copy(enum record_kind kind, const union record_value *from, union record_value *to)
{
    bool complete = true;
    *to = *from;
    for (int i = 0; i < OWNED_TEXTS; i++) {
        char **text = owned_texts[i].kind == kind ? owned_text(&owned_texts[i], to) : NULL;
        if (!text || !*text)
            continue;
        *text = strdup(*text);
        complete = complete && *text;
    }
    if (complete)
        return 0;
    record_free(kind, to);
    return -ENOMEM;
}

static int newest_form(enum record_kind kind)
{
    return kind == RECORD_OWNER || kind == RECORD_MACHINE ? FORM_UNBOUNDED : FORM_VERSION;
}

static int form_of(enum record_kind kind, const union record_value *value)
{
    bool unbounded = (kind == RECORD_OWNER && value->owner.unbounded) ||
                     (kind == RECORD_MACHINE && value->machine.no_ha);
    return unbounded ? FORM_UNBOUNDED : FORM_VERSION;
}

char *record_encode(enum record_kind kind, const union record_value *value)
{
    json_t *object = encode_fields(kind_fields[kind], value);
    if (!object)
        return NULL;
    char *text = NULL;
    if (json_object_set_new(object, "v", json_integer(form_of(kind, value))) == 0 &&
        encode_rest(kind, value, object) == 0)
        text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(object);
    return text;
}

int record_decode(enum record_kind kind, struct store_bytes bytes, union record_value *value,
                  struct error *err)
{
    json_error_t why;
    memset(value, 0, sizeof(*value));
    json_t *object = json_loadb(bytes.length ? (const char *)bytes.data : "", bytes.length,
                                JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(object)) {
        json_decref(object);
        return error_set(err, EBADMSG, "not a JSON object");
    }
    int r = 0;
    const json_t *version = json_object_get(object, "v");
    if (!json_is_integer(version) || json_integer_value(version) < FORM_VERSION ||
        json_integer_value(version) > newest_form(kind))
        r = error_set(err, EPROTONOSUPPORT,
                      "its form isn't one that this version of ferry knows: upgrade this host");
    if (!r)
        r = decode_fields(kind_fields[kind], object, value, err);
    if (!r)
        r = decode_rest(kind, object, value, err);
    json_decref(object);
    return r;
}

void record_free(enum record_kind kind, union record_value *value)
{
    for (int i = 0; i < OWNED_TEXTS; i++) {
        if (owned_texts[i].kind != kind)
            continue;
        free(*owned_text(&owned_texts[i], value));
        *owned_text(&owned_texts[i], value) = NULL;
    }
}

// ---- changes ----

void change_clear(struct change *change)
{
    change->compare_count = change->put_count = 0;
}

void change_compare(struct change *change, enum record_kind kind, const char *name, uint64_t mod)
{
    if (change->compare_count == CHANGE_COMPARES)
        abort(); // our own mistake: the number of compares is written in the code
    change->compares[change->compare_count++] =
        (struct change_compare){.key = record_key_of(kind, name), .mod = mod};
}

union record_value *change_put(struct change *change, enum record_kind kind, const char *name)
{
    if (change->put_count == CHANGE_PUTS)
        abort();
    struct change_put *put = &change->puts[change->put_count++];
    memset(put, 0, sizeof(*put));
    put->key = record_key_of(kind, name);
    return &put->value;
}

void change_remove(struct change *change, enum record_kind kind, const char *name)
{
    change_put(change, kind, name);
    change->puts[change->put_count - 1].remove = true;
}

// ---- settings ----

void settings_default(struct settings_record *settings)
{
    *settings = (struct settings_record){
        .generation = 1,
        .lease_ns = 10 * UINT64_C(1000000000),
        .deadline_ns = 8 * UINT64_C(1000000000),
        .renew_ns = 1 * UINT64_C(1000000000),
        .stop_ns = 1 * UINT64_C(1000000000),
        .drift_ppm = 1000,
    };
}

int settings_check(const struct settings_record *s, uint64_t election_max_ns, struct error *err)
{
    const uint64_t million = 1000000, limit = UINT64_C(1000000000) * 3600 * 24;
    if (s->drift_ppm >= million || s->lease_ns > limit || s->deadline_ns > limit ||
        s->stop_ns > limit || s->renew_ns == 0)
        return error_set(err, EINVAL, "a time-out of the cluster is out of range");
    // All in nanoseconds times a million, rounded to the safe side; a day fits.
    uint64_t stopped =
        s->deadline_ns / (million - s->drift_ppm) * million + 2 * million + s->stop_ns;
    uint64_t fenced = s->lease_ns / (million + s->drift_ppm) * million;
    if (stopped >= fenced)
        return error_set(err, EINVAL,
                         "a machine could still run when its host is declared dead: the lease "
                         "(%lu ms) must be longer than deadline (%lu ms) and stop time (%lu ms) "
                         "together, with clocks %u ppm apart",
                         s->lease_ns / million, s->deadline_ns / million, s->stop_ns / million,
                         s->drift_ppm);
    if (s->renew_ns > s->deadline_ns / 2)
        return error_set(err, EINVAL,
                         "a lost renewal would already stop machines: renew more often "
                         "than half the deadline");
    if (s->lease_ns < 4 * election_max_ns)
        return error_set(err, EINVAL,
                         "an election could take as long as a lease: the lease must be at least "
                         "four times the largest election time-out (%lu ms)",
                         election_max_ns / million);
    return 0;
}
