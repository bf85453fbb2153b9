#include "base/last_word.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/log.h"

static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
// They come from outside, if at all; SIGXCPU at the caller's limit of CPU time.
static const int others[] = {SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU,  SIGPWR,
                             SIGIO,   SIGUSR1,   SIGUSR2, SIGSTKFLT};

enum { COUNT_OF_FAULTS = sizeof(faults) / sizeof(faults[0]) };
enum { COUNT_OF_OTHERS = sizeof(others) / sizeof(others[0]) };

// The sanitizers' reports of faults say more.
#if defined(__SANITIZE_ADDRESS__)
enum { FAULTS_ARE_REPORTED = 1 };
#else
enum { FAULTS_ARE_REPORTED = 0 };
#endif

// The program's code, by its linker; addresses are said from its start, as addr2line takes them.
extern const char __executable_start[], etext[];

static const char *meaning(const siginfo_t *info)
{
    if (info->si_signo != SIGBUS)
        return "";
    if (info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO)
        return " (the host's memory is damaged there)";
    return " (a file that is mapped there has become shorter, or its file system or the huge pages "
           "are used up)";
}

// Where the return addresses are, among others: what on the stack looks like one.
static void log_stack(const uintptr_t *stack)
{
    enum { WORDS = 256, SHOWN = 16, ROOM = 24 };
    char text[SHOWN * ROOM] = "";
    size_t used = 0;
    uintptr_t start = (uintptr_t)__executable_start, end = (uintptr_t)etext;
    for (unsigned i = 0, shown = 0; i < WORDS && shown < SHOWN; i++) {
        // The stack may end before: not beyond the page that is known to be there.
        if (i > 0 && ((uintptr_t)&stack[i] & 4095) == 0 && shown > 0)
            break;
        if (stack[i] < start || stack[i] >= end)
            continue;
        used += (size_t)snprintf(text + used, sizeof(text) - used, " %#zx", stack[i] - start);
        shown++;
    }
    if (used)
        log_error("code that its stack names:%s", text);
}

// In signal context, of the thread that is hit: nothing here takes a lock or allocates (the logger
// formats on the stack and writes once).
static void on_end(int number, siginfo_t *info, void *context)
{
    const ucontext_t *c = context;
    char thread[16] = "?", where[64];
    uintptr_t at = (uintptr_t)c->uc_mcontext.gregs[REG_RIP], start = (uintptr_t)__executable_start;
    bool own_code = at >= start && at < (uintptr_t)etext;
    char name[40];
    prctl(PR_GET_NAME, thread);
    if (number >= SIGRTMIN)
        snprintf(name, sizeof(name), "a real-time signal (%d)", number - SIGRTMIN);
    else
        snprintf(name, sizeof(name), "SIG%s", sigabbrev_np(number));
    snprintf(where, sizeof(where), own_code ? "ferry+%#zx" : "%#zx", own_code ? at - start : at);
    if (info->si_code > 0 && number != SIGABRT)
        log_error(LAST_WORD "%s at address %p%s in thread '%s', code at %s", name, info->si_addr,
                  meaning(info), thread, where);
    else if (info->si_pid == getpid())
        log_error(LAST_WORD "%s of its own in thread '%s', code at %s", name, thread, where);
    else
        log_error(LAST_WORD "%s was sent by process %d of user %u", name, (int)info->si_pid,
                  info->si_uid);
    // The handler is gone (SA_RESETHAND): delivered on return, this ends the process. Before the
    // stack is looked at, as that may fault.
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number);
    if (info->si_code > 0 || info->si_pid == getpid())
        log_stack((const uintptr_t *)c->uc_mcontext.gregs[REG_RSP]);
}

void last_word_prepare(void)
{
    struct sigaction action = {.sa_sigaction = on_end, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND};
    // One at a time: a second fault, in the handler, ends it at once.
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < COUNT_OF_FAULTS && !FAULTS_ARE_REPORTED; i++)
        sigaction(faults[i], &action, NULL);
    for (int i = 0; i < COUNT_OF_OTHERS; i++)
        sigaction(others[i], &action, NULL);
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        sigaction(number, &action, NULL);
}

void last_word_leave_open(sigset_t *blocked)
{
    for (int i = 0; i < COUNT_OF_FAULTS; i++)
        sigdelset(blocked, faults[i]);
    sigdelset(blocked, SIGSYS);
}
