#include "cluster/wal/files_ring.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

struct files_ring {
    struct io_uring ring;
    size_t length; // of the write that is under way
};

enum { RING_ENTRIES = 2 };

int files_ring_open(struct files_ring **out)
{
    // A kernel before 6.0 doesn't know the two hints.
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER};
    struct files_ring *ring = calloc(1, sizeof(*ring));
    if (!ring)
        return -ENOMEM;
    int error = io_uring_queue_init_params(RING_ENTRIES, &ring->ring, &params);
    if (error == -EINVAL)
        error = io_uring_queue_init(RING_ENTRIES, &ring->ring, 0);
    if (error) {
        free(ring);
        return error;
    }
    *out = ring;
    return 0;
}

void files_ring_close(struct files_ring *ring)
{
    if (!ring)
        return;
    io_uring_queue_exit(&ring->ring);
    free(ring);
}

int files_ring_descriptor(const struct files_ring *ring)
{
    return ring->ring.ring_fd;
}

int files_ring_begin(struct files_ring *ring, int file, uint64_t offset, const void *bytes,
                     size_t length)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (!sqe)
        return -EBUSY;
    io_uring_prep_write(sqe, file, bytes, (unsigned)length, offset);
    ring->length = length;
    int submitted = io_uring_submit(&ring->ring);
    while (submitted == -EINTR)
        submitted = io_uring_submit(&ring->ring);
    if (submitted == 1)
        return 0;
    // The kernel hasn't taken the entry: it must not do so with a later one.
    io_uring_prep_nop(sqe);
    return submitted < 0 ? submitted : -EIO;
}

int files_ring_poll(struct files_ring *ring, bool wait)
{
    struct io_uring_cqe *cqe;
    int error;
    do
        error = wait ? io_uring_wait_cqe(&ring->ring, &cqe) : io_uring_peek_cqe(&ring->ring, &cqe);
    while (error == -EINTR);
    if (error)
        return error == -EAGAIN ? 1 : error;
    int result = cqe->res;
    io_uring_cqe_seen(&ring->ring, cqe);
    if (result < 0)
        return result == -EINTR ? -EAGAIN : result;
    return (size_t)result == ring->length ? 0 : -EAGAIN;
}
