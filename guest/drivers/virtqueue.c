// Split virtqueues (virtio 1.2, 2.7).
#include "guest/drivers/virtio.h"
#include "guest/drivers/virtio_common.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"

enum {
    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,
    DESCRIPTOR_INDIRECT = 4,
    AVAILABLE_NO_INTERRUPT = 1,
    USED_NO_NOTIFY = 1,
    RING_FLAGS = 0, // 16-bit words of both rings
    RING_INDEX = 1,
    RING_ENTRIES = 2,
    QUEUE_SIZE_MAX = 1024,
    NO_VECTOR = 0xffff,
};

// In turns: a queue that is opened again and again gets others. Two that share one are only woken
// too often.
static uint8_t vector_take(void)
{
    enum { FIRST = VECTOR_FIRST_FREE + 0x10 };
    static unsigned next;
    unsigned turn = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    return (uint8_t)(FIRST + turn % (VECTOR_TIMER - FIRST));
}

static void address_write(volatile uint32_t *halves, volatile const void *address)
{
    halves[0] = (uint32_t)(uint64_t)address;
    halves[1] = (uint32_t)((uint64_t)address >> 32);
}

static bool rings_allocate(struct virtqueue *queue)
{
    uint32_t size = queue->size;
    queue->descriptors = pages_allocate_zeroed(size * sizeof(*queue->descriptors), 4096);
    queue->available = pages_allocate_zeroed(2 * (size + 3), 4096);
    queue->used = pages_allocate_zeroed(8 * size + 6, 4096);
    queue->indirect = pages_allocate_zeroed(size * sizeof(*queue->indirect), 4096);
    queue->tokens = pages_allocate_zeroed(size * sizeof(*queue->tokens), 4096);
    queue->chain_length = pages_allocate_zeroed(size * sizeof(*queue->chain_length), 4096);
    if (!queue->descriptors || !queue->available || !queue->used || !queue->indirect ||
        !queue->tokens || !queue->chain_length)
        return false;
    for (uint16_t i = 0; i < size; i++)
        queue->descriptors[i].next = (uint16_t)(i + 1);
    queue->free_count = queue->size;
    return true;
}

bool virtqueue_open(struct virtqueue *queue, struct virtio_device *device, uint16_t index,
                    uint16_t size)
{
    volatile struct virtio_common *common = device->common;
    common->queue_select = index;
    uint16_t most = common->queue_size;
    if (most > QUEUE_SIZE_MAX)
        most = QUEUE_SIZE_MAX;
    *queue = (struct virtqueue){
        .device = device,
        .owner = this_cpu(),
        .index = index,
        .size = size && size < most ? size : most,
        .vector = vector_take(),
        .event_index = device->features & VIRTIO_F_EVENT_IDX,
        .use_indirect = device->features & VIRTIO_F_INDIRECT,
        .poll = option_number("poll", 0),
    };
    if (!queue->size || !rings_allocate(queue)) {
        console_line("virtqueue index=%u size=%u can't be set up", index, queue->size);
        return false;
    }
    common->queue_size = queue->size;
    common->queue_msix_vector = index;
    if (common->queue_msix_vector == NO_VECTOR ||
        !pci_msix_route(&device->msix, index, this_cpu()->apic_id, queue->vector)) {
        console_line("virtqueue index=%u has no MSI-X vector", index);
        return false;
    }
    address_write(common->queue_descriptors, queue->descriptors);
    address_write(common->queue_driver, queue->available);
    address_write(common->queue_device, queue->used);
    queue->notify = (volatile uint16_t *)(device->notify +
                                          common->queue_notify_offset * device->notify_multiplier);
    if (!queue->event_index)
        queue->available[RING_FLAGS] = AVAILABLE_NO_INTERRUPT;
    common->queue_enable = 1;
    return true;
}

static void descriptor_fill(volatile struct virtqueue_descriptor *descriptor,
                            const struct virtqueue_buffer *buffer, bool last, uint16_t next)
{
    descriptor->address = (uint64_t)buffer->address;
    descriptor->size = buffer->size;
    descriptor->flags =
        (uint16_t)((buffer->device_writes ? DESCRIPTOR_WRITE : 0) | (last ? 0 : DESCRIPTOR_NEXT));
    if (!last)
        descriptor->next = next;
}

// Takes descriptors off the free list for the buffers, and returns the head.
static uint16_t chain_direct(struct virtqueue *queue, const struct virtqueue_buffer *buffers,
                             unsigned count)
{
    uint16_t head = queue->free_head, at = head;
    for (unsigned i = 0; i < count; i++) {
        uint16_t next = queue->descriptors[at].next;
        descriptor_fill(&queue->descriptors[at], &buffers[i], i + 1 == count, next);
        at = next;
    }
    queue->free_head = at;
    queue->chain_length[head] = (uint16_t)count;
    return head;
}

