#include "base/loop_call.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

// A call that waits to be run; lives on the caller's stack.
struct pending_call {
    struct pending_call *next;
    void (*function)(void *opaque);
    void *opaque;
    sem_t done;
};

struct loop_call {
    uv_async_t wake_up;
    pthread_t thread;     // the loop's, known from its first callback on
    pthread_mutex_t lock; // guards `calls`; held for a few instructions only
    struct pending_call *calls, **calls_end;
};

static void run_calls(uv_async_t *wake_up)
{
    struct loop_call *c = wake_up->data;
    pthread_mutex_lock(&c->lock);
    struct pending_call *call = c->calls;
    c->calls = NULL;
    c->calls_end = &c->calls;
    pthread_mutex_unlock(&c->lock);
    while (call) {
        struct pending_call *next = call->next; // the call is gone once its caller wakes up
        call->function(call->opaque);
        sem_post(&call->done);
        call = next;
    }
}

int loop_call_create(struct loop_call **calls, uv_loop_t *loop)
{
    struct loop_call *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    int rc = uv_async_init(loop, &c->wake_up, run_calls);
    if (rc < 0) {
        free(c);
        return rc;
    }
    c->wake_up.data = c;
    c->thread = pthread_self();
    c->calls_end = &c->calls;
    pthread_mutex_init(&c->lock, NULL);
    *calls = c;
    return 0;
}

static void free_calls(uv_handle_t *handle)
{
    struct loop_call *c = handle->data;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void loop_call_close(struct loop_call *c)
{
    if (c)
        uv_close((uv_handle_t *)&c->wake_up, free_calls);
}

void loop_call(struct loop_call *c, void (*function)(void *opaque), void *opaque)
{
    if (pthread_equal(pthread_self(), c->thread)) {
        function(opaque);
        return;
    }
    struct pending_call call = {.function = function, .opaque = opaque};
    sem_init(&call.done, 0, 0);
    pthread_mutex_lock(&c->lock);
    // Pointers to this stack: it waits below until nobody knows of the call any more.
    // cppcheck-suppress autoVariables
    *c->calls_end = &call;
    // cppcheck-suppress autoVariables
    c->calls_end = &call.next;
    pthread_mutex_unlock(&c->lock);
    uv_async_send(&c->wake_up);
    while (sem_wait(&call.done) < 0 && errno == EINTR)
        continue;
    sem_destroy(&call.done);
}
