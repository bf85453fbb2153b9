#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/units.h"
#include "cluster/member/connection_internal.h"

static void flush(struct connection *c);
static void fail(struct connection *c, const char *reason);

bool connection_address_split(const char *address, char host[256], char port[16])
{
    const char *colon = strrchr(address, ':');
    const char *end = colon;
    uint64_t number;
    if (!colon || colon == address || !colon[1] || strlen(colon + 1) >= 16)
        return false;
    if (address[0] == '[') {
        if (colon[-1] != ']')
            return false;
        address++;
        end--;
    }
    if (end <= address || end - address >= 256)
        return false;
    // getaddrinfo() takes larger ones, too, modulo 65536.
    if (units_parse_number(colon + 1, UINT16_MAX, &number) != 0)
        return false;
    memcpy(host, address, (size_t)(end - address));
    host[end - address] = 0;
    strcpy(port, colon + 1);
    return true;
}

long connection_frame_check(const uint8_t *bytes, size_t length, uint16_t *type)
{
    if (length < CONNECTION_HEADER)
        return 0;
    uint32_t payload = bytes_get_u32(bytes);
    if (bytes_get_u16(bytes + 8) != CONNECTION_VERSION)
        return -EPROTONOSUPPORT;
    if (payload > CONNECTION_FRAME_MAX)
        return -EBADMSG;
    size_t total = CONNECTION_HEADER + (size_t)payload;
    if (length < total)
        return 0;
    if (crc32c(0, bytes + 8, total - 8) != bytes_get_u32(bytes + 4))
        return -EBADMSG;
    *type = bytes_get_u16(bytes + 10);
    return (long)total;
}

// --- Sets
// -------------------------------------------------------------------------------------------

static void flush_all(uv_prepare_t *prepare)
{
    struct connection_set *set = prepare->data;
    if (set->before_flush)
        set->before_flush(set->context);
    while (set->dirty) {
        struct connection *c = set->dirty;
        set->dirty = c->next_dirty;
        c->is_dirty = false;
        if (c->broken)
            fail(c, c->broken_reason);
        else
            flush(c);
    }
}

int connection_set_init(struct connection_set *set, uv_loop_t *loop)
{
    *set = (struct connection_set){.loop = loop};
    int error = uv_prepare_init(loop, &set->flush);
    if (error)
        return error;
    set->flush.data = set;
    return uv_prepare_start(&set->flush, flush_all);
}

void connection_set_close(struct connection_set *set, uv_close_cb closed)
{
    while (set->all)
        connection_close(set->all);
    uv_close((uv_handle_t *)&set->flush, closed);
}

static void make_dirty(struct connection *c)
{
    if (c->is_dirty || c->closing)
        return;
    c->is_dirty = true;
    c->next_dirty = c->set->dirty;
    c->set->dirty = c;
}

static void break_off(struct connection *c, const char *reason)
{
    if (!c->broken) {
        c->broken = true;
        if (!c->broken_reason)
            c->broken_reason = reason;
    }
    make_dirty(c);
}

static struct connection *connection_create(struct connection_set *set,
                                            const struct connection_callbacks *callbacks,
                                            void *owner)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->set = set;
    c->callbacks = callbacks;
    c->owner = owner;
    c->uv.handle.data = c;
    byte_writer_init(&c->out);
    byte_writer_init(&c->wire);
    byte_writer_init(&c->sending);
    byte_writer_init(&c->in);
    return c;
}

static void link_in(struct connection *c)
{
    c->next = c->set->all;
    c->previous = &c->set->all;
    if (c->next)
        c->next->previous = &c->next;
    c->set->all = c;
}

static void connection_free(struct connection *c)
{
    byte_writer_free(&c->out);
    byte_writer_free(&c->wire);
    byte_writer_free(&c->sending);
    byte_writer_free(&c->in);
    free(c);
}

static void handle_closed(uv_handle_t *handle)
{
    struct connection *c = handle->data;
    // A look-up of the name that is still under way frees it when it ends.
    if (!c->resolving_now)
        connection_free(c);
    else
        c->uv.handle.data = NULL;
}

void connection_close(struct connection *c)
{
    if (c->closing)
        return;
    c->closing = true;
    *c->previous = c->next;
    if (c->next)
        c->next->previous = c->previous;
    for (struct connection **p = &c->set->dirty; *p; p = &(*p)->next_dirty) {
        if (*p == c) {
            *p = c->next_dirty;
            break;
        }
    }
    if (c->resolving_now)
        uv_cancel((uv_req_t *)&c->resolving);
    // Not with the rest, which waits for the loop: the credentials may be gone by then.
    tls_session_free(c->tls);
    c->tls = NULL;
    uv_close(&c->uv.handle, handle_closed);
}

