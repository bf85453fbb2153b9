// Raft: replication. One test for each sentence of the rules ALL1, ALL4, APP* and LEAD1 to LEAD6 at
// the top of cluster/raft/raft.h, and of its bounds.
#include "tests/unit/raft_cluster.h"

#define TERMS(...)         ((const uint64_t[]){__VA_ARGS__})
#define TERM_COUNT(...)    (sizeof(TERMS(__VA_ARGS__)) / sizeof(uint64_t))
#define assert_log(s, ...) test_log_is(s, TERMS(__VA_ARGS__), TERM_COUNT(__VA_ARGS__))

// An append request of leader 2 with no-ops of these terms after `previous`.
static struct raft_message append(struct raft_entry *entries, uint64_t term,
                                  struct raft_position previous, const uint64_t *terms,
                                  size_t count, uint64_t commit)
{
    struct raft_message message = test_message(RAFT_MESSAGE_APPEND_REQUEST, 2, 1, term);

    for (size_t i = 0; i < count; i++)
        entries[i] = (struct raft_entry){
            .index = previous.index + 1 + i, .term = terms[i], .type = RAFT_ENTRY_NOOP};
    message.append_request.previous = previous;
    message.append_request.entries = entries;
    message.append_request.entry_count = (uint32_t)count;
    message.append_request.commit = commit;
    return message;
}

static int step_append(struct test_server *s, uint64_t term, uint64_t previous_index,
                       uint64_t previous_term, const uint64_t *terms, size_t count, uint64_t commit)
{
    struct raft_entry entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message message = append(
        entries, term, (struct raft_position){previous_index, previous_term}, terms, count, commit);

    test_sent_clear(s);
    return test_step(s, &message);
}

static const struct raft_append_reply *reply_of(const struct test_server *s)
{
    const struct raft_message *reply = test_sent(s, RAFT_MESSAGE_APPEND_REPLY, 2);

    ck_assert_ptr_nonnull(reply);
    return &reply->append_reply;
}

// Follower 1 of three with a log of these terms, in term `term`.
static struct test_server *follower(const uint64_t *terms, size_t count, uint64_t term)
{
    struct test_server *s = test_alone_init(1, 3);

    test_disk_fill(s, terms, count, term);
    test_server_start(s);
    return s;
}

// ---- All servers ----

START_TEST(ALL1_applied_in_order_each_once)
{
    struct test_server *s = test_alone_init(1, 3);

    s->options.committed_entries_max = 3;
    test_server_start(s);
    step_append(s, 1, 0, 0, TERMS(1, 1, 1, 1, 1), 5, 2);
    ck_assert_uint_eq(s->applied_count, 2);
    step_append(s, 1, 0, 0, TERMS(1, 1, 1, 1, 1), 5, 2);
    step_append(s, 1, 5, 1, TERMS(1, 1, 1, 1, 1), 5, 10);
    ck_assert_uint_eq(s->applied_count, 10);
    for (size_t i = 0; i < 10; i++)
        ck_assert_uint_eq(s->applied_index[i], i + 1);
    ck_assert_uint_eq(test_status(s).applied, 10);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL1_only_what_is_durable_here)
{
    struct test_server *s = test_alone(1, 3);

    s->held = true;
    step_append(s, 1, 0, 0, TERMS(1, 1), 2, 2);
    ck_assert_uint_eq(test_status(s).commit, 2);
    ck_assert_uint_eq(s->applied_count, 0);
    test_disk_complete(s);
    ck_assert_uint_eq(s->applied_count, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_no_acknowledgement_before_entries_are_durable)
{
    struct test_server *s = test_alone(1, 3);

    s->held = true;
    step_append(s, 1, 0, 0, TERMS(1, 1), 2, 0);
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_APPEND_REPLY, 0));
    // Neither for what the write under way doesn't cover.
    struct raft_entry entry;
    struct raft_message more = append(&entry, 1, (struct raft_position){2, 1}, TERMS(1), 1, 0);
    test_step(s, &more);
    test_disk_complete(s);
    ck_assert_uint_eq(reply_of(s)->match, 2);
    test_disk_complete(s);
    ck_assert_uint_eq(reply_of(s)->match, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_entries_truncated_while_written_are_not_acknowledged)
{
    struct test_server *s = test_alone(1, 3);

    s->held = true;
    step_append(s, 1, 0, 0, TERMS(1, 1, 1), 3, 0); // being written
    step_append(s, 2, 1, 1, TERMS(2), 1, 0);       // a new leader: 2 and 3 go
    test_disk_complete(s);
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_APPEND_REPLY, 0));
    ck_assert_uint_eq(test_status(s).durable, 1);
    test_disk_complete(s);
    ck_assert_uint_eq(reply_of(s)->match, 2);
    ck_assert_uint_eq(s->disk.count, 2);
    ck_assert_uint_eq(s->disk.entries[1].term, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_a_heartbeat_is_answered_beside_a_slow_write)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message heartbeat = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 1, 1);

    s->disk.hard_state.term = 1;
    test_server_start(s);
    s->held = true;
    step_append(s, 1, 0, 0, TERMS(1, 1), 2, 0);
    test_step(s, &heartbeat);
    ck_assert_ptr_nonnull(test_sent(s, RAFT_MESSAGE_HEARTBEAT_REPLY, 2));
    test_alone_free(s);
}
END_TEST

