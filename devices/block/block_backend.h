// Where a disk's bytes are: the interface between virtio-blk and its storage.
//
// Threads: after attach everything is called on that I/O thread, and completions come there.
// Life: created (any thread) -> attach -> submit/kick/drain ... -> detach -> destroy.
// Invariant: each submitted request completes exactly once, by backend->completed; after drain
// nothing is in flight, and nothing completes that wasn't submitted since; unless the lease is
// lost: what wasn't handed to the host by then is held until a kick finds it reinstated.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/io_thread.h"
#include "base/lease.h"
#include "base/witness.h"

enum block_operation {
    BLOCK_READ,
    BLOCK_WRITE,
    BLOCK_FLUSH,        // everything completed before is on stable storage
    BLOCK_DISCARD,      // contents become undefined; the space may be given back
    BLOCK_WRITE_ZEROES, // contents become zero
};

// Belongs to the submitter, which keeps it (and the memory of its iovecs) until it completed.
struct block_request {
    enum block_operation operation;
    uint64_t offset;   // bytes from the start; offset + length <= backend->size
    uint64_t length;   // bytes: the sum of the iovecs for reads and writes; 0 for flush
    struct iovec *iov; // the backend may change the array while it owns the request
    unsigned iov_count;
    bool may_unmap; // write zeroes may give the space back
    int result;     // at completion: 0 or -errno
    // The backend's own, while it owns the request.
    struct block_request *next;
    uint64_t progress;
    unsigned attempt;
};

struct block_backend;

struct block_backend_ops {
    int (*attach)(struct block_backend *backend, struct io_thread *thread);
    void (*detach)(struct block_backend *backend);
    // Takes the request; it may complete before this returns.
    void (*submit)(struct block_backend *backend, struct block_request *request);
    // Hands over to the host what was submitted since the last kick (one system call a batch).
    void (*kick)(struct block_backend *backend);
    // Waits until nothing is in flight, and says in `holding` whether something is held.
    void (*drain)(struct block_backend *backend);
    // Reads the size of what lies below again (it may have been grown): 0 or -errno.
    int (*refresh)(struct block_backend *backend);
    // Gives up the backend and what it opened.
    void (*destroy)(struct block_backend *backend);
};

struct block_backend {
    const struct block_backend_ops *ops;
    uint64_t size;                // bytes
    uint32_t logical_block_size;  // smallest unit of I/O, 512 .. 65536, a power of two
    uint32_t physical_block_size; // best unit of I/O
    bool read_only;
    bool can_discard, can_write_zeroes;
    bool holding; // after drain: the lease was lost before all requests were handed over
    // Compared before each submission to the host. Set by the user before attach; NULL for none.
    struct lease *lease;
    // Of the writes; set by the user while nothing is in flight. NULL for none.
    struct witness_slot *witness;
    // Set by the user before attach.
    void (*completed)(void *opaque, struct block_request *request);
    // After the last of several completions outside of submit: what is done once a batch goes here.
    void (*settled)(void *opaque);
    void *opaque;
};

enum block_cache {
    BLOCK_CACHE_WRITEBACK, // through the host's page cache, a flush is an fdatasync
    BLOCK_CACHE_NONE,      // O_DIRECT, a flush is an fdatasync
    BLOCK_CACHE_UNSAFE,    // a flush does nothing: for data that may be lost
};

enum block_engine {
    BLOCK_ENGINE_AUTO,  // io_uring where the kernel lets us, else synchronous
    BLOCK_ENGINE_URING, // an error where it isn't available
    BLOCK_ENGINE_SYNC,  // preadv and pwritev on the I/O thread
};

struct block_file_config {
    enum block_cache cache;
    enum block_engine engine;
    bool read_only;
};

// A raw image: a regular file or block device that block_image_open() opened. The descriptor
// belongs to the backend from success on. 0 or a sentence that names `name`.
int block_file_create(struct block_backend **backend, int fd, const char *name,
                      const struct block_file_config *config, struct error *err);
