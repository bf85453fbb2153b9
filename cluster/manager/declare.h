// A person says that something is gone for sure, where the cluster itself can't know: a machine
// without a deadline on a host that doesn't answer, or such a host with all that it had.
//
// Pure, as the manager's step: from one view of the store to a change of it. What always holds:
//   - Only what is on a fenced host can be declared dead: elsewhere its agent knows better.
//   - A declaration is of what the person has looked at (host, incarnation, epoch). What has come
//     since, a host that came back and started the machine once more, isn't covered by it.
#pragma once

#include "cluster/records/view.h"

// What was there when the person looked.
struct declaration {
    const char *host;
    uint64_t incarnation;
    uint64_t epoch; // of a machine
};

// 0 with *change to commit; -EBUSY when it can't be declared dead, -ESTALE when it isn't any more
// what the person looked at, with a sentence each.
int declare_machine_dead(const struct record_view *view, const struct machine_entry *entry,
                         const struct declaration *seen, struct change *change, struct error *err);
// The same; 1: it is declared dead already. -ENOENT: there is no such host.
int declare_host_dead(const struct record_view *view, const struct declaration *seen,
                      struct change *change, struct error *err);
