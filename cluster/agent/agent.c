#include "cluster/agent/agent.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/cluster_mutant.h"
#include "cluster/records/left.h"

enum { BACKOFF_DOUBLINGS = 7 };
#define BACKOFF_FIRST (NSEC_PER_SEC / 2)
#define STABLE_AFTER  (600 * NSEC_PER_SEC) // a run this long forgets earlier failures

// Everything the steps below look at.
struct step {
    const struct agent_self *self;
    const struct record_view *view;
    const struct machine_entry *entry;
    const struct owner_record *owner;
    const struct local_view *local;
    struct agent_machine *machine;
    uint64_t now;
    struct change *change;
};

// A process has to come up, and hears of no later deadline before it listens: half of what a
// renewal gives must be left. A renewal that comes brings that; only a store that takes longer than
// that to answer one keeps starts waiting, and no process would live long with it.
static bool is_time_to_start(const struct step *s)
{
    uint64_t wanted = s->view->settings.value.settings.deadline_ns / 2;
    return s->now >= s->machine->not_before && s->self->deadline >= s->now + wanted;
}

static bool is_mine(const struct agent_self *self, const struct owner_record *owner)
{
    return !self->over && owner->stage != OWNER_NONE && strcmp(owner->host, self->host) == 0 &&
           owner->incarnation == self->incarnation;
}

static bool is_wanted(const struct machine_entry *entry)
{
    return entry->machine.mod && !entry->tombstone.mod &&
           entry->machine.value.machine.wish == WISH_RUNNING;
}

static bool is_target(const struct agent_self *self, const struct owner_record *owner)
{
    const struct migration_record *migration = &owner->migration;
    return !self->over && owner->stage == OWNER_STARTED &&
           (migration->stage == MIGRATION_RESERVED || migration->stage == MIGRATION_INCOMING ||
            migration->stage == MIGRATION_SWITCHING) &&
           strcmp(migration->target, self->host) == 0 &&
           migration->target_incarnation == self->incarnation;
}

// It was this host's before it was fenced or booted, and without a deadline nobody else has taken
// it: only who looks here can say what became of its process.
static bool is_left_behind(const struct agent_self *self, const struct owner_record *owner)
{
    return !self->over && owner->stage == OWNER_STARTED && owner->unbounded &&
           strcmp(owner->host, self->host) == 0 && owner->incarnation < self->incarnation;
}

bool agent_machine_is_renewed(const struct agent_self *self, const struct machine_entry *entry,
                              const struct local_view *local)
{
    if (!entry || !entry->owner.mod || entry->owner.value.owner.unbounded)
        return false;
    const struct owner_record *owner = &entry->owner.value.owner;
    // One that waits for its COMMIT has the deadline that it will run by.
    if (local->process == LOCAL_INCOMING && is_target(self, owner))
        return local->epoch == owner->epoch + 1;
    return is_mine(self, owner) && owner->stage == OWNER_STARTED && owner->epoch == local->epoch;
}

// ---- changes of the owner record ----

// Begins one: it holds only if neither the record nor this incarnation has changed.
static struct owner_record *change_owner(struct step *s)
{
    change_clear(s->change);
    change_compare(s->change, RECORD_OWNER, s->entry->uuid, s->entry->owner.mod);
    change_compare(s->change, RECORD_LIFE, s->self->host, s->self->life_mod);
    struct owner_record *owner = &change_put(s->change, RECORD_OWNER, s->entry->uuid)->owner;
    *owner = *s->owner;
    return owner;
}

// The other side of it may have a copy yet.
static void forget_migration(const struct step *s, struct owner_record *owner)
{
    if (!CLUSTER_IS_MUTANT(MOVED_COPY_FORGOTTEN))
        left_hosts_add_move(s->view, &owner->left, &owner->migration);
    owner->migration = (struct migration_record){0};
}

static enum agent_action commit(struct step *s)
{
    s->machine->committing = true;
    return AGENT_COMMIT;
}

// A new epoch for one start; `continues` is the process whose memory goes on, or 0.
static enum agent_action commit_start(struct step *s, uint64_t continues)
{
    if (!is_time_to_start(s))
        return AGENT_WAIT;
    struct owner_record *owner = change_owner(s);
    owner->stage = OWNER_STARTED;
    owner->epoch++;
    if (CLUSTER_IS_MUTANT(RESTART_KEEPS_EPOCH) && s->owner->stage == OWNER_STARTED)
        owner->epoch--;
    owner->kept_epoch = continues ? continues : owner->epoch;
    owner->unbounded = s->entry->machine.value.machine.no_ha;
    forget_migration(s, owner);
    s->machine->committing_epoch = owner->epoch;
    s->machine->committing_continue = continues;
    return commit(s);
}

