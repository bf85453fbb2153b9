// net: a virtio network card, with the address ip= (10.0.2.15). mode=echo (default) answers ARP,
// ICMP echo and UDP; send and receive are the two ends of a bulk transfer; rtt measures round trips
// to an echo. See docs/guest.md.
#include "guest/drivers/virtio_net.h"

#include "guest/lib/arithmetic.h"
#include "guest/lib/console.h"
#include "guest/lib/cpu.h"
#include "guest/lib/histogram.h"
#include "guest/lib/inet.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"
#include "guest/lib/pace.h"
#include "guest/lib/time.h"
#include "guest/tests/test.h"

enum {
    PORT_ECHO = 7,
    PORT_BULK = 9,
    PORT_OWN = 40000,
    BATCH = 32, // datagrams before a kick
    TSO_SEGMENT = 1448,
};

static struct net net;
static struct inet inet;

static uint64_t test_end(void)
{
    uint64_t seconds = option_number("seconds", 0);
    return seconds ? time_tsc() + seconds * time_tsc_hz() : 0;
}

static bool time_left(uint64_t end)
{
    return !end || time_tsc() < end;
}

// ---- echo ----

struct echo {
    uint64_t echoes, bytes;
};

static void echo_datagram(struct inet *from, const struct inet_datagram *datagram, void *argument)
{
    struct echo *echo = argument;
    uint8_t *payload = NULL;
    if (datagram->protocol != INET_UDP || datagram->port != option_number("port", PORT_ECHO) ||
        datagram->size > NET_FRAME_MAX - INET_UDP_HEADERS || !(payload = inet_udp_begin(from)))
        return;
    memcpy(payload, datagram->payload, datagram->size);
    inet_udp_send(from, payload, datagram->size, datagram->source, datagram->source_mac,
                  datagram->port, datagram->source_port);
    net_kick(from->net);
    echo->echoes++;
    echo->bytes += datagram->size;
}

static bool net_echo(void)
{
    struct echo echo = {0};
    inet.datagram = echo_datagram;
    inet.argument = &echo;
    uint64_t end = test_end(), next = time_tsc() + time_tsc_hz(), last = 0;
    while (time_left(end)) {
        inet_poll(&inet);
        inet_wait(&inet, next);
        if (time_tsc() < next)
            continue;
        next = time_tsc() + time_tsc_hz();
        if (inet.received != last)
            console_line("net echo received=%lu sent=%lu echoes=%lu bytes=%lu", inet.received,
                         inet.sent, echo.echoes, echo.bytes);
        last = inet.received;
    }
    test_summary("echoes=%lu", echo.echoes);
    return true;
}

// ---- bulk ----

struct bulk {
    uint64_t frames, bytes, lost, reordered, next;
    uint64_t first, last; // TSC
};

static void bulk_datagram(struct inet *from, const struct inet_datagram *datagram, void *argument)
{
    (void)from;
    struct bulk *bulk = argument;
    if (datagram->port != option_number("port", PORT_BULK) || datagram->size < 8)
        return;
    bulk->last = time_tsc();
    if (!bulk->frames++)
        bulk->first = bulk->last;
    bulk->bytes += datagram->total;
    if (datagram->protocol != INET_UDP)
        return;
    uint64_t sequence;
    memcpy(&sequence, datagram->payload, 8);
    if (sequence < bulk->next) {
        bulk->reordered++;
        return;
    }
    bulk->lost += sequence - bulk->next;
    bulk->next = sequence + 1;
}

static void bulk_report(const struct bulk *bulk)
{
    uint64_t us = time_tsc_to_ns(bulk->last - bulk->first) / 1000;
    console_line("net receive frames=%lu bytes=%lu mb_per_s=%lu lost=%lu reordered=%lu",
                 bulk->frames, bulk->bytes, us ? bulk->bytes / us : 0, bulk->lost, bulk->reordered);
}

