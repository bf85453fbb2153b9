// What a hostile driver does to the registers of a virtio device, to its PCI function and to its
// doorbells; hostile.h says which values it may use.
#include "guest/tests/hostile.h"

#include "guest/drivers/virtio_common.h"
#include "guest/lib/cpu.h"
#include "guest/lib/ports.h"
#include "guest/lib/random.h"
#include "guest/lib/time.h"

enum {
    REGISTER_COMMAND = 0x04,
    REGISTER_BARS = 0x10,
    CONFIG_ADDRESS = 0xcf8,
    CONFIG_DATA = 0xcfc,
    MSIX_CONTROL = 2, // in the capability
    COMMON_BYTES = 0x40,
    COMMON_QUEUE_ADDRESSES = 0x20,
    COMMON_QUEUE_ADDRESSES_END = 0x38,
    NOTIFY_BYTES = 0x200,
    DEVICE_CONFIG_BYTES = 0x80,
    PAGE = 0x1000,
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    RING_LIMIT = 256,
};

#define NO_RAM 0xc0000000ul // from here on, up to 4 GiB

// Of any width, as one access.
static void write_any(uint64_t address, uint64_t value, uint64_t *random)
{
    switch (random_below(random, 4)) {
    case 0:
        *(volatile uint8_t *)address = (uint8_t)value;
        break;
    case 1:
        *(volatile uint16_t *)address = (uint16_t)value;
        break;
    case 2:
        *(volatile uint32_t *)address = (uint32_t)value;
        break;
    default:
        *(volatile uint64_t *)address = value;
    }
}

static void read_any(uint64_t address, uint64_t *random)
{
    switch (random_below(random, 4)) {
    case 0:
        (void)*(volatile uint8_t *)address;
        break;
    case 1:
        (void)*(volatile uint16_t *)address;
        break;
    case 2:
        (void)*(volatile uint32_t *)address;
        break;
    default:
        (void)*(volatile uint64_t *)address;
    }
}

// A value for a register that takes no address, but might be let to one by the guest's own writes
// (the window in config space): as an address it is page 0 or no RAM.
static uint64_t word(uint64_t *random)
{
    if (random_below(random, 2))
        return random_below(random, 64);
    uint64_t low = (uint32_t)random_next(random) | 0xc0000000u;
    return low | (uint64_t)(uint32_t)random_next(random) << 32;
}

// ---- the common structure ----

static void address_register(volatile uint32_t *halves, uint64_t address, uint64_t *random)
{
    if (random_below(random, 3)) {
        halves[0] = (uint32_t)address;
        halves[1] = (uint32_t)(address >> 32);
    } else {
        *(volatile uint64_t *)halves = address;
    }
}

static void common_access(struct hostile_victim *victim, uint64_t *random)
{
    volatile struct virtio_common *common = victim->device.common;
    uint64_t base = (uint64_t)common, offset = random_below(random, COMMON_BYTES);
    switch (random_below(random, 12)) {
    case 0:
        common->device_status = (uint8_t)random_next(random);
        break;
    case 1:
        common->queue_select = (uint16_t)random_below(random, random_below(random, 2) ? 4 : 70);
        break;
    case 2:
        common->queue_size = (uint16_t)(random_below(random, 2) ? 1u << random_below(random, 16)
                                                                : random_next(random));
        break;
    case 3:
        common->queue_enable = (uint16_t)random_below(random, 3);
        break;
    case 4: // queue_reset
        *(volatile uint16_t *)(base + 0x3a) = (uint16_t)random_below(random, 3);
        break;
    case 5:
        address_register(common->queue_descriptors, hostile_table_address(random), random);
        break;
    case 6:
        address_register(common->queue_driver, hostile_available_address(random), random);
        break;
    case 7:
        address_register(common->queue_device, hostile_used_address(random), random);
        break;
    case 8:
        common->queue_msix_vector =
            (uint16_t)random_below(random, random_below(random, 2) ? 4 : 99);
        break;
    case 9:
        read_any(base + offset, random);
        break;
    case 10:
        hostile_program(victim, false, random);
        break;
    default:
        // Any place but for the addresses, which an access of eight bytes reaches from before.
        if (offset + 8 <= COMMON_QUEUE_ADDRESSES || offset >= COMMON_QUEUE_ADDRESSES_END)
            write_any(base + offset, random_next(random), random);
    }
}

