// A move of a machine that a cluster manages: an arbiter with a record, and a script of what goes
// wrong.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/migrate/fake_sides.h"
#include "tests/unit/run_suite.h"

enum record { RECORD_SWITCHING, RECORD_DONE, RECORD_ABORTED };
enum end { END_MOVED, END_GOES_ON, END_IN_DOUBT };

struct arbitration {
    const char *name, *point; // a failure point
    unsigned unknown;         // so many of the source's questions are answered by unknown
    unsigned lost;            // so many answers to commit are lost, after they were decided
    bool aborted;             // the cluster called it off before anybody asked
    bool silent, target_silent;
    bool cancel;        // by a person, while the first question stands
    bool thief;         // another process takes the disk when it is free
    unsigned leases_ms; // then both leases are lost; 0: never
    enum end end;
};

static const struct arbitration arbitrations[] = {
    {"at once", .end = END_MOVED},
    {"unknown at first", .unknown = 3, .end = END_MOVED},
    {"answers are lost", .lost = 2, .end = END_MOVED},
    {"called off", .aborted = true, .end = END_GOES_ON},
    {"cut before it is asked", "source-before-ask:cut", .end = END_GOES_ON},
    {"cut, decided already", "source-asked:cut", .end = END_MOVED},
    {"cut, decided, but the answer is lost", "source-asked:cut", .lost = 1, .end = END_MOVED},
    {"cut, not decided", "source-asked:cut", .unknown = 1, .end = END_GOES_ON},
    {"cut, and unknown for a while", "source-asked:cut", .unknown = 4, .end = END_GOES_ON},
    {"cut after COMMIT", "source-after-commit:cut", .end = END_MOVED},
    {"cut before the start", "target-before-start:cut", .end = END_MOVED},
    {"cut after the start", "target-after-start:cut", .end = END_MOVED},
    {"cancelled while asked", .unknown = 1, .cancel = true, .end = END_GOES_ON},
    {"cancelled, but decided", .lost = 1, .cancel = true, .end = END_MOVED},
    {"silence", .silent = true, .target_silent = true, .leases_ms = 1500, .end = END_IN_DOUBT},
    {"silence for the source", .silent = true, .leases_ms = 1500, .end = END_IN_DOUBT},
    {"cut, then silence", "source-asked:cut", .silent = true, .target_silent = true,
     .leases_ms = 1500, .end = END_IN_DOUBT},
    {"given away, not started", .thief = true, .leases_ms = 1500, .end = END_IN_DOUBT},
};

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows
static struct arbitration script_of;
static enum record record;
static struct machine thief;

// What the record says to a question, and what it becomes by it. -1: silence.
static int answer_source(enum arbiter_question question)
{
    struct arbitration *a = &script_of;
    if (a->silent)
        return -1;
    if (a->unknown > 0) {
        a->unknown--;
        return ARBITER_UNKNOWN;
    }
    if (record == RECORD_SWITCHING)
        record = question == ARBITER_COMMIT ? RECORD_DONE : RECORD_ABORTED;
    if (question == ARBITER_COMMIT && a->lost > 0) {
        a->lost--;
        return -1;
    }
    return record == RECORD_DONE ? ARBITER_TARGET : ARBITER_SOURCE;
}

static void source_asked(struct source_side *side, enum arbiter_question question)
{
    struct error ignored;
    // It stands, and its disk is free: only then it may ask.
    ck_assert_int_eq(side->machine->state, MACHINE_PAUSED);
    ck_assert_ptr_ne(atomic_load(&disk_owner), side->machine);
    pthread_mutex_lock(&record_lock);
    int answer = answer_source(question);
    bool cancel = script_of.cancel;
    script_of.cancel = false;
    if (script_of.thief)
        atomic_store(&disk_owner, &thief);
    pthread_mutex_unlock(&record_lock);
    if (cancel)
        ck_assert_int_eq(migration_source_cancel(side->source, &ignored), 0);
    if (answer >= 0)
        migration_source_decide(side->source, question, (enum arbiter_decision)answer);
    // An answer to something else is nobody's.
    migration_source_decide(side->source, ARBITER_OUTCOME, ARBITER_SOURCE);
}

