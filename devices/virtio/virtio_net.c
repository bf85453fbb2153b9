#include "devices/virtio/virtio_net.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio/kinds.h"
#include "devices/virtio/virtio_net_parts.h"

enum {
    // Device configuration (5.1.4).
    CONFIG_MAC = 0,
    CONFIG_STATUS = 6,
    CONFIG_MAX_PAIRS = 8,
    CONFIG_MTU = 10,
    CONFIG_SIZE = 12,
    STATUS_LINK_UP = 1,
    STATUS_ANNOUNCE = 2,

    // Control queue (5.1.6.5).
    CONTROL_MAC = 1,
    CONTROL_MAC_ADDR_SET = 1,
    CONTROL_ANNOUNCE = 3,
    CONTROL_ANNOUNCE_ACK = 0,
    CONTROL_MQ = 4,
    CONTROL_MQ_PAIRS_SET = 0,
    CONTROL_OK = 0,
    CONTROL_ERR = 1,
    MULTICAST = 1,
};

static const struct {
    unsigned offload;
    uint64_t guest, host; // features: frames to the guest, and from it
} offload_features[] = {
    {NET_OFFLOAD_CHECKSUM, NET_F_GUEST_CSUM, NET_F_CSUM},
    {NET_OFFLOAD_TSO4, NET_F_GUEST_TSO4, NET_F_HOST_TSO4},
    {NET_OFFLOAD_TSO6, NET_F_GUEST_TSO6, NET_F_HOST_TSO6},
    {NET_OFFLOAD_ECN, NET_F_GUEST_ECN, NET_F_HOST_ECN},
};
enum { OFFLOADS = sizeof(offload_features) / sizeof(offload_features[0]) };

static struct virtio_net *from_virtio(struct virtio_device *d)
{
    return (struct virtio_net *)d; // its first member
}

// Sending

// Whether the driver may send frames with such a header: only what was negotiated is passed on.
static bool header_is_allowed(const struct virtio_net *net, const uint8_t *header)
{
    const struct virtio_device *d = &net->virtio;
    uint8_t type = header[HEADER_GSO_TYPE];
    if ((header[HEADER_FLAGS] & FLAG_NEEDS_CSUM) && !virtio_device_has(d, NET_F_CSUM))
        return false;
    if ((type & GSO_ECN) && !virtio_device_has(d, NET_F_HOST_ECN))
        return false;
    switch (type & ~GSO_ECN) {
    case GSO_NONE:
        return true;
    case GSO_TCPV4:
        return virtio_device_has(d, NET_F_HOST_TSO4);
    case GSO_TCPV6:
        return virtio_device_has(d, NET_F_HOST_TSO6);
    default:
        return false;
    }
}

// Sends net->chain. False when the frame was dropped.
static bool send_frame(struct virtio_net *net, unsigned pair)
{
    const struct virtqueue_chain *chain = &net->chain;
    uint8_t header[NET_HEADER_SIZE];
    struct iovec iov[VIRTQUEUE_CHAIN_LIMIT + 1];
    if (chain->out_bytes < NET_HEADER_SIZE + ETHERNET_HEADER ||
        chain->out_bytes > NET_HEADER_SIZE + NET_FRAME_LIMIT || !net->link_up)
        return false;
    virtqueue_chain_read(chain, 0, header, sizeof(header));
    if (!header_is_allowed(net, header))
        return false;
    header[HEADER_FLAGS] &= FLAG_NEEDS_CSUM;
    bytes_put_u16(header + HEADER_NUM_BUFFERS, 0);
    iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof(header)};
    unsigned count = 1 + virtqueue_chain_slice(chain, false, NET_HEADER_SIZE,
                                               chain->out_bytes - NET_HEADER_SIZE, iov + 1);
    return net->backend->ops->send(net->backend, pair, iov, count) >= 0;
}

static void ring_direction(struct virtio_net *net, unsigned direction)
{
    for (unsigned i = 0; i < net->backend->queue_pairs; i++) {
        struct virtio_queue *q = &net->virtio.queues[2 * i + direction];
        if (q->watch)
            virtio_queue_ring(q);
    }
}

static void receive_on(void *opaque)
{
    ring_direction(opaque, 0);
}

static void send_on(void *opaque)
{
    ring_direction(opaque, 1);
}

