// The PCI transport, through a whole device: entropy (no configuration) and disk.
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_rng.h"
#include "tests/unit/fake_block.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum { RNG_SLOT = 3, BLK_SLOT = 4, DISK_SIZE = 1 << 20, QUEUE_SIZE = 16 };

#define ALL UINT64_MAX

static struct fake_machine machine;
static struct fake_block disk;
static struct device *rng, *blk;
static struct virtio_driver driver, blk_driver;

static struct device *make_blk(void)
{
    struct device *device;
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "disk0",
                                           .slot = BLK_SLOT};
    const struct virtio_blk_config config = {.backend = &disk.backend, .queues = 2};
    ck_assert_int_eq(virtio_blk_create(&device, &env, &config, NULL), 0);
    return device;
}

static void set_up(void)
{
    fake_machine_init(&machine, 16 << 20);
    fake_block_init(&disk, DISK_SIZE);
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "rng0",
                                           .slot = RNG_SLOT};
    ck_assert_int_eq(virtio_rng_create(&rng, &env, NULL), 0);
    blk = make_blk();
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    rng->ops->reset(rng);
    blk->ops->reset(blk);
    driver_open(&driver, &machine, RNG_SLOT);
    driver_open(&blk_driver, &machine, BLK_SLOT);
}

static void tear_down(void)
{
    rng->ops->destroy(rng);
    blk->ops->destroy(blk);
    ck_assert(disk.destroyed && !disk.attached);
    fake_machine_destroy(&machine);
    fake_block_free(&disk);
}

static uint32_t ask_for_entropy(void)
{
    const struct driver_segment segment = {.gpa = driver_alloc(&driver, 64, 64), .length = 64};
    return driver_request(&driver, 0, &segment, 0, 1);
}

START_TEST(identity)
{
    ck_assert_uint_eq(fake_machine_config_read(&machine, RNG_SLOT, 0, 4), 0x10441af4);
    ck_assert_uint_eq(fake_machine_config_read(&machine, BLK_SLOT, 0, 4), 0x10421af4);
    ck_assert_uint_ge(fake_machine_config_read(&machine, RNG_SLOT, 8, 1), 1);
    ck_assert_uint_ge(fake_machine_config_read(&machine, RNG_SLOT, 0x2e, 2), 0x40);
    ck_assert_uint_eq(fake_machine_config_read(&machine, RNG_SLOT, 0x3d, 1), 0); // no INTx
    // Without device configuration there is no capability for it.
    ck_assert_uint_eq(driver.capabilities, 4);
    ck_assert_uint_eq(blk_driver.capabilities, 5);
    ck_assert(virtio_device_is(rng));
    ck_assert_str_eq(rng->ops->kind, "virtio-rng");
    ck_assert_uint_eq(virtio_device_queue_count(blk), 2);
}
END_TEST

// What each vendor capability says of itself: its length holds all its fields, and its structure is
// aligned as its kind must be and lies within the BAR.
START_TEST(structures_are_where_they_may_be)
{
    static const struct {
        uint8_t length, alignment;
        uint32_t size; // at least
    } kinds[] = {
        [1] = {16, 4, 56}, [2] = {20, 2, 2}, [3] = {16, 1, 1}, [4] = {16, 4, 1}, [5] = {20, 1, 0}};
    unsigned seen = 0;
    for (unsigned at = fake_machine_config_read(&machine, BLK_SLOT, 0x34, 1); at;
         at = fake_machine_config_read(&machine, BLK_SLOT, at + 1, 1)) {
        if (fake_machine_config_read(&machine, BLK_SLOT, at, 1) != 9)
            continue;
        unsigned kind = fake_machine_config_read(&machine, BLK_SLOT, at + 3, 1);
        uint32_t offset = fake_machine_config_read(&machine, BLK_SLOT, at + 8, 4);
        uint32_t size = fake_machine_config_read(&machine, BLK_SLOT, at + 12, 4);
        ck_assert(kind >= 1 && kind <= 5);
        ck_assert_uint_ge(fake_machine_config_read(&machine, BLK_SLOT, at + 2, 1),
                          kinds[kind].length);
        ck_assert_uint_eq(offset % kinds[kind].alignment, 0);
        ck_assert_uint_ge(size, kinds[kind].size);
        ck_assert_uint_le(offset + size, VIRTIO_BAR_SIZE);
        seen |= 1u << kind;
    }
    ck_assert_uint_eq(seen, 0x3e);
    // The last queue's doorbell is within the structure.
    ck_assert_uint_eq(blk_driver.notify_multiplier & (blk_driver.notify_multiplier - 1), 0);
}
END_TEST

