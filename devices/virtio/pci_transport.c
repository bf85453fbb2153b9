#include "devices/virtio/pci_transport.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "devices/virtio/kinds.h"
#include "devices/virtio/pci_registers.h"

enum {
    PCI_VENDOR_VIRTIO = 0x1af4,
    PCI_DEVICE_BASE = 0x1040, // + virtio id (4.1.2.1)
    PCI_REVISION_MODERN = 1,
    ISR_QUEUE = 1,
    ISR_CONFIG = 2,
    FAILURES_LOGGED = 8,
};

static struct virtio_device *from_device(const struct device *device)
{
    return (struct virtio_device *)device; // its first member
}

static struct virtio_queue *from_ring(struct virtqueue *ring)
{
    return (struct virtio_queue *)ring; // its first member
}

// Interrupts, from any thread

static void raise_config_interrupt(struct virtio_device *d)
{
    atomic_fetch_or(&d->isr, ISR_CONFIG); // before the interrupt (4.1.4.5.1)
    pci_msix_notify(&d->function, atomic_load(&d->config_vector));
}

static void raise_queue_interrupt(struct virtqueue *ring)
{
    struct virtio_queue *q = from_ring(ring);
    struct virtio_device *d = q->device;
    if (!pci_msix_enabled(&d->function)) {
        // There are no interrupt lines: a driver without MSI-X polls this.
        atomic_fetch_or(&d->isr, ISR_QUEUE);
        return;
    }
    pci_msix_notify(&d->function, atomic_load(&q->vector));
}

void virtio_device_fail(struct virtio_device *d, const char *why)
{
    uint8_t old = atomic_fetch_or(&d->status, VIRTIO_STATUS_NEEDS_RESET);
    if (old & VIRTIO_STATUS_NEEDS_RESET)
        return;
    // A guest can do this as often as it likes: it may not fill the log with it.
    unsigned n = atomic_fetch_add(&d->failures, 1);
    if (n < FAILURES_LOGGED)
        log_warning("%s '%s': %s: the device needs a reset by its driver%s", d->ops->kind,
                    d->device.id, why, n + 1 == FAILURES_LOGGED ? " (said for the last time)" : "");
    if (old & VIRTIO_STATUS_DRIVER_OK)
        raise_config_interrupt(d);
}

static void ring_broken(struct virtqueue *ring, const char *why)
{
    virtio_device_fail(from_ring(ring)->device, why);
}

static const struct virtqueue_owner ring_owner = {.interrupt = raise_queue_interrupt,
                                                  .broken = ring_broken};

// Serving, on the I/O thread

void virtio_queue_ring(struct virtio_queue *q)
{
    q->rung = true;
    eventfd_write(q->event_fd, 1);
}

void virtio_queue_count_bytes(struct virtio_queue *q, uint64_t bytes)
{
    atomic_fetch_add_explicit(&q->bytes, bytes, memory_order_relaxed);
}

static void serve(struct virtio_queue *q)
{
    if (q->device->ops->serve(q->device, q->index))
        virtio_queue_ring(q);
}

static void queue_kicked(void *opaque)
{
    struct virtio_queue *q = opaque;
    eventfd_t kicks;
    // Drained before the ring is looked at: a kick that comes later wakes us again.
    if (eventfd_read(q->event_fd, &kicks) < 0)
        return;
    if (!q->rung)
        atomic_fetch_add_explicit(&q->notifications, 1, memory_order_relaxed);
    q->rung = false;
    serve(q);
}

static void unwatch_queues(struct virtio_device *d)
{
    for (unsigned i = 0; i < d->queue_count; i++) {
        io_thread_unwatch(d->queues[i].watch);
        d->queues[i].watch = NULL;
    }
}

static int watch_queues(struct virtio_device *d)
{
    for (unsigned i = 0; i < d->queue_count; i++) {
        struct virtio_queue *q = &d->queues[i];
        if (!q->ring.enabled)
            continue;
        int rc = io_thread_watch(d->io_thread, q->event_fd, queue_kicked, q, &q->watch);
        if (rc < 0) {
            unwatch_queues(d);
            return rc;
        }
    }
    return 0;
}

struct start_call {
    struct virtio_device *device;
    int result;
};

