// The sandbox from inside: a process that is shut in as a machine's is, and in it a thread of each
// kind, tries calls. What a filter doesn't allow ends the process and says so; what landlock
// doesn't allow fails.
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/filter/thread_filter.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "tests/unit/run_suite.h"
#include "vmm/sandbox_namespaces.h"

// ---- the tries: 0, or -errno ----

static char work[64] = "/tmp/ferry-sandbox.XXXXXX"; // the machine's directory is in it: own/
static int log_pipe[2];
static pid_t parent;
static struct sandbox_places places;
static uid_t real_user;
static int given_socket; // TCP, made before the sandbox

static int result(long value)
{
    return value < 0 ? -errno : 0;
}

static int try_exec(void)
{
    char *const none[] = {NULL};
    return result(syscall(SYS_execve, "/bin/true", none, none));
}
static int try_execveat(void)
{
    char *const none[] = {NULL};
    return result(syscall(SYS_execveat, AT_FDCWD, "/bin/true", none, none, 0));
}
static int try_fork(void)
{
    return result(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}
static int try_ptrace(void)
{
    return result(syscall(SYS_ptrace, 16 /* PTRACE_ATTACH */, parent, 0, 0));
}
static int try_read_memory_of_parent(void)
{
    return result(syscall(SYS_process_vm_readv, parent, NULL, 0, NULL, 0, 0));
}
static int try_kill(void)
{
    return result(syscall(SYS_kill, parent, 0));
}
static int try_setuid(void)
{
    return result(syscall(SYS_setuid, 0));
}
static int try_mount(void)
{
    return result(syscall(SYS_mount, "none", work, "tmpfs", 0, NULL));
}
static int try_unshare(void)
{
    return result(syscall(SYS_unshare, 0x10000000 /* CLONE_NEWUSER */));
}
static int try_bpf(void)
{
    return result(syscall(SYS_bpf, 0, NULL, 0));
}
static int try_perf(void)
{
    return result(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
}
static int try_userfaultfd(void)
{
    return result(syscall(SYS_userfaultfd, 0));
}
static int try_keyctl(void)
{
    return result(syscall(SYS_keyctl, 0, 0, 0, 0, 0));
}
static int try_raise_limit(void)
{
    const struct rlimit limit = {100, 100};
    return result(syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL));
}
static int try_read_limit(void)
{
    struct rlimit limit;
    return result(getrlimit(RLIMIT_CORE, &limit));
}
static int try_ring(void)
{
    char params[120] = {0};
    return result(syscall(SYS_io_uring_setup, 0, params)); // no entries: -EINVAL where it's allowed
}
static int try_clock_alarm(void)
{
    const struct itimerspec never = {0};
    return result(timerfd_settime(-1, 0, &never, NULL));
}
static int try_type_for_user(void)
{
    return result(ioctl(0, TIOCSTI, "x"));
}
static int try_memory(int protection)
{
    void *p = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -errno : 0;
}
static int try_data(void)
{
    return try_memory(PROT_READ | PROT_WRITE);
}
static int try_code(void)
{
    return try_memory(PROT_READ | PROT_EXEC);
}
static int try_written_code(void)
{
    return try_memory(PROT_READ | PROT_WRITE | PROT_EXEC);
}
static int try_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -errno : 0;
}
static int try_unix_socket(void)
{
    return try_socket(AF_UNIX);
}
static int try_inet_socket(void)
{
    return try_socket(AF_INET);
}
static int try_packet_socket(void)
{
    return try_socket(AF_PACKET);
}
static int try_netlink_socket(void)
{
    return try_socket(AF_NETLINK);
}
static int try_bind_port(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    return result(bind(given_socket, (struct sockaddr *)&any, sizeof(any)));
}
// By a socket from before, as a move does it: to a port where nobody listens.
static int try_connect(void)
{
    struct sockaddr_in nobody = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(1)};
    return result(connect(given_socket, (struct sockaddr *)&nobody, sizeof(nobody)));
}
// Names without a slash in front are in the runtime directory.
static int try_open(const char *name, int flags)
{
    int fd = openat(places.runtime_dir, name, flags | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : 0;
}
// What landlock hides is refused, and with namespaces it isn't there.
static int away(int rc)
{
    return rc == -EACCES || rc == -ENOENT ? -EACCES : rc;
}
static int try_open_own(void)
{
    return try_open("own/file", O_RDWR | O_CREAT | O_TRUNC);
}
static int try_open_neighbours(void)
{
    return try_open("neighbour/log", O_RDONLY);
}
static int try_make_beside(void)
{
    return try_open("new", O_WRONLY | O_CREAT);
}
static int try_open_passwords(void)
{
    return away(try_open("/etc/passwd", O_RDONLY));
}
static int try_open_above(void)
{
    return away(try_open("../../../../../../../../etc/passwd", O_RDONLY));
}
static int try_open_library(void)
{
    return try_open("/etc/ld.so.cache", O_RDONLY);
}
static int try_write_library(void)
{
    int rc = try_open("/usr/lib/ferry-test", O_WRONLY | O_CREAT);
    return rc == -EROFS ? -EACCES : rc;
}
static int try_open_device(void)
{
    return away(try_open("/dev/zero", O_RDWR));
}
static int try_thread_kill_parent(void)
{
    return result(syscall(SYS_tgkill, parent, parent, SIGURG));
}
static int try_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};
    return result(syscall(SYS_capget, &header, data));
}

