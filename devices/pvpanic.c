#include "devices/pvpanic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct pvpanic {
    struct device device; // first
    struct machine_bus *machine;
    struct bus *ports;
    uint16_t port;
};

static uint64_t port_read(void *opaque, uint64_t offset, unsigned length)
{
    return PVPANIC_EVENTS; // what may be said
}

static void port_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct pvpanic *p = opaque;
    unsigned events = value & PVPANIC_EVENTS;
    if (events)
        p->machine->ops->request(p->machine->machine, MACHINE_REQUEST_PANIC, (int)events);
}

static const struct bus_handler handler = {.read = port_read, .write = port_write};

static void destroy(struct device *device)
{
    struct pvpanic *p = (struct pvpanic *)device; // its first member
    bus_remove(p->ports, p->port);
    free(p);
}

static const struct device_ops ops = {.kind = "pvpanic", .destroy = destroy};

int pvpanic_create(struct device **device, struct machine_bus *machine, struct bus *ports,
                   const struct pvpanic_config *config, struct error *err)
{
    struct pvpanic *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, ENOMEM, "panic device: no memory");
    p->device.ops = &ops;
    snprintf(p->device.id, sizeof(p->device.id), "%s", config->id);
    p->machine = machine;
    p->ports = ports;
    p->port = config->port;
    const struct bus_range range = {
        .start = config->port, .size = 1, .handler = &handler, .opaque = p, .name = "pvpanic"};
    int rc = bus_add(ports, &range);
    if (rc < 0) {
        free(p);
        return error_set_errno(err, -rc, "panic device: port 0x%x", config->port);
    }
    *device = &p->device;
    return 0;
}
