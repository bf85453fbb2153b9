#include "devices/block/block_nbd.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/filter/thread_filter.h"
#include "base/log.h"
#include "devices/block/nbd_library.h"

enum {
    SECTOR = 512,
    IN_FLIGHT_LIMIT = 256,    // requests; virtio-blk has no more
    PIECE_LIMIT = 32 << 20,   // bytes of a command: servers take this much (NBD's protocol)
    BOUNCE_LIMIT = 64 << 20,  // bytes of a request whose buffers aren't whole sectors
    GREETING_LIMIT_MS = 5000, // until a disk is there, when it is made
    GREETING_LOOK_MS = 100,   // between looks whether nobody waits any more
    DRAIN_LIMIT_MS = 10000,   // a server that is silent for so long has lost the connection
};

#define MS UINT64_C(1000000)

// A request of which commands are under way.
struct flight {
    struct block_nbd *nbd;
    struct block_request *request; // NULL: free
    unsigned commands;
    int error; // of any of them: 0 or -errno
    uint8_t *bounce;
};

struct block_nbd {
    struct block_backend backend; // first
    char *address;
    struct block_nbd_place place;
    enum block_cache cache;
    int control_fd;
    struct io_thread *thread;
    struct nbd_handle *handle; // NULL without a connection
    bool ready;                // the handle: the greeting is over
    bool can_flush;
    bool told;           // why there is no connection: once, not at each attempt
    uint64_t size_there; // as the last greeting said; counts from refresh on
    struct io_watch *control_watch, *watch;
    struct flight flights[IN_FLIGHT_LIMIT];
    unsigned in_flight;
    // Those whose last command has ended, to be completed outside of libnbd, which holds a lock
    // while it calls back.
    struct flight *done[IN_FLIGHT_LIMIT];
    unsigned done_count;
    bool completing; // completions are being handed out: those don't nest
};

static struct block_nbd *from_backend(struct block_backend *backend)
{
    return (struct block_nbd *)backend; // its first member
}

// ---- addresses ----

bool block_nbd_is_address(const char *path)
{
    return strncmp(path, "nbd://", 6) == 0 || strncmp(path, "nbd+unix://", 11) == 0 ||
           strncmp(path, "nbds://", 7) == 0;
}

static bool copy(char *to, size_t size, const char *from, size_t length)
{
    if (length >= size)
        return false;
    memcpy(to, from, length);
    to[length] = 0;
    return true;
}

static bool parse_unix(const char *rest, struct block_nbd_place *place)
{
    const char *query = strstr(rest, "?socket=");
    if (*rest != '/' || !query || query[8] != '/')
        return false;
    return copy(place->export_name, sizeof(place->export_name), rest + 1,
                (size_t)(query - rest - 1)) &&
           copy(place->path, sizeof(place->path), query + 8, strlen(query + 8));
}

static bool parse_tcp(const char *rest, struct block_nbd_place *place)
{
    size_t whole = strcspn(rest, "/");
    const char *host = rest, *port = NULL;
    size_t length = whole;
    if (*rest == '[') {
        const char *end = memchr(rest, ']', whole);
        if (!end)
            return false;
        host = rest + 1;
        length = (size_t)(end - host);
        if (end[1] == ':')
            port = end + 2;
        else if (end + 1 != rest + whole)
            return false;
    } else {
        const char *colon = memchr(rest, ':', whole);
        if (colon) {
            length = (size_t)(colon - rest);
            port = colon + 1;
        }
    }
    if (!port && !copy(place->port, sizeof(place->port), "10809", 5))
        return false;
    if (port && (!copy(place->port, sizeof(place->port), port, (size_t)(rest + whole - port)) ||
                 !*place->port || strspn(place->port, "0123456789") != strlen(place->port)))
        return false;
    const char *name = rest[whole] == '/' ? rest + whole + 1 : "";
    return length > 0 && copy(place->host, sizeof(place->host), host, length) &&
           copy(place->export_name, sizeof(place->export_name), name, strlen(name));
}

