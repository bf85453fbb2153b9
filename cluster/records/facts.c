#include "cluster/records/facts.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ids.h"

// ---- words ----

int word_list_take(struct word_list *words, const json_t *array)
{
    size_t count = 0, i;
    const json_t *one;
    words->list = NULL;
    if (!json_array_size(array))
        return 0;
    words->list = calloc(json_array_size(array) + 1, sizeof(*words->list));
    if (!words->list)
        return -ENOMEM;
    json_array_foreach(array, i, one)
    {
        if (json_string_value(one))
            words->list[count++] = json_string_value(one);
    }
    return 0;
}

void word_list_free(struct word_list *words)
{
    free(words->list);
    words->list = NULL;
}

bool word_is_valid(const char *text)
{
    size_t length = text ? strlen(text) : 0;
    for (size_t i = 0; i < length; i++)
        if (!isgraph((unsigned char)text[i]) || text[i] == ',')
            return false;
    return length > 0 && length < FACTS_WORD_SIZE;
}

int word_list_check(const json_t *array, const char *what, struct error *err)
{
    const json_t *one;
    size_t i;
    if (!array)
        return 0;
    if (!json_is_array(array) || json_array_size(array) > FACTS_WORDS_LIMIT)
        return error_set(err, EINVAL, "\"%s\" must be a list of at most %d words", what,
                         FACTS_WORDS_LIMIT);
    json_array_foreach(array, i, one)
    {
        if (!word_is_valid(json_string_value(one)))
            return error_set(err, EINVAL,
                             "\"%s\": a word is 1 to %d characters without blanks and commas", what,
                             FACTS_WORD_SIZE - 1);
    }
    return 0;
}

// ---- telling ----

static int append(json_t *facts, const char *key, json_t *value, struct error *err)
{
    json_t *list = json_object_get(facts, key);
    if (!list && json_object_set_new(facts, key, json_array()) == 0)
        list = json_object_get(facts, key);
    if (list && json_array_size(list) >= FACTS_WORDS_LIMIT) {
        json_decref(value);
        return error_set(err, EINVAL, "more than %d %s", FACTS_WORDS_LIMIT, key);
    }
    return list && json_array_append_new(list, value) == 0
               ? 0
               : error_set(err, ENOMEM, "out of memory");
}

int facts_add_label(json_t *facts, const char *text, struct error *err)
{
    if (!word_is_valid(text))
        return error_set(err, EINVAL, "'%s' is not a label", text);
    return append(facts, "labels", json_string(text), err);
}

int facts_add_net(json_t *facts, const char *text, struct error *err)
{
    if (!word_is_valid(text))
        return error_set(err, EINVAL, "'%s' is not the name of a net", text);
    return append(facts, "nets", json_string(text), err);
}

int facts_add_pool(json_t *facts, const char *text, struct error *err)
{
    char name[NAME_LIMIT + 1] = "", path[PATH_MAX];
    const char *equals = strchr(text, '=');
    if (equals && equals - text <= NAME_LIMIT)
        snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
    if (!name_is_valid(name) || equals[1] != '/')
        return error_set(err, EINVAL, "'%s': a pool is NAME=/DIRECTORY[,local]", text);
    size_t length = strlen(equals + 1);
    bool local = length > 6 && strcmp(equals + 1 + length - 6, ",local") == 0;
    if (length >= sizeof(path))
        return error_set(err, ENAMETOOLONG, "'%s': the path is too long", text);
    snprintf(path, sizeof(path), "%.*s", (int)(local ? length - 6 : length), equals + 1);
    return append(facts, "pools",
                  json_pack("{s:s, s:s, s:b}", "name", name, "path", path, "shared", !local), err);
}

int facts_set_ratio(json_t *facts, const char *key, const char *text, struct error *err)
{
    char *end;
    double ratio = strtod(text, &end);
    if (end == text || *end || !(ratio >= 0.1 && ratio <= 100))
        return error_set(err, EINVAL, "'%s': a ratio is a number from 0.1 to 100", text);
    return json_object_set_new(facts, key, json_integer((json_int_t)(ratio * 1000 + 0.5))) == 0
               ? 0
               : error_set(err, ENOMEM, "out of memory");
}

// ---- the processor ----

static bool has_flag(const json_t *features, const char *name)
{
    const json_t *one;
    size_t i;
    json_array_foreach(features, i, one)
    {
        if (strcmp(json_string_value(one), name) == 0)
            return true;
    }
    return false;
}