// ---- Followers ----

START_TEST(APP1_refused_if_the_term_is_lower)
{
    struct test_server *s = follower(TERMS(1, 2), 2, 5);

    step_append(s, 4, 2, 2, TERMS(4), 1, 3);
    assert_log(s, 1, 2);
    ck_assert_uint_eq(test_status(s).commit, 0);
    ck_assert_uint_eq(s->sent[0]->message.term, 5);
    test_alone_free(s);
}
END_TEST

START_TEST(APP2_refused_if_previous_does_not_match)
{
    static const struct {
        uint64_t index, term;
        bool matches;
        struct raft_position hint;
    } cases[] = {
        {0, 0, true, {0, 0}},  {3, 2, true, {0, 0}},
        {6, 4, true, {0, 0}},  {3, 1, false, {2, 1}}, // other term: the last of term 1 here
        {6, 3, false, {3, 2}},                        // no entries of term 3: the last of term 2
        {7, 4, false, {6, 4}},                        // beyond the end
        {9, 5, false, {6, 4}}, {9, 2, false, {3, 2}},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_server *s = follower(TERMS(1, 1, 2, 4, 4, 4), 6, 5);

        step_append(s, 5, cases[i].index, cases[i].term, TERMS(5), 1, 0);
        ck_assert(reply_of(s)->success == cases[i].matches);
        if (!cases[i].matches) {
            ck_assert_uint_eq(reply_of(s)->rejected, cases[i].index);
            ck_assert_uint_eq(reply_of(s)->hint.index, cases[i].hint.index);
            ck_assert_uint_eq(reply_of(s)->hint.term, cases[i].hint.term);
            assert_log(s, 1, 1, 2, 4, 4, 4);
        } else {
            ck_assert_uint_eq(reply_of(s)->match, cases[i].index + 1);
        }
        test_alone_free(s);
    }
}
END_TEST

