// The source of a migration: sends a running machine to a target, and stops it here once it runs
// there.
//
// States (each may fail before COMMIT; the machine then goes on as if nothing had happened):
//
//   connecting -> preparing -> rounds -> frozen -> committing -> moved
//                                                     |
//                                                     +--> in doubt (the link died and the target
//                                                     can't be
//                                                          asked): paused until a person or the
//                                                          arbiter decides
//
// Threads: the functions here are called on the machine's main thread; a thread of its own drives
// the migration and calls back into main where the machine is touched. The control socket answers
// all the while.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "migrate/arbiter.h"
#include "migrate/channel.h"
#include "migrate/protocol.h"
#include "vmm/machine.h"

struct migration_source;

enum { MIGRATE_SOCKET_CONTROL, MIGRATE_SOCKET_QUESTION, MIGRATE_SOCKETS_BESIDE_DATA };

struct migration_params {
    struct channel_address target;
    char token[MIGRATE_TOKEN_SIZE]; // "" for none
    uint64_t downtime_ns;           // wanted at most
    uint64_t timeout_ns;            // 0 = none
    bool force_on_timeout;          // switch at the time-out all the same, rather than cancel
    uint64_t bandwidth;             // bytes a second; 0 = no cap
    unsigned streams;               // 1 to MIGRATE_STREAMS_LIMIT
    unsigned throttle_limit;        // thousandths of a vCPU's time that may be taken; 0 = none
    struct tls_credentials *tls;    // for a tls:// target
    // By which the target is reached, where the caller gave some: the control connection's, that of
    // questions, then one a stream. None (the count is 0): the source makes its own.
    int sockets[MIGRATE_STREAMS_LIMIT + MIGRATE_SOCKETS_BESIDE_DATA];
    unsigned socket_count;
    char tls_peer[80];  // the certificate that it must have (tls_subject_is()); "" = any
    char tls_name[256]; // whose certificate the target must have; "" = any of the CA
    bool has_id;        // the caller knows the move by this id; otherwise one is made
    uint8_t id[MIGRATE_ID_SIZE];
};

struct migration_listener {
    // The migration has ended; migration_source_free() may be called. `err` has the sentence of a
    // failure.
    void (*done)(void *opaque, int result, const struct error *err);
    // Of a managed machine: asks the arbiter; again and again until it is answered by
    // migration_source_decide(). On main.
    void (*ask)(void *opaque, enum arbiter_question question);
    void *opaque;
};

// Closes the sockets that are left and frees params->tls.
void migration_params_free(struct migration_params *params);

// Starts; the machine must be running or paused. Takes params->tls and ->sockets over, in any
// case. 0 or a
// sentence.
int migration_source_start(struct migration_source **source, struct machine *machine,
                           uv_loop_t *loop, const struct migration_params *params,
                           const struct migration_listener *listener, struct error *err);
// Asks it to end. -EBUSY with a sentence once COMMIT is on its way.
int migration_source_cancel(struct migration_source *source, struct error *err);
// The machine has stopped or lost its lease: as cancel; and no answer of the arbiter is waited for
// any more.
void migration_source_abandon(struct migration_source *source);
// The arbiter's answer.
void migration_source_decide(struct migration_source *source, enum arbiter_question question,
                             enum arbiter_decision decision);
const uint8_t *migration_source_id(const struct migration_source *source);
// Phase, round, bytes, rates, estimate: a new object (docs/control.md, migrate.status).
json_t *migration_source_status(struct migration_source *source);
// After done, or at the end of the machine (then it cancels and waits). NULL is allowed.
void migration_source_free(struct migration_source *source);
