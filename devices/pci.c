#include "devices/pci.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"

enum {
    // Ports, from 0xcf8 on.
    CONFIG_PORTS = 0xcf8,
    CONFIG_PORTS_LENGTH = 8,
    PORT_ADDRESS = 0,
    PORT_RESET = 1,
    PORT_DATA = 4,
    RESET_CPU = 1 << 2, // reset control: begin the reset
    RESET_STORED = 0x0a,

    // Header of type 0 (PCI 3.0, 6.1).
    REG_VENDOR = 0x00,
    REG_DEVICE = 0x02,
    REG_COMMAND = 0x04,
    REG_STATUS = 0x06,
    REG_REVISION = 0x08,
    REG_CACHE_LINE = 0x0c,
    REG_BAR0 = 0x10,
    REG_SUBSYSTEM_VENDOR = 0x2c,
    REG_SUBSYSTEM = 0x2e,
    REG_CAPABILITIES = 0x34,
    REG_INTERRUPT_LINE = 0x3c,
    HEADER_END = 0x40,
    CAPABILITIES_LIMIT = 0x100,

    COMMAND_MEMORY = 1 << 1,
    COMMAND_MASTER = 1 << 2,
    COMMAND_PARITY = 1 << 6,
    COMMAND_SERR = 1 << 8,
    COMMAND_INTX_DISABLE = 1 << 10,
    STATUS_CAPABILITIES = 1 << 4,
};
#define ADDRESS_ENABLE   UINT32_C(0x80000000)
#define ADDRESS_WRITABLE UINT32_C(0x80fffffc)

static struct pci_function *function_at(struct pci_bus *bus, uint32_t bus_number, uint32_t slot,
                                        uint32_t number)
{
    return bus_number == 0 && number == 0 ? bus->slots[slot] : NULL;
}

// BARs

static unsigned bar_register(unsigned index)
{
    return REG_BAR0 + 4 * index;
}

// Where the guest wants the BAR now; 0 for nowhere.
static uint32_t bar_wanted(const struct pci_bus *bus, const struct pci_function *function,
                           unsigned index)
{
    const struct pci_bar *bar = &function->bars[index];
    if (bar->size == 0 || !(bytes_get_u16(function->config + REG_COMMAND) & COMMAND_MEMORY))
        return 0;
    uint32_t address = bytes_get_u32(function->config + bar_register(index)) & ~(bar->size - 1);
    // Outside of the window there is RAM, the ECAM, or an interrupt controller.
    if (address < bus->window_start || address > bus->window_end ||
        bar->size - 1 > bus->window_end - address)
        return 0;
    return address;
}

static void bar_unmap(struct pci_bus *bus, struct pci_function *function, unsigned index)
{
    struct pci_bar *bar = &function->bars[index];
    uint32_t address = bar->mapped_at;
    bus_remove(bus->mmio, address);
    bar->mapped_at = 0;
    if (function->ops && function->ops->bar_mapped)
        function->ops->bar_mapped(function, index, address, false);
}

static void bar_map(struct pci_bus *bus, struct pci_function *function, unsigned index,
                    uint32_t address)
{
    struct pci_bar *bar = &function->bars[index];
    const struct bus_range range = {.start = address,
                                    .size = bar->size,
                                    .handler = bar->handler,
                                    .opaque = bar->opaque,
                                    .name = function->name};
    if (bus_add(bus->mmio, &range) < 0)
        return; // overlaps another BAR: mapped once that one has gone
    bar->mapped_at = address;
    if (function->ops && function->ops->bar_mapped)
        function->ops->bar_mapped(function, index, address, true);
}

// Brings every BAR where its registers say. All leave before any arrives, so that two functions can
// swap places. Called with the lock held.
static void sync_bars(struct pci_bus *bus)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
            struct pci_function *function = bus->slots[slot];
            for (unsigned i = 0; function && i < PCI_BARS; i++) {
                uint32_t wanted = bar_wanted(bus, function, i);
                uint32_t mapped_at = function->bars[i].mapped_at;
                if (pass == 0 && mapped_at && mapped_at != wanted)
                    bar_unmap(bus, function, i);
                else if (pass == 1 && !mapped_at && wanted)
                    bar_map(bus, function, i, wanted);
            }
        }
    }
}

// Config space

static bool touches(unsigned offset, unsigned length, unsigned start, unsigned size)
{
    return offset < start + size && start < offset + length;
}