static void fail(struct connection *c, const char *reason)
{
    if (c->closing)
        return;
    void (*closed)(void *, struct connection *, const char *) = c->callbacks->closed;
    void *owner = c->owner;
    connection_close(c);
    closed(owner, c, reason ? reason : "broken");
}

static void shut(uv_shutdown_t *request, int status)
{
}

void connection_shut(struct connection *c)
{
    if (!c->closing && c->connected)
        uv_shutdown(&c->shutting, &c->uv.stream, shut);
}

static void ignore_closed(void *owner, struct connection *c, const char *reason)
{
}

void connection_finish(struct connection *c)
{
    // flush() may fail, and would tell the owner.
    static const struct connection_callbacks nobody = {.closed = ignore_closed};
    connection_set_owner(c, NULL, &nobody);
    flush(c);
    connection_close(c);
}

void connection_set_owner(struct connection *c, void *owner,
                          const struct connection_callbacks *callbacks)
{
    c->owner = owner;
    c->callbacks = callbacks;
}

// --- Writing
// ----------------------------------------------------------------------------------------

void connection_send2(struct connection *c, uint16_t type, const void *head, size_t head_length,
                      const void *rest, size_t rest_length)
{
    struct byte_writer *w = &c->out;
    size_t start = w->length;
    if (c->closing)
        return;
    byte_writer_u32(w, (uint32_t)(head_length + rest_length));
    byte_writer_u32(w, 0);
    byte_writer_u16(w, CONNECTION_VERSION);
    byte_writer_u16(w, type);
    byte_writer_bytes(w, head, head_length);
    byte_writer_bytes(w, rest, rest_length);
    if (w->failed || head_length + rest_length > CONNECTION_FRAME_MAX) {
        break_off(c, "out of memory, or a frame too large");
        return;
    }
    byte_writer_patch_u32(w, start + 4, crc32c(0, w->data + start + 8, w->length - start - 8));
    make_dirty(c);
}

void connection_send(struct connection *c, uint16_t type, const void *payload, size_t length)
{
    connection_send2(c, type, payload, length, NULL, 0);
}

void connection_send_bytes(struct connection *c, const void *bytes, size_t length)
{
    byte_writer_bytes(&c->out, bytes, length);
    if (c->out.failed)
        break_off(c, "out of memory");
    else
        make_dirty(c);
}

size_t connection_queued(const struct connection *c)
{
    return c->out.length + c->wire.length + c->sending.length;
}

static void forget_sent(struct byte_writer *w)
{
    byte_writer_reset(w);
    if (w->capacity > (1 << 20)) // don't keep the memory of one large answer
        byte_writer_free(w);
}

static void written(uv_write_t *request, int status)
{
    struct connection *c = request->data;
    c->in_flight = false;
    forget_sent(&c->sending);
    if (c->closing)
        return;
    if (status < 0)
        fail(c, uv_strerror(status));
    else
        make_dirty(c);
}

static void flush(struct connection *c)
{
    if (!c->connected || c->in_flight || c->closing)
        return;
    if (c->tls && c->ready && tls_session_send(c->tls)) {
        fail(c, "TLS can't send");
        return;
    }
    struct byte_writer *from = c->tls ? &c->wire : &c->out;
    if (from->length == 0)
        return;
    // Mostly there is room for all of it, and then the loop has nothing more to do with it.
    uv_buf_t all = uv_buf_init((char *)from->data, (unsigned)from->length);
    int sent = uv_try_write(&c->uv.stream, &all, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
        fail(c, uv_strerror(sent));
        return;
    }
    if (sent > 0 && (size_t)sent == from->length) {
        forget_sent(from);
        return;
    }
    if (sent > 0) {
        memmove(from->data, from->data + sent, from->length - (size_t)sent);
        from->length -= (size_t)sent;
    }
    struct byte_writer empty = c->sending;
    c->sending = *from;
    *from = empty;
    uv_buf_t buffer = uv_buf_init((char *)c->sending.data, (unsigned)c->sending.length);
    c->writing.data = c;
    int error = uv_write(&c->writing, &c->uv.stream, &buffer, 1, written);
    if (error)
        fail(c, uv_strerror(error));
    else
        c->in_flight = true;
}

// --- Reading
// ----------------------------------------------------------------------------------------

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct connection *c = handle->data;
    *buffer = uv_buf_init((char *)c->buffer, sizeof(c->buffer));
}

static void deliver_bytes(struct connection *c)
{
    struct byte_writer all = c->in;
    if (!all.length || c->closing || c->paused)
        return;
    // Out of the way: the owner may close it meanwhile, or become another one.
    byte_writer_init(&c->in);
    c->callbacks->bytes(c->owner, c, all.data, all.length);
    byte_writer_free(&all);
}

