// Runs when ferry is built: compiles the rules below with libseccomp and prints them as a header of
// constants (base/filter/thread_filter.h). docs/threat-model.md says how to change them.
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/filter/thread_filter.h"

enum {
    MAIN = 1 << THREAD_FILTER_MAIN,
    MIGRATION = 1 << THREAD_FILTER_MIGRATION,
    IO = 1 << THREAD_FILTER_IO,
    DISK = 1 << THREAD_FILTER_DISK,
    VCPU = 1 << THREAD_FILTER_VCPU,
    DEVICES = IO | DISK,
    LOOPS = MAIN | MIGRATION | DEVICES, // what waits for descriptors
    ALL = LOOPS | VCPU,
};

// ---- calls whose arguments don't matter ----

struct call {
    int kinds;
    const char *name;
};

static const struct call calls[] = {
    // Threads, time, memory: what the C library does for any thread.
    {ALL, "brk"},
    {ALL, "clock_getres"},
    {ALL, "clock_gettime"},
    {ALL, "clock_nanosleep"},
    {ALL, "exit"},
    {ALL, "exit_group"},
    {ALL, "futex"},
    {ALL, "getcpu"},
    {ALL, "getpid"},
    {ALL, "getrandom"},
    {ALL, "getrusage"},
    {ALL, "gettid"},
    {ALL, "gettimeofday"},
    {ALL, "madvise"},
    {ALL, "membarrier"},
    {ALL, "mremap"},
    {ALL, "munmap"},
    {ALL, "nanosleep"},
    {ALL, "restart_syscall"},
    {ALL, "rseq"},
    {ALL, "rt_sigaction"},
    {ALL, "rt_sigprocmask"},
    {ALL, "rt_sigreturn"},
    {ALL, "rt_sigtimedwait"},
    {ALL, "sched_getaffinity"},
    {ALL, "sched_getattr"},
    {ALL, "sched_getparam"},
    {ALL, "sched_getscheduler"},
    {ALL, "sched_setaffinity"}, // time slicing: a thread's own place and share
    {ALL, "sched_setattr"},
    {ALL, "sched_setscheduler"},
    {ALL, "sched_yield"},
    {ALL, "set_robust_list"},
    {ALL, "sigaltstack"},
    {ALL, "tgkill"}, // to wake a thread; the kernel checks whose
    {ALL, "time"},
    {ALL, "timer_create"}, // deadlines and slices of vCPUs
    {ALL, "timer_delete"},
    {ALL, "timer_getoverrun"},
    {ALL, "timer_gettime"},
    {ALL, "timer_settime"},
    {ALL, "timerfd_gettime"},
    {ALL, "timerfd_settime"}, // a vCPU that writes the clock's registers sets its alarm
    // Descriptors that are open already.
    {ALL, "close"},
    {ALL, "dup"},
    {ALL, "eventfd2"},
    {ALL, "fcntl"},
    {ALL, "fstat"},
    {ALL, "lseek"},
    {ALL, "newfstatat"}, // how the C library says fstat
    {ALL, "poll"},
    {ALL, "ppoll"},
    {ALL, "pread64"},
    {ALL, "preadv"},
    {ALL, "pwrite64"},
    {ALL, "pwritev"},
    {ALL, "read"},
    {ALL, "readv"},
    {ALL, "statx"},
    {ALL, "write"},
    {ALL, "writev"},
    {LOOPS, "epoll_create1"},
    {LOOPS, "epoll_ctl"},
    {LOOPS, "epoll_pwait"},
    {LOOPS, "epoll_wait"},
    {LOOPS, "fadvise64"},
    {LOOPS, "fallocate"},
    {LOOPS, "fdatasync"},
    {LOOPS, "fstatfs"},
    {LOOPS, "fsync"},
    {LOOPS, "ftruncate"},
    {LOOPS, "getsockname"},
    {LOOPS, "getpeername"},
    {LOOPS, "getsockopt"},
    {MAIN | MIGRATION, "memfd_create"},
    {LOOPS, "mincore"},
    {LOOPS, "pipe2"},
    {LOOPS, "preadv2"},
    {LOOPS, "pwritev2"},
    {LOOPS, "recvfrom"},
    {LOOPS, "recvmmsg"},
    {LOOPS, "recvmsg"},
    {LOOPS, "sendmmsg"},
    {LOOPS, "sendmsg"},
    {LOOPS, "sendto"},
    {LOOPS, "setsockopt"},
    {LOOPS, "shutdown"},
    {LOOPS, "sync_file_range"},
    {LOOPS, "timerfd_create"},
    {LOOPS, "io_uring_enter"},
    {MAIN | IO, "io_uring_register"},
    {MAIN | IO, "io_uring_setup"},
    // Connections: of clients (also vsock's), and to other hosts (moves), by sockets that were
    // given.
    {LOOPS, "accept"},
    {LOOPS, "accept4"},
    {MAIN | MIGRATION, "connect"},
    {MAIN, "unlink"}, // of a socket's path; landlock says where
    {MAIN, "unlinkat"},
    {MAIN, "fchmod"},
    // Files by name, of which landlock leaves a few: the machine's directory, libraries.
    {MAIN | MIGRATION, "access"},
    {MAIN | MIGRATION, "faccessat"},
    {MAIN | MIGRATION, "faccessat2"},
    {MAIN | MIGRATION, "getcwd"},
    {MAIN | MIGRATION, "getdents64"},
    {MAIN | MIGRATION, "lstat"},
    {MAIN | MIGRATION, "open"},
    {MAIN | MIGRATION, "openat"},
    {MAIN | MIGRATION, "readlink"},
    {MAIN | MIGRATION, "readlinkat"},
    {MAIN | MIGRATION, "stat"},
    {MAIN | MIGRATION, "statfs"},
    {MAIN, "chdir"},
    {MAIN, "mkdirat"},
    {MAIN, "rename"},
    {MAIN, "renameat"},
    {MAIN, "renameat2"},
    {MAIN, "umask"},
    // The rest of what main and moves do.
    {MAIN | MIGRATION, "copy_file_range"},
    {MAIN | MIGRATION, "getegid"},
    {MAIN | MIGRATION, "geteuid"},
    {MAIN | MIGRATION, "getgid"},
    {MAIN | MIGRATION, "getppid"},
    {MAIN | MIGRATION, "getuid"},
    {MAIN | MIGRATION, "msync"},
    {MAIN | MIGRATION, "sched_get_priority_max"},
    {MAIN | MIGRATION, "sched_get_priority_min"},
    {MAIN | MIGRATION, "sysinfo"},
    {MAIN | MIGRATION, "times"},
    {MAIN | MIGRATION, "uname"},
    {MAIN, "dup2"},
    {MAIN, "dup3"},
    {MAIN, "getpgid"}, // is this terminal ours?
    {MAIN, "getpgrp"},
    {MAIN, "getsid"},
    {MAIN, "getpriority"},
    {MAIN, "select"},
    {MAIN, "pselect6"},
    {MAIN, "setpriority"},
    {MAIN, "socketpair"},
    {MAIN, "wait4"}, // children that were started before
    {MAIN, "waitid"},
};

