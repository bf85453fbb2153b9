// Raft: membership and leadership transfer. One test for each sentence of the rules CONF* and
// TRANS* at the top of cluster/raft/raft.h, and of configurations as values.
#include "tests/unit/raft_cluster.h"

// Members by their roles: "VVL" is voters 1 and 2 and learner 3; '-' is no member.
static size_t members_of(struct raft_member *members, const char *roles)
{
    size_t count = 0;

    for (uint64_t id = 1; roles[id - 1]; id++)
        if (roles[id - 1] != '-')
            members[count++] =
                (struct raft_member){id, roles[id - 1] == 'V' ? RAFT_VOTER : RAFT_LEARNER};
    return count;
}

static int change(struct test_server *server, const char *roles)
{
    struct raft_member members[RAFT_MEMBERS_MAX];
    int result =
        raft_propose_configuration(server->raft, members, members_of(members, roles), NULL);

    test_server_run(server);
    return result;
}

// The configuration that counts: V voter, O goes (only in C_old), N comes (only in C_new), L
// learner, D is demoted.
static const char *configuration_of(const struct test_server *server)
{
    static char text[RAFT_MEMBERS_MAX + 1];
    const struct raft_configuration *c = test_status(server).configuration;
    bool joint = raft_configuration_is_joint(c);

    memset(text, 0, sizeof(text));
    for (uint32_t i = 0; i < c->count; i++) {
        uint8_t roles = c->members[i].roles;
        char letter = '?';

        if (roles == (RAFT_VOTER | RAFT_VOTER_OLD) || (roles == RAFT_VOTER && !joint))
            letter = 'V';
        else if (roles == RAFT_VOTER)
            letter = 'N';
        else if (roles == RAFT_VOTER_OLD)
            letter = 'O';
        else if (roles == RAFT_LEARNER)
            letter = 'L';
        else if (roles == (RAFT_LEARNER | RAFT_VOTER_OLD))
            letter = 'D';
        ck_assert_uint_le(c->members[i].id, RAFT_MEMBERS_MAX);
        for (size_t at = strlen(text); at + 1 < c->members[i].id; at++)
            text[at] = '-';
        text[c->members[i].id - 1] = letter;
    }
    return text;
}

#define assert_configuration(server, text) ck_assert_str_eq(configuration_of(server), text)

// Adds what is missing as learners, waits until they have caught up, then changes to `roles`.
static void change_fully(struct test_cluster *c, const char *roles)
{
    struct test_server *leader = test_leader(c);

    for (int tries = 0; tries < 100; tries++) {
        int result = change(leader, roles);

        test_cluster_tick(c, HEARTBEAT);
        if (result == 0)
            break;
        ck_assert_int_eq(result, RAFT_ERROR_NOT_CAUGHT_UP);
        char learners[RAFT_MEMBERS_MAX + 1] = "";
        strcpy(learners, configuration_of(leader));
        for (size_t i = 0; roles[i]; i++)
            if (i >= strlen(learners) || learners[i] == '-')
                learners[i] = 'L';
        if (strcmp(learners, configuration_of(leader)) != 0)
            ck_assert_int_eq(change(leader, learners), 0);
        test_cluster_tick(c, HEARTBEAT);
    }
    test_cluster_tick(c, ELECTION_MIN);
}

