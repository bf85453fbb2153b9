// A simulated process: it is up or down, may be stopped for a while (SIGSTOP, a swapped-out host),
// and has a clock that runs too fast or too slow. While it is paused its packets wait in its inbox,
// as they do in a socket's buffer, and its ticks are missed. Nothing here knows what the process
// does.
#pragma once

#include "network.h"

#define SIM_HOST_INBOX 512 // packets that wait for a paused process; more are lost

struct sim_host;

struct sim_host_ops {
    void (*packet)(struct sim_host *host, const struct sim_packet *packet);
    void (*tick)(struct sim_host *host);
};

struct sim_host {
    struct sim_events *events;
    struct sim_network *network;
    const struct sim_host_ops *ops;
    unsigned node;
    bool up, paused;
    uint32_t incarnation; // counts starts; events of an earlier life are stale
    int32_t drift_ppm;    // how much faster than true time its clock runs
    sim_time tick_length; // by its own clock
    sim_time paused_at;
    struct sim_packet *inbox, **inbox_end;
    unsigned inbox_count;
};

void sim_host_init(struct sim_host *host, struct sim_events *events, struct sim_network *network,
                   unsigned node, const struct sim_host_ops *ops);

// Starts the process; its ticks come every `tick_length` by its own clock, the first at a random
// part of one.
void sim_host_start(struct sim_host *host, sim_time tick_length, struct sim_random *random);

// The process is gone: packets for it are lost from now on.
void sim_host_stop(struct sim_host *host);

void sim_host_pause(struct sim_host *host);

// Goes on: first the waiting packets or first the missed ticks, as asked; at most `missed_max` of
// the ticks are made up for. The process may crash in any of these.
void sim_host_resume(struct sim_host *host, bool ticks_first, unsigned missed_max);

// For the network's deliver callback.
void sim_host_receive(struct sim_host *host, struct sim_packet *packet);
