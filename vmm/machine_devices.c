// Which devices a machine has, and where. The order is fixed: it decides PCI slots, so a guest
// finds its devices at the same places after each start.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/block/block_image.h"
#include "devices/block/block_nbd.h"
#include "devices/net/net_mac.h"
#include "devices/net/net_stream.h"
#include "devices/net/net_tap.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/test_devices.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_console.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_rng.h"
#include "devices/virtio/virtio_vsock.h"
#include "vmm/layout.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_migration.h"

static void add_device(struct machine *m, struct device *device)
{
    struct device **end = &m->devices;
    while (*end)
        end = &(*end)->next;
    device->next = NULL;
    *end = device;
}

static int new_io_thread(struct machine *m, const char *name, struct io_thread **thread,
                         struct error *err)
{
    int rc = io_thread_start(thread, name);
    if (rc < 0)
        return error_set_errno(err, -rc, "starting the I/O thread '%s'", name);
    m->io_threads[m->io_thread_count++] = *thread;
    return 0;
}

// ---- consoles ----

static size_t serial_output(void *opaque, const uint8_t *bytes, size_t length)
{
    struct machine *m = opaque;
    atomic_store_explicit(&m->console_port, CONSOLE_SERIAL, memory_order_relaxed);
    return console_hub_write(m->hub, bytes, length);
}

static size_t virtio_output(void *opaque, const void *bytes, size_t length)
{
    struct machine *m = opaque;
    atomic_store_explicit(&m->console_port, CONSOLE_VIRTIO, memory_order_relaxed);
    return console_hub_write(m->hub, bytes, length);
}

static void console_input_room(void *opaque)
{
    struct machine *m = opaque;
    console_hub_input_ready(m->hub);
}

static size_t hub_input(void *opaque, const uint8_t *bytes, size_t length)
{
    struct machine *m = opaque;
    if (atomic_load_explicit(&m->console_port, memory_order_relaxed) == CONSOLE_VIRTIO)
        return virtio_console_input(m->virtio_console, bytes, length);
    return serial_input(m->serial, bytes, length);
}

static void hub_output_ready(void *opaque)
{
    struct machine *m = opaque;
    serial_output_ready(m->serial);
    if (m->virtio_console)
        virtio_console_room(m->virtio_console);
}

static const struct console_guest hub_guest = {
    .input = hub_input,
    .output_ready = hub_output_ready,
};

// ---- platform ----

// The guest's next instruction comes after the device has gone: so the gate is closed here, on the
// vCPU's thread.
static void on_ejected(void *opaque)
{
    struct machine *m = opaque;
    atomic_store(&m->eject_waits, true);
    vcpus_close_gate(&m->vcpus);
    uv_async_send(m->wake_up);
}