static void start_on_thread(void *opaque)
{
    struct start_call *call = opaque;
    struct virtio_device *d = call->device;
    call->result = watch_queues(d);
    if (call->result < 0)
        return;
    call->result = d->ops->start ? d->ops->start(d) : 0;
    if (call->result < 0) {
        if (d->ops->stop)
            d->ops->stop(d);
        unwatch_queues(d);
        return;
    }
    // As if each had been kicked: buffers made available before DRIVER_OK came without a kick, and
    // after a load nobody remembers whether there was one.
    for (unsigned i = 0; i < d->queue_count; i++) {
        struct virtqueue *ring = &d->queues[i].ring;
        if (!ring->enabled)
            continue;
        if (ring->interrupt_due)
            virtqueue_publish(ring);
        serve(&d->queues[i]);
    }
}

static void stop_on_thread(void *opaque)
{
    struct virtio_device *d = opaque;
    unwatch_queues(d);
    if (d->ops->stop)
        d->ops->stop(d);
    for (unsigned i = 0; i < d->queue_count; i++)
        assert(d->holding || virtqueue_in_flight(&d->queues[i].ring) == 0);
}

// Doorbells; under lock

static struct doorbell doorbell_of(const struct virtio_queue *q)
{
    // Any width of write rings, so no value is matched and the shortest path in the machine will
    // do.
    return (struct doorbell){.address = q->device->bar_address + VIRTIO_NOTIFY_OFFSET +
                                        (uint64_t)q->index * VIRTIO_NOTIFY_MULTIPLIER,
                             .event_fd = q->event_fd};
}

static void remove_doorbell(struct virtio_queue *q)
{
    if (!q->doorbell)
        return;
    struct machine_bus *machine = q->device->machine;
    const struct doorbell doorbell = doorbell_of(q);
    machine->ops->doorbell_remove(machine->machine, &doorbell);
    q->doorbell = false;
}

static void add_doorbell(struct virtio_queue *q)
{
    struct virtio_device *d = q->device;
    if (q->doorbell || !q->ring.enabled || !d->bar_is_mapped)
        return;
    const struct doorbell doorbell = doorbell_of(q);
    int rc = d->machine->ops->doorbell_add(d->machine->machine, &doorbell);
    q->doorbell = rc == 0;
    // Kicks then come through the BAR's handler, which is only slower. A guest that moves the BAR
    // to and fro needn't be told of each time.
    bool last;
    if (rc < 0 && log_limit_allows(&d->doorbells_told, clock_monotonic_ns(), &last))
        log_warning("%s '%s': no doorbell for queue %u: %s%s", d->ops->kind, d->device.id, q->index,
                    strerror(-rc), LOG_LIMIT_NOTE(last));
}

static void add_doorbells(struct virtio_device *d)
{
    for (unsigned i = 0; i < d->queue_count; i++)
        add_doorbell(&d->queues[i]);
}

static void remove_doorbells(struct virtio_device *d)
{
    for (unsigned i = 0; i < d->queue_count; i++)
        remove_doorbell(&d->queues[i]);
}

static void bar_mapped(struct pci_function *function, unsigned index, uint64_t address, bool mapped)
{
    struct virtio_device *d =
        (struct virtio_device *)((uint8_t *)function - offsetof(struct virtio_device, function));
    pthread_mutex_lock(&d->lock);
    remove_doorbells(d);
    d->bar_is_mapped = mapped;
    d->bar_address = address;
    if (mapped && (atomic_load(&d->status) & VIRTIO_STATUS_DRIVER_OK))
        add_doorbells(d);
    pthread_mutex_unlock(&d->lock);
}

// Life; under lock

bool virtio_transport_accept_features(struct virtio_device *d)
{
    uint64_t features = d->driver_features;
    if ((features & ~d->offered) || !(features & VIRTIO_F_VERSION_1))
        return false;
    if (d->ops->features_fit && !d->ops->features_fit(d, features))
        return false;
    d->features = features;
    return true;
}

