// virtio-vsock (virtio 1.2, 5.10), stream sockets only: connections between the guest and Unix
// sockets of the host.
//
// Host to guest: a client connects to the listening socket and sends "CONNECT PORT\n"; once the
// guest has accepted it reads "OK HOST_PORT\n", and then the guest's bytes. Guest to host: a
// connection to port P of the host (CID 2) is asked of the connector, which answers with a
// connected descriptor.
//
// Everything is bounded: connections, what is kept for a slow reader on the host (as much as the
// guest was told that it may send), and answers that wait for room in the guest's queue: while they
// do, nothing more is taken from the guest. Connections don't survive a move: the guest is told by
// the transport reset event.
#pragma once

#include <stdint.h>

#include "devices/virtio/virtio.h"

enum {
    VIRTIO_VSOCK_HOST_CID = 2,
    VIRTIO_VSOCK_GUEST_CID_MIN = 3,
    VIRTIO_VSOCK_CONNECTIONS = 256,
};

// Messages on the connector's descriptor, a SOCK_SEQPACKET socket: a request, answered in order by
// the same id with 0 and a descriptor, or with an errno.
struct virtio_vsock_connect {
    uint32_t id, port;
};
struct virtio_vsock_connected {
    uint32_t id;
    int32_t error;
};

struct virtio_vsock_config {
    uint32_t cid;  // of the guest
    int listen_fd; // both belong to the device from a successful create on
    int connector_fd;
};

int virtio_vsock_create(struct device **device, const struct virtio_environment *env,
                        const struct virtio_vsock_config *config, struct error *err);
// Connections that there are now. Any thread.
unsigned virtio_vsock_connections(const struct device *device);
