// Clients, and the side of a member that serves them.
//
// A client has one operation under way and tries it at one member after another, with the same
// sequence number, until one answers. What it asked and saw goes into the history that
// sim_linearize() judges.
//
//   request:  u32 session, u32 sequence, u32 key, u32 kind, u64 argument, u64 expected, u8 by
//   ReadIndex, padding reply:    u32 sequence, u32 session, u8 done, u8 slot of the leader + 1 or
//   0, u64 result
#include "cluster.h"

#include <string.h>

#define REQUEST_BYTES (SIM_COMMAND_BYTES + 1)
#define REPLY_BYTES   18

// ---- the client ----

static void client_try(struct sim_client *client);

// Somebody who may still be there. When all is healed, whoever leads: discovery isn't what is being
// tested.
static unsigned client_target(struct sim_cluster *cluster)
{
    unsigned target = (unsigned)sim_random_below(&cluster->random, cluster->member_count);

    for (unsigned i = 0; i < cluster->member_count && cluster->members[target].lost; i++)
        target = (target + 1) % cluster->member_count;
    for (unsigned i = 0; i < cluster->member_count && cluster->healed; i++)
        if (cluster->checker.leaders >> i & 1 &&
            cluster->members[i].view.term == cluster->checker.highest_term)
            target = i;
    return target;
}

static void client_expired(void *owner, uint64_t generation)
{
    struct sim_client *client = owner;
    struct sim_cluster *cluster = client->cluster;

    if (client->generation != generation || !client->waiting)
        return;
    cluster->counters.client_retries++;
    if (!cluster->healed && client->sequence > 1 && cluster->next_session < SIM_SESSIONS &&
        sim_random_chance(&cluster->random, cluster->plan.abandon_ppm)) {
        // Gives up for good: the operation may still happen. A new session, as a restarted client
        // would have.
        cluster->counters.operations_abandoned++;
        client->waiting = false;
        sim_client_start(cluster, client->node - SIM_CLIENT_NODE);
        return;
    }
    client->target = client_target(cluster);
    client_try(client);
}

static void client_try(struct sim_client *client)
{
    struct sim_cluster *cluster = client->cluster;
    const struct sim_operation *operation = &cluster->history[client->operation];
    struct sim_packet *packet = sim_network_packet(&cluster->network, REQUEST_BYTES);
    struct sim_command command = {
        .session = client->session,
        .sequence = client->sequence,
        .key = operation->key,
        .kind = operation->kind,
        .argument = operation->argument,
        .expected = operation->expected,
    };

    sim_command_encode(&command, packet->bytes);
    packet->bytes[SIM_COMMAND_BYTES] = client->read_index;
    sim_network_send(&cluster->network, packet, client->node, client->target);
    sim_events_add(&cluster->events, cluster->plan.client_timeout, client_expired, client,
                   ++client->generation);
}

static struct sim_operation *client_operation(struct sim_client *client)
{
    struct sim_cluster *cluster = client->cluster;
    struct sim_operation *operation;

    if (cluster->history_count == cluster->history_room) {
        cluster->history_room = cluster->history_room ? cluster->history_room * 2 : 1024;
        cluster->history =
            sim_reallocate(cluster->history, cluster->history_room * sizeof(*cluster->history));
    }
    client->operation = cluster->history_count++;
    operation = &cluster->history[client->operation];
    memset(operation, 0, sizeof(*operation));
    return operation;
}

