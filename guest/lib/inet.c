// RFC 826 (ARP), 791 (IPv4), 792 (ICMP), 768 (UDP).
#include "guest/lib/inet.h"

#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/time.h"

enum {
    ETHERNET = 14,
    TYPE_IPV4 = 0x0800,
    TYPE_ARP = 0x0806,
    ARP_SIZE = ETHERNET + 28,
    IPV4_HEADER = 20,
    ICMP_ECHO_REPLY = 0,
    ICMP_ECHO = 8,
    AT_IPV4 = ETHERNET,
    AT_INNER = ETHERNET + IPV4_HEADER, // UDP, ICMP or TCP
    ECHO_SIZE_MAX = NET_FRAME_MAX,
    FRAME_MIN = 60,
};

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)(value >> 16));
    put16(at + 2, (uint16_t)value);
}

static uint32_t checksum_add(uint32_t sum, const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i + 1 < size; i += 2)
        sum += get16(bytes + i);
    if (size & 1)
        sum += (uint32_t)bytes[size - 1] << 8;
    return sum;
}

static uint16_t checksum_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static void ethernet_put(struct inet *inet, uint8_t *frame, const uint8_t *to, uint16_t type)
{
    memcpy(frame, to, 6);
    memcpy(frame + 6, inet->net->mac, 6);
    put16(frame + 12, type);
}

static void frame_send(struct inet *inet, uint8_t *frame, uint32_t size, uint16_t segment)
{
    if (size < FRAME_MIN) {
        memset(frame + size, 0, FRAME_MIN - size);
        size = FRAME_MIN;
    }
    net_send(inet->net, frame, size, segment);
    inet->sent++;
}

static void arp_send(struct inet *inet, uint16_t operation, uint32_t target, const uint8_t *mac)
{
    uint8_t *frame = net_frame_begin(inet->net);
    if (!frame)
        return;
    ethernet_put(inet, frame, mac, TYPE_ARP);
    uint8_t *arp = frame + ETHERNET;
    memcpy(arp, "\x00\x01\x08\x00\x06\x04", 6);
    put16(arp + 6, operation);
    memcpy(arp + 8, inet->net->mac, 6);
    put32(arp + 14, inet->address);
    memcpy(arp + 18, mac, 6);
    put32(arp + 24, target);
    frame_send(inet, frame, ARP_SIZE, 0);
    net_kick(inet->net);
}

void inet_start(struct inet *inet, struct net *net)
{
    inet->net = net;
    inet->address = option_ipv4("ip", 0x0a00020f);
    inet->mask = option_ipv4("mask", 0xffffff00);
    inet->gateway = option_ipv4("gateway", (inet->address & 0xffffff00) | 2);
    arp_send(inet, 1, inet->address, broadcast);
}

static void arp_handle(struct inet *inet, const uint8_t *arp)
{
    uint16_t operation = get16(arp + 6);
    uint32_t sender = get32(arp + 14), target = get32(arp + 24);
    if (operation == 1 && target == inet->address && sender != inet->address)
        arp_send(inet, 2, sender, arp + 8);
    if (sender == inet->resolving) {
        memcpy(inet->resolved, arp + 8, 6);
        inet->has_resolved = true;
    }
}

static void ipv4_put(struct inet *inet, uint8_t *frame, uint32_t to, uint8_t protocol,
                     uint32_t size)
{
    uint8_t *ip = frame + AT_IPV4;
    memset(ip, 0, IPV4_HEADER);
    ip[0] = 0x45;
    put16(ip + 2, (uint16_t)size);
    ip[6] = 0x40; // don't fragment
    ip[8] = 64;
    ip[9] = protocol;
    put32(ip + 12, inet->address);
    put32(ip + 16, to);
    put16(ip + 10, (uint16_t)~checksum_fold(checksum_add(0, ip, IPV4_HEADER)));
}

static void icmp_answer(struct inet *inet, const uint8_t *request, uint32_t size)
{
    uint8_t *frame = size <= ECHO_SIZE_MAX ? net_frame_begin(inet->net) : NULL;
    if (!frame)
        return;
    memcpy(frame, request, size);
    ethernet_put(inet, frame, request + 6, TYPE_IPV4);
    uint32_t length = get16(request + AT_IPV4 + 2);
    ipv4_put(inet, frame, get32(request + AT_IPV4 + 12), INET_ICMP, length);
    uint8_t *icmp = frame + AT_INNER;
    icmp[0] = ICMP_ECHO_REPLY;
    put16(icmp + 2, 0);
    put16(icmp + 2, (uint16_t)~checksum_fold(checksum_add(0, icmp, length - IPV4_HEADER)));
    frame_send(inet, frame, size, 0);
    net_kick(inet->net);
}

