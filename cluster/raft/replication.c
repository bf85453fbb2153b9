// The leader's side of AppendEntries: what each follower is sent, and what may be committed (paper,
// sections 5.3 and 5.4). Requests are made when a ready is asked for, never kept: a slow follower
// costs its window, and whatever it lacks stays in the log.
#include <assert.h>
#include <errno.h>

#include "cluster/raft/raft_internal.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool is_self(const struct raft *raft, const struct raft_peer *peer)
{
    return peer->id == raft->options.id;
}

// `data` belongs to the log from here on, and room for the entry was reserved. (LEAD2)
void raft_leader_append(struct raft *raft, enum raft_entry_type type, uint8_t *data,
                        uint32_t length)
{
    raft_log_append(&raft->log, &(struct raft_entry){.index = raft->log.last + 1,
                                                     .term = raft->hard_state.term,
                                                     .type = type,
                                                     .length = length,
                                                     .data = data});
    if (type == RAFT_ENTRY_CONFIGURATION)
        raft_configuration_refresh(raft);
#ifdef RAFT_MUTANTS
    struct raft_peer *self = raft_peer_find(raft, raft->options.id);

    if (self && RAFT_BROKEN(raft, LEADER_COUNTS_UNWRITTEN))
        self->match = raft->log.last;
#endif
}

// ---- The commit rule ----

void raft_commit_advance(struct raft *raft)
{
    struct raft_log *log = &raft->log;
    uint64_t index = raft_quorum_match(raft);

    // LEAD5, Figure 8: an entry of an earlier term that a majority holds can still be lost to a
    // server with a later last term. One of this term can't, nor can what is before it.
    if (index > log->commit && index <= log->last &&
        (raft_log_term_at(log, index) == raft->hard_state.term ||
         RAFT_BROKEN(raft, COMMIT_OLD_TERM))) {
        log->commit = index;
        if (RAFT_BROKEN(raft, CONFIGURATION_WHEN_APPLIED))
            raft_configuration_refresh(raft);
    }
    raft_configuration_follow_up(raft);
}

// ALL4: the leader's own share of the majority, once it is on its disk.
void raft_leader_written(struct raft *raft)
{
    struct raft_peer *self = raft_peer_find(raft, raft->options.id);

    if (self && self->match < raft->log.durable)
        self->match = raft->log.durable;
    raft_commit_advance(raft);
}

// ---- The window of requests in flight ----

static bool window_is_full(const struct raft *raft, const struct raft_peer *peer)
{
    return peer->window_count >= raft->options.window_messages ||
           peer->window_bytes >= raft->options.window_bytes;
}

static void window_clear(struct raft_peer *peer)
{
    peer->window_head = peer->window_count = 0;
    peer->window_bytes = 0;
}

static void window_push(struct raft_peer *peer, uint64_t last, size_t bytes)
{
    assert(peer->window_count < RAFT_WINDOW_MAX);
    peer->window[(peer->window_head + peer->window_count++) % RAFT_WINDOW_MAX] =
        (struct raft_in_flight){.last = last, .bytes = bytes};
    peer->window_bytes += bytes;
}

static void window_acknowledge(struct raft_peer *peer, uint64_t match)
{
    while (peer->window_count > 0 && peer->window[peer->window_head].last <= match) {
        peer->window_bytes -= peer->window[peer->window_head].bytes;
        peer->window_head = (peer->window_head + 1) % RAFT_WINDOW_MAX;
        peer->window_count--;
    }
}

// ---- Progress ----

void raft_progress_probe(struct raft_peer *peer, uint64_t next)
{
    window_clear(peer);
    peer->progress = RAFT_PROGRESS_PROBE;
    peer->next = next > peer->match ? next : peer->match + 1;
    peer->paused = false;
    peer->ping = false;
    peer->snapshot_waits = false;
}

static void progress_replicate(struct raft_peer *peer)
{
    window_clear(peer);
    peer->progress = RAFT_PROGRESS_REPLICATE;
    peer->next = peer->match + 1;
    peer->paused = false;
    peer->ping = false;
    peer->snapshot_waits = false;
}

// CONF6 (dissertation 4.2.1): catching up goes in rounds, each as far as the log reached at its
// start. Who needs less than an election time-out for one won't hold up the cluster as a voter.
static void catch_up(struct raft *raft, struct raft_peer *peer)
{
    uint64_t last = raft->log.last;

    if (peer->catch_up_target != 0 && peer->match >= peer->catch_up_target) {
        peer->caught_up = raft->ticks - peer->catch_up_since <= raft->options.election_ticks_min;
        peer->catch_up_target = 0;
    }
    if (peer->match >= last) {
        peer->caught_up = true;
        peer->catch_up_target = 0;
    } else if (peer->catch_up_target == 0) {
        peer->catch_up_target = last;
        peer->catch_up_since = raft->ticks;
    }
}

