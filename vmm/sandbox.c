#include "vmm/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/filter/thread_filter.h"
#include "base/log.h"
#include "vmm/sandbox_namespaces.h"

// ---- landlock (Documentation/userspace-api/landlock.rst) ----

// Of interfaces newer than the headers of the distributions that ferry is built on.
#define ACCESS_TRUNCATE  (1u << 14) // 3
#define ACCESS_IOCTL_DEV (1u << 15) // 5
#define NET_BIND_TCP     (1u << 0)  // 4
#define SCOPE_ABSTRACT   (1u << 0)  // 6
#define SCOPE_SIGNAL     (1u << 1)  // 6

struct ruleset {
    uint64_t handled_files, handled_network, scoped;
};

#define READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define OWN                                                                                        \
    (READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |                       \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | ACCESS_TRUNCATE)
#define EVERYTHING_OF_1 ((1u << 13) - 1)

// Read only, where they are: what loading a library takes, and what the kernel tells about this
// process and about who holds a lock. /proc of others shows nothing secret: landlock itself keeps
// this process from tracing those outside.
const struct sandbox_readable sandbox_readable[] = {
    {"/usr/lib", READ},
    {"/usr/lib64", READ},
    {"/usr/local/lib", READ},
    {"/lib", READ},
    {"/lib64", READ},
    {"/etc/ld.so.cache", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/gnutls", READ},
    {"/etc/crypto-policies", READ},
    {"/usr/share/crypto-policies", READ},
    {"/proc", READ},
    {0},
};

static int landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version < 0 ? 0 : (int)version;
}

static int allow(int ruleset, int fd, uint64_t access, const struct ruleset *handled)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = access & handled->handled_files,
                                              .parent_fd = fd};
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
               ? -errno
               : 0;
}

static int allow_name(int ruleset, int dir, const char *name, uint64_t access,
                      const struct ruleset *handled)
{
    int fd = openat(dir, name, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return 0; // what isn't there needs no permission
    int rc = allow(ruleset, fd, access, handled);
    close(fd);
    return rc;
}

static int add_rules(int ruleset, const struct sandbox_places *places,
                     const struct ruleset *handled)
{
    int rc = allow(ruleset, places->machine_dir, OWN, handled);
    if (rc == 0)
        rc = allow(ruleset, places->runtime_dir, LANDLOCK_ACCESS_FS_REMOVE_DIR, handled);
    if (rc == 0)
        rc = allow_name(ruleset, places->runtime_dir, ".lock",
                        LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE, handled);
    for (unsigned i = 0; i < places->cgroups && rc == 0; i++) {
        rc = allow(ruleset, places->cgroup_dirs[i],
                   READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR, handled);
        if (rc == 0)
            rc = allow(ruleset, places->cgroup_parents[i],
                       LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR, handled);
    }
    for (const struct sandbox_readable *r = sandbox_readable; r->path && rc == 0; r++)
        rc = allow_name(ruleset, AT_FDCWD, r->path, r->access, handled);
    return rc;
}

static int shut_paths(const struct sandbox_places *places, int version, struct error *err)
{
    struct ruleset handled = {.handled_files = EVERYTHING_OF_1};
    size_t size = offsetof(struct ruleset, handled_network);
    if (version >= 2)
        handled.handled_files |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3)
        handled.handled_files |= ACCESS_TRUNCATE;
    if (version >= 4) {
        handled.handled_network = NET_BIND_TCP; // where it listens was bound before
        size = offsetof(struct ruleset, scoped);
    }
    if (version >= 5)
        handled.handled_files |= ACCESS_IOCTL_DEV;
    if (version >= 6) {
        handled.scoped = SCOPE_ABSTRACT | SCOPE_SIGNAL;
        size = sizeof(handled);
    }
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &handled, size, 0);
    if (ruleset < 0)
        return error_set_errno(err, errno, "sandbox: making landlock's rules");
    int rc = add_rules(ruleset, places, &handled);
    if (rc == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        rc = -errno;
    close(ruleset);
    return rc < 0 ? error_set_errno(err, -rc, "sandbox: applying landlock's rules") : 0;
}

// ---- capabilities, limits ----

static int drop_capabilities(struct error *err)
{
    // From the bounding set too, where that is allowed (to root); nothing here executes anything.
    for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
        prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (syscall(SYS_capset, &header, none) < 0)
        return error_set_errno(err, errno, "sandbox: giving up capabilities");
    return 0;
}

static void lower(int resource, rlim_t limit)
{
    struct rlimit now;
    if (getrlimit(resource, &now) < 0)
        return;
    if (now.rlim_max == RLIM_INFINITY || now.rlim_max > limit)
        now.rlim_max = limit;
    // A soft limit is a default for programs that can't deal with more; this one can.
    now.rlim_cur = now.rlim_max;
    if (setrlimit(resource, &now) < 0)
        log_warning("sandbox: limit %d stays as it is", resource);
}

// Not the size of files: disks may be plugged in and grown later, and a limit can't grow.
static void limit(void)
{
    enum { DESCRIPTORS = 16384 }; // eventfds above all: two a queue of each device
    lower(RLIMIT_CORE, 0);        // it would be a copy of the guest's memory in a file
    lower(RLIMIT_NOFILE, DESCRIPTORS);
    lower(RLIMIT_MSGQUEUE, 0);
}

// ---- all of it ----

void sandbox_find_abilities(struct sandbox_abilities *abilities)
{
    *abilities = (struct sandbox_abilities){.filters = thread_filter_is_available(),
                                            .landlock = landlock_version()};
}

int sandbox_shut(const struct sandbox_places *places, struct error *err)
{
    struct sandbox_abilities has;
    struct error why = {0};
    sandbox_find_abilities(&has);
    // Filters first: they set no_new_privs, without which landlock is for root only.
    int rc = thread_filter_arm();
    if (rc < 0)
        return error_set_errno(err, -rc,
                               "sandbox: this kernel filters no system calls (--sandbox off does "
                               "without all protection)");
    // Landlock lets nobody mount.
    bool namespaces = sandbox_enter_namespaces(places, &why) == 0;
    if (has.landlock)
        rc = shut_paths(places, has.landlock, err);
    if (rc == 0)
        rc = drop_capabilities(err);
    if (rc < 0)
        return rc;
    limit();
    log_info("sandbox: system call filters, %sno capabilities", namespaces ? "namespaces, " : "");
    if (has.landlock)
        log_info("sandbox: landlock %d", has.landlock);
    if (!namespaces)
        log_warning("sandbox: no namespaces of its own: %s", why.message);
    if (!has.landlock)
        log_warning("sandbox: this kernel has no landlock%s",
                    namespaces ? "" : ", so files are protected by their permissions alone");
    return 0;
}

void sandbox_filter_main(void)
{
    thread_filter_enter(THREAD_FILTER_MAIN);
}
