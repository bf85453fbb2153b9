// An adversary that decides when each message arrives and wants no leader ever to be elected.
//
// Fischer, Lynch and Paterson: no deterministic protocol that survives one crash can be kept from
// staying undecided for ever. Here the adversary may delay every message, but by less than an
// election time-out, loses none, and can't foresee random numbers. With fixed time-outs all servers
// campaign together again and again, each has voted for itself when the others' requests arrive,
// and there is no leader for as long as it plays. With random time-outs one server is ahead of the
// others by more than the delays often enough. With unbounded delays it wins against any time-outs:
// then there is no progress, yet nothing wrong is ever agreed, and a leader is there soon after it
// stops.
#include "cluster.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define GAME 1000 // simulated seconds that it plays

struct adversary {
    struct sim_cluster *cluster;
    struct raft_message_decoded decoded;
    sim_time round;    // when the first pre-vote request of this round of campaigns was sent
    sim_time election; // the least election time-out
    bool fixed;        // time-outs
    bool bounded;
    unsigned size;
};

static struct adversary adversary;

// All pre-votes of a round are granted at the same moment, so all become candidates at once;
// requests for votes arrive when everyone has long voted for itself.
static bool adversary_schedule(void *context, const struct sim_packet *packet, sim_time *delay)
{
    sim_time now = adversary.cluster->events.now, arrival = now + *delay;

    if (raft_message_decode(&adversary.decoded, packet->bytes, packet->size) != 0)
        return true;
    switch (adversary.decoded.message.type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
        if (now > adversary.round + adversary.election * 9 / 10)
            adversary.round = now;
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
        arrival = adversary.round + adversary.election * 3 / 10;
        break;
    case RAFT_MESSAGE_VOTE_REQUEST:
        arrival = adversary.round + adversary.election * 6 / 10;
        if (!adversary.bounded)
            arrival = now + 100 * adversary.election;
        break;
    default:
        break;
    }
    if (arrival > now)
        *delay = arrival - now;
    return true;
}

static void adversary_plan(struct sim_plan *plan, struct sim_random *random)
{
    memset(plan->every, 0, sizeof(plan->every));
    plan->voters = adversary.size;
    plan->learners = plan->clients = 0;
    plan->duration = 10 * GAME * SIM_SECOND;
    plan->network = (struct sim_network_faults){.delay_min = 500, .delay_max = 1000};
    plan->disk = (struct sim_disk_faults){.sync_min = 500, .sync_max = 1000};
    plan->drift_max_ppm = 0;
    plan->memory_ppm = 0;
    plan->tick_length = 50 * SIM_MILLISECOND;
    plan->options.heartbeat_ticks = 2;
    plan->options.election_ticks_min = 20;
    plan->options.election_ticks_max = 40;
    plan->fixed_timeouts = adversary.fixed;
    adversary.election = plan->tick_length * plan->options.election_ticks_min;
}

static void adversary_prepare(struct sim_cluster *cluster)
{
    adversary.cluster = cluster;
    adversary.round = 0;
    cluster->network.schedule = adversary_schedule;
}

// Plays until there is a leader, at most GAME seconds. Seconds that it took, or -1.
static double play(struct sim_cluster *cluster, uint64_t seed, bool *safe, double *after)
{
    static const struct sim_profile profile = {"adversary", "", adversary_plan};
    double took = -1;

    cluster->prepare = adversary_prepare;
    sim_cluster_begin(cluster, seed, &profile);
    while (!cluster->failed && !cluster->checker.leaders &&
           cluster->events.now < GAME * SIM_SECOND && sim_events_step(&cluster->events))
        ;
    if (cluster->checker.leaders)
        took = (double)cluster->events.now / SIM_SECOND;
    cluster->network.schedule = NULL;
    while (!cluster->failed && !cluster->checker.leaders &&
           cluster->events.now < 2 * GAME * SIM_SECOND && sim_events_step(&cluster->events))
        ;
    *after = cluster->checker.leaders ? (double)cluster->events.now / SIM_SECOND - GAME : GAME;
    *safe &= !cluster->failed;
    if (cluster->failed)
        printf("# seed %llu: %s: %s\n", (unsigned long long)seed, cluster->rule, cluster->failure);
    sim_cluster_end(cluster);
    return took;
}

static void play_fixed(struct tap *tap, struct sim_cluster *cluster, unsigned size)
{
    unsigned games = 10, elected = 0;
    bool safe = true;
    double after;

    adversary.fixed = adversary.bounded = true;
    adversary.size = size;
    for (uint64_t seed = 1; seed <= games; seed++)
        elected += play(cluster, seed, &safe, &after) >= 0;
    tap_ok(tap, elected == 0 && safe,
           "%u servers, fixed time-outs, bounded delays: no leader in %d s (%u of %u games)", size,
           GAME, games - elected, games);
}

static void play_random(struct tap *tap, struct sim_cluster *cluster, unsigned size)
{
    unsigned games = 200, elected = 0;
    double longest = 0, sum = 0, after;
    bool safe = true;

    adversary.fixed = false;
    adversary.bounded = true;
    adversary.size = size;
    for (uint64_t seed = 1; seed <= games; seed++) {
        double took = play(cluster, seed, &safe, &after);

        elected += took >= 0;
        sum += took;
        longest = took > longest ? took : longest;
    }
    tap_ok(tap, elected == games && safe,
           "%u servers, random time-outs, bounded delays: a leader in all %u games, after %.1f s, "
           "at most %.1f s",
           size, games, sum / games, longest);
}

static void play_unbounded(struct tap *tap, struct sim_cluster *cluster, unsigned size)
{
    unsigned games = 20, elected = 0;
    bool safe = true;
    double longest = 0, after;

    adversary.fixed = adversary.bounded = false;
    adversary.size = size;
    for (uint64_t seed = 1; seed <= games; seed++) {
        elected += play(cluster, seed, &safe, &after) >= 0;
        longest = after > longest ? after : longest;
    }
    tap_ok(tap, elected == 0 && safe,
           "%u servers, random time-outs, unbounded delays: no leader, and nothing unsafe", size);
    tap_ok(tap, longest < 60, "a leader at most %.1f s after the adversary stopped", longest);
}

int main(void)
{
    struct tap tap = {0};
    struct sim_cluster *cluster = sim_cluster_create();

    for (unsigned size = 3; size <= 5; size += 2) {
        play_fixed(&tap, cluster, size);
        play_random(&tap, cluster, size);
        play_unbounded(&tap, cluster, size);
    }
    sim_cluster_destroy(cluster);
    return tap_end(&tap);
}
