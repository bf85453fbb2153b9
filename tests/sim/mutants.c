// Proof that the simulator notices: each deliberately broken variant of the core must be caught by
// the general checks.
//
// Every mutant plays seeds in a process of its own (it may well trip over an assertion of the core,
// or hang), first in the profile where its rule matters most, until a check fails. One that
// survives its share of time fails the suite.
#include "cluster.h"
#include "tap.h"

#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct mutant {
    const char *name, *rule, *what;
};
// The core's, then the owner's.
static const struct mutant mutants[] = {{"NONE", "", ""},
#define MUTANT(name, rule, what) {#name, rule, what},
                                        RAFT_MUTANT_LIST(MUTANT)
#undef MUTANT
#define MUTANT(name, what) {#name, "owner", what},
                                            SIM_OWNER_MUTANTS(MUTANT)
#undef MUTANT
};

#define MUTANT_COUNT (RAFT_MUTANT_COUNT + (int)SIM_OWNER_COUNT - 1)

// Where a mutant shows soonest; others are tried in all profiles in turn.
static const struct {
    const char *mutant, *profile;
} homes[] = {
    {"CHECK_QUORUM_ONE_MAJORITY", "membership"},
    {"READ_ONE_MAJORITY", "replace"},
    {"ELECT_ONE_MAJORITY", "membership"},
    {"COMMIT_ONE_MAJORITY", "membership"},
    {"CONFIGURATION_NOT_UNDONE", "membership"},
    {"CONFIGURATION_WHEN_APPLIED", "membership"},
    {"CHANGE_BEFORE_COMMIT", "membership"},
    {"JOINT_LEFT_BY_ENTERER_ONLY", "membership"},
    {"REMOVED_LEADER_STAYS", "membership"},
    {"REMOVED_LEADER_COUNTS", "membership"},
    {"LEARNER_COUNTS", "membership"},
    {"LEARNER_CAMPAIGNS", "membership"},
    {"LEARNER_REFUSES_VOTE", "membership"},
    {"VOTE_MEMBERS_ONLY", "losses"},
    {"HUNG_DISK_LEADS", "disks"},
    {"HUNG_DISK_CAMPAIGNS", "disks"},
    {"READ_WITHOUT_CONFIRMATION", "reads"},
    {"READ_OLD_ROUND", "reads"},
    {"READ_BEFORE_NOOP", "reads"},
    {"TRANSFER_WITHOUT_BYPASS", "transfers"},
    {"PROPOSALS_DURING_TRANSFER", "transfers"},
    {"TRANSFER_NEVER_ENDS", "transfers"},
    {"CHUNKS_NOT_NAMED", "chunks"},
    {"ELECTION_NOT_RANDOM", "lockstep"},
    {"INSTALL_OVER_COVERED", "chunks"},
    {"SNAPSHOT_WITHOUT_CONFIGURATION", "snapshots"},
    {"SNAPSHOT_BEFORE_DURABLE", "snapshots"},
    {"COMPACTS_UNDER_TRANSFER", "snapshots"},
};

// Shared with the child that plays.
struct result {
    uint64_t seeds;
    const char *profile; // points into a constant table, the same in both processes
    bool caught;
    char rule[48], failure[400];
};

static const char *home_of(int mutant)
{
    for (unsigned i = 0; i < sizeof(homes) / sizeof(homes[0]); i++)
        if (strcmp(homes[i].mutant, mutants[mutant].name) == 0)
            return homes[i].profile;
    return NULL;
}

static void set_mutant(struct sim_cluster *cluster, int mutant)
{
    bool owners = mutant >= RAFT_MUTANT_COUNT;

    cluster->mutant = owners ? RAFT_MUTANT_NONE : mutant;
    cluster->owner_mutant =
        owners ? (enum sim_owner_mutant)(mutant - RAFT_MUTANT_COUNT + 1) : SIM_OWNER_SOUND;
}

static void play(struct result *result, int mutant, uint64_t first_seed, uint64_t seeds_max)
{
    struct sim_cluster *cluster = sim_cluster_create();
    const char *home = home_of(mutant);

    set_mutant(cluster, mutant);
    for (uint64_t i = 0; i < seeds_max && !result->caught; i++) {
        const struct sim_profile *profile =
            home && i % 4 != 3 ? sim_profile_find(home) : &sim_profiles[i % sim_profile_count];

        result->seeds = i + 1;
        result->profile = profile->name;
        if (sim_cluster_run(cluster, first_seed + i, profile))
            continue;
        memcpy(result->rule, cluster->rule, sizeof(result->rule));
        memcpy(result->failure, cluster->failure, sizeof(result->failure));
        // The fault must be the mutant's: without it the same seed is good.
        set_mutant(cluster, RAFT_MUTANT_NONE);
        result->caught = sim_cluster_run(cluster, first_seed + i, profile);
        set_mutant(cluster, mutant);
    }
    sim_cluster_destroy(cluster);
}

static void play_apart(struct result *result, int mutant, uint64_t first_seed, unsigned seconds)
{
    int status = 0;
    pid_t child;

    memset(result, 0, sizeof(*result));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        struct rlimit limit = {.rlim_cur = seconds, .rlim_max = seconds + 1};

        setrlimit(RLIMIT_CPU, &limit);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0});
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        play(result, mutant, first_seed, 1000000);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        snprintf(result->failure, sizeof(result->failure), "no process for it");
        return;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGXCPU && WTERMSIG(status) != SIGKILL) {
        result->caught = true;
        snprintf(result->rule, sizeof(result->rule), "%s",
                 WTERMSIG(status) == SIGABRT ? "the core's assertions" : "a crash");
    }
}

static int find(const char *name)
{
    for (int i = 1; i < MUTANT_COUNT; i++)
        if (strcmp(mutants[i].name, name) == 0)
            return i;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"from", required_argument, NULL, 'f'},
                                            {0}};
    struct result *result =
        mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned seconds = 20;
    uint64_t from = 1;
    struct tap tap = {0};
    int option, only = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's')
            seconds = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 'f')
            from = strtoull(optarg, NULL, 10);
        else if (option == 'o' && (only = find(optarg)))
            continue;
        else
            return 2;
    }
    if (result == MAP_FAILED)
        return 2;
    for (unsigned i = 0; i < sizeof(homes) / sizeof(homes[0]); i++)
        if (!find(homes[i].mutant))
            tap_ok(&tap, false, "there is a mutant %s", homes[i].mutant);
    for (int i = 1; i < MUTANT_COUNT; i++) {
        if (only && i != only)
            continue;
        play_apart(result, i, from, seconds);
        tap_ok(&tap, result->caught, "%s (%s: %s)", mutants[i].name, mutants[i].rule,
               mutants[i].what);
        if (result->caught)
            printf("#   caught by \"%s\" after %llu seeds, profile %s: %s\n", result->rule,
                   (unsigned long long)result->seeds, result->profile, result->failure);
        else
            printf("#   survived %llu seeds%s%s\n", (unsigned long long)result->seeds,
                   result->failure[0] ? ": " : "", result->failure);
    }
    return tap_end(&tap);
}
