// Placement: which host a machine goes to, and why not the others.
//
// Pure: no clock, no I/O, no thread; what is known is handed in, and the same knowledge gives the
// same decision in whatever order it came (ties go by the hosts' names). The caller makes the
// decision stand: it writes the reservation in the one transaction that records it, comparing what
// it had read.
//
// A decision is filters, then scores. A host that passes no filter is out, with one reason: health,
// drain, labels, pools, nets, CPU model, room, strict rules. Scores are whole thousandths, so that
// no rounding depends on the machine: balance (or packing), soft rules, locality.
//
// Rules work both ways: a machine that must not be beside me keeps me away as mine keep it. So each
// pair of machines has one worth wherever the question comes from, and a machine moves only when
// that worth grows: two machines whose wishes contradict each other come to rest.
//
// Everything that is handed in is copied.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PLACEMENT_RULES_LIMIT = 16, PLACEMENT_REASON_SIZE = 200 };

// Names, ended by NULL; NULL for none. Labels are "key=value" or any other word.
typedef const char *const *placement_names;

struct placement_host {
    const char *name;
    bool healthy;  // it renews, and isn't fenced
    bool draining; // machines leave, none comes
    uint32_t cpus;
    uint64_t memory;
    uint32_t cpu_ratio, memory_ratio; // overcommit in thousandths; 0: the policy's
    uint32_t cpu_level;               // of x86-64: 1 to 4
    const char *cpu_id; // hosts with the same one can exchange machines of CPU "host"; NULL
    placement_names cpu_features; // beyond the level's
    placement_names labels, pools, nets;
};

enum placement_scope {
    PLACEMENT_MACHINE,    // one machine, by its id
    PLACEMENT_LABEL,      // machines with a label
    PLACEMENT_HOST,       // one host, by its name
    PLACEMENT_HOST_LABEL, // hosts with a label
};

struct placement_rule {
    enum placement_scope scope;
    const char *value;
    bool away;       // keep away from it, rather than with it
    bool strict;     // a filter; else a score
    uint32_t weight; // of a soft rule; 0: 1
};

struct placement_machine {
    const char *id;      // its UUID
    const char *host;    // where it is or is being started; NULL: nowhere
    const char *moving;  // the target of a move under way, which has a reservation too; NULL
    const char *only_on; // the one host that it may be on; NULL: any
    uint32_t cpus;       // virtual ones
    uint64_t memory;
    uint32_t cpu_level;                               // at least; 0: any
    const char *cpu_id;                               // must be the same; NULL: any
    placement_names cpu_features;                     // that it needs
    placement_names labels, host_labels, pools, nets; // the last three: what its host must have
    placement_names near;                             // hosts that have its data already
    const struct placement_rule *rules;
    unsigned rule_count; // up to PLACEMENT_RULES_LIMIT
};

struct placement_policy {
    uint32_t cpu_ratio, memory_ratio;               // overcommit in thousandths; 0: 1000
    bool pack;                                      // fill hosts up, rather than spread the load
    uint32_t load_weight, rule_weight, near_weight; // 0: 1 each
    uint32_t
        margin; // thousandths by which another host must be better before a machine moves; 0: 50
};

struct placement;

// NULL without memory.
struct placement *placement_create(const struct placement_policy *policy);
void placement_destroy(struct placement *placement);
// Adds or replaces by name, by id. -EINVAL for what can't be; -ENOMEM. On failure nothing has
// changed. A machine's host needn't be known yet.
int placement_set_host(struct placement *placement, const struct placement_host *host);
int placement_set_machine(struct placement *placement, const struct placement_machine *machine);
// -ENOENT when there is none.
int placement_remove_host(struct placement *placement, const char *name);
int placement_remove_machine(struct placement *placement, const char *id);
// Only where it is, and where it is going.
int placement_move_machine(struct placement *placement, const char *id, const char *host,
                           const char *moving);

enum placement_reason {
    PLACEMENT_FITS,
    PLACEMENT_UNHEALTHY,
    PLACEMENT_DRAINING,
    PLACEMENT_OTHER_HOST, // the machine may be on one host only, or is to leave this one
    PLACEMENT_LABELS,
    PLACEMENT_POOLS,
    PLACEMENT_NETS,
    PLACEMENT_CPU_MODEL,
    PLACEMENT_CPUS,
    PLACEMENT_MEMORY,
    PLACEMENT_COMPANIONS, // no room for those that must come along
    PLACEMENT_AWAY,       // a strict rule keeps it away, its own or another machine's
    PLACEMENT_WITH,       // a strict rule wants it elsewhere
    PLACEMENT_REASONS
};

// What has to be written with the decision.
struct placement_reservation {
    const char *machine, *host; // belong to the placement, until it changes
    uint32_t cpus;
    uint64_t memory;
};

struct placement_decision {
    const char *host; // NULL: nowhere; belongs to the placement
    int64_t score;
    struct placement_reservation reservation;    // with a host
    unsigned hosts, rejected[PLACEMENT_REASONS]; // how many hosts for which reason
};

// Where a machine that is known, or a new one, should be. A machine that has a host: where it
// should go from there (the one it is on is no answer: a drain or a migration). 0, or -ENOENT.
int placement_decide(struct placement *placement, const char *id,
                     struct placement_decision *decision);
// Whether a machine that has a host should move: when it may not stay, or another host is better by
// the margin. decision->host is NULL when it should stay (or can't go: then `rejected` says why,
// and must_go is true). 0, or -ENOENT.
int placement_reconsider(struct placement *placement, const char *id,
                         struct placement_decision *decision, bool *must_go);
// "no host fits: 3 are draining, 5 lack memory": for a machine that waits. Returns `out`.
char *placement_summary(const struct placement_decision *decision, char *out, size_t size);

struct placement_verdict {
    const char *host; // belongs to the placement, until it changes
    enum placement_reason reason;
    int64_t score, load, rules, near; // of one that fits: in all, and its parts
    char text[PLACEMENT_REASON_SIZE]; // "memory: wants 4 GiB, 1 GiB of 64 GiB is free"
};

// As placement_decide(), host by host in the order of their names. 0, what visit() returned (it
// ends with the first other than 0), or -ENOENT, -ENOMEM.
int placement_explain(struct placement *placement, const char *id,
                      int (*visit)(void *opaque, const struct placement_verdict *verdict),
                      void *opaque);
// The same of one host. 0 or -ENOENT: there is no such machine, or no such host.
int placement_explain_host(struct placement *placement, const char *id, const char *host,
                           struct placement_verdict *verdict);
const char *placement_reason_name(enum placement_reason reason);

// How full a host is, in thousandths of what it may give; -ENOENT.
int placement_host_load(const struct placement *placement, const char *name, uint32_t *cpus,
                        uint32_t *memory);
