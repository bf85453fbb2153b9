// The other end of a control socket, or of ferryd's over TLS, for programs that may wait: the
// command line and tests.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct control_client;
struct tls_stream;

// Connects and takes the hello; a server of another major protocol is refused. 0 or a sentence.
int control_client_connect(struct control_client **client, const char *path, int timeout_ms,
                           struct error *err);
// The same by a stream, which it takes over whatever comes of it. -EACCES when the other side
// refused to serve: with its reason.
int control_client_begin(struct control_client **client, struct tls_stream *stream, int timeout_ms,
                         struct error *err);
void control_client_close(struct control_client *client);
// Whether its hello named that feature (docs/control.md).
bool control_client_has_feature(const struct control_client *client, const char *feature);

// Sends a request and waits for its answer; events that come meanwhile are kept. Takes `params`
// over (NULL for none). The descriptors stay the caller's. The answer is a new object; `result` may
// be NULL. -EREMOTEIO with the server's sentence when it answered with an error, -ETIMEDOUT,
// -ECONNRESET when the server is gone. A timeout of -1 waits for ever.
int control_client_call(struct control_client *client, const char *method, json_t *params,
                        const int *fds, unsigned fd_count, int timeout_ms, json_t **result,
                        struct error *err);
// The next event, after events.subscribe: a new object. -ETIMEDOUT, -ECONNRESET.
int control_client_next_event(struct control_client *client, int timeout_ms, json_t **event,
                              struct error *err);
// The server's process; 0 where it isn't on this host.
pid_t control_client_peer_pid(const struct control_client *client);
