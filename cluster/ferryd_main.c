// ferryd: one host's daemon. With --store-only it is a member of the cluster's store and nothing
// else.
#include <stddef.h>

#include "cluster/member/ferryd.h"

int main(int argc, char **argv)
{
    return ferryd_run(argc, argv, NULL);
}
