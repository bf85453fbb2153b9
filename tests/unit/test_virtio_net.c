// The network card over socket pairs, and over a tap where one can be made.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net/net_mac.h"
#include "devices/net/net_tap.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_net_parts.h"
#include "tests/unit/fake_net.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/virtio_driver.h"

enum { SLOT = 2, PAIRS = 2, RX = 0, TX = 1, CONTROL = 2 * PAIRS, HEADER = NET_HEADER_SIZE };

#define ALL            UINT64_MAX
#define GUEST_OFFLOADS (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN)
#define ONE_PAIR       (ALL & ~NET_F_MQ)
#define UNMERGED       (ONE_PAIR & ~NET_F_MRG_RXBUF)
#define NO_LARGE       (ONE_PAIR & ~(NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN))

static struct fake_machine machine;
static struct fake_net net;
static struct device *card;
static struct virtio_driver driver;
static const uint8_t mac[6] = {0x02, 1, 2, 3, 4, 5};

static void make_device(struct net_backend *backend)
{
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "net0",
                                           .slot = SLOT};
    struct virtio_net_config config = {.backend = backend};
    memcpy(config.mac, mac, 6);
    ck_assert_int_eq(virtio_net_create(&card, &env, &config, NULL), 0);
    ck_assert_int_eq(pci_bus_assign(&machine.pci, NULL), 0);
    card->ops->reset(card);
}

static void set_up(void)
{
    fake_machine_init(&machine, 64 << 20);
    fake_net_init(&net, PAIRS);
    make_device(&net.backend);
    driver_open(&driver, &machine, SLOT);
}

static void tear_down(void)
{
    card->ops->destroy(card);
    ck_assert(net.destroyed);
    fake_machine_destroy(&machine);
    fake_net_free(&net);
}

static void fill(uint8_t *frame, size_t length, unsigned seed)
{
    memset(frame, 0, HEADER);
    for (size_t i = HEADER; i < length; i++)
        frame[i] = (uint8_t)(i * 11 + seed);
}

// A frame comes from the network.
static void network_sends(unsigned pair, const uint8_t *frame, size_t length)
{
    ck_assert_int_eq(send(net.network_fds[pair], frame, length, 0), (ssize_t)length);
}

// Whether the network got a frame within the time.
static ssize_t network_gets(unsigned pair, void *frame, size_t size, int timeout_ms)
{
    struct pollfd p = {.fd = net.network_fds[pair], .events = POLLIN};
    if (poll(&p, 1, timeout_ms) != 1)
        return -1;
    return recv(p.fd, frame, size, 0);
}

static uint64_t offer(unsigned queue, unsigned count, uint32_t length)
{
    uint64_t first = driver_alloc(&driver, (uint64_t)count * length, 16);
    for (unsigned i = 0; i < count; i++) {
        const struct driver_segment s = {first + (uint64_t)i * length, length};
        ck_assert_int_ge(driver_add(&driver, queue, &s, 0, 1, false), 0);
        driver_kick(&driver, queue);
    }
    return first;
}

static int transmit(unsigned queue, const uint8_t *frame, uint32_t length)
{
    struct driver_segment s[2] = {{driver_alloc(&driver, length + 1, 16), HEADER}};
    memcpy(driver_hva(&driver, s[0].gpa), frame, length);
    s[1] = (struct driver_segment){s[0].gpa + HEADER, length - HEADER};
    int head = driver_add(&driver, queue, s, length > HEADER ? 2 : 1, 0, false);
    driver_kick(&driver, queue);
    return head;
}

static uint8_t command(unsigned queue, uint8_t class, uint8_t code, const void *data,
                       uint32_t length)
{
    struct driver_segment s[3] = {{driver_alloc(&driver, 2, 1), 2},
                                  {driver_alloc(&driver, length + 1, 1), length},
                                  {driver_alloc(&driver, 1, 1), 1}};
    uint8_t *p = driver_hva(&driver, s[0].gpa);
    p[0] = class;
    p[1] = code;
    memcpy(driver_hva(&driver, s[1].gpa), data, length);
    driver_request(&driver, queue, s, 2, 1);
    return *(uint8_t *)driver_hva(&driver, s[2].gpa);
}