// ---- what is expected ----

enum {
    M = 1 << THREAD_FILTER_MAIN,
    G = 1 << THREAD_FILTER_MIGRATION,
    I = 1 << THREAD_FILTER_IO,
    D = 1 << THREAD_FILTER_DISK,
    V = 1 << THREAD_FILTER_VCPU,
    ALL = M | G | I | D | V,
    DIES = 1, // no errno of a try is positive
};

static const struct expectation {
    const char *what;
    int kinds;
    int (*try)(void);
    int outcome;      // 0, -errno, or DIES
    int landlock;     // the version it takes, 0 for none
    const char *call; // which call it dies of
} expectations[] = {
    {"executing a program", ALL, try_exec, DIES, 0, "execve"},
    {"executing a program by its descriptor", ALL, try_execveat, DIES, 0, "execveat"},
    {"a process", ALL, try_fork, DIES, 0, "clone"},
    {"tracing", ALL, try_ptrace, DIES, 0, "ptrace"},
    {"another process's memory", ALL, try_read_memory_of_parent, DIES, 0, "process_vm_readv"},
    {"a signal to another process", ALL, try_kill, DIES, 0, "kill"},
    {"another user", ALL, try_setuid, DIES, 0, "setuid"},
    {"a mount", ALL, try_mount, DIES, 0, "mount"},
    {"a namespace", ALL, try_unshare, DIES, 0, "unshare"},
    {"BPF", ALL, try_bpf, DIES, 0, "bpf"},
    {"perf", ALL, try_perf, DIES, 0, "perf_event_open"},
    {"userfaultfd", ALL, try_userfaultfd, DIES, 0, "userfaultfd"},
    {"keys", ALL, try_keyctl, DIES, 0, "keyctl"},
    {"setting a limit", ALL, try_raise_limit, DIES, 0, "prlimit64"},
    {"reading a limit", ALL, try_read_limit, 0, 0, NULL},
    {"the clock's alarm", ALL, try_clock_alarm, -EBADF, 0, NULL},
    {"typing for the user", ALL, try_type_for_user, DIES, 0, "ioctl"},
    {"memory", ALL, try_data, 0, 0, NULL},
    {"memory that is written and executed", ALL, try_written_code, DIES, 0, "mmap"},
    {"code", M | G, try_code, 0, 0, NULL},
    {"code", I | D | V, try_code, DIES, 0, "mmap"},
    {"a ring", M | I, try_ring, -EINVAL, 0, NULL},
    {"a ring", G | D | V, try_ring, DIES, 0, "io_uring_setup"},
    {"a local socket", ALL, try_unix_socket, DIES, 0, "socket"},
    {"a network socket", ALL, try_inet_socket, DIES, 0, "socket"},
    {"a packet socket", ALL, try_packet_socket, DIES, 0, "socket"},
    {"a netlink socket", ALL, try_netlink_socket, DIES, 0, "socket"},
    {"a port of its own", ALL, try_bind_port, DIES, 0, "bind"},
    {"a connection by a socket that was given", M | G, try_connect, -ECONNREFUSED, 0, NULL},
    {"a connection by a socket that was given", I | D | V, try_connect, DIES, 0, "connect"},
    {"a file of its own", M | G, try_open_own, 0, 0, NULL},
    {"a file of another machine", M | G, try_open_neighbours, -EACCES, 1, NULL},
    {"a file beside the machines", M | G, try_make_beside, -EACCES, 1, NULL},
    {"a file of the host", M | G, try_open_passwords, -EACCES, 1, NULL},
    {"a file of the host, upwards", M | G, try_open_above, -EACCES, 1, NULL},
    {"a library", M | G, try_open_library, 0, 0, NULL},
    {"writing among libraries", M | G, try_write_library, -EACCES, 1, NULL},
    {"a device", M | G, try_open_device, -EACCES, 1, NULL},
    {"any file", I | D | V, try_open_own, DIES, 0, "openat"},
    {"a signal to a thread of another process", ALL, try_thread_kill_parent, -EPERM, 6, NULL},
};
enum { EXPECTATIONS = sizeof(expectations) / sizeof(expectations[0]) };

