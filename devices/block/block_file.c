#include "devices/block/block_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { SECTOR = 512, PAGE = 4096, ZEROES_CHUNK = 64 * 1024, BOUNCE_SIZE = 256 * 1024 };

static struct block_file *from_backend(struct block_backend *backend)
{
    return (struct block_file *)backend; // its first member
}

bool block_file_may_submit(struct block_file *f)
{
    return !f->backend.lease || lease_holds(f->backend.lease);
}

static void note_write(struct block_file *f, const struct block_request *request)
{
    if (f->backend.witness && request->operation != BLOCK_READ && request->operation != BLOCK_FLUSH)
        witness_begin(f->backend.witness, clock_boottime_ns());
}

void block_file_release(struct block_file *f)
{
    while (f->held && block_file_may_submit(f)) {
        struct block_request *request = f->held;
        f->held = request->next;
        note_write(f, request);
        int rc = block_file_run(f, request);
        if (rc <= 0)
            block_file_complete(f, request, rc);
    }
}

void block_file_complete(struct block_file *f, struct block_request *request, int result)
{
    if (f->backend.witness && request->operation != BLOCK_READ && request->operation != BLOCK_FLUSH)
        witness_end(f->backend.witness, clock_boottime_ns());
    request->result = result;
    f->backend.completed(f->backend.opaque, request);
}

// Steps over `bytes` that were transferred, in the iovecs and in progress.
static void advance(struct block_request *request, size_t bytes)
{
    request->progress += bytes;
    while (bytes > 0) {
        struct iovec *first = request->iov;
        if (bytes < first->iov_len) {
            first->iov_base = (uint8_t *)first->iov_base + bytes;
            first->iov_len -= bytes;
            return;
        }
        bytes -= first->iov_len;
        request->iov++;
        request->iov_count--;
    }
}

int block_file_advance(struct block_request *request, ssize_t bytes)
{
    // The image ends early: somebody cut it.
    if (bytes == 0)
        return -EIO;
    advance(request, (size_t)bytes);
    return 0;
}

static int transfer(struct block_file *f, struct block_request *request)
{
    while (request->progress < request->length) {
        if (!block_file_may_submit(f))
            return BLOCK_FILE_HELD;
        off_t at = (off_t)(request->offset + request->progress);
        ssize_t n = request->operation == BLOCK_READ
                        ? preadv(f->fd, request->iov, (int)request->iov_count, at)
                        : pwritev(f->fd, request->iov, (int)request->iov_count, at);
        if (n < 0 && errno == EINTR)
            continue;
        int rc = n < 0 ? -errno : block_file_advance(request, n);
        if (rc < 0)
            return rc;
    }
    return 0;
}

// Copies `bytes` between the buffer and `offset` of the request's iovecs.
static void copy_bounced(const struct block_request *request, uint64_t offset, uint8_t *buffer,
                         size_t bytes)
{
    for (unsigned i = 0; i < request->iov_count && bytes > 0; i++) {
        size_t here = request->iov[i].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        size_t piece = here - offset < bytes ? here - offset : bytes;
        uint8_t *guest = (uint8_t *)request->iov[i].iov_base + offset;
        if (request->operation == BLOCK_WRITE)
            memcpy(buffer, guest, piece);
        else
            memcpy(guest, buffer, piece);
        buffer += piece;
        bytes -= piece;
        offset = 0;
    }
}

// The same through a buffer that O_DIRECT accepts, for a guest whose buffers it doesn't. Piece by
// piece: how long a request is says the guest, up to 4 GiB.
static int transfer_bounced(struct block_file *f, struct block_request *request)
{
    void *buffer;
    uint64_t left = request->length - request->progress;
    size_t size = left < BOUNCE_SIZE ? (size_t)left : BOUNCE_SIZE;
    int rc = 0;
    if (posix_memalign(&buffer, PAGE, size))
        return -ENOMEM;
    for (; rc == 0 && left > 0; left = request->length - request->progress) {
        uint64_t done = request->progress;
        struct iovec whole = {.iov_base = buffer, .iov_len = left < size ? (size_t)left : size};
        struct block_request piece = {.operation = request->operation,
                                      .offset = request->offset + done,
                                      .length = whole.iov_len,
                                      .iov = &whole,
                                      .iov_count = 1};
        if (request->operation == BLOCK_WRITE)
            copy_bounced(request, done, buffer, piece.length);
        rc = transfer(f, &piece);
        if (rc == 0 && request->operation == BLOCK_READ)
            copy_bounced(request, done, buffer, piece.length);
        if (rc == 0)
            request->progress += piece.length; // held in between, it goes on from there
    }
    free(buffer);
    return rc;
}

