#include "cluster/store/mvcc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// What a key and a version take beside their bytes, for the memory limit.
enum { KEY_OVERHEAD = sizeof(struct mvcc_key) + 32, VERSION_OVERHEAD = 64 };

static int key_order(const struct mvcc_key *a, const struct mvcc_key *b)
{
    return store_bytes_compare(a->key, b->key);
}

// RB_GENERATE_STATIC needs BSD's __unused, which libbsd leaves out.
RB_GENERATE_INTERNAL(mvcc_tree, mvcc_key, node, key_order, __attribute__((unused)) static)

void mvcc_init(struct mvcc *mvcc)
{
    *mvcc = (struct mvcc){.revision = 1};
    RB_INIT(&mvcc->tree);
}

static void key_free(struct mvcc_key *key)
{
    for (uint32_t i = 0; i < key->count; i++)
        free(key->versions[i].value);
    free(key->versions);
    free(key);
}

void mvcc_free(struct mvcc *mvcc)
{
    struct mvcc_key *key, *next;
    for (key = RB_MIN(mvcc_tree, &mvcc->tree); key; key = next) {
        next = RB_NEXT(mvcc_tree, &mvcc->tree, key);
        RB_REMOVE(mvcc_tree, &mvcc->tree, key);
        key_free(key);
    }
    free(mvcc->events);
    mvcc_init(mvcc);
}

const struct mvcc_version *mvcc_newest(const struct mvcc_key *key)
{
    if (!key || key->count == 0 || !key->versions[key->count - 1].value)
        return NULL;
    return &key->versions[key->count - 1];
}