static int create_platform(struct machine *m, struct error *err)
{
    struct serial_config serial = {
        .id = "serial0",
        .port = LAYOUT_PORT_SERIAL,
        .gsi = LAYOUT_GSI_SERIAL,
        .write = serial_output,
        .input_ready = console_input_room,
        .opaque = m,
    };
    int rc = serial_create(&m->serial, &m->bus, &m->ports, &serial, err);
    if (rc < 0)
        return rc;
    add_device(m, serial_device(m->serial));

    uint64_t total = guest_memory_size(&m->ram.memory);
    uint64_t low = total < LAYOUT_LOW_RAM_END ? total : LAYOUT_LOW_RAM_END;
    struct rtc_config rtc_config = {
        .id = "rtc0",
        .port = LAYOUT_PORT_CMOS,
        .gsi = LAYOUT_GSI_RTC,
        .low_ram = low,
        .high_ram = total - low,
        .thread = m->io_threads[0],
    };
    struct rtc *rtc;
    rc = rtc_create(&rtc, &m->bus, &m->ports, &rtc_config, err);
    if (rc < 0)
        return rc;
    add_device(m, rtc_device(rtc));

    struct acpi_pm_config pm = {
        .id = "acpi-pm",
        .pm_port = LAYOUT_PORT_PM,
        .gpe0_port = LAYOUT_PORT_GPE0,
        .sci_gsi = LAYOUT_GSI_SCI,
    };
    rc = acpi_pm_create(&m->acpi_pm, &m->bus, &m->ports, &pm, err);
    if (rc < 0)
        return rc;
    add_device(m, acpi_pm_device(m->acpi_pm));

    struct pci_hotplug_config hotplug = {.id = "hotplug0",
                                         .port = LAYOUT_PORT_HOTPLUG,
                                         .pci = &m->pci,
                                         .pm = m->acpi_pm,
                                         .ejected = on_ejected,
                                         .opaque = m};
    rc = pci_hotplug_create(&m->hotplug, &m->ports, &hotplug, err);
    if (rc < 0)
        return rc;
    add_device(m, pci_hotplug_device(m->hotplug));

    const struct pvpanic_config panic = {.id = "panic0", .port = LAYOUT_PORT_PANIC};
    struct device *device;
    rc = pvpanic_create(&device, &m->bus, &m->ports, &panic, err);
    if (rc < 0)
        return rc;
    add_device(m, device);

    if (!m->config.debug_exit)
        return 0;
    struct test_devices_config test = {
        .id = "test0", .exit_port = LAYOUT_PORT_DEBUG_EXIT, .mmio_base = LAYOUT_TEST_MMIO};
    struct test_devices *devices;
    rc = test_devices_create(&devices, &m->bus, &m->ports, &m->mmio, &test, err);
    if (rc == 0)
        add_device(m, test_devices_device(devices));
    return rc;
}

// ---- virtio ----

static struct virtio_environment environment(struct machine *m, struct io_thread *thread,
                                             const char *id)
{
    return (struct virtio_environment){
        .machine = &m->bus, .pci = &m->pci, .io_thread = thread, .id = id};
}

// A thread of its own, which ends with the device.
static void end_io_thread(struct machine *m, struct io_thread *thread)
{
    unsigned i = 0;
    while (i < m->io_thread_count && m->io_threads[i] != thread)
        i++;
    if (i == m->io_thread_count)
        return;
    m->io_threads[i] = m->io_threads[--m->io_thread_count];
    io_thread_stop(thread);
}

static int create_backend(struct machine *m, unsigned index, struct block_backend **backend,
                          struct error *err)
{
    const struct disk_config *disk = &m->config.disks[index];
    struct block_file_config file = {.cache = disk->cache, .read_only = disk->read_only};
    int fd = m->files.disk_fds[index];
    int rc = block_nbd_is_address(disk->path)
                 ? block_nbd_create(backend, fd, disk->path, &file, NULL, err)
                 : block_file_create(backend, fd, disk->path, &file, err);
    if (rc == 0)
        m->files.disk_fds[index] = -1; // the backend's now
    return rc;
}

static int create_disk_device(struct machine *m, unsigned index, struct block_backend *connected,
                              struct io_thread *thread, const char *id, struct error *err)
{
    const struct disk_config *disk = &m->config.disks[index];
    struct virtio_blk_config config = {
        .backend = connected, .queues = m->config.cpus, .limits = disk->limits};
    int rc = connected ? 0 : create_backend(m, index, &config.backend, err);
    if (rc < 0)
        return rc;
    config.backend->lease = &m->lease;
    struct virtio_environment env = environment(m, thread, id);
    env.slot = (uint8_t)disk->slot;
    struct device *device;
    rc = virtio_blk_create(&device, &env, &config, err);
    if (rc < 0) {
        if (!connected)
            config.backend->ops->destroy(config.backend);
        return rc;
    }
    m->disks[index] = config.backend;
    add_device(m, device);
    return 0;
}