// The x86-64 psABI's levels, in Linux's names. 1 is what every x86-64 has.
static unsigned level_of(const json_t *features)
{
    static const char *const levels[3][12] = {
        {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", NULL},
        {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", NULL},
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", NULL},
    };
    unsigned level = 1;
    for (; level < 4; level++)
        for (const char *const *name = levels[level - 1]; *name; name++)
            if (!has_flag(features, *name))
                return level;
    return level;
}

static json_t *split_flags(char *text)
{
    json_t *list = json_array();
    char *rest = text, *word;
    while (list && (word = strtok_r(rest, " \t\n", &rest)) != NULL)
        json_array_append_new(list, json_string(word));
    // Two names of one thing each, as `--cpu` takes both.
    if (list && has_flag(list, "pni"))
        json_array_append_new(list, json_string("sse3"));
    if (list && has_flag(list, "abm"))
        json_array_append_new(list, json_string("lzcnt"));
    return list;
}

// FNV-1a: hosts with the same identity have the same flags, whatever else differs.
static uint64_t hash_text(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash;
}

int facts_add_cpu(json_t *facts, struct error *err)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char *line = NULL, vendor[32] = "", id[120];
    size_t room = 0;
    int family = 0, model = 0, stepping = 0, value;
    json_t *features = NULL;
    uint64_t hash = 0;
    if (!file)
        return error_set_errno(err, errno, "'/proc/cpuinfo'");
    while (!features && getline(&line, &room, file) > 0) {
        if (sscanf(line, "cpu family : %d", &value) == 1)
            family = value;
        else if (sscanf(line, "model : %d", &value) == 1)
            model = value;
        else if (sscanf(line, "stepping : %d", &value) == 1)
            stepping = value;
        else
            (void)sscanf(line, "vendor_id : %31s", vendor);
        if (strncmp(line, "flags", 5) != 0 || !strchr(line, ':'))
            continue;
        hash = hash_text(strchr(line, ':') + 1);
        features = split_flags(strchr(line, ':') + 1);
    }
    free(line);
    fclose(file);
    if (!features)
        return error_set(err, ENODATA, "'/proc/cpuinfo' doesn't name the processor's features");
    snprintf(id, sizeof(id), "%s-%d-%d-%d-%016llx", vendor, family, model, stepping,
             (unsigned long long)hash);
    int r = json_object_set_new(facts, "cpu_level", json_integer(level_of(features)));
    r |= json_object_set_new(facts, "cpu_id", json_string(id));
    r |= json_object_set_new(facts, "cpu_features", features);
    return r ? error_set(err, ENOMEM, "out of memory") : 0;
}

// ---- pools ----

json_t *facts_pool_names(const json_t *facts, bool local)
{
    json_t *names = json_array();
    const json_t *pool;
    size_t i;
    json_array_foreach(json_object_get(facts, "pools"), i, pool)
    {
        if (!local || json_is_false(json_object_get(pool, "shared")))
            json_array_append(names, json_object_get(pool, "name"));
    }
    return names;
}

size_t facts_pool_of(const char *path)
{
    const char *colon = strchr(path, ':');
    char name[NAME_LIMIT + 1];
    if (!colon || colon - path > NAME_LIMIT)
        return 0;
    snprintf(name, sizeof(name), "%.*s", (int)(colon - path), path);
    return name_is_valid(name) ? strlen(name) : 0;
}

// A file of a pool stays in it, whoever named it.
static bool leaves_pool(const char *file)
{
    for (const char *at = file; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (strncmp(at, "..", 2) == 0 && (at[2] == '/' || at[2] == 0))
            return true;
    }
    return file[0] == '/' || file[0] == 0;
}

int facts_resolve(const json_t *facts, const char *path, char out[PATH_MAX], struct error *err)
{
    size_t length = facts_pool_of(path), i;
    const json_t *pool;
    int n = -1;
    if (!length) {
        n = snprintf(out, PATH_MAX, "%s", path);
        return n < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "'%s' is too long", path);
    }
    if (leaves_pool(path + length + 1))
        return error_set(err, EINVAL, "'%s': a file of a pool has a path within it", path);
    json_array_foreach(json_object_get(facts, "pools"), i, pool)
    {
        const char *name = json_string_value(json_object_get(pool, "name"));
        const char *directory = json_string_value(json_object_get(pool, "path"));
        if (name && directory && strncmp(name, path, length) == 0 && name[length] == 0)
            n = snprintf(out, PATH_MAX, "%s/%s", directory, path + length + 1);
    }
    if (n < 0)
        return error_set(err, ENOENT, "'%s': this host has no pool of that name", path);
    return n < PATH_MAX ? 0 : error_set(err, ENAMETOOLONG, "'%s' is too long", path);
}

static int resolve_member(const json_t *facts, json_t *object, const char *key, struct error *err)
{
    char path[PATH_MAX];
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || !facts_pool_of(text))
        return 0;
    int r = facts_resolve(facts, text, path, err);
    if (!r && json_object_set_new(object, key, json_string(path)) != 0)
        r = error_set(err, ENOMEM, "out of memory");
    return r;
}

int facts_resolve_description(const json_t *facts, json_t *description, struct error *err)
{
    json_t *disk;
    size_t i;
    int r = resolve_member(facts, description, "kernel", err);
    if (!r)
        r = resolve_member(facts, description, "initrd", err);
    json_array_foreach(json_object_get(description, "disks"), i, disk)
    {
        if (!r)
            r = resolve_member(facts, disk, "path", err);
    }
    return r;
}
