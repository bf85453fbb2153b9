// Raft: snapshots and compaction. One test for each sentence of the rules SNAP* at the top of
// cluster/raft/raft.h.
#include "tests/unit/raft_cluster.h"

static uint8_t pattern[SNAPSHOT_SIZE]; // of the snapshot at index 9

static struct raft_message chunk_of(uint64_t from, uint64_t term, struct raft_position last,
                                    uint64_t offset, uint32_t length,
                                    const struct raft_configuration *configuration)
{
    struct raft_message message = test_message(RAFT_MESSAGE_SNAPSHOT_REQUEST, from, 1, term);

    test_snapshot_fill(pattern, 9);
    message.snapshot_request.last = last;
    message.snapshot_request.configuration = configuration;
    message.snapshot_request.offset = offset;
    message.snapshot_request.data = pattern + offset;
    message.snapshot_request.length = length;
    message.snapshot_request.done = offset + length == SNAPSHOT_SIZE;
    return message;
}

// Gives server 1 a chunk of the snapshot at index 9, term 2, and returns the answer.
static const struct raft_snapshot_reply *give(struct test_server *s, uint64_t from, uint64_t term,
                                              uint64_t offset, uint32_t length)
{
    static const struct raft_configuration configuration = {
        .count = 3, .members = {{1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_LEARNER}}};
    struct raft_message message =
        chunk_of(from, term, (struct raft_position){9, 2}, offset, length, &configuration);

    test_sent_clear(s);
    ck_assert_int_eq(test_step(s, &message), 0);
    const struct raft_message *reply = test_sent(s, RAFT_MESSAGE_SNAPSHOT_REPLY, from);
    return reply ? &reply->snapshot_reply : NULL;
}

// A leader 1 with `count` proposals committed and compacted while 3 is away.
static struct test_cluster *compacted_cluster(int count)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    test_isolate(c, 3, true);
    for (int i = 0; i < count; i++) {
        test_propose(leader, "x");
        test_deliver(c);
    }
    test_compact(leader);
    ck_assert_uint_eq(test_status(leader).before.index, test_status(leader).applied);
    return c;
}

// 3 tells the leader that it has nothing but the first entry: the transfer begins.
static void ask_for_snapshot(struct test_server *leader)
{
    struct raft_message refusal =
        test_message(RAFT_MESSAGE_APPEND_REPLY, 3, 1, test_status(leader).hard_state.term);

    refusal.append_reply.rejected = test_peer(leader, 3).next - 1;
    refusal.append_reply.hint = (struct raft_position){1, 1};
    test_step(leader, &refusal);
    ck_assert_int_eq(test_peer(leader, 3).progress, RAFT_PROGRESS_SNAPSHOT);
}

