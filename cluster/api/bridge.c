#include "cluster/api/bridge.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HIGH = 1 << 20, // bytes that one side may be behind, then the other has to wait
    LOW = HIGH / 4,
    LOOK_MS = 50,
    STALLED_LOOKS = 200, // 10 s
    LAST_LOOKS = 40,     // 2 s for the other side to see the end
    ROOM = 64 * 1024,
};

struct bridge {
    struct connection *connection; // NULL once it is closed
    uv_pipe_t pipe;
    uv_timer_t timer; // runs while something is waited for
    uv_shutdown_t shutdown;
    unsigned open_handles;
    bool reading;     // from the pipe
    bool paused;      // the connection
    bool deaf;        // the other end of the descriptor takes nothing any more
    bool half;        // the other end of the descriptor says nothing more, but still listens
    bool finishing;   // closes when what is queued was sent
    bool ending;      // handles are being closed
    unsigned last;    // looks since the other side was told of the end; 0: it was not
    size_t queued;    // at the last look
    unsigned stalled; // looks without progress
    char reason[160];
    void (*ended)(void *context, const char *reason);
    void *context;
    char room[ROOM];
};

struct bridge_write {
    uv_write_t request;
    char bytes[];
};

static void look(uv_timer_t *timer);

static void watch(struct bridge *bridge)
{
    if (!bridge->ending && !uv_is_active((uv_handle_t *)&bridge->timer)) {
        bridge->stalled = 0;
        bridge->queued = 0;
        uv_timer_start(&bridge->timer, look, LOOK_MS, LOOK_MS);
    }
}

// ---- ending ----

static void handle_closed(uv_handle_t *handle)
{
    struct bridge *bridge = handle->data;
    if (--bridge->open_handles)
        return;
    bridge->ended(bridge->context, bridge->reason);
    free(bridge);
}

static void say(struct bridge *bridge, const char *reason)
{
    if (!bridge->reason[0])
        snprintf(bridge->reason, sizeof(bridge->reason), "%s", reason);
}

void bridge_end(struct bridge *bridge, const char *reason)
{
    say(bridge, reason);
    if (bridge->ending)
        return;
    bridge->ending = true;
    if (bridge->connection)
        connection_close(bridge->connection);
    bridge->connection = NULL;
    uv_close((uv_handle_t *)&bridge->pipe, handle_closed);
    uv_close((uv_handle_t *)&bridge->timer, handle_closed);
}

static void shut(uv_shutdown_t *request, int status)
{
    struct bridge *bridge = request->data;
    bridge_end(bridge, "closed");
}

// ---- from the descriptor ----

// Whoever has the other end may have closed it, or only have said that nothing more comes.
static bool is_closed(struct bridge *bridge)
{
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&bridge->pipe, &fd))
        return true;
    struct pollfd state = {.fd = fd, .events = 0};
    return poll(&state, 1, 0) > 0 && state.revents & (POLLHUP | POLLERR);
}

static void pipe_ended(struct bridge *bridge, const char *reason)
{
    say(bridge, reason);
    uv_read_stop((uv_stream_t *)&bridge->pipe);
    bridge->reading = false;
    bridge->half = !is_closed(bridge);
    bridge->finishing = !bridge->half;
    watch(bridge);
}

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct bridge *bridge = handle->data;
    *buffer = uv_buf_init(bridge->room, sizeof(bridge->room));
}

static void pipe_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
    struct bridge *bridge = stream->data;
    if (length < 0) {
        pipe_ended(bridge, length == UV_EOF ? "closed" : uv_strerror((int)length));
        return;
    }
    if (!bridge->connection)
        return;
    connection_send_bytes(bridge->connection, buffer->base, (size_t)length);
    if (connection_queued(bridge->connection) > HIGH) {
        uv_read_stop(stream);
        bridge->reading = false;
        watch(bridge);
    }
}

static void read_pipe(struct bridge *bridge)
{
    if (!bridge->reading && uv_read_start((uv_stream_t *)&bridge->pipe, allocate, pipe_read) == 0)
        bridge->reading = true;
}

// ---- from the connection ----

static void pipe_written(uv_write_t *request, int status)
{
    struct bridge *bridge = request->handle->data;
    free(request->data);
    // Who has closed the descriptor may have said something before, which is still to be read.
    if (status < 0)
        bridge->deaf = true;
}