START_TEST(frames_go_out)
{
    uint8_t frame[HEADER + 100], got[2000];
    driver_start(&driver, ONE_PAIR, 3, 64);
    for (unsigned i = 0; i < 200; i++) {
        fill(frame, sizeof(frame), i);
        int head = transmit(TX, frame, sizeof(frame));
        ck_assert_int_eq(driver_wait_used(&driver, TX, NULL), head);
        ck_assert_int_eq(network_gets(0, got, sizeof(got), DRIVER_TIMEOUT_MS), sizeof(frame));
        ck_assert_mem_eq(got, frame, sizeof(frame));
    }
    struct virtio_queue_counters c;
    fake_machine_settle(&machine);
    ck_assert(virtio_device_counters(card, TX, &c));
    ck_assert_uint_eq(c.requests, 200);
    ck_assert_uint_eq(c.bytes, 200 * 100);
}
END_TEST

START_TEST(bad_frames_are_dropped)
{
    static const struct {
        uint64_t wanted;
        uint32_t length;
        uint8_t flags, type;
        bool passes;
    } cases[] = {
        {ALL, HEADER + 14, 0, 0, true},
        {ALL, HEADER + 13, 0, 0, false}, // no Ethernet header
        {ALL, HEADER, 0, 0, false},
        {ALL, HEADER + NET_FRAME_LIMIT + 1, 0, 0, false},
        {ALL, HEADER + 60, 1, 0, true},
        {ALL, HEADER + 60, 1, 1, true},
        {ALL, HEADER + 60, 1, 0x84, true},
        {ALL, HEADER + 60, 0, 3, false}, // UFO isn't offered
        {ALL, HEADER + 60, 0, 2, false},
        {ALL, HEADER + 60, 0, 0x7f, false},
        {ALL & ~(NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN), HEADER + 60, 1,
         0, false},
        {ALL & ~(NET_F_HOST_TSO4 | NET_F_HOST_ECN), HEADER + 60, 1, 1, false},
        {ALL & ~NET_F_HOST_ECN, HEADER + 60, 1, 0x81, false},
    };
    static uint8_t frame[HEADER + NET_FRAME_LIMIT + 1];
    static uint8_t got[HEADER + NET_FRAME_LIMIT + 1];
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        driver_start(&driver, cases[i].wanted & ONE_PAIR, 3, 64);
        memset(frame, 0, HEADER);
        frame[0] = cases[i].flags;
        frame[1] = cases[i].type;
        int head = transmit(TX, frame, cases[i].length);
        ck_assert_int_eq(driver_wait_used(&driver, TX, NULL), head);
        ssize_t n = network_gets(0, got, sizeof(got), 0);
        ck_assert_msg((n > 0) == cases[i].passes, "case %u", i);
        ck_assert_uint_eq(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET, 0);
    }
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.sent, 9);
}
END_TEST

START_TEST(frames_come_in)
{
    uint8_t frame[HEADER + 1000];
    uint32_t length;
    driver_start(&driver, _i ? UNMERGED : ONE_PAIR, 3, 64);
    uint64_t buffers = offer(RX, 64, 2048);
    for (unsigned i = 0; i < 64; i++) {
        fill(frame, sizeof(frame), i);
        network_sends(0, frame, sizeof(frame));
        ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
        ck_assert_uint_eq(length, sizeof(frame));
        const uint8_t *p = driver_hva(&driver, buffers + i * 2048);
        ck_assert_uint_eq(bytes_get_u16(p + 10), 1); // num_buffers, always
        ck_assert_mem_eq(p + HEADER, frame + HEADER, sizeof(frame) - HEADER);
    }
}
END_TEST

