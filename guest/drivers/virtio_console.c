#include "guest/drivers/virtio_console.h"

#include "guest/drivers/virtio.h"
#include "guest/lib/console.h"
#include "guest/lib/memory.h"
#include "guest/lib/pages.h"

enum {
    RECEIVE_QUEUE = 0,
    TRANSMIT_QUEUE = 1,
    QUEUE = 64,
    BUFFER = 4096,
};

static struct virtio_device device;
static struct virtqueue receive, transmit;
static uint8_t *out_buffers; // one a transmit entry, used in turns
static unsigned out_next, out_flying;

// The buffer that's being read.
static const uint8_t *in_buffer;
static uint32_t in_size, in_taken;

static void receive_offer(uint8_t *buffer)
{
    struct virtqueue_buffer offer = {buffer, BUFFER, true};
    virtqueue_add(&receive, &offer, 1, buffer);
}

bool virtio_console_open(void)
{
    if (!virtio_open(&device, VIRTIO_CONSOLE, 0, 0) ||
        !virtqueue_open(&receive, &device, RECEIVE_QUEUE, QUEUE) ||
        !virtqueue_open(&transmit, &device, TRANSMIT_QUEUE, QUEUE))
        return false;
    uint8_t *in_buffers = pages_allocate((uint64_t)receive.size * BUFFER, BUFFER);
    out_buffers = pages_allocate((uint64_t)transmit.size * BUFFER, BUFFER);
    if (!in_buffers || !out_buffers)
        return false;
    for (unsigned i = 0; i < receive.size; i++)
        receive_offer(in_buffers + i * BUFFER);
    virtio_ready(&device);
    virtqueue_kick(&receive);
    return true;
}

bool virtio_console_take_output(void)
{
    if (!virtio_console_open())
        return false;
    transmit.poll = true;
    console_output(virtio_console_write);
    return true;
}

static void transmit_reclaim(unsigned most)
{
    void *token;
    while (out_flying > most) {
        if (virtqueue_take(&transmit, &token, NULL))
            out_flying--;
        else
            virtqueue_wait(&transmit, 0);
    }
}

void virtio_console_write(const void *bytes, size_t size)
{
    const uint8_t *from = bytes;
    while (size) {
        size_t part = size < BUFFER ? size : BUFFER;
        transmit_reclaim(transmit.size - 1u);
        // Buffers come back in order on a console, so the next in turn is free.
        uint8_t *buffer = out_buffers + out_next * BUFFER;
        out_next = (out_next + 1) % transmit.size;
        memcpy(buffer, from, part);
        struct virtqueue_buffer offer = {buffer, (uint32_t)part, false};
        virtqueue_add(&transmit, &offer, 1, buffer);
        out_flying++;
        virtqueue_kick(&transmit);
        from += part;
        size -= part;
    }
    transmit_reclaim(0);
}

size_t virtio_console_read(void *bytes, size_t size, uint64_t until)
{
    if (in_taken == in_size) {
        void *token;
        if (in_buffer) {
            receive_offer((uint8_t *)(uintptr_t)in_buffer);
            virtqueue_kick(&receive);
        }
        in_buffer = NULL;
        in_size = in_taken = 0;
        virtqueue_wait(&receive, until);
        if (!virtqueue_take(&receive, &token, &in_size))
            return 0;
        in_buffer = token;
    }
    size_t part = in_size - in_taken < size ? in_size - in_taken : size;
    memcpy(bytes, in_buffer + in_taken, part);
    in_taken += (uint32_t)part;
    return part;
}
