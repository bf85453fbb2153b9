// A member: what the owner of a Raft core does, against a simulated disk and network.
#include "cluster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// An owner bounds what its core may take; far above what the options allow it.
#define MEMORY_MAX (16u << 20)

bool sim_member_up(const struct sim_member *member)
{
    return member->used && member->host.up;
}

// Far more than one event can give reason for.
#define LOOP_MAX 10000

// ---- what the core asks of its owner ----

#define ALLOCATION_HEADER 16

static void *member_resize(void *context, void *pointer, size_t size)
{
    struct sim_member *member = context;
    size_t *header = pointer ? (size_t *)((char *)pointer - ALLOCATION_HEADER) : NULL;
    size_t old = header ? *header : 0;

    if (size == 0) {
        member->memory -= old;
        free(header);
        return NULL;
    }
    if (member->refuse_memory && size > old &&
        sim_random_chance(&member->random, member->cluster->plan.memory_ppm)) {
        member->cluster->counters.out_of_memory++;
        return NULL;
    }
    header = sim_reallocate(header, size + ALLOCATION_HEADER);
    *header = size;
    member->memory += size - old;
    if (member->memory > MEMORY_MAX)
        sim_fail(member->cluster, "memory", "member %u's core has allocated %zu bytes",
                 member->slot, member->memory);
    return (char *)header + ALLOCATION_HEADER;
}

static uint64_t member_random(void *context)
{
    struct sim_member *member = context;

    return member->cluster->plan.fixed_timeouts ? 0 : sim_random_next(&member->random);
}

// ---- life ----

uint64_t sim_member_id(struct sim_cluster *cluster, unsigned slot)
{
    uint64_t state = cluster->seed * SIM_MEMBERS + slot;

    return sim_random_mix(&state) << 8 | (slot + 1);
}

static void member_disk_crashed(void *context)
{
    struct sim_member *member = context;

    member->crashing = true;
    member->cluster->counters.crashes_between_writes++;
}

// An empty disk with the state that a member begins with.
int sim_member_found(struct sim_member *member, const struct raft_configuration *configuration)
{
    uint8_t machine[SIM_MACHINE_BYTES];

    sim_disk_reset(&member->disk, member->cluster->seed, member->slot);
    member->disk.crashed = member_disk_crashed;
    member->disk.context = member;
    sim_machine_init(&member->machine);
    return sim_journal_found(&member->journal, configuration, machine,
                             sim_machine_encode(&member->machine, 0, machine));
}

struct sim_member *sim_member_create(struct sim_cluster *cluster,
                                     const struct raft_configuration *configuration)
{
    struct sim_member *member;
    int error;

    if (cluster->member_count == SIM_MEMBERS)
        return NULL;
    member = &cluster->members[cluster->member_count];
    member->slot = cluster->member_count++;
    member->id = sim_member_id(cluster, member->slot);
    member->used = true;
    member->lost = member->crashing = member->stopping = false;
    sim_random_seed(&member->random, cluster->seed, 0x6d656d00 + member->slot);
    member->host.drift_ppm = 0;
    if (cluster->plan.drift_max_ppm)
        member->host.drift_ppm =
            (int32_t)sim_random_below(&cluster->random, 2 * (uint64_t)cluster->plan.drift_max_ppm) -
            cluster->plan.drift_max_ppm;
    member->durable_hard_state = (struct raft_hard_state){0};
    member->durable_last = (struct raft_position){0};
    memset(&member->view, 0, sizeof(member->view));
    sim_random_seed(&member->journal.random, cluster->seed, 0x6a6e6c00 + member->slot);
    member->journal.keep_previous = cluster->plan.keep_previous;
    error = sim_member_found(member, configuration);
    if (error)
        sim_fail(cluster, "harness", "founding a journal: error %d", error);
    member->disk.faults = cluster->plan.disk;
    return member;
}

