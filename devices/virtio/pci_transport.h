// The virtio PCI transport (virtio 1.2, 4.1; modern devices only), and what a device implements to
// live behind it.
//
//   BAR 0   0x0000 common configuration   0x1000 ISR   0x2000 device configuration
//           0x3000 notifications, 4 bytes a queue      0x4000 MSI-X table   0x6000 pending bits
//
// Threads and locks:
// - `lock` guards the registers: what the driver programmed. vCPU threads take it for a register
//   access, the main thread for reset and the like.
// - Queues and everything that a device keeps to serve them belong to the I/O thread while the
//   device is `started`. Whoever wants to change them holds `lock` and gets there by
//   io_thread_call(). So the I/O thread never takes `lock`: what it needs of the registers (status,
//   vectors) is atomic, or copied at start.
// - `config_lock` guards the bytes of the device configuration, which both sides write. Nothing is
//   called under it.
// Order: pci_bus.lock, lock, config_lock.
//
// Life of the queues:  driver enables them -> DRIVER_OK starts the device -> quiesce stops it, with
// nothing in flight -> resume starts it again ... -> reset stops it and disables the queues.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "devices/virtio/queue.h"
#include "devices/virtio/virtio.h"

enum {
    VIRTIO_BAR = 0,
    VIRTIO_BAR_SIZE = 0x8000,
    VIRTIO_COMMON_OFFSET = 0x0000,
    VIRTIO_ISR_OFFSET = 0x1000,
    VIRTIO_DEVICE_OFFSET = 0x2000,
    VIRTIO_NOTIFY_OFFSET = 0x3000,
    VIRTIO_NOTIFY_MULTIPLIER = 4,
    VIRTIO_MSIX_TABLE_OFFSET = 0x4000,
    VIRTIO_MSIX_PENDING_OFFSET = 0x6000,

    VIRTIO_QUEUES_LIMIT = 128,
    VIRTIO_CONFIG_LIMIT = 128,
    VIRTIO_NO_VECTOR = 0xffff,
};

// Device status (virtio 1.2, 2.1).
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

#define VIRTIO_FEATURE(bit) (UINT64_C(1) << (bit))
// Features that the transport offers for every device (virtio 1.2, 6).
#define VIRTIO_F_INDIRECT_DESC VIRTIO_FEATURE(28)
#define VIRTIO_F_EVENT_IDX     VIRTIO_FEATURE(29)
#define VIRTIO_F_VERSION_1     VIRTIO_FEATURE(32)
#define VIRTIO_F_RING_RESET    VIRTIO_FEATURE(40)
#define VIRTIO_TRANSPORT_FEATURES                                                                  \
    (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_RESET)

struct virtio_device;

// What makes a kind of device. `kind`, `virtio_id` and `class_code` are constants; everything else
// is called as its comment says.
struct virtio_device_ops {
    const char *kind;
    uint16_t virtio_id;  // virtio 1.2, 5
    uint32_t class_code; // PCI base class, subclass, interface

    // Under `lock`. True when the device can work with this set, which holds nothing that wasn't
    // offered. NULL = always.
    bool (*features_fit)(struct virtio_device *device, uint64_t features);
    // Under `lock`: the driver wrote device configuration. NULL = such writes are ignored.
    void (*config_write)(struct virtio_device *device, uint32_t offset, unsigned length,
                         uint64_t value);

    // On the I/O thread: device->features and the enabled queues hold. Watches what has to be
    // watched beside the queues. 0 or -errno, which puts the device into NEEDS_RESET. NULL =
    // nothing to do.
    int (*start)(struct virtio_device *device);
    // On the I/O thread: returns with nothing in flight (every popped chain completed or rewound)
    // and no watch left. Also called after a start that failed. NULL = nothing to do.
    void (*stop)(struct virtio_device *device);
    // On the I/O thread: the queue was kicked. Serves at most VIRTQUEUE_TURN chains; true = there
    // may be more, call again.
    bool (*serve)(struct virtio_device *device, unsigned queue);

