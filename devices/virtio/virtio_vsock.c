#include "devices/virtio/virtio_vsock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "devices/virtio/kinds.h"
#include "devices/virtio/virtio_vsock_parts.h"

enum {
    QUEUES = 3,
    QUEUE_SIZE = 128,
    TURN = 64, // packets: up to 4 MiB
    CONFIG_SIZE = 8,
    EVENT_TRANSPORT_RESET = 0,
    EVENT_SIZE = 4,
};

static struct vsock *from_virtio(struct virtio_device *d)
{
    return (struct vsock *)d; // its first member
}

static struct virtqueue *ring_of(struct vsock *v, unsigned queue)
{
    return virtio_device_ring(&v->virtio, queue);
}

// Headers (5.10.6)

static void get_header(const uint8_t *p, struct vsock_header *h)
{
    *h = (struct vsock_header){
        .source_cid = bytes_get_u64(p),
        .destination_cid = bytes_get_u64(p + 8),
        .source_port = bytes_get_u32(p + 16),
        .destination_port = bytes_get_u32(p + 20),
        .length = bytes_get_u32(p + 24),
        .type = bytes_get_u16(p + 28),
        .operation = bytes_get_u16(p + 30),
        .flags = bytes_get_u32(p + 32),
        .buffer = bytes_get_u32(p + 36),
        .forwarded = bytes_get_u32(p + 40),
    };
}

static void put_header(uint8_t *p, const struct vsock_header *h)
{
    bytes_put_u64(p, h->source_cid);
    bytes_put_u64(p + 8, h->destination_cid);
    bytes_put_u32(p + 16, h->source_port);
    bytes_put_u32(p + 20, h->destination_port);
    bytes_put_u32(p + 24, h->length);
    bytes_put_u16(p + 28, h->type);
    bytes_put_u16(p + 30, h->operation);
    bytes_put_u32(p + 32, h->flags);
    bytes_put_u32(p + 36, h->buffer);
    bytes_put_u32(p + 40, h->forwarded);
}

// Towards the guest

uint32_t vsock_credit(const struct vsock_connection *c)
{
    // Counters of bytes wrap (5.10.6.3). A guest that takes back what it offered has no credit.
    uint32_t in_flight = c->sent - c->guest_forwarded;
    return in_flight < c->guest_buffer ? c->guest_buffer - in_flight : 0;
}

static bool has_data(const struct vsock_connection *c)
{
    return c->state == VSOCK_OPEN && c->readable && !c->host_ended &&
           !(c->guest_shutdown & VSOCK_NO_RECEIVE);
}

void vsock_make_ready(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    if (c->is_ready)
        return;
    c->is_ready = true;
    c->next_ready = NULL;
    *v->ready_end = c;
    v->ready_end = &c->next_ready;
}

void vsock_tell(struct vsock_connection *c, enum vsock_operation operation)
{
    c->tell |= (uint8_t)(1u << operation);
    vsock_make_ready(c);
}

static struct vsock_connection *take_ready(struct vsock *v)
{
    struct vsock_connection *c = v->ready;
    v->ready = c->next_ready;
    if (!v->ready)
        v->ready_end = &v->ready;
    c->is_ready = false;
    return c;
}

// Writes the header of a packet for the guest into v->chain and gives the chain back, with
// `length` bytes of payload behind the header.
static void deliver(struct vsock *v, struct vsock_header *h, uint32_t length)
{
    uint8_t bytes[VSOCK_HEADER_SIZE];
    h->source_cid = VIRTIO_VSOCK_HOST_CID;
    h->destination_cid = v->cid;
    h->type = VSOCK_TYPE_STREAM;
    h->length = length;
    put_header(bytes, h);
    virtqueue_chain_write(&v->chain, 0, bytes, sizeof(bytes));
    virtqueue_push(ring_of(v, VSOCK_RECEIVE), &v->chain, VSOCK_HEADER_SIZE + length);
    virtio_queue_count_bytes(&v->virtio.queues[VSOCK_RECEIVE], length);
}