START_TEST(kicks_for_nothing_do_nothing)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    for (unsigned i = 0; i < 100; i++) {
        fake_machine_write(&machine, driver.queues[0].notify_address, 2, 0);
        fake_machine_settle(&machine);
    }
    struct virtio_queue_counters counters;
    ck_assert(virtio_device_counters(rng, 0, &counters));
    ck_assert_uint_eq(counters.requests, 0);
    ck_assert_uint_eq(counters.interrupts, 0);
    ck_assert_uint_gt(counters.notifications, 0);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(device_works_and_counts)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    for (unsigned i = 0; i < 10; i++)
        ck_assert_uint_eq(ask_for_entropy(), 64);
    struct virtio_queue_counters counters;
    fake_machine_settle(&machine);
    ck_assert(virtio_device_counters(rng, 0, &counters));
    ck_assert_uint_eq(counters.requests, 10);
    ck_assert_uint_eq(counters.bytes, 640);
    ck_assert_uint_eq(counters.notifications, driver.queues[0].kicks);
    ck_assert_uint_eq(counters.interrupts + counters.suppressed, 10);
    ck_assert(!virtio_device_counters(rng, 1, &counters));
    ck_assert_uint_eq(machine.doorbell_count, 1);
}
END_TEST

START_TEST(only_offered_features_are_accepted)
{
    uint64_t offered = driver_offered(&driver);
    ck_assert_uint_eq(offered, VIRTIO_TRANSPORT_FEATURES);
    for (unsigned bit = 0; bit < 64; bit++) {
        driver_reset(&driver);
        driver_write(&driver, 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
        uint64_t features = VIRTIO_F_VERSION_1 | VIRTIO_FEATURE(bit);
        driver_write(&driver, 0x08, 4, 0);
        driver_write(&driver, 0x0c, 4, (uint32_t)features);
        driver_write(&driver, 0x08, 4, 1);
        driver_write(&driver, 0x0c, 4, features >> 32);
        driver_write(&driver, 0x14, 1, driver_status(&driver) | VIRTIO_STATUS_FEATURES_OK);
        bool accepted = driver_status(&driver) & VIRTIO_STATUS_FEATURES_OK;
        ck_assert_int_eq(accepted, (offered & VIRTIO_FEATURE(bit)) != 0);
        // DRIVER_OK without FEATURES_OK isn't taken either.
        driver_ok(&driver);
        ck_assert_int_eq((driver_status(&driver) & VIRTIO_STATUS_DRIVER_OK) != 0, accepted);
    }
}
END_TEST

START_TEST(version_1_is_required)
{
    ck_assert(!driver_negotiate(&driver, 0));
    ck_assert(!driver_negotiate(&driver, VIRTIO_F_EVENT_IDX));
    ck_assert(driver_negotiate(&driver, VIRTIO_F_VERSION_1));
    // After FEATURES_OK the features stand.
    driver_write(&driver, 0x08, 4, 0);
    driver_write(&driver, 0x0c, 4, UINT32_MAX);
    ck_assert_uint_eq(driver_read(&driver, 0x0c, 4), 0);
    // Words beyond the second read as zero and can't be written.
    driver_write(&driver, 0x00, 4, 2);
    ck_assert_uint_eq(driver_read(&driver, 0x04, 4), 0);
}
END_TEST

START_TEST(status_bits_are_only_added)
{
    driver_reset(&driver);
    driver_write(&driver, 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    driver_write(&driver, 0x14, 1, VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_NEEDS_RESET | 0x30);
    ck_assert_uint_eq(driver_status(&driver), VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    driver_write(&driver, 0x14, 1, VIRTIO_STATUS_FAILED);
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_FAILED);
    driver_reset(&driver);
}
END_TEST

START_TEST(nothing_is_served_before_driver_ok)
{
    const struct driver_segment segment = {.gpa = driver_alloc(&driver, 64, 64), .length = 64};
    ck_assert(driver_negotiate(&driver, VIRTIO_F_VERSION_1));
    driver_queue_setup(&driver, 0, QUEUE_SIZE);
    ck_assert_int_eq(driver_add(&driver, 0, &segment, 0, 1, false), 0);
    fake_machine_write(&machine, driver.queues[0].notify_address, 2, 0);
    fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, 0, NULL), -1);
    driver_ok(&driver); // what is there then is served without another kick
    ck_assert_int_eq(driver_wait_used(&driver, 0, NULL), 0);
}
END_TEST

