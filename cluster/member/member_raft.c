// Between the Raft core and everything else: what is ready is written, sent, applied and answered.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "base/log.h"
#include "cluster/member/member_internal.h"

enum { LEASE_CHECK_TICKS = 10, HASH_TICKS = 1000 };

static uint64_t draw_random(void *context)
{
    uint64_t value = 0;
    // Without randomness time-outs may collide: elections take longer, nothing else.
    if (random_bytes(&value, sizeof(value)))
        value = clock_monotonic_ns() * 0x9e3779b97f4a7c15u;
    return value;
}

int member_raft_create(struct member *member, struct error *err)
{
    struct raft_options options;
    raft_options_default(&options);
    options.id = member->id;
    options.storage = wal_storage(member->wal);
    options.random = draw_random;
    options.heartbeat_ticks = MEMBER_TICK_DIVIDER;
    options.election_ticks_min = (uint32_t)(member->options.election_min_ns / member->tick_ns);
    options.election_ticks_max = (uint32_t)(member->options.election_max_ns / member->tick_ns);
    options.entry_bytes_max = STORE_TXN_BYTES_MAX + (256 << 10); // a transaction, encoded
    options.message_bytes_max = 1 << 20;
    int error = raft_create(&member->raft, &options);
    if (error)
        return error_set(err, EINVAL, "raft: %s", raft_strerror(error));
    return 0;
}

enum store_status member_status_of(int raft_error)
{
    switch (raft_error) {
    case 0:
        return STORE_OK;
    case RAFT_ERROR_NOT_LEADER:
        return STORE_NOT_LEADER;
    case RAFT_ERROR_TOO_LARGE:
        return STORE_TOO_LARGE;
    case RAFT_ERROR_CHANGE_PENDING:
    case RAFT_ERROR_NOT_CAUGHT_UP:
        return STORE_CHANGE_PENDING;
    case RAFT_ERROR_NOT_VOTER:
        return STORE_MEMBER_NOT_FOUND;
    default:
        return STORE_BUSY;
    }
}

// --- Requests into the log
// --------------------------------------------------------------------------

enum store_status member_propose(struct member *member, const struct byte_writer *command,
                                 struct client *client, uint64_t request,
                                 enum protocol_request kind)
{
    if (command->failed)
        return STORE_BUSY;
    struct pending *pending = calloc(1, sizeof(*pending));
    if (!pending)
        return STORE_BUSY;
    int error = raft_propose(member->raft, command->data, command->length, &pending->position);
    if (error) {
        free(pending);
        return member_status_of(error);
    }
    pending->client = client;
    pending->request = request;
    pending->kind = kind;
    if (client)
        client->requests++;
    TAILQ_INSERT_TAIL(&member->pending, pending, link);
    return STORE_OK;
}

static enum store_status begin_reading(struct member *member, struct reading *reading)
{
    reading->context = member->next_context++;
    int error = raft_read_index(member->raft, reading->context);
    if (error) {
        free(reading);
        // A leader that has not committed anything of its own term yet will soon.
        return error == RAFT_ERROR_NOT_READY ? STORE_BUSY : member_status_of(error);
    }
    reading->client->requests++;
    TAILQ_INSERT_TAIL(&member->readings, reading, link);
    return STORE_OK;
}

enum store_status member_read(struct member *member, struct client *client, uint64_t request,
                              const void *txn, size_t length)
{
    struct reading *reading = malloc(sizeof(*reading) + length);
    if (!reading)
        return STORE_BUSY;
    *reading = (struct reading){.client = client, .request = request, .length = length};
    memcpy(reading->txn, txn, length);
    return begin_reading(member, reading);
}

enum store_status member_renew(struct member *member, struct client *client, uint64_t request,
                               uint64_t lease)
{
    struct reading *reading = malloc(sizeof(*reading));
    if (!reading)
        return STORE_BUSY;
    *reading = (struct reading){.client = client, .request = request, .lease = lease};
    return begin_reading(member, reading);
}

void member_forget_client(struct member *member, struct client *client)
{
    struct pending *pending;
    struct reading *reading;
    TAILQ_FOREACH(pending, &member->pending, link)
    if (pending->client == client)
        pending->client = NULL;
    TAILQ_FOREACH(reading, &member->readings, link)
    if (reading->client == client)
        reading->client = NULL;
}

