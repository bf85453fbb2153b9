// Answers the questions of one machine that takes part in a migration (event `migration.ask`) from
// the record in the store: a thread for each such machine, since the guest stands still meanwhile.
#pragma once

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "cluster/agent/agent.h"
#include "cluster/records/exchange.h"

struct arbiter_listener {
    // Set before the start.
    char uuid[UUID_TEXT_SIZE];
    char path[PATH_MAX]; // of its control socket, which may come to be later
    struct exchange exchange;
    atomic_ulong *moves_done, *moves_aborted; // counted where the record is written

    pthread_t thread;
    bool running;
    atomic_bool stop;
};

int arbiter_listener_start(struct arbiter_listener *listener, struct error *err);
// Also when it isn't running.
void arbiter_listener_stop(struct arbiter_listener *listener);
