#include "vmm/sandbox_namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Of <sys/mount.h>, which can't be had beside <linux/mount.h> in older C libraries.
int mount(const char *source, const char *target, const char *type, unsigned long flags,
          const void *data);
int umount2(const char *target, int flags);
#define UMOUNT_DETACH 2

// Where the new root is put first: a directory that every host has. It is below it, not in it, that
// the machine will be.
#define BUILDING_SITE "/proc"

enum { TREES_LIMIT = 16 };

// Pieces of the old tree, cloned while their names can be found.
struct tree {
    int fd;
    bool is_directory;
    char path[PATH_MAX]; // in the new tree, without the first slash
};

struct site {
    struct tree trees[TREES_LIMIT];
    unsigned count;
    char runtime_dir[PATH_MAX], machine_name[NAME_MAX + 1];
};

// ---- entering ----

static int write_map(const char *file, const char *text)
{
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

// This user and group, as themselves; without rights outside no others can be named.
static int map_ids(uid_t user, gid_t group)
{
    char users[40], groups[40];
    snprintf(users, sizeof(users), "%u %u 1", (unsigned)user, (unsigned)user);
    snprintf(groups, sizeof(groups), "%u %u 1", (unsigned)group, (unsigned)group);
    int rc = write_map("/proc/self/setgroups", "deny");
    if (rc == 0)
        rc = write_map("/proc/self/uid_map", users);
    return rc == 0 ? write_map("/proc/self/gid_map", groups) : rc;
}

// Ubuntu's AppArmor lets an ordinary user make a user namespace, but not have rights in it: no use
// then, and no way back.
static bool is_powerless(void)
{
    char value = '0';
    int fd = open("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool restricted = read(fd, &value, 1) == 1 && value != '0';
    close(fd);
    return restricted && geteuid() != 0;
}

static int enter(struct error *err)
{
    uid_t user = geteuid();
    gid_t group = getegid();
    const int others = CLONE_NEWNS | CLONE_NEWNET;
    if (is_powerless())
        return error_set(err, EPERM,
                         "AppArmor gives user namespaces no rights "
                         "(kernel.apparmor_restrict_unprivileged_userns)");
    if (unshare(CLONE_NEWUSER | others) == 0) {
        int rc = map_ids(user, group);
        return rc < 0 ? error_set_errno(err, -rc, "mapping this user") : 0;
    }
    int code = errno;
    // Where user namespaces are switched off root can do without one.
    if (unshare(others) == 0)
        return 0;
    return error_set(err, code, "%s",
                     code == ENOSPC  ? "there are too many (user.max_user_namespaces and others)"
                     : code == EPERM ? "this kernel or container doesn't let this user make any"
                                     : strerror(code));
}

// ---- the new tree ----

static int clone_tree(struct site *site, const char *from, const char *to, bool read_only)
{
    struct tree *tree = &site->trees[site->count];
    struct stat st;
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                                (read_only ? MOUNT_ATTR_RDONLY : 0)};
    tree->fd = (int)syscall(SYS_open_tree, AT_FDCWD, from,
                            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree->fd < 0)
        return errno == ENOENT ? 0 : -errno; // what isn't there isn't missed
    site->count++;
    if (fstat(tree->fd, &st) < 0 ||
        syscall(SYS_mount_setattr, tree->fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                sizeof(attributes)) < 0)
        return -errno;
    tree->is_directory = S_ISDIR(st.st_mode);
    snprintf(tree->path, sizeof(tree->path), "%s", to + (*to == '/'));
    return 0;
}

// The path of a directory that is open.
static int path_of(int fd, char *out)
{
    char link[40];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0)
        return n < 0 ? -errno : -ENOENT;
    out[n] = 0;
    return *out == '/' ? 0 : -ENOENT;
}

static int clone_trees(struct site *site, const struct sandbox_places *places)
{
    char own[40], machine[PATH_MAX];
    int rc = path_of(places->runtime_dir, site->runtime_dir);
    if (rc == 0)
        rc = path_of(places->machine_dir, machine);
    if (rc == 0)
        rc = clone_tree(site, site->runtime_dir, "machines", false);
    if (rc < 0)
        return rc;
    snprintf(site->machine_name, sizeof(site->machine_name), "%s", strrchr(machine, '/') + 1);
    // Not all of /proc: other processes are none of a machine's business.
    snprintf(own, sizeof(own), "/proc/%d", (int)getpid());
    rc = clone_tree(site, own, "proc/self", false);
    for (const struct sandbox_readable *r = sandbox_readable; r->path && rc == 0; r++) {
        struct stat st;
        bool is_link = lstat(r->path, &st) == 0 && S_ISLNK(st.st_mode);
        // A link (/lib, on most hosts) is made again; what it leads to is in the list.
        if (strcmp(r->path, "/proc") != 0 && !is_link)
            rc = clone_tree(site, r->path, r->path, true);
    }
    return rc;
}

