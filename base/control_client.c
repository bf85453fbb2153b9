#include "base/control_client.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/control_server.h"
#include "base/local_socket.h"
#include "base/tls_stream.h"

enum { FDS_IN_REQUEST = CONTROL_FDS_IN_MESSAGE };

struct control_client {
    int fd;
    struct tls_stream *stream; // instead of fd
    const char *peer;          // what is at the other end, for people
    char *input;
    size_t length, capacity;
    json_t *features; // of the server's hello
    json_t *events;   // array of those that came while an answer was awaited
    json_int_t last_id;
};

static uint64_t limit_after(int timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX
                          : clock_monotonic_ns() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
}

// Waits until the socket is ready for `events` (POLLIN, POLLOUT). 0, -ETIMEDOUT.
static int wait_ready(const struct control_client *client, short events, uint64_t limit)
{
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        int wait_ms = -1;
        if (limit != UINT64_MAX)
            wait_ms = now < limit ? (int)((limit - now) / NSEC_PER_MSEC + 1) : 0;
        struct pollfd state = {.fd = client->fd, .events = events};
        int n = poll(&state, 1, wait_ms);
        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

static int receive_more(struct control_client *client, uint64_t limit)
{
    if (client->length == client->capacity) {
        size_t capacity = client->capacity ? client->capacity * 2 : 4096;
        if (capacity > (size_t)4 * CONTROL_LINE_LIMIT)
            return -EMSGSIZE;
        char *grown = realloc(client->input, capacity);
        if (!grown)
            return -ENOMEM;
        client->input = grown;
        client->capacity = capacity;
    }
    if (client->stream) {
        ssize_t n = tls_stream_read(client->stream, client->input + client->length,
                                    client->capacity - client->length, limit);
        client->length += n > 0 ? (size_t)n : 0;
        return n > 0 ? 0 : n == 0 ? -ECONNRESET : (int)n;
    }
    int r = wait_ready(client, POLLIN, limit);
    if (r)
        return r;
    ssize_t n = recv(client->fd, client->input + client->length, client->capacity - client->length,
                     MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    client->length += (size_t)n;
    return 0;
}

// The next line, as an object.
static int next_message(struct control_client *client, uint64_t limit, json_t **message)
{
    size_t scanned = 0;
    for (;;) {
        char *newline = client->length > scanned
                            ? memchr(client->input + scanned, '\n', client->length - scanned)
                            : NULL;
        if (newline) {
            size_t line = (size_t)(newline - client->input);
            *message = json_loadb(client->input, line, 0, NULL);
            client->length -= line + 1;
            memmove(client->input, newline + 1, client->length);
            return json_is_object(*message) ? 0 : -EPROTO;
        }
        scanned = client->length;
        int r = receive_more(client, limit);
        if (r)
            return r;
    }
}

static int describe(const struct control_client *client, int code, struct error *err)
{
    switch (-code) {
    case ETIMEDOUT:
        return error_set(err, ETIMEDOUT, "%s doesn't answer", client->peer);
    case ECONNRESET:
    case EPIPE:
        return client->stream ? error_set(err, ECONNRESET, "%s closed the connection", client->peer)
                              : error_set(err, ECONNRESET, "%s's process has ended", client->peer);
    case EPROTO:
        if (client->stream && tls_stream_fault(client->stream)[0])
            return error_set(err, EPROTO, "TLS: %s", tls_stream_fault(client->stream));
        return error_set(err, EPROTO, "the answer is not of the control protocol");
    default:
        return error_set_errno(err, -code, "talking to %s", client->peer);
    }
}

// Takes the hello and checks that its major version is ours.
static int take_hello(struct control_client *client, uint64_t limit, struct error *err)
{
    json_t *message = NULL;
    int r = next_message(client, limit, &message);
    if (r) {
        json_decref(message);
        return describe(client, r, err);
    }
    const json_t *refused = json_object_get(message, "refused");
    const char *why = json_string_value(json_object_get(refused, "message"));
    const char *protocol =
        json_string_value(json_object_get(json_object_get(message, "hello"), "protocol"));
    size_t major = strcspn(CONTROL_PROTOCOL, ".") + 1; // with the point
    if (refused)
        r = error_set(err, EACCES, "%.500s", why ? why : "it refused");
    else if (!protocol)
        r = describe(client, -EPROTO, err);
    else if (strncmp(protocol, CONTROL_PROTOCOL, major) != 0)
        r = error_set(err, EPROTO,
                      "%s speaks version %.20s of the control protocol and this ferry "
                      "%s: use the ferry that started it",
                      client->peer, protocol, CONTROL_PROTOCOL);
    client->features = json_incref(json_object_get(json_object_get(message, "hello"), "features"));
    json_decref(message);
    return r;
}

bool control_client_has_feature(const struct control_client *client, const char *feature)
{
    size_t i;
    json_t *name;
    json_array_foreach(client->features, i,
                       name) if (strcmp(json_string_value(name) ? json_string_value(name) : "",
                                        feature) == 0) return true;
    return false;
}

// With its hello; closes what it was made of if that fails.
static int begin(struct control_client **out, struct control_client *client, int timeout_ms,
                 struct error *err)
{
    client->events = json_array();
    int r = take_hello(client, limit_after(timeout_ms), err);
    if (r)
        control_client_close(client);
    else
        *out = client;
    return r;
}

int control_client_connect(struct control_client **out, const char *path, int timeout_ms,
                           struct error *err)
{
    int fd = local_socket_connect(path, err);
    if (fd < 0)
        return fd;
    struct control_client *client = calloc(1, sizeof(*client));
    if (!client) {
        close(fd);
        return error_set(err, ENOMEM, "out of memory");
    }
    client->fd = fd;
    client->peer = "the machine";
    return begin(out, client, timeout_ms, err);
}

int control_client_begin(struct control_client **out, struct tls_stream *stream, int timeout_ms,
                         struct error *err)
{
    struct control_client *client = calloc(1, sizeof(*client));
    if (!client) {
        tls_stream_close(stream);
        return error_set(err, ENOMEM, "out of memory");
    }
    client->fd = -1;
    client->stream = stream;
    client->peer = "ferryd";
    return begin(out, client, timeout_ms, err);
}

void control_client_close(struct control_client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    tls_stream_close(client->stream);
    free(client->input);
    json_decref(client->features);
    json_decref(client->events);
    free(client);
}

// Sends the whole text, the descriptors with its first byte.
static int send_text(struct control_client *client, const char *text, size_t length, const int *fds,
                     unsigned fd_count, uint64_t limit)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(FDS_IN_REQUEST * sizeof(int))];
    } control = {0};
    if (client->stream)
        return fd_count ? -ENOTSUP : tls_stream_write(client->stream, text, length, limit);
    struct iovec part = {(char *)text, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
    }
    while (part.iov_len) {
        int r = wait_ready(client, POLLOUT, limit);
        if (r)
            return r;
        ssize_t n = sendmsg(client->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n <= 0)
            continue;
        part.iov_base = (char *)part.iov_base + n;
        part.iov_len -= (size_t)n;
        message.msg_control = NULL;
        message.msg_controllen = 0;
    }
    return 0;
}

