// The control protocol's transport with methods made of this test.
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/control_client.h"
#include "base/control_server.h"
#include "tests/unit/control_peer.h"
#include "tests/unit/run_suite.h"

// ---- a server with methods of this test ----

static struct control_server *server;
static struct control_request *kept[200];
static unsigned kept_count;

static void echo(void *opaque, struct control_request *request, json_t *params)
{
    control_request_reply(request, json_incref(params));
}

static void keep(void *opaque, struct control_request *request, json_t *params)
{
    kept[kept_count++] = request;
}

// Answers with what the descriptors' files contain, in the order of their naming.
static void read_fds(void *opaque, struct control_request *request, json_t *params)
{
    json_t *texts = json_array(), *value;
    size_t i;
    json_array_foreach(json_object_get(params, "files"), i, value)
    {
        struct error why = {0};
        char text[32] = "";
        int fd = control_request_take_fd(request, value, &why);
        if (fd < 0) {
            json_decref(texts);
            control_request_fail_error(request, &why);
            return;
        }
        if (read(fd, text, sizeof(text) - 1) < 0)
            strcpy(text, "?");
        close(fd);
        json_array_append_new(texts, json_string(text));
    }
    control_request_reply(request, json_pack("{s:o}", "texts", texts));
}

static void huge(void *opaque, struct control_request *request, json_t *params)
{
    char *text = malloc(CONTROL_LINE_LIMIT + 1);
    memset(text, 'x', CONTROL_LINE_LIMIT);
    text[CONTROL_LINE_LIMIT] = 0;
    control_request_reply(request, json_pack("{s:s}", "text", text));
    free(text);
}

static const struct control_method methods[] = {
    {"echo", echo}, {"keep", keep}, {"read", read_fds}, {"huge", huge}, {NULL, NULL},
};
static const char *const features[] = {"one", "two", NULL};
static const struct control_service service = {methods, features, NULL, NULL};

static void set_up_server(void)
{
    kept_count = 0;
    uv_loop_init(&control_place.loop);
    ck_assert_int_eq(control_server_create(&server, &control_place.loop, listen_here(), &service,
                                           &control_place.err),
                     0);
}

static void tear_down_server(void)
{
    control_server_destroy(server);
    leave_place();
}

// ---- the transport ----

START_TEST(hello_comes_first)
{
    int fd = join();
    expect_line(fd, "{\"hello\": {\"protocol\": \"1.0\", \"server\": \"ferry " FERRY_VERSION
                    "\", \"features\": [\"one\", \"two\"]}}");
    send_text(fd, "{\"id\": 1, \"method\": \"hello\"}\n");
    expect_line(fd,
                "{\"id\": 1, \"result\": {\"protocol\": \"1.0\", \"server\": \"ferry " FERRY_VERSION
                "\", \"features\": [\"one\", \"two\"]}}");
    close(fd);
}
END_TEST

START_TEST(answers_carry_the_id)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 7, \"method\": \"echo\", \"params\": {\"a\": [1, \"\\u00e4\"]}}\n");
    expect_line(fd, "{\"id\": 7, \"result\": {\"a\": [1, \"\\u00e4\"]}}");
    send_text(fd, "{\"id\": \"x\", \"method\": \"echo\", \"unknown\": 1}\r\n\n");
    expect_line(fd, "{\"id\": \"x\", \"result\": {}}");
    send_text(fd, "{\"method\": \"echo\"}\n");
    expect_line(fd, "{\"id\": null, \"result\": {}}");
    close(fd);
}
END_TEST

START_TEST(pieces_and_many_at_once)
{
    int fd = join_past_hello();
    const char *text = "{\"id\": 1, \"method\": \"echo\"}\n";
    for (const char *c = text; *c; c++)
        send_text(fd, (char[2]){*c, 0});
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    send_text(fd, "{\"id\": 1, \"method\": \"echo\"}\n{\"id\": 2, \"method\": \"echo\"}\n{\"id\"");
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    expect_line(fd, "{\"id\": 2, \"result\": {}}");
    send_text(fd, ": 3, \"method\": \"echo\"}\n");
    expect_line(fd, "{\"id\": 3, \"result\": {}}");
    close(fd);
}
END_TEST

