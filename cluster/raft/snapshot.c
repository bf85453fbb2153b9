// InstallSnapshot (paper, section 7 and Figure 13), both sides, and compaction. One chunk a
// follower is under way, so a snapshot costs a chunk of memory on either side however large it is,
// and heartbeats pass it by.
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

// ---- The leader's side ----

static bool same_position(struct raft_position a, struct raft_position b)
{
    return a.index == b.index && a.term == b.term;
}

bool raft_snapshot_begin(struct raft *raft, struct raft_peer *peer)
{
    // Not to someone who may be dead: entries are kept for as long as this takes (SNAP5).
    if (!peer->active || raft->snapshot.last.index <= peer->match ||
        raft->snapshot.last.index < raft->log.before.index)
        return false;
    raft_progress_probe(peer, peer->next);
    peer->progress = RAFT_PROGRESS_SNAPSHOT;
    peer->snapshot = raft->snapshot;
    peer->snapshot_offset = 0;
    peer->snapshot_sent_to = 0;
    raft->counters.snapshots_sent++;
    return true;
}

void raft_snapshot_send_chunk(struct raft *raft, struct raft_peer *peer)
{
    const struct raft_storage *storage = raft->options.storage;
    size_t capacity = raft->options.snapshot_chunk_bytes, length = 0;
    bool done = false;

    if (peer->snapshot_waits || raft->outbox_count == RAFT_OUTBOX_MAX)
        return;
    struct raft_configuration *configuration =
        raft_arena_take(&raft->arena, sizeof(*configuration));
    uint8_t *data = raft_arena_take(&raft->arena, capacity);
    if (!configuration || !data)
        return;
    int error = storage->read_snapshot(storage->context, peer->snapshot.last, peer->snapshot_offset,
                                       data, capacity, &length, &done);
    if (error == -ENOENT) {
        // A newer one took its place, that raft_compacted() may not have told yet (SNAP2).
        if (same_position(peer->snapshot.last, raft->snapshot.last))
            return;
        raft->counters.snapshots_restarted++;
        peer->snapshot = raft->snapshot;
        peer->snapshot_offset = peer->snapshot_sent_to = 0;
        return;
    }
    if (!error && (length > capacity || (length == 0 && !done)))
        error = RAFT_ERROR_STORAGE;
    if (error) {
        raft_storage_failed(raft, error);
        return;
    }
    *configuration = peer->snapshot.configuration;
    struct raft_message *message = raft_send(raft, RAFT_MESSAGE_SNAPSHOT_REQUEST, peer->id);
    message->snapshot_request = (struct raft_snapshot_request){
        .last = peer->snapshot.last,
        .configuration = configuration,
        .offset = peer->snapshot_offset,
        .data = data,
        .length = (uint32_t)length,
        .done = done,
    };
    peer->snapshot_sent_at = raft->ticks;
    peer->snapshot_waits = true;
    if (peer->snapshot_sent_to < peer->snapshot_offset + length)
        peer->snapshot_sent_to = peer->snapshot_offset + length;
}

int raft_step_snapshot_reply(struct raft *raft, const struct raft_message *message)
{
    const struct raft_snapshot_reply *reply = &message->snapshot_reply;
    struct raft_peer *peer = raft_peer_find(raft, message->from);

    if (raft->role != RAFT_LEADER || !peer)
        return 0;
    if (reply->installed && reply->last.index > raft->log.last)
        return RAFT_ERROR_MALFORMED;
    peer->active = true;
    if (reply->installed) {
        raft_progress_success(raft, peer, reply->last.index);
        return 0;
    }
    if (peer->progress != RAFT_PROGRESS_SNAPSHOT ||
        !same_position(peer->snapshot.last, reply->last))
        return 0;
    // The same offset again answers a chunk that came twice; one beyond what was sent is no answer.
    if (reply->offset == peer->snapshot_offset || reply->offset > peer->snapshot_sent_to)
        return 0;
    if (reply->offset == 0)
        raft->counters.snapshots_restarted++;
    peer->snapshot_offset = reply->offset;
    peer->snapshot_waits = false;
    return 0;
}

// ---- The follower's side ----

static void reply_offset(struct raft *raft, const struct raft_message *message, uint64_t offset)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_SNAPSHOT_REPLY, message->from);
    uint64_t number = raft_number_of_hard_state(raft);

    // The next chunk is asked for when this one is written: a slow disk slows its sender down.
    if (offset > 0 && raft->chunk_number > number &&
        (raft->chunk_pending || raft->chunk_number == raft->write_in_flight))
        number = raft->chunk_number;
    reply.snapshot_reply.last = message->snapshot_request.last;
    reply.snapshot_reply.offset = offset;
    raft_send_after(raft, number, &reply);
}

static void reply_installed(struct raft *raft, const struct raft_message *message)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_SNAPSHOT_REPLY, message->from);
    struct raft_position last = message->snapshot_request.last;

    reply.snapshot_reply.last = last;
    reply.snapshot_reply.installed = true;
    raft_send_after(raft,
                    RAFT_BROKEN(raft, SNAPSHOT_BEFORE_DURABLE)
                        ? raft_number_of_hard_state(raft)
                        : raft_number_of_entry(raft, last.index),
                    &reply);
}

