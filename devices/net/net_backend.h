// Where frames go to and come from: the interface between virtio-net and the host's network.
//
// Each frame has a 12-byte virtio-net header in front (virtio 1.2, 5.1.6, little-endian), whatever
// offloads are on. Everything is called on the device's I/O thread, but for create and destroy.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"

enum {
    NET_HEADER_SIZE = 12,
    NET_QUEUE_PAIRS_LIMIT = 8,
    NET_FRAME_LIMIT = 65550,
    NET_MTU_LEAST = 68
};

// What the other side may leave to this one.
enum net_offload {
    NET_OFFLOAD_CHECKSUM = 1 << 0, // frames with partial checksums
    NET_OFFLOAD_TSO4 = 1 << 1,     // large TCP segments over IPv4
    NET_OFFLOAD_TSO6 = 1 << 2,
    NET_OFFLOAD_ECN = 1 << 3, // with TSO: segments with ECN
};

struct net_backend;

struct net_backend_ops {
    // The descriptor to watch for frames that arrive on this queue.
    int (*receive_fd)(struct net_backend *backend, unsigned queue);
    // One frame with its header into the iovecs: bytes, or -errno; -EAGAIN when there is none. A
    // frame that doesn't fit is cut.
    ssize_t (*receive)(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                       unsigned count);
    // One frame with its header: bytes, or -errno.
    ssize_t (*send)(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                    unsigned count);
    // What received frames may look like from now on (enum net_offload). 0 or -errno.
    int (*set_receive_offloads)(struct net_backend *backend, unsigned offloads);
    // Turns one queue on or off; NULL with a single queue. 0 or -errno.
    int (*enable_queue)(struct net_backend *backend, unsigned queue, bool enabled);
    // Gives up the backend and closes what it opened.
    void (*destroy)(struct net_backend *backend);
};

struct net_backend {
    const struct net_backend_ops *ops;
    unsigned queue_pairs;      // >= 1
    unsigned send_offloads;    // what frames given to send() may look like (enum net_offload)
    unsigned receive_offloads; // what set_receive_offloads() can take
    uint16_t mtu;              // 0 = unknown
};
