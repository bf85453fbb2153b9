// Helpers that bring connections: for a card, from passt or another machine; for an NBD disk.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "devices/block/block_nbd.h"
#include "devices/net/net_stream.h"
#include "vmm/helper.h"

enum {
    PAUSE_MS = 500,
    CONNECT_MS = 5000,
    FORWARDS_LIMIT = 32,
    PASST_ARGUMENTS = 16 + 2 * FORWARDS_LIMIT
};

// What a network's helper was told.
struct net_helper {
    const char *path;     // of a socket, or
    const char *forwards; // of passt, or
    const struct block_nbd_place *nbd;
    int listen_fd; // -1: connects
    pid_t passt;   // 0 while none runs
    int errors;    // passt's standard error
};

// Waits; false when the machine is gone. `fd` may be -1; true as well when something became of it.
static bool wait_for(int control, int fd, short events, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = control, .events = POLLRDHUP}, {.fd = fd, .events = events}};
    int n = poll(fds, 2, timeout_ms);
    return n < 0 ? errno == EINTR : fds[0].revents == 0;
}

static void say(int control, const char *text)
{
    char bounded[NET_STREAM_TEXT];
    snprintf(bounded, sizeof(bounded), "%s", text);
    helper_send(control, bounded, strlen(bounded), -1);
}

// ---- passt ----

static void execute_passt(const char *forwards, int socket, int errors)
{
    static char text[4096], number[16];
    char *arguments[PASST_ARGUMENTS] = {"passt", "--foreground", "--quiet", "--fd", number};
    unsigned count = 5;
    char *rest = text;
    snprintf(text, sizeof(text), "%s", forwards);
    snprintf(number, sizeof(number), "%d", socket);
    for (char *word; (word = strsep(&rest, ",")) && count + 3 < PASST_ARGUMENTS;) {
        if (strncmp(word, "tcp=", 4) != 0 && strncmp(word, "udp=", 4) != 0)
            continue;
        arguments[count++] = word[0] == 't' ? "-t" : "-u";
        arguments[count++] = word + 4;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    fcntl(socket, F_SETFD, 0);
    close_range(3, (unsigned)socket - 1, CLOSE_RANGE_CLOEXEC); // the machine's is none of its
    dup2(errors, STDERR_FILENO);
    execvp("passt", arguments);
    dprintf(STDERR_FILENO, "passt can't be started: %s\n", strerror(errno));
    _exit(127);
}

static int start_passt(struct net_helper *h)
{
    int ends[2], errors[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    if (pipe2(errors, O_CLOEXEC | O_NONBLOCK) < 0) {
        close(ends[0]);
        close(ends[1]);
        return -errno;
    }
    h->passt = _Fork(); // as in helper.c
    if (h->passt == 0)
        execute_passt(h->forwards, ends[1], errors[1]);
    close(ends[1]);
    close(errors[1]);
    h->errors = errors[0];
    return ends[0];
}

// Ends passt, and says what it had to say, if it ended by itself.
static void end_passt(struct net_helper *h, int control)
{
    char text[NET_STREAM_TEXT] = "";
    if (h->passt <= 0)
        return;
    kill(h->passt, SIGTERM);
    waitpid(h->passt, NULL, 0);
    h->passt = 0;
    ssize_t n = read(h->errors, text, sizeof(text) - 1);
    close(h->errors);
    if (n <= 0)
        return;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    say(control, text);
}

// ---- sockets ----

static int connect_path(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    int code = errno;
    if (fd >= 0)
        close(fd);
    return -code;
}

// ---- NBD ----

// Connects without waiting longer than the machine lives. The descriptor or -errno.
static int connect_address(int control, const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int code = connect(fd, at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    if (code == EINPROGRESS) {
        struct pollfd ends[2] = {{.fd = control, .events = POLLRDHUP},
                                 {.fd = fd, .events = POLLOUT}};
        socklen_t length = sizeof(code);
        if (poll(ends, 2, CONNECT_MS) <= 0 || ends[0].revents)
            code = ETIMEDOUT;
        else
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length);
    }
    if (code == 0) {
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        return fd;
    }
    close(fd);
    return -code;
}

static int connect_host(int control, const struct block_nbd_place *place)
{
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(place->host, place->port, &hints, &found);
    if (rc != 0)
        return -EHOSTUNREACH;
    rc = -EHOSTUNREACH;
    for (struct addrinfo *at = found; at && rc < 0; at = at->ai_next)
        rc = connect_address(control, at);
    freeaddrinfo(found);
    return rc;
}

static int connect_nbd(int control, const struct block_nbd_place *place)
{
    char text[NET_STREAM_TEXT];
    int fd = *place->path ? connect_path(place->path) : connect_host(control, place);
    if (fd < 0) {
        snprintf(text, sizeof(text), "its server can't be reached: %s", strerror(-fd));
        say(control, text);
    }
    return fd;
}

// The next connection: -errno when there is none yet.
static int obtain(struct net_helper *h, int control)
{
    if (h->forwards)
        return start_passt(h);
    if (h->nbd)
        return connect_nbd(control, h->nbd);
    if (h->listen_fd < 0)
        return connect_path(h->path);
    if (!wait_for(control, h->listen_fd, POLLIN, -1))
        return -ECANCELED;
    return local_socket_accept(h->listen_fd);
}

static void serve(int control, const void *opaque)
{
    struct net_helper h = *(const struct net_helper *)opaque;
    if (h.listen_fd >= 0)
        h.listen_fd = HELPER_EXTRA_FD;
    for (;;) {
        int fd = obtain(&h, control);
        if (fd >= 0 && helper_send(control, "c", 1, fd) == 0)
            wait_for(control, fd, POLLRDHUP, -1); // no other event: its end, or the machine's
        if (fd >= 0)
            close(fd);
        end_passt(&h, control);
        // Before the next attempt, so that one that fails at once doesn't spin.
        if (!wait_for(control, -1, 0, PAUSE_MS))
            return;
    }
}

// ---- starting ----

static bool passt_is_installed(void)
{
    char path[4096], *rest = path, *folder, file[4200];
    const char *search = getenv("PATH");
    snprintf(path, sizeof(path), "%s", search ? search : "/usr/bin:/bin");
    while ((folder = strsep(&rest, ":"))) {
        snprintf(file, sizeof(file), "%s/passt", folder);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

int helper_passt_start(const char *forwards, int *socket, struct error *err)
{
    const struct net_helper h = {.forwards = forwards, .listen_fd = -1};
    if (!passt_is_installed())
        return error_set(err, ENOENT,
                         "network 'user' needs passt, which isn't installed (Debian: "
                         "apt-get install passt)");
    return helper_start("ferry-passt", serve, &h, -1, socket, err);
}

int helper_stream_start(const char *path, bool listens, int *socket, struct error *err)
{
    struct net_helper h = {.path = path, .listen_fd = -1};
    if (listens) {
        h.listen_fd = local_socket_listen(path, err);
        if (h.listen_fd < 0)
            return error_prefix(err, "network socket");
    }
    int rc = helper_start("ferry-net", serve, &h, h.listen_fd, socket, err);
    if (h.listen_fd >= 0)
        close(h.listen_fd);
    return rc;
}

int helper_nbd_start(const char *address, int *socket, struct error *err)
{
    struct block_nbd_place place;
    const struct net_helper h = {.nbd = &place, .listen_fd = -1};
    int rc = block_nbd_parse(address, &place, err);
    return rc < 0 ? rc : helper_start("ferry-nbd", serve, &h, -1, socket, err);
}