// Ends seconds= after the first frame.
static bool net_receive_bulk(void)
{
    struct bulk bulk = {0};
    inet.datagram = bulk_datagram;
    inet.argument = &bulk;
    uint64_t ticks = option_number("seconds", 0) * time_tsc_hz();
    uint64_t next = time_tsc() + time_tsc_hz(), reported = 0;
    while (!ticks || !bulk.frames || time_tsc() - bulk.first < ticks) {
        inet_poll(&inet);
        inet_wait(&inet, next);
        if (time_tsc() < next)
            continue;
        next = time_tsc() + time_tsc_hz();
        if (bulk.frames != reported)
            bulk_report(&bulk);
        reported = bulk.frames;
    }
    uint64_t us = time_tsc_to_ns(bulk.last - bulk.first) / 1000;
    test_summary("frames=%lu bytes=%lu mb_per_s=%lu lost=%lu reordered=%lu interrupts=%lu",
                 bulk.frames, bulk.bytes, us ? bulk.bytes / us : 0, bulk.lost, bulk.reordered,
                 virtqueue_interrupts(&net.receive));
    return true;
}

struct sender {
    uint32_t peer, size;
    uint8_t mac[6];
    uint16_t port;
    bool tcp;
    uint64_t frames;
};

// False when all frames are in flight.
static bool sender_send(struct sender *sender)
{
    uint8_t *payload = sender->tcp ? inet_tcp_begin(&inet) : inet_udp_begin(&inet);
    if (!payload)
        return false;
    memcpy(payload, &sender->frames, 8);
    if (sender->tcp)
        inet_tcp_send(&inet, payload, sender->size, sender->peer, sender->mac, sender->port,
                      (uint32_t)(sender->frames * sender->size), TSO_SEGMENT);
    else
        inet_udp_send(&inet, payload, sender->size, sender->peer, sender->mac, PORT_OWN,
                      sender->port);
    sender->frames++;
    return true;
}

static bool sender_prepare(struct sender *sender, uint16_t port)
{
    sender->peer = option_ipv4("peer", inet.gateway);
    sender->port = (uint16_t)option_number("port", port);
    sender->tcp = net.segments;
    uint64_t most =
        sender->tcp ? NET_BIG_FRAME - INET_TCP_HEADERS : net.mtu + 14u - INET_UDP_HEADERS;
    uint64_t size = option_number("size", sender->tcp ? 60000 : 1400);
    if (most > NET_FRAME_MAX - INET_UDP_HEADERS && !sender->tcp)
        most = NET_FRAME_MAX - INET_UDP_HEADERS;
    sender->size = (uint32_t)(size < 8 ? 8 : size > most ? most : size);
    if (inet_resolve(&inet, sender->peer, sender->mac))
        return true;
    console_line("net error peer=0x%x doesn't answer ARP", sender->peer);
    return false;
}

static bool net_send_bulk(void)
{
    struct sender sender = {0};
    if (!sender_prepare(&sender, PORT_BULK))
        return false;
    struct pace pace;
    pace_start(&pace, option_number("rate", 0) * 1000000);
    uint64_t start = time_tsc(), end = start + option_number("seconds", 5) * time_tsc_hz();
    uint64_t next = start + time_tsc_hz();
    for (uint64_t now = start; now < end; now = time_tsc()) {
        unsigned sent = 0;
        while (sent < BATCH && sender_send(&sender))
            sent++;
        net_kick(&net);
        inet_poll(&inet); // ARP goes on
        if (!sent)
            virtqueue_wait(&net.transmit, end);
        pace_wait(&pace, (uint64_t)sent * sender.size);
        if (now < next)
            continue;
        next = now + time_tsc_hz();
        console_line("net send frames=%lu", sender.frames);
    }
    uint64_t us = time_tsc_to_ns(time_tsc() - start) / 1000;
    test_summary("frames=%lu size=%u mb_per_s=%lu kicks=%lu gso=%u", sender.frames, sender.size,
                 multiply_divide(sender.frames, sender.size, us), net.transmit.kicks, sender.tcp);
    return sender.frames > 0;
}

// ---- round trips ----

struct trip {
    uint64_t waiting; // for this sequence number; 0 for none
    uint64_t sent;    // TSC
    uint64_t lost, longest_recent;
    struct histogram histogram;
};