static void member_count(struct sim_member *member)
{
    struct sim_counters *to = &member->cluster->counters;
    struct raft_status status;
    const struct raft_counters *now;

    raft_inspect(member->raft, &status);
    now = status.counters;
#define COUNT(name) to->name += now->name - member->counted.name
    COUNT(pre_elections);
    COUNT(elections);
    COUNT(elections_won);
    COUNT(stepped_down_quorum);
    COUNT(stepped_down_disk);
    COUNT(stepped_down_removed);
    COUNT(truncations);
    COUNT(appends_refused);
    COUNT(probes_back);
    COUNT(snapshots_sent);
    COUNT(snapshots_restarted);
    COUNT(snapshots_installed);
    COUNT(joint_entered);
    COUNT(joint_left);
    COUNT(configurations_undone);
    COUNT(transfers);
    COUNT(transfers_abandoned);
    COUNT(reads_confirmed);
    COUNT(messages_dropped);
#undef COUNT
    member->counted = *now;
}

static void member_drop_core(struct sim_member *member)
{
    if (!member->raft)
        return;
    member_count(member);
    raft_destroy(member->raft);
    member->raft = NULL;
    if (member->memory != 0)
        sim_fail(member->cluster, "memory", "member %u's core left %zu bytes behind", member->slot,
                 member->memory);
    member->memory = 0;
}

bool sim_member_start(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;
    struct raft_options options = cluster->plan.options;
    int error;

    if (!member->used || member->lost || member->host.up)
        return false;
    error = sim_journal_open(&member->journal);
    if (error) {
        // Power failed again, or the disk did, while it was being read.
        member->crashing = false;
        sim_disk_crash(&member->disk);
        return false;
    }
    if (!sim_machine_decode(&member->machine, member->journal.current.data.bytes,
                            member->journal.current.data.length)) {
        sim_fail(cluster, "snapshot", "member %u's snapshot is damaged", member->slot);
        return false;
    }
    options.id = member->id;
    options.storage = &member->journal.storage;
    options.allocator = (struct raft_allocator){.context = member, .resize = member_resize};
    options.random = member_random;
    options.random_context = member;
    member->refuse_memory = false; // an owner that can't start isn't interesting
    member->journal.refuse_memory = false;
    member->memory = 0;
    error = raft_create(&member->raft, &options);
    if (error) {
        sim_fail(cluster, "start", "member %u: raft_create: %s", member->slot,
                 raft_strerror(error));
        return false;
    }
#ifdef RAFT_MUTANTS
    raft_set_mutant(member->raft, (enum raft_mutant)cluster->mutant);
#endif
    memset(&member->counted, 0, sizeof(member->counted));
    member->refuse_memory = member->journal.refuse_memory =
        cluster->plan.memory_ppm > 0 && !cluster->healed;
    member->writing = 0;
    member->snapshotting = false;
    member->stopping = false;
    memset(member->waiting, 0, sizeof(member->waiting));
    memset(member->reads, 0, sizeof(member->reads));
    sim_host_start(&member->host, cluster->plan.tick_length,
                   cluster->plan.aligned ? NULL : &cluster->random);
    sim_note(cluster, 0x10 + member->slot, member->journal.last_index);
    SIM_TRACE(cluster, "member %u starts: term %llu, log %llu..%llu", member->slot,
              (unsigned long long)member->journal.hard_state.term,
              (unsigned long long)member->journal.before.index,
              (unsigned long long)member->journal.last_index);
    sim_checker_started(member);
    return true;
}

void sim_member_crash(struct sim_member *member, enum sim_crash crash)
{
    struct sim_cluster *cluster = member->cluster;

    if (!member->host.up)
        return;
    sim_note(cluster, 0x20 + member->slot, crash);
    SIM_TRACE(cluster, "member %u %s", member->slot,
              crash == SIM_KILLED ? "is killed" : "loses power");
    if (crash == SIM_KILLED)
        cluster->counters.kills++;
    else
        cluster->counters.crashes++;
    if (member->view.voters.old)
        cluster->counters.crashes_in_joint++;
    sim_checker_stopped(member);
    sim_host_stop(&member->host);
    member_drop_core(member);
    member->crashing = member->stopping = false;
    if (crash == SIM_KILLED)
        sim_disk_killed(&member->disk);
    else
        sim_disk_crash(&member->disk);
    member->disk.capacity = UINT64_MAX;
}

