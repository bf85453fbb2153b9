// A server's life: creation, messages and ticks in, readies out, writes confirmed.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/raft_internal.h"

void *raft_allocate(const struct raft_allocator *allocator, void *pointer, size_t size)
{
    if (allocator->resize)
        return allocator->resize(allocator->context, pointer, size);
    if (size == 0) {
        free(pointer);
        return NULL;
    }
    return realloc(pointer, size);
}

void raft_options_default(struct raft_options *options)
{
    *options = (struct raft_options){
        .heartbeat_ticks = 10,
        .election_ticks_min = 100,
        .election_ticks_max = 200,
        .message_entries_max = RAFT_MESSAGE_ENTRIES_MAX,
        .message_bytes_max = 256 << 10,
        .window_messages = RAFT_WINDOW_MAX,
        .window_bytes = 4 << 20,
        .snapshot_chunk_bytes = 256 << 10,
        .entry_bytes_max = 1 << 20,
        .unapplied_bytes_max = 64 << 20,
        .unwritten_bytes_max = 64 << 20,
        .committed_bytes_max = 4 << 20,
        .committed_entries_max = RAFT_MESSAGE_ENTRIES_MAX,
        .reads_max = 4096,
    };
}

static bool options_are_valid(const struct raft_options *o)
{
    return o->id != RAFT_NONE && o->storage && o->storage->load && o->storage->read &&
           o->storage->read_snapshot && o->random && o->heartbeat_ticks >= 1 &&
           o->heartbeat_ticks < o->election_ticks_min &&
           o->election_ticks_min <= o->election_ticks_max && o->election_ticks_max < 1u << 30 &&
           o->message_entries_max >= 1 && o->message_entries_max <= RAFT_MESSAGE_ENTRIES_MAX &&
           o->message_bytes_max >= 1 && o->window_messages >= 1 &&
           o->window_messages <= RAFT_WINDOW_MAX && o->window_bytes >= 1 &&
           o->snapshot_chunk_bytes >= 1 && o->snapshot_chunk_bytes <= RAFT_CHUNK_BYTES_MAX &&
           o->entry_bytes_max >= 1 && o->entry_bytes_max <= RAFT_ENTRY_BYTES_MAX &&
           o->unapplied_bytes_max >= 1 && o->unwritten_bytes_max >= 1 &&
           o->committed_bytes_max >= 1 && o->committed_entries_max >= 1 &&
           o->committed_entries_max <= RAFT_MESSAGE_ENTRIES_MAX && o->reads_max >= 1 &&
           o->reads_max <= 1u << 20;
}

static int raft_load(struct raft *raft)
{
    const struct raft_storage *storage = raft->options.storage;
    struct raft_stored stored = {.last_index = 0};
    int error = storage->load(storage->context, &stored);

    if (error)
        return error;
    error = raft_log_load(&raft->log, &stored);
    if (error)
        return error;
    raft->hard_state = raft->hard_state_handed = stored.hard_state;
    raft->snapshot = stored.snapshot;
    raft_configuration_refresh(raft);
    raft_election_timer_restart(raft);
    return 0;
}

int raft_create(struct raft **out, const struct raft_options *options)
{
    struct raft *raft;
    int error = -ENOMEM;

    if (!options_are_valid(options))
        return -EINVAL;
    raft = raft_allocate(&options->allocator, NULL, sizeof(*raft));
    if (!raft)
        return -ENOMEM;
    memset(raft, 0, sizeof(*raft));
    raft->options = *options;
    raft->allocator = options->allocator;
    raft->log.storage = options->storage;
    raft->log.allocator = &raft->allocator;
    raft->arena.allocator = &raft->allocator;
    raft->reads = raft_allocate(&raft->allocator, NULL, options->reads_max * sizeof(*raft->reads));
    raft->reads_done =
        raft_allocate(&raft->allocator, NULL, options->reads_max * sizeof(*raft->reads_done));
    raft->committed = raft_allocate(&raft->allocator, NULL,
                                    options->committed_entries_max * sizeof(*raft->committed));
    if (raft->reads && raft->reads_done && raft->committed)
        error = raft_load(raft);
    if (error) {
        raft_destroy(raft);
        return error;
    }
    *out = raft;
    return 0;
}

