// placement_sim [--hosts N] [--machines N] [--steps N] [--rules 0|1] [--seed N]: machines arrive at
// and leave a simulated cluster, and placement decides. One line of JSON: the time of a decision,
// and how good the result is beside a bound that no placement can beat.
//
//   imbalance          how much fuller the fullest hosts (99 of 100 are emptier) are than the mean
//                      of all; 0 is what liquid machines would give
//   packed hosts       hosts in use when packing, beside the fewest that have as many CPUs and as
//                      much memory as the machines want, the largest first
//   full               the share of the scarcer resource that is promised when a machine finds no
//                      host for the first time; 1 is all of it
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cluster/placement/placement.h"

#define GIB (UINT64_C(1) << 30)

enum { NAME_SIZE = 16, LABELS = 200 };

struct simulation {
    unsigned hosts, machines, steps, rules;
    uint64_t random;
    struct placement *placement;
    char (*host_names)[NAME_SIZE];
    uint32_t *host_cpus;
    uint64_t *host_memory;
    unsigned next_id, alive;
    unsigned *ids; // of those that are there
    uint32_t *times_ns;
    unsigned decisions;
    uint64_t cpus_wanted, memory_wanted; // of those that are there
};

static uint32_t draw(struct simulation *s, uint32_t below)
{
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((s->random >> 33) % below);
}

static const struct {
    uint32_t cpus;
    uint64_t memory;
} host_kinds[] = {{32, 256 * GIB}, {64, 256 * GIB}, {64, 512 * GIB}, {96, 384 * GIB}};

static void add_hosts(struct simulation *s)
{
    static const char *const pools[] = {"shared", NULL}, *const nets[] = {"br0", NULL};
    for (unsigned i = 0; i < s->hosts; i++) {
        unsigned kind = draw(s, 4);
        snprintf(s->host_names[i], NAME_SIZE, "host%05u", i);
        s->host_cpus[i] = host_kinds[kind].cpus;
        s->host_memory[i] = host_kinds[kind].memory;
        const struct placement_host host = {.name = s->host_names[i],
                                            .healthy = true,
                                            .cpus = host_kinds[kind].cpus,
                                            .memory = host_kinds[kind].memory,
                                            .cpu_level = 3,
                                            .pools = pools,
                                            .nets = nets};
        if (placement_set_host(s->placement, &host) < 0)
            exit(1);
    }
}

static void machine_size(unsigned id, uint32_t *cpus, uint64_t *memory)
{
    // From the id, so that it is known again when the machine goes.
    uint32_t r = id * 2654435761u;
    static const uint8_t cpu_kinds[] = {1, 1, 2, 2, 2, 4, 4, 8, 8, 16};
    static const uint8_t gib_kinds[] = {2, 4, 4, 8, 8, 16, 16, 32, 32, 64};
    unsigned kind = (r >> 8) % 10, skew = (r >> 16) % 3;
    *cpus = cpu_kinds[kind];
    *memory = gib_kinds[kind + skew > 9 ? 9 : kind + skew] * GIB;
}

static void machine_id(unsigned id, char *out)
{
    snprintf(out, NAME_SIZE, "machine%07u", id);
}

// One in five keeps away from its like where it can, one in fifty must.
static bool arrive(struct simulation *s)
{
    static const char *const pools[] = {"shared", NULL}, *const nets[] = {"br0", NULL};
    unsigned id = s->next_id++;
    char name[NAME_SIZE], label[NAME_SIZE];
    machine_id(id, name);
    snprintf(label, sizeof(label), "app=%u", draw(s, LABELS));
    const char *const labels[] = {label, NULL};
    const struct placement_rule rule = {
        .scope = PLACEMENT_LABEL, .value = label, .away = true, .strict = id % 50 == 0};
    struct placement_machine machine = {.id = name,
                                        .labels = labels,
                                        .pools = pools,
                                        .nets = nets,
                                        .cpu_level = 2,
                                        .rules = &rule,
                                        .rule_count = s->rules && id % 5 == 0};
    machine_size(id, &machine.cpus, &machine.memory);
    struct placement_decision decision;
    if (placement_set_machine(s->placement, &machine) < 0)
        exit(1);
    // The thread's own time: a busy host would count otherwise.
    uint64_t start = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    placement_decide(s->placement, name, &decision);
    s->times_ns[s->decisions++] = (uint32_t)(clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start);
    if (!decision.host) {
        placement_remove_machine(s->placement, name);
        return false;
    }
    placement_move_machine(s->placement, name, decision.host, NULL);
    s->ids[s->alive++] = id;
    s->cpus_wanted += machine.cpus;
    s->memory_wanted += machine.memory;
    return true;
}

