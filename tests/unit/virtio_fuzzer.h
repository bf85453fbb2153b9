// Drives one kind of virtio device from fuzz input: a sensible set-up of features and queues, then
// operations on rings, registers, PCI configuration, the other side of the device and its state.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum virtio_fuzz_kind { FUZZ_BLK, FUZZ_NET, FUZZ_CONSOLE, FUZZ_RNG, FUZZ_BALLOON, FUZZ_VSOCK };

int virtio_fuzz_run(enum virtio_fuzz_kind kind, const uint8_t *data, size_t size);
