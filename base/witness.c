#include "base/witness.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct witness_slot) == 64, "a slot is a cache line");
_Static_assert(offsetof(struct witness_file, slots) == WITNESS_HEADER_SIZE, "the header");

static void read_boot_id(char *out, size_t size)
{
    memset(out, 0, size);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, out, size - 1) < 0)
        out[0] = 0;
    close(fd);
}

// The first process that comes writes the header, under a lock.
static int prepare(int fd, const struct uuid *uuid, struct witness_file *file)
{
    struct stat st;
    if (flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size == 0) {
        if (ftruncate(fd, sizeof(*file)) < 0)
            return -errno;
        file->uuid = *uuid;
        read_boot_id(file->boot_id, sizeof(file->boot_id));
        memcpy(file->magic, WITNESS_MAGIC, sizeof(file->magic));
    }
    return flock(fd, LOCK_UN) < 0 ? -errno : 0;
}

static int check(const struct witness_file *file, const char *path, struct error *err)
{
    if (memcmp(file->magic, WITNESS_MAGIC, sizeof(file->magic)) == 0)
        return 0;
    return error_set(err, EBADMSG, "'%s' is no witness file", path);
}

int witness_open(struct witness_file **file, const char *directory, const struct uuid *uuid,
                 struct error *err)
{
    char path[PATH_MAX], text[UUID_TEXT_SIZE];
    snprintf(path, sizeof(path), "%s/%s.witness", directory, uuid_format(uuid, text));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "witness file '%s'", path);
    void *bytes = mmap(NULL, sizeof(**file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int rc = bytes == MAP_FAILED ? -errno : prepare(fd, uuid, bytes);
    close(fd);
    if (rc < 0) {
        error_set_errno(err, -rc, "witness file '%s'", path);
    } else {
        rc = check(bytes, path, err);
        *file = bytes;
    }
    if (rc < 0 && bytes != MAP_FAILED)
        munmap(bytes, sizeof(**file));
    return rc;
}

int witness_open_path(const struct witness_file **file, const char *path, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "witness file '%s'", path);
    if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(**file)) {
        close(fd);
        return error_set(err, EBADMSG, "'%s' is no witness file", path);
    }
    void *bytes = mmap(NULL, sizeof(**file), PROT_READ, MAP_SHARED, fd, 0);
    int code = errno;
    close(fd);
    if (bytes == MAP_FAILED)
        return error_set_errno(err, code, "witness file '%s'", path);
    *file = bytes;
    int rc = check(*file, path, err);
    if (rc < 0)
        witness_close(*file);
    return rc;
}

void witness_close(const struct witness_file *file)
{
    if (file)
        munmap((void *)file, sizeof(*file));
}

struct witness_slot *witness_slot(struct witness_file *file, uint64_t epoch, enum witness_kind kind,
                                  unsigned index)
{
    if (!file)
        return NULL;
    uint32_t place = atomic_fetch_add(&file->used, 1);
    if (place >= WITNESS_SLOTS) {
        atomic_fetch_sub(&file->used, 1);
        return NULL;
    }
    struct witness_slot *slot = &file->slots[place];
    slot->index = index;
    slot->pid = (uint32_t)getpid();
    // Where the file is mapped is chosen at random, once for each process.
    slot->process = (uint64_t)(uintptr_t)file ^ slot->pid;
    slot->epoch = epoch;
    // Last: a reader that sees a kind sees whose slot it is.
    atomic_store_explicit(&slot->kind, (uint32_t)kind, memory_order_release);
    return slot;
}
