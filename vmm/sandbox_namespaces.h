// Namespaces of the machine's process alone: what isn't there needs no rule against it.
//
// - a user namespace, in which nobody but this user exists and no right counts for the host;
// - a mount namespace whose root is an empty read-only tmpfs: in it libraries (read only), this
//   process's own part of /proc, and the runtime directory;
// - a network namespace without an interface, so that no address and no abstract socket of the host
//   can be reached. Sockets that were made before, or are handed in, stay in the host's.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/sandbox.h"

struct sandbox_readable {
    const char *path;
    uint64_t access; // landlock's
};
// Ended by one without a path.
extern const struct sandbox_readable sandbox_readable[];

// Enters them, before there is another thread. The descriptors in `places` are opened anew below
// the new root, as one from before leads out of it; their numbers stay. Where the kernel doesn't
// allow it the process stays where it is: -errno with a sentence that ends with the reason.
int sandbox_enter_namespaces(const struct sandbox_places *places, struct error *err);
// Whether that would succeed, by trying it in a process of its own. 0, or -errno with the sentence.
int sandbox_try_namespaces(struct error *err);