static void start(struct virtio_device *d)
{
    if (d->started)
        return;
    struct start_call call = {.device = d};
    add_doorbells(d);
    io_thread_call(d->io_thread, start_on_thread, &call);
    if (call.result < 0) {
        char why[80];
        snprintf(why, sizeof(why), "can't be started (errno %d)", -call.result);
        virtio_device_fail(d, why);
        return;
    }
    d->started = true;
}

static void stop(struct virtio_device *d)
{
    if (!d->started)
        return;
    io_thread_call(d->io_thread, stop_on_thread, d);
    d->started = false;
}

void virtio_transport_start(struct virtio_device *d)
{
    start(d);
}

static void disable_queue(struct virtio_queue *q)
{
    remove_doorbell(q);
    virtqueue_disable(&q->ring);
    q->ring.size = q->size_maximum;
    atomic_store(&q->vector, VIRTIO_NO_VECTOR);
    // A kick for the queue that was must not count for the one that will be.
    eventfd_t kicks;
    eventfd_read(q->event_fd, &kicks);
    q->rung = false;
}

void virtio_transport_reset(struct virtio_device *d)
{
    stop(d);
    for (unsigned i = 0; i < d->queue_count; i++)
        disable_queue(&d->queues[i]);
    d->device_feature_select = d->driver_feature_select = 0;
    d->driver_features = d->features = 0;
    d->queue_select = 0;
    if (d->ops->reset)
        d->ops->reset(d);
    atomic_store(&d->config_vector, VIRTIO_NO_VECTOR);
    atomic_store(&d->isr, 0);
    atomic_store(&d->status, 0);
}

static void set_ring_features(struct virtio_device *d, struct virtqueue *ring)
{
    ring->event_index = virtio_device_has(d, VIRTIO_F_EVENT_IDX);
    ring->indirect = virtio_device_has(d, VIRTIO_F_INDIRECT_DESC);
}

void virtio_transport_enable_queue(struct virtio_device *d, struct virtio_queue *q)
{
    uint8_t status = atomic_load(&d->status);
    if (!(status & VIRTIO_STATUS_FEATURES_OK))
        return;
    bool running = status & VIRTIO_STATUS_DRIVER_OK;
    // With DRIVER_OK only a queue that was reset may come back (2.6.1.2).
    if (running && !virtio_device_has(d, VIRTIO_F_RING_RESET))
        return;
    if (running)
        stop(d);
    set_ring_features(d, &q->ring);
    if (q->ring.size > q->size_maximum || virtqueue_enable(&q->ring) < 0)
        virtio_device_fail(d, "a queue has a wrong size, or rings that are misplaced");
    if (running)
        start(d);
}

void virtio_transport_reset_queue(struct virtio_device *d, struct virtio_queue *q)
{
    if (!virtio_device_has(d, VIRTIO_F_RING_RESET) || !q->ring.enabled)
        return;
    bool running = d->started;
    stop(d);
    disable_queue(q);
    if (running)
        start(d);
}

// Device configuration

void virtio_device_config_change(struct virtio_device *d, uint32_t offset, const void *bytes,
                                 uint32_t length)
{
    assert(offset + length <= d->config_size);
    pthread_mutex_lock(&d->config_lock);
    memcpy(d->config + offset, bytes, length);
    d->config_generation++;
    pthread_mutex_unlock(&d->config_lock);
    if (atomic_load(&d->status) & VIRTIO_STATUS_DRIVER_OK)
        raise_config_interrupt(d);
}

void virtio_device_config_copy(struct virtio_device *d, uint32_t offset, void *out, uint32_t length)
{
    assert(offset + length <= d->config_size);
    pthread_mutex_lock(&d->config_lock);
    memcpy(out, d->config + offset, length);
    pthread_mutex_unlock(&d->config_lock);
}

void virtio_device_call(struct virtio_device *d, void (*function)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&d->lock);
    io_thread_call(d->io_thread, function, opaque);
    pthread_mutex_unlock(&d->lock);
}

// What the machine calls

static void device_reset(struct device *device)
{
    struct virtio_device *d = from_device(device);
    pthread_mutex_lock(&d->lock);
    virtio_transport_reset(d);
    pthread_mutex_unlock(&d->lock);
    // Takes pci_bus.lock, which comes before ours.
    pci_function_reset(&d->function);
}

