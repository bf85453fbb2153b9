// The manager at work: a thread that reads the store, becomes the manager when there is none, and
// commits what manager_step() says. It runs on every host, so that any can take over.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/manager/manager.h"
#include "cluster/manager/placer.h"
#include "cluster/records/exchange.h"

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
    struct placement *placement; // of the step under way
    struct record_view view;
    char instance[UUID_TEXT_SIZE];
    char id[UUID_TEXT_SIZE];
    struct manager_changes *changes;
};

int manager_driver_start(struct manager_driver *driver, struct error *err);
void manager_driver_stop(struct manager_driver *driver);
