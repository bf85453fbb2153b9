// What a client may send to a control socket: any bytes, in any pieces, with or without
// descriptors. The first byte of the input says how the rest is cut. The machine's methods run on
// no machine: those that answer by themselves are here.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/control_server.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "vmm/machine_config.h"

static void take_fd(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    int fd = control_request_take_fd(request, json_object_get(params, "file"), &err);
    if (fd < 0) {
        control_request_fail_error(request, &err);
        return;
    }
    close(fd);
    control_request_reply(request, json_object());
}

// The other thing that is made of a client's JSON: a machine's description.
static void configure(void *opaque, struct control_request *request, json_t *params)
{
    struct machine_config config;
    struct error err = {0};
    if (machine_config_init(&config) != 0)
        abort();
    int r = machine_config_from_json(&config, params, &err);
    if (!r)
        r = machine_config_check(&config, &err);
    if (r)
        control_request_fail_error(request, &err);
    else
        control_request_reply(request, machine_config_to_json(&config));
    machine_config_free(&config);
}

static struct control_request *kept;

static void keep(void *opaque, struct control_request *request, json_t *params)
{
    if (kept)
        control_request_reply(kept, json_object());
    kept = request;
}

static const struct control_method methods[] = {
    {"fd", take_fd}, {"config", configure}, {"keep", keep}, {NULL, NULL}};
static const char *const features[] = {NULL};
static const struct control_service service = {methods, features, NULL, NULL};

static void turn(uv_loop_t *loop)
{
    for (int i = 0; i < 3; i++)
        uv_run(loop, UV_RUN_NOWAIT);
}

static void send_piece(int fd, const uint8_t *bytes, size_t length, int passed_fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed_fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &passed_fd, sizeof(int));
    }
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return; // cut off, which is allowed
}

static void talk(uv_loop_t *loop, const char *path, const uint8_t *data, size_t size, int null_fd)
{
    struct error err = {0};
    int fd = local_socket_connect(path, &err);
    if (fd < 0)
        abort();
    turn(loop);
    size_t piece = size ? data[0] % 64 + 1 : 1, at = size ? 1 : 0;
    bool with_fds = size && data[0] & 0x80;
    for (unsigned n = 0; at < size; n++) {
        size_t length = size - at < piece ? size - at : piece;
        send_piece(fd, data + at, length, with_fds && n % 4 == 0 ? null_fd : -1);
        at += length;
        turn(loop);
    }
    close(fd);
    turn(loop);
}

// Whatever came, somebody else is served.
static void check_alive(uv_loop_t *loop, const char *path)
{
    static const char question[] = "{\"id\": 1, \"method\": \"hello\"}\n";
    char answer[4096];
    struct error err = {0};
    int fd = local_socket_connect(path, &err);
    if (fd < 0 || write(fd, question, sizeof(question) - 1) < 0)
        abort();
    turn(loop);
    ssize_t n = recv(fd, answer, sizeof(answer) - 1, MSG_DONTWAIT);
    answer[n > 0 ? n : 0] = 0;
    if (!strstr(answer, "{\"id\":1,\"result\":{\"protocol\""))
        abort();
    close(fd);
    turn(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[64];
    static int null_fd = -1;
    if (null_fd < 0) {
        null_fd = open("/dev/null", O_RDWR);
        snprintf(path, sizeof(path), "/tmp/ferry-fuzz-%d.sock", (int)getpid());
        log_open(null_fd, LOG_LEVEL_ERROR);
    }
    uv_loop_t loop;
    struct control_server *server;
    struct error err = {0};
    uv_loop_init(&loop);
    int listen_fd = local_socket_listen(path, &err);
    if (listen_fd < 0 || control_server_create(&server, &loop, listen_fd, &service, &err) != 0)
        abort();
    talk(&loop, path, data, size, null_fd);
    check_alive(&loop, path);
    if (kept)
        control_request_reply(kept, json_object());
    kept = NULL;
    control_server_destroy(server);
    turn(&loop);
    if (uv_loop_close(&loop) != 0)
        abort(); // a handle was left open
    unlink(path);
    return 0;
}
