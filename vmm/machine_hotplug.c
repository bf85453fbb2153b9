#include "vmm/machine_hotplug.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "devices/block/block_image.h"
#include "devices/block/block_nbd.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_net.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_limits.h"
#include "vmm/machine_migration.h"

static void tell(struct machine *m, const char *event, const char *id)
{
    log_info("%s: %s", event, id);
    if (m->listener.device_event)
        m->listener.device_event(m->listener.opaque, event, id);
}

int machine_devices_may_change(const struct machine *m, struct error *err)
{
    if (machine_is_held(m))
        return error_set(err, EBUSY,
                         "devices can't be changed while a migration or snapshot is under way");
    if (machine_is_in_doubt(m))
        return error_set(err, EBUSY,
                         "devices can't be changed: the machine may be running where it was moved "
                         "to");
    if (m->state != MACHINE_RUNNING && m->state != MACHINE_PAUSED)
        return error_set(err, EBUSY, "devices can't be changed: the machine is %s",
                         machine_state_name(m->state));
    return 0;
}

// Index of the disk (network) with this id; -1.
static int find_disk(const struct machine *m, const char *id)
{
    char name[MACHINE_ID_SIZE];
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        snprintf(name, sizeof(name), "disk%u", m->config.disks[i].number);
        if (strcmp(name, id) == 0)
            return (int)i;
    }
    return -1;
}

static int find_net(const struct machine *m, const char *id)
{
    char name[MACHINE_ID_SIZE];
    for (unsigned i = 0; i < m->config.net_count; i++) {
        snprintf(name, sizeof(name), "net%u", m->config.nets[i].number);
        if (m->config.nets[i].kind != NET_NONE && strcmp(name, id) == 0)
            return (int)i;
    }
    return -1;
}

// The device behind an id that may come and go, or NULL with a sentence.
static struct device *find_removable(struct machine *m, const char *id, struct error *err)
{
    struct device *d = machine_devices_find(m, id);
    if (!d)
        error_set(err, ENODEV, "there is no device '%s' (`ferry device list` has them)", id);
    else if (find_disk(m, id) < 0 && find_net(m, id) < 0)
        error_set(err, ENOTSUP, "'%s' is no disk or network: only these come and go", id);
    else
        return d;
    return NULL;
}

// From the first change on the description says where each device is: another machine made from it
// (the target of a move) would otherwise close the gaps.
static void pin_slots(struct machine *m)
{
    char id[MACHINE_ID_SIZE];
    for (unsigned i = 0; i < m->config.disk_count; i++) {
        snprintf(id, sizeof(id), "disk%u", m->config.disks[i].number);
        const struct device *d = machine_devices_find(m, id);
        if (d)
            m->config.disks[i].slot = virtio_device_slot(d);
    }
    for (unsigned i = 0; i < m->config.net_count; i++) {
        snprintf(id, sizeof(id), "net%u", m->config.nets[i].number);
        const struct device *d = machine_devices_find(m, id);
        if (d)
            m->config.nets[i].slot = virtio_device_slot(d);
    }
}

// ---- adding ----

static int finish_add(struct machine *m, const char *id, struct error *err)
{
    struct device *d = machine_devices_find(m, id);
    int rc = pci_bus_assign(&m->pci, err);
    if (rc < 0) {
        machine_devices_remove(m, d);
        return rc;
    }
    pin_slots(m);
    pci_hotplug_insert(m->hotplug, virtio_device_slot(d));
    tell(m, "device-added", id);
    return 0;
}

int machine_add_disk(struct machine *m, json_t *disk, int fd, struct block_backend *connected,
                     char id[MACHINE_ID_SIZE], struct error *err)
{
    unsigned index = m->config.disk_count;
    int rc = machine_devices_may_change(m, err);
    if (rc == 0)
        rc = machine_config_add_disk_json(&m->config, disk, err);
    if (rc < 0)
        return rc;
    const struct disk_config *added = &m->config.disks[index];
    // What was never claimed under the machine's epoch has no second barrier against two users.
    if (machine_is_managed(m) && !added->read_only) {
        machine_config_remove_disk(&m->config, index);
        return error_set(
            err, EPERM,
            "this machine is managed by a cluster: a disk to write to has to be in its "
            "record there");
    }
    snprintf(id, MACHINE_ID_SIZE, "disk%u", added->number);
    rc = machine_config_check(&m->config, err);
    if (rc == 0)
        rc = block_nbd_is_address(added->path)
                 ? 0
                 : block_image_lock(fd, added->path, added->read_only, err);
    if (rc == 0) {
        m->files.disk_fds[index] = dup(fd);
        rc = m->files.disk_fds[index] < 0 ? error_set_errno(err, errno, "disk '%s'", added->path)
                                          : machine_devices_add_disk(m, index, connected, err);
        if (rc == 0)
            rc = finish_add(m, id, err);
        if (m->files.disk_fds[index] >= 0)
            close(m->files.disk_fds[index]);
        m->files.disk_fds[index] = -1;
    }
    if (rc < 0) {
        machine_config_remove_disk(&m->config, index);
        return rc;
    }
    close(fd);
    return 0;
}