static const struct {
    const char *line, *id, *code;
} bad_lines[] = {
    {"garbage\n", "null", "parse-error"},
    {"{\"id\": 1\n", "null", "parse-error"},
    {"{\"a\": 1, \"a\": 2}\n", "null", "parse-error"},
    {"\xff\xfe\n", "null", "parse-error"},
    {"[1, 2]\n", "null", "invalid-request"},
    {"17\n", "null", "invalid-request"},
    {"{}\n", "null", "invalid-request"},
    {"{\"id\": 3}\n", "3", "invalid-request"},
    {"{\"id\": 3, \"method\": 5}\n", "3", "invalid-request"},
    {"{\"id\": 3, \"method\": \"echo\", \"params\": []}\n", "3", "invalid-request"},
    {"{\"id\": {}, \"method\": \"echo\"}\n", "null", "invalid-request"},
    {"{\"id\": 3, \"method\": \"nope\"}\n", "3", "unknown-method"},
    {"{\"id\": 3, \"method\": \"huge\"}\n", "3", "too-large"},
};

START_TEST(bad_lines_are_answered_and_survived)
{
    int fd = join_past_hello(), other = join_past_hello();
    send_text(fd, bad_lines[_i].line);
    expect_error(fd, bad_lines[_i].id, bad_lines[_i].code);
    send_text(fd, "{\"id\": 9, \"method\": \"echo\"}\n");
    expect_line(fd, "{\"id\": 9, \"result\": {}}");
    send_text(other, "{\"id\": 9, \"method\": \"echo\"}\n");
    expect_line(other, "{\"id\": 9, \"result\": {}}");
    close(fd);
    close(other);
}
END_TEST

static void send_block(int fd, size_t length, char c)
{
    static char block[65536];
    memset(block, c, sizeof(block));
    while (length) {
        ssize_t n = send(fd, block, length < sizeof(block) ? length : sizeof(block), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return;
        length -= n > 0 ? (size_t)n : 0;
        run_loop();
    }
}

START_TEST(lines_up_to_a_limit)
{
    int fd = join_past_hello();
    const char *start = "{\"id\": 1, \"method\": \"echo\", \"padding\": \"", *end = "\"}";
    send_text(fd, start);
    send_block(fd, CONTROL_LINE_LIMIT - strlen(start) - strlen(end), 'x');
    send_text(fd, end);
    send_text(fd, "\n");
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    send_block(fd, CONTROL_LINE_LIMIT + 1, 'x');
    expect_error(fd, "null", "too-large");
    ck_assert(is_closed(fd));
    close(fd);
    // With its newline at hand it is too long all the same.
    fd = join_past_hello();
    send_block(fd, CONTROL_LINE_LIMIT, ' ');
    send_text(fd, " \n");
    expect_error(fd, "null", "too-large");
    ck_assert(is_closed(fd));
    close(fd);
}
END_TEST

START_TEST(answers_may_come_later_and_in_any_order)
{
    int fd = join_past_hello(), gone = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"keep\"}\n{\"id\": 2, \"method\": \"keep\"}\n");
    send_text(gone, "{\"id\": 3, \"method\": \"keep\"}\n");
    ck_assert_uint_eq(kept_count, 3);
    close(gone);
    run_loop();
    control_request_reply(kept[1], json_object());
    control_request_fail(kept[0], "failed", "no");
    control_request_reply(kept[2], json_object()); // nobody is there to hear it
    expect_line(fd, "{\"id\": 2, \"result\": {}}");
    expect_error(fd, "1", "failed");
    close(fd);
}
END_TEST

START_TEST(half_closed_client_gets_its_answer)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"keep\"}\n{\"id\": 2, \"method\": \"echo\"}\n");
    shutdown(fd, SHUT_WR);
    run_loop();
    expect_line(fd, "{\"id\": 2, \"result\": {}}");
    control_request_reply(kept[0], json_object());
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    ck_assert(is_closed(fd));
    close(fd);
}
END_TEST