void raft_destroy(struct raft *raft)
{
    if (!raft)
        return;
    struct raft_allocator allocator = raft->allocator;

    raft_log_free(&raft->log);
    raft_arena_free(&raft->arena);
    raft_allocate(&allocator, raft->chunk_data, 0);
    raft_allocate(&allocator, raft->committed, 0);
    raft_allocate(&allocator, raft->reads_done, 0);
    raft_allocate(&allocator, raft->reads, 0);
    raft_allocate(&allocator, raft, 0);
}

#ifdef RAFT_MUTANTS
void raft_set_mutant(struct raft *raft, enum raft_mutant mutant)
{
    raft->mutant = mutant;
}
#endif

int raft_guard(const struct raft *raft)
{
    if (raft->failure)
        return raft->failure;
    return raft->ready_out ? -EBUSY : 0;
}

int raft_storage_failed(struct raft *raft, int error)
{
    // Memory may come back; what a disk lost doesn't.
    if (error != -ENOMEM && !raft->failure)
        raft->failure = error;
    return error;
}

// ---- Messages out ----

struct raft_message raft_message_new(const struct raft *raft, enum raft_message_type type,
                                     uint64_t to)
{
    return (struct raft_message){
        .type = type, .from = raft->options.id, .to = to, .term = raft->hard_state.term};
}

struct raft_message *raft_send(struct raft *raft, enum raft_message_type type, uint64_t to)
{
    if (raft->outbox_count == RAFT_OUTBOX_MAX) {
        raft->counters.messages_dropped++;
        return NULL;
    }
    struct raft_message *message = &raft->outbox[raft->outbox_count++];
    *message = raft_message_new(raft, type, to);
    return message;
}

uint64_t raft_number_of_hard_state(const struct raft *raft)
{
    if (raft->hard_state.term != raft->hard_state_handed.term ||
        raft->hard_state.voted_for != raft->hard_state_handed.voted_for)
        return raft->write_number + 1;
    return raft->write_has_hard_state ? raft->write_in_flight : 0;
}

uint64_t raft_number_of_entry(const struct raft *raft, uint64_t index)
{
    uint64_t number = raft_number_of_hard_state(raft);

    if (raft->install_number > number)
        number = raft->install_number;
    if (index > raft->log.handed)
        return raft->write_number + 1;
    if (index > raft->log.durable && raft->write_in_flight > number)
        number = raft->write_in_flight;
    return number;
}

void raft_send_after(struct raft *raft, uint64_t number, const struct raft_message *message)
{
    if (number == 0) {
        struct raft_message *slot = raft_send(raft, message->type, message->to);

        if (slot)
            *slot = *message;
        return;
    }
    // A later acknowledgement to the same leader says all that an earlier one does.
    if (message->type == RAFT_MESSAGE_APPEND_REPLY && message->append_reply.success &&
        raft->held_count > 0) {
        struct raft_held *held = &raft->held[raft->held_count - 1];

        if (held->message.type == RAFT_MESSAGE_APPEND_REPLY && held->message.append_reply.success &&
            held->message.to == message->to && held->message.term == message->term &&
            held->number == number &&
            held->message.append_reply.match <= message->append_reply.match) {
            held->message = *message;
            return;
        }
    }
    if (raft->held_count == RAFT_HELD_MAX) {
        raft->counters.messages_dropped++;
        return;
    }
    raft->held[raft->held_count++] = (struct raft_held){.number = number, .message = *message};
}

static void held_release(struct raft *raft, uint64_t number)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < raft->held_count; i++) {
        const struct raft_held *held = &raft->held[i];

        if (held->number > number) {
            raft->held[kept++] = *held;
        } else if (held->message.term >= raft->hard_state.term) {
            // What was said in an earlier term is of no use to anyone any more.
            raft_send_after(raft, 0, &held->message);
        }
    }
    raft->held_count = kept;
}

// ---- Messages in ----

