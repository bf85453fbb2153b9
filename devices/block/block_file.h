// Raw images, inside: what the two engines share. The interface for others is block_backend.h.
#pragma once

#include "devices/block/block_backend.h"

struct block_uring;

struct block_file {
    struct block_backend backend; // first
    int fd;
    char name[128]; // for messages
    enum block_cache cache;
    enum block_engine engine;
    bool is_device;             // a block device, else a regular file
    uint32_t memory_alignment;  // of buffers, with O_DIRECT; else 1
    struct block_uring *uring;  // NULL with the synchronous engine
    struct block_request *held; // begun here, not carried out: the lease was lost
};

// Before a request begins: clears what belongs to the backend. 1 = to be carried out; 0 = nothing
// is to be done; -errno = can't be done.
int block_file_check(struct block_file *file, struct block_request *request);
// Whether the host may be asked for something now: the lease holds.
bool block_file_may_submit(struct block_file *file);
// Carries the request out on this thread, from request->progress on, and returns its result;
// BLOCK_FILE_HELD when the lease was lost before its end: then it is kept in file->held.
enum { BLOCK_FILE_HELD = 1 };
int block_file_run(struct block_file *file, struct block_request *request);
// Whether O_DIRECT can take the request's buffers as they are. True without O_DIRECT.
bool block_file_buffers_fit(const struct block_file *file, const struct block_request *request);
// The fallocate mode for the request's current attempt, or -1 when only writing zeroes is left.
int block_file_fallocate_mode(const struct block_request *request);
// Steps over what a read or write has transferred; 0, or -EIO when nothing was.
int block_file_advance(struct block_request *request, ssize_t bytes);
// Begins again what is held.
void block_file_release(struct block_file *file);
// Tells the user of the backend.
void block_file_complete(struct block_file *file, struct block_request *request, int result);
// The engines' refresh and destroy.
int block_file_refresh(struct block_backend *backend);
void block_file_destroy(struct block_backend *backend);

// io_uring. Attach makes the ring on the I/O thread, -errno where the kernel doesn't let us.
extern const struct block_backend_ops block_uring_ops;
