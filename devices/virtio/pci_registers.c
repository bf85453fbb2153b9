#include "devices/virtio/pci_registers.h"

#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"

enum {
    PCI_CAPABILITY_VENDOR = 0x09,
    // struct virtio_pci_cap (4.1.4).
    CAP_LENGTH = 2,
    CAP_TYPE = 3,
    CAP_BAR = 4,
    CAP_OFFSET = 8,
    CAP_SIZE = 12,
    CAP_BYTES = 16,
    CAP_EXTRA = 16, // notify_off_multiplier, or pci_cfg_data
    CAP_BYTES_EXTRA = 20,
    CAP_TYPE_COMMON = 1,
    CAP_TYPE_NOTIFY = 2,
    CAP_TYPE_ISR = 3,
    CAP_TYPE_DEVICE = 4,
    CAP_TYPE_PCI = 5,

    COMMON_SIZE = 0x3c,
};

// Common configuration (4.1.4.3)

static struct virtio_queue *selected_queue(const struct virtio_device *d)
{
    return d->queue_select < d->queue_count ? &d->queues[d->queue_select] : NULL;
}

// The selected queue while its registers may be written.
static struct virtio_queue *writable_queue(const struct virtio_device *d)
{
    struct virtio_queue *q = selected_queue(d);
    return q && !q->ring.enabled ? q : NULL;
}

// Features come in words of 32 bits; there are two.
static uint64_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static uint64_t read_device_feature_select(const struct virtio_device *d)
{
    return d->device_feature_select;
}
static void write_device_feature_select(struct virtio_device *d, uint64_t value)
{
    d->device_feature_select = (uint32_t)value;
}
static uint64_t read_device_feature(const struct virtio_device *d)
{
    return feature_word(d->offered, d->device_feature_select);
}
static uint64_t read_driver_feature_select(const struct virtio_device *d)
{
    return d->driver_feature_select;
}
static void write_driver_feature_select(struct virtio_device *d, uint64_t value)
{
    d->driver_feature_select = (uint32_t)value;
}
static uint64_t read_driver_feature(const struct virtio_device *d)
{
    return feature_word(d->driver_features, d->driver_feature_select);
}
static void write_driver_feature(struct virtio_device *d, uint64_t value)
{
    // Negotiation is over with FEATURES_OK (3.1.1).
    if (d->driver_feature_select >= 2 || (atomic_load(&d->status) & VIRTIO_STATUS_FEATURES_OK))
        return;
    unsigned shift = 32 * d->driver_feature_select;
    d->driver_features = (d->driver_features & ~(UINT64_C(0xffffffff) << shift)) | (value << shift);
}

// A vector that doesn't exist reads back as "none" (4.1.5.1.2.1).
static uint16_t usable_vector(const struct virtio_device *d, uint64_t value)
{
    return value <= d->queue_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}
static uint64_t read_config_vector(const struct virtio_device *d)
{
    return atomic_load(&d->config_vector);
}
static void write_config_vector(struct virtio_device *d, uint64_t value)
{
    atomic_store(&d->config_vector, usable_vector(d, value));
}
static uint64_t read_queue_count(const struct virtio_device *d)
{
    return d->queue_count;
}

static uint64_t read_status(const struct virtio_device *d)
{
    return atomic_load(&d->status);
}
static void write_status(struct virtio_device *d, uint64_t value)
{
    if (value == 0) {
        virtio_transport_reset(d);
        return;
    }
    // Bits are only ever added; NEEDS_RESET is the device's to set (2.1.1).
    uint8_t old = atomic_load(&d->status);
    uint8_t added = (uint8_t)(value & ~old & ~VIRTIO_STATUS_NEEDS_RESET);
    added &= VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |
             VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED;
    if ((added & VIRTIO_STATUS_FEATURES_OK) && !virtio_transport_accept_features(d))
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if (!((old | added) & VIRTIO_STATUS_FEATURES_OK))
        added &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    atomic_fetch_or(&d->status, added);
    if (added & VIRTIO_STATUS_DRIVER_OK)
        virtio_transport_start(d);
}

static uint64_t read_generation(const struct virtio_device *d)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&d->config_lock;
    pthread_mutex_lock(lock);
    uint8_t generation = d->config_generation;
    pthread_mutex_unlock(lock);
    return generation;
}

