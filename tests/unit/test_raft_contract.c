// Raft: its bounds, and the contract with its owner and its storage (cluster/raft/raft.h,
// storage.h).
#include "tests/unit/raft_cluster.h"

// Leader 2 of term 1 sends no-ops after `previous`.
static void append_noops(struct test_server *s, uint64_t previous, uint32_t count)
{
    struct raft_entry entries[8];
    struct raft_message message = test_message(RAFT_MESSAGE_APPEND_REQUEST, 2, 1, 1);

    for (uint32_t i = 0; i < count; i++)
        entries[i] =
            (struct raft_entry){.index = previous + 1 + i, .term = 1, .type = RAFT_ENTRY_NOOP};
    message.append_request.previous = (struct raft_position){previous, previous ? 1 : 0};
    message.append_request.entries = entries;
    message.append_request.entry_count = count;
    test_step(s, &message);
}

// ---- Bounds ----

START_TEST(bound_of_unapplied_bytes)
{
    struct test_server *s = test_alone_init(1, 3);
    char data[100] = "x";
    int accepted = 0;

    s->options.unapplied_bytes_max = 1000;
    test_server_start(s);
    test_lead(s);
    while (raft_propose(s->raft, data, sizeof(data), NULL) == 0)
        accepted++;
    ck_assert_int_eq(raft_propose(s->raft, data, sizeof(data), NULL), RAFT_ERROR_BUSY);
    ck_assert_int_eq(accepted, 6); // with 64 bytes for each entry
    test_server_run(s);
    test_acknowledge(s, 2, 1 + 3);
    ck_assert_int_eq(raft_propose(s->raft, data, sizeof(data), NULL), 0);
    test_alone_free(s);
}
END_TEST

START_TEST(bound_of_an_entry)
{
    struct test_server *s = test_alone_init(1, 1);
    char data[101] = "x";

    s->options.entry_bytes_max = 100;
    test_server_start(s);
    test_lead(s);
    ck_assert_int_eq(raft_propose(s->raft, data, 100, NULL), 0);
    ck_assert_int_eq(raft_propose(s->raft, data, 101, NULL), RAFT_ERROR_TOO_LARGE);
    test_alone_free(s);
}
END_TEST

