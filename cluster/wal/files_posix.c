#include "cluster/wal/files.h"
#include "cluster/wal/files_ring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h> // renameat
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct posix_directory {
    int fd;
    struct files_ring *ring; // once it was asked for
};

static int posix_open(void *context, const char *name, unsigned flags, int *file)
{
    struct posix_directory *directory = context;
    int how = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    if (flags & FILES_CREATE)
        how |= O_CREAT;
    if (flags & FILES_DSYNC)
        how |= O_DSYNC;
    *file = openat(directory->fd, name, flags & FILES_DIRECT ? how | O_DIRECT : how, 0600);
    if (*file < 0 && errno == EINVAL && (flags & FILES_DIRECT)) // tmpfs, for one, can't
        *file = openat(directory->fd, name, how, 0600);
    return *file < 0 ? -errno : 0;
}

static void posix_close(void *context, int file)
{
    close(file);
}

static int posix_size(void *context, int file, uint64_t *size)
{
    struct stat status;
    if (fstat(file, &status) < 0)
        return -errno;
    *size = (uint64_t)status.st_size;
    return 0;
}

static int posix_read(void *context, int file, uint64_t offset, void *bytes, size_t length,
                      size_t *got)
{
    *got = 0;
    while (*got < length) {
        ssize_t n = pread(file, (uint8_t *)bytes + *got, length - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return 0;
}

static int posix_write(void *context, int file, uint64_t offset, const void *bytes, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n =
            pwrite(file, (const uint8_t *)bytes + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int posix_sync(void *context, int file)
{
    return fdatasync(file) < 0 ? -errno : 0;
}

static int posix_rename(void *context, const char *from, const char *to)
{
    struct posix_directory *directory = context;
    return renameat(directory->fd, from, directory->fd, to) < 0 ? -errno : 0;
}

static int posix_remove(void *context, const char *name)
{
    struct posix_directory *directory = context;
    return unlinkat(directory->fd, name, 0) < 0 ? -errno : 0;
}

static int posix_sync_directory(void *context)
{
    struct posix_directory *directory = context;
    return fsync(directory->fd) < 0 ? -errno : 0;
}

static int posix_list(void *context, void (*each)(void *opaque, const char *name), void *opaque)
{
    struct posix_directory *directory = context;
    int fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *stream = fdopendir(fd);
    if (!stream) {
        int error = -errno;
        close(fd);
        return error;
    }
    int error = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (!entry) {
            error = -errno;
            break;
        }
        if (entry->d_name[0] != '.')
            each(opaque, entry->d_name);
    }
    closedir(stream);
    return error;
}

static int posix_write_descriptor(void *context)
{
    struct posix_directory *directory = context;
    int error = directory->ring ? 0 : files_ring_open(&directory->ring);
    return error ? error : files_ring_descriptor(directory->ring);
}

static int posix_write_begin(void *context, int file, uint64_t offset, const void *bytes,
                             size_t length)
{
    struct posix_directory *directory = context;
    return files_ring_begin(directory->ring, file, offset, bytes, length);
}

static int posix_write_poll(void *context, bool wait)
{
    struct posix_directory *directory = context;
    return files_ring_poll(directory->ring, wait);
}

int files_posix_open(struct files *files, const char *path)
{
    struct posix_directory *directory = calloc(1, sizeof(*directory));
    if (!directory)
        return -ENOMEM;
    int error;
    directory->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory->fd < 0) {
        error = -errno;
        goto free_directory;
    }
    if (flock(directory->fd, LOCK_EX | LOCK_NB) < 0) {
        error = -errno;
        goto close_directory;
    }
    *files = (struct files){
        .context = directory,
        .open = posix_open,
        .close = posix_close,
        .size = posix_size,
        .read = posix_read,
        .write = posix_write,
        .sync = posix_sync,
        .rename = posix_rename,
        .remove = posix_remove,
        .sync_directory = posix_sync_directory,
        .list = posix_list,
        .write_descriptor = posix_write_descriptor,
        .write_begin = posix_write_begin,
        .write_poll = posix_write_poll,
    };
    return 0;

close_directory:
    close(directory->fd);
free_directory:
    free(directory);
    return error;
}

void files_posix_close(struct files *files)
{
    struct posix_directory *directory = files->context;
    if (!directory)
        return;
    files_ring_close(directory->ring);
    close(directory->fd);
    free(directory);
    *files = (struct files){0};
}