static void deliver_for(struct vsock_connection *c, enum vsock_operation operation, uint32_t flags,
                        uint32_t length)
{
    struct vsock_header h = {
        .source_port = c->host_port,
        .destination_port = c->guest_port,
        .operation = (uint16_t)operation,
        .flags = flags,
        .buffer = VSOCK_BUFFER,
        .forwarded = c->forwarded,
    };
    c->forwarded_told = c->forwarded;
    c->tell &= (uint8_t) ~(1u << VSOCK_CREDIT_UPDATE | 1u << operation);
    deliver(c->vsock, &h, length);
}

// Reads from the host's socket into v->chain and delivers it. False when there was nothing, and the
// chain is still the caller's.
static bool deliver_data(struct vsock_connection *c)
{
    struct vsock *v = c->vsock;
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT];
    size_t room = v->chain.in_bytes - VSOCK_HEADER_SIZE;
    uint32_t credit = vsock_credit(c);
    room = room < credit ? room : credit;
    room = room < VSOCK_PACKET ? room : VSOCK_PACKET;
    unsigned count = virtqueue_chain_slice(&v->chain, true, VSOCK_HEADER_SIZE, room, iov);
    ssize_t n;
    do
        n = readv(c->fd, iov, (int)count);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        c->sent += (uint32_t)n;
        deliver_for(c, VSOCK_RW, 0, (uint32_t)n);
        return true;
    }
    c->readable = false;
    if (n == 0) {
        c->host_ended = true;
        vsock_tell(c, VSOCK_SHUTDOWN);
    } else if (errno != EAGAIN) {
        vsock_tell(c, VSOCK_RST);
    }
    return false;
}

// One packet of the connection into v->chain. False when it had none after all. The connection may
// be gone afterwards.
static bool deliver_next(struct vsock_connection *c)
{
    static const enum vsock_operation before_data[] = {VSOCK_REQUEST, VSOCK_RESPONSE};
    if (c->tell >> VSOCK_RST & 1) {
        deliver_for(c, VSOCK_RST, 0, 0);
        vsock_connection_free(c);
        return true;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (c->tell >> before_data[i] & 1) {
            deliver_for(c, before_data[i], 0, 0);
            return true;
        }
    }
    if (has_data(c) && vsock_credit(c) > 0 && c->vsock->chain.in_bytes > VSOCK_HEADER_SIZE &&
        deliver_data(c))
        return true;
    if (c->tell >> VSOCK_RST & 1)
        return false; // comes next
    if (has_data(c) && vsock_credit(c) == 0 && !c->asked_credit) {
        c->asked_credit = true;
        deliver_for(c, VSOCK_CREDIT_REQUEST, 0, 0);
        return true;
    }
    if (c->tell >> VSOCK_SHUTDOWN & 1) {
        deliver_for(c, VSOCK_SHUTDOWN, VSOCK_NO_SEND, 0);
        return true;
    }
    if (c->tell >> VSOCK_CREDIT_UPDATE & 1) {
        deliver_for(c, VSOCK_CREDIT_UPDATE, 0, 0);
        return true;
    }
    return false;
}

static bool has_something(const struct vsock_connection *c)
{
    return c->tell || (has_data(c) && (vsock_credit(c) > 0 || !c->asked_credit));
}

// A buffer of the guest for the next packet. False when there is none.
static bool pop_buffer(struct vsock *v)
{
    struct virtqueue *ring = ring_of(v, VSOCK_RECEIVE);
    bool again;
    if (!virtqueue_next(ring, &v->chain, &again))
        return false;
    if (v->chain.in_bytes > VSOCK_HEADER_SIZE)
        return true;
    virtqueue_rewind(ring, 1);
    virtqueue_break(ring, "a receive buffer without room for data");
    return false;
}