int machine_devices_add_disk(struct machine *m, unsigned index, struct block_backend *connected,
                             struct error *err)
{
    char id[24];
    snprintf(id, sizeof(id), "disk%u", m->config.disks[index].number);
    struct io_thread *thread;
    int rc = new_io_thread(m, id, &thread, err);
    if (rc < 0)
        return rc;
    m->lock_fds[index] = fcntl(m->files.disk_fds[index], F_DUPFD_CLOEXEC, 0);
    if (m->lock_fds[index] < 0)
        rc = error_set_errno(err, errno, "disk '%s'", m->config.disks[index].path);
    else
        rc = create_disk_device(m, index, connected, thread, id, err);
    if (rc == 0)
        return 0;
    end_io_thread(m, thread);
    if (m->lock_fds[index] >= 0)
        close(m->lock_fds[index]);
    m->lock_fds[index] = -1;
    return rc;
}

void machine_net_mac(const struct machine_config *config, unsigned index, uint8_t mac[6])
{
    static const uint8_t none[6];
    const struct net_config *net = &config->nets[index];
    if (memcmp(net->mac, none, sizeof(none)) == 0)
        net_mac_derive(config->name, net->number, mac);
    else
        memcpy(mac, net->mac, sizeof(net->mac));
}

static int create_net_device(struct machine *m, unsigned index, struct io_thread *thread,
                             const char *id, struct error *err)
{
    const struct net_config *net = &m->config.nets[index];
    struct virtio_net_config config = {.limits = net->limits};
    machine_net_mac(&m->config, index, config.mac);
    int *fds = m->files.net_fds[index];
    int rc = net->kind == NET_TAP
                 ? net_tap_create(&config.backend, fds, net->queues, m->files.net_mtus[index], err)
                 : net_stream_create(&config.backend, fds[0], id, err);
    if (rc < 0)
        return rc;
    memset(fds, 0xff, sizeof(m->files.net_fds[index])); // the backend's now
    struct virtio_environment env = environment(m, thread, id);
    env.slot = (uint8_t)net->slot;
    struct device *device;
    rc = virtio_net_create(&device, &env, &config, err);
    if (rc < 0)
        config.backend->ops->destroy(config.backend);
    else
        add_device(m, device);
    return rc;
}

int machine_devices_add_net(struct machine *m, unsigned index, struct error *err)
{
    char id[24];
    if (m->config.nets[index].kind == NET_NONE)
        return 0;
    snprintf(id, sizeof(id), "net%u", m->config.nets[index].number);
    struct io_thread *thread;
    int rc = new_io_thread(m, id, &thread, err);
    if (rc < 0)
        return rc;
    rc = create_net_device(m, index, thread, id, err);
    if (rc < 0)
        end_io_thread(m, thread);
    return rc;
}

struct device *machine_devices_find(struct machine *m, const char *id)
{
    struct device *d = m->devices;
    while (d && strcmp(d->id, id) != 0)
        d = d->next;
    return d;
}

void machine_devices_remove(struct machine *m, struct device *device)
{
    struct io_thread *thread = virtio_device_thread(device);
    struct device **link = &m->devices;
    while (*link != device)
        link = &(*link)->next;
    *link = device->next;
    device->ops->destroy(device);
    bus_reclaim(&m->mmio);
    if (thread != m->io_threads[0])
        end_io_thread(m, thread);
}

static int create_small_devices(struct machine *m, struct error *err)
{
    struct device *device;
    int rc = 0;
    if (m->config.virtio_console) {
        struct virtio_environment env = environment(m, m->io_threads[0], "console0");
        struct virtio_console_config config = {
            .output = virtio_output, .input_room = console_input_room, .opaque = m};
        rc = virtio_console_create(&m->virtio_console, &env, &config, err);
        if (rc == 0)
            add_device(m, m->virtio_console);
    }
    if (rc == 0 && m->config.rng) {
        struct virtio_environment env = environment(m, m->io_threads[0], "rng0");
        rc = virtio_rng_create(&device, &env, err);
        if (rc == 0)
            add_device(m, device);
    }
    if (rc == 0 && m->config.balloon) {
        struct virtio_environment env = environment(m, m->io_threads[0], "balloon0");
        rc = machine_balloon_create(m, &env, err);
        if (rc == 0)
            add_device(m, m->balloon);
    }
    return rc;
}