static void device_quiesce(struct device *device)
{
    struct virtio_device *d = from_device(device);
    pthread_mutex_lock(&d->lock);
    stop(d);
    pthread_mutex_unlock(&d->lock);
}

static void device_resume(struct device *device)
{
    struct virtio_device *d = from_device(device);
    pthread_mutex_lock(&d->lock);
    if (atomic_load(&d->status) & VIRTIO_STATUS_DRIVER_OK)
        start(d);
    pthread_mutex_unlock(&d->lock);
}

struct transport_state {
    uint8_t status, isr, config_generation;
    uint16_t config_vector, queue_select, queue_count;
    uint32_t device_feature_select, driver_feature_select;
    uint64_t driver_features, features;
};

static const struct state_field transport_fields[] = {
    STATE_FIELD(STATE_U8, struct transport_state, status),
    STATE_FIELD(STATE_U8, struct transport_state, isr),
    STATE_FIELD(STATE_U8, struct transport_state, config_generation),
    STATE_FIELD(STATE_U16, struct transport_state, config_vector),
    STATE_FIELD(STATE_U16, struct transport_state, queue_select),
    STATE_FIELD(STATE_U16, struct transport_state, queue_count),
    STATE_FIELD(STATE_U32, struct transport_state, device_feature_select),
    STATE_FIELD(STATE_U32, struct transport_state, driver_feature_select),
    STATE_FIELD(STATE_U64, struct transport_state, driver_features),
    STATE_FIELD(STATE_U64, struct transport_state, features),
    {.name = NULL},
};

static const struct state_section transport_section = {
    .name = "virtio-pci", .version = 1, .fields = transport_fields};

static void device_save(struct device *device, struct byte_writer *writer)
{
    struct virtio_device *d = from_device(device);
    pci_function_save(&d->function, writer);
    pthread_mutex_lock(&d->lock);
    assert(!d->started);
    struct transport_state state = {
        .status = atomic_load(&d->status),
        .isr = atomic_load(&d->isr),
        .config_generation = (uint8_t)d->config_generation,
        .config_vector = atomic_load(&d->config_vector),
        .queue_select = d->queue_select,
        .queue_count = (uint16_t)d->queue_count,
        .device_feature_select = d->device_feature_select,
        .driver_feature_select = d->driver_feature_select,
        .driver_features = d->driver_features,
        .features = d->features,
    };
    state_section_save(&transport_section, &state, writer);
    for (unsigned i = 0; i < d->queue_count; i++) {
        byte_writer_u16(writer, atomic_load(&d->queues[i].vector));
        virtqueue_save(&d->queues[i].ring, writer);
    }
    if (d->ops->save)
        d->ops->save(d, writer);
    pthread_mutex_unlock(&d->lock);
}

// What no device that was saved can look like.
static int check_state(const struct virtio_device *d, const struct transport_state *s,
                       struct error *err)
{
    bool features_ok = s->status & VIRTIO_STATUS_FEATURES_OK;
    if (s->queue_count != d->queue_count)
        return error_set(err, ENOTSUP, "the saved device has %u queues, this one %u",
                         s->queue_count, d->queue_count);
    if (s->features & ~d->offered)
        return error_set(err, ENOTSUP,
                         "the guest uses the features 0x%llx, which aren't offered here",
                         (unsigned long long)(s->features & ~d->offered));
    if ((s->features != 0) != features_ok ||
        (features_ok && (s->features != s->driver_features || !(s->features & VIRTIO_F_VERSION_1))))
        return error_set(err, EBADMSG, "status and features don't fit");
    if ((s->status & VIRTIO_STATUS_DRIVER_OK) && !features_ok)
        return error_set(err, EBADMSG, "status bits don't fit");
    if (features_ok && d->ops->features_fit && !d->ops->features_fit((void *)d, s->features))
        return error_set(err, EBADMSG, "features don't fit one another");
    if (s->config_vector > d->queue_count && s->config_vector != VIRTIO_NO_VECTOR)
        return error_set(err, EBADMSG, "an interrupt vector is out of range");
    return 0;
}

