// Unix sockets of a machine: readable by their owner alone, and the peer's user is checked as well,
// since a mode protects a path but not a descriptor that was handed on.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

// What struct sockaddr_un holds, with the terminating zero.
enum { LOCAL_SOCKET_PATH_LIMIT = 108, LOCAL_SOCKET_BACKLOG = 64 };

// A listening stream socket of mode 0600, non-blocking and close-on-exec. An old socket at `path`
// is replaced: the caller knows that nobody serves it any more. The descriptor, or -errno.
int local_socket_listen(const char *path, struct error *err);
// The same, but clients are refused until somebody calls listen(): for who must make its sockets
// before it can serve.
int local_socket_bind(const char *path, struct error *err);
// Connected and blocking. The descriptor, or -errno.
int local_socket_connect(const char *path, struct error *err);
// The next connection whose peer is this user or root, non-blocking; others are closed. In a user
// namespace that hasn't all users, a peer that isn't in it is taken for root: the modes of the
// socket and of its directory let nobody else connect. The
// descriptor, or -EAGAIN when there is none (or another -errno).
int local_socket_accept(int listen_fd);
// The process at the other end when the connection was made (for a client: who listens); 0 when
// unknown.
pid_t local_socket_peer_pid(int fd);