START_TEST(unanswered_requests_are_bounded)
{
    int fd = join_past_hello();
    for (unsigned i = 0; i < CONTROL_REQUESTS_LIMIT + 10; i++)
        send_text(fd, "{\"id\": 1, \"method\": \"keep\"}\n");
    ck_assert_uint_eq(kept_count, CONTROL_REQUESTS_LIMIT);
    control_request_reply(kept[0], json_object());
    run_loop();
    ck_assert_uint_eq(kept_count, CONTROL_REQUESTS_LIMIT + 1);
    for (unsigned i = 1; i < kept_count; i++) {
        control_request_reply(kept[i], json_object());
        run_loop();
    }
    ck_assert_uint_eq(kept_count, CONTROL_REQUESTS_LIMIT + 10);
    for (unsigned i = 0; i < kept_count; i++)
        expect_line(fd, "{\"id\": 1, \"result\": {}}");
    close(fd);
}
END_TEST

START_TEST(events_go_to_subscribers)
{
    int fd = join_past_hello(), other = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"events.subscribe\"}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    control_server_event(server, "paused", NULL);
    control_server_event(server, "odd", json_pack("{s:i}", "n", 5));
    json_t *event = next_line(fd);
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "paused");
    ck_assert_uint_eq(json_string_length(json_object_get(event, "time")), 27);
    ck_assert_uint_eq(json_object_size(json_object_get(event, "data")), 0);
    json_decref(event);
    event = next_line(fd);
    ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(event, "data"), "n")), 5);
    json_decref(event);
    ck_assert_ptr_null(next_line(other));
    close(fd);
    close(other);
}
END_TEST

START_TEST(who_does_not_read_is_cut_off)
{
    int fd = join_past_hello(), other = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"events.subscribe\"}\n");
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = 0;
    for (int i = 0; i < 100; i++) {
        control_server_event(server, "big", json_pack("{s:s}", "text", text));
        run_loop();
    }
    free(text);
    ck_assert(is_closed(fd));
    send_text(other, "{\"id\": 9, \"method\": \"echo\"}\n");
    expect_line(other, "{\"id\": 9, \"result\": {}}");
    close(fd);
    close(other);
}
END_TEST

START_TEST(connections_are_bounded)
{
    int fds[CONTROL_CLIENTS_LIMIT];
    for (int i = 0; i < CONTROL_CLIENTS_LIMIT; i++)
        fds[i] = join_past_hello();
    int extra = join();
    ck_assert(is_closed(extra));
    close(extra);
    for (int i = 0; i < CONTROL_CLIENTS_LIMIT; i++)
        close(fds[i]);
    run_loop();
    close(join_past_hello());
}
END_TEST

static void note_gone(void *opaque)
{
    *(bool *)opaque = true;
}

// As ferryd does with connections by TLS: other methods than those of the socket, the same limits.
START_TEST(others_can_be_adopted)
{
    static const struct control_method one[] = {{"echo", echo}, {NULL, NULL}};
    static const char *const none[] = {NULL};
    int pair[2];
    bool gone = false;
    const struct control_service own = {.methods = one, .features = none, .opaque = &gone};
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    ck_assert_int_eq(control_server_adopt(server, pair[0], &own, note_gone), 0);
    run_loop();
    expect_line(pair[1], "{\"hello\": {\"protocol\": \"1.0\", \"server\": \"ferry " FERRY_VERSION
                         "\", \"features\": []}}");
    send_text(pair[1], "{\"id\": 1, \"method\": \"echo\"}\n{\"id\": 2, \"method\": \"huge\"}\n");
    expect_line(pair[1], "{\"id\": 1, \"result\": {}}");
    expect_line(pair[1], "{\"id\": 2, \"error\": {\"code\": \"unknown-method\", \"message\": "
                         "\"there is no method 'huge'\"}}");
    ck_assert(!gone);
    close(pair[1]);
    run_loop();
    ck_assert(gone);
    int fds[CONTROL_CLIENTS_LIMIT];
    for (int i = 0; i < CONTROL_CLIENTS_LIMIT; i++)
        fds[i] = join_past_hello();
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    ck_assert_int_eq(control_server_adopt(server, pair[0], &own, note_gone), -EBUSY);
    close(pair[0]);
    close(pair[1]);
    for (int i = 0; i < CONTROL_CLIENTS_LIMIT; i++)
        close(fds[i]);
    run_loop();
}
END_TEST

