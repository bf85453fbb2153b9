// balloon: a balloon driver over a range of size= bytes (64M) that it fills first. It follows what
// the host asks for until that is 0 again, then checks that pages which were in the balloon came
// back as zeroes and the others kept what they had. report=1: instead reports the range as free
// once, and waits for the power button to end it.
#include "guest/drivers/virtio.h"
#include "guest/drivers/virtio_common.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"
#include "guest/tests/range.h"
#include "guest/tests/test.h"

#define BALLOON_F_STATS     (1ul << 1)
#define BALLOON_F_REPORTING (1ul << 5)

enum {
    QUEUE_INFLATE = 0,
    QUEUE_DEFLATE = 1,
    QUEUE_STATISTICS = 2,
    QUEUE_REPORTING = 3, // there is no hinting queue before it
    CONFIG_NUM_PAGES = 0,
    CONFIG_ACTUAL = 4,
    CHUNK = 256, // page numbers a request
    STATISTIC_FREE = 4,
};

static struct virtio_device device;
static struct virtqueue inflate, deflate, statistics, reporting;
static uint32_t numbers[CHUNK];
static struct __attribute__((packed)) {
    uint16_t tag;
    uint64_t value;
} statistic;

static void ask(struct virtqueue *queue, struct virtqueue_buffer buffer)
{
    void *token;
    virtqueue_add(queue, &buffer, 1, queue);
    virtqueue_kick(queue);
    while (!virtqueue_take(queue, &token, NULL))
        virtqueue_wait(queue, 0);
}

static void statistics_offer(uint64_t free_bytes)
{
    statistic.tag = STATISTIC_FREE;
    statistic.value = free_bytes;
    struct virtqueue_buffer buffer = {&statistic, sizeof(statistic), false};
    virtqueue_add(&statistics, &buffer, 1, &statistic);
    virtqueue_kick(&statistics);
}

// Moves the balloon's edge from page `from` of the range to `to`, a chunk at a time.
static void balloon_move(const struct range *range, uint64_t from, uint64_t to)
{
    struct virtqueue *queue = to > from ? &inflate : &deflate;
    while (from != to) {
        uint64_t left = to > from ? to - from : from - to, count = left < CHUNK ? left : CHUNK;
        uint64_t first = to > from ? from : from - count;
        for (uint64_t i = 0; i < count; i++)
            numbers[i] = (uint32_t)(range->start / PAGE_BYTES + first + i);
        ask(queue,
            (struct virtqueue_buffer){numbers, (uint32_t)(count * sizeof(numbers[0])), false});
        from = to > from ? from + count : from - count;
        *(volatile uint32_t *)(device.config + CONFIG_ACTUAL) = (uint32_t)from;
    }
}

static void range_fill(const struct range *range)
{
    for (uint64_t i = 0; i < range->pages; i++)
        *(volatile uint64_t *)(range->start + i * PAGE_BYTES) = 0x5a5a000000000000ul + i;
}

// Pages below `given` were in the balloon.
static bool range_check(const struct range *range, uint64_t given)
{
    for (uint64_t i = 0; i < range->pages; i++) {
        uint64_t value = *(volatile uint64_t *)(range->start + i * PAGE_BYTES);
        uint64_t wanted = i < given ? 0 : 0x5a5a000000000000ul + i;
        if (value != wanted) {
            console_line("balloon page=%lu of=%lu given=%lu value=0x%lx", i, range->pages, given,
                         value);
            return false;
        }
    }
    return true;
}

static uint64_t balloon_follow(const struct range *range)
{
    uint64_t size = 0, most = 0;
    void *token;
    for (;;) {
        uint32_t wanted;
        virtio_config_read(&device, CONFIG_NUM_PAGES, &wanted, sizeof(wanted));
        if (wanted > range->pages)
            wanted = (uint32_t)range->pages;
        if (wanted != size) {
            balloon_move(range, size, wanted);
            size = wanted;
            most = size > most ? size : most;
            console_line("balloon pages=%lu", size);
            if (!size)
                return most;
        }
        if (virtqueue_take(&statistics, &token, NULL))
            statistics_offer((range->pages - size) * PAGE_BYTES);
        time_sleep_ns(2000000);
    }
}

bool test_balloon(void)
{
    struct range range;
    bool report = option_number("report", 0);
    cpu_start_all();
    if (!range_take(&range, 64 << 20) ||
        !virtio_open(&device, VIRTIO_BALLOON, 0, BALLOON_F_STATS | BALLOON_F_REPORTING) ||
        !virtqueue_open(&inflate, &device, QUEUE_INFLATE, 0) ||
        !virtqueue_open(&deflate, &device, QUEUE_DEFLATE, 0) ||
        !virtqueue_open(&statistics, &device, QUEUE_STATISTICS, 0) ||
        !virtqueue_open(&reporting, &device, QUEUE_REPORTING, 0))
        return false;
    range_fill(&range);
    virtio_ready(&device);
    statistics_offer(range.pages * PAGE_BYTES);
    console_line("balloon ready pages=%lu", range.pages);
    uint64_t given = range.pages;
    if (report) {
        uint64_t bytes = range.pages * PAGE_BYTES;
        ask(&reporting, (struct virtqueue_buffer){(void *)range.start, (uint32_t)bytes, true});
        console_line("balloon reported=%lu", bytes);
        for (uint32_t wanted = 0; !wanted;) { // the host looks, and says when it has seen enough
            time_sleep_ns(2000000);
            virtio_config_read(&device, CONFIG_NUM_PAGES, &wanted, sizeof(wanted));
        }
    } else {
        given = balloon_follow(&range);
    }
    test_summary("pages=%lu", given);
    return range_check(&range, given) && !virtio_needs_reset(&device);
}