START_TEST(CONF1_the_latest_configuration_in_the_log_counts)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);

    test_isolate(c, 1, true);
    ck_assert_int_eq(change(leader, "VVVL"), 0);
    assert_configuration(leader, "VVVL"); // not committed
    ck_assert_uint_gt(test_status(leader).configuration_index, test_status(leader).commit);
    test_isolate(c, 1, false);
    test_cluster_tick(c, HEARTBEAT * 2);
    for (uint64_t id = 1; id <= 4; id++)
        assert_configuration(test_at(c, id), "VVVL");
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF1_a_truncation_brings_the_one_before_back)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *old = test_elect(c, 1);

    change_fully(c, "VVVL");
    test_isolate(c, 1, true);
    ck_assert_int_eq(change(old, "VVVV"), 0);
    assert_configuration(old, "VVVN");
    test_elect(c, 2);
    test_isolate(c, 1, false);
    test_cluster_tick(c, ELECTION_MIN);
    assert_configuration(old, "VVVL");
    ck_assert_uint_eq(test_status(old).counters->configurations_undone, 1);
    ck_assert_uint_eq(test_status(old).last.index, test_status(test_at(c, 2)).last.index);
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF1_after_a_restart_it_is_found_in_the_log)
{
    struct test_cluster *c = test_cluster_new(4, 3);

    test_elect(c, 1);
    change_fully(c, "VVVL");
    test_server_crash(test_at(c, 4));
    test_server_start(test_at(c, 4));
    assert_configuration(test_at(c, 4), "VVVL");
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF2_voters_change_through_a_joint_configuration)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);

    change_fully(c, "VVVL");
    test_isolate(c, 1, true);
    ck_assert_int_eq(change(leader, "VVLV"), 0);
    assert_configuration(leader, "VVDN");
    test_isolate(c, 1, false);
    test_cluster_tick(c, HEARTBEAT * 3);
    for (uint64_t id = 1; id <= 4; id++)
        assert_configuration(test_at(c, id), "VVLV");
    ck_assert_uint_eq(test_status(leader).counters->joint_entered, 1);
    ck_assert_uint_eq(test_status(leader).counters->joint_left, 1);
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF2_learners_change_in_one_step)
{
    struct test_cluster *c = test_cluster_new(5, 3);
    struct test_server *leader = test_elect(c, 1);

    ck_assert_int_eq(change(leader, "VVVLL"), 0);
    assert_configuration(leader, "VVVLL");
    test_cluster_tick(c, HEARTBEAT);
    ck_assert_int_eq(change(leader, "VVV"), 0);
    assert_configuration(leader, "VVV");
    ck_assert_uint_eq(test_status(leader).counters->joint_entered, 0);
    test_cluster_free(c);
}
END_TEST

// In the joint configuration of C_old = 1 2 3 and C_new = 1 4 5: who must agree?
START_TEST(CONF2_both_majorities_commit)
{
    static const struct {
        const char *acknowledge;
        bool commits;
    } cases[] = {{"45", false}, {"23", false}, {"24", true}, {"35", true}, {"2345", true}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct raft_configuration joint = {.count = 5,
                                           .members = {{1, RAFT_VOTER | RAFT_VOTER_OLD},
                                                       {2, RAFT_VOTER_OLD},
                                                       {3, RAFT_VOTER_OLD},
                                                       {4, RAFT_VOTER},
                                                       {5, RAFT_VOTER}}};
        struct test_server *s = malloc(sizeof(*s));

        test_server_init(s, 1, &joint);
        test_server_start(s);
        test_lead(s);
        for (const char *id = cases[i].acknowledge; *id; id++)
            test_acknowledge(s, (uint64_t)(*id - '0'), 1);
        ck_assert((test_status(s).commit >= 1) == cases[i].commits);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(CONF2_both_majorities_elect)
{
    struct raft_configuration joint = {.count = 5,
                                       .members = {{1, RAFT_VOTER | RAFT_VOTER_OLD},
                                                   {2, RAFT_VOTER_OLD},
                                                   {3, RAFT_VOTER_OLD},
                                                   {4, RAFT_VOTER},
                                                   {5, RAFT_VOTER}}};
    static const struct {
        const char *grant;
        bool elected;
    } cases[] = {{"23", false}, {"45", false}, {"24", true}, {"2345", true}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int pre = 0; pre < 2; pre++) {
            struct test_server *s = malloc(sizeof(*s));
            struct raft_message now = test_message(RAFT_MESSAGE_TIMEOUT_NOW, 2, 1, 1);

            test_server_init(s, 1, &joint);
            test_server_start(s);
            if (pre)
                raft_campaign(s->raft);
            else
                test_step(s, &now);
            test_server_run(s);
            uint64_t term = test_status(s).hard_state.term + (uint64_t)pre;
            for (const char *id = cases[i].grant; *id; id++) {
                struct raft_message grant =
                    test_message(pre ? RAFT_MESSAGE_PRE_VOTE_REPLY : RAFT_MESSAGE_VOTE_REPLY,
                                 (uint64_t)(*id - '0'), 1, term);
                grant.vote_reply.granted = true;
                test_step(s, &grant);
            }
            ck_assert((test_status(s).role == (pre ? RAFT_CANDIDATE : RAFT_LEADER)) ==
                      cases[i].elected);
            test_alone_free(s);
        }
    }
}
END_TEST

START_TEST(CONF2_reads_and_check_quorum_ask_both_majorities)
{
    static const struct {
        const char *alive;
        bool both;
    } cases[] = {{"45", false}, {"23", false}, {"25", true}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_cluster *c = test_cluster_new(5, 3);
        struct test_server *leader = test_elect(c, 1);

        change_fully(c, "VVVLL");
        // 2 and 3 don't acknowledge the joint configuration yet.
        test_isolate(c, 1, true);
        ck_assert_int_eq(change(leader, "V--VV"), 0);
        assert_configuration(leader, "VOONN");
        test_deliver(c);
        ck_assert_int_eq(raft_read_index(leader->raft, 7), 0);
        test_server_run(leader);
        uint64_t term = test_status(leader).hard_state.term;
        for (int t = 0; t < ELECTION_MIN * 3; t++) {
            test_tick(leader, 1);
            const struct raft_message *last = test_sent(leader, RAFT_MESSAGE_HEARTBEAT_REQUEST, 0);
            for (const char *id = cases[i].alive; last && *id; id++) {
                struct raft_message reply =
                    test_message(RAFT_MESSAGE_HEARTBEAT_REPLY, (uint64_t)(*id - '0'), 1, term);
                reply.heartbeat_reply.round = last->heartbeat_request.round;
                test_step(leader, &reply);
            }
        }
        ck_assert((test_status(leader).role == RAFT_LEADER) == cases[i].both);
        ck_assert_uint_eq(leader->read_count, 1);
        ck_assert_int_eq(leader->reads[0].result, cases[i].both ? 0 : RAFT_ERROR_NOT_LEADER);
        test_cluster_free(c);
    }
}
END_TEST

START_TEST(CONF3_not_before_an_entry_of_the_term_is_committed)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    ck_assert_int_eq(change(s, "VV"), RAFT_ERROR_NOT_READY);
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(change(s, "VV"), 0);
    test_alone_free(s);
}
END_TEST

