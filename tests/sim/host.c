#include "host.h"

#include <string.h>

void sim_host_init(struct sim_host *host, struct sim_events *events, struct sim_network *network,
                   unsigned node, const struct sim_host_ops *ops)
{
    memset(host, 0, sizeof(*host));
    host->events = events;
    host->network = network;
    host->node = node;
    host->ops = ops;
    host->inbox_end = &host->inbox;
}

static sim_time host_tick_delay(const struct sim_host *host)
{
    return host->tick_length * 1000000 / (uint64_t)(1000000 + host->drift_ppm);
}

static void host_tick(void *owner, uint64_t incarnation)
{
    struct sim_host *host = owner;

    if (!host->up || host->incarnation != incarnation)
        return;
    sim_events_add(host->events, host_tick_delay(host), host_tick, host, incarnation);
    if (!host->paused)
        host->ops->tick(host);
}

void sim_host_start(struct sim_host *host, sim_time tick_length, struct sim_random *random)
{
    sim_time delay;

    host->up = true;
    host->paused = false;
    host->incarnation++;
    host->tick_length = tick_length;
    delay = random ? sim_random_below(random, host_tick_delay(host)) : host_tick_delay(host);
    sim_events_add(host->events, delay, host_tick, host, host->incarnation);
}

static void host_drop_inbox(struct sim_host *host)
{
    struct sim_packet *packet;

    while ((packet = host->inbox)) {
        host->inbox = packet->next;
        sim_network_release(host->network, packet);
    }
    host->inbox_end = &host->inbox;
    host->inbox_count = 0;
}

void sim_host_stop(struct sim_host *host)
{
    host->up = false;
    host->paused = false;
    host_drop_inbox(host);
}

void sim_host_pause(struct sim_host *host)
{
    if (!host->up || host->paused)
        return;
    host->paused = true;
    host->paused_at = host->events->now;
}

static void host_make_up_ticks(struct sim_host *host, uint64_t count, uint32_t incarnation)
{
    while (count-- > 0 && host->up && host->incarnation == incarnation)
        host->ops->tick(host);
}

static void host_read_inbox(struct sim_host *host, uint32_t incarnation)
{
    while (host->inbox && host->up && host->incarnation == incarnation) {
        struct sim_packet *packet = host->inbox;

        host->inbox = packet->next;
        host->inbox_count--;
        if (!host->inbox)
            host->inbox_end = &host->inbox;
        host->ops->packet(host, packet);
        sim_network_release(host->network, packet);
    }
}

void sim_host_resume(struct sim_host *host, bool ticks_first, unsigned missed_max)
{
    uint32_t incarnation = host->incarnation;
    uint64_t missed;

    if (!host->up || !host->paused)
        return;
    host->paused = false;
    missed = (host->events->now - host->paused_at) / host_tick_delay(host);
    if (missed > missed_max)
        missed = missed_max;
    if (ticks_first)
        host_make_up_ticks(host, missed, incarnation);
    host_read_inbox(host, incarnation);
    if (!ticks_first)
        host_make_up_ticks(host, missed, incarnation);
}

void sim_host_receive(struct sim_host *host, struct sim_packet *packet)
{
    if (host->up && host->paused && host->inbox_count < SIM_HOST_INBOX) {
        packet->next = NULL;
        *host->inbox_end = packet;
        host->inbox_end = &packet->next;
        host->inbox_count++;
        return;
    }
    if (host->up && !host->paused)
        host->ops->packet(host, packet);
    sim_network_release(host->network, packet);
}
