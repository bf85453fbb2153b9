#include "vmm/disk_epoch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"

enum {
    SLOT_SIZE = 4096,
    SLOTS = 2,
    MAGIC_SIZE = 8,
    UUID_AT = 8,
    EPOCH_AT = 24,
    CRC_AT = 32,
    RECORD_SIZE = 36
};
static const char magic[MAGIC_SIZE + 1] = "ferryEP1";

// The directory's entry for a file that was just made must outlive a loss of power, too.
static int sync_directory(const char *path)
{
    char directory[PATH_MAX];
    snprintf(directory, sizeof(directory), "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash == directory)
        slash++;
    if (slash)
        *slash = 0;
    int fd = open(slash ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

int disk_epoch_open(int image_fd, const char *path, bool create, struct error *err)
{
    struct stat st;
    char name[PATH_MAX];
    if (fstat(image_fd, &st) < 0)
        return error_set_errno(err, errno, "disk image '%s'", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, ENOTSUP,
                         "disk '%s' is not a file: a cluster's machine can write to files only, as "
                         "the lock of a device is not seen by other hosts",
                         path);
    if (snprintf(name, sizeof(name), "%s.epoch", path) >= (int)sizeof(name))
        return error_set(err, ENAMETOOLONG, "disk image '%s': no room for '.epoch' behind it",
                         path);
    int fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    if (fd >= 0)
        return fd;
    if (errno != ENOENT)
        return error_set_errno(err, errno, "'%s', which says whose disk it is", name);
    if (!create)
        return error_set(err, ENOENT,
                         "disk image '%s' has no '.epoch' file beside it: it is not this machine's "
                         "(is its file system mounted?), unless this is the machine's first start",
                         path);
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "making '%s'", name);
    int rc = sync_directory(name);
    if (rc < 0) {
        close(fd);
        return error_set_errno(err, -rc, "making '%s'", name);
    }
    return fd;
}

bool disk_epoch_exists(const char *path)
{
    char name[PATH_MAX];
    return snprintf(name, sizeof(name), "%s.epoch", path) < (int)sizeof(name) &&
           access(name, F_OK) == 0;
}

struct record {
    struct uuid uuid;
    uint64_t epoch;
};

static bool read_slot(int fd, unsigned slot, struct record *record)
{
    uint8_t bytes[RECORD_SIZE];
    if (pread(fd, bytes, sizeof(bytes), (off_t)slot * SLOT_SIZE) != (ssize_t)sizeof(bytes) ||
        memcmp(bytes, magic, MAGIC_SIZE) != 0 ||
        bytes_get_u32(bytes + CRC_AT) != crc32c(0, bytes, CRC_AT))
        return false;
    memcpy(record->uuid.bytes, bytes + UUID_AT, sizeof(record->uuid.bytes));
    record->epoch = bytes_get_u64(bytes + EPOCH_AT);
    return true;
}

// What the file says: 1 and the slot it stands in, 0 when it is empty, -EBADMSG when it is damaged.
static int read_record(int fd, struct record *newest, unsigned *slot)
{
    struct stat st;
    bool found = false;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct record record = {0};
        if (!read_slot(fd, i, &record) || (found && record.epoch < newest->epoch))
            continue;
        *newest = record;
        *slot = i;
        found = true;
    }
    if (found)
        return 1;
    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_size == 0 ? 0 : -EBADMSG;
}

static int write_record(int fd, unsigned slot, const struct uuid *uuid, uint64_t epoch)
{
    uint8_t bytes[RECORD_SIZE];
    memcpy(bytes, magic, MAGIC_SIZE);
    memcpy(bytes + UUID_AT, uuid->bytes, sizeof(uuid->bytes));
    bytes_put_u64(bytes + EPOCH_AT, epoch);
    bytes_put_u32(bytes + CRC_AT, crc32c(0, bytes, CRC_AT));
    ssize_t n = pwrite(fd, bytes, sizeof(bytes), (off_t)slot * SLOT_SIZE);
    if (n != (ssize_t)sizeof(bytes))
        return n < 0 ? -errno : -ENOSPC;
    return fsync(fd) < 0 ? -errno : 0;
}

int disk_epoch_claim(int fd, const char *path, const struct uuid *uuid, uint64_t epoch,
                     uint64_t most, bool create, struct error *err)
{
    struct record record = {0};
    unsigned slot = 1; // so that an empty file begins with slot 0
    char text[UUID_TEXT_SIZE];
    int rc = read_record(fd, &record, &slot);
    if (rc == -EBADMSG)
        return error_set(err, EPERM,
                         "'%s.epoch' is damaged, so nobody can tell whose disk it is: put the "
                         "machine's own back, or remove it and start the machine as a new one",
                         path);
    if (rc < 0)
        return error_set_errno(err, -rc, "reading '%s.epoch'", path);
    if (rc == 0 && !create)
        return error_set(err, EPERM, "'%s.epoch' is empty: the disk is no machine's yet", path);
    if (rc > 0 && !uuid_equal(&record.uuid, uuid))
        return error_set(err, EPERM, "disk image '%s' belongs to another machine, %s", path,
                         uuid_format(&record.uuid, text));
    if (rc > 0 && record.epoch > most)
        return error_set(err, ESTALE,
                         "disk image '%s' was used by a later owner (epoch %" PRIu64
                         ", this one has %" PRIu64 ")",
                         path, record.epoch, epoch);
    if (rc > 0 && record.epoch == epoch)
        return 0;
    rc = write_record(fd, 1 - slot, uuid, epoch);
    return rc < 0 ? error_set_errno(err, -rc, "writing '%s.epoch'", path) : 0;
}
