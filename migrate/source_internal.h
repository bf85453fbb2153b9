// What the three files of a migration's source share: its life, rounds and freeze (source.c), its
// connections (source_connect.c), the switch (source_commit.c).
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/loop_call.h"
#include "migrate/arbiter.h"
#include "migrate/convergence.h"
#include "migrate/ram_sender.h"
#include "migrate/source.h"
#include "vmm/machine.h"

#define SILENCE_LIMIT (30 * NSEC_PER_SEC) // of the target, before the attempt is given up
// The times of the switch fit together with those of target.c, so that a source which came to be in
// doubt knows one thing at least: a target that hasn't started by then never will.
#define COMMIT_WINDOW (12 * NSEC_PER_SEC) // from LOADED to COMMIT
#define STARTED_LIMIT                                                                              \
    (20 * NSEC_PER_SEC) // from COMMIT to its answer, before the link counts as lost
#define ASK_LIMIT              (30 * NSEC_PER_SEC) // how long a lost target is asked for the outcome
#define ASK_LIMIT_WITH_ARBITER (10 * NSEC_PER_SEC) // the cluster finds out by itself
#define QUESTION_LIMIT         (5 * NSEC_PER_SEC)  // for one question
#define FROZEN_LIMIT           (20 * NSEC_PER_SEC) // the guest stands at most, beyond the downtime allowed

enum phase {
    PHASE_CONNECTING,
    PHASE_PREPARING,
    PHASE_ROUNDS,
    PHASE_FROZEN,
    PHASE_ASKING, // the arbiter
    PHASE_COMMITTING,
    PHASE_MOVED,
    PHASE_FAILED,
    PHASE_IN_DOUBT,
};

struct migration_source {
    struct machine *machine;
    uv_loop_t *loop;
    struct migration_params params;
    struct migration_listener listener;
    uint8_t id[MIGRATE_ID_SIZE];

    pthread_t thread;
    bool thread_started;
    struct loop_call *main; // into the machine's main thread
    uv_async_t *finished;   // the thread is about to end
    uv_timer_t *watchdog;   // time limits of whole phases
    int result;             // for the listener
    struct error err;

    struct channel control;
    uint16_t target_minor; // version, from WELCOME
    struct channel data[MIGRATE_STREAMS_LIMIT];
    struct ram_sender *sender;
    struct dirty_log log;
    bool log_started;
    struct page_bitmap pages; // of the next round
    uint32_t round;
    struct convergence convergence;
    bool was_running, frozen, disks_released, held;
    struct arbiter arbiter;
    atomic_bool abandoned;
    struct byte_writer state;

    pthread_mutex_t lock; // guards what follows, and the channels' descriptors against a cancel
    enum phase phase;
    atomic_bool cancelled; // written under the lock
    bool timed_out;
    uint64_t started_ns, rounds_ns, ended_ns, frozen_ns, downtime_ns;
    uint64_t loaded_ns; // LOADED came; CLOCK_BOOTTIME, as the target's limit
    uint64_t remaining, bandwidth, dirty_rate;
    unsigned throttle;
};

void source_set_phase(struct migration_source *s, enum phase phase);
// -errno and why, when somebody cancelled or a time limit passed; 0 otherwise.
int source_interruption(struct migration_source *s, struct error *err);
void source_pass_failure_point(struct migration_source *s, const char *name);

// What a failed exchange with the target means: its own words where it sent some.
int source_exchange_error(struct migration_source *s, int code, const char *what,
                          struct error *err);
int source_send(struct migration_source *s, uint32_t type, const struct byte_writer *w,
                struct error *err);
// Takes a reason's text out of a REFUSE, ABORT or NOT_STARTED.
void source_read_reason(const struct byte_writer *frame, char *out, size_t size);
// Receives the frame `wanted`; anything else is an error, a REFUSE one with the target's reason.
int source_expect(struct migration_source *s, uint32_t wanted, struct byte_writer *frame,
                  struct error *err);
// Connects and greets, as the role says; a question isn't interrupted.
int source_open(struct migration_source *s, struct channel *channel,
                const struct channel_address *address, enum migrate_role role, unsigned index,
                struct error *err);
// All connections, the target ready behind them.
int source_prepare(struct migration_source *s, struct error *err);

// The machine is frozen, flushed and unlocked: hands it over. 0 when it runs there; -EOWNERDEAD
// when nobody knows (it stays paused); any other failure: it goes on here.
int source_commit(struct migration_source *s, struct error *err);
