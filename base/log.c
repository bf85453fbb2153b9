#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

static atomic_int log_fd = STDERR_FILENO;
static atomic_int log_limit = LOG_LEVEL_WARNING;

void log_open(int fd, enum log_level level)
{
    atomic_store(&log_fd, fd);
    atomic_store(&log_limit, level);
}

bool log_limit_allows(struct log_limit *limit, uint64_t now, bool *last)
{
    if (limit->count == 0 || now - limit->minute_start >= 60 * NSEC_PER_SEC)
        *limit = (struct log_limit){.minute_start = now};
    *last = limit->count + 1 == LOG_LINES_A_MINUTE;
    if (limit->count == LOG_LINES_A_MINUTE)
        return false;
    limit->count++;
    return true;
}

void log_write(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if ((int)level > atomic_load_explicit(&log_limit, memory_order_relaxed))
        return;
    char line[1200];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, sizeof(line) - used, ".%06ldZ %s ", now.tv_nsec / 1000,
                             names[level]);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
    line[used++] = '\n';
    // A log that can't be written is not a reason to disturb a machine.
    if (write(atomic_load(&log_fd), line, used) < 0)
        return;
}
