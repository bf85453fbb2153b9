#include "base/filter/thread_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/filter/filters.h" // made at build time: filter_code[], filter_calls[]
#include "base/last_word.h"
#include "base/log.h"

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 // asm-generic/siginfo.h
#endif

static atomic_bool armed;

static const char *const names[THREAD_FILTER_KINDS] = {"main", "migration", "io", "disk", "vcpu"};

const char *thread_filter_name(enum thread_filter kind)
{
    return names[kind];
}

static const char *call_name(int number)
{
    size_t count = sizeof(filter_calls) / sizeof(filter_calls[0]);
    if (number < 0 || (size_t)number >= count || !filter_calls[number][0])
        return "?";
    return filter_calls[number];
}

// In signal context, of the thread that tried: nothing here takes a lock or allocates (the logger
// formats on the stack and writes once).
static void on_denied(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    char thread[16] = "?";
    prctl(PR_GET_NAME, thread);
    if (info->si_code != SYS_SECCOMP) // somebody sent it
        log_error(LAST_WORD "SIGSYS was sent by process %d of user %u", (int)info->si_pid,
                  info->si_uid);
    else
        log_error(LAST_WORD
                  "sandbox: thread '%s' tried the system call %s (%d), which its filter "
                  "doesn't allow. If it was no attack, report it; until then --sandbox off",
                  thread, call_name(info->si_syscall), info->si_syscall);
    // The handler is gone (SA_RESETHAND): delivered on return, this ends the process.
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal_number);
}

int thread_filter_arm(void)
{
    struct sigaction action = {.sa_sigaction = on_denied,
                               .sa_flags = SA_SIGINFO | (int)SA_RESETHAND};
    if (!thread_filter_is_available())
        return -ENOSYS;
    // The C library reads the time zone's file once, for whichever thread first asks for a date:
    // that would be the logger in a thread that may open nothing.
    tzset();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || sigaction(SIGSYS, &action, NULL) < 0)
        return -errno;
    atomic_store(&armed, true);
    return 0;
}

bool thread_filter_is_armed(void)
{
    return atomic_load(&armed);
}

bool thread_filter_is_available(void)
{
    unsigned action = SECCOMP_RET_TRAP;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

void thread_filter_enter(enum thread_filter kind)
{
    if (!thread_filter_is_armed())
        return;
    // The kernel only reads it.
    struct sock_fprog program = {.len = filter_code[kind].length,
                                 .filter = (struct sock_filter *)filter_code[kind].code};
    // Speculation stays as it is for the rest of the process: the filter is no reason to slow
    // vCPUs down (before Linux 5.16 a filter did that by itself).
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program) ==
        0)
        return;
    log_error("sandbox: a thread of kind %s can't be filtered: %s", names[kind], strerror(errno));
    abort();
}