static uint16_t chain_indirect(struct virtqueue *queue, const struct virtqueue_buffer *buffers,
                               unsigned count)
{
    uint16_t head = queue->free_head;
    volatile struct virtqueue_descriptor *descriptor = &queue->descriptors[head];
    struct virtqueue_descriptor *table = queue->indirect[head];
    queue->free_head = descriptor->next;
    for (unsigned i = 0; i < count; i++)
        descriptor_fill(&table[i], &buffers[i], i + 1 == count, (uint16_t)(i + 1));
    descriptor->address = (uint64_t)table;
    descriptor->size = count * (uint32_t)sizeof(table[0]);
    descriptor->flags = DESCRIPTOR_INDIRECT;
    queue->chain_length[head] = 1;
    return head;
}

bool virtqueue_add(struct virtqueue *queue, const struct virtqueue_buffer *buffers, unsigned count,
                   void *token)
{
    bool indirect = queue->use_indirect && count > 1 && count <= VIRTQUEUE_INDIRECT_MAX;
    if (queue->free_count < (indirect ? 1 : count))
        return false;
    uint16_t head =
        indirect ? chain_indirect(queue, buffers, count) : chain_direct(queue, buffers, count);
    queue->free_count = (uint16_t)(queue->free_count - queue->chain_length[head]);
    queue->tokens[head] = token;
    queue->available[RING_ENTRIES + queue->available_index % queue->size] = head;
    queue->available_index++;
    // The device must see the entry before the index that announces it.
    __atomic_thread_fence(__ATOMIC_RELEASE);
    queue->available[RING_INDEX] = queue->available_index;
    return true;
}

void virtqueue_kick(struct virtqueue *queue)
{
    // The index must be visible before the device's wish is read: else it might go to sleep in
    // between unnoticed.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t added = (uint16_t)(queue->available_index - queue->kicked_index);
    bool wanted;
    if (queue->event_index) {
        uint16_t event = queue->used[RING_ENTRIES + 4 * queue->size];
        wanted = (uint16_t)(queue->available_index - event - 1) < added;
    } else {
        wanted = added && !(queue->used[RING_FLAGS] & USED_NO_NOTIFY);
    }
    queue->kicked_index = queue->available_index;
    if (!wanted)
        return;
    *queue->notify = queue->index;
    queue->kicks++;
}

bool virtqueue_has_used(const struct virtqueue *queue)
{
    return queue->used[RING_INDEX] != queue->used_index;
}

bool virtqueue_take(struct virtqueue *queue, void **token, uint32_t *written)
{
    if (!virtqueue_has_used(queue))
        return false;
    // The entry is read after the index that announced it.
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    volatile uint32_t *entry =
        (volatile uint32_t *)(queue->used + RING_ENTRIES) + 2 * (queue->used_index % queue->size);
    uint16_t head = (uint16_t)entry[0];
    if (written)
        *written = entry[1];
    queue->used_index++;
    *token = queue->tokens[head];

    uint16_t last = head;
    for (unsigned i = 1; i < queue->chain_length[head]; i++)
        last = queue->descriptors[last].next;
    queue->descriptors[last].next = queue->free_head;
    queue->free_head = head;
    queue->free_count = (uint16_t)(queue->free_count + queue->chain_length[head]);
    return true;
}

static void interrupt_ask(struct virtqueue *queue, bool on)
{
    if (!queue->event_index)
        queue->available[RING_FLAGS] = on ? 0 : AVAILABLE_NO_INTERRUPT;
    else if (on)
        queue->available[RING_ENTRIES + queue->size] = queue->used_index;
    // The wish must be visible before the last look at the index, else the device might miss it and
    // we its work.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool virtqueue_wait(struct virtqueue *queue, uint64_t until)
{
    if (virtqueue_has_used(queue))
        return true;
    if (queue->poll) {
        while (!virtqueue_has_used(queue) && (!until || time_tsc() < until))
            __builtin_ia32_pause();
        return virtqueue_has_used(queue);
    }
    uint64_t seen = this_cpu()->irq_total;
    interrupt_ask(queue, true);
    if (!virtqueue_has_used(queue)) {
        if (until)
            time_sleep_until_or(until, seen);
        else
            cpu_sleep(seen);
    }
    interrupt_ask(queue, false);
    return virtqueue_has_used(queue);
}

uint64_t virtqueue_interrupts(const struct virtqueue *queue)
{
    return queue->owner->irq_count[queue->vector];
}