// --- Applying
// ---------------------------------------------------------------------------------------

static void finish_pending(struct member *member, struct pending *pending,
                           const struct byte_writer *answer, enum store_status status)
{
    TAILQ_REMOVE(&member->pending, pending, link);
    if (pending->client) {
        pending->client->requests--;
        if (!answer)
            member_answer_status(member, pending->client, pending->request, status);
        else if (pending->kind >= REQUEST_STATUS)
            member_admin_answer(member, pending, answer);
        else
            member_answer(pending->client, pending->request, answer->data, answer->length);
    }
    free(pending);
}

// The proposal that became this entry, or NULL. Those that had the place of another entry are lost.
static struct pending *pending_of(struct member *member, const struct raft_entry *entry)
{
    struct pending *pending;
    while ((pending = TAILQ_FIRST(&member->pending)) && pending->position.index <= entry->index) {
        if (pending->position.index == entry->index && pending->position.term == entry->term)
            return pending;
        bool replaced = pending->position.index == entry->index;
        finish_pending(member, pending, NULL, replaced ? STORE_NOT_LEADER : STORE_UNKNOWN);
    }
    return NULL;
}

static uint64_t lease_deadline(const struct member *member, const struct store_lease *lease)
{
    return clock_boottime_ns() + lease->ttl * NSEC_PER_SEC;
}

static void note_lease(struct member *member)
{
    struct store_lease *lease = member->machine->touched;
    if (!lease)
        return;
    lease->deadline = lease_deadline(member, lease);
    lease->expiring = false;
}

// Everything that the last leader granted or renewed may have been just before it was lost.
static void take_over_leases(struct member *member, uint64_t term)
{
    struct store_lease *lease;
    member->lease_term = term;
    member->version_asked = 0;
    for (lease = store_machine_lease_next(member->machine, 0); lease;
         lease = store_machine_lease_next(member->machine, lease->id)) {
        lease->deadline = lease_deadline(member, lease) + member->options.election_max_ns;
        lease->expiring = false;
    }
}

static bool apply_entry(struct member *member, const struct raft_entry *entry)
{
    struct pending *pending = pending_of(member, entry);
    struct store_machine *machine = member->machine;
    struct byte_writer *answer = pending && pending->client ? &member->answer : NULL;
    bool command = entry->type == RAFT_ENTRY_COMMAND;

    byte_writer_reset(&member->answer);
    int error = store_machine_apply(machine, entry->index, entry->data, command ? entry->length : 0,
                                    answer);
    if (error) {
        member_end(member, -error,
                   error == -EPROTONOSUPPORT
                       ? "entry %lu holds a command that this version of ferry doesn't know: "
                         "install the version that the other members run"
                       : "entry %lu can't be applied",
                   entry->index);
        return false;
    }
    note_lease(member);
    member->chains[entry->index % MEMBER_CHAINS].index = entry->index;
    member->chains[entry->index % MEMBER_CHAINS].chain = machine->chain;
    if (pending) {
        if (answer && answer->failed)
            finish_pending(member, pending, NULL, STORE_UNKNOWN);
        else
            finish_pending(member, pending, answer, STORE_OK);
    }
    return true;
}

// --- Reads
// ------------------------------------------------------------------------------------------

static enum store_status read_txn(struct member *member, const struct reading *reading)
{
    struct byte_reader r;
    byte_reader_init(&r, reading->txn, reading->length);
    if (store_txn_decode(member->txn, &r) != STORE_OK ||
        store_machine_read(member->machine, &member->txn->txn, &member->answer))
        return STORE_BUSY;
    return STORE_OK;
}

// The member was the leader after it had got the request, so no other one can have decided anything
// about the lease by then. Counted from now on, which is later than its holder does.
static enum store_status renew(struct member *member, uint64_t id)
{
    struct store_lease *lease = store_machine_lease(member->machine, id);
    if (!lease)
        return STORE_LEASE_NOT_FOUND;
    uint64_t deadline = lease_deadline(member, lease);
    if (deadline > lease->deadline)
        lease->deadline = deadline;
    store_answer_status(&member->answer, STORE_OK, member->machine->mvcc.revision, 0);
    byte_writer_u64(&member->answer, id);
    byte_writer_u64(&member->answer, lease->ttl);
    return member->answer.failed ? STORE_BUSY : STORE_OK;
}