START_TEST(registers_after_reset)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(driver_read(&driver, 0x1c, 2), 1);
    driver_reset(&driver);
    ck_assert_uint_eq(driver_read(&driver, 0x10, 2), VIRTIO_NO_VECTOR);
    ck_assert_uint_eq(driver_read(&driver, 0x12, 2), 1);
    ck_assert_uint_eq(driver_read(&driver, 0x18, 2), 64);
    ck_assert_uint_eq(driver_read(&driver, 0x1a, 2), VIRTIO_NO_VECTOR);
    ck_assert_uint_eq(driver_read(&driver, 0x1c, 2), 0);
    ck_assert_uint_eq(driver_read(&driver, 0x20, 8), 0);
    ck_assert_uint_eq(machine.doorbell_count, 0);
    // A queue that doesn't exist has size 0 and takes no writes.
    driver_write(&driver, 0x16, 2, 1);
    driver_write(&driver, 0x18, 2, 8);
    ck_assert_uint_eq(driver_read(&driver, 0x18, 2), 0);
    driver_write(&driver, 0x1c, 2, 1);
    ck_assert_uint_eq(driver_read(&driver, 0x1c, 2), 0);
    // And the device can be used again.
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(vectors_out_of_range_read_as_none)
{
    ck_assert(driver_negotiate(&driver, VIRTIO_F_VERSION_1));
    driver_write(&driver, 0x10, 2, 2);
    ck_assert_uint_eq(driver_read(&driver, 0x10, 2), VIRTIO_NO_VECTOR);
    driver_write(&driver, 0x10, 2, 1);
    ck_assert_uint_eq(driver_read(&driver, 0x10, 2), 1);
    driver_write(&driver, 0x16, 2, 0);
    driver_write(&driver, 0x1a, 2, 0x7fff);
    ck_assert_uint_eq(driver_read(&driver, 0x1a, 2), VIRTIO_NO_VECTOR);
}
END_TEST

START_TEST(reads_of_any_width_and_place)
{
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    // Each byte of the BAR, in every width: the bytes of wide reads are those of narrow ones, where
    // a read has no effect.
    for (uint64_t offset = 0; offset < VIRTIO_BAR_SIZE; offset++) {
        for (unsigned length = 1; length <= 8; length *= 2) {
            if (offset % 4096 + length >
                4096) // from one structure into another: read for harm only
                continue;
            uint64_t wide = fake_machine_read(&machine, blk_driver.bar + offset, length);
            if (offset >= VIRTIO_ISR_OFFSET && offset < VIRTIO_DEVICE_OFFSET)
                continue;
            for (unsigned i = 0; i < length; i++) {
                uint64_t narrow = fake_machine_read(&machine, blk_driver.bar + offset + i, 1);
                ck_assert_uint_eq(wide >> (8 * i) & 0xff, narrow);
            }
        }
    }
    ck_assert_uint_eq(fake_machine_read(&machine, blk_driver.device, 8), DISK_SIZE / 512);
}
END_TEST

