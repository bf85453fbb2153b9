// The real-time clock with its CMOS memory: MC146818A at two ports (index, data), one interrupt
// line.
//
// The time of day is the host's CLOCK_REALTIME plus an offset that the guest sets by writing the
// clock; so it stays right over pauses and moves. Fields follow register B (BCD or binary, 12 or
// 24 hours); the century is at 0x32. Bit 7 of the index port (NMI mask) is ignored.
//
// Threads: registers on vCPU threads; alarm, periodic and update interrupts on the I/O thread that
// the creator lends. One mutex guards all state; irq_line is called under it.
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "base/io_thread.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"

struct rtc;

struct rtc_config {
    const char *id; // "rtc0"
    uint16_t port;  // index; data is at the next port
    uint32_t gsi;
    uint64_t low_ram, high_ram; // bytes below and above 4 GiB, for the CMOS memory-size bytes
    struct io_thread *thread;   // outlives the device; may be shared with others
};

int rtc_create(struct rtc **rtc, struct machine_bus *machine, struct bus *ports,
               const struct rtc_config *config, struct error *err);
struct device *rtc_device(struct rtc *rtc);
