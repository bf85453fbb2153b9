// rng: reads size= bytes (64k) from virtio-rng in requests of block= bytes (512), and looks whether
// they could be random: the number of one bits and how often the most frequent byte occurs.
#include "guest/drivers/virtio.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

static bool rng_read(struct virtqueue *queue, uint8_t *to, uint64_t size, uint64_t block)
{
    for (uint64_t at = 0; at < size;) {
        uint64_t part = size - at < block ? size - at : block;
        struct virtqueue_buffer buffer = {to + at, (uint32_t)part, true};
        uint32_t written;
        void *token;
        if (!virtqueue_add(queue, &buffer, 1, to))
            return false;
        virtqueue_kick(queue);
        while (!virtqueue_take(queue, &token, &written))
            virtqueue_wait(queue, 0);
        if (!written || written > part) {
            console_line("rng error written=%u of=%lu", written, part);
            return false;
        }
        at += written;
    }
    return true;
}

// Bounds six standard deviations wide: a good source fails once in 10^9 runs.
static bool rng_looks_random(const uint8_t *bytes, uint64_t size)
{
    uint64_t ones = 0, counts[256] = {0};
    for (uint64_t i = 0; i < size; i++) {
        counts[bytes[i]]++;
        for (uint8_t left = bytes[i]; left; left &= (uint8_t)(left - 1))
            ones++;
    }
    uint64_t half = size * 4, off = ones > half ? ones - half : half - ones;
    uint64_t most = 0;
    for (unsigned i = 0; i < 256; i++)
        most = counts[i] > most ? counts[i] : most;
    // Deviation of ones: sqrt(8 * size) / 2. Of a byte's count: about sqrt(size / 256).
    uint64_t mean = size / 256, over = most > mean ? most - mean : 0;
    console_line("rng bytes=%lu ones=%lu most_frequent=%lu", size, ones, most);
    return off * off <= 36 * 2 * size && over * over <= 36 * (mean + 1);
}

bool test_rng(void)
{
    static struct virtio_device device;
    static struct virtqueue queue;
    uint64_t size = option_number("size", 64 << 10), block = option_number("block", 512);
    cpu_start_all();
    uint8_t *bytes = pages_allocate_zeroed(size, 4096);
    if (!bytes || !block || !virtio_open(&device, VIRTIO_RNG, 0, 0) ||
        !virtqueue_open(&queue, &device, 0, 0))
        return false;
    virtio_ready(&device);
    uint64_t start = time_now_ns();
    bool passed = rng_read(&queue, bytes, size, block);
    uint64_t us = (time_now_ns() - start) / 1000;
    passed = passed && rng_looks_random(bytes, size);
    test_summary("bytes=%lu us=%lu", size, us);
    return passed;
}
