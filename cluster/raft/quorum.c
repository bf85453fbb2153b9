// Majorities. A joint configuration has two sets of voters and needs a majority of each, for
// whatever is decided (paper, section 6). Every question is brought into one form: each voter has a
// number; which is the highest that a majority of voters reaches?
#include "cluster/raft/raft_internal.h"

typedef uint64_t (*voter_number)(const struct raft_peer *peer);

// The highest number that more than half of the members with a role in `roles` reach.
// UINT64_MAX if there are none: a set without voters decides nothing, and hinders nothing.
static uint64_t majority_number(const struct raft *raft, uint8_t roles, voter_number number,
                                uint32_t fewer)
{
    uint64_t sorted[RAFT_MEMBERS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = &raft->peers[i];

        if (!(peer->roles & roles))
            continue;
        uint64_t value = number(peer);
        uint32_t at = count++;
        for (; at > 0 && sorted[at - 1] < value; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = value;
    }
    if (count == 0)
        return UINT64_MAX;
    uint32_t at = count / 2;
    return sorted[at >= fewer ? at - fewer : 0];
}

static uint64_t quorum_number(const struct raft *raft, voter_number number, bool new_only)
{
    uint64_t new_number = majority_number(raft, RAFT_VOTER, number, 0);
    uint64_t old_number = majority_number(raft, RAFT_VOTER_OLD, number, 0);

    if (new_number == UINT64_MAX)
        return 0;
    return old_number < new_number && !new_only ? old_number : new_number;
}

static uint64_t vote_granted(const struct raft_peer *peer)
{
    return peer->voted && peer->vote_granted;
}

static uint64_t vote_possible(const struct raft_peer *peer)
{
    return !peer->voted || peer->vote_granted;
}

enum raft_vote_result raft_quorum_votes(const struct raft *raft)
{
    bool new_only = RAFT_BROKEN(raft, ELECT_ONE_MAJORITY);

    if (quorum_number(raft, vote_granted, new_only))
        return RAFT_VOTE_WON;
    return quorum_number(raft, vote_possible, new_only) ? RAFT_VOTE_PENDING : RAFT_VOTE_LOST;
}

static uint64_t peer_match(const struct raft_peer *peer)
{
    return peer->match;
}

#ifdef RAFT_MUTANTS
static uint64_t broken_match(const struct raft *raft)
{
    uint8_t learners = RAFT_BROKEN(raft, LEARNER_COUNTS) ? RAFT_LEARNER : 0;
    uint32_t fewer = RAFT_BROKEN(raft, COMMIT_WITHOUT_MAJORITY) ? 1 : 0;
    uint64_t new_number = majority_number(raft, RAFT_VOTER | learners, peer_match, fewer);
    uint64_t old_number = majority_number(raft, RAFT_VOTER_OLD | learners, peer_match, fewer);

    if (raft->joint && old_number < new_number)
        return old_number;
    return new_number == UINT64_MAX ? 0 : new_number;
}

// The leader takes the place of the voter that is furthest behind.
static uint64_t match_with_removed_leader(const struct raft *raft)
{
    uint64_t matches[RAFT_MEMBERS_MAX + 1];
    uint32_t count = 0;

    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].roles & RAFT_VOTER)
            matches[count++] = raft->peers[i].match;
    matches[count++] = raft->log.durable;
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t at = i; at > 0 && matches[at - 1] < matches[at]; at--) {
            uint64_t swap = matches[at];
            matches[at] = matches[at - 1];
            matches[at - 1] = swap;
        }
    return matches[(count - 1) / 2];
}
#endif

uint64_t raft_quorum_match(const struct raft *raft)
{
#ifdef RAFT_MUTANTS
    if (RAFT_BROKEN(raft, LEARNER_COUNTS) || RAFT_BROKEN(raft, COMMIT_WITHOUT_MAJORITY))
        return broken_match(raft);
    if (RAFT_BROKEN(raft, REMOVED_LEADER_COUNTS) &&
        !(raft_configuration_roles(&raft->configuration, raft->options.id) &
          (RAFT_VOTER | RAFT_VOTER_OLD)))
        return match_with_removed_leader(raft);
#endif
    return quorum_number(raft, peer_match, RAFT_BROKEN(raft, COMMIT_ONE_MAJORITY));
}

static uint64_t peer_round(const struct raft_peer *peer)
{
    return peer->round_confirmed;
}

uint64_t raft_quorum_round(const struct raft *raft)
{
    return quorum_number(raft, peer_round, RAFT_BROKEN(raft, READ_ONE_MAJORITY));
}

static uint64_t peer_active(const struct raft_peer *peer)
{
    return peer->active;
}

bool raft_quorum_active(const struct raft *raft)
{
    return quorum_number(raft, peer_active, RAFT_BROKEN(raft, CHECK_QUORUM_ONE_MAJORITY)) != 0;
}