void raft_progress_success(struct raft *raft, struct raft_peer *peer, uint64_t match)
{
    bool moved = match > peer->match;

    // LEAD4: late replies say less than is known.
    if (moved)
        peer->match = match;
    if (RAFT_BROKEN(raft, PROGRESS_GOES_BACK)) {
        peer->match = match;
        peer->next = match + 1;
    }
    if (peer->next <= peer->match)
        peer->next = peer->match + 1;
    switch (peer->progress) {
    case RAFT_PROGRESS_PROBE:
        if (match + 1 >= peer->next)
            progress_replicate(peer);
        break;
    case RAFT_PROGRESS_REPLICATE:
        window_acknowledge(peer, peer->match);
        break;
    case RAFT_PROGRESS_SNAPSHOT:
        // The log may reach it again before the snapshot does; or it was compacted further than
        // that snapshot meanwhile, and a newer one is next.
        if (peer->match >= raft->log.before.index)
            progress_replicate(peer);
        else if (peer->match >= peer->snapshot.last.index)
            raft_progress_probe(peer, peer->match + 1);
        break;
    }
    if (!moved)
        return;
    catch_up(raft, peer);
    if (raft->transfer_target == peer->id)
        raft_transfer_try(raft);
    if (peer->match > raft->log.commit)
        raft_commit_advance(raft);
}

static void progress_refused(struct raft *raft, struct raft_peer *peer,
                             const struct raft_append_reply *reply)
{
    // LEAD4: a refusal of what is known to be there by now, or of another probe than the one that
    // is out, is late.
    if (reply->rejected <= peer->match || peer->progress == RAFT_PROGRESS_SNAPSHOT)
        return;
    if (peer->progress == RAFT_PROGRESS_PROBE && reply->rejected != peer->next - 1)
        return;
    struct raft_position hint = reply->hint;
    if (hint.index >= reply->rejected)
        hint.index = reply->rejected - 1; // further back in any case
    uint64_t next = hint.index + 1;
    if (hint.index > raft->log.before.index)
        next = raft_log_find(&raft->log, hint).index + 1;
    raft->counters.probes_back++;
    raft_progress_probe(peer, next);
}

int raft_step_append_reply(struct raft *raft, const struct raft_message *message)
{
    const struct raft_append_reply *reply = &message->append_reply;
    struct raft_peer *peer = raft_peer_find(raft, message->from);

    if (raft->role != RAFT_LEADER || !peer)
        return 0;
    if (reply->success && reply->match > raft->log.last)
        return RAFT_ERROR_MALFORMED;
    peer->active = true;
    if (reply->success)
        raft_progress_success(raft, peer, reply->match);
    else
        progress_refused(raft, peer, reply);
    return 0;
}

// ---- Heartbeats ----

// Each round has a number, so that its replies confirm the reads that came before it.
void raft_heartbeat_all(struct raft *raft)
{
    raft->round++;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = &raft->peers[i];

        if (is_self(raft, peer)) {
            peer->round_confirmed = raft->round;
            continue;
        }
        struct raft_message *message = raft_send(raft, RAFT_MESSAGE_HEARTBEAT_REQUEST, peer->id);
        if (!message)
            continue;
        // APP6: what the follower holds beyond `match` may not be this leader's.
        message->heartbeat_request.commit = RAFT_BROKEN(raft, HEARTBEAT_COMMIT_UNBOUNDED)
                                                ? raft->log.commit
                                                : least(raft->log.commit, peer->match);
        message->heartbeat_request.round = raft->round;
    }
}

int raft_step_heartbeat_reply(struct raft *raft, const struct raft_message *message)
{
    struct raft_peer *peer = raft_peer_find(raft, message->from);
    uint64_t round = message->heartbeat_reply.round;

    if (raft->role != RAFT_LEADER || !peer)
        return 0;
    if (round > raft->round)
        return RAFT_ERROR_MALFORMED;
    if (RAFT_BROKEN(raft, READ_OLD_ROUND))
        round = raft->round;
    peer->active = true;
    if (round > peer->round_confirmed)
        peer->round_confirmed = round;
    // It lives, so what was sent and not answered may be lost: ask once more.
    peer->paused = false;
    peer->ping = peer->progress == RAFT_PROGRESS_REPLICATE && peer->match + 1 < peer->next;
    if (peer->snapshot_waits &&
        raft->ticks - peer->snapshot_sent_at >= raft->options.election_ticks_min)
        peer->snapshot_waits = false;
    if (raft->transfer_target == peer->id)
        raft_transfer_try(raft);
    if (raft->read_count > 0)
        raft_read_confirm(raft);
    return 0;
}

// ---- Requests ----