START_TEST(writes_of_wrong_width_change_nothing)
{
    ck_assert(driver_negotiate(&driver, VIRTIO_F_VERSION_1));
    driver_write(&driver, 0x18, 1, 8);          // half of queue_size
    driver_write(&driver, 0x19, 1, 8);          // its other half
    driver_write(&driver, 0x16, 4, 0x00080000); // select and size at once
    driver_write(&driver, 0x17, 2, 0x0808);     // across both
    driver_write(&driver, 0x21, 4, UINT32_MAX); // a misaligned half of an address
    driver_write(&driver, 0x24, 8, UINT64_MAX); // across two addresses
    driver_write(&driver, 0x20, 2, 0xffff);
    driver_write(&driver, 0x3c, 8, UINT64_MAX); // beyond the end
    ck_assert_uint_eq(driver_read(&driver, 0x18, 2), 64);
    ck_assert_uint_eq(driver_read(&driver, 0x16, 2), 0);
    ck_assert_uint_eq(driver_read(&driver, 0x20, 8), 0);
    ck_assert_uint_eq(driver_read(&driver, 0x28, 8), 0);
    // Halves and whole addresses count.
    driver_write(&driver, 0x24, 4, 0x12);
    driver_write(&driver, 0x20, 4, 0x3456);
    ck_assert_uint_eq(driver_read(&driver, 0x20, 8), UINT64_C(0x1200003456));
    driver_write(&driver, 0x28, 8, UINT64_C(0x123456789));
    ck_assert_uint_eq(driver_read(&driver, 0x2c, 4), 1);
}
END_TEST

START_TEST(writes_anywhere_do_no_harm)
{
    // A running disk whose driver writes every width and value to every place but the doorbells,
    // in pseudo-random order. ASan and UBSan look on; the device must still come back after a
    // reset.
    srandom(1);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t offset = (uint64_t)random() % VIRTIO_BAR_SIZE;
        unsigned length = 1u << (random() % 4);
        uint64_t value = (uint64_t)random() << (random() % 40);
        if (random() % 2)
            offset = (uint64_t)random() % 0x40; // mostly where it hurts
        if (offset + length <= VIRTIO_BAR_SIZE)
            fake_machine_write(&machine, blk_driver.bar + offset, length, value);
    }
    driver_open(&blk_driver, &machine, BLK_SLOT);
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
}
END_TEST

START_TEST(msix_table_of_odd_width)
{
    // Entry 1 of the table holds what driver_open() wrote.
    uint64_t entry = driver.msix_table + 16;
    ck_assert_uint_eq(fake_machine_read(&machine, entry, 1), 0x00);
    ck_assert_uint_eq(fake_machine_read(&machine, entry + 3, 1), 0xfe);
    ck_assert_uint_eq(fake_machine_read(&machine, entry + 2, 2), 0xfee0);
    ck_assert_uint_eq(fake_machine_read(&machine, entry + 8, 1), 1);
    ck_assert_uint_eq(fake_machine_read(&machine, entry + 6, 4), 0x03010000);
    fake_machine_read(&machine, driver.bar + VIRTIO_MSIX_PENDING_OFFSET, 1);
    fake_machine_read(&machine, driver.bar + VIRTIO_MSIX_PENDING_OFFSET + 3, 2);
    fake_machine_read(&machine, driver.bar + VIRTIO_MSIX_PENDING_OFFSET - 1, 8);
}
END_TEST