static int add_net_files(struct machine *m, unsigned index, const int *fds, unsigned fd_count,
                         struct error *err)
{
    const struct net_config *net = &m->config.nets[index];
    if (fd_count != net->queues)
        return error_set(err, EINVAL,
                         "a network with %u queue pairs needs as many descriptors, not %u",
                         net->queues, fd_count);
    for (unsigned i = 0; i < fd_count; i++) {
        m->files.net_fds[index][i] = dup(fds[i]);
        if (m->files.net_fds[index][i] < 0)
            return error_set_errno(err, errno, "network %u", net->number);
    }
    return 0;
}

int machine_add_net(struct machine *m, json_t *net, const int *fds, unsigned fd_count, uint16_t mtu,
                    char id[MACHINE_ID_SIZE], struct error *err)
{
    int rc = machine_devices_may_change(m, err);
    if (rc < 0)
        return rc;
    if (m->config.net_count == 1 && m->config.nets[0].kind == NET_NONE)
        machine_config_remove_net(&m->config, 0);
    unsigned index = m->config.net_count;
    rc = machine_config_add_net_json(&m->config, net, err);
    if (rc < 0)
        return rc;
    snprintf(id, MACHINE_ID_SIZE, "net%u", m->config.nets[index].number);
    if (m->config.nets[index].kind == NET_NONE)
        rc = error_set(err, EINVAL, "'none' is no network that can be added");
    else
        rc = machine_config_check(&m->config, err);
    if (rc == 0)
        rc = add_net_files(m, index, fds, fd_count, err);
    m->files.net_mtus[index] = mtu;
    if (rc == 0)
        rc = machine_devices_add_net(m, index, err);
    if (rc == 0)
        rc = finish_add(m, id, err);
    for (unsigned i = 0; i < MACHINE_NET_QUEUES_LIMIT; i++) {
        if (m->files.net_fds[index][i] >= 0)
            close(m->files.net_fds[index][i]);
        m->files.net_fds[index][i] = -1;
    }
    if (rc < 0) {
        machine_config_remove_net(&m->config, index);
        return rc;
    }
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    return 0;
}

// ---- removing ----

// Those of the disks behind it move up.
static void forget_descriptor(int fds[MACHINE_DISKS_LIMIT], unsigned disk)
{
    memmove(&fds[disk], &fds[disk + 1], (MACHINE_DISKS_LIMIT - 1 - disk) * sizeof(fds[0]));
    fds[MACHINE_DISKS_LIMIT - 1] = -1;
}

// The vCPUs are parked.
static void remove_device(struct machine *m, struct device *d)
{
    char id[MACHINE_ID_SIZE];
    snprintf(id, sizeof(id), "%s", d->id);
    int disk = find_disk(m, id), net = find_net(m, id);
    pin_slots(m);
    pci_hotplug_forget(m->hotplug, virtio_device_slot(d));
    machine_devices_remove(m, d);
    if (disk >= 0) {
        // The kernel may hold on to the open file for a while (io_uring's exit is asynchronous):
        // the lock must not wait for that.
        block_image_unlock(m->lock_fds[disk]);
        close(m->lock_fds[disk]);
        if (m->files.epoch_fds[disk] >= 0)
            close(m->files.epoch_fds[disk]);
        machine_config_remove_disk(&m->config, (unsigned)disk);
        forget_descriptor(m->lock_fds, (unsigned)disk);
        forget_descriptor(m->files.epoch_fds, (unsigned)disk);
        memmove(&m->disks[disk], &m->disks[disk + 1],
                (size_t)(MACHINE_DISKS_LIMIT - 1 - disk) * sizeof(m->disks[0]));
        m->disks[MACHINE_DISKS_LIMIT - 1] = NULL;
    } else if (net >= 0) {
        machine_config_remove_net(&m->config, (unsigned)net);
    }
    tell(m, "device-removed", id);
}

void machine_hotplug_serve(struct machine *m)
{
    struct error ignored = {0};
    if (!m->hotplug || m->state == MACHINE_STOPPED)
        return;
    bool running = m->state == MACHINE_RUNNING, closed = atomic_exchange(&m->eject_waits, false);
    // Kept back, not refused: a guest can't be told that its eject failed.
    uint32_t slots = machine_is_held(m) ? 0 : pci_hotplug_take_ejected(m->hotplug);
    if (slots && running)
        vcpus_park(&m->vcpus);
    for (struct device *d = m->devices, *next; slots && d; d = next) {
        next = d->next;
        if (virtio_device_is(d) && (slots >> virtio_device_slot(d) & 1) &&
            find_removable(m, d->id, &ignored))
            remove_device(m, d);
    }
    if (closed || (slots && running))
        machine_let_go_on(m);
}