// Sends entries from peer->next on, `room` at most, or none. False if that can't be now.
static bool send_append(struct raft *raft, struct raft_peer *peer, size_t room, uint64_t *last,
                        size_t *bytes)
{
    struct raft_log *log = &raft->log;
    size_t count = (size_t)least(room, log->last - (peer->next - 1));
    struct raft_entry *entries = NULL;

    if (raft->outbox_count == RAFT_OUTBOX_MAX)
        return false;
    if (count > 0) {
        entries = raft_arena_take(&raft->arena, count * sizeof(*entries));
        if (!entries)
            return false;
        int error = raft_log_read(log, peer->next, peer->next + count - 1,
                                  raft->options.message_bytes_max, entries, &count);
        if (error) {
            raft_storage_failed(raft, error);
            return false;
        }
    }
    struct raft_message *message = raft_send(raft, RAFT_MESSAGE_APPEND_REQUEST, peer->id);
    message->append_request.previous = (struct raft_position){
        .index = peer->next - 1, .term = raft_log_term_at(log, peer->next - 1)};
    message->append_request.commit = log->commit;
    message->append_request.entries = entries;
    message->append_request.entry_count = (uint32_t)count;
    peer->commit_sent = least(log->commit, peer->next - 1 + count);
    *last = peer->next - 1 + count;
    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        *bytes += entries[i].length + RAFT_ENTRY_COST;
    return true;
}

static void replicate_probe(struct raft *raft, struct raft_peer *peer)
{
    uint64_t last;
    size_t bytes;

    if (!peer->paused && send_append(raft, peer, raft->options.message_entries_max, &last, &bytes))
        peer->paused = true;
}

// LEAD3.
static void replicate_pipelined(struct raft *raft, struct raft_peer *peer)
{
    struct raft_log *log = &raft->log;
    uint64_t last;
    size_t bytes;

    // An empty request at `next` is refused if anything before it was lost, and acknowledges
    // everything if only acknowledgements were. It costs no window: there is one a heartbeat.
    if (peer->ping && send_append(raft, peer, 0, &last, &bytes))
        peer->ping = false;
    while (peer->next <= log->last && !window_is_full(raft, peer)) {
        if (!send_append(raft, peer, raft->options.message_entries_max, &last, &bytes))
            return;
        window_push(peer, last, bytes);
        peer->next = last + 1;
    }
    // Nothing to carry the news that more is committed: followers needn't wait for a heartbeat.
    if (peer->next > log->last && peer->commit_sent < log->commit)
        send_append(raft, peer, 0, &last, &bytes);
}

void raft_replicate_all(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->peer_count && !raft->failure; i++) {
        struct raft_peer *peer = &raft->peers[i];

        if (is_self(raft, peer))
            continue;
        // SNAP1: what it needs next is gone, or what stands before that.
        if (peer->progress != RAFT_PROGRESS_SNAPSHOT && peer->next <= raft->log.before.index &&
            !raft_snapshot_begin(raft, peer))
            continue;
        switch (peer->progress) {
        case RAFT_PROGRESS_PROBE:
            replicate_probe(raft, peer);
            break;
        case RAFT_PROGRESS_REPLICATE:
            replicate_pipelined(raft, peer);
            break;
        case RAFT_PROGRESS_SNAPSHOT:
            raft_snapshot_send_chunk(raft, peer);
            break;
        }
    }
}

// ---- Time ----

// QUORUM1. Without it, a leader that is cut off would go on for ever, and so would one that hears
// its followers no more but keeps them quiet with heartbeats.
static bool still_has_quorum(struct raft *raft)
{
    bool active = raft_quorum_active(raft) || RAFT_BROKEN(raft, NO_CHECK_QUORUM);

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = &raft->peers[i];

        // A transfer to a dead server would keep entries from being compacted.
        if (!peer->active && peer->progress == RAFT_PROGRESS_SNAPSHOT)
            raft_progress_probe(peer, peer->match + 1);
        peer->active = is_self(raft, peer);
    }
    return active;
}

// LEAD7. It can't commit by its own disk, nor apply anything, but its heartbeats would keep others
// from doing better.
static void leave_for_disk(struct raft *raft)
{
    uint64_t best = raft_transfer_best(raft);

    if (best != RAFT_NONE)
        raft_send(raft, RAFT_MESSAGE_TIMEOUT_NOW, best);
    raft->counters.stepped_down_disk++;
    raft_become_follower(raft, raft->hard_state.term, RAFT_NONE);
}

void raft_leader_tick(struct raft *raft)
{
    const struct raft_options *o = &raft->options;

    if (raft_disk_hangs(raft) && !RAFT_BROKEN(raft, HUNG_DISK_LEADS)) {
        leave_for_disk(raft);
        return;
    }
    if (raft->election_elapsed >= o->election_ticks_min) {
        raft->election_elapsed = 0;
        if (!still_has_quorum(raft)) {
            raft->counters.stepped_down_quorum++;
            raft_become_follower(raft, raft->hard_state.term, RAFT_NONE);
            return;
        }
    }
    if (raft->transfer_target != RAFT_NONE && ++raft->transfer_elapsed >= o->election_ticks_min &&
        !RAFT_BROKEN(raft, TRANSFER_NEVER_ENDS)) {
        raft->transfer_target = RAFT_NONE; // TRANS3
        raft->counters.transfers_abandoned++;
    }
    if (++raft->heartbeat_elapsed >= o->heartbeat_ticks) {
        raft->heartbeat_elapsed = 0;
        raft_heartbeat_all(raft);
    }
    raft_configuration_follow_up(raft);
}