void sim_member_forget(struct sim_member *member)
{
    if (!member->used)
        return;
    if (member->host.up) {
        sim_host_stop(&member->host);
        member_drop_core(member);
    }
    member->cluster->counters.writes_torn += member->disk.counts.torn;
    member->cluster->counters.writes_lost += member->disk.counts.lost;
    member->cluster->counters.writes_zeroed += member->disk.counts.zeroed;
    member->cluster->counters.renames_lost += member->disk.counts.renames_lost;
    member->cluster->counters.disk_full += member->disk.counts.full;
    member->cluster->counters.disk_sync_errors += member->disk.counts.sync_errors;
    member->cluster->counters.disk_stalls += member->disk.counts.stalls;
    sim_journal_reset(&member->journal);
    member->used = false;
}

// ---- messages ----

static void member_send(struct sim_member *member, const struct raft_message *message)
{
    struct sim_cluster *cluster = member->cluster;
    size_t size = raft_message_size(message), length;
    struct sim_packet *packet;
    int error;

    sim_checker_send(member, message);
    if ((message->to & 0xff) == 0 || (message->to & 0xff) > SIM_MEMBERS) {
        sim_fail(cluster, "message", "member %u writes to %llx, who is nobody", member->slot,
                 (unsigned long long)message->to);
        return;
    }
    packet = sim_network_packet(&cluster->network, (uint32_t)size);
    error = raft_message_encode(message, packet->bytes, size, &length);
    if (error || length != size) {
        sim_fail(cluster, "message", "member %u: a %s takes %zu bytes instead of %zu, error %d",
                 member->slot, raft_message_type_name(message->type), length, size, error);
        sim_network_release(&cluster->network, packet);
        return;
    }
    sim_network_send(&cluster->network, packet, member->slot,
                     sim_cluster_member(cluster, message->to)->slot);
}

static void trace_receive(struct sim_member *member, const struct raft_message *message)
{
    struct sim_cluster *cluster = member->cluster;
    unsigned from = sim_cluster_member(cluster, message->from)->slot;
    unsigned long long term = message->term;
    const char *name = raft_message_type_name(message->type);

    switch (message->type) {
    case RAFT_MESSAGE_PRE_VOTE_REQUEST:
    case RAFT_MESSAGE_VOTE_REQUEST:
        sim_print(cluster, "%u -> %u: %s, term %llu, last %llu of term %llu%s", from, member->slot,
                  name, term, (unsigned long long)message->vote_request.last.index,
                  (unsigned long long)message->vote_request.last.term,
                  message->vote_request.transfer ? ", transfer" : "");
        break;
    case RAFT_MESSAGE_PRE_VOTE_REPLY:
    case RAFT_MESSAGE_VOTE_REPLY:
        sim_print(cluster, "%u -> %u: %s, term %llu, %s", from, member->slot, name, term,
                  message->vote_reply.granted ? "granted" : "refused");
        break;
    case RAFT_MESSAGE_APPEND_REQUEST:
        sim_print(cluster, "%u -> %u: %s, term %llu, %u after %llu of term %llu, commit %llu", from,
                  member->slot, name, term, message->append_request.entry_count,
                  (unsigned long long)message->append_request.previous.index,
                  (unsigned long long)message->append_request.previous.term,
                  (unsigned long long)message->append_request.commit);
        break;
    case RAFT_MESSAGE_APPEND_REPLY:
        if (message->append_reply.success)
            sim_print(cluster, "%u -> %u: %s, term %llu, match %llu", from, member->slot, name,
                      term, (unsigned long long)message->append_reply.match);
        else
            sim_print(cluster, "%u -> %u: %s, term %llu, rejected %llu, hint %llu of term %llu",
                      from, member->slot, name, term,
                      (unsigned long long)message->append_reply.rejected,
                      (unsigned long long)message->append_reply.hint.index,
                      (unsigned long long)message->append_reply.hint.term);
        break;
    case RAFT_MESSAGE_SNAPSHOT_REQUEST:
        sim_print(cluster, "%u -> %u: %s, term %llu, of %llu, offset %llu, %u bytes%s", from,
                  member->slot, name, term,
                  (unsigned long long)message->snapshot_request.last.index,
                  (unsigned long long)message->snapshot_request.offset,
                  message->snapshot_request.length, message->snapshot_request.done ? ", done" : "");
        break;
    case RAFT_MESSAGE_SNAPSHOT_REPLY:
        sim_print(cluster, "%u -> %u: %s, term %llu, of %llu, offset %llu%s", from, member->slot,
                  name, term, (unsigned long long)message->snapshot_reply.last.index,
                  (unsigned long long)message->snapshot_reply.offset,
                  message->snapshot_reply.installed ? ", installed" : "");
        break;
    default:
        sim_print(cluster, "%u -> %u: %s, term %llu", from, member->slot, name, term);
    }
}

