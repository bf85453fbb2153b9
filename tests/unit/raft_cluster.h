// What the Raft unit tests share: servers with disks in memory and a network of queues, all driven
// by hand. Messages pass through their encoding. Every test includes this once, so it is a header
// of static functions.
//
// A disk is either prompt (each write is durable at once) or held: then the write waits until
// test_disk_complete(), and a crash loses it.
#pragma once

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/raft.h"

#define UNUSED        __attribute__((unused))
#define SERVERS_MAX   8
#define HEARTBEAT     2
#define ELECTION_MIN  10
#define ELECTION_MAX  20
#define SNAPSHOT_SIZE 37

struct test_disk {
    struct raft_hard_state hard_state;
    struct raft_snapshot snapshot;
    uint8_t snapshot_data[SNAPSHOT_SIZE];
    struct raft_position before;
    struct raft_entry *entries; // data owned
    size_t count;
    size_t capacity;
    uint8_t partial[SNAPSHOT_SIZE];
    size_t partial_length;
    int read_error;
    bool snapshot_gone; // read_snapshot() gives -ENOENT
    int reads;
};

struct test_server {
    uint64_t id;
    struct raft *raft;
    struct raft_options options;
    struct raft_storage storage;
    struct test_disk disk;
    uint64_t seed;
    bool held;
    bool stale_random; // always draw the same time-out

    // The write under way on a held disk.
    bool pending;
    uint64_t pending_number;
    struct test_disk *pending_result;

    struct raft_message_decoded *sent[4096];
    uint8_t *sent_bytes[4096];
    size_t sent_count;
    uint64_t applied_index[4096]; // in order of application
    uint64_t applied_term[4096];
    char applied_data[4096][24];
    size_t applied_count;
    struct raft_read reads[256];
    size_t read_count;
};

struct test_cluster {
    struct test_server servers[SERVERS_MAX]; // id = place + 1
    size_t count;
    bool cut[SERVERS_MAX + 1][SERVERS_MAX + 1]; // [from][to], by id
};

// ---- Disks ----

UNUSED static void test_disk_clear_entries(struct test_disk *disk)
{
    for (size_t i = 0; i < disk->count; i++)
        free((void *)(uintptr_t)disk->entries[i].data);
    disk->count = 0;
}

UNUSED static void test_disk_free(struct test_disk *disk)
{
    test_disk_clear_entries(disk);
    free(disk->entries);
    disk->entries = NULL;
    disk->capacity = 0;
}

UNUSED static void test_disk_append(struct test_disk *disk, const struct raft_entry *entry)
{
    uint8_t *data = NULL;

    ck_assert_uint_gt(entry->index, disk->before.index);
    ck_assert_uint_le(entry->index, disk->before.index + disk->count + 1);
    while (disk->before.index + disk->count >= entry->index)
        free((void *)(uintptr_t)disk->entries[--disk->count].data);
    if (disk->count == disk->capacity) {
        disk->capacity = disk->capacity ? disk->capacity * 2 : 16;
        disk->entries = realloc(disk->entries, disk->capacity * sizeof(*disk->entries));
    }
    if (entry->length) {
        data = malloc(entry->length);
        memcpy(data, entry->data, entry->length);
    }
    disk->entries[disk->count] = *entry;
    disk->entries[disk->count++].data = data;
}

// What a state machine at `index` looks like as bytes.
UNUSED static void test_snapshot_fill(uint8_t *data, uint64_t index)
{
    for (size_t i = 0; i < SNAPSHOT_SIZE; i++)
        data[i] = (uint8_t)(index * 31 + i);
}

UNUSED static void test_disk_write(struct test_disk *disk, const struct raft_write *write)
{
    if (write->has_hard_state)
        disk->hard_state = write->hard_state;
    if (write->chunk) {
        const struct raft_snapshot_request *chunk = write->chunk;

        if (chunk->offset == 0)
            disk->partial_length = 0;
        ck_assert_uint_eq(chunk->offset, disk->partial_length);
        ck_assert_uint_le(chunk->offset + chunk->length, SNAPSHOT_SIZE);
        memcpy(disk->partial + chunk->offset, chunk->data, chunk->length);
        disk->partial_length += chunk->length;
        if (chunk->done) {
            ck_assert_uint_eq(disk->partial_length, SNAPSHOT_SIZE);
            memcpy(disk->snapshot_data, disk->partial, SNAPSHOT_SIZE);
            disk->partial_length = 0;
            disk->snapshot.last = chunk->last;
            disk->snapshot.configuration = *chunk->configuration;
            disk->before = chunk->last;
            test_disk_clear_entries(disk);
        }
    }
    for (size_t i = 0; i < write->entry_count; i++)
        test_disk_append(disk, &write->entries[i]);
}

