// The foreground of a run: standard input and output as the guest's console.
//
// They may be anything (terminal, pipe, file) and are shared with other processes, so they are
// neither made non-blocking nor polled: one thread reads and one writes. On a terminal Ctrl-] opens
// a menu.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "base/error.h"
#include "vmm/console_hub.h"

struct foreground;

// What the menu can do. Called on the loop's thread.
struct foreground_actions {
    void (*power_button)(void *opaque);
    void (*pause_or_resume)(void *opaque);
    void (*reset)(void *opaque);
    void (*kill)(void *opaque);
    void *opaque;
};

// Takes over the terminal (where there is one) and connects to the hub. 0 or a sentence.
int foreground_start(struct foreground **foreground, uv_loop_t *loop, struct console_hub *hub,
                     const struct foreground_actions *actions, struct error *err);
// Whether the terminal is in raw mode: messages to it then need carriage returns.
bool foreground_is_raw(const struct foreground *foreground);
// Calls `done` when all output was written.
void foreground_flush(struct foreground *foreground, void (*done)(void *opaque), void *opaque);
// Gives the terminal back and disconnects. NULL is allowed. A writer that is stuck in a pipe that
// nobody reads is left behind: the process is about to end.
void foreground_stop(struct foreground *foreground);
