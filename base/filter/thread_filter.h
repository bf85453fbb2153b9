// System call filters (seccomp), one for each kind of thread. A thread enters its kind's filter
// when it begins to serve; there is no way out of one, and what it starts inherits it.
//
// The filters are compiled when ferry is built (base/filter/compile_main.c, by libseccomp) and are
// constants here, so that a machine neither loads that library nor spends time on it.
//
// A call that no rule allows ends the process: the caller is either an attacker or a bug, and
// neither can be let go on. The last line of its log says which thread tried what.
//
// Nothing is filtered unless main said so by thread_filter_arm(), before it started a thread: the
// one piece of state here.
#pragma once

#include <stdbool.h>

enum thread_filter {
    THREAD_FILTER_MAIN,      // the event loop: control, console, every change of the machine
    THREAD_FILTER_MIGRATION, // moves and snapshots: files and connections
    THREAD_FILTER_IO,        // a device's I/O thread
    THREAD_FILTER_DISK,      // the same once its io_uring is made: no further ring
    THREAD_FILTER_VCPU,
    THREAD_FILTER_KINDS,
};

// Filters count from now on: sets the handler that reports denied calls, and no_new_privs, without
// which the kernel takes no filter from an ordinary user. 0, or -errno where this kernel can't.
int thread_filter_arm(void);
bool thread_filter_is_armed(void);

// Puts the calling thread behind the filter. Nothing happens while they aren't armed. A thread that
// can't be filtered ends the process: it must not run unfiltered.
void thread_filter_enter(enum thread_filter kind);

const char *thread_filter_name(enum thread_filter kind);
// Whether this kernel has filters at all.
bool thread_filter_is_available(void);
