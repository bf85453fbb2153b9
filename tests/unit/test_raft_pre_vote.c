// Raft: pre-votes, check-quorum and what makes a leader give up. One test for each sentence of the
// rules PRE*, LEASE1, QUORUM1 and LEAD7 at the top of cluster/raft/raft.h.
#include "tests/unit/raft_cluster.h"

static struct raft_message vote_request(enum raft_message_type type, uint64_t from, uint64_t term,
                                        uint64_t last_index, uint64_t last_term)
{
    struct raft_message message = test_message(type, from, 1, term);

    message.vote_request.last = (struct raft_position){last_index, last_term};
    return message;
}

static struct raft_message heartbeat(uint64_t from, uint64_t term)
{
    return test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, from, 1, term);
}

static struct raft_message vote_reply(enum raft_message_type type, uint64_t from, uint64_t term,
                                      bool granted)
{
    struct raft_message message = test_message(type, from, 1, term);

    message.vote_reply.granted = granted;
    return message;
}

// ---- Pre-vote and check-quorum ----

START_TEST(PRE1_a_time_out_asks_first_and_changes_no_term)
{
    struct test_server *s = test_alone(1, 3);

    test_tick(s, ELECTION_MAX * 10);
    ck_assert_uint_eq(test_status(s).hard_state.term, 0);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_VOTE_REQUEST, 0), 0);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 2)->term, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(PRE1_a_majority_of_pre_votes_starts_the_election)
{
    struct test_server *s = test_alone(1, 5);
    struct raft_message two = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, 2, 1, true);
    struct raft_message three = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, 3, 1, true);
    struct raft_message other_term = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, 4, 5, true);

    raft_campaign(s->raft);
    test_step(s, &two);
    test_step(s, &two);
    test_step(s, &other_term);
    ck_assert_int_eq(test_status(s).role, RAFT_PRE_CANDIDATE);
    test_step(s, &three);
    ck_assert_int_eq(test_status(s).role, RAFT_CANDIDATE);
    ck_assert_uint_eq(test_status(s).hard_state.term, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(PRE1_a_majority_of_refusals_ends_it)
{
    struct test_server *s = test_alone(1, 3);

    raft_campaign(s->raft);
    for (uint64_t id = 2; id <= 3; id++) {
        // A server that never heard of a term refuses in term 0.
        struct raft_message refusal = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, id, 0, false);
        ck_assert_int_eq(test_step(s, &refusal), 0);
    }
    ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    test_alone_free(s);
}
END_TEST

START_TEST(PRE2_a_grant_carries_the_requested_term_a_refusal_the_own)
{
    struct test_server *s = test_alone_init(1, 3);
    const uint64_t terms[] = {3};
    struct raft_message good = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 9, 1, 3);
    struct raft_message behind = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 3, 9, 1, 2);

    test_disk_fill(s, terms, 1, 3);
    test_server_start(s);
    test_step(s, &good);
    ck_assert(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2)->vote_reply.granted);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2)->term, 9);
    test_step(s, &behind);
    ck_assert(!test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 3)->vote_reply.granted);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 3)->term, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(PRE2_not_for_a_term_that_is_not_higher)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 3, 10, 2);

    s->disk.hard_state.term = 3;
    test_server_start(s);
    test_step(s, &request);
    ck_assert(!test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(PRE2_is_no_vote)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message pre = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 1, 0, 0);
    struct raft_message vote = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 3, 1, 0, 0);

    test_step(s, &pre);
    ck_assert(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2)->vote_reply.granted);
    pre.from = 3;
    test_step(s, &pre);
    ck_assert(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 3)->vote_reply.granted);
    test_step(s, &vote);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 3)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(LEASE1_votes_are_ignored_while_a_leader_is_heard)
{
    for (int pre = 0; pre < 2; pre++) {
        struct test_server *s = test_alone(1, 3);
        struct raft_message leader = heartbeat(2, 1);
        struct raft_message request = vote_request(
            pre ? RAFT_MESSAGE_PRE_VOTE_REQUEST : RAFT_MESSAGE_VOTE_REQUEST, 3, 2, 9, 1);

        test_step(s, &leader);
        test_sent_clear(s);
        test_tick(s, ELECTION_MIN - 1);
        test_step(s, &request);
        ck_assert_uint_eq(s->sent_count, 0);
        ck_assert_uint_eq(test_status(s).hard_state.term, 1);
        ck_assert_uint_eq(test_status(s).leader, 2);
        // Silence ends that.
        test_tick(s, 1);
        test_step(s, &request);
        ck_assert_ptr_nonnull(
            test_sent(s, pre ? RAFT_MESSAGE_PRE_VOTE_REPLY : RAFT_MESSAGE_VOTE_REPLY, 3));
        test_alone_free(s);
    }
}
END_TEST