START_TEST(SNAP1_who_needs_what_is_gone_gets_the_snapshot)
{
    struct test_cluster *c = compacted_cluster(20);
    struct test_server *leader = test_at(c, 1), *behind = test_at(c, 3);

    test_isolate(c, 3, false);
    test_cluster_tick(c, HEARTBEAT * 2);
    ck_assert_uint_eq(test_status(behind).counters->snapshots_installed, 1);
    ck_assert_uint_eq(test_status(leader).counters->snapshots_sent, 1);
    ck_assert_uint_eq(test_status(behind).applied, test_status(leader).applied);
    ck_assert_int_eq(memcmp(behind->disk.snapshot_data, leader->disk.snapshot_data, SNAPSHOT_SIZE),
                     0);
    // And goes on by the log.
    test_propose(leader, "after");
    test_deliver(c);
    ck_assert(test_has_applied(behind, "after"));
    ck_assert_int_eq(test_peer(leader, 3).progress, RAFT_PROGRESS_REPLICATE);
    // A restart finds it.
    test_server_crash(behind);
    test_server_start(behind);
    ck_assert_uint_eq(test_status(behind).applied, 21);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP1_one_chunk_is_under_way)
{
    struct test_cluster *c = compacted_cluster(20);
    struct test_server *leader = test_at(c, 1);
    struct raft_message alive =
        test_message(RAFT_MESSAGE_HEARTBEAT_REPLY, 3, 1, test_status(leader).hard_state.term);

    ask_for_snapshot(leader);
    ck_assert_uint_eq(test_sent_number(leader, RAFT_MESSAGE_SNAPSHOT_REQUEST, 3), 1);
    test_step(leader, &alive);
    test_propose(leader, "x");
    ck_assert_uint_eq(test_sent_number(leader, RAFT_MESSAGE_SNAPSHOT_REQUEST, 3), 1);
    // A lost one is sent again after an election time-out, as long as the follower lives.
    for (int t = 0; t <= ELECTION_MIN; t++) {
        struct raft_message two = alive;

        two.from = 2;
        test_step(leader, &two);
        test_tick(leader, 1);
        test_step(leader, &alive);
    }
    ck_assert_uint_eq(test_sent_number(leader, RAFT_MESSAGE_SNAPSHOT_REQUEST, 3), 2);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP1_not_to_the_dead)
{
    struct test_cluster *c = compacted_cluster(20);

    test_cluster_tick(c, ELECTION_MAX);
    ck_assert_uint_eq(test_status(test_at(c, 1)).counters->snapshots_sent, 0);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP1_lossy_networks_only_slow_it_down)
{
    struct test_cluster *c = compacted_cluster(20);
    unsigned int dice = 1;

    for (int t = 0; t < 4000; t++) {
        dice = dice * 1103515245 + 12345;
        test_isolate(c, 3, (dice >> 16) % 4 == 0);
        test_cluster_tick(c, 1);
    }
    test_isolate(c, 3, false);
    test_cluster_tick(c, ELECTION_MAX * 2);
    ck_assert_uint_eq(test_status(test_at(c, 3)).applied, test_status(test_leader(c)).applied);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP2_chunks_in_order_each_answered)
{
    struct test_server *s = test_alone(1, 3);

    ck_assert_uint_eq(give(s, 2, 3, 0, 10)->offset, 10);
    ck_assert_uint_eq(give(s, 2, 3, 10, 20)->offset, 30);
    ck_assert_uint_eq(give(s, 2, 3, 10, 20)->offset, 30); // twice
    ck_assert_uint_eq(give(s, 2, 3, 35, 2)->offset, 30);  // one was lost
    ck_assert(!give(s, 2, 3, 35, 2)->installed);
    ck_assert(give(s, 2, 3, 30, 7)->installed);
    ck_assert_uint_eq(s->disk.snapshot.last.index, 9);
    ck_assert_int_eq(memcmp(s->disk.snapshot_data, pattern, SNAPSHOT_SIZE), 0);
    test_alone_free(s);
}
END_TEST

START_TEST(SNAP2_another_snapshot_sender_or_term_begins_at_0)
{
    for (int what = 0; what < 3; what++) {
        struct test_server *s = test_alone(1, 3);
        struct raft_configuration configuration = test_voters(3);
        struct raft_message other =
            chunk_of(what == 1 ? 3 : 2, what >= 1 ? 4 : 3,
                     (struct raft_position){what == 0 ? 8 : 9, 2}, 20, 10, &configuration);

        ck_assert_uint_eq(give(s, 2, 3, 0, 10)->offset, 10);
        ck_assert_uint_eq(give(s, 2, 3, 10, 10)->offset, 20);
        test_sent_clear(s);
        test_step(s, &other);
        const struct raft_message *reply = test_sent(s, RAFT_MESSAGE_SNAPSHOT_REPLY, 0);
        ck_assert_ptr_nonnull(reply);
        ck_assert_uint_eq(reply->snapshot_reply.offset, 0);
        ck_assert_uint_eq(reply->snapshot_reply.last.index, other.snapshot_request.last.index);
        test_alone_free(s);
    }
}
END_TEST

// A leader that gave a transfer up and begins anew doesn't know of what arrived meanwhile.
START_TEST(SNAP2_from_0_begins_again)
{
    struct test_server *s = test_alone(1, 3);

    ck_assert_uint_eq(give(s, 2, 3, 0, 10)->offset, 10);
    ck_assert_uint_eq(give(s, 2, 3, 10, 10)->offset, 20);
    ck_assert_uint_eq(give(s, 2, 3, 0, 15)->offset, 15);
    ck_assert_uint_eq(give(s, 2, 3, 15, 20)->offset, 35);
    ck_assert(give(s, 2, 3, 35, 2)->installed);
    test_alone_free(s);
}
END_TEST