static bool serve_transmit(struct virtio_net *net, unsigned pair)
{
    struct virtio_queue *q = &net->virtio.queues[2 * pair + 1];
    bool again = true;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < VIRTQUEUE_TURN; n++) {
        if (!machine_may_act(net->virtio.machine)) {
            again = false; // a successor may be sending under this address; the frames stay
            break;
        }
        if (!rate_limiter_allows(&net->send_limiter)) {
            again = false; // it rings every sending queue; until then no kick is needed
            break;
        }
        if (!virtqueue_next(&q->ring, &net->chain, &again))
            break;
        rate_limiter_charge(&net->send_limiter, 1, net->chain.out_bytes);
        if (send_frame(net, pair))
            virtio_queue_count_bytes(q, net->chain.out_bytes - NET_HEADER_SIZE);
        else
            atomic_fetch_add_explicit(&net->send_drops, 1, memory_order_relaxed);
        virtqueue_push(&q->ring, &net->chain, 0);
    }
    virtqueue_publish(&q->ring);
    return again;
}

// Control queue

static unsigned control_index(const struct virtio_device *d)
{
    // Behind all pairs, or behind the only one that a driver without MQ knows (5.1.2).
    return virtio_device_has(d, NET_F_MQ) ? d->queue_count - 1 : 2;
}

// Turns pairs on or off so that the first `pairs` are on.
static int activate_pairs(struct virtio_net *net, unsigned pairs)
{
    struct net_backend *b = net->backend;
    int rc = 0;
    for (unsigned i = 0; i < b->queue_pairs && rc == 0; i++) {
        bool on = i < pairs;
        if (!on)
            net_receiver_stop(&net->receivers[i]);
        if (b->ops->enable_queue)
            rc = b->ops->enable_queue(b, i, on);
        if (on && rc == 0)
            rc = net_receiver_start(&net->receivers[i]);
    }
    return rc;
}

static bool set_pairs(struct virtio_net *net, const uint8_t *data, size_t length)
{
    uint16_t pairs = length == 2 ? bytes_get_u16(data) : 0;
    if (!virtio_device_has(&net->virtio, NET_F_MQ) || pairs == 0 ||
        pairs > net->backend->queue_pairs)
        return false;
    if (activate_pairs(net, pairs) < 0) {
        activate_pairs(net, net->active_pairs);
        return false;
    }
    net->active_pairs = pairs;
    for (unsigned i = 0; i < pairs; i++)
        virtio_queue_ring(&net->virtio.queues[2 * i]); // may have been given buffers already
    return true;
}

static bool set_mac(struct virtio_net *net, const uint8_t *data, size_t length)
{
    if (!virtio_device_has(&net->virtio, NET_F_CTRL_MAC_ADDR) || length != 6 ||
        (data[0] & MULTICAST))
        return false;
    virtio_device_config_change(&net->virtio, CONFIG_MAC, data, 6);
    return true;
}

// Sets and clears bits of the configuration's status.
static void change_status(struct virtio_net *net, uint16_t set, uint16_t clear)
{
    uint8_t bytes[2];
    virtio_device_config_copy(&net->virtio, CONFIG_STATUS, bytes, sizeof(bytes));
    uint16_t old = bytes_get_u16(bytes), now = (uint16_t)((old & ~clear) | set);
    bytes_put_u16(bytes, now);
    if (now != old)
        virtio_device_config_change(&net->virtio, CONFIG_STATUS, bytes, sizeof(bytes));
}

static bool acknowledge_announce(struct virtio_net *net, const uint8_t *data, size_t length)
{
    if (!virtio_device_has(&net->virtio, NET_F_GUEST_ANNOUNCE))
        return false;
    change_status(net, 0, STATUS_ANNOUNCE);
    return true;
}

static const struct {
    uint8_t class, command;
    bool (*run)(struct virtio_net *net, const uint8_t *data, size_t length);
} commands[] = {
    {CONTROL_MAC, CONTROL_MAC_ADDR_SET, set_mac},
    {CONTROL_ANNOUNCE, CONTROL_ANNOUNCE_ACK, acknowledge_announce},
    {CONTROL_MQ, CONTROL_MQ_PAIRS_SET, set_pairs},
};

// Runs the command in net->chain: two bytes that name it, and at most 6 of data.
static bool run_command(struct virtio_net *net)
{
    uint8_t bytes[8];
    size_t length = virtqueue_chain_read(&net->chain, 0, bytes, sizeof(bytes));
    if (length < 2 || net->chain.out_bytes > sizeof(bytes))
        return false;
    for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (commands[i].class == bytes[0] && commands[i].command == bytes[1])
            return commands[i].run(net, bytes + 2, length - 2);
    return false;
}