int block_nbd_parse(const char *address, struct block_nbd_place *place, struct error *err)
{
    *place = (struct block_nbd_place){.host = ""};
    if (strncmp(address, "nbds://", 7) == 0)
        return error_set(err, ENOTSUP,
                         "disk '%s': NBD over TLS isn't supported; use nbd:// through a tunnel, or "
                         "nbd+unix://",
                         address);
    bool fits = strncmp(address, "nbd://", 6) == 0 ? parse_tcp(address + 6, place)
                                                   : parse_unix(address + 11, place);
    if (!fits || strchr(place->export_name, '%') || strchr(place->export_name, '?'))
        return error_set(err, EINVAL,
                         "disk '%s': no address of an NBD server (nbd://HOST[:PORT][/EXPORT] or "
                         "nbd+unix:///[EXPORT]?socket=/PATH)",
                         address);
    return 0;
}

// ---- completions ----

static int command_ended(void *opaque, int *error)
{
    struct flight *f = opaque;
    if (*error)
        f->error = -EIO;
    if (--f->commands == 0)
        f->nbd->done[f->nbd->done_count++] = f;
    return 1; // libnbd may forget it
}

static void give_back(struct flight *f)
{
    struct block_request *request = f->request;
    if (f->bounce && f->error == 0 && request->operation == BLOCK_READ) {
        const uint8_t *from = f->bounce;
        for (unsigned i = 0; i < request->iov_count; from += request->iov[i++].iov_len)
            memcpy(request->iov[i].iov_base, from, request->iov[i].iov_len);
    }
    free(f->bounce);
    request->result = f->error;
    f->request = NULL;
    f->nbd->in_flight--;
    f->nbd->backend.completed(f->nbd->backend.opaque, request);
}

// True when something was completed.
static bool complete_done(struct block_nbd *n)
{
    bool any = false;
    if (n->completing)
        return false; // whoever does goes on
    n->completing = true;
    while (n->done_count > 0) {
        give_back(n->done[--n->done_count]);
        any = true;
    }
    n->completing = false;
    return any;
}

// ---- connections ----

static void connection_ready(void *opaque);

static void want(struct block_nbd *n)
{
    if (!n->handle || !n->watch)
        return;
    unsigned direction = nbd_library.nbd_aio_get_direction(n->handle);
    io_watch_want(n->watch, direction & LIBNBD_AIO_DIRECTION_READ,
                  direction & LIBNBD_AIO_DIRECTION_WRITE);
}

// Gives the connection up; what is in flight has failed. Its completions are the caller's.
static void drop(struct block_nbd *n)
{
    if (!n->handle)
        return;
    io_thread_unwatch(n->watch);
    n->watch = NULL;
    // Whoever brought it has a copy, and shall see the end.
    shutdown(nbd_library.nbd_aio_get_fd(n->handle), SHUT_RDWR);
    nbd_library.nbd_close(n->handle); // calls nothing back any more
    n->handle = NULL;
    n->ready = false;
    n->done_count = 0;
    for (unsigned i = 0; i < IN_FLIGHT_LIMIT; i++) {
        struct flight *f = &n->flights[i];
        if (!f->request)
            continue;
        if (f->commands > 0)
            f->error = -EIO;
        f->commands = 0;
        n->done[n->done_count++] = f;
    }
}

static int begin_greeting(struct block_nbd *n, int fd)
{
    n->ready = false;
    n->handle = nbd_library.nbd_create();
    if (!n->handle) {
        close(fd);
        return -ENOMEM;
    }
    if (nbd_library.nbd_set_export_name(n->handle, n->place.export_name) == 0 &&
        nbd_library.nbd_aio_connect_socket(n->handle, fd) == 0)
        return 0; // the descriptor is the handle's
    nbd_library.nbd_close(n->handle);
    n->handle = NULL;
    return -EIO;
}

// After the greeting: what is there. NULL, or why it can't be taken.
static const char *look_at_export(struct block_nbd *n, bool first)
{
    int64_t size = nbd_library.nbd_get_size(n->handle);
    if (size < SECTOR)
        return "its disk is empty";
    if (nbd_library.nbd_is_read_only(n->handle) > 0 && !n->backend.read_only)
        return "it offers the disk read-only (add ',ro')";
    uint64_t whole = (uint64_t)size - (uint64_t)size % SECTOR;
    if (!first && whole < n->backend.size)
        return "its disk is smaller than it was";
    n->size_there = whole;
    n->can_flush = nbd_library.nbd_can_flush(n->handle) > 0;
    if (first) { // what the guest is told stays
        n->backend.size = whole;
        n->backend.can_discard = nbd_library.nbd_can_trim(n->handle) > 0;
        n->backend.can_write_zeroes = nbd_library.nbd_can_zero(n->handle) > 0;
    }
    n->ready = true;
    return NULL;
}

