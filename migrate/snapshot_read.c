#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "migrate/snapshot.h"
#include "migrate/snapshot_format.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

struct snapshot_file {
    int fd;
    uint64_t size;
    struct migrate_description description;
    struct snapshot_layout layout;
    struct byte_writer metadata; // the machine state points into it
    const uint8_t *state;
    size_t state_length;
};

static int read_at(int fd, void *out, size_t length, uint64_t offset, struct error *err)
{
    uint8_t *p = out;
    while (length > 0) {
        ssize_t n = pread(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set_errno(err, errno, "reading the snapshot");
        if (n == 0)
            return error_set(err, EPROTO, "the snapshot is cut off");
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static bool lies_in_file(const struct snapshot_file *f, uint64_t offset, uint64_t length)
{
    return offset <= f->size && length <= f->size - offset;
}

static int check_layout(const struct snapshot_file *f, struct error *err)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < 2; i++)
        if (!lies_in_file(f, f->layout.image_offset[i], f->description.image_size[i]))
            return error_set(err, EPROTO, "an image lies outside of the snapshot");
    for (uint32_t i = 0; i < f->layout.region_count; i++) {
        const struct snapshot_region *r = &f->layout.regions[i];
        if (r->offset % GUEST_PAGE_SIZE || !lies_in_file(f, r->offset, r->size))
            return error_set(err, EPROTO, "RAM lies outside of the snapshot");
        total += r->size;
    }
    if (total != f->description.config.memory)
        return error_set(err, EPROTO,
                         "the snapshot has %" PRIu64 " bytes of RAM, its machine %" PRIu64, total,
                         f->description.config.memory);
    if (f->layout.disk_count != f->description.config.disk_count)
        return error_set(err, EPROTO, "the snapshot's list of disks doesn't fit its machine");
    return 0;
}

static int read_metadata(struct snapshot_file *f, struct error *err)
{
    uint8_t header[SNAPSHOT_HEADER_SIZE];
    uint64_t length = 0;
    uint32_t checksum = 0;
    int rc = read_at(f->fd, header, sizeof(header), 0, err);
    if (rc == 0)
        rc = snapshot_header_decode(header, &length, &checksum, err);
    if (rc < 0)
        return rc;
    uint8_t *room = byte_writer_reserve(&f->metadata, (size_t)length);
    if (!room)
        return error_set_errno(err, ENOMEM, "reading the snapshot");
    rc = read_at(f->fd, room, (size_t)length, SNAPSHOT_METADATA_OFFSET, err);
    if (rc < 0)
        return rc;
    if (crc32c(0, room, (size_t)length) != checksum)
        return error_set(err, EPROTO, "the snapshot's metadata are damaged");
    struct byte_reader r;
    byte_reader_init(&r, room, (size_t)length);
    size_t size;
    const uint8_t *description = byte_reader_blob(&r, SIZE_MAX, &size);
    if (!description)
        return error_set(err, EPROTO, "the snapshot's metadata are cut off");
    rc = migrate_description_decode(&f->description, description, size, err);
    if (rc == 0)
        rc = snapshot_layout_decode(&f->layout, &r, err);
    if (rc < 0)
        return rc;
    f->state = byte_reader_blob(&r, SIZE_MAX, &f->state_length);
    if (!f->state)
        return error_set(err, EPROTO, "the snapshot's metadata are cut off");
    return check_layout(f, err);
}

int snapshot_open(struct snapshot_file **file, const char *path, struct error *err)
{
    struct stat st = {0};
    struct snapshot_file *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set_errno(err, ENOMEM, "reading the snapshot");
    byte_writer_init(&f->metadata);
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = f->fd < 0 || fstat(f->fd, &st) < 0 ? error_set_errno(err, errno, "opening it") : 0;
    if (rc == 0 && !S_ISREG(st.st_mode))
        rc = error_set(err, EINVAL, "not a file");
    if (rc == 0) {
        f->size = (uint64_t)st.st_size;
        rc = read_metadata(f, err);
    }
    if (rc < 0) {
        snapshot_close(f);
        return error_prefix(err, "snapshot '%s'", path);
    }
    *file = f;
    return 0;
}

struct machine_config *snapshot_config(struct snapshot_file *f)
{
    return &f->description.config;
}

const struct cpuid_table *snapshot_cpuid(const struct snapshot_file *f)
{
    return &f->description.cpuid;
}

bool snapshot_was_running(const struct snapshot_file *f)
{
    return f->layout.running;
}

// Into memory of its own: the file may go while the machine lives (when it was loaded whole).
static int copy_image(const struct snapshot_file *f, unsigned which, struct error *err)
{
    uint64_t size = f->description.image_size[which];
    int fd = memfd_create(which == 0 ? "kernel" : "initrd", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        int code = errno;
        if (fd >= 0)
            close(fd);
        return error_set_errno(err, code, "making room for the machine's images");
    }
    void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int rc = room == MAP_FAILED
                 ? error_set_errno(err, errno, "making room for the machine's images")
                 : read_at(f->fd, room, size, f->layout.image_offset[which], err);
    if (room != MAP_FAILED)
        munmap(room, size);
    if (rc < 0)
        close(fd);
    return rc < 0 ? rc : fd;
}

int snapshot_give_images(struct snapshot_file *f, struct machine_files *files, struct error *err)
{
    int *const fds[2] = {&files->kernel_fd, &files->initrd_fd};
    for (unsigned i = 0; i < 2; i++) {
        if (f->description.image_size[i] == 0)
            continue;
        int fd = copy_image(f, i, err);
        if (fd < 0)
            return fd;
        *fds[i] = fd;
    }
    return 0;
}

int snapshot_check_disks(const struct snapshot_file *f, const struct machine_files *files,
                         struct error *err)
{
    for (uint32_t i = 0; i < f->layout.disk_count; i++) {
        uint64_t size, changed_ns;
        int rc = machine_file_fingerprint(files->disk_fds[i], &size, &changed_ns);
        const char *path = f->description.config.disks[i].path;
        if (rc < 0)
            return error_set_errno(err, -rc, "disk '%s'", path);
        if (size != f->layout.disks[i].size || changed_ns != f->layout.disks[i].changed_ns)
            return error_set(err, ESTALE,
                             "disk '%s' has changed since the snapshot: the guest would damage it "
                             "(--force restores all the same)",
                             path);
    }
    return 0;
}

static int map_region(const struct snapshot_file *f, const struct snapshot_region *from,
                      struct guest_memory_region *to, struct error *err)
{
    // Copy-on-write: what the guest writes is its own, what it reads comes from the file when it is
    // read.
    if (mmap(to->hva, to->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, f->fd,
             (off_t)from->offset) == MAP_FAILED)
        return error_set_errno(err, errno, "mapping the snapshot's RAM");
    to->from_file = true;
    return 0;
}

static int read_region(const struct snapshot_file *f, const struct snapshot_region *from,
                       struct guest_memory_region *to, struct error *err)
{
    off_t at = (off_t)from->offset, end = (off_t)(from->offset + from->size);
    while (at < end) {
        off_t data = lseek(f->fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0; // holes up to the end
        off_t hole = data < 0 ? -1 : lseek(f->fd, data, SEEK_HOLE);
        if (hole < 0)
            return error_set_errno(err, errno, "reading the snapshot's RAM");
        if (data >= end)
            return 0;
        if (hole > end)
            hole = end;
        int rc = read_at(f->fd, to->hva + (data - (off_t)from->offset), (size_t)(hole - data),
                         (uint64_t)data, err);
        if (rc < 0)
            return rc;
        at = hole;
    }
    return 0;
}

int snapshot_load(struct snapshot_file *f, struct machine *machine, bool whole, struct error *err)
{
    struct guest_memory *memory = machine_memory(machine);
    if (memory->count != f->layout.region_count)
        return error_set(err, EPROTO, "the snapshot's RAM has other regions than this version's");
    for (unsigned i = 0; i < memory->count; i++) {
        const struct snapshot_region *from = &f->layout.regions[i];
        struct guest_memory_region *to = &memory->regions[i];
        if (from->gpa != to->gpa || from->size != to->size)
            return error_set(err, EPROTO,
                             "the snapshot's RAM has other regions than this version's");
        int rc = whole ? read_region(f, from, to, err) : map_region(f, from, to, err);
        if (rc < 0)
            return rc;
    }
    struct byte_reader r;
    byte_reader_init(&r, f->state, f->state_length);
    return machine_state_load(machine, &r, false, err);
}

void snapshot_move_fd(struct snapshot_file *f, int fd)
{
    if (f->fd == fd || dup3(f->fd, fd, O_CLOEXEC) < 0)
        return;
    close(f->fd);
    f->fd = fd;
}

void snapshot_close(struct snapshot_file *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    machine_config_free(&f->description.config);
    byte_writer_free(&f->metadata);
    free(f);
}