static uint32_t config_read_aligned(struct pci_function *function, unsigned offset, unsigned length)
{
    if (function->ops && function->ops->config_read)
        function->ops->config_read(function, offset, length);
    uint32_t value = 0;
    for (unsigned i = 0; i < length; i++)
        value |= (uint32_t)function->config[offset + i] << (8 * i);
    return value;
}

static void config_write_aligned(struct pci_bus *bus, struct pci_function *function,
                                 unsigned offset, unsigned length, uint32_t value)
{
    for (unsigned i = 0; i < length; i++) {
        uint8_t mask = function->writable[offset + i];
        uint8_t *byte = &function->config[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | ((value >> (8 * i)) & mask));
    }
    if (touches(offset, length, REG_COMMAND, 2) || touches(offset, length, REG_BAR0, 4 * PCI_BARS))
        sync_bars(bus);
    if (function->msix)
        pci_msix_control_written(function);
    if (function->ops && function->ops->config_written)
        function->ops->config_written(function, offset, length);
}

// Any length up to 8 within config space, as naturally aligned pieces of at most four bytes.
static uint64_t config_read(struct pci_function *function, unsigned offset, unsigned length)
{
    if (!function)
        return UINT64_MAX;
    if (length <= 4 && offset % length == 0)
        return config_read_aligned(function, offset, length);
    unsigned half = length == 8 ? 4 : 1;
    uint64_t value = 0;
    for (unsigned done = 0; done < length; done += half)
        value |= config_read(function, offset + done, half) << (8 * done);
    return value;
}

static void config_write(struct pci_bus *bus, struct pci_function *function, unsigned offset,
                         unsigned length, uint64_t value)
{
    if (!function)
        return;
    if (length <= 4 && offset % length == 0) {
        config_write_aligned(bus, function, offset, length, (uint32_t)value);
        return;
    }
    unsigned half = length == 8 ? 4 : 1;
    for (unsigned done = 0; done < length; done += half)
        config_write(bus, function, offset + done, half, value >> (8 * done));
}

// ECAM: bus, device, function and register are in the address. Only bus 0 is behind it.

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned length)
{
    struct pci_bus *bus = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&bus->lock);
    // An access can cross into the next function's space; then it is taken byte by byte.
    unsigned piece = (offset % PCI_CONFIG_SIZE) + length > PCI_CONFIG_SIZE ? 1 : length;
    for (unsigned done = 0; done < length; done += piece) {
        uint64_t at = offset + done;
        uint64_t part = config_read(function_at(bus, 0, at >> 15 & 31, at >> 12 & 7),
                                    at % PCI_CONFIG_SIZE, piece);
        value |= (piece == 1 ? part & 0xff : part) << (8 * done);
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

static void ecam_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct pci_bus *bus = opaque;
    pthread_mutex_lock(&bus->lock);
    unsigned piece = (offset % PCI_CONFIG_SIZE) + length > PCI_CONFIG_SIZE ? 1 : length;
    for (unsigned done = 0; done < length; done += piece) {
        uint64_t at = offset + done;
        config_write(bus, function_at(bus, 0, at >> 15 & 31, at >> 12 & 7), at % PCI_CONFIG_SIZE,
                     piece, value >> (8 * done));
    }
    pthread_mutex_unlock(&bus->lock);
}

static const struct bus_handler ecam_handler = {.read = ecam_read, .write = ecam_write};

// Ports: the address latch is a double word and nothing else; a byte at 0xcf9 is the reset control
// register; the four data ports take any width.

static struct pci_function *addressed(struct pci_bus *bus, unsigned offset, unsigned *reg)
{
    uint32_t address = bus->config_address;
    *reg = (address & 0xfc) + offset - PORT_DATA;
    if (!(address & ADDRESS_ENABLE))
        return NULL;
    return function_at(bus, address >> 16 & 0xff, address >> 11 & 31, address >> 8 & 7);
}