int machine_remove_device(struct machine *m, const char *id, bool force, bool *gone,
                          struct error *err)
{
    *gone = false;
    int rc = machine_devices_may_change(m, err);
    if (rc < 0)
        return rc;
    struct device *d = find_removable(m, id, err);
    if (!d)
        return -err->code;
    if (!force) {
        pci_hotplug_ask_removal(m->hotplug, virtio_device_slot(d));
        return 0;
    }
    unsigned slot = virtio_device_slot(d);
    if (m->state == MACHINE_RUNNING)
        vcpus_park(&m->vcpus);
    remove_device(m, d);
    pci_hotplug_insert(m->hotplug, slot); // the guest looks, and finds nothing
    machine_let_go_on(m);
    *gone = true;
    return 0;
}

// ---- resizing ----

int machine_resize_disk(struct machine *m, const char *id, uint64_t *size, struct error *err)
{
    struct stat st;
    int rc = machine_devices_may_change(m, err);
    if (rc < 0)
        return rc;
    int index = find_disk(m, id);
    if (index < 0)
        return error_set(err, ENODEV, "there is no disk '%s'", id);
    const struct disk_config *disk = &m->config.disks[index];
    int fd = m->lock_fds[index];
    if (fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "disk '%s'", disk->path);
    if (*size) {
        char text[32];
        if (!S_ISREG(st.st_mode) || disk->read_only)
            return error_set(err, ENOTSUP, "disk '%s' is %s: its size can only be looked at again",
                             disk->path, disk->read_only ? "read-only" : "no file");
        if (*size < (uint64_t)st.st_size)
            return error_set(err, EINVAL, "disk '%s' has %s: it can only be made larger",
                             disk->path,
                             units_format_size((uint64_t)st.st_size, text, sizeof(text)));
        if (*size % 512)
            return error_set(err, EINVAL, "a disk's size is a multiple of 512 bytes");
        if (ftruncate(fd, (off_t)*size) < 0)
            return error_set_errno(err, errno, "disk '%s' can't be made larger", disk->path);
    }
    rc = virtio_blk_refresh_size(machine_devices_find(m, id), err);
    if (rc < 0)
        return rc;
    *size = virtio_blk_size(machine_devices_find(m, id));
    tell(m, "device-resized", id);
    return 0;
}

// ---- limits ----

int machine_set_limits(struct machine *m, const char *id, const json_t *limits, json_t **now,
                       struct error *err)
{
    int rc = machine_devices_may_change(m, err);
    if (rc < 0)
        return rc;
    int disk = find_disk(m, id), net = find_net(m, id);
    if (disk < 0 && net < 0)
        return error_set(err, ENODEV, "there is no disk or network '%s'", id);
    struct rate_limits *have =
        disk >= 0 ? &m->config.disks[disk].limits : &m->config.nets[net].limits;
    struct rate_limits wanted = *have;
    struct device *d = machine_devices_find(m, id);
    rc = machine_limits_from_json(&wanted, limits, err);
    if (rc < 0)
        return rc;
    rc = disk >= 0 ? virtio_blk_set_limits(d, &wanted) : virtio_net_set_limits(d, &wanted);
    if (rc < 0)
        return error_set_errno(err, -rc, "setting the limits of '%s'", id);
    *have = wanted;
    *now = machine_limits_to_json(have);
    tell(m, "device-changed", id);
    return 0;
}

int machine_set_link(struct machine *m, const char *id, bool up, struct error *err)
{
    int rc = machine_devices_may_change(m, err);
    if (rc < 0)
        return rc;
    if (find_net(m, id) < 0)
        return error_set(err, ENODEV, "there is no network '%s'", id);
    struct device *d = machine_devices_find(m, id);
    if (virtio_net_link_is_up(d) == up)
        return 0;
    virtio_net_set_link(d, up);
    tell(m, "device-changed", id);
    return 0;
}

// ---- looking ----

json_t *machine_list_devices(struct machine *m)
{
    json_t *array = json_array();
    for (struct device *d = m->devices; d; d = d->next) {
        if (!virtio_device_is(d))
            continue;
        int disk = find_disk(m, d->id), net = find_net(m, d->id);
        json_t *object = json_object();
        json_object_set_new(object, "id", json_string(d->id));
        json_object_set_new(object, "kind", json_string(d->ops->kind));
        json_object_set_new(object, "slot", json_integer(virtio_device_slot(d)));
        json_object_set_new(object, "removable", json_boolean(disk >= 0 || net >= 0));
        if (disk >= 0) {
            json_object_set_new(object, "disk",
                                machine_config_disk_json(&m->config, (unsigned)disk));
            json_object_set_new(object, "size_bytes", json_integer((json_int_t)virtio_blk_size(d)));
        }
        if (net >= 0) {
            json_object_set_new(object, "net", machine_config_net_json(&m->config, (unsigned)net));
            json_object_set_new(object, "link",
                                json_string(virtio_net_link_is_up(d) ? "up" : "down"));
        }
        json_array_append_new(array, object);
    }
    return array;
}
