// The client that never waits, against real members on the same loop.
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/member/member_internal.h"
#include "cluster/store/async.h"
#include "tests/unit/run_suite.h"

static uv_loop_t loop;
static char directory[64], data[96], peer[96], address[96];
static struct member *member;
static uint64_t history; // revisions that are kept; 0: all

static void remove_files(const char *path)
{
    char command[160];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    ck_assert_int_eq(system(command), 0);
}

static void member_up(void)
{
    struct member_options options;
    struct error err = {0};
    member_options_default(&options);
    options.directory = data;
    options.name = "one";
    options.listen_peer = peer;
    options.listen_client[0] = address;
    options.listen_client_count = 1;
    options.found = true;
    options.heartbeat_ns = 20 * NSEC_PER_MSEC;
    options.election_min_ns = 60 * NSEC_PER_MSEC;
    options.election_max_ns = 120 * NSEC_PER_MSEC;
    options.segment_bytes = 8 << 20;
    options.history = history;
    ck_assert_msg(member_start(&member, &loop, &options, &err) == 0, "%s", err.message);
}

// Only while nothing else keeps the loop alive for ever.
static void run_until_idle(void)
{
    while (uv_run(&loop, UV_RUN_DEFAULT))
        ;
}

static void setup(void)
{
    log_open(STDERR_FILENO, LOG_LEVEL_ERROR);
    signal(SIGPIPE, SIG_IGN);
    strcpy(directory, "/tmp/ferry-async.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(data, sizeof(data), "%s/data", directory);
    snprintf(peer, sizeof(peer), "unix:%s/peer", directory);
    snprintf(address, sizeof(address), "unix:%s/client", directory);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    member_up();
}

static void setup_forgetful(void)
{
    history = 20;
    setup();
}

static void member_down(void)
{
    member_stop(member);
}

static void teardown(void)
{
    if (member)
        member_stop(member);
    run_until_idle();
    member_free(member);
    member = NULL;
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    remove_files(directory);
}

static struct store_async *client_of(const char *addresses, uint64_t timeout)
{
    struct store_async_options options = {.addresses = addresses, .timeout_ns = timeout};
    struct store_async *async;
    struct error err = {0};
    ck_assert_msg(store_async_create(&async, &loop, &options, &err) == 0, "%s", err.message);
    return async;
}

// Runs the loop until `*what` is at least `least`.
static void run_until(const unsigned *what, unsigned least)
{
    uint64_t limit = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
    while (*what < least) {
        ck_assert_msg(clock_monotonic_ns() < limit, "%u of %u after a minute", *what, least);
        uv_run(&loop, UV_RUN_ONCE);
    }
}

struct outcome {
    unsigned calls;
    enum store_status status;
    uint64_t revision, lease, ttl;
    bool succeeded;
    char value[32];
};

static void done(void *context, const struct store_result *result)
{
    struct outcome *outcome = context;
    outcome->calls++;
    outcome->status = result->status;
    outcome->revision = result->revision;
    outcome->succeeded = result->succeeded;
    if (result->status == STORE_OK && result->op_count && result->ops[0].key_value_count)
        snprintf(outcome->value, sizeof(outcome->value), "%.*s",
                 (int)result->ops[0].key_values[0].value.length,
                 (const char *)result->ops[0].key_values[0].value.data);
}

static void lease_done(void *context, enum store_status status, uint64_t lease, uint64_t ttl)
{
    struct outcome *outcome = context;
    outcome->calls++;
    outcome->status = status;
    outcome->lease = lease;
    outcome->ttl = ttl;
}

static enum store_status put(struct store_async *async, const char *key, const char *value,
                             uint64_t lease, struct outcome *outcome)
{
    struct store_op op = {
        .kind = STORE_PUT, .key = store_string(key), .value = store_string(value), .lease = lease};
    struct store_txn txn = {.then = &op, .then_count = 1};
    return store_async_txn(async, &txn, false, done, outcome);
}

static enum store_status get(struct store_async *async, const char *key, struct outcome *outcome)
{
    struct store_op op = {.kind = STORE_RANGE, .key = store_string(key)};
    struct store_txn txn = {.then = &op, .then_count = 1};
    return store_async_txn(async, &txn, false, done, outcome);
}

START_TEST(test_writes_and_reads)
{
    struct outcome a = {0}, b = {0}, c = {0};
    struct store_async *async = client_of(address, 0);
    ck_assert_int_eq(put(async, "key", "value", 0, &a), STORE_OK);
    ck_assert_uint_eq(a.calls, 0); // never from within the call
    run_until(&a.calls, 1);
    ck_assert_int_eq(a.status, STORE_OK);
    ck_assert_int_eq(get(async, "key", &b), STORE_OK);
    run_until(&b.calls, 1);
    ck_assert_str_eq(b.value, "value");
    struct store_compare compare = {
        .target = STORE_VERSION, .relation = STORE_EQUAL, .key = store_string("key")};
    struct store_op op = {.kind = STORE_PUT, .key = store_string("key")};
    struct store_txn txn = {.compares = &compare, .compare_count = 1, .then = &op, .then_count = 1};
    ck_assert_int_eq(store_async_txn(async, &txn, false, done, &c), STORE_OK);
    run_until(&c.calls, 1);
    ck_assert_int_eq(c.status, STORE_OK);
    ck_assert(!c.succeeded); // it is there: its version isn't zero
    store_async_destroy(async);
}
END_TEST

START_TEST(test_refused_at_once)
{
    struct outcome outcome = {0};
    struct store_async *async = client_of(address, 0);
    ck_assert_int_eq(put(async, "", "no key", 0, &outcome), STORE_INVALID);
    struct store_op ops[2] = {{.kind = STORE_PUT, .key = store_string("a")},
                              {.kind = STORE_PUT, .key = store_string("a")}};
    struct store_txn txn = {.then = ops, .then_count = 2};
    ck_assert_int_eq(store_async_txn(async, &txn, false, done, &outcome), STORE_DUPLICATE_KEY);
    ck_assert_int_eq(store_async_grant(async, 0, 0, lease_done, &outcome), STORE_INVALID);
    ck_assert_int_eq(put(async, "key", "value", 77, &outcome), STORE_OK); // only a member knows
    run_until(&outcome.calls, 1);
    ck_assert_int_eq(outcome.status, STORE_LEASE_NOT_FOUND);
    ck_assert_uint_eq(outcome.calls, 1);
    store_async_destroy(async);
}
END_TEST

START_TEST(test_many_at_once)
{
    enum { MANY = 3000 }; // more than a member takes of one client at a time
    static struct outcome outcomes[MANY];
    struct store_async *async = client_of(address, 0);
    memset(outcomes, 0, sizeof(outcomes));
    for (unsigned i = 0; i < MANY; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key%u", i);
        ck_assert_int_eq(put(async, key, key, 0, &outcomes[i]), STORE_OK);
    }
    for (unsigned i = 0; i < MANY; i++)
        run_until(&outcomes[i].calls, 1);
    for (unsigned i = 0; i < MANY; i++) {
        ck_assert_uint_eq(outcomes[i].calls, 1);
        ck_assert_int_eq(outcomes[i].status, STORE_OK);
    }
    store_async_destroy(async);
}
END_TEST

START_TEST(test_leases)
{
    struct outcome a = {0}, b = {0}, c = {0}, d = {0}, e = {0};
    struct store_async *async = client_of(address, 0);
    ck_assert_int_eq(store_async_grant(async, 0, 60, lease_done, &a), STORE_OK);
    run_until(&a.calls, 1);
    ck_assert_int_eq(a.status, STORE_OK);
    ck_assert_uint_eq(a.ttl, 60);
    ck_assert_uint_ne(a.lease, 0);
    put(async, "leased", "here", a.lease, &b);
    run_until(&b.calls, 1);
    ck_assert_int_eq(b.status, STORE_OK);
    store_async_renew(async, a.lease, lease_done, &c);
    run_until(&c.calls, 1);
    ck_assert_int_eq(c.status, STORE_OK);
    ck_assert_uint_eq(c.ttl, 60);
    store_async_revoke(async, a.lease, lease_done, &d);
    run_until(&d.calls, 1);
    get(async, "leased", &e);
    run_until(&e.calls, 1);
    ck_assert_str_eq(e.value, "");
    store_async_renew(async, a.lease, lease_done, &c);
    run_until(&c.calls, 2);
    ck_assert_int_eq(c.status, STORE_LEASE_NOT_FOUND);
    store_async_destroy(async);
}
END_TEST

// Renewed every tenth of a second a lease of three seconds lives on, and the log holds nothing of
// it; not renewed, it goes, and its key with it.
START_TEST(test_renewals_keep_a_lease_without_a_log)
{
    struct outcome granted = {0}, written = {0}, renewed = {0}, read = {0};
    struct store_async *async = client_of(address, 0);
    uint64_t end = clock_monotonic_ns() + 4 * NSEC_PER_SEC;
    unsigned count = 0;
    store_async_grant(async, 0, 3, lease_done, &granted);
    run_until(&granted.calls, 1);
    put(async, "leased", "here", granted.lease, &written);
    run_until(&written.calls, 1);
    uint64_t applied = member->machine->applied;
    while (clock_monotonic_ns() < end) {
        store_async_renew(async, granted.lease, lease_done, &renewed);
        run_until(&renewed.calls, ++count);
        ck_assert_int_eq(renewed.status, STORE_OK);
        uint64_t next = clock_monotonic_ns() + 100 * NSEC_PER_MSEC;
        while (clock_monotonic_ns() < next)
            uv_run(&loop, UV_RUN_ONCE);
    }
    ck_assert_uint_eq(member->machine->applied, applied);
    get(async, "leased", &read);
    run_until(&read.calls, 1);
    ck_assert_str_eq(read.value, "here");
    while (member->machine->lease_count)
        uv_run(&loop, UV_RUN_ONCE);
    store_async_renew(async, granted.lease, lease_done, &renewed);
    run_until(&renewed.calls, ++count);
    ck_assert_int_eq(renewed.status, STORE_LEASE_NOT_FOUND);
    store_async_destroy(async);
}
END_TEST

// A renewal that comes when the end of its lease is in the log already waits for what becomes of
// it.
START_TEST(test_renewal_of_a_lease_that_is_ending)
{
    struct outcome granted = {0}, renewed = {0};
    struct store_async *async = client_of(address, 0);
    store_async_grant(async, 0, 60, lease_done, &granted);
    run_until(&granted.calls, 1);
    struct store_lease *lease = store_machine_lease(member->machine, granted.lease);
    lease->expiring = true; // as when its end was proposed
    store_async_renew(async, granted.lease, lease_done, &renewed);
    uint64_t until = clock_monotonic_ns() + 300 * NSEC_PER_MSEC;
    while (clock_monotonic_ns() < until)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_uint_eq(renewed.calls, 0);
    lease->expiring = false; // it didn't get there
    run_until(&renewed.calls, 1);
    ck_assert_int_eq(renewed.status, STORE_OK);
    store_async_destroy(async);
}
END_TEST

// --- Watches
// ----------------------------------------------------------------------------------------

struct seen {
    unsigned events, ended;
    uint64_t revision, oldest;
    enum store_status status;
    char last[32];
    bool wrong;
};

static void on_events(void *context, uint64_t revision, const struct store_event *events,
                      size_t count)
{
    struct seen *seen = context;
    for (size_t i = 0; i < count; i++) {
        const struct store_key_value *kv = &events[i].key_value;
        seen->wrong = seen->wrong || kv->mod_revision < seen->revision ||
                      kv->mod_revision > revision || events[i].kind != STORE_PUT;
        seen->revision = kv->mod_revision;
        snprintf(seen->last, sizeof(seen->last), "%.*s", (int)kv->value.length,
                 (const char *)kv->value.data);
    }
    seen->wrong = seen->wrong || seen->revision > revision;
    seen->events += (unsigned)count;
}

static void on_end(void *context, enum store_status status, uint64_t oldest)
{
    struct seen *seen = context;
    seen->ended++;
    seen->status = status;
    seen->oldest = oldest;
}

static const struct store_watch_callbacks watch_callbacks = {.events = on_events, .ended = on_end};

static void put_many(struct store_async *async, unsigned from, unsigned to)
{
    struct outcome outcome = {0};
    for (unsigned i = from; i < to; i++) {
        char value[16];
        snprintf(value, sizeof(value), "%u", i);
        ck_assert_int_eq(put(async, "watched/key", value, 0, &outcome), STORE_OK);
        run_until(&outcome.calls, i - from + 1);
        ck_assert_int_eq(outcome.status, STORE_OK);
    }
}

START_TEST(test_watch_goes_on_after_a_restart)
{
    struct seen seen = {0};
    struct store_async *async = client_of(address, 30 * NSEC_PER_SEC);
    struct store_watch *watch =
        store_async_watch(async, store_string("watched/"), STORE_UNTIL, store_string("watched0"), 1,
                          &watch_callbacks, &seen);
    ck_assert_ptr_nonnull(watch);
    put_many(async, 0, 20);
    run_until(&seen.events, 20);
    for (int round = 0; round < 3; round++) {
        struct store_async_status status;
        member_down();
        store_async_inspect(async, &status);
        while (status.connected) {
            uv_run(&loop, UV_RUN_ONCE);
            store_async_inspect(async, &status);
        }
        for (int i = 0; i < 200; i++) // its handles close
            uv_run(&loop, UV_RUN_NOWAIT);
        member_free(member);
        member_up();
        put_many(async, 20 + 10 * (unsigned)round, 30 + 10 * (unsigned)round);
        run_until(&seen.events, 30 + 10 * (unsigned)round);
    }
    ck_assert_uint_eq(seen.events, 50);
    ck_assert_str_eq(seen.last, "49");
    ck_assert(!seen.wrong);
    ck_assert_uint_eq(seen.ended, 0);
    store_async_unwatch(watch);
    put_many(async, 50, 52);
    ck_assert_uint_eq(seen.events, 50);
    store_async_destroy(async);
}
END_TEST

START_TEST(test_watch_from_now)
{
    struct seen seen = {0};
    struct outcome outcome = {0};
    struct store_async *async = client_of(address, 0);
    put_many(async, 0, 10);
    store_async_watch(async, store_string("watched/"), STORE_REST, (struct store_bytes){0}, 0,
                      &watch_callbacks, &seen);
    get(async, "watched/key", &outcome); // answered after the watch has begun
    run_until(&outcome.calls, 1);
    put_many(async, 10, 11);
    run_until(&seen.events, 1);
    ck_assert_str_eq(seen.last, "10");
    ck_assert_uint_eq(seen.events, 1);
    store_async_destroy(async);
}
END_TEST

START_TEST(test_watch_of_what_was_compacted)
{
    struct seen seen = {0};
    struct store_async *async = client_of(address, 0);
    uint64_t limit = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
    put_many(async, 0, 60);
    while (!seen.ended && clock_monotonic_ns() < limit) { // compaction comes with some later tick
        put_many(async, 0, 1);
        memset(&seen, 0, sizeof(seen));
        struct store_watch *watch =
            store_async_watch(async, store_string("watched/"), STORE_REST, (struct store_bytes){0},
                              1, &watch_callbacks, &seen);
        while (!seen.ended && !seen.events)
            uv_run(&loop, UV_RUN_ONCE);
        if (!seen.ended)
            store_async_unwatch(watch);
    }
    ck_assert_uint_eq(seen.ended, 1);
    ck_assert_int_eq(seen.status, STORE_COMPACTED);
    ck_assert_uint_gt(seen.oldest, 1);
    // From there on everything can be had.
    struct seen again = {0};
    store_async_watch(async, store_string("watched/"), STORE_REST, (struct store_bytes){0},
                      seen.oldest, &watch_callbacks, &again);
    run_until(&again.events, 1);
    ck_assert(!again.wrong && !again.ended);
    store_async_destroy(async);
}
END_TEST

// --- Members that aren't there, or don't answer
// ---------------------------------------------------------

static unsigned accepted;
static uv_pipe_t silent_connections[64];

static void accept_silently(uv_stream_t *listener, int status)
{
    uv_pipe_init(&loop, &silent_connections[accepted], 0);
    uv_accept(listener, (uv_stream_t *)&silent_connections[accepted]);
    accepted++;
}

static void close_silent(uv_pipe_t *listener)
{
    uv_close((uv_handle_t *)listener, NULL);
    while (accepted)
        uv_close((uv_handle_t *)&silent_connections[--accepted], NULL);
}

static void listen_silently(uv_pipe_t *listener, char where[128])
{
    char path[112];
    snprintf(path, sizeof(path), "%s/silent", directory);
    snprintf(where, 128, "unix:%s", path);
    uv_pipe_init(&loop, listener, 0);
    ck_assert_int_eq(uv_pipe_bind(listener, path), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)listener, 8, accept_silently), 0);
}

