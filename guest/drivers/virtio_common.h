// The common configuration structure (virtio 1.2, 4.1.4.3).
#pragma once

#include <stdint.h>

struct virtio_common {
    uint32_t device_feature_select, device_feature;
    uint32_t driver_feature_select, driver_feature;
    uint16_t msix_config, queue_count;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_offset;
    // Written as halves: 64-bit access to these is optional for the device.
    uint32_t queue_descriptors[2], queue_driver[2], queue_device[2];
};