START_TEST(masked_vector_stays_pending)
{
    driver_start(&driver, ALL & ~VIRTIO_F_EVENT_IDX, 1, QUEUE_SIZE);
    uint64_t control = driver.msix_table + 16 + 12;
    fake_machine_write(&machine, control, 4, 1);
    const struct driver_segment segment = {.gpa = driver_alloc(&driver, 64, 64), .length = 64};
    driver_add(&driver, 0, &segment, 0, 1, false);
    driver_kick(&driver, 0);
    fake_machine_settle(&machine);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.bar + VIRTIO_MSIX_PENDING_OFFSET, 8) & 2,
                      2);
    fake_machine_write(&machine, control, 4, 0);
    ck_assert(driver_wait_vector(&driver, 1, DRIVER_TIMEOUT_MS));
    ck_assert_int_ge(driver_take_used(&driver, 0, NULL), 0);
}
END_TEST

START_TEST(access_through_the_config_window)
{
    unsigned cap = blk_driver.window_capability;
    // device_status, one byte.
    driver_reset(&blk_driver);
    fake_machine_config_write(&machine, BLK_SLOT, cap + 4, 1, 0);
    fake_machine_config_write(&machine, BLK_SLOT, cap + 8, 4, VIRTIO_COMMON_OFFSET + 0x14);
    fake_machine_config_write(&machine, BLK_SLOT, cap + 12, 4, 1);
    fake_machine_config_write(&machine, BLK_SLOT, cap + 16, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    ck_assert_uint_eq(driver_status(&blk_driver), VIRTIO_STATUS_ACKNOWLEDGE);
    ck_assert_uint_eq(fake_machine_config_read(&machine, BLK_SLOT, cap + 16, 1),
                      VIRTIO_STATUS_ACKNOWLEDGE);
    // Device configuration, four bytes.
    fake_machine_config_write(&machine, BLK_SLOT, cap + 8, 4, VIRTIO_DEVICE_OFFSET);
    fake_machine_config_write(&machine, BLK_SLOT, cap + 12, 4, 4);
    ck_assert_uint_eq(fake_machine_config_read(&machine, BLK_SLOT, cap + 16, 4), DISK_SIZE / 512);
    // Misaligned, of odd length, another BAR, beyond the structures: nothing.
    const uint32_t odd[][3] = {{0, VIRTIO_DEVICE_OFFSET + 1, 4}, {0, VIRTIO_DEVICE_OFFSET, 3},
                               {0, VIRTIO_DEVICE_OFFSET, 8},     {1, VIRTIO_DEVICE_OFFSET, 4},
                               {0, VIRTIO_MSIX_TABLE_OFFSET, 4}, {0, UINT32_MAX - 3, 4},
                               {0, VIRTIO_DEVICE_OFFSET, 0}};
    for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        fake_machine_config_write(&machine, BLK_SLOT, cap + 4, 1, odd[i][0]);
        fake_machine_config_write(&machine, BLK_SLOT, cap + 8, 4, odd[i][1]);
        fake_machine_config_write(&machine, BLK_SLOT, cap + 12, 4, odd[i][2]);
        fake_machine_config_write(&machine, BLK_SLOT, cap + 16, 4, 0x5a5a5a5a);
        ck_assert_uint_eq(fake_machine_config_read(&machine, BLK_SLOT, cap + 16, 4), 0x5a5a5a5a);
    }
    ck_assert_uint_eq(fake_machine_read(&machine, blk_driver.msix_table, 4), 0xfee00000);
}
END_TEST

