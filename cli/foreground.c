#include "cli/foreground.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/last_word.h"
#include "base/log.h"
#include "cli/terminal.h"

enum { INPUT_SIZE = 4096, OUTPUT_SIZE = 16 * 1024 };

struct foreground {
    struct console_hub *hub;
    struct foreground_actions actions;
    uv_async_t wake;
    pthread_t reader, writer;
    int input_fd; // -1 where reading would stop this process: a terminal that others are using
    int stop_fd;  // readable once the reader shall end
    bool raw;

    pthread_mutex_t lock; // guards what follows, up to the blank line
    pthread_cond_t changed;
    uint8_t input[INPUT_SIZE], output[OUTPUT_SIZE];
    size_t input_length;  // set by the reader, to 0 by the loop
    size_t output_length; // set by the loop, to 0 by the writer
    bool stopping;
    bool output_broken; // nobody reads any more: output is thrown away

    // The loop's own.
    size_t input_done; // how much of `input` the guest has taken
    bool in_menu;
    bool output_refused;
    void (*flushed)(void *opaque);
    void *flushed_opaque;
};

// ---- threads ----

static void *read_input(void *opaque)
{
    struct foreground *f = opaque;
    for (;;) {
        struct pollfd states[] = {{.fd = f->input_fd, .events = POLLIN},
                                  {.fd = f->stop_fd, .events = POLLIN}};
        if (poll(states, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (states[1].revents)
            return NULL;
        if (!states[0].revents)
            continue;
        // `input` is ours while input_length is 0.
        ssize_t n = read(f->input_fd, f->input, sizeof(f->input));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return NULL;
        pthread_mutex_lock(&f->lock);
        f->input_length = (size_t)n;
        if (!f->stopping)
            uv_async_send(&f->wake);
        while (f->input_length && !f->stopping)
            pthread_cond_wait(&f->changed, &f->lock);
        bool stopping = f->stopping;
        pthread_mutex_unlock(&f->lock);
        if (stopping)
            return NULL;
    }
}

static bool write_all(const uint8_t *bytes, size_t length)
{
    while (length) {
        ssize_t n = write(STDOUT_FILENO, bytes, length);
        if (n < 0 && errno == EAGAIN) { // somebody else made it non-blocking
            poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            log_warning("the foreground's output can't be written (%s): it is dropped from here on",
                        strerror(errno));
            return false;
        }
        bytes += n;
        length -= (size_t)n;
    }
    return true;
}

static void *write_output(void *opaque)
{
    struct foreground *f = opaque;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (!f->output_length && !f->stopping)
            pthread_cond_wait(&f->changed, &f->lock);
        if (!f->output_length)
            break; // stopping, and all is written
        size_t length = f->output_length;
        pthread_mutex_unlock(&f->lock);
        bool written = write_all(f->output, length);
        pthread_mutex_lock(&f->lock);
        f->output_length = 0;
        f->output_broken = f->output_broken || !written;
        if (!f->stopping)
            uv_async_send(&f->wake);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

// ---- the menu ----

static void say(const char *text)
{
    // Best effort: a message that can't be shown is no reason to disturb the guest.
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        log_debug("a message could not be shown");
}

static void menu_open(struct foreground *f)
{
    f->in_menu = true;
    say("\r\n[ferry] p power button, s pause or resume, r reset, k kill, Ctrl-] sends it, "
        "any other key goes back: ");
}

static void menu_choose(struct foreground *f, uint8_t key)
{
    f->in_menu = false;
    say("\r\n");
    switch (key) {
    case 'p':
        f->actions.power_button(f->actions.opaque);
        break;
    case 's':
        f->actions.pause_or_resume(f->actions.opaque);
        break;
    case 'r':
        f->actions.reset(f->actions.opaque);
        break;
    case 'k':
        f->actions.kill(f->actions.opaque);
        break;
    default:
        break;
    }
}

// ---- input ----

// Hands on what was read; true when all of it went. The lock isn't held: the reader leaves `input`
// alone until input_length is 0.
static bool pass_input(struct foreground *f, size_t length)
{
    while (f->input_done < length) {
        uint8_t *at = f->input + f->input_done;
        size_t left = length - f->input_done;
        uint8_t *escape = f->raw ? memchr(at, TERMINAL_ESCAPE, left) : NULL;
        if (f->in_menu && *at != TERMINAL_ESCAPE) {
            menu_choose(f, *at);
            f->input_done++;
            continue;
        }
        if (!f->in_menu && escape == at) {
            menu_open(f);
            f->input_done++;
            continue;
        }
        size_t wanted = f->in_menu ? 1 : escape ? (size_t)(escape - at) : left;
        size_t taken = console_hub_foreground_input(f->hub, at, wanted);
        f->input_done += taken;
        if (taken < wanted)
            return false;
        f->in_menu = false;
    }
    return true;
}

static void take_input(struct foreground *f)
{
    pthread_mutex_lock(&f->lock);
    size_t length = f->input_length;
    pthread_mutex_unlock(&f->lock);
    if (!length || !pass_input(f, length))
        return;
    f->input_done = 0;
    pthread_mutex_lock(&f->lock);
    f->input_length = 0;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void input_ready(void *opaque)
{
    take_input(opaque);
}

// ---- output ----

static size_t take_output(void *opaque, const uint8_t *bytes, size_t length)
{
    struct foreground *f = opaque;
    size_t taken = 0;
    pthread_mutex_lock(&f->lock);
    if (f->output_broken) {
        taken = length;
    } else if (!f->output_length) {
        taken = length < OUTPUT_SIZE ? length : OUTPUT_SIZE;
        memcpy(f->output, bytes, taken);
        f->output_length = taken;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    f->output_refused = taken < length;
    return taken;
}

static void flush_check(struct foreground *f)
{
    pthread_mutex_lock(&f->lock);
    bool empty = !f->output_length;
    pthread_mutex_unlock(&f->lock);
    void (*done)(void *) = f->flushed;
    if (!empty || !done)
        return;
    f->flushed = NULL;
    done(f->flushed_opaque);
}

static void on_wake(uv_async_t *wake)
{
    struct foreground *f = wake->data;
    take_input(f);
    if (f->output_refused) {
        f->output_refused = false;
        console_hub_foreground_ready(f->hub);
    }
    flush_check(f);
}

void foreground_flush(struct foreground *f, void (*done)(void *opaque), void *opaque)
{
    f->flushed = done;
    f->flushed_opaque = opaque;
    uv_async_send(&f->wake);
}

// ---- life ----

static const struct console_foreground hub_foreground = {
    .output = take_output,
    .input_ready = input_ready,
};

bool foreground_is_raw(const struct foreground *f)
{
    return f && f->raw;
}

static int start_threads(struct foreground *f)
{
    // Signals are the loop's business, but for those of what this thread itself does.
    sigset_t all, before;
    sigfillset(&all);
    last_word_leave_open(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int r = pthread_create(&f->writer, NULL, write_output, f);
    if (!r) {
        r = pthread_create(&f->reader, NULL, read_input, f);
        if (r) {
            pthread_mutex_lock(&f->lock);
            f->stopping = true;
            pthread_cond_broadcast(&f->changed);
            pthread_mutex_unlock(&f->lock);
            pthread_join(f->writer, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int foreground_start(struct foreground **out, uv_loop_t *loop, struct console_hub *hub,
                     const struct foreground_actions *actions, struct error *err)
{
    struct foreground *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, ENOMEM, "foreground: out of memory");
    f->hub = hub;
    f->actions = *actions;
    f->input_fd = isatty(STDIN_FILENO) && !terminal_is_ours(STDIN_FILENO) ? -1 : STDIN_FILENO;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->stop_fd = eventfd(0, EFD_CLOEXEC);
    int r = f->stop_fd < 0 ? -errno : uv_async_init(loop, &f->wake, on_wake);
    if (r)
        goto close_fd;
    f->wake.data = f;
    r = start_threads(f);
    if (r)
        goto close_wake;
    // Raw only where both ends are the terminal: otherwise Ctrl-C stays the way to end the run.
    f->raw = terminal_is_ours(STDIN_FILENO) && isatty(STDOUT_FILENO) &&
             terminal_make_raw(STDIN_FILENO) == 0;
    console_hub_set_foreground(hub, &hub_foreground, f);
    *out = f;
    return 0;

close_wake:
    // The handle lives in the struct, which stays: the process is about to end with an error.
    uv_close((uv_handle_t *)&f->wake, NULL);
    close(f->stop_fd);
    return error_set_errno(err, -r, "foreground: starting its threads");
close_fd:
    if (f->stop_fd >= 0)
        close(f->stop_fd);
    free(f);
    return error_set_errno(err, -r, "foreground");
}

static void on_closed(uv_handle_t *handle)
{
    struct foreground *f = handle->data;
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    close(f->stop_fd);
    free(f);
}

static void on_closed_with_threads(uv_handle_t *handle)
{
    // A thread still uses the struct.
}

void foreground_stop(struct foreground *f)
{
    if (!f)
        return;
    if (f->raw)
        terminal_restore();
    console_hub_set_foreground(f->hub, NULL, NULL);
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    eventfd_write(f->stop_fd, 1);
    // A thread can be stuck in a pipe that nobody reads, or in a terminal whose input somebody else
    // took.
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec++;
    bool ended = pthread_timedjoin_np(f->reader, NULL, &limit) == 0;
    ended = pthread_timedjoin_np(f->writer, NULL, &limit) == 0 && ended;
    uv_close((uv_handle_t *)&f->wake, ended ? on_closed : on_closed_with_threads);
}
