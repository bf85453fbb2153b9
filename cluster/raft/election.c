// Who leads: time-outs, pre-votes, votes, and the changes of role that follow.
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

// CAND4. That time-outs are drawn anew each time is what ends split votes (section 5.2).
void raft_election_timer_restart(struct raft *raft)
{
    const struct raft_options *o = &raft->options;
    uint32_t spread = o->election_ticks_max - o->election_ticks_min + 1;

    raft->election_elapsed = 0;
    raft->election_timeout =
        o->election_ticks_min + (uint32_t)(o->random(o->random_context) % spread);
    if (RAFT_BROKEN(raft, ELECTION_NOT_RANDOM))
        raft->election_timeout = o->election_ticks_min;
}

// LEASE1. A leader counts as its own current leader: check-quorum ends that where it isn't heard.
bool raft_election_lease_holds(const struct raft *raft)
{
    if (RAFT_BROKEN(raft, NO_PRE_VOTE))
        return false;
    if (raft->role == RAFT_LEADER)
        return true;
    return raft->leader != RAFT_NONE && raft->election_elapsed < raft->options.election_ticks_min;
}

// CONF7. A server that isn't in the latest configuration of its log may be the only one with that
// entry and an up-to-date log, until the entry is committed: then the others can't do without it
// (dissertation 4.2.2). It counts the votes of that configuration, so never its own.
static bool votes_somewhere(const struct raft *raft)
{
    const struct raft_log *log = &raft->log;
    uint8_t roles = raft_configuration_roles(&raft->configuration, raft->options.id);

    if (raft->configuration_index > log->commit && log->configuration_count > 1)
        roles |= raft_configuration_roles(
            &log->configurations[log->configuration_count - 2].configuration, raft->options.id);
    return (roles & (RAFT_VOTER | RAFT_VOTER_OLD)) != 0;
}

// CONF7, LEAD7, and not while the log is being replaced.
bool raft_election_may_campaign(const struct raft *raft)
{
    if (raft_disk_hangs(raft) && !RAFT_BROKEN(raft, HUNG_DISK_CAMPAIGNS))
        return false;
    if (raft->install_number != 0 || raft->hard_state.term >= RAFT_NUMBER_MAX)
        return false;
    if (RAFT_BROKEN(raft, LEARNER_CAMPAIGNS) && raft->configuration.count > 0)
        return true;
    return votes_somewhere(raft) || raft->vote_missed;
}

void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader)
{
    if (raft->role == RAFT_LEADER) {
        raft_read_fail_all(raft);
        raft->transfer_target = RAFT_NONE;
        // Its timer counted something else.
        raft_election_timer_restart(raft);
    }
    if (term > raft->hard_state.term)
        raft->hard_state = (struct raft_hard_state){.term = term, .voted_for = RAFT_NONE};
    raft->role = RAFT_FOLLOWER;
    raft->leader = leader;
    raft->own_vote_number = 0;
}

static void become_leader(struct raft *raft)
{
    raft->role = RAFT_LEADER;
    raft->leader = raft->options.id;
    raft->vote_missed = false;
    raft->own_vote_number = 0;
    raft->election_elapsed = 0;
    raft->heartbeat_elapsed = 0;
    raft->unapplied_bytes = 0;
    raft->transfer_target = RAFT_NONE;
    raft->round = 0;
    raft->counters.elections_won++;
#ifdef RAFT_MUTANTS
    raft->entered_joint = false;
#endif
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft_peer_reset(raft, &raft->peers[i]);
    // LEAD1. Room for it was reserved when the campaign began. Nothing of earlier terms can be
    // committed before it is (LEAD5), nor anything read (READ2).
    raft->term_start = raft->log.last + 1;
    raft_leader_append(raft, RAFT_ENTRY_NOOP, NULL, 0);
    raft_heartbeat_all(raft);
}

static void votes_clear(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft->peers[i].voted = raft->peers[i].vote_granted = false;
}

static void vote_note(struct raft *raft, uint64_t voter, bool granted)
{
    struct raft_peer *peer = raft_peer_find(raft, voter);

    if (!peer || peer->voted)
        return;
    peer->voted = true;
    peer->vote_granted = granted;
}

