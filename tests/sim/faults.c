// What goes wrong, at the rates of the plan. Each kind has a chain of events of its own.
#include "cluster.h"

static sim_time drawn(struct sim_cluster *cluster, sim_time longest)
{
    return sim_random_between(&cluster->random, 1, longest);
}

static struct sim_member *pick_up(struct sim_cluster *cluster)
{
    unsigned start = (unsigned)sim_random_below(&cluster->random, cluster->member_count);

    for (unsigned i = 0; i < cluster->member_count; i++) {
        struct sim_member *member = &cluster->members[(start + i) % cluster->member_count];

        if (sim_member_up(member))
            return member;
    }
    return NULL;
}

// The leader of the highest term, by its own view.
static struct sim_member *pick_leader(struct sim_cluster *cluster)
{
    struct sim_member *best = NULL;

    for (unsigned i = 0; i < cluster->member_count; i++) {
        struct sim_member *member = &cluster->members[i];

        if (sim_member_up(member) && member->view.role == RAFT_LEADER && !member->host.paused &&
            (!best || member->view.term > best->view.term))
            best = member;
    }
    return best;
}

static struct sim_member *pick_often_leader(struct sim_cluster *cluster)
{
    struct sim_member *leader = NULL;

    if (sim_random_chance(&cluster->random, 400000))
        leader = pick_leader(cluster);
    return leader ? leader : pick_up(cluster);
}

// ---- processes ----

static void fault_restart(void *owner, uint64_t incarnation)
{
    struct sim_member *member = owner;

    if (member->host.incarnation != incarnation || member->host.up || member->lost)
        return;
    member->cluster->counters.restarts++;
    // Power may fail again while the disk is being read and its journal rewritten.
    if (!member->cluster->healed && member->cluster->plan.every[SIM_FAULT_WRITE_CRASH] &&
        sim_random_chance(&member->cluster->random, 150000))
        member->disk.crash_after = (uint32_t)sim_random_between(&member->cluster->random, 1, 40);
    if (sim_member_start(member))
        sim_member_pump(member);
    else if (!member->cluster->failed)
        sim_faults_restart_later(member);
}

void sim_faults_restart_later(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;

    sim_events_add(&cluster->events,
                   cluster->healed ? SIM_MILLISECOND : drawn(cluster, cluster->plan.down_max),
                   fault_restart, member, member->host.incarnation);
}

static void crash(struct sim_member *member, enum sim_crash how)
{
    if (!member)
        return;
    sim_member_crash(member, how);
    sim_faults_restart_later(member);
}

static void crash_all(struct sim_cluster *cluster)
{
    for (unsigned i = 0; i < cluster->member_count; i++)
        if (sim_member_up(&cluster->members[i]))
            crash(&cluster->members[i], SIM_POWER_LOSS);
}

static void fault_resume(void *owner, uint64_t incarnation)
{
    struct sim_member *member = owner;
    struct sim_cluster *cluster = member->cluster;

    if (!member->host.up || member->host.incarnation != incarnation)
        return;
    SIM_TRACE(cluster, "member %u goes on", member->slot);
    sim_host_resume(&member->host, sim_random_chance(&cluster->random, 500000),
                    cluster->plan.missed_ticks_max);
}

static void pause_member(struct sim_member *member)
{
    struct sim_cluster *cluster;

    if (!member || member->host.paused)
        return;
    cluster = member->cluster;
    cluster->counters.pauses++;
    cluster->counters.leader_pauses += member->view.role == RAFT_LEADER;
    SIM_TRACE(cluster, "member %u is paused", member->slot);
    sim_host_pause(&member->host);
    sim_events_add(&cluster->events, drawn(cluster, cluster->plan.pause_max), fault_resume, member,
                   member->host.incarnation);
}

// ---- links ----

static void partition(struct sim_cluster *cluster)
{
    uint32_t side = (uint32_t)sim_random_next(&cluster->random); // clients as well

    cluster->counters.partitions++;
    SIM_TRACE(cluster, "partition: %x on one side", side & ((1u << cluster->member_count) - 1));
    for (unsigned from = 0; from < SIM_NODES; from++)
        for (unsigned to = 0; to < SIM_NODES; to++)
            if ((side >> from & 1) != (side >> to & 1))
                sim_network_cut(&cluster->network, from, to);
}

// Some links of one member in one direction: it hears but isn't heard, or the other way round.
static void cut_one_way(struct sim_cluster *cluster)
{
    struct sim_member *member = pick_often_leader(cluster);
    uint32_t others = (uint32_t)sim_random_next(&cluster->random);
    bool out = sim_random_chance(&cluster->random, 500000);

    if (!member)
        return;
    if (sim_random_chance(&cluster->random, 500000))
        others = UINT32_MAX;
    cluster->counters.one_way_cuts++;
    SIM_TRACE(cluster, "member %u can't %s %x", member->slot, out ? "send to" : "hear", others);
    for (unsigned i = 0; i < cluster->member_count; i++) {
        if (i == member->slot || !(others >> i & 1))
            continue;
        if (out)
            sim_network_cut(&cluster->network, member->slot, i);
        else
            sim_network_cut(&cluster->network, i, member->slot);
    }
}

