#include "vmm/control_devices.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "devices/net/net_backend.h"
#include "vmm/machine_hotplug.h"

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

static int add_disk(struct machine *machine, struct control_request *request, json_t *disk,
                    char id[MACHINE_ID_SIZE], struct error *err)
{
    int fd = control_request_take_fd(request, json_object_get(disk, "file"), err);
    if (fd < 0)
        return fd;
    json_object_del(disk, "file");
    int rc = machine_add_disk(machine, disk, fd, id, err);
    if (rc < 0)
        close(fd);
    return rc;
}

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

static void device_add(void *opaque, struct control_request *request, json_t *params)
{
    struct error err = {0};
    char id[MACHINE_ID_SIZE];
    json_t *disk = json_object_get(params, "disk"), *net = json_object_get(params, "net");
    int rc;
    if (json_is_object(disk) && !net)
        rc = add_disk(opaque, request, disk, id, &err);
    else if (json_is_object(net) && !disk)
        rc = add_net(opaque, request, net, id, &err);
    else
        rc = error_set(&err, EINVAL, "device.add wants \"disk\" or \"net\", an object");
    if (rc < 0)
        control_request_fail_error(request, &err);
    else
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
    if (machine_remove_device(opaque, id, force, &gone, &err) != 0)
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
    if (machine_resize_disk(opaque, id, &size, &err) != 0)
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
    int rc = limits || !link ? machine_set_limits(opaque, id, limits, &now, &err) : 0;
    if (rc == 0 && link)
        rc = machine_set_link(opaque, id, up, &err);
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
    control_request_reply(request, json_pack("{s:o}", "devices", machine_list_devices(opaque)));
}

const struct control_method control_device_methods[] = {
    {"device.add", device_add}, {"device.remove", device_remove}, {"device.resize", device_resize},
    {"device.set", device_set}, {"device.list", device_list},     {NULL, NULL},
};

const char *const control_device_features[] = {"devices", NULL};
