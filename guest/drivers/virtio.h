// Virtio 1.x over PCI, the driver's side: finding and opening a device (4.1), its queues (2.7,
// split).
//
// Lives of a device: virtio_open, virtqueue_open for each queue, virtio_ready. A queue belongs to
// one vCPU: the one that opened it, to which its interrupt goes.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/drivers/pci.h"
#include "guest/lib/cpu.h"

enum virtio_type {
    VIRTIO_NET = 1,
    VIRTIO_BLK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_RNG = 4,
    VIRTIO_BALLOON = 5,
    VIRTIO_VSOCK = 19,
};

#define VIRTIO_F_INDIRECT  (1ul << 28)
#define VIRTIO_F_EVENT_IDX (1ul << 29)
#define VIRTIO_F_VERSION_1 (1ul << 32)

struct virtio_common;

struct virtio_device {
    struct pci_device pci;
    struct pci_msix msix;
    volatile struct virtio_common *common;
    volatile uint8_t *notify, *config;
    uint32_t notify_multiplier;
    uint64_t offered, features;
};

// Opens the index-th device of a type with those of `wanted` features that it offers; INDIRECT and
// EVENT_IDX are added
// (`indirect=0` and `event_idx=0` on the command line decline). Prints why when it fails.
bool virtio_open(struct virtio_device *device, enum virtio_type type, unsigned index,
                 uint64_t wanted);
void virtio_ready(struct virtio_device *device);
bool virtio_needs_reset(const struct virtio_device *device);

// Reads device configuration, consistent as to its generation.
void virtio_config_read(const struct virtio_device *device, unsigned offset, void *to,
                        unsigned size);

enum { VIRTQUEUE_INDIRECT_MAX = 16 };

struct virtqueue_descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

struct virtqueue {
    struct virtio_device *device;
    struct cpu *owner; // gets its interrupts
    uint16_t index, size;
    volatile struct virtqueue_descriptor *descriptors;
    volatile uint16_t *available, *used;                             // flags, index, ring...
    struct virtqueue_descriptor (*indirect)[VIRTQUEUE_INDIRECT_MAX]; // one table a head
    void **tokens;                                                   // by head
    uint16_t *chain_length;                                          // by head
    uint16_t free_head, free_count;
    uint16_t available_index, kicked_index, used_index;
    volatile uint16_t *notify;
    uint8_t vector;
    bool event_index, use_indirect, poll;
    uint64_t kicks; // notifications sent
};

struct virtqueue_buffer {
    void *address;
    uint32_t size;
    bool device_writes;
};

// Sets a queue up with at most `size` entries (0: what the device offers) and an MSI-X vector of
// its own to this vCPU.
bool virtqueue_open(struct virtqueue *queue, struct virtio_device *device, uint16_t index,
                    uint16_t size);

// Offers buffers, those that the device reads first; `token` comes back with them. False when
// there's no room.
bool virtqueue_add(struct virtqueue *queue, const struct virtqueue_buffer *buffers, unsigned count,
                   void *token);

// Tells the device about what was added, unless it said that it needn't be told.
void virtqueue_kick(struct virtqueue *queue);

// Takes back what the device is done with; false when there's nothing.
bool virtqueue_take(struct virtqueue *queue, void **token, uint32_t *written);

// Sleeps (poll=1: spins) until there is something to take, until the TSC passes `until` (0: for
// ever), or until any other interrupt comes. True when there is something.
bool virtqueue_wait(struct virtqueue *queue, uint64_t until);
bool virtqueue_has_used(const struct virtqueue *queue);
uint64_t virtqueue_interrupts(const struct virtqueue *queue);
