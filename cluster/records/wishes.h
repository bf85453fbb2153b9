// What a machine asks of its host: the `placement` of its record, a JSON object, and what follows
// from its description (files in pools, the CPU model).
//
//   labels        the machine's own, for rules of others
//   host_labels, pools, nets   what its host must have
//   rules         list of {"with" or "away": "machine:NAME|label:L|host:H|host-label:L",
//                 "strict": true, "weight": 1}
#pragma once

#include "cluster/placement/placement.h"
#include "cluster/records/facts.h"

// 0, or a sentence that says what is wrong with what a client sent. NULL is fine.
int wishes_check(const json_t *placement, const json_t *description, struct error *err);

// As placement takes them; all belongs to the struct.
struct wishes {
    json_t *placement, *description;
    json_t *pool_names, *feature_names;
    struct word_list labels, host_labels, pools, nets, features;
    struct placement_rule rules[PLACEMENT_RULES_LIMIT];
    unsigned rule_count;
    uint32_t cpu_level; // 0: any
    bool host_cpu;      // it has the features of the host that it was started on
};

// Of texts as records have them; either may be NULL. What is unknown is left out. 0 or -ENOMEM.
int wishes_read(struct wishes *wishes, const char *placement, const char *description);
void wishes_free(struct wishes *wishes);