// ---- PCI ----

// The two ways to config space that ferry offers: memory (ECAM) by the driver's functions, and the
// ports. Other functions of the bus are left alone: they are not this test's.
static void ports_access(const struct hostile_victim *victim, uint16_t offset, uint64_t *random)
{
    uint16_t port = (uint16_t)(CONFIG_DATA + random_below(random, 4));
    uint32_t value = (uint32_t)word(random);
    port_write32(CONFIG_ADDRESS, 0x80000000u | (uint32_t)victim->device.pci.slot << 11 |
                                     (uint32_t)victim->device.pci.function << 8 | (offset & 0xfcu));
    switch (random_below(random, 6)) {
    case 0:
        port_write8(port, (uint8_t)value);
        break;
    case 1:
        port_write16(port, (uint16_t)value);
        break;
    case 2:
        port_write32(port, value);
        break;
    case 3:
        port_read8(port);
        break;
    case 4:
        port_read16(port);
        break;
    default:
        port_read32(port);
    }
}

// Places for a BAR: within the window for devices, on top of others, or where none can be.
static uint32_t bar_place(const struct hostile_victim *victim, uint64_t *random)
{
    switch (random_below(random, 5)) {
    case 0:
        return victim->bars[0];
    case 1:
        return 0xc0000000u + (uint32_t)random_below(random, 16) * 0x8000u;
    case 2:
        return 0xfec00000u + (uint32_t)random_below(random, 2) * 0x200000u;
    case 3:
        return 0xffffffffu;
    default:
        return 0xc0000000u | (uint32_t)random_next(random);
    }
}

static void pci_access(struct hostile_victim *victim, uint64_t *random)
{
    const struct pci_device *pci = &victim->device.pci;
    uint16_t offset = (uint16_t)random_below(random, random_below(random, 4) ? 0x100 : PAGE);
    uint16_t control = (uint16_t)(victim->device.msix.capability + MSIX_CONTROL);
    switch (random_below(random, 8)) {
    case 0:
        pci_write16(pci, REGISTER_COMMAND, (uint16_t)random_next(random));
        break;
    case 1:
        pci_write32(pci, (uint16_t)(REGISTER_BARS + 4 * random_below(random, HOSTILE_BARS)),
                    bar_place(victim, random));
        break;
    case 2:
        pci_write16(pci, control, (uint16_t)random_next(random));
        break;
    case 3:
        pci_read32(pci, offset & 0xffcu);
        break;
    case 4:
    case 5:
        ports_access(victim, offset, random);
        break;
    default:
        pci_write32(pci, offset & 0xffcu, (uint32_t)word(random));
    }
}

// ---- MSI-X ----

// Messages: to any vCPU, there or not, with a vector that the stub counts. Four words an entry.
static void msix_access(struct hostile_victim *victim, uint64_t *random)
{
    struct pci_msix *msix = &victim->device.msix;
    unsigned entry = (unsigned)random_below(random, msix->entries);
    volatile uint32_t *words = msix->table + 4ul * entry;
    switch (random_below(random, 8)) {
    case 0:
        words[0] = 0xfee00000u | (uint32_t)random_next(random) % 0x100000u;
        break;
    case 1:
        words[1] = 0;
        break;
    case 2:
        words[2] = 0x40u + (uint32_t)random_below(random, 0xa0);
        break;
    case 3:
    case 4:
        words[3] = (uint32_t)random_next(random);
        break;
    case 5: // the mask bit by odd widths
        write_any((uint64_t)&words[3], random_next(random) & 0xff, random);
        break;
    case 6: // the pending bits, on the page behind the table, and beyond any table
        write_any(((uint64_t)msix->table & -(uint64_t)PAGE) + PAGE + random_below(random, 0x1ff8),
                  random_next(random), random);
        break;
    default:
        read_any((uint64_t)msix->table + random_below(random, 0x2ff0), random);
    }
}