static uint64_t config_ports_read(void *opaque, uint64_t offset, unsigned length)
{
    struct pci_bus *bus = opaque;
    uint64_t value = UINT64_MAX;
    pthread_mutex_lock(&bus->lock);
    if (offset == PORT_ADDRESS && length == 4) {
        value = bus->config_address;
    } else if (offset == PORT_RESET && length == 1) {
        value = bus->reset_control;
    } else if (offset >= PORT_DATA) {
        unsigned reg;
        struct pci_function *function = addressed(bus, (unsigned)offset, &reg);
        value = config_read(function, reg, length);
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

static void config_ports_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct pci_bus *bus = opaque;
    bool reset = false;
    pthread_mutex_lock(&bus->lock);
    if (offset == PORT_ADDRESS && length == 4) {
        bus->config_address = (uint32_t)value & ADDRESS_WRITABLE;
    } else if (offset == PORT_RESET && length == 1) {
        bus->reset_control = value & RESET_STORED;
        reset = value & RESET_CPU;
    } else if (offset >= PORT_DATA) {
        unsigned reg;
        struct pci_function *function = addressed(bus, (unsigned)offset, &reg);
        config_write(bus, function, reg, length, value);
    }
    pthread_mutex_unlock(&bus->lock);
    if (reset)
        bus->machine->ops->request(bus->machine->machine, MACHINE_REQUEST_RESET, 0);
}

static const struct bus_handler config_ports_handler = {.read = config_ports_read,
                                                        .write = config_ports_write};

// Functions

void pci_function_init(struct pci_function *function, const struct pci_function_ops *ops,
                       const char *name, const struct pci_identity *identity)
{
    memset(function, 0, sizeof(*function));
    function->ops = ops;
    function->name = name;
    function->capability_end = HEADER_END;
    uint8_t *config = function->config;
    bytes_put_u16(config + REG_VENDOR, identity->vendor);
    bytes_put_u16(config + REG_DEVICE, identity->device);
    bytes_put_u32(config + REG_REVISION, identity->class_code << 8 | identity->revision);
    bytes_put_u16(config + REG_SUBSYSTEM_VENDOR, identity->subsystem_vendor);
    bytes_put_u16(config + REG_SUBSYSTEM, identity->subsystem);
    bytes_put_u16(function->writable + REG_COMMAND, COMMAND_MEMORY | COMMAND_MASTER |
                                                        COMMAND_PARITY | COMMAND_SERR |
                                                        COMMAND_INTX_DISABLE);
    function->writable[REG_CACHE_LINE] = 0xff;
    function->writable[REG_INTERRUPT_LINE] = 0xff;
}

void pci_function_add_bar(struct pci_function *function, unsigned index, uint32_t size,
                          const struct bus_handler *handler, void *opaque)
{
    function->bars[index] = (struct pci_bar){.size = size, .handler = handler, .opaque = opaque};
    // Sizing (PCI 3.0, 6.2.5.1) needs nothing more than that the low bits don't take ones.
    bytes_put_u32(function->writable + bar_register(index), ~(size - 1));
}

uint16_t pci_function_add_capability(struct pci_function *function, uint8_t id, uint8_t length)
{
    uint16_t offset = function->capability_end;
    if (length < 2 || offset + length > CAPABILITIES_LIMIT)
        return 0;
    // Append, so that the guest finds them in the order in which they were added.
    uint8_t *link = &function->config[REG_CAPABILITIES];
    while (*link)
        link = &function->config[*link + 1];
    *link = (uint8_t)offset;
    function->config[offset] = id;
    function->config[REG_STATUS] |= STATUS_CAPABILITIES;
    function->capability_end = (uint16_t)((offset + length + 3) & ~3);
    return offset;
}

int pci_bus_plug(struct pci_bus *bus, struct pci_function *function, uint8_t slot)
{
    int rc = 0;
    pthread_mutex_lock(&bus->lock);
    if (slot == 0)
        for (slot = 1; slot < PCI_SLOTS && bus->slots[slot]; slot++)
            ;
    if (slot >= PCI_SLOTS) {
        rc = -ENOSPC;
    } else if (bus->slots[slot]) {
        rc = -EBUSY;
    } else {
        bus->slots[slot] = function;
        function->bus = bus;
        function->slot = slot;
    }
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

void pci_bus_unplug(struct pci_bus *bus, struct pci_function *function)
{
    if (function->bus) {
        pthread_mutex_lock(&bus->lock);
        for (unsigned i = 0; i < PCI_BARS; i++)
            if (function->bars[i].mapped_at)
                bar_unmap(bus, function, i);
        bus->slots[function->slot] = NULL;
        function->bus = NULL;
        sync_bars(bus); // another BAR may have waited for this place
        pthread_mutex_unlock(&bus->lock);
    }
    pci_msix_free(function);
}

uint32_t pci_bus_present(struct pci_bus *bus)
{
    uint32_t present = 0;
    pthread_mutex_lock(&bus->lock);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        if (bus->slots[slot])
            present |= UINT32_C(1) << slot;
    pthread_mutex_unlock(&bus->lock);
    return present;
}

// The BAR with an assigned place that overlaps [address, address + size), or NULL.
static const struct pci_bar *find_assigned(const struct pci_bus *bus, uint64_t address,
                                           uint64_t size)
{
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        const struct pci_function *function = bus->slots[slot];
        for (unsigned i = 0; function && i < PCI_BARS; i++) {
            const struct pci_bar *bar = &function->bars[i];
            if (bar->assigned && address < (uint64_t)bar->assigned + bar->size &&
                bar->assigned < address + size)
                return bar;
        }
    }
    return NULL;
}

// The lowest free place in the window, 0 when there is none.
static uint32_t find_place(const struct pci_bus *bus, uint32_t size)
{
    uint64_t mask = size - 1;
    uint64_t address = (bus->window_start + mask) & ~mask;
    while (address + mask <= bus->window_end) {
        const struct pci_bar *taken = find_assigned(bus, address, size);
        if (!taken)
            return (uint32_t)address;
        address = ((uint64_t)taken->assigned + taken->size + mask) & ~mask;
    }
    return 0;
}

// BARs and command register as firmware would leave them. Called with the lock held.
static void set_assigned(struct pci_function *function)
{
    bool decodes = false;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (function->bars[i].assigned) {
            bytes_put_u32(function->config + bar_register(i), function->bars[i].assigned);
            decodes = true;
        }
    }
    if (decodes)
        function->config[REG_COMMAND] |= COMMAND_MEMORY;
}

