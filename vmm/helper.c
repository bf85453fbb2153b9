#include "vmm/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "devices/virtio/virtio_vsock.h"

enum { KEPT_FD = 3 };

// The helper's process: nothing of the machine's but its own end of the socket.
static void become_helper(const char *name, int socket, int extra_fd)
{
    sigset_t none;
    int nowhere = open("/dev/null", O_RDWR);
    setsid(); // the terminal's Ctrl-C is for the machine
    prctl(PR_SET_NAME, name);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    for (int fd = 0; fd < 3; fd++)
        dup2(nowhere, fd);
    // Out of the way first: either may have the number of the other's place.
    socket = fcntl(socket, F_DUPFD, 10);
    extra_fd = extra_fd < 0 ? -1 : fcntl(extra_fd, F_DUPFD, 10);
    dup2(socket, KEPT_FD);
    if (extra_fd >= 0)
        dup2(extra_fd, HELPER_EXTRA_FD);
    close_range(extra_fd >= 0 ? HELPER_EXTRA_FD + 1 : KEPT_FD + 1, ~0u, 0);
    log_open(-1, LOG_LEVEL_ERROR);
}

int helper_start(const char *name, void (*body)(int socket, const void *opaque), const void *opaque,
                 int extra_fd, int *out, struct error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set_errno(err, errno, "%s: no socket", name);
    // Not fork(): libuv would close, in the child, what its pipes' numbers are then.
    pid_t child = _Fork();
    if (child < 0) {
        int code = errno;
        close(ends[0]);
        close(ends[1]);
        return error_set_errno(err, code, "%s: no process", name);
    }
    if (child == 0) {
        // Once more, so that it is init's child: nobody has to wait for it.
        if (_Fork() == 0) {
            become_helper(name, ends[1], extra_fd);
            body(KEPT_FD, opaque);
        }
        _exit(0);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *out = ends[0];
    return 0;
}

int helper_send(int socket, const void *message, size_t length, int fd)
{
    union {
        struct cmsghdr header; // for its alignment
        char space[CMSG_SPACE(sizeof(int))];
    } extra;
    struct iovec part = {(void *)message, length};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&extra, 0, sizeof(extra));
    if (fd >= 0) {
        m.msg_control = &extra;
        m.msg_controllen = sizeof(extra);
        extra.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&extra.header), &fd, sizeof(fd));
    }
    ssize_t n;
    do
        n = sendmsg(socket, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

// ---- vsock ----

// Connected without waiting, or -errno: a listener whose queue is full refuses.
static int connect_port(const char *path, uint32_t port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", path, port);
    if (length < 0 || length >= (int)sizeof(address.sun_path))
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int code = errno;
        close(fd);
        return -code;
    }
    return fd;
}

static void serve_vsock(int socket, const void *path)
{
    struct virtio_vsock_connect request;
    for (;;) {
        ssize_t n = recv(socket, &request, sizeof(request), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != (ssize_t)sizeof(request))
            return;
        int fd = connect_port(path, request.port);
        const struct virtio_vsock_connected answer = {.id = request.id, .error = fd < 0 ? -fd : 0};
        int rc = helper_send(socket, &answer, sizeof(answer), fd);
        if (fd >= 0)
            close(fd);
        if (rc < 0)
            return;
    }
}

int helper_vsock_start(const char *path, int *socket, struct error *err)
{
    return helper_start("ferry-vsock", serve_vsock, path, -1, socket, err);
}
