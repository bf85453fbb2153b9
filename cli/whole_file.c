#include "cli/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

// What a signal that ends this process would leave behind; "" = nothing. A command writes one such
// file at a time.
static char unfinished[PATH_MAX];

static void remove_unfinished(int number)
{
    if (unfinished[0])
        unlink(unfinished);
    raise(number); // once this returns, as it was before: SA_RESETHAND
}

static void remove_on_end_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = remove_unfinished, .sa_flags = SA_RESETHAND}, before;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        // Not what the caller wants ignored (nohup), or what the command itself listens to.
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(numbers[i], &action, NULL);
    }
}

// What would be replaced must be a file: of a device or a socket nothing but a file would be left.
static int check_place(const char *path, struct error *err)
{
    struct stat there;
    if (lstat(path, &there) < 0)
        return 0; // none, or what is wrong shows when it is made
    if (S_ISDIR(there.st_mode))
        return error_set(err, EISDIR, "'%s' is a directory: name a file in it", path);
    if (!S_ISREG(there.st_mode) && !S_ISLNK(there.st_mode))
        return error_set(err, EINVAL,
                         "'%s' is there and is no file: it would be replaced by one, so name "
                         "another",
                         path);
    return 0;
}

// Opens the file, empty and locked by this open of it; whoever got the descriptor holds the lock
// too, even when this process is killed. -EWOULDBLOCK when it is somebody else's, or -errno.
static int open_alone(const char *path)
{
    for (;;) {
        struct stat here, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r = fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &here) < 0 ? -errno : 0;
        // What somebody else made in advance, he could read; and he keeps its other names.
        if (r == 0 && (here.st_uid != geteuid() || here.st_nlink > 1 || !S_ISREG(here.st_mode)))
            r = -EEXIST;
        if (r == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino) {
            if (fchmod(fd, 0600) == 0 && ftruncate(fd, 0) == 0)
                return fd;
            r = -errno;
        }
        if (fd >= 0)
            close(fd);
        // Else its last owner gave it its name, or took it away, since it was opened.
        if (r < 0)
            return r;
    }
}

int whole_file_open(struct whole_file *file, const char *path, struct error *err)
{
    file->path = path;
    int rc = check_place(path, err);
    if (rc < 0)
        return rc;
    if (snprintf(file->partial, sizeof(file->partial), "%s.partial", path) >=
        (int)sizeof(file->partial))
        return error_set(err, ENAMETOOLONG, "'%s' is too long", path);
    int fd = open_alone(file->partial);
    if (fd == -EWOULDBLOCK)
        return error_set(err, EBUSY,
                         "'%s' is being written by somebody else: wait for that, or choose "
                         "another file",
                         path);
    if (fd == -EEXIST)
        return error_set(err, EEXIST,
                         "'%s' is there already and isn't a file of this user's alone: remove it, "
                         "or choose another file",
                         file->partial);
    if (fd < 0)
        return error_set_errno(err, -fd, "'%s' can't be made", file->partial);
    file->stream = fdopen(fd, "r+b");
    if (file->stream) {
        memcpy(unfinished, file->partial, sizeof(unfinished));
        remove_on_end_signals();
        return 0;
    }
    int r = error_set_errno(err, errno, "'%s' can't be made", file->partial);
    unlink(file->partial);
    close(fd);
    return r;
}

static int sync_directory(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof(copy), "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return r;
}

int whole_file_end(struct whole_file *file, int error, struct error *err)
{
    int r = 0;
    if (!error && (fflush(file->stream) || fsync(fileno(file->stream))))
        r = -errno;
    unfinished[0] = 0; // from here on it's soon gone, and then may be somebody else's
    if (!error && !r && rename(file->partial, file->path))
        r = -errno;
    // With the lock: afterwards it may be somebody else's.
    if (error || r)
        unlink(file->partial);
    fclose(file->stream);
    if (!error && !r)
        r = sync_directory(file->path);
    return error ? error : r ? error_set_errno(err, -r, "'%s' can't be written", file->path) : 0;
}