static void deliver_reset(struct vsock *v)
{
    struct vsock_header h = {.source_port = v->resets[v->reset_start].host_port,
                             .destination_port = v->resets[v->reset_start].guest_port,
                             .operation = VSOCK_RST};
    v->reset_start = (v->reset_start + 1) % VSOCK_RESETS;
    v->reset_count--;
    deliver(v, &h, 0);
}

// The event that connections are gone (5.10.6.7), as soon as the guest has room for it.
static void serve_event(struct vsock *v)
{
    struct virtqueue *ring = ring_of(v, VSOCK_EVENT);
    uint8_t event[EVENT_SIZE];
    if (!v->reset_event_due || !ring->enabled || virtqueue_pop(ring, &v->chain) <= 0)
        return;
    if (v->chain.in_bytes < EVENT_SIZE) {
        virtqueue_rewind(ring, 1);
        virtqueue_break(ring, "an event buffer without room");
        return;
    }
    bytes_put_u32(event, EVENT_TRANSPORT_RESET);
    virtqueue_chain_write(&v->chain, 0, event, sizeof(event));
    virtqueue_push(ring, &v->chain, sizeof(event));
    virtqueue_publish(ring);
    v->reset_event_due = false;
}

bool vsock_serve_receive(struct vsock *v)
{
    struct virtqueue *ring = ring_of(v, VSOCK_RECEIVE);
    unsigned n = 0;
    if (!v->virtio.features || !ring->enabled)
        return false;
    // Before the first packet of a new connection, which the guest would take for one of the old.
    serve_event(v);
    bool waited = v->reset_count == VSOCK_RESETS;
    virtqueue_kicks_off(ring);
    for (; n < TURN && (v->reset_count || v->ready); n++) {
        if (!pop_buffer(v))
            break;
        if (v->reset_count) {
            deliver_reset(v);
            continue;
        }
        struct vsock_connection *c = take_ready(v);
        uint32_t host_port = c->host_port, guest_port = c->guest_port;
        if (!deliver_next(c))
            virtqueue_rewind(ring, 1);
        c = vsock_connection_find(v, host_port, guest_port); // it may be gone
        if (!c)
            continue;
        if (has_something(c))
            vsock_make_ready(c); // behind the others
        if (vsock_connection_watch(c) < 0)
            vsock_tell(c, VSOCK_RST);
    }
    virtqueue_publish(ring);
    // The guest was kept from sending while its answers had no room.
    if (waited && v->reset_count < VSOCK_RESETS)
        virtio_queue_ring(&v->virtio.queues[VSOCK_TRANSMIT]);
    return n == TURN;
}

// From the guest

static void refuse(struct vsock *v, const struct vsock_header *h)
{
    unsigned at = (v->reset_start + v->reset_count) % VSOCK_RESETS;
    assert(v->reset_count < VSOCK_RESETS); // nothing is taken from the guest before there is room
    v->resets[at].host_port = h->destination_port;
    v->resets[at].guest_port = h->source_port;
    v->reset_count++;
}

static void on_request(struct vsock *v, const struct vsock_header *h)
{
    struct vsock_connection *c =
        vsock_connection_new(v, VSOCK_CONNECTING, -1, h->destination_port, h->source_port);
    if (!c) {
        refuse(v, h);
        return;
    }
    c->guest_buffer = h->buffer;
    c->guest_forwarded = h->forwarded;
    if (!vsock_host_connect(c)) {
        vsock_connection_free(c);
        refuse(v, h);
    }
}

static void on_data(struct vsock_connection *c, const struct vsock_header *h)
{
    struct vsock *v = c->vsock;
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT];
    // More than it was allowed to send, or after it said that it won't.
    if (c->state != VSOCK_OPEN || (c->guest_shutdown & VSOCK_NO_SEND) ||
        h->length > VSOCK_BUFFER - c->kept_length) {
        vsock_tell(c, VSOCK_RST);
        return;
    }
    unsigned count = virtqueue_chain_slice(&v->chain, false, VSOCK_HEADER_SIZE, h->length, iov);
    virtio_queue_count_bytes(&v->virtio.queues[VSOCK_TRANSMIT], h->length);
    if (!vsock_host_send(c, iov, count, h->length))
        vsock_tell(c, VSOCK_RST);
}