START_TEST(APP3_a_conflicting_entry_and_all_that_follow_go)
{
    struct test_server *s = follower(TERMS(1, 1, 2, 2), 4, 3);

    step_append(s, 3, 1, 1, TERMS(1, 3), 2, 0);
    assert_log(s, 1, 1, 3);
    ck_assert_uint_eq(s->disk.count, 3);
    ck_assert_uint_eq(test_status(s).counters->truncations, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(APP3_what_is_there_already_stays_with_what_follows)
{
    struct test_server *s = follower(TERMS(1, 1, 1, 1), 4, 1);

    step_append(s, 1, 0, 0, TERMS(1, 1), 2, 0); // an old request comes late
    assert_log(s, 1, 1, 1, 1);
    ck_assert_uint_eq(reply_of(s)->match, 2);
    step_append(s, 1, 2, 1, NULL, 0, 0); // and one without entries
    assert_log(s, 1, 1, 1, 1);
    ck_assert_uint_eq(test_status(s).counters->truncations, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(APP3_committed_entries_never_go)
{
    struct test_server *s = follower(TERMS(1, 1, 1), 3, 1);

    step_append(s, 1, 3, 1, NULL, 0, 3);
    // Late, and from before the commit: acknowledged as far as is committed.
    step_append(s, 1, 0, 0, TERMS(1), 1, 1);
    ck_assert(reply_of(s)->success);
    ck_assert_uint_eq(reply_of(s)->match, 3);
    // Partly before it.
    step_append(s, 1, 1, 1, TERMS(1, 1, 1), 3, 3);
    ck_assert_uint_eq(reply_of(s)->match, 4);
    assert_log(s, 1, 1, 1, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(APP4_new_entries_are_appended_with_their_data)
{
    struct test_server *s = test_alone(1, 3);
    uint8_t data[] = "hello";
    struct raft_entry entry = {
        .index = 1, .term = 1, .type = RAFT_ENTRY_COMMAND, .length = 5, .data = data};
    struct raft_message message = test_message(RAFT_MESSAGE_APPEND_REQUEST, 2, 1, 1);

    message.append_request.entries = &entry;
    message.append_request.entry_count = 1;
    message.append_request.commit = 1;
    raft_step(s->raft, &message);
    memset(data, 0, sizeof(data)); // it was copied
    test_server_run(s);
    ck_assert(test_has_applied(s, "hello"));
    ck_assert_int_eq(memcmp(s->disk.entries[0].data, "hello", 5), 0);
    test_alone_free(s);
}
END_TEST

START_TEST(APP5_commit_is_bounded_by_what_the_request_covered)
{
    struct test_server *s = follower(TERMS(1, 1, 1, 1), 4, 2);

    // Entries 3 and 4 may be others at the leader.
    step_append(s, 2, 1, 1, TERMS(1), 1, 4);
    ck_assert_uint_eq(test_status(s).commit, 2);
    step_append(s, 2, 2, 1, NULL, 0, 9);
    ck_assert_uint_eq(test_status(s).commit, 2);
    step_append(s, 2, 2, 1, TERMS(2, 2), 2, 3);
    ck_assert_uint_eq(test_status(s).commit, 3);
    step_append(s, 2, 4, 2, NULL, 0, 1); // never back
    ck_assert_uint_eq(test_status(s).commit, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(APP6_heartbeats_carry_no_more_than_the_match)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    ck_assert_int_eq(test_propose(s, "x"), 0);
    test_acknowledge(s, 2, 2);
    ck_assert_uint_eq(test_status(s).commit, 2);
    test_sent_clear(s);
    test_tick(s, HEARTBEAT);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 2)->heartbeat_request.commit, 2);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 3)->heartbeat_request.commit, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(APP6_a_heartbeat_moves_the_commit_index)
{
    struct test_server *s = follower(TERMS(1, 1), 2, 1);
    struct raft_message heartbeat = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 1, 1);

    heartbeat.heartbeat_request.commit = 2;
    test_step(s, &heartbeat);
    ck_assert_uint_eq(test_status(s).commit, 2);
    heartbeat.heartbeat_request.commit = 1;
    test_step(s, &heartbeat);
    ck_assert_uint_eq(test_status(s).commit, 2);
    test_alone_free(s);
}
END_TEST

// ---- Leaders ----

START_TEST(LEAD1_starts_with_a_no_op_and_heartbeats)
{
    struct test_server *s = test_alone_init(1, 3);

    test_disk_fill(s, TERMS(1, 1), 2, 1);
    test_server_start(s);
    test_lead(s);
    assert_log(s, 1, 1, 2);
    for (uint64_t id = 2; id <= 3; id++) {
        const struct raft_message *request = test_sent(s, RAFT_MESSAGE_APPEND_REQUEST, id);

        ck_assert_ptr_nonnull(test_sent(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, id));
        ck_assert_uint_eq(request->append_request.previous.index, 2);
        ck_assert_uint_eq(request->append_request.entry_count, 1);
        ck_assert_int_eq(request->append_request.entries[0].type, RAFT_ENTRY_NOOP);
    }
    for (int i = 0; i < 3; i++) {
        test_sent_clear(s);
        test_tick(s, HEARTBEAT);
        ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 0), 2);
    }
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD1_heartbeats_and_appends_go_out_beside_the_own_write)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    test_sent_clear(s);
    s->held = true;
    ck_assert_int_eq(test_propose(s, "x"), 0);
    test_tick(s, HEARTBEAT);
    ck_assert(s->pending);
    ck_assert_ptr_nonnull(test_sent(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 2));
    ck_assert_ptr_nonnull(test_sent(s, RAFT_MESSAGE_APPEND_REQUEST, 2));
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD2_proposals_are_refused_by_others)
{
    struct test_server *s = follower(TERMS(1), 1, 1);
    struct raft_message heartbeat = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 1, 1);

    ck_assert_int_eq(test_propose(s, "x"), RAFT_ERROR_NOT_LEADER);
    test_step(s, &heartbeat);
    ck_assert_int_eq(test_propose(s, "x"), RAFT_ERROR_NOT_LEADER);
    ck_assert_uint_eq(test_status(s).leader, 2);
    assert_log(s, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD2_a_proposal_says_where_it_is)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_position position;

    test_lead(s);
    ck_assert_int_eq(raft_propose(s->raft, "x", 1, &position), 0);
    ck_assert_uint_eq(position.index, 2);
    ck_assert_uint_eq(position.term, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD3_pipelined_within_the_window_of_messages)
{
    struct test_server *s = test_alone_init(1, 3);

    s->options.window_messages = 3;
    test_server_start(s);
    test_lead(s);
    test_acknowledge(s, 2, 1);
    test_sent_clear(s);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(test_propose(s, "x"), 0);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_APPEND_REQUEST, 2), 3);
    ck_assert_uint_eq(test_peer(s, 2).messages_in_flight, 3);
    // One acknowledgement opens it, and what waited goes in one request.
    test_sent_clear(s);
    test_acknowledge(s, 2, 2);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_APPEND_REQUEST, 2), 1);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_APPEND_REQUEST, 2)->append_request.entry_count, 7);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD3_pipelined_within_the_window_of_bytes)
{
    struct test_server *s = test_alone_init(1, 3);
    char data[400] = "x";

    s->options.window_bytes = 1000;
    s->options.message_bytes_max = 500;
    test_server_start(s);
    test_lead(s);
    test_acknowledge(s, 2, 1);
    test_sent_clear(s);
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(raft_propose(s->raft, data, sizeof(data), NULL), 0);
    test_server_run(s);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_APPEND_REQUEST, 2), 3);
    ck_assert_uint_ge(test_peer(s, 2).bytes_in_flight, 1000);
    ck_assert_uint_lt(test_peer(s, 2).bytes_in_flight, 1500);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD3_a_probe_is_one_request_at_a_time)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message alive = test_message(RAFT_MESSAGE_HEARTBEAT_REPLY, 2, 1, 1);

    test_lead(s);
    for (int i = 0; i < 10; i++)
        test_propose(s, "x");
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_APPEND_REQUEST, 2), 1);
    // It may be lost: a sign of life repeats it.
    test_step(s, &alive);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_APPEND_REQUEST, 2), 2);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD3_lost_requests_are_found_out)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    c->cut[1][2] = true;
    for (int i = 0; i < 5; i++) {
        test_propose(leader, "x");
        test_deliver(c);
    }
    c->cut[1][2] = false;
    test_cluster_tick(c, HEARTBEAT * 3);
    ck_assert_uint_eq(test_status(test_at(c, 2)).last.index, test_status(leader).last.index);
    ck_assert_uint_eq(test_status(test_at(c, 2)).commit, test_status(leader).last.index);
    // And lost acknowledgements.
    c->cut[2][1] = true;
    test_propose(leader, "y");
    test_deliver(c);
    c->cut[2][1] = false;
    test_cluster_tick(c, HEARTBEAT * 3);
    ck_assert_uint_eq(test_peer(leader, 2).match, test_status(leader).last.index);
    ck_assert_uint_eq(test_peer(leader, 2).messages_in_flight, 0);
    test_cluster_free(c);
}
END_TEST