static enum agent_action commit_release(struct step *s, bool forget_wish)
{
    struct owner_record *owner = change_owner(s);
    forget_migration(s, owner);
    left_hosts_drop(&owner->left, s->self->host, s->self->incarnation); // nothing is here
    *owner =
        (struct owner_record){.epoch = s->owner->epoch, .ran = s->owner->ran, .left = owner->left};
    snprintf(owner->home, sizeof(owner->home), "%s", s->owner->host);
    if (forget_wish && s->entry->machine.mod) {
        change_compare(s->change, RECORD_MACHINE, s->entry->uuid, s->entry->machine.mod);
        struct machine_record *machine =
            &change_put(s->change, RECORD_MACHINE, s->entry->uuid)->machine;
        *machine = s->entry->machine.value.machine;
        machine->wish = WISH_STOPPED;
        machine->wish_number++;
    }
    return commit(s);
}

// The owner confirms the end that a tombstone asked for: nothing is left of the machine here.
static enum agent_action commit_removal(struct step *s)
{
    struct left_hosts left = {0};
    left_hosts_add_owner(s->view, &left, s->owner);
    left_hosts_drop(&left, s->self->host, s->self->incarnation);
    change_clear(s->change);
    change_compare(s->change, RECORD_LIFE, s->self->host, s->self->life_mod);
    change_bury(s->change, s->entry, &left);
    return commit(s);
}

// Another one does; the last to do so removes the tombstone.
static enum agent_action commit_end(struct step *s)
{
    const struct tombstone_record *old = &s->entry->tombstone.value.tombstone;
    struct left_hosts left = old->left;
    left_hosts_drop(&left, s->self->host, s->self->incarnation);
    change_clear(s->change);
    change_compare(s->change, RECORD_LIFE, s->self->host, s->self->life_mod);
    change_compare(s->change, RECORD_TOMBSTONE, s->entry->uuid, s->entry->tombstone.mod);
    if (!left.count) {
        change_remove(s->change, RECORD_TOMBSTONE, s->entry->uuid);
        return commit(s);
    }
    struct tombstone_record *new =
        &change_put(s->change, RECORD_TOMBSTONE, s->entry->uuid)->tombstone;
    *new = *old;
    new->left = left;
    return commit(s);
}

static enum agent_action commit_migration(struct step *s, enum migration_stage stage)
{
    struct owner_record *owner = change_owner(s);
    if (stage == MIGRATION_NONE)
        forget_migration(s, owner);
    else
        owner->migration.stage = stage;
    return commit(s);
}

// Neither a start nor another owner: the epoch stays, and with it whatever runs here under it.
static enum agent_action commit_adoption(struct step *s)
{
    change_owner(s)->incarnation = s->self->incarnation;
    return commit(s);
}

// From now on its disks must have their epoch files.
static enum agent_action commit_ran(struct step *s)
{
    change_owner(s)->ran = true;
    return commit(s);
}

// ---- a machine that is this host's ----

static bool memory_is_current(const struct step *s)
{
    if (s->local->process != LOCAL_LOST && s->local->process != LOCAL_STANDING)
        return false;
    if (CLUSTER_IS_MUTANT(STALE_MEMORY_RETURNS))
        return true;
    return s->local->epoch == s->owner->kept_epoch ||
           (s->owner->stage == OWNER_STARTED && s->local->epoch == s->owner->epoch);
}

// The manager has given it to this host, and nothing has been started under that.
static enum agent_action step_assigned(struct step *s)
{
    if (s->local->process == LOCAL_STARTING)
        return AGENT_WAIT;
    if (!is_wanted(s->entry))
        return s->local->process == LOCAL_NONE ? commit_release(s, false) : AGENT_DESTROY;
    if (memory_is_current(s))
        return commit_start(s, s->local->epoch);
    return s->local->process == LOCAL_NONE ? commit_start(s, 0) : AGENT_DESTROY;
}

// The source never stood in doubt and the target never ran: back to it, if it is still there.
static enum agent_action return_to_source(struct step *s)
{
    const struct migration_record *migration = &s->owner->migration;
    const struct host_entry *source = record_view_host(s->view, migration->source);
    if (!source || !source->life.mod ||
        life_is_over(&source->life.value.life, migration->source_incarnation))
        return commit_start(s, 0);
    struct owner_record *owner = change_owner(s);
    change_compare(s->change, RECORD_LIFE, migration->source, source->life.mod);
    owner->stage = OWNER_ASSIGNED;
    snprintf(owner->host, sizeof(owner->host), "%s", migration->source);
    owner->incarnation = migration->source_incarnation;
    owner->epoch++;
    owner->unbounded = false; // nothing of this epoch runs
    forget_migration(s, owner);
    return commit(s);
}

