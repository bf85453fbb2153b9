// The console or the log of a machine of this host, for somebody elsewhere; and of a machine
// elsewhere for somebody here. Directly from host to host, inside TLS (PROTOCOL_STREAM):
//
//   caller: {"machine": UUID, "what": "console" | "log" | "vmm-log", "follow": true}
//   host:   {"ok": true}   or   {"error": {"code": "...", "message": "..."}}, and it closes
//
// each a line. What follows is the bytes themselves, both ways with a console.
//
// Threads: the loop's; logs are read by a process of their own (`ferry logs`).
#pragma once

#include <bsd/sys/queue.h>

#include "base/control_server.h"
#include "base/runtime_dir.h"
#include "base/tls.h"
#include "cluster/member/connection.h"

enum { STREAMS_MAX = 64 }; // at a time, of all

struct stream;

struct streams {
    // Set before the start; they stay as they are.
    uv_loop_t *loop;
    const struct runtime_dir *dir;
    const char *program; // ferry
    // To another host's address for clients, as this host; NULL: this cluster has no certificates.
    struct connection *(*dial)(void *context, const char *address,
                               const struct connection_callbacks *callbacks, void *owner);
    // Why a certificate isn't good any more; NULL: it is.
    const char *(*fault)(void *context, const struct tls_subject *subject);
    void *context;
    LIST_HEAD(, stream) all;
    unsigned count;
};

// Serves a connection whose certificate is good.
void streams_accept(struct streams *streams, struct connection *connection,
                    const struct tls_subject *subject);
// The method "vm.stream" of the local socket (docs/cluster.md); `opaque` is the streams.
void streams_call(void *opaque, struct control_request *request, json_t *params);
// To be called a few times a second: ends those that take too long to begin, and those whose
// certificates aren't good any more.
void streams_look(struct streams *streams);
// Ends all. The loop must run on until their handles are closed.
void streams_stop(struct streams *streams);