static void client_next(void *owner, uint64_t generation)
{
    struct sim_client *client = owner;
    struct sim_cluster *cluster = client->cluster;
    struct sim_operation *operation;

    if (client->generation != generation)
        return;
    if (cluster->healed) {
        client->active = false;
        return;
    }
    operation = client_operation(client);
    client->sequence++;
    client->waiting = true;
    *operation = (struct sim_operation){
        .client = client->session,
        .key = (uint32_t)sim_random_below(&cluster->random, SIM_KEYS),
        .called = cluster->events.done,
        .returned = SIM_NEVER,
        .argument = (uint64_t)client->session << 32 | client->sequence,
    };
    client->read_index = false;
    if (sim_random_chance(&cluster->random, cluster->plan.read_ppm)) {
        operation->kind = SIM_REGISTER_GET;
        client->read_index = !sim_random_chance(&cluster->random, cluster->plan.read_log_ppm);
    } else {
        operation->kind = (enum sim_register_kind)sim_random_between(
            &cluster->random, SIM_REGISTER_PUT, SIM_REGISTER_COMPARE);
        operation->expected =
            sim_random_chance(&cluster->random, 300000) ? 0 : operation->argument - 1;
    }
    client_try(client);
}

void sim_client_start(struct sim_cluster *cluster, unsigned number)
{
    struct sim_client *client = &cluster->clients[number];

    client->cluster = cluster;
    client->node = SIM_CLIENT_NODE + number;
    client->session = cluster->next_session++;
    client->sequence = 0;
    client->active = true;
    client->waiting = false;
    client->target = client_target(cluster);
    sim_events_add(&cluster->events,
                   sim_random_below(&cluster->random, cluster->plan.think_max + 1), client_next,
                   client, ++client->generation);
}

void sim_client_receive(struct sim_client *client, const struct sim_packet *packet)
{
    struct sim_cluster *cluster = client->cluster;
    const uint8_t *bytes = packet->bytes;
    struct sim_operation *operation;

    if (!client->waiting || bytes_get_u32(bytes) != client->sequence ||
        bytes_get_u32(bytes + 4) != client->session)
        return;
    if (!bytes[8]) {
        // Not here: at once where the leader is said to be, else after a while.
        if (bytes[9])
            client->target = bytes[9] - 1u;
        else
            client->target = client_target(cluster);
        sim_events_add(&cluster->events,
                       SIM_MILLISECOND * sim_random_between(&cluster->random, 1, bytes[9] ? 5 : 50),
                       client_expired, client, ++client->generation);
        return;
    }
    operation = &cluster->history[client->operation];
    operation->returned = cluster->events.done;
    operation->result = bytes_get_u64(bytes + 10);
    sim_note(cluster, 0x60 + client->node, operation->result);
    SIM_TRACE(cluster, "client %u: operation %u is done", client->session, client->sequence);
    cluster->counters.operations++;
    client->waiting = false;
    client->target = packet->from;
    sim_events_add(&cluster->events,
                   sim_random_below(&cluster->random, cluster->plan.think_max + 1), client_next,
                   client, ++client->generation);
}

// ---- the member's side ----

static void member_reply(struct sim_member *member, unsigned node, uint32_t session,
                         uint32_t sequence, bool done, uint64_t result)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_packet *packet = sim_network_packet(&cluster->network, REPLY_BYTES);
    struct raft_status status;

    raft_inspect(member->raft, &status);
    bytes_put_u32(packet->bytes, sequence);
    bytes_put_u32(packet->bytes + 4, session);
    packet->bytes[8] = done;
    packet->bytes[9] = (uint8_t)(status.leader & 0xff);
    bytes_put_u64(packet->bytes + 10, result);
    sim_network_send(&cluster->network, packet, member->slot, node);
}

static void serve_read(struct sim_member *member, const struct sim_command *command, unsigned node)
{
    struct sim_cluster *cluster = member->cluster;
    struct sim_waiting_read *read = &member->reads[command->session];
    uint64_t context = (uint64_t)command->session << 32 | command->sequence;
    int error;

    if (read->used) // the same one again, or the core still owes the answer to an older one
        return;
    error = raft_read_index(member->raft, context);
    if (error) {
        cluster->counters.reads_failed++;
        SIM_TRACE(cluster, "member %u refuses a read of client %u: %s", member->slot,
                  command->session, raft_strerror(error));
        member_reply(member, node, command->session, command->sequence, false, 0);
        return;
    }
    cluster->counters.reads_asked++;
    SIM_TRACE(cluster, "member %u: client %u asks for read %u", member->slot, command->session,
              command->sequence);
    *read = (struct sim_waiting_read){
        .used = true,
        .sequence = command->sequence,
        .key = command->key,
        .node = (uint16_t)node,
        .asked = cluster->events.done,
        .floor = cluster->checker.agreed_last,
    };
}