static void finish_reading(struct member *member, struct reading *reading, enum store_status status)
{
    struct client *client = reading->client;
    TAILQ_REMOVE(&member->readings, reading, link);
    if (client) {
        client->requests--;
        byte_writer_reset(&member->answer);
        if (status == STORE_OK)
            status = reading->lease ? renew(member, reading->lease) : read_txn(member, reading);
        if (status == STORE_OK)
            member_answer(client, reading->request, member->answer.data, member->answer.length);
        else
            member_answer_status(member, client, reading->request, status);
    }
    free(reading);
}

static void note_confirmed(struct member *member, const struct raft_read *read)
{
    struct reading *reading;
    TAILQ_FOREACH(reading, &member->readings, link)
    if (reading->context == read->context)
        break;
    if (!reading)
        return;
    if (read->result) {
        finish_reading(member, reading, STORE_NOT_LEADER);
        return;
    }
    reading->confirmed = true;
    reading->index = read->index;
}

// The end of the lease is on its way through the log, and nobody knows yet whether it gets there: a
// renewal waits for that.
static bool must_wait(struct member *member, const struct reading *reading)
{
    struct store_lease *lease =
        reading->lease ? store_machine_lease(member->machine, reading->lease) : NULL;
    return lease && lease->expiring;
}

static void answer_readings(struct member *member)
{
    struct reading *reading, *next;
    struct raft_status status;
    raft_inspect(member->raft, &status);
    // Of leases only the leader knows how long they have.
    bool leads = status.role == RAFT_LEADER && member->lease_term == status.hard_state.term;
    for (reading = TAILQ_FIRST(&member->readings); reading; reading = next) {
        next = TAILQ_NEXT(reading, link);
        if (!reading->confirmed)
            break; // they are confirmed in the order they came
        if (reading->lease && !leads)
            finish_reading(member, reading, STORE_NOT_LEADER);
        else if (reading->index <= member->machine->applied && !must_wait(member, reading))
            finish_reading(member, reading, STORE_OK);
    }
}

// --- Readies
// ----------------------------------------------------------------------------------------

static bool begin_write(struct member *member, const struct raft_write *write)
{
    struct wal_batch *batch;
    int error = wal_batch_prepare(member->wal, write, &batch);
    if (!error)
        error = wal_thread_submit(member->wal_thread, batch);
    if (error) {
        member_end(member, -error, "the log can't take what must be written");
        return false;
    }
    member->write_number = write->number;
    member->write_under_way = true;
    return true;
}

static bool handle_ready(struct member *member, const struct raft_ready *ready)
{
    if (ready->write && !begin_write(member, ready->write))
        return false;
    for (size_t i = 0; i < ready->message_count; i++)
        member_peer_send(member, &ready->messages[i]);
    for (size_t i = 0; i < ready->committed_count; i++)
        if (!apply_entry(member, &ready->committed[i]))
            return false;
    for (size_t i = 0; i < ready->read_count; i++)
        note_confirmed(member, &ready->reads[i]);
    return true;
}

static void check_leadership(struct member *member)
{
    struct raft_status status;
    raft_inspect(member->raft, &status);
    if (status.failure)
        member_end(member, EIO, "raft: %s", raft_strerror(status.failure));
    if (status.role == RAFT_LEADER && member->lease_term != status.hard_state.term &&
        raft_log_term(member->raft, status.applied) == status.hard_state.term)
        take_over_leases(member, status.hard_state.term);
}

void member_pump(struct member *member)
{
    struct raft_ready ready;
    if (member->in_pump || member->stopping || member->ended || !member->raft)
        return;
    member->in_pump = true;
    while (!member->ended && raft_ready(member->raft, &ready)) {
        bool fine = handle_ready(member, &ready);
        raft_advance(member->raft);
        if (!fine)
            break;
    }
    if (!member->ended) {
        check_leadership(member);
        answer_readings(member);
        if (member->machine->system_changed) {
            member->machine->system_changed = false;
            member_peers_refresh(member);
        }
        member_serve_watches(member);
    }
    member->in_pump = false;
}

