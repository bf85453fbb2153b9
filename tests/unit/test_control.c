// The control protocol's transport with methods made of this test, and the machine's methods on a
// machine that is made of this test as well (its functions stand in for vmm/machine.c).
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
#include "base/local_socket.h"
#include "vmm/control.h"
#include "vmm/machine_balloon.h"
#include "vmm/machine_hotplug.h"
#include "vmm/machine_lease.h"

static uv_loop_t loop;
static struct error err;
static char path[64];

static void run_loop(void)
{
    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static int listen_here(void)
{
    snprintf(path, sizeof(path), "/tmp/ferry-control-%d.sock", (int)getpid());
    int fd = local_socket_listen(path, &err);
    ck_assert_int_ge(fd, 0);
    return fd;
}

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
    uv_loop_init(&loop);
    ck_assert_int_eq(control_server_create(&server, &loop, listen_here(), &service, &err), 0);
}

static void tear_down_server(void)
{
    control_server_destroy(server);
    run_loop();
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    unlink(path);
}

// ---- a raw client ----

static int join(void)
{
    int fd = local_socket_connect(path, &err);
    ck_assert_int_ge(fd, 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    run_loop();
    return fd;
}

// The next line: a new object; NULL at the end of the connection, or when nothing comes.
static json_t *next_line(int fd)
{
    static char line[2 << 20];
    size_t length = 0;
    for (int idle = 0; idle < 50;) {
        ssize_t n = recv(fd, line + length, 1, 0);
        if (n == 0)
            return NULL;
        if (n < 0) {
            idle++;
            run_loop();
            continue;
        }
        if (line[length] == '\n')
            return json_loadb(line, length, 0, NULL);
        length++;
        if (length % 4096 == 0)
            run_loop();
    }
    return NULL;
}

// The same for one that comes when a timer of the server has run out.
static json_t *next_event(int fd)
{
    json_t *line = NULL;
    for (int i = 0; i < 2000 && !line; i++) {
        line = next_line(fd);
        if (!line)
            usleep(5000);
    }
    ck_assert_ptr_nonnull(line);
    return line;
}

static bool is_closed(int fd)
{
    char rest[65536];
    for (int i = 0; i < 500; i++) {
        ssize_t n = recv(fd, rest, sizeof(rest), 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return true;
        run_loop();
    }
    return false;
}

static int join_past_hello(void)
{
    int fd = join();
    json_decref(next_line(fd));
    return fd;
}

static void send_text(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
    run_loop();
}

static void expect_line(int fd, const char *json)
{
    json_t *got = next_line(fd), *wanted = json_loads(json, 0, NULL);
    char *text = got ? json_dumps(got, 0) : NULL;
    ck_assert_msg(got && json_equal(got, wanted), "got %s, not %s", text ? text : "nothing", json);
    free(text);
    json_decref(got);
    json_decref(wanted);
}

static void expect_error(int fd, const char *id, const char *code)
{
    json_t *got = next_line(fd);
    char *shown = json_dumps(json_object_get(got, "id"), JSON_ENCODE_ANY);
    const char *message =
        json_string_value(json_object_get(json_object_get(got, "error"), "message"));
    const char *given = json_string_value(json_object_get(json_object_get(got, "error"), "code"));
    ck_assert_str_eq(shown, id);
    ck_assert_str_eq(given, code);
    ck_assert(message && *message);
    free(shown);
    json_decref(got);
}

static void send_with_fds(int fd, const char *text, const int *fds, unsigned count)
{
    char control[CMSG_SPACE(64 * sizeof(int))] = {0};
    struct iovec part = {(char *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static int open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

// A readable descriptor with this text in it.
static int text_fd(const char *text)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(write(ends[1], text, strlen(text)), (ssize_t)strlen(text));
    close(ends[1]);
    return ends[0];
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
        uv_run(&loop, UV_RUN_NOWAIT);
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
    ck_assert_int_eq(control_client_connect(&client, path, 5000, &err), 0);
    ck_assert_int_eq(control_client_peer_pid(client), getpid());
    ck_assert_int_eq(control_client_call(client, "read", json_pack("{s:[{s:i}]}", "files", "fd", 0),
                                         &file, 1, 5000, &result, &err),
                     0);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(result, "texts"), 0)),
                     "passed on");
    json_decref(result);
    ck_assert_int_eq(control_client_call(client, "nope", NULL, NULL, 0, 5000, NULL, &err),
                     -EREMOTEIO);
    ck_assert_str_eq(err.message, "there is no method 'nope'");
    ck_assert_int_eq(control_client_call(client, "keep", NULL, NULL, 0, 50, NULL, &err),
                     -ETIMEDOUT);
    json_t *event;
    ck_assert_int_eq(control_client_next_event(client, 50, &event, &err), -ETIMEDOUT);
    atomic_store(&serving, false);
    pthread_join(thread, NULL);
    control_request_reply(kept[0], json_object());
    control_server_event(server, "unseen", NULL);
    control_client_close(client);
    close(file);
}
END_TEST

// ---- the machine's methods ----

struct machine {
    enum machine_state state;
    struct machine_config config;
    struct guest_memory memory;
    struct machine_listener listener;
    enum machine_stop_reason reason;
    bool has_balloon, answers;
    uint64_t balloon_size, balloon_count;
};
static struct machine fake;
static struct control *control;
static uint8_t ram[8192] __attribute__((aligned(4096)));

static int move_to(struct machine *machine, enum machine_state from, enum machine_state to,
                   struct error *why)
{
    if (machine->state != from)
        return error_set(why, EBUSY, "not now");
    machine->state = to;
    return 0;
}
int machine_pause(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_PAUSED, why);
}
int machine_resume(struct machine *machine, bool force, struct error *why)
{
    return move_to(machine, MACHINE_PAUSED, MACHINE_RUNNING, why);
}
int machine_reset(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_RUNNING, why);
}
int machine_set_cpu_time(struct machine *machine, const struct cpu_settings *settings,
                         struct cpu_prepared *prepared, struct error *why)
{
    (void)machine;
    (void)settings;
    (void)prepared;
    return error_set(why, ENOTSUP, "no CPU time here");
}

