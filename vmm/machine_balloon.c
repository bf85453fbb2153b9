#include "vmm/machine_balloon.h"

#include <errno.h>

#include "base/units.h"
#include "devices/virtio/virtio_balloon.h"
#include "vmm/machine_internal.h"

static void on_changed(void *opaque)
{
    struct machine *m = opaque;
    atomic_store(&m->balloon_changed, true);
    uv_async_send(m->wake_up);
}

int machine_balloon_create(struct machine *m, const struct virtio_environment *env,
                           struct error *err)
{
    const struct virtio_balloon_config config = {.changed = on_changed, .opaque = m};
    return virtio_balloon_create(&m->balloon, env, &config, err);
}

bool machine_has_balloon(const struct machine *m)
{
    return m->balloon != NULL;
}

int machine_balloon_set(struct machine *m, uint64_t bytes, struct error *err)
{
    char text[32];
    uint64_t size = guest_memory_size(&m->ram.memory);
    if (!m->balloon)
        return error_set(err, ENOTSUP,
                         "the machine has no balloon: it has to be started with --balloon");
    if (bytes > size)
        return error_set(err, EINVAL, "the machine has only %s of RAM",
                         units_format_size(size, text, sizeof(text)));
    if (bytes % GUEST_PAGE_SIZE)
        return error_set(err, EINVAL, "the size must be whole pages of 4 KiB");
    virtio_balloon_set_target(m->balloon, size - bytes);
    return 0;
}

bool machine_balloon_ask(struct machine *m)
{
    return m->balloon && m->state == MACHINE_RUNNING && virtio_balloon_ask_statistics(m->balloon);
}

uint64_t machine_balloon_count(const struct machine *m)
{
    struct virtio_balloon_status status = {0};
    if (m->balloon)
        virtio_balloon_status(m->balloon, &status);
    return status.statistics_count;
}

static json_t *statistics_object(const struct virtio_balloon_status *status)
{
    static const char *const names[BALLOON_STATISTICS] = {
        [BALLOON_SWAPPED_IN] = "swapped_in_bytes",
        [BALLOON_SWAPPED_OUT] = "swapped_out_bytes",
        [BALLOON_MAJOR_FAULTS] = "major_faults",
        [BALLOON_MINOR_FAULTS] = "minor_faults",
        [BALLOON_FREE] = "free_bytes",
        [BALLOON_TOTAL] = "total_bytes",
        [BALLOON_AVAILABLE] = "available_bytes",
        [BALLOON_DISK_CACHES] = "disk_caches_bytes",
        [BALLOON_HUGE_PAGES] = "huge_pages_allocated",
        [BALLOON_HUGE_PAGES_FAILED] = "huge_pages_failed",
    };
    json_t *object = json_object();
    for (unsigned i = 0; i < BALLOON_STATISTICS; i++)
        if (status->known >> i & 1)
            json_object_set_new(object, names[i], json_integer((json_int_t)status->statistics[i]));
    return object;
}

json_t *machine_balloon_status(struct machine *m)
{
    struct virtio_balloon_status status;
    uint64_t size = guest_memory_size(&m->ram.memory);
    virtio_balloon_status(m->balloon, &status);
    // The driver may say anything.
    uint64_t actual = status.actual < size ? status.actual : size;
    return json_pack("{s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:o}", "size_bytes", (json_int_t)size,
                     "target_bytes", (json_int_t)(size - status.target), "current_bytes",
                     (json_int_t)(size - actual), "driver", status.driver, "reports_free_pages",
                     status.reports_free_pages, "discarded_bytes", (json_int_t)status.discarded,
                     "reported_bytes", (json_int_t)status.reported, "statistics",
                     statistics_object(&status));
}
