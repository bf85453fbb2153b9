// A whole migration without KVM: the real source and target over TCP, between machines that are
// fakes; connections are cut, late and full of garbage at each place.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/migrate/fake_sides.h"
#include "tests/unit/run_suite.h"

START_TEST(test_moves)
{
    struct target_side target;
    struct source_side source;
    reset_evidence();
    start_target(&target);
    run_source(&source, &target.params.listen, (unsigned)_i);
    check_moved(&source, &target);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// Every place where a connection can be lost. What must come out is in the table: the outcome isn't
// luck.
enum expected { GOES_ON, MOVES };
static const struct {
    const char *point;
    enum expected expected;
} cuts[] = {
    {"source-preparing", GOES_ON},     {"source-ready", GOES_ON},
    {"source-first-round", GOES_ON},   {"source-before-freeze", GOES_ON},
    {"source-frozen", GOES_ON},        {"source-state", GOES_ON},
    {"source-loaded", GOES_ON},        {"source-before-commit", GOES_ON},
    {"target-accepting", GOES_ON},     {"target-building", GOES_ON},
    {"target-round", GOES_ON},         {"target-state", GOES_ON},
    {"target-before-loaded", GOES_ON}, {"target-before-start", MOVES},
    {"target-locked", MOVES},          {"target-after-start", MOVES},
    {"target-started", MOVES},         {"source-started", MOVES},
    {"source-ended", MOVES},
};

START_TEST(test_cut)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:cut", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000); // the last ones come after the source's end
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    if (cuts[_i].expected == MOVES) {
        check_moved(&source, &target);
    } else {
        check_source_goes_on(&source);
        usleep(20000);
        ck_assert(!atomic_load(&target.started));
    }
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// At each of these places something comes late: it only takes longer.
START_TEST(test_delay)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:delay", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000);
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    check_moved(&source, &target);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// At each of these places a side sends what is no frame. Before COMMIT that ends the attempt; after
// it the question finds out what became of the machine. Behind LOADED it may come before or after
// COMMIT, so it is left out here.
START_TEST(test_garbage)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:garbage", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000);
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    if (cuts[_i].expected == MOVES) {
        check_moved(&source, &target);
    } else {
        check_source_goes_on(&source);
        usleep(20000);
        ck_assert(!atomic_load(&target.started));
    }
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// Cut when COMMIT is on its way, and when LOADED is: either outcome is right, but it must be one.
START_TEST(test_cut_either_way)
{
    static const char *const points[] = {"source-after-commit:cut",     "target-loaded:cut",
                                         "source-after-commit:garbage", "target-loaded:garbage",
                                         "source-after-commit:delay",   "target-loaded:delay"};
    struct target_side target;
    struct source_side source;
    reset_evidence();
    setenv("FERRY_FAILURE_POINT", points[_i], 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 1);
    if (source.result == 0)
        check_moved(&source, &target);
    else
        check_source_goes_on(&source);
    usleep(20000);
    ck_assert(atomic_load(&target.started) == (source.result == 0));
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// A target that doesn't answer the connection: a cancel isn't kept waiting by it.
static void cancel_soon(uv_timer_t *timer)
{
    struct source_side *side = timer->data;
    struct error err = {0};
    ck_assert_int_eq(migration_source_cancel(side->source, &err), 0);
    uv_close((uv_handle_t *)timer, NULL);
}

START_TEST(test_cancel_while_connecting)
{
    struct channel_address address;
    struct source_side source;
    uv_timer_t timer = {.data = &source};
    int listen_fd, others[4];
    reset_evidence();
    // With its queue full a listening socket answers nobody.
    listen_here(&address, &listen_fd);
    ck_assert_int_eq(listen(listen_fd, 0), 0);
    int seconds = 0;
    setsockopt(listen_fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds));
    for (int i = 0; i < 4; i++) {
        others[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(others[i], (struct sockaddr *)&address.address, address.length);
    }
    uint64_t start = clock_monotonic_ns();
    start_source(&source, &address, 1);
    uv_timer_init(&source.loop, &timer);
    uv_timer_start(&timer, cancel_soon, 50, 0);
    while (!source.done)
        uv_run(&source.loop, UV_RUN_ONCE);
    ck_assert_uint_lt(clock_monotonic_ns() - start, 15 * NSEC_PER_SEC);
    check_source_goes_on(&source);
    ck_assert_int_eq(source.result, -ECANCELED);
    end_source(&source);
    for (int i = 0; i < 4; i++)
        close(others[i]);
    close(listen_fd);
}
END_TEST

// A machine that is shut in has one socket for all its questions: it connects again after a refusal
// and after a connection that is still open.
START_TEST(test_given_socket_connects_again)
{
    struct channel_address address, nobody;
    struct channel channel;
    struct error err = {0};
    int listener, closed, given = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    listen_here(&address, &listener);
    listen_here(&nobody, &closed);
    close(closed);
    ck_assert_int_eq(channel_check_socket(given, &address, &err), 0);
    for (int i = 0; i < 6; i++) {
        bool refused = i % 3 == 0;
        ck_assert_int_eq(channel_renew_socket(given), 0);
        int rc = channel_connect(&channel, fcntl(given, F_DUPFD_CLOEXEC, 0),
                                 refused ? &nobody : &address, 10 * NSEC_PER_SEC, NULL, &err);
        ck_assert_int_eq(rc, refused ? -ECONNREFUSED : 0);
        if (rc == 0)
            ck_assert_int_eq(channel_send_frame(&channel, MIGRATE_COMMIT, NULL), 0);
        channel_close(&channel);
    }
    close(given);
    close(listener);
    given = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(channel_check_socket(given, &address, &err), -EINVAL);
    ck_assert_int_eq(channel_check_socket(STDIN_FILENO, &address, &err), -EINVAL);
    close(given);
}
END_TEST

// An interface has a number in what a machine is given: it can't look names up.
START_TEST(test_link_local_addresses)
{
    struct channel_address address;
    struct error err = {0};
    char text[sizeof(address.text)];
    ck_assert_int_eq(channel_address_parse_numeric("tcp://[fe80::1%7]:9", &address, &err), 0);
    ck_assert_uint_eq(((struct sockaddr_in6 *)&address.address)->sin6_scope_id, 7);
    static const char *const wrong[] = {"tcp://[fe80::1%lo]:9", "tcp://[fe80::1%]:9",
                                        "tcp://[fe80::1%0]:9", "tcp://[fe80::1%4294967296]:9",
                                        "tcp://[fe80::1%1%2]:9"};
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_int_eq(channel_address_parse_numeric(wrong[i], &address, &err), -EINVAL);
    // The command line takes names, and hands numbers on: the loopback interface is the first.
    ck_assert_int_eq(channel_address_parse("tls://[fe80::1%lo]:9", false, &address, &err), 0);
    channel_address_format(&address, text, sizeof(text));
    ck_assert_str_eq(text, "tls://[fe80::1%1]:9");
}
END_TEST

START_TEST(test_addresses)
{
    static const char *const wrong[] = {"",
                                        "tcp://",
                                        "tcp://1.2.3.4",
                                        "tcp://1.2.3.4:",
                                        "tcp://[::1:7",
                                        "udp://1.2.3.4:7",
                                        "tcp://localhost:7",
                                        "1.2.3.4:7"};
    static const char *const right[] = {"tcp://127.0.0.1:7", "tcp://[::1]:65535",
                                        "tcp://192.0.2.1:1"};
    struct channel_address address;
    struct error err = {0};
    char text[96];
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_int_lt(channel_address_parse_numeric(wrong[i], &address, &err), 0);
        ck_assert(err.message[0] != 0);
    }
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        ck_assert_int_eq(channel_address_parse_numeric(right[i], &address, &err), 0);
        channel_address_format(&address, text, sizeof(text));
        ck_assert_str_eq(text, right[i]);
        ck_assert(channel_address_is_loopback(&address) == (i < 2));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("migrate");
    TCase *tc = tcase_create("migrate");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_moves, 1, 5);
    tcase_add_loop_test(tc, test_cut, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_delay, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_garbage, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_cut_either_way, 0, 6);
    tcase_add_test(tc, test_addresses);
    tcase_add_test(tc, test_given_socket_connects_again);
    tcase_add_test(tc, test_link_local_addresses);
    tcase_add_test(tc, test_cancel_while_connecting);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