static void on_packet(struct vsock_connection *c, const struct vsock_header *h)
{
    switch (h->operation) {
    case VSOCK_RESPONSE:
        if (c->state == VSOCK_ASKED)
            vsock_host_accepted(c);
        else
            vsock_tell(c, VSOCK_RST);
        break;
    case VSOCK_SHUTDOWN:
        c->guest_shutdown |= h->flags & (VSOCK_NO_RECEIVE | VSOCK_NO_SEND);
        vsock_host_shutdown(c);
        break;
    case VSOCK_RW:
        on_data(c, h);
        break;
    case VSOCK_CREDIT_UPDATE:
        break; // what each packet has
    case VSOCK_CREDIT_REQUEST:
        vsock_tell(c, VSOCK_CREDIT_UPDATE);
        break;
    default: // a second REQUEST, or nothing that is known
        vsock_tell(c, VSOCK_RST);
        break;
    }
}

// One packet of the guest in v->chain.
static void take_packet(struct vsock *v)
{
    uint8_t bytes[VSOCK_HEADER_SIZE];
    struct vsock_header h;
    if (virtqueue_chain_read(&v->chain, 0, bytes, sizeof(bytes)) < sizeof(bytes))
        return; // nobody could be answered
    get_header(bytes, &h);
    if (h.source_cid != v->cid || h.destination_cid != VIRTIO_VSOCK_HOST_CID)
        return; // 5.10.6.4.1: unknown addresses are dropped
    struct vsock_connection *c = vsock_connection_find(v, h.destination_port, h.source_port);
    if (c && c->state == VSOCK_GREETING)
        c = NULL; // the guest knows nothing of it yet
    if (h.operation == VSOCK_RST) {
        if (c)
            vsock_connection_free(c);
        return;
    }
    bool whole = h.length <= VSOCK_PACKET && h.length <= v->chain.out_bytes - VSOCK_HEADER_SIZE;
    if (h.type != VSOCK_TYPE_STREAM || (!whole && !c)) {
        refuse(v, &h);
    } else if (!whole) {
        vsock_tell(c, VSOCK_RST);
    } else if (c) {
        uint32_t before = vsock_credit(c);
        c->guest_buffer = h.buffer;
        c->guest_forwarded = h.forwarded;
        if (vsock_credit(c) > before)
            c->asked_credit = false;
        on_packet(c, &h);
        if (has_something(c))
            vsock_make_ready(c);
    } else if (h.operation == VSOCK_REQUEST) {
        on_request(v, &h);
    } else {
        refuse(v, &h);
    }
}

static bool serve_transmit(struct vsock *v)
{
    struct virtqueue *ring = ring_of(v, VSOCK_TRANSMIT);
    bool again = true;
    virtqueue_kicks_off(ring);
    for (unsigned n = 0; n < TURN; n++) {
        if (v->reset_count == VSOCK_RESETS) { // until the guest takes its answers
            again = false;
            break;
        }
        if (!virtqueue_next(ring, &v->chain, &again))
            break;
        take_packet(v); // answers are only noted: v->chain is in use
        virtqueue_push(ring, &v->chain, 0);
    }
    virtqueue_publish(ring);
    return again;
}

static bool vsock_serve(struct virtio_device *d, unsigned index)
{
    struct vsock *v = from_virtio(d);
    if (index == VSOCK_EVENT) {
        serve_event(v);
        return virtqueue_kicks_on(ring_of(v, VSOCK_EVENT)) && v->reset_event_due;
    }
    bool again = index == VSOCK_TRANSMIT && serve_transmit(v);
    if (vsock_serve_receive(v))
        virtio_queue_ring(&d->queues[VSOCK_RECEIVE]);
    return again;
}

