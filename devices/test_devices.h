// The small device set of --debug-exit, for test kernels:
// - a write to the exit port asks for the end of the machine with exit code
//   ((value << 1) | 1) & 0xff;
// - a four-byte latch at ports 0xe0-0xe3 that reads back what was written;
// - ports 0x2000-0x2017: the value written is the level of interrupt line (port - 0x2000);
// - 64 KiB of memory behind MMIO exits.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

enum {
    TEST_DEVICES_LATCH_PORT = 0xe0,
    TEST_DEVICES_LATCH_LENGTH = 4,
    TEST_DEVICES_IRQ_PORT = 0x2000,
    TEST_DEVICES_IRQ_LINES = 24,
    TEST_DEVICES_MMIO_SIZE = 0x10000,
};

struct test_devices;

struct test_devices_config {
    const char *id; // "test0"
    uint16_t exit_port;
    uint64_t mmio_base;
};

int test_devices_create(struct test_devices **devices, struct machine_bus *machine,
                        struct bus *ports, struct bus *mmio,
                        const struct test_devices_config *config, struct error *err);
struct device *test_devices_device(struct test_devices *devices);
