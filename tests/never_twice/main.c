// never_twice: seeds, mutants, or one run as text. TAP.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/tap.h"
#include "world.h"

#ifdef CLUSTER_MUTANTS
static enum cluster_mutant mutant_of(const char *name)
{
    enum cluster_mutant mutant = cluster_mutant_named(name);
    if (mutant < CLUSTER_MUTANT_COUNT)
        return mutant;
    fprintf(stderr, "never_twice: '%s' is not a mutant\n", name);
    exit(2);
}

// Each must be caught within `seeds`.
static int play_mutants(struct world *world, uint64_t from, uint64_t seeds, const char *only)
{
    struct tap tap = {0};
    for (int i = 1; i < CLUSTER_MUTANT_COUNT; i++) {
        uint64_t tried = 0;
        if (only && mutant_of(only) != (enum cluster_mutant)i)
            continue;
        cluster_mutant = (enum cluster_mutant)i;
        do
            world_run(world, from + tried, false);
        while (!world->failure[0] && ++tried < seeds);
        if (tap_ok(&tap, world->failure[0], "%s (%s) is caught after %lu seeds",
                   cluster_mutant_name(cluster_mutant), cluster_mutant_text(cluster_mutant),
                   tried + 1))
            printf("# %s\n", world->failure);
    }
    return tap_end(&tap);
}
#endif

static int play_seeds(struct world *world, uint64_t from, uint64_t seeds)
{
    struct tap tap = {0};
    uint64_t starts = 0, moves = 0, continued = 0, fences = 0, declared = 0, events = 0, failed = 0;
    for (uint64_t seed = from; seed < from + seeds && failed < 5; seed++) {
        world_run(world, seed, false);
        starts += world->starts;
        moves += world->moves;
        continued += world->continued;
        fences += world->fences;
        declared += world->declared;
        events += world->events.done;
        if (world->failure[0]) {
            failed++;
            printf("# seed %lu: %s\n# replay: build/tests/never_twice/never_twice --seed %lu\n",
                   seed, world->failure, seed);
        }
    }
    tap_ok(&tap, !failed, "%lu seeds: no machine twice, all wanted ones in the end", seeds);
    // A suite in which nothing happens proves nothing.
    tap_ok(&tap,
           starts > 5 * seeds && moves > seeds / 4 && continued > seeds / 4 && fences > seeds &&
               declared > seeds / 20,
           "%lu starts, %lu moves, %lu went on, %lu fences, %lu declared dead, %lu events", starts,
           moves, continued, fences, declared, events);
    return tap_end(&tap);
}

static int play_one(struct world *world, uint64_t seed)
{
    world_run(world, seed, true);
    printf("%s\n", world->failure[0] ? world->failure : "nothing wrong");
    return world->failure[0] != 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 's'},
        {"from", required_argument, NULL, 'f'},
        {"seed", required_argument, NULL, 'o'},
        {"mutants", no_argument, NULL, 'm'},
        {"mutant", required_argument, NULL, 'M'},
        {"only", required_argument, NULL, 'y'},
        {NULL, 0, NULL, 0},
    };
    uint64_t seeds = 200, from = 1, one = 0;
    bool single = false, all_mutants = false;
    const char *only = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            seeds = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            from = strtoull(optarg, NULL, 10);
            break;
        case 'o':
            one = strtoull(optarg, NULL, 10);
            single = true;
            break;
        case 'm':
            all_mutants = true;
            break;
        case 'y':
            only = optarg;
            break;
        case 'M':
#ifdef CLUSTER_MUTANTS
            cluster_mutant = mutant_of(optarg);
            break;
#endif
        default:
            fprintf(stderr, "usage: never_twice [--seeds N] [--from N] | --seed N [--mutant NAME] "
                            "| --mutants [--only NAME]\n");
            return 2;
        }
    }
    struct world *world = sim_allocate(sizeof(*world));
    memset(world, 0, sizeof(*world));
    sim_events_init(&world->events);
    int status = single ? play_one(world, one) : 0;
    if (!single && !all_mutants)
        status = play_seeds(world, from, seeds);
#ifdef CLUSTER_MUTANTS
    if (!single && all_mutants)
        status = play_mutants(world, from, seeds, only);
#else
    (void)only;
#endif
    world_free(world);
    sim_events_free(&world->events);
    free(world);
    return status;
}