// The descriptor of a message, -EAGAIN with a text or without a message, -EPIPE at the end.
static int take_message(int control_fd, char text[BLOCK_NBD_TEXT])
{
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {text, BLOCK_NBD_TEXT - 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof(extra)};
    text[0] = 0;
    ssize_t length = recvmsg(control_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0)
        return -EAGAIN;
    if (length == 0)
        return -EPIPE;
    text[length] = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EAGAIN;
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static void lose(struct block_nbd *n, const char *why)
{
    log_warning("disk '%s': %s; requests fail until the server is back", n->address, why);
    drop(n);
    complete_done(n);
    n->backend.settled(n->backend.opaque);
}

static void watch_connection(struct block_nbd *n)
{
    int fd = nbd_library.nbd_aio_get_fd(n->handle);
    if (io_thread_watch(n->thread, fd, connection_ready, n, &n->watch) < 0)
        lose(n, "no memory for its connection");
    want(n);
}

static void control_ready(void *opaque)
{
    struct block_nbd *n = opaque;
    char text[BLOCK_NBD_TEXT];
    int fd = take_message(n->control_fd, text);
    if (fd == -EPIPE) {
        io_thread_unwatch(n->control_watch);
        n->control_watch = NULL;
        log_warning("disk '%s': its helper process is gone: once this connection ends there is "
                    "no other",
                    n->address);
    } else if (fd < 0) {
        if (text[0] && !n->told)
            log_warning("disk '%s': %s", n->address, text);
        n->told = true;
    } else {
        n->told = false;
        if (n->handle)
            lose(n, "its connection has ended");
        if (begin_greeting(n, fd) == 0)
            watch_connection(n);
    }
}

static void connection_ready(void *opaque)
{
    struct block_nbd *n = opaque;
    const char *why = NULL;
    while (n->handle && nbd_library.nbd_poll(n->handle, 0) > 0)
        continue;
    if (nbd_library.nbd_aio_is_dead(n->handle) || nbd_library.nbd_aio_is_closed(n->handle)) {
        why = "the connection to its server is lost";
    } else if (!n->ready && nbd_library.nbd_aio_is_ready(n->handle)) {
        why = look_at_export(n, false);
        if (!why)
            log_info("disk '%s': connected again", n->address);
    }
    if (why) {
        lose(n, why);
        return;
    }
    if (complete_done(n))
        n->backend.settled(n->backend.opaque);
    want(n);
}

// ---- requests ----

static void note(struct flight *f, int64_t cookie)
{
    if (cookie >= 0)
        return; // command_ended() will come
    f->commands--;
    f->error = -EIO;
}

static nbd_completion_callback ended(struct flight *f)
{
    f->commands++;
    return (nbd_completion_callback){.callback = command_ended, .user_data = f};
}

// Commands for a range of memory.
static void transfer(struct flight *f, uint8_t *buffer, size_t length, uint64_t offset)
{
    struct nbd_handle *handle = f->nbd->handle;
    while (length > 0 && f->error == 0) {
        size_t piece = length < PIECE_LIMIT ? length : PIECE_LIMIT;
        if (f->request->operation == BLOCK_READ)
            note(f, nbd_library.nbd_aio_pread(handle, buffer, piece, offset, ended(f), 0));
        else
            note(f, nbd_library.nbd_aio_pwrite(handle, buffer, piece, offset, ended(f), 0));
        buffer += piece;
        offset += piece;
        length -= piece;
    }
}

static bool are_whole_sectors(const struct block_request *request)
{
    for (unsigned i = 0; i < request->iov_count; i++)
        if (request->iov[i].iov_len % SECTOR)
            return false;
    return true;
}

static void begin_transfer(struct flight *f)
{
    struct block_request *request = f->request;
    uint64_t offset = request->offset;
    if (are_whole_sectors(request)) {
        for (unsigned i = 0; i < request->iov_count; offset += request->iov[i++].iov_len)
            transfer(f, request->iov[i].iov_base, request->iov[i].iov_len, offset);
        return;
    }
    // Servers want whole blocks, so buffers of other sizes go through one.
    f->bounce = request->length <= BOUNCE_LIMIT ? malloc(request->length) : NULL;
    if (!f->bounce) {
        f->error = -ENOMEM;
        return;
    }
    uint8_t *to = f->bounce;
    if (request->operation == BLOCK_WRITE)
        for (unsigned i = 0; i < request->iov_count; to += request->iov[i++].iov_len)
            memcpy(to, request->iov[i].iov_base, request->iov[i].iov_len);
    transfer(f, f->bounce, request->length, offset);
}

static void begin(struct flight *f)
{
    struct nbd_handle *handle = f->nbd->handle;
    const struct block_request *request = f->request;
    switch (request->operation) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        begin_transfer(f);
        break;
    case BLOCK_FLUSH:
        note(f, nbd_library.nbd_aio_flush(handle, ended(f), 0));
        break;
    case BLOCK_DISCARD:
        note(f, nbd_library.nbd_aio_trim(handle, request->length, request->offset, ended(f), 0));
        break;
    case BLOCK_WRITE_ZEROES:
        note(f, nbd_library.nbd_aio_zero(handle, request->length, request->offset, ended(f),
                                         request->may_unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
        break;
    }
}

// 1: to be carried out; 0: nothing is to be done; -errno: can't be done.
static int check(const struct block_nbd *n, const struct block_request *request)
{
    const struct block_backend *b = &n->backend;
    if (request->operation != BLOCK_FLUSH) {
        if (request->offset > b->size || request->length > b->size - request->offset)
            return -EINVAL;
        if (request->operation != BLOCK_READ && b->read_only)
            return -EROFS;
        if (request->length == 0)
            return 0;
    } else if (n->cache == BLOCK_CACHE_UNSAFE || (n->ready && !n->can_flush)) {
        return 0;
    }
    // Kept by nobody: a lease's loss leaves nothing behind that could be written later.
    if (b->lease && !lease_holds(b->lease))
        return -EIO;
    return n->ready ? 1 : -EIO;
}

static void nbd_submit(struct block_backend *backend, struct block_request *request)
{
    struct block_nbd *n = from_backend(backend);
    struct flight *f = n->flights;
    int rc = check(n, request);
    if (rc <= 0) {
        request->result = rc;
        backend->completed(backend->opaque, request);
        return;
    }
    while (f->request)
        f++; // there is a free one: virtio-blk has no more requests than these
    assert(f < n->flights + IN_FLIGHT_LIMIT);
    *f = (struct flight){.nbd = n, .request = request, .commands = 1};
    n->in_flight++;
    begin(f);
    if (--f->commands == 0)
        n->done[n->done_count++] = f;
    complete_done(n);
}

static void nbd_kick(struct block_backend *backend)
{
    want(from_backend(backend)); // libnbd has sent what the socket took
}

static void nbd_drain(struct block_backend *backend)
{
    struct block_nbd *n = from_backend(backend);
    uint64_t end = clock_monotonic_ns() + DRAIN_LIMIT_MS * MS;
    while (n->in_flight > 0) {
        uint64_t now = clock_monotonic_ns();
        int rc = n->handle && now < end
                     ? nbd_library.nbd_poll(n->handle, (int)((end - now) / MS) + 1)
                     : -1;
        if (rc < 0 || nbd_library.nbd_aio_is_dead(n->handle)) {
            log_warning("disk '%s': its server doesn't answer; what was asked of it has failed",
                        n->address);
            drop(n);
        }
        complete_done(n);
    }
    want(n);
    backend->holding = false;
}

// ---- life ----

static int nbd_attach(struct block_backend *backend, struct io_thread *thread)
{
    struct block_nbd *n = from_backend(backend);
    n->thread = thread;
    int rc = io_thread_watch(thread, n->control_fd, control_ready, n, &n->control_watch);
    if (rc < 0)
        return rc;
    watch_connection(n);
    thread_filter_enter(THREAD_FILTER_DISK);
    return 0;
}

static void nbd_detach(struct block_backend *backend)
{
    struct block_nbd *n = from_backend(backend);
    nbd_drain(backend);
    io_thread_unwatch(n->control_watch);
    n->control_watch = NULL;
    drop(n);
}

static int nbd_refresh(struct block_backend *backend)
{
    struct block_nbd *n = from_backend(backend);
    backend->size = n->size_there;
    return 0;
}

static void nbd_destroy(struct block_backend *backend)
{
    struct block_nbd *n = from_backend(backend);
    drop(n);
    close(n->control_fd);
    free(n->address);
    free(n);
}

static const struct block_backend_ops nbd_ops = {
    .attach = nbd_attach,
    .detach = nbd_detach,
    .submit = nbd_submit,
    .kick = nbd_kick,
    .drain = nbd_drain,
    .refresh = nbd_refresh,
    .destroy = nbd_destroy,
};

// Of making a disk: how long it may take.
struct patience {
    uint64_t end;
    const atomic_bool *cancelled; // or NULL
};

// Milliseconds to wait for before the next look; 0: it is over.
static int next_wait(const struct patience *patience)
{
    uint64_t now = clock_monotonic_ns();
    if (now >= patience->end || (patience->cancelled && atomic_load(patience->cancelled)))
        return 0;
    uint64_t left = (patience->end - now) / MS + 1;
    return left < GREETING_LOOK_MS ? (int)left : GREETING_LOOK_MS;
}

// The first connection's descriptor, or a sentence.
static int wait_for_connection(struct block_nbd *n, const struct patience *patience,
                               struct error *err)
{
    char text[BLOCK_NBD_TEXT] = "";
    int fd = -EAGAIN, wait;
    while (fd == -EAGAIN && !text[0] && (wait = next_wait(patience)) > 0) {
        struct pollfd ready = {.fd = n->control_fd, .events = POLLIN};
        if (poll(&ready, 1, wait) > 0)
            fd = take_message(n->control_fd, text);
    }
    return fd >= 0 ? fd
                   : error_set(err, ENOTCONN, "disk '%s': %s", n->address,
                               text[0] ? text : "its server can't be reached");
}

static int greet(struct block_nbd *n, const struct patience *patience, struct error *err)
{
    int fd = wait_for_connection(n, patience, err);
    if (fd < 0)
        return fd;
    if (begin_greeting(n, fd) < 0)
        return error_set(err, EIO, "disk '%s': %s", n->address, nbd_library.nbd_get_error());
    while (!nbd_library.nbd_aio_is_ready(n->handle)) {
        int wait = next_wait(patience);
        if (wait == 0)
            return error_set(err, ETIMEDOUT, "disk '%s': its server says nothing: is it NBD's?",
                             n->address);
        if (nbd_library.nbd_poll(n->handle, wait) < 0 || nbd_library.nbd_aio_is_dead(n->handle) ||
            nbd_library.nbd_aio_is_closed(n->handle)) {
            const char *why = nbd_library.nbd_get_error();
            return error_set(err, EIO, "disk '%s': %s", n->address,
                             why ? why : "its server hung up");
        }
    }
    const char *why = look_at_export(n, true);
    return why ? error_set(err, EINVAL, "disk '%s': its server: %s", n->address, why) : 0;
}

int block_nbd_create(struct block_backend **backend, int control_fd, const char *address,
                     const struct block_file_config *config, const atomic_bool *cancelled,
                     struct error *err)
{
    const struct patience patience = {clock_monotonic_ns() + GREETING_LIMIT_MS * MS, cancelled};
    int rc = nbd_library_load(err);
    if (rc < 0)
        return rc;
    struct block_nbd *n = calloc(1, sizeof(*n));
    char *own = strdup(address);
    if (!n || !own) {
        free(own);
        free(n);
        return error_set(err, ENOMEM, "disk '%s': no memory", address);
    }
    *n = (struct block_nbd){.backend = {.ops = &nbd_ops,
                                        .logical_block_size = SECTOR,
                                        .physical_block_size = 4096,
                                        .read_only = config->read_only},
                            .address = own,
                            .cache = config->cache,
                            .control_fd = control_fd};
    rc = block_nbd_parse(address, &n->place, err);
    if (rc == 0)
        rc = greet(n, &patience, err);
    if (rc < 0) {
        drop(n);
        free(n->address);
        free(n);
        return rc;
    }
    *backend = &n->backend;
    return 0;
}
