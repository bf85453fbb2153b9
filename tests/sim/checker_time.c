// The judge's look at what must happen in time, counted in the member's own ticks: that followers
// campaign when nobody leads, that leaders give up when they can't lead, that transfers end. And
// who may do what at which moment.
#include "cluster.h"

typedef unsigned long long ull;

void sim_checker_time_reset(struct sim_member *member)
{
    member->times = (struct sim_times){0};
}

static bool is_voter(const struct sim_member *member)
{
    return member->view.voters.fresh >> member->slot & 1;
}

// Only a granted vote or a request of the current leader may keep a follower from campaigning for
// longer.
static void check_election_timer(struct sim_member *member)
{
    const struct raft_options *options = &member->cluster->plan.options;
    struct sim_times *times = &member->times;

    if (member->view.role != RAFT_FOLLOWER || !is_voter(member) || member->refuse_memory ||
        times->write_ticks + 2 >= options->election_ticks_min) {
        times->quiet_ticks = 0;
        return;
    }
    times->quiet_ticks++;
    if (times->quiet_ticks > options->election_ticks_max + 1)
        sim_fail(member->cluster, "election timer",
                 "member %u has heard of no leader for %u ticks and doesn't campaign", member->slot,
                 times->quiet_ticks);
}

static void check_write_time(struct sim_member *member)
{
    const struct raft_options *options = &member->cluster->plan.options;
    struct sim_times *times = &member->times;

    if (member->writing == 0 || member->writing != times->write)
        times->write_ticks = 0;
    else
        times->write_ticks++;
    times->write = member->writing;
    if (member->view.role == RAFT_LEADER && times->write_ticks > options->election_ticks_max + 1)
        sim_fail(member->cluster, "hung disk", "member %u leads, its write hangs for %u ticks",
                 member->slot, times->write_ticks);
}

// A leader looks once every election time-out whether it heard from a majority since it last
// looked.
static void check_leader_heard(struct sim_member *member)
{
    const struct raft_options *options = &member->cluster->plan.options;
    struct sim_times *times = &member->times;
    uint64_t limit = 2 * options->election_ticks_min + 2, since;
    uint32_t heard = 1u << member->slot;

    if (member->view.role != RAFT_LEADER) {
        times->led_term = 0;
        return;
    }
    if (times->led_term != member->view.term ||
        times->configuration_index != member->view.configuration_index)
        times->led_since = times->ticks;
    times->led_term = member->view.term;
    times->configuration_index = member->view.configuration_index;
    if (times->ticks < times->led_since + limit)
        return;
    since = times->ticks - limit;
    for (unsigned i = 0; i < SIM_MEMBERS; i++)
        if (times->heard[i] >= since)
            heard |= 1u << i;
    if (!sim_quorum(&member->view.voters, heard))
        sim_fail(member->cluster, "check quorum",
                 "member %u leads term %llu and has heard only from %x of voters %x (old %x)",
                 member->slot, (ull)member->view.term, heard, member->view.voters.fresh,
                 member->view.voters.old);
}

static void check_transfer_time(struct sim_member *member)
{
    const struct raft_options *options = &member->cluster->plan.options;
    struct sim_times *times = &member->times;
    struct raft_status status;

    raft_inspect(member->raft, &status);
    if (status.transfer_target == RAFT_NONE || status.transfer_target != times->transfer_target)
        times->transfer_ticks = 0;
    else
        times->transfer_ticks++;
    times->transfer_target = status.transfer_target;
    if (times->transfer_ticks > options->election_ticks_max + 1)
        sim_fail(member->cluster, "transfer", "member %u hands over for %u ticks already",
                 member->slot, times->transfer_ticks);
}

void sim_checker_tick(struct sim_member *member)
{
    member->times.ticks++;
    check_write_time(member);
    check_election_timer(member);
    check_leader_heard(member);
    if (member->view.role == RAFT_LEADER || member->times.transfer_target)
        check_transfer_time(member);
}

