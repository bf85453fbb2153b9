#include "vmm/sched/cpu_cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/sched/sched_attributes.h"

enum { NAME_SIZE = 32, TEXT_SIZE = 1100, CAP_PERIOD_US = CPU_CAP_PERIOD_NS / 1000 };

// One hierarchy: cpu, or cpuset where version 1 has it apart.
struct hierarchy {
    int parent_fd, machine_fd; // -1: not there
    int vcpu_fds[CPU_SETTINGS_VCPUS];
};

struct cpu_cgroup {
    int version;
    unsigned vcpus;
    char name[NAME_SIZE];
    struct hierarchy cpu, cpuset; // in version 2 the first is both
    bool has_cpuset;
};

// ---- finding them ----

// The mount point of a hierarchy, from /proc/self/mountinfo: its type, and for version 1 the
// controller among its options.
static bool find_mount(int version, const char *controller, char *out, size_t size)
{
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    bool found = false;
    while (mounts && !found && fgets(line, sizeof(line), mounts)) {
        char point[1024], type[64], options[1024];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*s %*s %*s %*s %1023s", point) != 1 ||
            sscanf(rest, " - %63s %*s %1023s", type, options) != 2)
            continue;
        if (version == 2) {
            found = strcmp(type, "cgroup2") == 0;
        } else if (strcmp(type, "cgroup") == 0) {
            char *save;
            for (char *o = strtok_r(options, ",", &save); o && !found;
                 o = strtok_r(NULL, ",", &save))
                found = strcmp(o, controller) == 0;
        }
        if (found)
            snprintf(out, size, "%s", point);
    }
    if (mounts)
        fclose(mounts);
    return found;
}

// This process's group in it, from /proc/self/cgroup: "0::/path" or "3:cpu,cpuacct:/path".
static bool find_own(int version, const char *controller, char *out, size_t size)
{
    FILE *groups = fopen("/proc/self/cgroup", "re");
    char line[4096];
    bool found = false;
    while (groups && !found && fgets(line, sizeof(line), groups)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        names++;
        if (version == 2) {
            found = *names == 0;
        } else {
            char *save;
            for (char *o = strtok_r(names, ",", &save); o && !found; o = strtok_r(NULL, ",", &save))
                found = strcmp(o, controller) == 0;
        }
        if (found)
            snprintf(out, size, "%s", strcmp(path, "/") == 0 ? "" : path);
    }
    if (groups)
        fclose(groups);
    return found;
}

static bool find_place(int version, const char *controller, char out[4096])
{
    char mount[1024], own[2048];
    if (!find_mount(version, controller, mount, sizeof(mount)) ||
        !find_own(version, controller, own, sizeof(own)))
        return false;
    snprintf(out, 4096, "%s%s", mount, own);
    return true;
}

static int find_places(int version, struct cpu_cgroup_mounts *places, struct error *err)
{
    *places = (struct cpu_cgroup_mounts){0};
    if (!find_place(version, "cpu", places->cpu))
        return error_set(err, ENOTSUP, "this host has no cgroup v%d with the cpu controller",
                         version);
    if (version == 1 && !find_place(1, "cpuset", places->cpuset))
        *places->cpuset = 0;
    return 0;
}

// ---- files ----

static int write_file(int dir_fd, const char *file, const char *text)
{
    int fd = openat(dir_fd, file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t length = strlen(text);
    ssize_t n = write(fd, text, length);
    int rc = n == (ssize_t)length ? 0 : n < 0 ? -errno : -EIO;
    close(fd);
    return rc;
}

static int write_number(int dir_fd, const char *file, long long number)
{
    char text[32];
    snprintf(text, sizeof(text), "%lld", number);
    return write_file(dir_fd, file, text);
}

static bool read_file(int dir_fd, const char *file, char *out, size_t size)
{
    int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return false;
    out[n] = 0;
    out[strcspn(out, "\n")] = 0;
    return true;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += length)
        if ((at == text || isspace((unsigned char)at[-1])) &&
            (!at[length] || isspace((unsigned char)at[length])))
            return true;
    return false;
}