START_TEST(test_nobody_there)
{
    char nowhere[128];
    struct outcome outcome = {0};
    snprintf(nowhere, sizeof(nowhere), "unix:%s/nowhere", directory);
    struct store_async *async = client_of(nowhere, 300 * NSEC_PER_MSEC);
    put(async, "key", "value", 0, &outcome);
    run_until(&outcome.calls, 1);
    ck_assert_int_eq(outcome.status, STORE_NO_LEADER); // it was not done
    store_async_destroy(async);
}
END_TEST

START_TEST(test_no_answer)
{
    char silent[128];
    static uv_pipe_t listener;
    struct outcome write = {0};
    listen_silently(&listener, silent);
    struct store_async *async = client_of(silent, 500 * NSEC_PER_MSEC);
    put(async, "key", "value", 0, &write);
    run_until(&write.calls, 1);
    ck_assert_int_eq(write.status, STORE_UNKNOWN);
    store_async_destroy(async);
    close_silent(&listener);
}
END_TEST

// Who hangs is left for the next one: reads are asked there, what was written is unknown.
START_TEST(test_a_member_that_hangs_is_left)
{
    char silent[128], both[256];
    static uv_pipe_t listener;
    struct outcome first = {0}, write = {0}, read = {0};
    struct seen seen = {0};
    struct store_async *direct = client_of(address, 0);
    put(direct, "key", "value", 0, &first);
    run_until(&first.calls, 1);
    listen_silently(&listener, silent);
    snprintf(both, sizeof(both), "%s,%s", silent, address);
    struct store_async *async = client_of(both, 30 * NSEC_PER_SEC);
    put(async, "other", "value", 0, &write);
    get(async, "key", &read);
    store_async_watch(async, store_string("key"), STORE_ONE, (struct store_bytes){0}, 1,
                      &watch_callbacks, &seen);
    run_until(&write.calls, 1);
    ck_assert_int_eq(write.status, STORE_UNKNOWN);
    run_until(&read.calls, 1);
    ck_assert_int_eq(read.status, STORE_OK);
    ck_assert_str_eq(read.value, "value");
    run_until(&seen.events, 1);
    store_async_destroy(async);
    store_async_destroy(direct);
    close_silent(&listener);
}
END_TEST

