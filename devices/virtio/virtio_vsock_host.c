// The host's half of vsock: Unix sockets.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/virtio_vsock_parts.h"

// Connections

static unsigned bucket_of(uint32_t host_port, uint32_t guest_port)
{
    return (host_port * 31 + guest_port) % VSOCK_BUCKETS;
}

struct vsock_connection *vsock_connection_find(struct vsock *v, uint32_t host_port,
                                               uint32_t guest_port)
{
    struct vsock_connection *c = v->buckets[bucket_of(host_port, guest_port)];
    while (c && (c->host_port != host_port || c->guest_port != guest_port))
        c = c->next;
    return c;
}

struct vsock_connection *vsock_connection_new(struct vsock *v, enum vsock_state state, int fd,
                                              uint32_t host_port, uint32_t guest_port)
{
    unsigned count = atomic_load_explicit(&v->count, memory_order_relaxed);
    struct vsock_connection *c = count < VIRTIO_VSOCK_CONNECTIONS ? calloc(1, sizeof(*c)) : NULL;
    if (!c)
        return NULL;
    struct vsock_connection **bucket = &v->buckets[bucket_of(host_port, guest_port)];
    c->vsock = v;
    c->state = state;
    c->fd = fd;
    c->host_port = host_port;
    c->guest_port = guest_port;
    c->next = *bucket;
    *bucket = c;
    atomic_store_explicit(&v->count, count + 1, memory_order_relaxed);
    return c;
}

static void unlink_from_bucket(struct vsock_connection *c)
{
    struct vsock_connection **link = &c->vsock->buckets[bucket_of(c->host_port, c->guest_port)];
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
}

static void unlink_from_ready(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    struct vsock_connection **link = &v->ready;
    if (!c->is_ready)
        return;
    while (*link != c)
        link = &(*link)->next_ready;
    *link = c->next_ready;
    if (v->ready_end == &c->next_ready)
        v->ready_end = link;
}

void vsock_connection_free(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    unsigned count = atomic_load_explicit(&v->count, memory_order_relaxed);
    unlink_from_bucket(c);
    unlink_from_ready(c);
    io_thread_unwatch(c->watch);
    if (c->fd >= 0)
        close(c->fd);
    free(c->kept);
    free(c);
    atomic_store_explicit(&v->count, count - 1, memory_order_relaxed);
    if (count == VIRTIO_VSOCK_CONNECTIONS && v->listen_watch)
        io_watch_resume(v->listen_watch); // there is room again
}

// Sending to the host

// Accounts for bytes that the host's socket took.
static void count_forwarded(struct vsock_connection *c, uint32_t bytes)
{
    c->forwarded += bytes;
    // The guest hears of it before it has used up what it was told.
    if (c->forwarded - c->forwarded_told >= VSOCK_BUFFER / 2)
        vsock_tell(c, VSOCK_CREDIT_UPDATE);
}

static ssize_t send_parts(int fd, const struct iovec *iov, unsigned count)
{
    const struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
    ssize_t n;
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static bool keep(struct vsock_connection *c, const struct iovec *iov, unsigned count, size_t skip)
{
    if (!c->kept)
        c->kept = malloc(VSOCK_BUFFER);
    if (!c->kept)
        return false;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *from = iov[i].iov_base;
        size_t left = iov[i].iov_len;
        size_t jump = skip < left ? skip : left;
        from += jump;
        left -= jump;
        skip -= jump;
        while (left > 0) {
            uint32_t at = (c->kept_start + c->kept_length) % VSOCK_BUFFER;
            size_t piece = VSOCK_BUFFER - at < left ? VSOCK_BUFFER - at : left;
            memcpy(c->kept + at, from, piece);
            c->kept_length += (uint32_t)piece;
            from += piece;
            left -= piece;
        }
    }
    return true;
}

bool vsock_host_send(struct vsock_connection *c, const struct iovec *iov, unsigned count,
                     uint32_t length)
{
    ssize_t n = c->kept_length ? 0 : send_parts(c->fd, iov, count);
    if (n < 0 && n != -EAGAIN)
        return false;
    uint32_t gone = n < 0 ? 0 : (uint32_t)n;
    count_forwarded(c, gone);
    if (gone == length)
        return true;
    return keep(c, iov, count, gone) && vsock_connection_watch(c) == 0;
}

