// Filters, scores and their explanation.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cluster/placement/placement_internal.h"

enum { SCORE_UNIT = 1000, MARGIN_DEFAULT = 50 };

static bool is_usable(const struct known_host *h)
{
    return h->healthy && !h->draining;
}

// ---- rules ----

// Whether a rule speaks of a machine.
static bool names_machine(const struct known_rule *rule, const struct known_machine *m)
{
    if (rule->scope == PLACEMENT_MACHINE)
        return rule->value == m->word;
    return rule->scope == PLACEMENT_LABEL && words_have(&m->labels, rule->value);
}

// What one rule, mine or the other's, makes of the other's host.
static void apply_rule(struct known_host *h, const struct known_rule *rule, bool mine,
                       unsigned number, const struct known_machine *other)
{
    if (!rule->strict)
        h->rule_score += rule->away ? -(int64_t)rule->weight : (int64_t)rule->weight;
    else if (rule->away)
        h->away = other->word;
    else if (mine)
        h->with_rules |= 1u << number;
}

// A host that must be left doesn't hold anybody: who wants to be with a machine there goes ahead,
// and that machine follows.
static bool is_anchor(const struct known_host *h)
{
    return h && is_usable(h);
}

// Marks what `other` means for its host. `anchored` collects my strict rules that somebody meets
// somewhere.
static void apply_machine(const struct known_machine *m, const struct known_machine *other,
                          struct known_host *h, uint32_t *anchored)
{
    for (unsigned i = 0; i < m->rule_count; i++) {
        const struct known_rule *rule = &m->rules[i];
        if (!names_machine(rule, other))
            continue;
        apply_rule(h, rule, true, i, other);
        if (rule->strict && !rule->away && is_anchor(h))
            *anchored |= 1u << i;
    }
    for (unsigned i = 0; i < other->rule_count; i++)
        if (names_machine(&other->rules[i], m))
            apply_rule(h, &other->rules[i], false, i, other);
}

// A machine that must be with me, by its rule, and sits where it may stay, wants me there. Its
// host's bit would be one of its rules, not mine: such hosts are kept apart.
struct pull {
    word host; // the only host where all that must be with me are; 0: none wants me
    bool several;
};

static void note_pull(struct pull *pull, const struct known_machine *m,
                      const struct known_machine *other)
{
    for (unsigned i = 0; i < other->rule_count; i++) {
        const struct known_rule *rule = &other->rules[i];
        // Only a rule that names me: one of a label is met by any machine that has it.
        if (!rule->strict || rule->away || rule->scope != PLACEMENT_MACHINE ||
            rule->value != m->word)
            continue;
        pull->several |= pull->host && pull->host != other->at->word;
        pull->host = other->at->word;
    }
}

// What must come along: machines that must be with me, or I with them, and that have no host where
// they may stay.
struct need {
    uint64_t cpus, memory; // CPUs in thousandths; mine and theirs
    unsigned companions;
};

static bool must_be_together(const struct known_machine *a, const struct known_machine *b)
{
    for (unsigned i = 0; i < a->rule_count; i++)
        if (a->rules[i].strict && !a->rules[i].away && a->rules[i].scope == PLACEMENT_MACHINE &&
            a->rules[i].value == b->word)
            return true;
    return false;
}

struct question {
    const struct known_machine *machine;
    struct need need;
    uint32_t with; // bits: strict rules that a host must meet
    struct pull pull;
};

static void clear_hosts(struct placement *p)
{
    for (unsigned i = 0; i < p->host_count; i++) {
        p->hosts[i]->with_rules = 0;
        p->hosts[i]->away = 0;
        p->hosts[i]->rule_score = 0;
    }
}