START_TEST(CONF3_one_at_a_time)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(change(s, "VV"), 0);
    ck_assert_int_eq(change(s, "VVVL"), RAFT_ERROR_CHANGE_PENDING);
    test_acknowledge(s, 2, 2); // joint committed, left at once
    assert_configuration(s, "VV");
    ck_assert_int_eq(change(s, "VVL"), RAFT_ERROR_CHANGE_PENDING);
    test_acknowledge(s, 2, 3);
    ck_assert_int_eq(change(s, "VVL"), 0);
    ck_assert_int_eq(change(s, "VVLL"), RAFT_ERROR_CHANGE_PENDING);
    test_alone_free(s);
}
END_TEST

START_TEST(CONF3_only_by_the_leader)
{
    struct test_server *s = test_alone(1, 3);

    ck_assert_int_eq(change(s, "VV"), RAFT_ERROR_NOT_LEADER);
    test_alone_free(s);
}
END_TEST

START_TEST(CONF4_a_new_leader_leaves_a_joint_configuration)
{
    // The leader crashes with the joint configuration on every disk.
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);

    change_fully(c, "VVVL");
    ck_assert_int_eq(change(leader, "VVVV"), 0);
    for (size_t m = 0; m < leader->sent_count; m++) // the followers have it, the leader dies
        if (leader->sent[m]->message.type == RAFT_MESSAGE_APPEND_REQUEST)
            test_step(test_at(c, leader->sent[m]->message.to), &leader->sent[m]->message);
    test_server_crash(leader);
    c->cut[1][1] = true;
    for (uint64_t id = 2; id <= 4; id++)
        assert_configuration(test_at(c, id), "VVVN");
    test_cluster_tick(c, ELECTION_MAX * 5);
    ck_assert_ptr_nonnull(test_leader(c));
    for (uint64_t id = 2; id <= 4; id++)
        assert_configuration(test_at(c, id), "VVVV");
    test_server_start(leader); // and it comes back in the joint state
    test_cluster_tick(c, ELECTION_MAX);
    assert_configuration(leader, "VVVV");
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF5_a_removed_leader_leads_until_that_is_committed)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    // 3 is not there, so C_new = 2 3 needs both and is not committed.
    test_isolate(c, 3, true);
    ck_assert_int_eq(change(leader, "-VV"), 0);
    test_cluster_tick(c, HEARTBEAT);
    assert_configuration(leader, "OVV"); // C_new = 2 3 has no majority, so it stays joint
    c->cut[1][3] = c->cut[3][1] = false;
    test_cluster_tick(c, ELECTION_MIN);
    ck_assert_int_eq(test_status(leader).role, RAFT_FOLLOWER);
    ck_assert_uint_eq(test_status(leader).counters->stepped_down_removed, 1);
    assert_configuration(leader, "-VV");
    test_isolate(c, 3, false);
    test_cluster_tick(c, ELECTION_MAX * 2);
    ck_assert_ptr_nonnull(test_leader(c));
    ck_assert_ptr_ne(test_leader(c), leader);
    ck_assert_int_eq(test_propose(test_leader(c), "x"), 0);
    test_cluster_tick(c, HEARTBEAT);
    ck_assert(test_has_applied(test_leader(c), "x"));
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF5_a_removed_leader_does_not_count_itself)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(change(s, "-VV"), 0);
    test_acknowledge(s, 2, 2);
    test_acknowledge(s, 3, 2); // the joint one is committed
    assert_configuration(s, "-VV");
    ck_assert_uint_eq(test_status(s).last.index, 3);
    test_acknowledge(s, 2, 3);
    ck_assert_uint_eq(test_status(s).commit, 2); // 1 and 2 are no majority of 2 and 3
    ck_assert_int_eq(test_status(s).role, RAFT_LEADER);
    test_acknowledge(s, 3, 3);
    ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
    ck_assert_uint_eq(test_status(s).commit, 3);
    test_alone_free(s);
}
END_TEST

