#include "devices/virtio/kinds.h"

#include <stddef.h>

const struct virtio_device_ops *const virtio_device_kinds[] = {
    &virtio_blk_ops,
    &virtio_net_ops,
    &virtio_console_ops,
    &virtio_rng_ops,
    &virtio_balloon_ops,
    &virtio_vsock_ops,
    NULL,
};
