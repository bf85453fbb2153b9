#include "vmm/doctor.h"

#include <sys/prctl.h>

#include <cpuid.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/units.h"
#include "vmm/sandbox.h"
#include "vmm/sandbox_namespaces.h"
#include "vmm/sched/cpu_cgroup.h"

// Versions of landlock, and what came with them.
enum { LANDLOCK_TRUNCATE = 3, LANDLOCK_NETWORK = 4, LANDLOCK_SCOPES = 6 };

struct examination {
    void (*report)(const struct doctor_finding *finding, void *opaque);
    void *opaque;
    const struct runtime_dir *dir;
    struct doctor_summary *summary;
};

const char *doctor_verdict_name(enum doctor_verdict verdict)
{
    static const char *const names[] = {"ok", "note", "warning", "bad"};
    return names[verdict];
}

static void find(struct examination *e, enum doctor_verdict verdict, const char *subject,
                 const char *consequence, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static void find(struct examination *e, enum doctor_verdict verdict, const char *subject,
                 const char *consequence, const char *format, ...)
{
    struct doctor_finding finding = {.verdict = verdict, .subject = subject};
    va_list args;
    va_start(args, format);
    vsnprintf(finding.fact, sizeof(finding.fact), format, args);
    va_end(args);
    snprintf(finding.consequence, sizeof(finding.consequence), "%s", consequence);
    if (verdict > e->summary->worst)
        e->summary->worst = verdict;
    e->report(&finding, e->opaque);
}

// The first line of a small file; "" when it can't be read.
static const char *read_line(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    return out;
}

// ---- CPU and kernel ----

static bool cpu_has_virtualisation(const char **which)
{
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && c & (1u << 5)) {
        *which = "VMX";
        return true;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & (1u << 2)) {
        *which = "SVM";
        return true;
    }
    return false;
}

static void examine_cpu(struct examination *e)
{
    unsigned a, b, c, d;
    const char *which;
    if (cpu_has_virtualisation(&which))
        find(e, DOCTOR_GOOD, "cpu", "", "the CPU has %s", which);
    else
        find(e, DOCTOR_NOTE, "cpu",
             "KVM works here only if it can do without; on hardware, look in the firmware set-up",
             "the CPU shows neither VMX nor SVM");
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 31)))
        return;
    unsigned signature[4] = {0};
    __cpuid(0x40000000, a, signature[0], signature[1], signature[2]);
    find(e, DOCTOR_NOTE, "hypervisor",
         "when that one freezes this host its clock stops too: what only clocks protect "
         "(leases) isn't safe then, disk locks still are",
         "this host is itself a guest of '%.12s'", (const char *)signature);
}

// ---- KVM ----

struct ability {
    int number;
    const char *name;
    enum doctor_verdict missing; // how bad it is when it isn't there
    const char *consequence;     // of missing it
};

static const struct ability abilities[] = {
    {KVM_CAP_IRQCHIP, "in-kernel interrupt controllers", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_USER_MEMORY, "memory slots", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_IRQFD, "irqfd", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_IOEVENTFD, "ioeventfd", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_SIGNAL_MSI, "MSI", DOCTOR_BAD, "no machine can run"},
    {KVM_CAP_TSC_DEADLINE_TIMER, "TSC deadline timer", DOCTOR_NOTE,
     "guests use the slower periodic timer"},
    {KVM_CAP_X2APIC_API, "x2APIC", DOCTOR_NOTE, "interrupts reach at most 255 vCPUs"},
    {KVM_CAP_READONLY_MEM, "read-only memory", DOCTOR_NOTE, "ROM of a guest can't be protected"},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "dirty log with manual protection", DOCTOR_WARNING,
     "migration of large machines stalls them"},
    {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, "dirty ring", DOCTOR_NOTE, "dirty pages are read as bitmaps"},
    {KVM_CAP_STEAL_TIME, "steal time", DOCTOR_NOTE, "guests don't see time taken from them"},
    {KVM_CAP_TSC_CONTROL, "TSC scaling", DOCTOR_NOTE,
     "machines keep their TSC only between hosts of the same frequency"},
    {KVM_CAP_BINARY_STATS_FD, "binary statistics", DOCTOR_NOTE,
     "`ferry stats` doesn't show second-level page sizes"},
    {KVM_CAP_XSAVE2, "XSAVE2", DOCTOR_NOTE, "large register state (AMX) can't be offered"},
};
enum { ABILITIES = sizeof(abilities) / sizeof(abilities[0]) };

