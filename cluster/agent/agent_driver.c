#include "cluster/agent/agent_driver.h"
#include "cluster/agent/arbiter_listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/cluster_mutant.h"
#include "base/failure_point.h"
#include "base/log.h"
#include "cluster/records/left.h"

enum { STEPS_IN_A_ROW = 4 }; // of one machine, before the next one has its turn
#define LOOK_EVERY (200 * NSEC_PER_MSEC)

struct agent_slot {
    struct agent_slot *next;
    char uuid[UUID_TEXT_SIZE];
    struct agent_machine machine;
    struct local_look look;
    bool seen;  // in this look round: a record concerns us, or a process lives here
    bool known; // it had a record
    char moving_id[UUID_TEXT_SIZE]; // of the migration that the process here was told to make
    struct arbiter_listener listener;
    uint64_t asked_to_end; // when the power button was pressed; 0: not
    bool orphan_told;
};

static struct agent_slot *slot_of(struct agent_driver *driver, const char *uuid)
{
    struct agent_slot *slot = driver->slots;
    while (slot && strcmp(slot->uuid, uuid) != 0)
        slot = slot->next;
    if (slot)
        return slot;
    slot = calloc(1, sizeof(*slot));
    if (!slot)
        return NULL;
    snprintf(slot->uuid, sizeof(slot->uuid), "%s", uuid);
    slot->next = driver->slots;
    driver->slots = slot;
    return slot;
}

// ---- what people are told ----

static const char *state_text(const struct agent_slot *slot, const struct owner_record *owner)
{
    switch (slot->look.view.process) {
    case LOCAL_LIVE:
        return slot->look.view.ran ? slot->look.state : "starting";
    case LOCAL_LOST:
        return "lease-lost";
    case LOCAL_STARTING:
        return "starting";
    default:
        return slot->machine.failures && owner->stage == OWNER_STARTED ? "failed" : "starting";
    }
}

static void fill_state(struct state_record *state, const struct agent_slot *slot, const char *text,
                       const char *host)
{
    *state = (struct state_record){.since_ms = clock_realtime_ns() / NSEC_PER_MSEC,
                                   .restarts = slot->machine.failures};
    snprintf(state->state, sizeof(state->state), "%s", text);
    snprintf(state->host, sizeof(state->host), "%s", host);
    snprintf(state->reason, sizeof(state->reason), "%s", slot->look.reason);
}