START_TEST(received_headers_fit_the_features)
{
    static const struct {
        uint64_t wanted;
        uint8_t flags, type;
        int gets; // flags; -1 when it's dropped
    } cases[] = {
        {ALL, 0, 0, 0},
        {ALL, 2, 0, 2},
        {ALL, 1, 0, 1},
        {ALL, 0xff, 0, 3}, // what isn't known isn't told
        {ALL, 1, 1, 1},
        {ALL, 1, 0x84, 1},
        {ALL, 1, 3, -1},
        {ALL, 0, 0x7f, -1},
        {ALL & ~NET_F_GUEST_ECN, 1, 0x81, -1},
        {ALL & ~(NET_F_GUEST_TSO6 | NET_F_GUEST_ECN), 1, 4, -1},
        {ALL & ~GUEST_OFFLOADS, 2, 0, 0}, // as a tap marks it, unasked
        {ALL & ~GUEST_OFFLOADS, 1, 0, -1},
        {ALL & ~GUEST_OFFLOADS, 0, 1, -1},
    };
    uint8_t frame[HEADER + 60];
    unsigned dropped = 0;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t length;
        driver_start(&driver, cases[i].wanted & ONE_PAIR, 3, 64);
        uint64_t buffers = offer(RX, 16, 2048);
        fill(frame, sizeof(frame), i);
        frame[0] = cases[i].flags;
        frame[1] = cases[i].type;
        network_sends(0, frame, sizeof(frame));
        frame[0] = frame[1] = 0;
        frame[HEADER]++;
        network_sends(0, frame, sizeof(frame)); // always comes
        ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
        const uint8_t *p = driver_hva(&driver, buffers);
        dropped += cases[i].gets < 0;
        ck_assert_msg(p[0] == (cases[i].gets < 0 ? 0 : cases[i].gets), "case %u: flags %u", i,
                      p[0]);
        ck_assert_msg((p[HEADER] == frame[HEADER]) == (cases[i].gets < 0), "case %u", i);
        if (cases[i].gets >= 0)
            ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
    }
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.received, dropped);
}
END_TEST

START_TEST(large_frames_are_spread_over_buffers)
{
    static uint8_t frame[HEADER + 60000], got[HEADER + 60000 + 1536];
    driver_start(&driver, ONE_PAIR, 3, 256);
    uint64_t buffers = offer(RX, 256, 1536);
    uint64_t at = buffers;
    for (unsigned i = 0; i < 6; i++) {
        fill(frame, sizeof(frame), i);
        network_sends(0, frame, sizeof(frame));
        uint32_t length;
        size_t seen = 0;
        ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
        unsigned count = bytes_get_u16((uint8_t *)driver_hva(&driver, at) + 10);
        ck_assert_uint_eq(count, (sizeof(frame) + 1535) / 1536);
        for (unsigned n = 0; n < count; n++) {
            // The others were published together with the first.
            if (n > 0)
                ck_assert_int_ge(driver_take_used(&driver, RX, &length), 0);
            memcpy(got + seen, driver_hva(&driver, at), length);
            seen += length;
            at += 1536;
        }
        ck_assert_uint_eq(seen, sizeof(frame));
        ck_assert_mem_eq(got + HEADER, frame + HEADER, sizeof(frame) - HEADER);
    }
}
END_TEST

START_TEST(frames_wait_for_buffers)
{
    uint8_t frame[HEADER + 200];
    uint32_t length;
    driver_start(&driver, ONE_PAIR, 3, 64);
    for (unsigned i = 0; i < 20; i++) {
        fill(frame, sizeof(frame), i);
        network_sends(0, frame, sizeof(frame));
    }
    fake_machine_settle(&machine);
    for (unsigned i = 0; i < 20; i++) {
        fill(frame, sizeof(frame), i);
        uint64_t buffer = offer(RX, 1, 2048);
        ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
        ck_assert_uint_eq(length, sizeof(frame));
        ck_assert_mem_eq((uint8_t *)driver_hva(&driver, buffer) + HEADER, frame + HEADER,
                         sizeof(frame) - HEADER);
    }
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.received, 0);
}
END_TEST

// A large frame that finds few buffers waits, half delivered, for more.
START_TEST(large_frames_wait_for_more_buffers)
{
    static uint8_t frame[HEADER + 20000];
    uint32_t length;
    driver_start(&driver, ONE_PAIR, 3, 256);
    uint64_t buffers = driver_alloc(&driver, 20 * 1536, 16);
    for (unsigned i = 0; i < 5; i++) {
        const struct driver_segment s = {buffers + i * 1536, 1536};
        driver_add(&driver, RX, &s, 0, 1, false);
        driver_kick(&driver, RX);
    }
    fill(frame, sizeof(frame), 9);
    network_sends(0, frame, sizeof(frame));
    fake_machine_settle(&machine);
    ck_assert_int_eq(driver_take_used(&driver, RX, NULL), -1);
    for (unsigned i = 5; i < 20; i++) {
        const struct driver_segment s = {buffers + i * 1536, 1536};
        driver_add(&driver, RX, &s, 0, 1, false);
        driver_kick(&driver, RX);
    }
    size_t seen = 0;
    while (seen < sizeof(frame)) {
        ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
        size_t skip = seen ? 0 : HEADER;
        ck_assert_mem_eq((uint8_t *)driver_hva(&driver, buffers + seen / 1536 * 1536) + skip,
                         frame + seen + skip, length - skip);
        seen += length;
    }
    ck_assert_uint_eq(bytes_get_u16((uint8_t *)driver_hva(&driver, buffers) + 10), 14);
}
END_TEST

