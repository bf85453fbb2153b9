#include "devices/net/net_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

enum {
    LENGTH_SIZE = 4,
    FRAME_SIZE = LENGTH_SIZE + NET_FRAME_LIMIT,
    INPUT_SIZE = 2 * FRAME_SIZE,
    SOCKET_BUFFER = 1 << 20, // so that a burst isn't dropped
};

struct net_stream {
    struct net_backend backend; // first
    char name[24];
    int epoll_fd;              // what virtio-net watches: both sockets are in it
    int control_fd, stream_fd; // -1 without a helper, without a connection
    bool waits_to_write;
    uint8_t *input; // INPUT_SIZE: bytes from input_start up to input_end
    uint32_t input_start, input_end;
    uint8_t *output; // FRAME_SIZE: the rest of a frame that the socket took in part
    uint32_t output_start, output_end;
};

static struct net_stream *from_backend(struct net_backend *backend)
{
    return (struct net_stream *)backend; // its first member
}

static void watch(struct net_stream *s, int fd, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(s->epoll_fd, operation, fd, &event);
}

static void drop_connection(struct net_stream *s)
{
    if (s->stream_fd < 0)
        return;
    watch(s, s->stream_fd, EPOLL_CTL_DEL, 0);
    shutdown(s->stream_fd, SHUT_RDWR); // whoever gave it has a copy, and shall see the end
    close(s->stream_fd);
    s->stream_fd = -1;
    s->input_start = s->input_end = s->output_start = s->output_end = 0;
    s->waits_to_write = false;
}

// Whether there is a connection, and no half-sent frame before the next one.
static bool flush(struct net_stream *s)
{
    while (s->stream_fd >= 0 && s->output_start < s->output_end) {
        ssize_t n = send(s->stream_fd, s->output + s->output_start, s->output_end - s->output_start,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            drop_connection(s);
        if (n < 0)
            break;
        s->output_start += (uint32_t)n;
    }
    bool waits = s->output_start < s->output_end;
    if (s->stream_fd >= 0 && waits != s->waits_to_write) {
        watch(s, s->stream_fd, EPOLL_CTL_MOD, EPOLLIN | (waits ? EPOLLOUT : 0));
        s->waits_to_write = waits;
    }
    return s->stream_fd >= 0 && !waits;
}

// Takes a new connection, or what is said of its lack.
static void take_control(struct net_stream *s)
{
    char text[NET_STREAM_TEXT];
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {text, sizeof(text) - 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &extra, .msg_controllen = sizeof(extra)};
    if (s->control_fd < 0)
        return;
    ssize_t n = recvmsg(s->control_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return;
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (n == 0) { // nobody will bring another one
        close(s->control_fd);
        s->control_fd = -1;
        log_warning("%s: its helper process is gone: it stays without a network once this "
                    "connection ends",
                    s->name);
        return;
    }
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof(int))) {
        text[n] = 0;
        log_warning("%s: %s", s->name, text);
        return;
    }
    drop_connection(s);
    int size = SOCKET_BUFFER;
    memcpy(&s->stream_fd, CMSG_DATA(c), sizeof(int));
    setsockopt(s->stream_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    watch(s, s->stream_fd, EPOLL_CTL_ADD, EPOLLIN);
    log_info("%s: connected", s->name);
}

static int stream_receive_fd(struct net_backend *backend, unsigned queue)
{
    return from_backend(backend)->epoll_fd;
}

// Length of the whole frame at the start of the input; 0 when it isn't all there.
static uint32_t next_frame(struct net_stream *s)
{
    uint32_t there = s->input_end - s->input_start;
    const uint8_t *p = s->input + s->input_start;
    if (there < LENGTH_SIZE)
        return 0;
    uint32_t length = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    if (length == 0 || length > NET_FRAME_LIMIT) {
        log_warning("%s: the other end sent a frame of %u bytes: hung up", s->name, length);
        drop_connection(s);
        return 0;
    }
    return there - LENGTH_SIZE >= length ? length : 0;
}

// Reads what there is. False when there was nothing.
static bool fill(struct net_stream *s)
{
    if (s->stream_fd < 0)
        return false;
    memmove(s->input, s->input + s->input_start, s->input_end - s->input_start);
    s->input_end -= s->input_start;
    s->input_start = 0;
    ssize_t n;
    do
        n = recv(s->stream_fd, s->input + s->input_end, INPUT_SIZE - s->input_end, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        log_info("%s: the other end hung up", s->name);
        drop_connection(s);
    }
    if (n <= 0)
        return false;
    s->input_end += (uint32_t)n;
    return true;
}

static ssize_t stream_receive(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                              unsigned count)
{
    static const uint8_t header[NET_HEADER_SIZE];
    struct net_stream *s = from_backend(backend);
    uint32_t length;
    while (!(length = next_frame(s))) {
        if (fill(s))
            continue;
        flush(s);
        take_control(s); // rarely anything: so it's looked at last
        return -EAGAIN;
    }
    // Header and frame into the iovecs; what doesn't fit is cut.
    const uint8_t *frame = s->input + s->input_start + LENGTH_SIZE;
    size_t done = 0, whole = NET_HEADER_SIZE + length;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *to = iov[i].iov_base;
        for (size_t left = iov[i].iov_len; left > 0 && done < whole;) {
            bool in_header = done < NET_HEADER_SIZE;
            size_t piece = in_header ? NET_HEADER_SIZE - done : whole - done;
            piece = piece < left ? piece : left;
            memcpy(to, in_header ? header + done : frame + (done - NET_HEADER_SIZE), piece);
            to += piece;
            left -= piece;
            done += piece;
        }
    }
    s->input_start += LENGTH_SIZE + length;
    return (ssize_t)done;
}