// Errors that an owner may meet; others are the core's fault, or show that a message was wrong.
static void member_check_error(struct sim_member *member, const char *call, int error)
{
    if (error == 0 || error == -ENOMEM || member->crashing || member->stopping)
        return;
    sim_fail(member->cluster, "error", "member %u: %s: %s (%d)", member->slot, call,
             raft_strerror(error), error);
}

static void member_packet(struct sim_host *host, const struct sim_packet *packet)
{
    struct sim_member *member = (struct sim_member *)host;
    struct sim_cluster *cluster = member->cluster;
    struct raft_message_decoded *decoded = &cluster->decoded;
    int error;

    if (packet->from >= SIM_CLIENT_NODE) {
        sim_member_serve(member, packet);
        sim_member_pump(member);
        return;
    }
    sim_note(cluster, (uint64_t)packet->from << 8 | member->slot,
             sim_hash_bytes(packet->size, packet->bytes, packet->size < 64 ? packet->size : 64));
    error = raft_message_decode(decoded, packet->bytes, packet->size);
    if (error) {
        sim_fail(cluster, "message", "member %u can't decode a message: error %d", member->slot,
                 error);
        return;
    }
    if (cluster->trace.print)
        trace_receive(member, &decoded->message);
    sim_checker_receive(member, &decoded->message);
    error = raft_step(member->raft, &decoded->message);
    member_check_error(member, "raft_step", error);
    sim_member_pump(member);
}

// ---- the disk ----

static void member_written(void *owner, uint64_t incarnation, int error);
static void member_snapshot_written(void *owner, uint64_t incarnation, int error);

static void member_written_too_early(void *owner, uint64_t incarnation)
{
    member_written(owner, incarnation, 0);
}

static void member_begin_write(struct sim_member *member, const struct raft_write *write)
{
    int error;

    sim_checker_write(member, write);
    member->write_from = member->journal.end;
    member->writing = write->number;
    member->write_installs = write->chunk && write->chunk->done;
    if (write->chunk)
        member->cluster->counters.chunks_received++;
    error = sim_journal_write(&member->journal, write);
    member->write_to = member->journal.end;
    if (!error && member->cluster->owner_mutant == SIM_OWNER_WRITTEN_TOO_EARLY)
        sim_events_add(&member->cluster->events, 10, member_written_too_early, member,
                       member->host.incarnation);
    else if (!error)
        error = sim_disk_sync_later(&member->disk, member->journal.file, member_written, member,
                                    member->host.incarnation);
    if (error)
        member->stopping = true;
}

// Stops what the disk made stop. True if the member is gone.
static bool member_gone(struct sim_member *member)
{
    if (member->crashing) {
        sim_member_crash(member, SIM_POWER_LOSS);
        sim_faults_restart_later(member);
        return true;
    }
    if (member->stopping) {
        SIM_TRACE(member->cluster, "member %u stops: its disk failed", member->slot);
        sim_member_crash(member, SIM_KILLED);
        sim_faults_restart_later(member);
        return true;
    }
    return !member->host.up;
}

