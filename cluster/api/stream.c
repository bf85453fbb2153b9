#include "cluster/api/stream.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "cluster/api/bridge.h"
#include "cluster/member/member.h"

enum { LINE_LIMIT = 4096, BEGIN_SECONDS = 10 };

// Until `bridge` is there the connection is the stream's.
struct stream {
    LIST_ENTRY(stream) link;
    struct streams *streams;
    struct connection *connection; // NULL once the bridge has it, or it is gone
    struct bridge *bridge;
    struct tls_subject subject; // of the other side
    uint64_t begun_ns;
    char line[LINE_LIMIT + 1]; // that has come so far
    size_t length;
    // Of one that was called from here: whom to answer, and what is connected then.
    struct control_request *request;
    int fd;
    char *question;
    char host[TLS_NAME_SIZE];
    uv_process_t process; // that reads a log
    bool has_process, dialled;
    unsigned users; // the connection or bridge, and the process
};

// ---- life ----

static struct stream *stream_create(struct streams *streams)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return NULL;
    stream->streams = streams;
    stream->fd = -1;
    stream->begun_ns = clock_monotonic_ns();
    stream->users = 1;
    LIST_INSERT_HEAD(&streams->all, stream, link);
    streams->count++;
    return stream;
}

static void release(struct stream *stream)
{
    if (--stream->users)
        return;
    if (stream->fd >= 0)
        close(stream->fd);
    LIST_REMOVE(stream, link);
    stream->streams->count--;
    free(stream->question);
    free(stream);
}

// Answers who called from here, if that is still to be done.
static void fail_request(struct stream *stream, const char *code, const char *reason)
{
    struct control_request *request = stream->request;
    stream->request = NULL;
    if (request)
        control_request_fail(request, code, "%s", reason);
}

static void end(struct stream *stream, const char *code, const char *reason)
{
    if (stream->bridge) {
        bridge_end(stream->bridge, reason);
        return;
    }
    fail_request(stream, code, reason);
    if (stream->connection)
        connection_close(stream->connection);
    stream->connection = NULL;
    release(stream);
}

static void process_closed(uv_handle_t *handle)
{
    release(handle->data);
}

static void process_ended(uv_process_t *process, int64_t status, int number)
{
    struct stream *stream = process->data;
    stream->has_process = false;
    uv_close((uv_handle_t *)process, process_closed);
}

static void bridge_ended(void *context, const char *reason)
{
    struct stream *stream = context;
    stream->bridge = NULL;
    if (stream->has_process)
        uv_process_kill(&stream->process, SIGTERM);
    release(stream);
}

static void closed(void *owner, struct connection *connection, const char *reason)
{
    struct stream *stream = owner;
    stream->connection = NULL;
    end(stream, "failed", reason);
}

// ---- the host's side ----

static void refuse(struct stream *stream, const char *code, const char *message)
{
    json_t *line = json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", message);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (text) {
        connection_send_bytes(stream->connection, text, strlen(text));
        connection_send_bytes(stream->connection, "\n", 1);
    }
    free(text);
    connection_finish(stream->connection);
    stream->connection = NULL;
    release(stream);
}

