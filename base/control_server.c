#include "base/control_server.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "base/log.h"

enum { RECEIVE_SIZE = 64 * 1024, DRAIN_MS = 1000 };

struct connection {
    struct control_server *server;
    const struct control_service *service; // that it may use
    void (*gone)(void *opaque);            // NULL, or who is told when it doesn't any more
    struct connection *next;
    uv_poll_t poll;
    int fd;
    char *input; // what came after the last whole line
    size_t input_length, input_capacity, input_scanned;
    char *output;
    size_t output_length, output_capacity, output_sent;
    int fds[CONTROL_FDS_LIMIT];
    unsigned fd_count;
    struct control_request *requests; // unanswered
    unsigned request_count;
    bool subscribed;
    bool input_ended; // the peer closed its writing half
    bool broken;      // to be closed as soon as what is queued was sent
    bool dead;        // to be closed
};

struct control_request {
    struct connection *connection; // NULL once it's gone
    struct control_request *next;
    json_t *message; // holds the parameters
    json_t *id;
    int fds[CONTROL_FDS_LIMIT];
    unsigned fd_count;
};

struct control_server {
    const struct control_service *service;
    uv_loop_t *loop;
    uv_poll_t listener;
    uv_timer_t drain_timer;
    int listen_fd;
    unsigned open_handles;
    struct connection *connections;
    unsigned connection_count;
    void (*drained)(void *opaque);
    void *drained_opaque;
};

// ---- output ----

// Marks the connection to be closed. The hang-up wakes its poll, which closes it: so that happens
// in one place, and nothing up the stack holds a connection that's gone.
static void connection_fail(struct connection *connection)
{
    connection->dead = true;
    shutdown(connection->fd, SHUT_RDWR);
}

static void connection_append(struct connection *connection, const char *bytes, size_t length)
{
    if (connection->dead)
        return;
    if (connection->output_sent) {
        connection->output_length -= connection->output_sent;
        memmove(connection->output, connection->output + connection->output_sent,
                connection->output_length);
        connection->output_sent = 0;
    }
    size_t needed = connection->output_length + length;
    if (needed > CONTROL_OUTPUT_LIMIT) {
        log_warning("a control client doesn't read: cut off");
        connection_fail(connection);
        return;
    }
    if (needed > connection->output_capacity) {
        size_t capacity = needed < 4096 ? 4096 : needed * 2;
        char *grown = realloc(connection->output, capacity);
        if (!grown) {
            connection_fail(connection);
            return;
        }
        connection->output = grown;
        connection->output_capacity = capacity;
    }
    memcpy(connection->output + connection->output_length, bytes, length);
    connection->output_length += length;
}

static void on_connection(uv_poll_t *poll, int status, int events);

// Waits for what can happen next. UV_PRIORITIZED never comes by itself on such a socket, but while
// something is waited for a hang-up is reported.
static void connection_watch(struct connection *connection)
{
    int events = UV_PRIORITIZED;
    if (connection->output_length > connection->output_sent)
        events |= UV_WRITABLE;
    if (!connection->input_ended && !connection->broken &&
        connection->request_count < CONTROL_REQUESTS_LIMIT)
        events |= UV_READABLE;
    uv_poll_start(&connection->poll, events, on_connection);
}

static void connection_send(struct connection *connection)
{
    while (!connection->dead && connection->output_sent < connection->output_length) {
        ssize_t n =
            send(connection->fd, connection->output + connection->output_sent,
                 connection->output_length - connection->output_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            connection->dead = errno != EAGAIN;
            return;
        }
        connection->output_sent += (size_t)n;
    }
    connection->output_sent = connection->output_length = 0;
    if (connection->broken ||
        (connection->input_ended && !connection->requests && !connection->subscribed))
        connection->dead = true;
}

static void connection_free(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    free(connection->input);
    free(connection->output);
    free(connection);
}