// ---- everything ----

// Nothing that ends the device's work: reads, masks, its configuration, bells.
static void mild_access(struct hostile_victim *victim, uint64_t *random)
{
    switch (random_below(random, 8)) {
    case 0:
        read_any((uint64_t)victim->device.common + random_below(random, 4 * PAGE - 8), random);
        break;
    case 1:
        victim->device.msix.table[4 * random_below(random, victim->device.msix.entries) + 3] =
            (uint32_t)random_below(random, 2);
        break;
    case 2:
        pci_read32(&victim->device.pci, (uint16_t)(random_below(random, 0x40) * 4));
        break;
    case 3:
        if (victim->device.config)
            write_any((uint64_t)victim->device.config + random_below(random, DEVICE_CONFIG_BYTES),
                      random_next(random), random);
        break;
    default:
        hostile_kick(victim, random);
    }
}

void hostile_access(struct hostile_victim *victim, bool mild, uint64_t *random)
{
    // A broken ring ends the work until the next reset.
    if (virtio_needs_reset(&victim->device) && random_below(random, 2)) {
        hostile_program(victim, mild, random);
        return;
    }
    if (mild && random_below(random, 64)) {
        mild_access(victim, random);
        return;
    }
    switch (random_below(random, 16)) {
    case 0:
    case 1:
        pci_access(victim, random);
        break;
    case 2:
    case 3:
    case 4:
        msix_access(victim, random);
        break;
    case 5: // device configuration: the network card's MAC, a console's emergency write
        if (victim->device.config)
            write_any((uint64_t)victim->device.config + random_below(random, DEVICE_CONFIG_BYTES),
                      random_next(random), random);
        break;
    case 6:
        read_any((uint64_t)victim->device.common + random_below(random, 4 * PAGE - 8), random);
        break;
    case 7:
    case 8:
        hostile_kick(victim, random);
        break;
    default:
        common_access(victim, random);
    }
}

void hostile_kick(const struct hostile_victim *victim, uint64_t *random)
{
    uint64_t base = (uint64_t)victim->device.notify;
    if (random_below(random, 8))
        *(volatile uint16_t *)(base + random_below(random, HOSTILE_QUEUES) *
                                          victim->device.notify_multiplier) =
            (uint16_t)random_next(random);
    else
        write_any(base + random_below(random, NOTIFY_BYTES), random_next(random), random);
}

// What hostile_program() programs where, so that the rings can be filled afterwards.
static struct {
    volatile uint64_t table, available;
    volatile uint16_t size;
} programmed[HOSTILE_QUEUES];

static void agree(volatile struct virtio_common *common, uint64_t *random)
{
    uint64_t chosen = VIRTIO_F_VERSION_1;
    if (random_below(random, 2))
        chosen |= ~0ul;
    else if (random_below(random, 2))
        chosen |= VIRTIO_F_INDIRECT | VIRTIO_F_EVENT_IDX;
    else
        chosen |= random_next(random);
    common->device_status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    for (unsigned half = 0; half < 2; half++) {
        common->device_feature_select = half;
        common->driver_feature_select = half;
        common->driver_feature = (uint32_t)(chosen >> (32 * half)) &
                                 (random_below(random, 32) ? common->device_feature : 0xffffffffu);
    }
    common->device_status |= STATUS_FEATURES_OK;
}

static void program_queue(struct hostile_victim *victim, uint16_t index, bool mild,
                          uint64_t *random)
{
    volatile struct virtio_common *common = victim->device.common;
    uint64_t table = hostile_table_address(random);
    uint64_t available = hostile_available_address(random) & ~1ul;
    uint64_t used = hostile_used_address(random) & ~3ul;
    while (mild && (table >= NO_RAM || table % 256))
        table = hostile_table_address(random);
    while (mild && available >= NO_RAM)
        available = hostile_available_address(random) & ~1ul;
    while (mild && used >= NO_RAM)
        used = hostile_used_address(random) & ~3ul;
    uint16_t size = (uint16_t)(1u << random_below(random, 9));
    common->queue_select = index;
    common->queue_size = size;
    common->queue_msix_vector = (uint16_t)random_below(random, victim->device.msix.entries + 1u);
    address_register(common->queue_descriptors, table, random);
    address_register(common->queue_driver, available, random);
    address_register(common->queue_device, used, random);
    if (available < NO_RAM) {
        volatile uint16_t *ring = (volatile uint16_t *)available;
        ring[0] = ring[1] = 0;
        programmed[index].table = table;
        programmed[index].size = size;
        programmed[index].available = available;
    }
    common->queue_enable = 1;
}

