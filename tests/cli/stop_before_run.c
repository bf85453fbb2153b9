// Preloaded into a machine's process: stops it (SIGSTOP) just before a KVM_RUN that it was about to
// do, once the file $STOP_BEFORE_RUN exists. That is the moment after the lease was compared and
// before the guest is entered, which no signal from outside hits but by luck. The file is removed
// just before.
//
// The main thread has a timer for the deadline as well, and would call the vCPU back soon after;
// how soon is luck, too. So it is kept from reading that timer for a while: what the vCPU's thread
// does by itself is what is tested.
#include <dlfcn.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static atomic_int deadline_fd = -1;
static atomic_bool was_stopped;

int timerfd_create(int clock, int flags)
{
    static int (*next)(int clock, int flags);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "timerfd_create");
    int fd = next(clock, flags);
    if (clock == CLOCK_BOOTTIME)
        atomic_store(&deadline_fd, fd);
    return fd;
}

ssize_t read(int fd, void *bytes, size_t size)
{
    static ssize_t (*next)(int fd, void *bytes, size_t size);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "read");
    if (atomic_load(&was_stopped) && fd == atomic_load(&deadline_fd))
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    return next(fd, bytes, size);
}

int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int fd, unsigned long request, ...);
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "ioctl");
    const char *file = getenv("STOP_BEFORE_RUN");
    if (request == KVM_RUN && file && unlink(file) == 0) {
        atomic_store(&was_stopped, true);
        raise(SIGSTOP); // to this thread: the process's would stop it a little later
    }
    return next(fd, request, argument);
}