static void connection_close(struct connection *connection)
{
    struct control_server *server = connection->server;
    struct connection **link = &server->connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    server->connection_count--;
    for (struct control_request *r = connection->requests; r; r = r->next)
        r->connection = NULL;
    for (unsigned i = 0; i < connection->fd_count; i++)
        close(connection->fds[i]);
    if (connection->gone)
        connection->gone(connection->service->opaque);
    uv_poll_stop(&connection->poll);
    close(connection->fd);
    uv_close((uv_handle_t *)&connection->poll, connection_free);
}

// Sends what can be sent; closes the connection when that is due.
static void connection_settle(struct connection *connection)
{
    connection_send(connection);
    if (connection->dead)
        connection_close(connection);
    else
        connection_watch(connection);
}

static void append_line(struct connection *connection, const json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT);
    if (!text) {
        connection_fail(connection);
        return;
    }
    size_t length = strlen(text);
    text[length] = '\n'; // in place of the terminator
    connection_append(connection, text, length + 1);
    free(text);
}

// ---- answers ----

static void request_free(struct control_request *request)
{
    struct connection *connection = request->connection;
    if (connection) {
        struct control_request **link = &connection->requests;
        while (*link != request)
            link = &(*link)->next;
        *link = request->next;
        connection->request_count--;
    }
    for (unsigned i = 0; i < request->fd_count; i++) {
        if (request->fds[i] >= 0)
            close(request->fds[i]);
    }
    json_decref(request->message);
    json_decref(request->id);
    free(request);
}

// Takes `answer` over.
static void request_answer(struct control_request *request, const char *key, json_t *answer)
{
    struct connection *connection = request->connection;
    if (connection) {
        json_t *message = json_pack("{s:O, s:o}", "id", request->id, key, answer);
        size_t length = message ? json_dumpb(message, NULL, 0, JSON_COMPACT) : 0;
        if (length > CONTROL_LINE_LIMIT) {
            json_decref(message);
            message = json_pack("{s:O, s:{s:s, s:s}}", "id", request->id, "error", "code",
                                "too-large", "message", "the answer is longer than a line may be");
        }
        if (message)
            append_line(connection, message);
        else
            connection_fail(connection);
        json_decref(message);
    } else {
        json_decref(answer);
    }
    request_free(request);
    if (connection)
        connection_watch(connection); // lines that waited for an answer go on from there
}

void control_request_reply(struct control_request *request, json_t *result)
{
    if (result)
        request_answer(request, "result", result);
    else
        control_request_fail(request, "no-memory", "out of memory");
}

void control_request_fail(struct control_request *request, const char *code, const char *format,
                          ...)
{
    char message[sizeof(((struct error *)0)->message)];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    // A message can hold a piece of a client's string that was cut in the middle of a character.
    json_t *text = json_string(message);
    if (!text)
        text = json_string("(the message is not valid UTF-8)");
    request_answer(request, "error", json_pack("{s:s, s:o}", "code", code, "message", text));
}

void control_request_fail_error(struct control_request *request, const struct error *err)
{
    static const struct {
        int number;
        const char *code;
    } codes[] = {
        {EINVAL, "invalid-params"}, {ERANGE, "invalid-params"}, {EFAULT, "invalid-params"},
        {EBUSY, "wrong-state"},     {ENOTSUP, "not-supported"}, {ENOMEM, "no-memory"},
        {EPERM, "not-allowed"},     {EAGAIN, "in-use"},
    };
    const char *code = "failed";
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].number == err->code)
            code = codes[i].code;
    }
    control_request_fail(request, code, "%s", err->message);
}

