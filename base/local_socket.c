#include "base/local_socket.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

static int fill_address(struct sockaddr_un *address, const char *path, struct error *err)
{
    size_t length = strlen(path);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    _Static_assert(sizeof(address->sun_path) == LOCAL_SOCKET_PATH_LIMIT, "sockaddr_un");
    if (length >= sizeof(address->sun_path))
        return error_set(err, ENAMETOOLONG,
                         "the socket's path '%s' has %zu bytes and %zu is the most: choose a "
                         "shorter runtime directory or name",
                         path, length, sizeof(address->sun_path) - 1);
    memcpy(address->sun_path, path, length + 1);
    return 0;
}

int local_socket_bind(const char *path, struct error *err)
{
    struct sockaddr_un address;
    int r = fill_address(&address, path, err);
    if (r)
        return r;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "making a socket");
    // The mode of the socket is that of the file which bind() makes (under the umask), so there is
    // no moment at which others could connect.
    if (fchmod(fd, 0600) != 0 || (unlink(path) != 0 && errno != ENOENT) ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        r = error_set_errno(err, errno, "making the socket '%s'", path);
        close(fd);
        return r;
    }
    return fd;
}

int local_socket_listen(const char *path, struct error *err)
{
    int fd = local_socket_bind(path, err);
    if (fd >= 0 && listen(fd, LOCAL_SOCKET_BACKLOG) != 0) {
        int r = error_set_errno(err, errno, "listening at '%s'", path);
        close(fd);
        return r;
    }
    return fd;
}

int local_socket_connect(const char *path, struct error *err)
{
    struct sockaddr_un address;
    int r = fill_address(&address, path, err);
    if (r)
        return r;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set_errno(err, errno, "making a socket");
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        if (errno == EINTR)
            continue;
        r = error_set_errno(err, errno, "connecting to '%s'", path);
        close(fd);
        return r;
    }
    return fd;
}

// Whether this process's user namespace has that user. From within one that maps only this user,
// root outside of it looks like any other: by a number that stands for whoever can't be named.
// (Lines: first here, first outside, how many. user_namespaces(7))
static bool user_has_a_name(uid_t uid)
{
    unsigned first, outside, count;
    bool found = false;
    FILE *map = fopen("/proc/self/uid_map", "re");
    if (!map)
        return true;
    while (!found && fscanf(map, "%u %u %u", &first, &outside, &count) == 3)
        found = uid >= first && uid - first < count;
    fclose(map);
    return found;
}

static bool peer_is_allowed(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return false;
    if (peer.uid == 0 || peer.uid == geteuid())
        return true;
    // Only root gets past the mode of such a socket; and nobody was handed one.
    if (!user_has_a_name(peer.uid))
        return true;
    log_warning("refused a connection of process %d, user %u", (int)peer.pid, (unsigned)peer.uid);
    return false;
}

int local_socket_accept(int listen_fd)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            if (peer_is_allowed(fd))
                return fd;
            close(fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return -errno;
        }
    }
}

pid_t local_socket_peer_pid(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? peer.pid : 0;
}