static bool entries_are_valid(const struct raft_message *message)
{
    const struct raft_append_request *request = &message->append_request;
    uint64_t term = request->previous.term;

    if (request->entry_count > RAFT_MESSAGE_ENTRIES_MAX ||
        (request->entry_count > 0 && !request->entries) ||
        request->previous.index > RAFT_NUMBER_MAX - RAFT_MESSAGE_ENTRIES_MAX)
        return false;
    for (uint32_t i = 0; i < request->entry_count; i++) {
        const struct raft_entry *entry = &request->entries[i];
        struct raft_configuration configuration;

        if (entry->index != request->previous.index + 1 + i || entry->term < term ||
            entry->term > message->term || entry->term == 0 ||
            entry->length > RAFT_ENTRY_BYTES_MAX || (entry->length > 0 && !entry->data))
            return false;
        term = entry->term;
        switch (entry->type) {
        case RAFT_ENTRY_NOOP:
            if (entry->length != 0)
                return false;
            break;
        case RAFT_ENTRY_COMMAND:
            break;
        case RAFT_ENTRY_CONFIGURATION:
            if (raft_configuration_decode(&configuration, entry->data, entry->length) ||
                configuration.count == 0)
                return false;
            break;
        default:
            return false;
        }
    }
    return term <= message->term;
}

static bool snapshot_request_is_valid(const struct raft_message *message)
{
    const struct raft_snapshot_request *request = &message->snapshot_request;

    return request->last.index > 0 && request->last.index <= RAFT_NUMBER_MAX &&
           request->last.term > 0 && request->last.term <= message->term &&
           request->configuration && raft_configuration_check(request->configuration) == 0 &&
           request->configuration->count > 0 && request->length <= RAFT_CHUNK_BYTES_MAX &&
           (request->length == 0 || request->data) && (request->length > 0 || request->done) &&
           request->offset <= RAFT_NUMBER_MAX;
}

static bool message_is_valid(const struct raft *raft, const struct raft_message *message)
{
    if (message->to != raft->options.id || message->from == raft->options.id ||
        message->from == RAFT_NONE || message->term > RAFT_NUMBER_MAX)
        return false;
    // Only who never heard of any term refuses in term 0.
    if (message->term == 0 &&
        (message->type != RAFT_MESSAGE_PRE_VOTE_REPLY || message->vote_reply.granted))
        return false;
    switch (message->type) {
    case RAFT_MESSAGE_APPEND_REQUEST:
        return entries_are_valid(message);
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        return snapshot_request_is_valid(message);
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        return message->vote_request.last.term < message->term;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
    case RAFT_MESSAGE_APPEND_REPLY:
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
    case RAFT_MESSAGE_TIMEOUT_NOW:
        return true;
    }
    return false;
}

static bool is_leader_request(const struct raft_message *message)
{
    return message->type == RAFT_MESSAGE_APPEND_REQUEST ||
           message->type == RAFT_MESSAGE_HEARTBEAT_REQUEST ||
           message->type == RAFT_MESSAGE_SNAPSHOT_REQUEST;
}

// ALL3. With pre-vote a server whose term is ahead can't raise the others' by campaigning: only by
// these answers does the leader learn that its term is over.
static int step_lower_term(struct raft *raft, const struct raft_message *message)
{
    struct raft_message reply = raft_message_new(raft, RAFT_MESSAGE_HEARTBEAT_REPLY, message->from);

#ifdef RAFT_MUTANTS
    if (RAFT_BROKEN(raft, STALE_TERM_COUNTS) && raft->role == RAFT_LEADER &&
        message->type == RAFT_MESSAGE_APPEND_REPLY)
        return raft_step_append_reply(raft, message);
    if (RAFT_BROKEN(raft, HIGHER_TERM_SILENT))
        return 0;
#endif
    switch (message->type) {
    case RAFT_MESSAGE_APPEND_REQUEST:
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        break;
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
        reply.type = RAFT_MESSAGE_PRE_VOTE_REPLY;
        reply.vote_reply.granted = false;
        break;
    case RAFT_MESSAGE_VOTE_REQUEST:
        reply.type = RAFT_MESSAGE_VOTE_REPLY;
        reply.vote_reply.granted = false;
        break;
    default:
        return 0;
    }
    raft_send_after(raft, raft_number_of_hard_state(raft), &reply);
    return 0;
}