static int load_queue(struct virtio_device *d, struct virtio_queue *q, struct byte_reader *reader,
                      struct error *err)
{
    uint16_t vector = byte_reader_u16(reader);
    if (vector > d->queue_count && vector != VIRTIO_NO_VECTOR)
        return error_set(err, EBADMSG, "an interrupt vector is out of range");
    set_ring_features(d, &q->ring);
    int rc = virtqueue_load(&q->ring, reader, err);
    if (rc < 0)
        return rc;
    if (q->ring.enabled &&
        (d->features == 0 || q->ring.size > q->size_maximum)) // else served without negotiation
        return error_set(err, EBADMSG, "a queue is enabled that can't be");
    atomic_store(&q->vector, vector);
    return 0;
}

static int load_locked(struct virtio_device *d, struct byte_reader *reader, struct error *err)
{
    struct transport_state state = {0};
    int rc = state_section_load(&transport_section, &state, reader, err);
    if (rc == 0)
        rc = check_state(d, &state, err);
    if (rc < 0)
        return rc;
    d->device_feature_select = state.device_feature_select;
    d->driver_feature_select = state.driver_feature_select;
    d->driver_features = state.driver_features;
    d->features = state.features;
    d->queue_select = state.queue_select;
    for (unsigned i = 0; i < d->queue_count && rc == 0; i++)
        rc = load_queue(d, &d->queues[i], reader, err);
    if (rc == 0 && d->ops->load)
        rc = d->ops->load(d, reader, err);
    if (rc < 0)
        return rc;
    // Behind device->load(), which may have changed configuration bytes and so counted.
    d->config_generation = state.config_generation;
    atomic_store(&d->config_vector, state.config_vector);
    atomic_store(&d->isr, state.isr & (ISR_QUEUE | ISR_CONFIG));
    atomic_store(&d->status, state.status);
    return 0;
}

static int device_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct virtio_device *d = from_device(device);
    pthread_mutex_lock(&d->lock);
    virtio_transport_reset(d);
    pthread_mutex_unlock(&d->lock);
    int rc = pci_function_load(&d->function, reader, err);
    if (rc == 0) {
        pthread_mutex_lock(&d->lock);
        rc = load_locked(d, reader, err);
        if (rc < 0)
            virtio_transport_reset(d);
        pthread_mutex_unlock(&d->lock);
    }
    if (rc < 0)
        error_prefix(err, "%s '%s'", d->ops->kind, d->device.id);
    return rc;
}

static void free_queues(struct virtio_device *d)
{
    for (unsigned i = 0; d->queues && i < d->queue_count; i++)
        if (d->queues[i].event_fd >= 0)
            close(d->queues[i].event_fd);
    free(d->queues);
    d->queues = NULL;
}

static void device_destroy(struct device *device)
{
    struct virtio_device *d = from_device(device);
    pthread_mutex_lock(&d->lock);
    stop(d);
    remove_doorbells(d);
    pthread_mutex_unlock(&d->lock);
    pci_bus_unplug(d->pci, &d->function);
    free_queues(d);
    pthread_mutex_destroy(&d->config_lock);
    pthread_mutex_destroy(&d->lock);
    d->ops->destroy(d);
}

// Creation

static const struct pci_function_ops function_ops = {
    .bar_mapped = bar_mapped,
    .config_read = virtio_registers_config_read,
    .config_written = virtio_registers_config_written,
};

static bool is_listed(const struct virtio_device_ops *ops)
{
    for (unsigned i = 0; virtio_device_kinds[i]; i++)
        if (virtio_device_kinds[i] == ops)
            return true;
    return false;
}

static int make_queues(struct virtio_device *d, unsigned queue_count, uint16_t queue_size)
{
    d->queues = calloc(queue_count, sizeof(*d->queues));
    if (!d->queues)
        return -ENOMEM;
    d->queue_count = queue_count;
    for (unsigned i = 0; i < queue_count; i++)
        d->queues[i].event_fd = -1;
    for (unsigned i = 0; i < queue_count; i++) {
        struct virtio_queue *q = &d->queues[i];
        virtqueue_init(&q->ring, d->machine->memory, &ring_owner);
        q->device = d;
        q->index = (uint16_t)i;
        q->size_maximum = q->ring.size = queue_size;
        atomic_store(&q->vector, VIRTIO_NO_VECTOR);
        q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->event_fd < 0)
            return -errno;
    }
    return 0;
}