START_TEST(frames_that_never_fit_are_dropped)
{
    static uint8_t frame[HEADER + 3000];
    uint32_t length;
    driver_start(&driver, _i ? UNMERGED : ONE_PAIR, 3, 8);
    offer(RX, _i ? 8 : 1, 1536); // unmerged, or a queue too small to hold it
    fill(frame, sizeof(frame), 1);
    network_sends(0, frame, sizeof(frame));
    fake_machine_settle(&machine);
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.received, 1);
    network_sends(0, frame, HEADER + 100);
    ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
    ck_assert_uint_eq(length, HEADER + 100);
}
END_TEST

START_TEST(received_bytes_are_marked)
{
    static uint64_t bits[64 << 20 >> 12 >> 6];
    static uint8_t frame[HEADER + 6000];
    driver_start(&driver, ONE_PAIR, 3, 64);
    uint64_t buffers = offer(RX, 8, 4096);
    guest_memory_log_start(&machine.memory);
    fill(frame, sizeof(frame), 3);
    network_sends(0, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    guest_memory_log_take(&machine.memory, 0, bits);
    for (uint64_t page = buffers >> 12; page <= (buffers + sizeof(frame) - 1) >> 12; page++)
        ck_assert(bits[page / 64] >> (page % 64) & 1);
}
END_TEST

// A frame that waits for more buffers and is then given up has changed the first ones.
START_TEST(dropped_bytes_are_marked)
{
    static uint64_t bits[64 << 20 >> 12 >> 6];
    static uint8_t frame[HEADER + 60000];
    struct virtio_net_drops drops;
    driver_start(&driver, ONE_PAIR, 3, 64);
    uint64_t buffers = driver_alloc(&driver, 4 * 4096, 4096);
    guest_memory_log_start(&machine.memory);
    for (unsigned i = 0; i < 3; i++) {
        const struct driver_segment s = {buffers + i * 4096, 4096};
        driver_add(&driver, RX, &s, 0, 1, false);
        driver_kick(&driver, RX);
    }
    fake_machine_settle(&machine);
    fill(frame, sizeof(frame), 3);
    network_sends(0, frame, sizeof(frame));
    fake_machine_settle(&machine);
    virtio_net_set_link(card, false);
    const struct driver_segment last = {buffers + 3 * 4096, 4096};
    driver_add(&driver, RX, &last, 0, 1, false);
    driver_kick(&driver, RX);
    fake_machine_settle(&machine);
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.received, 1);
    ck_assert_mem_eq((uint8_t *)driver_hva(&driver, buffers) + HEADER, frame + HEADER,
                     4096 - HEADER);
    guest_memory_log_take(&machine.memory, 0, bits);
    for (uint64_t page = buffers >> 12; page < (buffers >> 12) + 3; page++)
        ck_assert(bits[page / 64] >> (page % 64) & 1);
}
END_TEST

START_TEST(offloads_follow_the_features)
{
    driver_start(&driver, NO_LARGE, 3, 64);
    ck_assert_uint_eq(net.receive_offloads, NET_OFFLOAD_CHECKSUM);
    driver_start(&driver, ONE_PAIR & ~NET_F_GUEST_TSO6, 3, 64);
    ck_assert_uint_eq(net.receive_offloads,
                      NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_ECN);
    driver_start(&driver, VIRTIO_F_VERSION_1, 2, 64);
    ck_assert_uint_eq(net.receive_offloads, 0);
}
END_TEST

