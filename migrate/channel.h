// One connection of a migration: whole messages over TCP, plain or by TLS, blocking, with a time
// limit on silence.
//
// Threads: one thread sends and one receives at a time; channel_shutdown() from any thread makes
// both fail soon. The owner closes it after they are done.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/tls.h"

struct channel_tls;

struct channel {
    int fd;                  // -1 when closed
    uint64_t deadline_ns;    // CLOCK_MONOTONIC; receiving fails after it; 0 = none
    struct channel_tls *tls; // NULL: plain
};

struct channel_address {
    struct sockaddr_storage address;
    socklen_t length;
    bool tls;
    char text[96]; // as it was given, for messages
};

// "tcp://HOST:PORT" or "tls://HOST:PORT", HOST a name, an IPv4 address or an IPv6 one in brackets;
// for listening also "*" or nothing. Looks names up. 0 or a sentence.
int channel_address_parse(const char *text, bool for_listening, struct channel_address *address,
                          struct error *err);
// The same for connecting, but HOST is a number: it never waits for a name server.
int channel_address_parse_numeric(const char *text, struct channel_address *address,
                                  struct error *err);
// As "tcp://NUMBER:PORT" or "tls://NUMBER:PORT".
void channel_address_format(const struct channel_address *address, char *out, size_t size);
// Whether it can be reached from this host alone.
bool channel_address_is_loopback(const struct channel_address *address);
uint16_t channel_address_port(const struct channel_address *address);
void channel_address_set_port(struct channel_address *address, uint16_t port);
// The listening descriptor, or -errno with a sentence. Port 0 takes a free one; `address` has it
// then.
int channel_listen(struct channel_address *address, struct error *err);

// Connects within the limit; -ECANCELED soon after *cancelled (NULL for never) became true. `fd` is
// a socket made by somebody else, which is taken over in any case; -1 makes one. 0 or a sentence.
int channel_connect(struct channel *channel, int fd, const struct channel_address *address,
                    uint64_t limit_ns, const atomic_bool *cancelled, struct error *err);
// Whether `fd` is a TCP socket by which that address can be reached. 0 or a sentence.
int channel_check_socket(int fd, const struct channel_address *address, struct error *err);
// Ends whatever connection or attempt the socket had: it can connect anew. 0 or -errno.
int channel_renew_socket(int fd);
// Takes over a connected descriptor.
void channel_adopt(struct channel *channel, int fd);
// Begins TLS on a connection that has said nothing yet, within the deadline and the limit of
// silence that are set. `peer_name` as for tls_session_open(). 0, or a sentence; the connection is
// of no use then.
int channel_secure(struct channel *channel, const struct tls_credentials *credentials, bool server,
                   const char *peer_name, struct error *err);
// After it: that the other side's certificate is the one that `wanted` says (tls_subject_is()), or
// one of that host. 0 or a sentence.
int channel_check_peer(const struct channel *channel, const char *wanted, struct error *err);
// Send and receive fail with -ETIMEDOUT when nothing moved for this long.
void channel_set_limit(struct channel *channel, uint64_t limit_ns);
// Receive fails with -ETIMEDOUT once this much time has passed from now on, whatever came in
// between: for a peer that nobody knows yet. 0 ends it (and leaves a limit to be set).
void channel_set_deadline(struct channel *channel, uint64_t limit_ns);
// Whether there is something to receive, the end of the stream included; doesn't wait.
bool channel_has_input(const struct channel *channel);
void channel_shutdown(struct channel *channel);
void channel_close(struct channel *channel);

// All of it, or -errno. The iovecs may be changed.
int channel_send(struct channel *channel, struct iovec *iov, unsigned count);
// Bytes that are no frame, for tests of the other side (failure_point.h).
void channel_send_garbage(struct channel *channel);
// All of it, or -errno; -ECONNRESET at the end of the stream.
int channel_receive(struct channel *channel, void *out, size_t length);

// ---- frames: u32 type, u32 length, contents ----

enum { FRAME_HEADER_SIZE = 8 };

// What -errno of an exchange means that was made while something was being done ("waiting for the
// target"): a sentence with what to look at. Returns the code.
int channel_exchange_error(int code, const char *doing, struct error *err);

// Sends a frame. -EMSGSIZE when it is too long, -ENOMEM when the writer had failed.
int channel_send_frame(struct channel *channel, uint32_t type, const struct byte_writer *contents);
// A frame's header. 0 or -errno.
int channel_receive_header(struct channel *channel, uint32_t *type, uint32_t *length);
// A whole frame of at most `limit` bytes into `buffer` (which is reset). 0, -EMSGSIZE, -errno.
int channel_receive_frame(struct channel *channel, size_t limit, uint32_t *type,
                          struct byte_writer *buffer);
