#include "tests/unit/virtio_driver.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "devices/virtio/pci_transport.h"

static void must(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "virtio driver: %s\n", what);
    abort();
}

static uint32_t vector_data(const struct virtio_driver *d, unsigned vector)
{
    return d->slot << 8 | vector;
}

static void note_vendor_capability(struct virtio_driver *d, unsigned at)
{
    struct fake_machine *m = d->machine;
    unsigned type = fake_machine_config_read(m, d->slot, at + 3, 1);
    uint32_t offset = fake_machine_config_read(m, d->slot, at + 8, 4);
    d->capabilities++;
    switch (type) {
    case 1:
        d->common = d->bar + offset;
        break;
    case 2:
        d->notify = d->bar + offset;
        d->notify_multiplier = fake_machine_config_read(m, d->slot, at + 16, 4);
        break;
    case 3:
        d->isr = d->bar + offset;
        break;
    case 4:
        d->device = d->bar + offset;
        d->device_size = fake_machine_config_read(m, d->slot, at + 12, 4);
        break;
    case 5:
        d->window_capability = at;
        break;
    default:
        must(false, "unknown vendor capability");
    }
}

void driver_open(struct virtio_driver *d, struct fake_machine *machine, unsigned slot)
{
    memset(d, 0, sizeof(*d));
    d->machine = machine;
    d->slot = slot;
    d->allocated = 0x10000 + slot * 0x100000;
    must(fake_machine_config_read(machine, slot, 0, 2) == 0x1af4, "no virtio device in the slot");
    d->bar = fake_machine_config_read(machine, slot, 0x10, 4) & ~0xfu;
    must(d->bar != 0, "the BAR has no address");
    unsigned at = fake_machine_config_read(machine, slot, 0x34, 1);
    for (; at; at = fake_machine_config_read(machine, slot, at + 1, 1)) {
        unsigned id = fake_machine_config_read(machine, slot, at, 1);
        if (id == 9)
            note_vendor_capability(d, at);
        if (id == 0x11) {
            d->msix_capability = at;
            d->msix_table = d->bar + (fake_machine_config_read(machine, slot, at + 4, 4) & ~7u);
        }
    }
    must(d->common && d->notify && d->isr && d->msix_capability && d->window_capability,
         "a capability is missing");
    unsigned control = fake_machine_config_read(machine, slot, d->msix_capability + 2, 2);
    for (unsigned i = 0; i <= (control & 0x7ff); i++) {
        uint64_t entry = d->msix_table + 16 * i;
        fake_machine_write(machine, entry, 4, 0xfee00000);
        fake_machine_write(machine, entry + 4, 4, 0);
        fake_machine_write(machine, entry + 8, 4, vector_data(d, i));
        fake_machine_write(machine, entry + 12, 4, 0);
    }
    fake_machine_config_write(machine, slot, d->msix_capability + 2, 2, 0x8000);
}

uint64_t driver_alloc(struct virtio_driver *d, uint64_t bytes, uint64_t alignment)
{
    uint64_t at = (d->allocated + alignment - 1) & ~(alignment - 1);
    d->allocated = at + bytes;
    must(d->allocated <= d->machine->ram_size, "the test needs more RAM");
    return at;
}

void *driver_hva(struct virtio_driver *d, uint64_t gpa)
{
    return d->machine->ram + gpa;
}

uint64_t driver_read(struct virtio_driver *d, unsigned offset, unsigned length)
{
    return fake_machine_read(d->machine, d->common + offset, length);
}

void driver_write(struct virtio_driver *d, unsigned offset, unsigned length, uint64_t value)
{
    fake_machine_write(d->machine, d->common + offset, length, value);
}

uint8_t driver_status(struct virtio_driver *d)
{
    return (uint8_t)driver_read(d, 0x14, 1);
}

uint64_t driver_offered(struct virtio_driver *d)
{
    driver_write(d, 0x00, 4, 0);
    uint64_t features = driver_read(d, 0x04, 4);
    driver_write(d, 0x00, 4, 1);
    return features | driver_read(d, 0x04, 4) << 32;
}

void driver_reset(struct virtio_driver *d)
{
    driver_write(d, 0x14, 1, 0);
    must(driver_status(d) == 0, "status after a reset");
}