static void ask_for_votes(struct raft *raft, enum raft_message_type type, uint64_t number,
                          bool transfer)
{
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = &raft->peers[i];

        if (peer->id == raft->options.id || !(peer->roles & (RAFT_VOTER | RAFT_VOTER_OLD)))
            continue;
        struct raft_message request = raft_message_new(raft, type, peer->id);
        if (type == RAFT_MESSAGE_PRE_VOTE_REQUEST)
            request.term++;
        request.vote_request.last = raft_log_last(&raft->log);
        request.vote_request.transfer = transfer;
        raft_send_after(raft, number, &request);
    }
}

// CAND1. The requests wait for the own vote to be durable: were it forgotten, this server could
// campaign again in the same term with a shorter log, and count the votes that the longer one got.
static void campaign(struct raft *raft, bool transfer)
{
    raft->role = RAFT_CANDIDATE;
    raft->leader = RAFT_NONE;
    raft->hard_state =
        (struct raft_hard_state){.term = raft->hard_state.term + 1, .voted_for = raft->options.id};
    raft->counters.elections++;
    votes_clear(raft);
    raft_election_timer_restart(raft);
    raft->own_vote_number = raft_number_of_hard_state(raft);
    ask_for_votes(raft, RAFT_MESSAGE_VOTE_REQUEST,
                  RAFT_BROKEN(raft, VOTE_BEFORE_DURABLE) ? 0 : raft->own_vote_number, transfer);
    if (RAFT_BROKEN(raft, VOTE_BEFORE_DURABLE))
        raft_election_own_vote(raft);
}

static void election_decide(struct raft *raft)
{
    switch (raft_quorum_votes(raft)) {
    case RAFT_VOTE_PENDING:
        return;
    case RAFT_VOTE_LOST:
        // The timer runs on: losing is no reason to be more patient, or less.
        raft_become_follower(raft, raft->hard_state.term, RAFT_NONE);
        return;
    case RAFT_VOTE_WON:
        if (raft->role == RAFT_PRE_CANDIDATE)
            campaign(raft, false);
        else
            become_leader(raft);
        return;
    }
}

void raft_election_own_vote(struct raft *raft)
{
    raft->own_vote_number = 0;
    vote_note(raft, raft->options.id, true);
    election_decide(raft);
}

// PRE1.
int raft_election_start(struct raft *raft)
{
    // For the no-op of the term that this may lead to.
    int error = raft_log_reserve(&raft->log, 1, 0);

    if (error)
        return error;
    raft->own_vote_number = 0;
    if (RAFT_BROKEN(raft, NO_PRE_VOTE)) {
        campaign(raft, false);
        return 0;
    }
    raft->role = RAFT_PRE_CANDIDATE;
    raft->leader = RAFT_NONE;
    raft->counters.pre_elections++;
    votes_clear(raft);
    raft_election_timer_restart(raft);
    vote_note(raft, raft->options.id, true);
    ask_for_votes(raft, RAFT_MESSAGE_PRE_VOTE_REQUEST, 0, false);
    election_decide(raft);
    return 0;
}

int raft_campaign(struct raft *raft)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    if (raft->role == RAFT_LEADER)
        return 0;
    if (!raft_election_may_campaign(raft))
        return RAFT_ERROR_NOT_VOTER;
    return raft_election_start(raft);
}

// TRANS1: the leader wants it, so nobody needs to be asked first.
int raft_step_timeout_now(struct raft *raft)
{
    if (raft->role == RAFT_LEADER || !raft_election_may_campaign(raft))
        return 0;
    if (RAFT_BROKEN(raft, TRANSFER_WITHOUT_BYPASS))
        return raft_election_start(raft);
    int error = raft_log_reserve(&raft->log, 1, 0);
    if (error)
        return error;
    campaign(raft, true);
    return 0;
}

// VOTE3 (section 5.4.1).
static bool is_up_to_date(const struct raft *raft, struct raft_position theirs)
{
    struct raft_position ours = raft_log_last(&raft->log);

    if (RAFT_BROKEN(raft, VOTE_BY_LENGTH))
        return theirs.index >= ours.index;
    if (theirs.term != ours.term)
        return theirs.term > ours.term;
    return theirs.index >= ours.index;
}