// Every member reaches its two neighbours only: no two agree on who is reachable.
static void cut_to_ring(struct sim_cluster *cluster)
{
    unsigned count = cluster->member_count;

    cluster->counters.partition_rings++;
    SIM_TRACE(cluster, "links are cut to a ring");
    for (unsigned from = 0; from < count; from++)
        for (unsigned to = 0; to < count; to++)
            if (to != from && to != (from + 1) % count && from != (to + 1) % count)
                sim_network_cut(&cluster->network, from, to);
}

static void join_all(struct sim_cluster *cluster)
{
    SIM_TRACE(cluster, "all links are whole");
    sim_network_join_all(&cluster->network);
}

// ---- disks ----

static void fault_unhang(void *owner, uint64_t incarnation)
{
    struct sim_member *member = owner;

    if (member->host.incarnation == incarnation)
        sim_disk_unhang(&member->disk);
}

static void hang_disk(struct sim_member *member)
{
    struct sim_cluster *cluster;

    if (!member)
        return;
    cluster = member->cluster;
    cluster->counters.disk_hangs++;
    SIM_TRACE(cluster, "member %u's disk hangs", member->slot);
    member->disk.hung = true;
    sim_events_add(&cluster->events, drawn(cluster, cluster->plan.hang_max), fault_unhang, member,
                   member->host.incarnation);
}

static void fill_disk(struct sim_cluster *cluster, struct sim_member *member)
{
    if (member)
        member->disk.capacity = member->disk.used + sim_random_below(&cluster->random, 2000);
}

// Whether every configuration that may come to count keeps a majority of servers that can come
// back.
static bool can_do_without(struct sim_cluster *cluster, uint32_t lost)
{
    for (unsigned i = 0; i < cluster->member_count; i++) {
        const struct sim_member *member = &cluster->members[i];

        if (member->lost)
            continue;
        if (!sim_quorum(&member->view.voters, ~lost) && member->view.voters.fresh)
            return false;
        for (unsigned c = 0; c < member->configuration_count; c++)
            if (member->configurations[c].voters.fresh &&
                (c + 1 == member->configuration_count ||
                 member->configurations[c + 1].index > cluster->checker.agreed_last) &&
                !sim_quorum(&member->configurations[c].voters, ~lost))
                return false;
    }
    return true;
}

static uint32_t lost_members(struct sim_cluster *cluster)
{
    uint32_t lost = 0;

    for (unsigned i = 0; i < cluster->member_count; i++)
        lost |= (uint32_t)cluster->members[i].lost << i;
    return lost;
}

// A server whose disk is gone must not come back under its old id: for the others it is dead for
// ever. A new server with an empty disk and a new id waits to be added.
static void lose_disk(struct sim_cluster *cluster)
{
    static const struct raft_configuration nobody;
    struct sim_member *member = pick_often_leader(cluster), *fresh;

    if (!member || cluster->member_count == SIM_MEMBERS ||
        !can_do_without(cluster, lost_members(cluster) | 1u << member->slot))
        return;
    cluster->counters.disks_lost++;
    SIM_TRACE(cluster, "member %u loses its disk", member->slot);
    sim_member_crash(member, SIM_POWER_LOSS);
    if (cluster->owner_mutant == SIM_OWNER_EMPTY_DISK_OLD_ID) {
        sim_member_found(member, &cluster->members[0].journal.current.snapshot.configuration);
        sim_faults_restart_later(member);
        return;
    }
    member->lost = true;
    fresh = sim_member_create(cluster, &nobody);
    if (sim_member_start(fresh))
        sim_member_pump(fresh);
}

// ---- the operator ----

static void propose(struct sim_cluster *cluster, struct sim_member *leader,
                    const struct raft_member *members, size_t count)
{
    struct raft_status before;
    int error;

    raft_inspect(leader->raft, &before);
    error = raft_propose_configuration(leader->raft, members, count, NULL);
    if (error)
        cluster->counters.changes_refused++;
    else
        sim_checker_proposed(leader, &before);
    SIM_TRACE(cluster, "operator: a change of members at %u: %s", leader->slot,
              error ? raft_strerror(error) : "begun");
    sim_member_pump(leader);
}