bool block_file_buffers_fit(const struct block_file *f, const struct block_request *request)
{
    if (f->memory_alignment <= 1)
        return true;
    uintptr_t mask = f->memory_alignment - 1;
    for (unsigned i = 0; i < request->iov_count; i++)
        if (((uintptr_t)request->iov[i].iov_base & mask) || (request->iov[i].iov_len & mask))
            return false;
    return true;
}

int block_file_fallocate_mode(const struct block_request *request)
{
    enum {
        PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    };
    if (request->operation == BLOCK_DISCARD)
        return PUNCH;
    // File systems know one or the other; only with may_unmap the space may be given back.
    unsigned step = request->attempt + (request->may_unmap ? 0 : 1);
    return step == 0 ? PUNCH : step == 1 ? ZERO : -1;
}

static int write_zeroes(struct block_file *f, struct block_request *request)
{
    void *zeroes;
    if (posix_memalign(&zeroes, PAGE, ZEROES_CHUNK))
        return -ENOMEM;
    memset(zeroes, 0, ZEROES_CHUNK);
    int rc = 0;
    while (rc == 0 && request->progress < request->length) {
        if (!block_file_may_submit(f)) {
            rc = BLOCK_FILE_HELD;
            break;
        }
        uint64_t left = request->length - request->progress;
        size_t bytes = left < ZEROES_CHUNK ? (size_t)left : ZEROES_CHUNK;
        ssize_t n = pwrite(f->fd, zeroes, bytes, (off_t)(request->offset + request->progress));
        if (n > 0)
            request->progress += (uint64_t)n;
        else if (n == 0)
            rc = -EIO;
        else if (errno != EINTR)
            rc = -errno;
    }
    free(zeroes);
    return rc;
}

static int deallocate(struct block_file *f, struct block_request *request)
{
    for (;; request->attempt++) {
        int mode = block_file_fallocate_mode(request);
        if (mode < 0)
            return write_zeroes(f, request);
        if (!block_file_may_submit(f))
            return BLOCK_FILE_HELD;
        int rc;
        do
            rc = fallocate(f->fd, mode, (off_t)request->offset, (off_t)request->length) < 0 ? -errno
                                                                                            : 0;
        while (rc == -EINTR);
        if (rc != -EOPNOTSUPP)
            return rc;
        if (request->operation == BLOCK_DISCARD)
            return 0; // a hint, which this file system can't take
    }
}

static int run(struct block_file *f, struct block_request *request)
{
    switch (request->operation) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return block_file_buffers_fit(f, request) ? transfer(f, request)
                                                  : transfer_bounced(f, request);
    case BLOCK_FLUSH:
        if (!block_file_may_submit(f))
            return BLOCK_FILE_HELD;
        return fdatasync(f->fd) < 0 ? -errno : 0;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        return deallocate(f, request);
    }
    return -EINVAL;
}

int block_file_run(struct block_file *f, struct block_request *request)
{
    int rc = run(f, request);
    if (rc == BLOCK_FILE_HELD) {
        request->next = f->held; // in any order: the guest waits for all of them
        f->held = request;
    }
    return rc;
}

int block_file_check(struct block_file *f, struct block_request *request)
{
    const struct block_backend *b = &f->backend;
    request->progress = 0;
    request->attempt = 0;
    request->next = NULL;
    if (block_file_may_submit(f))
        note_write(f, request);
    if (request->operation == BLOCK_FLUSH)
        return f->cache == BLOCK_CACHE_UNSAFE ? 0 : 1;
    if (request->offset > b->size || request->length > b->size - request->offset)
        return -EINVAL;
    if (request->operation != BLOCK_READ && b->read_only)
        return -EROFS;
    // The guest was told the block size; smaller pieces can't be had with O_DIRECT.
    if (f->cache == BLOCK_CACHE_NONE &&
        ((request->offset | request->length) & (b->logical_block_size - 1)))
        return -EINVAL;
    return request->length == 0 ? 0 : 1;
}

// The synchronous engine: a request is over when submit returns.

static int sync_attach(struct block_backend *backend, struct io_thread *thread)
{
    return 0;
}

static void sync_nothing(struct block_backend *backend)
{
}

static void sync_submit(struct block_backend *backend, struct block_request *request)
{
    struct block_file *f = from_backend(backend);
    int rc = block_file_check(f, request);
    if (rc > 0)
        rc = block_file_run(f, request);
    if (rc <= 0)
        block_file_complete(f, request, rc);
}

static void sync_kick(struct block_backend *backend)
{
    block_file_release(from_backend(backend));
}

static void sync_drain(struct block_backend *backend)
{
    struct block_file *f = from_backend(backend);
    block_file_release(f);
    backend->holding = f->held != NULL;
}

