#include "cluster/records/left.h"

#include <stdio.h>
#include <string.h>

static void drop_at(struct left_hosts *left, unsigned at)
{
    left->count--;
    memmove(&left->hosts[at], &left->hosts[at + 1], (left->count - at) * sizeof(left->hosts[0]));
}

static bool is_lost(const struct record_view *view, const struct left_host *one)
{
    const struct host_entry *host = record_view_host(view, one->host);
    return host && host->life.mod && host->life.value.life.fenced;
}

static void make_room(const struct record_view *view, struct left_hosts *left)
{
    unsigned at = 0;
    while (at < left->count && is_lost(view, &left->hosts[at]))
        at++;
    drop_at(left, at < left->count ? at : 0);
}

void left_hosts_add(const struct record_view *view, struct left_hosts *left, const char *host,
                    uint64_t incarnation)
{
    if (!host[0])
        return;
    for (unsigned i = 0; i < left->count; i++) {
        struct left_host *one = &left->hosts[i];
        if (strcmp(one->host, host) != 0)
            continue;
        if (one->incarnation < incarnation)
            one->incarnation = incarnation;
        return;
    }
    if (left->count == LEFT_HOSTS)
        make_room(view, left);
    struct left_host *one = &left->hosts[left->count++];
    one->incarnation = incarnation;
    snprintf(one->host, sizeof(one->host), "%s", host);
}

void left_hosts_add_move(const struct record_view *view, struct left_hosts *left,
                         const struct migration_record *migration)
{
    if (migration->stage == MIGRATION_DONE)
        left_hosts_add(view, left, migration->source, migration->source_incarnation);
    else if (migration->stage != MIGRATION_NONE)
        left_hosts_add(view, left, migration->target, migration->target_incarnation);
}

void left_hosts_add_owner(const struct record_view *view, struct left_hosts *left,
                          const struct owner_record *owner)
{
    for (unsigned i = 0; i < owner->left.count; i++)
        left_hosts_add(view, left, owner->left.hosts[i].host, owner->left.hosts[i].incarnation);
    left_hosts_add_move(view, left, &owner->migration);
    if (owner->stage == OWNER_STARTED)
        left_hosts_add(view, left, owner->host, owner->incarnation);
}

bool left_hosts_has(const struct left_hosts *left, const char *host, uint64_t incarnation)
{
    for (unsigned i = 0; i < left->count; i++)
        if (strcmp(left->hosts[i].host, host) == 0)
            return left->hosts[i].incarnation <= incarnation;
    return false;
}

void left_hosts_drop(struct left_hosts *left, const char *host, uint64_t incarnation)
{
    for (unsigned i = 0; i < left->count; i++) {
        if (strcmp(left->hosts[i].host, host) != 0)
            continue;
        if (left->hosts[i].incarnation <= incarnation)
            drop_at(left, i);
        return;
    }
}

const char *left_host_excuse(const struct record_view *view, const struct left_host *one)
{
    const struct host_entry *host = record_view_host(view, one->host);
    // Another host of that name counts its incarnations from one.
    if (!host || !host->life.mod || host->life.value.life.incarnation < one->incarnation)
        return "was removed from the cluster";
    return host->life.value.life.declared_dead ? "was declared dead" : NULL;
}

void left_hosts_drop_excused(const struct record_view *view, struct left_hosts *left)
{
    for (unsigned i = left->count; i-- > 0;)
        if (left_host_excuse(view, &left->hosts[i]))
            drop_at(left, i);
}

void change_bury(struct change *change, const struct machine_entry *entry,
                 const struct left_hosts *left)
{
    const struct tombstone_record *old = &entry->tombstone.value.tombstone;
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    change_compare(change, RECORD_TOMBSTONE, entry->uuid, entry->tombstone.mod);
    change_remove(change, RECORD_OWNER, entry->uuid);
    change_remove(change, RECORD_MACHINE, entry->uuid);
    change_remove(change, RECORD_STATE, entry->uuid);
    change_remove(change, RECORD_NAME, old->name);
    if (!left->count) {
        change_remove(change, RECORD_TOMBSTONE, entry->uuid);
        return;
    }
    struct tombstone_record *new = &change_put(change, RECORD_TOMBSTONE, entry->uuid)->tombstone;
    *new = *old;
    new->epoch = entry->owner.value.owner.epoch;
    new->left = *left;
}
