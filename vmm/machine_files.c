// What is opened by name for a machine, before it starts.
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "devices/block/block_image.h"
#include "devices/block/block_nbd.h"
#include "devices/net/net_tap.h"
#include "vmm/disk_epoch.h"
#include "vmm/helper.h"
#include "vmm/machine.h"

static int open_kvm(struct error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return error_set(err, errno,
                         "/dev/kvm: this host offers no KVM (is virtualisation on in the firmware, "
                         "and kvm_intel or kvm_amd loaded? `ferry doctor` says more)");
    case EACCES:
    case EPERM:
        return error_set(err, errno,
                         "/dev/kvm: no right to open it (join the group kvm: "
                         "`usermod -aG kvm USER`, then log in again)");
    default:
        return error_set_errno(err, errno, "opening /dev/kvm");
    }
}

static int open_image(const char *what, const char *path, struct error *err)
{
    // Not blocking, so that a FIFO can't hold the start up; it is refused when it is read.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 ? fd : error_set_errno(err, errno, "%s '%s'", what, path);
}

int machine_files_open_disk(const struct disk_config *disk, struct error *err)
{
    struct block_file_config config = {.cache = disk->cache, .read_only = disk->read_only};
    if (!block_nbd_is_address(disk->path))
        return block_image_open(disk->path, &config, err);
    int socket;
    int rc = helper_nbd_start(disk->path, &socket, err);
    return rc < 0 ? rc : socket;
}

static int open_disk(const struct disk_config *disk, bool lock, struct error *err)
{
    int fd = machine_files_open_disk(disk, err);
    if (fd < 0 || !lock || block_nbd_is_address(disk->path))
        return fd;
    int rc = block_image_claim(fd, disk->path, disk->read_only, err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

static int open_images(struct machine_files *files, const struct machine_config *config,
                       struct error *err)
{
    files->kernel_fd = open_image("kernel", config->kernel, err);
    if (files->kernel_fd < 0)
        return files->kernel_fd;
    if (config->initrd) {
        files->initrd_fd = open_image("initrd", config->initrd, err);
        if (files->initrd_fd < 0)
            return files->initrd_fd;
    }
    return 0;
}

int machine_files_open_net(const struct net_config *net, int fds[MACHINE_NET_QUEUES_LIMIT],
                           struct error *err)
{
    switch (net->kind) {
    case NET_TAP:
        return net_tap_open(net->interface, net->queues, fds, err);
    case NET_USER:
        return helper_passt_start(net->forwards ? net->forwards : "", &fds[0], err);
    case NET_SOCKET:
        return helper_stream_start(net->interface, net->listens, &fds[0], err);
    case NET_NONE:
        break;
    }
    return 0;
}

static int open_vsock(struct machine_files *files, const char *path, struct error *err)
{
    files->vsock_fd = local_socket_listen(path, err);
    if (files->vsock_fd < 0)
        return error_prefix(err, "vsock");
    return helper_vsock_start(path, &files->vsock_helper_fd, err);
}

static int open_devices(struct machine_files *files, const struct machine_config *config,
                        bool lock_disks, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        files->disk_fds[i] = open_disk(&config->disks[i], lock_disks, err);
        if (files->disk_fds[i] < 0)
            return files->disk_fds[i];
    }
    for (unsigned i = 0; i < config->net_count; i++) {
        int rc = machine_files_open_net(&config->nets[i], files->net_fds[i], err);
        if (rc < 0)
            return rc;
        files->net_mtus[i] =
            config->nets[i].kind == NET_TAP ? net_tap_mtu(config->nets[i].interface) : 0;
    }
    if (config->vsock.socket) {
        int rc = open_vsock(files, config->vsock.socket, err);
        if (rc < 0)
            return rc;
    }
    files->kvm_fd = open_kvm(err);
    return files->kvm_fd < 0 ? files->kvm_fd : 0;
}

static int open_all(struct machine_files *files, const struct machine_config *config,
                    bool lock_disks, struct error *err)
{
    memset(files, 0xff, sizeof(*files)); // all descriptors -1
    int rc = open_images(files, config, err);
    if (rc == 0)
        rc = open_devices(files, config, lock_disks, err);
    if (rc < 0)
        machine_files_close(files);
    return rc;
}

int machine_files_open(struct machine_files *files, const struct machine_config *config,
                       struct error *err)
{
    return open_all(files, config, true, err);
}

int machine_files_open_unlocked(struct machine_files *files, const struct machine_config *config,
                                struct error *err)
{
    return open_all(files, config, false, err);
}

int machine_files_open_incoming(struct machine_files *files, const struct machine_config *config,
                                struct error *err)
{
    memset(files, 0xff, sizeof(*files)); // all descriptors -1
    int rc = open_devices(files, config, false, err);
    if (rc < 0)
        machine_files_close(files);
    return rc;
}

int machine_files_open_epochs(struct machine_files *files, const struct machine_config *config,
                              bool new_disks, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct disk_config *disk = &config->disks[i];
        if (disk->read_only)
            continue;
        // What names its epoch and who may write lies beside a file.
        if (block_nbd_is_address(disk->path))
            return error_set(err, ENOTSUP,
                             "disk '%s': a cluster's machine can write to files only, as an NBD "
                             "server keeps no other host away",
                             disk->path);
        files->epoch_fds[i] = disk_epoch_open(files->disk_fds[i], disk->path, new_disks, err);
        if (files->epoch_fds[i] < 0)
            return files->epoch_fds[i];
    }
    return 0;
}

int machine_files_check_unmanaged(const struct machine_config *config, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++)
        if (!config->disks[i].read_only && disk_epoch_exists(config->disks[i].path))
            return error_set(err, EPERM,
                             "disk image '%s' is that of a machine which a cluster manages, as its "
                             "'.epoch' file says: let the cluster start it, or say --force",
                             config->disks[i].path);
    return 0;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void machine_files_close(struct machine_files *files)
{
    close_one(&files->kvm_fd);
    close_one(&files->kernel_fd);
    close_one(&files->initrd_fd);
    close_one(&files->vsock_fd);
    close_one(&files->vsock_helper_fd);
    for (unsigned i = 0; i < MACHINE_DISKS_LIMIT; i++) {
        close_one(&files->disk_fds[i]);
        close_one(&files->epoch_fds[i]);
    }
    for (unsigned i = 0; i < MACHINE_NETS_LIMIT; i++)
        for (unsigned j = 0; j < MACHINE_NET_QUEUES_LIMIT; j++)
            close_one(&files->net_fds[i][j]);
}
