// What channel.c has below it: bytes over a socket, and TLS over that.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/tls.h"

// All of it, or -errno (-ETIMEDOUT after the socket's limit). The iovecs may be changed.
int channel_socket_send(int fd, struct iovec *iov, unsigned count);
// At least one byte, `flags` as for recv(); 0 at the end of the stream, -errno. Fails with
// -ETIMEDOUT after `deadline_ns` (CLOCK_MONOTONIC, 0 for none) too.
ssize_t channel_socket_receive(int fd, void *out, size_t length, int flags, uint64_t deadline_ns);

// One thread sends and one receives at a time, as with the channel: the two sides of a session
// share nothing once the handshake is done.
struct channel_tls;

// Shakes hands over a connected socket. 0, or a sentence.
int channel_tls_open(struct channel_tls **out, int fd, const struct tls_credentials *credentials,
                     bool server, const char *peer_name, uint64_t deadline_ns, struct error *err);
// Whose certificate the other side has shown; false: none.
bool channel_tls_subject(const struct channel_tls *tls, struct tls_subject *subject);
// NULL is allowed. The descriptor stays open.
void channel_tls_close(struct channel_tls *tls);
void channel_tls_set_deadline(struct channel_tls *tls, uint64_t deadline_ns);
// Whether there are bytes that have left the socket already.
bool channel_tls_has_input(const struct channel_tls *tls);
int channel_tls_send(struct channel_tls *tls, const struct iovec *iov, unsigned count);
ssize_t channel_tls_receive(struct channel_tls *tls, void *out, size_t length);