int control_request_take_fd(struct control_request *request, const json_t *value, struct error *err)
{
    const json_t *index = json_object_get(value, "fd");
    json_int_t i = json_integer_value(index);
    if (!json_is_integer(index) || json_object_size(value) != 1)
        return error_set(err, EINVAL, "a descriptor is given as {\"fd\": NUMBER}");
    if (i < 0 || i >= request->fd_count || request->fds[i] < 0)
        return error_set(err, EINVAL,
                         "descriptor %lld didn't come with the request (\"fds\" says %u) or was "
                         "named before",
                         (long long)i, request->fd_count);
    int fd = request->fds[i];
    request->fds[i] = -1;
    return fd;
}

// ---- requests ----

static json_t *hello_message(const struct control_service *service)
{
    json_t *features = json_array();
    for (const struct control_service *s = service; s; s = s->more)
        for (const char *const *f = s->features; *f; f++)
            json_array_append_new(features, json_string(*f));
    return json_pack("{s:s, s:s, s:o}", "protocol", CONTROL_PROTOCOL, "server",
                     "ferry " FERRY_VERSION, "features", features);
}

static void request_dispatch(struct control_request *request, const char *method, json_t *params)
{
    struct connection *connection = request->connection;
    if (strcmp(method, "hello") == 0) {
        control_request_reply(request, hello_message(connection->service));
        return;
    }
    if (strcmp(method, "events.subscribe") == 0) {
        connection->subscribed = true;
        control_request_reply(request, json_object());
        return;
    }
    for (const struct control_service *s = connection->service; s; s = s->more) {
        for (const struct control_method *m = s->methods; m->name; m++) {
            if (strcmp(m->name, method) == 0) {
                m->call(s->opaque, request, params);
                return;
            }
        }
    }
    control_request_fail(request, "unknown-method", "there is no method '%.100s'", method);
}

// Moves the descriptors that the message announces to the request. 0 or a sentence.
static int request_claim_fds(struct control_request *request, const json_t *message,
                             struct error *err)
{
    struct connection *connection = request->connection;
    const json_t *announced = json_object_get(message, "fds");
    json_int_t count = json_integer_value(announced);
    if (announced && (!json_is_integer(announced) || count < 0))
        return error_set(err, EINVAL, "fds must be the number of descriptors");
    if (count > connection->fd_count)
        return error_set(err, EINVAL, "%lld descriptors were announced, %u came", (long long)count,
                         connection->fd_count);
    memcpy(request->fds, connection->fds, (size_t)count * sizeof(int));
    request->fd_count = (unsigned)count;
    connection->fd_count -= (unsigned)count;
    memmove(connection->fds, connection->fds + count, connection->fd_count * sizeof(int));
    return 0;
}

// Takes `message` over.
static void message_handle(struct connection *connection, json_t *message)
{
    struct control_request *request = calloc(1, sizeof(*request));
    json_t *id = json_object_get(message, "id");
    if (!request) {
        json_decref(message);
        connection_fail(connection);
        return;
    }
    bool id_valid = !id || json_is_integer(id) || json_is_string(id) || json_is_null(id);
    request->id = id && id_valid ? json_incref(id) : json_null();
    request->message = message;
    request->connection = connection;
    request->next = connection->requests;
    connection->requests = request;
    connection->request_count++;

    struct error err = {0};
    const char *method = json_string_value(json_object_get(message, "method"));
    json_t *params = json_object_get(message, "params");
    if (!params && json_is_object(message)) {
        params = json_object();
        json_object_set_new(message, "params", params);
    }
    if (!json_is_object(message) || !id_valid || !method || !json_is_object(params))
        control_request_fail(request, "invalid-request",
                             "a request is an object: \"method\" (string), \"id\" (number or "
                             "string), \"params\" (object), \"fds\" (number)");
    else if (request_claim_fds(request, message, &err) != 0) {
        // Whose the queued descriptors are can't be told any more.
        connection->broken = true;
        control_request_fail(request, "invalid-request", "%s", err.message);
    } else
        request_dispatch(request, method, params);
}

static void fail_line(struct connection *connection, const char *code, const char *text)
{
    json_t *message =
        json_pack("{s:n, s:{s:s, s:s}}", "id", "error", "code", code, "message", text);
    if (message)
        append_line(connection, message);
    json_decref(message);
}

