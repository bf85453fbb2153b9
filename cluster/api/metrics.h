// What a monitor asks for: GET /metrics over plain HTTP on a port of its own, in Prometheus' text
// format 0.0.4 (docs/cluster.md has the list). Read only, and nothing in it is secret, but it names
// hosts and machines: it listens only where it is told to.
//
// The loop's thread accepts and answers; the store is read by a thread of the pool. What a client
// may cost is bounded: so many at a time, so long, so large a request.
#pragma once

#include <jansson.h>
#include <uv.h>

#include "cluster/agent/agent_driver.h"
#include "cluster/api/api.h"

struct metrics_connection;

struct metrics {
    // Set before the start; they stay as they are.
    const struct api *api;
    const struct agent_driver *agent;
    const atomic_bool *manages;

    uv_loop_t *loop;
    uv_tcp_t listener;
    bool listening;
    unsigned connections;
    struct metrics_connection *list;
};

// At "HOST:PORT", HOST being a number. 0 or a sentence.
int metrics_start(struct metrics *metrics, uv_loop_t *loop, const char *address, struct error *err);
// Closes everything; the loop must run on until it is done. Also when it wasn't started.
void metrics_stop(struct metrics *metrics);

// What this host's daemon counts itself.
struct metrics_own {
    const char *host;
    bool manages;
    uint64_t starts, moves_done, moves_aborted;
};

// The text: of a view (NULL: the store couldn't be read) and of what the member says of itself
// (NULL). To be freed; NULL without memory.
char *metrics_text(const struct metrics_own *own, const struct record_view *view,
                   const json_t *member);
