// What shuts a machine's process in, for the case that its guest, or a stream it receives, takes it
// over: docs/threat-model.md says what each part stops.
//
// 1. sandbox_shut(), on the main thread before it starts another and after everything was opened:
//    no new privileges, namespaces of its own (vmm/sandbox_namespaces.h), no capabilities, landlock
//    (paths, TCP ports, signals and abstract sockets of others), limits. New threads inherit it.
// 2. each thread, when it begins, enters its system call filter (base/filter/thread_filter.h); the
//    main thread does by sandbox_filter_main(), before the guest's first instruction.
#pragma once

#include <stdbool.h>

#include "base/error.h"

// What the process may still open by name.
struct sandbox_places {
    // Descriptors, open anew afterwards: see sandbox_enter_namespaces().
    int machine_dir; // files of its own are made, replaced and removed here
    int runtime_dir; // here only its lock file is opened, and an empty directory removed
    // The machine's control groups, whose files are written, and what they are removed from.
    unsigned cgroups;
    int cgroup_dirs[2], cgroup_parents[2];
};

// What this host has of it; a feature that is missing costs one layer.
struct sandbox_abilities {
    bool filters;
    int landlock; // version of its interface, 0 without
};
void sandbox_find_abilities(struct sandbox_abilities *abilities);

// `places` were opened by their names. 0, or -errno with a sentence when a part that every
// supported kernel has can't be had. What is missing otherwise is said in the log.
int sandbox_shut(const struct sandbox_places *places, struct error *err);
void sandbox_filter_main(void);