START_TEST(CONF6_new_voters_are_learners_that_have_caught_up)
{
    struct test_cluster *c = test_cluster_new(4, 3);
    struct test_server *leader = test_elect(c, 1);

    ck_assert_int_eq(change(leader, "VVVV"), RAFT_ERROR_NOT_CAUGHT_UP); // not even a learner
    test_isolate(c, 4, true);
    ck_assert_int_eq(change(leader, "VVVL"), 0);
    test_cluster_tick(c, ELECTION_MIN);
    ck_assert_int_eq(change(leader, "VVVV"), RAFT_ERROR_NOT_CAUGHT_UP);
    test_isolate(c, 4, false);
    test_cluster_tick(c, ELECTION_MIN);
    ck_assert(test_peer(leader, 4).caught_up);
    ck_assert_int_eq(change(leader, "VVVV"), 0);
    test_cluster_tick(c, HEARTBEAT * 2);
    assert_configuration(test_at(c, 4), "VVVV");
    test_cluster_free(c);
}
END_TEST

START_TEST(CONF6_learners_do_not_count)
{
    struct test_server *s = malloc(sizeof(*s));
    struct raft_configuration configuration = {.count = 5,
                                               .members = {{1, RAFT_VOTER},
                                                           {2, RAFT_VOTER},
                                                           {3, RAFT_VOTER},
                                                           {4, RAFT_LEARNER},
                                                           {5, RAFT_LEARNER}}};

    test_server_init(s, 1, &configuration);
    test_server_start(s);
    test_lead(s);
    test_acknowledge(s, 4, 1);
    test_acknowledge(s, 5, 1);
    ck_assert_uint_eq(test_status(s).commit, 0);
    test_acknowledge(s, 3, 1);
    ck_assert_uint_eq(test_status(s).commit, 1);
    ck_assert_ptr_null(test_sent(s, RAFT_MESSAGE_VOTE_REQUEST, 4));
    test_alone_free(s);
}
END_TEST

START_TEST(CONF7_learners_and_servers_outside_do_not_campaign)
{
    struct raft_configuration learner = {.count = 2,
                                         .members = {{1, RAFT_LEARNER}, {2, RAFT_VOTER}}};
    struct raft_configuration outside = {.count = 1, .members = {{2, RAFT_VOTER}}};
    const struct raft_configuration *cases[] = {&learner, &outside, NULL};

    for (int i = 0; i < 3; i++) {
        struct test_server *s = malloc(sizeof(*s));
        struct raft_message now = test_message(RAFT_MESSAGE_TIMEOUT_NOW, 2, 1, 1);

        test_server_init(s, 1, cases[i]);
        test_server_start(s);
        test_tick(s, ELECTION_MAX * 5);
        test_step(s, &now);
        ck_assert_uint_eq(s->sent_count, 0);
        ck_assert_int_eq(raft_campaign(s->raft), RAFT_ERROR_NOT_VOTER);
        test_alone_free(s);
    }
}
END_TEST

