// virtio-balloon (virtio 1.2, 5.5): the guest gives pages back to the host, when it is asked to
// (inflating) and whenever it has free ones (free page reporting).
//
// A page that the guest gave goes at once (guest_memory_discard()): it reads as zero, or as the
// file it was restored from, should the guest touch it again. So deflating needs nothing of the
// host.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio/virtio.h"

// Statistics by their tags (5.5.6.3); bytes, but for the counters of events.
enum virtio_balloon_statistic {
    BALLOON_SWAPPED_IN,
    BALLOON_SWAPPED_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_DISK_CACHES,
    BALLOON_HUGE_PAGES,
    BALLOON_HUGE_PAGES_FAILED,
    BALLOON_STATISTICS,
};

struct virtio_balloon_config {
    // The balloon's size, or the statistics, have changed. On the I/O thread. May be NULL.
    void (*changed)(void *opaque);
    void *opaque;
};

struct virtio_balloon_status {
    bool driver;               // one is there
    bool gives_statistics;     // that driver does
    bool reports_free_pages;   // that driver does
    uint64_t target, actual;   // bytes in the balloon: wanted, and as the driver says
    uint64_t discarded;        // bytes given back to the host by inflating, since the start
    uint64_t reported;         // by free page reporting
    uint64_t statistics_count; // how often statistics came; 0: none are there
    uint64_t known;            // bit N: statistics[N] came
    uint64_t statistics[BALLOON_STATISTICS];
};

int virtio_balloon_create(struct device **device, const struct virtio_environment *env,
                          const struct virtio_balloon_config *config, struct error *err);
// Asks the guest for a balloon of that many bytes (whole pages). On the main thread.
void virtio_balloon_set_target(struct device *device, uint64_t bytes);
// Asks the guest for new statistics: statistics_count changes when they have come. On the main
// thread. False when it gives none, or is still busy with the last question.
bool virtio_balloon_ask_statistics(struct device *device);
// Any thread.
void virtio_balloon_status(struct device *device, struct virtio_balloon_status *status);
