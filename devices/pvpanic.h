// The panic device (docs of QEMU: specs/pvpanic; ACPI id QEMU0001): a port by which a guest's
// kernel says that it has panicked, or that it is about to start its crash kernel.
//
// There is no state. Threads: the port on vCPU threads.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

enum {
    PVPANIC_PANICKED = 1 << 0,
    PVPANIC_CRASH_KERNEL = 1 << 1, // the guest goes on, in another kernel that keeps a record
    PVPANIC_EVENTS = PVPANIC_PANICKED | PVPANIC_CRASH_KERNEL,
};

struct pvpanic_config {
    const char *id; // "panic0"
    uint16_t port;
};

// What the guest says arrives as MACHINE_REQUEST_PANIC, with the events as its value.
int pvpanic_create(struct device **device, struct machine_bus *machine, struct bus *ports,
                   const struct pvpanic_config *config, struct error *err);