// A leader removes itself, leaves the joint configuration in its own log alone, and loses
// leadership. The other's log is shorter: without the removed server there would be no leader.
START_TEST(CONF7_a_removed_server_campaigns_until_its_removal_is_committed)
{
    struct test_cluster *c = test_cluster_new(2, 2);
    struct test_server *one = test_elect(c, 1), *two = test_at(c, 2);

    ck_assert_int_eq(change(one, "-V"), 0);
    test_deliver(c); // everything goes well
    test_cluster_tick(c, ELECTION_MAX * 2);
    ck_assert_ptr_eq(test_leader(c), two);
    test_cluster_free(c);

    c = test_cluster_new(2, 2);
    one = test_elect(c, 1);
    two = test_at(c, 2);
    ck_assert_int_eq(change(one, "-V"), 0);
    for (size_t m = 0; m < one->sent_count; m++)
        test_step(two, &one->sent[m]->message);
    test_sent_clear(one);
    for (size_t m = 0; m < two->sent_count; m++)
        test_step(one, &two->sent[m]->message);
    test_sent_clear(two);
    assert_configuration(one, "-V"); // the joint one is committed, and left; 2 doesn't know
    assert_configuration(two, "OV");
    test_sent_clear(one);
    test_server_crash(one);
    test_server_start(one);
    test_cluster_tick(c, ELECTION_MAX * 10);
    ck_assert_ptr_eq(test_leader(c), two);
    assert_configuration(two, "-V");
    // Now that it may know, it is quiet.
    uint64_t asked = test_status(one).counters->pre_elections;
    test_cluster_tick(c, ELECTION_MAX * 10);
    ck_assert_uint_le(test_status(one).counters->pre_elections, asked + 10);
    ck_assert_ptr_eq(test_leader(c), two);
    test_cluster_free(c);
}
END_TEST

// 1 asks 3 for its vote, so 3 votes in a configuration that only 1's log has, and 1 can't do
// without it. 3's log is longer and 2 doesn't campaign: the learner must lead, until a voter has
// all that it has.
START_TEST(CONF7_a_learner_campaigns_when_a_log_behind_its_own_needs_its_vote)
{
    static const uint64_t terms[] = {1, 2};
    struct raft_configuration founded = {
        .count = 3, .members = {{1, RAFT_VOTER}, {2, RAFT_VOTER}, {3, RAFT_LEARNER}}};

    for (int leader_comes = 0; leader_comes < 2; leader_comes++) {
        struct test_server *s = malloc(sizeof(*s));
        struct raft_message request = test_message(RAFT_MESSAGE_PRE_VOTE_REQUEST, 1, 3, 3);
        struct raft_message heartbeat = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 3, 3);

        test_server_init(s, 3, &founded);
        test_disk_fill(s, terms, 2, 2);
        test_server_start(s);
        request.vote_request.last = (struct raft_position){.index = 2, .term = 2};
        test_step(s, &request); // up-to-date: nothing is missed
        test_tick(s, ELECTION_MAX * 5);
        ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 0), 0);
        request.vote_request.last = (struct raft_position){.index = 2, .term = 1};
        test_step(s, &request);
        if (leader_comes) {
            test_step(s, &heartbeat);
            test_tick(s, ELECTION_MAX * 5);
            ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 0), 0);
            test_alone_free(s);
            continue;
        }
        test_tick(s, 1);
        ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_PRE_VOTE_REQUEST, 0), 2);
        for (int real = 0; real < 2; real++)
            for (uint64_t id = 1; id <= 2; id++) {
                struct raft_message reply = test_message(
                    real ? RAFT_MESSAGE_VOTE_REPLY : RAFT_MESSAGE_PRE_VOTE_REPLY, id, 3, 3);

                ck_assert_int_ne(test_status(s).role, RAFT_LEADER); // its own vote doesn't count
                reply.vote_reply.granted = true;
                test_step(s, &reply);
            }
        ck_assert_int_eq(test_status(s).role, RAFT_LEADER);
        for (uint64_t id = 1; id <= 2; id++) {
            struct raft_message reply = test_message(RAFT_MESSAGE_APPEND_REPLY, id, 3, 3);

            reply.append_reply.success = true;
            reply.append_reply.match = 3;
            test_step(s, &reply);
        }
        ck_assert_uint_eq(test_status(s).commit, 3);
        ck_assert_int_eq(test_status(s).role, RAFT_FOLLOWER);
        ck_assert_uint_eq(test_sent_number(s, RAFT_MESSAGE_TIMEOUT_NOW, 0), 1);
        test_alone_free(s);
    }
}
END_TEST