// ALL2. Returns false if the message is to be ignored (LEASE1).
static bool step_higher_term(struct raft *raft, const struct raft_message *message)
{
    switch (message->type) {
    case RAFT_MESSAGE_VOTE_REQUEST:
        if (!message->vote_request.transfer && raft_election_lease_holds(raft))
            return false;
        break;
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
        return !raft_election_lease_holds(raft);
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
        if (message->vote_reply.granted)
            return true; // it has the term that was asked about
        break;
    default:
        break;
    }
    raft_become_follower(raft, message->term,
                         is_leader_request(message) ? message->from : RAFT_NONE);
    return true;
}

// CAND3: a request of this term's leader. False if it can't be that.
static bool step_leader_request(struct raft *raft, const struct raft_message *message)
{
    if (raft->role == RAFT_LEADER)
        return false; // Election Safety: there is no other leader in this term
    if (raft->leader != RAFT_NONE && raft->leader != message->from)
        return false;
    if (raft->role != RAFT_FOLLOWER || raft->leader == RAFT_NONE)
        raft_become_follower(raft, raft->hard_state.term, message->from);
    raft->election_elapsed = 0; // FOL1
    raft->vote_missed = false;
    return true;
}

int raft_step(struct raft *raft, const struct raft_message *message)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    if (!message_is_valid(raft, message))
        return RAFT_ERROR_MALFORMED;
    if (message->term < raft->hard_state.term)
        return step_lower_term(raft, message);
    if (message->term > raft->hard_state.term && !step_higher_term(raft, message))
        return 0;
    if (is_leader_request(message) && !step_leader_request(raft, message))
        return RAFT_ERROR_MALFORMED;
    switch (message->type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        return raft_step_vote_request(raft, message);
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
        return raft_step_vote_reply(raft, message);
    case RAFT_MESSAGE_APPEND_REQUEST:
        return raft_step_append_request(raft, message);
    case RAFT_MESSAGE_APPEND_REPLY:
        return raft_step_append_reply(raft, message);
    case RAFT_MESSAGE_HEARTBEAT_REQUEST:
        return raft_step_heartbeat_request(raft, message);
    case RAFT_MESSAGE_HEARTBEAT_REPLY:
        return raft_step_heartbeat_reply(raft, message);
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        return raft_step_snapshot_request(raft, message);
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        return raft_step_snapshot_reply(raft, message);
    case RAFT_MESSAGE_TIMEOUT_NOW:
        return raft_step_timeout_now(raft);
    }
    return RAFT_ERROR_MALFORMED;
}

// ---- Time ----

int raft_tick(struct raft *raft)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    raft->ticks++;
    if (raft->write_in_flight)
        raft->write_ticks++;
    raft->election_elapsed++;
    if (raft->role == RAFT_LEADER) {
        raft_leader_tick(raft);
        return 0;
    }
    if (raft->election_elapsed >= raft->election_timeout && raft_election_may_campaign(raft))
        return raft_election_start(raft);
    return 0;
}

int raft_propose(struct raft *raft, const void *data, size_t length, struct raft_position *position)
{
    int error = raft_guard(raft);
    uint8_t *copy = NULL;

    if (error)
        return error;
    if (raft->role != RAFT_LEADER)
        return RAFT_ERROR_NOT_LEADER;
    if (length > raft->options.entry_bytes_max)
        return RAFT_ERROR_TOO_LARGE;
    if (raft->transfer_target != RAFT_NONE && !RAFT_BROKEN(raft, PROPOSALS_DURING_TRANSFER))
        return RAFT_ERROR_TRANSFERRING;
    // One is always let through, so that the bound can't be smaller than what is proposed.
    if (raft->unapplied_bytes > 0 &&
        raft->unapplied_bytes + length + RAFT_ENTRY_COST > raft->options.unapplied_bytes_max)
        return RAFT_ERROR_BUSY;
    error = raft_log_reserve(&raft->log, 1, 0);
    if (error)
        return error;
    if (length > 0) {
        copy = raft_allocate(&raft->allocator, NULL, length);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, data, length);
    }
    raft->unapplied_bytes += length + RAFT_ENTRY_COST;
    raft_leader_append(raft, RAFT_ENTRY_COMMAND, copy, (uint32_t)length);
    if (position)
        *position = raft_log_last(&raft->log);
    return 0;
}

// ---- Readies ----