static void trip_datagram(struct inet *from, const struct inet_datagram *datagram, void *argument)
{
    (void)from;
    struct trip *trip = argument;
    uint64_t sequence;
    if (datagram->port != PORT_OWN || datagram->size < 8)
        return;
    memcpy(&sequence, datagram->payload, 8);
    if (sequence != trip->waiting)
        return;
    uint64_t ns = time_tsc_to_ns(time_tsc() - trip->sent);
    histogram_add(&trip->histogram, ns);
    if (ns > trip->longest_recent)
        trip->longest_recent = ns;
    trip->waiting = 0;
}

static void trip_make(struct trip *trip, struct sender *sender)
{
    uint8_t *payload = inet_udp_begin(&inet);
    if (!payload)
        return;
    trip->waiting = ++sender->frames;
    memset(payload, 0x5a, sender->size);
    memcpy(payload, &trip->waiting, 8);
    trip->sent = time_tsc();
    if (option_is("proto", "icmp"))
        inet_ping_send(&inet, payload, sender->size, sender->peer, sender->mac, PORT_OWN);
    else
        inet_udp_send(&inet, payload, sender->size, sender->peer, sender->mac, PORT_OWN,
                      sender->port);
    net_kick(&net);
    uint64_t limit = trip->sent + time_tsc_hz();
    while (trip->waiting && time_tsc() < limit) {
        inet_poll(&inet);
        if (trip->waiting)
            inet_wait(&inet, limit);
    }
    trip->lost += trip->waiting != 0;
    trip->waiting = 0;
}

static bool net_round_trips(void)
{
    static struct trip trip;
    struct sender sender = {0};
    if (!sender_prepare(&sender, PORT_ECHO))
        return false;
    sender.size = (uint32_t)option_number("size", 64);
    if (sender.size < 8 || sender.size > NET_FRAME_MAX - INET_UDP_HEADERS)
        sender.size = 8;
    inet.datagram = trip_datagram;
    inet.argument = &trip;
    uint64_t interval = option_number("interval_us", 0) * 1000;
    uint64_t end = time_tsc() + option_number("seconds", 5) * time_tsc_hz();
    uint64_t next = time_tsc() + time_tsc_hz();
    while (time_tsc() < end) {
        trip_make(&trip, &sender);
        if (interval)
            time_sleep_ns(interval);
        if (time_tsc() < next)
            continue;
        next = time_tsc() + time_tsc_hz();
        console_line("net rtt count=%lu lost=%lu recent_max_us=%lu", trip.histogram.count,
                     trip.lost, trip.longest_recent / 1000);
        trip.longest_recent = 0;
    }
    test_summary("count=%lu lost=%lu mean_us=%lu p50_us=%lu p99_us=%lu max_us=%lu",
                 trip.histogram.count, trip.lost, histogram_mean(&trip.histogram) / 1000,
                 histogram_percentile(&trip.histogram, 500) / 1000,
                 histogram_percentile(&trip.histogram, 990) / 1000, trip.histogram.longest / 1000);
    return trip.histogram.count && trip.lost <= option_number("lost", 0);
}

bool test_net(void)
{
    cpu_start_all();
    if (!net_open(&net, (unsigned)option_number("card", 0)))
        return false;
    inet_start(&inet, &net);
    const char *mode = option_string("mode", "echo");
    uint32_t ip = inet.address;
    console_line("net ready mode=%s ip=%u.%u.%u.%u mac=%02x:%02x:%02x:%02x:%02x:%02x mtu=%u "
                 "features=0x%lx",
                 mode, ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255, net.mac[0], net.mac[1],
                 net.mac[2], net.mac[3], net.mac[4], net.mac[5], net.mtu, net.device.features);
    test_summary("mode=%s", mode);
    bool passed = false;
    if (!strcmp(mode, "echo"))
        passed = net_echo();
    else if (!strcmp(mode, "receive"))
        passed = net_receive_bulk();
    else if (!strcmp(mode, "send"))
        passed = net_send_bulk();
    else if (!strcmp(mode, "rtt"))
        passed = net_round_trips();
    else
        console_line("net mode=%s unknown", mode);
    return passed && !virtio_needs_reset(&net.device);
}
