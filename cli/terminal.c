#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

// Global, since a signal handler must find it. `saved` is complete before `raw_fd` is set.
static struct termios saved;
static atomic_int raw_fd = -1;
static struct sigaction before[NSIG]; // what else the signals would do

bool terminal_is_ours(int fd)
{
    return isatty(fd) && tcgetpgrp(fd) == getpgrp();
}

void terminal_restore(void)
{
    int fd = atomic_exchange(&raw_fd, -1);
    if (fd >= 0)
        tcsetattr(fd, TCSANOW, &saved);
}

static void on_end_signal(int number, siginfo_t *info, void *context)
{
    bool is_fault = number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL;
    (void)context;
    terminal_restore();
    // Now the signal does what it would have done. A fault happens again on return, so that who
    // handled it before knows where.
    sigaction(number, &before[number], NULL);
    if (!is_fault || info->si_code <= 0)
        raise(number);
}

static void catch_signal(int number)
{
    struct sigaction action = {.sa_sigaction = on_end_signal, .sa_flags = SA_SIGINFO};
    sigaction(number, NULL, &before[number]);
    sigaction(number, &action, NULL);
}

void terminal_restore_on_end_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        catch_signal(numbers[i]);
}

int terminal_make_raw(int fd)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
    struct termios raw;
    if (tcgetattr(fd, &saved) != 0)
        return -errno;
    raw = saved;
    cfmakeraw(&raw);
    atexit(terminal_restore);
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
        catch_signal(crashes[i]);
    atomic_store(&raw_fd, fd);
    if (tcsetattr(fd, TCSADRAIN, &raw) != 0) {
        atomic_store(&raw_fd, -1);
        return -errno;
    }
    return 0;
}
