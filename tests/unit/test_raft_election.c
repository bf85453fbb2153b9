// Raft: elections. One test for each sentence of the rules ALL2 to ALL4, FOL1, CAND* and VOTE* at
// the top of cluster/raft/raft.h.
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

// Server 1 of n asks for votes in term 1, its own vote durable or not.
static struct test_server *candidate(size_t voters, bool held)
{
    struct test_server *s = test_alone(1, voters);

    s->held = held;
    ck_assert_int_eq(raft_campaign(s->raft), 0);
    test_server_run(s);
    for (uint64_t id = 2; id <= voters; id++) {
        struct raft_message grant = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, id, 1, true);
        test_step(s, &grant);
    }
    ck_assert_int_eq(test_status(s).role, RAFT_CANDIDATE);
    return s;
}

// ---- All servers ----

START_TEST(ALL2_higher_term_makes_a_follower_of_that_term)
{
    static const enum raft_message_type types[] = {
        RAFT_MESSAGE_VOTE_REPLY,        RAFT_MESSAGE_APPEND_REQUEST,  RAFT_MESSAGE_APPEND_REPLY,
        RAFT_MESSAGE_HEARTBEAT_REQUEST, RAFT_MESSAGE_HEARTBEAT_REPLY, RAFT_MESSAGE_SNAPSHOT_REPLY,
        RAFT_MESSAGE_PRE_VOTE_REPLY, // refused
    };

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        for (int role = 0; role < 2; role++) {
            struct test_server *s = role ? test_alone(1, 3) : candidate(3, false);
            struct raft_message message = test_message(types[i], 2, 1, 9);

            if (role)
                test_lead(s);
            test_step(s, &message);
            ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
            ck_assert_uint_eq(test_status(s).hard_state.term, 9);
            ck_assert_uint_eq(s->disk.hard_state.term, 9);
            ck_assert_uint_eq(s->disk.hard_state.voted_for, RAFT_NONE);
            test_alone_free(s);
        }
    }
}
END_TEST

START_TEST(ALL2_not_by_pre_votes)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 9, 5, 5);
    struct raft_message reply = vote_reply(RAFT_MESSAGE_PRE_VOTE_REPLY, 2, 9, true);

    test_step(s, &request);
    ck_assert_uint_eq(test_status(s).hard_state.term, 0);
    test_step(s, &reply);
    ck_assert_uint_eq(test_status(s).hard_state.term, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL3_lower_term_requests_of_a_leader_get_the_own_term)
{
    static const enum raft_message_type types[] = {RAFT_MESSAGE_APPEND_REQUEST,
                                                   RAFT_MESSAGE_HEARTBEAT_REQUEST};
    for (size_t i = 0; i < 2; i++) {
        struct test_server *s = test_alone_init(1, 3);
        struct raft_message message = test_message(types[i], 2, 1, 3);

        s->disk.hard_state.term = 7;
        test_server_start(s);
        test_step(s, &message);
        ck_assert_uint_eq(s->sent_count, 1);
        ck_assert_uint_eq(s->sent[0]->message.term, 7);
        ck_assert_uint_eq(s->sent[0]->message.to, 2);
        ck_assert_uint_eq(test_status(s).leader, RAFT_NONE);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(ALL3_lower_term_pre_vote_is_refused_with_the_own_term)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 3, 50, 2);

    s->disk.hard_state.term = 7;
    test_server_start(s);
    test_step(s, &request);
    const struct raft_message *reply = test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2);
    ck_assert_ptr_nonnull(reply);
    ck_assert(!reply->vote_reply.granted);
    ck_assert_uint_eq(reply->term, 7);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL3_lower_term_replies_change_nothing)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message reply = test_message(RAFT_MESSAGE_APPEND_REPLY, 2, 1, 7);

    s->disk.hard_state.term = 7;
    test_server_start(s);
    test_lead(s); // term 8
    test_sent_clear(s);
    reply.append_reply.success = true;
    reply.append_reply.match = 1;
    ck_assert_int_eq(test_step(s, &reply), 0);
    ck_assert_uint_eq(test_peer(s, 2).match, 0);
    ck_assert_uint_eq(test_status(s).commit, 0);
    ck_assert_uint_eq(s->sent_count, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_no_vote_before_it_is_durable)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 1, 0, 0);

    s->held = true;
    test_step(s, &request);
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2));
    ck_assert(s->pending);
    test_disk_complete(s);
    ck_assert_uint_eq(s->disk.hard_state.voted_for, 2);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_no_pre_vote_before_the_term_it_rests_on_is_durable)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message vote = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 1, 0, 0);
    struct raft_message pre = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 3, 2, 0, 0);

    s->held = true;
    test_step(s, &vote);
    test_step(s, &pre);
    ck_assert_uint_eq(s->sent_count, 0);
    test_disk_complete(s);
    ck_assert_ptr_nonnull(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 3));
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_no_votes_are_asked_for_before_the_own_is_durable)
{
    struct test_server *s = candidate(3, true);

    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_VOTE_REQUEST, 0), 0);
    test_disk_complete(s);
    ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_VOTE_REQUEST, 0), 2);
    ck_assert_uint_eq(s->disk.hard_state.voted_for, 1);
    test_alone_free(s);
}
END_TEST

