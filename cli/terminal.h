// The terminal in raw mode, and back, whatever happens: at exit, and on signals that end the
// process (a crash included). Only SIGKILL leaves it raw.
#pragma once

#include <stdbool.h>

enum { TERMINAL_ESCAPE = 0x1d }; // Ctrl-]

// Whether `fd` is a terminal that this process may read from: a background job would be stopped.
bool terminal_is_ours(int fd);
// Raw from now on. 0 or -errno.
int terminal_make_raw(int fd);
// As it was before. Safe in a signal handler, and when nothing was changed.
void terminal_restore(void);
// Signals that would end the process put the terminal back first. For programs that don't handle
// SIGINT, SIGTERM, SIGHUP and SIGQUIT themselves.
void terminal_restore_on_end_signals(void);