static void line_handle(struct connection *connection, const char *line, size_t length)
{
    if (length && line[length - 1] == '\r')
        length--;
    if (!length)
        return;
    json_error_t why;
    json_t *message = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (message) {
        message_handle(connection, message);
        return;
    }
    char text[sizeof(why.text) + 40];
    snprintf(text, sizeof(text), "not JSON: %s", why.text);
    json_t *valid = json_string(text);
    fail_line(connection, "parse-error", valid ? text : "not JSON");
    json_decref(valid);
    // A line that can't be read may have had descriptors, which would be taken for the next one's.
    if (connection->fd_count)
        connection->broken = true;
}

static void fail_long_line(struct connection *connection)
{
    fail_line(connection, "too-large", "a line is longer than 1 MiB");
    connection->broken = true;
}

// Handles the whole lines in the buffer, as long as the client may have more requests open.
static void connection_lines(struct connection *connection)
{
    size_t start = 0;
    while (!connection->dead && !connection->broken &&
           connection->request_count < CONTROL_REQUESTS_LIMIT) {
        size_t from = connection->input_scanned;
        char *newline = memchr(connection->input + from, '\n', connection->input_length - from);
        if (!newline) {
            connection->input_scanned = connection->input_length;
            break;
        }
        size_t end = (size_t)(newline - connection->input);
        connection->input_scanned = end + 1;
        if (end - start <= CONTROL_LINE_LIMIT)
            line_handle(connection, connection->input + start, end - start);
        else
            fail_long_line(connection);
        start = end + 1;
    }
    connection->input_length -= start;
    connection->input_scanned -= start;
    if (start)
        memmove(connection->input, connection->input + start, connection->input_length);
    if (connection->input_scanned > CONTROL_LINE_LIMIT && !connection->broken)
        fail_long_line(connection);
}

// ---- input ----

static void take_fds(struct connection *connection, struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (connection->fd_count < CONTROL_FDS_LIMIT) {
                connection->fds[connection->fd_count++] = fd;
            } else {
                close(fd);
                connection->dead = true;
            }
        }
    }
    if (message->msg_flags & MSG_CTRUNC) // some are lost, so none can be told apart
        connection->dead = true;
}

static void connection_receive(struct connection *connection)
{
    if (connection->input_capacity - connection->input_length < RECEIVE_SIZE) {
        size_t capacity = connection->input_length + (size_t)2 * RECEIVE_SIZE;
        char *grown = realloc(connection->input, capacity);
        if (!grown) {
            connection->dead = true;
            return;
        }
        connection->input = grown;
        connection->input_capacity = capacity;
    }
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(CONTROL_FDS_IN_MESSAGE * sizeof(int))];
    } control;
    struct iovec part = {connection->input + connection->input_length, RECEIVE_SIZE};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n = recvmsg(connection->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
        connection->dead = errno != EAGAIN && errno != EINTR;
        return;
    }
    take_fds(connection, &message);
    connection->input_length += (size_t)n;
    connection->input_ended = n == 0;
}

static void drain_check(struct control_server *server);

static void on_connection(uv_poll_t *poll, int status, int events)
{
    struct connection *connection = poll->data;
    struct control_server *server = connection->server;
    if (status < 0 || events & UV_PRIORITIZED)
        connection->dead = true;
    if (!connection->dead && events & UV_READABLE)
        connection_receive(connection);
    if (!connection->dead && connection->input_length)
        connection_lines(connection);
    connection_settle(connection);
    drain_check(server);
}

