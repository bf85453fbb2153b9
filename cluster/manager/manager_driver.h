// The manager at work: a thread that reads the store, becomes the manager when there is none, and
// commits what manager_step() says. It runs on every host, so that any can take over.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/manager/manager.h"
#include "cluster/manager/placer.h"
#include "cluster/records/feed.h"

struct manager_driver {
    // Set before the start.
    const char *host;
    struct exchange exchange;
    struct settings_record settings;

    pthread_t thread;
    bool running;
    atomic_bool stop;
    atomic_bool leads;
    // The thread's own.
    struct manager core;
    // Made when it is first needed, of what `placed` of the feed had counted then.
    struct placement *placement;
    uint64_t placement_of;
    bool placement_used; // it has what a step has placed, and may not have been committed
    struct record_view view;
    struct record_feed feed;
    char instance[UUID_TEXT_SIZE];
    char id[UUID_TEXT_SIZE];
    struct manager_changes *changes;
};

int manager_driver_start(struct manager_driver *driver, struct error *err);
void manager_driver_stop(struct manager_driver *driver);
