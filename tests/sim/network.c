#include "network.h"

#include <stdlib.h>
#include <string.h>

void sim_network_init(struct sim_network *network, struct sim_events *events,
                      sim_network_deliver *deliver, void *context)
{
    memset(network, 0, sizeof(*network));
    network->events = events;
    network->deliver = deliver;
    network->context = context;
    network->free_slot_count = SIM_NETWORK_FLIGHT;
    for (uint32_t i = 0; i < SIM_NETWORK_FLIGHT; i++)
        network->free_slots[i] = SIM_NETWORK_FLIGHT - 1 - i;
}

void sim_network_free(struct sim_network *network)
{
    sim_network_reset(network, 0);
    for (int i = 0; i < SIM_PACKET_CLASSES; i++) {
        struct sim_packet *packet;

        while ((packet = network->free_packets[i])) {
            network->free_packets[i] = packet->next;
            free(packet);
        }
    }
}

void sim_network_reset(struct sim_network *network, uint64_t seed)
{
    for (uint32_t i = 0; i < SIM_NETWORK_FLIGHT; i++) {
        if (network->flight[i])
            sim_network_release(network, network->flight[i]);
        network->flight[i] = NULL;
        network->free_slots[i] = SIM_NETWORK_FLIGHT - 1 - i;
    }
    network->free_slot_count = SIM_NETWORK_FLIGHT;
    network->schedule = NULL;
    memset(&network->faults, 0, sizeof(network->faults));
    memset(&network->counts, 0, sizeof(network->counts));
    memset(network->cut, 0, sizeof(network->cut));
    memset(network->last_arrival, 0, sizeof(network->last_arrival));
    sim_random_seed(&network->random, seed, 0x6e6574);
}

/* The smallest class whose packets hold `size` bytes. */
static unsigned packet_class(uint32_t size)
{
    unsigned class = 0;

    while (class + 1 < SIM_PACKET_CLASSES && (64u << class) < size)
        class ++;
    return class;
}

struct sim_packet *sim_network_packet(struct sim_network *network, uint32_t size)
{
    unsigned class = packet_class(size);
    struct sim_packet *packet = network->free_packets[class];

    if (packet) {
        network->free_packets[class] = packet->next;
    } else {
        packet = sim_allocate(sizeof(*packet) + (64u << class));
        packet->room = 64u << class;
    }
    packet->next = NULL;
    packet->size = size;
    return packet;
}

void sim_network_release(struct sim_network *network, struct sim_packet *packet)
{
    unsigned class = packet_class(packet->room);

    packet->next = network->free_packets[class];
    network->free_packets[class] = packet;
}

static void network_arrive(void *owner, uint64_t slot)
{
    struct sim_network *network = owner;
    struct sim_packet *packet = network->flight[slot];

    network->flight[slot] = NULL;
    network->free_slots[network->free_slot_count++] = (uint32_t)slot;
    if (sim_network_is_cut(network, packet->from, packet->to)) {
        network->counts.cut++;
        sim_network_release(network, packet);
        return;
    }
    network->counts.delivered++;
    network->deliver(network->context, packet);
}

static void network_travel(struct sim_network *network, struct sim_packet *packet)
{
    const struct sim_network_faults *faults = &network->faults;
    sim_time longest = faults->delay_max, delay, arrival;
    uint64_t *last = &network->last_arrival[packet->from][packet->to];

    if (sim_random_chance(&network->random, faults->spike_ppm))
        longest = faults->spike_max;
    delay = sim_random_between(&network->random, faults->delay_min,
                               longest > faults->delay_min ? longest : faults->delay_min);
    if ((network->schedule && !network->schedule(network->context, packet, &delay)) ||
        network->free_slot_count == 0) {
        network->counts.lost++;
        sim_network_release(network, packet);
        return;
    }
    arrival = network->events->now + delay;
    if (arrival < *last)
        network->counts.overtaken++;
    else
        *last = arrival;
    packet->flight = network->free_slots[--network->free_slot_count];
    network->flight[packet->flight] = packet;
    sim_events_add(network->events, delay, network_arrive, network, packet->flight);
}

void sim_network_send(struct sim_network *network, struct sim_packet *packet, unsigned from,
                      unsigned to)
{
    packet->from = (uint16_t)from;
    packet->to = (uint16_t)to;
    network->counts.sent++;
    if (sim_network_is_cut(network, from, to)) {
        network->counts.cut++;
        sim_network_release(network, packet);
        return;
    }
    if (sim_random_chance(&network->random, network->faults.loss_ppm)) {
        network->counts.lost++;
        sim_network_release(network, packet);
        return;
    }
    if (sim_random_chance(&network->random, network->faults.duplicate_ppm)) {
        struct sim_packet *twin = sim_network_packet(network, packet->size);

        memcpy(twin->bytes, packet->bytes, packet->size);
        twin->from = packet->from;
        twin->to = packet->to;
        network->counts.doubled++;
        network_travel(network, twin);
    }
    network_travel(network, packet);
}

void sim_network_cut(struct sim_network *network, unsigned from, unsigned to)
{
    network->cut[from] |= 1u << to;
}

void sim_network_join(struct sim_network *network, unsigned from, unsigned to)
{
    network->cut[from] &= ~(1u << to);
}

void sim_network_join_all(struct sim_network *network)
{
    memset(network->cut, 0, sizeof(network->cut));
}

bool sim_network_is_cut(const struct sim_network *network, unsigned from, unsigned to)
{
    return network->cut[from] >> to & 1;
}
