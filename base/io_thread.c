#include "base/io_thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <uv.h>

#include "base/filter/thread_filter.h"
#include "base/loop_call.h"

enum { STACK_SIZE = 256 * 1024 };

struct io_thread {
    uv_loop_t loop; // made and run by the thread itself, so that it owns everything on it
    struct loop_call *calls;
    pthread_t thread;
    char name[16];
    sem_t started; // posted once, when `result` says how the thread's start went
    int result;
};

struct io_watch {
    uv_poll_t poll;
    void (*function)(void *opaque);
    void *opaque;
};

static void *thread_main(void *opaque)
{
    struct io_thread *t = opaque;
    pthread_setname_np(pthread_self(), t->name);
    thread_filter_enter(THREAD_FILTER_IO);
    t->result = uv_loop_init(&t->loop);
    if (t->result == 0) {
        t->result = loop_call_create(&t->calls, &t->loop);
        if (t->result < 0)
            uv_loop_close(&t->loop);
    }
    int result = t->result;
    sem_post(&t->started);
    if (result < 0)
        return NULL; // whoever started the thread joins it and frees `t`
    uv_run(&t->loop, UV_RUN_DEFAULT);
    uv_loop_close(&t->loop);
    return NULL;
}

static void free_thread(struct io_thread *t)
{
    pthread_join(t->thread, NULL);
    sem_destroy(&t->started);
    free(t);
}

int io_thread_start(struct io_thread **thread, const char *name)
{
    struct io_thread *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    for (size_t i = 0; i + 1 < sizeof(t->name) && name[i]; i++)
        t->name[i] = name[i];
    sem_init(&t->started, 0, 0);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    int rc = -pthread_create(&t->thread, &attributes, thread_main, t);
    pthread_attr_destroy(&attributes);
    if (rc < 0) {
        sem_destroy(&t->started);
        free(t);
        return rc;
    }
    while (sem_wait(&t->started) < 0 && errno == EINTR)
        continue;
    rc = t->result;
    if (rc < 0)
        free_thread(t);
    else
        *thread = t;
    return rc;
}

static void close_calls(void *opaque)
{
    struct io_thread *t = opaque;
    loop_call_close(t->calls); // the last handle: uv_run() returns once it is gone
}

void io_thread_stop(struct io_thread *t)
{
    if (!t)
        return;
    loop_call(t->calls, close_calls, t);
    free_thread(t);
}

void io_thread_call(struct io_thread *t, void (*function)(void *opaque), void *opaque)
{
    loop_call(t->calls, function, opaque);
}

static void fire(uv_poll_t *poll, int status, int events)
{
    struct io_watch *w = poll->data;
    (void)status; // an error condition also wakes the callback: it sees it when it reads
    (void)events;
    w->function(w->opaque);
}

int io_thread_watch(struct io_thread *t, int fd, void (*function)(void *opaque), void *opaque,
                    struct io_watch **watch)
{
    struct io_watch *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->function = function;
    w->opaque = opaque;
    int rc = uv_poll_init(&t->loop, &w->poll, fd);
    if (rc < 0) {
        free(w);
        return rc;
    }
    w->poll.data = w;
    rc = uv_poll_start(&w->poll, UV_READABLE, fire);
    if (rc < 0) {
        io_thread_unwatch(w);
        return rc;
    }
    *watch = w;
    return 0;
}

void io_watch_pause(struct io_watch *w)
{
    uv_poll_stop(&w->poll);
}

void io_watch_resume(struct io_watch *w)
{
    uv_poll_start(&w->poll, UV_READABLE, fire);
}

void io_watch_want(struct io_watch *w, bool readable, bool writable)
{
    int events = (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0);
    if (events)
        uv_poll_start(&w->poll, events, fire);
    else
        uv_poll_stop(&w->poll);
}

static void free_watch(uv_handle_t *handle)
{
    free(handle->data);
}

void io_thread_unwatch(struct io_watch *w)
{
    if (!w)
        return;
    uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, free_watch);
}