static void leave(struct simulation *s)
{
    char name[NAME_SIZE];
    uint32_t cpus;
    uint64_t memory;
    unsigned at = draw(s, s->alive);
    machine_id(s->ids[at], name);
    machine_size(s->ids[at], &cpus, &memory);
    s->ids[at] = s->ids[--s->alive];
    s->cpus_wanted -= cpus;
    s->memory_wanted -= memory;
    placement_remove_machine(s->placement, name);
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int compare_amounts(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

// The fewest hosts that have so much of one resource.
static unsigned fewest(const struct simulation *s, bool memory, uint64_t wanted)
{
    uint64_t *amounts = calloc(s->hosts, sizeof(*amounts)), sum = 0;
    unsigned count = 0;
    if (!amounts)
        exit(1);
    for (unsigned i = 0; i < s->hosts; i++)
        amounts[i] = memory ? s->host_memory[i] : s->host_cpus[i];
    qsort(amounts, s->hosts, sizeof(*amounts), compare_amounts);
    while (count < s->hosts && sum < wanted)
        sum += amounts[count++];
    free(amounts);
    return count;
}

struct quality {
    double imbalance, packed, bound, used_share;
};

static void measure(const struct simulation *s, struct quality *q)
{
    uint32_t *full = calloc(s->hosts, sizeof(*full));
    uint64_t sum = 0, cpus_all = 0, memory_all = 0;
    unsigned used = 0;
    if (!full)
        exit(1);
    for (unsigned i = 0; i < s->hosts; i++) {
        uint32_t cpus, memory;
        placement_host_load(s->placement, s->host_names[i], &cpus, &memory);
        full[i] = cpus > memory ? cpus : memory;
        sum += full[i];
        used += full[i] > 0;
        cpus_all += s->host_cpus[i];
        memory_all += s->host_memory[i];
    }
    qsort(full, s->hosts, sizeof(*full), compare_numbers);
    unsigned by_cpus = fewest(s, false, s->cpus_wanted);
    unsigned by_memory = fewest(s, true, s->memory_wanted);
    double cpu_share = (double)s->cpus_wanted / (double)cpus_all;
    double memory_share = (double)s->memory_wanted / (double)memory_all;
    *q = (struct quality){
        .imbalance = ((double)full[s->hosts * 99 / 100] - (double)sum / s->hosts) / 1000,
        .packed = used,
        .bound = by_cpus > by_memory ? by_cpus : by_memory,
        .used_share = cpu_share > memory_share ? cpu_share : memory_share,
    };
    free(full);
}

static void begin(struct simulation *s, bool pack)
{
    const struct placement_policy policy = {.pack = pack};
    s->placement = placement_create(&policy);
    s->next_id = s->alive = 0;
    s->cpus_wanted = s->memory_wanted = 0;
    if (!s->placement)
        exit(1);
    add_hosts(s);
}

// As many machines as asked for, then as many steps of one that goes and one that comes.
static void live(struct simulation *s, bool pack, struct quality *q)
{
    begin(s, pack);
    while (s->alive < s->machines && arrive(s))
        continue;
    for (unsigned i = 0; i < s->steps && s->alive > 0; i++) {
        leave(s);
        arrive(s);
    }
    measure(s, q);
    placement_destroy(s->placement);
}

static void fill(struct simulation *s, bool pack, unsigned limit, struct quality *q)
{
    begin(s, pack);
    while (s->alive < limit && arrive(s))
        continue;
    measure(s, q);
    placement_destroy(s->placement);
}

static unsigned option(int argc, char **argv, const char *name, unsigned otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return (unsigned)strtoul(argv[i + 1], NULL, 10);
    return otherwise;
}

int main(int argc, char **argv)
{
    struct simulation s = {.hosts = option(argc, argv, "--hosts", 1000),
                           .machines = option(argc, argv, "--machines", 10000),
                           .steps = option(argc, argv, "--steps", 2000),
                           .rules = option(argc, argv, "--rules", 1),
                           .random = option(argc, argv, "--seed", 1)};
    unsigned limit = 4 * s.machines, most = 2 * (s.machines + s.steps) + 2 * limit + 4;
    s.host_names = calloc(s.hosts, sizeof(*s.host_names));
    s.host_cpus = calloc(s.hosts, sizeof(*s.host_cpus));
    s.host_memory = calloc(s.hosts, sizeof(*s.host_memory));
    s.ids = calloc((size_t)limit + 1, sizeof(*s.ids));
    s.times_ns = calloc(most, sizeof(*s.times_ns));
    if (s.hosts == 0 || !s.host_names || !s.host_cpus || !s.host_memory || !s.ids || !s.times_ns)
        return 1;
    struct quality spread, packed, full_spread, full_packed;
    live(&s, false, &spread);
    live(&s, true, &packed);
    unsigned timed = s.decisions; // with the asked number of machines
    fill(&s, false, limit, &full_spread);
    fill(&s, true, limit, &full_packed);
    qsort(s.times_ns, timed, sizeof(*s.times_ns), compare_numbers);
    uint64_t sum = 0;
    for (unsigned i = 0; i < timed; i++)
        sum += s.times_ns[i];
    printf("{\"hosts\": %u, \"machines\": %u, \"decisions\": %u, \"decision_us_mean\": %.1f, "
           "\"decision_us_p50\": %.1f, \"decision_us_p99\": %.1f, \"decision_us_max\": %.1f, "
           "\"imbalance\": %.4f, \"load\": %.4f, \"packed_hosts\": %.0f, \"packed_bound\": %.0f, "
           "\"packed_ratio\": %.4f, \"full_balanced\": %.4f, \"full_packed\": %.4f}\n",
           s.hosts, s.machines, timed, timed ? (double)sum / timed / 1000 : 0.0,
           s.times_ns[timed / 2] / 1000.0, s.times_ns[(uint64_t)timed * 99 / 100] / 1000.0,
           s.times_ns[timed - 1] / 1000.0, spread.imbalance, spread.used_share, packed.packed,
           packed.bound, packed.bound > 0 ? packed.packed / packed.bound : 0,
           full_spread.used_share, full_packed.used_share);
    free(s.host_names);
    free(s.host_cpus);
    free(s.host_memory);
    free(s.ids);
    free(s.times_ns);
    return 0;
}