START_TEST(LEAD4_success_moves_forward_and_late_replies_nothing_back)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    for (int i = 0; i < 5; i++)
        test_propose(s, "x");
    test_acknowledge(s, 2, 4);
    ck_assert_uint_eq(test_peer(s, 2).match, 4);
    uint64_t next = test_peer(s, 2).next;
    test_acknowledge(s, 2, 2);
    ck_assert_uint_eq(test_peer(s, 2).match, 4);
    ck_assert_uint_eq(test_peer(s, 2).next, next);
    // A late refusal of what is known to match by now.
    struct raft_message refusal = test_message(RAFT_MESSAGE_APPEND_REPLY, 2, 1, 1);
    refusal.append_reply.rejected = 3;
    test_step(s, &refusal);
    ck_assert_uint_eq(test_peer(s, 2).match, 4);
    ck_assert_uint_eq(test_peer(s, 2).next, next);
    ck_assert_int_eq(test_peer(s, 2).progress, RAFT_PROGRESS_REPLICATE);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD4_a_refusal_of_another_probe_is_late)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message refusal = test_message(RAFT_MESSAGE_APPEND_REPLY, 2, 1, 2);

    test_disk_fill(s, TERMS(1, 1, 1, 1), 4, 1);
    test_server_start(s);
    test_lead(s); // probes with previous 4
    refusal.append_reply.rejected = 2;
    test_step(s, &refusal);
    ck_assert_uint_eq(test_peer(s, 2).next, 5);
    refusal.append_reply.rejected = 4;
    refusal.append_reply.hint = (struct raft_position){2, 1};
    test_step(s, &refusal);
    ck_assert_uint_eq(test_peer(s, 2).next, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD4_an_acknowledgement_beyond_the_log_is_refused)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message reply = test_message(RAFT_MESSAGE_APPEND_REPLY, 2, 1, 1);

    test_lead(s);
    reply.append_reply.success = true;
    reply.append_reply.match = 99;
    ck_assert_int_eq(test_step(s, &reply), RAFT_ERROR_MALFORMED);
    ck_assert_uint_eq(test_status(s).commit, 0);
    test_alone_free(s);
}
END_TEST