static void target_asked(struct target_side *side, enum arbiter_question question)
{
    ck_assert_int_eq(question, ARBITER_OUTCOME);
    pthread_mutex_lock(&record_lock);
    enum arbiter_decision decision = record == RECORD_DONE      ? ARBITER_TARGET
                                     : record == RECORD_ABORTED ? ARBITER_SOURCE
                                                                : ARBITER_UNKNOWN;
    bool silent = script_of.target_silent;
    pthread_mutex_unlock(&record_lock);
    if (!silent)
        migration_target_decide(side->target, question, decision);
}

struct leases {
    struct source_side *source;
    struct target_side *target;
    unsigned after_ms;
};

static void *end_leases(void *opaque)
{
    const struct leases *l = opaque;
    usleep(l->after_ms * 1000);
    atomic_store(&l->source->machine->lease_lost, true);
    atomic_store(&l->target->machine->lease_lost, true);
    return NULL;
}

static void settle_record(const struct source_side *source)
{
    pthread_mutex_lock(&record_lock);
    // What the cluster does when the source reports that it goes on without having asked.
    if (record == RECORD_SWITCHING && source->machine->state == MACHINE_RUNNING)
        record = RECORD_ABORTED;
    pthread_mutex_unlock(&record_lock);
}

static void check_end(const struct source_side *source, struct target_side *target, enum end end)
{
    if (end == END_MOVED) {
        check_moved(source, target);
        ck_assert_int_eq(record, RECORD_DONE);
        return;
    }
    for (int i = 0; i < 10000 && !atomic_load(&target->failed); i++)
        usleep(1000);
    ck_assert_msg(atomic_load(&target->failed), "the target is still there");
    ck_assert(!atomic_load(&target->started));
    if (end == END_GOES_ON) {
        check_source_goes_on(source);
        ck_assert_int_eq(record, RECORD_ABORTED);
    } else {
        ck_assert_int_eq(source->result, -EOWNERDEAD);
        ck_assert(source->machine->in_doubt);
        ck_assert_int_eq(source->machine->state, MACHINE_PAUSED);
    }
}

START_TEST(test_arbiter)
{
    const struct arbitration *a = &arbitrations[_i];
    struct target_side target;
    struct source_side source;
    struct leases leases = {&source, &target, a->leases_ms};
    pthread_t thread;
    reset_evidence();
    all_managed = true;
    script_of = *a;
    record = a->aborted ? RECORD_ABORTED : RECORD_SWITCHING;
    if (a->point)
        setenv("FERRY_FAILURE_POINT", a->point, 1);
    start_target(&target);
    start_source(&source, &target.params.listen, 1);
    if (a->leases_ms)
        pthread_create(&thread, NULL, end_leases, &leases);
    uv_run(&source.loop, UV_RUN_DEFAULT);
    ck_assert_msg(source.done, "%s", a->name);
    if (a->leases_ms)
        pthread_join(thread, NULL);
    settle_record(&source);
    check_end(&source, &target, a->end);
    ck_assert_msg(!a->point || !getenv("FERRY_FAILURE_POINT"), "%s: never came there", a->name);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// A machine that ends while nobody answers doesn't wait for the answer.
START_TEST(test_abandoned)
{
    struct target_side target;
    struct source_side source;
    reset_evidence();
    all_managed = true;
    script_of = (struct arbitration){.silent = true};
    record = RECORD_ABORTED;
    start_target(&target);
    start_source(&source, &target.params.listen, 1);
    for (int i = 0; i < 20000 && source.machine->state != MACHINE_PAUSED; i++) {
        uv_run(&source.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    migration_source_abandon(source.source);
    uv_run(&source.loop, UV_RUN_DEFAULT);
    ck_assert(source.done);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("migrate-arbiter");
    TCase *tc = tcase_create("migrate-arbiter");
    tcase_set_timeout(tc, 120);
    on_source_ask = source_asked;
    on_target_ask = target_asked;
    tcase_add_loop_test(tc, test_arbiter, 0, sizeof(arbitrations) / sizeof(arbitrations[0]));
    tcase_add_test(tc, test_abandoned);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