static void count_failure(struct step *s)
{
    struct agent_machine *machine = s->machine;
    if (!machine->started_at)
        return; // counted
    if (s->now - machine->started_at > STABLE_AFTER)
        machine->failures = 0;
    unsigned doublings =
        machine->failures < BACKOFF_DOUBLINGS ? machine->failures : BACKOFF_DOUBLINGS;
    machine->failures++;
    machine->not_before = s->now + (BACKOFF_FIRST << doublings);
    machine->started_at = 0;
}

// A started one whose process is gone.
static enum agent_action step_ended(struct step *s)
{
    if (s->machine->to_start == s->owner->epoch && !s->machine->to_continue)
        return is_time_to_start(s) ? AGENT_SPAWN : AGENT_WAIT;
    if (s->owner->migration.stage == MIGRATION_DONE && s->local->end == END_NOT_STARTED &&
        s->local->epoch == s->owner->epoch)
        return return_to_source(s);
    if (!is_wanted(s->entry))
        return commit_release(s, false);
    enum restart_policy policy = s->entry->machine.value.machine.restart;
    bool clean = s->local->end == END_CLEAN;
    if (policy == RESTART_NEVER || (clean && policy == RESTART_ON_FAILURE))
        return commit_release(s, true);
    count_failure(s);
    return commit_start(s, 0);
}

static bool target_is_over(const struct step *s)
{
    const struct migration_record *migration = &s->owner->migration;
    const struct host_entry *target = record_view_host(s->view, migration->target);
    return !target || !target->life.mod ||
           life_is_over(&target->life.value.life, migration->target_incarnation);
}

// The source of a migration whose process lives.
static enum agent_action step_source(struct step *s)
{
    const struct migration_record *migration = &s->owner->migration;
    bool told = strcmp(s->local->migration_id, migration->id) == 0;
    bool cancelled = strcmp(s->entry->machine.value.machine.cancel, migration->id) == 0;
    switch (migration->stage) {
    case MIGRATION_RESERVED:
    case MIGRATION_INCOMING:
        if (target_is_over(s) || !is_wanted(s->entry) || cancelled)
            return commit_migration(s, MIGRATION_ABORTED);
        return migration->stage == MIGRATION_INCOMING ? commit_migration(s, MIGRATION_SWITCHING)
                                                      : AGENT_WAIT;
    case MIGRATION_SWITCHING:
        if (s->local->moving && told)
            return cancelled ? AGENT_CANCEL_MOVE
                             : AGENT_WAIT; // the machine asks when it needs to know
        if (!told && !cancelled && !target_is_over(s))
            return AGENT_MOVE_OUT;
        return commit_migration(s, MIGRATION_ABORTED);
    default:
        return AGENT_WAIT;
    }
}

static enum agent_action step_started(struct step *s)
{
    bool same = s->local->epoch == s->owner->epoch;
    switch (s->local->process) {
    case LOCAL_NONE:
        return step_ended(s);
    case LOCAL_STARTING:
        return AGENT_WAIT;
    case LOCAL_INCOMING:
        // Its COMMIT, or the answer to its question, comes by itself.
        return same && s->owner->migration.stage == MIGRATION_DONE ? AGENT_WAIT : AGENT_DESTROY;
    case LOCAL_STANDING:
        // It asks its arbiter, and is given deadlines meanwhile.
        if (same && s->owner->migration.stage != MIGRATION_NONE)
            return AGENT_WAIT;
        break;
    case LOCAL_LIVE:
        if (!same)
            return AGENT_DESTROY;
        if (s->owner->migration.stage == MIGRATION_DONE)
            return commit_migration(s, MIGRATION_NONE); // the source may forget its copy
        if (s->owner->migration.stage != MIGRATION_NONE &&
            s->owner->migration.stage != MIGRATION_ABORTED)
            return step_source(s);
        if (s->local->ran && !s->owner->ran)
            return commit_ran(s);
        return is_wanted(s->entry) ? AGENT_WAIT : AGENT_SHUT_DOWN;
    case LOCAL_LOST:
        break;
    }
    if (s->machine->to_start == s->owner->epoch && s->machine->to_continue == s->local->epoch)
        return AGENT_CONTINUE;
    if (!is_wanted(s->entry) || !memory_is_current(s))
        return AGENT_DESTROY;
    return commit_start(s, s->local->epoch);
}

