// What a host tells of itself beside CPUs and memory: the `facts` of its record, a JSON object.
//
//   labels, nets     lists of words
//   pools            list of {name, path, shared}: `pool:FILE` in a description is FILE below path
//   cpu_level, cpu_features, cpu_id   as Linux and the x86-64 psABI name them
//   cpu_ratio, memory_ratio           overcommit in thousandths; left out: the cluster's
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { FACTS_WORDS_LIMIT = 64, FACTS_WORD_SIZE = 64 };

// Words of JSON as a list that is ended by NULL; they belong to the JSON.
struct word_list {
    const char **list; // NULL: none
};

// Takes the texts of an array; what isn't a text is left out. `array` may be NULL. 0 or -ENOMEM.
int word_list_take(struct word_list *words, const json_t *array);
void word_list_free(struct word_list *words);
// 1 to 63 printable characters without a comma or a blank.
bool word_is_valid(const char *text);
// A list of at most FACTS_WORDS_LIMIT of them, or a sentence that says what `what` must be.
int word_list_check(const json_t *array, const char *what, struct error *err);

// Adds what --host-label, --host-net, --host-pool NAME=DIR[,local] say to `facts`.
int facts_add_label(json_t *facts, const char *text, struct error *err);
int facts_add_net(json_t *facts, const char *text, struct error *err);
int facts_add_pool(json_t *facts, const char *text, struct error *err);
// "1.5" as 1500 under `key`.
int facts_set_ratio(json_t *facts, const char *key, const char *text, struct error *err);
// What this host's processor is, by /proc/cpuinfo.
int facts_add_cpu(json_t *facts, struct error *err);

// Names of the pools of facts; `local`: only of those that no other host sees.
json_t *facts_pool_names(const json_t *facts, bool local);
// "pool:FILE" into the pool's name (its length is returned); 0 for a plain path.
size_t facts_pool_of(const char *path);
// Makes `path` one that can be opened on the host with these facts; plain ones stay as they are.
int facts_resolve(const json_t *facts, const char *path, char out[PATH_MAX], struct error *err);
// The same for all paths of a description; 0 or a sentence.
int facts_resolve_description(const json_t *facts, json_t *description, struct error *err);