START_TEST(doorbells_move_with_the_bar)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(ask_for_entropy(), 64);
    uint64_t old = driver.bar, now = FAKE_PCI_WINDOW + 0x1000000;
    uint64_t old_doorbell = driver.queues[0].notify_address;
    fake_machine_config_write(&machine, RNG_SLOT, 0x10, 4, (uint32_t)now);
    ck_assert_uint_eq(machine.doorbell_count, 1);
    ck_assert_uint_eq(machine.doorbells[0].address, old_doorbell - old + now);
    ck_assert_uint_eq(fake_machine_read(&machine, old, 4), UINT32_MAX);
    driver.common += now - old;
    driver.queues[0].notify_address += now - old;
    driver.isr += now - old;
    ck_assert_uint_eq(ask_for_entropy(), 64);
    // Decoding off: no doorbell is left.
    fake_machine_config_write(&machine, RNG_SLOT, 4, 2, 4);
    ck_assert_uint_eq(machine.doorbell_count, 0);
    fake_machine_config_write(&machine, RNG_SLOT, 4, 2, 6);
    ck_assert_uint_eq(machine.doorbell_count, 1);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(works_without_doorbells)
{
    machine.refuse_doorbells = true;
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(machine.doorbell_count, 0);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

// A guest that moves its BAR to and fro asks for them each time, and is told so in the log a few
// times only.
START_TEST(lacking_doorbells_do_not_fill_the_log)
{
    int ends[2], lines = 0;
    char said[16384];
    machine.refuse_doorbells = true;
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    log_open(ends[1], LOG_LEVEL_WARNING);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    for (unsigned i = 0; i < 50; i++)
        fake_machine_config_write(&machine, RNG_SLOT, 4, 2, i % 2 ? 6 : 4);
    log_open(-1, LOG_LEVEL_ERROR);
    close(ends[1]);
    ssize_t n = read(ends[0], said, sizeof(said));
    for (ssize_t i = 0; i < n; i++)
        lines += said[i] == '\n';
    close(ends[0]);
    ck_assert_int_ge(lines, 1);
    ck_assert_int_le(lines, LOG_LINES_A_MINUTE);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(misplaced_queue_needs_reset)
{
    ck_assert(driver_negotiate(&driver, VIRTIO_F_VERSION_1));
    driver_write(&driver, 0x16, 2, 0);
    driver_write(&driver, 0x18, 2, 16);
    driver_write(&driver, 0x20, 8, machine.ram_size - 16);
    driver_write(&driver, 0x1c, 2, 1);
    ck_assert_uint_eq(driver_read(&driver, 0x1c, 2), 0);
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    driver_reset(&driver);
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(broken_ring_needs_reset_and_says_so)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    const struct driver_segment segment = {.gpa = machine.ram_size - 4, .length = 64};
    driver_add(&driver, 0, &segment, 0, 1, false);
    driver_kick(&driver, 0);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS)); // configuration interrupt
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.isr, 1) & 2, 2);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.isr, 1), 0); // read clears
    ck_assert_int_eq(driver_take_used(&driver, 0, NULL), -1);
    // The other device doesn't notice.
    ck_assert(!(driver_status(&blk_driver) & VIRTIO_STATUS_NEEDS_RESET));
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    ck_assert_uint_eq(ask_for_entropy(), 64);
}
END_TEST

START_TEST(isr_without_msix)
{
    driver_start(&driver, ALL & ~VIRTIO_F_EVENT_IDX, 1, QUEUE_SIZE);
    fake_machine_config_write(&machine, RNG_SLOT, driver.msix_capability + 2, 2, 0);
    const struct driver_segment segment = {.gpa = driver_alloc(&driver, 64, 64), .length = 64};
    driver_add(&driver, 0, &segment, 0, 1, false);
    driver_kick(&driver, 0);
    fake_machine_settle(&machine);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.isr, 1), 1);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.isr, 1), 0);
    ck_assert_int_ge(driver_take_used(&driver, 0, NULL), 0);
}
END_TEST

// One read request that stays in flight.
static void begin_read(struct virtio_driver *d, unsigned queue)
{
    uint64_t header = driver_alloc(d, 16, 16);
    memset(driver_hva(d, header), 0, 16);
    const struct driver_segment segments[] = {
        {header, 16}, {driver_alloc(d, 512, 512), 512}, {driver_alloc(d, 1, 1), 1}};
    driver_add(d, queue, segments, 1, 2, false);
    driver_kick(d, queue);
    fake_machine_settle(d->machine);
}

START_TEST(reset_waits_for_what_is_in_flight)
{
    disk.hold = true;
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    begin_read(&blk_driver, 0);
    begin_read(&blk_driver, 1);
    ck_assert_uint_eq(disk.held_count, 2);
    driver_reset(&blk_driver); // returns with nothing in flight
    ck_assert_uint_eq(disk.held_count, 0);
    ck_assert_uint_ge(disk.drains, 1);
    disk.hold = false;
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    begin_read(&blk_driver, 1);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 1, NULL), 0);
}
END_TEST

