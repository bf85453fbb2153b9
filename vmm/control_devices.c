#include "vmm/control_devices.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/control_server.h"
#include "devices/block/block_nbd.h"
#include "devices/net/net_backend.h"
#include "vmm/machine_hotplug.h"

enum { CONNECTING_LIMIT = 8 }; // disks at a time, each of which has a thread

// A disk whose server is being waited for. The thread has it until it sends `done`, but for
// `cancelled`.
struct connecting {
    struct control_devices *owner;
    struct control_request *request;
    json_t *disk;
    int fd;                      // of the control socket, this one's own
    struct machine_config place; // with this one disk, as the thread wants to know it
    pthread_t thread;
    uv_async_t done;
    atomic_bool cancelled;
    int socket; // the same, the backend's from success on
    struct block_backend *backend;
    int result;
    struct error err;
};

struct control_devices {
    struct control_service service;
    struct machine *machine;
    uv_loop_t *loop;
    struct connecting *connecting[CONNECTING_LIMIT]; // NULL: free
};

// What is added: {"disk": {..., "file": {"fd": N}}} or {"net": {..., "files": [{"fd": N}, ...]}}.
// The description of the device is the rest of the object.

static int take_files(struct control_request *request, const json_t *list, int *fds,
                      unsigned *count, struct error *err)
{
    size_t i;
    json_t *value;
    *count = 0;
    if (!json_is_array(list) || json_array_size(list) > MACHINE_NET_QUEUES_LIMIT)
        return error_set(err, EINVAL, "\"files\" must be an array of up to %d descriptors",
                         MACHINE_NET_QUEUES_LIMIT);
    json_array_foreach(list, i, value)
    {
        int fd = control_request_take_fd(request, value, err);
        if (fd < 0)
            return fd;
        fds[(*count)++] = fd;
    }
    return 0;
}

// ---- disks of NBD servers ----

static void *connect_main(void *opaque)
{
    struct connecting *c = opaque;
    const struct disk_config *disk = &c->place.disks[0];
    const struct block_file_config file = {.cache = disk->cache, .read_only = disk->read_only};
    c->result = block_nbd_create(&c->backend, c->socket, disk->path, &file, &c->cancelled, &c->err);
    uv_async_send(&c->done);
    return NULL;
}

static void free_connecting(uv_handle_t *handle)
{
    struct connecting *c = handle->data;
    machine_config_free(&c->place);
    json_decref(c->disk);
    free(c);
}

// The thread has ended. What the machine hasn't taken goes.
static void end_connecting(struct connecting *c, bool taken)
{
    for (unsigned i = 0; i < CONNECTING_LIMIT; i++)
        if (c->owner->connecting[i] == c)
            c->owner->connecting[i] = NULL;
    if (c->result < 0)
        close(c->socket);
    else if (!taken)
        c->backend->ops->destroy(c->backend);
    if (!taken)
        close(c->fd);
    uv_close((uv_handle_t *)&c->done, free_connecting);
}

static void on_connected(uv_async_t *done)
{
    struct connecting *c = done->data;
    char id[MACHINE_ID_SIZE];
    pthread_join(c->thread, NULL);
    int rc = c->result;
    if (rc == 0) // things may have changed meanwhile: it is all checked again
        rc = machine_add_disk(c->owner->machine, c->disk, c->fd, c->backend, id, &c->err);
    if (rc < 0)
        control_request_fail_error(c->request, &c->err);
    else
        control_request_reply(c->request, json_pack("{s:s}", "id", id));
    end_connecting(c, rc == 0);
}

// `fd` is taken over on success.
static int begin_connecting(struct control_devices *d, struct control_request *request,
                            json_t *disk, int fd, struct error *err)
{
    unsigned place = 0;
    int rc = machine_devices_may_change(d->machine, err);
    if (rc < 0)
        return rc;
    while (place < CONNECTING_LIMIT && d->connecting[place])
        place++;
    if (place == CONNECTING_LIMIT)
        return error_set(err, EBUSY, "the servers of %d disks are being waited for already",
                         CONNECTING_LIMIT);
    struct connecting *c = calloc(1, sizeof(*c));
    if (!c || machine_config_init(&c->place) < 0) {
        free(c);
        return error_set(err, ENOMEM, "no memory for a disk");
    }
    c->owner = d;
    c->request = request;
    c->fd = fd;
    rc = machine_config_add_disk_json(&c->place, disk, err);
    c->socket = rc < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (rc == 0 && c->socket < 0)
        rc = error_set_errno(err, errno, "disk '%s'", c->place.disks[0].path);
    if (rc == 0 && (rc = uv_async_init(d->loop, &c->done, on_connected)) < 0)
        rc = error_set_errno(err, -rc, "disk '%s'", c->place.disks[0].path);
    if (rc < 0) {
        if (c->socket >= 0)
            close(c->socket);
        machine_config_free(&c->place);
        free(c);
        return rc;
    }
    c->done.data = c;
    c->disk = json_incref(disk);
    rc = -pthread_create(&c->thread, NULL, connect_main, c);
    if (rc < 0) {
        close(c->socket);
        uv_close((uv_handle_t *)&c->done, free_connecting);
        return error_set_errno(err, -rc, "starting a thread for a disk");
    }
    d->connecting[place] = c;
    return 0;
}

// *comes: the answer comes later.
static int add_disk(struct control_devices *d, struct control_request *request, json_t *disk,
                    char id[MACHINE_ID_SIZE], bool *comes, struct error *err)
{
    const char *path = json_string_value(json_object_get(disk, "path"));
    int fd = control_request_take_fd(request, json_object_get(disk, "file"), err);
    if (fd < 0)
        return fd;
    json_object_del(disk, "file");
    *comes = path && block_nbd_is_address(path);
    int rc = *comes ? begin_connecting(d, request, disk, fd, err)
                    : machine_add_disk(d->machine, disk, fd, NULL, id, err);
    if (rc < 0)
        close(fd);
    return rc;
}