// ---- trying ----

struct attempt {
    enum thread_filter kind;
    int (*try)(void);
    int outcome;
};

static void *attempt_main(void *opaque)
{
    struct attempt *a = opaque;
    prctl(PR_SET_NAME, "attempt");
    thread_filter_enter(a->kind);
    a->outcome = a->try();
    return NULL;
}

static int open_dir(const char *name)
{
    char path[100];
    snprintf(path, sizeof(path), "%s/%s", work, name);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

// In a child of the test: as a machine's process does it.
static void shut_in(void)
{
    places = (struct sandbox_places){.machine_dir = open_dir("own"), .runtime_dir = open_dir(".")};
    given_socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct error err = {0};
    log_open(log_pipe[1], LOG_LEVEL_ERROR);
    if (sandbox_shut(&places, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        _exit(99);
    }
}

// What becomes of a thread of that kind: 0, -errno, or DIES. `said` gets the log.
static int outcome_of(enum thread_filter kind, int (*try)(void), char *said, size_t size)
{
    ck_assert_int_eq(pipe2(log_pipe, O_CLOEXEC), 0);
    parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        struct attempt a = {.kind = kind, .try = try};
        pthread_t thread;
        shut_in();
        if (pthread_create(&thread, NULL, attempt_main, &a) != 0)
            _exit(98);
        pthread_join(thread, NULL);
        _exit(-a.outcome);
    }
    close(log_pipe[1]);
    ssize_t n = read(log_pipe[0], said, size - 1);
    said[n > 0 ? n : 0] = 0;
    close(log_pipe[0]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
        ck_assert_int_eq(WTERMSIG(status), SIGSYS);
        return DIES;
    }
    return -WEXITSTATUS(status);
}

static bool host_has(const struct expectation *e)
{
    struct sandbox_abilities has;
    sandbox_find_abilities(&has);
    return has.filters && has.landlock >= e->landlock;
}

START_TEST(each_thread_gets_what_it_needs)
{
    const struct expectation *e = &expectations[_i];
    char said[800];
    if (!host_has(e))
        return;
    for (int kind = 0; kind < THREAD_FILTER_KINDS; kind++) {
        if (!(e->kinds & 1 << kind))
            continue;
        int outcome = outcome_of((enum thread_filter)kind, e->try, said, sizeof(said));
        ck_assert_msg(outcome == e->outcome, "%s in a %s thread: %d, expected %d; %s", e->what,
                      thread_filter_name((enum thread_filter)kind), outcome, e->outcome, said);
        // A process that dies says why.
        ck_assert(outcome != DIES ||
                  strstr(said, "sandbox: thread 'attempt' tried the system call"));
    }
}
END_TEST

START_TEST(denied_call_is_named)
{
    char said[800];
    const struct expectation none = {0};
    if (!host_has(&none))
        return;
    ck_assert_int_eq(outcome_of(THREAD_FILTER_VCPU, try_exec, said, sizeof(said)), DIES);
    ck_assert_ptr_nonnull(strstr(said, "execve (59)"));
    ck_assert_int_eq(outcome_of(THREAD_FILTER_MAIN, try_capabilities, said, sizeof(said)), DIES);
    ck_assert_ptr_nonnull(strstr(said, "capget (125)"));
}
END_TEST

// Numbers of 32-bit programs mean other calls: 11 would be their execve.
static int try_32_bit_call(void)
{
    long number = 11;
    __asm__ volatile("int $0x80" : "+a"(number) : "b"(0), "c"(0), "d"(0) : "memory");
    return (int)number;
}

START_TEST(calls_of_other_architectures_end_the_process)
{
    char said[800];
    const struct expectation none = {0};
    if (!host_has(&none))
        return;
    for (int kind = 0; kind < THREAD_FILTER_KINDS; kind++)
        ck_assert_int_eq(outcome_of((enum thread_filter)kind, try_32_bit_call, said, sizeof(said)),
                         DIES);
}
END_TEST

// A line of /proc/self/status, as a number in hexadecimal.
static unsigned long own_status(const char *field)
{
    char line[200];
    unsigned long value = ~0ul;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, field, strlen(field)) == 0)
            value = strtoul(line + strlen(field), NULL, 16);
    if (file)
        fclose(file);
    return value;
}

