#include "tests/unit/control_peer.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/local_socket.h"

struct control_place control_place;

void run_loop(void)
{
    for (int i = 0; i < 20; i++)
        uv_run(&control_place.loop, UV_RUN_NOWAIT);
}

int listen_here(void)
{
    snprintf(control_place.path, sizeof(control_place.path), "/tmp/ferry-control-%d.sock",
             (int)getpid());
    int fd = local_socket_listen(control_place.path, &control_place.err);
    ck_assert_int_ge(fd, 0);
    return fd;
}

void leave_place(void)
{
    run_loop();
    ck_assert_int_eq(uv_loop_close(&control_place.loop), 0);
    unlink(control_place.path);
}

int join(void)
{
    int fd = local_socket_connect(control_place.path, &control_place.err);
    ck_assert_int_ge(fd, 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    run_loop();
    return fd;
}

json_t *next_line(int fd)
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

json_t *next_event(int fd)
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

bool is_closed(int fd)
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

int join_past_hello(void)
{
    int fd = join();
    json_decref(next_line(fd));
    return fd;
}

void send_text(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
    run_loop();
}

void expect_line(int fd, const char *json)
{
    json_t *got = next_line(fd), *wanted = json_loads(json, 0, NULL);
    char *text = got ? json_dumps(got, 0) : NULL;
    ck_assert_msg(got && json_equal(got, wanted), "got %s, not %s", text ? text : "nothing", json);
    free(text);
    json_decref(got);
    json_decref(wanted);
}

void expect_error(int fd, const char *id, const char *code)
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

void send_with_fds(int fd, const char *text, const int *fds, unsigned count)
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

int open_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

int text_fd(const char *text)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(write(ends[1], text, strlen(text)), (ssize_t)strlen(text));
    close(ends[1]);
    return ends[0];
}