static void ready_write(struct raft *raft, struct raft_ready *ready)
{
    struct raft_write *write = &raft->write;
    struct raft_log *log = &raft->log;

    if (raft->write_in_flight)
        return;
    bool has_hard_state = raft_number_of_hard_state(raft) != 0;
    size_t entry_count = (size_t)(log->last - log->handed);
    if (!has_hard_state && !raft->chunk_pending && entry_count == 0)
        return;
    *write = (struct raft_write){
        .number = ++raft->write_number,
        .has_hard_state = has_hard_state,
        .hard_state = raft->hard_state,
        .chunk = raft->chunk_pending ? &raft->chunk : NULL,
        .entries = entry_count ? &log->unwritten[log->unwritten_head] : NULL,
        .entry_count = entry_count,
    };
    if (RAFT_BROKEN(raft, VOTE_NOT_WRITTEN))
        write->hard_state.voted_for = RAFT_NONE;
    raft->hard_state_handed = raft->hard_state;
    raft->chunk_pending = false;
    log->handed = log->last;
    raft->write_in_flight = write->number;
    raft->write_has_hard_state = has_hard_state;
    raft->write_ticks = 0;
    ready->write = write;
}

static bool ready_committed(struct raft *raft, struct raft_ready *ready)
{
    struct raft_log *log = &raft->log;
    uint64_t end = log->commit < log->durable ? log->commit : log->durable;

    if (RAFT_BROKEN(raft, APPLY_BEFORE_DURABLE))
        end = log->commit;
    // While a snapshot is being installed the state machine is about to jump ahead of all this.
    if (raft->install_number || end <= log->applied)
        return true;
    size_t count = raft->options.committed_entries_max;
    int error = raft_log_read(log, log->applied + 1, end, raft->options.committed_bytes_max,
                              raft->committed, &count);
    if (error) {
        raft_storage_failed(raft, error);
        return error == -ENOMEM;
    }
    ready->committed = raft->committed;
    ready->committed_count = count;
    return true;
}

bool raft_ready(struct raft *raft, struct raft_ready *ready)
{
    *ready = (struct raft_ready){.write = NULL};
    if (raft_guard(raft))
        return false;
    if (!ready_committed(raft, ready))
        return false;
    if (raft->role == RAFT_LEADER) {
        raft_read_begin_round(raft);
        raft_replicate_all(raft);
        if (raft->failure)
            return false;
    }
    ready_write(raft, ready);
    ready->messages = raft->outbox;
    ready->message_count = raft->outbox_count;
    ready->reads = raft->reads_done;
    ready->read_count = raft->read_done_count;
    raft->committed_count = ready->committed_count;
    raft->ready_out =
        ready->write || ready->message_count || ready->committed_count || ready->read_count;
    return raft->ready_out;
}

static void advance_applied(struct raft *raft)
{
    const struct raft_entry *entries = raft->committed;

    for (size_t i = 0; i < raft->committed_count && raft->role == RAFT_LEADER; i++) {
        uint64_t cost = entries[i].length + RAFT_ENTRY_COST;

        if (entries[i].index > raft->term_start && entries[i].type == RAFT_ENTRY_COMMAND)
            raft->unapplied_bytes -= cost < raft->unapplied_bytes ? cost : raft->unapplied_bytes;
    }
    if (raft->committed_count > 0)
        raft_log_applied(&raft->log, entries[raft->committed_count - 1].index);
    raft->committed_count = 0;
}

void raft_advance(struct raft *raft)
{
    const struct raft_storage *storage = raft->options.storage;

    if (!raft->ready_out)
        return;
    raft->ready_out = false;
    advance_applied(raft);
    raft->outbox_count = 0;
    raft->read_done_count = 0;
    raft_arena_reset(&raft->arena);
    if (storage->release)
        storage->release(storage->context);
}

int raft_written(struct raft *raft, uint64_t number)
{
    int error = raft_guard(raft);

    if (error)
        return error;
    if (number == 0 || number != raft->write_in_flight)
        return -EINVAL;
    raft->write_in_flight = 0;
    raft->write_ticks = 0;
    raft->write_has_hard_state = false;
    raft_log_written(&raft->log);
    raft_snapshot_written(raft, number);
    held_release(raft, number);
    if (raft->own_vote_number != 0 && raft->own_vote_number <= number)
        raft_election_own_vote(raft);
    if (raft->role == RAFT_LEADER)
        raft_leader_written(raft);
    return 0;
}