static void deliver(struct connection *c)
{
    size_t taken = 0;
    if (c->callbacks->bytes) {
        deliver_bytes(c);
        return;
    }
    while (!c->closing && !c->paused) {
        uint16_t type;
        const uint8_t *bytes = c->in.data + taken;
        long length = connection_frame_check(bytes, c->in.length - taken, &type);
        if (length == 0)
            break;
        if (length < 0) {
            fail(c, length == -EPROTONOSUPPORT ? "another version of the protocol"
                                               : "a damaged frame");
            return;
        }
        taken += (size_t)length;
        if (!c->callbacks->frame(c->owner, c, type, bytes + CONNECTION_HEADER,
                                 (size_t)length - CONNECTION_HEADER)) {
            fail(c, "an unacceptable frame");
            return;
        }
    }
    if (c->closing || taken == 0)
        return;
    memmove(c->in.data, c->in.data + taken, c->in.length - taken);
    c->in.length -= taken;
}

static bool become_ready(struct connection *c)
{
    if (c->tls) {
        int state = tls_session_handshake(c->tls);
        make_dirty(c);
        if (state < 0) {
            flush(c); // the alert
            fail(c, c->broken_reason);
        }
        if (state <= 0)
            return false;
    }
    c->ready = true;
    make_dirty(c);
    if (c->callbacks->ready)
        c->callbacks->ready(c->owner, c);
    return !c->closing;
}

static void received(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer)
{
    struct connection *c = stream->data;
    if (length == 0)
        return;
    if (length < 0) {
        fail(c, length == UV_EOF ? "closed by the other side" : uv_strerror((int)length));
        return;
    }
    int error = 0;
    if (c->tls) {
        error = tls_session_feed(c->tls, buffer->base, (size_t)length);
        if (!error && !c->ready && !become_ready(c))
            return;
        if (!error)
            error = tls_session_receive(c->tls);
    } else {
        byte_writer_bytes(&c->in, buffer->base, (size_t)length);
        error = c->in.failed ? -ENOMEM : 0;
    }
    deliver(c);
    if (error && !c->closing)
        fail(c, c->broken_reason ? c->broken_reason : strerror(-error));
}

static void start_reading(struct connection *c)
{
    if (c->reading || c->closing)
        return;
    int error = uv_read_start(&c->uv.stream, allocate, received);
    if (error)
        break_off(c, uv_strerror(error));
    else
        c->reading = true;
}

void connection_pause(struct connection *c, bool paused)
{
    if (c->paused == paused || c->closing || !c->connected)
        return;
    c->paused = paused;
    if (paused) {
        uv_read_stop(&c->uv.stream);
        c->reading = false;
    } else {
        start_reading(c);
        deliver(c);
    }
}

// --- The other side
// ---------------------------------------------------------------------------------

bool connection_is_ready(const struct connection *c)
{
    return c->ready;
}

bool connection_is_remote(const struct connection *c)
{
    return c->uv.handle.type == UV_TCP;
}

const char *connection_peer_address(const struct connection *c)
{
    return c->address;
}

// Once: when it is closed nobody can be asked any more.
static void note_address(struct connection *c)
{
    struct sockaddr_storage address;
    int length = sizeof(address);
    char host[48] = "?";
    strcpy(c->address, "?");
    if (c->uv.handle.type != UV_TCP ||
        uv_tcp_getpeername(&c->uv.tcp, (struct sockaddr *)&address, &length))
        return;
    uv_ip_name((struct sockaddr *)&address, host, sizeof(host));
    bool v6 = address.ss_family == AF_INET6;
    uint16_t port = v6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                       : ((struct sockaddr_in *)&address)->sin_port;
    snprintf(c->address, sizeof(c->address), "%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "",
             ntohs(port));
}

// --- Beginning
// --------------------------------------------------------------------------------------

static void begin(struct connection *c)
{
    c->connected = true;
    note_address(c);
    if (c->uv.handle.type == UV_TCP)
        uv_tcp_nodelay(&c->uv.tcp, 1);
    start_reading(c);
    if (!c->tls || !c->ready)
        become_ready(c);
}

struct connection *connection_accept(struct connection_set *set, uv_stream_t *listener,
                                     const struct tls_credentials *tls,
                                     const struct connection_callbacks *callbacks, void *owner)
{
    struct connection *c = connection_create(set, callbacks, owner);
    if (!c)
        return NULL;
    int error = listener->type == UV_TCP ? uv_tcp_init(set->loop, &c->uv.tcp)
                                         : uv_pipe_init(set->loop, &c->uv.pipe, 0);
    if (error) {
        connection_free(c);
        return NULL;
    }
    c->uv.handle.data = c;
    link_in(c);
    if (tls && listener->type == UV_TCP)
        error = tls_session_create(c, tls, true);
    if (!error)
        error = uv_accept(listener, &c->uv.stream);
    if (error) {
        connection_close(c);
        return NULL;
    }
    c->connected = true;
    note_address(c);
    if (c->uv.handle.type == UV_TCP)
        uv_tcp_nodelay(&c->uv.tcp, 1);
    c->ready = !c->tls; // whoever accepts is told of the first frame, not of readiness
    start_reading(c);
    return c;
}

