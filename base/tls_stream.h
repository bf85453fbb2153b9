// A stream by TLS to somebody who listens, for programs that may wait: the command line and tests.
//
// Deadlines are on CLOCK_MONOTONIC, in nanoseconds; UINT64_MAX waits for ever.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/tls.h"

struct tls_stream;

// Connects to the first address of `host` that answers, and speaks `protocol` (ALPN) there, which
// the other side has to offer; the credentials outlive the stream. 0; -ETIMEDOUT, -ECONNREFUSED and
// others of the network; -EPROTO when TLS failed, or the other side speaks no such protocol; with a
// sentence.
int tls_stream_dial(struct tls_stream **stream, const char *host, const char *port,
                    const struct tls_credentials *credentials, const char *protocol,
                    uint64_t deadline_ns, struct error *err);
void tls_stream_close(struct tls_stream *stream);

// At least one byte; 0 at the end. -ETIMEDOUT, -ECONNRESET, or -EPROTO: tls_stream_fault() says
// why.
ssize_t tls_stream_read(struct tls_stream *stream, void *bytes, size_t length,
                        uint64_t deadline_ns);
// All of it: 0, or as above.
int tls_stream_write(struct tls_stream *stream, const void *bytes, size_t length,
                     uint64_t deadline_ns);
// Why TLS failed, for people; "" if it didn't. In TLS 1.3 a refusal of the own certificate is only
// seen by the first reading.
const char *tls_stream_fault(const struct tls_stream *stream);
// To be polled for reading, when tls_stream_has_more() says that nothing is left to be read.
int tls_stream_descriptor(const struct tls_stream *stream);
bool tls_stream_has_more(const struct tls_stream *stream);

// "HOST:PORT" or "[V6]:PORT"; false for anything else.
enum { TLS_STREAM_HOST_SIZE = 256, TLS_STREAM_PORT_SIZE = 16 };
bool tls_stream_address(const char *address, char host[TLS_STREAM_HOST_SIZE],
                        char port[TLS_STREAM_PORT_SIZE]);
