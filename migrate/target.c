#include "migrate/target.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/failure_point.h"
#include "base/filter/thread_filter.h"
#include "base/log.h"
#include "base/loop_call.h"
#include "migrate/target_internal.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

#define DISK_LIMIT (10 * NSEC_PER_SEC) // for the source's locks to go
// After LOADED was sent. A source is in doubt no sooner than 30 s after LOADED came to it
// (source.c), so a machine that wasn't started by then never runs behind the back of somebody who
// resumed it there by force. Longer than a source may take to COMMIT and the disks together.
#define START_LIMIT     (25 * NSEC_PER_SEC)
#define ANSWER_LIMIT    (70 * NSEC_PER_SEC) // questions are answered for longer than a source asks
#define LINGER_LIMIT    (3 * NSEC_PER_SEC)  // after an answer, which may get lost
#define COMMIT_PATIENCE NSEC_PER_SEC        // before the arbiter is asked

enum { POLL_MS = 500, DECISION_POLL_MS = 20 };

// ---- frames on the control connection ----

int target_send(struct migration_target *t, uint32_t type, const struct byte_writer *w)
{
    pthread_mutex_lock(&t->send_lock);
    int rc = channel_send_frame(&t->control, type, w);
    pthread_mutex_unlock(&t->send_lock);
    return rc;
}

void target_send_text(struct channel *channel, uint32_t type, const char *text)
{
    struct byte_writer w;
    char cut[MIGRATE_TEXT_LIMIT];
    snprintf(cut, sizeof(cut), "%s", text);
    byte_writer_init(&w);
    byte_writer_string(&w, cut);
    channel_send_frame(channel, type, &w);
    byte_writer_free(&w);
}

void migration_target_refuse(struct migration_target *t, const struct error *why)
{
    channel_set_limit(&t->control, NSEC_PER_SEC);
    pthread_mutex_lock(&t->send_lock);
    target_send_text(&t->control, MIGRATE_REFUSE, why->message);
    pthread_mutex_unlock(&t->send_lock);
    t->source_knows = true;
}

int target_source_error(int code, struct error *err)
{
    return channel_exchange_error(code, "talking to the source", err);
}

void target_pass_failure_point(struct migration_target *t, const char *name)
{
    enum failure_action action = failure_point(name);
    if (action == FAILURE_GARBAGE) {
        pthread_mutex_lock(&t->send_lock);
        channel_send_garbage(&t->control);
        pthread_mutex_unlock(&t->send_lock);
    }
    if (action != FAILURE_CUT)
        return;
    channel_shutdown(&t->control);
    for (unsigned i = 0; i < MIGRATE_STREAMS_LIMIT; i++)
        channel_shutdown(&t->data[i]);
}

struct machine_config *migration_target_config(struct migration_target *t)
{
    return &t->description.config;
}

const struct cpuid_table *migration_target_cpuid(const struct migration_target *t)
{
    return &t->description.cpuid;
}

void migration_target_give_images(struct migration_target *t, struct machine_files *files)
{
    files->kernel_fd = t->image_fds[0];
    files->initrd_fd = t->image_fds[1];
    t->image_fds[0] = t->image_fds[1] = -1;
}

// ---- data connections ----

