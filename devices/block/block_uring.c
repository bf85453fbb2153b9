// The io_uring engine. One ring a disk, made and used on the disk's I/O thread. The ring's own
// descriptor becomes readable with a completion, so the thread's loop waits for that and no eventfd
// has to be read. The image is a registered file; guest RAM is not registered, since that would pin
// pages that the guest has given back.

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/filter/thread_filter.h"
#include "devices/block/block_file.h"

enum { RING_ENTRIES = 128, IN_FLIGHT_LIMIT = 256 };

// Invariant: in_flight <= IN_FLIGHT_LIMIT = entries of the completion queue, so it never overflows.
struct block_uring {
    struct io_uring ring;
    struct io_watch *watch;
    unsigned in_flight;
    // Requests that wait for room.
    struct block_request *waiting, **waiting_end;
    bool reaping; // completions are being handed out: those don't nest
};

static struct block_file *from_backend(struct block_backend *backend)
{
    return (struct block_file *)backend; // its first member
}

// An entry of the submission queue: a full queue is handed over first. NULL when it is full and may
// not be handed over, as the lease is lost.
static struct io_uring_sqe *next_entry(struct block_file *f)
{
    struct io_uring *ring = &f->uring->ring;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    while (!sqe && block_file_may_submit(f)) {
        io_uring_submit(ring);
        sqe = io_uring_get_sqe(ring);
    }
    return sqe;
}

// False when there is no room.
static bool prepare(struct block_file *f, struct block_request *request)
{
    struct block_uring *u = f->uring;
    struct io_uring_sqe *sqe = u->in_flight < IN_FLIGHT_LIMIT ? next_entry(f) : NULL;
    if (!sqe)
        return false;
    const int file_index = 0; // of the registered file
    uint64_t at = request->offset + request->progress;
    switch (request->operation) {
    case BLOCK_READ:
        io_uring_prep_readv(sqe, file_index, request->iov, request->iov_count, at);
        break;
    case BLOCK_WRITE:
        io_uring_prep_writev(sqe, file_index, request->iov, request->iov_count, at);
        break;
    case BLOCK_FLUSH:
        io_uring_prep_fsync(sqe, file_index, IORING_FSYNC_DATASYNC);
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        io_uring_prep_fallocate(sqe, file_index, block_file_fallocate_mode(request),
                                (off_t)request->offset, (off_t)request->length);
        break;
    }
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, request);
    u->in_flight++;
    return true;
}

// What can't go through the ring is done here and now.
static bool must_run_here(const struct block_file *f, const struct block_request *request)
{
    switch (request->operation) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return !block_file_buffers_fit(f, request);
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        return block_file_fallocate_mode(request) < 0;
    default:
        return false;
    }
}

static void begin(struct block_file *f, struct block_request *request)
{
    struct block_uring *u = f->uring;
    if (must_run_here(f, request)) {
        int rc = block_file_run(f, request);
        if (rc <= 0)
            block_file_complete(f, request, rc);
    } else if (!prepare(f, request)) {
        request->next = NULL;
        *u->waiting_end = request;
        u->waiting_end = &request->next;
    }
}

// One completion: the request is over, or goes on.
static void finish(struct block_file *f, struct block_request *request, int result)
{
    if (result == -EINTR || result == -EAGAIN) {
        begin(f, request);
        return;
    }
    bool transfers = request->operation == BLOCK_READ || request->operation == BLOCK_WRITE;
    if (transfers && result >= 0) {
        result = block_file_advance(request, result);
        if (result == 0 && request->progress < request->length) {
            begin(f, request); // a short transfer: the rest
            return;
        }
    }
    if (result == -EOPNOTSUPP && request->operation == BLOCK_WRITE_ZEROES) {
        request->attempt++;
        begin(f, request);
        return;
    }
    if (result == -EOPNOTSUPP && request->operation == BLOCK_DISCARD)
        result = 0; // a hint, which this file system can't take
    block_file_complete(f, request, result < 0 ? result : 0);
}

static void start_waiting(struct block_file *f)
{
    struct block_uring *u = f->uring;
    while (u->waiting) {
        struct block_request *next = u->waiting->next;
        if (!prepare(f, u->waiting))
            break;
        u->waiting = next;
        if (!next)
            u->waiting_end = &u->waiting;
    }
}

