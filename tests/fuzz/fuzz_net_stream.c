// A network over a stream whose other end is hostile: any bytes in any pieces, connections that
// come and go, an end that doesn't read. What comes out must be the frames that went in, as long as
// they keep the format. The input is a list of steps, each a byte and what it takes.
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "devices/net/net_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONNECTIONS = 4, WIRE_SIZE = 200000, LENGTH_SIZE = 4 };

enum step {
    STEP_WRITE,    // u16 length, bytes: the peer sends them as they are
    STEP_REPEAT,   // u24 length, u16 times 64: the peer sends a frame's head and that many bytes
    STEP_RECEIVE,  // u16, u16: sizes of two of the guest's three buffers
    STEP_SEND,     // u16: the guest sends a frame of that size
    STEP_CONNECT,  // the helper brings a new connection
    STEP_READ,     // the peer takes what there is
    STEP_SHUTDOWN, // u8: the peer ends one direction, or both
    STEP_SAY,      // the helper says why there is no connection
    STEP_HELPER_ENDS,
    STEPS,
};

// One connection as the peer sees it.
struct wire {
    int fd; // the peer's end; -1 when it's closed
    uint8_t *bytes;
    uint32_t length, taken; // sent to the backend, and received from it as frames
    bool unsure;            // what was sent may be lost, as the peer has ended a direction
};

struct world {
    const uint8_t *data;
    size_t left;
    struct net_backend *backend;
    int helper; // its end of the control socket; -1 when it's gone
    struct wire wires[CONNECTIONS];
    unsigned made;
    // What the helper has sent and the backend hasn't taken: a connection's index, or -1 for words.
    int queue[64];
    unsigned queued;
    int current; // the connection that the backend has, -1 for none
    uint8_t got[NET_HEADER_SIZE + NET_FRAME_LIMIT];
};

static uint32_t take(struct world *w, unsigned bytes)
{
    uint32_t value = 0;
    for (; bytes > 0 && w->left > 0; bytes--, w->left--)
        value = value << 8 | *w->data++;
    return value;
}

static struct wire *newest(struct world *w)
{
    return w->made ? &w->wires[w->made - 1] : NULL;
}

static void peer_sends(struct world *w, const uint8_t *bytes, size_t length)
{
    struct wire *wire = newest(w);
    if (!wire || wire->fd < 0)
        return;
    if (length > WIRE_SIZE - wire->length)
        length = WIRE_SIZE - wire->length;
    ssize_t n = length ? send(wire->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n <= 0)
        return;
    memcpy(wire->bytes + wire->length, bytes, (size_t)n);
    wire->length += (uint32_t)n;
}

static void peer_sends_frame(struct world *w)
{
    static uint8_t bytes[LENGTH_SIZE + NET_FRAME_LIMIT];
    uint32_t length = take(w, 3), there = take(w, 2) * 64;
    for (unsigned i = 0; i < LENGTH_SIZE; i++)
        bytes[i] = (uint8_t)(length >> (8 * (LENGTH_SIZE - 1 - i)));
    for (uint32_t i = 0; i < there && i < NET_FRAME_LIMIT; i++)
        bytes[LENGTH_SIZE + i] = (uint8_t)(i * 7 + length);
    peer_sends(w, bytes, LENGTH_SIZE + (there < NET_FRAME_LIMIT ? there : NET_FRAME_LIMIT));
}