static const char *shared_group_message(const char *place, char message[TEXT_SIZE])
{
    snprintf(message, TEXT_SIZE,
             "the control group '%.500s' has other processes in it, so that no part of it can have "
             "a share of its own: start ferry in a group for itself (systemd-run --scope -p "
             "Delegate=yes ferry ...), or choose another --cpu-backend",
             place);
    return message;
}

// Of version 2, and not the root: whether processes are in it that aren't this one.
static bool has_others(int fd)
{
    char text[TEXT_SIZE], line[32];
    if (!read_file(fd, "cgroup.type", text, sizeof(text)) ||
        (read_file(fd, "cgroup.subtree_control", text, sizeof(text)) && has_word(text, "cpu")))
        return false;
    int list = openat(fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *file = list < 0 ? NULL : fdopen(list, "r");
    bool others = false;
    while (file && !others && fgets(line, sizeof(line), file))
        others = atoi(line) != (int)getpid();
    if (file)
        fclose(file);
    else if (list >= 0)
        close(list);
    return others;
}

int cpu_cgroup_usable(int version, struct error *err)
{
    struct cpu_cgroup_mounts places;
    char controllers[512], message[TEXT_SIZE];
    int rc = find_places(version, &places, err);
    if (rc < 0)
        return rc;
    if (access(places.cpu, W_OK) != 0)
        return error_set_errno(err, ENOTSUP, "no right to make groups in '%s'", places.cpu);
    if (version == 1)
        return 0;
    int fd = open(places.cpu, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool has_cpu = fd >= 0 &&
                   read_file(fd, "cgroup.controllers", controllers, sizeof(controllers)) &&
                   has_word(controllers, "cpu");
    bool shared = has_cpu && has_others(fd);
    if (fd >= 0)
        close(fd);
    if (!has_cpu)
        return error_set(err, ENOTSUP, "the cpu controller isn't delegated to '%s'", places.cpu);
    return shared ? error_set(err, ENOTSUP, "%s", shared_group_message(places.cpu, message)) : 0;
}

// ---- life ----

// A thread that was joined leaves its group a moment later: until then it's busy.
static void remove_dir(int parent_fd, const char *name, unsigned tries)
{
    struct timespec moment = {.tv_nsec = 1000000};
    while (unlinkat(parent_fd, name, AT_REMOVEDIR) != 0 && errno == EBUSY && --tries)
        nanosleep(&moment, NULL);
}

static void remove_group(int parent_fd, const char *name, unsigned tries)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    for (unsigned i = 0; i < CPU_SETTINGS_VCPUS; i++) {
        char vcpu[NAME_SIZE];
        snprintf(vcpu, sizeof(vcpu), "vcpu%u", i);
        remove_dir(fd, vcpu, tries);
    }
    close(fd);
    remove_dir(parent_fd, name, tries);
}

// What processes left that were killed. A group with threads in it can't be removed.
static void sweep(int parent_fd)
{
    int fd = dup(parent_fd);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        int pid = 0, end = 0;
        if (sscanf(entry->d_name, "ferry-%d%n", &pid, &end) == 1 && !entry->d_name[end] &&
            pid > 0 && kill(pid, 0) != 0 && errno == ESRCH)
            remove_group(parent_fd, entry->d_name, 1);
    }
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
}

