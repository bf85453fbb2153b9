#include "migrate/source.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/failure_point.h"
#include "base/filter/thread_filter.h"
#include "base/ids.h"
#include "base/log.h"
#include "migrate/source_internal.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

#define FIXED_COST (2 * NSEC_PER_MSEC) // of a switch: state, LOADED, COMMIT

enum { WATCHDOG_MS = 100 };

static const char *const phase_names[] = {
    "connecting", "preparing", "rounds", "frozen",   "asking",
    "committing", "moved",     "failed", "in-doubt",
};

// ---- small things ----

void source_set_phase(struct migration_source *s, enum phase phase)
{
    pthread_mutex_lock(&s->lock);
    s->phase = phase;
    pthread_mutex_unlock(&s->lock);
    log_info("migration: %s", phase_names[phase]);
}

// -errno and why, when somebody cancelled or a time limit passed; 0 otherwise.
int source_interruption(struct migration_source *s, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    bool cancelled = s->cancelled, timed_out = s->timed_out, frozen = s->phase >= PHASE_FROZEN;
    pthread_mutex_unlock(&s->lock);
    if (timed_out)
        return error_set(err, ETIMEDOUT, "%s",
                         frozen ? "the target took too long at the switch"
                                : "the time-out has passed in the middle of a round");
    return cancelled ? error_set(err, ECANCELED, "cancelled") : 0;
}

static void cut_connections(struct migration_source *s)
{
    channel_shutdown(&s->control);
    for (unsigned i = 0; i < s->params.streams; i++)
        channel_shutdown(&s->data[i]);
}

void source_pass_failure_point(struct migration_source *s, const char *name)
{
    enum failure_action action = failure_point(name);
    if (action == FAILURE_CUT)
        cut_connections(s);
    if (action == FAILURE_GARBAGE) {
        channel_send_garbage(&s->control);
        channel_send_garbage(&s->data[0]);
    }
}

// ---- rounds ----

static int start_log(struct migration_source *s, struct error *err)
{
    struct guest_memory *memory = machine_memory(s->machine);
    int rc = page_bitmap_init(&s->pages, memory);
    if (rc < 0)
        return error_set_errno(err, -rc, "preparing to send RAM");
    page_bitmap_fill(&s->pages, memory);
    rc = dirty_log_start(&s->log, machine_kvm(s->machine), memory, err);
    if (rc < 0)
        return rc;
    s->log_started = true;
    struct ram_sender *sender;
    rc = ram_sender_start(&sender, memory, s->data, s->params.streams, s->params.bandwidth,
                          s->target_minor >= MIGRATE_MINOR_COMING, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    s->sender = sender; // a cancel finds it from here on; one before cut the connections
    s->rounds_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&s->lock);
    return 0;
}

// Sends the set as one more round and empties it.
static int send_round(struct migration_source *s, bool capped, struct error *err)
{
    int rc = ram_sender_round(s->sender, &s->pages, ++s->round, capped, err);
    if (rc < 0) {
        // The target says why over the control connection, if it can.
        struct byte_writer frame;
        struct error reason = {0};
        byte_writer_init(&frame);
        channel_set_limit(&s->control, NSEC_PER_SEC);
        if (source_expect(s, MIGRATE_ROUND_DONE, &frame, &reason) == -ECONNREFUSED)
            *err = reason;
        byte_writer_free(&frame);
        int interrupted = source_interruption(s, err);
        return interrupted < 0 ? interrupted : rc;
    }
    page_bitmap_clear(&s->pages);
    return 0;
}

static int wait_round_done(struct migration_source *s, struct error *err)
{
    struct byte_writer frame;
    byte_writer_init(&frame);
    int rc = source_expect(s, MIGRATE_ROUND_DONE, &frame, err);
    if (rc == 0 && (frame.length != 4 || bytes_get_u32(frame.data) != s->round))
        rc = error_set(err, EPROTO, "the target confirmed another round than the one sent");
    byte_writer_free(&frame);
    return rc;
}

