#include "devices/test_devices.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/state.h"

struct test_devices {
    struct device device;
    struct machine_bus *machine;
    struct bus *ports, *mmio;
    struct test_devices_config config;
    pthread_mutex_t lock; // guards everything below
    uint8_t latch[TEST_DEVICES_LATCH_LENGTH];
    bool lines[TEST_DEVICES_IRQ_LINES];
    uint8_t memory[TEST_DEVICES_MMIO_SIZE];
};

// Accesses stay inside of their range: the bus sees to that.

static uint64_t read_bytes(struct test_devices *devices, const uint8_t *bytes, unsigned length)
{
    uint64_t value = 0;
    pthread_mutex_lock(&devices->lock);
    for (unsigned i = 0; i < length; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    pthread_mutex_unlock(&devices->lock);
    return value;
}

static void write_bytes(struct test_devices *devices, uint8_t *bytes, unsigned length,
                        uint64_t value)
{
    pthread_mutex_lock(&devices->lock);
    for (unsigned i = 0; i < length; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    pthread_mutex_unlock(&devices->lock);
}

static uint64_t latch_read(void *opaque, uint64_t offset, unsigned length)
{
    struct test_devices *devices = opaque;
    return read_bytes(devices, devices->latch + offset, length);
}

static void latch_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct test_devices *devices = opaque;
    write_bytes(devices, devices->latch + offset, length, value);
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned length)
{
    struct test_devices *devices = opaque;
    return read_bytes(devices, devices->memory + offset, length);
}

static void memory_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct test_devices *devices = opaque;
    write_bytes(devices, devices->memory + offset, length, value);
}

// The whole value is the level of the line that the port names, whatever the width.
static void irq_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct test_devices *devices = opaque;
    bool level = value != 0;
    pthread_mutex_lock(&devices->lock);
    devices->lines[offset] = level;
    devices->machine->ops->irq_line(devices->machine->machine, (uint32_t)offset, level);
    pthread_mutex_unlock(&devices->lock);
}

static void exit_write(void *opaque, uint64_t offset, unsigned length, uint64_t value)
{
    struct test_devices *devices = opaque;
    int code = (int)((value << 1 | 1) & 0xff);
    devices->machine->ops->request(devices->machine->machine, MACHINE_REQUEST_EXIT, code);
}

static const struct bus_handler latch_handler = {.read = latch_read, .write = latch_write};
static const struct bus_handler memory_handler = {.read = memory_read, .write = memory_write};
static const struct bus_handler irq_handler = {.write = irq_write};
static const struct bus_handler exit_handler = {.write = exit_write};

// Life and state

static struct test_devices *from_device(struct device *device)
{
    return (struct test_devices *)device; // the first member
}

struct device *test_devices_device(struct test_devices *devices)
{
    return &devices->device;
}

// Sets the lines that are raised here to `level`; the others belong to other devices. Called with
// the lock held.
static void show_lines(struct test_devices *devices, bool level)
{
    for (uint32_t i = 0; i < TEST_DEVICES_IRQ_LINES; i++)
        if (devices->lines[i])
            devices->machine->ops->irq_line(devices->machine->machine, i, level);
}

static void test_reset(struct device *device)
{
    struct test_devices *devices = from_device(device);
    pthread_mutex_lock(&devices->lock);
    memset(devices->latch, 0, sizeof(devices->latch));
    memset(devices->memory, 0, sizeof(devices->memory));
    show_lines(devices, false);
    memset(devices->lines, 0, sizeof(devices->lines));
    pthread_mutex_unlock(&devices->lock);
}

static const struct state_field fields[] = {
    STATE_ARRAY(STATE_U8, struct test_devices, latch),
    STATE_ARRAY(STATE_BOOL, struct test_devices, lines),
    STATE_ARRAY(STATE_U8, struct test_devices, memory),
    {0},
};
static const struct state_section section = {
    .name = "test-devices", .version = 1, .fields = fields};

static void test_save(struct device *device, struct byte_writer *writer)
{
    struct test_devices *devices = from_device(device);
    pthread_mutex_lock(&devices->lock);
    state_section_save(&section, devices, writer);
    pthread_mutex_unlock(&devices->lock);
}

static int test_load(struct device *device, struct byte_reader *reader, struct error *err)
{
    struct test_devices *devices = from_device(device);
    pthread_mutex_lock(&devices->lock);
    int rc = state_section_load(&section, devices, reader, err);
    if (rc == 0)
        show_lines(devices, true);
    pthread_mutex_unlock(&devices->lock);
    return rc;
}

static void remove_ranges(struct test_devices *devices)
{
    bus_remove(devices->ports, devices->config.exit_port);
    bus_remove(devices->ports, TEST_DEVICES_LATCH_PORT);
    bus_remove(devices->ports, TEST_DEVICES_IRQ_PORT);
    bus_remove(devices->mmio, devices->config.mmio_base);
}

static void test_destroy(struct device *device)
{
    struct test_devices *devices = from_device(device);
    remove_ranges(devices);
    pthread_mutex_destroy(&devices->lock);
    free(devices);
}

static const struct device_ops ops = {
    .kind = "test-devices",
    .reset = test_reset,
    .save = test_save,
    .load = test_load,
    .destroy = test_destroy,
};

// Nothing of it stays registered after a failure.
static int add_ranges(struct test_devices *devices)
{
    const struct {
        struct bus *bus;
        struct bus_range range;
    } wanted[] = {
        {devices->ports, {devices->config.exit_port, 4, &exit_handler, devices, "debug exit"}},
        {devices->ports,
         {TEST_DEVICES_LATCH_PORT, TEST_DEVICES_LATCH_LENGTH, &latch_handler, devices, "latch"}},
        {devices->ports,
         {TEST_DEVICES_IRQ_PORT, TEST_DEVICES_IRQ_LINES, &irq_handler, devices, "test lines"}},
        {devices->mmio,
         {devices->config.mmio_base, TEST_DEVICES_MMIO_SIZE, &memory_handler, devices,
          "test memory"}},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        int rc = bus_add(wanted[i].bus, &wanted[i].range);
        if (rc < 0) {
            while (i-- > 0)
                bus_remove(wanted[i].bus, wanted[i].range.start);
            return rc;
        }
    }
    return 0;
}

int test_devices_create(struct test_devices **devices, struct machine_bus *machine,
                        struct bus *ports, struct bus *mmio,
                        const struct test_devices_config *config, struct error *err)
{
    struct test_devices *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, ENOMEM, "test devices: no memory");
    d->device.ops = &ops;
    snprintf(d->device.id, sizeof(d->device.id), "%s", config->id);
    d->machine = machine;
    d->ports = ports;
    d->mmio = mmio;
    d->config = *config;
    pthread_mutex_init(&d->lock, NULL);
    int rc = add_ranges(d);
    if (rc < 0) {
        pthread_mutex_destroy(&d->lock);
        free(d);
        return error_set_errno(err, -rc, "test devices: a port or address is taken");
    }
    *devices = d;
    return 0;
}