// ---- descriptors ----

START_TEST(descriptors_belong_to_their_request)
{
    int before = open_fds(), fd = join_past_hello();
    int files[] = {text_fd("first"), text_fd("second"), text_fd("third")};
    // The kernel may hand over both requests in one piece: nothing reads before all is sent.
    send_with_fds(
        fd,
        "{\"id\": 1, \"method\": \"echo\"}\n{\"id\": 2, \"method\": \"read\", \"fds\": 2, "
        "\"params\": {\"files\": [{\"fd\": 1}, {\"fd\": 0}]}}\n",
        files, 2);
    send_with_fds(fd,
                  "{\"id\": 3, \"method\": \"read\", \"fds\": 1, \"params\": {\"files\": "
                  "[{\"fd\": 0}]}}\n",
                  files + 2, 1);
    for (int i = 0; i < 3; i++)
        close(files[i]);
    run_loop();
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    expect_line(fd, "{\"id\": 2, \"result\": {\"texts\": [\"second\", \"first\"]}}");
    expect_line(fd, "{\"id\": 3, \"result\": {\"texts\": [\"third\"]}}");
    close(fd);
    run_loop();
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(descriptors_not_used_are_closed)
{
    int before = open_fds(), fd = join_past_hello();
    int files[] = {text_fd("a"), text_fd("b"), text_fd("c")};
    send_with_fds(fd, "{\"id\": 1, \"method\": \"echo\", \"fds\": 2}\n", files, 2);
    // Announced by nobody: they wait for a request, and go with the connection.
    send_with_fds(fd, "{\"id\": 2, \"method\": \"echo\"}\n", files + 2, 1);
    for (int i = 0; i < 3; i++)
        close(files[i]);
    run_loop();
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    expect_line(fd, "{\"id\": 2, \"result\": {}}");
    close(fd);
    run_loop();
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

static const struct {
    const char *line, *code;
    bool closes;
} bad_fds[] = {
    {"{\"id\": 1, \"method\": \"read\", \"fds\": 1, \"params\": {\"files\": [{\"fd\": 1}]}}\n",
     "invalid-params", false},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": 1, \"params\": {\"files\": [{\"fd\": -1}]}}\n",
     "invalid-params", false},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": 1, \"params\": {\"files\": [{\"fd\": 0}, {\"fd\": "
     "0}]}}\n",
     "invalid-params", false},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": 1, \"params\": {\"files\": [5]}}\n",
     "invalid-params", false},
    {"{\"id\": 1, \"method\": \"read\", \"params\": {\"files\": [{\"fd\": 0}]}}\n",
     "invalid-params", false},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": 2}\n", "invalid-request", true},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": -1}\n", "invalid-request", true},
    {"{\"id\": 1, \"method\": \"read\", \"fds\": \"1\"}\n", "invalid-request", true},
};

