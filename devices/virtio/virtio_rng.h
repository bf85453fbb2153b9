// virtio-rng (virtio 1.2, 5.4): entropy from the host's getrandom().
#pragma once

#include "devices/virtio/virtio.h"

int virtio_rng_create(struct device **device, const struct virtio_environment *env,
                      struct error *err);
