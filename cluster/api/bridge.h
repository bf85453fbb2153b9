// Bytes between a connection by TLS and a descriptor of this host, both ways, until either ends.
//
// What one side hasn't taken is bounded: then the other isn't read until it has. Who takes nothing
// for too long is cut off. When one side ends, what it said still reaches the other.
//
// Threads: that of the loop.
#pragma once

#include <uv.h>

#include "cluster/member/connection.h"

struct bridge;

// Takes `connection` over (its callbacks from now on are the bridge's) and `fd` (a stream socket);
// on failure both stay the caller's. `first` is what has come by the connection already. `ended` is
// called once, when both are closed and the bridge is about to be freed; `reason` is for people. 0
// or -errno.
int bridge_create(struct bridge **bridge, uv_loop_t *loop, struct connection *connection, int fd,
                  const void *first, size_t length,
                  void (*ended)(void *context, const char *reason), void *context);
// Ends it now, whatever is still on its way.
void bridge_end(struct bridge *bridge, const char *reason);
