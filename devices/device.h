// A device, as the machine handles it.
//
// Life: created (its constructor registers address ranges, vectors, doorbells) -> reset -> used ->
// [quiesce -> save | resume]... -> destroy. The machine calls these on its main thread while no
// vCPU runs (reset, quiesce, save, load, resume) or before the first and after the last run
// (create, destroy).
#pragma once

#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

struct device;

struct device_ops {
    const char *kind; // "serial", "virtio-blk"
    // To power-on state. Also forgets requests in flight (waits for those that can't be recalled).
    void (*reset)(struct device *device);
    // Returns with the I/O threads idle and nothing in flight. NULL where there's nothing to do.
    void (*quiesce)(struct device *device);
    // After quiesce or load: serves each enabled queue once as if it had been kicked.
    void (*resume)(struct device *device);
    // Appends the state. NULL for a device without any. Only between quiesce and resume.
    void (*save)(struct device *device, struct byte_writer *writer);
    // Takes what save wrote, from a hostile source: 0 or -errno with a sentence.
    int (*load)(struct device *device, struct byte_reader *reader, struct error *err);
    void (*destroy)(struct device *device);
};

// The first member of each device's struct.
struct device {
    const struct device_ops *ops;
    char id[24];         // "serial0", "disk0": unique in the machine, in the state stream
    struct device *next; // list of the machine
};