static bool serve_control(struct virtio_net *net, struct virtio_queue *q)
{
    bool again = true;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < VIRTQUEUE_TURN; n++) {
        if (!virtqueue_next(&q->ring, &net->chain, &again))
            break;
        if (net->chain.in_bytes == 0) {
            virtqueue_rewind(&q->ring, 1);
            virtqueue_break(&q->ring, "a control command without room for its answer");
            continue;
        }
        // The command may change pairs, whose receivers use net->chain as well.
        uint16_t head = net->chain.head;
        uint8_t *answer = net->chain.iov[net->chain.out_count].iov_base;
        uint64_t answer_gpa = net->chain.gpa[net->chain.out_count];
        *answer = run_command(net) ? CONTROL_OK : CONTROL_ERR;
        guest_memory_written(net->virtio.machine->memory, answer_gpa, 1);
        virtqueue_push_head(&q->ring, head, 1);
    }
    virtqueue_publish(&q->ring);
    return again;
}

static bool net_serve(struct virtio_device *d, unsigned index)
{
    struct virtio_net *net = from_virtio(d);
    if (index == control_index(d))
        return virtio_device_has(d, NET_F_CTRL_VQ) && serve_control(net, &d->queues[index]);
    unsigned pair = index / 2;
    if (pair >= net->backend->queue_pairs)
        return false;
    // A driver stops using a pair before it turns it off; what it sends all the same goes out.
    return index % 2 ? serve_transmit(net, pair) : net_receiver_serve(&net->receivers[pair]);
}

// Life

