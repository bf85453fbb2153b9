#include "base/cluster_mutant.h"

#ifdef CLUSTER_MUTANTS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum cluster_mutant cluster_mutant;

static const struct {
    const char *name, *text;
} mutants[CLUSTER_MUTANT_COUNT] = {[CLUSTER_MUTANT_NONE] = {"NONE", ""},
#define MUTANT(name, what) [CLUSTER_MUTANT_##name] = {#name, what},
                                   CLUSTER_MUTANT_LIST(MUTANT)
#undef MUTANT
};

enum cluster_mutant cluster_mutant_named(const char *name)
{
    int i = 0;
    while (i < CLUSTER_MUTANT_COUNT && strcmp(mutants[i].name, name) != 0)
        i++;
    return (enum cluster_mutant)i;
}

const char *cluster_mutant_name(enum cluster_mutant mutant)
{
    return mutants[mutant].name;
}

const char *cluster_mutant_text(enum cluster_mutant mutant)
{
    return mutants[mutant].text;
}

void cluster_mutant_choose(void)
{
    const char *name = getenv("FERRY_MUTANT");
    if (!name)
        return;
    cluster_mutant = cluster_mutant_named(name);
    if (cluster_mutant < CLUSTER_MUTANT_COUNT)
        return;
    fprintf(stderr, "FERRY_MUTANT: there is no mutant '%s'\n", name);
    exit(2);
}
#endif