void hostile_program(struct hostile_victim *victim, bool mild, uint64_t *random)
{
    volatile struct virtio_common *common = victim->device.common;
    common->device_status = 0;
    agree(common, random);
    for (uint16_t i = 0; i < victim->queue_count && i < HOSTILE_QUEUES; i++)
        program_queue(victim, i, mild, random);
    common->device_status |= STATUS_DRIVER_OK;
}

// Any mix of descriptors; most often an index that a ring can take, sometimes one that none could.
static void wild_ring(const struct hostile_victim *victim, uint64_t table, volatile uint16_t *ring,
                      uint64_t *random)
{
    for (unsigned i = 0; i < 8; i++)
        hostile_descriptor_write(victim, table, random);
    ring[2 + random_below(random, RING_LIMIT)] =
        (uint16_t)(random_below(random, 8) ? random_below(random, 32) : random_next(random));
    if (!random_below(random, 8)) // flags, used_event
        ring[random_below(random, 2) ? 0 : 2 + random_below(random, RING_LIMIT)] =
            (uint16_t)random_next(random);
    ring[1] = random_below(random, 32) ? (uint16_t)(ring[1] + random_below(random, 4))
                                       : (uint16_t)random_next(random);
}

void hostile_ring_write(const struct hostile_victim *victim, bool mild, uint64_t *random)
{
    unsigned queue = (unsigned)random_below(random, HOSTILE_QUEUES);
    if (victim->queue_count < HOSTILE_QUEUES)
        queue %= victim->queue_count;
    uint64_t table = programmed[queue].table, available = programmed[queue].available;
    uint16_t size = programmed[queue].size;
    hostile_buffers_write(victim, random);
    if (!available || !size || !victim->queue_count)
        return;
    volatile uint16_t *ring = (volatile uint16_t *)available;
    if (!mild || !random_below(random, 256)) {
        wild_ring(victim, table, ring, random);
        return;
    }
    // Of the form that this queue's requests have, as far as one can tell from its number.
    enum hostile_form form = (enum hostile_form)random_below(random, HOSTILE_FORMS);
    if (random_below(random, 8))
        form = victim->type == VIRTIO_BLK                   ? HOSTILE_BOTH
               : victim->type == VIRTIO_RNG || !(queue & 1) ? HOSTILE_WRITTEN
                                                            : HOSTILE_READ;
    ring[2 + ring[1] % size] = hostile_chain_write(victim, table, form, random);
    // The device must see the entry before the index that announces it.
    __atomic_thread_fence(__ATOMIC_RELEASE);
    ring[1]++;
}

bool hostile_restore(struct hostile_victim *victim)
{
    const struct pci_device *pci = &victim->device.pci;
    uint16_t control = (uint16_t)(victim->device.msix.capability + MSIX_CONTROL);
    pci_write16(pci, REGISTER_COMMAND, 0);
    for (unsigned i = 0; i < HOSTILE_BARS; i++)
        pci_write32(pci, (uint16_t)(REGISTER_BARS + 4 * i), victim->bars[i]);
    pci_write16(pci, control, 0);
    pci_write16(pci, REGISTER_COMMAND, victim->command);
    victim->device.common->device_status = 0;
    uint64_t limit = time_tsc() + 20 * time_tsc_hz();
    while (victim->device.common->device_status)
        if (time_tsc() > limit)
            return false;
    for (unsigned i = 0; i < HOSTILE_QUEUES; i++)
        programmed[i].available = 0;
    return true;
}