static void connected(uv_connect_t *request, int status)
{
    struct connection *c = request->data;
    if (c->closing)
        return;
    if (status < 0)
        fail(c, uv_strerror(status));
    else
        begin(c);
}

static void resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct connection *c = request->data;
    c->resolving_now = false;
    if (c->closing) {
        uv_freeaddrinfo(found);
        if (!c->uv.handle.data)
            connection_free(c);
        return;
    }
    if (status == 0) {
        c->connecting.data = c;
        status = uv_tcp_connect(&c->connecting, &c->uv.tcp, found->ai_addr, connected);
    }
    uv_freeaddrinfo(found);
    if (status < 0)
        fail(c, uv_strerror(status));
}

struct connection *connection_dial(struct connection_set *set, const char *address,
                                   const struct tls_credentials *tls,
                                   const struct connection_callbacks *callbacks, void *owner)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char host[256], port[16];
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    if (!is_unix && !connection_address_split(address, host, port))
        return NULL;
    struct connection *c = connection_create(set, callbacks, owner);
    if (!c)
        return NULL;
    int error =
        is_unix ? uv_pipe_init(set->loop, &c->uv.pipe, 0) : uv_tcp_init(set->loop, &c->uv.tcp);
    if (error) {
        connection_free(c);
        return NULL;
    }
    c->uv.handle.data = c;
    link_in(c);
    if (tls && !is_unix)
        error = tls_session_create(c, tls, false);
    c->connecting.data = c;
    c->resolving.data = c;
    if (!error && is_unix) {
        uv_pipe_connect(&c->connecting, &c->uv.pipe, address + 5, connected);
    } else if (!error) {
        error = uv_getaddrinfo(set->loop, &c->resolving, resolved, host, port, &hints);
        c->resolving_now = error == 0;
    }
    if (error) {
        connection_close(c);
        return NULL;
    }
    return c;
}

// --- Listening
// --------------------------------------------------------------------------------------

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

void connection_unlisten(uv_stream_t *listener)
{
    if (listener)
        uv_close((uv_handle_t *)listener, free_handle);
}

static int listen_tcp(uv_tcp_t *tcp, const char *address, struct error *err)
{
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    if (!connection_address_split(address, host, port))
        return error_set(err, EINVAL, "'%s': not an address of the form HOST:PORT or unix:PATH",
                         address);
    int code = getaddrinfo(host, port, &hints, &found);
    if (code)
        return error_set(err, EINVAL, "'%s': %s", address, gai_strerror(code));
    code = uv_tcp_bind(tcp, found->ai_addr, 0);
    freeaddrinfo(found);
    if (code)
        return error_set(err, -code, "'%s': can't be bound: %s", address, uv_strerror(code));
    return 0;
}

static int listen_unix(uv_pipe_t *pipe, const char *path, struct error *err)
{
    unlink(path); // the directory's lock says that no other member lives here
    mode_t mask = umask(0177);
    int code = uv_pipe_bind(pipe, path);
    umask(mask);
    if (code)
        return error_set(err, -code, "'unix:%s': can't be bound: %s", path, uv_strerror(code));
    return 0;
}

int connection_listen(uv_loop_t *loop, const char *address, uv_connection_cb callback, void *data,
                      uv_stream_t **listener, struct error *err)
{
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    uv_stream_t *stream = calloc(1, is_unix ? sizeof(uv_pipe_t) : sizeof(uv_tcp_t));
    if (!stream)
        return error_set(err, ENOMEM, "out of memory");
    int code = is_unix ? uv_pipe_init(loop, (uv_pipe_t *)stream, 0)
                       : uv_tcp_init(loop, (uv_tcp_t *)stream);
    if (code) {
        free(stream);
        return error_set(err, -code, "'%s': %s", address, uv_strerror(code));
    }
    stream->data = data;
    int error = is_unix ? listen_unix((uv_pipe_t *)stream, address + 5, err)
                        : listen_tcp((uv_tcp_t *)stream, address, err);
    if (!error) {
        code = uv_listen(stream, 128, callback);
        if (code)
            error = error_set(err, -code, "'%s': can't listen: %s", address, uv_strerror(code));
    }
    if (error) {
        connection_unlisten(stream);
        return error;
    }
    *listener = stream;
    return 0;
}