static void came(void *owner, struct connection *connection, const uint8_t *bytes, size_t length)
{
    struct bridge *bridge = owner;
    if (bridge->finishing || bridge->deaf)
        return;
    struct bridge_write *write = malloc(sizeof(*write) + length);
    if (!write) {
        bridge_end(bridge, "out of memory");
        return;
    }
    memcpy(write->bytes, bytes, length);
    write->request.data = write;
    uv_buf_t buffer = uv_buf_init(write->bytes, (unsigned)length);
    int error = uv_write(&write->request, (uv_stream_t *)&bridge->pipe, &buffer, 1, pipe_written);
    if (error) {
        free(write);
        bridge_end(bridge, uv_strerror(error));
        return;
    }
    if (uv_stream_get_write_queue_size((uv_stream_t *)&bridge->pipe) > HIGH) {
        bridge->paused = true;
        connection_pause(connection, true);
        watch(bridge);
    }
}

// What it said before still goes to the descriptor.
static void connection_ended(void *owner, struct connection *connection, const char *reason)
{
    struct bridge *bridge = owner;
    bridge->connection = NULL;
    say(bridge, reason);
    if (bridge->finishing) {
        bridge_end(bridge, reason);
        return;
    }
    bridge->shutdown.data = bridge;
    if (uv_shutdown(&bridge->shutdown, (uv_stream_t *)&bridge->pipe, shut))
        bridge_end(bridge, reason);
    else
        watch(bridge);
}

static const struct connection_callbacks callbacks = {.closed = connection_ended, .bytes = came};

// ---- looking after it ----

static size_t behind(const struct bridge *bridge)
{
    return bridge->connection ? connection_queued(bridge->connection)
                              : uv_stream_get_write_queue_size((uv_stream_t *)&bridge->pipe);
}

// Whoever takes something of what is queued is only slow.
static bool is_stalled(struct bridge *bridge)
{
    size_t queued = behind(bridge);
    bool progress = queued == 0 || queued < bridge->queued;
    bridge->queued = queued;
    bridge->stalled = progress ? 0 : bridge->stalled + 1;
    return bridge->stalled > STALLED_LOOKS;
}

// All that was said has gone out. The other side closes when it has read it, or has had its time.
static void finish(struct bridge *bridge)
{
    if (behind(bridge))
        return;
    if (!bridge->connection || bridge->last > LAST_LOOKS) {
        bridge_end(bridge, "closed");
        return;
    }
    if (bridge->last++ == 0) {
        struct connection *connection = bridge->connection;
        connection_shut(connection);
        connection_pause(connection, false); // to see that the other side has closed it
    }
}

static void look(uv_timer_t *timer)
{
    struct bridge *bridge = timer->data;
    if (is_stalled(bridge)) {
        bridge_end(bridge, "the other side doesn't read");
        return;
    }
    if (bridge->half && is_closed(bridge)) {
        bridge->half = false;
        bridge->finishing = true;
    }
    if (bridge->finishing) {
        finish(bridge);
        return;
    }
    if (!bridge->connection)
        return; // until the descriptor has taken the rest
    if (bridge->paused && uv_stream_get_write_queue_size((uv_stream_t *)&bridge->pipe) < LOW) {
        struct connection *connection = bridge->connection;
        bridge->paused = false;
        connection_pause(connection, false);
        if (bridge->ending || bridge->connection != connection)
            return;
    }
    bool over = bridge->half || bridge->finishing;
    if (!bridge->reading && !over && connection_queued(bridge->connection) < LOW)
        read_pipe(bridge);
    if (!over && bridge->reading && !bridge->paused)
        uv_timer_stop(timer);
}

static void ignore_end(void *context, const char *reason)
{
}

int bridge_create(struct bridge **out, uv_loop_t *loop, struct connection *connection, int fd,
                  const void *first, size_t length,
                  void (*ended)(void *context, const char *reason), void *context)
{
    struct bridge *bridge = calloc(1, sizeof(*bridge));
    if (!bridge)
        return -ENOMEM;
    bridge->ended = ended;
    bridge->context = context;
    bridge->pipe.data = bridge->timer.data = bridge;
    int error = uv_pipe_init(loop, &bridge->pipe, 0);
    if (error) {
        free(bridge);
        return -ENOMEM;
    }
    uv_timer_init(loop, &bridge->timer);
    bridge->open_handles = 2;
    error = uv_pipe_open(&bridge->pipe, fd);
    if (error) {
        // The caller is told by the return value alone.
        bridge->ended = ignore_end;
        bridge_end(bridge, "");
        return error;
    }
    bridge->connection = connection;
    connection_set_owner(connection, bridge, &callbacks);
    read_pipe(bridge);
    *out = bridge;
    if (length)
        came(bridge, connection, first, length);
    return 0;
}