// ---- what namespaces stop, without any filter ----

static int try_new_connection(int family, const void *address, socklen_t size)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : result(connect(fd, address, size));
}

// Where the parent listens.
static struct sockaddr_in open_port;
static struct sockaddr_un open_name; // an abstract one

static int listen_for_all(int family, void *address, socklen_t size)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(fd >= 0 && bind(fd, address, size) == 0 && listen(fd, 8) == 0 &&
              getsockname(fd, address, &size) == 0);
    return fd;
}

static int count_names(const char *path)
{
    DIR *dir = opendir(path);
    int count = dir ? 0 : -1;
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

// Its exit status names the line that failed.
static void look_around(void)
{
    char other[64];
    snprintf(other, sizeof(other), "/proc/%d", (int)parent);
    const bool fine[] = {
        try_new_connection(AF_INET, &open_port, sizeof(open_port)) == -ENETUNREACH,
        try_new_connection(AF_UNIX, &open_name, sizeof(sa_family_t) + 17) < 0,
        !exists(other) && !exists("/proc/1") && exists("/proc/self/status"),
        !exists("/etc/passwd") && !exists("/home") && !exists("/dev/null") && !exists("/tmp"),
        !exists("/machines/../../etc/passwd"),
        count_names("/proc") == 3 && count_names("/etc") <= 5,
        mkdir("/new", 0700) < 0,
        unshare(CLONE_NEWNS) < 0,
        fstatat(places.machine_dir, "../own", &(struct stat){0}, 0) == 0,
        fstatat(places.machine_dir, "../../etc/hostname", &(struct stat){0}, 0) < 0,
        own_status("CapEff:") == 0,
        geteuid() == real_user,
    };
    for (unsigned i = 0; i < sizeof(fine) / sizeof(fine[0]); i++)
        if (!fine[i])
            _exit((int)i + 1);
    _exit(0);
}

START_TEST(namespaces_hide_the_host)
{
    struct error why = {0};
    int status;
    if (sandbox_try_namespaces(&why) < 0) {
        fprintf(stderr, "no namespaces here: %s\n", why.message);
        return;
    }
    parent = getpid();
    real_user = geteuid();
    open_port =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    open_name = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(open_name.sun_path + 1, 17, "ferry-%010d", (int)parent);
    int port = listen_for_all(AF_INET, &open_port, sizeof(open_port));
    int name = listen_for_all(AF_UNIX, &open_name, sizeof(sa_family_t) + 17);
    ck_assert_int_eq(try_new_connection(AF_INET, &open_port, sizeof(open_port)), 0);
    ck_assert_int_eq(try_new_connection(AF_UNIX, &open_name, sizeof(sa_family_t) + 17), 0);
    pid_t child = fork();
    if (child == 0) {
        log_pipe[1] = -1;
        shut_in();
        look_around();
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "line %d of look_around()",
                  WEXITSTATUS(status));
    close(port);
    close(name);
}
END_TEST

static int try_what_is_left(void)
{
    struct rlimit core;
    getrlimit(RLIMIT_CORE, &core);
    if (own_status("CapEff:") || own_status("CapPrm:") || own_status("CapInh:"))
        return -1;
    if (own_status("NoNewPrivs:") != 1)
        return -2;
    return core.rlim_max == 0 ? 0 : -3;
}

// Root outside is a user without a name for a machine of an ordinary user.
static void serve_as_user(const char *path)
{
    struct error err = {0};
    const uid_t user = 65533;
    if (chown(work, user, user) < 0 || setresgid(user, user, user) < 0 ||
        setresuid(user, user, user) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
        _exit(1);
    int fd = local_socket_listen(path, &err);
    places = (struct sandbox_places){.machine_dir = open_dir("."), .runtime_dir = open_dir("..")};
    if (fd < 0 || sandbox_enter_namespaces(&places, &err) < 0)
        _exit(2);
    struct pollfd client = {.fd = fd, .events = POLLIN};
    if (poll(&client, 1, 60000) != 1)
        _exit(3);
    _exit(local_socket_accept(fd) >= 0 ? 0 : 4);
}

START_TEST(root_is_let_in)
{
    struct error err = {0};
    char path[100];
    int status, fd = -1;
    if (geteuid() != 0 || sandbox_try_namespaces(&err) < 0)
        return;
    snprintf(path, sizeof(path), "%s/socket", work);
    pid_t child = fork();
    if (child == 0)
        serve_as_user(path);
    while (fd < 0 && waitpid(child, &status, WNOHANG) == 0)
        fd = local_socket_connect(path, &err);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "step %d", WEXITSTATUS(status));
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(no_privilege_is_left)
{
    char said[800];
    const struct expectation none = {0};
    if (!host_has(&none))
        return;
    ck_assert_int_eq(outcome_of(THREAD_FILTER_MAIN, try_what_is_left, said, sizeof(said)), 0);
}
END_TEST

// Off means off: without the main thread's word nobody is filtered.
START_TEST(unarmed_threads_are_not_filtered)
{
    thread_filter_enter(THREAD_FILTER_VCPU);
    ck_assert(!thread_filter_is_armed());
    ck_assert_int_eq(try_unix_socket(), 0);
}
END_TEST

static void make_work(void)
{
    char path[100];
    ck_assert_ptr_nonnull(mkdtemp(work));
    static const char *const dirs[] = {"own", "neighbour"};
    for (unsigned i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", work, dirs[i]);
        ck_assert_int_eq(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof(path), "%s/neighbour/log", work);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static void remove_work(void)
{
    static const char *const names[] = {"own/file", "own", "neighbour/log", "neighbour", "."};
    char path[100];
    for (unsigned i = 0; i < 5; i++) {
        snprintf(path, sizeof(path), "%s/%s", work, names[i]);
        remove(path);
    }
    rmdir(work);
}

int main(void)
{
    Suite *suite = suite_create("sandbox");
    TCase *tests = tcase_create("sandbox");
    tcase_add_unchecked_fixture(tests, make_work, remove_work);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, each_thread_gets_what_it_needs, 0, EXPECTATIONS);
    tcase_add_test(tests, denied_call_is_named);
    tcase_add_test(tests, namespaces_hide_the_host);
    tcase_add_test(tests, root_is_let_in);
    tcase_add_test(tests, calls_of_other_architectures_end_the_process);
    tcase_add_test(tests, no_privilege_is_left);
    tcase_add_test(tests, unarmed_threads_are_not_filtered);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