static uint64_t read_queue_select(const struct virtio_device *d)
{
    return d->queue_select;
}
static void write_queue_select(struct virtio_device *d, uint64_t value)
{
    d->queue_select = (uint16_t)value;
}
static uint64_t read_queue_size(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? q->ring.size : 0;
}
static void write_queue_size(struct virtio_device *d, uint64_t value)
{
    // Checked when the queue is enabled.
    struct virtio_queue *q = writable_queue(d);
    if (q)
        q->ring.size = (uint16_t)value;
}
static uint64_t read_queue_vector(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? atomic_load(&q->vector) : VIRTIO_NO_VECTOR;
}
static void write_queue_vector(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = selected_queue(d);
    if (q)
        atomic_store(&q->vector, usable_vector(d, value));
}
static uint64_t read_queue_enable(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q && q->ring.enabled;
}
static void write_queue_enable(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = writable_queue(d);
    if (q && value == 1) // a driver can't disable a queue here (4.1.4.3.2)
        virtio_transport_enable_queue(d, q);
}
static uint64_t read_queue_notify_offset(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? q->index : 0;
}

static uint64_t read_queue_descriptors(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? q->ring.descriptors_gpa : 0;
}
static void write_queue_descriptors(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = writable_queue(d);
    if (q)
        q->ring.descriptors_gpa = value;
}
static uint64_t read_queue_available(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? q->ring.available_gpa : 0;
}
static void write_queue_available(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = writable_queue(d);
    if (q)
        q->ring.available_gpa = value;
}
static uint64_t read_queue_used(const struct virtio_device *d)
{
    const struct virtio_queue *q = selected_queue(d);
    return q ? q->ring.used_gpa : 0;
}
static void write_queue_used(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = writable_queue(d);
    if (q)
        q->ring.used_gpa = value;
}
static uint64_t read_zero(const struct virtio_device *d)
{
    return 0;
}
static void write_queue_reset(struct virtio_device *d, uint64_t value)
{
    struct virtio_queue *q = selected_queue(d);
    if (q && value == 1)
        virtio_transport_reset_queue(d, q);
}

struct common_register {
    uint8_t offset, width;
    uint64_t (*read)(const struct virtio_device *d);
    void (*write)(struct virtio_device *d, uint64_t value); // NULL = read-only
};

// Ascending and without gaps, so every byte of the structure belongs to one register.
static const struct common_register common_registers[] = {
    {0x00, 4, read_device_feature_select, write_device_feature_select},
    {0x04, 4, read_device_feature, NULL},
    {0x08, 4, read_driver_feature_select, write_driver_feature_select},
    {0x0c, 4, read_driver_feature, write_driver_feature},
    {0x10, 2, read_config_vector, write_config_vector},
    {0x12, 2, read_queue_count, NULL},
    {0x14, 1, read_status, write_status},
    {0x15, 1, read_generation, NULL},
    {0x16, 2, read_queue_select, write_queue_select},
    {0x18, 2, read_queue_size, write_queue_size},
    {0x1a, 2, read_queue_vector, write_queue_vector},
    {0x1c, 2, read_queue_enable, write_queue_enable},
    {0x1e, 2, read_queue_notify_offset, NULL},
    {0x20, 8, read_queue_descriptors, write_queue_descriptors},
    {0x28, 8, read_queue_available, write_queue_available},
    {0x30, 8, read_queue_used, write_queue_used},
    {0x38, 2, read_zero, NULL},              // queue_notif_config_data: not offered
    {0x3a, 2, read_zero, write_queue_reset}, // a reset is over when its write is
};
enum { COMMON_REGISTERS = sizeof(common_registers) / sizeof(common_registers[0]) };

// Any width and alignment: each byte comes from its register. No read of these has an effect.
static uint64_t common_read(const struct virtio_device *d, uint64_t offset, unsigned length)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < COMMON_REGISTERS; i++) {
        const struct common_register *r = &common_registers[i];
        if (r->offset >= offset + length || r->offset + r->width <= offset)
            continue;
        uint64_t content = r->read(d);
        value |= r->offset >= offset ? content << (8 * (r->offset - offset))
                                     : content >> (8 * (offset - r->offset));
    }
    return value;
}