START_TEST(bad_descriptors)
{
    int before = open_fds(), fd = join_past_hello(), file = text_fd("a");
    send_with_fds(fd, bad_fds[_i].line, &file, 1);
    close(file);
    run_loop();
    expect_error(fd, "1", bad_fds[_i].code);
    if (bad_fds[_i].closes) {
        ck_assert(is_closed(fd));
    } else {
        send_text(fd, "{\"id\": 9, \"method\": \"echo\"}\n");
        expect_line(fd, "{\"id\": 9, \"result\": {}}");
    }
    close(fd);
    run_loop();
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(too_many_descriptors)
{
    int before = open_fds(), file = text_fd("a"), files[40];
    for (int i = 0; i < 40; i++)
        files[i] = file;
    int fd = join_past_hello();
    send_with_fds(fd, " ", files, 40); // more than are taken in one message
    run_loop();
    ck_assert(is_closed(fd));
    close(fd);
    fd = join_past_hello();
    for (int i = 0; i < 10; i++) // more than are kept
        if (send(fd, " ", 1, MSG_NOSIGNAL) == 1)
            send_with_fds(fd, " ", files, 1 + 9 * (i < 9));
    run_loop();
    ck_assert(is_closed(fd));
    close(fd);
    close(file);
    run_loop();
    ck_assert_int_eq(open_fds(), before);
}
END_TEST

START_TEST(garbage_with_descriptors_ends_the_connection)
{
    int fd = join_past_hello(), file = text_fd("a");
    send_with_fds(fd, "garbage\n", &file, 1);
    close(file);
    run_loop();
    expect_error(fd, "null", "parse-error");
    ck_assert(is_closed(fd));
    close(fd);
}
END_TEST

// ---- the client ----

// The client waits, so the server runs on another thread's loop turns.
static atomic_bool serving;
static void *serve(void *opaque)
{
    while (atomic_load(&serving)) {
        uv_run(&control_place.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    return NULL;
}

START_TEST(client_calls)
{
    pthread_t thread;
    struct control_client *client;
    json_t *result = NULL;
    int file = text_fd("passed on");
    atomic_store(&serving, true);
    pthread_create(&thread, NULL, serve, NULL);
    ck_assert_int_eq(control_client_connect(&client, control_place.path, 5000, &control_place.err),
                     0);
    ck_assert_int_eq(control_client_peer_pid(client), getpid());
    ck_assert_int_eq(control_client_call(client, "read", json_pack("{s:[{s:i}]}", "files", "fd", 0),
                                         &file, 1, 5000, &result, &control_place.err),
                     0);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(result, "texts"), 0)),
                     "passed on");
    json_decref(result);
    ck_assert_int_eq(
        control_client_call(client, "nope", NULL, NULL, 0, 5000, NULL, &control_place.err),
        -EREMOTEIO);
    ck_assert_str_eq(control_place.err.message, "there is no method 'nope'");
    ck_assert_int_eq(
        control_client_call(client, "keep", NULL, NULL, 0, 50, NULL, &control_place.err),
        -ETIMEDOUT);
    json_t *event;
    ck_assert_int_eq(control_client_next_event(client, 50, &event, &control_place.err), -ETIMEDOUT);
    atomic_store(&serving, false);
    pthread_join(thread, NULL);
    control_request_reply(kept[0], json_object());
    control_server_event(server, "unseen", NULL);
    control_client_close(client);
    close(file);
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *transport = tcase_create("transport");
    tcase_set_timeout(transport, 120);
    tcase_add_checked_fixture(transport, set_up_server, tear_down_server);
    tcase_add_test(transport, hello_comes_first);
    tcase_add_test(transport, answers_carry_the_id);
    tcase_add_test(transport, pieces_and_many_at_once);
    tcase_add_loop_test(transport, bad_lines_are_answered_and_survived, 0, COUNT(bad_lines));
    tcase_add_test(transport, lines_up_to_a_limit);
    tcase_add_test(transport, answers_may_come_later_and_in_any_order);
    tcase_add_test(transport, half_closed_client_gets_its_answer);
    tcase_add_test(transport, unanswered_requests_are_bounded);
    tcase_add_test(transport, events_go_to_subscribers);
    tcase_add_test(transport, who_does_not_read_is_cut_off);
    tcase_add_test(transport, connections_are_bounded);
    tcase_add_test(transport, others_can_be_adopted);
    tcase_add_test(transport, descriptors_belong_to_their_request);
    tcase_add_test(transport, descriptors_not_used_are_closed);
    tcase_add_loop_test(transport, bad_descriptors, 0, COUNT(bad_fds));
    tcase_add_test(transport, too_many_descriptors);
    tcase_add_test(transport, garbage_with_descriptors_ends_the_connection);
    tcase_add_test(transport, client_calls);
    suite_add_tcase(suite, transport);
    return run_suite(suite);
}