static int make_group(int parent_fd, const char *name)
{
    if (mkdirat(parent_fd, name, 0755) != 0 && errno != EEXIST)
        return -errno;
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

// A cpuset of version 1 is empty at first, and then takes no thread.
static int inherit_cpuset(int parent_fd, int fd)
{
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
    char text[TEXT_SIZE];
    int rc = 0;
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        rc = read_file(parent_fd, files[i], text, sizeof(text)) ? write_file(fd, files[i], text)
                                                                : -EIO;
    return rc;
}

static int make_hierarchy(struct cpu_cgroup *g, struct hierarchy *h, const char *place, bool cpuset,
                          struct error *err)
{
    char message[TEXT_SIZE];
    h->parent_fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (h->parent_fd < 0)
        return error_set_errno(err, errno, "opening the control group '%s'", place);
    sweep(h->parent_fd);
    h->machine_fd = make_group(h->parent_fd, g->name);
    if (h->machine_fd < 0) {
        int rc = h->machine_fd;
        h->machine_fd = -1;
        return error_set_errno(err, -rc, "making the control group '%s/%s'", place, g->name);
    }
    int rc = cpuset ? inherit_cpuset(h->parent_fd, h->machine_fd) : 0;
    if (g->version == 2) {
        // A process's threads are in different groups only below the one that has the process. It
        // moves first: a group with processes in it gives its parts no controllers, but for the
        // root (Linux Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint").
        rc = write_number(h->machine_fd, "cgroup.procs", getpid());
        write_file(h->parent_fd, "cgroup.subtree_control", "+cpu"); // on already, mostly
        write_file(h->parent_fd, "cgroup.subtree_control", "+cpuset");
        if (rc == 0 && faccessat(h->machine_fd, "cpu.weight", W_OK, 0) != 0)
            return error_set(err, ENOTSUP, "%s", shared_group_message(place, message));
    }
    for (unsigned i = 0; i < g->vcpus && rc == 0; i++) {
        char vcpu[NAME_SIZE];
        snprintf(vcpu, sizeof(vcpu), "vcpu%u", i);
        h->vcpu_fds[i] = make_group(h->machine_fd, vcpu);
        if (h->vcpu_fds[i] < 0)
            rc = h->vcpu_fds[i];
        else if (cpuset)
            rc = inherit_cpuset(h->machine_fd, h->vcpu_fds[i]);
        else if (g->version == 2)
            rc = write_file(h->vcpu_fds[i], "cgroup.type", "threaded");
    }
    if (rc == 0 && g->version == 2) {
        rc = write_file(h->machine_fd, "cgroup.subtree_control", "+cpu");
        g->has_cpuset = write_file(h->machine_fd, "cgroup.subtree_control", "+cpuset") == 0;
    }
    return rc < 0 ? error_set_errno(err, -rc, "preparing the control group '%s/%s'", place, g->name)
                  : 0;
}

int cpu_cgroup_create_at(struct cpu_cgroup **out, int version, unsigned vcpus,
                         const struct cpu_cgroup_mounts *places, struct error *err)
{
    struct cpu_cgroup *g = calloc(1, sizeof(*g));
    if (!g)
        return error_set_errno(err, ENOMEM, "making control groups");
    g->version = version;
    g->vcpus = vcpus;
    memset(&g->cpu, 0xff, sizeof(g->cpu)); // descriptors: all -1
    memset(&g->cpuset, 0xff, sizeof(g->cpuset));
    snprintf(g->name, sizeof(g->name), "ferry-%d", (int)getpid());
    int rc = make_hierarchy(g, &g->cpu, places->cpu, false, err);
    if (rc == 0 && *places->cpuset) {
        struct error why = {0};
        g->has_cpuset = make_hierarchy(g, &g->cpuset, places->cpuset, true, &why) == 0;
        if (!g->has_cpuset)
            log_info("no cpuset: %s; threads get their CPUs by sched_setaffinity", why.message);
    }
    if (rc < 0) {
        cpu_cgroup_destroy(g);
        return rc;
    }
    *out = g;
    return 0;
}

int cpu_cgroup_create(struct cpu_cgroup **cgroup, int version, unsigned vcpus, struct error *err)
{
    struct cpu_cgroup_mounts places;
    int rc = find_places(version, &places, err);
    return rc < 0 ? rc : cpu_cgroup_create_at(cgroup, version, vcpus, &places, err);
}

unsigned cpu_cgroup_places(const struct cpu_cgroup *g, int parents[2], int dirs[2])
{
    const struct hierarchy *const both[] = {g ? &g->cpu : NULL, g ? &g->cpuset : NULL};
    unsigned count = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (!both[i] || both[i]->machine_fd < 0)
            continue;
        parents[count] = both[i]->parent_fd;
        dirs[count++] = both[i]->machine_fd;
    }
    return count;
}

static void destroy_hierarchy(struct cpu_cgroup *g, struct hierarchy *h)
{
    for (unsigned i = 0; i < CPU_SETTINGS_VCPUS; i++)
        if (h->vcpu_fds[i] >= 0)
            close(h->vcpu_fds[i]);
    if (h->machine_fd >= 0)
        close(h->machine_fd);
    if (h->parent_fd < 0)
        return;
    if (g->version == 2) // back to where it came from, so that the group is empty
        write_number(h->parent_fd, "cgroup.procs", getpid());
    remove_group(h->parent_fd, g->name, 100);
    close(h->parent_fd);
}

