// Membership changes by joint consensus (paper, section 6; dissertation 4), and leadership transfer
// (dissertation 3.10).
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

struct raft_peer *raft_peer_find(struct raft *raft, uint64_t id)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].id == id)
            return &raft->peers[i];
    return NULL;
}

// What a leader knows of a member that it knows nothing of.
void raft_peer_reset(struct raft *raft, struct raft_peer *peer)
{
    bool self = peer->id == raft->options.id;

    peer->match = self ? raft->log.durable : 0;
    peer->active = self;
    peer->caught_up = false;
    peer->catch_up_target = raft->log.last;
    peer->catch_up_since = raft->ticks;
    peer->commit_sent = 0;
    peer->round_confirmed = self ? raft->round : 0;
    raft_progress_probe(peer, raft->log.last + 1);
}

// Keeps what is known of members that stay.
static void peers_follow(struct raft *raft, const struct raft_configuration *configuration)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        if (!raft_configuration_roles(configuration, raft->peers[i].id))
            continue;
        if (kept != i)
            raft->peers[kept] = raft->peers[i];
        kept++;
    }
    raft->peer_count = kept;
    for (uint32_t i = 0; i < configuration->count; i++) {
        struct raft_peer *peer = &raft->peers[i];

        if (i >= raft->peer_count || peer->id != configuration->members[i].id) {
            memmove(peer + 1, peer, (raft->peer_count - i) * sizeof(*peer));
            raft->peer_count++;
            memset(peer, 0, sizeof(*peer));
            peer->id = configuration->members[i].id;
            raft_peer_reset(raft, peer);
        }
        peer->roles = configuration->members[i].roles;
    }
}

// CONF1.
void raft_configuration_refresh(struct raft *raft)
{
    const struct raft_configuration_record *record = raft_log_configuration(&raft->log);

#ifdef RAFT_MUTANTS
    while (RAFT_BROKEN(raft, CONFIGURATION_WHEN_APPLIED) && record > raft->log.configurations &&
           record->index > raft->log.commit)
        record--;
#endif
    raft->configuration_index = record->index;
    if (memcmp(&raft->configuration, &record->configuration, sizeof(raft->configuration)) == 0)
        return;
    raft->configuration = record->configuration;
    raft->joint = raft_configuration_is_joint(&raft->configuration);
    peers_follow(raft, &raft->configuration);
    if (raft->transfer_target != RAFT_NONE &&
        !(raft_configuration_roles(&raft->configuration, raft->transfer_target) & RAFT_VOTER)) {
        raft->transfer_target = RAFT_NONE;
        raft->counters.transfers_abandoned++;
    }
}

static int configuration_append(struct raft *raft, const struct raft_configuration *configuration)
{
    uint8_t *data;
    int error = raft_log_reserve(&raft->log, 1, 1);

    if (error)
        return error;
    data = raft_allocate(&raft->allocator, NULL, RAFT_CONFIGURATION_BYTES_MAX);
    if (!data)
        return -ENOMEM;
    size_t length = raft_configuration_encode(configuration, data);
    raft_leader_append(raft, RAFT_ENTRY_CONFIGURATION, data, (uint32_t)length);
    return 0;
}

// CONF6. A new voter that lacks much of the log would count in a majority that can't commit.
static bool may_become_voter(struct raft *raft, uint64_t id)
{
    const struct raft_peer *peer = raft_peer_find(raft, id);

    if (!peer)
        return false;
    if (peer->roles & RAFT_VOTER || peer->id == raft->options.id)
        return true;
    // In the middle of a round it counts how long that has taken so far.
    return peer->active && peer->caught_up &&
           (peer->catch_up_target == 0 ||
            raft->ticks - peer->catch_up_since <= raft->options.election_ticks_min);
}

int raft_propose_configuration(struct raft *raft, const struct raft_member *members, size_t count,
                               struct raft_position *position)
{
    struct raft_configuration next;
    int error = raft_guard(raft);