static void note_round(struct migration_source *s, const struct convergence_sample *sample)
{
    pthread_mutex_lock(&s->lock);
    s->remaining = sample->remaining;
    s->bandwidth = sample->bandwidth;
    s->dirty_rate =
        sample->round_ns
            ? (uint64_t)((unsigned __int128)sample->remaining * NSEC_PER_SEC / sample->round_ns)
            : 0;
    s->throttle = s->convergence.throttle;
    pthread_mutex_unlock(&s->lock);
    log_info("migration: round %u: %" PRIu64 " bytes in %" PRIu64 " us, %" PRIu64
             " bytes dirty, expected downtime %" PRIu64 " us, writers used %u, %u withheld",
             s->round, sample->sent, sample->round_ns / NSEC_PER_USEC, sample->remaining,
             s->convergence.expected_downtime_ns / NSEC_PER_USEC, sample->cpu_share,
             s->convergence.throttle);
}

// One round, then what to do next.
static int run_round(struct migration_source *s, uint64_t *bandwidth,
                     enum convergence_decision *decision, struct error *err)
{
    uint64_t start = clock_monotonic_ns(), sent_before = ram_sender_totals(s->sender).bytes;
    // Both logs are cleared before a page is read.
    int rc = dirty_log_take(&s->log, &s->pages, err);
    if (rc == 0)
        rc = send_round(s, true, err);
    if (rc == 0)
        rc = wait_round_done(s, err);
    if (rc < 0)
        return rc;
    uint64_t now = clock_monotonic_ns();
    struct convergence_sample sample = {
        .elapsed_ns = now - s->started_ns,
        .sent = ram_sender_totals(s->sender).bytes - sent_before,
        .round_ns = now - start,
        .cpu_share = machine_writers_share(s->machine),
    };
    // Rounds of a few pages say more of latency than of bandwidth.
    if (sample.sent >= 1 << 20 || *bandwidth == 0)
        *bandwidth =
            (uint64_t)((unsigned __int128)sample.sent * NSEC_PER_SEC / (sample.round_ns | 1));
    sample.bandwidth = *bandwidth;
    rc = dirty_log_take(&s->log, &s->pages, err);
    if (rc < 0)
        return rc;
    sample.remaining = page_bitmap_count(&s->pages) * GUEST_PAGE_SIZE;
    unsigned throttle_before = s->convergence.throttle;
    *decision = convergence_decide(&s->convergence, &sample);
    if (s->convergence.throttle != throttle_before)
        machine_throttle(s->machine, s->convergence.throttle);
    note_round(s, &sample);
    return 0;
}

static int run_rounds(struct migration_source *s, struct error *err)
{
    uint64_t bandwidth = 0;
    enum convergence_decision decision = CONVERGENCE_ROUND;
    source_set_phase(s, PHASE_ROUNDS);
    int rc = start_log(s, err);
    while (rc == 0 && decision == CONVERGENCE_ROUND) {
        source_pass_failure_point(s, s->round == 0 ? "source-first-round" : "source-round");
        rc = run_round(s, &bandwidth, &decision, err);
        if (rc == 0)
            rc = source_interruption(s, err);
    }
    if (rc == 0 && decision == CONVERGENCE_TIMEOUT)
        rc = error_set(err, ETIMEDOUT,
                       "the guest writes faster than the link carries: after %" PRIu64
                       " s a switch would take %" PRIu64 " ms (allow more with --downtime, let "
                       "its vCPUs be slowed with --throttle, or force the switch with --on-timeout "
                       "force)",
                       (clock_monotonic_ns() - s->started_ns) / NSEC_PER_SEC,
                       s->convergence.expected_downtime_ns / NSEC_PER_MSEC);
    return rc;
}

// ---- the switch ----

struct freeze_call {
    struct migration_source *source;
    struct error *err;
    int result;
};

static void freeze_on_main(void *opaque)
{
    struct freeze_call *call = opaque;
    struct migration_source *s = call->source;
    pthread_mutex_lock(&s->lock);
    s->frozen_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&s->lock);
    call->result = machine_freeze(s->machine, &s->was_running, call->err);
    s->frozen = call->result == 0;
    if (s->frozen)
        call->result = machine_state_save(s->machine, &s->state, call->err);
}

static void release_on_main(void *opaque)
{
    struct freeze_call *call = opaque;
    call->result = machine_disks_release(call->source->machine, call->err);
    call->source->disks_released = call->result == 0;
}