// Takes one connection from the listening socket: a data connection of this attempt, a question, or
// noise.
static void accept_one(struct migration_target *t)
{
    struct channel fresh;
    struct migrate_hello hello;
    int fd = accept4(t->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    channel_adopt(&fresh, fd);
    bool under_way = t->receiver || t->loaded; // others wait
    if (!target_greet(&fresh, &t->params, under_way ? HELLO_LIMIT : GREETING_LIMIT, &hello))
        return;
    bool ours = memcmp(hello.id, t->hello.id, sizeof(hello.id)) == 0;
    if (hello.role == MIGRATE_ROLE_QUERY && !ours) {
        target_answer_stranger(&fresh);
    } else if (hello.role == MIGRATE_ROLE_QUERY && t->undecided) {
        // It will ask again. The arbiter gave this side the machine, or it would not ask at all.
        target_send_text(&fresh, MIGRATE_REFUSE, "this is not decided yet");
        t->asked = true;
        channel_close(&fresh);
    } else if (hello.role == MIGRATE_ROLE_QUERY) {
        // Whoever asks has lost its connection. What isn't started now never will be.
        if (t->outcome == OUTCOME_OPEN)
            t->outcome = OUTCOME_NOT_STARTED;
        if (t->outcome == OUTCOME_STARTED)
            channel_send_frame(&fresh, MIGRATE_STARTED, NULL);
        else
            target_send_text(&fresh, MIGRATE_NOT_STARTED,
                             t->err.message[0] ? t->err.message
                                               : "the link was lost before COMMIT came");
        t->answered_ns = clock_monotonic_ns();
        channel_close(&fresh);
    } else if (hello.role == MIGRATE_ROLE_DATA && ours && hello.index < t->description.streams &&
               t->data[hello.index].fd < 0 && !t->receiver) {
        channel_set_limit(&fresh, 0); // a round may be long in coming; control tells who is gone
        t->data[hello.index] = fresh;
    } else {
        if (hello.role == MIGRATE_ROLE_CONTROL)
            target_send_text(&fresh, MIGRATE_REFUSE, "another machine is being received here");
        channel_close(&fresh);
    }
}

// Waits for one of the two sockets; serves the listening one. 1 when control has something, 0
// otherwise, -ECANCELED when the process is ending. Control first: a COMMIT that is there counts,
// also when its sender has grown impatient and asks.
static int wait_sockets(struct migration_target *t)
{
    struct pollfd fds[2] = {{.fd = t->listen_fd, .events = POLLIN},
                            {.fd = t->control.fd, .events = POLLIN}};
    // With TLS, what comes next may have been read from the socket already.
    bool buffered = channel_has_input(&t->control);
    int n = buffered ? 0 : poll(fds, 2, t->undecided ? DECISION_POLL_MS : POLL_MS);
    if (atomic_load(&t->ending))
        return -ECANCELED;
    if (buffered)
        return 1;
    if (n > 0 && fds[1].revents)
        return 1;
    if (n > 0 && fds[0].revents)
        accept_one(t);
    return 0;
}

static bool all_connected(const struct migration_target *t)
{
    for (unsigned i = 0; i < t->description.streams; i++)
        if (t->data[i].fd < 0)
            return false;
    return true;
}

static int accept_data(struct migration_target *t, struct error *err)
{
    uint64_t give_up = clock_monotonic_ns() + SILENCE_LIMIT;
    while (!all_connected(t)) {
        int rc = wait_sockets(t);
        if (rc < 0)
            return error_set(err, ECANCELED, "the process is ending");
        if (rc > 0)
            return error_set(err, EPROTO,
                             "the source gave up before its data connections were made");
        if (clock_monotonic_ns() > give_up)
            return error_set(err, ETIMEDOUT, "the source made no data connections");
    }
    return 0;
}

// ---- receiving ----

static void on_round_done(void *opaque, uint32_t round)
{
    struct migration_target *t = opaque;
    uint8_t number[4];
    struct byte_writer w;
    bytes_put_u32(number, round);
    byte_writer_init_fixed(&w, number, sizeof(number));
    w.length = sizeof(number);
    target_pass_failure_point(t, "target-round");
    target_send(t, MIGRATE_ROUND_DONE, &w); // a failure shows on the control connection itself
}

static void on_ram_failed(void *opaque, const struct error *err)
{
    struct migration_target *t = opaque;
    pthread_mutex_lock(&t->err_lock);
    t->ram_err = *err;
    pthread_mutex_unlock(&t->err_lock);
}

static int ram_failure(struct migration_target *t, struct error *err)
{
    pthread_mutex_lock(&t->err_lock);
    int code = t->ram_err.code;
    if (code)
        *err = t->ram_err;
    pthread_mutex_unlock(&t->err_lock);
    return -code;
}

// Waits for a frame on control while RAM comes in; the source is alive as long as bytes move.
static int wait_control(struct migration_target *t, struct error *err)
{
    uint64_t last_bytes = 0, last_moved = clock_monotonic_ns();
    for (;;) {
        int rc = wait_sockets(t);
        if (rc < 0)
            return error_set(err, ECANCELED, "the process is ending");
        // Before what control has: an answer that was given is final, whatever comes after it.
        if (t->outcome == OUTCOME_NOT_STARTED)
            return error_set(err, ECONNRESET, "the source lost the link, and was told so");
        if (rc > 0)
            return 0;
        rc = ram_failure(t, err);
        if (rc < 0)
            return rc;
        uint64_t bytes = ram_receiver_bytes(t->receiver), now = clock_monotonic_ns();
        if (bytes != last_bytes) {
            last_bytes = bytes;
            last_moved = now;
        }
        if (now - last_moved > SILENCE_LIMIT)
            return error_set(err, ETIMEDOUT, "the source has been silent for %" PRIu64 " s",
                             SILENCE_LIMIT / NSEC_PER_SEC);
    }
}

// Receives the frame `wanted` from control, with the limit of silence.
static int expect(struct migration_target *t, uint32_t wanted, size_t limit,
                  struct byte_writer *frame, struct error *err)
{
    uint32_t type;
    int rc = wait_control(t, err);
    if (rc < 0)
        return rc;
    rc = channel_receive_frame(&t->control, limit, &type, frame);
    if (rc < 0)
        return target_source_error(rc, err);
    if (type == wanted)
        return 0;
    if (type != MIGRATE_ABORT)
        return error_set(err, EPROTO, "the source sent %s where %s was due",
                         migrate_frame_name(type), migrate_frame_name(wanted));
    char reason[MIGRATE_TEXT_LIMIT + 4];
    struct byte_reader r;
    byte_reader_init(&r, frame->data, frame->length);
    byte_reader_string(&r, reason, sizeof(reason));
    t->source_knows = true;
    return error_set(err, ECANCELED, "the source gave up: %s", reason);
}

struct main_call {
    struct migration_target *target;
    const struct byte_writer *state;
    bool running;
    struct error *err;
    int result;
};

static void load_on_main(void *opaque)
{
    struct main_call *call = opaque;
    struct byte_reader r;
    byte_reader_init(&r, call->state->data + 5, call->state->length - 5);
    call->result = machine_state_load(call->target->machine, &r, true, call->err);
}

static void acquire_on_main(void *opaque)
{
    struct main_call *call = opaque;
    call->result = machine_disks_acquire(call->target->machine, call->err);
}

static void start_on_main(void *opaque)
{
    struct main_call *call = opaque;
    struct migration_target *t = call->target;
    // With an arbiter nobody else starts it meanwhile, and the lease says until when.
    if (!t->arbiter.present && clock_boottime_ns() > t->start_by_ns)
        call->result = error_set(call->err, ETIMEDOUT, "COMMIT could be followed only too late");
    else
        call->result = machine_start_loaded(t->machine, call->running, call->err);
    if (call->result == 0)
        machine_announce(t->machine);
    // Given up before the source hears of it, which wants them back.
    struct error ignored;
    if (call->result < 0)
        machine_disks_release(t->machine, &ignored);
}

// COMMIT has come: locks, then the first instruction.
static int start_machine(struct migration_target *t, bool running, struct error *err)
{
    struct main_call call = {.target = t, .running = running, .err = err};
    uint64_t give_up = clock_monotonic_ns() + DISK_LIMIT;
    for (;;) {
        // The source has dropped its locks before COMMIT; but another process may hold one.
        loop_call(t->main, acquire_on_main, &call);
        if (call.result == 0)
            break;
        // Under a lease it waits for the predecessor's last I/O however long that takes.
        bool late = t->arbiter.present ? call.result != -EAGAIN : clock_monotonic_ns() > give_up;
        if (late || atomic_load(&t->ending))
            return call.result;
        struct timespec pause = {.tv_nsec = 20 * (long)NSEC_PER_MSEC};
        nanosleep(&pause, NULL);
    }
    target_pass_failure_point(t, "target-locked");
    loop_call(t->main, start_on_main, &call);
    return call.result;
}

static void ask_on_main(void *opaque)
{
    struct migration_target *t = opaque;
    t->listener.ask(t->listener.opaque, t->arbiter.question);
}

// What control has while nothing is decided. 1 for COMMIT, 0 when the link is gone (which decides
// nothing), or the source's ABORT.
static int read_decision(struct migration_target *t, struct error *err)
{
    struct byte_writer frame;
    uint32_t type;
    byte_writer_init(&frame);
    int rc = channel_receive_frame(&t->control, MIGRATE_TEXT_LIMIT + 4, &type, &frame);
    byte_writer_free(&frame);
    if (rc < 0) {
        // poll() ignores it from here on. A source that goes on with rounds all the same has a
        // receiver's thread answer there.
        pthread_mutex_lock(&t->send_lock);
        channel_close(&t->control);
        pthread_mutex_unlock(&t->send_lock);
        return 0;
    }
    if (type == MIGRATE_COMMIT)
        return 1;
    t->source_knows = type == MIGRATE_ABORT;
    return error_set(err, ECANCELED, "the source gave up after LOADED");
}

// What is known of the decision: 1 for this side, 0 for nothing yet, else why not.
static int look_for_decision(struct migration_target *t, struct error *err)
{
    int rc = wait_sockets(t);
    if (rc < 0)
        return error_set(err, ECANCELED, "the process is ending");
    if (rc > 0)
        rc = read_decision(t, err);
    if (rc != 0)
        return rc;
    enum arbiter_decision decision = arbiter_await(&t->arbiter, 0);
    if (decision == ARBITER_SOURCE)
        return error_set(err, ECANCELED, "the cluster has called the move off");
    if (!machine_lease_holds(t->machine))
        return error_set(err, ETIMEDOUT, "the lease has run out before the move was decided");
    return decision == ARBITER_TARGET;
}

// Waits for COMMIT, or for the arbiter's word where none comes; as long as the lease holds.
static int await_decision(struct migration_target *t, struct error *err)
{
    uint64_t wait_ns = COMMIT_PATIENCE, asked_ns = clock_monotonic_ns();
    bool asked = false;
    arbiter_pose(&t->arbiter, ARBITER_OUTCOME);
    for (;;) {
        int rc = look_for_decision(t, err);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        bool at_once = !asked && (t->asked || t->control.fd < 0); // no COMMIT will come
        uint64_t now = clock_monotonic_ns();
        if (!at_once && now - asked_ns < wait_ns)
            continue;
        wait_ns = arbiter_backoff(asked ? wait_ns : 0);
        asked_ns = now;
        asked = true;
        arbiter_pose(&t->arbiter, ARBITER_OUTCOME);
        loop_call(t->main, ask_on_main, t);
    }
}

// LOADED went out: whether the machine is this side's.
static int await_commit(struct migration_target *t, struct error *err)
{
    struct byte_writer frame;
    int rc;
    if (t->arbiter.present) {
        t->undecided = true;
        rc = await_decision(t, err);
        t->undecided = false;
        return rc;
    }
    byte_writer_init(&frame);
    rc = expect(t, MIGRATE_COMMIT, MIGRATE_TEXT_LIMIT + 4, &frame, err);
    byte_writer_free(&frame);
    return rc;
}

// Everything up to LOADED; `running` says whether the machine ran at the source.
static int receive(struct migration_target *t, bool *running, struct error *err)
{
    struct byte_writer frame;
    struct main_call call = {.target = t, .state = &frame, .err = err};
    const struct ram_receiver_events events = {on_round_done, on_ram_failed, t};
    byte_writer_init(&frame);
    int rc = accept_data(t, err);
    if (rc == 0)
        rc = ram_receiver_start(&t->receiver, machine_memory(t->machine), t->data,
                                t->description.streams, &events, err);
    if (rc == 0)
        rc = expect(t, MIGRATE_STATE, MIGRATE_STATE_LIMIT, &frame, err);
    if (rc == 0 && frame.length < 5)
        rc = error_set(err, EPROTO, "the machine's state is cut off");
    // The source sends it only after the last round was confirmed.
    if (rc == 0 && ram_receiver_round(t->receiver) != bytes_get_u32(frame.data))
        rc = error_set(err, EPROTO, "the machine's state came before the end of its RAM");
    if (rc == 0) {
        target_pass_failure_point(t, "target-state");
        *running = frame.data[4] != 0;
        loop_call(t->main, load_on_main, &call);
        rc = call.result;
    }
    byte_writer_free(&frame);
    return rc;
}

static int run(struct migration_target *t, struct error *err)
{
    struct byte_writer frame;
    bool running = false;
    byte_writer_init(&frame);
    byte_writer_u16(&frame, channel_address_port(&t->params.listen));
    target_pass_failure_point(t, "target-building");
    int rc = target_send(t, MIGRATE_READY, &frame);
    if (rc < 0)
        rc = target_source_error(rc, err);
    else
        rc = receive(t, &running, err);
    if (rc == 0) {
        target_pass_failure_point(t, "target-before-loaded");
        t->loaded = true;
        t->start_by_ns = clock_boottime_ns() + START_LIMIT;
        rc = target_send(t, MIGRATE_LOADED, NULL);
        if (rc < 0)
            rc = target_source_error(rc, err);
        target_pass_failure_point(t, "target-loaded");
        if (rc == 0 || t->arbiter.present) // LOADED may have come to it all the same
            rc = await_commit(t, err);
    }
    byte_writer_free(&frame);
    if (rc < 0)
        return rc;
    target_pass_failure_point(t, "target-before-start");
    rc = start_machine(t, running, err);
    if (rc < 0)
        return rc;
    t->outcome = OUTCOME_STARTED;
    target_pass_failure_point(t, "target-after-start");
    target_send(t, MIGRATE_STARTED, NULL); // lost: the source asks
    target_pass_failure_point(t, "target-started");
    return 0;
}

// ---- the end ----

// Control has something after the end: the source's ABORT says that it knows; else the link is
// gone.
static void read_last_word(struct migration_target *t)
{
    struct byte_writer frame;
    uint32_t type;
    byte_writer_init(&frame);
    channel_set_deadline(&t->control, HELLO_LIMIT);
    if (channel_receive_frame(&t->control, MIGRATE_TEXT_LIMIT + 4, &type, &frame) < 0)
        channel_close(&t->control); // poll() ignores it from here on
    else if (type == MIGRATE_ABORT)
        t->source_knows = true;
    byte_writer_free(&frame);
}

static void answer_questions(struct migration_target *t)
{
    uint64_t give_up = clock_monotonic_ns() + ANSWER_LIMIT;
    while (!t->source_knows && clock_monotonic_ns() < give_up) {
        int rc = wait_sockets(t);
        if (rc < 0)
            return;
        if (rc > 0)
            read_last_word(t);
        if (t->answered_ns && clock_monotonic_ns() - t->answered_ns > LINGER_LIMIT)
            return;
    }
}

static void started_on_main(void *opaque)
{
    struct migration_target *t = opaque;
    t->listener.started(t->listener.opaque);
}

static void failed_on_main(void *opaque)
{
    struct migration_target *t = opaque;
    t->listener.failed(t->listener.opaque, &t->err);
}

// Nobody has a question any more: others may listen there.
static void close_listener(struct migration_target *t)
{
    if (t->owns_listen_fd)
        close(t->listen_fd);
    t->owns_listen_fd = false;
}

static void *target_main(void *opaque)
{
    struct migration_target *t = opaque;
    pthread_setname_np(pthread_self(), "migrate");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    int rc = run(t, &t->err);
    // Before the receiver's threads end, so that a failure of theirs isn't overwritten.
    if (rc < 0) {
        if (t->outcome == OUTCOME_OPEN)
            t->outcome = OUTCOME_NOT_STARTED;
        if (!t->source_knows) {
            pthread_mutex_lock(&t->send_lock);
            channel_set_limit(&t->control, NSEC_PER_SEC);
            target_send_text(&t->control, t->loaded ? MIGRATE_NOT_STARTED : MIGRATE_REFUSE,
                             t->err.message);
            pthread_mutex_unlock(&t->send_lock);
        }
        log_error("receive: %s", t->err.message);
    }
    ram_receiver_stop(t->receiver);
    t->receiver = NULL;
    for (unsigned i = 0; i < MIGRATE_STREAMS_LIMIT; i++)
        channel_close(&t->data[i]);
    if (rc == 0)
        loop_call(t->main, started_on_main, t);
    // A source with an arbiter needs no answer but that it runs here.
    if (t->loaded && !t->source_knows && (rc == 0 || !t->arbiter.present))
        answer_questions(t);
    if (rc < 0 && !atomic_load(&t->ending))
        loop_call(t->main, failed_on_main, t);
    close_listener(t);
    atomic_store(&t->finished, true);
    return NULL;
}

int migration_target_start(struct migration_target *t, struct machine *machine, uv_loop_t *loop,
                           const struct migration_target_listener *listener, struct error *err)
{
    t->machine = machine;
    t->arbiter.present = machine_is_managed(machine);
    t->loop = loop;
    t->listener = *listener;
    int rc = loop_call_create(&t->main, loop);
    if (rc == 0)
        rc = -pthread_create(&t->thread, NULL, target_main, t);
    t->thread_started = rc == 0;
    return rc < 0 ? error_set_errno(err, -rc, "starting the migration's thread") : 0;
}

void migration_target_stop(struct migration_target *t)
{
    if (!t || !t->thread_started)
        return;
    atomic_store(&t->ending, true);
    channel_shutdown(&t->control);
    // The thread may be waiting for a call into this loop.
    while (!atomic_load(&t->finished))
        uv_run(t->loop, UV_RUN_NOWAIT);
    pthread_join(t->thread, NULL);
    t->thread_started = false;
    loop_call_close(t->main);
    t->main = NULL;
}

void migration_target_free(struct migration_target *t)
{
    if (!t)
        return;
    channel_close(&t->control);
    close_listener(t);
    for (unsigned i = 0; i < 2; i++)
        if (t->image_fds[i] >= 0)
            close(t->image_fds[i]);
    machine_config_free(&t->description.config);
    pthread_mutex_destroy(&t->send_lock);
    arbiter_destroy(&t->arbiter);
    pthread_mutex_destroy(&t->err_lock);
    free(t);
}

void migration_target_decide(struct migration_target *t, enum arbiter_question question,
                             enum arbiter_decision decision)
{
    arbiter_decide(&t->arbiter, question, decision);
}

const uint8_t *migration_target_id(const struct migration_target *t)
{
    return t->hello.id;
}
