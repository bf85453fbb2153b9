#include "migrate/arbiter.h"

#include <string.h>

#include "base/clock.h"

#define FIRST_WAIT   (100 * NSEC_PER_MSEC)
#define LONGEST_WAIT (2 * NSEC_PER_SEC)

void arbiter_init(struct arbiter *a)
{
    *a = (struct arbiter){0};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
}

void arbiter_destroy(struct arbiter *a)
{
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
}

void arbiter_pose(struct arbiter *a, enum arbiter_question question)
{
    pthread_mutex_lock(&a->lock);
    if (a->question != question || a->decision == ARBITER_UNKNOWN) {
        a->question = question;
        a->answered = false;
        a->decision = ARBITER_UNKNOWN;
    }
    pthread_mutex_unlock(&a->lock);
}

enum arbiter_decision arbiter_await(struct arbiter *a, uint64_t patience_ns)
{
    uint64_t until = clock_monotonic_ns() + patience_ns;
    struct timespec deadline = {.tv_sec = (time_t)(until / NSEC_PER_SEC),
                                .tv_nsec = (long)(until % NSEC_PER_SEC)};
    pthread_mutex_lock(&a->lock);
    int rc = 0;
    // An unknown ends no wait: the same question at once would get the same answer.
    while (rc == 0 && !(a->answered && a->decision != ARBITER_UNKNOWN))
        rc = pthread_cond_clockwait(&a->changed, &a->lock, CLOCK_MONOTONIC, &deadline);
    enum arbiter_decision decision = a->answered ? a->decision : ARBITER_UNKNOWN;
    pthread_mutex_unlock(&a->lock);
    return decision;
}

void arbiter_decide(struct arbiter *a, enum arbiter_question question,
                    enum arbiter_decision decision)
{
    pthread_mutex_lock(&a->lock);
    if (a->question == question && a->decision == ARBITER_UNKNOWN) {
        a->answered = true;
        a->decision = decision;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
}

uint64_t arbiter_backoff(uint64_t last_ns)
{
    uint64_t next = last_ns ? 2 * last_ns : FIRST_WAIT;
    return next < LONGEST_WAIT ? next : LONGEST_WAIT;
}

static const char *const question_names[] = {"nothing", "commit", "abort", "outcome"};

const char *arbiter_question_name(enum arbiter_question question)
{
    return question_names[question];
}

enum arbiter_question arbiter_question_parse(const char *name)
{
    for (int i = ARBITER_COMMIT; name && i <= ARBITER_OUTCOME; i++)
        if (strcmp(name, question_names[i]) == 0)
            return (enum arbiter_question)i;
    return ARBITER_NOTHING;
}

int arbiter_decision_parse(const char *name)
{
    static const char *const names[] = {"unknown", "target", "source"};
    for (int i = 0; name && i < 3; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}