int machine_power_button(struct machine *machine, struct error *why)
{
    return move_to(machine, MACHINE_RUNNING, MACHINE_RUNNING, why);
}
void machine_kill(struct machine *machine)
{
    machine->state = MACHINE_STOPPED;
    machine->reason = MACHINE_STOP_KILLED;
    control_machine_event(control, MACHINE_EVENT_STOPPED);
}
enum machine_state machine_state(const struct machine *machine)
{
    return machine->state;
}
enum machine_stop_reason machine_stop_reason(const struct machine *machine)
{
    return machine->reason;
}
int machine_exit_code(const struct machine *machine)
{
    return 0;
}
const char *machine_state_name(enum machine_state state)
{
    static const char *const names[] = {"created", "running", "paused", "stopped", "lease-lost"};
    return names[state];
}
const char *machine_stop_reason_name(enum machine_stop_reason reason)
{
    return reason == MACHINE_STOP_KILLED ? "killed" : "other";
}
unsigned machine_panic(const struct machine *machine)
{
    return 1;
}
const char *machine_crash_report(const struct machine *machine)
{
    return NULL;
}
const struct machine_config *machine_config(const struct machine *machine)
{
    return &machine->config;
}
struct guest_memory *machine_memory(struct machine *machine)
{
    return &machine->memory;
}
json_t *machine_stats(struct machine *machine)
{
    return json_pack("{s:i}", "exits", 5);
}