// ---- a machine that isn't ----

static enum agent_action step_target(struct step *s)
{
    const struct migration_record *migration = &s->owner->migration;
    const struct local_view *local = s->local;
    bool ours = strcmp(local->migration_id, migration->id) == 0;
    if (local->process == LOCAL_STARTING)
        return AGENT_WAIT;
    if (local->process == LOCAL_NONE)
        return migration->stage == MIGRATION_RESERVED ? AGENT_SPAWN_INCOMING : AGENT_WAIT;
    if (local->process != LOCAL_INCOMING || !ours)
        return AGENT_DESTROY;
    if (migration->stage != MIGRATION_RESERVED || !local->address[0])
        return AGENT_WAIT;
    struct owner_record *owner = change_owner(s);
    owner->migration.stage = MIGRATION_INCOMING;
    snprintf(owner->migration.address, sizeof(owner->migration.address), "%s", local->address);
    snprintf(owner->migration.token, sizeof(owner->migration.token), "%s", local->token);
    return commit(s);
}

// The copy of a source that has handed over stays until the target runs.
static bool is_kept_for_target(const struct step *s)
{
    const struct migration_record *migration = &s->owner->migration;
    return migration->stage == MIGRATION_DONE && strcmp(migration->source, s->self->host) == 0 &&
           migration->source_incarnation == s->self->incarnation &&
           s->local->epoch + 1 == s->owner->epoch;
}

static enum agent_action step_foreign(struct step *s)
{
    if (is_target(s->self, s->owner))
        return step_target(s);
    if (s->local->process == LOCAL_NONE || s->local->process == LOCAL_STARTING)
        return AGENT_WAIT;
    if (s->local->process == LOCAL_INCOMING)
        return AGENT_DESTROY; // that migration can't be done any more: the record has moved on
    if (is_kept_for_target(s))
        return AGENT_WAIT;
    // Of an earlier incarnation, and nobody has taken it yet: it stands, and may go on here.
    if (s->owner->epoch <= s->local->epoch)
        return AGENT_WAIT;
    return AGENT_DESTROY;
}

// What is here of a machine that is to go, the last epoch of which is `epoch`.
static enum agent_action end_local(const struct step *s, uint64_t epoch)
{
    if (s->local->process == LOCAL_STARTING)
        return AGENT_WAIT;
    // A process of a later epoch than the record knows: the store was rolled back.
    return s->local->process == LOCAL_INCOMING || s->local->epoch <= epoch ? AGENT_DESTROY
                                                                           : AGENT_ORPHAN;
}

static enum agent_action step_tombstone(struct step *s, bool mine)
{
    if (s->local->process != LOCAL_NONE)
        return end_local(s, s->owner->epoch);
    return mine ? commit_removal(s) : AGENT_WAIT;
}

// Only the tombstone is left: hosts that had something of the machine have to look for it.
static enum agent_action step_buried(struct step *s)
{
    const struct tombstone_record *tombstone = &s->entry->tombstone.value.tombstone;
    if (s->local->process != LOCAL_NONE && !CLUSTER_IS_MUTANT(END_CONFIRMED_UNSEEN))
        return end_local(s, tombstone->epoch);
    return !s->self->over && left_hosts_has(&tombstone->left, s->self->host, s->self->incarnation)
               ? commit_end(s)
               : AGENT_WAIT;
}

enum agent_action agent_machine_step(const struct agent_self *self, const struct record_view *view,
                                     const struct machine_entry *entry,
                                     const struct local_view *local, struct agent_machine *machine,
                                     uint64_t now, struct change *change)
{
    struct step s = {
        .self = self,
        .view = view,
        .entry = entry,
        .local = local,
        .machine = machine,
        .now = now,
        .change = change,
    };
    if (machine->committing)
        return AGENT_WAIT;
    if (entry && !entry->owner.mod && entry->tombstone.mod)
        return step_buried(&s);
    if (!entry || !entry->owner.mod)
        return local->process == LOCAL_NONE ? AGENT_WAIT : AGENT_ORPHAN;
    s.owner = &entry->owner.value.owner;
    if (is_left_behind(self, s.owner))
        return commit_adoption(&s);
    bool mine = is_mine(self, s.owner);
    if (CLUSTER_IS_MUTANT(GIVE_UP_WHILE_RUNNING) && mine && local->process != LOCAL_NONE &&
        !is_wanted(entry) && !entry->tombstone.mod)
        return commit_release(&s, false);
    if (entry->tombstone.mod)
        return step_tombstone(&s, mine);
    if (!mine)
        return step_foreign(&s);
    return s.owner->stage == OWNER_ASSIGNED ? step_assigned(&s) : step_started(&s);
}

