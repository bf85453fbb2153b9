// Frames through a tap interface of the host (linux/if_tun.h).
#pragma once

#include "base/error.h"
#include "devices/net/net_backend.h"

// Opens `queues` descriptors (1 .. NET_QUEUE_PAIRS_LIMIT) of the tap `interface`, which is made
// when it doesn't exist and the caller may. 0, or -errno with a sentence and nothing open.
int net_tap_open(const char *interface, unsigned queues, int *fds, struct error *err);
// The interface's MTU; 0 when it can't be found out, which is no harm. Only from within the network
// namespace that it's in.
uint16_t net_tap_mtu(const char *interface);
// A backend over such descriptors; they belong to it from success on. Checks what they are. `mtu`
// is told to the guest, unless it is 0.
int net_tap_create(struct net_backend **backend, const int *fds, unsigned queues, uint16_t mtu,
                   struct error *err);