bool driver_negotiate(struct virtio_driver *d, uint64_t wanted)
{
    driver_reset(d);
    driver_write(d, 0x10, 2, 0); // configuration changes: vector 0
    driver_write(d, 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    driver_write(d, 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    d->features = driver_offered(d) & wanted;
    driver_write(d, 0x08, 4, 0);
    driver_write(d, 0x0c, 4, (uint32_t)d->features);
    driver_write(d, 0x08, 4, 1);
    driver_write(d, 0x0c, 4, d->features >> 32);
    driver_write(d, 0x14, 1, driver_status(d) | VIRTIO_STATUS_FEATURES_OK);
    return driver_status(d) & VIRTIO_STATUS_FEATURES_OK;
}

void driver_queue_setup(struct virtio_driver *d, unsigned queue, uint16_t size)
{
    struct driver_queue *q = &d->queues[queue];
    *q = (struct driver_queue){.index = (uint16_t)queue, .size = size, .free_count = size};
    q->descriptors = driver_alloc(d, size * 16u, 16);
    q->available = driver_alloc(d, size * 2u + 6, 2);
    q->used = driver_alloc(d, size * 8u + 6, 4);
    memset(driver_hva(d, q->descriptors), 0, size * 16u);
    memset(driver_hva(d, q->available), 0, size * 2u + 6);
    memset(driver_hva(d, q->used), 0, size * 8u + 6);
    for (uint16_t i = 0; i < size; i++)
        q->next[i] = (uint16_t)(i + 1);
    driver_write(d, 0x16, 2, queue);
    driver_write(d, 0x18, 2, size);
    driver_write(d, 0x1a, 2, queue + 1);
    driver_write(d, 0x20, 4, (uint32_t)q->descriptors);
    driver_write(d, 0x24, 4, q->descriptors >> 32);
    driver_write(d, 0x28, 8, q->available);
    driver_write(d, 0x30, 4, (uint32_t)q->used);
    driver_write(d, 0x34, 4, q->used >> 32);
    q->notify_address = d->notify + driver_read(d, 0x1e, 2) * d->notify_multiplier;
    driver_write(d, 0x1c, 2, 1);
}

void driver_ok(struct virtio_driver *d)
{
    driver_write(d, 0x14, 1, driver_status(d) | VIRTIO_STATUS_DRIVER_OK);
}

void driver_start(struct virtio_driver *d, uint64_t wanted, unsigned queue_count, uint16_t size)
{
    must(driver_negotiate(d, wanted | VIRTIO_F_VERSION_1), "features were refused");
    for (unsigned i = 0; i < queue_count; i++)
        driver_queue_setup(d, i, size);
    driver_ok(d);
    must(driver_status(d) == (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                              VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK),
         "the device didn't start");
}

static uint16_t *u16_at(struct virtio_driver *d, uint64_t gpa)
{
    return driver_hva(d, gpa);
}

static void put_descriptor(struct virtio_driver *d, uint64_t table, unsigned index, uint64_t gpa,
                           uint32_t length, uint16_t flags, uint16_t next)
{
    uint8_t *p = (uint8_t *)driver_hva(d, table) + 16 * index;
    bytes_put_u64(p, gpa);
    bytes_put_u32(p + 8, length);
    bytes_put_u16(p + 12, flags);
    bytes_put_u16(p + 14, next);
}

static uint16_t take_descriptor(struct driver_queue *q)
{
    uint16_t index = q->free_head;
    q->free_head = q->next[index];
    q->free_count--;
    return index;
}

static void make_available(struct virtio_driver *d, struct driver_queue *q, uint16_t head)
{
    *u16_at(d, q->available + 4 + 2u * (q->available_index % q->size)) = head;
    q->available_index++;
    __atomic_store_n(u16_at(d, q->available + 2), q->available_index, __ATOMIC_RELEASE);
}

int driver_add(struct virtio_driver *d, unsigned queue, const struct driver_segment *segments,
               unsigned out, unsigned in, bool indirect)
{
    struct driver_queue *q = &d->queues[queue];
    unsigned count = out + in;
    if (q->free_count < (indirect ? 1 : count))
        return -1;
    uint16_t head = q->free_head;
    if (indirect) {
        uint64_t table = driver_alloc(d, 16 * count, 16);
        for (unsigned i = 0; i < count; i++)
            put_descriptor(d, table, i, segments[i].gpa, segments[i].length,
                           (uint16_t)((i >= out ? VIRTQ_DESC_F_WRITE : 0) |
                                      (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0)),
                           (uint16_t)(i + 1));
        uint16_t at = take_descriptor(q);
        put_descriptor(d, q->descriptors, at, table, 16 * count, VIRTQ_DESC_F_INDIRECT, 0);
    } else {
        for (unsigned i = 0; i < count; i++) {
            uint16_t at = take_descriptor(q);
            put_descriptor(d, q->descriptors, at, segments[i].gpa, segments[i].length,
                           (uint16_t)((i >= out ? VIRTQ_DESC_F_WRITE : 0) |
                                      (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0)),
                           q->next[at]);
        }
    }
    q->chain_length[head] = (uint16_t)(indirect ? 1 : count);
    make_available(d, q, head);
    return head;
}

void driver_kick(struct virtio_driver *d, unsigned queue)
{
    struct driver_queue *q = &d->queues[queue];
    // As a driver must: the index first, then what the device wants.
    atomic_thread_fence(memory_order_seq_cst);
    bool wanted;
    if (d->features & VIRTIO_F_EVENT_IDX) {
        // Everything added since the last kick counts; one chain at a time is the strictest.
        uint16_t event = __atomic_load_n(u16_at(d, q->used + 4 + 8u * q->size), __ATOMIC_RELAXED);
        wanted = (uint16_t)(q->available_index - event - 1) < 1;
    } else {
        wanted = !(__atomic_load_n(u16_at(d, q->used), __ATOMIC_RELAXED) & 1);
    }
    if (!wanted) {
        q->kicks_left_out++;
        return;
    }
    q->kicks++;
    fake_machine_write(d->machine, q->notify_address, 2, queue);
}

int driver_take_used(struct virtio_driver *d, unsigned queue, uint32_t *length)
{
    struct driver_queue *q = &d->queues[queue];
    uint16_t index = __atomic_load_n(u16_at(d, q->used + 2), __ATOMIC_ACQUIRE);
    if (index == q->last_used)
        return -1;
    const uint8_t *element = (uint8_t *)driver_hva(d, q->used) + 4 + 8u * (q->last_used % q->size);
    uint32_t head = bytes_get_u32(element);
    must(head < q->size && q->chain_length[head] > 0,
         "the device returned a chain it wasn't given");
    if (length)
        *length = bytes_get_u32(element + 4);
    q->last_used++;
    // The chain's descriptors, which were taken in the order of the free list, go back in front.
    uint16_t last = (uint16_t)head;
    for (unsigned i = 1; i < q->chain_length[head]; i++)
        last = q->next[last];
    q->next[last] = q->free_head;
    q->free_head = (uint16_t)head;
    q->free_count = (uint16_t)(q->free_count + q->chain_length[head]);
    q->chain_length[head] = 0;
    return (int)head;
}

bool driver_wait_vector(struct virtio_driver *d, unsigned vector, int timeout_ms)
{
    struct pollfd p = {.fd = fake_machine_vector_fd(d->machine, vector_data(d, vector)),
                       .events = POLLIN};
    must(p.fd >= 0, "the vector isn't programmed");
    eventfd_t count;
    return poll(&p, 1, timeout_ms) == 1 && eventfd_read(p.fd, &count) == 0;
}

int driver_wait_used(struct virtio_driver *d, unsigned queue, uint32_t *length)
{
    struct driver_queue *q = &d->queues[queue];
    for (;;) {
        *u16_at(d, q->available + 4 + 2u * q->size) = q->last_used; // used_event
        atomic_thread_fence(memory_order_seq_cst);
        int head = driver_take_used(d, queue, length);
        if (head >= 0)
            return head;
        if (!driver_wait_vector(d, queue + 1, DRIVER_TIMEOUT_MS))
            return -1;
    }
}

uint32_t driver_request(struct virtio_driver *d, unsigned queue,
                        const struct driver_segment *segments, unsigned out, unsigned in)
{
    uint32_t length = 0;
    int head = driver_add(d, queue, segments, out, in, false);
    must(head >= 0, "the ring is full");
    driver_kick(d, queue);
    must(driver_wait_used(d, queue, &length) == head, "another chain, or none, came back");
    return length;
}
