#include "cluster/records/view.h"

#include <stdlib.h>
#include <string.h>

#include "base/cluster_mutant.h"

void record_view_init(struct record_view *view)
{
    memset(view, 0, sizeof(*view));
}

void record_view_clear(struct record_view *view)
{
    for (size_t i = 0; i < view->machine_count; i++)
        record_free(RECORD_MACHINE, &view->machines[i].machine.value);
    for (size_t i = 0; i < view->host_count; i++)
        record_free(RECORD_HOST, &view->hosts[i].host.value);
    view->machine_count = view->host_count = 0;
    view->settings.mod = view->manager.mod = 0;
}

void record_view_free(struct record_view *view)
{
    record_view_clear(view);
    free(view->hosts);
    free(view->machines);
    record_view_init(view);
}

// Where `name` is, or would be, among `count` entries of `size` bytes that begin with their names.
static size_t find_place(const void *entries, size_t count, size_t size, const char *name,
                         bool *found)
{
    size_t low = 0, high = count;
    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp((const char *)entries + middle * size, name);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The entry of that name, made if it isn't there; NULL without memory.
static void *obtain(void **entries, size_t *count, size_t *room, size_t size, const char *name)
{
    bool found;
    size_t place = find_place(*entries, *count, size, name, &found);
    if (found)
        return (char *)*entries + place * size;
    if (*count == *room) {
        size_t wanted = *room ? *room * 2 : 16;
        void *grown = realloc(*entries, wanted * size);
        if (!grown)
            return NULL;
        *entries = grown;
        *room = wanted;
    }
    char *at = (char *)*entries + place * size;
    memmove(at + size, at, (*count - place) * size);
    memset(at, 0, size);
    strcpy(at, name);
    ++*count;
    return at;
}

static struct record *host_place(struct record_view *view, const struct record_key *key)
{
    if (strlen(key->name) > NAME_LIMIT)
        return NULL;
    struct host_entry *entry = obtain((void **)&view->hosts, &view->host_count, &view->host_room,
                                      sizeof(*view->hosts), key->name);
    if (!entry)
        return NULL;
    return key->kind == RECORD_HOST   ? &entry->host
           : key->kind == RECORD_LIFE ? &entry->life
                                      : &entry->renewal;
}

static struct record *machine_place(struct record_view *view, const struct record_key *key)
{
    if (strlen(key->name) >= UUID_TEXT_SIZE)
        return NULL;
    struct machine_entry *entry = obtain((void **)&view->machines, &view->machine_count,
                                         &view->machine_room, sizeof(*view->machines), key->name);
    if (!entry)
        return NULL;
    return key->kind == RECORD_MACHINE ? &entry->machine
           : key->kind == RECORD_OWNER ? &entry->owner
           : key->kind == RECORD_STATE ? &entry->state
                                       : &entry->tombstone;
}

// Where a record belongs; NULL without memory, or for a kind that views don't hold.
static struct record *place_of(struct record_view *view, const struct record_key *key, bool *held)
{
    *held = true;
    switch (key->kind) {
    case RECORD_SETTINGS:
        return &view->settings;
    case RECORD_MANAGER:
        return &view->manager;
    case RECORD_HOST:
    case RECORD_LIFE:
    case RECORD_RENEWAL:
        return host_place(view, key);
    case RECORD_MACHINE:
    case RECORD_OWNER:
    case RECORD_STATE:
    case RECORD_TOMBSTONE:
        return machine_place(view, key);
    default:
        *held = false;
        return NULL;
    }
}

int record_view_add(struct record_view *view, struct record *record)
{
    bool held;
    struct record *place = place_of(view, &record->key, &held);
    if (!place) {
        record_free(record->key.kind, &record->value);
        return held ? -ENOMEM : 0;
    }
    record_free(place->key.kind, &place->value);
    *place = *record;
    return 0;
}

static void drop_entry(void *entries, size_t *count, size_t size, size_t place)
{
    char *at = (char *)entries + place * size;
    memmove(at, at + size, (--*count - place) * size);
}

void record_view_remove(struct record_view *view, const struct record_key *key)
{
    bool held, found;
    struct record none = {.key = *key};
    const char *name = key->name;
    struct record *at = place_of(view, key, &held);
    if (!at)
        return;
    record_free(at->key.kind, &at->value);
    *at = none;
    size_t place =
        find_place(view->machines, view->machine_count, sizeof(*view->machines), name, &found);
    const struct machine_entry *machine = found ? &view->machines[place] : NULL;
    if (machine && !machine->machine.mod && !machine->owner.mod && !machine->state.mod &&
        !machine->tombstone.mod)
        drop_entry(view->machines, &view->machine_count, sizeof(*view->machines), place);
    place = find_place(view->hosts, view->host_count, sizeof(*view->hosts), name, &found);
    const struct host_entry *host = found ? &view->hosts[place] : NULL;
    if (host && !host->host.mod && !host->life.mod && !host->renewal.mod)
        drop_entry(view->hosts, &view->host_count, sizeof(*view->hosts), place);
}

int record_view_apply(struct record_view *view, const struct change *change, uint64_t revision)
{
    for (unsigned i = 0; i < change->put_count; i++) {
        const struct change_put *put = &change->puts[i];
        struct record record = {.key = put->key, .mod = put->remove ? 0 : revision};
        int r = record_copy(put->key.kind, &put->value, &record.value);
        if (r)
            return r;
        r = record_view_add(view, &record);
        if (r)
            return r;
    }
    if (revision > view->revision)
        view->revision = revision;
    return 0;
}

const struct host_entry *record_view_host(const struct record_view *view, const char *name)
{
    bool found;
    size_t place = find_place(view->hosts, view->host_count, sizeof(*view->hosts), name, &found);
    return found ? &view->hosts[place] : NULL;
}

const struct machine_entry *record_view_machine(const struct record_view *view, const char *uuid)
{
    bool found;
    size_t place =
        find_place(view->machines, view->machine_count, sizeof(*view->machines), uuid, &found);
    return found ? &view->machines[place] : NULL;
}

bool record_view_owner_is_over(const struct record_view *view, const struct owner_record *owner)
{
    if (owner->stage == OWNER_NONE)
        return false;
    const struct host_entry *host = record_view_host(view, owner->host);
    // A host without a record gives no right: nobody has said that it stopped.
    return host && host->life.mod && life_is_over(&host->life.value.life, owner->incarnation);
}

bool record_view_owner_is_gone(const struct record_view *view, const struct owner_record *owner)
{
    if (!record_view_owner_is_over(view, owner))
        return false;
    return !owner->unbounded || CLUSTER_IS_MUTANT(FENCE_TAKES_UNBOUNDED) ||
           record_view_host(view, owner->host)->life.value.life.declared_dead;
}