static void member_written(void *owner, uint64_t incarnation, int error)
{
    struct sim_member *member = owner;
    struct sim_cluster *cluster = member->cluster;
    uint64_t number = member->writing;
    size_t good;

    if (!member->host.up || member->host.incarnation != incarnation)
        return;
    sim_note(cluster, 0x30 + member->slot, number);
    if (error && cluster->owner_mutant != SIM_OWNER_SYNC_ERROR_IGNORED) {
        member->stopping = true;
        member_gone(member);
        return;
    }
    if (!sim_journal_replay(&member->journal, member->write_from, member->write_to, &good))
        sim_fail(cluster, "harness", "member %u's journal has a bad record", member->slot);
    member->writing = 0;
    SIM_TRACE(cluster, "member %u: write %llu is durable, log ends at %llu", member->slot,
              (unsigned long long)number, (unsigned long long)member->journal.last_index);
    if (member->write_installs) {
        if (!sim_machine_decode(&member->machine, member->journal.current.data.bytes,
                                member->journal.current.data.length))
            sim_fail(cluster, "snapshot", "member %u installed a damaged snapshot", member->slot);
        sim_checker_installed(member);
    }
    sim_checker_written(member);
    member_check_error(member, "raft_written", raft_written(member->raft, number));
    sim_member_pump(member);
}

static void member_maybe_snapshot(struct sim_member *member)
{
    static uint8_t machine[SIM_MACHINE_BYTES_MAX];
    struct sim_cluster *cluster = member->cluster;
    const struct sim_stored_entry *entry =
        sim_journal_entry(&member->journal, member->machine.applied);
    const struct raft_configuration *configuration;
    struct raft_snapshot snapshot;
    uint64_t retain, keep = cluster->plan.snapshot_keep, before;
    int error;

    if (member->snapshotting || !entry ||
        member->machine.applied <
            member->journal.current.snapshot.last.index + cluster->plan.snapshot_every)
        return;
    configuration = raft_configuration_at(member->raft, member->machine.applied);
    if (!configuration)
        return;
    snapshot.last = (struct raft_position){.index = member->machine.applied, .term = entry->term};
    if (cluster->owner_mutant == SIM_OWNER_SNAPSHOT_MISLABELLED &&
        sim_journal_entry(&member->journal, member->machine.applied - 1))
        snapshot.last = (struct raft_position){
            .index = member->machine.applied - 1,
            .term = sim_journal_entry(&member->journal, member->machine.applied - 1)->term};
    snapshot.configuration = *configuration;
    retain = raft_retain_index(member->raft);
    sim_checker_compact(member, retain);
    before = snapshot.last.index > keep ? snapshot.last.index - keep : 0;
    before = before < retain ? before : retain;
    cluster->counters.snapshots_taken++;
    cluster->counters.snapshots_of_joint += raft_configuration_is_joint(configuration);
    cluster->counters.compactions += before > member->journal.before.index;
    member->snapshot_from = member->journal.end;
    member->snapshotting = true;
    SIM_TRACE(cluster, "member %u takes a snapshot at %llu, keeps entries after %llu", member->slot,
              (unsigned long long)snapshot.last.index, (unsigned long long)before);
    error = sim_journal_snapshot(
        &member->journal, &snapshot, machine,
        sim_machine_encode(&member->machine, cluster->plan.machine_pad, machine), before);
    member->snapshot_to = member->journal.end;
    if (!error)
        error = sim_disk_sync_later(&member->disk, member->journal.file, member_snapshot_written,
                                    member, member->host.incarnation);
    if (error)
        member->stopping = true;
}

static void member_snapshot_written(void *owner, uint64_t incarnation, int error)
{
    struct sim_member *member = owner;
    size_t good;

    if (!member->host.up || member->host.incarnation != incarnation)
        return;
    if (error) {
        member->stopping = true;
        member_gone(member);
        return;
    }
    if (!sim_journal_replay(&member->journal, member->snapshot_from, member->snapshot_to, &good))
        sim_fail(member->cluster, "harness", "member %u's journal has a bad record", member->slot);
    member->snapshotting = false;
    member_check_error(member, "raft_compacted", raft_compacted(member->raft));
    sim_member_pump(member);
}