START_TEST(bound_of_unwritten_bytes)
{
    struct test_server *s = test_alone_init(1, 3);

    s->options.unwritten_bytes_max = 300;
    test_server_start(s);
    s->held = true;
    append_noops(s, 0, 3);
    for (uint64_t i = 3; i < 20; i++)
        append_noops(s, i, 1);
    ck_assert_uint_le(test_status(s).unwritten_bytes, 300);
    ck_assert_uint_gt(test_status(s).counters->messages_dropped, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(bound_of_held_and_queued_messages)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_ready ready;

    s->held = true;
    append_noops(s, 0, 1);
    for (int i = 0; i < 5000; i++) {
        struct raft_message vote = test_message(RAFT_MESSAGE_VOTE_REQUEST, 2, 1, 1);
        struct raft_message old = test_message(RAFT_MESSAGE_PRE_VOTE_REQUEST, 3, 1, 1);

        raft_step(s->raft, &vote);
        raft_step(s->raft, &old);
    }
    test_disk_complete(s);
    for (int i = 0; i < 5000; i++) {
        struct raft_message old = test_message(RAFT_MESSAGE_PRE_VOTE_REQUEST, 3, 1, 1);

        raft_step(s->raft, &old);
    }
    ck_assert(raft_ready(s->raft, &ready));
    ck_assert_uint_le(ready.message_count, 512);
    raft_advance(s->raft);
    ck_assert_uint_gt(test_status(s).counters->messages_dropped, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(a_dead_follower_costs_a_window)
{
    struct test_server *s = test_alone(1, 3);

    test_lead(s);
    test_acknowledge(s, 2, 1);
    test_acknowledge(s, 3, 1);
    for (uint64_t i = 0; i < 1000; i++) {
        test_propose(s, "x");
        test_acknowledge(s, 2, i + 2);
        test_sent_clear(s);
    }
    ck_assert_uint_le(test_peer(s, 3).messages_in_flight, s->options.window_messages);
    ck_assert_uint_eq(test_status(s).unwritten_bytes, 0);
    test_alone_free(s);
}
END_TEST

// ---- The contract with the owner ----

START_TEST(nothing_is_done_while_a_ready_is_out)
{
    struct test_server *s = test_alone(1, 1);
    struct raft_message message = test_message(RAFT_MESSAGE_TIMEOUT_NOW, 2, 1, 1);
    struct raft_ready ready, second;

    ck_assert_int_eq(raft_campaign(s->raft), 0);
    ck_assert(raft_ready(s->raft, &ready));
    ck_assert(!raft_ready(s->raft, &second));
    ck_assert_int_eq(raft_step(s->raft, &message), -EBUSY);
    ck_assert_int_eq(raft_tick(s->raft), -EBUSY);
    ck_assert_int_eq(raft_propose(s->raft, "", 0, NULL), -EBUSY);
    ck_assert_int_eq(raft_read_index(s->raft, 1), -EBUSY);
    ck_assert_int_eq(raft_campaign(s->raft), -EBUSY);
    ck_assert_int_eq(raft_written(s->raft, ready.write->number), -EBUSY);
    uint64_t number = ready.write->number;
    test_disk_write(&s->disk, ready.write);
    raft_advance(s->raft);
    ck_assert_int_eq(raft_written(s->raft, number + 1), -EINVAL);
    ck_assert_int_eq(raft_written(s->raft, number), 0);
    ck_assert_int_eq(raft_written(s->raft, number), -EINVAL);
    test_alone_free(s);
}
END_TEST

START_TEST(a_storage_that_fails_stops_the_server)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_message heartbeat = test_message(RAFT_MESSAGE_HEARTBEAT_REQUEST, 2, 1, 9);
    struct raft_ready ready;

    test_lead(s);
    s->disk.read_error = -ENOMEM; // that may pass
    test_acknowledge(s, 2, 1);
    ck_assert_int_eq(test_status(s).failure, 0);
    ck_assert_uint_eq(s->applied_count, 0);
    s->disk.read_error = 0;
    test_server_run(s);
    ck_assert_uint_eq(s->applied_count, 1);
    test_propose(s, "x");
    s->disk.read_error = -EIO;
    test_acknowledge(s, 2, 2);
    ck_assert_int_eq(test_status(s).failure, -EIO);
    ck_assert(!raft_ready(s->raft, &ready));
    ck_assert_int_eq(raft_step(s->raft, &heartbeat), -EIO);
    ck_assert_int_eq(raft_tick(s->raft), -EIO);
    test_alone_free(s);
}
END_TEST

START_TEST(an_inconsistent_storage_is_refused)
{
    static const struct {
        uint64_t terms[4];
        size_t count;
        uint64_t term;
        uint64_t snapshot_index, snapshot_term;
    } cases[] = {
        {{1, 2}, 2, 1, 0, 0}, // an entry outran the hard state
        {{2, 1}, 2, 2, 0, 0}, // terms fall
        {{1, 1}, 2, 1, 5, 1}, // a snapshot of entries that are gone
        {{1, 1}, 2, 1, 1, 3}, // or of another log
        {{1, 1}, 2, UINT64_MAX, 0, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_server *s = test_alone_init(1, 3);

        test_disk_fill(s, cases[i].terms, cases[i].count, cases[i].term);
        s->disk.snapshot.last.index = cases[i].snapshot_index;
        s->disk.snapshot.last.term = cases[i].snapshot_term;
        ck_assert_int_eq(raft_create(&s->raft, &s->options), RAFT_ERROR_STORAGE);
        s->raft = NULL;
        test_alone_free(s);
    }
}
END_TEST

START_TEST(options_outside_their_ranges_are_refused)
{
    struct test_server *s = test_alone_init(1, 3);
    struct raft_options good = s->options;

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        s->options = good;                                                                         \
        s->options.field = value;                                                                  \
        ck_assert_int_eq(raft_create(&s->raft, &s->options), -EINVAL);                             \
    } while (0)
    REFUSED(id, RAFT_NONE);
    REFUSED(storage, NULL);
    REFUSED(random, NULL);
    REFUSED(heartbeat_ticks, 0);
    REFUSED(heartbeat_ticks, ELECTION_MIN);
    REFUSED(election_ticks_max, ELECTION_MIN - 1);
    REFUSED(message_entries_max, 0);
    REFUSED(message_entries_max, RAFT_MESSAGE_ENTRIES_MAX + 1);
    REFUSED(window_messages, 0);
    REFUSED(window_messages, 65);
    REFUSED(snapshot_chunk_bytes, 0);
    REFUSED(committed_entries_max, 0);
    REFUSED(reads_max, 0);
    s->raft = NULL;
    test_alone_free(s);
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, bound_of_unapplied_bytes);
    tcase_add_test(tests, bound_of_an_entry);
    tcase_add_test(tests, bound_of_unwritten_bytes);
    tcase_add_test(tests, bound_of_held_and_queued_messages);
    tcase_add_test(tests, a_dead_follower_costs_a_window);
    tcase_add_test(tests, nothing_is_done_while_a_ready_is_out);
    tcase_add_test(tests, a_storage_that_fails_stops_the_server);
    tcase_add_test(tests, an_inconsistent_storage_is_refused);
    tcase_add_test(tests, options_outside_their_ranges_are_refused);
}

int main(void)
{
    return test_main("raft_contract", add);
}
