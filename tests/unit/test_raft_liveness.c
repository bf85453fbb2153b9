// Raft: an adversary against elections. Fischer, Lynch and Paterson (1985) proved that no protocol
// can both be always safe and always decide if messages may take any time. Raft's way out is its
// randomised time-outs (paper, section 5.2; dissertation 9): an adversary that schedules everything
// but can't foresee the dice doesn't keep a leader from being elected for ever. One that can, does.
#include "tests/unit/raft_cluster.h"

// The adversary lets all servers' time-outs end at the same moment if it can, and delivers each
// server's vote requests only after every server has voted for itself: a split vote.
//
// Ticks are lock-step, so two servers that drew the same time-out split the vote. `elections` is
// how many terms it took until there was a leader, or `limit`.
static uint64_t rounds_until_elected(size_t count, uint64_t seed, bool dice, uint64_t limit)
{
    struct test_cluster *c = test_cluster_new(count, count);
    uint64_t rounds = 0;

    for (size_t i = 0; i < count; i++) {
        test_server_crash(&c->servers[i]);
        c->servers[i].stale_random = !dice;
        c->servers[i].seed = seed * 1000003 + i * 7919;
        test_server_start(&c->servers[i]);
    }
    while (rounds < limit && !test_leader(c)) {
        bool any = false;

        // Everybody's clock moves before anybody's messages do.
        for (size_t i = 0; i < count; i++)
            raft_tick(c->servers[i].raft);
        for (size_t i = 0; i < count; i++) {
            uint64_t before = c->servers[i].sent_count;

            test_server_run(&c->servers[i]);
            any |= c->servers[i].sent_count > before;
        }
        if (!any)
            continue;
        rounds++;
        // Pre-votes are all granted; then all who stand have voted for themselves before the first
        // request arrives, since what is sent is delivered a whole wave at a time.
        for (int wave = 0; wave < 8; wave++) {
            struct raft_message_decoded *batch[4096];
            uint8_t *bytes[4096];
            size_t size = 0;

            for (size_t i = 0; i < count; i++) {
                struct test_server *from = &c->servers[i];

                for (size_t m = 0; m < from->sent_count; m++) {
                    batch[size] = from->sent[m];
                    bytes[size++] = from->sent_bytes[m];
                }
                from->sent_count = 0;
            }
            for (size_t m = 0; m < size; m++) {
                test_step(test_at(c, batch[m]->message.to), &batch[m]->message);
                free(batch[m]);
                free(bytes[m]);
            }
        }
    }
    test_cluster_free(c);
    return rounds;
}

START_TEST(without_dice_the_adversary_wins_for_ever)
{
    ck_assert_uint_eq(rounds_until_elected(2, 1, false, 2000), 2000);
    ck_assert_uint_eq(rounds_until_elected(4, 1, false, 2000), 2000);
    ck_assert_uint_eq(rounds_until_elected(5, 1, false, 2000), 2000);
}
END_TEST

// Time-outs of 10 to 20 ticks: with 5 servers the first is alone with a chance of more than one
// half, so the number of rounds is bounded by a geometric distribution: 60 in a row is beyond any
// doubt.
START_TEST(with_dice_it_loses_soon)
{
    for (size_t count = 2; count <= 7; count++) {
        uint64_t sum = 0, worst = 0;

        for (uint64_t seed = 1; seed <= 200; seed++) {
            uint64_t rounds = rounds_until_elected(count, seed, true, 60);

            ck_assert_uint_lt(rounds, 60);
            sum += rounds;
            worst = rounds > worst ? rounds : worst;
        }
        ck_assert_uint_lt(sum, 200 * 6); // on average
        ck_assert_uint_gt(worst, 1);     // the adversary does split votes
    }
}
END_TEST

// An adversary that sees each leader at once and cuts it off: there is always another, as long as
// it leaves a majority connected between its attacks for as long as an election takes.
START_TEST(a_hunted_leader_is_replaced_each_time)
{
    struct test_cluster *c = test_cluster_new(5, 5);
    uint64_t term = 0;

    for (int hunt = 0; hunt < 60; hunt++) {
        int waited = 0;

        while (!test_leader(c) || test_status(test_leader(c)).hard_state.term <= term) {
            test_cluster_tick(c, 1);
            ck_assert_int_lt(++waited, ELECTION_MAX * 20);
        }
        struct test_server *leader = test_leader(c);
        term = test_status(leader).hard_state.term;
        for (uint64_t id = 1; id <= 5; id++)
            test_isolate(c, id, false);
        test_isolate(c, leader->id, true);
    }
    for (uint64_t id = 1; id <= 5; id++)
        test_isolate(c, id, false);
    test_cluster_tick(c, ELECTION_MAX * 10);
    ck_assert_int_eq(test_propose(test_leader(c), "x"), 0);
    test_cluster_tick(c, HEARTBEAT);
    ck_assert(test_has_applied(test_leader(c), "x"));
    test_cluster_free(c);
}
END_TEST

// A ring of partial partitions: everyone hears its two neighbours only. A server with both is three
// of five, so one can lead, but two others hear nothing of it. Their pre-votes find a majority that
// hears a leader, so they don't depose it again and again.
START_TEST(a_ring_keeps_one_leader_without_a_storm_of_terms)
{
    struct test_cluster *c = test_cluster_new(5, 5);

    test_elect(c, 1);
    uint64_t term = test_status(test_leader(c)).hard_state.term;
    for (uint64_t a = 1; a <= 5; a++)
        for (uint64_t b = 1; b <= 5; b++)
            c->cut[a][b] = a != b && (a % 5) + 1 != b && (b % 5) + 1 != a;
    test_cluster_tick(c, ELECTION_MAX * 100);
    uint64_t highest = 0;
    for (uint64_t id = 1; id <= 5; id++)
        if (test_status(test_at(c, id)).hard_state.term > highest)
            highest = test_status(test_at(c, id)).hard_state.term;
    ck_assert_uint_le(highest, term + 10);
    ck_assert_ptr_nonnull(test_leader(c));
    for (uint64_t a = 1; a <= 5; a++)
        for (uint64_t b = 1; b <= 5; b++)
            c->cut[a][b] = false;
    test_cluster_tick(c, ELECTION_MAX * 5);
    struct test_server *leader = test_leader(c);
    ck_assert_int_eq(test_propose(leader, "x"), 0);
    test_cluster_tick(c, HEARTBEAT * 2);
    for (uint64_t id = 1; id <= 5; id++)
        ck_assert(test_has_applied(test_at(c, id), "x"));
    test_cluster_free(c);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, without_dice_the_adversary_wins_for_ever);
    tcase_add_test(tests, with_dice_it_loses_soon);
    tcase_add_test(tests, a_hunted_leader_is_replaced_each_time);
    tcase_add_test(tests, a_ring_keeps_one_leader_without_a_storm_of_terms);
}

int main(void)
{
    return test_main("raft_liveness", add);
}