static void apply_host_rules(struct placement *p, const struct known_machine *m)
{
    for (unsigned i = 0; i < m->rule_count; i++) {
        const struct known_rule *rule = &m->rules[i];
        if (rule->scope != PLACEMENT_HOST && rule->scope != PLACEMENT_HOST_LABEL)
            continue;
        for (unsigned j = 0; j < p->host_count; j++) {
            struct known_host *h = p->hosts[j];
            bool named = rule->scope == PLACEMENT_HOST ? h->word == rule->value
                                                       : words_have(&h->labels, rule->value);
            if (!named)
                continue;
            if (!rule->strict)
                h->rule_score += rule->away ? -(int64_t)rule->weight : (int64_t)rule->weight;
            else if (rule->away)
                h->away = rule->value;
            else
                h->with_rules |= 1u << i;
        }
    }
}

// Goes once over all machines, and leaves in each host what the rules make of it.
static void prepare(struct placement *p, const struct known_machine *m, struct question *q)
{
    uint32_t anchored = 0;
    *q = (struct question){.machine = m};
    q->need = (struct need){.cpus = (uint64_t)m->cpus * 1000, .memory = m->memory};
    clear_hosts(p);
    apply_host_rules(p, m);
    for (unsigned i = 0; i < m->rule_count; i++)
        if (m->rules[i].strict && !m->rules[i].away &&
            (m->rules[i].scope == PLACEMENT_HOST || m->rules[i].scope == PLACEMENT_HOST_LABEL))
            q->with |= 1u << i;
    for (unsigned i = 0; i < p->machine_count; i++) {
        const struct known_machine *other = p->machines[i];
        if (other == m || (m->rule_count == 0 && other->rule_count == 0))
            continue;
        if (other->at)
            apply_machine(m, other, other->at, &anchored);
        if (other->to)
            apply_machine(m, other, other->to, &anchored);
        if (is_anchor(other->at)) {
            note_pull(&q->pull, m, other);
        } else if (must_be_together(m, other) || must_be_together(other, m)) {
            q->need.cpus += (uint64_t)other->cpus * 1000;
            q->need.memory += other->memory;
            q->need.companions++;
        }
    }
    // A rule that nobody meets anywhere holds nobody: the first of a group goes where it likes.
    q->with |= anchored;
}

// ---- filters ----

static bool have_all(const struct words *wanted, const struct words *there, word *lacking)
{
    for (unsigned i = 0; i < wanted->count; i++) {
        if (words_have(there, wanted->list[i]))
            continue;
        *lacking = wanted->list[i];
        return false;
    }
    return true;
}

// What is free for this machine: its own share counts as free where it is.
static void find_free(const struct known_host *h, const struct known_machine *m, uint64_t *cpus,
                      uint64_t *memory)
{
    bool here = m->at == h || m->to == h;
    uint64_t cpu_used = h->cpu_used - (here ? (uint64_t)m->cpus * 1000 : 0);
    uint64_t memory_used = h->memory_used - (here ? m->memory : 0);
    *cpus = h->cpu_room > cpu_used ? h->cpu_room - cpu_used : 0;
    *memory = h->memory_room > memory_used ? h->memory_room - memory_used : 0;
}

static enum placement_reason check_cpu(const struct known_host *h, const struct known_machine *m,
                                       word *lacking)
{
    bool fits = h->cpu_level >= m->cpu_level && (!m->cpu_id || m->cpu_id == h->cpu_id) &&
                have_all(&m->features, &h->features, lacking);
    return fits ? PLACEMENT_FITS : PLACEMENT_CPU_MODEL;
}

static enum placement_reason check_room(const struct known_host *h, const struct question *q)
{
    const struct known_machine *m = q->machine;
    uint64_t cpus, memory;
    find_free(h, m, &cpus, &memory);
    if ((uint64_t)m->cpus * 1000 > cpus)
        return PLACEMENT_CPUS;
    if (m->memory > memory)
        return PLACEMENT_MEMORY;
    // More vCPUs than the host has CPUs would wait for each other, whatever the ratio.
    if (m->cpus > h->cpus)
        return PLACEMENT_CPUS;
    return q->need.cpus > cpus || q->need.memory > memory ? PLACEMENT_COMPANIONS : PLACEMENT_FITS;
}

