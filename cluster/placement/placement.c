#include "cluster/placement/placement_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// ---- words ----

static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

static void table_put(struct placement *p, word w)
{
    uint32_t at = hash(p->texts[w]) & (p->table_size - 1);
    while (p->table[at])
        at = (at + 1) & (p->table_size - 1);
    p->table[at] = w;
}

static int grow_words(struct placement *p)
{
    unsigned capacity = p->word_capacity ? 2 * p->word_capacity : 256;
    char **texts = realloc(p->texts, capacity * sizeof(*texts));
    if (!texts)
        return -ENOMEM;
    p->texts = texts;
    word *table = calloc(2 * (size_t)capacity, sizeof(*table));
    if (!table)
        return -ENOMEM;
    free(p->table);
    p->table = table;
    p->table_size = 2 * capacity;
    p->word_capacity = capacity;
    for (word w = 1; w < p->word_count; w++)
        table_put(p, w);
    return 0;
}

static word find_word(const struct placement *p, const char *text)
{
    uint32_t at = hash(text) & (p->table_size - 1);
    for (; p->table[at]; at = (at + 1) & (p->table_size - 1))
        if (strcmp(p->texts[p->table[at]], text) == 0)
            return p->table[at];
    return 0;
}

// The number of a word, a new one where it is new; 0 for NULL. -ENOMEM in *rc.
static word intern(struct placement *p, const char *text, int *rc)
{
    if (!text || *rc < 0)
        return 0;
    word w = find_word(p, text);
    if (w)
        return w;
    if (p->word_count == p->word_capacity)
        *rc = grow_words(p);
    char *copy = *rc < 0 ? NULL : strdup(text);
    if (!copy) {
        *rc = -ENOMEM;
        return 0;
    }
    w = p->word_count++;
    p->texts[w] = copy;
    table_put(p, w);
    return w;
}

static void intern_all(struct placement *p, placement_names names, struct words *words, int *rc)
{
    unsigned count = 0;
    *words = (struct words){0};
    while (names && names[count])
        count++;
    if (count == 0 || *rc < 0)
        return;
    words->list = calloc(count, sizeof(words->list[0]));
    if (!words->list) {
        *rc = -ENOMEM;
        return;
    }
    for (unsigned i = 0; i < count; i++)
        words->list[i] = intern(p, names[i], rc);
    words->count = count;
}

const char *placement_word_text(const struct placement *p, word w)
{
    return w ? p->texts[w] : "";
}

bool words_have(const struct words *words, word w)
{
    for (unsigned i = 0; i < words->count; i++)
        if (words->list[i] == w)
            return true;
    return false;
}

// ---- sorted lists ----

