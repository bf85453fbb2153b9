// As much IPv4 over Ethernet as tests need: ARP, ICMP echo, UDP. One address, no fragments, no
// options.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/drivers/virtio_net.h"

struct inet_datagram {
    uint32_t source;
    uint8_t source_mac[6];
    uint8_t protocol; // INET_UDP, INET_ICMP (an echo reply), INET_TCP
    uint16_t source_port, port;
    const uint8_t *payload;
    uint32_t size;  // of what lies at payload
    uint32_t total; // of the frame
};

enum {
    INET_ICMP = 1,
    INET_TCP = 6,
    INET_UDP = 17,
    INET_UDP_HEADERS = 14 + 20 + 8,
    INET_TCP_HEADERS = 14 + 20 + 20,
};

struct inet {
    struct net *net;
    uint32_t address, mask, gateway; // host order
    void (*datagram)(struct inet *inet, const struct inet_datagram *datagram, void *argument);
    void *argument;
    uint32_t resolving; // the address that inet_resolve waits for
    uint8_t resolved[6];
    bool has_resolved;
    uint64_t received, sent; // frames
};

// ip=, mask=, gateway= of the command line, and an announcement by ARP.
void inet_start(struct inet *inet, struct net *net);

// Handles every frame that has arrived: answers ARP and ICMP echo requests, hands the rest to
// inet->datagram. Returns how many there were.
unsigned inet_poll(struct inet *inet);

// Sleeps until frames may have arrived, or until the TSC passes `until` (0: for ever).
void inet_wait(struct inet *inet, uint64_t until);

// The MAC address for a destination, or its gateway's; false after five seconds without an answer.
bool inet_resolve(struct inet *inet, uint32_t address, uint8_t *mac);

// Where a datagram's payload goes; NULL when all frames are in flight. Then inet_udp_send with the
// payload's size.
uint8_t *inet_udp_begin(struct inet *inet);
void inet_udp_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                   const uint8_t *mac, uint16_t source_port, uint16_t port);

// The same for an ICMP echo request, with the port as its identifier.
void inet_ping_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                    const uint8_t *mac, uint16_t identifier);

// And for one segment of a TCP stream that nobody opened, cut by the device when it's larger than
// `segment`.
uint8_t *inet_tcp_begin(struct inet *inet);
void inet_tcp_send(struct inet *inet, uint8_t *payload, uint32_t size, uint32_t to,
                   const uint8_t *mac, uint16_t port, uint32_t sequence, uint16_t segment);