// ---- calls of which an argument counts ----

struct argument_rule {
    int kinds;
    const char *name;
    unsigned index; // of the argument
    uint64_t mask, value;
};

#define EXACT UINT64_C(0xffffffff) // arguments that the kernel takes as 32 bits

static const struct argument_rule argument_rules[] = {
    // KVM's: the machine itself. Descriptors decide which one.
    {ALL, "ioctl", 1, 0xff00, 0xae00},
    {ALL, "ioctl", 1, EXACT, FIONBIO},
    {ALL, "ioctl", 1, EXACT, FIONREAD},
    {ALL, "ioctl", 1, EXACT, FIOCLEX},
    // A tap's, after it was opened and named.
    {LOOPS, "ioctl", 1, EXACT, TUNGETIFF},
    {LOOPS, "ioctl", 1, EXACT, TUNGETFEATURES},
    {LOOPS, "ioctl", 1, EXACT, TUNSETOFFLOAD},
    {LOOPS, "ioctl", 1, EXACT, TUNSETQUEUE},
    {LOOPS, "ioctl", 1, EXACT, TUNSETSNDBUF},
    {LOOPS, "ioctl", 1, EXACT, TUNSETVNETHDRSZ},
    {LOOPS, "ioctl", 1, EXACT, TUNSETVNETLE},
    // A block device's.
    {LOOPS, "ioctl", 1, EXACT, BLKDISCARD},
    {LOOPS, "ioctl", 1, EXACT, BLKGETSIZE64},
    {LOOPS, "ioctl", 1, EXACT, BLKIOMIN},
    {LOOPS, "ioctl", 1, EXACT, BLKIOOPT},
    {LOOPS, "ioctl", 1, EXACT, BLKPBSZGET},
    {LOOPS, "ioctl", 1, EXACT, BLKROGET},
    {LOOPS, "ioctl", 1, EXACT, BLKSSZGET},
    {LOOPS, "ioctl", 1, EXACT, BLKZEROOUT},
    // The terminal of a foreground run: its mode and size, never TIOCSTI, which types for the user.
    {MAIN, "ioctl", 1, EXACT, TCGETS},
    {MAIN, "ioctl", 1, EXACT, TCSETS},
    {MAIN, "ioctl", 1, EXACT, TCSETSW},
    {MAIN, "ioctl", 1, EXACT, TCSETSF},
    {MAIN, "ioctl", 1, EXACT, TIOCGWINSZ},
    {MAIN, "ioctl", 1, EXACT, TIOCGPGRP},
    // Memory is written or executed, never both; only main and moves load libraries (capstone for a
    // crash report, GnuTLS for a move over TLS).
    {ALL, "mmap", 2, PROT_EXEC, 0},
    {ALL, "mprotect", 2, PROT_EXEC, 0},
    {MAIN | MIGRATION, "mmap", 2, PROT_EXEC | PROT_WRITE, PROT_EXEC},
    {MAIN | MIGRATION, "mprotect", 2, PROT_EXEC | PROT_WRITE, PROT_EXEC},
    {ALL, "prctl", 0, EXACT, PR_SET_NAME},
    {ALL, "prctl", 0, EXACT, PR_GET_NAME},
    {ALL, "prctl", 0, EXACT, PR_SET_VMA},
    {ALL, "prctl", 0, EXACT, PR_SET_TIMERSLACK},
    {MAIN, "prctl", 0, EXACT, PR_SCHED_CORE}, // --cpu-group of a running machine
    // Limits can be looked at; new ones (the third argument) can't be set.
    {ALL, "prlimit64", 2, UINT64_MAX, 0},
    // Threads, no processes. vCPUs start none.
    {LOOPS, "clone", 0, CLONE_THREAD, CLONE_THREAD},
    // Filters only get tighter: a thread enters its own.
    {MAIN | MIGRATION | IO, "seccomp", 0, EXACT, 1 /* SECCOMP_SET_MODE_FILTER */},
};

