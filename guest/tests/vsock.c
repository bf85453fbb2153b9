// vsock: sends every byte back that a host's client of port= (7) sends, until one connects to
// port + 1. connect=PORT first connects to that port of the host, sends a line and waits for one.
// When the device says that its connections are gone (the machine was moved or restored), it says
// so too, connects to PORT once more, and goes on.
#include "guest/drivers/virtio.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    REQUEST = 1,
    RESPONSE = 2,
    RST = 3,
    SHUTDOWN = 4,
    RW = 5,
    CREDIT_UPDATE = 6,
    CREDIT_REQUEST = 7,
    HOST_CID = 2,
    HEADER = 44,
    BUFFER = 4096, // header and data
    BUFFERS = 32,
    OWN_PORT = 5000,     // of the connection that the guest makes
    TRANSPORT_RESET = 0, // 5.10.6.7
    NO_SEND = 2,
    ALL = 3,
};

// 5.10.6
struct __attribute__((packed)) header {
    uint64_t source_cid, destination_cid;
    uint32_t source_port, destination_port, size;
    uint16_t type, operation;
    uint32_t flags, room, forwarded;
};

struct packet {
    struct header header;
    uint8_t data[BUFFER - HEADER];
};
_Static_assert(sizeof(struct packet) == BUFFER, "virtio 1.2, 5.10.6");

static struct virtio_device device;
static struct virtqueue receive, transmit, events;
static uint64_t cid;
// The one connection there is at a time.
static uint32_t host_port, own_port, host_room, host_forwarded, sent, forwarded;
static bool open, host_ended;
static uint64_t echoed, connections;
static uint32_t event;
static bool reset_seen; // since somebody looked
// Packets to be sent back, in order; their buffers are given to the device again afterwards.
static struct packet *waiting[BUFFERS];
static unsigned waiting_start, waiting_count;

static void offer(struct packet *packet)
{
    struct virtqueue_buffer buffer = {packet, BUFFER, true};
    virtqueue_add(&receive, &buffer, 1, packet);
    virtqueue_kick(&receive);
}

static void send_packet(uint16_t operation, uint32_t flags, const void *data, uint32_t size)
{
    static struct header header;
    void *token;
    header = (struct header){
        .source_cid = cid,
        .destination_cid = HOST_CID,
        .source_port = own_port,
        .destination_port = host_port,
        .size = size,
        .type = 1,
        .operation = operation,
        .flags = flags,
        .room = BUFFERS / 2 * BUFFER,
        .forwarded = forwarded,
    };
    struct virtqueue_buffer buffers[2] = {{&header, HEADER, false}, {(void *)data, size, false}};
    virtqueue_add(&transmit, buffers, size ? 2 : 1, &header);
    virtqueue_kick(&transmit);
    while (!virtqueue_take(&transmit, &token, NULL))
        virtqueue_wait(&transmit, 0);
}

static void echo_what_fits(void)
{
    while (waiting_count) {
        struct packet *packet = waiting[waiting_start];
        uint32_t size = packet->header.size;
        if (open && host_room - (sent - host_forwarded) < size)
            return; // the host has to make room first
        forwarded += size;
        if (open)
            send_packet(RW, 0, packet->data, size);
        sent += size;
        echoed += size;
        waiting_start = (waiting_start + 1) % BUFFERS;
        waiting_count--;
        offer(packet);
    }
    if (host_ended && open) {
        send_packet(SHUTDOWN, ALL, 0, 0);
        host_ended = false;
    }
}

static void event_offer(void)
{
    struct virtqueue_buffer buffer = {&event, sizeof(event), true};
    event = ~0u;
    virtqueue_add(&events, &buffer, 1, &event);
    virtqueue_kick(&events);
}

// All connections are gone; the address may be another one.
static void connections_forget(void)
{
    console_line("vsock reset open=%u", open);
    open = host_ended = false;
    virtio_config_read(&device, 0, &cid, sizeof(cid));
    reset_seen = true;
}

static void events_serve(void)
{
    void *token;
    while (virtqueue_take(&events, &token, NULL)) {
        if (event == TRANSPORT_RESET)
            connections_forget();
        else
            console_line("vsock event=%u", event);
        event_offer();
    }
}

