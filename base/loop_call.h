// Calls from other threads into an event loop.
//
// Ownership: the loop's thread makes and closes it; between these any other thread may call.
#pragma once

#include <uv.h>

struct loop_call;

// 0 or -errno. On the loop's thread.
int loop_call_create(struct loop_call **calls, uv_loop_t *loop);
// No call is under way and none comes any more. Its memory goes when the loop has run once more.
// NULL is allowed. On the loop's thread.
void loop_call_close(struct loop_call *calls);
// Runs function(opaque) on the loop's thread and waits for its end; on that thread it is a plain
// call. The caller must hold no lock that a callback of the loop takes, and the loop's thread must
// not be waiting for the caller.
void loop_call(struct loop_call *calls, void (*function)(void *opaque), void *opaque);