START_TEST(features_that_need_others)
{
    static const uint64_t bad[] = {
        NET_F_GUEST_TSO4,     NET_F_GUEST_TSO6, NET_F_GUEST_CSUM | NET_F_GUEST_ECN,
        NET_F_HOST_TSO4,      NET_F_HOST_TSO6,  NET_F_CSUM | NET_F_HOST_ECN,
        NET_F_GUEST_ANNOUNCE, NET_F_MQ,         NET_F_CTRL_MAC_ADDR,
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert(!driver_negotiate(&driver, VIRTIO_F_VERSION_1 | bad[i]));
    ck_assert(driver_negotiate(&driver, ALL));
}
END_TEST

START_TEST(failed_start_needs_reset)
{
    net.refuse_offloads = true;
    ck_assert(driver_negotiate(&driver, ONE_PAIR));
    driver_queue_setup(&driver, RX, 64);
    driver_queue_setup(&driver, TX, 64);
    driver_ok(&driver);
    ck_assert(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    net.refuse_offloads = false;
    driver_start(&driver, ONE_PAIR, 3, 64);
}
END_TEST

// A large frame at a byte a second is let go, and the next one waits, in each direction for itself.
START_TEST(limits_hold_frames_back)
{
    const struct rate_limits slow = {.bytes_per_second = 1, .burst_ns = 1000000};
    const struct rate_limits none = {0};
    uint8_t frame[HEADER + 1000], got[sizeof(frame)];
    driver_start(&driver, ONE_PAIR, 3, 64);
    ck_assert_int_eq(virtio_net_set_limits(card, &slow), 0);
    fill(frame, sizeof(frame), 1);
    transmit(TX, frame, sizeof(frame));
    ck_assert_int_eq(network_gets(0, got, sizeof(got), DRIVER_TIMEOUT_MS), sizeof(frame));
    transmit(TX, frame, sizeof(frame));
    while (virtio_net_throttled(card) == 0)
        usleep(1000);
    // The other direction isn't touched by that.
    offer(RX, 8, 2048);
    network_sends(0, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    network_sends(0, frame, sizeof(frame));
    while (virtio_net_throttled(card) < 2)
        usleep(1000);
    card->ops->quiesce(card);
    card->ops->resume(card);
    while (virtio_net_throttled(card) < 4)
        usleep(1000);
    ck_assert_int_eq(driver_take_used(&driver, RX, NULL), -1);
    ck_assert_int_eq(network_gets(0, got, sizeof(got), 0), -1);
    ck_assert_int_eq(virtio_net_set_limits(card, &none), 0);
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    ck_assert_int_eq(network_gets(0, got, sizeof(got), DRIVER_TIMEOUT_MS), sizeof(frame));
}
END_TEST

START_TEST(control_commands)
{
    static const uint8_t other[6] = {0x02, 9, 8, 7, 6, 5}, multicast[6] = {0x03, 0, 0, 0, 0, 1};
    driver_start(&driver, ONE_PAIR, 3, 64);
    const unsigned control = 2; // of a driver without MQ
    ck_assert_uint_eq(command(control, 1, 1, other, 6), 0);
    for (unsigned i = 0; i < 6; i++)
        ck_assert_uint_eq(fake_machine_read(&machine, driver.device + i, 1), other[i]);
    ck_assert_uint_eq(command(control, 1, 1, multicast, 6), 1);
    ck_assert_uint_eq(command(control, 1, 1, other, 5), 1);
    ck_assert_uint_eq(command(control, 1, 1, "1234567", 7), 1);
    ck_assert_uint_eq(command(control, 1, 0, other, 4), 1);
    ck_assert_uint_eq(command(control, 0, 0, other, 1), 1);
    ck_assert_uint_eq(command(control, 4, 0, "\1\0", 2), 1); // MQ wasn't taken
    ck_assert_uint_eq(command(control, 0xff, 0xff, other, 6), 1);
    ck_assert_uint_eq(driver_status(&driver) & VIRTIO_STATUS_NEEDS_RESET, 0);
}
END_TEST

START_TEST(several_pairs)
{
    uint8_t frame[HEADER + 64], got[256];
    driver_start(&driver, ALL, 2 * PAIRS + 1, 64);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 8, 2), PAIRS);
    ck_assert(net.enabled[0] && !net.enabled[1]); // one, until more are asked for
    ck_assert_uint_eq(command(CONTROL, 4, 0, "\0\0", 2), 1);
    ck_assert_uint_eq(command(CONTROL, 4, 0, "\3\0", 2), 1);
    offer(2, 8, 2048);
    ck_assert_uint_eq(command(CONTROL, 4, 0, "\2\0", 2), 0);
    ck_assert(net.enabled[0] && net.enabled[1]);
    fill(frame, sizeof(frame), 1);
    network_sends(1, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, 2, NULL), 0);
    transmit(3, frame, sizeof(frame));
    ck_assert_int_eq(network_gets(1, got, sizeof(got), DRIVER_TIMEOUT_MS), sizeof(frame));
    // Over a pause, then back to one.
    card->ops->quiesce(card);
    card->ops->resume(card);
    network_sends(1, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, 2, NULL), 0);
    ck_assert_uint_eq(command(CONTROL, 4, 0, "\1\0", 2), 0);
    ck_assert(net.enabled[0] && !net.enabled[1]);
}
END_TEST

