// What can be seen of a server from outside, and the words for it.
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

const char *raft_strerror(int error)
{
    switch (error) {
    case 0:
        return "no error";
    case RAFT_ERROR_NOT_LEADER:
        return "this server doesn't lead the cluster";
    case RAFT_ERROR_BUSY:
        return "too much is under way; try again later";
    case RAFT_ERROR_TOO_LARGE:
        return "the entry is too large";
    case RAFT_ERROR_TRANSFERRING:
        return "leadership is being handed over";
    case RAFT_ERROR_NOT_READY:
        return "the leader has not yet committed an entry of its term";
    case RAFT_ERROR_CHANGE_PENDING:
        return "another change of the configuration is unfinished";
    case RAFT_ERROR_NOT_CAUGHT_UP:
        return "a new voter must first be a learner and catch up";
    case RAFT_ERROR_NOT_VOTER:
        return "not a voter of the current configuration";
    case RAFT_ERROR_CONFIGURATION:
        return "not a valid configuration";
    case RAFT_ERROR_MALFORMED:
        return "a message that no correct server sends";
    case RAFT_ERROR_STORAGE:
        return "the stored log is inconsistent";
    case -EBUSY:
        return "the last ready has not been dealt with";
    default:
        return strerror(error < 0 ? -error : error);
    }
}

const char *raft_role_name(enum raft_role role)
{
    switch (role) {
    case RAFT_FOLLOWER:
        return "follower";
    case RAFT_PRE_CANDIDATE:
        return "pre-candidate";
    case RAFT_CANDIDATE:
        return "candidate";
    case RAFT_LEADER:
        return "leader";
    }
    return "unknown";
}

void raft_inspect(const struct raft *raft, struct raft_status *status)
{
    const struct raft_log *log = &raft->log;

    *status = (struct raft_status){
        .failure = raft->failure,
        .id = raft->options.id,
        .role = raft->role,
        .hard_state = raft->hard_state,
        .leader = raft->leader,
        .commit = log->commit,
        .applied = log->applied,
        // Until a snapshot is installed, what it replaces is what is durable.
        .durable = raft->install_number ? log->applied : log->durable,
        .before = log->before,
        .snapshot = raft->snapshot.last,
        .last = raft_log_last(log),
        .configuration = &raft->configuration,
        .configuration_index = raft->configuration_index,
        .transfer_target = raft->transfer_target,
        .write_in_flight = raft->write_in_flight,
        .write_ticks = raft->write_ticks,
        .unapplied_bytes = raft->unapplied_bytes,
        .unwritten_bytes = log->unwritten_bytes,
        .reads_waiting = raft->read_count,
        .counters = &raft->counters,
    };
}

int raft_inspect_peer(const struct raft *raft, uint64_t id, struct raft_peer_status *status)
{
    if (raft->role != RAFT_LEADER || id == raft->options.id)
        return -ENOENT;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = &raft->peers[i];

        if (peer->id != id)
            continue;
        *status = (struct raft_peer_status){
            .progress = peer->progress,
            .match = peer->match,
            .next = peer->next,
            .active = peer->active,
            .caught_up = peer->caught_up,
            .messages_in_flight = peer->window_count,
            .bytes_in_flight = peer->window_bytes,
        };
        if (peer->progress == RAFT_PROGRESS_SNAPSHOT) {
            status->snapshot = peer->snapshot.last;
            status->snapshot_offset = peer->snapshot_offset;
        }
        return 0;
    }
    return -ENOENT;
}

uint64_t raft_log_term(const struct raft *raft, uint64_t index)
{
    return raft_log_term_at(&raft->log, index);
}

int raft_log_entry(const struct raft *raft, uint64_t index, struct raft_entry *entry)
{
    size_t count = 1;

    if (index <= raft->log.before.index || index > raft->log.last)
        return -ENOENT;
    return raft_log_read(&raft->log, index, index, SIZE_MAX, entry, &count);
}

const struct raft_configuration *raft_configuration_at(const struct raft *raft, uint64_t index)
{
    const struct raft_log *log = &raft->log;

    if (index > log->last)
        return NULL;
    for (size_t i = log->configuration_count; i-- > 0;) {
        const struct raft_configuration_record *record = &log->configurations[i];

        if (record->index <= index)
            return record->configuration.count > 0 ? &record->configuration : NULL;
    }
    return NULL;
}