// Keeps what the socket didn't take of a frame whose first `gone` bytes went.
static void keep_rest(struct net_stream *s, const struct iovec *iov, unsigned count, size_t gone)
{
    s->output_start = s->output_end = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t skip = gone < iov[i].iov_len ? gone : iov[i].iov_len;
        gone -= skip;
        memcpy(s->output + s->output_end, (const uint8_t *)iov[i].iov_base + skip,
               iov[i].iov_len - skip);
        s->output_end += (uint32_t)(iov[i].iov_len - skip);
    }
}

// iov[0] is the header, whole, which nobody on this wire wants; the length takes its place.
static ssize_t stream_send(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                           unsigned count)
{
    struct net_stream *s = from_backend(backend);
    struct iovec parts[300];
    uint8_t bytes[LENGTH_SIZE];
    size_t length = 0;
    if (!flush(s))
        return -EAGAIN;
    if (count > sizeof(parts) / sizeof(parts[0]) || iov[0].iov_len != NET_HEADER_SIZE)
        return -EINVAL;
    memcpy(parts, iov, count * sizeof(parts[0]));
    for (unsigned i = 1; i < count; i++)
        length += iov[i].iov_len;
    for (unsigned i = 0; i < LENGTH_SIZE; i++)
        bytes[i] = (uint8_t)(length >> (8 * (LENGTH_SIZE - 1 - i)));
    parts[0] = (struct iovec){bytes, LENGTH_SIZE};
    const struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    ssize_t n;
    do
        n = sendmsg(s->stream_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        int code = errno;
        if (code != EAGAIN)
            drop_connection(s);
        return -code;
    }
    if ((size_t)n < LENGTH_SIZE + length) {
        keep_rest(s, parts, count, (size_t)n);
        flush(s);
    }
    return n;
}

static int stream_set_receive_offloads(struct net_backend *backend, unsigned offloads)
{
    return offloads ? -ENOTSUP : 0;
}

static void stream_destroy(struct net_backend *backend)
{
    struct net_stream *s = from_backend(backend);
    drop_connection(s);
    if (s->control_fd >= 0)
        close(s->control_fd);
    close(s->epoll_fd);
    free(s->input);
    free(s->output);
    free(s);
}

static const struct net_backend_ops stream_ops = {
    .receive_fd = stream_receive_fd,
    .receive = stream_receive,
    .send = stream_send,
    .set_receive_offloads = stream_set_receive_offloads,
    .destroy = stream_destroy,
};

static bool is_control(int fd)
{
    int type = -1;
    socklen_t size = sizeof(type);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

int net_stream_create(struct net_backend **backend, int control_fd, const char *name,
                      struct error *err)
{
    if (!is_control(control_fd))
        return error_set(err, EINVAL,
                         "network '%s': its descriptor must be a socket of messages "
                         "(SOCK_SEQPACKET), by which connections come",
                         name);
    struct net_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, ENOMEM, "network '%s': no memory", name);
    s->backend.ops = &stream_ops;
    s->backend.queue_pairs = 1;
    s->stream_fd = -1;
    s->control_fd = control_fd;
    snprintf(s->name, sizeof(s->name), "%s", name);
    s->input = malloc(INPUT_SIZE);
    s->output = malloc(FRAME_SIZE);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!s->input || !s->output || s->epoll_fd < 0) {
        if (s->epoll_fd >= 0)
            close(s->epoll_fd);
        free(s->input);
        free(s->output);
        free(s);
        return error_set(err, ENOMEM, "network '%s': no memory", name);
    }
    watch(s, control_fd, EPOLL_CTL_ADD, EPOLLIN);
    *backend = &s->backend;
    return 0;
}