// The pairs are set, to what they were, while a receiver has stopped to look for frames as it had
// no buffers.
START_TEST(setting_pairs_keeps_a_waiting_receiver)
{
    uint8_t frame[HEADER + 64];
    uint64_t buffers = driver_alloc(&driver, 8 * 2048, 16);
    driver_start(&driver, ALL, 2 * PAIRS + 1, 64);
    fill(frame, sizeof(frame), 1);
    network_sends(0, frame, sizeof(frame));
    fake_machine_settle(&machine);
    for (unsigned i = 0; i < 8; i++) { // their kick is on its way
        const struct driver_segment s = {buffers + i * 2048, 2048};
        ck_assert_int_ge(driver_add(&driver, RX, &s, 0, 1, false), 0);
    }
    ck_assert_uint_eq(command(CONTROL, 4, 0, "\1\0", 2), 0);
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    fake_machine_settle(&machine);
    network_sends(0, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
}
END_TEST

// Without MQ the second pair's queue is the control queue.
START_TEST(state_with_pairs_that_were_not_agreed_on)
{
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    driver_start(&driver, ONE_PAIR, 3, 64);
    byte_writer_init(&w);
    card->ops->quiesce(card);
    card->ops->save(card, &w);
    ck_assert_uint_eq(bytes_get_u16(w.data + w.length - 2), 1); // the last field
    bytes_put_u16(w.data + w.length - 2, 2);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_int_lt(card->ops->load(card, &r, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "pairs"));
    byte_writer_free(&w);
}
END_TEST

START_TEST(link_goes_down_and_up)
{
    uint8_t frame[HEADER + 64], got[256];
    driver_start(&driver, ONE_PAIR, 3, 64);
    offer(RX, 8, 2048);
    fill(frame, sizeof(frame), 1);
    virtio_net_set_link(card, false);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 6, 2) & 1, 0);
    network_sends(0, frame, sizeof(frame));
    transmit(TX, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, TX, NULL), 0);
    fake_machine_settle(&machine);
    ck_assert_int_eq(network_gets(0, got, sizeof(got), 0), -1);
    ck_assert_int_eq(driver_take_used(&driver, RX, NULL), -1);
    virtio_net_set_link(card, true);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 6, 2) & 1, 1);
    network_sends(0, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.received, 1);
    ck_assert_uint_eq(drops.sent, 1);
}
END_TEST

START_TEST(announcement_is_asked_for_and_acknowledged)
{
    driver_start(&driver, ONE_PAIR & ~NET_F_GUEST_ANNOUNCE, 3, 64);
    ck_assert(!virtio_net_announce(card));
    driver_start(&driver, ONE_PAIR, 3, 64);
    ck_assert(virtio_net_announce(card));
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 6, 2), 3);
    ck_assert_uint_eq(command(2, 3, 0, "", 0), 0);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 6, 2), 1);
}
END_TEST

// The host speaks for a guest that says nothing: a reverse ARP request with the card's address,
// also before a driver has come, but not over a link that is down.
START_TEST(announcement_for_the_guest)
{
    uint8_t frame[HEADER + 100];
    virtio_net_announce_for_guest(card);
    ck_assert_int_eq(recv(net.network_fds[0], frame, sizeof(frame), 0), HEADER + 60);
    ck_assert_mem_eq(frame + HEADER, "\xff\xff\xff\xff\xff\xff", 6);
    ck_assert_mem_eq(frame + HEADER + 6, mac, 6);
    ck_assert_mem_eq(frame + HEADER + 12, "\x80\x35\0\1\x08\0\6\4\0\3", 10);
    ck_assert_mem_eq(frame + HEADER + 22, mac, 6);
    ck_assert_mem_eq(frame + HEADER + 32, mac, 6);
    virtio_net_set_link(card, false);
    virtio_net_announce_for_guest(card);
    ck_assert_int_eq(recv(net.network_fds[0], frame, sizeof(frame), MSG_DONTWAIT), -1);
}
END_TEST

