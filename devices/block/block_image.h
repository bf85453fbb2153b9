// Opening and locking of disk images: what the opener does before it hands a descriptor to a
// machine.
//
// Locks are open file description locks (fcntl F_OFD_SETLK): they belong to the open file, so they
// pass with the descriptor to another process, and go when the last copy is closed, however the
// process ended. One writer, or many readers.
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "devices/block/block_backend.h"

// Opens without locking: the descriptor (close-on-exec) or -errno with a sentence.
int block_image_open(const char *path, const struct block_file_config *config, struct error *err);
// Locks the whole file: exclusively for writing, shared for read-only. Doesn't wait: 0, -EAGAIN
// with a sentence that names the file and, where it can be found, the process that holds it.
int block_image_lock(int fd, const char *path, bool read_only, struct error *err);
// The same for whoever opens an image to start a machine: waits up to two seconds while the lock is
// held but no process can be found that holds it. After a process was killed the kernel keeps the
// files of its io_uring, and with them their locks, until the last request has ended; only a living
// holder is a reason to refuse at once.
int block_image_claim(int fd, const char *path, bool read_only, struct error *err);
// Whether somebody holds a lock that stands against ours, and who, as "process 12 (ferry)", if this
// process may see it (one that is shut in may not look into others).
bool block_image_holder(int fd, bool read_only, char *out, size_t size);
// Gives the lock up, the descriptor stays open. 0 or -errno.
int block_image_unlock(int fd);
