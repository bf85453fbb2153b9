#include "migrate/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "migrate/channel_tls.h"

enum { DEFER_SECONDS = 5, CANCEL_POLL_MS = 50, SCHEME_LENGTH = 6 };

// ---- addresses ----

// Splits "HOST:PORT" or "[HOST]:PORT" in place; NULL when it isn't of that form.
static char *split_port(char *text, char **host)
{
    char *colon = strrchr(text, ':');
    if (!colon || !colon[1])
        return NULL;
    *colon = 0;
    *host = text;
    if (text[0] == '[') {
        size_t length = strlen(text);
        if (text[length - 1] != ']')
            return NULL;
        text[length - 1] = 0;
        *host = text + 1;
    }
    return colon + 1;
}

// Takes the interface off "fe80::1%2", which must be a number: to look a name up the C library
// makes a socket, and a machine that is shut in has none. False when it isn't one.
static bool take_scope(char *host, uint32_t *scope)
{
    char *percent = strchr(host, '%');
    uint64_t number = 0;
    *scope = 0;
    if (!percent)
        return true;
    *percent = 0;
    if (units_parse_number(percent + 1, UINT32_MAX, &number) != 0 || number == 0)
        return false;
    *scope = (uint32_t)number;
    return true;
}

static int parse(const char *text, bool for_listening, int flags, struct channel_address *address,
                 struct error *err)
{
    bool tls = strncmp(text, "tls://", SCHEME_LENGTH) == 0;
    char copy[sizeof(address->text)], *host = NULL;
    if (strlen(text) >= sizeof(copy))
        return error_set(err, EINVAL, "address '%.60s...': too long", text);
    if (!tls && strncmp(text, "tcp://", SCHEME_LENGTH) != 0)
        return error_set(err, EINVAL, "address '%s': write tcp://HOST:PORT or tls://HOST:PORT",
                         text);
    snprintf(copy, sizeof(copy), "%s", text + SCHEME_LENGTH);
    char *port = split_port(copy, &host);
    uint64_t number;
    if (!port)
        return error_set(err, EINVAL, "address '%s': write %.6sHOST:PORT", text, text);
    // getaddrinfo() takes larger ones, too, modulo 65536.
    if (units_parse_number(port, UINT16_MAX, &number) != 0)
        return error_set(err, EINVAL, "address '%s': '%s' is not a port from 0 to 65535", text,
                         port);
    uint32_t scope = 0;
    if ((flags & AI_NUMERICHOST) && !take_scope(host, &scope))
        return error_set(err, EINVAL, "address '%s': name the interface by its number", text);
    bool any = for_listening && (!host[0] || strcmp(host, "*") == 0);
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV | flags,
    };
    struct addrinfo *found;
    int rc = getaddrinfo(any ? NULL : host, port, &hints, &found);
    if (rc != 0)
        return error_set(err, EINVAL, "address '%s': %s", text, gai_strerror(rc));
    *address = (struct channel_address){.length = found->ai_addrlen, .tls = tls};
    memcpy(&address->address, found->ai_addr, found->ai_addrlen);
    snprintf(address->text, sizeof(address->text), "%s", text);
    freeaddrinfo(found);
    if (scope && address->address.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->address)->sin6_scope_id = scope;
    return 0;
}

int channel_address_parse(const char *text, bool for_listening, struct channel_address *address,
                          struct error *err)
{
    return parse(text, for_listening, for_listening ? AI_PASSIVE : 0, address, err);
}

int channel_address_parse_numeric(const char *text, struct channel_address *address,
                                  struct error *err)
{
    return parse(text, false, AI_NUMERICHOST, address, err);
}

void channel_address_format(const struct channel_address *address, char *out, size_t size)
{
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    getnameinfo((const struct sockaddr *)&address->address, address->length, host, sizeof(host),
                port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->address;
    char *percent = strchr(host, '%');
    if (percent && address->address.ss_family == AF_INET6)
        snprintf(percent + 1, sizeof(host) - (size_t)(percent + 1 - host), "%u", v6->sin6_scope_id);
    snprintf(out, size, strchr(host, ':') ? "%s://[%s]:%s" : "%s://%s:%s",
             address->tls ? "tls" : "tcp", host, port);
}

bool channel_address_is_loopback(const struct channel_address *address)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address->address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->address;
    if (address->address.ss_family == AF_INET)
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    return address->address.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

// Both families have the port at the same place (struct sockaddr_in and sockaddr_in6).
uint16_t channel_address_port(const struct channel_address *address)
{
    return ntohs(((const struct sockaddr_in *)&address->address)->sin_port);
}

void channel_address_set_port(struct channel_address *address, uint16_t port)
{
    ((struct sockaddr_in *)&address->address)->sin_port = htons(port);
}

int channel_listen(struct channel_address *address, struct error *err)
{
    int one = 1;
    int fd = socket(address->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "listening at '%s'", address->text);
    int patience = DEFER_SECONDS;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    // A connection that says nothing isn't handed over, so it can't keep one that does waiting.
    setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &patience, sizeof(patience));
    if (bind(fd, (struct sockaddr *)&address->address, address->length) < 0 || listen(fd, 32) < 0 ||
        getsockname(fd, (struct sockaddr *)&address->address, &address->length) < 0) {
        int code = errno;
        close(fd);
        return error_set_errno(err, code, "listening at '%s'", address->text);
    }
    return fd;
}