int machine_devices_may_change(const struct machine *machine, struct error *error)
{
    return 0;
}
int machine_add_disk(struct machine *machine, json_t *disk, int fd, struct block_backend *connected,
                     char id[MACHINE_ID_SIZE], struct error *error)
{
    char text[8] = "";
    ck_assert_ptr_null(connected);
    ck_assert_ptr_null(json_object_get(disk, "file"));
    if (!json_object_get(disk, "path"))
        return error_set(error, EINVAL, "no path");
    ck_assert_int_gt(pread(fd, text, sizeof(text) - 1, 0), 0);
    snprintf(id, MACHINE_ID_SIZE, "disk%.7s", text);
    close(fd);
    return 0;
}
int machine_add_net(struct machine *machine, json_t *net, const int *fds, unsigned fd_count,
                    uint16_t mtu, char id[MACHINE_ID_SIZE], struct error *error)
{
    snprintf(id, MACHINE_ID_SIZE, "net%u", fd_count);
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    return 0;
}
int machine_remove_device(struct machine *machine, const char *id, bool force, bool *gone,
                          struct error *error)
{
    *gone = force;
    return strcmp(id, "disk0") == 0 ? 0 : error_set(error, ENODEV, "no such device");
}
int machine_resize_disk(struct machine *machine, const char *id, uint64_t *size,
                        struct error *error)
{
    *size = *size ? *size : 4096;
    return 0;
}
int machine_set_limits(struct machine *machine, const char *id, const json_t *limits, json_t **now,
                       struct error *error)
{
    if (strcmp(id, "disk0") != 0)
        return error_set(error, ENODEV, "there is no disk or network '%s'", id);
    *now = json_deep_copy(limits);
    return 0;
}
int machine_set_link(struct machine *machine, const char *id, bool up, struct error *error)
{
    return strcmp(id, "net0") == 0 ? 0 : error_set(error, ENODEV, "there is no network '%s'", id);
}
json_t *machine_list_devices(struct machine *machine)
{
    return json_pack("[s]", "here");
}

bool machine_has_balloon(const struct machine *machine)
{
    return machine->has_balloon;
}
int machine_balloon_set(struct machine *machine, uint64_t bytes, struct error *error)
{
    if (bytes > 1000)
        return error_set(error, EINVAL, "too much");
    machine->balloon_size = bytes;
    return 0;
}
bool machine_balloon_ask(struct machine *machine)
{
    return machine->answers;
}
uint64_t machine_balloon_count(const struct machine *machine)
{
    return machine->balloon_count;
}
json_t *machine_balloon_status(struct machine *machine)
{
    return json_pack("{s:i, s:i, s:i}", "current_bytes", (int)machine->balloon_size, "target_bytes",
                     9, "count", (int)machine->balloon_count);
}

// The lease: what was asked last, and what is answered.
static struct machine_lease_name asked;
static char asked_boot_id[LEASE_BOOT_ID_SIZE];
static uint64_t asked_deadline, asked_not_started;
static int lease_answer;
static bool managed;

bool machine_is_managed(const struct machine *machine)
{
    return managed;
}
uint64_t machine_lease_epoch(const struct machine *machine)
{
    return 7;
}
uint64_t machine_lease_deadline(const struct machine *machine)
{
    return asked_deadline;
}
int machine_lease_check_epoch(const struct machine *machine, bool given, uint64_t epoch,
                              struct error *why)
{
    return !managed || (given && epoch == 7) ? 0 : error_set(why, EPERM, "whose epoch?");
}
static int keep_lease(const struct machine_lease_name *name, uint64_t deadline_ns,
                      struct error *why)
{
    asked = *name;
    snprintf(asked_boot_id, sizeof(asked_boot_id), "%s", name->boot_id);
    asked_deadline = deadline_ns;
    return lease_answer ? error_set(why, lease_answer, "no") : 0;
}
int machine_lease_renew(struct machine *machine, const struct machine_lease_name *name,
                        uint64_t deadline_ns, struct error *why)
{
    return keep_lease(name, deadline_ns, why);
}
int machine_lease_reinstate(struct machine *machine, const struct machine_lease_name *name,
                            uint64_t deadline_ns, uint64_t not_started, struct error *why)
{
    asked_not_started = not_started;
    return keep_lease(name, deadline_ns, why);
}

