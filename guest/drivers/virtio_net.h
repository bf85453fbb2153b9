// virtio-net (virtio 1.2, 5.1), one pair of queues.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/drivers/virtio.h"

enum {
    NET_QUEUE = 256,
    NET_HEADER = 12,
    NET_BUFFER = 4096,
    NET_FRAME_MAX = NET_BUFFER - NET_HEADER,
    NET_BIG_FRAME = 65536 - NET_HEADER, // what net_frame_begin gives room for with segmentation
};

struct net {
    struct virtio_device device;
    struct virtqueue receive, transmit;
    uint8_t mac[6];
    uint16_t mtu;
    bool segments; // TCP segmentation by the device was agreed on, both ways
    bool merges;   // a received frame may lie in several buffers
    uint32_t room; // of a transmit buffer
    uint8_t *free_frames[NET_QUEUE];
    unsigned free_count;
};

struct net_frame {
    uint8_t *bytes; // the part in the first buffer
    uint32_t size;  // of that part
    uint32_t total; // of the whole frame
    void *buffers[17];
    unsigned buffer_count;
};

// Opens the index-th card, with `gso=1` on the command line for large frames if the device can
// segment them.
bool net_open(struct net *net, unsigned index);

// Takes a received frame; give it back with net_release. False when there's none.
bool net_receive(struct net *net, struct net_frame *frame);
void net_release(struct net *net, const struct net_frame *frame);

// Room for a frame to send; NULL when all are in flight. Send it or it's lost.
uint8_t *net_frame_begin(struct net *net);

// Sends a frame begun before. segment != 0: a TCP frame over IPv4 without options, that the device
// cuts into pieces with so many bytes of payload, and whose checksums it fills in. Kick afterwards.
void net_send(struct net *net, uint8_t *frame, uint32_t size, uint16_t segment);
void net_kick(struct net *net);
