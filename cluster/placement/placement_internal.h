// Placement, inside: hosts and machines with their words as numbers.
//
// Words (labels, pools, nets, features, names in rules) are interned: equal words have equal
// numbers, so a decision compares numbers only. The table is a hash table that is looked up and
// never walked.
#pragma once

#include "cluster/placement/placement.h"

typedef uint32_t word; // 0: none

struct words {
    word *list;
    unsigned count;
};

struct known_rule {
    enum placement_scope scope;
    bool away, strict;
    uint32_t weight;
    word value;
};

struct known_host {
    char *name; // the word's text
    word word;
    bool healthy, draining;
    uint32_t cpus, cpu_level;
    uint64_t memory;
    uint64_t cpu_room, memory_room; // with overcommit; CPUs in thousandths
    uint64_t cpu_used, memory_used; // by machines and reservations
    word cpu_id;
    struct words features, labels, pools, nets;
    // Of the decision under way.
    uint32_t with_rules; // bits: which strict rules of the machine are met here
    word away;           // a strict rule keeps the machine away: of or from this machine
    int64_t rule_score;
};

struct known_machine {
    char *id;
    word word;
    word host, moving, only_on; // hosts, known or not
    struct known_host *at, *to; // NULL: nowhere, or not known
    uint32_t cpus, cpu_level;
    uint64_t memory;
    word cpu_id;
    struct words features, labels, host_labels, pools, nets, near;
    struct known_rule rules[PLACEMENT_RULES_LIMIT];
    unsigned rule_count;
};

struct placement {
    struct placement_policy policy;
    struct known_host **hosts; // in the order of their names
    unsigned host_count, host_capacity;
    struct known_machine **machines; // in the order of their ids
    unsigned machine_count, machine_capacity;
    // Words: texts by number, and an open hash table of numbers.
    char **texts;
    unsigned word_count, word_capacity;
    word *table;
    unsigned table_size;
};

struct known_machine *placement_find_machine(const struct placement *p, const char *id);
struct known_host *placement_find_host(const struct placement *p, word name);
const char *placement_word_text(const struct placement *p, word w);
bool words_have(const struct words *words, word w);