static void set_up_machine(void)
{
    managed = false;
    lease_answer = 0;
    uv_loop_init(&loop);
    fake = (struct machine){.state = MACHINE_RUNNING};
    machine_config_init(&fake.config);
    strcpy(fake.config.name, "fake");
    guest_memory_init(&fake.memory);
    ck_assert_int_eq(guest_memory_add(&fake.memory, 0x10000, ram, sizeof(ram)), 0);
    ck_assert_int_eq(control_create(&control, &loop, listen_here(), &fake, &err), 0);
}

static void tear_down_machine(void)
{
    control_destroy(control);
    run_loop();
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    guest_memory_destroy(&fake.memory);
    machine_config_free(&fake.config);
    unlink(path);
}

START_TEST(machine_states)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"pause\"}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"state\": \"paused\"}}");
    send_text(fd, "{\"id\": 2, \"method\": \"reset\"}\n");
    expect_error(fd, "2", "wrong-state");
    send_text(fd, "{\"id\": 3, \"method\": \"power-button\"}\n");
    expect_error(fd, "3", "wrong-state");
    send_text(fd, "{\"id\": 4, \"method\": \"resume\"}\n");
    expect_line(fd, "{\"id\": 4, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 5, \"method\": \"reset\"}\n");
    expect_line(fd, "{\"id\": 5, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 6, \"method\": \"stats\"}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {\"exits\": 5}}");
    send_text(fd, "{\"id\": 7, \"method\": \"query\"}\n");
    json_t *line = next_line(fd), *summary = json_object_get(line, "result");
    ck_assert_str_eq(json_string_value(json_object_get(summary, "name")), "fake");
    ck_assert_str_eq(json_string_value(json_object_get(summary, "state")), "running");
    ck_assert_int_eq(json_integer_value(json_object_get(summary, "pid")), getpid());
    json_decref(line);
    send_text(fd, "{\"id\": 8, \"method\": \"inspect\"}\n");
    line = next_line(fd);
    struct machine_config copy;
    machine_config_init(&copy);
    ck_assert_int_eq(machine_config_from_json(&copy, json_object_get(line, "result"), &err), 0);
    ck_assert_str_eq(copy.name, "fake");
    machine_config_free(&copy);
    json_decref(line);
    close(fd);
}
END_TEST

START_TEST(machine_kill_is_answered_after_its_event)
{
    int fd = join_past_hello();
    send_text(fd,
              "{\"id\": 1, \"method\": \"events.subscribe\"}\n{\"id\": 2, \"method\": \"kill\"}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {}}");
    json_t *event = next_line(fd), *data = json_object_get(event, "data");
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "stopped");
    ck_assert_str_eq(json_string_value(json_object_get(data, "reason")), "killed");
    json_decref(event);
    expect_line(fd, "{\"id\": 2, \"result\": {\"state\": \"stopped\"}}");
    close(fd);
}
END_TEST