static enum placement_reason check_rules(const struct known_host *h, const struct question *q)
{
    if (h->away)
        return PLACEMENT_AWAY;
    if ((h->with_rules & q->with) != q->with)
        return PLACEMENT_WITH;
    if (q->pull.host && (q->pull.several || q->pull.host != h->word))
        return PLACEMENT_WITH;
    return PLACEMENT_FITS;
}

// Cheap ones first. *lacking is the word that isn't there, for the explanation.
static enum placement_reason filter(const struct known_host *h, const struct question *q,
                                    word *lacking)
{
    const struct known_machine *m = q->machine;
    *lacking = 0;
    if (!h->healthy)
        return PLACEMENT_UNHEALTHY;
    if (h->draining)
        return PLACEMENT_DRAINING;
    if (m->only_on && m->only_on != h->word)
        return PLACEMENT_OTHER_HOST;
    if (!have_all(&m->host_labels, &h->labels, lacking))
        return PLACEMENT_LABELS;
    if (!have_all(&m->pools, &h->pools, lacking))
        return PLACEMENT_POOLS;
    if (!have_all(&m->nets, &h->nets, lacking))
        return PLACEMENT_NETS;
    enum placement_reason reason = check_cpu(h, m, lacking);
    if (reason == PLACEMENT_FITS)
        reason = check_room(h, q);
    return reason == PLACEMENT_FITS ? check_rules(h, q) : reason;
}

// ---- scores ----

struct score {
    int64_t load, rules, near;
};

static int64_t share(uint64_t used, uint64_t room)
{
    return room ? (int64_t)((unsigned __int128)used * SCORE_UNIT / room) : SCORE_UNIT;
}

// How full the host would be with the machine, in thousandths: the fuller of its two resources, and
// a little of the difference between them, since what is left over of the other can't be used.
static int64_t fullness(const struct known_host *h, const struct known_machine *m)
{
    bool here = m->at == h || m->to == h;
    int64_t cpus = share(h->cpu_used + (here ? 0 : (uint64_t)m->cpus * 1000), h->cpu_room);
    int64_t memory = share(h->memory_used + (here ? 0 : m->memory), h->memory_room);
    int64_t more = cpus > memory ? cpus : memory, less = cpus > memory ? memory : cpus;
    return more + (more - less) / 4;
}

// The same seen as what is wasted: packing wants a full host, but an even one. A host that nobody
// uses is opened last, and the largest of them first.
static int64_t packing(const struct known_host *h, const struct known_machine *m)
{
    bool here = m->at == h || m->to == h;
    int64_t cpus = share(h->cpu_used + (here ? 0 : (uint64_t)m->cpus * 1000), h->cpu_room);
    int64_t memory = share(h->memory_used + (here ? 0 : m->memory), h->memory_room);
    int64_t difference = cpus > memory ? cpus - memory : memory - cpus;
    bool alone = here ? h->cpu_used == (uint64_t)m->cpus * 1000 && h->memory_used == m->memory
                      : h->cpu_used == 0 && h->memory_used == 0;
    return alone ? -(cpus + memory) / 2 : (cpus + memory) / 2 - difference / 4;
}

static uint32_t weight(uint32_t given)
{
    return given ? given : 1;
}

static int64_t add_up(const struct placement *p, const struct known_host *h,
                      const struct known_machine *m, struct score *s)
{
    s->load = p->policy.pack ? packing(h, m) : SCORE_UNIT - fullness(h, m);
    s->load *= weight(p->policy.load_weight);
    s->rules = h->rule_score * SCORE_UNIT * weight(p->policy.rule_weight);
    s->near = words_have(&m->near, h->word) ? (int64_t)SCORE_UNIT / 4 : 0;
    s->near *= weight(p->policy.near_weight);
    return s->load + s->rules + s->near;
}

// ---- decisions ----