int pci_bus_assign(struct pci_bus *bus, struct error *err)
{
    int rc = 0;
    pthread_mutex_lock(&bus->lock);
    for (unsigned slot = 0; slot < PCI_SLOTS && rc == 0; slot++) {
        struct pci_function *function = bus->slots[slot];
        bool fresh = false;
        for (unsigned i = 0; function && i < PCI_BARS; i++) {
            struct pci_bar *bar = &function->bars[i];
            if (bar->size == 0 || bar->assigned)
                continue;
            bar->assigned = find_place(bus, bar->size);
            if (!bar->assigned) {
                rc = error_set(err, ENOSPC, "no room in the PCI window for %u bytes of device '%s'",
                               bar->size, function->name);
                break;
            }
            fresh = true;
        }
        if (fresh)
            set_assigned(function);
    }
    sync_bars(bus);
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

void pci_function_reset(struct pci_function *function)
{
    struct pci_bus *bus = function->bus;
    pthread_mutex_lock(&bus->lock);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        function->config[i] &= (uint8_t)~function->writable[i];
    set_assigned(function);
    if (function->msix)
        pci_msix_reset(function);
    sync_bars(bus);
    pthread_mutex_unlock(&bus->lock);
}

// State

struct function_state {
    uint8_t config[PCI_CONFIG_SIZE];
    uint32_t bar_sizes[PCI_BARS];
    bool has_msix;
};

static const struct state_field function_fields[] = {
    STATE_ARRAY(STATE_U8, struct function_state, config),
    STATE_ARRAY(STATE_U32, struct function_state, bar_sizes),
    STATE_FIELD(STATE_BOOL, struct function_state, has_msix),
    {0},
};
static const struct state_section function_section = {
    .name = "pci-function", .version = 1, .fields = function_fields};

void pci_function_save(struct pci_function *function, struct byte_writer *writer)
{
    struct function_state state = {.has_msix = function->msix != NULL};
    pthread_mutex_lock(&function->bus->lock);
    memcpy(state.config, function->config, sizeof(state.config));
    for (unsigned i = 0; i < PCI_BARS; i++)
        state.bar_sizes[i] = function->bars[i].size;
    state_section_save(&function_section, &state, writer);
    if (function->msix)
        pci_msix_save(function, writer);
    pthread_mutex_unlock(&function->bus->lock);
}

// Whether the state is of the same kind of function as this one: what the guest can't write in the
// header, sizes of BARs, MSI-X.
static bool is_same_kind(const struct pci_function *function, const struct function_state *state)
{
    for (unsigned i = 0; i < HEADER_END; i++)
        if ((function->config[i] ^ state->config[i]) & ~function->writable[i])
            return false;
    for (unsigned i = 0; i < PCI_BARS; i++)
        if (function->bars[i].size != state->bar_sizes[i])
            return false;
    return state->has_msix == (function->msix != NULL);
}

int pci_function_load(struct pci_function *function, struct byte_reader *reader, struct error *err)
{
    struct pci_bus *bus = function->bus;
    struct function_state state;
    memset(&state, 0, sizeof(state));
    int rc = state_section_load(&function_section, &state, reader, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&bus->lock);
    if (is_same_kind(function, &state)) {
        for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
            uint8_t mask = function->writable[i];
            function->config[i] =
                (uint8_t)((function->config[i] & ~mask) | (state.config[i] & mask));
        }
        sync_bars(bus);
        rc = function->msix ? pci_msix_load(function, reader, err) : 0;
    } else {
        rc = error_set(err, EPROTO, "the state of PCI device '%s' is of another kind of device",
                       function->name);
    }
    pthread_mutex_unlock(&bus->lock);
    return rc;
}