static void connection_begin(const struct header *h)
{
    host_port = h->source_port;
    own_port = h->destination_port;
    sent = forwarded = 0;
    open = true;
    connections++;
}

static void packet_take(struct packet *packet)
{
    const struct header *h = &packet->header;
    bool known = open && h->source_port == host_port && h->destination_port == own_port;
    if (h->operation == REQUEST && !open) {
        connection_begin(h);
        send_packet(RESPONSE, 0, 0, 0);
        known = true;
    }
    if (known) {
        host_room = h->room;
        host_forwarded = h->forwarded;
    }
    if (known && h->operation == RW) {
        waiting[(waiting_start + waiting_count++) % BUFFERS] = packet;
        return;
    }
    if (known && h->operation == CREDIT_REQUEST)
        send_packet(CREDIT_UPDATE, 0, 0, 0);
    if (known && h->operation == SHUTDOWN)
        host_ended = true;
    if (known && h->operation == RST)
        open = false;
    offer(packet);
}

// One packet or event.
static void packets_serve(void)
{
    void *token;
    while (!virtqueue_take(&receive, &token, NULL)) {
        if (virtqueue_has_used(&events)) {
            events_serve();
            echo_what_fits(); // gives the buffers of the lost connection back
            return;
        }
        // Not for ever: an event may have come just before.
        virtqueue_wait(&receive, time_tsc() + time_ns_to_tsc(20000000));
    }
    // Whatever came in the meantime came behind the event.
    events_serve();
    packet_take(token);
    echo_what_fits();
}

static bool host_connect(uint32_t port)
{
    void *token;
    host_port = port;
    own_port = OWN_PORT;
    sent = forwarded = 0;
    send_packet(REQUEST, 0, 0, 0);
    while (!virtqueue_take(&receive, &token, NULL))
        virtqueue_wait(&receive, 0);
    const struct packet *packet = token;
    bool accepted = packet->header.operation == RESPONSE;
    console_line("vsock connect port=%u accepted=%u", port, accepted);
    if (accepted) {
        host_room = packet->header.room;
        open = true;
        send_packet(RW, 0, "hello from the guest\n", 21);
        sent = 21;
        send_packet(SHUTDOWN, NO_SEND, 0, 0);
    }
    offer(token);
    for (bool heard = false; accepted && !heard;) {
        while (!virtqueue_take(&receive, &token, NULL))
            virtqueue_wait(&receive, 0);
        struct packet *answer = token;
        heard = answer->header.operation == RW;
        if (heard)
            console_line("vsock answer=%u first=%c", answer->header.size, answer->data[0]);
        offer(answer);
    }
    if (open)
        send_packet(RST, 0, 0, 0);
    open = false;
    sent = 0;
    return accepted;
}

bool test_vsock(void)
{
    uint32_t port = (uint32_t)option_number("port", 7);
    uint32_t to = (uint32_t)option_number("connect", 0);
    cpu_start_all();
    struct packet *buffers = pages_allocate((uint64_t)BUFFERS * BUFFER, BUFFER);
    if (!buffers || !virtio_open(&device, VIRTIO_VSOCK, 0, 0) ||
        !virtqueue_open(&receive, &device, 0, 0) || !virtqueue_open(&transmit, &device, 1, 0) ||
        !virtqueue_open(&events, &device, 2, 0))
        return false;
    virtio_config_read(&device, 0, &cid, sizeof(cid));
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct virtqueue_buffer buffer = {&buffers[i], BUFFER, true};
        virtqueue_add(&receive, &buffer, 1, &buffers[i]);
    }
    virtio_ready(&device);
    virtqueue_kick(&receive);
    event_offer();
    bool passed = !to || host_connect(to);
    console_line("vsock ready cid=%lu", cid);
    // A connection to the next port ends it.
    while (!(open && own_port == port + 1)) {
        packets_serve();
        if (reset_seen && to && !open)
            host_connect(to);
        reset_seen = false;
    }
    send_packet(RST, 0, 0, 0);
    test_summary("connections=%lu bytes=%lu", connections, echoed);
    return passed && !virtio_needs_reset(&device);
}