START_TEST(SNAP2_a_newer_snapshot_takes_the_place_of_one_under_way)
{
    struct test_cluster *c = compacted_cluster(20);
    struct test_server *leader = test_at(c, 1);
    struct raft_message reply =
        test_message(RAFT_MESSAGE_SNAPSHOT_REPLY, 3, 1, test_status(leader).hard_state.term);
    struct raft_message alive = reply;

    alive.type = RAFT_MESSAGE_HEARTBEAT_REPLY;
    ask_for_snapshot(leader);
    uint64_t first = test_peer(leader, 3).snapshot.index;
    c->cut[1][3] = true;
    test_propose(leader, "y");
    test_deliver(c);
    test_compact(leader); // this storage keeps one snapshot only
    reply.snapshot_reply.last = (struct raft_position){first, 1};
    reply.snapshot_reply.last.term = test_peer(leader, 3).snapshot.term;
    reply.snapshot_reply.offset = 10;
    test_step(leader, &reply);
    test_step(leader, &alive);
    ck_assert_uint_gt(test_peer(leader, 3).snapshot.index, first);
    ck_assert_uint_eq(test_sent(leader, RAFT_MESSAGE_SNAPSHOT_REQUEST, 3)->snapshot_request.offset,
                      0);
    ck_assert_uint_eq(test_status(leader).counters->snapshots_restarted, 1);
    ck_assert_int_eq(test_status(leader).failure, 0);
    c->cut[1][3] = false;
    test_isolate(c, 3, false);
    test_cluster_tick(c, ELECTION_MAX);
    ck_assert_uint_eq(test_status(test_at(c, 3)).applied, test_status(leader).applied);
    test_cluster_free(c);
}
END_TEST

// The owner's compaction began before the transfer, and ended after.
START_TEST(SNAP2_an_installed_snapshot_that_is_too_old_by_now_is_followed_by_a_newer_one)
{
    struct test_cluster *c = compacted_cluster(20);
    struct test_server *leader = test_at(c, 1);
    struct test_disk *disk = &leader->disk;
    struct raft_message installed =
        test_message(RAFT_MESSAGE_SNAPSHOT_REPLY, 3, 1, test_status(leader).hard_state.term);

    ask_for_snapshot(leader);
    installed.snapshot_reply.last = test_peer(leader, 3).snapshot;
    installed.snapshot_reply.installed = true;
    for (int i = 0; i < 5; i++) {
        test_propose(leader, "y");
        test_acknowledge(leader, 2, test_status(leader).last.index);
    }
    disk->snapshot.last = disk->before = test_status(leader).last;
    test_disk_clear_entries(disk);
    ck_assert_int_eq(raft_compacted(leader->raft), 0);
    test_sent_clear(leader);
    test_step(leader, &installed);
    ck_assert_uint_eq(test_peer(leader, 3).match, installed.snapshot_reply.last.index);
    ck_assert_int_eq(test_peer(leader, 3).progress, RAFT_PROGRESS_SNAPSHOT);
    ck_assert_uint_eq(test_peer(leader, 3).snapshot.index, test_status(leader).before.index);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP3_a_log_that_holds_its_last_entry_keeps_everything)
{
    struct test_server *s = test_alone_init(1, 3);
    const uint64_t terms[] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2};

    test_disk_fill(s, terms, 11, 2);
    test_server_start(s);
    ck_assert(give(s, 2, 3, 0, 10)->installed);
    test_log_is(s, terms, 11);
    ck_assert_uint_eq(test_status(s).commit, 9); // the snapshot says as much
    ck_assert_uint_eq(s->applied_count, 9);
    ck_assert_uint_eq(test_status(s).counters->snapshots_installed, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(SNAP3_nor_does_one_that_is_committed_further)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1), *two = test_at(c, 2);

    for (int i = 0; i < 12; i++) {
        test_propose(leader, "x");
        test_deliver(c);
    }
    test_compact(two);
    uint64_t last = test_status(two).last.index;
    struct raft_configuration configuration = test_voters(3);
    struct raft_message late = chunk_of(1, test_status(leader).hard_state.term,
                                        (struct raft_position){5, 1}, 0, 10, &configuration);
    late.to = 2;
    test_step(two, &late);
    ck_assert(test_sent(two, RAFT_MESSAGE_SNAPSHOT_REPLY, 1)->snapshot_reply.installed);
    ck_assert_uint_eq(test_status(two).last.index, last);
    test_cluster_free(c);
}
END_TEST