// The followers of Figure 7, and worse: each becomes like the leader, in a few round trips.
START_TEST(LEAD4_figure_7)
{
    static const struct {
        uint64_t terms[16];
        size_t count;
    } logs[] = {
        {{1, 1, 1, 4, 4, 5, 5, 6, 6}, 9},
        {{1, 1, 1, 4}, 4},
        {{1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6}, 11},
        {{1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7}, 12},
        {{1, 1, 1, 4, 4, 4, 4}, 7},
        {{1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3}, 11},
        {{0}, 0},
    };
    static const uint64_t leader_log[] = {1, 1, 1, 4, 4, 5, 5, 6, 6, 6};

    for (size_t i = 0; i < sizeof(logs) / sizeof(logs[0]); i++) {
        struct test_cluster *c = calloc(1, sizeof(*c));
        struct raft_configuration founded = test_voters(3);

        c->count = 3;
        for (uint64_t id = 1; id <= 3; id++)
            test_server_init(test_at(c, id), id, &founded);
        // Server 3 is no obstacle to the leader's election.
        test_disk_fill(test_at(c, 1), leader_log, 10, 7);
        test_disk_fill(test_at(c, 2), logs[i].terms, logs[i].count, 7);
        for (uint64_t id = 1; id <= 3; id++)
            test_server_start(test_at(c, id));
        test_isolate(c, 2, true);
        raft_campaign(test_at(c, 1)->raft);
        test_deliver(c);
        ck_assert_ptr_eq(test_leader(c), test_at(c, 1));
        test_isolate(c, 2, false);
        test_cluster_tick(c, HEARTBEAT * 2);
        test_log_is(test_at(c, 2), TERMS(1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8), 11);
        ck_assert_uint_eq(test_status(test_at(c, 2)).commit, 11);
        ck_assert_uint_le(test_status(test_at(c, 1)).counters->probes_back, 4);
        test_cluster_free(c);
    }
}
END_TEST