START_TEST(buffers_come_back_over_pause_and_state)
{
    uint8_t frame[HEADER + 64];
    struct byte_writer w;
    struct byte_reader r;
    struct error err = {0};
    driver_start(&driver, ALL, 2 * PAIRS + 1, 64);
    command(CONTROL, 4, 0, "\2\0", 2);
    command(CONTROL, 1, 1, "\2abcde", 6);
    offer(RX, 8, 2048);
    fill(frame, sizeof(frame), 5);
    network_sends(0, frame, sizeof(frame)); // makes the device pop buffers ahead
    ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    byte_writer_init(&w);
    card->ops->quiesce(card);
    card->ops->save(card, &w);
    card->ops->destroy(card);
    net.destroyed = false;
    make_device(&net.backend);
    byte_reader_init(&r, w.data, w.length);
    ck_assert_msg(card->ops->load(card, &r, &err) == 0, "%s", err.message);
    ck_assert_uint_eq(byte_reader_left(&r), 0);
    card->ops->resume(card);
    ck_assert(net.enabled[1]);
    ck_assert_uint_eq(fake_machine_read(&machine, driver.device + 1, 1), 'a');
    for (unsigned i = 0; i < 7; i++) { // all the others are still there
        network_sends(0, frame, sizeof(frame));
        ck_assert_int_ge(driver_wait_used(&driver, RX, NULL), 0);
    }
    byte_writer_free(&w);
}
END_TEST

START_TEST(broken_receive_ring_does_not_spin)
{
    uint8_t frame[HEADER + 64], got[256];
    driver_start(&driver, ONE_PAIR, 3, 64);
    const struct driver_segment s = {driver_alloc(&driver, 64, 64), 64};
    driver_add(&driver, RX, &s, 1, 0, false); // readable
    driver_kick(&driver, RX);
    ck_assert(driver_wait_vector(&driver, 0, DRIVER_TIMEOUT_MS));
    fill(frame, sizeof(frame), 1);
    network_sends(0, frame, sizeof(frame));
    fake_machine_settle(&machine);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    transmit(TX, frame, sizeof(frame)); // sending goes on
    ck_assert_int_eq(network_gets(0, got, sizeof(got), DRIVER_TIMEOUT_MS), sizeof(frame));
    poll(NULL, 0, 300);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    ck_assert_int_lt(used, 150000000); // of 300 ms, had it spun
    driver_reset(&driver);
}
END_TEST

START_TEST(addresses_are_persistent)
{
    uint8_t a[6], b[6], c[6], again[6];
    net_mac_derive("web", 0, a);
    net_mac_derive("web", 1, b);
    net_mac_derive("wec", 0, c);
    net_mac_derive("web", 0, again);
    ck_assert_mem_eq(a, again, 6);
    ck_assert_mem_ne(a, b, 6);
    ck_assert_mem_ne(a, c, 6);
    ck_assert_uint_eq(a[0] & 3, 2);
    // Never changes: a guest keeps its address over upgrades.
    static const uint8_t known[6] = {0x4a, 0x13, 0x35, 0x41, 0x2f, 0x34};
    ck_assert_mem_eq(a, known, 6);
}
END_TEST

// A real tap, in a network namespace of its own.

static bool make_namespace(void)
{
    return unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
}

// One that stays, as people make it.
static bool make_tap(bool queues)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (queues ? IFF_MULTI_QUEUE : 0)};
    strcpy(request.ifr_name, "ferrytap0");
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    bool made = fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 && ioctl(fd, TUNSETPERSIST, 1) == 0;
    close(fd);
    return made;
}

