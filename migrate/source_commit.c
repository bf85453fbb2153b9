// A migration's source: the switch. Who is told what, and what an answer that doesn't come means.
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "migrate/source_internal.h"
#include "vmm/machine_lease.h"

// The outcome as the target tells it: 1 started, 0 not started (with its reason), or -errno.
static int read_outcome(struct channel *channel, char *reason, size_t size)
{
    struct byte_writer frame;
    uint32_t type;
    byte_writer_init(&frame);
    int rc = channel_receive_frame(channel, MIGRATE_TEXT_LIMIT + 4, &type, &frame);
    if (rc == 0 && type == MIGRATE_STARTED)
        rc = 1;
    else if (rc == 0 && type == MIGRATE_NOT_STARTED)
        source_read_reason(&frame, reason, size);
    else if (rc == 0)
        rc = -EPROTO;
    byte_writer_free(&frame);
    return rc;
}

// The link died after COMMIT may have gone out: asks until the target answers or the limit has
// passed.
static int ask_outcome(struct migration_source *s, char *reason, size_t size)
{
    uint64_t limit = s->arbiter.present ? ASK_LIMIT_WITH_ARBITER : ASK_LIMIT;
    uint64_t give_up = clock_monotonic_ns() + limit;
    int rc = -ETIMEDOUT;
    while (clock_monotonic_ns() < give_up) {
        struct channel query = {.fd = -1};
        struct error err = {0};
        rc = source_open(s, &query, &s->params.target, MIGRATE_ROLE_QUERY, 0, &err);
        if (rc == 0) {
            channel_set_deadline(&query, QUESTION_LIMIT);
            rc = read_outcome(&query, reason, size);
        }
        channel_close(&query);
        if (rc >= 0)
            return rc;
        struct timespec pause = {.tv_nsec = 200 * (long)NSEC_PER_MSEC};
        nanosleep(&pause, NULL);
    }
    return rc;
}

// The last look before COMMIT. Nothing is due from the target: what is there is its refusal, or the
// end of the stream. Seen now it costs an attempt; after COMMIT it would leave the outcome open.
static int check_target(struct migration_source *s, struct error *err)
{
    struct byte_writer frame;
    // With an arbiter the target's time isn't limited but by its lease.
    if (!s->arbiter.present && clock_boottime_ns() - s->loaded_ns > COMMIT_WINDOW)
        return error_set(err, ETIMEDOUT, "writing back the disks took longer than %" PRIu64 " s",
                         COMMIT_WINDOW / NSEC_PER_SEC);
    if (!channel_has_input(&s->control))
        return 0;
    byte_writer_init(&frame);
    int rc = source_expect(s, MIGRATE_ABORT, &frame,
                           err); // any frame is a failure, this one has a reason
    byte_writer_free(&frame);
    return rc < 0 ? rc : error_set(err, EPROTO, "the target gave up before COMMIT");
}

// The outcome stays open: the machine stays paused. The sentence is there before anybody can ask
// for it.
static int stay_in_doubt(struct migration_source *s)
{
    source_set_phase(s, PHASE_IN_DOUBT);
    return -EOWNERDEAD;
}

// From here on nobody cancels, unless somebody has.
static int enter_phase(struct migration_source *s, enum phase phase, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    bool interrupted = s->cancelled || s->timed_out;
    if (!interrupted)
        s->phase = phase;
    pthread_mutex_unlock(&s->lock);
    return interrupted ? source_interruption(s, err) : 0;
}

static void ask_on_main(void *opaque)
{
    struct migration_source *s = opaque;
    s->listener.ask(s->listener.opaque, s->arbiter.question);
}

// Asks once more, and waits for the answer a little longer than the last time.
static enum arbiter_decision ask(struct migration_source *s, enum arbiter_question question,
                                 uint64_t *wait_ns)
{
    *wait_ns = arbiter_backoff(*wait_ns);
    arbiter_pose(&s->arbiter, question);
    loop_call(s->main, ask_on_main, s);
    return arbiter_await(&s->arbiter, *wait_ns);
}

static bool may_go_on_asking(struct migration_source *s)
{
    return machine_lease_holds(s->machine) && !atomic_load(&s->abandoned);
}