// ---- connections ----

void channel_adopt(struct channel *channel, int fd)
{
    int one = 1;
    *channel = (struct channel){.fd = fd};
    // Small frames end a round or a phase: each is waited for.
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

void channel_set_limit(struct channel *channel, uint64_t limit_ns)
{
    struct timeval limit = {.tv_sec = (time_t)(limit_ns / NSEC_PER_SEC),
                            .tv_usec = (suseconds_t)(limit_ns % NSEC_PER_SEC / NSEC_PER_USEC)};
    setsockopt(channel->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(channel->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

void channel_set_deadline(struct channel *channel, uint64_t limit_ns)
{
    channel->deadline_ns = limit_ns ? clock_monotonic_ns() + limit_ns : 0;
    if (channel->tls)
        channel_tls_set_deadline(channel->tls, channel->deadline_ns);
}

bool channel_has_input(const struct channel *channel)
{
    struct pollfd wanted = {.fd = channel->fd, .events = POLLIN};
    if (channel->tls && channel_tls_has_input(channel->tls))
        return true;
    return poll(&wanted, 1, 0) != 0;
}

static int wait_connected(int fd, uint64_t limit_ns, const atomic_bool *cancelled)
{
    struct pollfd wanted = {.fd = fd, .events = POLLOUT};
    uint64_t give_up = clock_monotonic_ns() + limit_ns;
    int code = 0, rc = 0;
    socklen_t size = sizeof(code);
    while (rc == 0) {
        if (cancelled && atomic_load(cancelled))
            return -ECANCELED;
        if (clock_monotonic_ns() >= give_up)
            return -ETIMEDOUT;
        rc = poll(&wanted, 1, CANCEL_POLL_MS);
        if (rc < 0 && errno != EINTR)
            return -errno;
    }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size);
    return -code;
}

int channel_check_socket(int fd, const struct channel_address *address, struct error *err)
{
    static const int options[] = {SO_DOMAIN, SO_TYPE, SO_PROTOCOL};
    const int wanted[] = {address->address.ss_family, SOCK_STREAM, IPPROTO_TCP};
    for (unsigned i = 0; i < 3; i++) {
        int value = -1;
        socklen_t size = sizeof(value);
        if (getsockopt(fd, SOL_SOCKET, options[i], &value, &size) < 0 || value != wanted[i])
            return error_set(err, EINVAL, "'%s' wants unconnected TCP sockets of IPv%d",
                             address->text, wanted[0] == AF_INET ? 4 : 6);
    }
    return 0;
}

int channel_renew_socket(int fd)
{
    const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    int code = 0;
    socklen_t size = sizeof(code);
    if (connect(fd, &nowhere, sizeof(nowhere)) < 0)
        return -errno;
    // The end of the last attempt would be taken for that of the next one.
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0 ? -errno : 0;
}

int channel_connect(struct channel *channel, int fd, const struct channel_address *address,
                    uint64_t limit_ns, const atomic_bool *cancelled, struct error *err)
{
    *channel = (struct channel){.fd = -1};
    if (fd < 0)
        fd = socket(address->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "connecting to '%s'", address->text);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int rc =
        connect(fd, (const struct sockaddr *)&address->address, address->length) < 0 ? -errno : 0;
    if (rc == -EINPROGRESS)
        rc = wait_connected(fd, limit_ns, cancelled);
    if (rc < 0) {
        close(fd);
        return error_set_errno(err, -rc, "connecting to '%s'", address->text);
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    channel_adopt(channel, fd);
    channel_set_limit(channel, limit_ns);
    return 0;
}

void channel_shutdown(struct channel *channel)
{
    if (channel->fd >= 0)
        shutdown(channel->fd, SHUT_RDWR);
}

void channel_close(struct channel *channel)
{
    channel_tls_close(channel->tls);
    channel->tls = NULL;
    if (channel->fd >= 0)
        close(channel->fd);
    channel->fd = -1;
}

int channel_secure(struct channel *channel, const struct tls_credentials *credentials, bool server,
                   const char *peer_name, struct error *err)
{
    return channel_tls_open(&channel->tls, channel->fd, credentials, server, peer_name,
                            channel->deadline_ns, err);
}

int channel_check_peer(const struct channel *channel, const char *wanted, struct error *err)
{
    struct tls_subject subject = {.name = ""};
    if (channel->tls && channel_tls_subject(channel->tls, &subject) &&
        tls_subject_is(&subject, wanted))
        return 0;
    return error_set(
        err, EACCES,
        "TLS: the other side's certificate is refused: it is that of '%s', and not the "
        "one that is expected here (%s); a host that was removed from the cluster has "
        "none that is",
        subject.name, wanted);
}

// ---- bytes ----

static int time_out(int code)
{
    return code == EAGAIN || code == EWOULDBLOCK ? -ETIMEDOUT : -code;
}

int channel_socket_send(int fd, struct iovec *iov, unsigned count)
{
    while (count > 0) {
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return time_out(errno);
        while (count > 0 && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int channel_send(struct channel *channel, struct iovec *iov, unsigned count)
{
    return channel->tls ? channel_tls_send(channel->tls, iov, count)
                        : channel_socket_send(channel->fd, iov, count);
}

ssize_t channel_socket_receive(int fd, void *out, size_t length, int flags, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = deadline_ns ? clock_monotonic_ns() : 0;
        if (deadline_ns && now >= deadline_ns)
            return -ETIMEDOUT;
        // What is left until the deadline becomes the limit of the next call.
        if (deadline_ns)
            channel_set_limit(&(struct channel){.fd = fd}, deadline_ns - now + NSEC_PER_MSEC);
        ssize_t n = recv(fd, out, length, flags);
        if (n < 0 && errno == EINTR)
            continue;
        return n < 0 ? time_out(errno) : n;
    }
}

int channel_receive(struct channel *channel, void *out, size_t length)
{
    uint8_t *p = out;
    while (length > 0) {
        ssize_t n = channel->tls ? channel_tls_receive(channel->tls, p, length)
                                 : channel_socket_receive(channel->fd, p, length, MSG_WAITALL,
                                                          channel->deadline_ns);
        if (n <= 0)
            return n < 0 ? (int)n : -ECONNRESET;
        p += n;
        length -= (size_t)n;
    }
    return 0;
}

void channel_send_garbage(struct channel *channel)
{
    uint8_t noise[64];
    struct iovec iov = {noise, sizeof(noise)};
    memset(noise, 0xff, sizeof(noise));
    if (channel->fd >= 0)
        channel_send(channel, &iov, 1);
}

int channel_exchange_error(int code, const char *doing, struct error *err)
{
    switch (-code) {
    case EMSGSIZE:
        return error_set(err, EMSGSIZE,
                         "%s: it sent a message longer than any that may come here: what is there "
                         "isn't ferry, or the link damages what it carries",
                         doing);
    case ECONNRESET:
    case EPIPE:
        return error_set(err, -code,
                         "%s: it closed the connection, or something on the way did (%s): see what "
                         "ferry says there",
                         doing, strerror(-code));
    case ETIMEDOUT:
        return error_set(err, ETIMEDOUT,
                         "%s: nothing came or went in time: look whether that host and the link "
                         "to it are well",
                         doing);
    case EPROTO:
        return error_set(err, EPROTO,
                         "%s: it sent what is no TLS of this connection: the link damages what it "
                         "carries, or somebody meddles with it",
                         doing);
    case EKEYREJECTED:
        return error_set(err, EKEYREJECTED,
                         "%s: it ended the TLS connection, as it doesn't take this side's "
                         "certificate perhaps: see what ferry says there",
                         doing);
    default:
        return error_set_errno(err, -code, "%s", doing);
    }
}

// ---- frames ----

int channel_send_frame(struct channel *channel, uint32_t type, const struct byte_writer *contents)
{
    size_t length = contents ? contents->length : 0;
    if (contents && contents->failed)
        return -ENOMEM;
    if (length > UINT32_MAX)
        return -EMSGSIZE;
    uint8_t header[FRAME_HEADER_SIZE];
    bytes_put_u32(header, type);
    bytes_put_u32(header + 4, (uint32_t)length);
    struct iovec iov[2] = {{header, sizeof(header)}, {contents ? contents->data : NULL, length}};
    return channel_send(channel, iov, length ? 2 : 1);
}

int channel_receive_header(struct channel *channel, uint32_t *type, uint32_t *length)
{
    uint8_t header[FRAME_HEADER_SIZE];
    int rc = channel_receive(channel, header, sizeof(header));
    *type = rc == 0 ? bytes_get_u32(header) : 0;
    *length = rc == 0 ? bytes_get_u32(header + 4) : 0;
    return rc;
}

int channel_receive_frame(struct channel *channel, size_t limit, uint32_t *type,
                          struct byte_writer *buffer)
{
    uint32_t length;
    byte_writer_reset(buffer);
    int rc = channel_receive_header(channel, type, &length);
    if (rc < 0)
        return rc;
    if (length > limit)
        return -EMSGSIZE;
    if (length == 0)
        return 0;
    uint8_t *room = byte_writer_reserve(buffer, length);
    if (!room)
        return -ENOMEM;
    return channel_receive(channel, room, length);
}
