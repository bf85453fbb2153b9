// The simulator's command line: one seed with its trace, a suite of seeds as TAP, a soak, a
// benchmark.
#include "cluster.h"
#include "tap.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct arguments {
    const char *program;
    uint64_t seed, count, seconds;
    const struct sim_profile *profile; // NULL: each in turn
    bool one, trace, suite, bench, counters;
    int mutant;
    enum sim_owner_mutant owner_mutant;
    const char *mutant_name;
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: raft_sim --seed N [--profile P] [--trace]   play one run\n"
        "       raft_sim --suite [--seeds N] [--from N] [--seconds S]   many, as TAP\n"
        "       raft_sim --bench [--seconds S]              speed on one core, as JSON\n"
        "       --mutant M   break that rule of the owner, or of the core in a build with mutants\n"
        "profiles:\n");
    for (unsigned i = 0; i < sim_profile_count; i++)
        fprintf(to, "  %-12s %s\n", sim_profiles[i].name, sim_profiles[i].what);
}

#ifdef RAFT_MUTANTS
static const char *const mutant_names[] = {"NONE",
#define MUTANT_NAME(name, rule, what) #name,
                                           RAFT_MUTANT_LIST(MUTANT_NAME)
#undef MUTANT_NAME
};
#endif

static const char *const owner_mutant_names[] = {"SOUND",
#define MUTANT_NAME(name, what) #name,
                                                 SIM_OWNER_MUTANTS(MUTANT_NAME)
#undef MUTANT_NAME
};

static void find_mutant(struct arguments *arguments, const char *name)
{
    arguments->mutant_name = name;
    for (int i = 1; i < SIM_OWNER_COUNT; i++)
        if (strcmp(owner_mutant_names[i], name) == 0) {
            arguments->owner_mutant = (enum sim_owner_mutant)i;
            return;
        }
#ifdef RAFT_MUTANTS
    for (int i = 0; i < RAFT_MUTANT_COUNT; i++)
        if (strcmp(mutant_names[i], name) == 0) {
            arguments->mutant = i;
            return;
        }
#endif
    fprintf(stderr, "raft_sim: no such mutant in this build: %s\n", name);
    exit(2);
}

static bool parse_arguments(struct arguments *arguments, int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},    {"seeds", required_argument, NULL, 'n'},
        {"from", required_argument, NULL, 'f'},    {"profile", required_argument, NULL, 'p'},
        {"seconds", required_argument, NULL, 'S'}, {"mutant", required_argument, NULL, 'm'},
        {"trace", no_argument, NULL, 't'},         {"suite", no_argument, NULL, 'u'},
        {"bench", no_argument, NULL, 'b'},         {"counters", no_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    int option;

    *arguments = (struct arguments){.program = argv[0], .count = 2000};
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            arguments->seed = strtoull(optarg, NULL, 10);
            arguments->one = true;
            break;
        case 'n':
            arguments->count = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            arguments->seed = strtoull(optarg, NULL, 10);
            break;
        case 'p':
            arguments->profile = sim_profile_find(optarg);
            if (!arguments->profile) {
                fprintf(stderr, "raft_sim: no such profile: %s\n", optarg);
                return false;
            }
            break;
        case 'S':
            arguments->seconds = strtoull(optarg, NULL, 10);
            break;
        case 'm':
            find_mutant(arguments, optarg);
            break;
        case 't':
            arguments->trace = true;
            break;
        case 'u':
            arguments->suite = true;
            break;
        case 'b':
            arguments->bench = true;
            break;
        case 'c':
            arguments->counters = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            return false;
        }
    }
    return optind == argc && arguments->one + arguments->suite + arguments->bench == 1;
}