static void ipv4_handle(struct inet *inet, const struct net_frame *frame)
{
    const uint8_t *ip = frame->bytes + AT_IPV4, *inner = frame->bytes + AT_INNER;
    uint32_t length = get16(ip + 2);
    if (ip[0] != 0x45 || get32(ip + 16) != inet->address || length < IPV4_HEADER + 8)
        return;
    if (ETHERNET + length < frame->size) // padding
        length = ETHERNET + length;
    else
        length = frame->size;
    if (ip[9] == INET_ICMP && inner[0] == ICMP_ECHO) {
        icmp_answer(inet, frame->bytes, length);
        return;
    }
    uint32_t headers = ip[9] == INET_TCP ? INET_TCP_HEADERS : INET_UDP_HEADERS;
    if (!inet->datagram || length < headers)
        return;
    struct inet_datagram datagram = {
        .source = get32(ip + 12),
        .protocol = ip[9],
        .source_port = get16(inner),
        .port = get16(inner + 2),
        .payload = frame->bytes + headers,
        .size = length - headers,
        .total = frame->total,
    };
    if (ip[9] == INET_ICMP)
        datagram.port = get16(inner + 4);
    memcpy(datagram.source_mac, frame->bytes + 6, 6);
    inet->datagram(inet, &datagram, inet->argument);
}

unsigned inet_poll(struct inet *inet)
{
    struct net_frame frame;
    unsigned count = 0;
    for (; net_receive(inet->net, &frame); count++) {
        inet->received++;
        uint16_t type = frame.size >= ETHERNET ? get16(frame.bytes + 12) : 0;
        if (type == TYPE_ARP && frame.size >= ARP_SIZE)
            arp_handle(inet, frame.bytes + ETHERNET);
        else if (type == TYPE_IPV4 && frame.size >= AT_INNER + 8)
            ipv4_handle(inet, &frame);
        net_release(inet->net, &frame);
    }
    return count;
}

void inet_wait(struct inet *inet, uint64_t until)
{
    virtqueue_wait(&inet->net->receive, until);
}

bool inet_resolve(struct inet *inet, uint32_t address, uint8_t *mac)
{
    bool near = (address & inet->mask) == (inet->address & inet->mask);
    inet->resolving = near ? address : inet->gateway;
    inet->has_resolved = false;
    uint64_t limit = time_tsc() + 5 * time_tsc_hz();
    while (time_tsc() < limit) {
        arp_send(inet, 1, inet->resolving, broadcast);
        uint64_t again = time_tsc() + time_tsc_hz() / 5;
        while (time_tsc() < again && !inet->has_resolved) {
            inet_poll(inet);
            if (!inet->has_resolved)
                inet_wait(inet, again);
        }
        if (inet->has_resolved) {
            memcpy(mac, inet->resolved, 6);
            return true;
        }
    }
    return false;
}

uint8_t *inet_udp_begin(struct inet *inet)
{
    uint8_t *frame = net_frame_begin(inet->net);
    return frame ? frame + INET_UDP_HEADERS : NULL;
}

void inet_udp_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                   const uint8_t *mac, uint16_t source_port, uint16_t port)
{
    uint8_t *frame = payload - INET_UDP_HEADERS, *udp = frame + AT_INNER;
    ethernet_put(inet, frame, mac, TYPE_IPV4);
    ipv4_put(inet, frame, to, INET_UDP, IPV4_HEADER + 8 + size);
    put16(udp, source_port);
    put16(udp + 2, port);
    put16(udp + 4, (uint16_t)(8 + size));
    put16(udp + 6, 0); // no checksum
    frame_send(inet, frame, INET_UDP_HEADERS + size, 0);
}

void inet_ping_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                    const uint8_t *mac, uint16_t identifier)
{
    uint8_t *frame = payload - INET_UDP_HEADERS, *icmp = frame + AT_INNER;
    ethernet_put(inet, frame, mac, TYPE_IPV4);
    ipv4_put(inet, frame, to, INET_ICMP, IPV4_HEADER + 8 + size);
    memset(icmp, 0, 8);
    icmp[0] = ICMP_ECHO;
    put16(icmp + 4, identifier);
    put16(icmp + 2, (uint16_t)~checksum_fold(checksum_add(0, icmp, 8 + size)));
    frame_send(inet, frame, INET_UDP_HEADERS + size, 0);
}

uint8_t *inet_tcp_begin(struct inet *inet)
{
    uint8_t *frame = net_frame_begin(inet->net);
    return frame ? frame + INET_TCP_HEADERS : NULL;
}

void inet_tcp_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                   const uint8_t *mac, uint16_t port, uint32_t sequence, uint16_t segment)
{
    uint8_t *frame = payload - INET_TCP_HEADERS, *tcp = frame + AT_INNER;
    ethernet_put(inet, frame, mac, TYPE_IPV4);
    ipv4_put(inet, frame, to, INET_TCP, IPV4_HEADER + 20 + size);
    memset(tcp, 0, 20);
    put16(tcp, port);
    put16(tcp + 2, port);
    put32(tcp + 4, sequence);
    tcp[12] = 0x50;
    tcp[13] = 0x10; // ACK
    put16(tcp + 14, 0xffff);
    // The device completes the sum over the pseudo header, which it finds here
    // (virtio 1.2, 5.1.6.2).
    uint32_t sum = checksum_add(0, frame + AT_IPV4 + 12, 8) + INET_TCP + 20 + size;
    put16(tcp + 16, checksum_fold(sum));
    frame_send(inet, frame, INET_TCP_HEADERS + size, segment);
}