// What libraries try and can do without: told that there's no such call.
static const struct call missing[] = {
    {ALL, "clone3"}, // its flags are in memory, where no filter can look: clone follows
};

static const char *const kind_names[THREAD_FILTER_KINDS] = {"main", "migration", "io", "disk",
                                                            "vcpu"};

static void fail(const char *what, const char *name, int rc)
{
    fprintf(stderr, "compiling the system call filters: %s %s: %s\n", what, name, strerror(-rc));
    exit(1);
}

static int number_of(const char *name)
{
    int number = seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, name);
    if (number < 0)
        fail("no call", name, -ENOSYS);
    return number;
}

static scmp_filter_ctx compile(int kind)
{
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_TRAP);
    if (!context)
        fail("preparing", kind_names[kind], -ENOMEM);
    // Another architecture's calls (32-bit ones, x32) have other numbers: never.
    int rc = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0)
        rc = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a search tree
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]) && rc == 0; i++)
        if (calls[i].kinds & 1 << kind)
            rc = seccomp_rule_add(context, SCMP_ACT_ALLOW, number_of(calls[i].name), 0);
    for (size_t i = 0; i < sizeof(argument_rules) / sizeof(argument_rules[0]) && rc == 0; i++) {
        const struct argument_rule *r = &argument_rules[i];
        if (r->kinds & 1 << kind)
            rc = seccomp_rule_add(context, SCMP_ACT_ALLOW, number_of(r->name), 1,
                                  SCMP_CMP(r->index, SCMP_CMP_MASKED_EQ, r->mask, r->value));
    }
    for (size_t i = 0; i < sizeof(missing) / sizeof(missing[0]) && rc == 0; i++)
        if (missing[i].kinds & 1 << kind)
            rc = seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), number_of(missing[i].name), 0);
    if (rc < 0)
        fail("filter", kind_names[kind], rc);
    return context;
}

// Calls that are allowed whatever their arguments the kernel lets through by a bitmap. KVM_RUN
// isn't one of them, but the one call whose time counts: it comes before everything else. Jumps are
// relative, so what was compiled stays as it is behind this.
static const struct sock_filter fast_path[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};
enum { FAST_PATH = sizeof(fast_path) / sizeof(fast_path[0]) };

static void print_statement(struct sock_filter s)
{
    printf("    {0x%02x, %u, %u, 0x%08x},\n", s.code, s.jt, s.jf, s.k);
}

// Through a file, as that is how libseccomp hands a program out.
static size_t print_code(int kind)
{
    scmp_filter_ctx context = compile(kind);
    FILE *file = tmpfile();
    int rc = file ? seccomp_export_bpf(context, fileno(file)) : -errno;
    if (rc < 0)
        fail("exporting", kind_names[kind], rc);
    struct sock_filter instruction;
    size_t count = FAST_PATH;
    lseek(fileno(file), 0, SEEK_SET);
    printf("static const struct sock_filter filter_%d[] = {\n", kind);
    for (size_t i = 0; i < FAST_PATH; i++)
        print_statement(fast_path[i]);
    for (; fread(&instruction, sizeof(instruction), 1, file) == 1; count++)
        print_statement(instruction);
    printf("};\n");
    fclose(file);
    seccomp_release(context);
    return count;
}

static void print_names(void)
{
    enum { CALLS = 470 };
    // An array of arrays: pointers would be relocated at each start, into memory of its own.
    printf("static const char filter_calls[][32] = {\n");
    for (int number = 0; number < CALLS; number++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);
        if (name)
            printf("    [%d] = \"%s\",\n", number, name);
        free(name);
    }
    printf("};\n");
}

int main(void)
{
    size_t lengths[THREAD_FILTER_KINDS];
    printf("// Made by base/filter/compile_main.c.\n");
    for (int kind = 0; kind < THREAD_FILTER_KINDS; kind++)
        lengths[kind] = print_code(kind);
    printf("static const struct {\n    unsigned short length;\n"
           "    const struct sock_filter *code;\n} filter_code[] = {\n");
    for (int kind = 0; kind < THREAD_FILTER_KINDS; kind++)
        printf("    {%zu, filter_%d},\n", lengths[kind], kind);
    printf("};\n");
    print_names();
    return ferror(stdout) ? 1 : 0;
}
