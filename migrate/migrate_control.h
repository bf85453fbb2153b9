// Migration's methods on a machine's control socket: migrate.start, migrate.status, migrate.cancel,
// and the event "migration" at its end (docs/control.md).
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "base/error.h"
#include "migrate/arbiter.h"
#include "vmm/control.h"
#include "vmm/machine.h"

struct migrate_control;

struct migrate_control_listener {
    // A migration has ended, however; on main. NULL for nobody.
    void (*ended)(void *opaque);
    void *opaque;
};

struct migration_target;

// Adds the methods to `control`; both outlive it.
int migrate_control_create(struct migrate_control **out, uv_loop_t *loop, struct machine *machine,
                           struct control *control, const struct migrate_control_listener *listener,
                           struct error *err);
// Whether a migration is under way (its thread may be about to touch the machine).
bool migrate_control_is_busy(const struct migrate_control *mc);
// The machine has stopped: a migration that is under way ends soon, if it hasn't reached its
// switch.
void migrate_control_machine_stopped(struct migrate_control *mc);
// The machine comes from another host: the arbiter's answers are `target`'s.
void migrate_control_set_target(struct migrate_control *mc, struct migration_target *target);
// A target's question, as an event.
void migrate_control_ask(struct migrate_control *mc, enum arbiter_question question);
// Cancels what is under way and waits for it. NULL is allowed.
void migrate_control_destroy(struct migrate_control *mc);
