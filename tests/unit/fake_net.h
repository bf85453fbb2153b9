// A net backend over socket pairs for tests: the other ends are the network.
#pragma once

#include "devices/net/net_backend.h"

struct fake_net {
    struct net_backend backend; // first
    int device_fds[NET_QUEUE_PAIRS_LIMIT];
    int network_fds[NET_QUEUE_PAIRS_LIMIT]; // frames with their header
    bool enabled[NET_QUEUE_PAIRS_LIMIT];
    unsigned receive_offloads; // as set last
    bool refuse_offloads, destroyed;
};

void fake_net_init(struct fake_net *fake, unsigned queue_pairs);
void fake_net_free(struct fake_net *fake);
