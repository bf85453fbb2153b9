// virtio-net (virtio 1.2, 5.1): a network card whose frames go through a net backend, with as many
// queue pairs as the backend has.
#pragma once

#include "devices/net/net_backend.h"
#include "devices/rate_limiter.h"
#include "devices/virtio/virtio.h"

struct virtio_net_config {
    struct net_backend *backend; // owned by the device from a successful create on
    uint8_t mac[6];
    struct rate_limits limits;
};

int virtio_net_create(struct device **device, const struct virtio_environment *env,
                      const struct virtio_net_config *config, struct error *err);
// Plugs the cable in or out; frames are dropped while it is out. On the main thread.
void virtio_net_set_link(struct device *device, bool up);
// Whether it is in. On the main thread.
bool virtio_net_link_is_up(struct device *device);
// Asks the guest's driver to announce its addresses, after a move. On the main thread. False when
// the driver can't, so that somebody else has to.
bool virtio_net_announce(struct device *device);
// Tells the network in the guest's place where the card is: one frame. On the main thread.
void virtio_net_announce_for_guest(struct device *device);

// Frames that didn't reach the guest, or the network. Any thread.
struct virtio_net_drops {
    uint64_t received, sent;
};
void virtio_net_drops(const struct device *device, struct virtio_net_drops *drops);

// Frames count as operations, large ones that are cut later as one. The limits hold for each
// direction by itself; what doesn't come in waits at the backend. On the main thread; 0 or -errno.
int virtio_net_set_limits(struct device *device, const struct rate_limits *limits);
// How often frames had to wait for the limits. Any thread.
uint64_t virtio_net_throttled(const struct device *device);
