// The disk: requests over a backend in memory, then over files through both engines.
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/block/block_image.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_blk.h"
#include "tests/unit/fake_block.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum {
    SLOT = 2,
    SECTOR = 512,
    DISK_SIZE = 1 << 20,
    SECTORS = DISK_SIZE / SECTOR,
    QUEUE_SIZE = 64,
    IN = 0,
    OUT = 1,
    FLUSH = 4,
    GET_ID = 8,
    DISCARD = 11,
    WRITE_ZEROES = 13,
    OK = 0,
    IOERR = 1,
    UNSUPP = 2,
};

#define ALL       UINT64_MAX
#define F_RO      VIRTIO_FEATURE(5)
#define F_FLUSH   VIRTIO_FEATURE(9)
#define F_MQ      VIRTIO_FEATURE(12)
#define F_DISCARD VIRTIO_FEATURE(13)

static struct fake_machine machine;
static struct fake_block disk;
static struct device *blk;
static struct virtio_driver driver;

static void make_device(struct block_backend *backend, unsigned queues)
{
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "disk0",
                                           .slot = SLOT};
    const struct virtio_blk_config config = {
        .backend = backend, .queues = queues, .serial = "a serial of many bytes"};
    struct error err = {0};
    ck_assert_msg(virtio_blk_create(&blk, &env, &config, &err) == 0, "%s", err.message);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    blk->ops->reset(blk);
    driver_open(&driver, &machine, SLOT);
}

static void set_up_machine(void)
{
    fake_machine_init(&machine, 64 << 20);
}

static void tear_down_machine(void)
{
    blk->ops->destroy(blk);
    fake_machine_destroy(&machine);
}

static void set_up(void)
{
    set_up_machine();
    fake_block_init(&disk, DISK_SIZE);
    make_device(&disk.backend, 1);
}

static void tear_down(void)
{
    tear_down_machine();
    ck_assert(disk.destroyed);
    fake_block_free(&disk);
}

// A request with one data segment; returns its status.
struct request {
    uint64_t header, data, status;
    uint32_t used;
};

static struct request prepare(uint32_t type, uint64_t sector, uint32_t length)
{
    struct request r = {.header = driver_alloc(&driver, 16, 16),
                        .data = driver_alloc(&driver, length ? length : 1, 512),
                        .status = driver_alloc(&driver, 1, 1)};
    bytes_put_u32(driver_hva(&driver, r.header), type);
    bytes_put_u64((uint8_t *)driver_hva(&driver, r.header) + 8, sector);
    *(uint8_t *)driver_hva(&driver, r.status) = 0xee;
    return r;
}

static int start_request(const struct request *r, uint32_t type, uint32_t length)
{
    const struct driver_segment segments[] = {{r->header, 16}, {r->data, length}, {r->status, 1}};
    bool to_guest = type == IN || type == GET_ID;
    const struct driver_segment bare[] = {segments[0], segments[2]};
    int head = length == 0
                   ? driver_add(&driver, 0, bare, 1, 1, false)
                   : driver_add(&driver, 0, segments, to_guest ? 1 : 2, to_guest ? 2 : 1, false);
    driver_kick(&driver, 0);
    return head;
}

static uint8_t status_of(const struct request *r)
{
    return *(uint8_t *)driver_hva(&driver, r->status);
}

static uint8_t run(struct request *r, uint32_t type, uint32_t length)
{
    int head = start_request(r, type, length);
    ck_assert_int_ge(head, 0);
    ck_assert_int_eq(driver_wait_used(&driver, 0, &r->used), head);
    return status_of(r);
}

static uint8_t transfer(uint32_t type, uint64_t sector, uint32_t length)
{
    struct request r = prepare(type, sector, length);
    return run(&r, type, length);
}

