// A host that belongs to no cluster yet: all that its socket does is `cluster.init`,
// `cluster.join` and `cluster.restore`, until one of them has succeeded.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct waiting {
    const char *runtime_dir; // NULL: the default
    uint64_t election_max_ns;
    // Makes what a member begins with: founds, or joins by "TOKEN@ADDRESS"; or a client host.
    // `role` as ferryd's --role; NULL: what that says. 0 or a sentence.
    int (*prepare)(void *context, bool found, const char *join, const char *role,
                   struct error *err);
    // Or out of a backup.
    int (*restore)(void *context, const char *path, struct error *err);
    void *context;
};

// Returns once there is a member (0), or with a sentence if it can't wait.
int waiting_run(const struct waiting *waiting, struct error *err);
