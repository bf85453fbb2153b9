// The disks of a machine as a whole: their locks, and whose they are.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cluster_mutant.h"
#include "base/log.h"
#include "devices/block/block_image.h"
#include "devices/block/block_nbd.h"
#include "vmm/disk_epoch.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"

// An NBD disk has nothing to lock: who may use it is its server's to say. What was written to it
// and completed is seen by whoever uses it next, so there is nothing to flush for that either.
static bool is_file(const struct disk_config *disk)
{
    return !block_nbd_is_address(disk->path);
}

static bool is_to_be_flushed(const struct disk_config *disk)
{
    return !disk->read_only && is_file(disk);
}

int machine_disks_lock(struct machine *m, struct error *err)
{
    if (CLUSTER_IS_MUTANT(NO_DISK_LOCK))
        return 0;
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        const struct disk_config *disk = &m->config.disks[i];
        int rc =
            is_file(disk) ? block_image_lock(m->lock_fds[i], disk->path, disk->read_only, err) : 0;
        if (rc < 0) {
            while (i-- > 0)
                if (is_file(&m->config.disks[i]))
                    block_image_unlock(m->lock_fds[i]);
            return rc;
        }
    }
    return 0;
}

void machine_disks_unlock(struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (is_file(&m->config.disks[i]))
            block_image_unlock(m->lock_fds[i]);
}

int machine_disks_release(struct machine *m, struct error *err)
{
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        if (is_to_be_flushed(&m->config.disks[i]) && fdatasync(m->lock_fds[i]) < 0)
            return error_set_errno(err, errno, "flushing disk '%s'", m->config.disks[i].path);
    }
    machine_disks_unlock(m);
    return 0;
}

void machine_disks_give_up(struct machine *m)
{
    for (unsigned i = 0; i < m->config.disk_count; i++)
        if (is_to_be_flushed(&m->config.disks[i]) && fdatasync(m->lock_fds[i]) < 0)
            log_error("flushing disk '%s': %s", m->config.disks[i].path, strerror(errno));
    machine_disks_unlock(m);
}

int machine_disks_claim(struct machine *m, uint64_t epoch, uint64_t most, struct error *err)
{
    bool new_disks = machine_lease_has_new_disks(m);
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        if (m->files.epoch_fds[i] < 0)
            continue;
        int rc = disk_epoch_claim(m->files.epoch_fds[i], m->config.disks[i].path, &m->config.uuid,
                                  epoch, most, new_disks, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int machine_disks_acquire(struct machine *m, struct error *err)
{
    if (!machine_lease_holds(m))
        return error_set(err, ETIMEDOUT,
                         "the machine's lease is lost: its disks may be another host's now");
    int rc = machine_disks_lock(m, err);
    if (rc < 0 || !m->managed)
        return rc;
    uint64_t epoch = machine_lease_epoch(m);
    rc = machine_disks_claim(m, epoch, epoch, err);
    if (rc < 0)
        machine_disks_unlock(m);
    return rc;
}

int machine_file_fingerprint(int fd, uint64_t *size, uint64_t *changed_ns)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    *changed_ns = S_ISREG(st.st_mode)
                      ? (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec
                      : 0;
    return 0;
}

int machine_disk_fingerprint(struct machine *m, unsigned index, uint64_t *size,
                             uint64_t *changed_ns, struct error *err)
{
    const struct disk_config *disk = &m->config.disks[index];
    if (!is_file(disk)) { // nothing of it can be compared
        *size = *changed_ns = 0;
        return 0;
    }
    if (!disk->read_only && fdatasync(m->lock_fds[index]) < 0)
        return error_set_errno(err, errno, "flushing disk '%s'", disk->path);
    int rc = machine_file_fingerprint(m->lock_fds[index], size, changed_ns);
    return rc < 0 ? error_set_errno(err, -rc, "disk '%s'", disk->path) : 0;
}
