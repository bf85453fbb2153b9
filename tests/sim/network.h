// A simulated datagram network between at most SIM_NODES nodes.
//
// A packet sent from one node to another is lost, doubled or delayed by chance; as delays differ,
// packets overtake each other. Each direction of each pair can be cut by itself, which gives
// one-way links and partial partitions. A packet that is under way when its link is cut is lost.
// Nothing here knows what the bytes mean.
#pragma once

#include "events.h"
#include "random.h"

#define SIM_NODES          32
#define SIM_NETWORK_FLIGHT 8192 // packets under way at once; more are lost, as in a full switch
#define SIM_PACKET_MAX     (1u << 20)

struct sim_packet {
    struct sim_packet *next; // free list, or the inbox of a paused host
    uint32_t size, room;
    uint16_t from, to;
    uint32_t flight; // slot in the table of packets under way
    uint8_t bytes[];
};

struct sim_network_faults {
    uint32_t loss_ppm;
    uint32_t duplicate_ppm;
    uint32_t spike_ppm; // packets that take up to spike_max instead of delay_max
    sim_time delay_min, delay_max, spike_max;
};

struct sim_network_counts {
    uint64_t sent, delivered, lost, cut, doubled, overtaken;
};

// Takes the packet over: the receiver releases it with sim_network_release().
typedef void sim_network_deliver(void *context, struct sim_packet *packet);

// May change the delay of a packet about to travel (a schedule made by an adversary), or return
// false to lose it.
typedef bool sim_network_schedule(void *context, const struct sim_packet *packet, sim_time *delay);

#define SIM_PACKET_CLASSES 15 // free lists by power of two, from 64 bytes

struct sim_network {
    struct sim_events *events;
    struct sim_random random;
    struct sim_network_faults faults;
    struct sim_network_counts counts;
    uint32_t cut[SIM_NODES];                     // bit `to` of cut[from]: nothing gets through
    uint64_t last_arrival[SIM_NODES][SIM_NODES]; // to count overtaking
    struct sim_packet *flight[SIM_NETWORK_FLIGHT];
    uint32_t free_slots[SIM_NETWORK_FLIGHT];
    uint32_t free_slot_count;
    struct sim_packet *free_packets[SIM_PACKET_CLASSES];
    sim_network_deliver *deliver;
    sim_network_schedule *schedule;
    void *context;
};

void sim_network_init(struct sim_network *network, struct sim_events *events,
                      sim_network_deliver *deliver, void *context);
void sim_network_free(struct sim_network *network);

// Ready for the next run: all links whole, nothing under way, faults off.
void sim_network_reset(struct sim_network *network, uint64_t seed);

// A packet with room for `size` bytes, to be filled and handed to sim_network_send().
struct sim_packet *sim_network_packet(struct sim_network *network, uint32_t size);
void sim_network_send(struct sim_network *network, struct sim_packet *packet, unsigned from,
                      unsigned to);
void sim_network_release(struct sim_network *network, struct sim_packet *packet);

void sim_network_cut(struct sim_network *network, unsigned from, unsigned to);
void sim_network_join(struct sim_network *network, unsigned from, unsigned to);
void sim_network_join_all(struct sim_network *network);
bool sim_network_is_cut(const struct sim_network *network, unsigned from, unsigned to);
