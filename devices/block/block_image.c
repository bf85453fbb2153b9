#include "devices/block/block_image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

int block_image_open(const char *path, const struct block_file_config *config, struct error *err)
{
    int flags = (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
    if (config->cache == BLOCK_CACHE_NONE)
        flags |= O_DIRECT;
    int fd;
    do
        fd = open(path, flags);
    while (fd < 0 && errno == EINTR);
    if (fd >= 0)
        return fd;
    int code = errno;
    if (code == EINVAL && config->cache == BLOCK_CACHE_NONE)
        return error_set(err, code,
                         "disk image '%s': cache=none needs direct I/O, which its file system "
                         "doesn't offer; use cache=writeback",
                         path);
    if ((code == EROFS || code == EACCES) && !config->read_only)
        return error_set_errno(err, code,
                               "disk image '%s' can't be opened for writing (a read-only disk is "
                               "made with ',ro')",
                               path);
    return error_set_errno(err, code, "disk image '%s' can't be opened", path);
}

static int set_lock(int fd, short type)
{
    // l_pid must be 0 for locks of open file descriptions.
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    int rc;
    do
        rc = fcntl(fd, F_OFD_SETLK, &lock);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

// Whether a line of a process's fdinfo tells of a lock that conflicts. The line reads
// "lock:\t1: OFDLCK  ADVISORY  WRITE -1 08:01:1234 0 EOF"; it is there only for descriptors that
// hold the lock.
static bool line_has_lock(const char *line, const struct stat *st, bool read_only)
{
    char kind[16], access[8];
    unsigned major_number, minor_number;
    unsigned long inode;
    if (sscanf(line, "lock: %*d: %15s %*s %7s %*d %x:%x:%lu", kind, access, &major_number,
               &minor_number, &inode) != 5)
        return false;
    if (inode != st->st_ino || major_number != major(st->st_dev) ||
        minor_number != minor(st->st_dev))
        return false;
    return !read_only || strcmp(access, "WRITE") == 0;
}

static bool process_holds(const char *pid, const struct stat *st, bool read_only)
{
    char path[600];
    snprintf(path, sizeof(path), "/proc/%s/fdinfo", pid);
    DIR *directory = opendir(path);
    if (!directory)
        return false;
    bool found = false;
    struct dirent *entry;
    while (!found && (entry = readdir(directory))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, entry->d_name);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        char line[256];
        while (!found && fgets(line, sizeof(line), file))
            found = line_has_lock(line, st, read_only);
        fclose(file);
    }
    closedir(directory);
    return found;
}

// The process that holds a conflicting lock, as "process 12 (ferry)"; empty when it can't be found:
// F_OFD_GETLK doesn't name owners, so every process that we may look into is asked.
static void find_holder(int fd, bool read_only, char *out, size_t size)
{
    struct stat st;
    out[0] = 0;
    DIR *proc = fstat(fd, &st) == 0 ? opendir("/proc") : NULL;
    if (!proc)
        return;
    struct dirent *entry;
    while (!out[0] && (entry = readdir(proc))) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
            continue;
        if (!process_holds(entry->d_name, &st, read_only))
            continue;
        char path[300], command[32] = "?";
        snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file) {
            if (fgets(command, sizeof(command), file))
                command[strcspn(command, "\n")] = 0;
            fclose(file);
        }
        snprintf(out, size, "process %.10s (%s)", entry->d_name, command);
    }
    closedir(proc);
}

int block_image_lock(int fd, const char *path, bool read_only, struct error *err)
{
    int rc = set_lock(fd, read_only ? F_RDLCK : F_WRLCK);
    if (rc == 0)
        return 0;
    if (rc != -EAGAIN && rc != -EACCES)
        return error_set_errno(err, -rc, "disk image '%s' can't be locked", path);
    char holder[80];
    find_holder(fd, read_only, holder, sizeof(holder));
    return error_set(err, EAGAIN, "disk image '%s' is %s by %s; stop that machine first%s", path,
                     read_only ? "being written" : "in use",
                     holder[0] ? holder : "another process (perhaps on another host)",
                     read_only ? "" : ", or share the image read-only in both with ',ro'");
}

int block_image_claim(int fd, const char *path, bool read_only, struct error *err)
{
    enum { PAUSE_MS = 10, TRIES = 200 };
    char holder[80];
    for (int i = 0; i < TRIES && block_image_holder(fd, read_only, holder, sizeof(holder)); i++) {
        if (holder[0])
            break;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
    return block_image_lock(fd, path, read_only, err);
}

bool block_image_holder(int fd, bool read_only, char *out, size_t size)
{
    struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
        return false;
    find_holder(fd, read_only, out, size);
    return true;
}

int block_image_unlock(int fd)
{
    return set_lock(fd, F_UNLCK);
}