// ---- methods ----

static int add_net(struct machine *machine, struct control_request *request, json_t *net,
                   char id[MACHINE_ID_SIZE], struct error *err)
{
    int fds[MACHINE_NET_QUEUES_LIMIT];
    unsigned count;
    int rc = take_files(request, json_object_get(net, "files"), fds, &count, err);
    json_object_del(net, "files");
    // The interface is out of this process's sight: its MTU is what the caller says.
    const json_t *mtu = json_object_get(net, "mtu");
    json_int_t bytes = json_integer_value(mtu);
    if (rc == 0 && mtu && (!json_is_integer(mtu) || bytes < NET_MTU_LEAST || bytes > UINT16_MAX))
        rc = error_set(err, EINVAL, "\"mtu\" must be a number from %d to %d", NET_MTU_LEAST,
                       UINT16_MAX);
    json_object_del(net, "mtu");
    if (rc == 0)
        rc = machine_add_net(machine, net, fds, count, (uint16_t)bytes, id, err);
    for (unsigned i = 0; rc < 0 && i < count; i++)
        close(fds[i]);
    return rc;
}

static struct machine *machine_of(void *opaque)
{
    return ((struct control_devices *)opaque)->machine;
}

static void device_add(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    bool comes = false;
    char id[MACHINE_ID_SIZE];
    json_t *disk = json_object_get(params, "disk"), *net = json_object_get(params, "net");
    int rc;
    if (json_is_object(disk) && !net)
        rc = add_disk(opaque, request, disk, id, &comes, &err);
    else if (json_is_object(net) && !disk)
        rc = add_net(machine_of(opaque), request, net, id, &err);
    else
        rc = error_set(&err, EINVAL, "device.add wants \"disk\" or \"net\", an object");
    if (rc < 0)
        control_request_fail_error(request, &err);
    else if (!comes)
        control_request_reply(request, json_pack("{s:s}", "id", id));
}

static const char *read_id(struct control_request *request, const json_t *params)
{
    const char *id = json_string_value(json_object_get(params, "id"));
    if (!id)
        control_request_fail(request, "invalid-params", "which device? \"id\" says it");
    return id;
}

static void device_remove(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    bool gone, force = json_is_true(json_object_get(params, "force"));
    const char *id = read_id(request, params);
    if (!id)
        return;
    if (machine_remove_device(machine_of(opaque), id, force, &gone, &err) != 0)
        control_request_fail_error(request, &err);
    else
        control_request_reply(request, json_pack("{s:b}", "removed", gone));
}

static void device_resize(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    const json_t *wanted = json_object_get(params, "size");
    const char *id = read_id(request, params);
    if (!id)
        return;
    if (wanted && (!json_is_integer(wanted) || json_integer_value(wanted) <= 0)) {
        control_request_fail(request, "invalid-params", "\"size\" must be a number of bytes");
        return;
    }
    uint64_t size = (uint64_t)json_integer_value(wanted);
    if (machine_resize_disk(machine_of(opaque), id, &size, &err) != 0)
        control_request_fail_error(request, &err);
    else
        control_request_reply(request, json_pack("{s:I}", "size_bytes", (json_int_t)size));
}

static void device_set(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    json_t *now = NULL, *link = json_object_get(params, "link");
    const json_t *limits = json_object_get(params, "limits");
    const char *id = read_id(request, params), *text = json_string_value(link);
    bool up = text && strcmp(text, "up") == 0;
    if (!id)
        return;
    if (link && !up && (!text || strcmp(text, "down") != 0)) {
        control_request_fail(request, "invalid-params", "\"link\" must be up or down");
        return;
    }
    int rc = limits || !link ? machine_set_limits(machine_of(opaque), id, limits, &now, &err) : 0;
    if (rc == 0 && link)
        rc = machine_set_link(machine_of(opaque), id, up, &err);
    if (rc < 0) {
        json_decref(now);
        control_request_fail_error(request, &err);
        return;
    }
    json_t *reply = json_pack("{s:s}", "id", id);
    if (now)
        json_object_set_new(reply, "limits", now);
    if (link)
        json_object_set(reply, "link", link);
    control_request_reply(request, reply);
}

static void device_list(void *opaque, struct control_request *request, json_t *params)
{
    control_request_reply(request,
                          json_pack("{s:o}", "devices", machine_list_devices(machine_of(opaque))));
}

static const struct control_method methods[] = {
    {"device.add", device_add}, {"device.remove", device_remove}, {"device.resize", device_resize},
    {"device.set", device_set}, {"device.list", device_list},     {NULL, NULL},
};

static const char *const features[] = {"devices", NULL};

int control_devices_create(struct control_devices **out, uv_loop_t *loop, struct control *control,
                           struct machine *machine, struct error *err)
{
    struct control_devices *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, ENOMEM, "control socket: out of memory");
    d->machine = machine;
    d->loop = loop;
    d->service = (struct control_service){methods, features, d, NULL};
    control_add_service(control, &d->service);
    *out = d;
    return 0;
}

void control_devices_destroy(struct control_devices *d)
{
    if (!d)
        return;
    for (unsigned i = 0; i < CONNECTING_LIMIT; i++) {
        struct connecting *c = d->connecting[i];
        if (!c)
            continue;
        atomic_store(&c->cancelled, true);
        pthread_join(c->thread, NULL);
        control_request_fail(c->request, "failed", "the machine has ended");
        end_connecting(c, false);
    }
    free(d);
}
