// The queue module against rings made of fuzz input, with the guest writing between any two steps.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "devices/virtio/queue.h"

enum { RAM_SIZE = 0x8000, DESCRIPTORS = 0, AVAILABLE = 0x1000, USED = 0x2000, TABLES = 0x3000 };

static uint8_t *ram;
static struct guest_memory memory;
static struct virtqueue queue;
static struct virtqueue_chain chains[VIRTQUEUE_SIZE_LIMIT];
static unsigned in_flight, breaks;

static void on_interrupt(struct virtqueue *q)
{
}

static void on_broken(struct virtqueue *q, const char *why)
{
    breaks++;
}

static const struct virtqueue_owner owner = {.interrupt = on_interrupt, .broken = on_broken};

// Reads and writes all that the chain claims to have.
static void use_chain(const struct virtqueue_chain *chain)
{
    uint8_t buffer[4096];
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT];
    size_t total = 0;
    for (unsigned i = 0; i < chain->out_count + chain->in_count; i++)
        total += chain->iov[i].iov_len;
    if (total != (size_t)chain->out_bytes + chain->in_bytes)
        abort();
    memset(buffer, 0x5a, sizeof(buffer));
    virtqueue_chain_read(chain, 1, buffer, sizeof(buffer));
    virtqueue_chain_write(chain, chain->in_bytes / 2, buffer, sizeof(buffer));
    virtqueue_chain_slice(chain, true, 0, chain->in_bytes, iov);
    virtqueue_chain_slice(chain, false, chain->out_bytes / 3, chain->out_bytes / 2, iov);
    virtqueue_chain_written(&queue, chain, 0, chain->in_bytes);
}

static void take(void)
{
    if (in_flight == VIRTQUEUE_SIZE_LIMIT)
        return;
    int rc = virtqueue_pop(&queue, &chains[in_flight]);
    if (rc > 0)
        use_chain(&chains[in_flight++]);
    if (virtqueue_in_flight(&queue) != in_flight || in_flight > queue.size)
        abort();
}

static void give(void)
{
    if (in_flight == 0)
        return;
    in_flight--;
    virtqueue_push(&queue, &chains[in_flight], chains[in_flight].in_bytes);
}

static void guest_writes(struct byte_reader *r)
{
    uint8_t what = byte_reader_u8(r);
    uint8_t *p;
    switch (what & 3) {
    case 0: // a descriptor, in the ring or an indirect table
        p = ram + (what & 4 ? TABLES : DESCRIPTORS) + 16 * (what >> 3);
        bytes_put_u64(p, what & 4 ? byte_reader_u64(r) : byte_reader_u16(r));
        bytes_put_u32(p + 8, byte_reader_u16(r));
        bytes_put_u16(p + 12, byte_reader_u8(r) & 7);
        bytes_put_u16(p + 14, byte_reader_u8(r));
        break;
    case 1: // a head, and the index behind it
        p = ram + AVAILABLE;
        bytes_put_u16(p + 4 + 2 * (bytes_get_u16(p + 2) % 256), what >> 2);
        bytes_put_u16(p + 2, (uint16_t)(bytes_get_u16(p + 2) + 1));
        break;
    case 2: // a descriptor that points to an indirect table
        p = ram + DESCRIPTORS + 16 * (what >> 3);
        bytes_put_u64(p, TABLES + 16 * (byte_reader_u8(r) & 15));
        bytes_put_u32(p + 8, 16 * (byte_reader_u8(r) & 31));
        bytes_put_u16(p + 12, VIRTQ_DESC_F_INDIRECT);
        break;
    case 3: // anything
        ram[byte_reader_u16(r) % RAM_SIZE] = what;
        break;
    }
}

static void restart(struct byte_reader *r)
{
    uint8_t setting = byte_reader_u8(r);
    while (in_flight > 0)
        give();
    virtqueue_publish(&queue);
    virtqueue_disable(&queue);
    queue.size = (uint16_t)(1u << (setting & 15));
    queue.event_index = setting & 16;
    queue.indirect = setting & 32;
    queue.descriptors_gpa = setting & 64 ? byte_reader_u64(r) : DESCRIPTORS;
    queue.available_gpa = AVAILABLE;
    queue.used_gpa = setting & 128 ? byte_reader_u16(r) : USED;
    breaks = 0;
    if (virtqueue_enable(&queue) < 0)
        queue.size = 0; // as the transport has it
}

static void move_state(struct byte_reader *r)
{
    struct byte_writer w;
    struct byte_reader saved;
    uint16_t at = byte_reader_u16(r);
    uint8_t value = byte_reader_u8(r);
    while (in_flight > 0)
        give();
    virtqueue_publish(&queue);
    byte_writer_init(&w);
    virtqueue_save(&queue, &w);
    if (at < w.length)
        w.data[at] = value;
    byte_reader_init(&saved, w.data, w.length);
    virtqueue_load(&queue, &saved, NULL);
    breaks = 0;
    byte_writer_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct byte_reader r;
    if (!ram) {
        ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        guest_memory_init(&memory);
        if (ram == MAP_FAILED || guest_memory_add(&memory, 0, ram, RAM_SIZE) < 0)
            abort();
    }
    memset(ram, 0, RAM_SIZE);
    in_flight = 0;
    virtqueue_init(&queue, &memory, &owner);
    byte_reader_init(&r, data, size);
    restart(&r);
    while (byte_reader_left(&r) > 0) {
        switch (byte_reader_u8(&r) % 12) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
            guest_writes(&r);
            break;
        case 5:
        case 6:
            take();
            break;
        case 7:
            give();
            break;
        case 8:
            virtqueue_publish(&queue);
            break;
        case 9:
            virtqueue_kicks_off(&queue);
            take();
            virtqueue_kicks_on(&queue);
            break;
        case 10:
            restart(&r);
            break;
        case 11:
            move_state(&r);
            break;
        }
        if (breaks > 1)
            abort();
    }
    return 0;
}