START_TEST(tap_carries_frames)
{
    struct error err = {0};
    int fds[PAIRS];
    struct net_backend *backend;
    if (!make_namespace() || !make_tap(_i > 0)) {
        printf("# a tap can't be made here: %s\n", strerror(errno));
        return;
    }
    ck_assert_msg(net_tap_open("ferrytap0", _i + 1, fds, &err) == 0, "%s", err.message);
    ck_assert_msg(net_tap_create(&backend, fds, _i + 1, net_tap_mtu("ferrytap0"), &err) == 0, "%s",
                  err.message);
    ck_assert_uint_eq(backend->mtu, 1500);
    ck_assert(backend->receive_offloads & NET_OFFLOAD_CHECKSUM);
    card->ops->destroy(card);
    make_device(backend);
    driver_open(&driver, &machine, SLOT);
    driver_start(&driver, ALL, (_i + 1) * 2 + 1, 64);
    offer(RX, 32, 2048);
    // Up: IPv6 then sends solicitations by itself.
    struct ifreq request = {.ifr_flags = IFF_UP};
    strcpy(request.ifr_name, "ferrytap0");
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    ck_assert_int_eq(ioctl(s, SIOCSIFFLAGS, &request), 0);
    // Out of the guest into the host: the interface counts it.
    uint8_t frame[HEADER + 60];
    fill(frame, sizeof(frame), 0);
    memset(frame + HEADER, 0xff, 6);
    transmit(TX, frame, sizeof(frame));
    ck_assert_int_ge(driver_wait_used(&driver, TX, NULL), 0);
    struct virtio_net_drops drops;
    virtio_net_drops(card, &drops);
    ck_assert_uint_eq(drops.sent, 0);
    // Out of the host into the guest, by a packet socket.
    uint32_t length;
    int p = socket(AF_PACKET, SOCK_RAW, 0);
    struct {
        unsigned short family, protocol;
        int index;
        unsigned short hatype;
        unsigned char pkttype, halen;
        unsigned char address[8];
    } address = {.family = AF_PACKET, .index = (int)if_nametoindex("ferrytap0")};
    ck_assert_int_eq(sendto(p, frame + HEADER, 60, 0, (struct sockaddr *)&address, sizeof(address)),
                     60);
    ck_assert_int_ge(driver_wait_used(&driver, RX, &length), 0);
    close(p);
    close(s);
    net.destroyed = true; // the backend of this test is another one
}
END_TEST

START_TEST(tap_errors_say_what_to_do)
{
    struct error err = {0};
    struct net_backend *backend;
    int fds[16];
    ck_assert_int_lt(net_tap_open("", 1, fds, &err), 0);
    ck_assert_int_lt(net_tap_open("a-name-that-is-too-long", 1, fds, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "a-name-that-is-too-long"));
    ck_assert_int_lt(net_tap_open("x", 0, fds, &err), 0);
    // A wrong name makes none.
    ck_assert_int_eq(net_tap_open("ferrytypo", 1, fds, &err), -ENODEV);
    ck_assert_ptr_nonnull(strstr(err.message, "no such interface"));
    ck_assert_uint_eq(if_nametoindex("ferrytypo"), 0);
    fds[0] = open("/dev/null", O_RDWR);
    ck_assert_int_lt(net_tap_create(&backend, fds, 1, 0, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "no tap"));
    close(fds[0]);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *s = suite_create("virtio-net");
    TCase *t = tcase_create("card");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, frames_go_out);
    tcase_add_test(t, bad_frames_are_dropped);
    tcase_add_loop_test(t, frames_come_in, 0, 2);
    tcase_add_test(t, received_headers_fit_the_features);
    tcase_add_test(t, large_frames_are_spread_over_buffers);
    tcase_add_test(t, frames_wait_for_buffers);
    tcase_add_test(t, large_frames_wait_for_more_buffers);
    tcase_add_loop_test(t, frames_that_never_fit_are_dropped, 0, 2);
    tcase_add_test(t, received_bytes_are_marked);
    tcase_add_test(t, dropped_bytes_are_marked);
    tcase_add_test(t, offloads_follow_the_features);
    tcase_add_test(t, features_that_need_others);
    tcase_add_test(t, failed_start_needs_reset);
    tcase_add_test(t, control_commands);
    tcase_add_test(t, limits_hold_frames_back);
    tcase_add_test(t, several_pairs);
    tcase_add_test(t, setting_pairs_keeps_a_waiting_receiver);
    tcase_add_test(t, state_with_pairs_that_were_not_agreed_on);
    tcase_add_test(t, link_goes_down_and_up);
    tcase_add_test(t, announcement_is_asked_for_and_acknowledged);
    tcase_add_test(t, announcement_for_the_guest);
    tcase_add_test(t, buffers_come_back_over_pause_and_state);
    tcase_add_test(t, broken_receive_ring_does_not_spin);
    tcase_add_test(t, addresses_are_persistent);
    tcase_add_loop_test(t, tap_carries_frames, 0, PAIRS);
    tcase_add_test(t, tap_errors_say_what_to_do);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    return run_suite(make_suite());
}
