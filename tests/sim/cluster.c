#include "cluster.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTLE_LOOK   (50 * SIM_MILLISECOND)
#define EVENTS_MAX    3000000
#define LINEARIZE_MAX 2000000 // steps for one key

void sim_fail(struct sim_cluster *cluster, const char *rule, const char *format, ...)
{
    va_list arguments;
    int length;

    if (cluster->failed)
        return;
    cluster->failed = true;
    snprintf(cluster->rule, sizeof(cluster->rule), "%s", rule);
    length = snprintf(cluster->failure, sizeof(cluster->failure),
                      "at %.6f s: ", (double)cluster->events.now / SIM_SECOND);
    va_start(arguments, format);
    vsnprintf(cluster->failure + length, sizeof(cluster->failure) - (size_t)length, format,
              arguments);
    va_end(arguments);
    SIM_TRACE(cluster, "FAILED: %s: %s", rule, cluster->failure);
}

void sim_note(struct sim_cluster *cluster, uint64_t what, uint64_t value)
{
    uint64_t hash = sim_hash(cluster->trace.hash, cluster->events.now);

    cluster->trace.hash = sim_hash(sim_hash(hash, what), value);
}

void sim_print(struct sim_cluster *cluster, const char *format, ...)
{
    va_list arguments;

    printf("%10.6f  ", (double)cluster->events.now / SIM_SECOND);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

static void cluster_deliver(void *context, struct sim_packet *packet)
{
    struct sim_cluster *cluster = context;

    if (packet->to >= SIM_CLIENT_NODE) {
        sim_client_receive(&cluster->clients[packet->to - SIM_CLIENT_NODE], packet);
        sim_network_release(&cluster->network, packet);
        return;
    }
    sim_host_receive(&cluster->members[packet->to].host, packet);
}

struct sim_cluster *sim_cluster_create(void)
{
    struct sim_cluster *cluster = sim_allocate(sizeof(*cluster));

    // Cores come and go thousands of times a second: their large blocks must not go back to the
    // kernel each time.
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    memset(cluster, 0, sizeof(*cluster));
    sim_events_init(&cluster->events);
    sim_network_init(&cluster->network, &cluster->events, cluster_deliver, cluster);
    for (unsigned i = 0; i < SIM_MEMBERS; i++)
        sim_member_init(cluster, &cluster->members[i], i);
    cluster->linearizer = sim_linearizer_create();
    return cluster;
}

void sim_cluster_destroy(struct sim_cluster *cluster)
{
    for (unsigned i = 0; i < SIM_MEMBERS; i++)
        sim_member_free(&cluster->members[i]);
    sim_network_free(&cluster->network);
    sim_events_free(&cluster->events);
    sim_linearizer_destroy(cluster->linearizer);
    sim_checker_free(&cluster->checker);
    free(cluster->history);
    free(cluster);
}

// ---- the beginning ----

static void found_members(struct sim_cluster *cluster)
{
    struct raft_configuration founders = {0};
    unsigned count = cluster->plan.voters + cluster->plan.learners;

    for (unsigned slot = 0; slot < count; slot++) {
        struct raft_member member = {
            .id = sim_member_id(cluster, slot),
            .roles = slot < cluster->plan.voters ? RAFT_VOTER : RAFT_LEARNER,
        };
        uint32_t at = founders.count++;

        for (; at > 0 && founders.members[at - 1].id > member.id; at--)
            founders.members[at] = founders.members[at - 1];
        founders.members[at] = member;
    }
    for (unsigned slot = 0; slot < count && !cluster->failed; slot++)
        sim_member_create(cluster, &founders);
    for (unsigned slot = 0; slot < count && !cluster->failed; slot++)
        if (sim_member_start(&cluster->members[slot]))
            sim_member_pump(&cluster->members[slot]);
}

static void cluster_heal_event(void *owner, uint64_t argument)
{
    (void)argument;
    sim_cluster_heal(owner);
}

void sim_cluster_begin(struct sim_cluster *cluster, uint64_t seed,
                       const struct sim_profile *profile)
{
    sim_plan_draw(&cluster->plan, seed, profile);
    sim_events_reset(&cluster->events);
    sim_network_reset(&cluster->network, seed);
    sim_checker_reset(&cluster->checker);
    sim_random_seed(&cluster->random, seed, 0x66617573);
    cluster->seed = seed;
    cluster->network.faults = cluster->plan.network;
    cluster->member_count = 0;
    cluster->next_session = 0;
    cluster->history_count = 0;
    cluster->trace.hash = seed;
    cluster->healed = cluster->over = cluster->failed = false;
    cluster->settled_at = 0;
    cluster->transfer_to = -1;
    if (cluster->prepare)
        cluster->prepare(cluster);
    found_members(cluster);
    for (unsigned i = 0; i < cluster->plan.clients; i++)
        sim_client_start(cluster, i);
    sim_faults_start(cluster);
    sim_events_add(&cluster->events, cluster->plan.duration, cluster_heal_event, cluster, 0);
}

// ---- healing, and what must follow ----

static const struct sim_member *settled_leader(const struct sim_cluster *cluster)
{
    const struct sim_member *best = NULL;

    for (unsigned i = 0; i < cluster->member_count; i++) {
        const struct sim_member *member = &cluster->members[i];

        if (sim_member_up(member) && member->view.role == RAFT_LEADER &&
            (!best || member->view.term > best->view.term))
            best = member;
    }
    return best;
}

// What is still missing before the cluster is as it should be, or NULL.
static const char *not_settled(const struct sim_cluster *cluster)
{
    const struct sim_member *leader = settled_leader(cluster);
    uint32_t members;

    for (unsigned i = 0; i < cluster->plan.clients; i++)
        if (cluster->clients[i].active)
            return "a client still waits";
    if (!leader)
        return "no leader";
    if (leader->view.voters.old)
        return "the configuration is joint";
    if (leader->view.commit != leader->view.last.index)
        return "the leader has uncommitted entries";
    members = leader->view.voters.fresh | leader->view.voters.learners;
    for (unsigned i = 0; i < cluster->member_count; i++) {
        const struct sim_member *member = &cluster->members[i];

        if (!(members >> i & 1) || member->lost)
            continue;
        if (!member->host.up)
            return "a member is down";
        if (member->view.term > leader->view.term)
            return "a member's own vote waits for its disk"; // and will end this leader's term
        if (member->machine.applied != leader->machine.applied ||
            leader->machine.applied != leader->view.commit)
            return "a member lacks entries";
        if (member->machine.chain != leader->machine.chain)
            return "two members differ in state";
    }
    return NULL;
}

static sim_time election_time(const struct sim_cluster *cluster)
{
    return cluster->plan.tick_length * cluster->plan.options.election_ticks_max;
}

// Longest that a healed cluster may take: elections that failed by chance, and everything to catch
// up.
static sim_time settle_limit(const struct sim_cluster *cluster)
{
    return 20 * SIM_SECOND + cluster->plan.network.spike_max + 60 * election_time(cluster);
}

// Packets sent before the healing, such as an order to campaign, have arrived by then and had their
// effect.
static sim_time quiet_from(const struct sim_cluster *cluster)
{
    sim_time packets = cluster->plan.network.delay_max;

    if (cluster->plan.network.spike_ppm)
        packets = cluster->plan.network.spike_max;
    return cluster->healed_at + packets + 2 * election_time(cluster);
}

// In a settled cluster a transfer of leadership works, at once and to the server that was named.
static void begin_last_transfer(struct sim_cluster *cluster)
{
    const struct sim_member *leader = settled_leader(cluster);
    unsigned start = (unsigned)sim_random_below(&cluster->random, cluster->member_count);
    int error;

    for (unsigned i = 0; i < cluster->member_count; i++) {
        struct sim_member *target = &cluster->members[(start + i) % cluster->member_count];

        if (target == leader || target->lost || !(leader->view.voters.fresh >> target->slot & 1))
            continue;
        cluster->transfer_to = (int)target->slot;
        cluster->transfer_at = cluster->events.now;
        error = raft_transfer_leadership(leader->raft, target->id);
        SIM_TRACE(cluster, "operator: a last transfer from %u to %u", leader->slot, target->slot);
        if (error)
            sim_fail(cluster, "transfer", "refused in a settled cluster: %s", raft_strerror(error));
        sim_member_pump(&cluster->members[leader->slot]);
        return;
    }
    cluster->over = true; // nobody else could lead
}

static void check_last_transfer(struct sim_cluster *cluster)
{
    const struct sim_member *target = &cluster->members[cluster->transfer_to];

    if (target->view.role == RAFT_LEADER && !not_settled(cluster)) {
        cluster->counters.transfers_completed++;
        cluster->over = true;
    } else if (cluster->events.now >
               cluster->transfer_at + 2 * election_time(cluster) + SIM_SECOND) {
        sim_fail(cluster, "transfer", "in a settled cluster to member %u didn't happen",
                 cluster->transfer_to);
    }
}

// A settled cluster stays so: nobody campaigns, least of all a removed server or a learner.
static void check_quiet(struct sim_cluster *cluster, const char *missing)
{
    if (missing)
        sim_fail(cluster, "stability", "after all had settled: %s", missing);
    if (cluster->checker.highest_term != cluster->settled_term)
        sim_fail(cluster, "stability", "term %llu came up after all had settled in term %llu",
                 (unsigned long long)cluster->checker.highest_term,
                 (unsigned long long)cluster->settled_term);
    if (!cluster->failed && cluster->events.now >= cluster->settled_at + 3 * election_time(cluster))
        begin_last_transfer(cluster);
}

static void cluster_look(void *owner, uint64_t argument)
{
    struct sim_cluster *cluster = owner;
    const char *missing = not_settled(cluster);

    (void)argument;
    sim_events_add(&cluster->events, SETTLE_LOOK, cluster_look, cluster, 0);
    if (cluster->transfer_to >= 0) {
        check_last_transfer(cluster);
        return;
    }
    if (cluster->settled_at) {
        check_quiet(cluster, missing);
        return;
    }
    if (missing && cluster->events.now > cluster->healed_at + settle_limit(cluster))
        sim_fail(cluster, "liveness", "%.1f s after healing: %s",
                 (double)(cluster->events.now - cluster->healed_at) / SIM_SECOND, missing);
    if (missing || cluster->events.now < quiet_from(cluster))
        return;
    SIM_TRACE(cluster, "all members are the same");
    cluster->settled_at = cluster->events.now;
    cluster->settled_term = cluster->checker.highest_term;
}

// Elections need disks and networks that are much faster than the time-outs (section 5.6 of the
// paper).
static sim_time fast(const struct sim_cluster *cluster, sim_time least, sim_time most)
{
    sim_time limit =
        cluster->plan.tick_length * cluster->plan.options.election_ticks_min / 15 + least;

    return most < limit ? most : limit;
}

static void heal_member(struct sim_member *member)
{
    struct sim_disk_faults *faults = &member->disk.faults;

    faults->sync_max = fast(member->cluster, faults->sync_min, faults->sync_max);
    member->disk.faults.stall_ppm = member->disk.faults.sync_error_ppm = 0;
    member->disk.capacity = UINT64_MAX;
    member->disk.crash_after = 0;
    member->refuse_memory = member->journal.refuse_memory = false;
    if (!member->used || member->lost)
        return;
    sim_disk_unhang(&member->disk);
    if (member->host.paused)
        sim_host_resume(&member->host, false, 0);
    if (!member->host.up)
        sim_faults_restart_later(member);
}

void sim_cluster_heal(struct sim_cluster *cluster)
{
    SIM_TRACE(cluster, "everything is healed");
    cluster->healed = true;
    cluster->healed_at = cluster->events.now;
    sim_network_join_all(&cluster->network);
    cluster->network.faults.loss_ppm = cluster->network.faults.duplicate_ppm = 0;
    cluster->network.faults.spike_ppm = 0;
    cluster->network.faults.delay_max =
        fast(cluster, cluster->network.faults.delay_min, cluster->network.faults.delay_max);
    for (unsigned i = 0; i < cluster->member_count; i++)
        heal_member(&cluster->members[i]);
    sim_events_add(&cluster->events, SETTLE_LOOK, cluster_look, cluster, 0);
}

// ---- the end ----

static void check_history(struct sim_cluster *cluster)
{
    size_t kept = 0;
    uint32_t key = 0;

    // A read that never returned says nothing.
    for (size_t i = 0; i < cluster->history_count; i++)
        if (cluster->history[i].kind != SIM_REGISTER_GET ||
            cluster->history[i].returned != SIM_NEVER)
            cluster->history[kept++] = cluster->history[i];
    cluster->history_count = kept;
    switch (sim_linearize(cluster->linearizer, cluster->history, kept, LINEARIZE_MAX, &key)) {
    case SIM_NOT_LINEARIZABLE:
        sim_fail(cluster, "linearizability", "the history of key %u can't be put in order", key);
        break;
    case SIM_UNDECIDED:
        cluster->counters.undecided_histories++;
        break;
    case SIM_LINEARIZABLE:
        break;
    }
}

static void cluster_count(struct sim_cluster *cluster)
{
    struct sim_counters *counters = &cluster->counters;

    counters->packets_lost += cluster->network.counts.lost;
    counters->packets_doubled += cluster->network.counts.doubled;
    counters->packets_overtaken += cluster->network.counts.overtaken;
    counters->packets_cut += cluster->network.counts.cut;
    counters->simulated_microseconds += cluster->events.now;
    counters->runs++;
}

void sim_cluster_end(struct sim_cluster *cluster)
{
    cluster_count(cluster);
    for (unsigned i = 0; i < SIM_MEMBERS; i++)
        sim_member_forget(&cluster->members[i]);
}

bool sim_cluster_run(struct sim_cluster *cluster, uint64_t seed, const struct sim_profile *profile)
{
    sim_cluster_begin(cluster, seed, profile);
    while (!cluster->failed && !cluster->over && sim_events_step(&cluster->events))
        if (cluster->events.done > EVENTS_MAX)
            sim_fail(cluster, "events", "more than %d of them", EVENTS_MAX);
    if (!cluster->failed)
        check_history(cluster);
    sim_cluster_end(cluster);
    return !cluster->failed;
}