static int create_vsock(struct machine *m, struct error *err)
{
    struct io_thread *thread;
    struct device *device;
    int rc = new_io_thread(m, "vsock0", &thread, err);
    if (rc < 0)
        return rc;
    struct virtio_environment env = environment(m, thread, "vsock0");
    const struct virtio_vsock_config config = {.cid = m->config.vsock.cid,
                                               .listen_fd = m->files.vsock_fd,
                                               .connector_fd = m->files.vsock_helper_fd};
    rc = virtio_vsock_create(&device, &env, &config, err);
    if (rc < 0)
        return rc;
    m->files.vsock_fd = m->files.vsock_helper_fd = -1; // the device's now
    add_device(m, device);
    return 0;
}

static int create_all(struct machine *m, struct error *err)
{
    struct io_thread *shared;
    int rc = new_io_thread(m, "io", &shared, err);
    if (rc == 0)
        rc = create_platform(m, err);
    if (rc == 0)
        rc = create_small_devices(m, err);
    if (rc == 0 && m->config.vsock.socket)
        rc = create_vsock(m, err);
    for (unsigned i = 0; i < m->config.disk_count && rc == 0; i++)
        rc = machine_devices_add_disk(m, i, NULL, err);
    for (unsigned i = 0; i < m->config.net_count && rc == 0; i++)
        rc = machine_devices_add_net(m, i, err);
    if (rc == 0)
        rc = pci_bus_assign(&m->pci, err);
    return rc;
}

int machine_devices_create(struct machine *m, struct error *err)
{
    m->bus = (struct machine_bus){
        .ops = &machine_bus_ops, .machine = m, .memory = &m->ram.memory, .lease = &m->lease};
    int rc = bus_init(&m->ports);
    if (rc < 0)
        return error_set_errno(err, -rc, "creating the port bus");
    rc = bus_init(&m->mmio);
    if (rc < 0) {
        bus_destroy(&m->ports);
        return error_set_errno(err, -rc, "creating the MMIO bus");
    }
    rc = pci_bus_init(&m->pci, &m->bus, &m->ports, &m->mmio, LAYOUT_PCI_ECAM, LAYOUT_PCI_WINDOW,
                      LAYOUT_PCI_WINDOW_END, err);
    if (rc < 0) {
        bus_destroy(&m->mmio);
        bus_destroy(&m->ports);
        return rc;
    }
    add_device(m, &m->pci.device); // the host bridge: first in, last to go
    rc = create_all(m, err);
    if (rc < 0) {
        machine_devices_destroy(m);
        return rc;
    }
    console_hub_set_guest(m->hub, &hub_guest, m);
    return 0;
}

void machine_devices_destroy(struct machine *m)
{
    console_hub_set_guest(m->hub, NULL, NULL);
    // In reverse order of creation.
    while (m->devices) {
        struct device **last = &m->devices;
        while ((*last)->next)
            last = &(*last)->next;
        struct device *device = *last;
        *last = NULL;
        device->ops->destroy(device);
    }
    for (unsigned i = 0; i < MACHINE_DISKS_LIMIT; i++) {
        if (m->lock_fds[i] < 0)
            continue;
        // The kernel lets go of a ring's registered file some time after the ring was closed: only
        // this makes the disk free at once.
        block_image_unlock(m->lock_fds[i]);
        close(m->lock_fds[i]);
        m->lock_fds[i] = -1;
    }
    m->serial = NULL;
    m->acpi_pm = NULL;
    m->hotplug = NULL;
    m->virtio_console = NULL;
    m->balloon = NULL;
    while (m->io_thread_count > 0)
        io_thread_stop(m->io_threads[--m->io_thread_count]);
    bus_destroy(&m->mmio);
    bus_destroy(&m->ports);
}