static void choose(struct placement *p, const struct question *q, const struct known_host *except,
                   struct placement_decision *d)
{
    struct score parts;
    word lacking;
    d->hosts = p->host_count;
    for (unsigned i = 0; i < p->host_count; i++) {
        const struct known_host *h = p->hosts[i];
        enum placement_reason reason = h == except ? PLACEMENT_OTHER_HOST : filter(h, q, &lacking);
        d->rejected[reason]++;
        if (reason != PLACEMENT_FITS)
            continue;
        int64_t score = add_up(p, h, q->machine, &parts);
        if (d->host && score <= d->score) // a tie is the first name's
            continue;
        d->host = h->name;
        d->score = score;
    }
    if (!d->host)
        return;
    d->reservation = (struct placement_reservation){.machine = q->machine->id,
                                                    .host = d->host,
                                                    .cpus = q->machine->cpus,
                                                    .memory = q->machine->memory};
}

int placement_decide(struct placement *p, const char *id, struct placement_decision *decision)
{
    struct question q;
    struct known_machine *m = placement_find_machine(p, id);
    *decision = (struct placement_decision){0};
    if (!m)
        return -ENOENT;
    prepare(p, m, &q);
    choose(p, &q, m->at, decision);
    return 0;
}

// ---- moving ----

// What a host's load costs: the squares of its shares, so that evening out costs less. With packing
// it is worth as much.
static int64_t cost(const struct known_host *h, uint64_t cpu_used, uint64_t memory_used)
{
    int64_t cpus = share(cpu_used, h->cpu_room), memory = share(memory_used, h->memory_room);
    return cpus * cpus + memory * memory;
}

// What a move is worth to the whole: the sum over all pairs of machines of what their rules say,
// and over all hosts of what their load costs, after it less before it. Each move that is made
// makes that sum larger, so no machines can chase each other for ever.
static int64_t gain(const struct placement *p, const struct known_machine *m,
                    const struct known_host *from, const struct known_host *to)
{
    struct score here, there;
    uint64_t cpus = (uint64_t)m->cpus * 1000;
    int64_t load = cost(from, from->cpu_used, from->memory_used) +
                   cost(to, to->cpu_used, to->memory_used) -
                   cost(from, from->cpu_used - cpus, from->memory_used - m->memory) -
                   cost(to, to->cpu_used + cpus, to->memory_used + m->memory);
    add_up(p, from, m, &here);
    add_up(p, to, m, &there);
    load *= weight(p->policy.load_weight) * (p->policy.pack ? -1 : 1);
    return (there.rules - here.rules + there.near - here.near) * SCORE_UNIT + load;
}

// Whether it is worth the trouble: a rule is better kept, or the load is better by the margin.
static bool is_worth_it(const struct placement *p, const struct known_machine *m,
                        const struct known_host *from, const struct known_host *to)
{
    struct score here, there;
    int64_t margin = p->policy.margin ? p->policy.margin : MARGIN_DEFAULT;
    add_up(p, from, m, &here);
    add_up(p, to, m, &there);
    return there.rules > here.rules ||
           there.load - here.load >= margin * weight(p->policy.load_weight);
}

static void choose_better(struct placement *p, const struct question *q,
                          struct placement_decision *d)
{
    struct placement_decision better = {0};
    const struct known_machine *m = q->machine;
    word lacking;
    for (unsigned i = 0; i < p->host_count; i++) {
        const struct known_host *h = p->hosts[i];
        if (h == m->at || filter(h, q, &lacking) != PLACEMENT_FITS || !is_worth_it(p, m, m->at, h))
            continue;
        int64_t worth = gain(p, m, m->at, h);
        if (worth <= 0 || (better.host && worth <= better.score))
            continue;
        better.host = h->name;
        better.score = worth;
    }
    d->host = better.host;
    d->score = better.score;
    d->reservation.host = better.host;
}

int placement_reconsider(struct placement *p, const char *id, struct placement_decision *decision,
                         bool *must_go)
{
    struct question q;
    word lacking;
    struct known_machine *m = placement_find_machine(p, id);
    *decision = (struct placement_decision){0};
    *must_go = false;
    if (!m)
        return -ENOENT;
    if (!m->at || m->to) // nowhere, or moving already
        return 0;
    prepare(p, m, &q);
    enum placement_reason reason = filter(m->at, &q, &lacking);
    // Too full is no reason to go: its share was promised. Nor are companions that are elsewhere.
    *must_go = reason != PLACEMENT_FITS && reason != PLACEMENT_CPUS && reason != PLACEMENT_MEMORY &&
               reason != PLACEMENT_COMPANIONS;
    choose(p, &q, m->at, decision);
    if (!*must_go)
        choose_better(p, &q, decision);
    return 0;
}