static int freeze(struct migration_source *s, struct error *err)
{
    struct freeze_call call = {.source = s, .err = err};
    // What was written up to the last run of the last vCPU: the state goes first, it is the longest
    // to load.
    byte_writer_u32(&s->state, s->round + 1);
    byte_writer_u8(&s->state, 0); // running: known after the freeze
    loop_call(s->main, freeze_on_main, &call);
    if (call.result < 0)
        return call.result;
    s->state.data[4] = s->was_running;
    return dirty_log_take(&s->log, &s->pages, err);
}

static int release_disks(struct migration_source *s, struct error *err)
{
    struct freeze_call call = {.source = s, .err = err};
    loop_call(s->main, release_on_main, &call);
    return call.result;
}

static int send_rest(struct migration_source *s, struct error *err)
{
    struct byte_writer frame;
    byte_writer_init(&frame);
    int rc = send_round(s, false, err);
    if (rc == 0)
        rc = wait_round_done(s, err);
    if (rc == 0) {
        source_pass_failure_point(s, "source-state");
        rc = source_send(s, MIGRATE_STATE, &s->state, err);
    }
    if (rc == 0)
        rc = source_expect(s, MIGRATE_LOADED, &frame, err);
    s->loaded_ns = clock_boottime_ns();
    byte_writer_free(&frame);
    return rc;
}

static int switch_over(struct migration_source *s, struct error *err)
{
    source_pass_failure_point(s, "source-before-freeze");
    int rc = freeze(s, err);
    source_set_phase(s, PHASE_FROZEN);
    if (rc == 0) {
        source_pass_failure_point(s, "source-frozen");
        rc = send_rest(s, err);
    }
    if (rc == 0) {
        source_pass_failure_point(s, "source-loaded");
        rc = release_disks(s, err);
    }
    if (rc == 0)
        rc = source_commit(s, err);
    return rc;
}

// ---- the end ----

// On main: the machine goes on here, as if nothing had happened; or it has moved; or nobody knows.
static void settle_on_main(void *opaque)
{
    struct migration_source *s = opaque;
    struct error err = {0};
    if (s->result == 0) {
        machine_moved(s->machine);
    } else if (s->phase == PHASE_IN_DOUBT) {
        machine_set_doubt(s->machine, true);
        machine_thaw(s->machine, false);
    } else if (s->frozen) {
        if (s->disks_released && machine_disks_acquire(s->machine, &err) < 0) {
            log_error("migration failed, and the machine stays paused: %s", err.message);
            error_prefix(&s->err, "the machine stays paused, its disks were taken (%s)",
                         err.message);
            machine_set_doubt(s->machine, true);
            machine_thaw(s->machine, false);
        } else {
            machine_thaw(s->machine, s->was_running);
        }
    }
    if (s->held)
        machine_hold(s->machine, false);
    s->held = false;
}

static void tell_target(struct migration_source *s)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_string(&w, s->err.message);
    channel_set_limit(&s->control, NSEC_PER_SEC);
    channel_send_frame(&s->control, MIGRATE_ABORT, &w);
    byte_writer_free(&w);
}

static void *source_main(void *opaque)
{
    struct migration_source *s = opaque;
    pthread_setname_np(pthread_self(), "migrate");
    thread_filter_enter(THREAD_FILTER_MIGRATION);
    int rc = source_prepare(s, &s->err);
    if (rc == 0)
        rc = run_rounds(s, &s->err);
    if (rc == 0)
        rc = switch_over(s, &s->err);
    s->result = rc;
    uint64_t now = clock_monotonic_ns();
    // The guest first: it waits, the rest doesn't.
    loop_call(s->main, settle_on_main, s);
    machine_throttle(s->machine, 0);
    if (rc < 0 && s->phase != PHASE_IN_DOUBT && s->control.fd >= 0)
        tell_target(s);
    if (s->log_started)
        dirty_log_stop(&s->log);
    pthread_mutex_lock(&s->lock);
    s->ended_ns = now;
    s->downtime_ns = rc == 0 && s->was_running ? now - s->frozen_ns : 0;
    pthread_mutex_unlock(&s->lock);
    source_pass_failure_point(s, "source-ended");
    if (rc == 0)
        log_info("migration: moved; the guest stood for at most %" PRIu64 " us",
                 s->downtime_ns / NSEC_PER_USEC);
    else
        log_error("migration: %s", s->err.message);
    uv_async_send(s->finished);
    return NULL;
}