// CONF7. Whoever is asked votes in the candidate's configuration, though its own may not know: an
// entry that was never committed makes it a voter there. Its vote it can't give to a log that is
// behind; where the candidate can't do without it, and nobody else's log is up-to-date, only its
// own candidacy ends the wait. It counts the votes of its own configuration, so that is as safe as
// ever.
static bool note_candidate(struct raft *raft, struct raft_position theirs)
{
    bool up_to_date = is_up_to_date(raft, theirs);

    raft->vote_missed |= !up_to_date && !raft_election_lease_holds(raft);
    return up_to_date;
}

#ifdef RAFT_MUTANTS
static bool refuses_to_answer(const struct raft *raft, const struct raft_message *message)
{
    uint8_t own = raft_configuration_roles(&raft->configuration, raft->options.id);

    if (RAFT_BROKEN(raft, VOTE_MEMBERS_ONLY))
        return raft_configuration_roles(&raft->configuration, message->from) == 0;
    return RAFT_BROKEN(raft, LEARNER_REFUSES_VOTE) && !(own & (RAFT_VOTER | RAFT_VOTER_OLD));
}
#endif

static int step_pre_vote_request(struct raft *raft, const struct raft_message *message)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_PRE_VOTE_REPLY, message->from);
    bool up_to_date = note_candidate(raft, message->vote_request.last);

    // PRE2. A term that isn't higher couldn't win: its votes may be given already.
    reply.vote_reply.granted = message->term > raft->hard_state.term &&
                               (up_to_date || RAFT_BROKEN(raft, PRE_VOTE_TO_BEHIND));
    // A grant must not look stale to a candidate whose term is ahead of this server's, nor a
    // refusal raise a term that nobody is in.
    if (reply.vote_reply.granted && !RAFT_BROKEN(raft, PRE_VOTE_GRANT_OWN_TERM))
        reply.term = message->term;
    raft_send_after(raft, raft_number_of_hard_state(raft), &reply);
    return 0;
}

int raft_step_vote_request(struct raft *raft, const struct raft_message *message)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_VOTE_REPLY, message->from);
    bool free_to_vote = raft->hard_state.voted_for == message->from ||
                        (raft->hard_state.voted_for == RAFT_NONE && raft->leader == RAFT_NONE);

#ifdef RAFT_MUTANTS
    if (refuses_to_answer(raft, message))
        return 0;
    if (RAFT_BROKEN(raft, VOTE_TWICE))
        free_to_vote = raft->role == RAFT_FOLLOWER;
#endif
    if (message->type == RAFT_MESSAGE_PRE_VOTE_REQUEST)
        return step_pre_vote_request(raft, message);
    reply.vote_reply.granted = free_to_vote && (note_candidate(raft, message->vote_request.last) ||
                                                RAFT_BROKEN(raft, VOTE_TO_BEHIND));
    if (reply.vote_reply.granted) {
        raft->hard_state.voted_for = message->from;
        raft->election_elapsed = 0; // FOL1
    } else if (RAFT_BROKEN(raft, TIMER_RESET_BY_REFUSED_VOTE)) {
        raft->election_elapsed = 0;
    }
    raft_send_after(
        raft, RAFT_BROKEN(raft, VOTE_BEFORE_DURABLE) ? 0 : raft_number_of_hard_state(raft), &reply);
    return 0;
}

int raft_step_vote_reply(struct raft *raft, const struct raft_message *message)
{
    bool pre = message->type == RAFT_MESSAGE_PRE_VOTE_REPLY;
    bool granted = message->vote_reply.granted;

    if (raft->role != (pre ? RAFT_PRE_CANDIDATE : RAFT_CANDIDATE))
        return 0;
    // A granted pre-vote names the term that it is for.
    if (pre && granted && message->term != raft->hard_state.term + 1)
        return 0;
    vote_note(raft, message->from, granted);
    election_decide(raft);
    return 0;
}
