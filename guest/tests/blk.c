// blk: a virtio disk. mode=verify (default), write and check (the two halves, for a disk that's
// looked at again later), loop (writes and checks blocks at random until seconds= have passed) and
// bench; see docs/guest.md.
#include "guest/tests/blk.h"

#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/random.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    BUFFER = 256 << 10,
    LOOP_BLOCK = 4096,
};

static struct blk blk;
static struct virtqueue queue;
static struct blk_request request;
static uint8_t *buffer;

// What sector `sector` holds in generation `version` of the data.
static void sector_fill(uint64_t *words, uint64_t seed, uint64_t sector, uint64_t version)
{
    uint64_t state = random_mix(seed ^ random_mix(sector ^ version << 40));
    words[0] = sector;
    words[1] = version;
    for (unsigned i = 2; i < BLK_SECTOR / 8; i++)
        words[i] = random_next(&state);
}

static bool sector_holds(const uint64_t *words, uint64_t seed, uint64_t sector, uint64_t version)
{
    uint64_t expected[BLK_SECTOR / 8];
    sector_fill(expected, seed, sector, version);
    for (unsigned i = 0; i < BLK_SECTOR / 8; i++) {
        if (words[i] == expected[i])
            continue;
        console_line("blk error sector=%lu word=%u value=0x%lx expected=0x%lx found_sector=%lu "
                     "found_version=%lu",
                     sector, i, words[i], expected[i], words[0], words[1]);
        return false;
    }
    return true;
}

static bool data_transfer(enum blk_operation what, uint64_t sector, uint32_t sectors,
                          uint64_t version)
{
    uint64_t seed = option_number("seed", 1);
    for (uint32_t i = 0; i < sectors && what == BLK_WRITE; i++)
        sector_fill((uint64_t *)(buffer + i * BLK_SECTOR), seed, sector + i, version);
    if (what == BLK_READ)
        memset(buffer, 0xee, sectors * BLK_SECTOR);
    enum blk_status status = blk_do(&queue, &request, what, sector, buffer, sectors * BLK_SECTOR);
    if (status != BLK_OK) {
        console_line("blk error operation=%u sector=%lu sectors=%u status=%u", what, sector,
                     sectors, status);
        return false;
    }
    for (uint32_t i = 0; i < sectors && what == BLK_READ; i++)
        if (!sector_holds((uint64_t *)(buffer + i * BLK_SECTOR), seed, sector + i, version))
            return false;
    return true;
}

static uint64_t range_first(void)
{
    return option_number("offset", 0) / BLK_SECTOR;
}

static uint64_t range_end(void)
{
    uint64_t sectors = option_number("size", 8 << 20) / BLK_SECTOR, first = range_first();
    return first + sectors < blk.sectors ? first + sectors : blk.sectors;
}

// Goes over the range in requests of all sizes and numbers of segments.
static bool data_walk(enum blk_operation what, uint64_t version)
{
    uint64_t state = what, end = range_end();
    for (uint64_t sector = range_first(); sector < end;) {
        uint64_t sectors = 1 + random_below(&state, BUFFER / BLK_SECTOR);
        if (sectors > end - sector)
            sectors = end - sector;
        request.segments = 1 + (uint32_t)random_below(&state, BLK_SEGMENTS_MAX);
        if (!data_transfer(what, sector, (uint32_t)sectors, version))
            return false;
        sector += sectors;
    }
    request.segments = 1;
    return true;
}

static bool blk_flush(void)
{
    return !(blk.device.features & BLK_F_FLUSH) ||
           blk_do(&queue, &request, BLK_FLUSH, 0, NULL, 0) == BLK_OK;
}

static bool expect(const char *what, enum blk_status status, enum blk_status wanted)
{
    if (status == wanted)
        return true;
    console_line("blk error case=%s status=%u expected=%u", what, status, wanted);
    return false;
}

// What the device must refuse (5.2.6.1).
static bool blk_refusals(void)
{
    bool passed = expect("beyond-end", blk_do(&queue, &request, BLK_READ, blk.sectors, buffer, 512),
                         BLK_IO_ERROR);
    passed &=
        expect("across-end", blk_do(&queue, &request, BLK_READ, blk.sectors - 1, buffer, 1024),
               BLK_IO_ERROR);
    passed &= expect("sector-overflow", blk_do(&queue, &request, BLK_READ, ~0ul >> 8, buffer, 512),
                     BLK_IO_ERROR);
    passed &= expect("unknown-type", blk_do(&queue, &request, 77, 0, buffer, 512), BLK_UNSUPPORTED);
    return passed;
}