static void tell_state(struct agent_driver *driver, const struct machine_entry *entry,
                       const struct agent_slot *slot)
{
    const struct state_record *old = &entry->state.value.state;
    const char *text = state_text(slot, &entry->owner.value.owner);
    if (entry->state.mod && strcmp(old->state, text) == 0 && strcmp(old->host, driver->host) == 0 &&
        strcmp(old->reason, slot->look.reason) == 0)
        return;
    struct change change;
    struct error err;
    uint64_t revision;
    change_clear(&change);
    change_compare(&change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    fill_state(&change_put(&change, RECORD_STATE, entry->uuid)->state, slot, text, driver->host);
    if (exchange_commit(&driver->exchange, &change, &revision, &err) == CHANGE_COMMITTED)
        record_view_apply(&driver->view, &change, revision);
}

// A release says in the same transaction how it ended.
static void add_end(struct change *change, const struct agent_slot *slot)
{
    const struct change_put *first = &change->puts[0];
    if (change->put_count == CHANGE_PUTS || first->key.kind != RECORD_OWNER || first->remove ||
        first->value.owner.stage != OWNER_NONE)
        return;
    const char *text =
        slot->look.view.end == END_FAILED && !slot->asked_to_end ? "failed" : "stopped";
    fill_state(&change_put(change, RECORD_STATE, first->key.name)->state, slot, text, "");
}

// ---- doing ----

static void shut_down(struct agent_driver *driver, struct agent_slot *slot)
{
    struct error err = {0};
    uint64_t now = clock_boottime_ns();
    if (!slot->asked_to_end) {
        slot->asked_to_end = now;
        if (local_press_power(&driver->local, slot->uuid, &err))
            log_debug("machine %s: power button: %s", slot->uuid, err.message);
        return;
    }
    if (now - slot->asked_to_end > driver->stop_timeout_ns &&
        local_kill(&driver->local, slot->uuid, &err))
        log_warning("machine %s: it can't be killed: %s", slot->uuid, err.message);
}

static void spawn(struct agent_driver *driver, struct agent_slot *slot,
                  const struct machine_entry *entry, const struct agent_self *self)
{
    struct error err = {0};
    const struct machine_record *machine = &entry->machine.value.machine;
    struct local_start start = {
        .uuid = slot->uuid,
        .name = machine->name,
        .description = machine->description ? machine->description : "{}",
        .epoch = slot->machine.to_start,
        .deadline_ns = self->deadline,
        .unbounded = entry->owner.value.owner.unbounded,
        .new_disks = !entry->owner.value.owner.ran,
    };
    log_info("machine %s (%s): starting, epoch %lu", machine->name, slot->uuid, start.epoch);
    if (local_spawn(&driver->local, &start, &err))
        log_warning("machine %s: %s", slot->uuid, err.message);
    atomic_fetch_add(&driver->counters.starts, 1);
    slot->asked_to_end = 0;
    agent_machine_started(&slot->machine, clock_boottime_ns());
}

static void reinstate(struct agent_driver *driver, struct agent_slot *slot,
                      const struct agent_self *self)
{
    struct error err = {0};
    log_info("machine %s: goes on, epoch %lu", slot->uuid, slot->machine.to_start);
    // One without a deadline stays without: deadlines only grow.
    int r =
        local_reinstate(&driver->local, slot->uuid, slot->machine.to_start, self->deadline, &err);
    if (r)
        log_warning("machine %s: it can't go on: %s", slot->uuid, err.message);
    agent_machine_started(&slot->machine, clock_boottime_ns());
}

// Somebody must be there to answer when the machine asks.
static void listen(struct agent_driver *driver, struct agent_slot *slot)
{
    struct arbiter_listener *listener = &slot->listener;
    struct error err;
    if (listener->running ||
        runtime_dir_path(&driver->local.dir, slot->uuid, "control.sock", listener->path))
        return;
    snprintf(listener->uuid, sizeof(listener->uuid), "%s", slot->uuid);
    listener->exchange = driver->exchange;
    listener->exchange.client = NULL;
    listener->moves_done = &driver->counters.moves_done;
    listener->moves_aborted = &driver->counters.moves_aborted;
    if (arbiter_listener_start(listener, &err))
        log_warning("machine %s: %s", slot->uuid, err.message);
}

// What a host has said of its certificate; "": nothing (an older version, or there are none).
static const char *certificate_of(const struct agent_driver *driver, const char *name)
{
    const struct host_entry *host = record_view_host(&driver->view, name);
    return host && host->host.mod ? host->host.value.host.certificate : "";
}

static void receive(struct agent_driver *driver, struct agent_slot *slot,
                    const struct owner_record *owner, const struct agent_self *self)
{
    struct error err = {0};
    log_info("machine %s: waits for it to come from '%s', epoch %lu", slot->uuid, owner->host,
             owner->epoch + 1);
    const struct local_start start = {.uuid = slot->uuid,
                                      .epoch = owner->epoch + 1,
                                      .deadline_ns = self->deadline,
                                      .unbounded = owner->unbounded};
    failure_point("agent-receives");
    if (local_receive(&driver->local, &start, owner->migration.id,
                      certificate_of(driver, owner->host), &err))
        log_warning("machine %s: %s", slot->uuid, err.message);
    failure_point("agent-received");
}

static void move_out(struct agent_driver *driver, struct agent_slot *slot,
                     const struct owner_record *owner)
{
    struct error err = {0};
    log_info("machine %s: moves to '%s'", slot->uuid, owner->migration.target);
    failure_point("agent-moves-out");
    listen(driver, slot);
    // Told, whatever it answers: if it refuses it isn't moving, and the migration is called off.
    snprintf(slot->moving_id, sizeof(slot->moving_id), "%s", owner->migration.id);
    if (local_migrate(&driver->local, slot->uuid, owner->epoch, &owner->migration,
                      certificate_of(driver, owner->migration.target), &err))
        log_warning("machine %s: it doesn't move: %s", slot->uuid, err.message);
    failure_point("agent-moved-out");
}

static void cancel_move(struct agent_driver *driver, struct agent_slot *slot)
{
    struct error err = {0};
    if (local_cancel(&driver->local, slot->uuid, &err))
        log_debug("machine %s: its move goes on: %s", slot->uuid, err.message);
}

static void destroy(struct agent_driver *driver, struct agent_slot *slot)
{
    struct error err = {0};
    log_info("machine %s: its process (epoch %lu) is ended: the record says so", slot->uuid,
             slot->look.view.epoch);
    slot->asked_to_end = clock_boottime_ns();
    if (local_kill(&driver->local, slot->uuid, &err))
        log_warning("machine %s: it can't be killed: %s", slot->uuid, err.message);
}

static void act(struct agent_driver *driver, struct agent_slot *slot,
                const struct machine_entry *entry, const struct agent_self *self,
                enum agent_action action)
{
    switch (action) {
    case AGENT_SPAWN:
        spawn(driver, slot, entry, self);
        break;
    case AGENT_CONTINUE:
        reinstate(driver, slot, self);
        break;
    case AGENT_SHUT_DOWN:
        shut_down(driver, slot);
        break;
    case AGENT_SPAWN_INCOMING:
        receive(driver, slot, &entry->owner.value.owner, self);
        break;
    case AGENT_MOVE_OUT:
        move_out(driver, slot, &entry->owner.value.owner);
        break;
    case AGENT_CANCEL_MOVE:
        cancel_move(driver, slot);
        break;
    case AGENT_DESTROY:
        destroy(driver, slot);
        break;
    case AGENT_ORPHAN:
        if (!slot->orphan_told)
            log_warning("machine %s runs here and has no record in the store: it isn't renewed, "
                        "so that it stops by itself, and is left to you",
                        slot->uuid);
        slot->orphan_told = true;
        break;
    default:
        break;
    }
}

// Where a test may stop or kill this agent: around each start, and each change of a migration's
// stage.
static void pass_failure_point(const struct agent_driver *driver, const struct agent_slot *slot,
                               const struct change *change, bool committed)
{
    static const char *const names[][2] = {
        [MIGRATION_NONE] = {"agent-before-end", "agent-after-end"},
        [MIGRATION_INCOMING] = {"agent-before-incoming", "agent-after-incoming"},
        [MIGRATION_SWITCHING] = {"agent-before-switching", "agent-after-switching"},
        [MIGRATION_ABORTED] = {"agent-before-aborted", "agent-after-aborted"},
    };
    const struct change_put *put = &change->puts[0];
    if (slot->machine.committing_epoch)
        failure_point(committed ? "agent-after-start" : "agent-before-start");
    if (put->key.kind != RECORD_OWNER || put->remove)
        return;
    const struct machine_entry *entry = record_view_machine(&driver->view, put->key.name);
    enum migration_stage stage = put->value.owner.migration.stage;
    if (entry && entry->owner.value.owner.migration.stage != stage &&
        stage < sizeof(names) / sizeof(names[0]) && names[stage][committed])
        failure_point(names[stage][committed]);
}

// True: the step committed something, and the next one may follow at once.
static bool commit(struct agent_driver *driver, struct agent_slot *slot, struct change *change)
{
    struct error err;
    uint64_t revision = 0;
    // The end of the machine here is confirmed.
    bool removes = change->puts[0].remove || change->puts[0].key.kind == RECORD_TOMBSTONE;
    add_end(change, slot);
    pass_failure_point(driver, slot, change, false);
    enum change_outcome outcome = exchange_commit(&driver->exchange, change, &revision, &err);
    pass_failure_point(driver, slot, change, true);
    agent_machine_outcome(&slot->machine, outcome);
    if (CLUSTER_IS_MUTANT(START_UNKNOWN_SPAWNS) && outcome == CHANGE_UNKNOWN) {
        outcome = CHANGE_COMMITTED; // what it believes that the store has
        revision = driver->view.revision;
    }
    if (outcome != CHANGE_COMMITTED || record_view_apply(&driver->view, change, revision))
        return false;
    if (change->puts[0].key.kind == RECORD_OWNER && !removes &&
        change->puts[0].value.owner.migration.stage == MIGRATION_ABORTED)
        atomic_fetch_add(&driver->counters.moves_aborted, 1);
    if (removes)
        local_forget(&driver->local, slot->uuid);
    return true;
}

// What only shows while a machine moves.
static void look_at_move(struct agent_driver *driver, struct agent_slot *slot)
{
    struct local_view *view = &slot->look.view;
    char phase[24], reason[RECORD_TEXT_SIZE];
    if (view->process == LOCAL_INCOMING)
        listen(driver, slot);
    if (view->process != LOCAL_LIVE || !slot->moving_id[0]) {
        if (view->process == LOCAL_NONE || view->process == LOCAL_LIVE)
            arbiter_listener_stop(&slot->listener);
        return;
    }
    local_migration(&driver->local, slot->uuid, phase, reason);
    snprintf(view->migration_id, sizeof(view->migration_id), "%s", slot->moving_id);
    if (strcmp(phase, "in-doubt") == 0)
        view->process = LOCAL_STANDING;
    else if (strcmp(phase, "failed") != 0 && strcmp(phase, "none") != 0)
        view->moving = true;
    else if (reason[0])
        log_warning("machine %s: its move has failed: %s", slot->uuid, reason);
}

static void step_machine(struct agent_driver *driver, struct agent_slot *slot)
{
    struct agent_self self;
    char trouble[RECORD_TEXT_SIZE];
    struct change change;
    enum agent_action action = AGENT_COMMIT;
    const struct machine_entry *entry = NULL;
    local_look(&driver->local, slot->uuid, &slot->look);
    look_at_move(driver, slot);
    if (slot->look.view.process == LOCAL_LIVE && slot->look.view.ran)
        slot->look.reason[0] = 0;
    for (int i = 0; i < STEPS_IN_A_ROW && action == AGENT_COMMIT; i++) {
        // Each time: what came before may have taken long, and a start has the latest deadline.
        host_lease_self(driver->lease, &self, trouble);
        entry = record_view_machine(&driver->view, slot->uuid);
        action = agent_machine_step(&self, &driver->view, entry, &slot->look.view, &slot->machine,
                                    clock_boottime_ns(), &change);
        if (action == AGENT_COMMIT && !commit(driver, slot, &change))
            return;
    }
    act(driver, slot, entry, &self, action);
    // A move that is over is forgotten when the record says so too.
    if (entry && slot->moving_id[0] &&
        (strcmp(entry->owner.value.owner.migration.id, slot->moving_id) != 0 ||
         entry->owner.value.owner.migration.stage == MIGRATION_ABORTED))
        slot->moving_id[0] = 0;
    entry = record_view_machine(&driver->view, slot->uuid);
    if (entry && entry->owner.mod && !entry->tombstone.mod &&
        entry->owner.value.owner.stage != OWNER_NONE &&
        strcmp(entry->owner.value.owner.host, driver->host) == 0 &&
        entry->owner.value.owner.incarnation == self.incarnation && !self.over)
        tell_state(driver, entry, slot);
}

// ---- the look round ----

static int see_local(const char *uuid, bool alive, void *opaque)
{
    struct agent_slot *slot = slot_of(opaque, uuid);
    if (slot)
        slot->seen = slot->seen || alive;
    return 0;
}

static bool concerns_us(const struct agent_driver *driver, const struct machine_entry *entry)
{
    const struct owner_record *owner = &entry->owner.value.owner;
    if (!entry->owner.mod)
        return entry->tombstone.mod &&
               left_hosts_has(&entry->tombstone.value.tombstone.left, driver->host, UINT64_MAX);
    return strcmp(owner->host, driver->host) == 0 ||
           strcmp(owner->migration.target, driver->host) == 0;
}

static void forget_unseen(struct agent_driver *driver)
{
    for (struct agent_slot **at = &driver->slots; *at;) {
        struct agent_slot *slot = *at;
        if (slot->seen) {
            slot->seen = false;
            at = &slot->next;
            continue;
        }
        // What is left of one that was deleted elsewhere, after it had ended here.
        if (slot->known && !record_view_machine(&driver->view, slot->uuid) &&
            !atomic_load(&driver->stop))
            local_forget(&driver->local, slot->uuid);
        *at = slot->next;
        arbiter_listener_stop(&slot->listener);
        free(slot);
    }
}

static void publish_targets(struct agent_driver *driver, const struct agent_self *self)
{
    size_t count = 0, room = 0;
    struct lease_target *targets = NULL;
    for (struct agent_slot *slot = driver->slots; slot; slot = slot->next) {
        const struct machine_entry *entry = record_view_machine(&driver->view, slot->uuid);
        if (!agent_machine_is_renewed(self, entry, &slot->look.view) ||
            slot->look.view.process == LOCAL_NONE)
            continue;
        if (count == room) {
            room = room ? 2 * room : 16;
            struct lease_target *grown = realloc(targets, room * sizeof(*grown));
            if (!grown)
                break;
            targets = grown;
        }
        snprintf(targets[count].uuid, sizeof(targets[count].uuid), "%s", slot->uuid);
        targets[count++].epoch = slot->look.view.epoch;
    }
    host_lease_set_targets(driver->lease, targets, count);
    free(targets);
}

static bool same_about(const struct host_record *a, const struct host_record *b)
{
    return strcmp(a->address, b->address) == 0 && strcmp(a->version, b->version) == 0 &&
           a->cpus == b->cpus && a->memory == b->memory && a->client == b->client &&
           strcmp(a->certificate, b->certificate) == 0 &&
           strcmp(a->facts ? a->facts : "", b->facts ? b->facts : "") == 0;
}

// What this host has, for placement. Whether it is drained is for people to say.
static void tell_about_host(struct agent_driver *driver)
{
    const struct host_entry *entry = record_view_host(&driver->view, driver->host);
    struct change change;
    struct error err;
    uint64_t revision;
    if (entry && entry->host.mod && same_about(&entry->host.value.host, &driver->about))
        return;
    change_clear(&change);
    change_compare(&change, RECORD_HOST, driver->host, entry ? entry->host.mod : 0);
    struct host_record *host = &change_put(&change, RECORD_HOST, driver->host)->host;
    *host = driver->about;
    host->draining = entry && entry->host.value.host.draining;
    if (exchange_commit(&driver->exchange, &change, &revision, &err) == CHANGE_COMMITTED)
        record_view_apply(&driver->view, &change, revision);
}

static void learn(struct agent_driver *driver)
{
    struct error err;
    if (exchange_learn(&driver->exchange, &driver->view, &err))
        return;
    pthread_mutex_lock(&driver->lease->lock);
    memcpy(driver->lease->learned, driver->exchange.addresses, sizeof(driver->lease->learned));
    pthread_mutex_unlock(&driver->lease->lock);
}

static void look_round(struct agent_driver *driver)
{
    struct agent_self self;
    struct error err;
    char trouble[RECORD_TEXT_SIZE];
    local_reap(&driver->local);
    if (record_feed_refresh(&driver->feed, &driver->exchange, &driver->view, &err)) {
        if (strncmp(driver->trouble, err.message, sizeof(driver->trouble) - 1) != 0)
            log_warning("the agent can't read the store: %s", err.message);
        snprintf(driver->trouble, sizeof(driver->trouble), "%.*s", RECORD_TEXT_SIZE - 1,
                 err.message);
        return;
    }
    // Restored from a backup, it says nothing about what this host has.
    if (driver->view.settings.value.settings.generation != driver->settings.generation) {
        if (!driver->trouble[0])
            log_error("the store is of another generation: this host must join it anew "
                      "(docs/cluster.md)");
        snprintf(driver->trouble, sizeof(driver->trouble), "another generation");
        return;
    }
    driver->trouble[0] = 0;
    host_lease_self(driver->lease, &self, trouble);
    if (!self.incarnation)
        return;
    learn(driver);
    tell_about_host(driver);
    for (size_t i = 0; i < driver->view.machine_count; i++) {
        struct agent_slot *slot = concerns_us(driver, &driver->view.machines[i])
                                      ? slot_of(driver, driver->view.machines[i].uuid)
                                      : NULL;
        if (slot)
            slot->seen = slot->known = true;
    }
    local_list(&driver->local, see_local, driver, &err);
    for (struct agent_slot *slot = driver->slots; slot; slot = slot->next)
        if (slot->seen && !atomic_load(&driver->stop))
            step_machine(driver, slot);
    host_lease_self(driver->lease, &self, trouble);
    publish_targets(driver, &self);
    forget_unseen(driver);
}

static void *agent_main(void *opaque)
{
    struct agent_driver *driver = opaque;
    while (!atomic_load(&driver->stop)) {
        look_round(driver);
        nanosleep(&(struct timespec){.tv_nsec = (long)LOOK_EVERY}, NULL);
    }
    return NULL;
}

int agent_driver_start(struct agent_driver *driver, struct error *err)
{
    record_view_init(&driver->view);
    atomic_store(&driver->stop, false);
    int r = pthread_create(&driver->thread, NULL, agent_main, driver);
    if (r)
        return error_set_errno(err, r, "starting the agent's thread");
    driver->running = true;
    return 0;
}

void agent_driver_stop(struct agent_driver *driver)
{
    if (!driver->running)
        return;
    atomic_store(&driver->stop, true);
    pthread_join(driver->thread, NULL);
    driver->running = false;
    for (struct agent_slot *slot = driver->slots; slot; slot = slot->next)
        slot->seen = false;
    forget_unseen(driver);
    record_feed_close(&driver->feed);
    record_view_free(&driver->view);
    exchange_close(&driver->exchange);
}