// ---- in words ----

static const struct {
    const char *name, *summary;
} reasons[PLACEMENT_REASONS] = {
    [PLACEMENT_FITS] = {"fits", "fit"},
    [PLACEMENT_UNHEALTHY] = {"unhealthy", "are not there"},
    [PLACEMENT_DRAINING] = {"draining", "are draining"},
    [PLACEMENT_OTHER_HOST] = {"other-host", "are not where it may go"},
    [PLACEMENT_LABELS] = {"labels", "lack a label"},
    [PLACEMENT_POOLS] = {"pools", "lack a pool"},
    [PLACEMENT_NETS] = {"nets", "lack a net"},
    [PLACEMENT_CPU_MODEL] = {"cpu-model", "have another CPU"},
    [PLACEMENT_CPUS] = {"cpus", "lack CPUs"},
    [PLACEMENT_MEMORY] = {"memory", "lack memory"},
    [PLACEMENT_COMPANIONS] = {"companions", "have no room for those that must come along"},
    [PLACEMENT_AWAY] = {"away", "are kept away from by a rule"},
    [PLACEMENT_WITH] = {"with", "are not where it must be with others"},
};

const char *placement_reason_name(enum placement_reason reason)
{
    return reasons[reason].name;
}

char *placement_summary(const struct placement_decision *d, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "%s", d->host ? "goes to " : "no host fits");
    if (d->host) {
        snprintf(out + at, size - at, "%s", d->host);
        return out;
    }
    const char *between = ": ";
    for (unsigned i = PLACEMENT_UNHEALTHY; i < PLACEMENT_REASONS && at < size; i++) {
        if (!d->rejected[i])
            continue;
        at += (size_t)snprintf(out + at, size - at, "%s%u %s", between, d->rejected[i],
                               reasons[i].summary);
        between = ", ";
    }
    if (d->hosts == 0 && at < size)
        snprintf(out + at, size - at, ": there is none");
    return out;
}

static void explain_room(const struct known_host *h, const struct question *q,
                         enum placement_reason reason, char *out, size_t size)
{
    char wanted[32], free_text[32], all[32];
    uint64_t cpus, memory;
    find_free(h, q->machine, &cpus, &memory);
    if (reason == PLACEMENT_CPUS && q->machine->cpus > h->cpus) {
        snprintf(out, size, "CPUs: wants %u, the host has %u", q->machine->cpus, h->cpus);
    } else if (reason == PLACEMENT_CPUS) {
        snprintf(out, size, "CPUs: wants %u, %" PRIu64 ".%03u of %" PRIu64 " are free",
                 q->machine->cpus, cpus / 1000, (unsigned)(cpus % 1000), h->cpu_room / 1000);
    } else if (reason == PLACEMENT_MEMORY) {
        snprintf(out, size, "memory: wants %s, %s of %s is free",
                 units_format_size(q->machine->memory, wanted, sizeof(wanted)),
                 units_format_size(memory, free_text, sizeof(free_text)),
                 units_format_size(h->memory_room, all, sizeof(all)));
    } else {
        snprintf(out, size,
                 "no room for the %u that must come along: %" PRIu64 " CPUs and %s in all",
                 q->need.companions, q->need.cpus / 1000,
                 units_format_size(q->need.memory, wanted, sizeof(wanted)));
    }
}

static void explain_with(const struct placement *p, const struct known_host *h,
                         const struct question *q, char *out, size_t size)
{
    uint32_t unmet = q->with & ~h->with_rules;
    for (unsigned i = 0; i < q->machine->rule_count; i++) {
        if (!(unmet & 1u << i))
            continue;
        snprintf(out, size, "must be with %s, which isn't here",
                 placement_word_text(p, q->machine->rules[i].value));
        return;
    }
    snprintf(out, size,
             q->pull.several ? "machines that must be with it are on several hosts"
                             : "a machine that must be with it is on %s",
             placement_word_text(p, q->pull.host));
}

