#include "devices/net/net_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct net_tap {
    struct net_backend backend; // first
    int fds[NET_QUEUE_PAIRS_LIMIT];
    bool enabled[NET_QUEUE_PAIRS_LIMIT];
};

static int tap_receive_fd(struct net_backend *backend, unsigned queue)
{
    return ((struct net_tap *)backend)->fds[queue];
}

static ssize_t tap_receive(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                           unsigned count)
{
    struct net_tap *tap = (struct net_tap *)backend;
    ssize_t n;
    do
        n = readv(tap->fds[queue], iov, (int)count);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t tap_send(struct net_backend *backend, unsigned queue, const struct iovec *iov,
                        unsigned count)
{
    struct net_tap *tap = (struct net_tap *)backend;
    ssize_t n;
    do
        n = writev(tap->fds[queue], iov, (int)count);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static const struct {
    unsigned offload, flag;
} offload_flags[] = {
    {NET_OFFLOAD_CHECKSUM, TUN_F_CSUM},
    {NET_OFFLOAD_TSO4, TUN_F_TSO4},
    {NET_OFFLOAD_TSO6, TUN_F_TSO6},
    {NET_OFFLOAD_ECN, TUN_F_TSO_ECN},
};

static int set_offloads(int fd, unsigned offloads)
{
    unsigned flags = 0;
    for (unsigned i = 0; i < sizeof(offload_flags) / sizeof(offload_flags[0]); i++)
        if (offloads & offload_flags[i].offload)
            flags |= offload_flags[i].flag;
    return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

static int tap_set_receive_offloads(struct net_backend *backend, unsigned offloads)
{
    // A property of the interface, so one queue is enough.
    return set_offloads(((struct net_tap *)backend)->fds[0], offloads);
}

static int tap_enable_queue(struct net_backend *backend, unsigned queue, bool enabled)
{
    struct net_tap *tap = (struct net_tap *)backend;
    if (tap->backend.queue_pairs == 1 || tap->enabled[queue] == enabled)
        return 0;
    struct ifreq request = {.ifr_flags = enabled ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
    if (ioctl(tap->fds[queue], TUNSETQUEUE, &request) < 0)
        return -errno;
    tap->enabled[queue] = enabled;
    return 0;
}

static void tap_destroy(struct net_backend *backend)
{
    struct net_tap *tap = (struct net_tap *)backend;
    for (unsigned i = 0; i < backend->queue_pairs; i++)
        close(tap->fds[i]);
    free(tap);
}

static const struct net_backend_ops tap_ops = {
    .receive_fd = tap_receive_fd,
    .receive = tap_receive,
    .send = tap_send,
    .set_receive_offloads = tap_set_receive_offloads,
    .enable_queue = tap_enable_queue,
    .destroy = tap_destroy,
};

static int open_queue(const char *interface, unsigned queues, struct error *err)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno,
                               "tap '%s': /dev/net/tun can't be opened (module tun loaded, and you "
                               "allowed to?)",
                               interface);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (queues > 1)
        request.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(request.ifr_name, interface, strlen(interface));
    if (ioctl(fd, TUNSETIFF, &request) == 0)
        return fd;
    int code = errno;
    close(fd);
    if (code == EBUSY)
        return error_set(err, code, "tap '%s' is in use by another process", interface);
    if (code == EPERM)
        return error_set(err, code,
                         "tap '%s': not allowed; as root: ip tuntap add %s mode tap user $USER",
                         interface, interface);
    if (code == EINVAL)
        return error_set(err, code, "tap '%s' exists as something else (not a tap, or made %s)",
                         interface, queues > 1 ? "for a single queue" : "for several queues");
    return error_set_errno(err, code, "tap '%s' can't be opened", interface);
}

int net_tap_open(const char *interface, unsigned queues, int *fds, struct error *err)
{
    if (!interface[0] || strlen(interface) >= IFNAMSIZ)
        return error_set(err, EINVAL, "tap '%s': an interface name has 1 to %d bytes", interface,
                         IFNAMSIZ - 1);
    if (queues == 0 || queues > NET_QUEUE_PAIRS_LIMIT)
        return error_set(err, EINVAL, "tap '%s': 1 to %d queues", interface, NET_QUEUE_PAIRS_LIMIT);
    // TUNSETIFF would make one, which nobody has connected with anything.
    if (if_nametoindex(interface) == 0)
        return error_set(err, ENODEV,
                         "tap '%s': there is no such interface; as root: ip tuntap add %s mode tap "
                         "user $USER%s",
                         interface, interface, queues > 1 ? " multi_queue" : "");
    for (unsigned i = 0; i < queues; i++) {
        fds[i] = open_queue(interface, queues, err);
        if (fds[i] < 0) {
            int rc = fds[i];
            while (i > 0)
                close(fds[--i]);
            return rc;
        }
    }
    return 0;
}

uint16_t net_tap_mtu(const char *interface)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    int rc = ioctl(fd, SIOCGIFMTU, &request);
    close(fd);
    return rc < 0 || request.ifr_mtu < NET_MTU_LEAST || request.ifr_mtu > UINT16_MAX
               ? 0
               : (uint16_t)request.ifr_mtu;
}

// Checks one descriptor and sets the header format. Fills in the interface's name.
static int set_up_queue(int fd, char *interface, struct error *err)
{
    struct ifreq request = {0};
    if (ioctl(fd, TUNGETIFF, &request) < 0)
        return error_set_errno(err, errno, "a network descriptor is no tap");
    memcpy(interface, request.ifr_name, IFNAMSIZ);
    interface[IFNAMSIZ - 1] = 0;
    if (!(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_NO_PI) ||
        !(request.ifr_flags & IFF_VNET_HDR))
        return error_set(err, EINVAL, "'%s' isn't open as a tap with virtio header (IFF_VNET_HDR)",
                         interface);
    int header_size = NET_HEADER_SIZE, little_endian = 1;
    int flags = fcntl(fd, F_GETFL);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 ||
        ioctl(fd, TUNSETVNETLE, &little_endian) < 0 || flags < 0 ||
        fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return error_set_errno(err, errno, "tap '%s' can't be set up", interface);
    return 0;
}

int net_tap_create(struct net_backend **backend, const int *fds, unsigned queues, uint16_t mtu,
                   struct error *err)
{
    char interface[IFNAMSIZ] = "";
    if (queues == 0 || queues > NET_QUEUE_PAIRS_LIMIT)
        return error_set(err, EINVAL, "a tap has 1 to %d queues", NET_QUEUE_PAIRS_LIMIT);
    for (unsigned i = 0; i < queues; i++) {
        int rc = set_up_queue(fds[i], interface, err);
        if (rc < 0)
            return rc;
    }
    struct net_tap *tap = calloc(1, sizeof(*tap));
    if (!tap)
        return error_set(err, ENOMEM, "tap '%s': no memory", interface);
    tap->backend.ops = &tap_ops;
    tap->backend.queue_pairs = queues;
    // The kernel takes any frame that virtio knows, and segments it where the other end can't.
    tap->backend.send_offloads =
        NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
    // What it may send up is asked for by trying.
    for (unsigned i = 0, wanted = 0; i < sizeof(offload_flags) / sizeof(offload_flags[0]); i++) {
        wanted = tap->backend.receive_offloads | offload_flags[i].offload;
        if (set_offloads(fds[0], wanted) == 0)
            tap->backend.receive_offloads = wanted;
    }
    set_offloads(fds[0], 0);
    tap->backend.mtu = mtu;
    for (unsigned i = 0; i < queues; i++) {
        tap->fds[i] = fds[i];
        tap->enabled[i] = true;
    }
    *backend = &tap->backend;
    return 0;
}