START_TEST(one_queue_is_reset_alone)
{
    disk.hold = true;
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    begin_read(&blk_driver, 0);
    begin_read(&blk_driver, 1);
    driver_write(&blk_driver, 0x16, 2, 1);
    driver_write(&blk_driver, 0x3a, 2, 1);
    ck_assert_uint_eq(driver_read(&blk_driver, 0x3a, 2), 0);
    ck_assert_uint_eq(driver_read(&blk_driver, 0x1c, 2), 0);
    disk.hold = false;
    ck_assert_int_ge(driver_wait_used(&blk_driver, 0, NULL), 0); // wasn't lost
    begin_read(&blk_driver, 0);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 0, NULL), 0); // and goes on
    driver_queue_setup(&blk_driver, 1, 8);
    begin_read(&blk_driver, 1);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 1, NULL), 0);
}
END_TEST

START_TEST(queue_reset_must_be_negotiated)
{
    driver_start(&blk_driver, ALL & ~VIRTIO_F_RING_RESET, 1, QUEUE_SIZE);
    driver_write(&blk_driver, 0x16, 2, 0);
    driver_write(&blk_driver, 0x3a, 2, 1);
    ck_assert_uint_eq(driver_read(&blk_driver, 0x1c, 2), 1);
    // And without it no queue may be enabled behind DRIVER_OK.
    driver_queue_setup(&blk_driver, 1, 8);
    driver_write(&blk_driver, 0x16, 2, 1);
    ck_assert_uint_eq(driver_read(&blk_driver, 0x1c, 2), 0);
}
END_TEST

START_TEST(generation_follows_configuration)
{
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    uint64_t before = driver_read(&blk_driver, 0x15, 1);
    disk.backend.size = DISK_SIZE / 2;
    ck_assert_int_eq(virtio_blk_refresh_size(blk, NULL), 0);
    ck_assert(driver_wait_vector(&blk_driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_ne(driver_read(&blk_driver, 0x15, 1), before);
    ck_assert_uint_eq(fake_machine_read(&machine, blk_driver.device, 8), DISK_SIZE / 1024);
    // The driver can't write it.
    fake_machine_write(&machine, blk_driver.device, 8, 1);
    ck_assert_uint_eq(fake_machine_read(&machine, blk_driver.device, 8), DISK_SIZE / 1024);
}
END_TEST

// State

static void save(struct device *device, struct byte_writer *w)
{
    byte_writer_init(w);
    device->ops->quiesce(device);
    device->ops->save(device, w);
    ck_assert(!w->failed);
}

START_TEST(quiesce_and_resume_lose_no_kick)
{
    driver_start(&driver, ALL, 1, QUEUE_SIZE);
    for (unsigned i = 0; i < 50; i++) {
        const struct driver_segment segment = {.gpa = driver_alloc(&driver, 64, 64), .length = 64};
        rng->ops->quiesce(rng);
        driver_add(&driver, 0, &segment, 0, 1, false);
        if (i % 2)
            driver_kick(&driver, 0);
        rng->ops->resume(rng);
        ck_assert_int_ge(driver_wait_used(&driver, 0, NULL), 0);
    }
}
END_TEST

START_TEST(saved_device_goes_on_in_another)
{
    disk.hold = true;
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    begin_read(&blk_driver, 0);
    begin_read(&blk_driver, 1);
    struct byte_writer w;
    save(blk, &w);              // completes both
    begin_read(&blk_driver, 0); // as if the kick was lost on the way
    blk->ops->destroy(blk);
    disk.hold = false;
    disk.destroyed = false;
    blk = make_blk();
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    blk->ops->reset(blk);
    struct byte_reader r;
    struct error err = {0};
    byte_reader_init(&r, w.data, w.length);
    ck_assert_msg(blk->ops->load(blk, &r, &err) == 0, "%s", err.message);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    ck_assert_uint_eq(machine.doorbell_count, 0);
    blk->ops->resume(blk);
    ck_assert_uint_eq(machine.doorbell_count, 2);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_ge(driver_wait_used(&blk_driver, 0, NULL), 0);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 1, NULL), 0);
    begin_read(&blk_driver, 1);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 1, NULL), 0);
    byte_writer_free(&w);
}
END_TEST