START_TEST(reads_and_writes)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    struct request r = prepare(OUT, 5, 1024);
    memset(driver_hva(&driver, r.data), 0xab, 1024);
    ck_assert_uint_eq(run(&r, OUT, 1024), OK);
    ck_assert_uint_eq(r.used, 1);
    ck_assert_uint_eq(disk.bytes[5 * SECTOR - 1], 0);
    ck_assert_uint_eq(disk.bytes[5 * SECTOR], 0xab);
    ck_assert_uint_eq(disk.bytes[7 * SECTOR - 1], 0xab);
    ck_assert_uint_eq(disk.bytes[7 * SECTOR], 0);
    r = prepare(IN, 6, 1024);
    ck_assert_uint_eq(run(&r, IN, 1024), OK);
    ck_assert_uint_eq(r.used, 1025);
    ck_assert_uint_eq(*((uint8_t *)driver_hva(&driver, r.data) + 511), 0xab);
    ck_assert_uint_eq(*((uint8_t *)driver_hva(&driver, r.data) + 512), 0);
    ck_assert_uint_eq(transfer(FLUSH, 0, 0), OK);
    ck_assert_uint_eq(disk.operations[BLOCK_FLUSH], 1);
    struct virtio_queue_counters c;
    fake_machine_settle(&machine);
    ck_assert(virtio_device_counters(blk, 0, &c));
    ck_assert_uint_eq(c.requests, 3);
    ck_assert_uint_eq(c.bytes, 2048);
}
END_TEST

// Headers, data and status may lie in any segments (2.7.4.2): here every one byte.
START_TEST(any_framing)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE * 4);
    enum { OUTS = 16, INS = 33 };
    struct driver_segment segments[OUTS + INS];
    uint64_t header = driver_alloc(&driver, 16, 16);
    memset(driver_hva(&driver, header), 0, 16);
    for (unsigned i = 0; i < OUTS; i++)
        segments[i] = (struct driver_segment){header + i, 1};
    uint64_t data = driver_alloc(&driver, 513, 512);
    for (unsigned i = 0; i < INS; i++) // 32 pieces of 16 bytes; the last takes the status as well
        segments[OUTS + i] = (struct driver_segment){data + 16 * i, i < 32 ? 16 : 1};
    for (unsigned i = 0; i < 512; i++)
        disk.bytes[i] = (uint8_t)(i * 7);
    ck_assert_uint_eq(driver_request(&driver, 0, segments, OUTS, INS), 513);
    ck_assert_mem_eq(driver_hva(&driver, data), disk.bytes, 512);
    ck_assert_uint_eq(*((uint8_t *)driver_hva(&driver, data) + 512), OK);
    // And by an indirect table.
    int head = driver_add(&driver, 0, segments, OUTS, INS, true);
    driver_kick(&driver, 0);
    ck_assert_int_eq(driver_wait_used(&driver, 0, NULL), head);
}
END_TEST

START_TEST(ranges_are_checked)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    static const struct {
        uint64_t sector;
        uint32_t length;
        uint8_t status;
    } cases[] = {
        {0, DISK_SIZE, OK},
        {SECTORS - 1, SECTOR, OK},
        {SECTORS, 0, OK},
        {SECTORS, SECTOR, IOERR},
        {SECTORS - 1, 2 * SECTOR, IOERR},
        {UINT64_MAX, SECTOR, IOERR},
        {UINT64_MAX / SECTOR, SECTOR, IOERR},
        {UINT64_MAX / SECTOR + 1, SECTOR, IOERR}, // 0 when multiplied without care
        {UINT64_C(1) << 55, SECTOR, IOERR},
        {0, SECTOR + 1, IOERR},
        {0, 1, IOERR},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ck_assert_uint_eq(transfer(IN, cases[i].sector, cases[i].length), cases[i].status);
        ck_assert_uint_eq(transfer(OUT, cases[i].sector, cases[i].length), cases[i].status);
    }
}
END_TEST

static uint8_t range_request(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags,
                             uint32_t length)
{
    struct request r = prepare(type, 0, length);
    uint8_t *p = driver_hva(&driver, r.data);
    memset(p, 0, length);
    if (length >= 16) {
        bytes_put_u64(p, sector);
        bytes_put_u32(p + 8, sectors);
        bytes_put_u32(p + 12, flags);
    }
    return run(&r, type, length);
}

