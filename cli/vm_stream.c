#include "cli/vm_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cluster/member/protocol.h"

enum { BEGIN_MS = 15000, LINE_LIMIT = 4096 };

// ---- by this host's ferryd ----

static int open_here(struct vm_stream *stream, const struct common_options *common,
                     const json_t *machine, const char *what, bool follow, struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "a socket");
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:{s:i}}", "host", output_text_of(machine, "host"), "address",
        output_text_of(machine, "address"), "machine", output_text_of(machine, "uuid"), "what",
        what, "follow", follow, "stream", "fd", 0);
    int r = daemon_call_with(common, "vm.stream", params, pair[1], err);
    close(pair[1]);
    if (r)
        close(pair[0]);
    else
        stream->fd = pair[0];
    return r;
}

// ---- with a certificate of our own ----

static bool write_all(int fd, const char *bytes, ssize_t length)
{
    while (length > 0) {
        ssize_t n = send(fd, bytes, (size_t)length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        length -= n;
    }
    return true;
}

// Until either end is closed.
static void *move_bytes(void *opaque)
{
    struct vm_stream *stream = opaque;
    char bytes[16384];
    bool more = true, asks = true;
    while (more) {
        struct pollfd states[] = {{.fd = stream->inner, .events = asks ? POLLIN : 0},
                                  {.fd = tls_stream_descriptor(stream->tls), .events = POLLIN}};
        bool has = tls_stream_has_more(stream->tls);
        if (poll(states, 2, has ? 0 : -1) < 0 && errno != EINTR)
            break;
        if (has || states[1].revents) {
            ssize_t n = tls_stream_read(stream->tls, bytes, sizeof(bytes), UINT64_MAX);
            more = n > 0 && write_all(stream->inner, bytes, n);
        }
        if (more && asks && states[0].revents & POLLIN) {
            ssize_t n = read(stream->inner, bytes, sizeof(bytes));
            asks = n > 0; // what the machine says may still be wanted
            more = n <= 0 || tls_stream_write(stream->tls, bytes, (size_t)n, UINT64_MAX) == 0;
        }
        more = more && !(states[0].revents & (POLLHUP | POLLERR) && !(states[0].revents & POLLIN));
    }
    shutdown(stream->inner, SHUT_RDWR);
    return NULL;
}

static int take_answer(const char *line, struct error *err)
{
    json_t *answer = json_loads(line, 0, NULL);
    const json_t *error = json_object_get(answer, "error");
    int r = 0;
    if (!error)
        error = json_object_get(answer, "refused");
    if (error)
        r = error_set(err, EACCES, "%s", output_text_of(error, "message"));
    else if (!json_is_true(json_object_get(answer, "ok")))
        r = error_set(err, EPROTO, "the answer makes no sense");
    json_decref(answer);
    return r;
}

// Byte by byte: what follows the line is the machine's.
static int read_line(struct tls_stream *tls, char line[LINE_LIMIT], uint64_t end, struct error *err)
{
    size_t length = 0;
    while (length < LINE_LIMIT - 1) {
        ssize_t n = tls_stream_read(tls, line + length, 1, end);
        if (n <= 0)
            return tls_stream_fault(tls)[0]
                       ? error_set(err, EPROTO, "TLS: %s", tls_stream_fault(tls))
                       : error_set_errno(err, n < 0 ? (int)-n : ECONNRESET, "no answer");
        if (line[length] == '\n')
            break;
        length++;
    }
    line[length] = 0;
    return 0;
}

static int ask(struct vm_stream *stream, const json_t *machine, const char *what, bool follow,
               struct error *err)
{
    char line[LINE_LIMIT];
    uint64_t end = clock_monotonic_ns() + BEGIN_MS * (uint64_t)NSEC_PER_MSEC;
    json_t *question = json_pack("{s:s, s:s, s:b}", "machine", output_text_of(machine, "uuid"),
                                 "what", what, "follow", follow);
    char *text = question ? json_dumps(question, JSON_COMPACT) : NULL;
    json_decref(question);
    if (!text)
        return error_set(err, ENOMEM, "out of memory");
    int r = tls_stream_write(stream->tls, text, strlen(text), end);
    if (!r)
        r = tls_stream_write(stream->tls, "\n", 1, end);
    free(text);
    if (r)
        return error_set_errno(err, -r, "asking");
    r = read_line(stream->tls, line, end, err);
    return r ? r : take_answer(line, err);
}

static int open_elsewhere(struct vm_stream *stream, const struct common_options *common,
                          const json_t *machine, const char *what, bool follow, struct error *err)
{
    const char *address = output_text_of(machine, "address");
    int pair[2];
    int r = cluster_access_open(&stream->access, common, err);
    if (!r)
        r = cluster_access_dial(&stream->access, address, PROTOCOL_STREAM, BEGIN_MS, &stream->tls,
                                err);
    if (!r && (r = ask(stream, machine, what, follow, err)))
        error_prefix(err, "%s", address);
    if (r)
        return r;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set_errno(err, errno, "a socket");
    stream->inner = pair[1];
    r = pthread_create(&stream->thread, NULL, move_bytes, stream);
    if (r) {
        close(pair[0]);
        close(pair[1]);
        stream->inner = -1;
        return error_set_errno(err, r, "a thread");
    }
    stream->fd = pair[0];
    return 0;
}

int vm_stream_open(struct vm_stream *stream, const struct common_options *common,
                   const json_t *machine, const char *what, bool follow, struct error *err)
{
    *stream = (struct vm_stream){.fd = -1, .inner = -1};
    return cluster_access_is_elsewhere(common)
               ? open_elsewhere(stream, common, machine, what, follow, err)
               : open_here(stream, common, machine, what, follow, err);
}

void vm_stream_close(struct vm_stream *stream)
{
    if (stream->inner >= 0) {
        pthread_join(stream->thread, NULL);
        close(stream->inner);
    }
    tls_stream_close(stream->tls);
    cluster_access_close(&stream->access);
}