// Size and block sizes of what lies below.
static int read_geometry(struct block_file *f)
{
    struct block_backend *b = &f->backend;
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    uint64_t size = (uint64_t)st.st_size;
    uint32_t logical = SECTOR, physical = SECTOR;
    if (S_ISBLK(st.st_mode)) {
        int sector_size = 0;
        unsigned physical_size = 0;
        if (ioctl(f->fd, BLKGETSIZE64, &size) < 0 || ioctl(f->fd, BLKSSZGET, &sector_size) < 0)
            return -errno;
        logical = (uint32_t)sector_size;
        if (ioctl(f->fd, BLKPBSZGET, &physical_size) == 0)
            physical = physical_size;
    } else if (S_ISREG(st.st_mode)) {
        physical = (uint32_t)st.st_blksize;
    } else {
        return -ENOTBLK;
    }
    if (logical < b->logical_block_size)
        logical = b->logical_block_size; // what O_DIRECT was found to need
    f->is_device = S_ISBLK(st.st_mode);
    b->logical_block_size = logical;
    b->physical_block_size = physical < logical || (physical & (physical - 1)) ? logical : physical;
    if (b->physical_block_size > 64 * 1024)
        b->physical_block_size = PAGE;
    b->size = size - size % logical;
    return 0;
}

int block_file_refresh(struct block_backend *backend)
{
    return read_geometry(from_backend(backend));
}

void block_file_destroy(struct block_backend *backend)
{
    struct block_file *f = from_backend(backend);
    close(f->fd);
    free(f);
}

static const struct block_backend_ops sync_ops = {
    .attach = sync_attach,
    .detach = sync_nothing,
    .submit = sync_submit,
    .kick = sync_kick,
    .drain = sync_drain,
    .refresh = block_file_refresh,
    .destroy = block_file_destroy,
};

// io_uring if it can be had, when it comes to it: rings are made on the thread that uses them.
static int first_attach(struct block_backend *backend, struct io_thread *thread)
{
    struct block_file *f = from_backend(backend);
    int rc = block_uring_ops.attach(backend, thread);
    if (rc == 0) {
        backend->ops = &block_uring_ops;
    } else if (f->engine == BLOCK_ENGINE_AUTO) {
        log_info("disk image '%s': io_uring isn't available (%s), using synchronous I/O", f->name,
                 strerror(-rc));
        backend->ops = &sync_ops;
        rc = 0;
    }
    return rc;
}

static const struct block_backend_ops unattached_ops = {
    .attach = first_attach,
    .detach = sync_nothing,
    .drain = sync_nothing,
    .refresh = block_file_refresh,
    .destroy = block_file_destroy,
};

// Finds by trying what O_DIRECT wants of this file, since not every kernel can be asked.
static int find_direct_alignment(struct block_file *f)
{
    int flags = fcntl(f->fd, F_GETFL);
    if (flags < 0 || (!(flags & O_DIRECT) && fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0))
        return -errno;
    uint8_t *buffer;
    if (posix_memalign((void **)&buffer, 2 * PAGE, 2 * PAGE))
        return -ENOMEM;
    int rc = -EINVAL;
    for (uint32_t unit = SECTOR; unit <= PAGE && rc == -EINVAL; unit *= 8) {
        // A buffer aligned to the unit and to no more.
        rc = pread(f->fd, buffer + unit % PAGE, unit, 0) < 0 ? -errno : 0;
        f->backend.logical_block_size = f->memory_alignment = unit;
    }
    free(buffer);
    return rc;
}

int block_file_create(struct block_backend **backend, int fd, const char *name,
                      const struct block_file_config *config, struct error *err)
{
    struct block_file *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, ENOMEM, "disk image '%s': no memory", name);
    snprintf(f->name, sizeof(f->name), "%s", name);
    f->fd = fd;
    f->cache = config->cache;
    f->engine = config->engine;
    f->memory_alignment = 1;
    f->backend.logical_block_size = SECTOR;
    f->backend.ops = config->engine == BLOCK_ENGINE_SYNC ? &sync_ops : &unattached_ops;
    f->backend.read_only = config->read_only;
    f->backend.can_discard = f->backend.can_write_zeroes = !config->read_only;
    int rc = 0;
    if (config->cache == BLOCK_CACHE_NONE) {
        rc = find_direct_alignment(f);
        if (rc < 0) {
            error_set_errno(err, -rc,
                            "disk image '%s': cache=none needs direct I/O, which its file system "
                            "doesn't offer; use cache=writeback",
                            name);
            goto fail;
        }
    }
    rc = read_geometry(f);
    if (rc < 0) {
        if (rc == -ENOTBLK)
            error_set(err, ENOTBLK, "disk image '%s' is neither a file nor a block device", name);
        else
            error_set_errno(err, -rc, "disk image '%s': can't find out its size", name);
        goto fail;
    }
    if (f->backend.size == 0) {
        rc = error_set(err, EINVAL, "disk image '%s' is empty: a disk has at least %u bytes", name,
                       f->backend.logical_block_size);
        goto fail;
    }
    *backend = &f->backend;
    return 0;

fail:
    free(f);
    return rc;
}