START_TEST(SNAP4_the_whole_log_is_replaced_and_the_configuration)
{
    static const struct {
        uint64_t terms[12];
        size_t count;
    } logs[] = {{{0}, 0}, {{1, 1}, 2}, {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 11}};

    for (size_t i = 0; i < 3; i++) {
        struct test_server *s = test_alone_init(1, 3);

        test_disk_fill(s, logs[i].terms, logs[i].count, 2);
        test_server_start(s);
        give(s, 2, 3, 0, 20);
        ck_assert(give(s, 2, 3, 20, 17)->installed);
        struct raft_status status = test_status(s);
        ck_assert_uint_eq(status.before.index, 9);
        ck_assert_uint_eq(status.last.index, 9);
        ck_assert_uint_eq(status.last.term, 2);
        ck_assert_uint_eq(status.commit, 9);
        ck_assert_uint_eq(status.applied, 9);
        ck_assert_uint_eq(raft_configuration_roles(status.configuration, 3), RAFT_LEARNER);
        ck_assert_uint_eq(status.configuration_index, 9);
        ck_assert_uint_eq(s->disk.count, 0);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(ALL4_a_snapshot_is_acknowledged_when_it_is_durable)
{
    struct test_server *s = test_alone(1, 3);

    s->held = true;
    ck_assert_ptr_null(give(s, 2, 3, 0, 20));
    test_disk_complete(s);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_SNAPSHOT_REPLY, 2)->snapshot_reply.offset, 20);
    ck_assert_ptr_null(give(s, 2, 3, 20, 17));
    ck_assert_uint_eq(test_status(s).applied, 0);
    // It doesn't campaign meanwhile, and acknowledges nothing that follows.
    ck_assert_int_eq(raft_campaign(s->raft), RAFT_ERROR_NOT_VOTER);
    struct raft_entry entry = {.index = 10, .term = 3, .type = RAFT_ENTRY_NOOP};
    struct raft_message append = test_message(RAFT_MESSAGE_APPEND_REQUEST, 2, 1, 3);
    append.append_request.previous = (struct raft_position){9, 2};
    append.append_request.entries = &entry;
    append.append_request.entry_count = 1;
    append.append_request.commit = 10;
    test_step(s, &append);
    append.append_request.entry_count = 0;
    test_step(s, &append);
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_APPEND_REPLY, 2));
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_SNAPSHOT_REPLY, 2));
    test_disk_complete(s);
    ck_assert(test_sent(s, RAFT_MESSAGE_SNAPSHOT_REPLY, 2)->snapshot_reply.installed);
    ck_assert_uint_eq(test_status(s).applied, 9);
    test_disk_complete(s);
    ck_assert_uint_eq(test_status(s).applied, 10);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_a_crash_before_that_leaves_the_old_log)
{
    struct test_server *s = test_alone_init(1, 3);
    const uint64_t terms[] = {1, 1};

    test_disk_fill(s, terms, 2, 1);
    test_server_start(s);
    give(s, 2, 3, 0, 20);
    s->held = true;
    give(s, 2, 3, 20, 17);
    test_server_crash(s);
    test_server_start(s);
    test_log_is(s, terms, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(SNAP5_entries_after_a_snapshot_under_way_are_kept)
{
    struct test_cluster *c = compacted_cluster(20);
    struct test_server *leader = test_at(c, 1);

    ask_for_snapshot(leader);
    uint64_t index = test_peer(leader, 3).snapshot.index;
    for (int i = 0; i < 5; i++) {
        test_propose(leader, "y");
        test_deliver(c);
    }
    ck_assert_uint_gt(test_status(leader).applied, index);
    ck_assert_uint_eq(raft_retain_index(leader->raft), index);
    // Not for one that has gone silent.
    test_cluster_tick(c, ELECTION_MIN * 2);
    ck_assert_uint_eq(raft_retain_index(leader->raft), test_status(leader).applied);
    test_cluster_free(c);
}
END_TEST

START_TEST(a_snapshot_in_a_joint_configuration)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);
    struct raft_member with_learner[] = {
        {1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_VOTER}, {4, RAFT_LEARNER}};
    struct raft_member changed[] = {{1, RAFT_VOTER}, {2, RAFT_VOTER}, {4, RAFT_VOTER}};

    ck_assert_int_eq(raft_propose_configuration(leader->raft, with_learner, 4, NULL), 0);
    test_cluster_tick(c, ELECTION_MIN);
    test_isolate(c, 3, true);
    ck_assert_int_eq(raft_propose_configuration(leader->raft, changed, 3, NULL), 0);
    test_server_run(leader);
    // 2 acknowledges the joint configuration; the way out of it finds a disk that hangs.
    uint64_t joint = test_status(leader).configuration_index;
    leader->held = true;
    test_acknowledge(leader, 2, joint);
    ck_assert_uint_eq(test_status(leader).applied, joint);
    test_compact(leader);
    ck_assert(raft_configuration_is_joint(&leader->disk.snapshot.configuration));
    test_server_crash(leader);
    leader->held = false;
    test_server_start(leader);
    ck_assert(raft_configuration_is_joint(test_status(leader).configuration));
    ck_assert_uint_eq(test_status(leader).configuration_index, joint);
    // 3 gets that snapshot, and whoever leads leaves the joint configuration.
    test_isolate(c, 3, false);
    test_cluster_tick(c, ELECTION_MAX * 5);
    for (uint64_t id = 1; id <= 4; id++)
        if (id != 3)
            ck_assert(!raft_configuration_is_joint(test_status(test_at(c, id)).configuration));
    ck_assert_ptr_nonnull(test_leader(c));
    test_cluster_free(c);
}
END_TEST

