// The host's lease at work: a thread of its own that registers this host, renews it, and hands each
// deadline on to the machines here, over connections of its own. It waits for nothing but the
// store's answer to its renewal; machines are written to without waiting.
//
// The lock guards what the agent's thread and this one share, and is held for copies only.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/agent/agent.h"
#include "cluster/agent/renewal.h"
#include "cluster/records/exchange.h"

struct lease_target {
    char uuid[UUID_TEXT_SIZE];
    uint64_t epoch;
};

struct lease_link; // to a machine

struct host_lease {
    // Set before the start.
    const char *host, *identity, *boot_id;
    const char *runtime_dir; // where the machines' control sockets are
    struct exchange exchange;
    struct settings_record settings;

    pthread_t thread;
    bool running;
    atomic_bool stop;
    pthread_mutex_t lock;
    // Guarded by it.
    struct agent_self self;         // incarnation 0: not registered
    char trouble[RECORD_TEXT_SIZE]; // why it isn't
    struct lease_target *targets;
    size_t target_count, target_room;
    char learned[2048]; // addresses of other members, as the agent has read them

    // The thread's own.
    struct renewal renewal;
    struct lease_link *links;
};

int host_lease_start(struct host_lease *lease, struct error *err);
void host_lease_stop(struct host_lease *lease);
// What is known now.
void host_lease_self(struct host_lease *lease, struct agent_self *self,
                     char trouble[RECORD_TEXT_SIZE]);
// Which machines get deadlines from now on. Copied. 0 or -ENOMEM (then the old ones).
int host_lease_set_targets(struct host_lease *lease, const struct lease_target *targets,
                           size_t count);