static void reap(struct block_file *f)
{
    struct block_uring *u = f->uring;
    struct io_uring_cqe *cqe;
    if (u->reaping)
        return;
    u->reaping = true;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct block_request *request = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        u->in_flight--;
        finish(f, request, result);
    }
    start_waiting(f);
    u->reaping = false;
    f->backend.settled(f->backend.opaque);
}

static void hand_over(struct block_file *f)
{
    struct block_uring *u = f->uring;
    // EBUSY and EAGAIN leave entries in the queue: they go with the next call, which comes at the
    // latest with a completion.
    while (io_uring_sq_ready(&u->ring) > 0 && block_file_may_submit(f)) {
        int rc = io_uring_submit(&u->ring);
        if (rc < 0 && rc != -EINTR)
            break;
    }
}

static void ring_readable(void *opaque)
{
    struct block_file *f = opaque;
    reap(f);
    hand_over(f);
}

static void uring_submit(struct block_backend *backend, struct block_request *request)
{
    struct block_file *f = from_backend(backend);
    int rc = block_file_check(f, request);
    if (rc > 0)
        begin(f, request);
    else
        block_file_complete(f, request, rc);
}

static void uring_kick(struct block_backend *backend)
{
    struct block_file *f = from_backend(backend);
    block_file_release(f);
    hand_over(f);
    // What the page cache could answer is there already: no need to wait for the loop.
    reap(f);
    hand_over(f);
}

static void uring_drain(struct block_backend *backend)
{
    struct block_file *f = from_backend(backend);
    struct block_uring *u = f->uring;
    block_file_release(f);
    while (u->in_flight > 0 || u->waiting) {
        struct io_uring_cqe *cqe;
        if (block_file_may_submit(f))
            io_uring_submit_and_wait(&u->ring, 1);
        else if (u->in_flight > io_uring_sq_ready(&u->ring))
            io_uring_wait_cqe(&u->ring, &cqe); // submits nothing
        else
            break; // what the host hasn't been asked for stays in the ring
        reap(f);
    }
    backend->holding = u->in_flight > 0 || u->waiting || f->held;
}

static int make_ring(struct io_uring *ring)
{
    struct io_uring_params params = {.cq_entries = IN_FLIGHT_LIMIT,
                                     .flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN |
                                              IORING_SETUP_SINGLE_ISSUER};
    int rc = io_uring_queue_init_params(RING_ENTRIES, ring, &params);
    if (rc != -EINVAL)
        return rc;
    // A kernel before 6.0 doesn't know the two hints.
    params = (struct io_uring_params){.cq_entries = IN_FLIGHT_LIMIT, .flags = IORING_SETUP_CQSIZE};
    return io_uring_queue_init_params(RING_ENTRIES, ring, &params);
}

static int uring_attach(struct block_backend *backend, struct io_thread *thread)
{
    struct block_file *f = from_backend(backend);
    struct block_uring *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    int rc = make_ring(&u->ring);
    if (rc < 0)
        goto free_uring;
    rc = io_uring_register_files(&u->ring, &f->fd, 1);
    if (rc < 0)
        goto exit_ring;
    u->waiting_end = &u->waiting;
    f->uring = u;
    rc = io_thread_watch(thread, u->ring.ring_fd, ring_readable, f, &u->watch);
    if (rc < 0)
        goto exit_ring;
    // A ring can do what a filter forbids (open, connect): with this one made, no further one is.
    thread_filter_enter(THREAD_FILTER_DISK);
    return 0;

exit_ring:
    io_uring_queue_exit(&u->ring);
free_uring:
    f->uring = NULL;
    free(u);
    return rc;
}

static void uring_detach(struct block_backend *backend)
{
    struct block_file *f = from_backend(backend);
    struct block_uring *u = f->uring;
    if (!u)
        return;
    uring_drain(backend);
    io_thread_unwatch(u->watch);
    io_uring_queue_exit(&u->ring);
    f->uring = NULL;
    free(u);
}

static void uring_destroy(struct block_backend *backend)
{
    assert(!from_backend(backend)->uring);
    block_file_destroy(backend);
}

const struct block_backend_ops block_uring_ops = {
    .attach = uring_attach,
    .detach = uring_detach,
    .submit = uring_submit,
    .kick = uring_kick,
    .drain = uring_drain,
    .refresh = block_file_refresh,
    .destroy = uring_destroy,
};
