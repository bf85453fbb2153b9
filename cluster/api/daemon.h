// What a host of the cluster runs beside its member of the store: the lease, the agent and the
// manager, each a thread, and the socket for clients.
//
// The threads start once the cluster is set up (`ferry cluster init`). The machines outlive this
// program: whoever starts it again in time finds them running.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#include "base/error.h"

struct connection;
struct connection_callbacks;
struct host_daemon;
struct tls_subject;

struct host_daemon_options {
    const char *host;        // the member's name
    const char *data;        // its directory: the host's identity is kept there
    const char *runtime_dir; // NULL: the default
    const char *boot_id;     // NULL: the kernel's
    json_t *facts;           // of the host (cluster/records/facts.h); a reference is taken
    const char *metrics;     // HOST:PORT of the port for monitors; NULL: none
    const char *witness;     // NULL; for tests (docs/leases.md)
    const char *address;     // where other hosts reach this one's member as clients
    uint32_t cpus;           // 0: as many as there are
    uint64_t memory;         // for machines; 0: what there is, less a quarter
    uint64_t stop_timeout_ns;
    uint64_t election_max_ns;
    const char *certificate, *key, *ca;
    bool own_tls; // the cluster makes them: one of a host is known by the id in it
    // Why a certificate isn't good any more (member_certificate_fault()).
    const char *(*fault)(void *context, const struct tls_subject *subject);
    // As this host, to another's address for clients (member_dial_stream()).
    struct connection *(*dial)(void *context, const char *address,
                               const struct connection_callbacks *callbacks, void *owner);
    void *context;
};

// Takes the host's lock, and makes what is needed before the member starts. `store` is set to the
// address ("unix:...") at which the member must listen, besides all others, for this daemon.
int host_daemon_create(struct host_daemon **daemon, uv_loop_t *loop,
                       const struct host_daemon_options *options, const char **store,
                       struct error *err);
// After the member has started, or `client_host` what stands in its place: then this host manages
// nothing, and has no member to tell of.
int host_daemon_start(struct host_daemon *daemon, bool client_host, struct error *err);
// As member_options.remote, with the daemon as its context.
void host_daemon_accept(void *daemon, struct connection *connection,
                        const struct tls_subject *subject, const char *refusal);
// Ends the threads, while the member still answers them, and calls stopped(). The loop must run on
// until its handles are closed. Then free.
void host_daemon_stop(struct host_daemon *daemon, void (*stopped)(void *context), void *context);
void host_daemon_free(struct host_daemon *daemon);