START_TEST(discard_and_write_zeroes)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    memset(disk.bytes, 0xff, DISK_SIZE);
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 1, 2, 1, 16), OK);
    ck_assert_uint_eq(disk.bytes[SECTOR - 1], 0xff);
    ck_assert_uint_eq(disk.bytes[SECTOR], 0);
    ck_assert_uint_eq(disk.bytes[3 * SECTOR], 0xff);
    ck_assert_uint_eq(range_request(DISCARD, 8, 8, 0, 16), OK);
    ck_assert_uint_eq(disk.operations[BLOCK_DISCARD], 1);
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t sectors, flags, length;
        uint8_t status;
    } cases[] = {
        {DISCARD, 0, 8, 1, 16, UNSUPP}, // unmap is reserved there
        {DISCARD, 0, 8, 2, 16, UNSUPP},
        {WRITE_ZEROES, 0, 8, 2, 16, UNSUPP},
        {WRITE_ZEROES, 0, 8, 0x80000001, 16, UNSUPP},
        {DISCARD, SECTORS, 1, 0, 16, IOERR},
        {DISCARD, SECTORS - 1, 2, 0, 16, IOERR},
        {WRITE_ZEROES, UINT64_MAX, UINT32_MAX, 0, 16, IOERR},
        {WRITE_ZEROES, UINT64_MAX - 7, 8, 0, 16, IOERR}, // the sum wraps
        {WRITE_ZEROES, UINT64_C(1) << 55, 1, 0, 16, IOERR},
        {DISCARD, 0, UINT32_MAX, 0, 16, IOERR},
        {DISCARD, 0, 8, 0, 15, IOERR},
        {DISCARD, 0, 8, 0, 17, IOERR},
        {DISCARD, 0, 8, 0, 32, IOERR}, // one range was offered
        {DISCARD, 0, 8, 0, 0, IOERR},
        {DISCARD, SECTORS, 0, 0, 16, OK},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(range_request(cases[i].type, cases[i].sector, cases[i].sectors,
                                    cases[i].flags, cases[i].length) == cases[i].status,
                      "case %u", i);
}
END_TEST

START_TEST(features_that_were_not_taken_are_not_served)
{
    driver_start(&driver, ALL & ~F_DISCARD, 1, QUEUE_SIZE);
    ck_assert_uint_eq(range_request(DISCARD, 0, 8, 0, 16), UNSUPP);
}
END_TEST

START_TEST(identity_is_answered)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    struct request r = prepare(GET_ID, 0, 20);
    ck_assert_uint_eq(run(&r, GET_ID, 20), OK);
    ck_assert_mem_eq(driver_hva(&driver, r.data), "a serial of many byt", 20);
    ck_assert_uint_eq(r.used, 21);
    r = prepare(GET_ID, 0, 8); // less room
    memset(driver_hva(&driver, r.data), 0x11, 20);
    ck_assert_uint_eq(run(&r, GET_ID, 8), OK);
    ck_assert_mem_eq(driver_hva(&driver, r.data), "a serial", 8);
    r = prepare(GET_ID, 0, 64); // more room: the rest isn't touched and not promised
    ck_assert_uint_eq(run(&r, GET_ID, 64), OK);
    ck_assert_uint_eq(r.used, 20);
}
END_TEST

START_TEST(unknown_types_are_unsupported)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    static const uint32_t types[] = {2, 3, 5, 7, 9, 10, 12, 14, 15, 0x80000000, UINT32_MAX};
    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        ck_assert_uint_eq(transfer(types[i], 0, 512), UNSUPP);
        ck_assert_uint_eq(transfer(types[i], 0, 0), UNSUPP);
    }
}
END_TEST

START_TEST(host_errors_reach_the_guest)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    static const int errors[] = {-EIO, -ENOSPC, -EINVAL, -ENOMEM};
    for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        disk.failure = errors[i];
        ck_assert_uint_eq(transfer(IN, 0, 512), IOERR);
        ck_assert_uint_eq(transfer(OUT, 0, 512), IOERR);
        ck_assert_uint_eq(transfer(FLUSH, 0, 0), IOERR);
    }
    disk.failure = -EOPNOTSUPP;
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 0, 8, 0, 16), UNSUPP);
    disk.failure = 0;
    ck_assert_uint_eq(transfer(OUT, 0, 512), OK);
    ck_assert_uint_eq(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET, 0);
}
END_TEST