// Copies the chunk for the next write.
static int chunk_keep(struct raft *raft, const struct raft_snapshot_request *request)
{
    if (raft->chunk_capacity < request->length) {
        uint8_t *grown = raft_allocate(&raft->allocator, raft->chunk_data, request->length);

        if (!grown)
            return -ENOMEM;
        raft->chunk_data = grown;
        raft->chunk_capacity = request->length;
    }
    if (request->length > 0)
        memcpy(raft->chunk_data, request->data, request->length);
    raft->chunk_configuration = *request->configuration;
    raft->chunk = *request;
    raft->chunk.data = raft->chunk_data;
    raft->chunk.configuration = &raft->chunk_configuration;
    raft->chunk_pending = true;
    raft->chunk_number = raft->write_number + 1;
    return 0;
}

// SNAP4. The log is the snapshot's from here on; what it stands on is confirmed when the write that
// carries the last chunk is durable, and until then nothing is acknowledged or applied.
static void install(struct raft *raft)
{
    struct raft_snapshot snapshot = {.last = raft->chunk.last,
                                     .configuration = raft->chunk_configuration};

    if (RAFT_BROKEN(raft, SNAPSHOT_WITHOUT_CONFIGURATION))
        snapshot.configuration = raft->configuration;
    raft_log_restore(&raft->log, &snapshot);
    raft->snapshot = snapshot;
    raft->install_number = raft->chunk_number;
    raft->install_index = snapshot.last.index;
    raft->receiving = (struct raft_position){.index = 0};
    raft->receiving_offset = 0;
    raft_configuration_refresh(raft);
}

static bool log_reaches(struct raft *raft, const struct raft_message *message)
{
    struct raft_position last = message->snapshot_request.last;

    if (RAFT_BROKEN(raft, INSTALL_OVER_COVERED))
        return false;
    if (last.index <= raft->log.commit)
        return true;
    // SNAP3: the log holds it, so all before it is committed here as well.
    if (last.index > raft->log.last || raft_log_term_at(&raft->log, last.index) != last.term)
        return false;
    raft_commit_to(raft, last.index);
    return true;
}

static bool is_continued(const struct raft *raft, const struct raft_message *message)
{
    if (RAFT_BROKEN(raft, CHUNKS_NOT_NAMED) && message->snapshot_request.offset > 0)
        return true;
    return raft->receiving_from == message->from && raft->receiving_term == message->term &&
           same_position(raft->receiving, message->snapshot_request.last);
}

int raft_step_snapshot_request(struct raft *raft, const struct raft_message *message)
{
    const struct raft_snapshot_request *request = &message->snapshot_request;

    if (log_reaches(raft, message)) {
        reply_installed(raft, message);
        return 0;
    }
    if (raft->chunk_pending)
        return 0; // the disk isn't that fast; it comes again
    // SNAP2: pieces of two snapshots make none, and two leaders may cut theirs differently. The
    // beginning always begins: a leader that gave a transfer up knows nothing of what arrived then.
    if (!is_continued(raft, message) && request->offset != 0) {
        reply_offset(raft, message, 0);
        return 0;
    }
    if (request->offset == 0) {
        raft->receiving_from = message->from;
        raft->receiving_term = message->term;
        raft->receiving = request->last;
        raft->receiving_offset = 0;
    }
    if (request->offset != raft->receiving_offset) {
        reply_offset(raft, message, raft->receiving_offset);
        return 0;
    }
    int error = chunk_keep(raft, request);
    if (error)
        return error;
    raft->receiving_offset += request->length;
    if (request->done) {
        install(raft);
        reply_installed(raft, message);
    } else {
        reply_offset(raft, message, raft->receiving_offset);
    }
    return 0;
}

void raft_snapshot_written(struct raft *raft, uint64_t number)
{
    if (raft->install_number == 0 || raft->install_number > number)
        return;
    raft->install_number = 0;
    raft_log_applied(&raft->log, raft->install_index);
    raft->counters.snapshots_installed++;
}

// ---- Compaction ----

int raft_compacted(struct raft *raft)
{
    const struct raft_storage *storage = raft->options.storage;
    struct raft_stored stored = {.last_index = 0};
    struct raft_log *log = &raft->log;
    int error = raft_guard(raft);

    if (error)
        return error;
    // The storage is about to be replaced, or is being.
    if (raft->install_number != 0)
        return 0;
    error = storage->load(storage->context, &stored);
    if (error)
        return raft_storage_failed(raft, error);
    if (stored.snapshot.last.index > log->applied ||
        stored.snapshot.last.index < raft->snapshot.last.index ||
        stored.before.index > stored.snapshot.last.index ||
        stored.before.index < log->before.index ||
        raft_log_term_at(log, stored.before.index) != stored.before.term ||
        raft_log_term_at(log, stored.snapshot.last.index) != stored.snapshot.last.term)
        return raft_storage_failed(raft, RAFT_ERROR_STORAGE);
    raft->snapshot = stored.snapshot;
    raft_log_compact(log, stored.before);
    return 0;
}

uint64_t raft_retain_index(const struct raft *raft)
{
    uint64_t index = raft->log.applied;

    if (raft->role != RAFT_LEADER || RAFT_BROKEN(raft, COMPACTS_UNDER_TRANSFER))
        return index;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = &raft->peers[i];

        if (peer->progress == RAFT_PROGRESS_SNAPSHOT && peer->snapshot.last.index < index)
            index = peer->snapshot.last.index; // SNAP5
    }
    return index;
}
