#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/filter/thread_filter.h"
#include "base/log.h"
#include "base/loop_call.h"
#include "migrate/snapshot.h"
#include "migrate/snapshot_format.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

enum { RUN_LIMIT = 256 }; // pages a write

struct snapshot_writer {
    struct machine *machine;
    uv_loop_t *loop;
    int fd;
    struct snapshot_listener listener;
    struct loop_call *main;
    uv_async_t *finished;
    pthread_t thread;
    bool thread_started;
    int result;
    struct error err;
    uint64_t bytes; // written, holes left out

    struct migrate_description description;
    struct snapshot_layout layout;
    struct byte_writer state;
    bool frozen;
};

static const uint8_t zero_page[GUEST_PAGE_SIZE];

static uint64_t align_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

static int write_at(struct snapshot_writer *s, const void *bytes, size_t length, uint64_t offset,
                    struct error *err)
{
    const uint8_t *p = bytes;
    while (length > 0) {
        ssize_t n = pwrite(s->fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return error_set_errno(err, n < 0 ? errno : EIO, "writing the snapshot");
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
        s->bytes += (uint64_t)n;
    }
    return 0;
}

// ---- on main: the machine stands, and says what it is ----

static int describe(struct snapshot_writer *s, struct error *err)
{
    struct migrate_description *d = &s->description;
    json_t *json = machine_config_to_json(machine_config(s->machine));
    int rc = json ? machine_config_init(&d->config) : -ENOMEM;
    if (rc == 0)
        rc = machine_config_from_json(&d->config, json, err);
    json_decref(json);
    if (rc < 0)
        return err->code ? rc : error_set_errno(err, -rc, "describing the machine");
    for (unsigned i = 0; i < d->config.net_count; i++)
        machine_net_mac(machine_config(s->machine), i, d->config.nets[i].mac);
    d->cpuid = *machine_cpuid(s->machine);
    d->streams = 1;
    for (unsigned i = 0; i < 2; i++) {
        struct stat st;
        if (machine_image_fd(s->machine, i) >= 0 &&
            fstat(machine_image_fd(s->machine, i), &st) == 0)
            d->image_size[i] = (uint64_t)st.st_size;
    }
    return 0;
}

static void freeze_on_main(void *opaque)
{
    struct snapshot_writer *s = opaque;
    s->result = describe(s, &s->err);
    if (s->result == 0)
        s->result = machine_freeze(s->machine, &s->layout.running, &s->err);
    s->frozen = s->result == 0;
    if (s->result == 0)
        s->result = machine_state_save(s->machine, &s->state, &s->err);
    s->layout.disk_count = s->description.config.disk_count;
    for (uint32_t i = 0; i < s->layout.disk_count && s->result == 0; i++)
        s->result = machine_disk_fingerprint(s->machine, i, &s->layout.disks[i].size,
                                             &s->layout.disks[i].changed_ns, &s->err);
}

static void thaw_on_main(void *opaque)
{
    struct snapshot_writer *s = opaque;
    if (s->frozen)
        machine_thaw(s->machine, s->layout.running);
    machine_hold(s->machine, false);
}

// ---- the file ----

static void lay_out(struct snapshot_writer *s, uint64_t metadata_length)
{
    const struct guest_memory *memory = machine_memory(s->machine);
    uint64_t at = align_up(SNAPSHOT_METADATA_OFFSET + metadata_length, GUEST_PAGE_SIZE);
    for (unsigned i = 0; i < 2; i++) {
        s->layout.image_offset[i] = at;
        at = align_up(at + s->description.image_size[i], GUEST_PAGE_SIZE);
    }
    s->layout.region_count = memory->count;
    for (unsigned i = 0; i < memory->count; i++) {
        at = align_up(at, SNAPSHOT_RAM_ALIGN);
        s->layout.regions[i] =
            (struct snapshot_region){memory->regions[i].gpa, memory->regions[i].size, at};
        at += memory->regions[i].size;
    }
}

static int encode_metadata(struct snapshot_writer *s, struct byte_writer *w, struct error *err)
{
    struct byte_writer description;
    byte_writer_init(&description);
    byte_writer_reset(w);
    int rc = migrate_description_encode(&s->description, &description, err);
    byte_writer_blob(w, description.data, description.length);
    snapshot_layout_encode(&s->layout, w);
    byte_writer_blob(w, s->state.data, s->state.length);
    byte_writer_free(&description);
    if (rc == 0 && w->failed)
        rc = error_set_errno(err, ENOMEM, "writing the snapshot");
    return rc;
}

static int write_image(struct snapshot_writer *s, unsigned which, struct error *err)
{
    enum { CHUNK = 1 << 20 };
    uint8_t *buffer = malloc(CHUNK);
    uint64_t size = s->description.image_size[which];
    int rc = buffer ? 0 : error_set_errno(err, ENOMEM, "writing the snapshot");
    for (uint64_t done = 0; done < size && rc == 0;) {
        size_t n = size - done < CHUNK ? (size_t)(size - done) : CHUNK;
        if (pread(machine_image_fd(s->machine, which), buffer, n, (off_t)done) != (ssize_t)n)
            rc = error_set(err, EIO, "the machine's images can't be read again");
        else
            rc = write_at(s, buffer, n, s->layout.image_offset[which] + done, err);
        done += n;
    }
    free(buffer);
    return rc;
}

static bool is_zero(const uint8_t *page)
{
    return memcmp(page, zero_page, sizeof(zero_page)) == 0;
}

// Zero pages become holes. (Pages never touched read as zero; reading them here costs no memory of
// the guest's where the kernel maps its zero page.)
static int write_region(struct snapshot_writer *s, unsigned index, struct error *err)
{
    const struct guest_memory_region *r = &machine_memory(s->machine)->regions[index];
    uint64_t pages = r->size / GUEST_PAGE_SIZE;
    for (uint64_t i = 0; i < pages;) {
        const uint8_t *start = r->hva + i * GUEST_PAGE_SIZE;
        uint64_t run = 0;
        while (i + run < pages && run < RUN_LIMIT && !is_zero(start + run * GUEST_PAGE_SIZE))
            run++;
        if (run == 0) {
            i++;
            continue;
        }
        int rc = write_at(s, start, run * GUEST_PAGE_SIZE,
                          s->layout.regions[index].offset + i * GUEST_PAGE_SIZE, err);
        if (rc < 0)
            return rc;
        i += run;
    }
    return 0;
}

static int write_file(struct snapshot_writer *s, struct error *err)
{
    struct byte_writer metadata;
    uint8_t header[SNAPSHOT_HEADER_SIZE];
    byte_writer_init(&metadata);
    // Offsets are of fixed width: the first encoding has the right length.
    s->layout.region_count = machine_memory(s->machine)->count;
    int rc = encode_metadata(s, &metadata, err);
    if (rc == 0) {
        lay_out(s, metadata.length);
        rc = encode_metadata(s, &metadata, err);
    }
    const struct snapshot_region *last = &s->layout.regions[s->layout.region_count - 1];
    if (rc == 0 && ftruncate(s->fd, (off_t)(last->offset + last->size)) < 0)
        rc = error_set_errno(err, errno, "writing the snapshot");
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        rc = write_image(s, i, err);
    for (unsigned i = 0; i < s->layout.region_count && rc == 0; i++)
        rc = write_region(s, i, err);
    if (rc == 0)
        rc = write_at(s, metadata.data, metadata.length, SNAPSHOT_METADATA_OFFSET, err);
    if (rc == 0) {
        snapshot_header_encode(&metadata, header);
        rc = write_at(s, header, sizeof(header), 0, err);
    }
    byte_writer_free(&metadata);
    return rc;
}

// ---- life ----

static void *writer_main(void *opaque)
{
    struct snapshot_writer *s = opaque;
    pthread_setname_np(pthread_self(), "snapshot");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    uint64_t start = clock_monotonic_ns();
    loop_call(s->main, freeze_on_main, s);
    if (s->result == 0)
        s->result = write_file(s, &s->err);
    loop_call(s->main, thaw_on_main, s);
    if (s->result == 0)
        log_info("snapshot: %llu bytes, the machine stood for %llu us",
                 (unsigned long long)s->bytes,
                 (unsigned long long)((clock_monotonic_ns() - start) / NSEC_PER_USEC));
    else
        log_error("snapshot: %s", s->err.message);
    uv_async_send(s->finished);
    return NULL;
}

static void on_finished(uv_async_t *finished)
{
    struct snapshot_writer *s = finished->data;
    if (!s || !s->thread_started)
        return;
    pthread_join(s->thread, NULL);
    s->thread_started = false;
    if (s->listener.done)
        s->listener.done(s->listener.opaque, s->result, s->bytes, &s->err);
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

int snapshot_start(struct snapshot_writer **writer, struct machine *machine, uv_loop_t *loop,
                   int fd, const struct snapshot_listener *listener, struct error *err)
{
    struct snapshot_writer *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set_errno(err, ENOMEM, "taking a snapshot");
    s->machine = machine;
    s->loop = loop;
    s->fd = fd;
    s->listener = *listener;
    byte_writer_init(&s->state);
    int rc = loop_call_create(&s->main, loop);
    s->finished = calloc(1, sizeof(*s->finished));
    if (rc == 0)
        rc = s->finished ? uv_async_init(loop, s->finished, on_finished) : -ENOMEM;
    if (rc < 0) {
        free(s->finished);
        s->finished = NULL;
        snapshot_writer_free(s);
        return error_set_errno(err, -rc, "taking a snapshot");
    }
    s->finished->data = s;
    machine_hold(machine, true);
    rc = -pthread_create(&s->thread, NULL, writer_main, s);
    if (rc < 0) {
        machine_hold(machine, false);
        snapshot_writer_free(s);
        return error_set_errno(err, -rc, "starting the snapshot's thread");
    }
    s->thread_started = true;
    *writer = s;
    return 0;
}

void snapshot_writer_free(struct snapshot_writer *s)
{
    if (!s)
        return;
    s->listener.done = NULL;
    // The thread may be waiting for a call into this loop.
    while (s->thread_started)
        uv_run(s->loop, UV_RUN_ONCE);
    if (s->finished) {
        s->finished->data = NULL;
        uv_close((uv_handle_t *)s->finished, free_handle);
    }
    loop_call_close(s->main);
    machine_config_free(&s->description.config);
    byte_writer_free(&s->state);
    free(s);
}
