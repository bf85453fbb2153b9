// One durable write at a time that its caller doesn't wait for, by io_uring: so that a member's
// loop can give a small frame to the disk itself, without waking another thread to sleep for it.
//
// All calls come from one thread. The write's memory must stay as it is until its end was told.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct files_ring;

// -errno where the host has no io_uring, or forbids it.
int files_ring_open(struct files_ring **ring);
// Nothing may be under way.
void files_ring_close(struct files_ring *ring);
// Becomes readable with the end of a write.
int files_ring_descriptor(const struct files_ring *ring);
// Begins to write to a file that was opened with O_DSYNC. -errno: nothing was begun.
int files_ring_begin(struct files_ring *ring, int file, uint64_t offset, const void *bytes,
                     size_t length);
// 0: done and durable. 1: under way. -EAGAIN: part or nothing of it was done, write it anew.
// Another -errno: it failed.
int files_ring_poll(struct files_ring *ring, bool wait);
