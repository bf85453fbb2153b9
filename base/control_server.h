// The transport of the control protocol: one JSON object a line, over a local socket.
//
//   server: {"hello": {"protocol": "1.0", ...}}                  once, first
//   client: {"id": 7, "method": "pause", "params": {...}, "fds": 1}
//   server: {"id": 7, "result": {...}}   or   {"id": 7, "error": {"code": "...", "message": "..."}}
//   server: {"event": "paused", "time": "...", "data": {...}}    to subscribers
//
// "fds" says how many descriptors (SCM_RIGHTS) belong to the request; {"fd": N} in its parameters
// is the one with index N of them. Descriptors form one queue for each connection, in the order
// sent, and a request takes its number from the front: the kernel may hand over the bytes of two
// requests in one piece, so where they arrived can't say whose they are.
//
// Nothing a client does can hurt others: lines, queued output, descriptors, unanswered requests and
// connections are all bounded; who exceeds a bound, or doesn't read, is cut off.
//
// Threads: everything on the main thread.
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/error.h"

#define CONTROL_PROTOCOL "1.0"

enum {
    CONTROL_LINE_LIMIT = 1024 * 1024,       // bytes, without the newline, in both directions
    CONTROL_OUTPUT_LIMIT = 4 * 1024 * 1024, // queued for a client that doesn't read
    CONTROL_FDS_IN_MESSAGE = 32,
    CONTROL_FDS_LIMIT = 64,      // descriptors queued for one connection
    CONTROL_REQUESTS_LIMIT = 64, // unanswered; more are not read until some are answered
    CONTROL_CLIENTS_LIMIT = 64,
};

struct control_server;
struct control_request;

struct control_method {
    const char *name;
    // Answers the request, now or later, by exactly one of the calls below. `params` is an object
    // and lives until the answer.
    void (*call)(void *opaque, struct control_request *request, json_t *params);
};

struct control_service {
    const struct control_method *methods; // ended by one without a name
    const char *const *features;          // named in hello, ended by NULL
    void *opaque;
    const struct control_service *more; // further methods and features; NULL for none
};

// `listen_fd` belongs to the server once this succeeded; `service` outlives it. The methods "hello"
// and "events.subscribe" are the server's own. 0 or -errno with a sentence.
int control_server_create(struct control_server **server, uv_loop_t *loop, int listen_fd,
                          const struct control_service *service, struct error *err);
// Ends all connections. Requests not yet answered are forgotten (answering them later is allowed
// and does nothing). Its handles are gone when the loop has run once more. NULL is allowed.
void control_server_destroy(struct control_server *server);
// Serves somebody who came another way, through `fd` (a connected stream socket, non-blocking,
// which belongs to the server once this succeeded), by the methods of `service`. The same limits
// hold. `gone` is called, with the service's `opaque`, when nothing uses the service any more. 0,
// -EBUSY when there are too many, or -ENOMEM.
int control_server_adopt(struct control_server *server, int fd,
                         const struct control_service *service, void (*gone)(void *opaque));
// Sends an event to the subscribers. Takes `data` over; NULL stands for an empty object.
void control_server_event(struct control_server *server, const char *event, json_t *data);
// Calls `done` once when all that is queued was sent, or after a second; perhaps before it returns.
void control_server_drain(struct control_server *server, void (*done)(void *opaque), void *opaque);

// Answers a request and frees it. Takes `result` over; NULL (from a failed json_pack) is answered
// as lack of memory.
void control_request_reply(struct control_request *request, json_t *result);
// Answers with an error. The codes are listed in docs/control.md.
void control_request_fail(struct control_request *request, const char *code, const char *format,
                          ...) __attribute__((format(printf, 3, 4)));
// The same for an error of the library: the code is derived from its errno.
void control_request_fail_error(struct control_request *request, const struct error *err);
// The descriptor that {"fd": N} names; it belongs to the caller then. -EINVAL with a sentence.
int control_request_take_fd(struct control_request *request, const json_t *value,
                            struct error *err);
