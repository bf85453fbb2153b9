// virtio-net, inside: the device and its receiving half. The interface for others is virtio_net.h.
#pragma once

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_net.h"

#define NET_F_CSUM           VIRTIO_FEATURE(0)
#define NET_F_GUEST_CSUM     VIRTIO_FEATURE(1)
#define NET_F_MTU            VIRTIO_FEATURE(3)
#define NET_F_MAC            VIRTIO_FEATURE(5)
#define NET_F_GUEST_TSO4     VIRTIO_FEATURE(7)
#define NET_F_GUEST_TSO6     VIRTIO_FEATURE(8)
#define NET_F_GUEST_ECN      VIRTIO_FEATURE(9)
#define NET_F_HOST_TSO4      VIRTIO_FEATURE(11)
#define NET_F_HOST_TSO6      VIRTIO_FEATURE(12)
#define NET_F_HOST_ECN       VIRTIO_FEATURE(13)
#define NET_F_MRG_RXBUF      VIRTIO_FEATURE(15)
#define NET_F_STATUS         VIRTIO_FEATURE(16)
#define NET_F_CTRL_VQ        VIRTIO_FEATURE(17)
#define NET_F_GUEST_ANNOUNCE VIRTIO_FEATURE(21)
#define NET_F_MQ             VIRTIO_FEATURE(22)
#define NET_F_CTRL_MAC_ADDR  VIRTIO_FEATURE(23)

// Header of a frame (virtio 1.2, 5.1.6).
enum {
    HEADER_FLAGS = 0,
    HEADER_GSO_TYPE = 1,
    HEADER_NUM_BUFFERS = 10,
    FLAG_NEEDS_CSUM = 1,
    FLAG_DATA_VALID = 2,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    GSO_ECN = 0x80,
    ETHERNET_HEADER = 14,
};

enum {
    NET_QUEUE_SIZE = 256,
    // A receiver keeps popped buffers ready, enough for the largest frame; so each descriptor is
    // read once however many reads it takes until its buffer is used.
    NET_RECEIVE_BUFFERS = 128,
    NET_RECEIVE_SEGMENTS = 2 * VIRTQUEUE_CHAIN_LIMIT,
};

struct virtio_net;

// A receive buffer of the guest, popped and not used yet.
struct net_buffer {
    uint16_t head;
    uint16_t segments; // its part of net_receiver.iov, behind those of the buffers before
    uint32_t bytes;
};

// One receive queue with its queue of the backend. On the I/O thread.
struct net_receiver {
    struct virtio_net *net;
    unsigned pair;
    struct io_watch *watch; // NULL while the pair is off
    bool paused;            // the watch: there is nothing to receive into
    unsigned buffer_count, segment_count;
    size_t bytes; // in all buffers
    struct net_buffer buffers[NET_RECEIVE_BUFFERS];
    struct iovec iov[NET_RECEIVE_SEGMENTS + 1]; // and one for the spill
    uint64_t gpa[NET_RECEIVE_SEGMENTS];
    // What didn't fit into the buffers. A frame that did not fit waits here for more buffers:
    // held bytes in all, of which held_in_buffers are in the guest's already.
    size_t held, held_in_buffers;
    uint8_t spill[NET_HEADER_SIZE + NET_FRAME_LIMIT];
};

struct virtio_net {
    struct virtio_device virtio; // first
    struct net_backend *backend;
    // On the I/O thread.
    struct net_receiver *receivers; // backend->queue_pairs of them
    struct virtqueue_chain chain;   // what is being sent, or commanded
    uint16_t active_pairs;
    bool link_up;
    // Each direction for itself, all pairs of it together.
    struct rate_limiter receive_limiter, send_limiter;
    _Atomic uint64_t receive_drops, send_drops;
};

// Starts and stops one pair's receiving. 0 or -errno.
int net_receiver_start(struct net_receiver *receiver);
void net_receiver_stop(struct net_receiver *receiver);
// Receives what is there, and waits for more. True = there may be more now.
bool net_receiver_serve(struct net_receiver *receiver);