// --- Ending
// -----------------------------------------------------------------------------------------

START_TEST(test_destroyed_with_requests_under_way)
{
    struct outcome outcome = {0};
    struct seen seen = {0};
    struct store_async *async = client_of(address, 0);
    for (int i = 0; i < 50; i++)
        put(async, "key", "value", 0, &outcome);
    store_async_watch(async, store_string("k"), STORE_REST, (struct store_bytes){0}, 1,
                      &watch_callbacks, &seen);
    for (int i = 0; i < 5; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    unsigned calls = outcome.calls;
    store_async_destroy(async);
    for (int i = 0; i < 200; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_uint_eq(outcome.calls, calls);
}
END_TEST

struct destroyer {
    struct store_async *async;
    unsigned calls;
};

static void destroy_it(void *context, const struct store_result *result)
{
    struct destroyer *destroyer = context;
    if (destroyer->calls++ == 0)
        store_async_destroy(destroyer->async);
}

START_TEST(test_destroyed_by_a_callback)
{
    struct destroyer destroyer = {.async = client_of(address, 0)};
    struct store_op op = {.kind = STORE_PUT, .key = store_string("key")};
    struct store_txn txn = {.then = &op, .then_count = 1};
    for (int i = 0; i < 20; i++)
        store_async_txn(destroyer.async, &txn, false, destroy_it, &destroyer);
    run_until(&destroyer.calls, 1);
    for (int i = 0; i < 200; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_uint_eq(destroyer.calls, 1);
}
END_TEST

START_TEST(test_addresses)
{
    struct store_async_options options = {.addresses = ""};
    struct store_async *async;
    struct error err = {0};
    ck_assert_int_eq(store_async_create(&async, &loop, &options, &err), -EINVAL);
    options.addresses = "a:1,,b:2";
    ck_assert_int_eq(store_async_create(&async, &loop, &options, &err), -EINVAL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_async");
    TCase *tests = tcase_create("store_async");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, test_writes_and_reads);
    tcase_add_test(tests, test_refused_at_once);
    tcase_add_test(tests, test_many_at_once);
    tcase_add_test(tests, test_leases);
    tcase_add_test(tests, test_renewals_keep_a_lease_without_a_log);
    tcase_add_test(tests, test_renewal_of_a_lease_that_is_ending);
    tcase_add_test(tests, test_watch_goes_on_after_a_restart);
    tcase_add_test(tests, test_watch_from_now);
    tcase_add_test(tests, test_nobody_there);
    tcase_add_test(tests, test_no_answer);
    tcase_add_test(tests, test_a_member_that_hangs_is_left);
    tcase_add_test(tests, test_destroyed_with_requests_under_way);
    tcase_add_test(tests, test_destroyed_by_a_callback);
    tcase_add_test(tests, test_addresses);
    suite_add_tcase(suite, tests);
    TCase *forgetful = tcase_create("forgetful");
    tcase_set_timeout(forgetful, 120);
    tcase_add_checked_fixture(forgetful, setup_forgetful, teardown);
    tcase_add_test(forgetful, test_watch_of_what_was_compacted);
    suite_add_tcase(suite, forgetful);
    return run_suite(suite);
}
