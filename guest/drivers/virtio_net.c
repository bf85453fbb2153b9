#include "guest/drivers/virtio_net.h"

#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pages.h"

#define NET_F_CSUM       (1ul << 0)
#define NET_F_GUEST_CSUM (1ul << 1)
#define NET_F_MTU        (1ul << 3)
#define NET_F_MAC        (1ul << 5)
#define NET_F_GUEST_TSO4 (1ul << 7)
#define NET_F_HOST_TSO4  (1ul << 11)
#define NET_F_MERGE      (1ul << 15)
#define NET_F_STATUS     (1ul << 16)
#define NET_F_SEGMENTS   (NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4)

enum {
    RECEIVE_QUEUE = 0,
    TRANSMIT_QUEUE = 1,
    CONFIG_MAC = 0,
    CONFIG_MTU = 10,
    NEEDS_CHECKSUM = 1,
    SEGMENT_TCP4 = 1,
    ETHERNET_IPV4 = 14 + 20, // where TCP begins
    TCP_HEADER = 20,
    TCP_CHECKSUM = 16,
};

// 5.1.6; num_buffers is always there in virtio 1.x.
struct net_header {
    uint8_t flags, segment_type;
    uint16_t header_size, segment_size, checksum_start, checksum_offset, buffer_count;
};
_Static_assert(sizeof(struct net_header) == NET_HEADER, "virtio 1.2, 5.1.6");

static bool receive_offer(struct net *net, void *buffer)
{
    struct virtqueue_buffer offer = {buffer, NET_BUFFER, true};
    return virtqueue_add(&net->receive, &offer, 1, buffer);
}

static bool buffers_allocate(struct net *net)
{
    uint8_t *receive = pages_allocate(net->receive.size * NET_BUFFER, NET_BUFFER);
    uint8_t *transmit = pages_allocate((uint64_t)NET_QUEUE * (net->room + NET_HEADER), NET_BUFFER);
    if (!receive || !transmit)
        return false;
    for (unsigned i = 0; i < net->receive.size; i++)
        receive_offer(net, receive + i * NET_BUFFER);
    // One descriptor a frame, so adding never fails.
    net->free_count = net->transmit.size < NET_QUEUE ? net->transmit.size : NET_QUEUE;
    for (unsigned i = 0; i < net->free_count; i++)
        net->free_frames[i] = transmit + (uint64_t)i * (net->room + NET_HEADER) + NET_HEADER;
    return true;
}

bool net_open(struct net *net, unsigned index)
{
    uint64_t wanted = NET_F_MAC | NET_F_STATUS | NET_F_MTU;
    if (option_number("merge", 1))
        wanted |= NET_F_MERGE;
    if (option_number("gso", 0))
        wanted |= NET_F_SEGMENTS | NET_F_MERGE;
    struct virtio_device *device = &net->device;
    if (!virtio_open(device, VIRTIO_NET, index, wanted))
        return false;
    net->segments = (device->features & NET_F_SEGMENTS) == NET_F_SEGMENTS;
    net->merges = device->features & NET_F_MERGE;
    net->room = net->segments ? NET_BIG_FRAME : NET_FRAME_MAX;
    net->mtu = 1500;
    memcpy(net->mac, "\x02\x00\x00\x00\x00\x01", 6);
    if (device->features & NET_F_MAC)
        virtio_config_read(device, CONFIG_MAC, net->mac, 6);
    if (device->features & NET_F_MTU)
        virtio_config_read(device, CONFIG_MTU, &net->mtu, 2);
    if (!virtqueue_open(&net->receive, device, RECEIVE_QUEUE, NET_QUEUE) ||
        !virtqueue_open(&net->transmit, device, TRANSMIT_QUEUE, NET_QUEUE) ||
        !buffers_allocate(net))
        return false;
    virtio_ready(device);
    virtqueue_kick(&net->receive);
    return true;
}

bool net_receive(struct net *net, struct net_frame *frame)
{
    uint32_t written;
    void *buffer;
    if (!virtqueue_take(&net->receive, &buffer, &written))
        return false;
    const struct net_header *header = buffer;
    *frame = (struct net_frame){
        .bytes = (uint8_t *)buffer + NET_HEADER,
        .size = written > NET_HEADER ? written - NET_HEADER : 0,
        .buffers = {buffer},
        .buffer_count = 1,
    };
    frame->total = frame->size;
    unsigned count = net->merges ? header->buffer_count : 1;
    while (frame->buffer_count < count && frame->buffer_count < 17) {
        while (!virtqueue_take(&net->receive, &buffer, &written))
            __builtin_ia32_pause();
        frame->buffers[frame->buffer_count++] = buffer;
        frame->total += written;
    }
    return true;
}

void net_release(struct net *net, const struct net_frame *frame)
{
    for (unsigned i = 0; i < frame->buffer_count; i++)
        receive_offer(net, frame->buffers[i]);
    virtqueue_kick(&net->receive);
}

uint8_t *net_frame_begin(struct net *net)
{
    void *done;
    while (virtqueue_take(&net->transmit, &done, NULL))
        net->free_frames[net->free_count++] = done;
    return net->free_count ? net->free_frames[--net->free_count] : NULL;
}

void net_send(struct net *net, uint8_t *frame, uint32_t size, uint16_t segment)
{
    struct net_header *header = (struct net_header *)(frame - NET_HEADER);
    *header = (struct net_header){0};
    if (segment)
        *header = (struct net_header){
            .flags = NEEDS_CHECKSUM,
            .segment_type = SEGMENT_TCP4,
            .header_size = ETHERNET_IPV4 + TCP_HEADER,
            .segment_size = segment,
            .checksum_start = ETHERNET_IPV4,
            .checksum_offset = TCP_CHECKSUM,
        };
    struct virtqueue_buffer buffer = {header, size + NET_HEADER, false};
    virtqueue_add(&net->transmit, &buffer, 1, frame);
}

void net_kick(struct net *net)
{
    virtqueue_kick(&net->transmit);
}