// Takes `params` over.
static int send_request(struct control_client *client, const char *method, json_t *params,
                        const int *fds, unsigned fd_count, uint64_t limit)
{
    json_t *message = json_pack("{s:I, s:s, s:o}", "id", ++client->last_id, "method", method,
                                "params", params ? params : json_object());
    if (message && fd_count)
        json_object_set_new(message, "fds", json_integer(fd_count));
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    json_decref(message);
    if (!text)
        return -ENOMEM;
    size_t length = strlen(text);
    text[length] = '\n'; // in place of the terminator
    int r = send_text(client, text, length + 1, fds, fd_count, limit);
    free(text);
    return r;
}

static int take_answer(json_t *message, json_t **result, struct error *err)
{
    const json_t *error = json_object_get(message, "error");
    int r = 0;
    if (error) {
        const char *text = json_string_value(json_object_get(error, "message"));
        r = error_set(err, EREMOTEIO, "%s", text ? text : "the machine refused");
    } else if (result) {
        *result = json_incref(json_object_get(message, "result"));
    }
    json_decref(message);
    return r;
}

int control_client_call(struct control_client *client, const char *method, json_t *params,
                        const int *fds, unsigned fd_count, int timeout_ms, json_t **result,
                        struct error *err)
{
    if (fd_count > FDS_IN_REQUEST) {
        json_decref(params);
        return error_set(err, EINVAL, "more than %d descriptors in a request", FDS_IN_REQUEST);
    }
    uint64_t limit = limit_after(timeout_ms);
    int r = send_request(client, method, params, fds, fd_count, limit);
    while (!r) {
        json_t *message = NULL;
        r = next_message(client, limit, &message);
        if (!r && json_object_get(message, "event")) {
            json_array_append_new(client->events, message);
        } else if (!r && json_integer_value(json_object_get(message, "id")) == client->last_id) {
            return take_answer(message, result, err);
        } else {
            json_decref(message); // the late answer to a request that was given up
        }
    }
    return describe(client, r, err);
}

int control_client_next_event(struct control_client *client, int timeout_ms, json_t **event,
                              struct error *err)
{
    if (json_array_size(client->events)) {
        *event = json_incref(json_array_get(client->events, 0));
        json_array_remove(client->events, 0);
        return 0;
    }
    uint64_t limit = limit_after(timeout_ms);
    for (;;) {
        json_t *message = NULL;
        int r = next_message(client, limit, &message);
        if (!r && json_object_get(message, "event")) {
            *event = message;
            return 0;
        }
        json_decref(message);
        if (r)
            return describe(client, r, err);
    }
}

pid_t control_client_peer_pid(const struct control_client *client)
{
    return client->stream ? 0 : local_socket_peer_pid(client->fd);
}