// Never waits: a machine that is stopped must not stop this.
static int connect_console(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

static int open_log(struct stream *stream, const char *machine, bool vmm, bool follow)
{
    const struct streams *streams = stream->streams;
    char *words[8] = {(char *)streams->program, "logs", (char *)machine, "--runtime-dir",
                      (char *)streams->dir->path};
    int pair[2], count = 5;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    if (vmm)
        words[count++] = "--vmm";
    if (follow)
        words[count++] = "--follow";
    uv_stdio_container_t files[3] = {
        {.flags = UV_IGNORE}, {.flags = UV_INHERIT_FD, .data.fd = pair[1]}, {.flags = UV_IGNORE}};
    uv_process_options_t options = {.file = streams->program,
                                    .args = words,
                                    .stdio = files,
                                    .stdio_count = 3,
                                    .exit_cb = process_ended};
    stream->process.data = stream;
    stream->users++;
    int error = uv_spawn(streams->loop, &stream->process, &options);
    close(pair[1]);
    if (error) {
        uv_close((uv_handle_t *)&stream->process, process_closed);
        close(pair[0]);
        return error;
    }
    stream->has_process = true;
    return pair[0];
}

static int open_source(struct stream *stream, const char *machine, const char *what, bool follow)
{
    char path[PATH_MAX];
    int alive = runtime_dir_is_alive(stream->streams->dir, machine);
    if (alive < 0)
        return -ENOENT;
    if (strcmp(what, "console") != 0)
        return open_log(stream, machine, strcmp(what, "vmm-log") == 0, follow);
    if (alive != 1 || runtime_dir_path(stream->streams->dir, machine, "console.sock", path) != 0)
        return -ESRCH;
    return connect_console(path);
}

// The line has come; `rest` is what came behind it.
static void serve(struct stream *stream, const char *rest, size_t length)
{
    json_t *question = json_loads(stream->line, 0, NULL);
    const char *machine = json_string_value(json_object_get(question, "machine"));
    const char *what = json_string_value(json_object_get(question, "what"));
    struct connection *connection = stream->connection;
    struct uuid uuid;
    char text[160];
    bool known = what && (strcmp(what, "console") == 0 || strcmp(what, "log") == 0 ||
                          strcmp(what, "vmm-log") == 0);
    int fd = -EINVAL;
    if (!machine || uuid_parse(machine, &uuid) || !known)
        refuse(stream, "invalid-request",
               "a request is {\"machine\": UUID, \"what\": \"console\"|\"log\"|\"vmm-log\"}");
    else if (strcmp(stream->subject.unit, MEMBER_UNIT_READ_ONLY) == 0 &&
             strcmp(what, "console") == 0)
        refuse(stream, "not-allowed", "a certificate for looking only is for no console");
    else if ((fd = open_source(stream, machine, what,
                               json_is_true(json_object_get(question, "follow")))) < 0) {
        snprintf(text, sizeof(text), "%s",
                 fd == -ENOENT || fd == -ESRCH
                     ? "the machine isn't on this host (any more): try again"
                     : strerror(-fd));
        refuse(stream, fd == -ENOENT ? "not-found" : "failed", text);
    } else {
        log_info("%s '%s' at %s: %s of %s", stream->subject.client ? "client" : "host",
                 stream->subject.name, connection_peer_address(connection), what, machine);
        connection_send_bytes(connection, "{\"ok\":true}\n", 12);
        stream->connection = NULL;
        if (bridge_create(&stream->bridge, stream->streams->loop, connection, fd, rest, length,
                          bridge_ended, stream)) {
            close(fd);
            connection_close(connection);
            if (stream->has_process)
                uv_process_kill(&stream->process, SIGTERM);
            release(stream);
        }
    }
    json_decref(question);
}

// ---- the caller's side ----

static void answered(struct stream *stream, const char *rest, size_t length)
{
    json_t *answer = json_loads(stream->line, 0, NULL);
    const json_t *error = json_object_get(answer, "error");
    if (!error)
        error = json_object_get(answer, "refused");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    struct connection *connection = stream->connection;
    if (!json_is_true(json_object_get(answer, "ok"))) {
        end(stream, code ? code : "failed", message ? message : "the host's answer makes no sense");
    } else {
        struct control_request *request = stream->request;
        int fd = stream->fd;
        stream->request = NULL;
        stream->connection = NULL;
        stream->fd = -1;
        if (bridge_create(&stream->bridge, stream->streams->loop, connection, fd, rest, length,
                          bridge_ended, stream)) {
            close(fd);
            connection_close(connection);
            control_request_fail(request, "no-memory", "out of memory");
            release(stream);
        } else {
            control_request_reply(request, json_object());
        }
    }
    json_decref(answer);
}

static void ready(void *owner, struct connection *connection)
{
    struct stream *stream = owner;
    char text[2 * TLS_NAME_SIZE + 40];
    if (!stream->dialled)
        return;
    connection_subject(connection, &stream->subject);
    if (!connection_speaks(connection, PROTOCOL_STREAM))
        end(stream, "not-supported", "the ferryd there is older and has no streams");
    else if (stream->subject.client || strcmp(stream->subject.name, stream->host) != 0) {
        snprintf(text, sizeof(text), "at the address of '%s' there is '%s'", stream->host,
                 stream->subject.name);
        end(stream, "failed", text);
    } else {
        connection_send_bytes(connection, stream->question, strlen(stream->question));
        connection_send_bytes(connection, "\n", 1);
    }
}

// ---- the first line ----

static void came(void *owner, struct connection *connection, const uint8_t *bytes, size_t length)
{
    struct stream *stream = owner;
    const uint8_t *newline = memchr(bytes, '\n', length);
    size_t piece = newline ? (size_t)(newline - bytes) : length;
    if (stream->length + piece > LINE_LIMIT) {
        if (stream->dialled)
            end(stream, "failed", "the host's answer makes no sense");
        else
            refuse(stream, "too-large", "the line is too long");
        return;
    }
    memcpy(stream->line + stream->length, bytes, piece);
    stream->length += piece;
    stream->line[stream->length] = 0;
    if (!newline)
        return;
    const char *rest = (const char *)newline + 1;
    if (stream->dialled)
        answered(stream, rest, length - piece - 1);
    else
        serve(stream, rest, length - piece - 1);
}

static const struct connection_callbacks callbacks = {
    .ready = ready, .closed = closed, .bytes = came};

// ---- from outside ----

void streams_accept(struct streams *streams, struct connection *connection,
                    const struct tls_subject *subject)
{
    struct stream *stream = streams->count < STREAMS_MAX ? stream_create(streams) : NULL;
    if (!stream) {
        log_warning("'%s' at %s was turned away: there are too many consoles and logs open",
                    subject->name, connection_peer_address(connection));
        connection_close(connection);
        return;
    }
    stream->connection = connection;
    stream->subject = *subject;
    connection_set_owner(connection, stream, &callbacks);
}

static const char *text_of(const json_t *params, const char *name)
{
    const char *text = json_string_value(json_object_get(params, name));
    return text ? text : "";
}

void streams_call(void *opaque, struct control_request *request, json_t *params)
{
    struct streams *streams = opaque;
    struct error err = {0};
    struct stream *stream = streams->count < STREAMS_MAX ? stream_create(streams) : NULL;
    if (!stream) {
        control_request_fail(request, "busy", "there are too many consoles and logs open");
        return;
    }
    stream->dialled = true;
    stream->request = request;
    snprintf(stream->host, sizeof(stream->host), "%s", text_of(params, "host"));
    stream->fd = control_request_take_fd(request, json_object_get(params, "stream"), &err);
    json_t *question = json_pack("{s:s, s:s, s:b}", "machine", text_of(params, "machine"), "what",
                                 text_of(params, "what"), "follow",
                                 json_is_true(json_object_get(params, "follow")));
    stream->question = question ? json_dumps(question, JSON_COMPACT) : NULL;
    json_decref(question);
    if (stream->fd < 0) {
        end(stream, "invalid-params", err.message);
        return;
    }
    stream->connection =
        stream->question
            ? streams->dial(streams->context, text_of(params, "address"), &callbacks, stream)
            : NULL;
    if (!stream->connection)
        end(stream, "not-supported",
            "this cluster has no certificates of its hosts, or that one no address: ask there");
}

void streams_look(struct streams *streams)
{
    struct stream *stream, *next;
    uint64_t now = clock_monotonic_ns();
    for (stream = LIST_FIRST(&streams->all); stream; stream = next) {
        next = LIST_NEXT(stream, link);
        const char *fault = NULL;
        if (!stream->dialled && (stream->connection || stream->bridge))
            fault = streams->fault(streams->context, &stream->subject);
        if (!fault && stream->connection && now - stream->begun_ns > BEGIN_SECONDS * NSEC_PER_SEC)
            fault = stream->dialled ? "the host doesn't answer" : "it didn't say what it wants";
        if (fault)
            end(stream, "failed", fault);
    }
}

void streams_stop(struct streams *streams)
{
    struct stream *stream, *next;
    for (stream = LIST_FIRST(&streams->all); stream; stream = next) {
        next = LIST_NEXT(stream, link);
        if (stream->connection || stream->bridge)
            end(stream, "failed", "ferryd stops");
        else if (stream->has_process)
            uv_process_kill(&stream->process, SIGTERM);
    }
}