START_TEST(LEAD5_commits_what_a_majority_holds_durably)
{
    static const struct {
        size_t voters;
        uint64_t match[5]; // of 2, 3, ...
        uint64_t commit;
    } cases[] = {
        {2, {0}, 0},          {2, {3}, 3},          {3, {0, 0}, 0},       {3, {2, 0}, 2},
        {3, {2, 3}, 3},       {3, {0, 4}, 4},       {4, {4, 0, 0}, 0},    {4, {4, 2, 0}, 2},
        {5, {4, 0, 0, 0}, 0}, {5, {4, 3, 0, 0}, 3}, {5, {4, 3, 2, 2}, 3},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_server *s = test_alone(1, cases[i].voters);

        test_lead(s);
        for (int p = 0; p < 3; p++)
            test_propose(s, "x");
        for (size_t v = 0; v + 1 < cases[i].voters; v++)
            if (cases[i].match[v])
                test_acknowledge(s, v + 2, cases[i].match[v]);
        ck_assert_uint_eq(test_status(s).commit, cases[i].commit);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(LEAD5_the_own_share_counts_when_it_is_durable)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    s->held = true;
    test_propose(s, "x");
    test_acknowledge(s, 2, 2);
    ck_assert_uint_eq(test_status(s).commit, 1);
    test_disk_complete(s);
    ck_assert_uint_eq(test_status(s).commit, 2);
    // Two others are a majority without it; but it applies nothing before it has it.
    test_propose(s, "y");
    test_acknowledge(s, 2, 3);
    test_acknowledge(s, 3, 3);
    ck_assert_uint_eq(test_status(s).commit, 3);
    ck_assert(!test_has_applied(s, "y"));
    test_disk_complete(s);
    ck_assert(test_has_applied(s, "y"));
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD5_figure_8)
{
    // S1 leads in term 4, with an entry of term 2 that a majority then holds.
    struct test_server *s = test_alone_init(1, 5);

    test_disk_fill(s, TERMS(1, 2), 2, 3);
    test_server_start(s);
    test_lead(s);
    test_acknowledge(s, 2, 2);
    test_acknowledge(s, 3, 2);
    ck_assert_uint_eq(test_status(s).commit, 0); // (d): it can still be overwritten
    ck_assert_uint_eq(s->applied_count, 0);
    test_acknowledge(s, 2, 3);
    test_acknowledge(s, 3, 3);
    ck_assert_uint_eq(test_status(s).commit, 3); // (e): with the entry of term 4 all are
    ck_assert_uint_eq(s->applied_count, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(LEAD6_a_leader_keeps_its_log)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_propose(s, "x");
    // A second leader of the same term can't be.
    ck_assert_int_eq(step_append(s, 1, 0, 0, TERMS(1), 1, 0), RAFT_ERROR_MALFORMED);
    assert_log(s, 1, 1);
    ck_assert_int_eq(test_status(s).role, RAFT_LEADER);
    test_alone_free(s);
}
END_TEST

START_TEST(commit_news_do_not_wait_for_a_heartbeat)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    test_propose(leader, "x");
    test_deliver(c); // no tick
    for (uint64_t id = 1; id <= 3; id++)
        ck_assert(test_has_applied(test_at(c, id), "x"));
    test_cluster_free(c);
}
END_TEST

START_TEST(a_restart_forgets_nothing_that_was_acknowledged)
{
    struct test_cluster *c = test_cluster_new(3, 3);

    for (int i = 0; i < 12; i++) {
        char text[32];
        struct test_server *leader = test_elect(c, (uint64_t)i % 3 + 1);

        snprintf(text, sizeof(text), "value %d", i);
        ck_assert_int_eq(test_propose(leader, text), 0);
        test_deliver(c);
        ck_assert(test_has_applied(leader, text));
        for (uint64_t id = 1; id <= 3; id++) {
            test_server_crash(test_at(c, id));
            test_server_start(test_at(c, id));
        }
        test_cluster_tick(c, ELECTION_MAX * 3);
        for (uint64_t id = 1; id <= 3; id++)
            ck_assert(test_has_applied(test_at(c, id), text));
    }
    test_cluster_free(c);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, ALL1_applied_in_order_each_once);
    tcase_add_test(tests, ALL1_only_what_is_durable_here);
    tcase_add_test(tests, ALL4_no_acknowledgement_before_entries_are_durable);
    tcase_add_test(tests, ALL4_entries_truncated_while_written_are_not_acknowledged);
    tcase_add_test(tests, ALL4_a_heartbeat_is_answered_beside_a_slow_write);
    tcase_add_test(tests, APP1_refused_if_the_term_is_lower);
    tcase_add_test(tests, APP2_refused_if_previous_does_not_match);
    tcase_add_test(tests, APP3_a_conflicting_entry_and_all_that_follow_go);
    tcase_add_test(tests, APP3_what_is_there_already_stays_with_what_follows);
    tcase_add_test(tests, APP3_committed_entries_never_go);
    tcase_add_test(tests, APP4_new_entries_are_appended_with_their_data);
    tcase_add_test(tests, APP5_commit_is_bounded_by_what_the_request_covered);
    tcase_add_test(tests, APP6_heartbeats_carry_no_more_than_the_match);
    tcase_add_test(tests, APP6_a_heartbeat_moves_the_commit_index);
    tcase_add_test(tests, LEAD1_starts_with_a_no_op_and_heartbeats);
    tcase_add_test(tests, LEAD1_heartbeats_and_appends_go_out_beside_the_own_write);
    tcase_add_test(tests, LEAD2_proposals_are_refused_by_others);
    tcase_add_test(tests, LEAD2_a_proposal_says_where_it_is);
    tcase_add_test(tests, LEAD3_pipelined_within_the_window_of_messages);
    tcase_add_test(tests, LEAD3_pipelined_within_the_window_of_bytes);
    tcase_add_test(tests, LEAD3_a_probe_is_one_request_at_a_time);
    tcase_add_test(tests, LEAD3_lost_requests_are_found_out);
    tcase_add_test(tests, LEAD4_success_moves_forward_and_late_replies_nothing_back);
    tcase_add_test(tests, LEAD4_a_refusal_of_another_probe_is_late);
    tcase_add_test(tests, LEAD4_an_acknowledgement_beyond_the_log_is_refused);
    tcase_add_test(tests, LEAD4_figure_7);
    tcase_add_test(tests, LEAD5_commits_what_a_majority_holds_durably);
    tcase_add_test(tests, LEAD5_the_own_share_counts_when_it_is_durable);
    tcase_add_test(tests, LEAD5_figure_8);
    tcase_add_test(tests, LEAD6_a_leader_keeps_its_log);
    tcase_add_test(tests, commit_news_do_not_wait_for_a_heartbeat);
    tcase_add_test(tests, a_restart_forgets_nothing_that_was_acknowledged);
}

int main(void)
{
    return test_main("raft_replication", add);
}