START_TEST(writes_are_stable_without_flush)
{
    driver_start(&driver, ALL & ~F_FLUSH, 1, QUEUE_SIZE);
    ck_assert_uint_eq(transfer(OUT, 0, 512), OK);
    ck_assert_uint_eq(disk.operations[BLOCK_FLUSH], 1);
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 0, 8, 0, 16), OK);
    ck_assert_uint_eq(disk.operations[BLOCK_FLUSH], 2);
    ck_assert_uint_eq(transfer(IN, 0, 512), OK);
    ck_assert_uint_eq(disk.operations[BLOCK_FLUSH], 2);
}
END_TEST

START_TEST(request_without_status_breaks_the_queue)
{
    const struct driver_segment header = {driver_alloc(&driver, 16, 16), 16};
    const struct driver_segment status = {driver_alloc(&driver, 16, 16), 16};
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    if (_i == 0) // nothing writable
        driver_add(&driver, 0, &header, 1, 0, false);
    else // no header
        driver_add(&driver, 0, &status, 0, 1, false);
    driver_kick(&driver, 0);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(transfer(IN, 0, 512), OK);
}
END_TEST

// More requests than the device keeps in flight: the rest waits in the ring and isn't forgotten.
START_TEST(deep_queues_are_served_in_the_end)
{
    blk->ops->destroy(blk);
    disk.hold = true;
    make_device(&disk.backend, 4);
    driver_start(&driver, ALL, 4, 256);
    uint64_t header = driver_alloc(&driver, 16, 16);
    memset(driver_hva(&driver, header), 0, 16);
    const struct driver_segment segments[] = {{header, 16}, {driver_alloc(&driver, 1, 1), 1}};
    for (unsigned queue = 0; queue < 4; queue++) {
        while (driver_add(&driver, queue, segments, 1, 1, false) >= 0)
            ;
        fake_machine_write(&machine, driver.queues[queue].notify_address, 2, queue);
    }
    unsigned waiting = 4 * 128;
    while (waiting > 0) {
        fake_machine_settle(&machine);
        io_thread_call(machine.thread, fake_block_release, &disk);
        for (unsigned queue = 0; queue < 4; queue++)
            while (driver_take_used(&driver, queue, NULL) >= 0)
                waiting--;
    }
    ck_assert_uint_le(disk.held_most, 256);
    ck_assert_uint_gt(disk.held_most, 128);
}
END_TEST

// A chain may ask for 4 GiB, by descriptors that lie on one another: what waits for all requests in
// flight would wait for hundreds of those.
START_TEST(bytes_in_flight_are_limited)
{
    enum { REQUESTS = 8, PIECES = 3, PIECE = 16 << 20 };
    const uint64_t data = 32 << 20;
    blk->ops->destroy(blk);
    fake_block_free(&disk);
    fake_block_init(&disk, (uint64_t)PIECES * PIECE);
    disk.hold = true;
    make_device(&disk.backend, 1);
    driver_start(&driver, ALL, 1, 64);
    uint64_t header = driver_alloc(&driver, 16, 16);
    memset(driver_hva(&driver, header), 0, 16);
    const struct driver_segment segments[] = {{header, 16},
                                              {data, PIECE},
                                              {data, PIECE},
                                              {data, PIECE},
                                              {driver_alloc(&driver, 1, 1), 1}};
    for (unsigned i = 0; i < REQUESTS; i++) {
        ck_assert_int_ge(driver_add(&driver, 0, segments, 1, PIECES + 1, false), 0);
        driver_kick(&driver, 0);
    }
    for (unsigned done = 0; done < REQUESTS;) {
        fake_machine_settle(&machine);
        io_thread_call(machine.thread, fake_block_release, &disk);
        while (driver_take_used(&driver, 0, NULL) >= 0)
            done++;
    }
    ck_assert_uint_eq(disk.held_most, 3); // the third one passed 128 MiB
}
END_TEST

START_TEST(reset_while_reads_are_in_flight)
{
    disk.hold = true;
    for (unsigned i = 0; i < 20; i++) {
        driver_start(&driver, ALL, 1, QUEUE_SIZE);
        for (unsigned n = 0; n < 8; n++) {
            struct request r = prepare(IN, n, 512);
            start_request(&r, IN, 512);
        }
        driver_reset(&driver);
        ck_assert_uint_eq(disk.held_count, 0);
    }
}
END_TEST

