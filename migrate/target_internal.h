// What the two files of a migration's target share: its beginning, from the greeting to the
// machine's description (target_greeting.c), and the rest of its life (target.c).
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/loop_call.h"
#include "migrate/arbiter.h"
#include "migrate/ram_receiver.h"
#include "migrate/target.h"

#define HELLO_LIMIT                                                                                \
    (2 * NSEC_PER_SEC) // for a connection that comes during an attempt to say what it is
// For the first connection to say what it is, and for those for data: a handshake takes seconds
// where both hosts are busy, and nothing else waits for it yet.
#define GREETING_LIMIT (10 * NSEC_PER_SEC)
#define SILENCE_LIMIT  (30 * NSEC_PER_SEC) // of the source, before the attempt is given up

// How it ended, for questions. Decided once.
enum outcome { OUTCOME_OPEN, OUTCOME_STARTED, OUTCOME_NOT_STARTED };

struct migration_target {
    struct migration_target_params params;
    int listen_fd; // of this attempt's data connections and questions
    bool owns_listen_fd;
    struct channel control;
    struct migrate_hello hello;
    struct migrate_description description;
    int image_fds[2];

    struct machine *machine;
    struct migration_target_listener listener;
    struct loop_call *main;
    pthread_t thread;
    bool thread_started;
    atomic_bool ending, finished;
    uv_loop_t *loop;

    struct channel data[MIGRATE_STREAMS_LIMIT];
    struct ram_receiver *receiver;
    pthread_mutex_t
        send_lock; // guards sending on control: ROUND_DONE comes from a receiver's thread
    pthread_mutex_t err_lock; // guards ram_err
    struct error ram_err;
    bool loaded;       // LOADED may have gone out: the source may come to be in doubt
    bool source_knows; // that the attempt failed
    struct arbiter arbiter;
    bool undecided;       // LOADED went out, and only COMMIT or the arbiter says what follows
    bool asked;           // meanwhile, by a source that has lost its connection
    uint64_t answered_ns; // the last question; 0 = none
    uint64_t start_by_ns; // CLOCK_BOOTTIME
    enum outcome outcome;
    struct error err;
};

// Sends on control; 0 or -errno.
int target_send(struct migration_target *t, uint32_t type, const struct byte_writer *w);
// A frame with a sentence; a failure shows on the connection itself.
void target_send_text(struct channel *channel, uint32_t type, const char *text);
// -code, and what it means of an exchange with the source.
int target_source_error(int code, struct error *err);
void target_pass_failure_point(struct migration_target *t, const char *name);

// Shakes hands where that is wanted, and reads a connection's HELLO. False (after closing it) when
// it isn't one that may go on here.
bool target_greet(struct channel *channel, const struct migration_target_params *params,
                  uint64_t limit_ns, struct migrate_hello *hello);
// To a question about an attempt that this process knows nothing of; closes the connection.
void target_answer_stranger(struct channel *channel);