static bool net_features_fit(struct virtio_device *d, uint64_t f)
{
    // 5.1.3.1.
    static const struct {
        uint64_t feature, needs;
    } rules[] = {
        {NET_F_GUEST_TSO4, NET_F_GUEST_CSUM},
        {NET_F_GUEST_TSO6, NET_F_GUEST_CSUM},
        {NET_F_GUEST_ECN, NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6},
        {NET_F_HOST_TSO4, NET_F_CSUM},
        {NET_F_HOST_TSO6, NET_F_CSUM},
        {NET_F_HOST_ECN, NET_F_HOST_TSO4 | NET_F_HOST_TSO6},
        {NET_F_GUEST_ANNOUNCE, NET_F_CTRL_VQ},
        {NET_F_MQ, NET_F_CTRL_VQ},
        {NET_F_CTRL_MAC_ADDR, NET_F_CTRL_VQ},
    };
    for (unsigned i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if ((f & rules[i].feature) && !(f & rules[i].needs))
            return false;
    return true;
}

static int net_start(struct virtio_device *d)
{
    struct virtio_net *net = from_virtio(d);
    unsigned offloads = 0;
    for (unsigned i = 0; i < OFFLOADS; i++)
        if (virtio_device_has(d, offload_features[i].guest))
            offloads |= offload_features[i].offload;
    int rc = net->backend->ops->set_receive_offloads(net->backend, offloads);
    return rc < 0 ? rc : activate_pairs(net, net->active_pairs);
}

static void net_stop(struct virtio_device *d)
{
    struct virtio_net *net = from_virtio(d);
    rate_limiter_stop(&net->receive_limiter);
    rate_limiter_stop(&net->send_limiter);
    for (unsigned i = 0; i < net->backend->queue_pairs; i++)
        net_receiver_stop(&net->receivers[i]);
}

static void net_reset(struct virtio_device *d)
{
    struct virtio_net *net = from_virtio(d);
    net->active_pairs = 1; // until the driver asks for more (5.1.6.5.5)
    change_status(net, 0, STATUS_ANNOUNCE);
}

struct net_state {
    uint8_t mac[6];
    uint16_t status, active_pairs;
};

static const struct state_field net_fields[] = {
    STATE_ARRAY(STATE_U8, struct net_state, mac),
    STATE_FIELD(STATE_U16, struct net_state, status),
    STATE_FIELD(STATE_U16, struct net_state, active_pairs),
    {.name = NULL},
};

static const struct state_section net_section = {
    .name = "virtio-net", .version = 1, .fields = net_fields};

static void net_save(struct virtio_device *d, struct byte_writer *writer)
{
    struct virtio_net *net = from_virtio(d);
    struct net_state state = {.active_pairs = net->active_pairs};
    memcpy(state.mac, d->config + CONFIG_MAC, sizeof(state.mac));
    state.status = bytes_get_u16(d->config + CONFIG_STATUS);
    state_section_save(&net_section, &state, writer);
}

static int net_load(struct virtio_device *d, struct byte_reader *reader, struct error *err)
{
    struct virtio_net *net = from_virtio(d);
    struct net_state state = {0};
    int rc = state_section_load(&net_section, &state, reader, err);
    if (rc < 0)
        return rc;
    // Without MQ the second pair's first queue is the control queue.
    unsigned pairs = virtio_device_has(d, NET_F_MQ) ? net->backend->queue_pairs : 1;
    if (state.active_pairs == 0 || state.active_pairs > pairs ||
        (state.status & ~(STATUS_LINK_UP | STATUS_ANNOUNCE)) || (state.mac[0] & MULTICAST))
        return error_set(err, EBADMSG, "pairs, status or address can't be");
    net->active_pairs = state.active_pairs;
    net->link_up = state.status & STATUS_LINK_UP;
    memcpy(d->config + CONFIG_MAC, state.mac, sizeof(state.mac));
    bytes_put_u16(d->config + CONFIG_STATUS, state.status);
    return 0;
}

static void net_destroy(struct virtio_device *d)
{
    struct virtio_net *net = from_virtio(d);
    net->backend->ops->destroy(net->backend);
    rate_limiter_destroy(&net->receive_limiter);
    rate_limiter_destroy(&net->send_limiter);
    free(net->receivers);
    free(net);
}

const struct virtio_device_ops virtio_net_ops = {
    .kind = "virtio-net",
    .virtio_id = 1,
    .class_code = 0x020000, // Ethernet
    .features_fit = net_features_fit,
    .start = net_start,
    .stop = net_stop,
    .serve = net_serve,
    .reset = net_reset,
    .save = net_save,
    .load = net_load,
    .destroy = net_destroy,
};

static uint64_t fill_config(struct virtio_net *net, const uint8_t mac[6])
{
    const struct net_backend *b = net->backend;
    uint8_t *config = net->virtio.config;
    uint64_t features = NET_F_MAC | NET_F_MRG_RXBUF | NET_F_STATUS | NET_F_CTRL_VQ |
                        NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR;
    memcpy(config + CONFIG_MAC, mac, 6);
    bytes_put_u16(config + CONFIG_STATUS, STATUS_LINK_UP);
    bytes_put_u16(config + CONFIG_MAX_PAIRS, (uint16_t)b->queue_pairs);
    if (b->queue_pairs > 1)
        features |= NET_F_MQ;
    if (b->mtu) {
        bytes_put_u16(config + CONFIG_MTU, b->mtu);
        features |= NET_F_MTU;
    }
    for (unsigned i = 0; i < OFFLOADS; i++) {
        if (b->receive_offloads & offload_features[i].offload)
            features |= offload_features[i].guest;
        if (b->send_offloads & offload_features[i].offload)
            features |= offload_features[i].host;
    }
    net->virtio.config_size = CONFIG_SIZE;
    return features;
}

int virtio_net_create(struct device **device, const struct virtio_environment *env,
                      const struct virtio_net_config *config, struct error *err)
{
    unsigned pairs = config->backend->queue_pairs;
    if (config->mac[0] & MULTICAST)
        return error_set(err, EINVAL, "network card '%s': its address is a multicast one", env->id);
    if (pairs == 0 || pairs > NET_QUEUE_PAIRS_LIMIT)
        return error_set(err, EINVAL, "network card '%s': 1 to %d queue pairs", env->id,
                         NET_QUEUE_PAIRS_LIMIT);
    struct virtio_net *net = calloc(1, sizeof(*net));
    struct net_receiver *receivers = calloc(pairs, sizeof(*receivers));
    int rc = -ENOMEM;
    if (!net || !receivers) {
        error_set(err, ENOMEM, "network card '%s': no memory", env->id);
        free(receivers);
        free(net);
        return rc;
    }
    net->receivers = receivers;
    net->backend = config->backend;
    rate_limiter_init(&net->receive_limiter, env->io_thread, receive_on, net);
    rate_limiter_init(&net->send_limiter, env->io_thread, send_on, net);
    rc = rate_limiter_set(&net->receive_limiter, &config->limits);
    if (rc == 0)
        rc = rate_limiter_set(&net->send_limiter, &config->limits);
    if (rc < 0) {
        error_set_errno(err, -rc, "network card '%s': its limits", env->id);
        goto fail;
    }
    net->active_pairs = 1;
    net->link_up = true;
    for (unsigned i = 0; i < pairs; i++) {
        receivers[i].net = net;
        receivers[i].pair = i;
    }
    uint64_t features = fill_config(net, config->mac);
    rc = virtio_device_init(&net->virtio, &virtio_net_ops, env, features, 2 * pairs + 1,
                            NET_QUEUE_SIZE, err);
    if (rc < 0)
        goto fail;
    *device = &net->virtio.device;
    return 0;

fail:
    rate_limiter_destroy(&net->receive_limiter);
    rate_limiter_destroy(&net->send_limiter);
    free(receivers);
    free(net);
    return rc;
}

// Commands of the machine

static struct virtio_net *from_device(const struct device *device)
{
    struct virtio_net *net = (struct virtio_net *)device; // the first member of the first member
    assert(net->virtio.ops == &virtio_net_ops);
    return net;
}

struct link_call {
    struct virtio_net *net;
    bool up;
};

static void set_link(void *opaque)
{
    struct link_call *call = opaque;
    call->net->link_up = call->up;
    change_status(call->net, call->up ? STATUS_LINK_UP : 0, call->up ? 0 : STATUS_LINK_UP);
}

void virtio_net_set_link(struct device *device, bool up)
{
    struct link_call call = {.net = from_device(device), .up = up};
    virtio_device_call(&call.net->virtio, set_link, &call);
}

bool virtio_net_link_is_up(struct device *device)
{
    uint8_t status[2];
    virtio_device_config_copy(&from_device(device)->virtio, CONFIG_STATUS, status, sizeof(status));
    return bytes_get_u16(status) & STATUS_LINK_UP;
}

static void announce(void *opaque)
{
    change_status(opaque, STATUS_ANNOUNCE, 0);
}

bool virtio_net_announce(struct device *device)
{
    struct virtio_net *net = from_device(device);
    if (!virtio_device_has(&net->virtio, NET_F_GUEST_ANNOUNCE))
        return false;
    virtio_device_call(&net->virtio, announce, net);
    return true;
}

enum { RARP_SIZE = 60, ETHERTYPE_RARP = 0x8035, ETHERTYPE_IP = 0x0800, RARP_REQUEST = 3 };

static void put_big_u16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

// A reverse ARP request (RFC 903) in the card's name, as switches know it from hypervisors: it says
// nothing of IP addresses, which only the guest knows.
static void send_rarp(void *opaque)
{
    struct virtio_net *net = opaque;
    const uint8_t *mac = net->virtio.config + CONFIG_MAC;
    uint8_t header[NET_HEADER_SIZE] = {0}, frame[RARP_SIZE] = {0};
    if (!net->link_up)
        return;
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    put_big_u16(frame + 12, ETHERTYPE_RARP);
    put_big_u16(frame + 14, 1); // Ethernet
    put_big_u16(frame + 16, ETHERTYPE_IP);
    frame[18] = 6;
    frame[19] = 4;
    put_big_u16(frame + 20, RARP_REQUEST);
    memcpy(frame + 22, mac, 6);
    memcpy(frame + 32, mac, 6);
    struct iovec iov[2] = {{header, sizeof(header)}, {frame, sizeof(frame)}};
    net->backend->ops->send(net->backend, 0, iov, 2); // lost: there are others
}

void virtio_net_announce_for_guest(struct device *device)
{
    struct virtio_net *net = from_device(device);
    virtio_device_call(&net->virtio, send_rarp, net);
}

void virtio_net_drops(const struct device *device, struct virtio_net_drops *drops)
{
    const struct virtio_net *net = from_device(device);
    drops->received = atomic_load_explicit(&net->receive_drops, memory_order_relaxed);
    drops->sent = atomic_load_explicit(&net->send_drops, memory_order_relaxed);
}

struct limits_call {
    struct virtio_net *net;
    const struct rate_limits *limits;
    int result;
};

static void set_limits(void *opaque)
{
    struct limits_call *call = opaque;
    call->result = rate_limiter_set(&call->net->receive_limiter, call->limits);
    if (call->result == 0)
        call->result = rate_limiter_set(&call->net->send_limiter, call->limits);
}

int virtio_net_set_limits(struct device *device, const struct rate_limits *limits)
{
    struct limits_call call = {.net = from_device(device), .limits = limits};
    virtio_device_call(&call.net->virtio, set_limits, &call);
    return call.result;
}

uint64_t virtio_net_throttled(const struct device *device)
{
    const struct virtio_net *net = from_device(device);
    return rate_limiter_throttled(&net->receive_limiter) +
           rate_limiter_throttled(&net->send_limiter);
}
