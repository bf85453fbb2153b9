// The logger: one line a call, "TIME LEVEL text", to one descriptor.
//
// A line is written by a single write(2), so lines of several threads never mix, and nothing is
// locked. The descriptor and level are the only state; main sets them before it starts a thread.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

// Lines up to `level` go to `fd` from now on. The logger doesn't own the descriptor.
void log_open(int fd, enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// For what a guest, or a peer, can cause as often as it likes: at most LOG_LINES_A_MINUTE lines.
// One for each subject, zeroed; used by one thread at a time.
enum { LOG_LINES_A_MINUTE = 10 };
struct log_limit {
    uint64_t minute_start; // ns, monotonic
    unsigned count;
};
// Whether another line may be written at `now` (ns, monotonic); that one is counted. *last: it is
// the last of its minute, which it should say.
bool log_limit_allows(struct log_limit *limit, uint64_t now, bool *last);
#define LOG_LIMIT_NOTE(last) ((last) ? " (not said again for a minute)" : "")

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