START_TEST(machine_devices)
{
    int fd = join_past_hello(), files[2];
    FILE *image = tmpfile();
    fputs("7", image);
    fflush(image);
    files[0] = files[1] = fileno(image);
    send_with_fds(fd,
                  "{\"id\": 1, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"/x\", \"file\": {\"fd\": 0}}}}\n",
                  files, 1);
    expect_line(fd, "{\"id\": 1, \"result\": {\"id\": \"disk7\"}}");
    send_with_fds(fd,
                  "{\"id\": 2, \"method\": \"device.add\", \"fds\": 2, \"params\": {\"net\": "
                  "{\"kind\": \"tap\", \"files\": [{\"fd\": 0}, {\"fd\": 1}]}}}\n",
                  files, 2);
    expect_line(fd, "{\"id\": 2, \"result\": {\"id\": \"net2\"}}");
    static const char *const bad[] = {
        "device.add\", \"params\": {}",
        "device.add\", \"params\": {\"disk\": 1}",
        "device.add\", \"params\": {\"disk\": {\"path\": \"/x\"}}",
        "device.add\", \"params\": {\"disk\": {\"path\": \"/x\", \"file\": {\"fd\": 0}}}",
        "device.add\", \"params\": {\"net\": {}}",
        "device.add\", \"params\": {\"net\": {\"files\": [1]}}",
        "device.add\", \"params\": {\"net\": {\"files\": []}, \"disk\": {}}",
        "device.remove\", \"params\": {\"id\": 3}",
        "device.resize\", \"params\": {}",
        "device.resize\", \"params\": {\"id\": \"disk0\", \"size\": 0}",
        "device.resize\", \"params\": {\"id\": \"disk0\", \"size\": \"1\"}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char line[200];
        snprintf(line, sizeof(line), "{\"id\": 3, \"method\": \"%s}\n", bad[i]);
        send_text(fd, line);
        expect_error(fd, "3", "invalid-params");
    }
    send_text(fd, "{\"id\": 4, \"method\": \"device.remove\", \"params\": {\"id\": \"disk1\"}}\n");
    expect_error(fd, "4", "failed");
    send_text(fd, "{\"id\": 5, \"method\": \"device.remove\", \"params\": {\"id\": \"disk0\"}}\n");
    expect_line(fd, "{\"id\": 5, \"result\": {\"removed\": false}}");
    send_text(fd, "{\"id\": 6, \"method\": \"device.remove\", \"params\": {\"id\": \"disk0\", "
                  "\"force\": true}}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {\"removed\": true}}");
    send_text(fd, "{\"id\": 7, \"method\": \"device.resize\", \"params\": {\"id\": \"disk0\"}}\n");
    expect_line(fd, "{\"id\": 7, \"result\": {\"size_bytes\": 4096}}");
    send_text(fd, "{\"id\": 8, \"method\": \"device.list\"}\n");
    expect_line(fd, "{\"id\": 8, \"result\": {\"devices\": [\"here\"]}}");
    send_text(fd, "{\"id\": 9, \"method\": \"events.subscribe\"}\n");
    expect_line(fd, "{\"id\": 9, \"result\": {}}");
    control_device_event(control, "device-removed", "disk0");
    json_t *event = next_line(fd);
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "device-removed");
    json_decref(event);
    fclose(image);
    close(fd);
}
END_TEST

// A server that says nothing: it is waited for while others are answered, and given up at the end.
START_TEST(machine_goes_on_while_a_disk_is_connected)
{
    int fd = join_past_hello(), silent[2], ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, silent), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    send_with_fds(fd,
                  "{\"id\": 1, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"nbd://localhost\", \"file\": {\"fd\": 0}}}}\n"
                  "{\"id\": 2, \"method\": \"device.list\"}\n",
                  silent, 1);
    expect_line(fd, "{\"id\": 2, \"result\": {\"devices\": [\"here\"]}}");
    // Its helper says why there is none.
    send_with_fds(fd,
                  "{\"id\": 3, \"method\": \"device.add\", \"fds\": 1, \"params\": {\"disk\": "
                  "{\"path\": \"nbd://localhost\", \"file\": {\"fd\": 0}}}}\n",
                  ends, 1);
    ck_assert_int_eq(send(ends[1], "it is gone", 10, 0), 10);
    json_t *answer = next_event(fd);
    const char *text =
        json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
    char *shown = json_dumps(answer, 0);
    ck_assert_msg(text && strstr(text, "it is gone"), "%s", shown ? shown : "nothing");
    free(shown);
    json_decref(answer);
    close(silent[0]);
    close(silent[1]);
    close(ends[0]);
    close(ends[1]);
    close(fd);
}
END_TEST

