#include "base/tls_stream.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

struct tls_stream {
    int fd;
    gnutls_session_t session;
    char fault[TLS_FAILURE_SIZE];
};

bool tls_stream_address(const char *address, char host[TLS_STREAM_HOST_SIZE],
                        char port[TLS_STREAM_PORT_SIZE])
{
    const char *colon = strrchr(address, ':'), *begin = address, *end = colon;
    if (!colon || !colon[1] || strlen(colon + 1) >= TLS_STREAM_PORT_SIZE)
        return false;
    if (*begin == '[') {
        if (colon[-1] != ']')
            return false;
        begin++;
        end--;
    }
    if (end <= begin || end - begin >= TLS_STREAM_HOST_SIZE)
        return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = 0;
    strcpy(port, colon + 1);
    return true;
}

// 0, -ETIMEDOUT.
static int wait_ready(int fd, short events, uint64_t deadline)
{
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        int wait_ms = -1;
        if (deadline != UINT64_MAX) {
            uint64_t left = now < deadline ? (deadline - now) / NSEC_PER_MSEC + 1 : 0;
            wait_ms = left > 60000 ? 60000 : (int)left;
        }
        int n = poll(&(struct pollfd){.fd = fd, .events = events}, 1, wait_ms);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0 && clock_monotonic_ns() >= deadline)
            return -ETIMEDOUT;
    }
}

static int connect_one(struct tls_stream *stream, const struct addrinfo *to, uint64_t deadline)
{
    int error = 0, one = 1;
    socklen_t size = sizeof(error);
    stream->fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (stream->fd < 0)
        return -errno;
    int r = connect(stream->fd, to->ai_addr, to->ai_addrlen) == 0 ? 0 : -errno;
    if (r == -EINPROGRESS) {
        r = wait_ready(stream->fd, POLLOUT, deadline);
        if (!r && getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0)
            r = -error;
    }
    if (r) {
        close(stream->fd);
        stream->fd = -1;
        return r;
    }
    setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(stream->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    return 0;
}

static int connect_any(struct tls_stream *stream, const char *host, const char *port,
                       uint64_t deadline, struct error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, port, &hints, &found), r = -EHOSTUNREACH;
    if (code)
        return error_set(err, EHOSTUNREACH, "%s:%s: %s", host, port, gai_strerror(code));
    for (const struct addrinfo *one = found; one && r; one = one->ai_next)
        r = connect_one(stream, one, deadline);
    freeaddrinfo(found);
    return r ? error_set_errno(err, -r, "%s:%s: no connection", host, port) : 0;
}

static bool is_again(ssize_t code)
{
    return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED ||
           code == GNUTLS_E_WARNING_ALERT_RECEIVED;
}

static int await_io(struct tls_stream *stream, uint64_t deadline)
{
    return wait_ready(stream->fd, gnutls_record_get_direction(stream->session) ? POLLOUT : POLLIN,
                      deadline);
}

static int failed(struct tls_stream *stream, ssize_t code)
{
    tls_describe_failure(stream->session, (int)code, stream->fault);
    return -EPROTO;
}

static int shake_hands(struct tls_stream *stream, uint64_t deadline)
{
    for (;;) {
        int code = gnutls_handshake(stream->session);
        if (code == GNUTLS_E_SUCCESS)
            return 0;
        if (!is_again(code)) {
            gnutls_alert_send_appropriate(stream->session, code);
            return failed(stream, code);
        }
        int r = await_io(stream, deadline);
        if (r)
            return r;
    }
}

int tls_stream_dial(struct tls_stream **out, const char *host, const char *port,
                    const struct tls_credentials *credentials, const char *protocol,
                    uint64_t deadline_ns, struct error *err)
{
    struct tls_stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return error_set(err, ENOMEM, "out of memory");
    stream->fd = -1;
    int r = connect_any(stream, host, port, deadline_ns, err);
    if (!r && tls_session_open(&stream->session, credentials, false, GNUTLS_NONBLOCK, NULL)) {
        stream->session = NULL;
        r = error_set(err, ENOMEM, "TLS: out of memory");
    }
    if (r) {
        tls_stream_close(stream);
        return r;
    }
    gnutls_transport_set_int2(stream->session, stream->fd, stream->fd);
    tls_session_offer(stream->session, &protocol, 1);
    r = shake_hands(stream, deadline_ns);
    if (r == -EPROTO)
        error_set(err, EPROTO, "%s:%s: TLS: %s", host, port, stream->fault);
    else if (r)
        error_set_errno(err, -r, "%s:%s: TLS", host, port);
    else if (!tls_session_speaks(stream->session, protocol))
        r = error_set(
            err, EPROTO,
            "%s:%s: what listens there doesn't speak '%s': it isn't a ferryd's address for "
            "clients (`ferry cluster hosts`), or of an older one",
            host, port, protocol);
    if (r)
        tls_stream_close(stream);
    else
        *out = stream;
    return r;
}

void tls_stream_close(struct tls_stream *stream)
{
    if (!stream)
        return;
    if (stream->session)
        gnutls_deinit(stream->session);
    if (stream->fd >= 0)
        close(stream->fd);
    free(stream);
}

ssize_t tls_stream_read(struct tls_stream *stream, void *bytes, size_t length, uint64_t deadline_ns)
{
    for (;;) {
        ssize_t n = gnutls_record_recv(stream->session, bytes, length);
        if (n >= 0)
            return n;
        if (n == GNUTLS_E_PREMATURE_TERMINATION)
            return 0; // ferry's own framing says whether something is missing
        if (n == GNUTLS_E_PULL_ERROR)
            return -ECONNRESET;
        if (!is_again(n))
            return failed(stream, n);
        int r = await_io(stream, deadline_ns);
        if (r)
            return r;
    }
}

int tls_stream_write(struct tls_stream *stream, const void *bytes, size_t length,
                     uint64_t deadline_ns)
{
    const char *at = bytes;
    while (length) {
        ssize_t n = gnutls_record_send(stream->session, at, length);
        if (n == GNUTLS_E_PUSH_ERROR)
            return -ECONNRESET;
        if (n < 0 && !is_again(n))
            return failed(stream, n);
        if (n < 0) {
            int r = await_io(stream, deadline_ns);
            if (r)
                return r;
            continue;
        }
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

const char *tls_stream_fault(const struct tls_stream *stream)
{
    return stream->fault;
}

int tls_stream_descriptor(const struct tls_stream *stream)
{
    return stream->fd;
}

bool tls_stream_has_more(const struct tls_stream *stream)
{
    return gnutls_record_check_pending(stream->session) > 0;
}