static void helper_sends(struct world *w, int index, int fd)
{
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra = {0};
    struct iovec part = {"words", 5};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    if (w->helper < 0 || w->queued == sizeof(w->queue) / sizeof(w->queue[0]))
        return;
    if (fd >= 0) {
        m.msg_control = &extra;
        m.msg_controllen = sizeof(extra);
        extra.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&extra.header), &fd, sizeof(int));
    }
    if (sendmsg(w->helper, &m, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        w->queue[w->queued++] = index;
}

static void connect_it(struct world *w)
{
    int ends[2];
    if (w->made == CONNECTIONS || w->helper < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return;
    w->wires[w->made] = (struct wire){.fd = ends[0], .bytes = malloc(WIRE_SIZE)};
    assert(w->wires[w->made].bytes);
    helper_sends(w, (int)w->made, ends[1]);
    w->made++;
    close(ends[1]);
}

// The length of the next frame that the peer sent whole; 0 when there is none, UINT32_MAX when what
// is there is no frame.
static uint32_t due(const struct wire *wire)
{
    const uint8_t *p = wire->bytes + wire->taken;
    uint32_t there = wire->length - wire->taken;
    if (there < LENGTH_SIZE)
        return 0;
    uint32_t length = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    if (length == 0 || length > NET_FRAME_LIMIT)
        return UINT32_MAX;
    return there - LENGTH_SIZE >= length ? length : 0;
}

static void check_frame(struct world *w, ssize_t n, size_t room)
{
    assert(w->current >= 0);
    struct wire *wire = &w->wires[w->current];
    uint32_t length = due(wire);
    assert(length != 0 && length != UINT32_MAX);
    size_t whole = NET_HEADER_SIZE + length;
    assert((size_t)n == (whole < room ? whole : room));
    for (size_t i = 0; i < (size_t)n; i++)
        assert(w->got[i] == (i < NET_HEADER_SIZE
                                 ? 0
                                 : wire->bytes[wire->taken + LENGTH_SIZE + i - NET_HEADER_SIZE]));
    wire->taken += LENGTH_SIZE + length;
}

static void receive(struct world *w)
{
    size_t first = take(w, 2) % 100, second = take(w, 2);
    size_t third = sizeof(w->got) - first - second;
    const struct iovec iov[3] = {
        {w->got, first}, {w->got + first, second}, {w->got + first + second, third}};
    unsigned count = 1 + (unsigned)(second + first) % 3;
    size_t room = count == 1 ? first : count == 2 ? first + second : sizeof(w->got);
    ssize_t n = w->backend->ops->receive(w->backend, 0, iov, count);
    if (n >= 0) {
        check_frame(w, n, room);
        return;
    }
    assert(n == -EAGAIN);
    if (w->current >= 0) {
        const struct wire *wire = &w->wires[w->current];
        uint32_t length = due(wire);
        assert(length == 0 || length == UINT32_MAX || wire->unsure);
        if (length == UINT32_MAX)
            w->current = -1; // it hangs up
    }
    if (w->queued == 0)
        return;
    int index = w->queue[0];
    memmove(w->queue, w->queue + 1, --w->queued * sizeof(w->queue[0]));
    if (index >= 0)
        w->current = index;
}

static void guest_sends(struct world *w)
{
    static uint8_t frame[NET_FRAME_LIMIT];
    uint8_t header[NET_HEADER_SIZE] = {0};
    size_t length = 14 + take(w, 2) % (NET_FRAME_LIMIT - 14);
    const struct iovec iov[3] = {
        {header, sizeof(header)}, {frame, length / 3}, {frame, length - length / 3}};
    ssize_t n = w->backend->ops->send(w->backend, 0, iov, 3);
    assert(n < 0 || (size_t)n <= LENGTH_SIZE + length);
    // A peer that has gone: the backend may have noticed, with bytes of its still unread.
    if (n < 0 && n != -EAGAIN && w->current >= 0)
        w->wires[w->current].unsure = true;
}

static void end_peer(struct world *w)
{
    struct wire *wire = newest(w);
    uint32_t how = take(w, 1) % 4;
    if (!wire || wire->fd < 0)
        return;
    wire->unsure = true;
    if (how < 3) {
        shutdown(wire->fd, (int)how);
        return;
    }
    close(wire->fd);
    wire->fd = -1;
}

static void peer_reads(struct world *w)
{
    static uint8_t away[1 << 16];
    struct wire *wire = newest(w);
    while (wire && wire->fd >= 0 && recv(wire->fd, away, sizeof(away), MSG_DONTWAIT) > 0)
        continue;
}

static void run_step(struct world *w, enum step step)
{
    switch (step) {
    case STEP_WRITE: {
        size_t length = take(w, 2) % 2048;
        length = length < w->left ? length : w->left;
        peer_sends(w, w->data, length);
        w->data += length;
        w->left -= length;
        break;
    }
    case STEP_REPEAT:
        peer_sends_frame(w);
        break;
    case STEP_RECEIVE:
        receive(w);
        break;
    case STEP_SEND:
        guest_sends(w);
        break;
    case STEP_CONNECT:
        connect_it(w);
        break;
    case STEP_READ:
        peer_reads(w);
        break;
    case STEP_SHUTDOWN:
        end_peer(w);
        break;
    case STEP_SAY:
        helper_sends(w, -1, -1);
        break;
    case STEP_HELPER_ENDS:
        if (w->helper >= 0)
            close(w->helper);
        w->helper = -1;
        break;
    case STEPS:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w; // large
    int ends[2];
    struct error err = {0};
    log_open(-1, LOG_LEVEL_ERROR);
    w = (struct world){.data = data, .left = size, .current = -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return 0;
    w.helper = ends[0];
    int rc = net_stream_create(&w.backend, ends[1], "net0", &err);
    assert(rc == 0);
    connect_it(&w);
    while (w.left > 0)
        run_step(&w, take(&w, 1) % STEPS);
    w.backend->ops->destroy(w.backend);
    for (unsigned i = 0; i < w.made; i++) {
        if (w.wires[i].fd >= 0)
            close(w.wires[i].fd);
        free(w.wires[i].bytes);
    }
    if (w.helper >= 0)
        close(w.helper);
    return 0;
}