START_TEST(ALL4_a_lone_voter_leads_and_commits_by_its_disk_only)
{
    struct test_server *s = test_alone(1, 1);

    s->held = true;
    ck_assert_int_eq(raft_campaign(s->raft), 0);
    test_server_run(s);
    ck_assert_int_eq(test_status(s).role, RAFT_CANDIDATE);
    test_disk_complete(s);
    ck_assert_int_eq(test_status(s).role, RAFT_LEADER);
    ck_assert_uint_eq(test_status(s).commit, 0);
    ck_assert_uint_eq(s->applied_count, 0);
    test_disk_complete(s);
    ck_assert_uint_eq(test_status(s).commit, 1);
    ck_assert_uint_eq(s->applied_count, 1);
    test_alone_free(s);
}
END_TEST

// ---- Followers and candidates ----

START_TEST(FOL1_silence_starts_an_election)
{
    struct test_server *s = test_alone(1, 3);

    test_tick(s, ELECTION_MIN - 1);
    ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    test_tick(s, ELECTION_MAX - ELECTION_MIN + 1);
    ck_assert_int_eq(test_status(s).role, RAFT_PRE_CANDIDATE);
    test_alone_free(s);
}
END_TEST

START_TEST(FOL1_the_current_leader_restarts_the_timer)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message message = heartbeat(2, 1);

    for (int i = 0; i < 20; i++) {
        test_step(s, &message);
        test_tick(s, ELECTION_MIN - 1);
        ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    }
    test_alone_free(s);
}
END_TEST

START_TEST(FOL1_a_granted_vote_restarts_the_timer)
{
    struct test_server *s = test_alone(1, 3);

    for (uint64_t term = 1; term < 20; term++) {
        struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, term, 0, 0);

        test_step(s, &request);
        test_tick(s, ELECTION_MIN - 1);
        ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    }
    test_alone_free(s);
}
END_TEST

START_TEST(FOL1_nothing_else_restarts_the_timer)
{
    struct test_server *s = test_alone_init(1, 3);
    const uint64_t terms[] = {1, 1};

    test_disk_fill(s, terms, 2, 1);
    s->stale_random = true; // time-out ELECTION_MIN
    test_server_start(s);
    for (int i = 1; i < ELECTION_MIN; i++) {
        // A log that is behind, a leader of an old term, a pre-vote.
        struct raft_message vote =
            vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 1 + (uint64_t)i, 1, 1);
        struct raft_message old = heartbeat(3, 1);
        struct raft_message pre =
            vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 3, 90 + (uint64_t)i, 9, 9);

        test_tick(s, 1);
        test_step(s, &vote);
        test_step(s, &old);
        test_step(s, &pre);
        ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    }
    test_tick(s, 1);
    ck_assert_int_eq(test_status(s).role, RAFT_PRE_CANDIDATE);
    test_alone_free(s);
}
END_TEST

START_TEST(CAND1_raises_its_term_votes_for_itself_and_asks_all_voters)
{
    struct test_server *s = candidate(5, false);

    ck_assert_uint_eq(test_status(s).hard_state.term, 1);
    ck_assert_uint_eq(test_status(s).hard_state.voted_for, 1);
    for (uint64_t id = 2; id <= 5; id++) {
        const struct raft_message *request = test_sent(s, RAFT_MESSAGE_VOTE_REQUEST, id);

        ck_assert_ptr_nonnull(request);
        ck_assert_uint_eq(request->term, 1);
    }
    test_alone_free(s);
}
END_TEST