// Life

static void drop_all(struct vsock *v)
{
    for (unsigned i = 0; i < VSOCK_BUCKETS; i++)
        while (v->buckets[i])
            vsock_connection_free(v->buckets[i]);
    v->reset_count = 0;
}

static int vsock_start(struct virtio_device *d)
{
    return vsock_host_start(from_virtio(d));
}

static void vsock_stop(struct virtio_device *d)
{
    vsock_host_stop(from_virtio(d));
}

static void vsock_reset(struct virtio_device *d)
{
    struct vsock *v = from_virtio(d);
    drop_all(v);
    v->reset_event_due = false;
}

struct vsock_device_state {
    uint64_t guest_cid;
};

static const struct state_field vsock_fields[] = {
    STATE_FIELD(STATE_U64, struct vsock_device_state, guest_cid),
    {.name = NULL},
};

static const struct state_section vsock_section = {
    .name = "virtio-vsock", .version = 1, .fields = vsock_fields};

static void vsock_save(struct virtio_device *d, struct byte_writer *writer)
{
    const struct vsock_device_state state = {.guest_cid = from_virtio(d)->cid};
    state_section_save(&vsock_section, &state, writer);
}

static int vsock_load(struct virtio_device *d, struct byte_reader *reader, struct error *err)
{
    struct vsock *v = from_virtio(d);
    struct vsock_device_state state = {0};
    int rc = state_section_load(&vsock_section, &state, reader, err);
    if (rc < 0)
        return rc;
    if (state.guest_cid != v->cid)
        return error_set(err, EBADMSG, "the guest's CID was another one");
    // Its connections ended in another process.
    v->reset_event_due = true;
    return 0;
}

static void close_host(struct vsock *v)
{
    if (v->listen_fd >= 0)
        close(v->listen_fd);
    if (v->connector_fd >= 0)
        close(v->connector_fd);
}

static void vsock_destroy(struct virtio_device *d)
{
    struct vsock *v = from_virtio(d);
    drop_all(v);
    close_host(v);
    free(v);
}

const struct virtio_device_ops virtio_vsock_ops = {
    .kind = "virtio-vsock",
    .virtio_id = 19,
    .class_code = 0x078000,
    .start = vsock_start,
    .stop = vsock_stop,
    .serve = vsock_serve,
    .reset = vsock_reset,
    .save = vsock_save,
    .load = vsock_load,
    .destroy = vsock_destroy,
};

int virtio_vsock_create(struct device **device, const struct virtio_environment *env,
                        const struct virtio_vsock_config *config, struct error *err)
{
    if (config->cid < VIRTIO_VSOCK_GUEST_CID_MIN || config->cid == UINT32_MAX)
        return error_set(err, EINVAL, "vsock '%s': a guest's CID is from 3 to 4294967294", env->id);
    struct vsock *v = calloc(1, sizeof(*v));
    if (!v)
        return error_set(err, ENOMEM, "vsock '%s': no memory", env->id);
    v->cid = config->cid;
    v->listen_fd = config->listen_fd;
    v->connector_fd = config->connector_fd;
    v->ready_end = &v->ready;
    v->next_port = UINT32_C(1) << 30;
    bytes_put_u64(v->virtio.config, config->cid);
    v->virtio.config_size = CONFIG_SIZE;
    int rc = virtio_device_init(&v->virtio, &virtio_vsock_ops, env, 0, QUEUES, QUEUE_SIZE, err);
    if (rc < 0) {
        free(v);
        return rc;
    }
    *device = &v->virtio.device;
    return 0;
}

unsigned virtio_vsock_connections(const struct device *device)
{
    struct vsock *v = (struct vsock *)device;
    assert(v->virtio.ops == &virtio_vsock_ops);
    return atomic_load_explicit(&v->count, memory_order_relaxed);
}