// Hands on what was kept. False when the socket is closed.
static bool flush(struct vsock_connection *c)
{
    while (c->kept_length > 0) {
        uint32_t piece = VSOCK_BUFFER - c->kept_start;
        const struct iovec part = {c->kept + c->kept_start,
                                   piece < c->kept_length ? piece : c->kept_length};
        ssize_t n = send_parts(c->fd, &part, 1);
        if (n == -EAGAIN)
            return true;
        if (n < 0)
            return false;
        c->kept_start = (c->kept_start + (uint32_t)n) % VSOCK_BUFFER;
        c->kept_length -= (uint32_t)n;
        count_forwarded(c, (uint32_t)n);
    }
    free(c->kept); // a slow reader is the exception: its buffer isn't kept for all
    c->kept = NULL;
    c->kept_start = 0;
    return true;
}

void vsock_host_shutdown(struct vsock_connection *c)
{
    if (c->fd < 0 || c->kept_length > 0)
        return; // later
    if ((c->guest_shutdown & VSOCK_NO_SEND) && (c->guest_shutdown & VSOCK_NO_RECEIVE)) {
        vsock_tell(c, VSOCK_RST); // all is said: the connection ends (5.10.6.5)
        return;
    }
    if (c->guest_shutdown & VSOCK_NO_SEND)
        shutdown(c->fd, SHUT_WR);
    if (c->guest_shutdown & VSOCK_NO_RECEIVE)
        shutdown(c->fd, SHUT_RD);
}

void vsock_host_accepted(struct vsock_connection *c)
{
    char line[32];
    int length = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    const struct iovec part = {line, (size_t)length};
    c->state = VSOCK_OPEN;
    // A client that reads nothing has room for this; one that doesn't is none.
    if (send_parts(c->fd, &part, 1) != length || vsock_connection_watch(c) < 0)
        vsock_tell(c, VSOCK_RST);
}

// Host clients