static int make_function(struct virtio_device *d, uint8_t slot)
{
    const struct pci_identity identity = {
        .vendor = PCI_VENDOR_VIRTIO,
        .device = (uint16_t)(PCI_DEVICE_BASE + d->ops->virtio_id),
        .subsystem_vendor = PCI_VENDOR_VIRTIO,
        .subsystem = (uint16_t)(PCI_DEVICE_BASE + d->ops->virtio_id), // >= 0x40 (4.1.2.1)
        .revision = PCI_REVISION_MODERN,
        .class_code = d->ops->class_code,
    };
    pci_function_init(&d->function, &function_ops, d->device.id, &identity);
    pci_function_add_bar(&d->function, VIRTIO_BAR, VIRTIO_BAR_SIZE, &virtio_bar_handler, d);
    // One vector a queue and one for configuration changes.
    int rc = pci_function_add_msix(&d->function, d->machine, d->queue_count + 1, VIRTIO_BAR,
                                   VIRTIO_MSIX_TABLE_OFFSET, VIRTIO_MSIX_PENDING_OFFSET);
    if (rc == 0)
        rc = virtio_registers_add_capabilities(d);
    if (rc == 0)
        rc = pci_bus_plug(d->pci, &d->function, slot);
    return rc;
}

int virtio_device_init(struct virtio_device *d, const struct virtio_device_ops *ops,
                       const struct virtio_environment *env, uint64_t features,
                       unsigned queue_count, uint16_t queue_size, struct error *err)
{
    assert(is_listed(ops));
    assert(queue_count > 0 && queue_count <= VIRTIO_QUEUES_LIMIT &&
           queue_size <= VIRTQUEUE_SIZE_LIMIT && d->config_size <= VIRTIO_CONFIG_LIMIT);
    d->ops = ops;
    d->device_ops = (struct device_ops){.kind = ops->kind,
                                        .reset = device_reset,
                                        .quiesce = device_quiesce,
                                        .resume = device_resume,
                                        .save = device_save,
                                        .load = device_load,
                                        .destroy = device_destroy};
    d->device.ops = &d->device_ops;
    snprintf(d->device.id, sizeof(d->device.id), "%s", env->id);
    d->machine = env->machine;
    d->pci = env->pci;
    d->io_thread = env->io_thread;
    d->offered = features | VIRTIO_TRANSPORT_FEATURES;
    atomic_store(&d->config_vector, VIRTIO_NO_VECTOR);
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->config_lock, NULL);
    int rc = make_queues(d, queue_count, queue_size);
    if (rc == 0)
        rc = make_function(d, env->slot);
    if (rc == 0)
        return 0;
    pci_bus_unplug(d->pci, &d->function);
    free_queues(d);
    pthread_mutex_destroy(&d->config_lock);
    pthread_mutex_destroy(&d->lock);
    return error_set_errno(err, -rc, "%s '%s': can't be made", ops->kind, env->id);
}

// Public

bool virtio_device_is(const struct device *device)
{
    return device->ops->destroy == device_destroy;
}

unsigned virtio_device_queue_count(const struct device *device)
{
    return virtio_device_is(device) ? from_device(device)->queue_count : 0;
}

uint8_t virtio_device_slot(const struct device *device)
{
    return from_device(device)->function.slot;
}

struct io_thread *virtio_device_thread(const struct device *device)
{
    return from_device(device)->io_thread;
}

bool virtio_device_counters(const struct device *device, unsigned queue,
                            struct virtio_queue_counters *counters)
{
    if (queue >= virtio_device_queue_count(device))
        return false;
    const struct virtio_queue *q = &from_device(device)->queues[queue];
    *counters = (struct virtio_queue_counters){
        .requests = atomic_load_explicit(&q->ring.requests, memory_order_relaxed),
        .bytes = atomic_load_explicit(&q->bytes, memory_order_relaxed),
        .notifications = atomic_load_explicit(&q->notifications, memory_order_relaxed),
        .interrupts = atomic_load_explicit(&q->ring.interrupts, memory_order_relaxed),
        .suppressed = atomic_load_explicit(&q->ring.suppressed, memory_order_relaxed),
    };
    return true;
}
