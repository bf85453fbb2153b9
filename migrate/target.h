// The target of a migration: takes a machine in, and starts it only after COMMIT.
//
// States:
//
//   accepting -> described -> building -> receiving -> loaded -> started
//                                                        |
//                                                        +--> not started: final, it never will
//
// Whatever goes wrong before COMMIT ends the attempt with nothing left of it. After LOADED the
// source may be in doubt, so the answer to its question (HELLO query) is given for a while, also
// after the end: STARTED, or NOT_STARTED, which is final from the moment it is given.
//
// Threads: accept and free on the process's main thread; from start on a thread of its own drives
// the attempt and calls into main where the machine is touched.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "base/error.h"
#include "migrate/arbiter.h"
#include "migrate/channel.h"
#include "migrate/description.h"
#include "migrate/protocol.h"
#include "vmm/machine.h"

struct migration_target;

struct migration_target_params {
    struct channel_address listen;
    char token[MIGRATE_TOKEN_SIZE];    // what the source must show; "" = nothing
    bool own_port;                     // data connections at a port of this attempt's own
    const struct tls_credentials *tls; // NULL: plain TCP. They outlive the target
    const char *tls_peer; // the certificate that a source must have (tls_subject_is()); NULL: any
};

struct migration_target_listener {
    // The machine runs (or is paused, as it was). On main.
    void (*started)(void *opaque);
    // The attempt has failed; the machine must be destroyed and will never have run. On main.
    void (*failed)(void *opaque, const struct error *err);
    // Of a managed machine, when no COMMIT comes: asks the arbiter, again and again until it is
    // answered by migration_target_decide(). On main.
    void (*ask)(void *opaque, enum arbiter_question question);
    void *opaque;
};

// Waits for a control connection at `listen_fd` and takes its greeting, description and images.
// Connections that aren't a source's are turned away. 0 (then the descriptor is the target's) or a
// sentence, which the source was told as well.
int migration_target_accept(struct migration_target **target, int listen_fd,
                            const struct migration_target_params *params, struct error *err);
// The same on a control connection that was accepted already; it belongs to the target.
int migration_target_take(struct migration_target **target, int listen_fd, int control_fd,
                          const struct migration_target_params *params, struct error *err);
// The machine to be built. Belongs to the target; its name may be changed before the start.
struct machine_config *migration_target_config(struct migration_target *target);
const struct cpuid_table *migration_target_cpuid(const struct migration_target *target);
// Fills in the images (they are then the machine's); the rest of `files` is left alone.
void migration_target_give_images(struct migration_target *target, struct machine_files *files);
// Tells the source that the machine can't be built.
void migration_target_refuse(struct migration_target *target, const struct error *why);

// The machine is built (machine_create_incoming): says READY and goes on by itself.
int migration_target_start(struct migration_target *target, struct machine *machine,
                           uv_loop_t *loop, const struct migration_target_listener *listener,
                           struct error *err);
// Ends it, in whatever state; the machine and the loop still exist. NULL is allowed.
void migration_target_stop(struct migration_target *target);
// After stop, or without a start. NULL is allowed.
void migration_target_free(struct migration_target *target);
// The arbiter's answer. On main.
void migration_target_decide(struct migration_target *target, enum arbiter_question question,
                             enum arbiter_decision decision);
const uint8_t *migration_target_id(const struct migration_target *target);