UNUSED static struct test_disk *test_disk_copy(const struct test_disk *disk)
{
    struct test_disk *copy = malloc(sizeof(*copy));

    *copy = *disk;
    copy->entries = NULL;
    copy->count = copy->capacity = 0;
    for (size_t i = 0; i < disk->count; i++)
        test_disk_append(copy, &disk->entries[i]);
    return copy;
}

UNUSED static int test_storage_load(void *context, struct raft_stored *stored)
{
    struct test_disk *disk = &((struct test_server *)context)->disk;

    *stored = (struct raft_stored){.hard_state = disk->hard_state,
                                   .snapshot = disk->snapshot,
                                   .before = disk->before,
                                   .last_index = disk->before.index + disk->count};
    return disk->read_error;
}

UNUSED static int test_storage_read(void *context, uint64_t first, uint64_t last, size_t bytes_max,
                                    struct raft_entry *entries, size_t *count)
{
    struct test_disk *disk = &((struct test_server *)context)->disk;
    size_t room = *count, got = 0, bytes = 0;

    disk->reads++;
    if (disk->read_error)
        return disk->read_error;
    ck_assert_uint_gt(first, disk->before.index);
    ck_assert_uint_le(last, disk->before.index + disk->count);
    for (uint64_t i = first; i <= last && got < room; i++) {
        const struct raft_entry *entry = &disk->entries[i - disk->before.index - 1];

        bytes += entry->length;
        if (got > 0 && bytes > bytes_max)
            break;
        entries[got++] = *entry;
    }
    *count = got;
    return 0;
}

UNUSED static int test_storage_read_snapshot(void *context, struct raft_position last,
                                             uint64_t offset, uint8_t *buffer, size_t capacity,
                                             size_t *length, bool *done)
{
    struct test_disk *disk = &((struct test_server *)context)->disk;

    if (disk->snapshot_gone || disk->snapshot.last.index != last.index ||
        disk->snapshot.last.term != last.term)
        return -ENOENT;
    ck_assert_uint_le(offset, SNAPSHOT_SIZE);
    *length = SNAPSHOT_SIZE - offset < capacity ? SNAPSHOT_SIZE - offset : capacity;
    memcpy(buffer, disk->snapshot_data + offset, *length);
    *done = offset + *length == SNAPSHOT_SIZE;
    return 0;
}

// ---- Servers ----

UNUSED static uint64_t test_random(void *context)
{
    struct test_server *server = context;

    if (server->stale_random)
        return 0;
    server->seed = server->seed * 6364136223846793005u + 1442695040888963407u;
    return server->seed >> 33;
}

UNUSED static struct raft_configuration test_voters(size_t count)
{
    struct raft_configuration configuration = {.count = (uint32_t)count};

    for (size_t i = 0; i < count; i++)
        configuration.members[i] = (struct raft_member){.id = i + 1, .roles = RAFT_VOTER};
    return configuration;
}

// Sets up server `id` with an empty disk; options may be changed before test_server_start().
UNUSED static void test_server_init(struct test_server *server, uint64_t id,
                                    const struct raft_configuration *founded)
{
    memset(server, 0, sizeof(*server));
    server->id = id;
    server->seed = id * 7919 + 1;
    server->storage = (struct raft_storage){.context = server,
                                            .load = test_storage_load,
                                            .read = test_storage_read,
                                            .read_snapshot = test_storage_read_snapshot};
    if (founded)
        server->disk.snapshot.configuration = *founded;
    raft_options_default(&server->options);
    server->options.id = id;
    server->options.storage = &server->storage;
    server->options.random = test_random;
    server->options.random_context = server;
    server->options.heartbeat_ticks = HEARTBEAT;
    server->options.election_ticks_min = ELECTION_MIN;
    server->options.election_ticks_max = ELECTION_MAX;
    server->options.snapshot_chunk_bytes = 10;
    server->options.reads_max = 64;
}