START_TEST(a_cluster_moves_to_entirely_other_servers)
{
    struct test_cluster *c = test_cluster_new(6, 3);

    test_elect(c, 1);
    ck_assert_int_eq(test_propose(test_leader(c), "before"), 0);
    change_fully(c, "VVVLLL");
    change_fully(c, "---VVV");
    test_cluster_tick(c, ELECTION_MAX * 3);
    struct test_server *leader = test_leader(c);
    ck_assert_ptr_nonnull(leader);
    ck_assert_uint_ge(leader->id, 4);
    for (uint64_t id = 1; id <= 3; id++)
        test_isolate(c, id, true);
    ck_assert_int_eq(test_propose(leader, "after"), 0);
    test_cluster_tick(c, HEARTBEAT);
    for (uint64_t id = 4; id <= 6; id++) {
        ck_assert(test_has_applied(test_at(c, id), "before"));
        ck_assert(test_has_applied(test_at(c, id), "after"));
    }
    test_cluster_free(c);
}
END_TEST

START_TEST(impossible_configurations_are_refused)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_member twice[] = {{1, RAFT_VOTER}, {1, RAFT_LEARNER}};
    struct raft_member nobody[] = {{RAFT_NONE, RAFT_VOTER}, {1, RAFT_VOTER}};
    struct raft_member roles[] = {{1, RAFT_VOTER}, {2, RAFT_VOTER_OLD}};
    struct raft_member many[RAFT_MEMBERS_MAX + 1];

    test_lead(s);
    test_acknowledge(s, 2, 1);
    for (uint64_t i = 0; i <= RAFT_MEMBERS_MAX; i++)
        many[i] = (struct raft_member){i + 1, i ? RAFT_LEARNER : RAFT_VOTER};
    ck_assert_int_eq(raft_propose_configuration(s->raft, twice, 2, NULL), RAFT_ERROR_CONFIGURATION);
    ck_assert_int_eq(raft_propose_configuration(s->raft, nobody, 2, NULL),
                     RAFT_ERROR_CONFIGURATION);
    ck_assert_int_eq(raft_propose_configuration(s->raft, roles, 2, NULL), RAFT_ERROR_CONFIGURATION);
    ck_assert_int_eq(raft_propose_configuration(s->raft, many, RAFT_MEMBERS_MAX + 1, NULL),
                     RAFT_ERROR_CONFIGURATION);
    ck_assert_int_eq(raft_propose_configuration(s->raft, NULL, 0, NULL), RAFT_ERROR_CONFIGURATION);
    ck_assert_int_eq(change(s, "LLL"), RAFT_ERROR_CONFIGURATION);
    assert_configuration(s, "VVV");
    test_alone_free(s);
}
END_TEST

// ---- Leadership transfer ----

START_TEST(TRANS1_the_target_is_brought_up_to_date_and_campaigns_at_once)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    test_isolate(c, 3, true);
    for (int i = 0; i < 5; i++)
        test_propose(leader, "x");
    test_deliver(c);
    test_isolate(c, 3, false);
    ck_assert_int_eq(raft_transfer_leadership(leader->raft, 3), 0);
    ck_assert_ptr_null(test_sent(leader, RAFT_MESSAGE_TIMEOUT_NOW, 0)); // it is behind
    test_cluster_tick(c, HEARTBEAT * 2);
    ck_assert_ptr_eq(test_leader(c), test_at(c, 3));
    ck_assert_uint_eq(test_status(test_at(c, 3)).counters->pre_elections, 0);
    test_cluster_free(c);
}
END_TEST

START_TEST(TRANS1_the_vote_requests_say_so)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message now = test_message(RAFT_MESSAGE_TIMEOUT_NOW, 2, 1, 1);

    test_step(s, &now);
    ck_assert_int_eq(test_status(s).role, RAFT_CANDIDATE);
    ck_assert(test_sent(s, RAFT_MESSAGE_VOTE_REQUEST, 2)->vote_request.transfer);
    ck_assert_uint_eq(test_sent(s, RAFT_MESSAGE_VOTE_REQUEST, 2)->term, 2);
    test_alone_free(s);
}
END_TEST

