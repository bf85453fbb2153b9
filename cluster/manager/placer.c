#include "cluster/manager/placer.h"

#include <string.h>

#include "cluster/records/wishes.h"

static uint32_t number_of(const json_t *facts, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(facts, key));
    return value > 0 && value <= UINT32_MAX ? (uint32_t)value : 0;
}

static int add_host(struct placement *placement, const struct host_entry *entry)
{
    const struct host_record *about = &entry->host.value.host;
    if (!entry->host.mod)
        return 0;
    json_t *facts = about->facts ? json_loads(about->facts, 0, NULL) : NULL;
    json_t *pool_names = facts_pool_names(facts, false);
    struct word_list labels = {0}, pools = {0}, nets = {0}, features = {0};
    int r = word_list_take(&labels, json_object_get(facts, "labels"));
    r |= word_list_take(&nets, json_object_get(facts, "nets"));
    r |= word_list_take(&features, json_object_get(facts, "cpu_features"));
    r |= word_list_take(&pools, pool_names);
    const struct placement_host host = {
        .name = entry->name,
        .healthy = entry->life.mod && !entry->life.value.life.fenced,
        .draining = about->draining,
        .cpus = about->cpus,
        .memory = about->memory,
        .cpu_ratio = number_of(facts, "cpu_ratio"),
        .memory_ratio = number_of(facts, "memory_ratio"),
        .cpu_level = number_of(facts, "cpu_level"),
        .cpu_id = json_string_value(json_object_get(facts, "cpu_id")),
        .cpu_features = features.list,
        .labels = labels.list,
        .pools = pools.list,
        .nets = nets.list,
    };
    r = r ? -ENOMEM : placement_set_host(placement, &host);
    word_list_free(&labels);
    word_list_free(&pools);
    word_list_free(&nets);
    word_list_free(&features);
    json_decref(pool_names);
    json_decref(facts);
    return r;
}

// Rules name machines as people do; placement knows them by their UUIDs.
static void name_by_uuid(const struct record_view *view, struct wishes *wishes)
{
    for (unsigned i = 0; i < wishes->rule_count; i++) {
        struct placement_rule *rule = &wishes->rules[i];
        for (size_t k = 0; k < view->machine_count && rule->scope == PLACEMENT_MACHINE; k++) {
            const struct machine_entry *other = &view->machines[k];
            if (!other->machine.mod || strcmp(other->machine.value.machine.name, rule->value) != 0)
                continue;
            rule->value = other->uuid;
            break;
        }
    }
}

// Whether files of the machine are on `host` and nowhere else.
static bool is_bound_to(const struct host_entry *host, const struct wishes *wishes)
{
    bool bound = false;
    if (!host || !host->host.value.host.facts || !wishes->pools.list)
        return false;
    json_t *facts = json_loads(host->host.value.host.facts, 0, NULL);
    json_t *local = facts_pool_names(facts, true);
    const json_t *name;
    size_t i;
    json_array_foreach(local, i, name)
    {
        for (const char **pool = wishes->pools.list; *pool; pool++)
            bound = bound || strcmp(json_string_value(name), *pool) == 0;
    }
    json_decref(local);
    json_decref(facts);
    return bound;
}

// The one host that it may be on, or NULL: where a person wants it, or where its files are.
static const char *only_host(const struct record_view *view, const struct machine_entry *entry,
                             const struct wishes *wishes)
{
    const struct machine_record *wanted = &entry->machine.value.machine;
    const struct owner_record *owner = &entry->owner.value.owner;
    const char *home = owner->stage == OWNER_STARTED ? owner->host : owner->home;
    if (wanted->host[0])
        return wanted->host;
    return owner->ran && home[0] && is_bound_to(record_view_host(view, home), wishes) ? home : NULL;
}

static int add_machine(struct placement *placement, const struct record_view *view,
                       const struct machine_entry *entry)
{
    const struct machine_record *wanted = &entry->machine.value.machine;
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct migration_record *migration = &owner->migration;
    bool placed = owner->stage != OWNER_NONE && !record_view_owner_is_over(view, owner);
    bool moving = placed && (migration->stage == MIGRATION_RESERVED ||
                             migration->stage == MIGRATION_INCOMING ||
                             migration->stage == MIGRATION_SWITCHING);
    struct wishes wishes;
    if (!entry->machine.mod || !entry->owner.mod)
        return 0;
    if (wishes_read(&wishes, wanted->placement, wanted->description))
        return -ENOMEM;
    name_by_uuid(view, &wishes);
    // A machine that has seen all features of its host goes on only where they are the same.
    const struct host_entry *host = placed ? record_view_host(view, owner->host) : NULL;
    json_t *facts = wishes.host_cpu && host && host->host.value.host.facts
                        ? json_loads(host->host.value.host.facts, 0, NULL)
                        : NULL;
    const struct placement_machine machine = {
        .id = entry->uuid,
        .host = placed ? owner->host : NULL,
        .moving = moving ? migration->target : NULL,
        .only_on = only_host(view, entry, &wishes),
        .cpus = wanted->cpus,
        .memory = wanted->memory,
        .cpu_level = wishes.cpu_level,
        .cpu_id = json_string_value(json_object_get(facts, "cpu_id")),
        .cpu_features = wishes.features.list,
        .labels = wishes.labels.list,
        .host_labels = wishes.host_labels.list,
        .pools = wishes.pools.list,
        .nets = wishes.nets.list,
        .rules = wishes.rules,
        .rule_count = wishes.rule_count,
    };
    int r = placement_set_machine(placement, &machine);
    json_decref(facts);
    wishes_free(&wishes);
    return r;
}

struct placement *placer_create(const struct record_view *view)
{
    static const struct placement_policy policy = {.cpu_ratio = PLACER_CPU_RATIO};
    struct placement *placement = placement_create(&policy);
    int r = placement ? 0 : -ENOMEM;
    for (size_t i = 0; i < view->host_count && !r; i++)
        r = add_host(placement, &view->hosts[i]);
    for (size_t i = 0; i < view->machine_count && r != -ENOMEM; i++)
        r = add_machine(placement, view, &view->machines[i]);
    if (r != -ENOMEM)
        return placement;
    placement_destroy(placement);
    return NULL;
}
