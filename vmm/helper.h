// Helper processes: what a machine needs done by name while it runs (a socket to connect to, a
// program to start), after it has shut itself in. A helper is forked before that, knows only what
// it was given then, and ends when the machine's end of its socket closes. It inherits no other
// descriptor: a disk's lock would live on in it.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { HELPER_EXTRA_FD = 4 };

// Runs body(socket, opaque) in a process of its own, which ends when that returns; *socket is the
// machine's end, SOCK_SEQPACKET, close-on-exec and non-blocking. Call before there are threads.
// `extra_fd`
// (-1 for none) is HELPER_EXTRA_FD there. The process is nobody's child to wait for. 0 or a
// sentence.
int helper_start(const char *name, void (*body)(int socket, const void *opaque), const void *opaque,
                 int extra_fd, int *socket, struct error *err);
// Sends a message with a descriptor (-1 for none). 0 or -errno.
int helper_send(int socket, const void *message, size_t length, int fd);

// For virtio-vsock: connects to PATH_PORT whenever asked (devices/virtio/virtio_vsock.h).
int helper_vsock_start(const char *path, int *socket, struct error *err);

// For networks over a stream (devices/net/net_stream.h), each brings a connection and, when that
// has ended, the next one.
//
// passt, started for each connection: `forwards` are words "tcp=SPEC" or "udp=SPEC" with commas
// between them, "" for none. -ENOENT with a sentence when passt isn't installed.
int helper_passt_start(const char *forwards, int *socket, struct error *err);
// A Unix socket: connects to it, again and again until somebody listens; or listens itself.
int helper_stream_start(const char *path, bool listens, int *socket, struct error *err);
// The same for a disk of an NBD server (devices/block/block_nbd.h): -EINVAL with a sentence when
// `address` is none. It says why there is no connection once an attempt.
int helper_nbd_start(const char *address, int *socket, struct error *err);