static void explain_rejection(const struct placement *p, const struct known_host *h,
                              const struct question *q, enum placement_reason reason, word lacking,
                              char *out, size_t size)
{
    switch (reason) {
    case PLACEMENT_LABELS:
    case PLACEMENT_POOLS:
    case PLACEMENT_NETS:
        snprintf(out, size, "lacks the %s '%s'",
                 reason == PLACEMENT_LABELS  ? "label"
                 : reason == PLACEMENT_POOLS ? "pool"
                                             : "net",
                 placement_word_text(p, lacking));
        break;
    case PLACEMENT_CPU_MODEL:
        if (lacking)
            snprintf(out, size, "its CPU lacks '%s'", placement_word_text(p, lacking));
        else if (h->cpu_level < q->machine->cpu_level)
            snprintf(out, size, "its CPU is x86-64-v%u, wanted is v%u", h->cpu_level,
                     q->machine->cpu_level);
        else
            snprintf(out, size, "its CPU is another than the one the machine has started on");
        break;
    case PLACEMENT_CPUS:
    case PLACEMENT_MEMORY:
    case PLACEMENT_COMPANIONS:
        explain_room(h, q, reason, out, size);
        break;
    case PLACEMENT_AWAY:
        snprintf(out, size, "must be away from %s", placement_word_text(p, h->away));
        break;
    case PLACEMENT_WITH:
        explain_with(p, h, q, out, size);
        break;
    case PLACEMENT_OTHER_HOST:
        if (q->machine->at == h)
            snprintf(out, size, "it is here");
        else
            snprintf(out, size, "may only be on %s", placement_word_text(p, q->machine->only_on));
        break;
    case PLACEMENT_UNHEALTHY:
        snprintf(out, size, "the host is not there, or was declared lost");
        break;
    case PLACEMENT_DRAINING:
        snprintf(out, size, "the host is draining");
        break;
    default:
        out[0] = 0;
    }
}

static void judge(const struct placement *p, const struct known_machine *m,
                  const struct question *q, const struct known_host *h, struct placement_verdict *v)
{
    struct score parts = {0};
    word lacking = 0;
    *v = (struct placement_verdict){
        .host = h->name, .reason = h == m->at ? PLACEMENT_OTHER_HOST : filter(h, q, &lacking)};
    if (v->reason != PLACEMENT_FITS) {
        explain_rejection(p, h, q, v->reason, lacking, v->text, sizeof(v->text));
        return;
    }
    v->score = add_up(p, h, m, &parts);
    v->load = parts.load;
    v->rules = parts.rules;
    v->near = parts.near;
    snprintf(v->text, sizeof(v->text),
             "fits: %" PRId64 " (load %" PRId64 ", rules %" PRId64 ", near %" PRId64 ")", v->score,
             v->load, v->rules, v->near);
}

int placement_explain(struct placement *p, const char *id,
                      int (*visit)(void *opaque, const struct placement_verdict *verdict),
                      void *opaque)
{
    struct question q;
    struct known_machine *m = placement_find_machine(p, id);
    if (!m)
        return -ENOENT;
    prepare(p, m, &q);
    int rc = 0;
    for (unsigned i = 0; i < p->host_count && rc == 0; i++) {
        struct placement_verdict v;
        judge(p, m, &q, p->hosts[i], &v);
        rc = visit(opaque, &v);
    }
    return rc;
}

int placement_explain_host(struct placement *p, const char *id, const char *host,
                           struct placement_verdict *verdict)
{
    struct question q;
    struct known_machine *m = placement_find_machine(p, id);
    unsigned at = 0;
    while (at < p->host_count && strcmp(p->hosts[at]->name, host) != 0)
        at++;
    if (!m || at == p->host_count)
        return -ENOENT;
    prepare(p, m, &q);
    judge(p, m, &q, p->hosts[at], verdict);
    return 0;
}
