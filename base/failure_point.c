#include "base/failure_point.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define VARIABLE "FERRY_FAILURE_POINT"

enum { DELAY_NS = 100 * 1000 * 1000, WANTED_SIZE = 80 };

// Of NAME[:ACTION] the action, when it is this place's; else NULL.
static const char *action_of(const char *wanted, const char *name)
{
    size_t length = strlen(name);
    if (strncmp(wanted, name, length) != 0 || (wanted[length] && wanted[length] != ':'))
        return NULL;
    return wanted[length] ? wanted + length + 1 : "kill";
}

static bool read_wanted(const char *path, char wanted[WANTED_SIZE])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, wanted, WANTED_SIZE - 1) : -1;
    if (fd >= 0)
        close(fd);
    wanted[n > 0 ? n : 0] = 0;
    wanted[strcspn(wanted, "\n")] = 0;
    return n > 0;
}

static enum failure_action act(const char *name, const char *action)
{
    log_warning("failure point '%s': %s", name, action);
    struct timespec delay = {.tv_nsec = DELAY_NS};
    if (strcmp(action, "cut") == 0)
        return FAILURE_CUT;
    if (strcmp(action, "garbage") == 0)
        return FAILURE_GARBAGE;
    if (strcmp(action, "delay") == 0)
        nanosleep(&delay, NULL);
    else
        raise(strcmp(action, "stop") == 0 ? SIGSTOP : SIGKILL);
    return FAILURE_NONE;
}

enum failure_action failure_point(const char *name)
{
    char read_here[WANTED_SIZE];
    const char *wanted = getenv(VARIABLE);
    if (!wanted)
        return FAILURE_NONE;
    bool in_file = wanted[0] == '@';
    const char *path = wanted + 1;
    if (in_file && !read_wanted(path, read_here))
        return FAILURE_NONE;
    const char *action = action_of(in_file ? read_here : wanted, name);
    // Of several that come there at once one has it.
    if (!action || (in_file && unlink(path) != 0))
        return FAILURE_NONE;
    enum failure_action left = act(name, action);
    if (!in_file)
        unsetenv(VARIABLE); // the next attempt shall succeed
    return left;
}
