// The arbiter of a managed machine's move: whoever keeps the record that says who owns it. A side
// that needs to know asks; the answer comes later, or never.
//
//   commit   the source, paused, its disks flushed and unlocked: may the target have the machine?
//   abort    the source, which wants to go on: may it have its machine back?
//   outcome  the target, to which no COMMIT came: what was decided?
//
// Answers: target, source, or unknown, which gives no right. A side that hasn't got the answer it
// needs stays paused and asks again, until its lease is over.
//
// Threads: the migration's own poses questions and waits; answers come on main.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum arbiter_question { ARBITER_NOTHING, ARBITER_COMMIT, ARBITER_ABORT, ARBITER_OUTCOME };
enum arbiter_decision { ARBITER_UNKNOWN, ARBITER_TARGET, ARBITER_SOURCE };

struct arbiter {
    bool present; // the machine is managed
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum arbiter_question question;
    bool answered;
    enum arbiter_decision decision;
};

void arbiter_init(struct arbiter *arbiter);
void arbiter_destroy(struct arbiter *arbiter);
// Makes this the question that answers are accepted for. One that was decided stays so.
void arbiter_pose(struct arbiter *arbiter, enum arbiter_question question);
// The answer, for which it waits that long at most; unknown when there is none.
enum arbiter_decision arbiter_await(struct arbiter *arbiter, uint64_t patience_ns);
// An answer to another question than the present one is nobody's.
void arbiter_decide(struct arbiter *arbiter, enum arbiter_question question,
                    enum arbiter_decision decision);

// "commit" and so on; names that don't exist are ARBITER_NOTHING and -1.
const char *arbiter_question_name(enum arbiter_question question);
enum arbiter_question arbiter_question_parse(const char *name);
int arbiter_decision_parse(const char *name);
// How long to wait before the same question is put again, given the last wait (0 at first).
uint64_t arbiter_backoff(uint64_t last_ns);