// ---- the owner's loop ----

static void member_apply(struct sim_member *member, const struct raft_entry *entry)
{
    uint64_t content = sim_entry_content(entry), result = 0;
    struct sim_command command;
    bool is_command = entry->type == RAFT_ENTRY_COMMAND, current;

    sim_checker_apply(member, entry, content);
    if (is_command && !sim_command_decode(&command, entry->data, entry->length)) {
        sim_fail(member->cluster, "apply", "member %u: entry %llu is no command", member->slot,
                 (unsigned long long)entry->index);
        return;
    }
    if (is_command && member->machine.sessions[command.session].sequence >= command.sequence)
        member->cluster->counters.commands_repeated++;
    if (is_command && member->cluster->owner_mutant == SIM_OWNER_APPLY_DIFFERS &&
        entry->index % 7 == member->slot)
        command.argument++;
    current =
        sim_machine_apply(&member->machine, entry->index, content, is_command ? &command : NULL,
                          member->cluster->owner_mutant != SIM_OWNER_RETRY_APPLIED_TWICE, &result);
    sim_note(member->cluster, 0x40 + member->slot, member->machine.chain);
    sim_checker_applied(member);
    if (is_command)
        sim_member_applied(member, &command, current, result);
}

void sim_member_pump(struct sim_member *member)
{
    struct sim_cluster *cluster = member->cluster;
    struct raft_ready ready;
    struct raft_status status;
    unsigned rounds = 0;

    if (member_gone(member))
        return;
    sim_checker_observe(member);
    while (!cluster->failed && raft_ready(member->raft, &ready)) {
        if (++rounds == LOOP_MAX)
            sim_fail(cluster, "owner's loop", "member %u is ready without end", member->slot);
        if (ready.write && cluster->plan.write_first)
            member_begin_write(member, ready.write);
        if (member_gone(member))
            return;
        for (size_t i = 0; i < ready.message_count; i++)
            member_send(member, &ready.messages[i]);
        for (size_t i = 0; i < ready.committed_count; i++)
            member_apply(member, &ready.committed[i]);
        for (size_t i = 0; i < ready.read_count; i++)
            sim_member_read_ready(member, &ready.reads[i]);
        if (ready.committed_count || ready.read_count)
            sim_member_answer_reads(member);
        if (ready.write && !cluster->plan.write_first)
            member_begin_write(member, ready.write);
        if (ready.committed_count && !member->crashing && !member->stopping)
            member_maybe_snapshot(member);
        if (member_gone(member))
            return;
        raft_advance(member->raft);
        sim_checker_observe(member);
    }
    raft_inspect(member->raft, &status);
    if (status.failure)
        sim_fail(cluster, "error", "member %u's core stopped: %s", member->slot,
                 raft_strerror(status.failure));
}

static void member_tick(struct sim_host *host)
{
    struct sim_member *member = (struct sim_member *)host;

    sim_note(member->cluster, 0x50 + member->slot, 0);
    member_check_error(member, "raft_tick", raft_tick(member->raft));
    sim_member_pump(member);
    if (member->host.up && !member->cluster->failed)
        sim_checker_tick(member);
}

static const struct sim_host_ops member_host_ops = {.packet = member_packet, .tick = member_tick};

void sim_member_init(struct sim_cluster *cluster, struct sim_member *member, unsigned slot)
{
    member->cluster = cluster;
    member->slot = slot;
    sim_host_init(&member->host, &cluster->events, &cluster->network, slot, &member_host_ops);
    sim_disk_init(&member->disk, &cluster->events);
    sim_journal_init(&member->journal, &member->disk);
}

void sim_member_free(struct sim_member *member)
{
    sim_journal_free(&member->journal);
    sim_disk_free(&member->disk);
}