    if (error)
        return error;
    if (raft->role != RAFT_LEADER)
        return RAFT_ERROR_NOT_LEADER;
    if (raft->transfer_target != RAFT_NONE && !RAFT_BROKEN(raft, PROPOSALS_DURING_TRANSFER))
        return RAFT_ERROR_TRANSFERRING;
    // CONF3. The hole of 2015: a change of an earlier term may be replicated further yet, and two
    // majorities that each know only one of the changes need not meet.
    if (raft->log.commit < raft->term_start && !RAFT_BROKEN(raft, CHANGE_BEFORE_COMMIT))
        return RAFT_ERROR_NOT_READY;
    if ((raft->joint || raft->configuration_index > raft->log.commit) &&
        !RAFT_BROKEN(raft, CHANGE_WHILE_PENDING) && !RAFT_BROKEN(raft, CHANGE_BEFORE_COMMIT))
        return RAFT_ERROR_CHANGE_PENDING;
    error = raft_configuration_change(&raft->configuration, members, count, &next);
    if (error)
        return error;
    for (uint32_t i = 0; i < next.count; i++)
        if ((next.members[i].roles & (RAFT_VOTER | RAFT_VOTER_OLD)) == RAFT_VOTER &&
            !may_become_voter(raft, next.members[i].id))
            return RAFT_ERROR_NOT_CAUGHT_UP;
    bool joint = raft_configuration_is_joint(&next); // CONF2
    if (RAFT_BROKEN(raft, CHANGE_WITHOUT_JOINT))
        raft_configuration_leave(&next);
    error = configuration_append(raft, &next);
    if (error)
        return error;
    if (joint)
        raft->counters.joint_entered++;
#ifdef RAFT_MUTANTS
    raft->entered_joint = true;
#endif
    if (position)
        *position = raft_log_last(&raft->log);
    return 0;
}

// CONF4. If there is no memory for the entry now, the next tick tries again.
static void leave_joint(struct raft *raft)
{
    struct raft_configuration next = raft->configuration;

    if (raft->transfer_target != RAFT_NONE)
        return; // TRANS2: whoever leads next does it
#ifdef RAFT_MUTANTS
    if (RAFT_BROKEN(raft, JOINT_LEFT_BY_ENTERER_ONLY) && !raft->entered_joint)
        return;
#endif
    raft_configuration_leave(&next);
    if (configuration_append(raft, &next) == 0)
        raft->counters.joint_left++;
}

void raft_configuration_follow_up(struct raft *raft)
{
    uint8_t own = raft_configuration_roles(&raft->configuration, raft->options.id);

    // What a leader finds committed is so for good only once its own term has a committed entry.
    if (raft->role != RAFT_LEADER || raft->configuration_index > raft->log.commit ||
        raft->log.commit < raft->term_start)
        return;
    if (raft->joint) {
        leave_joint(raft);
        return;
    }
    // CONF5. Somebody who is a voter goes on at once, instead of after a time-out.
    if (!(own & RAFT_VOTER) && !RAFT_BROKEN(raft, REMOVED_LEADER_STAYS)) {
        uint64_t best = raft_transfer_best(raft);

        if (best != RAFT_NONE)
            raft_send(raft, RAFT_MESSAGE_TIMEOUT_NOW, best);
        raft->counters.stepped_down_removed++;
        raft_become_follower(raft, raft->hard_state.term, RAFT_NONE);
    }
}

// ---- Leadership transfer ----

uint64_t raft_transfer_best(const struct raft *raft)
{
    const struct raft_peer *best = NULL;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = &raft->peers[i];

        if (peer->id == raft->options.id || !(peer->roles & RAFT_VOTER) || !peer->match)
            continue;
        if (!best || peer->match > best->match)
            best = peer;
    }
    return best ? best->id : RAFT_NONE;
}

// TRANS1. Lost, it is sent again when the target answers a heartbeat.
void raft_transfer_try(struct raft *raft)
{
    const struct raft_peer *target = raft_peer_find(raft, raft->transfer_target);

    if (target && target->match == raft->log.last)
        raft_send(raft, RAFT_MESSAGE_TIMEOUT_NOW, target->id);
}

int raft_transfer_leadership(struct raft *raft, uint64_t target)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    if (raft->role != RAFT_LEADER)
        return RAFT_ERROR_NOT_LEADER;
    if (target == raft->options.id)
        return -EINVAL;
    if (!(raft_configuration_roles(&raft->configuration, target) & RAFT_VOTER))
        return RAFT_ERROR_NOT_VOTER;
    if (raft->transfer_target == target)
        return 0;
    if (raft->transfer_target != RAFT_NONE)
        return RAFT_ERROR_TRANSFERRING;
    raft->transfer_target = target;
    raft->transfer_elapsed = 0;
    raft->counters.transfers++;
    raft_transfer_try(raft);
    return 0;
}
