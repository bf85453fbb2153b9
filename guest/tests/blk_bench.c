// blk mode=bench: op=read, write or mix (reads=70 per cent), block=4k, depth=32, order=random or
// sequential, flush=N (a flush after every N writes, 0: none), size= and offset= of the range,
// queues= (one vCPU each), seconds=5.
#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/histogram.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/random.h"
#include "guest/lib/spinlock.h"
#include "guest/lib/time.h"
#include "guest/tests/blk.h"
#include "guest/tests/test.h"

enum { DEPTH_MAX = 256 };

struct load {
    struct blk *blk;
    struct virtqueue queue;
    struct blk_request *requests; // `depth` of them
    uint32_t depth, block, reads; // reads: per cent
    uint64_t first, blocks, flush_every;
    bool sequential;
    uint64_t end; // TSC
    uint64_t position, random, writes;
    uint64_t done, errors;
    struct histogram histogram;
};

static struct load loads[BLK_QUEUES_MAX];

static void load_fill(struct load *load, struct blk_request *request)
{
    uint64_t at = load->sequential ? load->position++ % load->blocks
                                   : random_below(&load->random, load->blocks);
    bool read = random_below(&load->random, 100) < load->reads;
    request->header.type = read ? BLK_READ : BLK_WRITE;
    request->header.sector = load->first + at * (load->block / BLK_SECTOR);
    request->size = load->block;
    if (!read && load->flush_every && ++load->writes % load->flush_every == 0) {
        request->header.type = BLK_FLUSH;
        request->header.sector = 0;
        request->size = 0;
    }
    request->started = time_tsc();
}

static void load_job(void *argument)
{
    struct load *load = argument;
    uint32_t in_flight = 0;
    for (uint32_t i = 0; i < load->depth; i++) {
        load_fill(load, &load->requests[i]);
        in_flight += blk_submit(&load->queue, &load->requests[i]);
    }
    virtqueue_kick(&load->queue);
    while (in_flight) {
        void *token;
        bool added = false;
        while (virtqueue_take(&load->queue, &token, NULL)) {
            struct blk_request *request = token;
            uint64_t now = time_tsc();
            histogram_add(&load->histogram, time_tsc_to_ns(now - request->started));
            load->done++;
            load->errors += request->status != BLK_OK;
            in_flight--;
            if (now >= load->end)
                continue;
            load_fill(load, request);
            in_flight += blk_submit(&load->queue, request);
            added = true;
        }
        if (added)
            virtqueue_kick(&load->queue);
        if (in_flight)
            virtqueue_wait(&load->queue, 0);
    }
}

static bool load_prepare(struct load *load, struct blk *blk, uint64_t part, uint64_t parts)
{
    const char *operation = option_string("op", "read");
    uint64_t depth = option_number("depth", 32), block = option_number("block", 4096);
    uint64_t first = option_number("offset", 0) / BLK_SECTOR;
    uint64_t sectors = option_number("size", blk->sectors * BLK_SECTOR) / BLK_SECTOR;
    if (first + sectors > blk->sectors)
        sectors = blk->sectors > first ? blk->sectors - first : 0;
    block &= -(uint64_t)BLK_SECTOR;
    if (!block || !depth || depth > DEPTH_MAX || sectors / parts < block / BLK_SECTOR) {
        console_line("blk bench block=%lu depth=%lu sectors=%lu don't fit", block, depth, sectors);
        return false;
    }
    load->blk = blk;
    load->depth = (uint32_t)depth;
    load->block = (uint32_t)block;
    load->blocks = sectors / parts * BLK_SECTOR / block;
    load->first = first + part * (sectors / parts);
    load->reads = !strcmp(operation, "read")    ? 100
                  : !strcmp(operation, "write") ? 0
                                                : (uint32_t)option_number("reads", 70);
    load->flush_every = option_number("flush", 0);
    load->sequential = option_is("order", "sequential");
    load->random = part + 1;
    load->requests = pages_allocate_zeroed(depth * sizeof(*load->requests), 4096);
    uint8_t *data = pages_allocate(depth * block, 4096);
    if (!load->requests || !data)
        return false;
    for (uint64_t i = 0; i < depth; i++)
        load->requests[i].data = data + i * block;
    for (uint64_t i = 0; i < depth * block / 8; i++)
        ((uint64_t *)data)[i] = random_mix(i);
    return true;
}

static void load_open_queue(void *argument)
{
    struct load *load = argument;
    uint16_t index = (uint16_t)(load - loads);
    static struct spinlock lock; // the queue select register is the device's only one
    spinlock_take(&lock);
    load->errors = !virtqueue_open(&load->queue, &load->blk->device, index, 0);
    spinlock_release(&lock);
}

bool blk_bench(struct blk *blk)
{
    uint64_t queues = option_number("queues", 1);
    if (queues > blk->queue_count || queues > cpu_count() || queues > BLK_QUEUES_MAX || !queues) {
        console_line("blk bench queues=%lu: the device has %u, vCPUs are %u", queues,
                     blk->queue_count, cpu_count());
        return false;
    }
    for (uint64_t i = 0; i < queues; i++)
        if (!load_prepare(&loads[i], blk, i, queues))
            return false;
    cpu_run((unsigned)queues, load_open_queue, loads, sizeof(loads[0]));
    for (uint64_t i = 0; i < queues; i++)
        if (loads[i].errors)
            return false;
    virtio_ready(&blk->device);

    uint64_t start = time_tsc();
    for (uint64_t i = 0; i < queues; i++)
        loads[i].end = start + option_number("seconds", 5) * time_tsc_hz();
    cpu_run((unsigned)queues, load_job, loads, sizeof(loads[0]));
    uint64_t us = time_tsc_to_ns(time_tsc() - start) / 1000;

    struct histogram *all = &loads[0].histogram;
    uint64_t done = loads[0].done, errors = loads[0].errors, kicks = loads[0].queue.kicks;
    uint64_t interrupts = virtqueue_interrupts(&loads[0].queue);
    for (uint64_t i = 1; i < queues; i++) {
        histogram_merge(all, &loads[i].histogram);
        done += loads[i].done;
        errors += loads[i].errors;
        kicks += loads[i].queue.kicks;
        interrupts += virtqueue_interrupts(&loads[i].queue);
    }
    test_summary("mode=bench block=%u depth=%u queues=%lu requests=%lu iops=%lu mb_per_s=%lu "
                 "mean_us=%lu p50_us=%lu p99_us=%lu max_us=%lu errors=%lu kicks=%lu interrupts=%lu",
                 loads[0].block, loads[0].depth, queues, done, multiply_divide(done, 1000000, us),
                 multiply_divide(done, loads[0].block, us), histogram_mean(all) / 1000,
                 histogram_percentile(all, 500) / 1000, histogram_percentile(all, 990) / 1000,
                 all->longest / 1000, errors, kicks, interrupts);
    return !errors && done;
}