// Each byte of a saved state changed to several values: a load takes it or says why not, and the
// device can be used afterwards.
START_TEST(damaged_states_do_no_harm)
{
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    struct byte_writer w;
    save(blk, &w);
    unsigned refused = 0;
    size_t skip = 8192; // most of what comes first is the PCI function's config space
    for (size_t at = w.length > skip ? w.length - skip : 0; at < w.length; at++) {
        static const uint8_t values[] = {0x00, 0x01, 0x7f, 0xff};
        uint8_t old = w.data[at];
        for (unsigned i = 0; i < sizeof(values); i++) {
            struct byte_reader r;
            struct error err = {0};
            w.data[at] = values[i];
            byte_reader_init(&r, w.data, w.length);
            int rc = blk->ops->load(blk, &r, &err);
            refused += rc < 0;
            if (rc < 0)
                ck_assert_str_ne(err.message, "");
            else
                blk->ops->resume(blk);
        }
        w.data[at] = old;
    }
    ck_assert_uint_gt(refused, 100);
    for (size_t length = 0; length < w.length; length += 7) { // cut short
        struct byte_reader r;
        struct error err = {0};
        byte_reader_init(&r, w.data, length);
        ck_assert_int_lt(blk->ops->load(blk, &r, &err), 0);
    }
    byte_writer_free(&w);
    blk->ops->reset(blk);
    driver_open(&blk_driver, &machine, BLK_SLOT);
    driver_start(&blk_driver, ALL, 2, QUEUE_SIZE);
    begin_read(&blk_driver, 0);
    ck_assert_int_ge(driver_wait_used(&blk_driver, 0, NULL), 0);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *s = suite_create("virtio PCI transport");
    TCase *t = tcase_create("registers");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, identity);
    tcase_add_test(t, device_works_and_counts);
    tcase_add_test(t, structures_are_where_they_may_be);
    tcase_add_test(t, kicks_for_nothing_do_nothing);
    tcase_add_test(t, only_offered_features_are_accepted);
    tcase_add_test(t, version_1_is_required);
    tcase_add_test(t, status_bits_are_only_added);
    tcase_add_test(t, nothing_is_served_before_driver_ok);
    tcase_add_test(t, registers_after_reset);
    tcase_add_test(t, vectors_out_of_range_read_as_none);
    tcase_add_test(t, reads_of_any_width_and_place);
    tcase_add_test(t, writes_of_wrong_width_change_nothing);
    tcase_add_test(t, writes_anywhere_do_no_harm);
    tcase_add_test(t, msix_table_of_odd_width);
    tcase_add_test(t, masked_vector_stays_pending);
    tcase_add_test(t, access_through_the_config_window);
    tcase_add_test(t, doorbells_move_with_the_bar);
    tcase_add_test(t, works_without_doorbells);
    tcase_add_test(t, lacking_doorbells_do_not_fill_the_log);
    tcase_add_test(t, misplaced_queue_needs_reset);
    tcase_add_test(t, broken_ring_needs_reset_and_says_so);
    tcase_add_test(t, isr_without_msix);
    tcase_add_test(t, reset_waits_for_what_is_in_flight);
    tcase_add_test(t, one_queue_is_reset_alone);
    tcase_add_test(t, queue_reset_must_be_negotiated);
    tcase_add_test(t, generation_follows_configuration);
    tcase_add_test(t, quiesce_and_resume_lose_no_kick);
    tcase_add_test(t, saved_device_goes_on_in_another);
    tcase_add_test(t, damaged_states_do_no_harm);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(make_suite());
}
