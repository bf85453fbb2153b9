// A host that is a client of its cluster: it runs machines like others, and holds no log and no
// store (docs/cluster.md). In place of a member it has
//
//   a relay        a Unix socket where the rest of ferryd finds the store, as it would find a
//                  member's: each connection there becomes one to a member, by TLS with this host's
//                  certificate, byte for byte. What is lost on the way is lost for whoever asked,
//                  who treats it as with any other connection: nothing is kept here, or sent twice.
//   a port         for clients: consoles, logs and the client protocol of this host. Whoever asks
//                  for the store there is told where it is.
//   a look         once a second at the leader: the members' addresses, whose certificates are
//                  worth nothing any more, whether this host has been removed. Its own certificate
//                  is renewed that way, too.
//
// Threads: the loop's; each look is a job of its pool.
#pragma once

#include <uv.h>

#include "base/error.h"
#include "cluster/member/member.h"

struct client_host;

// `options` as for a member, without listen_peer; `store` is the relay's path. They stay the
// caller's, and as they are.
int client_host_start(struct client_host **host, uv_loop_t *loop,
                      const struct member_options *options, const char *store, struct error *err);
// As member_certificate_fault() and member_certificate_fault_later().
const char *client_host_certificate_fault(struct client_host *host,
                                          const struct tls_subject *subject);
const char *client_host_certificate_fault_later(struct client_host *host,
                                                const struct tls_subject *subject);
// As member_dial_stream().
struct connection *client_host_dial_stream(struct client_host *host, const char *address,
                                           const struct connection_callbacks *callbacks,
                                           void *owner);
// Closes everything; the loop must run until its handles are closed. Then client_host_free().
void client_host_stop(struct client_host *host);
void client_host_free(struct client_host *host);