static int make_parents(char *path)
{
    for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        int rc = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int put_tree(struct tree *tree)
{
    int rc = make_parents(tree->path);
    if (rc < 0)
        return rc;
    if (tree->is_directory) {
        if (mkdir(tree->path, 0755) < 0 && errno != EEXIST)
            return -errno;
    } else {
        int fd = open(tree->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return -errno;
        close(fd);
    }
    return syscall(SYS_move_mount, tree->fd, "", AT_FDCWD, tree->path, MOVE_MOUNT_F_EMPTY_PATH) < 0
               ? -errno
               : 0;
}

static int copy_links(void)
{
    char to[PATH_MAX];
    for (const struct sandbox_readable *r = sandbox_readable; r->path; r++) {
        ssize_t n = readlink(r->path, to, sizeof(to) - 1);
        if (n <= 0)
            continue;
        to[n] = 0;
        if (symlink(to, r->path + 1) < 0)
            return -errno;
    }
    return 0;
}

// In the directory that becomes the root.
static int fill(struct site *site)
{
    int rc = 0;
    for (unsigned i = 0; i < site->count && rc == 0; i++)
        rc = put_tree(&site->trees[i]);
    return rc == 0 ? copy_links() : rc;
}

static int reopen(const struct site *site, const struct sandbox_places *places)
{
    int runtime = open("/machines", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int machine = runtime < 0 ? -1
                              : openat(runtime, site->machine_name,
                                       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = machine < 0 || dup3(machine, places->machine_dir, O_CLOEXEC) < 0 ||
                     dup3(runtime, places->runtime_dir, O_CLOEXEC) < 0
                 ? -errno
                 : 0;
    if (machine >= 0)
        close(machine);
    if (runtime >= 0)
        close(runtime);
    return rc;
}

static int mount_root(void)
{
    const struct mount_attr apart = {.propagation = MS_PRIVATE};
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &apart, sizeof(apart)) < 0 ||
        mount("ferry", BUILDING_SITE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=755,size=64k,nr_inodes=64") < 0)
        return -errno;
    return chdir(BUILDING_SITE) < 0 ? -errno : 0;
}

static int become_root(void)
{
    if (syscall(SYS_pivot_root, ".", ".") == 0)
        return umount2(".", UMOUNT_DETACH) < 0 ? -errno : 0;
    // An initramfs is no file system that could give way (pivot_root(2)): it stays below, where no
    // path leads.
    return mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ? -errno : 0;
}

// 1. an empty tmpfs, over a directory of the old tree  2. what is needed in it  3. it becomes the
// root, and the old one lies on top of it  4. that goes; nothing of it is held, so the host can
// unmount what it likes.
static int change_root(struct site *site, const struct sandbox_places *places)
{
    const struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    int rc = mount_root();
    if (rc == 0)
        rc = fill(site);
    if (rc < 0)
        return rc;
    rc = become_root();
    if (rc < 0)
        return rc;
    if (chdir("/") < 0 ||
        syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &read_only, sizeof(read_only)) < 0)
        return -errno;
    return reopen(site, places);
}

int sandbox_enter_namespaces(const struct sandbox_places *places, struct error *err)
{
    struct site *site = calloc(1, sizeof(*site));
    if (!site)
        return error_set_errno(err, ENOMEM, "preparing");
    int rc = enter(err);
    if (rc == 0) {
        rc = clone_trees(site, places);
        if (rc == 0)
            rc = change_root(site, places);
        if (rc < 0 && chdir("/") == 0)
            umount2(BUILDING_SITE, UMOUNT_DETACH); // if it got that far
        if (rc < 0)
            error_set_errno(err, -rc, "making a root directory");
    }
    for (unsigned i = 0; i < site->count; i++)
        close(site->trees[i].fd);
    free(site);
    return rc;
}

int sandbox_try_namespaces(struct error *err)
{
    struct error why = {0};
    int ends[2], status = 0;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set_errno(err, errno, "trying");
    pid_t child = _Fork();
    if (child == 0) {
        int rc = enter(&why);
        if (rc == 0)
            rc = mount_root();
        if (rc < 0 && !why.code)
            error_set_errno(&why, -rc, "making a root directory");
        if (rc < 0 && write(ends[1], why.message, strlen(why.message)) < 0)
            _exit(2);
        _exit(rc < 0 ? 1 : 0);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], why.message, sizeof(why.message) - 1);
    why.message[n > 0 ? n : 0] = 0;
    close(ends[0]);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return error_set(err, EPERM, "%s", n > 0 ? why.message : "they can't be tried");
}
