#include "cluster/records/wishes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *prefix;
    enum placement_scope scope;
} scopes[] = {
    {"machine:", PLACEMENT_MACHINE},
    {"label:", PLACEMENT_LABEL},
    {"host:", PLACEMENT_HOST},
    {"host-label:", PLACEMENT_HOST_LABEL},
};

// ---- rules ----

static int read_rule(const json_t *object, struct placement_rule *rule, struct error *err)
{
    const char *with = json_string_value(json_object_get(object, "with"));
    const char *away = json_string_value(json_object_get(object, "away"));
    const char *whom = with ? with : away;
    const json_t *strict = json_object_get(object, "strict");
    const json_t *weight = json_object_get(object, "weight");
    if (!whom || (with && away))
        return error_set(err, EINVAL, "a rule has \"with\" or \"away\", one of them");
    if ((strict && !json_is_boolean(strict)) ||
        (weight && (!json_is_integer(weight) || json_integer_value(weight) < 1 ||
                    json_integer_value(weight) > 1000)))
        return error_set(err, EINVAL,
                         "a rule's \"strict\" is true or false, its \"weight\" a "
                         "number from 1 to 1000");
    *rule = (struct placement_rule){
        .away = !with,
        .strict = !json_is_false(strict),
        .weight = (uint32_t)json_integer_value(weight),
    };
    for (size_t i = 0; i < sizeof(scopes) / sizeof(scopes[0]); i++) {
        size_t length = strlen(scopes[i].prefix);
        if (strncmp(whom, scopes[i].prefix, length) != 0 || !word_is_valid(whom + length))
            continue;
        rule->scope = scopes[i].scope;
        rule->value = whom + length;
        return 0;
    }
    return error_set(err, EINVAL,
                     "a rule names machine:NAME, label:LABEL, host:NAME or host-label:LABEL");
}

// ---- what a client sent ----

