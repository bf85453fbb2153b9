// A small virtio driver for tests: finds a device through PCI as a guest would, and talks to it
// through registers, rings and interrupts only.
#pragma once

#include "tests/unit/fake_machine.h"

enum { DRIVER_QUEUES = 20, DRIVER_QUEUE_SIZE = 256, DRIVER_TIMEOUT_MS = 20000 };

struct driver_queue {
    uint16_t index, size;
    uint64_t descriptors, available, used; // gpas
    uint64_t notify_address;
    uint16_t available_index; // the next to fill
    uint16_t last_used;       // the next to take
    uint16_t free_head, free_count;
    uint16_t chain_length[DRIVER_QUEUE_SIZE]; // by head
    uint16_t next[DRIVER_QUEUE_SIZE];
    unsigned kicks, kicks_left_out; // by this driver
};

struct virtio_driver {
    struct fake_machine *machine;
    unsigned slot;
    uint64_t bar, common, notify, isr, device; // addresses
    uint32_t notify_multiplier, device_size;
    unsigned msix_capability, window_capability;
    unsigned capabilities; // vendor ones
    uint64_t msix_table;
    uint64_t features;  // negotiated
    uint64_t allocated; // RAM below this is in use
    struct driver_queue queues[DRIVER_QUEUES];
};

// One piece of a request, in guest memory.
struct driver_segment {
    uint64_t gpa;
    uint32_t length;
};

// Finds the device in the slot, enables MSI-X. Aborts when it looks wrong.
void driver_open(struct virtio_driver *d, struct fake_machine *machine, unsigned slot);
// Guest memory that nobody else uses.
uint64_t driver_alloc(struct virtio_driver *d, uint64_t bytes, uint64_t alignment);
void *driver_hva(struct virtio_driver *d, uint64_t gpa);

uint64_t driver_read(struct virtio_driver *d, unsigned common_offset, unsigned length);
void driver_write(struct virtio_driver *d, unsigned common_offset, unsigned length, uint64_t value);
uint8_t driver_status(struct virtio_driver *d);
uint64_t driver_offered(struct virtio_driver *d);
void driver_reset(struct virtio_driver *d);
// Reset, ACKNOWLEDGE, DRIVER, features (those offered of `wanted`), FEATURES_OK. False when
// refused.
bool driver_negotiate(struct virtio_driver *d, uint64_t wanted);
// Makes rings of `size`, programs them with vector index + 1 and enables the queue.
void driver_queue_setup(struct virtio_driver *d, unsigned queue, uint16_t size);
void driver_ok(struct virtio_driver *d);
// All of it: negotiate, queues 0 .. count of `size`, DRIVER_OK. Aborts on failure.
void driver_start(struct virtio_driver *d, uint64_t wanted, unsigned queue_count, uint16_t size);

// Makes a chain available: `out` readable segments, then `in` writable ones, by an indirect table
// when `indirect`. Returns its head, or -1 when the ring is full.
int driver_add(struct virtio_driver *d, unsigned queue, const struct driver_segment *segments,
               unsigned out, unsigned in, bool indirect);
// Kicks if the device wants it.
void driver_kick(struct virtio_driver *d, unsigned queue);
// Takes the next used chain: its head, and the length written; -1 when there is none.
int driver_take_used(struct virtio_driver *d, unsigned queue, uint32_t *length);
// The same, waiting for the queue's interrupt; -1 after DRIVER_TIMEOUT_MS.
int driver_wait_used(struct virtio_driver *d, unsigned queue, uint32_t *length);
// Waits for the interrupt of an MSI-X vector (0 = configuration, 1 + queue): false on time-out.
bool driver_wait_vector(struct virtio_driver *d, unsigned vector, int timeout_ms);
// add, kick, wait: the length written.
uint32_t driver_request(struct virtio_driver *d, unsigned queue,
                        const struct driver_segment *segments, unsigned out, unsigned in);