static void note_missed_vote(struct sim_member *member, const struct raft_message *message)
{
    struct raft_position ours = member->view.last, theirs = message->vote_request.last;

    member->times.vote_missed |=
        theirs.term < ours.term || (theirs.term == ours.term && theirs.index < ours.index);
}

void sim_checker_heard(struct sim_member *member, const struct raft_message *message, unsigned from)
{
    switch (message->type) {
    case RAFT_MESSAGE_APPEND_REQUEST:
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        if (message->term >= member->view.term) {
            member->times.quiet_ticks = 0;
            member->times.vote_missed = false;
        }
        break;
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
        note_missed_vote(member, message);
        break;
    case RAFT_MESSAGE_VOTE_REQUEST:
        note_missed_vote(member, message);
        if (message->term == member->view.term && message->from == member->view.voted_for)
            member->times.quiet_ticks = 0; // repeated, so granted again
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        if (message->term != member->view.term)
            break;
        member->times.heard[from] = member->times.ticks;
        if (message->type == RAFT_MESSAGE_HEARTBEAT_REPLY)
            member->times.beat[from] = member->cluster->events.done;
        break;
    default:
        break;
    }
}

// The member just became a candidate of either kind.
void sim_checker_campaign(struct sim_member *member, const struct raft_status *status)
{
    uint32_t voters = member->view.voters.fresh | member->view.voters.old;

    if (member->writing && member->writing == member->times.write &&
        member->times.write_ticks > member->cluster->plan.options.election_ticks_max + 1)
        sim_fail(member->cluster, "hung disk", "member %u campaigns, its write hangs for %u ticks",
                 member->slot, member->times.write_ticks);
    if (!(voters >> member->slot & 1) && status->configuration_index <= status->commit &&
        !member->times.vote_missed)
        sim_fail(member->cluster, "only voters campaign",
                 "member %u campaigns, the voters are %x (old %x)", member->slot,
                 member->view.voters.fresh, member->view.voters.old);
}

// A read is confirmed: a majority, or both, must have answered after it was asked for.
void sim_checker_read(struct sim_member *member, uint64_t asked)
{
    uint32_t answered = 1u << member->slot;

    for (unsigned i = 0; i < SIM_MEMBERS; i++)
        if (member->times.beat[i] > asked)
            answered |= 1u << i;
    if (!sim_quorum(&member->view.voters, answered))
        sim_fail(member->cluster, "reads",
                 "member %u: only %x of voters %x (old %x) answered since it was asked",
                 member->slot, answered, member->view.voters.fresh, member->view.voters.old);
}

// What a snapshot on its way will need next must not be let go.
void sim_checker_compact(struct sim_member *member, uint64_t retain)
{
    for (unsigned i = 0; i < member->cluster->member_count; i++) {
        struct raft_peer_status peer;

        if (raft_inspect_peer(member->raft, member->cluster->members[i].id, &peer) == 0 &&
            peer.progress == RAFT_PROGRESS_SNAPSHOT && peer.snapshot.index < retain)
            sim_fail(member->cluster, "compaction",
                     "member %u may compact up to %llu while it sends a snapshot of %llu",
                     member->slot, (ull)retain, (ull)peer.snapshot.index);
    }
    if (retain > member->machine.applied)
        sim_fail(member->cluster, "compaction",
                 "member %u may compact up to %llu but applied only %llu", member->slot,
                 (ull)retain, (ull)member->machine.applied);
}

// A proposal was accepted.
void sim_checker_proposed(struct sim_member *member, const struct raft_status *before)
{
    if (before->transfer_target != RAFT_NONE)
        sim_fail(member->cluster, "transfer", "member %u takes a proposal while it hands over",
                 member->slot);
    if (before->role != RAFT_LEADER)
        sim_fail(member->cluster, "proposal", "member %u takes a proposal and doesn't lead",
                 member->slot);
}