// Of a read that failed anything may have been written, so all of it is marked; the used length
// promises nothing.
START_TEST(failed_reads_are_marked)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    static uint64_t bits[64 << 20 >> 12 >> 6];
    disk.failure = -EIO;
    struct request r = prepare(IN, 0, 8192);
    guest_memory_log_start(&machine.memory);
    ck_assert_uint_eq(run(&r, IN, 8192), IOERR);
    ck_assert_uint_eq(r.used, 0);
    ck_assert_uint_eq(virtio_blk_errors(blk), 1);
    guest_memory_log_take(&machine.memory, 0, bits);
    for (uint64_t page = r.data >> 12; page <= (r.data + 8191) >> 12; page++)
        ck_assert(bits[page / 64] >> (page % 64) & 1);
}
END_TEST

START_TEST(configuration_tells_the_topology)
{
    uint64_t c = driver.device;
    ck_assert_uint_eq(fake_machine_read(&machine, c, 8), SECTORS);
    ck_assert_uint_eq(fake_machine_read(&machine, c + 12, 4), 254);
    ck_assert_uint_eq(fake_machine_read(&machine, c + 20, 4), 512);
    ck_assert_uint_eq(fake_machine_read(&machine, c + 24, 1), 3);
    ck_assert_uint_eq(fake_machine_read(&machine, c + 34, 2), 1);
    ck_assert_uint_eq(fake_machine_read(&machine, c + 40, 4), 1);
    ck_assert_uint_eq(driver_offered(&driver) & (F_RO | F_MQ), 0);
}
END_TEST

START_TEST(latencies_are_counted)
{
    struct latency_snapshot reads, writes, flushes;
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    for (unsigned i = 0; i < 7; i++)
        ck_assert_uint_eq(transfer(IN, 0, 512), OK);
    ck_assert_uint_eq(transfer(OUT, 0, 512), OK);
    ck_assert_uint_eq(transfer(FLUSH, 0, 0), OK);
    ck_assert_uint_eq(transfer(IN, SECTORS, 512), IOERR); // never reached the backend
    fake_machine_settle(&machine);
    virtio_blk_latency(blk, VIRTIO_BLK_READS, &reads);
    virtio_blk_latency(blk, VIRTIO_BLK_WRITES, &writes);
    virtio_blk_latency(blk, VIRTIO_BLK_FLUSHES, &flushes);
    ck_assert_uint_eq(reads.count, 7);
    ck_assert_uint_gt(reads.total_ns, 0);
    ck_assert_uint_eq(writes.count, 1);
    ck_assert_uint_eq(flushes.count, 1);
}
END_TEST

// A large request at a byte a second is let go, and the next one waits for an hour: until the
// limits change, over a pause as well.
START_TEST(limits_hold_requests_back)
{
    const struct rate_limits slow = {.bytes_per_second = 1, .burst_ns = 1000000};
    const struct rate_limits none = {0};
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_int_eq(virtio_blk_set_limits(blk, &slow), 0);
    ck_assert_uint_eq(transfer(IN, 0, 8 * SECTOR), OK); // let go, and 4095 s owed
    struct request waits = prepare(OUT, 7, SECTOR);
    int head = start_request(&waits, OUT, SECTOR);
    while (virtio_blk_throttled(blk) == 0)
        usleep(1000);
    ck_assert_int_eq(driver_take_used(&driver, 0, NULL), -1);
    blk->ops->quiesce(blk);
    ck_assert_int_eq(driver_take_used(&driver, 0, NULL), -1);
    blk->ops->resume(blk);
    while (virtio_blk_throttled(blk) < 2)
        usleep(1000);
    ck_assert_uint_eq(status_of(&waits), 0xee);
    ck_assert_int_eq(virtio_blk_set_limits(blk, &none), 0);
    ck_assert_int_eq(driver_wait_used(&driver, 0, &waits.used), head);
    ck_assert_uint_eq(status_of(&waits), OK);
    ck_assert_uint_eq(transfer(IN, 0, SECTOR), OK);
}
END_TEST