START_TEST(machine_balloon)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"balloon\"}\n");
    expect_error(fd, "1", "not-supported");
    fake.has_balloon = true;
    send_text(fd, "{\"id\": 2, \"method\": \"balloon\", \"params\": {\"size\": -1}}\n");
    expect_error(fd, "2", "invalid-params");
    send_text(fd, "{\"id\": 3, \"method\": \"balloon\", \"params\": {\"size\": 1001}}\n");
    expect_error(fd, "3", "invalid-params");
    send_text(fd, "{\"id\": 4, \"method\": \"balloon\", \"params\": {\"size\": 700}}\n");
    expect_line(fd, "{\"id\": 4, \"result\": {\"current_bytes\": 700, \"target_bytes\": 9, "
                    "\"count\": 0}}");
    // A look waits for the guest's statistics, if it gives any.
    fake.answers = true;
    send_text(fd, "{\"id\": 5, \"method\": \"balloon\"}\n{\"id\": 6, \"method\": "
                  "\"events.subscribe\"}\n");
    expect_line(fd, "{\"id\": 6, \"result\": {}}");
    fake.balloon_count = 1;
    control_machine_event(control, MACHINE_EVENT_BALLOON);
    expect_line(fd, "{\"id\": 5, \"result\": {\"current_bytes\": 700, \"target_bytes\": 9, "
                    "\"count\": 1}}");
    json_t *event = next_event(fd);
    ck_assert_str_eq(json_string_value(json_object_get(event, "event")), "balloon");
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(event, "data"), "current_bytes")), 700);
    json_decref(event);
    // It needn't come at all.
    send_text(fd, "{\"id\": 7, \"method\": \"balloon\"}\n");
    json_t *late = next_event(fd);
    ck_assert_int_eq(json_integer_value(json_object_get(late, "id")), 7);
    json_decref(late);
    close(fd);
}
END_TEST

START_TEST(machine_memory_read)
{
    int fd = join_past_hello();
    memcpy(ram + 16, "\x00\x01\xfe\xff", 4);
    send_text(
        fd,
        "{\"id\": 1, \"method\": \"memory.read\", \"params\": {\"gpa\": 65552, \"length\": 4}}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"data\": \"0001feff\"}}");
    static const char *const bad[] = {
        "{}",
        "{\"gpa\": 65552}",
        "{\"gpa\": \"65552\", \"length\": 1}",
        "{\"gpa\": -1, \"length\": 1}",
        "{\"gpa\": 65536, \"length\": 0}",
        "{\"gpa\": 65536, \"length\": 262145}",
        "{\"gpa\": 65536, \"length\": 8193}",
        "{\"gpa\": 0, \"length\": 1}",
        "{\"gpa\": 9223372036854775807, \"length\": 262144}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char line[200];
        snprintf(line, sizeof(line), "{\"id\": 2, \"method\": \"memory.read\", \"params\": %s}\n",
                 bad[i]);
        send_text(fd, line);
        expect_error(fd, "2", "invalid-params");
    }
    close(fd);
}
END_TEST

#define LEASE_PARAMS                                                                               \
    "\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": 7, "    \
    "\"deadline_ns\": 123456789012345"

