#include "devices/pci_hotplug.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/state.h"

struct pci_hotplug {
    struct device device; // first
    struct bus *ports;
    struct pci_hotplug_config config;
    pthread_mutex_t lock; // guards the rest
    uint32_t inserted, removal, ejected;
};

static uint32_t read_register(struct pci_hotplug *h, unsigned offset)
{
    if (offset == PCI_HOTPLUG_PRESENT)
        return pci_bus_present(h->config.pci);
    pthread_mutex_lock(&h->lock);
    uint32_t value = offset == PCI_HOTPLUG_INSERTED ? h->inserted : h->removal;
    pthread_mutex_unlock(&h->lock);
    return value;
}

// Any access within a register reads the bytes that are there.
static uint64_t port_read(void *opaque, uint64_t offset, unsigned length)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < length && offset + i < PCI_HOTPLUG_LENGTH; i++) {
        uint64_t at = offset + i;
        value |= (uint64_t)(uint8_t)(read_register(opaque, at & ~3u) >> (8 * (at & 3))) << (8 * i);
    }
    return value;
}

// Only whole double words count: half a mask would mean other slots.
static void port_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct pci_hotplug *h = opaque;
    uint32_t slots = (uint32_t)value;
    if (length != 4 || offset % 4)
        return;
    if (offset == PCI_HOTPLUG_PRESENT)
        slots &= pci_bus_present(h->config.pci);
    pthread_mutex_lock(&h->lock);
    bool ejects = offset == PCI_HOTPLUG_PRESENT && slots;
    if (offset == PCI_HOTPLUG_INSERTED)
        h->inserted &= ~slots;
    else if (offset == PCI_HOTPLUG_REMOVAL)
        h->removal &= ~slots;
    else
        h->ejected |= slots;
    pthread_mutex_unlock(&h->lock);
    if (ejects)
        h->config.ejected(h->config.opaque);
}

static const struct bus_handler handler = {.read = port_read, .write = port_write};

void pci_hotplug_insert(struct pci_hotplug *h, unsigned slot)
{
    pthread_mutex_lock(&h->lock);
    h->inserted |= UINT32_C(1) << slot;
    pthread_mutex_unlock(&h->lock);
    acpi_pm_raise_gpe(h->config.pm, PCI_HOTPLUG_GPE);
}

void pci_hotplug_ask_removal(struct pci_hotplug *h, unsigned slot)
{
    pthread_mutex_lock(&h->lock);
    h->removal |= UINT32_C(1) << slot;
    pthread_mutex_unlock(&h->lock);
    acpi_pm_raise_gpe(h->config.pm, PCI_HOTPLUG_GPE);
}

void pci_hotplug_forget(struct pci_hotplug *h, unsigned slot)
{
    pthread_mutex_lock(&h->lock);
    h->inserted &= ~(UINT32_C(1) << slot);
    h->removal &= ~(UINT32_C(1) << slot);
    h->ejected &= ~(UINT32_C(1) << slot);
    pthread_mutex_unlock(&h->lock);
}

uint32_t pci_hotplug_take_ejected(struct pci_hotplug *h)
{
    pthread_mutex_lock(&h->lock);
    uint32_t slots = h->ejected;
    h->ejected = 0;
    pthread_mutex_unlock(&h->lock);
    return slots;
}

// Life and state

static struct pci_hotplug *from_device(struct device *device)
{
    return (struct pci_hotplug *)device; // the first member
}

struct device *pci_hotplug_device(struct pci_hotplug *h)
{
    return &h->device;
}

static void hotplug_reset(struct device *device)
{
    struct pci_hotplug *h = from_device(device);
    // The next kernel finds what is there by itself.
    pthread_mutex_lock(&h->lock);
    h->inserted = h->removal = h->ejected = 0;
    pthread_mutex_unlock(&h->lock);
}

static const struct state_field fields[] = {
    STATE_FIELD(STATE_U32, struct pci_hotplug, inserted),
    STATE_FIELD(STATE_U32, struct pci_hotplug, removal),
    STATE_FIELD(STATE_U32, struct pci_hotplug, ejected),
    {.name = NULL},
};

static const struct state_section section = {.name = "pci-hotplug", .version = 1, .fields = fields};

static void hotplug_save(struct device *device, struct byte_writer *writer)
{
    struct pci_hotplug *h = from_device(device);
    pthread_mutex_lock(&h->lock);
    state_section_save(&section, h, writer);
    pthread_mutex_unlock(&h->lock);
}

static int hotplug_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct pci_hotplug *h = from_device(device);
    pthread_mutex_lock(&h->lock);
    int rc = state_section_load(&section, h, reader, err);
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static void hotplug_destroy(struct device *device)
{
    struct pci_hotplug *h = from_device(device);
    bus_remove(h->ports, h->config.port);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static const struct device_ops ops = {
    .kind = "pci-hotplug",
    .reset = hotplug_reset,
    .save = hotplug_save,
    .load = hotplug_load,
    .destroy = hotplug_destroy,
};

int pci_hotplug_create(struct pci_hotplug **hotplug, struct bus *ports,
                       const struct pci_hotplug_config *config, struct error *err)
{
    struct pci_hotplug *h = calloc(1, sizeof(*h));
    if (!h)
        return error_set(err, ENOMEM, "PCI hot plug: no memory");
    h->device.ops = &ops;
    snprintf(h->device.id, sizeof(h->device.id), "%s", config->id);
    h->ports = ports;
    h->config = *config;
    pthread_mutex_init(&h->lock, NULL);
    const struct bus_range range = {.start = config->port,
                                    .size = PCI_HOTPLUG_LENGTH,
                                    .handler = &handler,
                                    .opaque = h,
                                    .name = "PCI hot plug"};
    int rc = bus_add(ports, &range);
    if (rc < 0) {
        pthread_mutex_destroy(&h->lock);
        free(h);
        return error_set_errno(err, -rc, "PCI hot plug: port 0x%x", config->port);
    }
    *hotplug = h;
    return 0;
}
