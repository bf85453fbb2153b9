#include "tests/unit/virtio_fuzzer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_balloon.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_console.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_rng.h"
#include "devices/virtio/virtio_vsock_parts.h"
#include "tests/unit/fake_block.h"
#include "tests/unit/fake_net.h"
#include "tests/unit/virtio_driver.h"

enum {
    RAM_SIZE = 4 << 20,
    SLOT = 2,
    DISK_SIZE = 64 * 1024,
    NET_PAIRS = 2,
    OPERATIONS_LIMIT = 300,
    USED_RAM = 0x200000, // what driver_alloc() gives for this slot begins here
    DATA = 0x300000,     // for buffers
};

static struct fake_machine machine;
static struct fake_block disk;
static struct fake_net net;
static struct virtio_driver driver;
static struct device *device;
static enum virtio_fuzz_kind kind;
static size_t sink_room;
static struct sockaddr_un vsock_address;
static socklen_t vsock_size;
static int vsock_connector, vsock_client = -1;
static struct byte_reader input;

static size_t console_output(void *opaque, const void *bytes, size_t length)
{
    size_t taken = length < sink_room ? length : sink_room;
    volatile uint8_t sum = 0; // touches each byte, so that ASan sees it
    for (size_t i = 0; i < taken; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    sink_room -= taken;
    return taken;
}

// Its listener and connector are socket pairs: the other ends are use_other_side()'s.
static int make_vsock(const struct virtio_environment *env)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX}; // autobind: a name that nobody has
    int ends[2], listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    vsock_size = sizeof(vsock_address);
    if (bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
        listen(listener, 8) < 0 ||
        getsockname(listener, (struct sockaddr *)&vsock_address, &vsock_size) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        abort();
    vsock_connector = ends[0];
    const struct virtio_vsock_config config = {
        .cid = 3, .listen_fd = listener, .connector_fd = ends[1]};
    return virtio_vsock_create(&device, env, &config, NULL);
}