START_TEST(configurations_for_snapshots)
{
    struct test_server *waiting = malloc(sizeof(*waiting));
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);
    struct raft_member members[] = {
        {1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_VOTER}, {4, RAFT_LEARNER}};

    uint64_t before = test_status(leader).applied;
    ck_assert_int_eq(raft_propose_configuration(leader->raft, members, 4, NULL), 0);
    ck_assert_uint_eq(raft_configuration_at(leader->raft, before)->count, 3);
    ck_assert_uint_eq(raft_configuration_at(leader->raft, before + 1)->count, 4);
    ck_assert_ptr_null(raft_configuration_at(leader->raft, before + 2));
    // A server that was not added yet has none to put into a snapshot.
    test_server_init(waiting, 9, NULL);
    test_server_start(waiting);
    ck_assert_ptr_null(raft_configuration_at(waiting->raft, 0));
    test_alone_free(waiting);
    test_cluster_free(c);
}
END_TEST

START_TEST(a_compaction_that_can_not_be_stops_the_server)
{
    struct test_server *s = test_alone(1, 1);

    test_lead(s);
    test_propose(s, "x");
    s->disk.snapshot.last = (struct raft_position){7, 1}; // beyond what is applied
    ck_assert_int_eq(raft_compacted(s->raft), RAFT_ERROR_STORAGE);
    ck_assert_int_eq(test_status(s).failure, RAFT_ERROR_STORAGE);
    test_alone_free(s);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, SNAP1_who_needs_what_is_gone_gets_the_snapshot);
    tcase_add_test(tests, SNAP1_one_chunk_is_under_way);
    tcase_add_test(tests, SNAP1_not_to_the_dead);
    tcase_add_test(tests, SNAP1_lossy_networks_only_slow_it_down);
    tcase_add_test(tests, SNAP2_chunks_in_order_each_answered);
    tcase_add_test(tests, SNAP2_another_snapshot_sender_or_term_begins_at_0);
    tcase_add_test(tests, SNAP2_from_0_begins_again);
    tcase_add_test(tests, SNAP2_a_newer_snapshot_takes_the_place_of_one_under_way);
    tcase_add_test(tests,
                   SNAP2_an_installed_snapshot_that_is_too_old_by_now_is_followed_by_a_newer_one);
    tcase_add_test(tests, SNAP3_a_log_that_holds_its_last_entry_keeps_everything);
    tcase_add_test(tests, SNAP3_nor_does_one_that_is_committed_further);
    tcase_add_test(tests, SNAP4_the_whole_log_is_replaced_and_the_configuration);
    tcase_add_test(tests, ALL4_a_snapshot_is_acknowledged_when_it_is_durable);
    tcase_add_test(tests, ALL4_a_crash_before_that_leaves_the_old_log);
    tcase_add_test(tests, SNAP5_entries_after_a_snapshot_under_way_are_kept);
    tcase_add_test(tests, a_snapshot_in_a_joint_configuration);
    tcase_add_test(tests, configurations_for_snapshots);
    tcase_add_test(tests, a_compaction_that_can_not_be_stops_the_server);
}

int main(void)
{
    return test_main("raft_snapshot", add);
}
