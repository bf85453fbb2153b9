// balloon: a balloon driver over a range of size= bytes (64M) that it fills first. It follows what
// the host asks for until that is 0 again, then checks that pages which were in the balloon came
// back as zeroes and the others kept what they had. report=1: instead reports the range as free
// once, and waits until the host asks for some. churn=1: instead gives pages and takes them back
// all the time, half of the range being in the balloon, and checks each page before and after; ends
// when the host asks for some. stale=1: a page may come back with what it once had as well.
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

// Waits until the host asks for memory.
static void wait_for_wish(void)
{
    for (uint32_t wanted = 0; !wanted;) {
        time_sleep_ns(2000000);
        virtio_config_read(&device, CONFIG_NUM_PAGES, &wanted, sizeof(wanted));
    }
}

static bool report_all(const struct range *range)
{
    uint64_t bytes = range->pages * PAGE_BYTES;
    ask(&reporting, (struct virtqueue_buffer){(void *)range->start, (uint32_t)bytes, true});
    console_line("balloon reported=%lu", bytes);
    wait_for_wish(); // the host looks, and says when it has seen enough
    return range_check(range, range->pages);
}

// ---- churn ----

enum { CHURN_CHUNKS = 1024 };

struct churn {
    struct range range;
    uint64_t chunks;
    uint32_t generation[CHURN_CHUNKS]; // of what is written in the chunk's pages
    bool given[CHURN_CHUNKS];          // the chunk is in the balloon
    uint64_t given_chunks;
    bool stale; // what a page had in an earlier generation is as good as zero
};

static uint64_t churn_value(uint64_t page, uint32_t generation)
{
    return page << 32 | generation;
}

static volatile uint64_t *churn_page(const struct churn *churn, uint64_t page)
{
    return (volatile uint64_t *)(churn->range.start + page * PAGE_BYTES);
}

// Both ends of a page: one that arrived in part is noticed.
static bool churn_page_holds(const struct churn *churn, uint64_t page, uint64_t value)
{
    volatile uint64_t *words = churn_page(churn, page);
    return words[0] == value && words[PAGE_BYTES / sizeof(*words) - 1] == value;
}

static void churn_write(struct churn *churn, uint64_t chunk)
{
    churn->generation[chunk]++;
    for (uint64_t page = chunk * CHUNK; page < (chunk + 1) * CHUNK; page++) {
        volatile uint64_t *words = churn_page(churn, page);
        words[0] = churn_value(page, churn->generation[chunk]);
        words[PAGE_BYTES / sizeof(*words) - 1] = words[0];
    }
}

static bool churn_check(const struct churn *churn, uint64_t chunk, bool returned)
{
    for (uint64_t page = chunk * CHUNK; page < (chunk + 1) * CHUNK; page++) {
        uint64_t first = *churn_page(churn, page);
        uint64_t wanted = returned ? 0 : churn_value(page, churn->generation[chunk]);
        if (returned && churn->stale && first >> 32 == page &&
            (uint32_t)first <= churn->generation[chunk])
            wanted = first;
        if (churn_page_holds(churn, page, wanted))
            continue;
        console_line("balloon churn page=%lu returned=%u generation=%u value=0x%lx", page, returned,
                     churn->generation[chunk], first);
        return false;
    }
    return true;
}

static void churn_ask(struct churn *churn, struct virtqueue *queue, uint64_t chunk)
{
    for (uint64_t i = 0; i < CHUNK; i++)
        numbers[i] = (uint32_t)(churn->range.start / PAGE_BYTES + chunk * CHUNK + i);
    ask(queue, (struct virtqueue_buffer){numbers, sizeof(numbers), false});
    churn->given[chunk] = queue == &inflate;
    churn->given_chunks += queue == &inflate ? 1 : -1ul;
    *(volatile uint32_t *)(device.config + CONFIG_ACTUAL) = (uint32_t)(churn->given_chunks * CHUNK);
}

static bool churn_take_back(struct churn *churn, uint64_t chunk)
{
    if (!churn->given[chunk])
        return true;
    churn_ask(churn, &deflate, chunk);
    if (!churn_check(churn, chunk, true))
        return false;
    churn_write(churn, chunk);
    return true;
}

static bool balloon_churn(const struct range *range)
{
    static struct churn churn;
    uint64_t chunks = range->pages / CHUNK, passes = 0, start = time_tsc(), next = start;
    churn = (struct churn){
        .range = *range,
        .chunks = chunks < CHURN_CHUNKS ? chunks : CHURN_CHUNKS,
        .stale = option_number("stale", 0),
    };
    for (uint64_t chunk = 0; chunk < churn.chunks; chunk++)
        churn_write(&churn, chunk);
    for (uint32_t wanted = 0; !wanted; passes++) {
        for (uint64_t chunk = 0; chunk < churn.chunks; chunk++) {
            if (!churn_check(&churn, chunk, false))
                return false;
            churn_ask(&churn, &inflate, chunk);
            if (!churn_take_back(&churn, (chunk + churn.chunks / 2) % churn.chunks))
                return false;
        }
        if (time_tsc() - next >= time_ns_to_tsc(200000000)) {
            next = time_tsc();
            console_line("balloon churn passes=%lu ms=%lu", passes,
                         time_tsc_to_ns(next - start) / 1000000);
        }
        virtio_config_read(&device, CONFIG_NUM_PAGES, &wanted, sizeof(wanted));
    }
    for (uint64_t chunk = 0; chunk < churn.chunks; chunk++)
        if (!churn_take_back(&churn, chunk) || !churn_check(&churn, chunk, false))
            return false;
    test_summary("passes=%lu", passes);
    return true;
}

bool test_balloon(void)
{
    struct range range;
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
    bool passed;
    if (option_number("report", 0)) {
        passed = report_all(&range);
    } else if (option_number("churn", 0)) {
        passed = balloon_churn(&range);
    } else {
        uint64_t given = balloon_follow(&range);
        test_summary("pages=%lu", given);
        passed = range_check(&range, given);
    }
    return passed && !virtio_needs_reset(&device);
}
