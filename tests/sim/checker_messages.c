// The judge's look at messages: nothing is promised that isn't durable, and nothing is without
// bound.
#include "cluster.h"

typedef unsigned long long ull;

// Judged by the log as it was when the request came: the reply may wait for a write.
static void check_not_behind(struct sim_member *member, const struct raft_message *message,
                             const struct sim_asked *asked)
{
    bool behind = false;

    for (unsigned i = 0; i < SIM_ASKED_TERMS; i++)
        behind |= asked->terms[i].term == message->term && asked->terms[i].behind;
    if (behind)
        sim_fail(member->cluster, "votes for who is behind", "member %u grants member %u a %s",
                 member->slot, sim_cluster_member(member->cluster, message->to)->slot,
                 raft_message_type_name(message->type));
}

static void note_asked(struct sim_member *member, struct sim_asked *asked, uint64_t term,
                       const struct raft_position *theirs)
{
    const struct raft_position *last = &member->view.last;
    bool behind =
        theirs->term < last->term || (theirs->term == last->term && theirs->index < last->index);

    for (unsigned i = 0; i < SIM_ASKED_TERMS; i++) {
        if (asked->terms[i].term != term)
            continue;
        // A reply under way may answer an earlier one of the same term, when it wasn't behind yet.
        asked->terms[i].behind &= behind;
        return;
    }
    asked->terms[asked->next].term = term;
    asked->terms[asked->next].behind = behind;
    asked->next = (asked->next + 1) % SIM_ASKED_TERMS;
}

static void check_vote(struct sim_member *member, const struct raft_message *message)
{
    struct sim_cluster *cluster = member->cluster;
    unsigned to = sim_cluster_member(cluster, message->to)->slot;
    const struct sim_checker *checker = &cluster->checker;

    if (!message->vote_reply.granted) {
        cluster->counters.votes_refused++;
        return;
    }
    cluster->counters.votes_granted++;
    check_not_behind(member, message, &member->vote_asked[to]);
    if (message->term >= checker->term_count ||
        !(checker->terms[message->term].votes[to] >> member->slot & 1))
        sim_fail(cluster, "durable before reply",
                 "member %u grants member %u a vote in term %llu that isn't durable", member->slot,
                 to, (ull)message->term);
}

static void check_pre_vote(struct sim_member *member, const struct raft_message *message)
{
    struct sim_cluster *cluster = member->cluster;
    unsigned to = sim_cluster_member(cluster, message->to)->slot;

    if (!message->vote_reply.granted) {
        cluster->counters.pre_votes_refused++;
        return;
    }
    cluster->counters.pre_votes_granted++;
    check_not_behind(member, message, &member->pre_vote_asked[to]);
}

static void check_append_reply(struct sim_member *member, const struct raft_message *message)
{
    const struct raft_append_reply *reply = &message->append_reply;

    if (reply->success && reply->match > member->journal.last_index)
        sim_fail(member->cluster, "durable before reply",
                 "member %u acknowledges %llu, durable is %llu", member->slot, (ull)reply->match,
                 (ull)member->journal.last_index);
}

static void check_snapshot_reply(struct sim_member *member, const struct raft_message *message)
{
    const struct raft_snapshot_reply *reply = &message->snapshot_reply;

    if (reply->installed && reply->last.index > member->journal.last_index)
        sim_fail(member->cluster, "durable before reply",
                 "member %u acknowledges a snapshot of %llu, durable is %llu", member->slot,
                 (ull)reply->last.index, (ull)member->journal.last_index);
}

// Room for the fixed fields, one configuration, and each entry's own fields.
#define MESSAGE_FIELDS 512
#define ENTRY_FIELDS   32

static void check_size(struct sim_member *member, const struct raft_message *message)
{
    const struct raft_options *options = &member->cluster->plan.options;
    size_t data = options->message_bytes_max, limit;

    if (data < options->entry_bytes_max)
        data = options->entry_bytes_max;
    limit = MESSAGE_FIELDS;
    if (message->type == RAFT_MESSAGE_APPEND_REQUEST)
        limit += data + options->message_entries_max * ENTRY_FIELDS;
    if (message->type == RAFT_MESSAGE_SNAPSHOT_REQUEST)
        limit += options->snapshot_chunk_bytes;
    if (raft_message_size(message) > limit)
        sim_fail(member->cluster, "bounded messages", "member %u sends a %s of %zu bytes",
                 member->slot, raft_message_type_name(message->type), raft_message_size(message));
}

void sim_checker_send(struct sim_member *member, const struct raft_message *message)
{
    check_size(member, message);
    if (message->from != member->id || message->to == member->id)
        sim_fail(member->cluster, "message", "member %u sends from %llx to %llx", member->slot,
                 (ull)message->from, (ull)message->to);
    switch (message->type) {
    case RAFT_MESSAGE_VOTE_REPLY:
        check_vote(member, message);
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
        check_pre_vote(member, message);
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
        check_append_reply(member, message);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        check_snapshot_reply(member, message);
        break;
    default:
        break;
    }
}

// What a follower may take for committed: what the leader says, and no more than what the message
// proves to be there.
static void allow_commit(struct sim_member *member, const struct raft_message *message)
{
    uint64_t allowed = 0, covered;

    switch (message->type) {
    case RAFT_MESSAGE_APPEND_REQUEST:
        covered = message->append_request.previous.index + message->append_request.entry_count;
        allowed = message->append_request.commit;
        allowed = allowed < covered ? allowed : covered;
        break;
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        allowed = message->heartbeat_request.commit;
        break;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        allowed = message->snapshot_request.last.index;
        break;
    default:
        break;
    }
    if (allowed > member->commit_allowed)
        member->commit_allowed = allowed;
}

void sim_checker_receive(struct sim_member *member, const struct raft_message *message)
{
    unsigned from = sim_cluster_member(member->cluster, message->from)->slot;

    sim_checker_heard(member, message, from);
    allow_commit(member, message);
    if (message->type == RAFT_MESSAGE_TIMEOUT_NOW)
        member->cluster->counters.timeout_now_received++;
    if (message->type == RAFT_MESSAGE_PRE_VOTE_REQUEST)
        note_asked(member, &member->pre_vote_asked[from], message->term,
                   &message->vote_request.last);
    if (message->type == RAFT_MESSAGE_VOTE_REQUEST)
        note_asked(member, &member->vote_asked[from], message->term, &message->vote_request.last);
}