START_TEST(machine_lease)
{
    int fd = join_past_hello();
    send_text(fd, "{\"id\": 1, \"method\": \"lease.renew\", \"params\": {" LEASE_PARAMS "}}\n");
    json_t *line = next_line(fd), *result = json_object_get(line, "result");
    ck_assert_str_eq(json_string_value(json_object_get(result, "state")), "running");
    ck_assert_int_gt(json_integer_value(json_object_get(result, "now_ns")), 0);
    json_decref(line);
    ck_assert_uint_eq(asked.epoch, 7);
    ck_assert_uint_eq(asked.uuid.bytes[15], 0x10);
    ck_assert_str_eq(asked_boot_id, "this");
    ck_assert_uint_eq(asked_deadline, 123456789012345);
    send_text(fd, "{\"id\": 2, \"method\": \"lease.reinstate\", \"params\": {" LEASE_PARAMS
                  ", \"not_started\": 6}}\n");
    json_decref(next_line(fd));
    ck_assert_uint_eq(asked_not_started, 6);

    static const struct {
        int number;
        const char *code;
    } refusals[] = {{ENOTSUP, "not-managed"}, {EXDEV, "wrong-uuid"},     {ESTALE, "wrong-epoch"},
                    {EREMCHG, "wrong-boot"},  {ETIMEDOUT, "lease-lost"}, {EBUSY, "wrong-state"},
                    {EAGAIN, "in-use"}};
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        lease_answer = refusals[i].number;
        send_text(fd, "{\"id\": 3, \"method\": \"lease.renew\", \"params\": {" LEASE_PARAMS "}}\n");
        expect_error(fd, "3", refusals[i].code);
    }
    static const char *const bad[] = {
        "{}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": 7}",
        "{\"uuid\": \"nobody\", \"boot_id\": \"this\", \"epoch\": 7, \"deadline_ns\": 5}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"boot_id\": \"this\", \"epoch\": "
        "-7, "
        "\"deadline_ns\": 5}",
        "{\"uuid\": \"01020304-0506-4708-890a-0b0c0d0e0f10\", \"epoch\": 7, \"deadline_ns\": 5}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char request[300];
        snprintf(request, sizeof(request),
                 "{\"id\": 4, \"method\": \"lease.renew\", \"params\": %s}\n", bad[i]);
        send_text(fd, request);
        expect_error(fd, "4", "invalid-params");
    }
    close(fd);
}
END_TEST

START_TEST(machine_managed)
{
    int fd = join_past_hello();
    managed = true;
    fake.state = MACHINE_PAUSED;
    send_text(fd, "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true}}\n");
    expect_error(fd, "1", "not-allowed");
    send_text(fd,
              "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true, \"epoch\": 6}}\n");
    expect_error(fd, "1", "not-allowed");
    send_text(fd,
              "{\"id\": 1, \"method\": \"resume\", \"params\": {\"force\": true, \"epoch\": 7}}\n");
    expect_line(fd, "{\"id\": 1, \"result\": {\"state\": \"running\"}}");
    send_text(fd, "{\"id\": 2, \"method\": \"pause\"}\n{\"id\": 3, \"method\": \"resume\"}\n");
    expect_line(fd, "{\"id\": 2, \"result\": {\"state\": \"paused\"}}");
    expect_line(fd, "{\"id\": 3, \"result\": {\"state\": \"running\"}}");
    asked_deadline = 5000;
    send_text(fd, "{\"id\": 4, \"method\": \"query\"}\n");
    json_t *line = next_line(fd);
    json_t *lease = json_object_get(json_object_get(line, "result"), "lease");
    ck_assert_int_eq(json_integer_value(json_object_get(lease, "epoch")), 7);
    ck_assert_int_eq(json_integer_value(json_object_get(lease, "deadline_ns")), 5000);
    ck_assert(json_is_false(json_object_get(lease, "lost")));
    json_decref(line);
    close(fd);
}
END_TEST

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *transport = tcase_create("transport"), *machine = tcase_create("machine");
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
    tcase_add_checked_fixture(machine, set_up_machine, tear_down_machine);
    tcase_add_test(machine, machine_states);
    tcase_add_test(machine, machine_kill_is_answered_after_its_event);
    tcase_add_test(machine, machine_devices);
    tcase_add_test(machine, machine_goes_on_while_a_disk_is_connected);
    tcase_add_test(machine, machine_balloon);
    tcase_add_test(machine, machine_memory_read);
    tcase_add_test(machine, machine_lease);
    tcase_add_test(machine, machine_managed);
    suite_add_tcase(suite, transport);
    suite_add_tcase(suite, machine);
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