// Writes count in the register's own width, or by halves of a 64-bit one (4.1.3.1); any other
// access is no access to a field and is ignored.
static void common_write(struct virtio_device *d, uint64_t offset, unsigned length, uint64_t value)
{
    for (unsigned i = 0; i < COMMON_REGISTERS; i++) {
        const struct common_register *r = &common_registers[i];
        if (!r->write || offset < r->offset || offset >= (uint64_t)r->offset + r->width)
            continue;
        if (offset == r->offset && length == r->width) {
            r->write(d, value);
        } else if (r->width == 8 && length == 4 && offset % 4 == 0) {
            unsigned shift = 8 * (unsigned)(offset - r->offset);
            uint64_t kept = r->read(d) & ~(UINT64_C(0xffffffff) << shift);
            r->write(d, kept | (value & 0xffffffff) << shift);
        }
        return;
    }
}

// Device configuration (4.1.4.6): bytes, zero beyond the end.

static uint64_t device_read(struct virtio_device *d, uint64_t offset, unsigned length)
{
    uint8_t bytes[8] = {0};
    pthread_mutex_lock(&d->config_lock);
    for (unsigned i = 0; i < length; i++)
        if (offset + i < d->config_size)
            bytes[i] = d->config[offset + i];
    pthread_mutex_unlock(&d->config_lock);
    return bytes_get_u64(bytes);
}

static void device_write(struct virtio_device *d, uint64_t offset, unsigned length, uint64_t value)
{
    if (d->ops->config_write && offset + length <= d->config_size)
        d->ops->config_write(d, (uint32_t)offset, length, value);
}

// BAR 0

static bool within(uint64_t offset, unsigned length, uint64_t start, uint64_t size)
{
    return offset >= start && offset - start < size && length <= size - (offset - start);
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned length)
{
    struct virtio_device *d = opaque;
    uint64_t value = 0;
    if (offset >= VIRTIO_MSIX_PENDING_OFFSET)
        return pci_msix_pending_read(&d->function, offset - VIRTIO_MSIX_PENDING_OFFSET, length);
    if (offset >= VIRTIO_MSIX_TABLE_OFFSET)
        return pci_msix_table_read(&d->function, offset - VIRTIO_MSIX_TABLE_OFFSET, length);
    pthread_mutex_lock(&d->lock);
    if (within(offset, length, VIRTIO_COMMON_OFFSET, VIRTIO_ISR_OFFSET))
        value = common_read(d, offset - VIRTIO_COMMON_OFFSET, length);
    else if (offset == VIRTIO_ISR_OFFSET)
        value = atomic_exchange(&d->isr, 0); // reading acknowledges (4.1.4.5.1)
    else if (within(offset, length, VIRTIO_DEVICE_OFFSET, 0x1000))
        value = device_read(d, offset - VIRTIO_DEVICE_OFFSET, length);
    pthread_mutex_unlock(&d->lock);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct virtio_device *d = opaque;
    if (within(offset, length, VIRTIO_NOTIFY_OFFSET, 0x1000)) {
        // Only when the machine has no doorbell for it: same effect, one exit more.
        uint64_t index = (offset - VIRTIO_NOTIFY_OFFSET) / VIRTIO_NOTIFY_MULTIPLIER;
        if (index < d->queue_count)
            eventfd_write(d->queues[index].event_fd, 1);
        return;
    }
    if (offset >= VIRTIO_MSIX_TABLE_OFFSET) {
        if (within(offset, length, VIRTIO_MSIX_TABLE_OFFSET,
                   VIRTIO_MSIX_PENDING_OFFSET - VIRTIO_MSIX_TABLE_OFFSET))
            pci_msix_table_write(&d->function, offset - VIRTIO_MSIX_TABLE_OFFSET, length, value);
        return;
    }
    pthread_mutex_lock(&d->lock);
    if (within(offset, length, VIRTIO_COMMON_OFFSET, COMMON_SIZE))
        common_write(d, offset - VIRTIO_COMMON_OFFSET, length, value);
    else if (within(offset, length, VIRTIO_DEVICE_OFFSET, 0x1000))
        device_write(d, offset - VIRTIO_DEVICE_OFFSET, length, value);
    pthread_mutex_unlock(&d->lock);
}

const struct bus_handler virtio_bar_handler = {.read = bar_read, .write = bar_write};

// PCI capabilities

