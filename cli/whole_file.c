#include "cli/whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <unistd.h>

int whole_file_open(struct whole_file *file, const char *path, struct error *err)
{
    file->path = path;
    if (snprintf(file->partial, sizeof(file->partial), "%s.partial", path) >=
        (int)sizeof(file->partial))
        return error_set(err, ENAMETOOLONG, "'%s' is too long", path);
    int fd = open(file->partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    file->stream = fd < 0 ? NULL : fdopen(fd, "r+b");
    if (file->stream)
        return 0;
    int r = error_set_errno(err, errno, "'%s' can't be made", file->partial);
    if (fd >= 0) {
        close(fd);
        unlink(file->partial);
    }
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
    // What stdio still holds may be what doesn't fit.
    if (fclose(file->stream) && !error && !r)
        r = -errno;
    if (!error && !r && rename(file->partial, file->path))
        r = -errno;
    if (error || r)
        unlink(file->partial);
    else
        r = sync_directory(file->path);
    return error ? error : r ? error_set_errno(err, -r, "'%s' can't be written", file->path) : 0;
}