static bool blk_zeroes(void)
{
    if (!(blk.device.features & BLK_F_WRITE_ZEROES))
        return true;
    uint64_t first = range_first();
    struct {
        uint64_t sector;
        uint32_t count, flags;
    } zeroes = {first, 8, 0};
    if (!data_transfer(BLK_WRITE, first, 16, 9) ||
        !expect("write-zeroes",
                blk_do(&queue, &request, BLK_WRITE_ZEROES, 0, &zeroes, sizeof(zeroes)), BLK_OK) ||
        !expect("read-zeroes", blk_do(&queue, &request, BLK_READ, first, buffer, 8 * BLK_SECTOR),
                BLK_OK))
        return false;
    for (unsigned i = 0; i < 8 * BLK_SECTOR; i++)
        if (buffer[i]) {
            console_line("blk error case=zeroes byte=%u value=0x%x", i, buffer[i]);
            return false;
        }
    return data_transfer(BLK_READ, first + 8, 8, 9);
}

static void blk_identity(void)
{
    char serial[21] = {0};
    if (blk_do(&queue, &request, BLK_GET_ID, 0, buffer, 20) == BLK_OK)
        memcpy(serial, buffer, 20);
    console_line("blk sectors=%lu queues=%u read_only=%u features=0x%lx serial=\"%s\"", blk.sectors,
                 blk.queue_count, blk.read_only, blk.device.features, serial);
}

static bool blk_verify(void)
{
    if (blk.read_only)
        return expect("read-only-write", blk_do(&queue, &request, BLK_WRITE, 0, buffer, 512),
                      BLK_IO_ERROR) &
               blk_refusals();
    return data_walk(BLK_WRITE, 1) && data_walk(BLK_READ, 1) && data_walk(BLK_WRITE, 2) &&
           blk_flush() && data_walk(BLK_READ, 2) && blk_refusals() && blk_zeroes();
}

// Blocks at random: what was written last must be there. Each block's version is kept here.
static bool blk_loop(void)
{
    uint64_t first = range_first(), blocks = (range_end() - first) / (LOOP_BLOCK / BLK_SECTOR);
    uint32_t *versions = pages_allocate_zeroed(blocks * sizeof(*versions), 4096);
    uint64_t seconds = option_number("seconds", 0), state = option_number("seed", 1), done = 0;
    if (!versions || !blocks)
        return false;
    uint64_t start = time_now_ns(), next = start + 1000000000;
    console_line("blk loop blocks=%lu", blocks);
    for (uint64_t now = start; !seconds || now - start < seconds * 1000000000;
         now = time_now_ns()) {
        uint64_t block = random_below(&state, blocks);
        uint64_t sector = first + block * (LOOP_BLOCK / BLK_SECTOR);
        if (versions[block] &&
            !data_transfer(BLK_READ, sector, LOOP_BLOCK / BLK_SECTOR, versions[block]))
            return false;
        if (!data_transfer(BLK_WRITE, sector, LOOP_BLOCK / BLK_SECTOR, ++versions[block]))
            return false;
        done++;
        if (done % 64 == 0 && !blk_flush())
            return false;
        if (now < next)
            continue;
        next = now + 1000000000;
        console_line("blk loop requests=%lu ms=%lu", done, (now - start) / 1000000);
    }
    test_summary("requests=%lu", done);
    return true;
}

bool test_blk(void)
{
    cpu_start_all();
    if (!blk_open(&blk, (unsigned)option_number("disk", 0)))
        return false;
    if (option_is("mode", "bench"))
        return blk_bench(&blk);
    buffer = pages_allocate(BUFFER, 4096);
    if (!buffer || !virtqueue_open(&queue, &blk.device, 0, 0))
        return false;
    virtio_ready(&blk.device);
    blk_identity();
    const char *mode = option_string("mode", "verify");
    uint64_t start = time_now_ns();
    bool passed = false;
    if (!strcmp(mode, "verify"))
        passed = blk_verify();
    else if (!strcmp(mode, "write"))
        passed = data_walk(BLK_WRITE, 1) && blk_flush();
    else if (!strcmp(mode, "check"))
        passed = data_walk(BLK_READ, 1);
    else if (!strcmp(mode, "loop"))
        passed = blk_loop();
    else
        console_line("blk mode=%s unknown", mode);
    test_summary("mode=%s sectors=%lu ms=%lu kicks=%lu interrupts=%lu", mode,
                 range_end() - range_first(), (time_now_ns() - start) / 1000000, queue.kicks,
                 virtqueue_interrupts(&queue));
    return passed && !virtio_needs_reset(&blk.device);
}