START_TEST(TRANS2_no_proposals_meanwhile)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(raft_transfer_leadership(s->raft, 3), 0);
    ck_assert_int_eq(test_propose(s, "x"), RAFT_ERROR_TRANSFERRING);
    ck_assert_int_eq(change(s, "VV"), RAFT_ERROR_TRANSFERRING);
    ck_assert_int_eq(raft_transfer_leadership(s->raft, 3), 0);
    ck_assert_int_eq(raft_transfer_leadership(s->raft, 2), RAFT_ERROR_TRANSFERRING);
    test_alone_free(s);
}
END_TEST

START_TEST(TRANS3_given_up_after_an_election_time_out)
{
    struct test_cluster *c = test_cluster_new(3, 3);
    struct test_server *leader = test_elect(c, 1);

    test_isolate(c, 3, true);
    ck_assert_int_eq(raft_transfer_leadership(leader->raft, 3), 0);
    test_cluster_tick(c, ELECTION_MIN - 1);
    ck_assert_int_eq(test_propose(leader, "x"), RAFT_ERROR_TRANSFERRING);
    test_cluster_tick(c, 1);
    ck_assert_int_eq(test_propose(leader, "x"), 0);
    ck_assert_uint_eq(test_status(leader).counters->transfers_abandoned, 1);
    test_cluster_free(c);
}
END_TEST

START_TEST(transfers_that_can_not_be_are_refused)
{
    struct test_server *s = test_alone(1, 3);

    ck_assert_int_eq(raft_transfer_leadership(s->raft, 2), RAFT_ERROR_NOT_LEADER);
    test_lead(s);
    ck_assert_int_eq(raft_transfer_leadership(s->raft, 1), -EINVAL);
    ck_assert_int_eq(raft_transfer_leadership(s->raft, 9), RAFT_ERROR_NOT_VOTER);
    test_alone_free(s);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, CONF1_the_latest_configuration_in_the_log_counts);
    tcase_add_test(tests, CONF1_a_truncation_brings_the_one_before_back);
    tcase_add_test(tests, CONF1_after_a_restart_it_is_found_in_the_log);
    tcase_add_test(tests, CONF2_voters_change_through_a_joint_configuration);
    tcase_add_test(tests, CONF2_learners_change_in_one_step);
    tcase_add_test(tests, CONF2_both_majorities_commit);
    tcase_add_test(tests, CONF2_both_majorities_elect);
    tcase_add_test(tests, CONF2_reads_and_check_quorum_ask_both_majorities);
    tcase_add_test(tests, CONF3_not_before_an_entry_of_the_term_is_committed);
    tcase_add_test(tests, CONF3_one_at_a_time);
    tcase_add_test(tests, CONF3_only_by_the_leader);
    tcase_add_test(tests, CONF4_a_new_leader_leaves_a_joint_configuration);
    tcase_add_test(tests, CONF5_a_removed_leader_leads_until_that_is_committed);
    tcase_add_test(tests, CONF5_a_removed_leader_does_not_count_itself);
    tcase_add_test(tests, CONF6_new_voters_are_learners_that_have_caught_up);
    tcase_add_test(tests, CONF6_learners_do_not_count);
    tcase_add_test(tests, CONF7_learners_and_servers_outside_do_not_campaign);
    tcase_add_test(tests, CONF7_a_removed_server_campaigns_until_its_removal_is_committed);
    tcase_add_test(tests, CONF7_a_learner_campaigns_when_a_log_behind_its_own_needs_its_vote);
    tcase_add_test(tests, a_cluster_moves_to_entirely_other_servers);
    tcase_add_test(tests, impossible_configurations_are_refused);
    tcase_add_test(tests, TRANS1_the_target_is_brought_up_to_date_and_campaigns_at_once);
    tcase_add_test(tests, TRANS1_the_vote_requests_say_so);
    tcase_add_test(tests, TRANS2_no_proposals_meanwhile);
    tcase_add_test(tests, TRANS3_given_up_after_an_election_time_out);
    tcase_add_test(tests, transfers_that_can_not_be_are_refused);
}

int main(void)
{
    return test_main("raft_membership", add);
}