START_TEST(CAND2_a_majority_makes_a_leader)
{
    static const struct {
        size_t voters;
        int granted, refused;
        enum raft_role role;
    } cases[] = {
        {1, 0, 0, RAFT_LEADER},    {2, 1, 0, RAFT_LEADER},    {3, 1, 0, RAFT_LEADER},
        {3, 0, 1, RAFT_CANDIDATE}, {3, 0, 2, RAFT_FOLLOWER},  {3, 1, 1, RAFT_LEADER},
        {4, 1, 0, RAFT_CANDIDATE}, {4, 2, 0, RAFT_LEADER},    {4, 0, 2, RAFT_FOLLOWER},
        {5, 2, 0, RAFT_LEADER},    {5, 1, 2, RAFT_CANDIDATE}, {5, 1, 3, RAFT_FOLLOWER},
        {5, 0, 0, RAFT_CANDIDATE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_server *s;
        uint64_t from = 2;

        if (cases[i].voters == 1) {
            s = test_alone(1, 1);
            raft_campaign(s->raft);
            test_server_run(s);
        } else {
            s = candidate(cases[i].voters, false);
        }
        for (int v = 0; v < cases[i].granted + cases[i].refused; v++) {
            struct raft_message reply =
                vote_reply(RAFT_MESSAGE_VOTE_REPLY, from++, 1, v < cases[i].granted);

            test_step(s, &reply);
            test_step(s, &reply); // twice counts once
        }
        ck_assert_int_eq(test_status(s).role, cases[i].role);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(CAND2_votes_of_others_than_voters_do_not_count)
{
    struct test_server *s = candidate(3, false);
    struct raft_message stranger = vote_reply(RAFT_MESSAGE_VOTE_REPLY, 77, 1, true);

    test_step(s, &stranger);
    ck_assert_int_eq(test_status(s).role, RAFT_CANDIDATE);
    test_alone_free(s);
}
END_TEST

START_TEST(CAND3_a_leader_of_the_same_term_makes_a_follower)
{
    struct test_server *s = candidate(3, false);
    struct raft_message message = heartbeat(2, 1);

    test_step(s, &message);
    ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    ck_assert_uint_eq(test_status(s).leader, 2);
    ck_assert_uint_eq(test_status(s).hard_state.voted_for, 1); // the vote is not forgotten
    test_alone_free(s);
}
END_TEST

START_TEST(CAND4_starts_over_after_a_time_out)
{
    struct test_server *s = candidate(3, false);

    test_tick(s, ELECTION_MAX);
    ck_assert_int_eq(test_status(s).role, RAFT_PRE_CANDIDATE);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 2)->term, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(CAND4_time_outs_are_drawn_anew_over_the_whole_range)
{
    struct test_server *s = test_alone(1, 3);
    bool seen[ELECTION_MAX + 2] = {false};
    int ticks = 0;

    for (int i = 0; i < 20000; i++) {
        size_t before = test_sent_number(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 2);

        test_tick(s, 1);
        ticks++;
        if (test_sent_number(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 2) > before) {
            ck_assert_int_ge(ticks, ELECTION_MIN);
            ck_assert_int_le(ticks, ELECTION_MAX);
            seen[ticks] = true;
            ticks = 0;
        }
        test_sent_clear(s);
    }
    for (int t = ELECTION_MIN; t <= ELECTION_MAX; t++)
        ck_assert(seen[t]);
    test_alone_free(s);
}
END_TEST

// ---- RequestVote ----

START_TEST(VOTE1_refused_if_the_term_is_lower)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 6, 50, 5);

    s->disk.hard_state.term = 7;
    test_server_start(s);
    test_step(s, &request);
    ck_assert(!test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->vote_reply.granted);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->term, 7);
    test_alone_free(s);
}
END_TEST