static void use_vsock(uint8_t what, uint16_t amount)
{
    static const char line[] = "CONNECT 7\n";
    static uint8_t bytes[65536];
    if ((what & 3) == 0 && vsock_client < 0) {
        vsock_client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(vsock_client, (struct sockaddr *)&vsock_address, vsock_size) == 0)
            send(vsock_client, line, amount & 1 ? sizeof(line) - 1 : amount % sizeof(line),
                 MSG_NOSIGNAL);
    } else if ((what & 3) == 1) {
        send(vsock_client, bytes, amount, MSG_NOSIGNAL | MSG_DONTWAIT);
    } else if ((what & 3) == 2) {
        struct virtio_vsock_connect request;
        if (recv(vsock_connector, &request, sizeof(request), MSG_DONTWAIT) > 0) {
            const struct virtio_vsock_connected answer = {.id = request.id, .error = 1};
            send(vsock_connector, &answer, sizeof(answer) - (what & 4 ? 1 : 0), MSG_NOSIGNAL);
        }
    } else if (vsock_client >= 0) {
        if (what & 4)
            while (recv(vsock_client, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
                ;
        close(vsock_client);
        vsock_client = -1;
    }
    fake_machine_settle(&machine);
}

static void make_device(void)
{
    const struct virtio_environment env = {.machine = &machine.bus,
                                           .pci = &machine.pci,
                                           .io_thread = machine.thread,
                                           .id = "fuzzed",
                                           .slot = SLOT};
    const struct virtio_blk_config blk = {.backend = &disk.backend, .queues = 2};
    const struct virtio_net_config card = {.backend = &net.backend, .mac = {2, 0, 0, 0, 0, 1}};
    const struct virtio_console_config console = {.output = console_output};
    int rc = -1;
    switch (kind) {
    case FUZZ_BLK:
        fake_block_init(&disk, DISK_SIZE);
        rc = virtio_blk_create(&device, &env, &blk, NULL);
        break;
    case FUZZ_NET:
        fake_net_init(&net, NET_PAIRS);
        rc = virtio_net_create(&device, &env, &card, NULL);
        break;
    case FUZZ_CONSOLE:
        sink_room = 1000;
        rc = virtio_console_create(&device, &env, &console, NULL);
        break;
    case FUZZ_RNG:
        rc = virtio_rng_create(&device, &env, NULL);
        break;
    case FUZZ_VSOCK:
        rc = make_vsock(&env);
        break;
    case FUZZ_BALLOON:
        rc = virtio_balloon_create(&device, &env, &(struct virtio_balloon_config){0}, NULL);
        break;
    }
    if (rc < 0 || pci_bus_assign(&machine.pci, NULL) < 0)
        abort();
    device->ops->reset(device);
    driver_open(&driver, &machine, SLOT);
}

static void destroy_device(void)
{
    device->ops->destroy(device);
    bus_reclaim(&machine.mmio);
    if (kind == FUZZ_VSOCK) {
        close(vsock_connector);
        if (vsock_client >= 0)
            close(vsock_client);
        vsock_client = -1;
    }
    if (kind == FUZZ_BLK)
        fake_block_free(&disk);
    if (kind == FUZZ_NET)
        fake_net_free(&net);
}

// From whatever state to running queues, as a driver would.
static void set_up_driver(void)
{
    fake_machine_config_write(&machine, SLOT, 0x10, 4, (uint32_t)driver.bar);
    fake_machine_config_write(&machine, SLOT, 4, 2, 6);
    driver.allocated = USED_RAM + 0x10000;
    uint64_t wanted = byte_reader_u64(&input) | VIRTIO_F_VERSION_1;
    if (!driver_negotiate(&driver, wanted) &&
        !driver_negotiate(&driver, VIRTIO_F_VERSION_1 | VIRTIO_TRANSPORT_FEATURES))
        abort(); // these are always right
    uint8_t sizes = byte_reader_u8(&input);
    for (unsigned i = 0; i < virtio_device_queue_count(device); i++)
        if (i < 5)
            driver_queue_setup(&driver, i, (uint16_t)(1u << (sizes + i * 3u) % 7));
    driver_ok(&driver);
}

static struct driver_queue *pick_queue(void)
{
    return &driver.queues[byte_reader_u8(&input) % virtio_device_queue_count(device) % 5];
}

// An address: mostly somewhere in the data area, sometimes anything at all.
static uint64_t pick_address(uint8_t how)
{
    switch (how & 7) {
    case 0:
        return byte_reader_u64(&input);
    case 1:
        return RAM_SIZE - byte_reader_u8(&input);
    case 2:
        return USED_RAM + 0x10000 + byte_reader_u16(&input); // the rings themselves
    default:
        return DATA + byte_reader_u16(&input);
    }
}

static void put_descriptor(struct driver_queue *q)
{
    uint8_t how = byte_reader_u8(&input);
    uint64_t table = how & 0x80 ? DATA : q->descriptors;
    uint8_t *p = driver_hva(&driver, table + 16 * (how & 0x70) / 16 % (q->size ? q->size : 1));
    if (!q->size)
        return;
    bytes_put_u64(p, how & 8 ? DATA : pick_address(how)); // DATA: where indirect tables are
    bytes_put_u32(p + 8, how & 8 ? 16 * (byte_reader_u8(&input) % 10u)
                                 : byte_reader_u16(&input) * (how & 0x10 ? 0x10001u : 1u));
    bytes_put_u16(p + 12, byte_reader_u8(&input) & 7);
    bytes_put_u16(p + 14, byte_reader_u8(&input) % (q->size + 1u));
}

static void make_available(struct driver_queue *q)
{
    if (!q->size)
        return;
    uint8_t head = byte_reader_u8(&input);
    uint8_t *available = driver_hva(&driver, q->available);
    bytes_put_u16(available + 4 + 2 * (q->available_index % q->size),
                  head % (q->size + (head == 0xff)));
    bytes_put_u16(available + 2, ++q->available_index);
}

// A vsock packet that fits a connection, mostly.
static void put_packet(uint8_t *p)
{
    uint8_t how = byte_reader_u8(&input);
    bytes_put_u64(p, how & 1 ? byte_reader_u8(&input) : 3);
    bytes_put_u64(p + 8, 2);
    bytes_put_u32(p + 16, 7);
    bytes_put_u32(p + 20, how & 2 ? 80 : (1u << 30) + 1 + byte_reader_u8(&input) % 8);
    bytes_put_u32(p + 24, how & 4 ? byte_reader_u16(&input) : 0);
    bytes_put_u16(p + 28, how & 8 ? byte_reader_u8(&input) : 1);
    bytes_put_u16(p + 30, byte_reader_u8(&input) % 9);
    bytes_put_u32(p + 32, byte_reader_u8(&input) % 4);
    bytes_put_u32(p + 36, byte_reader_u16(&input));
    bytes_put_u32(p + 40, how & 16 ? byte_reader_u32(&input) : 0);
}

// A request that a driver could make: segments of the sizes that devices look for.
static void add_request(unsigned queue)
{
    static const uint32_t lengths[] = {1, 2, 6, 12, 16, 20, 64, 512, 1024, 1536, 4096, 65535};
    uint8_t counts = byte_reader_u8(&input);
    unsigned out = counts & 3, in = counts >> 2 & 3;
    struct driver_segment segments[6];
    if (out + in == 0)
        return;
    for (unsigned i = 0; i < out + in; i++)
        segments[i] = (struct driver_segment){
            .gpa = DATA + 0x1000 * (byte_reader_u8(&input) % 64),
            .length = lengths[byte_reader_u8(&input) % (sizeof(lengths) / sizeof(lengths[0]))]};
    if (out > 0 && kind == FUZZ_BLK) {
        uint8_t *header = driver_hva(&driver, segments[0].gpa);
        bytes_put_u32(header, byte_reader_u8(&input) % 16);
        bytes_put_u64(header + 8, counts & 0x40 ? byte_reader_u64(&input) : byte_reader_u8(&input));
    } else if (out > 0 && kind == FUZZ_VSOCK) {
        put_packet(driver_hva(&driver, segments[0].gpa));
    } else if (out > 0) {
        uint8_t *header = driver_hva(&driver, segments[0].gpa);
        for (unsigned i = 0; i < 4; i++)
            header[i] = byte_reader_u8(&input) % 8;
    }
    if (driver.queues[queue].size)
        driver_add(&driver, queue, segments, out, in, counts & 0x80);
}

// Those of the largest rates never bind, those of the smallest leave the rest of the input waiting.
static struct rate_limits limits_of(uint8_t what, uint16_t amount)
{
    return (struct rate_limits){.bytes_per_second = what & 16 ? (uint64_t)amount << 8 : 0,
                                .operations_per_second = what & 32 ? amount : 0,
                                .burst_ns = 1000000};
}

static void use_other_side(void)
{
    static uint8_t frame[NET_HEADER_SIZE + NET_FRAME_LIMIT];
    uint8_t what = byte_reader_u8(&input);
    uint16_t amount = byte_reader_u16(&input);
    const struct rate_limits limits = limits_of(what, amount);
    switch (kind) {
    case FUZZ_BLK:
        if (what & 64)
            virtio_blk_set_limits(device, &limits);
        disk.hold = what & 1;
        disk.failure = what & 2 ? -(int)(amount % 100) : 0;
        if (what & 4)
            io_thread_call(machine.thread, fake_block_release, &disk);
        if (what & 8)
            virtio_blk_refresh_size(device, NULL);
        break;
    case FUZZ_NET:
        if (what & 64)
            virtio_net_set_limits(device, &limits);
        if (what & 1)
            virtio_net_set_link(device, what & 2);
        if (what & 4)
            virtio_net_announce(device);
        send(net.network_fds[what >> 3 & 1], frame, amount, MSG_DONTWAIT);
        break;
    case FUZZ_CONSOLE:
        virtio_console_input(device, frame, amount);
        fake_machine_settle(&machine);
        sink_room = what & 1 ? amount : sink_room;
        virtio_console_room(device);
        if (what & 2)
            virtio_console_resize(device, amount, what);
        break;
    case FUZZ_RNG:
        break;
    case FUZZ_VSOCK:
        use_vsock(what, amount);
        break;
    case FUZZ_BALLOON:
        if (what & 1)
            virtio_balloon_set_target(device, (uint64_t)amount << 12);
        if (what & 2)
            virtio_balloon_ask_statistics(device);
        break;
    }
}

// Pause, save, perhaps damage, load, go on.
static void move_state(void)
{
    struct byte_writer w;
    struct byte_reader r;
    struct error err;
    uint8_t how = byte_reader_u8(&input);
    byte_writer_init(&w);
    device->ops->quiesce(device);
    device->ops->save(device, &w);
    if (how & 1)
        w.data[byte_reader_u16(&input) % w.length] = byte_reader_u8(&input);
    else if (how & 2)
        w.data[w.length - 1 - byte_reader_u16(&input) % w.length % 2000] = byte_reader_u8(&input);
    byte_reader_init(&r, w.data, how & 4 ? byte_reader_u16(&input) % w.length : w.length);
    if (device->ops->load(device, &r, &err) < 0) {
        if (!(how & 7))
            abort(); // what was saved can be loaded
        device->ops->reset(device);
    }
    device->ops->resume(device);
    byte_writer_free(&w);
}

static void operate(void)
{
    struct driver_queue *q = pick_queue();
    unsigned queue = (unsigned)(q - driver.queues);
    uint16_t offset;
    switch (byte_reader_u8(&input) % 14) {
    case 0:
    case 1:
        put_descriptor(q);
        break;
    case 2:
        make_available(q);
        break;
    case 3:
    case 4:
        add_request(queue);
        break;
    case 5:
    case 6:
        fake_machine_write(&machine, driver.notify + 4 * queue, 2, queue);
        fake_machine_settle(&machine);
        while (q->size && driver.queues[queue].last_used !=
                              bytes_get_u16((uint8_t *)driver_hva(&driver, q->used) + 2))
            driver.queues[queue].last_used++;
        break;
    case 7: // the rings, byte by byte
        *((uint8_t *)driver_hva(&driver, USED_RAM + 0x10000) + byte_reader_u16(&input) % 0x4000) =
            byte_reader_u8(&input);
        break;
    case 8:
        offset = byte_reader_u8(&input) % 0x40;
        driver_write(&driver, offset, 1u << (byte_reader_u8(&input) % 4), byte_reader_u32(&input));
        break;
    case 9:
        offset = byte_reader_u16(&input) % (VIRTIO_BAR_SIZE - 8);
        if (byte_reader_u8(&input) & 1)
            fake_machine_write(&machine, driver.bar + offset, 1u << (offset % 4),
                               byte_reader_u64(&input));
        else
            fake_machine_read(&machine, driver.bar + offset, 1u << (offset % 4));
        break;
    case 10:
        offset = byte_reader_u16(&input) % 256;
        if (offset & 1)
            fake_machine_config_read(&machine, SLOT, offset, 1u << (offset / 2 % 3));
        else
            fake_machine_config_write(&machine, SLOT, offset, 1u << (byte_reader_u8(&input) % 3),
                                      byte_reader_u32(&input));
        break;
    case 11:
        use_other_side();
        break;
    case 12:
        move_state();
        break;
    case 13:
        set_up_driver();
        break;
    }
}

int virtio_fuzz_run(enum virtio_fuzz_kind which, const uint8_t *data, size_t size)
{
    if (!machine.thread) {
        log_open(-1, LOG_LEVEL_ERROR);
        fake_machine_init(&machine, RAM_SIZE);
    }
    kind = which;
    memset(machine.ram + USED_RAM, 0, RAM_SIZE - USED_RAM);
    byte_reader_init(&input, data, size);
    make_device();
    set_up_driver();
    for (unsigned n = 0; n < OPERATIONS_LIMIT && byte_reader_left(&input) > 0; n++)
        operate();
    fake_machine_settle(&machine);
    destroy_device();
    if (machine.doorbell_count != 0)
        abort();
    return 0;
}