// Rounds and waits have limits of silence; this one is for peers that are slow without being
// silent.
static void on_watchdog(uv_timer_t *watchdog)
{
    struct migration_source *s = watchdog->data;
    uint64_t now = clock_monotonic_ns();
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    bool rounds_late = s->phase <= PHASE_ROUNDS && s->params.timeout_ns &&
                       !s->params.force_on_timeout && now - s->started_ns > s->params.timeout_ns;
    bool switch_late = s->phase == PHASE_FROZEN && !s->params.force_on_timeout &&
                       now - s->frozen_ns > FROZEN_LIMIT &&
                       now - s->frozen_ns - FROZEN_LIMIT > s->params.downtime_ns;
    if (!s->timed_out && (rounds_late || switch_late)) {
        s->timed_out = true;
        s->cancelled = true; // the same, but for what is said of it
        cut_connections(s);
        if (s->sender)
            ram_sender_cancel(s->sender);
    }
    pthread_mutex_unlock(&s->lock);
}

static void free_handle(uv_handle_t *handle)
{
    free(handle);
}

static void on_finished(uv_async_t *finished)
{
    struct migration_source *s = finished->data;
    if (!s || !s->thread_started)
        return;
    pthread_join(s->thread, NULL);
    s->thread_started = false;
    uv_timer_stop(s->watchdog);
    // Only now: who reads that it has failed may start the next one at once.
    if (s->phase != PHASE_IN_DOUBT)
        source_set_phase(s, s->result == 0 ? PHASE_MOVED : PHASE_FAILED);
    if (s->listener.done)
        s->listener.done(s->listener.opaque, s->result, &s->err);
}

void migration_params_free(struct migration_params *params)
{
    for (unsigned i = 0; i < params->socket_count; i++)
        if (params->sockets[i] >= 0)
            close(params->sockets[i]);
    params->socket_count = 0;
    tls_credentials_free(params->tls);
    params->tls = NULL;
}

int migration_source_start(struct migration_source **source, struct machine *machine,
                           uv_loop_t *loop, const struct migration_params *params,
                           const struct migration_listener *listener, struct error *err)
{
    struct migration_source *s = calloc(1, sizeof(*s));
    if (!s) {
        struct migration_params unused = *params;
        migration_params_free(&unused);
        return error_set_errno(err, ENOMEM, "starting the migration");
    }
    s->machine = machine;
    s->loop = loop;
    s->params = *params;
    s->listener = *listener;
    s->control.fd = -1;
    for (unsigned i = 0; i < MIGRATE_STREAMS_LIMIT; i++)
        s->data[i].fd = -1;
    s->started_ns = clock_monotonic_ns();
    s->convergence = (struct convergence){
        .downtime_ns = params->downtime_ns,
        .timeout_ns = params->timeout_ns,
        .force_on_timeout = params->force_on_timeout,
        .throttle_limit = params->throttle_limit,
        .fixed_cost_ns = FIXED_COST,
    };
    pthread_mutex_init(&s->lock, NULL);
    byte_writer_init(&s->state);
    arbiter_init(&s->arbiter);
    s->arbiter.present = machine_is_managed(machine);
    int rc = 0;
    if (params->has_id)
        memcpy(s->id, params->id, sizeof(s->id));
    else
        rc = random_bytes(s->id, sizeof(s->id));
    if (rc == 0)
        rc = loop_call_create(&s->main, loop);
    s->finished = calloc(1, sizeof(*s->finished));
    s->watchdog = calloc(1, sizeof(*s->watchdog));
    if (rc == 0)
        rc = s->finished && s->watchdog ? uv_async_init(loop, s->finished, on_finished) : -ENOMEM;
    if (rc < 0) {
        free(s->finished);
        free(s->watchdog);
        s->finished = NULL;
        s->watchdog = NULL;
        migration_source_free(s);
        return error_set_errno(err, -rc, "starting the migration");
    }
    s->finished->data = s;
    s->watchdog->data = s;
    uv_timer_init(loop, s->watchdog);
    uv_timer_start(s->watchdog, on_watchdog, WATCHDOG_MS, WATCHDOG_MS);
    machine_hold(machine, true);
    s->held = true;
    rc = -pthread_create(&s->thread, NULL, source_main, s);
    if (rc < 0) {
        machine_hold(machine, false);
        migration_source_free(s);
        return error_set_errno(err, -rc, "starting the migration's thread");
    }
    s->thread_started = true;
    *source = s;
    return 0;
}

