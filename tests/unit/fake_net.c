#include "tests/unit/fake_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct fake_net *from_backend(struct net_backend *backend)
{
    return (struct fake_net *)backend; // its first member
}

static int receive_fd(struct net_backend *backend, unsigned queue)
{
    return from_backend(backend)->device_fds[queue];
}

static ssize_t receive(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                       unsigned count)
{
    ssize_t n = readv(from_backend(backend)->device_fds[queue], iov, (int)count);
    return n < 0 ? -errno : n;
}

static ssize_t send_frame(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                          unsigned count)
{
    ssize_t n = writev(from_backend(backend)->device_fds[queue], iov, (int)count);
    return n < 0 ? -errno : n;
}

static int set_receive_offloads(struct net_backend *backend, unsigned offloads)
{
    if (from_backend(backend)->refuse_offloads)
        return -EINVAL;
    from_backend(backend)->receive_offloads = offloads;
    return 0;
}

static int enable_queue(struct net_backend *backend, unsigned queue, bool enabled)
{
    from_backend(backend)->enabled[queue] = enabled;
    return 0;
}

static void destroy(struct net_backend *backend)
{
    from_backend(backend)->destroyed = true;
}

static const struct net_backend_ops fake_ops = {
    .receive_fd = receive_fd,
    .receive = receive,
    .send = send_frame,
    .set_receive_offloads = set_receive_offloads,
    .enable_queue = enable_queue,
    .destroy = destroy,
};

void fake_net_init(struct fake_net *f, unsigned queue_pairs)
{
    const unsigned all =
        NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
    memset(f, 0, sizeof(*f));
    f->backend = (struct net_backend){.ops = &fake_ops,
                                      .queue_pairs = queue_pairs,
                                      .send_offloads = all,
                                      .receive_offloads = all,
                                      .mtu = 1500};
    for (unsigned i = 0; i < queue_pairs; i++) {
        int pair[2];
        const int size = 1 << 20;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
            abort();
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        f->device_fds[i] = pair[0];
        f->network_fds[i] = pair[1];
    }
}

void fake_net_free(struct fake_net *f)
{
    for (unsigned i = 0; i < f->backend.queue_pairs; i++) {
        close(f->device_fds[i]);
        close(f->network_fds[i]);
    }
}
