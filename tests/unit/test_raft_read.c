// Raft: linearizable reads. One test for each sentence of the rules READ* at the top of
// cluster/raft/raft.h.
#include "tests/unit/raft_cluster.h"

// Leader 1 of n, with its no-op committed.
static struct test_server *reader(size_t voters)
{
    struct test_server *s = test_alone(1, voters);

    test_lead(s);
    for (uint64_t id = 2; id <= voters; id++)
        test_acknowledge(s, id, 1);
    test_sent_clear(s);
    return s;
}

static int ask(struct test_server *s, uint64_t context)
{
    int result = raft_read_index(s->raft, context);

    test_server_run(s);
    return result;
}

static uint64_t last_round(const struct test_server *s)
{
    return test_sent(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 0)->heartbeat_request.round;
}

static void confirm(struct test_server *s, uint64_t from, uint64_t round)
{
    struct raft_message reply =
        test_message(RAFT_MESSAGE_HEARTBEAT_REPLY, from, 1, test_status(s).hard_state.term);

    reply.heartbeat_reply.round = round;
    ck_assert_int_eq(test_step(s, &reply), 0);
}

START_TEST(READ1_a_majority_confirms_the_leader_first)
{
    struct test_server *s = reader(5);

    ck_assert_int_eq(ask(s, 42), 0);
    ck_assert_uint_eq(s->read_count, 0);
    uint64_t round = last_round(s);
    confirm(s, 2, round);
    confirm(s, 2, round); // twice is once
    ck_assert_uint_eq(s->read_count, 0);
    confirm(s, 3, round);
    ck_assert_uint_eq(s->read_count, 1);
    ck_assert_uint_eq(s->reads[0].context, 42);
    ck_assert_uint_eq(s->reads[0].index, 1);
    ck_assert_int_eq(s->reads[0].result, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(READ1_only_answers_to_what_was_asked_afterwards_count)
{
    struct test_server *s = reader(3);

    test_tick(s, HEARTBEAT);
    uint64_t earlier = last_round(s);
    ck_assert_int_eq(ask(s, 1), 0);
    confirm(s, 2, earlier);
    confirm(s, 3, earlier);
    ck_assert_uint_eq(s->read_count, 0);
    confirm(s, 3, last_round(s));
    ck_assert_uint_eq(s->read_count, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(READ1_the_index_is_that_of_its_arrival)
{
    struct test_server *s = reader(3);

    ck_assert_int_eq(ask(s, 1), 0);
    uint64_t round = last_round(s);
    test_propose(s, "x");
    test_acknowledge(s, 2, 2);
    confirm(s, 2, round);
    ck_assert_uint_eq(s->reads[0].index, 1);
    ck_assert_int_eq(ask(s, 2), 0);
    confirm(s, 2, last_round(s));
    ck_assert_uint_eq(s->reads[1].index, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(READ1_a_lone_voter_is_its_own_majority)
{
    struct test_server *s = reader(1);

    ck_assert_int_eq(ask(s, 5), 0);
    ck_assert_uint_eq(s->read_count, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(READ1_those_that_wait_while_the_others_are_removed_are_answered)
{
    struct test_server *s = reader(2);
    struct raft_member alone = {1, RAFT_VOTER};

    ck_assert_int_eq(ask(s, 5), 0);
    ck_assert_int_eq(raft_propose_configuration(s->raft, &alone, 1, NULL), 0);
    test_server_run(s);
    ck_assert_uint_eq(s->read_count, 0);
    test_acknowledge(s, 2, 2); // the joint configuration is committed, and left
    ck_assert_uint_eq(test_status(s).configuration->count, 1);
    ck_assert_uint_eq(s->read_count, 1);
    ck_assert_int_eq(s->reads[0].result, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(READ1_a_leader_that_slept_confirms_again)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *old = test_elect(c, 1);

    // It sleeps (no ticks), the others go on without it.
    test_isolate(c, 1, true);
    for (int t = 0; t < ELECTION_MAX * 5; t++) {
        raft_tick(test_at(c, 2)->raft);
        raft_tick(test_at(c, 3)->raft);
        test_deliver(c);
    }
    ck_assert_int_eq(test_status(old).role, RAFT_LEADER);
    ck_assert_ptr_ne(test_leader(c), old);
    test_propose(test_leader(c), "newer");
    test_deliver(c);
    test_isolate(c, 1, false);
    ck_assert_int_eq(raft_read_index(old->raft, 1), 0);
    test_deliver(c);
    ck_assert_uint_eq(old->read_count, 1);
    ck_assert_int_eq(old->reads[0].result, RAFT_ERROR_NOT_LEADER);
    test_cluster_free(c);
}
END_TEST

START_TEST(READ2_not_before_an_entry_of_the_term_is_committed)
{
    struct test_server *s = test_alone(1, 3);

    ck_assert_int_eq(ask(s, 1), RAFT_ERROR_NOT_LEADER);
    test_lead(s);
    ck_assert_int_eq(ask(s, 1), RAFT_ERROR_NOT_READY);
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(ask(s, 1), 0);
    test_alone_free(s);
}
END_TEST

START_TEST(READ3_reads_share_a_round)
{
    struct test_server *s = reader(3);

    for (uint64_t i = 0; i < 50; i++)
        ck_assert_int_eq(raft_read_index(s->raft, i), 0);
    test_server_run(s);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_HEARTBEAT_REQUEST, 0), 2);
    confirm(s, 2, last_round(s));
    ck_assert_uint_eq(s->read_count, 50);
    for (uint64_t i = 0; i < 50; i++)
        ck_assert_uint_eq(s->reads[i].context, i);
    test_alone_free(s);
}
END_TEST

START_TEST(READ3_lost_leadership_fails_those_that_wait)
{
    struct test_server *s = reader(3);
    struct raft_message higher = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 1, 9);

    ask(s, 1);
    ask(s, 2);
    test_step(s, &higher);
    ck_assert_uint_eq(s->read_count, 2);
    ck_assert_int_eq(s->reads[0].result, RAFT_ERROR_NOT_LEADER);
    ck_assert_int_eq(s->reads[1].result, RAFT_ERROR_NOT_LEADER);
    test_alone_free(s);
}
END_TEST

START_TEST(bound_of_reads)
{
    struct test_server *s = reader(3);

    for (uint64_t i = 0; i < 64; i++)
        ck_assert_int_eq(ask(s, i), 0);
    ck_assert_int_eq(ask(s, 64), RAFT_ERROR_BUSY);
    confirm(s, 2, last_round(s));
    ck_assert_int_eq(ask(s, 64), 0);
    test_alone_free(s);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, READ1_a_majority_confirms_the_leader_first);
    tcase_add_test(tests, READ1_only_answers_to_what_was_asked_afterwards_count);
    tcase_add_test(tests, READ1_the_index_is_that_of_its_arrival);
    tcase_add_test(tests, READ1_a_lone_voter_is_its_own_majority);
    tcase_add_test(tests, READ1_those_that_wait_while_the_others_are_removed_are_answered);
    tcase_add_test(tests, READ1_a_leader_that_slept_confirms_again);
    tcase_add_test(tests, READ2_not_before_an_entry_of_the_term_is_committed);
    tcase_add_test(tests, READ3_reads_share_a_round);
    tcase_add_test(tests, READ3_lost_leadership_fails_those_that_wait);
    tcase_add_test(tests, bound_of_reads);
}

int main(void)
{
    return test_main("raft_read", add);
}