static int check_keys(const json_t *placement, struct error *err)
{
    static const char *const known[] = {"labels", "host_labels", "pools", "nets", "rules"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)placement, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return error_set(err, EINVAL, "\"placement\": unknown key \"%.40s\"", key);
        int r = strcmp(key, "rules") ? word_list_check(value, key, err) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int check_path(const json_t *holder, const char *key, struct error *err)
{
    char out[PATH_MAX];
    const char *path = json_string_value(json_object_get(holder, key));
    size_t length = path ? facts_pool_of(path) : 0;
    if (!length)
        return 0;
    json_t *pool = json_pack("{s:[{s:s%, s:s}]}", "pools", "name", path, length, "path", "/");
    int r = facts_resolve(pool, path, out, err);
    json_decref(pool);
    return r;
}

// As the hosts' ferry reads it: one that none understands would wait for ever.
static int check_cpu(const json_t *description, struct error *err)
{
    static const char *const models[] = {"host", "x86-64-v2", "x86-64-v3", "x86-64-v4"};
    const json_t *value = json_object_get(description, "cpu");
    const char *model = json_string_value(value);
    size_t length = model ? strcspn(model, ",") : 0;
    bool known = !value;
    for (size_t i = 0; model && i < sizeof(models) / sizeof(models[0]); i++)
        known = known || (strlen(models[i]) == length && memcmp(models[i], model, length) == 0);
    for (const char *at = model ? strchr(model, ',') : NULL; at; at = strchr(at + 1, ','))
        if ((at[1] != '+' && at[1] != '-') || strcspn(at + 1, ",") < 2)
            return error_set(err, EINVAL, "CPU model '%.60s': a feature is +NAME or -NAME", model);
    return known ? 0
                 : error_set(err, EINVAL,
                             "CPU model '%.60s': unknown (host, x86-64-v2, x86-64-v3, x86-64-v4)",
                             model ? model : "");
}

int wishes_check(const json_t *placement, const json_t *description, struct error *err)
{
    const json_t *rules = json_object_get(placement, "rules"), *one;
    struct placement_rule rule;
    size_t i;
    if (placement && !json_is_object(placement))
        return error_set(err, EINVAL, "\"placement\" must be an object");
    int r = placement ? check_keys(placement, err) : 0;
    if (!r && rules && (!json_is_array(rules) || json_array_size(rules) > PLACEMENT_RULES_LIMIT))
        r = error_set(err, EINVAL, "\"rules\" must be a list of at most %d", PLACEMENT_RULES_LIMIT);
    json_array_foreach(rules, i, one)
    {
        if (!r)
            r = read_rule(one, &rule, err);
    }
    if (!r)
        r = check_cpu(description, err);
    if (!r)
        r = check_path(description, "kernel", err);
    if (!r)
        r = check_path(description, "initrd", err);
    json_array_foreach(json_object_get(description, "disks"), i, one)
    {
        if (!r)
            r = check_path(one, "path", err);
    }
    return r;
}

// ---- as placement takes it ----

static void add_pool_of(struct wishes *wishes, const json_t *holder, const char *key)
{
    const char *path = json_string_value(json_object_get(holder, key));
    size_t length = path ? facts_pool_of(path) : 0;
    if (length)
        json_array_append_new(wishes->pool_names, json_stringn(path, length));
}

static void take_pools(struct wishes *wishes)
{
    const json_t *disk;
    size_t i;
    json_array_extend(wishes->pool_names, json_object_get(wishes->placement, "pools"));
    add_pool_of(wishes, wishes->description, "kernel");
    add_pool_of(wishes, wishes->description, "initrd");
    json_array_foreach(json_object_get(wishes->description, "disks"), i, disk)
        add_pool_of(wishes, disk, "path");
}

// "x86-64-v3,+gfni,-avx": a level and features.
static void take_cpu(struct wishes *wishes)
{
    const char *model = json_string_value(json_object_get(wishes->description, "cpu"));
    wishes->host_cpu = !model || strncmp(model, "host", 4) == 0;
    if (!wishes->host_cpu && strncmp(model, "x86-64-v", 8) == 0)
        wishes->cpu_level = (uint32_t)(model[8] - '0');
    for (const char *at = model ? strchr(model, ',') : NULL; at; at = strchr(at + 1, ',')) {
        size_t length = strcspn(at + 1, ",");
        if (at[1] == '+' && length > 1)
            json_array_append_new(wishes->feature_names, json_stringn(at + 2, length - 1));
    }
}

int wishes_read(struct wishes *wishes, const char *placement, const char *description)
{
    const json_t *one;
    struct error err;
    size_t i;
    *wishes = (struct wishes){
        .placement = placement ? json_loads(placement, 0, NULL) : NULL,
        .description = description ? json_loads(description, 0, NULL) : NULL,
        .pool_names = json_array(),
        .feature_names = json_array(),
    };
    int r = wishes->pool_names && wishes->feature_names ? 0 : -ENOMEM;
    if (!r) {
        take_pools(wishes);
        take_cpu(wishes);
        r = word_list_take(&wishes->labels, json_object_get(wishes->placement, "labels"));
    }
    if (!r)
        r = word_list_take(&wishes->host_labels, json_object_get(wishes->placement, "host_labels"));
    if (!r)
        r = word_list_take(&wishes->nets, json_object_get(wishes->placement, "nets"));
    if (!r)
        r = word_list_take(&wishes->pools, wishes->pool_names);
    if (!r)
        r = word_list_take(&wishes->features, wishes->feature_names);
    json_array_foreach(json_object_get(wishes->placement, "rules"), i, one)
    {
        if (wishes->rule_count < PLACEMENT_RULES_LIMIT &&
            read_rule(one, &wishes->rules[wishes->rule_count], &err) == 0)
            wishes->rule_count++;
    }
    if (r)
        wishes_free(wishes);
    return r;
}

void wishes_free(struct wishes *wishes)
{
    word_list_free(&wishes->labels);
    word_list_free(&wishes->host_labels);
    word_list_free(&wishes->pools);
    word_list_free(&wishes->nets);
    word_list_free(&wishes->features);
    json_decref(wishes->placement);
    json_decref(wishes->description);
    json_decref(wishes->pool_names);
    json_decref(wishes->feature_names);
    *wishes = (struct wishes){0};
}