static void examine_abilities(struct examination *e, int kvm_fd)
{
    char present[400] = "";
    for (int i = 0; i < ABILITIES; i++) {
        const struct ability *a = &abilities[i];
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, a->number) <= 0) {
            find(e, a->missing, "kvm ability", a->consequence, "missing: %s", a->name);
            continue;
        }
        size_t used = strlen(present);
        snprintf(present + used, sizeof(present) - used, "%s%s", used ? ", " : "", a->name);
    }
    find(e, DOCTOR_GOOD, "kvm abilities", present, "present:");
    int vcpus = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    int advised = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS);
    find(e, DOCTOR_GOOD, "kvm limits", "", "up to %d vCPUs a machine (%d advised)", vcpus, advised);
}

static void examine_ring0(struct examination *e, int kvm_fd)
{
    struct error err = {0};
    double mips;
    bool native;
    // Measured afresh for the figure; the answer that counts is the one that runs go by.
    if (doctor_ring0_measure(kvm_fd, &mips, &err) != 0 ||
        doctor_ring0_is_native(kvm_fd, e->dir, &native, &err) != 0) {
        find(e, DOCTOR_BAD, "ring 0", "no machine can run", "%s", err.message);
        return;
    }
    e->summary->ring0_known = true;
    e->summary->ring0_native = native;
    if (native)
        find(e, DOCTOR_GOOD, "ring 0", "stock kernels run", "guest ring 0 runs on the CPU");
    else
        find(e, DOCTOR_WARNING, "ring 0",
             "only kernels that live at CPL 3 (with ferry's ELF note) run; stock ones are refused "
             "without --force",
             "guest ring 0 is emulated, %.1f million instructions a second", mips);
}

static void explain_no_kvm(struct examination *e, int code)
{
    const char *which;
    struct stat st;
    if (code == EACCES || code == EPERM)
        find(e, DOCTOR_BAD, "kvm",
             "no machine can run: join the group kvm (`usermod -aG kvm USER`) and log in again",
             "this user has no right to open /dev/kvm");
    else if (code != ENOENT && code != ENODEV && code != ENXIO)
        find(e, DOCTOR_BAD, "kvm", "no machine can run", "opening /dev/kvm: %s", strerror(code));
    else if (stat("/sys/module/kvm", &st) == 0)
        find(e, DOCTOR_BAD, "kvm",
             "no machine can run: load kvm_intel or kvm_amd (dmesg says why, when it isn't taken)",
             "the kernel has KVM, but there is no /dev/kvm");
    else if (!cpu_has_virtualisation(&which))
        find(e, DOCTOR_BAD, "kvm",
             "no machine can run: switch virtualisation on in the firmware, or in the hypervisor "
             "(nested) where this host is a guest",
             "there is no /dev/kvm, and the CPU shows no virtualisation");
    else
        find(e, DOCTOR_BAD, "kvm",
             "no machine can run: load the module kvm_intel or kvm_amd (modprobe), or in a "
             "container hand the device in",
             "there is no /dev/kvm, although the CPU has %s", which);
}