int migration_source_cancel(struct migration_source *s, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    bool late = s->phase >= PHASE_COMMITTING;
    if (!late) {
        s->cancelled = true;
        if (s->phase != PHASE_ASKING) { // COMMIT may have to be sent all the same
            cut_connections(s);
            if (s->sender)
                ram_sender_cancel(s->sender);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return late ? error_set(err, EBUSY, "the migration is past the point where it can be cancelled")
                : 0;
}

void migration_source_abandon(struct migration_source *s)
{
    struct error ignored;
    atomic_store(&s->abandoned, true);
    migration_source_cancel(s, &ignored);
}

void migration_source_decide(struct migration_source *s, enum arbiter_question question,
                             enum arbiter_decision decision)
{
    arbiter_decide(&s->arbiter, question, decision);
}

const uint8_t *migration_source_id(const struct migration_source *s)
{
    return s->id;
}

// The networks whose connections end with the move: those through passt, a process of this host.
static json_t *broken_networks(const struct machine_config *config)
{
    json_t *ids = json_array();
    for (unsigned i = 0; i < config->net_count; i++) {
        char id[16];
        if (config->nets[i].kind != NET_USER)
            continue;
        snprintf(id, sizeof(id), "net%u", config->nets[i].number);
        json_array_append_new(ids, json_string(id));
    }
    return ids;
}

json_t *migration_source_status(struct migration_source *s)
{
    pthread_mutex_lock(&s->lock);
    struct ram_sender_totals totals = {0};
    if (s->sender)
        totals = ram_sender_totals(s->sender);
    uint64_t end = s->ended_ns ? s->ended_ns : clock_monotonic_ns();
    uint64_t remaining = s->remaining, bandwidth = s->bandwidth;
    // Nothing was measured over a whole round yet, and the first is the longest.
    if (s->phase == PHASE_ROUNDS && bandwidth == 0 && s->sender) {
        remaining = totals.left;
        bandwidth =
            (uint64_t)((unsigned __int128)totals.bytes * NSEC_PER_SEC / ((end - s->rounds_ns) | 1));
    }
    json_t *status = json_pack(
        "{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "phase",
        phase_names[s->phase], "target", s->params.target.text, "round", (int)s->round,
        "elapsed_ms", (json_int_t)((end - s->started_ns) / NSEC_PER_MSEC), "bytes",
        (json_int_t)totals.bytes, "pages", (json_int_t)totals.pages, "zero_pages",
        (json_int_t)totals.zero_pages, "remaining_bytes", (json_int_t)remaining, "bytes_per_second",
        (json_int_t)bandwidth, "dirty_bytes_per_second", (json_int_t)s->dirty_rate,
        "expected_downtime_us", (json_int_t)(s->convergence.expected_downtime_ns / NSEC_PER_USEC),
        "downtime_us", (json_int_t)(s->downtime_ns / NSEC_PER_USEC), "throttle", (int)s->throttle);
    if (status)
        json_object_set_new(status, "breaks_connections_of",
                            broken_networks(machine_config(s->machine)));
    if (status && s->phase >= PHASE_FAILED)
        json_object_set_new(status, "error", json_string(s->err.message));
    pthread_mutex_unlock(&s->lock);
    return status;
}

void migration_source_free(struct migration_source *s)
{
    if (!s)
        return;
    if (s->thread_started) {
        s->listener.done = NULL;
        migration_source_abandon(s);
        // The thread may be waiting for a call into this loop.
        while (s->thread_started)
            uv_run(s->loop, UV_RUN_ONCE); // the watchdog wakes it at least
    }
    if (s->finished) {
        s->finished->data = NULL;
        uv_close((uv_handle_t *)s->finished, free_handle);
    }
    if (s->watchdog) {
        s->watchdog->data = NULL;
        uv_close((uv_handle_t *)s->watchdog, free_handle);
    }
    loop_call_close(s->main);
    ram_sender_stop(s->sender);
    page_bitmap_free(&s->pages);
    byte_writer_free(&s->state);
    channel_close(&s->control);
    for (unsigned i = 0; i < MIGRATE_STREAMS_LIMIT; i++)
        channel_close(&s->data[i]);
    migration_params_free(&s->params);
    arbiter_destroy(&s->arbiter);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