// Reads the line "CONNECT PORT\n", byte by byte, as what is behind it is the guest's. True when the
// connection goes on.
static bool greet(struct vsock_connection *c)
{
    for (;;) {
        char byte;
        ssize_t n = read(c->fd, &byte, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        if (n == 0)
            return false;
        if (byte == '\n')
            break;
        if (c->line_length == VSOCK_LINE - 1)
            return false;
        c->line[c->line_length++] = byte;
    }
    unsigned long port;
    char rest;
    c->line[c->line_length] = 0;
    if (strspn(c->line + (c->line_length < 8 ? 0 : 8), "0123456789") == 0 ||
        sscanf(c->line, "CONNECT %10lu%c", &port, &rest) != 1 || port >= UINT32_MAX ||
        vsock_connection_find(c->vsock, c->host_port, (uint32_t)port))
        return false;
    // Its place in the table changes with the port.
    unlink_from_bucket(c);
    c->guest_port = (uint32_t)port;
    struct vsock_connection **bucket = &c->vsock->buckets[bucket_of(c->host_port, c->guest_port)];
    c->next = *bucket;
    *bucket = c;
    c->state = VSOCK_ASKED;
    vsock_tell(c, VSOCK_REQUEST);
    return true;
}

static void serve_connection(struct vsock_connection *c)
{
    if (c->state == VSOCK_GREETING) {
        if (!greet(c) || vsock_connection_watch(c) < 0)
            vsock_connection_free(c);
        return;
    }
    if (c->kept_length > 0) {
        if (!flush(c))
            vsock_tell(c, VSOCK_RST);
        else if (c->kept_length == 0 && c->guest_shutdown)
            vsock_host_shutdown(c);
    }
    c->readable = true; // perhaps: reading tells
    if (c->state == VSOCK_OPEN)
        vsock_make_ready(c);
    if (vsock_connection_watch(c) < 0)
        vsock_tell(c, VSOCK_RST);
}

static void connection_fired(void *opaque)
{
    struct vsock_connection *c = opaque;
    struct vsock *v = c->vsock;
    serve_connection(c);
    if (vsock_serve_receive(v))
        virtio_queue_ring(&v->virtio.queues[VSOCK_RECEIVE]);
}

int vsock_connection_watch(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    if (c->fd < 0)
        return 0;
    bool reads =
        c->state == VSOCK_GREETING || (c->state == VSOCK_OPEN && !c->readable && !c->host_ended &&
                                       !(c->guest_shutdown & VSOCK_NO_RECEIVE));
    bool writes = c->kept_length > 0;
    if (c->tell >> VSOCK_RST & 1)
        reads = writes = false; // a hang-up would call for ever
    if (!c->watch) {
        int rc = io_thread_watch(v->virtio.io_thread, c->fd, connection_fired, c, &c->watch);
        if (rc < 0)
            return rc;
    }
    io_watch_want(c->watch, reads, writes);
    return 0;
}

// A port of the host's for a client: any that isn't in use with this guest.
static uint32_t choose_port(struct vsock *v)
{
    do
        v->next_port = (UINT32_C(1) << 30) | ((v->next_port + 1) & 0x3fffffff);
    while (vsock_connection_find(v, v->next_port, 0));
    return v->next_port;
}

static void client_came(void *opaque)
{
    struct vsock *v = opaque;
    if (atomic_load_explicit(&v->count, memory_order_relaxed) >= VIRTIO_VSOCK_CONNECTIONS) {
        io_watch_pause(v->listen_watch); // clients wait in the socket's queue
        return;
    }
    int fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    // Until it has said which port it wants it stands under port 0, which no guest has.
    struct vsock_connection *c = vsock_connection_new(v, VSOCK_GREETING, fd, choose_port(v), 0);
    if (!c)
        close(fd);
    else if (vsock_connection_watch(c) < 0)
        vsock_connection_free(c);
}

// Guest clients

bool vsock_host_connect(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    c->id = v->next_id++;
    const struct virtio_vsock_connect request = {.id = c->id, .port = c->host_port};
    if (v->connector_fd < 0)
        return false;
    return send(v->connector_fd, &request, sizeof(request), MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)sizeof(request);
}

static struct vsock_connection *find_asked(struct vsock *v, uint32_t id)
{
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        for (struct vsock_connection *c = v->buckets[i]; c; c = c->next)
            if (c->state == VSOCK_CONNECTING && c->id == id)
                return c;
    return NULL;
}

static void take_answer(struct vsock *v, const struct virtio_vsock_connected *answer, int fd)
{
    struct vsock_connection *c = find_asked(v, answer->id);
    if (!c) { // the guest has given up meanwhile
        if (fd >= 0)
            close(fd);
        return;
    }
    c->fd = fd;
    if (fd < 0) {
        vsock_tell(c, VSOCK_RST);
        return;
    }
    c->state = VSOCK_OPEN;
    if (vsock_connection_watch(c) < 0)
        vsock_tell(c, VSOCK_RST);
    else
        vsock_tell(c, VSOCK_RESPONSE);
}

// Nobody can connect any more: those that wait are refused.
static void connector_gone(struct vsock *v)
{
    io_thread_unwatch(v->connector_watch);
    v->connector_watch = NULL;
    close(v->connector_fd);
    v->connector_fd = -1;
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        for (struct vsock_connection *c = v->buckets[i]; c; c = c->next)
            if (c->state == VSOCK_CONNECTING)
                vsock_tell(c, VSOCK_RST);
}

static void connector_answered(void *opaque)
{
    struct vsock *v = opaque;
    struct virtio_vsock_connected answer = {0};
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {&answer, sizeof(answer)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof(extra)};
    ssize_t n = recvmsg(v->connector_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof(answer)) {
        connector_gone(v);
    } else {
        int fd = -1;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        take_answer(v, &answer, fd);
    }
    if (vsock_serve_receive(v))
        virtio_queue_ring(&v->virtio.queues[VSOCK_RECEIVE]);
}

// Life

int vsock_host_start(struct vsock *v)
{
    struct io_thread *thread = v->virtio.io_thread;
    int rc = 0;
    if (v->listen_fd >= 0)
        rc = io_thread_watch(thread, v->listen_fd, client_came, v, &v->listen_watch);
    if (rc == 0 && v->connector_fd >= 0)
        rc = io_thread_watch(thread, v->connector_fd, connector_answered, v, &v->connector_watch);
    for (unsigned i = 0; i < VSOCK_BUCKETS && rc == 0; i++)
        for (struct vsock_connection *c = v->buckets[i]; c && rc == 0; c = c->next)
            rc = vsock_connection_watch(c);
    return rc;
}

void vsock_host_stop(struct vsock *v)
{
    io_thread_unwatch(v->listen_watch);
    io_thread_unwatch(v->connector_watch);
    v->listen_watch = v->connector_watch = NULL;
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++) {
        for (struct vsock_connection *c = v->buckets[i]; c; c = c->next) {
            io_thread_unwatch(c->watch);
            c->watch = NULL;
        }
    }
}