// How many versions are not newer than `revision`.
static uint32_t versions_up_to(const struct mvcc_key *key, uint64_t revision)
{
    uint32_t low = 0, high = key->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (key->versions[middle].mod <= revision)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct mvcc_version *mvcc_at(const struct mvcc_key *key, uint64_t revision)
{
    uint32_t count = key ? versions_up_to(key, revision) : 0;
    if (count == 0 || !key->versions[count - 1].value)
        return NULL;
    return &key->versions[count - 1];
}

const struct mvcc_version *mvcc_version_of(const struct mvcc_key *key, uint64_t revision)
{
    uint32_t count = versions_up_to(key, revision);
    if (count == 0 || key->versions[count - 1].mod != revision)
        return NULL;
    return &key->versions[count - 1];
}

struct mvcc_key *mvcc_find(const struct mvcc *mvcc, struct store_bytes key)
{
    struct mvcc_key probe = {.key = key};
    return RB_FIND(mvcc_tree, (struct mvcc_tree *)&mvcc->tree, &probe);
}

struct mvcc_key *mvcc_lower_bound(const struct mvcc *mvcc, struct store_bytes key)
{
    struct mvcc_key probe = {.key = key};
    return RB_NFIND(mvcc_tree, (struct mvcc_tree *)&mvcc->tree, &probe);
}

struct mvcc_key *mvcc_following(const struct mvcc_key *key)
{
    return mvcc_tree_RB_NEXT((struct mvcc_key *)key);
}

static int events_reserve(struct mvcc *mvcc)
{
    if (mvcc->event_count < mvcc->event_room)
        return 0;
    size_t room = mvcc->event_room ? mvcc->event_room * 2 : 256;
    struct mvcc_event *events = malloc(room * sizeof(*events));
    if (!events)
        return -ENOMEM;
    for (size_t i = 0; i < mvcc->event_count; i++)
        events[i] = *mvcc_event_at(mvcc, i);
    free(mvcc->events);
    mvcc->events = events;
    mvcc->event_room = room;
    mvcc->event_head = 0;
    return 0;
}

static void event_push(struct mvcc *mvcc, uint64_t revision, struct mvcc_key *key)
{
    size_t place = (mvcc->event_head + mvcc->event_count) & (mvcc->event_room - 1);
    mvcc->events[place] = (struct mvcc_event){revision, key};
    mvcc->event_count++;
}

static int versions_reserve(struct mvcc_key *key)
{
    if (key->count < key->room)
        return 0;
    uint32_t room = key->room ? key->room * 2 : 1;
    struct mvcc_version *versions = realloc(key->versions, room * sizeof(*versions));
    if (!versions)
        return -ENOMEM;
    key->versions = versions;
    key->room = room;
    return 0;
}

static struct mvcc_key *key_create(struct store_bytes bytes)
{
    struct mvcc_key *key = malloc(sizeof(*key) + bytes.length);
    if (!key)
        return NULL;
    *key = (struct mvcc_key){.key = {(uint8_t *)(key + 1), bytes.length}};
    memcpy(key + 1, bytes.data, bytes.length);
    return key;
}

static void key_insert(struct mvcc *mvcc, struct mvcc_key *key)
{
    RB_INSERT(mvcc_tree, &mvcc->tree, key);
    mvcc->bytes += KEY_OVERHEAD + key->key.length;
    mvcc->keys++;
}

static uint8_t *value_copy(struct store_bytes value)
{
    uint8_t *copy = malloc(value.length ? value.length : 1);
    if (copy && value.length)
        memcpy(copy, value.data, value.length);
    return copy;
}

int mvcc_put(struct mvcc *mvcc, uint64_t revision, uint32_t sub, struct store_bytes bytes,
             struct store_bytes value, uint64_t lease, struct mvcc_key **changed)
{
    struct mvcc_key *key = mvcc_find(mvcc, bytes);
    struct mvcc_key *fresh = key ? NULL : key_create(bytes);
    uint8_t *copy = value_copy(value);
    if (!key)
        key = fresh;
    if (!key || !copy || versions_reserve(key) || events_reserve(mvcc)) {
        free(copy);
        if (fresh)
            key_free(fresh);
        return -ENOMEM;
    }
    const struct mvcc_version *old = mvcc_newest(key);
    key->versions[key->count] = (struct mvcc_version){
        .create = old ? old->create : revision,
        .mod = revision,
        .version = old ? old->version + 1 : 1,
        .lease = lease,
        .sub = sub,
        .length = (uint32_t)value.length,
        .value = copy,
    };
    if (!old)
        mvcc->live++;
    key->count++;
    if (fresh)
        key_insert(mvcc, fresh);
    mvcc->bytes += VERSION_OVERHEAD + value.length;
    event_push(mvcc, revision, key);
    if (changed)
        *changed = key;
    return 0;
}

int mvcc_delete(struct mvcc *mvcc, uint64_t revision, uint32_t sub, struct mvcc_key *key)
{
    if (versions_reserve(key) || events_reserve(mvcc))
        return -ENOMEM;
    key->versions[key->count++] = (struct mvcc_version){.mod = revision, .sub = sub};
    mvcc->live--;
    mvcc->bytes += VERSION_OVERHEAD;
    event_push(mvcc, revision, key);
    return 0;
}

int mvcc_restore(struct mvcc *mvcc, struct store_bytes bytes, const struct mvcc_version *version)
{
    struct mvcc_key *key = mvcc_find(mvcc, bytes);
    if (key && key->count && key->versions[key->count - 1].mod >= version->mod)
        return -EBADMSG;
    if (!key) {
        key = key_create(bytes);
        if (!key)
            return -ENOMEM;
        key_insert(mvcc, key);
    }
    uint8_t *copy = NULL;
    if (version->value)
        copy = value_copy((struct store_bytes){version->value, version->length});
    if ((version->value && !copy) || versions_reserve(key) || events_reserve(mvcc)) {
        free(copy);
        return -ENOMEM;
    }
    bool was = mvcc_newest(key) != NULL;
    key->versions[key->count] = *version;
    key->versions[key->count++].value = copy;
    mvcc->live += (uint64_t)(copy != NULL) - (uint64_t)was;
    mvcc->bytes += VERSION_OVERHEAD + version->length;
    if (version->mod > mvcc->compacted)
        event_push(mvcc, version->mod, key);
    return 0;
}

static int event_order(const void *a, const void *b)
{
    const struct mvcc_event *x = a, *y = b;
    if (x->revision != y->revision)
        return x->revision < y->revision ? -1 : 1;
    uint32_t first = mvcc_version_of(x->key, x->revision)->sub;
    uint32_t second = mvcc_version_of(y->key, y->revision)->sub;
    return first < second ? -1 : first > second;
}

int mvcc_restored(struct mvcc *mvcc)
{
    // Restoring pushed from an empty ring, so the events lie in one piece.
    if (mvcc->event_count)
        qsort(mvcc->events, mvcc->event_count, sizeof(*mvcc->events), event_order);
    mvcc->pruned = mvcc->compacted;
    if (mvcc->event_count && mvcc_event_at(mvcc, mvcc->event_count - 1)->revision > mvcc->revision)
        return -EBADMSG;
    return 0;
}

// Removes versions that no read at or after `compacted` can see.
static void key_prune(struct mvcc *mvcc, struct mvcc_key *key)
{
    uint32_t gone = versions_up_to(key, mvcc->compacted);
    if (gone && key->versions[gone - 1].value)
        gone--;
    if (gone == 0)
        return;
    for (uint32_t i = 0; i < gone; i++) {
        mvcc->bytes -= VERSION_OVERHEAD + key->versions[i].length;
        free(key->versions[i].value);
    }
    key->count -= gone;
    memmove(key->versions, key->versions + gone, key->count * sizeof(*key->versions));
    if (key->count == 0) {
        RB_REMOVE(mvcc_tree, &mvcc->tree, key);
        mvcc->bytes -= KEY_OVERHEAD + key->key.length;
        mvcc->keys--;
        key_free(key);
    } else if (key->room > 4 * key->count) {
        struct mvcc_version *less = realloc(key->versions, key->count * sizeof(*less));
        if (less) {
            key->versions = less;
            key->room = key->count;
        }
    }
}

bool mvcc_prune(struct mvcc *mvcc, size_t budget)
{
    while (mvcc->event_count && mvcc_event_at(mvcc, 0)->revision <= mvcc->compacted) {
        if (budget-- == 0)
            return false;
        struct mvcc_event event = *mvcc_event_at(mvcc, 0);
        mvcc->event_head = (mvcc->event_head + 1) & (mvcc->event_room - 1);
        mvcc->event_count--;
        // A key with a later event that goes as well is pruned then: it must outlive its events.
        uint32_t seen = versions_up_to(event.key, mvcc->compacted);
        if (event.key->versions[seen - 1].mod == event.revision)
            key_prune(mvcc, event.key);
    }
    mvcc->pruned = mvcc->compacted;
    return true;
}

size_t mvcc_event_find(const struct mvcc *mvcc, uint64_t revision)
{
    size_t low = 0, high = mvcc->event_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mvcc_event_at(mvcc, middle)->revision < revision)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