// The place of a name among `count` things whose first member is their name; *found says whether it
// is there.
static unsigned search(void *const *list, unsigned count, const char *name, bool *found)
{
    unsigned low = 0, high = count;
    *found = false;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        int order = strcmp(*(char *const *)list[middle], name);
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

static int make_room(void ***list, unsigned count, unsigned *capacity)
{
    if (count < *capacity)
        return 0;
    unsigned more = *capacity ? 2 * *capacity : 64;
    void **grown = realloc(*list, more * sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    *list = grown;
    *capacity = more;
    return 0;
}

static void insert(void **list, unsigned *count, unsigned at, void *thing)
{
    memmove(list + at + 1, list + at, (*count - at) * sizeof(*list));
    list[at] = thing;
    ++*count;
}

static void take_out(void **list, unsigned *count, unsigned at)
{
    --*count;
    memmove(list + at, list + at + 1, (*count - at) * sizeof(*list));
}

struct known_machine *placement_find_machine(const struct placement *p, const char *id)
{
    bool found;
    unsigned at = search((void *const *)p->machines, p->machine_count, id, &found);
    return found ? p->machines[at] : NULL;
}

struct known_host *placement_find_host(const struct placement *p, word name)
{
    bool found;
    if (!name)
        return NULL;
    unsigned at = search((void *const *)p->hosts, p->host_count, p->texts[name], &found);
    return found ? p->hosts[at] : NULL;
}

// ---- what hosts have given ----

static void charge(struct known_host *host, const struct known_machine *m, bool on)
{
    if (!host)
        return;
    uint64_t cpus = (uint64_t)m->cpus * 1000;
    host->cpu_used += on ? cpus : -cpus;
    host->memory_used += on ? m->memory : -m->memory;
}

// Takes the machine from its hosts and gives it to those that it names now.
static void settle(const struct placement *p, struct known_machine *m)
{
    charge(m->at, m, false);
    charge(m->to, m, false);
    m->at = placement_find_host(p, m->host);
    m->to = m->moving == m->host ? NULL : placement_find_host(p, m->moving);
    charge(m->at, m, true);
    charge(m->to, m, true);
}

// ---- hosts ----

static void free_host(struct known_host *h)
{
    if (!h)
        return;
    free(h->features.list);
    free(h->labels.list);
    free(h->pools.list);
    free(h->nets.list);
    free(h);
}

static uint64_t scale(uint64_t amount, uint32_t own, uint32_t policy)
{
    uint32_t ratio = own ? own : policy ? policy : 1000;
    return (uint64_t)((unsigned __int128)amount * ratio / 1000);
}

static struct known_host *make_host(struct placement *p, const struct placement_host *host, int *rc)
{
    struct known_host *h = calloc(1, sizeof(*h));
    if (!h) {
        *rc = -ENOMEM;
        return NULL;
    }
    h->word = intern(p, host->name, rc);
    h->healthy = host->healthy;
    h->draining = host->draining;
    h->cpus = host->cpus;
    h->memory = host->memory;
    h->cpu_level = host->cpu_level;
    h->cpu_room = scale((uint64_t)host->cpus * 1000, host->cpu_ratio, p->policy.cpu_ratio);
    h->memory_room = scale(host->memory, host->memory_ratio, p->policy.memory_ratio);
    h->cpu_id = intern(p, host->cpu_id, rc);
    intern_all(p, host->cpu_features, &h->features, rc);
    intern_all(p, host->labels, &h->labels, rc);
    intern_all(p, host->pools, &h->pools, rc);
    intern_all(p, host->nets, &h->nets, rc);
    if (*rc < 0) {
        free_host(h);
        return NULL;
    }
    h->name = p->texts[h->word];
    return h;
}

static void settle_all(const struct placement *p, word host)
{
    for (unsigned i = 0; i < p->machine_count; i++) {
        struct known_machine *m = p->machines[i];
        if (m->host == host || m->moving == host)
            settle(p, m);
    }
}

int placement_set_host(struct placement *p, const struct placement_host *host)
{
    bool found;
    int rc = 0;
    if (!host->name || !host->name[0])
        return -EINVAL;
    struct known_host *h = make_host(p, host, &rc);
    if (!h)
        return rc;
    unsigned at = search((void *const *)p->hosts, p->host_count, h->name, &found);
    if (!found)
        rc = make_room((void ***)&p->hosts, p->host_count, &p->host_capacity);
    if (rc < 0) {
        free_host(h);
        return rc;
    }
    if (found) { // what it has given stays given
        h->cpu_used = p->hosts[at]->cpu_used;
        h->memory_used = p->hosts[at]->memory_used;
        for (unsigned i = 0; i < p->machine_count; i++) {
            struct known_machine *m = p->machines[i];
            m->at = m->at == p->hosts[at] ? h : m->at;
            m->to = m->to == p->hosts[at] ? h : m->to;
        }
        free_host(p->hosts[at]);
        p->hosts[at] = h;
        return 0;
    }
    insert((void **)p->hosts, &p->host_count, at, h);
    settle_all(p, h->word);
    return 0;
}

int placement_remove_host(struct placement *p, const char *name)
{
    bool found;
    unsigned at = search((void *const *)p->hosts, p->host_count, name, &found);
    if (!found)
        return -ENOENT;
    struct known_host *h = p->hosts[at];
    take_out((void **)p->hosts, &p->host_count, at);
    settle_all(p, h->word); // while it is still there to be taken from
    free_host(h);
    return 0;
}

// ---- machines ----

static void free_machine(struct known_machine *m)
{
    if (!m)
        return;
    free(m->features.list);
    free(m->labels.list);
    free(m->host_labels.list);
    free(m->pools.list);
    free(m->nets.list);
    free(m->near.list);
    free(m);
}

static void copy_rules(struct placement *p, const struct placement_machine *machine,
                       struct known_machine *m, int *rc)
{
    for (unsigned i = 0; i < machine->rule_count; i++) {
        const struct placement_rule *rule = &machine->rules[i];
        m->rules[i] = (struct known_rule){
            .scope = rule->scope,
            .away = rule->away,
            .strict = rule->strict,
            .weight = rule->weight ? rule->weight : 1,
            .value = intern(p, rule->value, rc),
        };
    }
    m->rule_count = machine->rule_count;
}

static struct known_machine *make_machine(struct placement *p,
                                          const struct placement_machine *machine, int *rc)
{
    struct known_machine *m = calloc(1, sizeof(*m));
    if (!m) {
        *rc = -ENOMEM;
        return NULL;
    }
    m->word = intern(p, machine->id, rc);
    m->host = intern(p, machine->host, rc);
    m->moving = intern(p, machine->moving, rc);
    m->only_on = intern(p, machine->only_on, rc);
    m->cpus = machine->cpus;
    m->memory = machine->memory;
    m->cpu_level = machine->cpu_level;
    m->cpu_id = intern(p, machine->cpu_id, rc);
    intern_all(p, machine->cpu_features, &m->features, rc);
    intern_all(p, machine->labels, &m->labels, rc);
    intern_all(p, machine->host_labels, &m->host_labels, rc);
    intern_all(p, machine->pools, &m->pools, rc);
    intern_all(p, machine->nets, &m->nets, rc);
    intern_all(p, machine->near, &m->near, rc);
    copy_rules(p, machine, m, rc);
    if (*rc < 0) {
        free_machine(m);
        return NULL;
    }
    m->id = p->texts[m->word];
    return m;
}

static bool machine_is_valid(const struct placement_machine *machine)
{
    if (!machine->id || !machine->id[0] || machine->rule_count > PLACEMENT_RULES_LIMIT)
        return false;
    for (unsigned i = 0; i < machine->rule_count; i++)
        if (!machine->rules[i].value || machine->rules[i].scope > PLACEMENT_HOST_LABEL)
            return false;
    return true;
}

int placement_set_machine(struct placement *p, const struct placement_machine *machine)
{
    bool found;
    int rc = 0;
    if (!machine_is_valid(machine))
        return -EINVAL;
    struct known_machine *m = make_machine(p, machine, &rc);
    if (!m)
        return rc;
    unsigned at = search((void *const *)p->machines, p->machine_count, m->id, &found);
    if (!found)
        rc = make_room((void ***)&p->machines, p->machine_count, &p->machine_capacity);
    if (rc < 0) {
        free_machine(m);
        return rc;
    }
    if (found) {
        charge(p->machines[at]->at, p->machines[at], false);
        charge(p->machines[at]->to, p->machines[at], false);
        free_machine(p->machines[at]);
        p->machines[at] = m;
    } else {
        insert((void **)p->machines, &p->machine_count, at, m);
    }
    settle(p, m);
    return 0;
}

int placement_remove_machine(struct placement *p, const char *id)
{
    bool found;
    unsigned at = search((void *const *)p->machines, p->machine_count, id, &found);
    if (!found)
        return -ENOENT;
    struct known_machine *m = p->machines[at];
    charge(m->at, m, false);
    charge(m->to, m, false);
    take_out((void **)p->machines, &p->machine_count, at);
    free_machine(m);
    return 0;
}

int placement_move_machine(struct placement *p, const char *id, const char *host,
                           const char *moving)
{
    int rc = 0;
    struct known_machine *m = placement_find_machine(p, id);
    if (!m)
        return -ENOENT;
    word to_host = intern(p, host, &rc), to_moving = intern(p, moving, &rc);
    if (rc < 0)
        return rc;
    m->host = to_host;
    m->moving = to_moving;
    settle(p, m);
    return 0;
}

// ---- life ----

struct placement *placement_create(const struct placement_policy *policy)
{
    struct placement *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->policy = *policy;
    p->word_count = 1; // 0 is none
    if (grow_words(p) < 0) {
        placement_destroy(p);
        return NULL;
    }
    return p;
}

void placement_destroy(struct placement *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->host_count; i++)
        free_host(p->hosts[i]);
    for (unsigned i = 0; i < p->machine_count; i++)
        free_machine(p->machines[i]);
    for (word w = 1; w < p->word_count; w++)
        free(p->texts[w]);
    free(p->hosts);
    free(p->machines);
    free(p->texts);
    free(p->table);
    free(p);
}

int placement_host_load(const struct placement *p, const char *name, uint32_t *cpus,
                        uint32_t *memory)
{
    bool found;
    unsigned at = search((void *const *)p->hosts, p->host_count, name, &found);
    if (!found)
        return -ENOENT;
    const struct known_host *h = p->hosts[at];
    *cpus = (uint32_t)(h->cpu_used * 1000 / (h->cpu_room ? h->cpu_room : 1));
    *memory = (uint32_t)((unsigned __int128)h->memory_used * 1000 /
                         (h->memory_room ? h->memory_room : 1));
    return 0;
}