START_TEST(reset_while_requests_wait_for_limits)
{
    const struct rate_limits slow = {.bytes_per_second = 1, .burst_ns = 1000000};
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_int_eq(virtio_blk_set_limits(blk, &slow), 0);
    ck_assert_uint_eq(transfer(OUT, 0, 8 * SECTOR), OK);
    struct request waits = prepare(OUT, 7, SECTOR);
    start_request(&waits, OUT, SECTOR);
    while (virtio_blk_throttled(blk) == 0)
        usleep(1000);
    driver_reset(&driver);
    ck_assert_uint_eq(status_of(&waits), 0xee);
    // Who starts anew owes what was done before.
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    waits = prepare(OUT, 7, SECTOR);
    start_request(&waits, OUT, SECTOR);
    while (virtio_blk_throttled(blk) < 2)
        usleep(1000);
    ck_assert_uint_eq(status_of(&waits), 0xee);
}
END_TEST

START_TEST(latency_buckets)
{
    static const struct {
        uint64_t ns;
        unsigned bucket;
    } cases[] = {{0, 0},           {999, 0},         {1000, 1},       {1999, 1},
                 {2000, 2},        {3999, 2},        {4000, 3},       {1000000, 10},
                 {4194303999, 22}, {4194304000, 23}, {UINT64_MAX, 23}};
    static struct latency latency;
    struct latency_snapshot s;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_uint_eq(latency_bucket(cases[i].ns), cases[i].bucket);
    latency_read(&latency, &s);
    ck_assert_uint_eq(latency_percentile_us(&s, 990), 0);
    for (unsigned i = 0; i < 99; i++)
        latency_record(&latency, 3000);
    latency_record(&latency, 500000);
    latency_read(&latency, &s);
    ck_assert_uint_eq(s.count, 100);
    ck_assert_uint_eq(latency_percentile_us(&s, 500), 4);
    ck_assert_uint_eq(latency_percentile_us(&s, 990), 4);
    ck_assert_uint_eq(latency_percentile_us(&s, 991), 512);
    latency_record(&latency, UINT64_MAX / 2);
    latency_read(&latency, &s);
    ck_assert_uint_eq(latency_percentile_us(&s, 1000), UINT64_MAX);
}
END_TEST

// Files

static char path[] = "/tmp/ferry-test-blk-XXXXXX";