// How long KVM polls when a vCPU halts, and whether one that spins in a loop of PAUSE is taken out
// of the guest. ferry never switches such exits off (KVM_CAP_X86_DISABLE_EXITS).
static void examine_halts(struct examination *e, int kvm_fd)
{
    static const char *const loops[] = {"/sys/module/kvm_intel/parameters/ple_gap",
                                        "/sys/module/kvm_amd/parameters/pause_filter_count"};
    char polls[40], loop[40] = "";
    bool can_be_told = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_HALT_POLL) > 0;
    read_line("/sys/module/kvm/parameters/halt_poll_ns", polls, sizeof(polls));
    if (*polls && strcmp(polls, "0") != 0)
        find(e, DOCTOR_NOTE, "halts",
             can_be_told
                 ? "sleepers wake sooner, by CPU time that no other gets; machines of ferry's "
                   "own slicer don't poll"
                 : "sleepers wake sooner, by CPU time that no other gets",
             "KVM polls for up to %s ns before a halted vCPU sleeps (halt_poll_ns)", polls);
    else
        find(e, DOCTOR_NOTE, "halts", "", "KVM doesn't poll before a halted vCPU sleeps");
    for (unsigned i = 0; i < 2 && !*loop; i++)
        read_line(loops[i], loop, sizeof(loop));
    bool exits = *loop && strcmp(loop, "0") != 0;
    find(e, DOCTOR_NOTE, "spinning",
         exits ? "it lets another vCPU of its machine run"
               : "it keeps its CPU until its slice is over",
         exits ? "a vCPU that spins in PAUSE leaves the guest"
               : "a vCPU that spins in PAUSE isn't noticed (no pause-loop exits)");
}

static void examine_kvm(struct examination *e)
{
    int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_fd < 0) {
        explain_no_kvm(e, errno);
        return;
    }
    int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        find(e, DOCTOR_BAD, "kvm", "no machine can run", "/dev/kvm speaks API version %d, not %d",
             version, KVM_API_VERSION);
    } else {
        e->summary->kvm_usable = true;
        find(e, DOCTOR_GOOD, "kvm", "", "/dev/kvm opens, API version %d", version);
        examine_abilities(e, kvm_fd);
        examine_halts(e, kvm_fd);
        examine_ring0(e, kvm_fd);
    }
    close(kvm_fd);
}

// ---- the host around it ----

// Who can enforce shares of CPU time here (docs/scheduling.md).
static void examine_cpu_time(struct examination *e)
{
    struct error two = {0}, one = {0};
    bool has_two = cpu_cgroup_usable(2, &two) == 0, has_one = cpu_cgroup_usable(1, &one) == 0;
    find(e, DOCTOR_GOOD, "cpu time", "--cpu-backend auto takes the first of these",
         "shares can be enforced by %s%sferry's own slicer (own) and nice values (sched)",
         has_two ? "cgroup2, " : "", has_one ? "cgroup1, " : "");
    if (!has_two)
        find(e, DOCTOR_NOTE, "cpu time", "", "not by cgroup2: %s", two.message);
    if (!has_one)
        find(e, DOCTOR_NOTE, "cpu time", "", "not by cgroup1: %s", one.message);
    int cookies = prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, PR_SCHED_CORE_SCOPE_THREAD, 0);
    if (cookies != 0 && errno == EINVAL)
        find(e, DOCTOR_NOTE, "cpu time", "--cpu-group is refused",
             "the kernel has no core scheduling");
}

static void examine_huge_pages(struct examination *e)
{
    char line[100], pages[40];
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
    if (strstr(line, "[always]") || strstr(line, "[madvise]"))
        find(e, DOCTOR_GOOD, "huge pages", "guest RAM is backed by 2 MiB pages",
             "transparent huge pages: %s", line);
    else
        find(e, DOCTOR_NOTE, "huge pages", "guest RAM is backed by 4 KiB pages, which costs speed",
             "transparent huge pages: %s", *line ? line : "none");
    read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", pages, sizeof(pages));
    if (*pages && strcmp(pages, "0") != 0)
        find(e, DOCTOR_NOTE, "hugetlb", "", "%s pages of 2 MiB are set aside", pages);
}

