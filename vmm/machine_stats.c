// Numbers of a machine, for `ferry stats`.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_net.h"
#include "vmm/kvm_statistics.h"
#include "vmm/machine_balloon.h"
#include "vmm/machine_internal.h"

static void set_integer(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static uint64_t resident_bytes(int statm_fd)
{
    char text[128];
    ssize_t n = statm_fd < 0 ? -1 : pread(statm_fd, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static json_t *memory_stats(struct machine *m)
{
    json_t *memory = json_object();
    set_integer(memory, "size_bytes", guest_memory_size(&m->ram.memory));
    set_integer(memory, "process_resident_bytes", resident_bytes(m->statm_fd));
    if (m->stats_fd >= 0) {
        set_integer(memory, "mapped_4k_pages", kvm_statistic(m->stats_fd, "pages_4k"));
        set_integer(memory, "mapped_2m_pages", kvm_statistic(m->stats_fd, "pages_2m"));
        set_integer(memory, "mapped_1g_pages", kvm_statistic(m->stats_fd, "pages_1g"));
    }
    return memory;
}

static json_t *vcpu_stats(struct machine *m, struct vcpu *v)
{
    json_t *object = json_object(), *exits = json_object();
    uint64_t total = 0;
    for (uint32_t reason = 0; reason < VCPU_EXIT_KINDS; reason++) {
        uint64_t count = atomic_load_explicit(&v->exits[reason], memory_order_relaxed);
        total += count;
        if (count)
            set_integer(exits, vcpu_exit_name(reason), count);
    }
    set_integer(object, "index", v->index);
    set_integer(object, "exits_total", total);
    json_object_set_new(object, "exits", exits);
    cpu_control_vcpu_stats(&m->cpu, v->index, object);
    return object;
}

// Buckets beyond the last that isn't empty are left out.
static json_t *latency_stats(const struct device *device, enum virtio_blk_latency kind)
{
    struct latency_snapshot s;
    virtio_blk_latency(device, kind, &s);
    json_t *object = json_object(), *buckets = json_array();
    unsigned used = LATENCY_BUCKETS;
    while (used > 0 && s.buckets[used - 1] == 0)
        used--;
    for (unsigned i = 0; i < used; i++)
        json_array_append_new(buckets, json_integer((json_int_t)s.buckets[i]));
    set_integer(object, "count", s.count);
    set_integer(object, "total_ns", s.total_ns);
    json_object_set_new(object, "log2_us", buckets);
    return object;
}

static void add_disk_stats(json_t *object, const struct device *device)
{
    json_t *latency = json_object();
    json_object_set_new(latency, "reads", latency_stats(device, VIRTIO_BLK_READS));
    json_object_set_new(latency, "writes", latency_stats(device, VIRTIO_BLK_WRITES));
    json_object_set_new(latency, "flushes", latency_stats(device, VIRTIO_BLK_FLUSHES));
    json_object_set_new(object, "latency", latency);
    set_integer(object, "errors", virtio_blk_errors(device));
    set_integer(object, "throttled", virtio_blk_throttled(device));
}

static void add_net_stats(json_t *object, const struct device *device)
{
    struct virtio_net_drops drops;
    virtio_net_drops(device, &drops);
    json_object_set_new(object, "drops",
                        json_pack("{s:I, s:I}", "received", (json_int_t)drops.received, "sent",
                                  (json_int_t)drops.sent));
    set_integer(object, "throttled", virtio_net_throttled(device));
}

static json_t *device_stats(const struct device *device)
{
    json_t *object = json_object();
    json_object_set_new(object, "id", json_string(device->id));
    json_object_set_new(object, "kind", json_string(device->ops->kind));
    if (!virtio_device_is(device))
        return object;
    json_t *queues = json_array();
    for (unsigned i = 0; i < virtio_device_queue_count(device); i++) {
        struct virtio_queue_counters c;
        if (!virtio_device_counters(device, i, &c))
            continue;
        json_t *queue = json_object();
        set_integer(queue, "requests", c.requests);
        set_integer(queue, "bytes", c.bytes);
        set_integer(queue, "notifications", c.notifications);
        set_integer(queue, "interrupts", c.interrupts);
        set_integer(queue, "suppressed", c.suppressed);
        json_array_append_new(queues, queue);
    }
    json_object_set_new(object, "queues", queues);
    if (strcmp(device->ops->kind, "virtio-blk") == 0)
        add_disk_stats(object, device);
    else if (strcmp(device->ops->kind, "virtio-net") == 0)
        add_net_stats(object, device);
    return object;
}

json_t *machine_stats(struct machine *m)
{
    json_t *stats = json_object(), *vcpus = json_array(), *devices = json_array();
    for (unsigned i = 0; i < m->vcpus.count; i++)
        json_array_append_new(vcpus, vcpu_stats(m, &m->vcpus.list[i]));
    for (const struct device *d = m->devices; d; d = d->next)
        json_array_append_new(devices, device_stats(d));
    json_object_set_new(stats, "state", json_string(machine_state_name(m->state)));
    json_object_set_new(stats, "memory", memory_stats(m));
    if (m->balloon)
        json_object_set_new(stats, "balloon", machine_balloon_status(m));
    json_object_set_new(stats, "cpu", cpu_control_stats(&m->cpu));
    json_object_set_new(stats, "vcpus", vcpus);
    json_object_set_new(stats, "devices", devices);
    return stats;
}
