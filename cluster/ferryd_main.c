// ferryd: one host's daemon. With --store-only it is a member of the cluster's store and nothing
// else.
#include <stddef.h>

#include "base/cluster_mutant.h"
#include "base/standard_files.h"
#include "cluster/member/ferryd.h"

int main(int argc, char **argv)
{
#ifdef CLUSTER_MUTANTS
    cluster_mutant_choose();
#endif
    standard_files_occupy();
    return ferryd_run(argc, argv, NULL);
}