static void set_up_file(void)
{
    set_up_machine();
    strcpy(path + sizeof(path) - 7, "XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, DISK_SIZE), 0);
    close(fd);
}

static void tear_down_file(void)
{
    tear_down_machine();
    unlink(path);
}

static void open_file(const struct block_file_config *config)
{
    struct error err = {0};
    struct block_backend *backend;
    int fd = block_image_open(path, config, &err);
    ck_assert_msg(fd >= 0, "%s", err.message);
    ck_assert_msg(block_file_create(&backend, fd, path, config, &err) == 0, "%s", err.message);
    make_device(backend, 1);
}

static const struct block_file_config file_configs[] = {
    {.cache = BLOCK_CACHE_WRITEBACK, .engine = BLOCK_ENGINE_SYNC},
    {.cache = BLOCK_CACHE_WRITEBACK, .engine = BLOCK_ENGINE_AUTO},
    {.cache = BLOCK_CACHE_NONE, .engine = BLOCK_ENGINE_SYNC},
    {.cache = BLOCK_CACHE_NONE, .engine = BLOCK_ENGINE_AUTO},
    {.cache = BLOCK_CACHE_UNSAFE, .engine = BLOCK_ENGINE_AUTO},
};

static uint8_t pattern(uint64_t position, unsigned round)
{
    return (uint8_t)(position * 31 + position / 512 * 7 + round);
}

// Random writes of all lengths, many in flight, mirrored in memory; then everything is read back.
START_TEST(file_keeps_what_was_written)
{
    open_file(&file_configs[_i]);
    driver_start(&driver, ALL, 1, 256);
    static uint8_t mirror[DISK_SIZE];
    static struct request requests[256];
    memset(mirror, 0, sizeof(mirror));
    uint64_t memory_start = driver.allocated;
    srandom(7);
    for (unsigned round = 0; round < 30; round++) {
        unsigned in_flight = 0;
        driver.allocated = memory_start;
        uint64_t sector = (uint64_t)random() % 64;
        while (sector < SECTORS && in_flight < 60) { // ascending, so that none overlap
            uint32_t sectors = 1 + (uint32_t)random() % 40;
            if (sectors > SECTORS - sector)
                sectors = (uint32_t)(SECTORS - sector);
            struct request r = prepare(OUT, sector, sectors * SECTOR);
            if (round % 3 == 2) // buffers that O_DIRECT may not like
                r.data = driver_alloc(&driver, sectors * SECTOR + 1, 512) + 1;
            uint8_t *p = driver_hva(&driver, r.data);
            for (uint32_t i = 0; i < sectors * SECTOR; i++)
                mirror[sector * SECTOR + i] = p[i] = pattern(sector * SECTOR + i, round);
            int head = start_request(&r, OUT, sectors * SECTOR);
            ck_assert_int_ge(head, 0);
            requests[head] = r;
            in_flight++;
            sector += sectors + (uint64_t)random() % 20;
        }
        while (in_flight-- > 0) {
            int head = driver_wait_used(&driver, 0, NULL);
            ck_assert_int_ge(head, 0);
            ck_assert_uint_eq(status_of(&requests[head]), OK);
        }
        ck_assert_uint_eq(transfer(FLUSH, 0, 0), OK);
    }
    driver.allocated = memory_start;
    for (unsigned odd = 0; odd < 2; odd++) {
        struct request r = prepare(IN, 0, DISK_SIZE);
        r.data += odd;
        driver.allocated += odd;
        ck_assert_uint_eq(run(&r, IN, DISK_SIZE), OK);
        ck_assert_mem_eq(driver_hva(&driver, r.data), mirror, DISK_SIZE);
        // Written back as it was, at once.
        r = (struct request){r.header, r.data, r.status, 0};
        bytes_put_u32(driver_hva(&driver, r.header), OUT);
        ck_assert_uint_eq(run(&r, OUT, DISK_SIZE), OK);
    }
    struct request r = prepare(IN, 0, DISK_SIZE);
    ck_assert_uint_eq(run(&r, IN, DISK_SIZE), OK);
    ck_assert_mem_eq(driver_hva(&driver, r.data), mirror, DISK_SIZE);
}
END_TEST

// Bytes that are this process's own now, as RLIMIT_DATA counts them.
static rlim_t own_memory(void)
{
    char line[128];
    unsigned long kib = 0;
    FILE *status = fopen("/proc/self/status", "re");
    while (fgets(line, sizeof(line), status) && sscanf(line, "VmData: %lu kB", &kib) != 1)
        ;
    fclose(status);
    return (rlim_t)kib * 1024;
}

// Buffers that O_DIRECT doesn't like are no reason to take as much memory as the guest asks for.
START_TEST(long_requests_take_little_memory)
{
    enum { PIECES = 16, PIECE = 8 << 20, SPARE = 32 << 20 };
    struct driver_segment segments[PIECES + 2];
    struct rlimit old, limit;
    ck_assert_int_eq(truncate(path, PIECES * PIECE), 0);
    open_file(&file_configs[_i]);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    uint64_t header = driver_alloc(&driver, 16, 16), status = driver_alloc(&driver, 1, 1);
    uint64_t data = (32 << 20) + 1;
    memset(driver_hva(&driver, header), 0, 16);
    segments[0] = (struct driver_segment){header, 16};
    for (unsigned i = 0; i < PIECES; i++)
        segments[1 + i] = (struct driver_segment){data, PIECE};
    segments[PIECES + 1] = (struct driver_segment){status, 1};
    ck_assert_int_eq(getrlimit(RLIMIT_DATA, &old), 0);
    limit = (struct rlimit){own_memory() + SPARE, old.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &limit), 0);
    *(uint8_t *)driver_hva(&driver, status) = 0xee;
    driver_request(&driver, 0, segments, 1, PIECES + 1);
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &old), 0);
    ck_assert_uint_eq(*(uint8_t *)driver_hva(&driver, status), OK);
}
END_TEST

START_TEST(file_zeroes_and_discards)
{
    open_file(&file_configs[_i]);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    struct request r = prepare(OUT, 0, DISK_SIZE);
    memset(driver_hva(&driver, r.data), 0x77, DISK_SIZE);
    ck_assert_uint_eq(run(&r, OUT, DISK_SIZE), OK);
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 8, 16, 0, 16), OK);
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 64, 512, 1, 16), OK);
    ck_assert_uint_eq(range_request(DISCARD, 1024, 512, 0, 16), OK);
    r = prepare(IN, 0, DISK_SIZE);
    ck_assert_uint_eq(run(&r, IN, DISK_SIZE), OK);
    const uint8_t *p = driver_hva(&driver, r.data);
    ck_assert_uint_eq(p[8 * SECTOR - 1], 0x77);
    ck_assert_uint_eq(p[24 * SECTOR], 0x77);
    for (unsigned i = 8 * SECTOR; i < 24 * SECTOR; i++)
        ck_assert_uint_eq(p[i], 0);
    for (unsigned i = 64 * SECTOR; i < 576 * SECTOR; i++)
        ck_assert_uint_eq(p[i], 0);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, DISK_SIZE);
}
END_TEST