START_TEST(LEASE1_a_leader_ignores_them_as_well)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 3, 9, 9, 8);

    test_lead(s);
    test_step(s, &request);
    ck_assert_int_eq(test_status(s).role, RAFT_LEADER);
    ck_assert_uint_eq(test_status(s).hard_state.term, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(LEASE1_not_if_the_leader_asked_for_the_election)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message leader = heartbeat(2, 1);
    struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 3, 2, 9, 1);

    request.vote_request.transfer = true;
    test_step(s, &leader);
    test_step(s, &request);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 3)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(LEASE1_a_removed_server_does_not_disturb)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);
    uint64_t term = test_status(leader).hard_state.term;

    // Server 4 still believes in a configuration with it.
    struct raft_configuration old = test_voters(4);
    test_server_free(test_at(c, 4));
    test_server_init(test_at(c, 4), 4, &old);
    test_server_start(test_at(c, 4));
    test_cluster_tick(c, ELECTION_MAX * 10);
    ck_assert_ptr_eq(test_leader(c), leader);
    ck_assert_uint_eq(test_status(leader).hard_state.term, term);
    ck_assert_uint_gt(test_status(test_at(c, 4)).counters->pre_elections, 0);
    test_cluster_free(c);
}
END_TEST

START_TEST(QUORUM1_a_leader_that_hears_no_majority_steps_down)
{
    static const struct {
        size_t voters, heard;
        bool stays;
    } cases[] = {{1, 0, true}, {2, 0, false}, {3, 0, false},
                 {3, 1, true}, {5, 1, false}, {5, 2, true}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_server *s = test_alone(1, cases[i].voters);

        test_lead(s);
        for (int t = 0; t < ELECTION_MIN * 3; t++) {
            for (uint64_t id = 2; id < 2 + cases[i].heard; id++) {
                struct raft_message reply = test_message(RAFT_MESSAGE_HEARTBEAT_REPLY, id, 1, 1);
                test_step(s, &reply);
            }
            test_tick(s, 1);
        }
        ck_assert((test_status(s).role == RAFT_LEADER) == cases[i].stays);
        ck_assert_uint_eq(test_status(s).counters->stepped_down_quorum, !cases[i].stays);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(QUORUM1_one_way_links_do_not_keep_a_deaf_leader)
{
    struct test_cluster *c = test_cluster_new(3, 3);

    test_elect(c, 1);
    // Server 1 is heard by all and hears nobody.
    c->cut[2][1] = c->cut[3][1] = true;
    test_cluster_tick(c, ELECTION_MAX * 10);
    ck_assert_int_ne(test_status(test_at(c, 1)).role, RAFT_LEADER);
    ck_assert_ptr_nonnull(test_leader(c));
    test_cluster_free(c);
}
END_TEST

START_TEST(QUORUM1_a_chain_of_partial_links_finds_a_leader)
{
    // Everyone hears only its neighbour, but the middle one has a majority (Cloudflare, 2020).
    struct test_cluster *c = test_cluster_new(3, 3);

    test_elect(c, 1);
    c->cut[1][3] = c->cut[3][1] = true;
    c->cut[1][2] = c->cut[2][1] = true;
    test_cluster_tick(c, ELECTION_MAX * 10);
    c->cut[1][2] = c->cut[2][1] = false; // 1 - 2 - 3
    test_cluster_tick(c, ELECTION_MAX * 10);
    struct test_server *leader = test_leader(c);
    ck_assert_ptr_nonnull(leader);
    uint64_t term = test_status(leader).hard_state.term;
    test_cluster_tick(c, ELECTION_MAX * 20);
    ck_assert_ptr_eq(test_leader(c), leader); // and keeps it
    ck_assert_uint_eq(test_status(leader).hard_state.term, term);
    ck_assert_int_eq(test_propose(leader, "x"), 0);
    test_cluster_tick(c, HEARTBEAT);
    ck_assert(test_has_applied(leader, "x"));
    test_cluster_free(c);
}
END_TEST

START_TEST(ALL3_a_server_that_is_ahead_in_terms_comes_back)
{
    struct test_cluster *c = test_cluster_new(3, 3);

    test_elect(c, 1);
    test_server_crash(test_at(c, 3));
    test_at(c, 3)->disk.hard_state.term = 50; // it had campaigned alone, before pre-votes
    test_server_start(test_at(c, 3));
    test_cluster_tick(c, ELECTION_MAX * 10);
    struct test_server *leader = test_leader(c);
    ck_assert_ptr_nonnull(leader);
    ck_assert_uint_gt(test_status(leader).hard_state.term, 50);
    ck_assert_uint_eq(test_status(test_at(c, 3)).leader, leader->id);
    test_cluster_free(c);
}
END_TEST

// ---- A disk that hangs ----

START_TEST(LEAD7_a_leader_whose_write_hangs_hands_over)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *one = test_elect(c, 1);

    one->held = true;
    ck_assert_int_eq(test_propose(one, "x"), 0);
    test_cluster_tick(c, ELECTION_MIN + 1);
    ck_assert_int_ne(test_status(one).role, RAFT_LEADER);
    ck_assert_uint_eq(test_status(one).counters->stepped_down_disk, 1);
    ck_assert_ptr_nonnull(test_leader(c)); // at once: it was told to campaign
    ck_assert(test_has_applied(test_leader(c), "x"));
    // It doesn't campaign, whatever happens, until a write has completed.
    test_isolate(c, 1, true);
    test_cluster_tick(c, ELECTION_MAX * 5);
    ck_assert_uint_eq(test_status(one).counters->pre_elections, 1);
    ck_assert_int_eq(raft_campaign(one->raft), RAFT_ERROR_NOT_VOTER);
    one->held = false;
    test_disk_complete(one);
    test_cluster_tick(c, ELECTION_MAX);
    ck_assert_uint_gt(test_status(one).counters->pre_elections, 1);
    test_cluster_free(c);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, PRE1_a_time_out_asks_first_and_changes_no_term);
    tcase_add_test(tests, PRE1_a_majority_of_pre_votes_starts_the_election);
    tcase_add_test(tests, PRE1_a_majority_of_refusals_ends_it);
    tcase_add_test(tests, PRE2_a_grant_carries_the_requested_term_a_refusal_the_own);
    tcase_add_test(tests, PRE2_not_for_a_term_that_is_not_higher);
    tcase_add_test(tests, PRE2_is_no_vote);
    tcase_add_test(tests, LEASE1_votes_are_ignored_while_a_leader_is_heard);
    tcase_add_test(tests, LEASE1_a_leader_ignores_them_as_well);
    tcase_add_test(tests, LEASE1_not_if_the_leader_asked_for_the_election);
    tcase_add_test(tests, LEASE1_a_removed_server_does_not_disturb);
    tcase_add_test(tests, QUORUM1_a_leader_that_hears_no_majority_steps_down);
    tcase_add_test(tests, QUORUM1_one_way_links_do_not_keep_a_deaf_leader);
    tcase_add_test(tests, QUORUM1_a_chain_of_partial_links_finds_a_leader);
    tcase_add_test(tests, ALL3_a_server_that_is_ahead_in_terms_comes_back);
    tcase_add_test(tests, LEAD7_a_leader_whose_write_hangs_hands_over);
}

int main(void)
{
    return test_main("raft_pre_vote", add);
}
