// The sockets that a machine's move goes through, made by who asks for it (docs/control.md,
// migrate.start): a machine is shut in a network namespace of its own and makes none itself. A
// socket belongs to the namespace it was made in, so a machine reaches the network through what it
// was given, and only while it has it.
#pragma once

#include <jansson.h>

#include "base/control_client.h"
#include "base/error.h"

enum {
    MOVE_SOCKETS_BESIDE_DATA = 2, // the control connection, and questions after it was lost
    MOVE_SOCKETS_LIMIT = 16 + MOVE_SOCKETS_BESIDE_DATA,
};

// Makes unconnected TCP sockets for a move to `to` (numeric) by that many data connections, appends
// them to `fds` and names them in `params` as "sockets". Nothing happens for a machine of a version
// that makes its own. `fds` has room; the caller closes them after the request, also after a
// failure. 0 or a sentence.
int move_sockets_add(const struct control_client *client, json_t *params, const char *to,
                     unsigned streams, int *fds, unsigned *count, struct error *err);