static uint8_t add_capability(struct virtio_device *d, uint8_t type, uint32_t offset, uint32_t size)
{
    bool extra = type == CAP_TYPE_NOTIFY || type == CAP_TYPE_PCI;
    uint8_t length = extra ? CAP_BYTES_EXTRA : CAP_BYTES;
    uint16_t at = pci_function_add_capability(&d->function, PCI_CAPABILITY_VENDOR, length);
    if (at == 0)
        return 0;
    uint8_t *cap = d->function.config + at;
    cap[CAP_LENGTH] = length;
    cap[CAP_TYPE] = type;
    cap[CAP_BAR] = VIRTIO_BAR;
    bytes_put_u32(cap + CAP_OFFSET, offset);
    bytes_put_u32(cap + CAP_SIZE, size);
    if (type == CAP_TYPE_NOTIFY)
        bytes_put_u32(cap + CAP_EXTRA, VIRTIO_NOTIFY_MULTIPLIER);
    if (type == CAP_TYPE_PCI) {
        // The driver says here which bytes of which BAR the data register shows (4.1.4.9).
        uint8_t *writable = d->function.writable + at;
        writable[CAP_BAR] = 0xff;
        memset(writable + CAP_OFFSET, 0xff, CAP_BYTES_EXTRA - CAP_OFFSET);
    }
    return (uint8_t)at;
}

int virtio_registers_add_capabilities(struct virtio_device *d)
{
    uint32_t notify_size = d->queue_count * VIRTIO_NOTIFY_MULTIPLIER;
    d->pci_config_window = 0;
    if (!add_capability(d, CAP_TYPE_COMMON, VIRTIO_COMMON_OFFSET, COMMON_SIZE) ||
        !add_capability(d, CAP_TYPE_NOTIFY, VIRTIO_NOTIFY_OFFSET, notify_size) ||
        !add_capability(d, CAP_TYPE_ISR, VIRTIO_ISR_OFFSET, 1))
        return -ENOSPC;
    // A device without configuration has no such capability.
    if (d->config_size > 0 &&
        !add_capability(d, CAP_TYPE_DEVICE, VIRTIO_DEVICE_OFFSET, d->config_size))
        return -ENOSPC;
    d->pci_config_window = add_capability(d, CAP_TYPE_PCI, 0, 0);
    return d->pci_config_window ? 0 : -ENOSPC;
}

// What the window points at, if it is a place where the driver may access the virtio structures
// through it: an aligned access of 1, 2 or 4 bytes below the MSI-X table.
static bool window_target(const struct virtio_device *d, uint32_t *offset, uint32_t *length)
{
    const uint8_t *cap = d->function.config + d->pci_config_window;
    *offset = bytes_get_u32(cap + CAP_OFFSET);
    *length = bytes_get_u32(cap + CAP_SIZE);
    return cap[CAP_BAR] == VIRTIO_BAR && (*length == 1 || *length == 2 || *length == 4) &&
           *offset % *length == 0 && *offset < VIRTIO_MSIX_TABLE_OFFSET;
}

static struct virtio_device *device_of(struct pci_function *function)
{
    return (struct virtio_device *)((uint8_t *)function - offsetof(struct virtio_device, function));
}

static bool is_window_data(const struct virtio_device *d, unsigned offset, unsigned length)
{
    unsigned start = d->pci_config_window + CAP_EXTRA;
    return d->pci_config_window && offset < start + 4u && start < offset + length;
}

void virtio_registers_config_read(struct pci_function *function, unsigned offset, unsigned length)
{
    struct virtio_device *d = device_of(function);
    uint32_t at, bytes;
    if (!is_window_data(d, offset, length) || !window_target(d, &at, &bytes))
        return;
    uint32_t value = (uint32_t)bar_read(d, at, bytes);
    bytes_put_u32(function->config + d->pci_config_window + CAP_EXTRA, value);
}

void virtio_registers_config_written(struct pci_function *function, unsigned offset,
                                     unsigned length)
{
    struct virtio_device *d = device_of(function);
    uint32_t at, bytes;
    if (!is_window_data(d, offset, length) || !window_target(d, &at, &bytes))
        return;
    uint32_t value = bytes_get_u32(function->config + d->pci_config_window + CAP_EXTRA);
    if (bytes < 4)
        value &= (1u << (8 * bytes)) - 1;
    bar_write(d, at, bytes, value);
}
