// Frames through a stream socket, each behind its length (4 bytes, big-endian), as passt, QEMU and
// other machines speak it.
//
// The socket comes from somebody else, on a control socket (SOCK_SEQPACKET): a message with a
// descriptor is a new connection in place of the one before; one without says in words why there is
// none. Without a connection frames are dropped, as by a cable that isn't plugged in. A peer that
// breaks the format loses its connection.
#pragma once

#include "base/error.h"
#include "devices/net/net_backend.h"

enum { NET_STREAM_TEXT = 200 }; // a message's limit, with its terminating zero

// The control socket belongs to the backend from success on; -EINVAL when it is none. `name` is for
// the log.
int net_stream_create(struct net_backend **backend, int control_fd, const char *name,
                      struct error *err);
