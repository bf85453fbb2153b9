// The agent at work: a thread that reads the store, looks at the processes here and does what
// agent_machine_step() says, machine by machine.
#pragma once

#include "cluster/agent/host_lease.h"
#include "cluster/agent/local.h"
#include "cluster/records/feed.h"

struct agent_slot; // about one machine

// Since the daemon's start; anybody may read them.
struct agent_counters {
    atomic_ulong starts, moves_done, moves_aborted;
};

struct agent_driver {
    // Set before the start.
    const char *host;
    struct host_record about; // this host, as it will be told to the others; facts are the caller's
    struct host_lease *lease;
    struct exchange exchange;
    struct settings_record settings;
    uint64_t stop_timeout_ns; // from the power button to the kill
    struct local_machines local;
    struct agent_counters counters;

    pthread_t thread;
    bool running;
    atomic_bool stop;
    // The thread's own.
    struct record_view view;
    struct record_feed feed;
    struct agent_slot *slots;
    char trouble[RECORD_TEXT_SIZE];
};

int agent_driver_start(struct agent_driver *driver, struct error *err);
void agent_driver_stop(struct agent_driver *driver);
