#include "migrate/failure_point.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define VARIABLE "FERRY_FAILURE_POINT"

enum { DELAY_NS = 100 * 1000 * 1000 };

enum failure_action failure_point(const char *name)
{
    const char *wanted = getenv(VARIABLE);
    if (!wanted)
        return FAILURE_NONE;
    size_t length = strlen(name);
    if (strncmp(wanted, name, length) != 0 || (wanted[length] && wanted[length] != ':'))
        return FAILURE_NONE;
    const char *action = wanted[length] ? wanted + length + 1 : "kill";
    enum failure_action left = FAILURE_NONE;
    struct timespec delay = {.tv_nsec = DELAY_NS};
    if (strcmp(action, "cut") == 0)
        left = FAILURE_CUT;
    else if (strcmp(action, "garbage") == 0)
        left = FAILURE_GARBAGE;
    else if (strcmp(action, "delay") == 0)
        nanosleep(&delay, NULL);
    else
        raise(strcmp(action, "stop") == 0 ? SIGSTOP : SIGKILL);
    unsetenv(VARIABLE); // the next attempt shall succeed
    return left;
}