// The descriptor is the server's once this succeeded.
static int connection_add(struct control_server *server, int fd,
                          const struct control_service *service, void (*gone)(void *opaque))
{
    struct connection *connection = NULL;
    if (server->connection_count < CONTROL_CLIENTS_LIMIT)
        connection = calloc(1, sizeof(*connection));
    if (!connection || uv_poll_init(server->loop, &connection->poll, fd) != 0) {
        log_warning("refused a control client: %s",
                    connection ? "no memory" : "there are too many");
        bool full = !connection;
        free(connection);
        return full ? -EBUSY : -ENOMEM;
    }
    connection->server = server;
    connection->service = service;
    connection->gone = gone;
    connection->fd = fd;
    connection->poll.data = connection;
    connection->next = server->connections;
    server->connections = connection;
    server->connection_count++;
    json_t *message = json_pack("{s:o}", "hello", hello_message(service));
    if (message)
        append_line(connection, message);
    json_decref(message);
    connection_settle(connection);
    return 0;
}

int control_server_adopt(struct control_server *server, int fd,
                         const struct control_service *service, void (*gone)(void *opaque))
{
    return connection_add(server, fd, service, gone);
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    struct control_server *server = poll->data;
    int fd;
    while ((fd = local_socket_accept(server->listen_fd)) >= 0)
        if (connection_add(server, fd, server->service, NULL) != 0)
            close(fd);
}

// ---- events ----

static json_t *time_now(void)
{
    char text[40];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + used, sizeof(text) - used, ".%06ldZ", now.tv_nsec / 1000);
    return json_string(text);
}

void control_server_event(struct control_server *server, const char *event, json_t *data)
{
    json_t *message = json_pack("{s:s, s:o, s:o}", "event", event, "time", time_now(), "data",
                                data ? data : json_object());
    for (struct connection *c = server->connections; message && c; c = c->next) {
        if (!c->subscribed || c->dead)
            continue;
        append_line(c, message);
        connection_watch(c);
    }
    json_decref(message);
}

// ---- life ----

static void drain_check(struct control_server *server)
{
    if (!server->drained)
        return;
    for (struct connection *c = server->connections; c; c = c->next) {
        if (!c->dead && c->output_length > c->output_sent &&
            uv_is_active((uv_handle_t *)&server->drain_timer))
            return;
    }
    void (*done)(void *) = server->drained;
    server->drained = NULL;
    uv_timer_stop(&server->drain_timer);
    done(server->drained_opaque);
}

static void on_drain_timer(uv_timer_t *timer)
{
    drain_check(timer->data); // the timer is not active any more: nobody is waited for
}

void control_server_drain(struct control_server *server, void (*done)(void *opaque), void *opaque)
{
    server->drained = done;
    server->drained_opaque = opaque;
    uv_timer_start(&server->drain_timer, on_drain_timer, DRAIN_MS, 0);
    drain_check(server);
}

static void on_closed(uv_handle_t *handle)
{
    struct control_server *server = handle->data;
    if (--server->open_handles == 0)
        free(server);
}

int control_server_create(struct control_server **out, uv_loop_t *loop, int listen_fd,
                          const struct control_service *service, struct error *err)
{
    struct control_server *server = calloc(1, sizeof(*server));
    if (!server)
        return error_set(err, ENOMEM, "control socket: out of memory");
    server->loop = loop;
    server->service = service;
    server->listen_fd = listen_fd;
    int r = uv_poll_init(loop, &server->listener, listen_fd);
    if (r) {
        free(server);
        return error_set_errno(err, -r, "control socket");
    }
    uv_timer_init(loop, &server->drain_timer);
    server->open_handles = 2;
    server->listener.data = server->drain_timer.data = server;
    uv_poll_start(&server->listener, UV_READABLE, on_listener);
    *out = server;
    return 0;
}

void control_server_destroy(struct control_server *server)
{
    if (!server)
        return;
    while (server->connections)
        connection_close(server->connections);
    uv_poll_stop(&server->listener);
    close(server->listen_fd);
    uv_close((uv_handle_t *)&server->listener, on_closed);
    uv_close((uv_handle_t *)&server->drain_timer, on_closed);
}
