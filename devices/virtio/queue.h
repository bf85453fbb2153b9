// Split virtqueues (virtio 1.2, 2.7), seen from the device: the only code that reads or writes a
// ring.
//
//   driver                                device
//   descriptors, available.ring  ------>  virtqueue_pop      (a chain of host iovecs)
//                                         ... I/O ...
//   used.ring                    <------  virtqueue_push     (staged)
//   used.idx, interrupt          <------  virtqueue_publish  (all staged ones at once)
//
// Everything in the rings comes from the guest and may change at any moment: each field is copied
// once, checked, and only the copy is used. Addresses become pointers through
// guest_memory_slice() alone. A ring that breaks a rule makes the queue `broken`: owner->broken is
// told once, and every later pop finds nothing until the queue is disabled and enabled again.
//
// Threads: a queue belongs to one I/O thread while it runs. Enable, disable, save and load happen
// while that thread doesn't serve it. Nothing here allocates or blocks.
//
// Invariants: chains in flight = next_available - next_used <= size (both count modulo 2^16);
// published <= next_used in the same sense, and equal after virtqueue_publish().
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/guest_memory.h"
#include "base/state.h"

enum {
    VIRTQUEUE_SIZE_LIMIT = 256,
    // Descriptors a chain may have; a chain longer than its queue is an error (2.7.5.3.1), so no
    // legal one is refused.
    VIRTQUEUE_CHAIN_LIMIT = VIRTQUEUE_SIZE_LIMIT,
    // Chains that one turn may serve before the I/O thread looks at its other work: without it a
    // guest that refills as fast as we serve would keep the thread for ever.
    VIRTQUEUE_TURN = 256,
};

// The descriptor, available and used formats of virtio 1.2, 2.7.5, 2.7.6 and 2.7.8.
enum {
    VIRTQ_DESC_F_NEXT = 1,
    VIRTQ_DESC_F_WRITE = 2,
    VIRTQ_DESC_F_INDIRECT = 4,
    VIRTQ_AVAIL_F_NO_INTERRUPT = 1,
    VIRTQ_USED_F_NO_NOTIFY = 1,
};

struct virtqueue;

struct virtqueue_owner {
    // Interrupt the driver for this queue.
    void (*interrupt)(struct virtqueue *queue);
    // The ring broke a rule; `why` is a constant. Called once.
    void (*broken)(struct virtqueue *queue, const char *why);
};

struct virtqueue {
    struct guest_memory *memory;
    const struct virtqueue_owner *owner;
    // What the driver programmed; fixed while enabled.
    uint16_t size;
    bool enabled;
    uint64_t descriptors_gpa, available_gpa, used_gpa;
    // Negotiated.
    bool event_index, indirect;
    // Where the rings are, while enabled.
    const uint8_t *descriptors, *available;
    uint8_t *used;
    // Position.
    uint16_t next_available; // the next entry of the available ring to look at
    uint16_t next_used;      // the next entry of the used ring to fill
    uint16_t published;      // used.idx as the driver sees it
    bool broken;
    bool interrupt_due; // the next publish interrupts, whatever the driver's event index says
    // Counted here because only here it is known. Read by other threads, without order.
    _Atomic uint64_t requests, interrupts, suppressed;
};

// One request: first the segments that the device may read, then those it may write.
struct virtqueue_chain {
    uint16_t head;      // names the chain in the used ring
    uint16_t out_count; // readable segments: iov[0 .. out_count)
    uint16_t in_count;  // writable segments: iov[out_count .. out_count + in_count)
    uint32_t out_bytes, in_bytes;
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT];
    uint64_t gpa[VIRTQUEUE_CHAIN_LIMIT];
};

void virtqueue_init(struct virtqueue *queue, struct guest_memory *memory,
                    const struct virtqueue_owner *owner);
// Checks size (a power of two up to the limit), alignment and place of the rings and starts at
// index 0. -EINVAL leaves the queue disabled.
int virtqueue_enable(struct virtqueue *queue);
// Back to what virtqueue_init() made; counters stay.
void virtqueue_disable(struct virtqueue *queue);

// The next chain. 1; 0 when there is none (or the queue is disabled or broken); -EPROTO when the
// queue broke just now.
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
// How many chains are waiting to be popped. Only a hint: the guest may say anything.
uint16_t virtqueue_waiting(const struct virtqueue *queue);
// Gives back the `count` chains popped last, to be popped again.
void virtqueue_rewind(struct virtqueue *queue, uint16_t count);
// Stages a completed chain. `written` bytes from the start of its writable segments were written
// and are marked here; whoever wrote more marks that with virtqueue_chain_written().
void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written);
// The same for a caller that keeps only the head and has marked what it wrote.
void virtqueue_push_head(struct virtqueue *queue, uint16_t head, uint32_t written);
// Shows the staged chains to the driver, and interrupts it if it wants that.
void virtqueue_publish(struct virtqueue *queue);
static inline uint16_t virtqueue_in_flight(const struct virtqueue *queue)
{
    return (uint16_t)(queue->next_available - queue->next_used);
}
// What the device finds broken beyond the ring format, e.g. a chain without the space for a
// status. Returns -EPROTO.
int virtqueue_break(struct virtqueue *queue, const char *why);

// Asks the driver not to kick while the queue is being served anyway.
void virtqueue_kicks_off(struct virtqueue *queue);
// Asks for kicks again. True when chains came in meanwhile: the caller has to look again, since
// their kick may have been left out.
bool virtqueue_kicks_on(struct virtqueue *queue);
// The next chain for who serves a queue until it is empty, between virtqueue_kicks_off() and
// virtqueue_publish(). When there is none it asks for kicks again and looks once more. False
// without a chain; then `*again` says whether to come back unasked, as one came that may not be
// kicked for.
bool virtqueue_next(struct virtqueue *queue, struct virtqueue_chain *chain, bool *again);

// Copies `length` bytes at `offset` of the readable (writable) segments; returns how many there
// were. Writing does not mark: virtqueue_push() or virtqueue_chain_written() does.
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *out,
                            size_t length);
size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *bytes,
                             size_t length);
// Puts iovecs for [offset, offset + length) of the readable (writable) segments into `iov`, which
// has VIRTQUEUE_CHAIN_LIMIT entries; returns how many. The range must be inside.
unsigned virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable, size_t offset,
                               size_t length, struct iovec *iov);
// Marks [offset, offset + length) of the writable segments as written.
void virtqueue_chain_written(const struct virtqueue *queue, const struct virtqueue_chain *chain,
                             size_t offset, size_t length);

// Only with nothing in flight.
void virtqueue_save(const struct virtqueue *queue, struct byte_writer *writer);
// Into a disabled queue whose features are set. Refuses what virtqueue_enable() would, and
// positions that no saved queue has.
int virtqueue_load(struct virtqueue *queue, struct byte_reader *reader, struct error *err);