// The host bridge as a device

struct host_state {
    uint32_t config_address;
    uint8_t reset_control;
};

static const struct state_field host_fields[] = {
    STATE_FIELD(STATE_U32, struct host_state, config_address),
    STATE_FIELD(STATE_U8, struct host_state, reset_control),
    {0},
};
static const struct state_section host_section = {
    .name = "pci-host", .version = 1, .fields = host_fields};

static struct pci_bus *from_device(struct device *device)
{
    return (struct pci_bus *)device; // the first member
}

static void host_reset(struct device *device)
{
    struct pci_bus *bus = from_device(device);
    pthread_mutex_lock(&bus->lock);
    bus->config_address = 0;
    bus->reset_control = 0;
    pthread_mutex_unlock(&bus->lock);
    pci_function_reset(&bus->bridge);
}

static void host_save(struct device *device, struct byte_writer *writer)
{
    struct pci_bus *bus = from_device(device);
    pthread_mutex_lock(&bus->lock);
    const struct host_state state = {.config_address = bus->config_address,
                                     .reset_control = bus->reset_control};
    pthread_mutex_unlock(&bus->lock);
    state_section_save(&host_section, &state, writer);
    pci_function_save(&bus->bridge, writer);
}

static int host_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct pci_bus *bus = from_device(device);
    struct host_state state = {0};
    int rc = state_section_load(&host_section, &state, reader, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&bus->lock);
    bus->config_address = state.config_address & ADDRESS_WRITABLE;
    bus->reset_control = state.reset_control & RESET_STORED;
    pthread_mutex_unlock(&bus->lock);
    return pci_function_load(&bus->bridge, reader, err);
}

static void host_destroy(struct device *device)
{
    pci_bus_destroy(from_device(device));
}

static const struct device_ops host_ops = {
    .kind = "pci-host",
    .reset = host_reset,
    .save = host_save,
    .load = host_load,
    .destroy = host_destroy,
};

int pci_bus_init(struct pci_bus *bus, struct machine_bus *machine, struct bus *ports,
                 struct bus *mmio, uint64_t ecam_base, uint32_t window_start, uint32_t window_end,
                 struct error *err)
{
    // The generic host bridge that QEMU's and Red Hat's ids name: guests bind no driver to it.
    static const struct pci_identity bridge = {
        .vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000};
    memset(bus, 0, sizeof(*bus));
    bus->device.ops = &host_ops;
    snprintf(bus->device.id, sizeof(bus->device.id), "pci0");
    bus->machine = machine;
    bus->ports = ports;
    bus->mmio = mmio;
    bus->ecam_base = ecam_base;
    bus->window_start = window_start;
    bus->window_end = window_end;
    int rc = pthread_mutex_init(&bus->lock, NULL);
    if (rc)
        return error_set_errno(err, rc, "PCI: no lock");
    const struct bus_range config_ports = {.start = CONFIG_PORTS,
                                           .size = CONFIG_PORTS_LENGTH,
                                           .handler = &config_ports_handler,
                                           .opaque = bus,
                                           .name = "PCI config ports"};
    const struct bus_range ecam = {.start = ecam_base,
                                   .size = PCI_ECAM_SIZE,
                                   .handler = &ecam_handler,
                                   .opaque = bus,
                                   .name = "PCI ECAM"};
    rc = bus_add(ports, &config_ports);
    if (rc < 0)
        goto fail_lock;
    rc = bus_add(mmio, &ecam);
    if (rc < 0)
        goto fail_ports;
    pci_function_init(&bus->bridge, NULL, "host bridge", &bridge);
    bus->bridge.bus = bus;
    bus->slots[0] = &bus->bridge;
    return 0;

fail_ports:
    bus_remove(ports, CONFIG_PORTS);
fail_lock:
    pthread_mutex_destroy(&bus->lock);
    return error_set_errno(err, -rc, "PCI: the config ports or the ECAM can't be registered");
}

void pci_bus_destroy(struct pci_bus *bus)
{
    bus_remove(bus->mmio, bus->ecam_base);
    bus_remove(bus->ports, CONFIG_PORTS);
    pthread_mutex_destroy(&bus->lock);
}