// Once it was asked to commit, the arbiter may have given the machine away: only its word brings it
// back. 0 when it is the target's after all; `err` has why this side gave up.
static int ask_to_abort(struct migration_source *s, struct error *err)
{
    uint64_t wait_ns = 0;
    while (may_go_on_asking(s)) {
        enum arbiter_decision decision = ask(s, ARBITER_ABORT, &wait_ns);
        if (decision == ARBITER_SOURCE)
            return -err->code;
        if (decision == ARBITER_TARGET)
            return 0;
    }
    error_prefix(err, "the machine stays paused: nobody says whether it was given to '%s'",
                 s->params.target.text);
    return stay_in_doubt(s);
}

// 0 when COMMIT may be sent; a failure after which the machine goes on here; -EOWNERDEAD when
// nobody knows.
static int ask_to_commit(struct migration_source *s, struct error *err)
{
    int rc = enter_phase(s, PHASE_ASKING, err);
    if (rc == 0) {
        source_pass_failure_point(s, "source-before-ask");
        rc = check_target(s, err);
    }
    if (rc < 0)
        return rc; // it wasn't asked yet
    log_info("migration: asking the arbiter");
    uint64_t wait_ns = 0;
    while (may_go_on_asking(s)) {
        enum arbiter_decision decision = ask(s, ARBITER_COMMIT, &wait_ns);
        source_pass_failure_point(s, "source-asked");
        if (decision == ARBITER_TARGET)
            return 0;
        if (decision == ARBITER_SOURCE)
            error_set(err, ECANCELED, "the cluster has called the move off");
        else if (source_interruption(s, err) == 0 && check_target(s, err) == 0)
            continue;
        return ask_to_abort(s, err);
    }
    error_set(err, EOWNERDEAD, "the machine stays paused: nobody says whether it was given to '%s'",
              s->params.target.text);
    return stay_in_doubt(s);
}

// The arbiter gave the machine to the target, which didn't start it. This side may only go on when
// it is given back.
static int given_away(struct migration_source *s, const char *reason, struct error *err)
{
    error_set(err, EOWNERDEAD,
              "the machine was given to '%s', which could not start it (%s): it stays paused here "
              "until the cluster gives it back",
              s->params.target.text, reason);
    return stay_in_doubt(s);
}

int source_commit(struct migration_source *s, struct error *err)
{
    char reason[MIGRATE_TEXT_LIMIT] = "";
    int rc;
    if (s->arbiter.present) {
        rc = ask_to_commit(s, err);
        if (rc == 0)
            source_set_phase(s, PHASE_COMMITTING); // whoever cancels now comes too late
    } else {
        rc = enter_phase(s, PHASE_COMMITTING, err);
    }
    if (rc < 0)
        return rc;
    *err = (struct error){0};
    source_pass_failure_point(s, "source-before-commit");
    rc = s->arbiter.present ? 0 : check_target(s, err);
    if (rc < 0)
        return rc;
    // From COMMIT's first byte on it counts as sent.
    channel_set_limit(&s->control, STARTED_LIMIT);
    channel_set_deadline(&s->control, STARTED_LIMIT); // also for an answer byte by byte
    rc = channel_send_frame(&s->control, MIGRATE_COMMIT, NULL);
    source_pass_failure_point(s, "source-after-commit");
    if (rc == 0)
        rc = read_outcome(&s->control, reason, sizeof(reason));
    if (rc < 0)
        rc = ask_outcome(s, reason, sizeof(reason));
    if (rc == 0 && s->arbiter.present)
        return given_away(s, reason, err);
    if (rc == 0)
        return error_set(err, ECONNREFUSED, "the target could not start the machine: %s", reason);
    if (rc < 0) {
        error_set(err, EOWNERDEAD,
                  "the link was lost at the switch and '%s' doesn't answer: the machine stays "
                  "paused here, since it may be running there; look there, and only if it "
                  "doesn't: `ferry resume --force`",
                  s->params.target.text);
        return stay_in_doubt(s);
    }
    source_pass_failure_point(s, "source-started");
    return 0;
}
