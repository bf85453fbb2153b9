#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

void output_json(const json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
    fflush(stdout);
}

void output_json_line(const json_t *value)
{
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    putchar('\n');
    fflush(stdout);
}

static void print_leaf(const char *path, const json_t *value)
{
    if (json_is_string(value)) {
        printf("%-40s %s\n", path, json_string_value(value));
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    printf("%-40s %s\n", path, text ? text : "?");
    free(text);
}

// `path` has room for `size` bytes, of which `used` are taken.
static void print_flat(char *path, size_t used, size_t size, json_t *value)
{
    if (json_is_object(value)) {
        const char *key;
        json_t *member;
        json_object_foreach(value, key, member)
        {
            snprintf(path + used, size - used, "%s%s", used ? "." : "", key);
            print_flat(path, strlen(path), size, member);
        }
    } else if (json_is_array(value)) {
        size_t i;
        json_t *element;
        json_array_foreach(value, i, element)
        {
            snprintf(path + used, size - used, "[%zu]", i);
            print_flat(path, strlen(path), size, element);
        }
    } else {
        path[used] = 0;
        print_leaf(path, value);
    }
}

void output_flat(const json_t *value)
{
    char path[256] = "";
    print_flat(path, 0, sizeof(path), (json_t *)value);
    fflush(stdout);
}

const char *output_text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

uint64_t output_number_of(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void print_state(const char *name, const char *state)
{
    json_t *object = json_pack("{s:s, s:s}", "name", name, "state", state);
    output_json_line(object);
    json_decref(object);
}

void output_name(const char *name, const char *state, int format)
{
    if (format == OUTPUT_JSON) {
        print_state(name, state);
        return;
    }
    puts(name);
    fflush(stdout);
}

void output_ended(const char *name, const char *how, int format)
{
    if (format == OUTPUT_JSON) {
        print_state(name, how);
    } else {
        printf("%s: %s\n", name, how);
        fflush(stdout);
    }
}