// A file that became shorter: reads beyond its end fail, they don't hang.
START_TEST(file_cut_short)
{
    open_file(&file_configs[_i]);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_int_eq(truncate(path, DISK_SIZE / 2), 0);
    ck_assert_uint_eq(transfer(IN, SECTORS - 1, SECTOR), IOERR);
    ck_assert_uint_eq(transfer(IN, SECTORS / 2 - 1, 2 * SECTOR), IOERR);
    ck_assert_uint_eq(transfer(IN, 0, SECTOR), OK);
}
END_TEST

START_TEST(file_grows_at_run_time)
{
    open_file(&file_configs[_i]);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(transfer(IN, SECTORS, SECTOR), IOERR);
    ck_assert_int_eq(truncate(path, 2 * DISK_SIZE), 0);
    ck_assert_int_eq(virtio_blk_refresh_size(blk, NULL), 0);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device, 8), 2 * SECTORS);
    ck_assert_uint_eq(transfer(OUT, 2 * SECTORS - 1, SECTOR), OK);
}
END_TEST

START_TEST(read_only_file)
{
    struct block_file_config config = file_configs[_i];
    config.read_only = true;
    open_file(&config);
    ck_assert(driver_offered(&driver) & F_RO);
    ck_assert(!(driver_offered(&driver) & F_DISCARD));
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(transfer(IN, 0, SECTOR), OK);
    ck_assert_uint_eq(transfer(OUT, 0, SECTOR), IOERR);
    ck_assert_uint_eq(range_request(WRITE_ZEROES, 0, 8, 0, 16), UNSUPP);
    ck_assert_uint_eq(transfer(FLUSH, 0, 0), OK);
}
END_TEST

static Suite *make_suite(void)
{
    enum { FILES = sizeof(file_configs) / sizeof(file_configs[0]) };
    Suite *s = suite_create("virtio-blk");
    TCase *t = tcase_create("requests");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, reads_and_writes);
    tcase_add_test(t, any_framing);
    tcase_add_test(t, ranges_are_checked);
    tcase_add_test(t, discard_and_write_zeroes);
    tcase_add_test(t, features_that_were_not_taken_are_not_served);
    tcase_add_test(t, identity_is_answered);
    tcase_add_test(t, unknown_types_are_unsupported);
    tcase_add_test(t, host_errors_reach_the_guest);
    tcase_add_test(t, writes_are_stable_without_flush);
    tcase_add_loop_test(t, request_without_status_breaks_the_queue, 0, 2);
    tcase_add_test(t, deep_queues_are_served_in_the_end);
    tcase_add_test(t, bytes_in_flight_are_limited);
    tcase_add_test(t, reset_while_reads_are_in_flight);
    tcase_add_test(t, failed_reads_are_marked);
    tcase_add_test(t, configuration_tells_the_topology);
    tcase_add_test(t, latencies_are_counted);
    tcase_add_test(t, latency_buckets);
    tcase_add_test(t, limits_hold_requests_back);
    tcase_add_test(t, reset_while_requests_wait_for_limits);
    suite_add_tcase(s, t);
    t = tcase_create("files");
    tcase_add_checked_fixture(t, set_up_file, tear_down_file);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, file_keeps_what_was_written, 0, FILES);
    tcase_add_loop_test(t, long_requests_take_little_memory, 0, FILES);
    tcase_add_loop_test(t, file_zeroes_and_discards, 0, FILES);
    tcase_add_loop_test(t, file_cut_short, 0, FILES);
    tcase_add_loop_test(t, file_grows_at_run_time, 0, FILES);
    tcase_add_loop_test(t, read_only_file, 0, FILES);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(make_suite());
}
