// Memory for pages that are about to come, made by a thread of its own while the one that receives
// copies what is there already.
//
// The kernel clears a page before its first use, which takes about as long as copying into it, and
// many times that where this host is itself a guest that gets the page from its own host only then.
// So a source says which pieces of RAM come next (COMING), and two threads share the work: whoever
// comes to a piece first makes its memory, the other goes on with the next.
//
// Threads: ask and finish by the one thread that receives.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct ram_prefault;

// NULL when there is no memory or thread for it: then everything is done by finish.
struct ram_prefault *ram_prefault_start(void);
// These bytes (whole pages) will be written to. When many are waiting it is forgotten.
void ram_prefault_ask(struct ram_prefault *prefault, uint8_t *hva, size_t length);
// Returns when the bytes have their memory, whether they were asked for or not; where the kernel
// can't do it ahead (before Linux 5.14) they get it when they are written to. NULL is allowed.
void ram_prefault_finish(struct ram_prefault *prefault, uint8_t *hva, size_t length);
// NULL is allowed.
void ram_prefault_stop(struct ram_prefault *prefault);
