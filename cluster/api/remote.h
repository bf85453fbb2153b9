// ferryd's client protocol over the network: whoever speaks PROTOCOL_CONTROL inside TLS at the port
// for clients gets the same lines as by the Unix socket, behind the same limits.
//
// Who it is, is said by the certificate (cluster/member/member_access.c). A client's is good for
// what API_CHANGE or API_READ allows, a host's for API_CHANGE. Whoever isn't let in is told why in
// one line, instead of the hello: {"refused": {"code": "not-allowed", "message": "..."}}.
//
// Threads: the loop's.
#pragma once

#include <bsd/sys/queue.h>

#include "base/tls.h"
#include "cluster/api/api.h"
#include "cluster/api/stream.h"
#include "cluster/member/connection.h"

enum {
    REMOTE_CLIENTS_MAX = 48,     // of all; the rest of CONTROL_CLIENTS_LIMIT is this host's own
    REMOTE_CLIENTS_EACH_MAX = 16 // with one certificate
};

struct remote_client;

struct remote {
    // Set before the start; they stay as they are.
    struct api *api;
    // Why a certificate isn't good any more; NULL: it is.
    const char *(*fault)(void *context, const struct tls_subject *subject);
    void *context;
    struct streams streams; // for whoever speaks PROTOCOL_STREAM
    LIST_HEAD(, remote_client) clients;
    unsigned count;
    uv_timer_t timer;
    bool started;
};

void remote_start(struct remote *remote, uv_loop_t *loop);
// Before api_stop(). The loop must run on until its handles are closed.
void remote_stop(struct remote *remote);
// As member_options.remote. Before the start and after the stop it closes the connection.
void remote_accept(struct remote *remote, struct connection *connection,
                   const struct tls_subject *subject, const char *refusal);
