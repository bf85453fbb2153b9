#include "base/runtime_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/last_word.h"
#include "base/local_socket.h"

enum { LIST_LOCK_WAIT_SECONDS = 10, EXIT_SIZE = 4096 };

// ---- the directory ----

static int default_path(char *out, size_t size)
{
    const char *environment = getenv("FERRY_RUNTIME_DIR");
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    int n;
    if (environment && *environment)
        n = snprintf(out, size, "%s", environment);
    else if (geteuid() == 0)
        n = snprintf(out, size, "/run/ferry");
    else if (xdg && *xdg == '/')
        n = snprintf(out, size, "%s/ferry", xdg);
    else
        n = snprintf(out, size, "/tmp/ferry-%u", (unsigned)geteuid());
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

// The directory must be ours alone: whoever can write to it can take a machine's sockets away and
// put others in their place. In /tmp anybody could have made it first.
static int check_owner(int fd, const char *path, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return error_set_errno(err, errno, "runtime directory '%s'", path);
    if (st.st_uid != geteuid())
        return error_set(err, EPERM,
                         "runtime directory '%s' belongs to user %u: choose another with "
                         "--runtime-dir or FERRY_RUNTIME_DIR",
                         path, (unsigned)st.st_uid);
    if (st.st_mode & 022)
        return error_set(err, EPERM,
                         "runtime directory '%s' can be written to by others: chmod 0700 it, or "
                         "choose another with --runtime-dir",
                         path);
    return 0;
}

int runtime_dir_open(struct runtime_dir *dir, const char *path, struct error *err)
{
    char wanted[PATH_MAX];
    int n = path ? snprintf(wanted, sizeof(wanted), "%s", path) : 0;
    if (n < 0 || n >= PATH_MAX || (!path && default_path(wanted, sizeof(wanted)) != 0))
        return error_set(err, ENAMETOOLONG, "the runtime directory's path is too long");
    if (!*wanted)
        return error_set(err, EINVAL, "the runtime directory's path is empty");
    if (mkdir(wanted, 0700) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "making the runtime directory '%s'", wanted);
    int fd = open(wanted, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return error_set(err, ENOTDIR,
                         "runtime directory '%s' is not a directory of its own "
                         "(symbolic links are not followed)",
                         wanted);
    if (fd < 0)
        return error_set_errno(err, errno, "opening the runtime directory '%s'", wanted);
    int r = check_owner(fd, wanted, err);
    // Absolute, since a machine may change its working directory.
    if (!r && !realpath(wanted, dir->path))
        r = error_set_errno(err, errno, "runtime directory '%s'", wanted);
    if (r) {
        close(fd);
        return r;
    }
    dir->fd = fd;
    return 0;
}

void runtime_dir_close(struct runtime_dir *dir)
{
    if (dir->fd >= 0)
        close(dir->fd);
    dir->fd = -1;
}

int runtime_dir_open_board(const struct runtime_dir *dir, struct error *err)
{
    int fd = openat(dir->fd, ".cpu-board", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ELOOP)
        return error_set(err, ELOOP,
                         "'%s/.cpu-board' is a symbolic link, where ferry keeps its schedule: "
                         "remove it, then it is made anew",
                         dir->path);
    return fd >= 0 ? fd : error_set_errno(err, errno, "opening '%s/.cpu-board'", dir->path);
}

// ---- locks ----

static int lock_try(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : -errno;
}

// Where that can't be found out it counts as held: what lives must not be taken for dead.
static bool lock_is_held(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

// Locks the list of machines. The descriptor (closing it unlocks), or -errno. Waits a while: it is
// held for moments only, unless its holder was stopped.
static int list_lock(const struct runtime_dir *dir, struct error *err)
{
    int fd = openat(dir->fd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "opening '%s/.lock'", dir->path);
    uint64_t limit = clock_monotonic_ns() + LIST_LOCK_WAIT_SECONDS * NSEC_PER_SEC;
    int r;
    while ((r = lock_try(fd)) == -EAGAIN && clock_monotonic_ns() < limit)
        nanosleep(&(struct timespec){.tv_nsec = 2 * NSEC_PER_MSEC}, NULL);
    if (!r)
        return fd;
    close(fd);
    return error_set_errno(err, -r, "locking '%s/.lock'%s", dir->path,
                           r == -EAGAIN ? " (a ferry process that holds it seems to be stopped)"
                                        : "");
}

// ---- a machine's directory ----

// Everything that is ever put there. Something else is left alone, and keeps the directory.
static const char *const machine_files[] = {
    "control.sock", "console.sock", "exit.json", "exit.json.new", "console.log", "log", "lock",
};
enum { SOCKETS = 2, MACHINE_FILES = sizeof(machine_files) / sizeof(machine_files[0]) };

static int open_machine_dir(const struct runtime_dir *dir, const char *name)
{
    if (!name_is_valid(name))
        return -ENOENT;
    int fd = openat(dir->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void remove_files(int machine_fd, int count)
{
    for (int i = 0; i < count; i++)
        unlinkat(machine_fd, machine_files[i], 0);
}

// A machine that ends while the disk is full must still be able to say how: else it would be taken
// for one whose process died, and started again.
static void set_exit_aside(int machine_fd)
{
    int fd = openat(machine_fd, "exit.json.new",
                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return; // its end may be more lucky
    (void)!fallocate(fd, 0, 0, EXIT_SIZE);
    close(fd);
}

// Under the list's lock.
static int claim_locked(const struct runtime_dir *dir, const char *name,
                        struct runtime_machine *machine, struct error *err)
{
    bool made = mkdirat(dir->fd, name, 0700) == 0;
    if (!made && errno != EEXIST)
        return error_set_errno(err, errno, "making '%s/%s'", dir->path, name);
    int fd = open_machine_dir(dir, name);
    if (fd < 0)
        return error_set_errno(err, -fd, "opening '%s/%s'", dir->path, name);
    int lock_fd = openat(fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r = lock_fd < 0 ? -errno : lock_try(lock_fd);
    if (r) {
        if (lock_fd >= 0)
            close(lock_fd);
        close(fd);
        if (made) // a full disk
            unlinkat(dir->fd, name, AT_REMOVEDIR);
        if (r == -EAGAIN)
            return error_set(err, EEXIST,
                             "a machine named '%s' is running: choose another name, or stop that "
                             "one first (ferry stop %s)",
                             name, name);
        return error_set_errno(err, -r, "locking '%s/%s/lock'", dir->path, name);
    }
    remove_files(fd, MACHINE_FILES - 1); // all but the lock
    set_exit_aside(fd);
    machine->fd = fd;
    machine->lock_fd = lock_fd;
    snprintf(machine->name, sizeof(machine->name), "%s", name);
    return 0;
}

// A name that nobody has, for a machine that was given none.
static int generate_name(const struct runtime_dir *dir, char *name, size_t size)
{
    static const char letters[] = "abcdefghijkmnpqrstuvwxyz23456789"; // 32, none alike
    for (int attempt = 0; attempt < 100; attempt++) {
        uint8_t random[6];
        int r = random_bytes(random, sizeof(random));
        if (r)
            return r;
        int used = snprintf(name, size, "vm-");
        for (size_t i = 0; i < sizeof(random); i++)
            name[used++] = letters[random[i] % 32];
        name[used] = 0;
        if (faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT)
            return 0;
    }
    return -EEXIST;
}

static int check_socket_path(const struct runtime_dir *dir, const char *name, struct error *err)
{
    size_t length = strlen(dir->path) + 1 + strlen(name) + strlen("/control.sock");
    if (length < LOCAL_SOCKET_PATH_LIMIT)
        return 0;
    return error_set(err, ENAMETOOLONG,
                     "'%s/%s/control.sock' would have %zu bytes, and a socket's path has at most "
                     "%d: choose a shorter runtime directory or name",
                     dir->path, name, length, LOCAL_SOCKET_PATH_LIMIT - 1);
}

int runtime_machine_claim(const struct runtime_dir *dir, const char *name,
                          struct runtime_machine *machine, struct error *err)
{
    char generated[NAME_LIMIT + 1];
    if (*name && !name_is_valid(name))
        return error_set(err, EINVAL, "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})",
                         name);
    int lock = list_lock(dir, err);
    if (lock < 0)
        return lock;
    int r = 0;
    if (!*name) {
        r = generate_name(dir, generated, sizeof(generated));
        if (r)
            error_set_errno(err, -r, "finding a name for the machine");
        name = generated;
    }
    if (!r)
        r = check_socket_path(dir, name, err);
    if (!r)
        r = claim_locked(dir, name, machine, err);
    if (!r && runtime_dir_path(dir, name, NULL, machine->path) != 0) {
        close(machine->fd);
        close(machine->lock_fd);
        r = error_set(err, ENAMETOOLONG, "the path of '%s' is too long", name);
    }
    close(lock);
    return r;
}

int runtime_machine_open(const struct runtime_machine *machine, const char *file, int flags,
                         struct error *err)
{
    int fd = openat(machine->fd, file, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd >= 0 ? fd : error_set_errno(err, errno, "opening '%s/%s'", machine->path, file);
}

char *runtime_machine_path(const struct runtime_machine *machine, const char *file, char *out)
{
    // The claim checked that the longest of them fits.
    int n = snprintf(out, PATH_MAX, "%s/%s", machine->path, file);
    if (n < 0 || n >= PATH_MAX)
        *out = 0;
    return out;
}

// All of it from the file's start, and nothing behind it.
static int overwrite_json(int fd, const json_t *value)
{
    char *text = json_dumps(value, JSON_INDENT(2));
    if (!text)
        return -ENOMEM;
    size_t length = strlen(text), done = 0;
    int r = 0;
    text[length++] = '\n'; // in place of the terminator
    while (!r && done < length) {
        ssize_t n = pwrite(fd, text + done, length - done, (off_t)done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            r = n == 0 ? -EIO : -errno;
    }
    if (!r && ftruncate(fd, (off_t)length) != 0)
        r = -errno;
    free(text);
    return r;
}

int runtime_machine_write_exit(const struct runtime_machine *machine, const json_t *status,
                               struct error *err)
{
    int fd = runtime_machine_open(machine, "exit.json.new", O_WRONLY | O_CREAT, err);
    if (fd < 0)
        return fd;
    int r = overwrite_json(fd, status);
    if (r && json_object_get(status, "crash_report")) {
        // Without it, it fits into what was set aside. The log has it, where there was room.
        json_t *shorter = json_copy((json_t *)status);
        json_object_del(shorter, "crash_report");
        r = shorter ? overwrite_json(fd, shorter) : r;
        json_decref(shorter);
    }
    if (close(fd) != 0 && !r)
        r = -errno;
    if (!r && renameat(machine->fd, "exit.json.new", machine->fd, "exit.json") != 0)
        r = -errno;
    return r ? error_set_errno(err, -r, "writing '%s/exit.json'", machine->path) : 0;
}

void runtime_machine_release(const struct runtime_dir *dir, struct runtime_machine *machine,
                             bool forget)
{
    if (machine->fd < 0)
        return;
    int lock = forget ? list_lock(dir, NULL) : -1;
    remove_files(machine->fd, lock >= 0 ? MACHINE_FILES : SOCKETS);
    if (lock >= 0) {
        unlinkat(dir->fd, machine->name, AT_REMOVEDIR);
        close(lock);
    }
    close(machine->fd);
    close(machine->lock_fd);
    machine->fd = machine->lock_fd = -1;
}

// ---- from outside ----

// The lock's descriptor, not locked; -ENOENT when there's no such machine.
static int open_lock(const struct runtime_dir *dir, const char *name)
{
    int fd = open_machine_dir(dir, name);
    if (fd < 0)
        return fd == -ENOTDIR || fd == -ELOOP ? -ENOENT : fd;
    int lock_fd = openat(fd, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    int r = lock_fd < 0 ? -errno : lock_fd;
    close(fd);
    return r;
}

int runtime_dir_is_alive(const struct runtime_dir *dir, const char *name)
{
    int lock_fd = open_lock(dir, name);
    if (lock_fd == -ENOENT) {
        // A start that was killed before it made its lock leaves an empty directory.
        int fd = open_machine_dir(dir, name);
        if (fd < 0)
            return fd == -ENOTDIR || fd == -ELOOP ? -ENOENT : fd;
        close(fd);
        return 0;
    }
    if (lock_fd < 0)
        return lock_fd;
    bool alive = lock_is_held(lock_fd);
    close(lock_fd);
    return alive;
}

static int is_candidate(const struct dirent *entry)
{
    return name_is_valid(entry->d_name);
}

int runtime_dir_list(const struct runtime_dir *dir,
                     int (*visit)(const char *name, bool alive, void *opaque), void *opaque,
                     struct error *err)
{
    struct dirent **entries;
    int count = scandirat(dir->fd, ".", &entries, is_candidate, alphasort), r = 0;
    if (count < 0)
        return error_set_errno(err, errno, "reading '%s'", dir->path);
    for (int i = 0; i < count; i++) {
        int alive = r ? -1 : runtime_dir_is_alive(dir, entries[i]->d_name);
        if (alive >= 0) // else: no machine, or removed meanwhile
            r = visit(entries[i]->d_name, alive, opaque);
        free(entries[i]);
    }
    free(entries);
    return r;
}

int runtime_dir_path(const struct runtime_dir *dir, const char *name, const char *file, char *out)
{
    int n =
        snprintf(out, PATH_MAX, "%s/%s%s%s", dir->path, name, file ? "/" : "", file ? file : "");
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

json_t *runtime_dir_read_exit(const struct runtime_dir *dir, const char *name)
{
    int fd = open_machine_dir(dir, name);
    if (fd < 0)
        return NULL;
    int exit_fd = openat(fd, "exit.json", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    close(fd);
    if (exit_fd < 0)
        return NULL;
    json_t *status = json_loadfd(exit_fd, 0, NULL);
    close(exit_fd);
    if (json_is_object(status))
        return status;
    json_decref(status);
    return NULL;
}

void runtime_dir_read_death(const struct runtime_dir *dir, const char *name, char *out)
{
    char end[8192];
    const char *word = NULL;
    int fd = open_machine_dir(dir, name);
    int log_fd = fd < 0 ? -1 : openat(fd, "log", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    off_t length = log_fd < 0 ? 0 : lseek(log_fd, 0, SEEK_END);
    off_t from = length > (off_t)sizeof(end) - 1 ? length - (off_t)sizeof(end) + 1 : 0;
    ssize_t n = log_fd < 0 ? 0 : pread(log_fd, end, sizeof(end) - 1, from);
    end[n > 0 ? n : 0] = 0;
    for (char *found = end; (found = strstr(found, LAST_WORD)); word = found)
        found += strlen(LAST_WORD);
    if (word)
        snprintf(out, RUNTIME_DEATH_SIZE, "died: %.*s", (int)strcspn(word, "\n"), word);
    else
        snprintf(out, RUNTIME_DEATH_SIZE,
                 "died without a word: it was killed by force (kill -9; by the kernel, whose log "
                 "says so, where memory ran out), or its host went down");
    if (log_fd >= 0)
        close(log_fd);
    if (fd >= 0)
        close(fd);
}

int runtime_dir_remove(const struct runtime_dir *dir, const char *name, struct error *err)
{
    int lock = list_lock(dir, err);
    if (lock < 0)
        return lock;
    int r = 0, fd = open_machine_dir(dir, name), lock_fd = open_lock(dir, name);
    if (fd < 0 || (lock_fd < 0 && lock_fd != -ENOENT))
        r = error_set(err, ENOENT, "there is no machine named '%s'", name);
    else if (lock_fd >= 0 && lock_is_held(lock_fd))
        r = error_set(err, EBUSY, "'%s' is running: stop it first (ferry stop %s)", name, name);
    if (!r) {
        remove_files(fd, MACHINE_FILES);
        if (unlinkat(dir->fd, name, AT_REMOVEDIR) != 0)
            r = error_set_errno(err, errno, "removing '%s/%s'", dir->path, name);
    }
    if (lock_fd >= 0)
        close(lock_fd);
    if (fd >= 0)
        close(fd);
    close(lock);
    return r;
}

// ---- facts of this boot ----

static bool read_boot_id(char *out, size_t size)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    out[n > 0 ? n : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    return *out;
}

bool runtime_dir_recall(const struct runtime_dir *dir, const char *fact, char *value, size_t size)
{
    char file[64], boot[64], text[256];
    snprintf(file, sizeof(file), ".fact-%s", fact);
    int fd = openat(dir->fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *space = strchr(text, ' '), *end = strchr(text, '\n');
    if (!space || !end || end < space || !read_boot_id(boot, sizeof(boot)))
        return false;
    *space = *end = 0;
    if (strcmp(text, boot) != 0)
        return false;
    snprintf(value, size, "%s", space + 1);
    return true;
}

void runtime_dir_remember(const struct runtime_dir *dir, const char *fact, const char *value)
{
    char file[64], temporary[80], boot[64], text[256];
    if (!read_boot_id(boot, sizeof(boot)))
        return;
    snprintf(file, sizeof(file), ".fact-%s", fact);
    snprintf(temporary, sizeof(temporary), "%s.%d", file, (int)getpid());
    int length = snprintf(text, sizeof(text), "%s %s\n", boot, value);
    int fd =
        openat(dir->fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    bool written = write(fd, text, (size_t)length) == length;
    close(fd);
    if (!written || renameat(dir->fd, temporary, dir->fd, file) != 0)
        unlinkat(dir->fd, temporary, 0);
}