UNUSED static void test_server_start(struct test_server *server)
{
    ck_assert_int_eq(raft_create(&server->raft, &server->options), 0);
#ifdef RAFT_MUTANTS
    // To see that these tests fail where they should: RAFT_MUTANT=NAME, in such a build.
    const char *name = getenv("RAFT_MUTANT");
#define SET_MUTANT(mutant, rule, what)                                                             \
    if (name && strcmp(name, #mutant) == 0)                                                        \
        raft_set_mutant(server->raft, RAFT_MUTANT_##mutant);
    RAFT_MUTANT_LIST(SET_MUTANT)
#undef SET_MUTANT
#endif
}

UNUSED static void test_sent_clear(struct test_server *server)
{
    for (size_t i = 0; i < server->sent_count; i++) {
        free(server->sent[i]);
        free(server->sent_bytes[i]);
    }
    server->sent_count = 0;
}

// A crash: whatever was not durable is gone.
UNUSED static void test_server_crash(struct test_server *server)
{
    raft_destroy(server->raft);
    server->raft = NULL;
    test_sent_clear(server);
    server->applied_count = 0;
    if (server->pending) {
        test_disk_free(server->pending_result);
        free(server->pending_result);
        server->pending = false;
    }
}

UNUSED static void test_server_free(struct test_server *server)
{
    test_server_crash(server);
    test_disk_free(&server->disk);
}

UNUSED static void test_sent_add(struct test_server *server, const struct raft_message *message)
{
    size_t size = raft_message_size(message), length = 0;
    size_t at = server->sent_count++;

    ck_assert_uint_lt(at, 4096);
    server->sent_bytes[at] = malloc(size);
    server->sent[at] = malloc(sizeof(*server->sent[at]));
    ck_assert_int_eq(raft_message_encode(message, server->sent_bytes[at], size, &length), 0);
    ck_assert_uint_eq(length, size);
    ck_assert_int_eq(raft_message_decode(server->sent[at], server->sent_bytes[at], length), 0);
}

UNUSED static void test_apply(struct test_server *server, const struct raft_ready *ready)
{
    for (size_t i = 0; i < ready->committed_count; i++) {
        const struct raft_entry *entry = &ready->committed[i];
        size_t at = server->applied_count++;

        ck_assert_uint_lt(at, 4096);
        server->applied_index[at] = entry->index;
        server->applied_term[at] = entry->term;
        memset(server->applied_data[at], 0, sizeof(server->applied_data[at]));
        if (entry->type == RAFT_ENTRY_COMMAND && entry->length > 0)
            memcpy(server->applied_data[at], entry->data, entry->length < 23 ? entry->length : 23);
    }
    for (size_t i = 0; i < ready->read_count; i++)
        server->reads[server->read_count++ % 256] = ready->reads[i];
}

UNUSED static void test_server_run(struct test_server *server);

// The write under way becomes durable.
UNUSED static void test_disk_complete(struct test_server *server)
{
    ck_assert(server->pending);
    test_disk_free(&server->disk);
    server->disk = *server->pending_result;
    free(server->pending_result);
    server->pending = false;
    ck_assert_int_eq(raft_written(server->raft, server->pending_number), 0);
    test_server_run(server);
}

// Deals with all readies.
UNUSED static void test_server_run(struct test_server *server)
{
    struct raft_ready ready;

    while (raft_ready(server->raft, &ready)) {
        uint64_t number = 0;

        for (size_t i = 0; i < ready.message_count; i++)
            test_sent_add(server, &ready.messages[i]);
        test_apply(server, &ready);
        if (ready.write) {
            number = ready.write->number;
            ck_assert(!server->pending);
            if (server->held) {
                server->pending = true;
                server->pending_number = number;
                server->pending_result = test_disk_copy(&server->disk);
                test_disk_write(server->pending_result, ready.write);
            } else {
                test_disk_write(&server->disk, ready.write);
            }
        }
        raft_advance(server->raft);
        if (number && !server->held)
            ck_assert_int_eq(raft_written(server->raft, number), 0);
    }
}

UNUSED static void test_tick(struct test_server *server, int ticks)
{
    for (int i = 0; i < ticks; i++) {
        raft_tick(server->raft);
        test_server_run(server);
    }
}

UNUSED static int test_step(struct test_server *server, const struct raft_message *message)
{
    int result = raft_step(server->raft, message);

    test_server_run(server);
    return result;
}

UNUSED static struct raft_status test_status(const struct test_server *server)
{
    struct raft_status status;

    raft_inspect(server->raft, &status);
    return status;
}

UNUSED static struct raft_peer_status test_peer(const struct test_server *server, uint64_t id)
{
    struct raft_peer_status status;

    ck_assert_int_eq(raft_inspect_peer(server->raft, id, &status), 0);
    return status;
}

// The last message of that type to `to` (0: to anyone) since test_sent_clear(), or NULL.
UNUSED static const struct raft_message *test_sent(const struct test_server *server,
                                                   enum raft_message_type type, uint64_t to)
{
    for (size_t i = server->sent_count; i-- > 0;)
        if (server->sent[i]->message.type == type && (!to || server->sent[i]->message.to == to))
            return &server->sent[i]->message;
    return NULL;
}

UNUSED static size_t test_sent_number(const struct test_server *server, enum raft_message_type type,
                                      uint64_t to)
{
    size_t count = 0;

    for (size_t i = 0; i < server->sent_count; i++)
        count +=
            server->sent[i]->message.type == type && (!to || server->sent[i]->message.to == to);
    return count;
}

UNUSED static struct raft_message test_message(enum raft_message_type type, uint64_t from,
                                               uint64_t to, uint64_t term)
{
    return (struct raft_message){.type = type, .from = from, .to = to, .term = term};
}

// Puts entries with these terms into an empty disk, from index 1 on, and the term into its state.
UNUSED static void test_disk_fill(struct test_server *server, const uint64_t *terms, size_t count,
                                  uint64_t term)
{
    for (size_t i = 0; i < count; i++) {
        struct raft_entry entry = {.index = i + 1, .term = terms[i], .type = RAFT_ENTRY_NOOP};

        test_disk_append(&server->disk, &entry);
    }
    server->disk.hard_state.term = term;
}

// Is log[first..] of these terms?
UNUSED static void test_log_is(const struct test_server *server, const uint64_t *terms,
                               size_t count)
{
    ck_assert_uint_eq(test_status(server).last.index, count);
    for (size_t i = 0; i < count; i++)
        ck_assert_uint_eq(raft_log_term(server->raft, i + 1), terms[i]);
}

// Makes a server (of a configuration with voters 1..n) the leader of the next term, by hand.
UNUSED static void test_lead(struct test_server *server)
{
    struct raft_status status;
    uint64_t term;

    ck_assert_int_eq(raft_campaign(server->raft), 0);
    test_server_run(server);
    status = test_status(server);
    term = status.hard_state.term + (status.role == RAFT_PRE_CANDIDATE);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < status.configuration->count; i++) {
            struct raft_message vote =
                test_message(round ? RAFT_MESSAGE_VOTE_REPLY : RAFT_MESSAGE_PRE_VOTE_REPLY,
                             status.configuration->members[i].id, server->id, term);

            vote.vote_reply.granted = true;
            if (vote.from != server->id)
                test_step(server, &vote);
        }
    }
    ck_assert_int_eq(test_status(server).role, RAFT_LEADER);
}

// Follower `from` acknowledges everything up to `match` to a leader.
UNUSED static void test_acknowledge(struct test_server *server, uint64_t from, uint64_t match)
{
    struct raft_message reply = test_message(RAFT_MESSAGE_APPEND_REPLY, from, server->id,
                                             test_status(server).hard_state.term);

    reply.append_reply.success = true;
    reply.append_reply.match = match;
    ck_assert_int_eq(test_step(server, &reply), 0);
}

UNUSED static int test_propose(struct test_server *server, const char *text)
{
    int result = raft_propose(server->raft, text, strlen(text), NULL);

    test_server_run(server);
    return result;
}

// One server of a cluster with voters 1..n, on the heap, not yet started. The others are the test.
UNUSED static struct test_server *test_alone_init(uint64_t id, size_t voters)
{
    struct test_server *server = malloc(sizeof(*server));
    struct raft_configuration founded = test_voters(voters);

    test_server_init(server, id, &founded);
    return server;
}

UNUSED static struct test_server *test_alone(uint64_t id, size_t voters)
{
    struct test_server *server = test_alone_init(id, voters);

    test_server_start(server);
    return server;
}

UNUSED static void test_alone_free(struct test_server *server)
{
    test_server_free(server);
    free(server);
}

// ---- Clusters ----

UNUSED static struct test_server *test_at(struct test_cluster *cluster, uint64_t id)
{
    return &cluster->servers[id - 1];
}

// `voters` founders, and servers up to `count` that wait to be added.
UNUSED static struct test_cluster *test_cluster_new(size_t count, size_t voters)
{
    struct test_cluster *cluster = calloc(1, sizeof(*cluster));
    struct raft_configuration founded = test_voters(voters);

    cluster->count = count;
    for (size_t i = 0; i < count; i++) {
        test_server_init(&cluster->servers[i], i + 1, i < voters ? &founded : NULL);
        test_server_start(&cluster->servers[i]);
    }
    return cluster;
}

UNUSED static void test_cluster_free(struct test_cluster *cluster)
{
    for (size_t i = 0; i < cluster->count; i++)
        test_server_free(&cluster->servers[i]);
    free(cluster);
}

// Delivers messages until there are none.
UNUSED static void test_deliver(struct test_cluster *cluster)
{
    for (bool any = true; any;) {
        any = false;
        for (size_t i = 0; i < cluster->count; i++) {
            struct test_server *from = &cluster->servers[i];

            if (!from->raft)
                continue;
            test_server_run(from);
            for (size_t m = 0; m < from->sent_count; m++) {
                const struct raft_message *message = &from->sent[m]->message;
                bool known = message->to >= 1 && message->to <= cluster->count;
                struct test_server *to = known ? test_at(cluster, message->to) : NULL;

                any = true;
                if (to && to->raft && !cluster->cut[from->id][to->id])
                    test_step(to, message);
            }
            test_sent_clear(from);
        }
    }
}

UNUSED static void test_cluster_tick(struct test_cluster *cluster, int ticks)
{
    for (int t = 0; t < ticks; t++) {
        for (size_t i = 0; i < cluster->count; i++)
            if (cluster->servers[i].raft)
                raft_tick(cluster->servers[i].raft);
        test_deliver(cluster);
    }
}

// The leader of the highest term, or NULL.
UNUSED static struct test_server *test_leader(struct test_cluster *cluster)
{
    struct test_server *leader = NULL;

    for (size_t i = 0; i < cluster->count; i++) {
        struct test_server *server = &cluster->servers[i];

        if (!server->raft || test_status(server).role != RAFT_LEADER)
            continue;
        if (!leader || test_status(leader).hard_state.term < test_status(server).hard_state.term)
            leader = server;
    }
    return leader;
}

// Server `id` leads, by campaigning at once.
UNUSED static struct test_server *test_elect(struct test_cluster *cluster, uint64_t id)
{
    for (int tries = 0; tries < 50 && test_leader(cluster) != test_at(cluster, id); tries++) {
        test_cluster_tick(cluster, ELECTION_MIN);
        if (test_leader(cluster) && test_leader(cluster)->id != id)
            raft_transfer_leadership(test_leader(cluster)->raft, id);
        else if (!test_leader(cluster))
            raft_campaign(test_at(cluster, id)->raft);
        test_deliver(cluster);
    }
    ck_assert_ptr_eq(test_leader(cluster), test_at(cluster, id));
    test_cluster_tick(cluster, HEARTBEAT);
    return test_at(cluster, id);
}

UNUSED static void test_isolate(struct test_cluster *cluster, uint64_t id, bool cut)
{
    for (uint64_t other = 1; other <= cluster->count; other++)
        cluster->cut[id][other] = cluster->cut[other][id] = cut && other != id;
}

// A snapshot at what is applied, with the log before it removed, as an owner does.
UNUSED static void test_compact(struct test_server *server)
{
    struct raft_status status = test_status(server);
    uint64_t to = raft_retain_index(server->raft);
    const struct raft_configuration *configuration =
        raft_configuration_at(server->raft, status.applied);
    struct test_disk *disk = &server->disk;

    ck_assert_ptr_nonnull(configuration);
    disk->snapshot.last = (struct raft_position){
        .index = status.applied, .term = raft_log_term(server->raft, status.applied)};
    disk->snapshot.configuration = *configuration;
    test_snapshot_fill(disk->snapshot_data, status.applied);
    while (disk->before.index < to) {
        disk->before.index++;
        disk->before.term = disk->entries[0].term;
        free((void *)(uintptr_t)disk->entries[0].data);
        disk->count--;
        memmove(disk->entries, disk->entries + 1, disk->count * sizeof(*disk->entries));
    }
    ck_assert_int_eq(raft_compacted(server->raft), 0);
}

UNUSED static bool test_has_applied(const struct test_server *server, const char *text)
{
    for (size_t i = 0; i < server->applied_count; i++)
        if (strcmp(server->applied_data[i], text) == 0)
            return true;
    return false;
}

// One suite of one file: runs it, TAP on standard output.
UNUSED static int test_main(const char *name, void (*add)(TCase *tests))
{
    Suite *suite = suite_create(name);
    TCase *tests = tcase_create(name);

    tcase_set_timeout(tests, 120);
    add(tests);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
