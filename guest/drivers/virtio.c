// Virtio 1.2: 3.1 (initialisation), 4.1 (PCI).
#include "guest/drivers/virtio.h"

#include "guest/drivers/virtio_common.h"
#include "guest/lib/console.h"
#include "guest/lib/memory.h"
#include "guest/lib/options.h"

enum {
    VENDOR_VIRTIO = 0x1af4,
    DEVICE_MODERN = 0x1040,
    CAPABILITY_VENDOR = 0x09,

    PCI_COMMON = 1,
    PCI_NOTIFY = 2,
    PCI_DEVICE = 4,

    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
};

struct search {
    enum virtio_type type;
    unsigned index;
    struct pci_device *found;
    bool success;
};

// Transitional devices have ids of their own (4.1.2.1) and the same capabilities.
static enum virtio_type device_type(uint16_t id)
{
    switch (id) {
    case 0x1000:
        return VIRTIO_NET;
    case 0x1001:
        return VIRTIO_BLK;
    case 0x1003:
        return VIRTIO_CONSOLE;
    case 0x1005:
        return VIRTIO_RNG;
    default:
        return (enum virtio_type)(id - DEVICE_MODERN);
    }
}

static bool search_visit(const struct pci_device *device, void *argument)
{
    struct search *search = argument;
    if (device->vendor != VENDOR_VIRTIO || device_type(device->device) != search->type ||
        search->index-- != 0)
        return true;
    *search->found = *device;
    search->success = true;
    return false;
}

// The mapped address of a virtio structure; 0 when the device lacks it. *capability is its place in
// config space.
static uint64_t structure_map(const struct pci_device *pci, uint8_t type, uint8_t *capability)
{
    for (uint8_t at = 0; (at = pci_capability(pci, CAPABILITY_VENDOR, at));) {
        if (pci_read8(pci, (uint16_t)(at + 3)) != type)
            continue;
        uint64_t bar = pci_bar_map(pci, pci_read8(pci, (uint16_t)(at + 4)));
        *capability = at;
        return bar ? bar + pci_read32(pci, (uint16_t)(at + 8)) : 0;
    }
    return 0;
}

static bool structures_map(struct virtio_device *device)
{
    uint8_t at = 0;
    device->common = (volatile struct virtio_common *)structure_map(&device->pci, PCI_COMMON, &at);
    device->config = (volatile uint8_t *)structure_map(&device->pci, PCI_DEVICE, &at);
    device->notify = (volatile uint8_t *)structure_map(&device->pci, PCI_NOTIFY, &at);
    if (device->notify)
        device->notify_multiplier = pci_read32(&device->pci, (uint16_t)(at + 16));
    return device->common && device->notify;
}

static bool features_agree(struct virtio_device *device, uint64_t wanted)
{
    volatile struct virtio_common *common = device->common;
    common->device_feature_select = 0;
    device->offered = common->device_feature;
    common->device_feature_select = 1;
    device->offered |= (uint64_t)common->device_feature << 32;

    wanted |= VIRTIO_F_VERSION_1;
    if (option_number("indirect", 1))
        wanted |= VIRTIO_F_INDIRECT;
    if (option_number("event_idx", 1))
        wanted |= VIRTIO_F_EVENT_IDX;
    device->features = device->offered & wanted;
    common->driver_feature_select = 0;
    common->driver_feature = (uint32_t)device->features;
    common->driver_feature_select = 1;
    common->driver_feature = (uint32_t)(device->features >> 32);
    common->device_status |= STATUS_FEATURES_OK;
    return common->device_status & STATUS_FEATURES_OK && device->features & VIRTIO_F_VERSION_1;
}

bool virtio_open(struct virtio_device *device, enum virtio_type type, unsigned index,
                 uint64_t wanted)
{
    struct search search = {.type = type, .index = index, .found = &device->pci};
    pci_visit(search_visit, &search);
    if (!search.success) {
        console_line("virtio type=%u index=%u not found", type, index);
        return false;
    }
    if (!structures_map(device) || !pci_msix_enable(&device->pci, &device->msix)) {
        console_line("virtio type=%u has no usable capabilities", type);
        return false;
    }
    device->common->device_status = 0;
    while (device->common->device_status)
        __builtin_ia32_pause();
    device->common->device_status = STATUS_ACKNOWLEDGE;
    device->common->device_status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    if (!features_agree(device, wanted)) {
        console_line("virtio type=%u features offered=0x%lx chosen=0x%lx refused", type,
                     device->offered, device->features);
        return false;
    }
    device->common->msix_config = 0xffff;
    return true;
}

void virtio_ready(struct virtio_device *device)
{
    device->common->device_status |= STATUS_DRIVER_OK;
}

bool virtio_needs_reset(const struct virtio_device *device)
{
    return device->common->device_status & STATUS_NEEDS_RESET;
}

void virtio_config_read(const struct virtio_device *device, unsigned offset, void *to,
                        unsigned size)
{
    uint8_t generation;
    do {
        generation = device->common->config_generation;
        for (unsigned i = 0; i < size; i++)
            ((uint8_t *)to)[i] = device->config[offset + i];
    } while (generation != device->common->config_generation);
}
