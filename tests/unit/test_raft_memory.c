// Raft: memory that runs out. One scenario that visits everything (elections, proposals,
// truncation, membership, snapshots, reads), repeated with the nth allocation failing, for every n:
// nothing breaks, nothing leaks, and when there is memory again the cluster comes to the same end.
#include <limits.h>

#include "tests/unit/raft_cluster.h"

struct meter {
    long allocations;
    long fail_at; // this one and the next `fail_for` - 1 give NULL
    long fail_for;
    long live;
    long failures;
};

static void *metered_resize(void *context, void *pointer, size_t size)
{
    struct meter *meter = context;

    if (size == 0) {
        meter->live -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    meter->allocations++;
    if (meter->allocations >= meter->fail_at &&
        meter->allocations < meter->fail_at + meter->fail_for) {
        meter->failures++;
        return NULL;
    }
    void *memory = realloc(pointer, size);
    meter->live += pointer == NULL;
    return memory;
}

static void propose_until_taken(struct test_cluster *c, const char *text)
{
    for (int tries = 0; tries < 400; tries++) {
        struct test_server *leader = test_leader(c);

        if (leader && raft_propose(leader->raft, text, strlen(text), NULL) == 0) {
            test_cluster_tick(c, HEARTBEAT);
            if (test_has_applied(leader, text))
                return;
        }
        test_cluster_tick(c, 1);
    }
    ck_abort_msg("'%s' was never applied", text);
}

static void change_until_taken(struct test_cluster *c, const struct raft_member *members,
                               size_t count)
{
    for (int tries = 0; tries < 400; tries++) {
        struct test_server *leader = test_leader(c);

        if (leader && raft_propose_configuration(leader->raft, members, count, NULL) == 0) {
            test_cluster_tick(c, HEARTBEAT * 3);
            if (test_status(leader).configuration->count == count &&
                test_status(leader).commit >= test_status(leader).configuration_index)
                return;
        }
        test_cluster_tick(c, HEARTBEAT);
    }
    ck_abort_msg("the configuration was never changed");
}

static void leader_until_there(struct test_cluster *c)
{
    for (int tries = 0; tries < 100 && !test_leader(c); tries++)
        test_cluster_tick(c, ELECTION_MIN);
    ck_assert_ptr_nonnull(test_leader(c));
}

static void scenario(struct test_cluster *c)
{
    static const struct raft_member four[] = {
        {1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_VOTER}, {4, RAFT_LEARNER}};
    static const struct raft_member other[] = {
        {1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_LEARNER}, {4, RAFT_VOTER}};

    leader_until_there(c);
    propose_until_taken(c, "one");
    propose_until_taken(c, "two");
    change_until_taken(c, four, 4);
    change_until_taken(c, other, 4);
    // An entry that only the old leader has is replaced by the next one.
    struct test_server *old = test_leader(c);
    test_isolate(c, old->id, true);
    raft_propose(old->raft, "lost", 4, NULL);
    test_cluster_tick(c, ELECTION_MAX * 3);
    leader_until_there(c);
    propose_until_taken(c, "three");
    test_isolate(c, old->id, false);
    test_cluster_tick(c, ELECTION_MIN);
    // Somebody is left behind and gets a snapshot.
    struct test_server *leader = test_leader(c);
    ck_assert_ptr_nonnull(leader);
    uint64_t behind = leader->id == 1 ? 2 : 1;
    test_isolate(c, behind, true);
    propose_until_taken(c, "four");
    test_compact(test_leader(c));
    test_isolate(c, behind, false);
    test_cluster_tick(c, ELECTION_MIN * 2);
    raft_read_index(test_leader(c)->raft, 1);
    propose_until_taken(c, "five");
    test_cluster_tick(c, ELECTION_MAX);
}

static void scenario_with_failures(long fail_at, long fail_for, struct meter *meter)
{
    struct test_cluster *c = calloc(1, sizeof(*c));
    struct raft_configuration founded = test_voters(3);

    *meter = (struct meter){.fail_at = fail_at, .fail_for = fail_for};
    c->count = 4;
    for (uint64_t id = 1; id <= 4; id++) {
        struct test_server *server = test_at(c, id);
        int result;

        test_server_init(server, id, id <= 3 ? &founded : NULL);
        server->options.allocator =
            (struct raft_allocator){.context = meter, .resize = metered_resize};
        server->options.message_entries_max = 4;
        do {
            result = raft_create(&server->raft, &server->options);
            ck_assert(result == 0 || result == -ENOMEM);
        } while (result);
    }
    scenario(c);
    uint64_t commit = test_status(test_leader(c)).commit;
    for (uint64_t id = 1; id <= 4; id++) {
        ck_assert_int_eq(test_status(test_at(c, id)).failure, 0);
        ck_assert_uint_eq(test_status(test_at(c, id)).applied, commit);
    }
    test_cluster_free(c);
    ck_assert_int_eq(meter->live, 0);
}

START_TEST(every_single_allocation_may_fail)
{
    struct meter meter;

    scenario_with_failures(LONG_MAX / 2, 1, &meter);
    long total = meter.allocations;
    ck_assert_int_gt(total, 50);
    for (long n = 1; n <= total; n++) {
        scenario_with_failures(n, 1, &meter);
        ck_assert_int_eq(meter.failures, 1);
    }
}
END_TEST

START_TEST(memory_may_be_gone_for_a_while)
{
    struct meter meter;

    for (long n = 1; n < 60; n++) {
        scenario_with_failures(n, 25, &meter);
        ck_assert_int_gt(meter.failures, 0);
    }
}
END_TEST

// What bounds memory is bounded by options, so a steady state needs none at all beyond its entries.
START_TEST(heartbeats_need_no_memory)
{
    struct test_cluster *c = calloc(1, sizeof(*c));
    struct raft_configuration founded = test_voters(3);
    struct meter meter = {.fail_at = LONG_MAX / 2};

    c->count = 3;
    for (uint64_t id = 1; id <= 3; id++) {
        test_server_init(test_at(c, id), id, &founded);
        test_at(c, id)->options.allocator =
            (struct raft_allocator){.context = &meter, .resize = metered_resize};
        test_server_start(test_at(c, id));
    }
    leader_until_there(c);
    test_cluster_tick(c, ELECTION_MAX);
    long before = meter.allocations;
    test_cluster_tick(c, 1000);
    raft_read_index(test_leader(c)->raft, 1);
    test_cluster_tick(c, HEARTBEAT);
    ck_assert_uint_eq(test_leader(c)->read_count, 1);
    ck_assert_int_eq(meter.allocations, before);
    test_cluster_free(c);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, every_single_allocation_may_fail);
    tcase_add_test(tests, memory_may_be_gone_for_a_while);
    tcase_add_test(tests, heartbeats_need_no_memory);
}

int main(void)
{
    return test_main("raft_memory", add);
}