// A random set of members near the present one; false if it would not be able to go on.
static bool draw_members(struct sim_cluster *cluster, struct sim_member *leader,
                         bool without_leader, struct raft_configuration *next)
{
    static const struct raft_configuration nobody;
    uint64_t drop = sim_random_below(&cluster->random, cluster->plan.drop_percent + 1);
    struct raft_status status;
    struct sim_voters voters;

    raft_inspect(leader->raft, &status);
    next->count = 0;
    if (cluster->member_count < SIM_MEMBERS && sim_random_chance(&cluster->random, 200000)) {
        struct sim_member *fresh = sim_member_create(cluster, &nobody);

        if (sim_member_start(fresh))
            sim_member_pump(fresh);
    }
    for (unsigned i = 0; i < cluster->member_count; i++) {
        const struct sim_member *member = &cluster->members[i];
        uint8_t roles = raft_configuration_roles(status.configuration, member->id);
        uint64_t dice = sim_random_below(&cluster->random, 100);

        if (member->lost)
            continue;
        if (roles & RAFT_VOTER)
            roles = dice < drop ? 0 : dice < drop + 8 ? RAFT_LEARNER : RAFT_VOTER;
        else if (roles & RAFT_LEARNER)
            roles = dice < 60 ? RAFT_VOTER : dice < 85 ? RAFT_LEARNER : 0;
        else
            roles = dice < 50 ? RAFT_LEARNER : 0;
        if (without_leader && member == leader)
            roles = 0;
        if (roles)
            next->members[next->count++] = (struct raft_member){.id = member->id, .roles = roles};
    }
    voters = sim_voters_of(next);
    return voters.fresh && __builtin_popcount(voters.fresh) <= 7;
}

static void change_members(struct sim_cluster *cluster, bool without_leader)
{
    struct sim_member *leader = pick_leader(cluster);
    struct raft_configuration next;
    struct raft_status status;
    uint32_t learners;

    if (!leader || !draw_members(cluster, leader, without_leader, &next) || !sim_member_up(leader))
        return;
    raft_inspect(leader->raft, &status);
    learners = sim_voters_of(&next).learners & ~leader->view.voters.learners;
    cluster->counters.learners_added += learners != 0;
    cluster->counters.leaders_removed +=
        leader->view.role == RAFT_LEADER && raft_configuration_roles(&next, leader->id) == 0;
    // Ids are not in the order of slots: sort, as the interface wants them.
    for (uint32_t i = 1; i < next.count; i++)
        for (uint32_t j = i; j > 0 && next.members[j].id < next.members[j - 1].id; j--) {
            struct raft_member swap = next.members[j];

            next.members[j] = next.members[j - 1];
            next.members[j - 1] = swap;
        }
    propose(cluster, leader, next.members, next.count);
}

static void transfer(struct sim_cluster *cluster)
{
    struct sim_member *leader = pick_leader(cluster);
    unsigned target = (unsigned)sim_random_below(&cluster->random, cluster->member_count);
    int error;

    if (!leader)
        return;
    error = raft_transfer_leadership(leader->raft, cluster->members[target].id);
    SIM_TRACE(cluster, "operator: leadership from %u to %u: %s", leader->slot, target,
              error ? raft_strerror(error) : "begun");
    sim_member_pump(leader);
}

// ---- the chains ----

static void fault_happen(struct sim_cluster *cluster, enum sim_fault fault)
{
    struct sim_member *member;

    switch (fault) {
    case SIM_FAULT_CRASH:
        crash(pick_often_leader(cluster), SIM_POWER_LOSS);
        break;
    case SIM_FAULT_KILL:
        crash(pick_often_leader(cluster), SIM_KILLED);
        break;
    case SIM_FAULT_WRITE_CRASH:
        member = pick_often_leader(cluster);
        if (member && member->disk.crash_after == 0)
            member->disk.crash_after = (uint32_t)sim_random_between(&cluster->random, 1, 12);
        break;
    case SIM_FAULT_CRASH_ALL:
        crash_all(cluster);
        break;
    case SIM_FAULT_PAUSE:
        pause_member(pick_up(cluster));
        break;
    case SIM_FAULT_PAUSE_LEADER:
        pause_member(pick_leader(cluster));
        break;
    case SIM_FAULT_PARTITION:
        partition(cluster);
        break;
    case SIM_FAULT_ONE_WAY:
        cut_one_way(cluster);
        break;
    case SIM_FAULT_RING:
        cut_to_ring(cluster);
        break;
    case SIM_FAULT_HEAL:
        join_all(cluster);
        break;
    case SIM_FAULT_DISK_HANG:
        hang_disk(pick_often_leader(cluster));
        break;
    case SIM_FAULT_DISK_FULL:
        fill_disk(cluster, pick_up(cluster));
        break;
    case SIM_FAULT_DISK_LOST:
        lose_disk(cluster);
        break;
    case SIM_FAULT_MEMBERSHIP:
        change_members(cluster, false);
        break;
    case SIM_FAULT_REMOVE_LEADER:
        change_members(cluster, true);
        break;
    case SIM_FAULT_TRANSFER:
        transfer(cluster);
        break;
    case SIM_FAULT_COUNT:
        break;
    }
}

static void fault_event(void *owner, uint64_t fault)
{
    struct sim_cluster *cluster = owner;

    if (cluster->healed)
        return;
    sim_note(cluster, 0x70, fault);
    fault_happen(cluster, (enum sim_fault)fault);
    sim_events_add(&cluster->events, drawn(cluster, 2 * cluster->plan.every[fault]), fault_event,
                   cluster, fault);
}

void sim_faults_start(struct sim_cluster *cluster)
{
    for (unsigned fault = 0; fault < SIM_FAULT_COUNT; fault++)
        if (cluster->plan.every[fault])
            sim_events_add(&cluster->events, drawn(cluster, 2 * cluster->plan.every[fault]),
                           fault_event, cluster, fault);
}