void agent_machine_outcome(struct agent_machine *machine, enum change_outcome outcome)
{
    machine->committing = false;
    machine->to_start = machine->to_continue = 0;
    if (outcome == CHANGE_COMMITTED ||
        (CLUSTER_IS_MUTANT(START_UNKNOWN_SPAWNS) && outcome == CHANGE_UNKNOWN)) {
        machine->to_start = machine->committing_epoch;
        machine->to_continue = machine->committing_continue;
    }
    machine->committing_epoch = machine->committing_continue = 0;
}

void agent_machine_started(struct agent_machine *machine, uint64_t now)
{
    machine->to_start = machine->to_continue = 0;
    machine->started_at = now;
}

// ---- the arbiter ----

enum arbiter_decision arbiter_step(const struct record_view *view,
                                   const struct machine_entry *entry, uint64_t epoch,
                                   const char *migration_id, enum arbiter_role role,
                                   enum arbiter_ask ask, struct change *change)
{
    if (!entry || !entry->owner.mod)
        return DECIDE_UNKNOWN;
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct migration_record *migration = &owner->migration;
    uint64_t source_epoch = role == ARBITER_SOURCE ? epoch : epoch - 1;
    bool named = owner->stage == OWNER_STARTED && migration->stage != MIGRATION_NONE &&
                 strcmp(migration->id, migration_id) == 0;
    if (named && migration->stage == MIGRATION_DONE && owner->epoch == source_epoch + 1)
        return DECIDE_TARGET;
    // Another epoch: neither of the two is the owner by this migration any more. A target can
    // never become it; a source stays as it is until its agent says what becomes of it.
    if (!named || owner->epoch != source_epoch || migration->stage == MIGRATION_ABORTED) {
        bool still_source = owner->stage == OWNER_STARTED && owner->epoch == source_epoch;
        return role == ARBITER_TARGET || still_source ? DECIDE_SOURCE : DECIDE_UNKNOWN;
    }
    const struct host_entry *source = record_view_host(view, owner->host);
    if (role == ARBITER_TARGET || ask == ASK_OUTCOME || migration->stage != MIGRATION_SWITCHING ||
        !source || life_is_over(&source->life.value.life, owner->incarnation))
        return DECIDE_UNKNOWN;
    if (CLUSTER_IS_MUTANT(RESUME_WITHOUT_ABORT) && ask == ASK_ABORT)
        return DECIDE_SOURCE;
    change_clear(change);
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    change_compare(change, RECORD_LIFE, owner->host, source->life.mod);
    struct owner_record *new = &change_put(change, RECORD_OWNER, entry->uuid)->owner;
    *new = *owner;
    if (ask == ASK_ABORT) {
        new->migration.stage = MIGRATION_ABORTED;
        return DECIDE_COMMIT;
    }
    const struct host_entry *target = record_view_host(view, migration->target);
    if (!target || !target->life.mod ||
        life_is_over(&target->life.value.life, migration->target_incarnation))
        return DECIDE_UNKNOWN; // it will ask for the abort
    change_compare(change, RECORD_LIFE, migration->target, target->life.mod);
    new->migration.stage = MIGRATION_DONE;
    snprintf(new->migration.source, sizeof(new->migration.source), "%s", owner->host);
    new->migration.source_incarnation = owner->incarnation;
    snprintf(new->host, sizeof(new->host), "%s", migration->target);
    new->incarnation = migration->target_incarnation;
    new->epoch = owner->epoch + 1;
    new->kept_epoch = owner->epoch; // the source's copy, until the target has run
    return DECIDE_COMMIT;
}

enum arbiter_decision arbiter_outcome(enum arbiter_ask ask, enum change_outcome outcome)
{
    if (outcome == CHANGE_UNKNOWN && ask == ASK_ABORT && CLUSTER_IS_MUTANT(RESUME_ON_UNKNOWN))
        return DECIDE_SOURCE;
    if (outcome == CHANGE_UNKNOWN && ask == ASK_COMMIT && CLUSTER_IS_MUTANT(COMMIT_ON_UNKNOWN))
        return DECIDE_TARGET;
    if (outcome != CHANGE_COMMITTED)
        return DECIDE_UNKNOWN;
    return ask == ASK_ABORT ? DECIDE_SOURCE : DECIDE_TARGET;
}