// Half of the seeds are mixed, the others go round the profiles.
static const struct sim_profile *profile_of(const struct arguments *arguments, uint64_t seed)
{
    if (arguments->profile)
        return arguments->profile;
    return seed % 2 ? &sim_profiles[0] : &sim_profiles[seed / 2 % sim_profile_count];
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void print_failure(const struct sim_cluster *cluster, const struct arguments *arguments,
                          uint64_t seed, const struct sim_profile *profile)
{
    printf("# seed %llu: %s: %s\n", (unsigned long long)seed, cluster->rule, cluster->failure);
    printf("# replay: %s --seed %llu --profile %s --trace", arguments->program,
           (unsigned long long)seed, profile->name);
    if (arguments->mutant_name)
        printf(" --mutant %s", arguments->mutant_name);
    printf("\n");
}

static int run_one(struct sim_cluster *cluster, const struct arguments *arguments)
{
    const struct sim_profile *profile = profile_of(arguments, arguments->seed);
    bool good;

    cluster->trace.print = arguments->trace;
    good = sim_cluster_run(cluster, arguments->seed, profile);
    printf("seed %llu, profile %s: %s, %.1f simulated seconds, %llu steps, trace %016llx\n",
           (unsigned long long)arguments->seed, profile->name, good ? "good" : "FAILED",
           (double)cluster->events.now / SIM_SECOND, (unsigned long long)cluster->counters.steps,
           (unsigned long long)cluster->trace.hash);
    if (!good)
        print_failure(cluster, arguments, arguments->seed, profile);
    return !good;
}

static void print_counters(const struct sim_counters *counters)
{
#define PRINT(name, needed) printf("# %-24s %llu\n", #name, (unsigned long long)counters->name);
    SIM_COUNTERS(PRINT)
#undef PRINT
}

static void check_counters(struct tap *tap, const struct sim_counters *counters)
{
#define CHECK(name, needed)                                                                        \
    if (needed)                                                                                    \
        tap_ok(tap, counters->name > 0, "it happened: %s (%llu)", #name,                           \
               (unsigned long long)counters->name);
    SIM_COUNTERS(CHECK)
#undef CHECK
    tap_ok(tap, counters->undecided_histories * 1000 <= counters->runs,
           "histories too hard to judge: %llu", (unsigned long long)counters->undecided_histories);
}

// The same seed twice, in one process that has run others between, must be the same run.
static void check_determinism(struct tap *tap, struct sim_cluster *cluster,
                              const struct arguments *arguments)
{
    struct sim_counters counters = cluster->counters;
    unsigned differing = 0;

    for (uint64_t seed = arguments->seed; seed < arguments->seed + 20; seed++) {
        struct sim_cluster *other = sim_cluster_create();
        uint64_t hash;

        sim_cluster_run(cluster, seed, profile_of(arguments, seed));
        hash = cluster->trace.hash;
        sim_cluster_run(other, seed, profile_of(arguments, seed));
        differing += hash != other->trace.hash;
        sim_cluster_destroy(other);
    }
    tap_ok(tap, differing == 0, "the same seed gives the same trace, byte for byte (%u differ)",
           differing);
    cluster->counters = counters;
}

static int run_suite(struct sim_cluster *cluster, const struct arguments *arguments)
{
    struct tap tap = {0};
    double begin = now();
    uint64_t seed = arguments->seed, failures = 0;

    for (; arguments->seconds ? now() - begin < (double)arguments->seconds
                              : seed < arguments->seed + arguments->count;
         seed++) {
        const struct sim_profile *profile = profile_of(arguments, seed);

        if (sim_cluster_run(cluster, seed, profile))
            continue;
        print_failure(cluster, arguments, seed, profile);
        if (++failures == 10)
            break;
    }
    tap_ok(&tap, failures == 0, "seeds %llu to %llu, %.0f simulated seconds in %.1f s",
           (unsigned long long)arguments->seed, (unsigned long long)seed - 1,
           (double)cluster->counters.simulated_microseconds / SIM_SECOND, now() - begin);
    check_counters(&tap, &cluster->counters);
    if (arguments->counters)
        print_counters(&cluster->counters);
    check_determinism(&tap, cluster, arguments);
    return tap_end(&tap);
}

static int run_bench(struct sim_cluster *cluster, const struct arguments *arguments)
{
    double limit = arguments->seconds ? (double)arguments->seconds : 10, begin = now(), spent;
    uint64_t seed = 1;

    while ((spent = now() - begin) < limit) {
        if (!sim_cluster_run(cluster, seed, profile_of(arguments, seed))) {
            print_failure(cluster, arguments, seed, profile_of(arguments, seed));
            return 1;
        }
        seed++;
    }
    printf("{\"benchmark\": \"raft_sim\", \"seconds\": %.3f, \"runs\": %llu, "
           "\"steps_per_second\": %.0f, \"simulated_seconds_per_second\": %.1f, "
           "\"operations_per_second\": %.0f}\n",
           spent, (unsigned long long)cluster->counters.runs,
           (double)cluster->counters.steps / spent,
           (double)cluster->counters.simulated_microseconds / SIM_SECOND / spent,
           (double)cluster->counters.operations / spent);
    return 0;
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    struct sim_cluster *cluster;
    int result;

    if (!parse_arguments(&arguments, argc, argv)) {
        usage(stderr);
        return 2;
    }
    cluster = sim_cluster_create();
    cluster->mutant = arguments.mutant;
    cluster->owner_mutant = arguments.owner_mutant;
    if (arguments.one)
        result = run_one(cluster, &arguments);
    else if (arguments.suite)
        result = run_suite(cluster, &arguments);
    else
        result = run_bench(cluster, &arguments);
    sim_cluster_destroy(cluster);
    return result;
}