void cpu_cgroup_destroy(struct cpu_cgroup *g)
{
    if (!g)
        return;
    destroy_hierarchy(g, &g->cpu);
    destroy_hierarchy(g, &g->cpuset);
    free(g);
}

// ---- values ----

static int write_weight(const struct cpu_cgroup *g, int fd, unsigned weight)
{
    unsigned shares = (unsigned)((uint64_t)weight * 1024 / SCHED_WEIGHT_DEFAULT);
    if (g->version == 2)
        return write_number(fd, "cpu.weight", weight > 10000 ? 10000 : weight);
    return write_number(fd, "cpu.shares", shares < 2 ? 2 : shares > 262144 ? 262144 : shares);
}

static int write_cap(const struct cpu_cgroup *g, int fd, uint32_t cap)
{
    char text[64];
    // The kernel takes no quota below 1 ms; a longer period then.
    uint64_t period = CAP_PERIOD_US, quota = period * cap / 1000;
    if (cap && quota < 1000) {
        period = 100000;
        quota = period * cap / 1000;
    }
    if (g->version == 2) {
        if (cap)
            snprintf(text, sizeof(text), "%llu %llu", (unsigned long long)quota,
                     (unsigned long long)period);
        else
            snprintf(text, sizeof(text), "max");
        return write_file(fd, "cpu.max", text);
    }
    // Off first: a quota is checked against the period that is there.
    int rc = write_number(fd, "cpu.cfs_quota_us", -1);
    if (rc == 0 && cap)
        rc = write_number(fd, "cpu.cfs_period_us", (long long)period);
    if (rc == 0 && cap)
        rc = write_number(fd, "cpu.cfs_quota_us", (long long)quota);
    return rc;
}

static int write_thread(const struct cpu_cgroup *g, int fd, pid_t tid)
{
    return write_number(fd, g->version == 2 ? "cgroup.threads" : "tasks", tid);
}

static int write_affinity(const struct cpu_cgroup *g, unsigned index, const struct sched_cpus *cpus,
                          pid_t tid)
{
    const struct hierarchy *h = g->version == 2 ? &g->cpu : &g->cpuset;
    struct sched_cpus allowed;
    char text[TEXT_SIZE];
    if (!g->has_cpuset)
        return sched_attributes_set_affinity(tid, cpus);
    cpu_list_allowed(&allowed);
    for (unsigned i = 0; i < SCHED_CPUS_LIMIT / 64; i++)
        allowed.bits[i] &= cpus->bits[i];
    int rc = write_file(h->vcpu_fds[index], "cpuset.cpus",
                        cpu_list_format(&allowed, text, sizeof(text)));
    if (rc == 0 && g->version == 1)
        rc = write_thread(g, h->vcpu_fds[index], tid);
    return rc;
}

static int apply_vcpu(const struct cpu_cgroup *g, unsigned index, const struct sched_params *params,
                      uint32_t cap, pid_t tid)
{
    int fd = g->cpu.vcpu_fds[index];
    int rc = write_weight(g, fd, params->weight);
    if (rc == 0)
        rc = write_cap(g, fd, cap);
    if (rc == 0)
        rc = write_thread(g, fd, tid);
    if (rc == 0)
        rc = write_affinity(g, index, &params->affinity, tid);
    if (rc == 0)
        sched_attributes_set_slice(tid, params->slice); // a wish
    return rc;
}

int cpu_cgroup_apply(struct cpu_cgroup *g, const struct cpu_settings *settings, const pid_t *tids,
                     unsigned count, struct error *err)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < count; i++) {
        struct sched_params params;
        cpu_settings_resolve(settings, i, &params);
        int rc = apply_vcpu(g, i, &params, settings->vcpu[i].cap, tids[i]);
        if (rc < 0)
            return error_set_errno(err, -rc, "setting the control group of vCPU %u", i);
        sum += params.weight;
    }
    // A weight is a vCPU's: the machine has what its vCPUs have together.
    int rc = write_weight(g, g->cpu.machine_fd, sum);
    if (rc == 0)
        rc = write_cap(g, g->cpu.machine_fd, settings->machine.cap);
    return rc < 0 ? error_set_errno(err, -rc, "setting the machine's control group") : 0;
}