void member_written(struct member *member, struct wal_batch *batch)
{
    int error = wal_batch_finish(batch);
    if (!error) {
        member->write_under_way = false;
        error = raft_written(member->raft, member->write_number);
    }
    if (error)
        member_end(member, EIO, "raft: %s", raft_strerror(error));
}

void member_wal_events(struct member *member)
{
    struct wal_event event;
    struct raft_position last;
    while (!member->ended && wal_thread_next_event(member->wal_thread, &event)) {
        if (event.kind == WAL_EVENT_SNAPSHOT) {
            member_snapshot_written(member, &event);
        } else if (event.error) {
            wal_batch_abandon(event.batch);
            member_end(member, -event.error,
                       "the log can't be written: %s. What the disk holds now is unknown, so this "
                       "member stops",
                       strerror(-event.error));
        } else if (wal_batch_installs(event.batch, &last)) {
            member_install(member, event.batch, last);
        } else {
            member_written(member, event.batch);
        }
    }
}

// --- Time
// -------------------------------------------------------------------------------------------

static void expire_leases(struct member *member)
{
    struct raft_status status;
    uint64_t now = clock_boottime_ns();
    raft_inspect(member->raft, &status);
    if (status.role != RAFT_LEADER || member->lease_term != status.hard_state.term)
        return;
    struct store_lease *lease;
    for (lease = store_machine_lease_next(member->machine, 0); lease;
         lease = store_machine_lease_next(member->machine, lease->id)) {
        if (lease->expiring || lease->deadline > now)
            continue;
        struct byte_writer command;
        byte_writer_init(&command);
        store_command_lease(&command, STORE_COMMAND_EXPIRE, lease->id, lease->renewals);
        lease->expiring = member_propose(member, &command, NULL, 0, REQUEST_REVOKE) == STORE_OK;
        byte_writer_free(&command);
        if (!lease->expiring)
            break;
    }
}

static void compact_automatically(struct member *member)
{
    struct mvcc *mvcc = &member->machine->mvcc;
    uint64_t keep = member->options.history;
    struct raft_status status;
    raft_inspect(member->raft, &status);
    // In steps of a tenth, so that a compaction is no entry for each write.
    if (!keep || status.role != RAFT_LEADER || mvcc->event_count < keep + keep / 10)
        return;
    uint64_t target = mvcc_event_at(mvcc, mvcc->event_count - keep)->revision;
    if (target <= mvcc->compacted || target <= member->compact_asked)
        return;
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_compact(&command, target);
    if (member_propose(member, &command, NULL, 0, REQUEST_COMPACT) == STORE_OK)
        member->compact_asked = target;
    byte_writer_free(&command);
}

// Once every member understands newer commands, they may be used: an entry says so, to all of them.
static void raise_version(struct member *member)
{
    struct raft_status status;
    struct byte_writer command;
    raft_inspect(member->raft, &status);
    uint32_t version = status.role == RAFT_LEADER ? member_peers_understand(member) : 0;
    if (version <= member->machine->version || version <= member->version_asked ||
        status.configuration_index > status.commit)
        return;
    byte_writer_init(&command);
    store_command_set_version(&command, version);
    if (member_propose(member, &command, NULL, 0, REQUEST_COMPACT) == STORE_OK) {
        member->version_asked = version;
        log_info("all members understand version %u of the commands: it is used from now on",
                 version);
    }
    byte_writer_free(&command);
}

void member_raft_tick(struct member *member)
{
    int error = raft_tick(member->raft);
    if (error && error != -ENOMEM) {
        member_end(member, EIO, "raft: %s", raft_strerror(error));
        return;
    }
    if (member->ticks % LEASE_CHECK_TICKS == 0) {
        expire_leases(member);
        compact_automatically(member);
        raise_version(member);
        member_reconcile(member);
    }
    if (member->ticks % HASH_TICKS == 0)
        member_peers_send_hash(member);
    store_machine_idle(member->machine, 2000);
}
