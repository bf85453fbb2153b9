// A thread with an event loop, for device I/O.
//
// Ownership: the thread owns its loop. Watches are added, removed and fired on that thread only;
// other threads get there by io_thread_call(), which runs a function on the thread and returns
// after it ended. That is also how a device is quiesced: the call returns when no callback of the
// thread is running.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct io_thread;
struct io_watch;

// Starts the thread. `name` is shown by ps (15 bytes). 0 or -errno.
int io_thread_start(struct io_thread **thread, const char *name);
// Ends the loop and joins the thread; every watch was removed before. NULL is allowed.
void io_thread_stop(struct io_thread *thread);

// Runs function(opaque) on the thread and waits for its end; on the thread itself it is a plain
// call. Callers must hold no lock that a callback of the thread takes.
void io_thread_call(struct io_thread *thread, void (*function)(void *opaque), void *opaque);

// Calls function(opaque) each time `fd` is readable (level-triggered). For an eventfd the callback
// itself drains it. 0 or -errno. On the thread only.
int io_thread_watch(struct io_thread *thread, int fd, void (*function)(void *opaque), void *opaque,
                    struct io_watch **watch);
// Stops and restarts the callbacks without giving the watch up, for a descriptor that is readable
// while nothing can be done about it. On the thread only.
void io_watch_pause(struct io_watch *watch);
void io_watch_resume(struct io_watch *watch);
// Calls back when the descriptor is readable, or writable, or neither: the callback finds out which
// by trying. On the thread only.
void io_watch_want(struct io_watch *watch, bool readable, bool writable);
// After this no callback of the watch comes any more. NULL is allowed. On the thread only.
void io_thread_unwatch(struct io_watch *watch);