static void examine_cgroups(struct examination *e)
{
    char controllers[200];
    struct stat st;
    read_line("/sys/fs/cgroup/cgroup.controllers", controllers, sizeof(controllers));
    if (strstr(controllers, "cpu"))
        find(e, DOCTOR_GOOD, "cgroups", "", "version 2: %s", controllers);
    else if (stat("/sys/fs/cgroup/cpu/cpu.shares", &st) == 0)
        find(e, DOCTOR_GOOD, "cgroups", "", "version 1, with the cpu controller");
    else
        find(e, DOCTOR_NOTE, "cgroups", "the kernel can't share CPU time out between machines",
             "no cpu controller is available");
}

static void examine_io_uring(struct examination *e)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
    if (fd < 0) {
        find(e, DOCTOR_WARNING, "io_uring", "disks need it", "not usable: %s", strerror(errno));
        return;
    }
    close(fd);
    find(e, DOCTOR_GOOD, "io_uring", "", "usable");
}

// What shuts a machine's process in (docs/threat-model.md).
static void examine_sandbox(struct examination *e)
{
    struct sandbox_abilities has;
    struct error why = {0};
    sandbox_find_abilities(&has);
    if (has.filters)
        find(e, DOCTOR_GOOD, "call filters", "", "each thread has its own system calls");
    else
        find(e, DOCTOR_WARNING, "call filters", "machines run only with --sandbox off",
             "this kernel has no seccomp filters");
    if (sandbox_try_namespaces(&why) == 0)
        find(e, DOCTOR_GOOD, "namespaces", "", "users, files, network: each machine has its own");
    else
        find(e, DOCTOR_NOTE, "namespaces",
             "the other layers alone keep a machine's process from this host's files and network",
             "can't be made: %s", why.message);
    if (!has.landlock)
        find(e, DOCTOR_WARNING, "landlock",
             "files are kept from a machine's process by their permissions alone: give each "
             "machine a user of its own",
             "not available");
    else if (has.landlock < LANDLOCK_SCOPES)
        find(e, DOCTOR_NOTE, "landlock",
             has.landlock < LANDLOCK_TRUNCATE
                 ? "a machine's process could cut other machines' files short"
                 : "a machine's process could signal others of its user",
             "version %d: files%s", has.landlock,
             has.landlock < LANDLOCK_NETWORK ? "" : ", TCP ports");
    else
        find(e, DOCTOR_GOOD, "landlock", "", "version %d: files, TCP ports, signals", has.landlock);
}

static void examine_tun(struct examination *e)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        find(e, DOCTOR_GOOD, "tap", "", "/dev/net/tun opens");
    } else
        find(e, DOCTOR_NOTE, "tap", "--net tap=... doesn't work for this user", "/dev/net/tun: %s",
             strerror(errno));
}

static void examine_runtime_dir(struct examination *e)
{
    struct statfs fs;
    char room[32];
    if (!e->dir)
        find(e, DOCTOR_BAD, "runtime directory", "no machine can run", "it can't be used");
    else if (fstatfs(e->dir->fd, &fs) == 0)
        find(e, DOCTOR_GOOD, "runtime directory", "", "%s, %s free", e->dir->path,
             units_format_size((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize, room, sizeof(room)));
}

void doctor_examine(const struct runtime_dir *dir,
                    void (*report)(const struct doctor_finding *finding, void *opaque),
                    void *opaque, struct doctor_summary *summary)
{
    struct examination e = {.report = report, .opaque = opaque, .dir = dir, .summary = summary};
    *summary = (struct doctor_summary){0};
    examine_cpu(&e);
    examine_kvm(&e);
    examine_cpu_time(&e);
    examine_huge_pages(&e);
    examine_cgroups(&e);
    examine_io_uring(&e);
    examine_sandbox(&e);
    examine_tun(&e);
    examine_runtime_dir(&e);
}
