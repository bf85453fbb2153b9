// The follower's side of AppendEntries (paper, Figure 2; sections 5.3 and 5.4).
#include <errno.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

void raft_commit_to(struct raft *raft, uint64_t index)
{
    struct raft_log *log = &raft->log;

    if (index > log->last)
        index = log->last;
    if (index > log->commit)
        log->commit = index;
#ifdef RAFT_MUTANTS
    if (RAFT_BROKEN(raft, COMMIT_GOES_BACK) && index > log->before.index)
        log->commit = index;
    if (RAFT_BROKEN(raft, CONFIGURATION_WHEN_APPLIED))
        raft_configuration_refresh(raft);
#endif
}

static void reply_success(struct raft *raft, uint64_t leader, uint64_t match)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_APPEND_REPLY, leader);
    uint64_t number = raft_number_of_entry(raft, match);

    reply.append_reply.success = true;
    reply.append_reply.match = match;
    if (RAFT_BROKEN(raft, ACKNOWLEDGE_BEFORE_DURABLE))
        number = raft_number_of_hard_state(raft);
    raft_send_after(raft, number, &reply);
}

// APP2. The hint is the last entry here that could be in the leader's log as well: entries of later
// terms than the leader's at that place can't (section 5.3, "if desired, the protocol can be
// optimized"). The leader does the same with its log from there on: one round trip a term at most.
static void reply_refusal(struct raft *raft, uint64_t leader, struct raft_position previous)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_APPEND_REPLY, leader);

    raft->counters.appends_refused++;
    reply.append_reply.success = false;
    reply.append_reply.rejected = previous.index;
    reply.append_reply.hint = raft_log_find(&raft->log, previous);
    raft_send_after(raft, raft_number_of_hard_state(raft), &reply);
}

// Copies the data of entries for the log. All or nothing.
static int copy_data(struct raft *raft, const struct raft_entry *entries, size_t count,
                     uint8_t **copies)
{
    for (size_t i = 0; i < count; i++) {
        copies[i] = NULL;
        if (entries[i].length == 0)
            continue;
        copies[i] = raft_allocate(&raft->allocator, NULL, entries[i].length);
        if (!copies[i]) {
            while (i-- > 0)
                raft_allocate(&raft->allocator, copies[i], 0);
            return -ENOMEM;
        }
        memcpy(copies[i], entries[i].data, entries[i].length);
    }
    return 0;
}

static void truncate_from(struct raft *raft, uint64_t from)
{
    size_t configurations = raft->log.configuration_count;

    raft->counters.truncations++;
    raft_log_truncate(&raft->log, from, RAFT_BROKEN(raft, CONFIGURATION_NOT_UNDONE));
    raft->counters.configurations_undone += configurations - raft->log.configuration_count;
    raft_configuration_refresh(raft); // CONF1
}

// APP4: appends entries that begin at most one after the last, replacing what conflicts (APP3).
static int append_entries(struct raft *raft, const struct raft_entry *entries, size_t count)
{
    uint8_t *copies[RAFT_MESSAGE_ENTRIES_MAX];
    size_t configurations = 0;
    struct raft_log *log = &raft->log;
    int error;

    // Terms never fall along a log, or it could not be trusted at the next start.
    if (entries[0].term < raft_log_term_at(log, entries[0].index - 1))
        return RAFT_ERROR_MALFORMED;
    for (size_t i = 0; i < count; i++)
        configurations += entries[i].type == RAFT_ENTRY_CONFIGURATION;
    error = raft_log_reserve(log, count, configurations);
    if (!error)
        error = copy_data(raft, entries, count, copies);
    if (error)
        return error;
    if (entries[0].index <= log->last)
        truncate_from(raft, entries[0].index);
    for (size_t i = 0; i < count; i++) {
        struct raft_entry entry = entries[i];

        entry.data = copies[i];
        raft_log_append(log, &entry);
    }
    if (configurations > 0)
        raft_configuration_refresh(raft); // CONF1
    return 0;
}

static bool unwritten_is_full(const struct raft *raft, const struct raft_entry *entries,
                              size_t count)
{
    uint64_t bytes = raft->log.unwritten_bytes;

    if (raft->log.unwritten_count == 0)
        return false;
    for (size_t i = 0; i < count; i++)
        bytes += entries[i].length + RAFT_ENTRY_COST;
    return bytes > raft->options.unwritten_bytes_max;
}

int raft_step_append_request(struct raft *raft, const struct raft_message *message)
{
    const struct raft_append_request *request = &message->append_request;
    const struct raft_entry *entries = request->entries;
    struct raft_position previous = request->previous;
    size_t count = request->entry_count;
    uint64_t covered = previous.index + count;
    struct raft_log *log = &raft->log;

    // What is committed here is in every later leader's log (Leader Completeness): a request that
    // begins before that is late, or the leader doesn't know how far this server is.
    if (previous.index < log->commit) {
        uint64_t known = log->commit - previous.index;

        if (count <= known) {
            reply_success(raft, message->from, log->commit);
            return 0;
        }
        entries += known;
        count -= (size_t)known;
        previous = (struct raft_position){log->commit, raft_log_term_at(log, log->commit)};
    }
    bool matches =
        previous.index <= log->last && raft_log_term_at(log, previous.index) == previous.term;
    if (RAFT_BROKEN(raft, APPEND_WITHOUT_CHECK))
        matches = previous.index <= log->last;
    if (!matches) {
        reply_refusal(raft, message->from, previous);
        return 0;
    }
    // APP3: what is here already stays, with what follows it: this request may be an old one.
    while (count > 0 && !RAFT_BROKEN(raft, TRUNCATE_ON_MATCH) &&
           raft_log_term_at(log, entries->index) == entries->term && entries->index <= log->last) {
        entries++;
        count--;
    }
    if (count > 0) {
        if (unwritten_is_full(raft, entries, count)) {
            raft->counters.messages_dropped++;
            return 0;
        }
        int error = append_entries(raft, entries, count);
        if (error)
            return error;
    } else if (RAFT_BROKEN(raft, TRUNCATE_ON_MATCH) && covered < log->last) {
        truncate_from(raft, covered + 1);
    }
    // APP5: of what this request didn't cover nothing is known to be the leader's.
    uint64_t commit = request->commit < covered ? request->commit : covered;
    if (RAFT_BROKEN(raft, COMMIT_TO_LAST_INDEX))
        commit = request->commit;
    raft_commit_to(raft, commit);
    reply_success(raft, message->from, covered);
    return 0;
}

int raft_step_heartbeat_request(struct raft *raft, const struct raft_message *message)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_HEARTBEAT_REPLY, message->from);

    raft_commit_to(raft, message->heartbeat_request.commit); // APP6
    reply.heartbeat_reply.round = message->heartbeat_request.round;
    // Not held for entries: a slow disk isn't a dead server.
    raft_send_after(raft, raft_number_of_hard_state(raft), &reply);
    return 0;
}