START_TEST(VOTE2_one_vote_a_term_repeated_to_the_same)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message two = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 1, 0, 0);
    struct raft_message three = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 3, 1, 0, 0);

    test_step(s, &two);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->vote_reply.granted);
    test_step(s, &three);
    ck_assert(!test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 3)->vote_reply.granted);
    // A crash doesn't free the vote.
    test_server_crash(s);
    test_server_start(s);
    test_step(s, &three);
    ck_assert(!test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 3)->vote_reply.granted);
    test_step(s, &two);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->vote_reply.granted);
    // The next term does.
    three.term = 2;
    test_step(s, &three);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 3)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(VOTE3_only_for_a_log_at_least_as_up_to_date)
{
    static const struct {
        uint64_t index, term;
        bool granted;
    } cases[] = {
        {3, 2, true},  // the same
        {4, 2, true},  // longer
        {2, 2, false}, // shorter
        {1, 3, true},  // later term, however short
        {9, 1, false}, // earlier term, however long
        {0, 0, false}, // empty
    };
    const uint64_t terms[] = {1, 2, 2};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int pre = 0; pre < 2; pre++) {
            struct test_server *s = test_alone_init(1, 3);
            struct raft_message request =
                vote_request(pre ? RAFT_MESSAGE_PRE_VOTE_REQUEST : RAFT_MESSAGE_VOTE_REQUEST, 2, 5,
                             cases[i].index, cases[i].term);

            test_disk_fill(s, terms, 3, 2);
            test_server_start(s);
            test_step(s, &request);
            const struct raft_message *reply =
                test_sent(s, pre ? RAFT_MESSAGE_PRE_VOTE_REPLY : RAFT_MESSAGE_VOTE_REPLY, 2);
            ck_assert(reply->vote_reply.granted == cases[i].granted);
            test_alone_free(s);
        }
    }
}
END_TEST

START_TEST(VOTE4_also_to_strangers)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 77, 1, 4, 0);

    test_step(s, &request);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 77)->vote_reply.granted);
    test_alone_free(s);
}
END_TEST

START_TEST(VOTE4_also_by_learners_and_servers_not_yet_added)
{
    for (int added = 0; added < 2; added++) {
        struct test_server *s = malloc(sizeof(*s));
        struct raft_configuration configuration = {
            .count = 2, .members = {{.id = 1, .roles = RAFT_LEARNER}, {2, RAFT_VOTER}}};
        struct raft_message pre = vote_request(RAFT_MESSAGE_PRE_VOTE_REQUEST, 2, 1, 0, 0);
        struct raft_message request = vote_request(RAFT_MESSAGE_VOTE_REQUEST, 2, 1, 0, 0);

        test_server_init(s, 1, added ? &configuration : NULL);
        test_server_start(s);
        test_step(s, &pre);
        ck_assert(test_sent(s, RAFT_MESSAGE_PRE_VOTE_REPLY, 2)->vote_reply.granted);
        test_step(s, &request);
        ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REPLY, 2)->vote_reply.granted);
        test_alone_free(s);
    }
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, ALL2_higher_term_makes_a_follower_of_that_term);
    tcase_add_test(tests, ALL2_not_by_pre_votes);
    tcase_add_test(tests, ALL3_lower_term_requests_of_a_leader_get_the_own_term);
    tcase_add_test(tests, ALL3_lower_term_pre_vote_is_refused_with_the_own_term);
    tcase_add_test(tests, ALL3_lower_term_replies_change_nothing);
    tcase_add_test(tests, ALL4_no_vote_before_it_is_durable);
    tcase_add_test(tests, ALL4_no_pre_vote_before_the_term_it_rests_on_is_durable);
    tcase_add_test(tests, ALL4_no_votes_are_asked_for_before_the_own_is_durable);
    tcase_add_test(tests, ALL4_a_lone_voter_leads_and_commits_by_its_disk_only);
    tcase_add_test(tests, FOL1_silence_starts_an_election);
    tcase_add_test(tests, FOL1_the_current_leader_restarts_the_timer);
    tcase_add_test(tests, FOL1_a_granted_vote_restarts_the_timer);
    tcase_add_test(tests, FOL1_nothing_else_restarts_the_timer);
    tcase_add_test(tests, CAND1_raises_its_term_votes_for_itself_and_asks_all_voters);
    tcase_add_test(tests, CAND2_a_majority_makes_a_leader);
    tcase_add_test(tests, CAND2_votes_of_others_than_voters_do_not_count);
    tcase_add_test(tests, CAND3_a_leader_of_the_same_term_makes_a_follower);
    tcase_add_test(tests, CAND4_starts_over_after_a_time_out);
    tcase_add_test(tests, CAND4_time_outs_are_drawn_anew_over_the_whole_range);
    tcase_add_test(tests, VOTE1_refused_if_the_term_is_lower);
    tcase_add_test(tests, VOTE2_one_vote_a_term_repeated_to_the_same);
    tcase_add_test(tests, VOTE3_only_for_a_log_at_least_as_up_to_date);
    tcase_add_test(tests, VOTE4_also_to_strangers);
    tcase_add_test(tests, VOTE4_also_by_learners_and_servers_not_yet_added);
}

int main(void)
{
    return test_main("raft_election", add);
}