void sim_member_serve(struct sim_member *member, const struct sim_packet *packet)
{
    struct sim_cluster *cluster = member->cluster;
    uint8_t bytes[1024] = {0};
    struct sim_command command;
    struct raft_status before;
    int error;

    if (packet->size != REQUEST_BYTES || !sim_command_decode(&command, packet->bytes, packet->size))
        return;
    if (packet->bytes[SIM_COMMAND_BYTES]) {
        serve_read(member, &command, packet->from);
        return;
    }
    memcpy(bytes, packet->bytes, SIM_COMMAND_BYTES);
    raft_inspect(member->raft, &before);
    error = raft_propose(member->raft, bytes, SIM_COMMAND_BYTES + cluster->plan.command_pad, NULL);
    if (error) {
        cluster->counters.proposals_refused++;
        SIM_TRACE(cluster, "member %u refuses a command of client %u: %s", member->slot,
                  command.session, raft_strerror(error));
        member_reply(member, packet->from, command.session, command.sequence, false, 0);
        return;
    }
    sim_checker_proposed(member, &before);
    cluster->counters.proposals++;
    member->waiting[command.session] =
        (struct sim_waiting){.sequence = command.sequence, .node = packet->from};
}

void sim_member_applied(struct sim_member *member, const struct sim_command *command, bool current,
                        uint64_t result)
{
    struct sim_waiting *waiting = &member->waiting[command->session];

    if (!current || waiting->sequence != command->sequence)
        return;
    member_reply(member, waiting->node, command->session, command->sequence, true, result);
    waiting->sequence = 0;
}

void sim_member_read_ready(struct sim_member *member, const struct raft_read *read)
{
    struct sim_cluster *cluster = member->cluster;
    uint32_t session = (uint32_t)(read->context >> 32);
    struct sim_waiting_read *waiting =
        session < SIM_SESSIONS ? &member->reads[session] : &member->reads[0];

    if (session >= SIM_SESSIONS || !waiting->used || waiting->confirmed ||
        waiting->sequence != (uint32_t)read->context) {
        sim_fail(cluster, "reads", "member %u: an answer to a read that nobody asked: %llx",
                 member->slot, (unsigned long long)read->context);
        return;
    }
    if (read->result != 0) {
        cluster->counters.reads_failed++;
        waiting->used = false;
        member_reply(member, waiting->node, session, waiting->sequence, false, 0);
        return;
    }
    // What was committed anywhere before the read was asked for must be seen by it.
    if (read->index < waiting->floor)
        sim_fail(cluster, "reads", "member %u: a read of %llu, but %llu was committed before",
                 member->slot, (unsigned long long)read->index, (unsigned long long)waiting->floor);
    SIM_TRACE(cluster, "member %u: read %u of client %u is confirmed at %llu", member->slot,
              waiting->sequence, session, (unsigned long long)read->index);
    sim_checker_read(member, waiting->asked);
    waiting->confirmed = true;
    waiting->index = read->index;
}

void sim_member_answer_reads(struct sim_member *member)
{
    unsigned answered = 0;

    for (uint32_t session = 0; session < SIM_SESSIONS; session++) {
        struct sim_waiting_read *read = &member->reads[session];

        if (!read->used || !read->confirmed || read->index > member->machine.applied)
            continue;
        member_reply(member, read->node, session, read->sequence, true,
                     member->machine.values[read->key]);
        read->used = false;
        answered++;
    }
    if (answered > 1)
        member->cluster->counters.read_rounds_shared++;
}