    // Forgets what a reset must forget, beside the transport and the queues. While stopped. NULL =
    // nothing.
    void (*reset)(struct virtio_device *device);
    // The device's own state, while stopped. Both NULL for a device without any.
    void (*save)(struct virtio_device *device, struct byte_writer *writer);
    int (*load)(struct virtio_device *device, struct byte_reader *reader, struct error *err);
    // Frees the device's struct and what it owns. Stopped, unplugged.
    void (*destroy)(struct virtio_device *device);
};

struct virtio_queue {
    struct virtqueue ring; // first: the owner's callbacks get back from here
    struct virtio_device *device;
    uint16_t index;
    uint16_t size_maximum;
    int event_fd; // rung by the doorbell, by register writes and by the device itself
    struct io_watch *watch;
    bool doorbell; // registered with the machine, at device->bar_address; guarded by device->lock
    bool rung;     // the device itself rang event_fd: no kick to count. On the I/O thread.
    _Atomic uint16_t vector;
    _Atomic uint64_t notifications, bytes;
};

// The first member of each virtio device's struct.
struct virtio_device {
    struct device device;
    struct device_ops device_ops; // device.ops points here
    struct pci_function function;
    const struct virtio_device_ops *ops;
    struct machine_bus *machine;
    struct pci_bus *pci;
    struct io_thread *io_thread;
    uint64_t offered; // features

    pthread_mutex_t lock;
    // Guarded by `lock`.
    uint32_t device_feature_select, driver_feature_select;
    uint64_t driver_features; // as written; they count from FEATURES_OK on
    uint16_t queue_select;
    bool started;
    bool holding; // since its stop: requests that the lease didn't allow any more
    bool bar_is_mapped;
    uint64_t bar_address;
    struct log_limit doorbells_told;

    _Atomic uint8_t status;
    _Atomic uint8_t isr;
    _Atomic uint16_t config_vector;
    uint64_t features; // negotiated; fixed while started

    pthread_mutex_t config_lock;
    // Guarded by `config_lock`.
    uint8_t config[VIRTIO_CONFIG_LIMIT];
    uint8_t config_generation;
    uint32_t config_size; // fixed

    struct virtio_queue *queues;
    unsigned queue_count;
    uint8_t pci_config_window; // config offset of the PCI configuration access capability
    _Atomic unsigned failures; // logged, up to a limit
};

// Everything up to the PCI slot for a device whose struct begins with `device` (zeroed): offers
// `features` beside the transport's, and has `queue_count` queues of at most `queue_size`. 0 or a
// sentence with nothing left. The device is usable when this returns, so its own members and
// device->config (of config_size) are set before.
int virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
                       const struct virtio_environment *env, uint64_t features,
                       unsigned queue_count, uint16_t queue_size, struct error *err);

static inline bool virtio_device_has(const struct virtio_device *device, uint64_t feature)
{
    return (device->features & feature) != 0;
}
// Changes device configuration bytes, and tells the driver when it runs. Any thread.
void virtio_device_config_change(struct virtio_device *device, uint32_t offset, const void *bytes,
                                 uint32_t length);
// Copies device configuration bytes out. Any thread.
void virtio_device_config_copy(struct virtio_device *device, uint32_t offset, void *out,
                               uint32_t length);
// NEEDS_RESET and the interrupt for it. Any thread.
void virtio_device_fail(struct virtio_device *device, const char *why);
// Runs function(opaque) on the I/O thread and waits for it, for commands of the main thread. The
// device can't start or stop meanwhile; device->started says which it is.
void virtio_device_call(struct virtio_device *device, void (*function)(void *opaque), void *opaque);

// Serves the queue again soon, from the I/O thread.
void virtio_queue_ring(struct virtio_queue *queue);
// Counts payload. On the I/O thread.
void virtio_queue_count_bytes(struct virtio_queue *queue, uint64_t bytes);
static inline struct virtqueue *virtio_device_ring(struct virtio_device *device, unsigned queue)
{
    return &device->queues[queue].ring;
}
