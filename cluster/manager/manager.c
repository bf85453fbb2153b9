#include "cluster/manager/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cluster_mutant.h"
#include "cluster/records/left.h"

void manager_init(struct manager *manager,
                  bool (*place)(void *opaque, const struct record_view *view,
                                const struct machine_entry *machine, char host[NAME_LIMIT + 1],
                                char reason[RECORD_TEXT_SIZE]),
                  void *opaque)
{
    *manager = (struct manager){.place = place, .opaque = opaque};
}

void manager_free(struct manager *manager)
{
    free(manager->watches);
    moves_free(&manager->moves);
    *manager = (struct manager){0};
}

// ---- fences ----

static struct manager_watch *find_watch(struct manager *manager, const char *host)
{
    for (size_t i = 0; i < manager->count; i++)
        if (strcmp(manager->watches[i].host, host) == 0)
            return &manager->watches[i];
    if (manager->count == manager->room) {
        size_t room = manager->room ? 2 * manager->room : 16;
        struct manager_watch *grown = realloc(manager->watches, room * sizeof(*grown));
        if (!grown)
            return NULL;
        manager->watches = grown;
        manager->room = room;
    }
    struct manager_watch *watch = &manager->watches[manager->count++];
    *watch = (struct manager_watch){0};
    snprintf(watch->host, sizeof(watch->host), "%s", host);
    return watch;
}

int manager_observe(struct manager *manager, const struct record_view *view, uint64_t now)
{
    uint64_t renew = view->settings.value.settings.renew_ns;
    // Who didn't see a host can't say that it was silent: after an outage of the store all would be
    // fenced at once, although none could have renewed.
    bool blind = !manager->seen_at || now - manager->seen_at > renew;
    manager->seen_at = now;
    for (size_t i = 0; i < view->host_count; i++) {
        const struct host_entry *host = &view->hosts[i];
        struct manager_watch *watch = find_watch(manager, host->name);
        if (!watch) {
            manager->seen_at = 0; // so that the next view begins anew
            return -ENOMEM;
        }
        if (!blind && watch->observed_at && watch->life_mod == host->life.mod &&
            watch->renewal_mod == host->renewal.mod)
            continue;
        watch->life_mod = host->life.mod;
        watch->renewal_mod = host->renewal.mod;
        watch->observed_at = now;
    }
    return 0;
}

bool manager_lead(struct manager *manager, const struct record_view *view, const char *host,
                  const char *instance, uint64_t now, struct change *change)
{
    const struct manager_record *old = &view->manager.value.manager;
    uint64_t renew = view->settings.value.settings.renew_ns;
    bool own = view->manager.mod && strcmp(old->instance, instance) == 0;
    if (manager->manager_mod != view->manager.mod || !manager->manager_seen_at) {
        manager->manager_mod = view->manager.mod;
        manager->manager_seen_at = now;
    }
    uint64_t silent = now - manager->manager_seen_at;
    if (view->manager.mod && silent < (own ? renew : MANAGER_SILENCE * renew))
        return false;
    change_clear(change);
    change_compare(change, RECORD_MANAGER, "", view->manager.mod);
    struct manager_record *new = &change_put(change, RECORD_MANAGER, "")->manager;
    snprintf(new->host, sizeof(new->host), "%s", host);
    snprintf(new->instance, sizeof(new->instance), "%s", instance);
    new->count = own ? old->count + 1 : 1;
    return true;
}

static struct change *next_change(struct manager_changes *changes, const struct record_view *view)
{
    if (changes->count == MANAGER_CHANGES)
        return NULL;
    struct change *change = &changes->changes[changes->count++];
    change_clear(change);
    change_compare(change, RECORD_MANAGER, "", view->manager.mod);
    return change;
}

static void fence_silent_hosts(struct manager *manager, const struct record_view *view,
                               uint64_t now, struct manager_changes *changes)
{
    uint64_t lease = view->settings.value.settings.lease_ns;
    for (size_t i = 0; i < view->host_count; i++) {
        const struct host_entry *host = &view->hosts[i];
        const struct manager_watch *watch = find_watch(manager, host->name);
        if (!host->life.mod || host->life.value.life.fenced || !watch || !watch->observed_at ||
            watch->life_mod != host->life.mod || now - watch->observed_at < lease)
            continue;
        if (watch->renewal_mod != host->renewal.mod)
            continue;
        struct change *change = next_change(changes, view);
        if (!change)
            return;
        change_compare(change, RECORD_LIFE, host->name, host->life.mod);
        if (!CLUSTER_IS_MUTANT(FENCE_WITHOUT_COMPARE))
            change_compare(change, RECORD_RENEWAL, host->name, host->renewal.mod);
        struct life_record *life = &change_put(change, RECORD_LIFE, host->name)->life;
        *life = host->life.value.life;
        life->fenced = true;
    }
}

// ---- machines ----

// Begins a change of the owner record.
static struct owner_record *change_owner(struct record_view *view, struct machine_entry *entry,
                                         struct change *change)
{
    const struct owner_record *old = &entry->owner.value.owner;
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    struct owner_record *new = &change_put(change, RECORD_OWNER, entry->uuid)->owner;
    new->epoch = old->epoch + 1;
    new->ran = old->ran;
    left_hosts_add_owner(view, &new->left, old);
    snprintf(new->home, sizeof(new->home), "%s",
             old->stage == OWNER_STARTED ? old->host : old->home);
    new->kept_epoch = old->stage == OWNER_STARTED ? old->epoch : old->kept_epoch;
    return new;
}

// What follows in this step counts on it. A change is of one entry.
static void show_owner(struct manager_changes *changes, struct machine_entry *entry,
                       const struct owner_record *owner)
{
    changes->shown[changes->shown_count].entry = entry;
    changes->shown[changes->shown_count++].before = entry->owner.value.owner;
    entry->owner.value.owner = *owner;
}

static void show_all_as_before(struct manager_changes *changes)
{
    while (changes->shown_count) {
        changes->shown_count--;
        changes->shown[changes->shown_count].entry->owner.value.owner =
            changes->shown[changes->shown_count].before;
    }
}

// A deleted machine whose owner is over or none: its records go, so that its name is free. Of what
// its hosts may have yet the tombstone is kept until they have looked.
static void remove_machine(struct record_view *view, struct machine_entry *entry,
                           struct manager_changes *changes)
{
    struct left_hosts left = {0};
    struct change *change = next_change(changes, view);
    if (!change)
        return;
    left_hosts_add_owner(view, &left, &entry->owner.value.owner);
    left_hosts_drop_excused(view, &left);
    if (CLUSTER_IS_MUTANT(TOMBSTONE_DROPPED_EARLY))
        left.count = 0;
    change_bury(change, entry, &left);
}

// Hosts that were removed or declared dead never confirm anything. One a step, in a change that
// says so; what is waited for by nobody goes.
static void tend_tombstone(struct record_view *view, const struct machine_entry *entry,
                           struct manager_changes *changes)
{
    const struct tombstone_record *old = &entry->tombstone.value.tombstone;
    const char *excuse = NULL;
    unsigned at = 0;
    while (at < old->left.count && !(excuse = left_host_excuse(view, &old->left.hosts[at])))
        at++;
    struct change *change = excuse || !old->left.count ? next_change(changes, view) : NULL;
    if (!change)
        return;
    change_compare(change, RECORD_TOMBSTONE, entry->uuid, entry->tombstone.mod);
    if (!old->left.count) {
        change_remove(change, RECORD_TOMBSTONE, entry->uuid);
        return;
    }
    const struct left_host *gone = &old->left.hosts[at];
    const struct host_entry *host = record_view_host(view, gone->host);
    change_compare(change, RECORD_LIFE, gone->host, host ? host->life.mod : 0);
    struct tombstone_record *new = &change_put(change, RECORD_TOMBSTONE, entry->uuid)->tombstone;
    *new = *old;
    left_hosts_drop(&new->left, gone->host, gone->incarnation);
    snprintf(new->reason, sizeof(new->reason), "host '%s' %s", gone->host, excuse);
}

// Why a machine waits, for people; only when it is something new.
static void say_state(struct record_view *view, struct machine_entry *entry, const char *text,
                      const char *reason, struct manager_changes *changes)
{
    const struct state_record *old = &entry->state.value.state;
    if (entry->state.mod && strcmp(old->state, text) == 0 && strcmp(old->reason, reason) == 0)
        return;
    struct change *change = next_change(changes, view);
    if (!change)
        return;
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    struct state_record *state = &change_put(change, RECORD_STATE, entry->uuid)->state;
    state->restarts = old->restarts;
    snprintf(state->state, sizeof(state->state), "%s", text);
    snprintf(state->reason, sizeof(state->reason), "%s", reason);
}

static void place_machine(struct manager *manager, struct record_view *view,
                          struct machine_entry *entry, struct manager_changes *changes)
{
    char host[NAME_LIMIT + 1], reason[RECORD_TEXT_SIZE] = "";
    if (changes->count == MANAGER_CHANGES)
        return;
    if (!manager->place(manager->opaque, view, entry, host, reason)) {
        say_state(view, entry, "pending", reason, changes);
        return;
    }
    const struct host_entry *target = record_view_host(view, host);
    struct change *change = next_change(changes, view);
    struct owner_record *owner = change_owner(view, entry, change);
    // The host isn't fenced when this commits.
    change_compare(change, RECORD_LIFE, host, target->life.mod);
    owner->stage = OWNER_ASSIGNED;
    snprintf(owner->host, sizeof(owner->host), "%s", host);
    owner->incarnation = target->life.value.life.incarnation;
    show_owner(changes, entry, owner);
}

// Nobody wants it to run, and who ran it can't any more.
static void release_machine(struct record_view *view, struct machine_entry *entry,
                            struct manager_changes *changes)
{
    struct change *change = next_change(changes, view);
    if (!change)
        return;
    struct owner_record *owner = change_owner(view, entry, change);
    owner->kept_epoch = 0;
    show_owner(changes, entry, owner);
}

// Its host is fenced, which says nothing of a process without a deadline: a person has to know.
static void say_lost(struct record_view *view, struct machine_entry *entry,
                     struct manager_changes *changes)
{
    char reason[RECORD_TEXT_SIZE];
    snprintf(reason, sizeof(reason),
             "host '%s' doesn't answer, and without a deadline it may run there still: `ferry vm "
             "declare-dead` if it surely doesn't",
             entry->owner.value.owner.host);
    say_state(view, entry, "lost", reason, changes);
}

static bool can_receive(const struct record_view *view, const char *to)
{
    const struct host_entry *target = record_view_host(view, to);
    return target && target->life.mod && !target->life.value.life.fenced;
}

// Writes the wish that it move into the owner record; the agents do the rest. One try a request:
// the request is used up in the same change.
static void begin_move(struct manager *manager, struct record_view *view,
                       struct machine_entry *entry, const char *to, const char *id, uint32_t tries,
                       struct manager_changes *changes)
{
    const struct machine_record *machine = &entry->machine.value.machine;
    const struct host_entry *target = record_view_host(view, to);
    struct change *change = next_change(changes, view);
    if (!change)
        return;
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    change_compare(change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    change_compare(change, RECORD_LIFE, to, target->life.mod);
    struct owner_record *owner = &change_put(change, RECORD_OWNER, entry->uuid)->owner;
    *owner = entry->owner.value.owner;
    owner->migration = (struct migration_record){
        .stage = MIGRATION_RESERVED,
        .target_incarnation = target->life.value.life.incarnation,
    };
    snprintf(owner->migration.id, sizeof(owner->migration.id), "%s", id);
    snprintf(owner->migration.target, sizeof(owner->migration.target), "%s", to);
    owner->migration.tries = tries;
    struct machine_record *after = &change_put(change, RECORD_MACHINE, entry->uuid)->machine;
    *after = *machine;
    after->move_to[0] = 0;
    moves_begin(&manager->moves, view, owner->host, to);
    show_owner(changes, entry, owner);
}

// What a person has asked for, if it can begin; until then the wish stands.
static void move_as_wanted(struct manager *manager, struct record_view *view,
                           struct machine_entry *entry, const char *id,
                           struct manager_changes *changes)
{
    const char *to = entry->machine.value.machine.move_to;
    char reason[RECORD_TEXT_SIZE];
    if (can_receive(view, to) &&
        moves_may_begin(&manager->moves, view, entry->owner.value.owner.host, to, reason) &&
        (!manager->fits || manager->fits(manager->opaque, view, entry, to)))
        begin_move(manager, view, entry, to, id, 0, changes);
}

static void move_as_asked(struct manager *manager, struct record_view *view,
                          const char *(*new_id)(void *opaque), void *id_opaque,
                          struct manager_changes *changes)
{
    const struct moves *moves = &manager->moves;
    for (size_t i = 0; i < moves->waiting_count && changes->count < MANAGER_CHANGES; i++)
        move_as_wanted(manager, view, &view->machines[moves->waiting[i]], new_id(id_opaque),
                       changes);
}

// A machine on a host that is drained goes elsewhere, a few at a time.
static void drain_machine(struct manager *manager, struct record_view *view,
                          struct machine_entry *entry, uint64_t now,
                          const char *(*new_id)(void *opaque), void *id_opaque,
                          struct manager_changes *changes)
{
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct host_entry *host = record_view_host(view, owner->host);
    char to[NAME_LIMIT + 1], reason[RECORD_TEXT_SIZE];
    if (!host || !host->host.mod || !host->host.value.host.draining ||
        owner->stage != OWNER_STARTED || moves_is_under_way(owner) ||
        owner->migration.stage == MIGRATION_DONE || record_view_owner_is_over(view, owner) ||
        !moves_may_begin(&manager->moves, view, owner->host, NULL, reason))
        return;
    bool again = owner->migration.stage == MIGRATION_ABORTED;
    uint32_t tries = again ? owner->migration.tries : 0;
    if (tries >= MOVES_DRAIN_TRIES)
        return; // `ferry vm show` says so
    if (again && now - manager->drain_tried_at < MANAGER_RETRY_SECONDS * UINT64_C(1000000000))
        return;
    if (!manager->place(manager->opaque, view, entry, to, reason) || !can_receive(view, to) ||
        strcmp(to, owner->host) == 0 ||
        !moves_may_begin(&manager->moves, view, owner->host, to, reason))
        return; // `ferry vm explain` says why
    if (again)
        manager->drain_tried_at = now;
    begin_move(manager, view, entry, to, new_id(id_opaque), tries + 1, changes);
}

static void drain_hosts(struct manager *manager, struct record_view *view, uint64_t now,
                        const char *(*new_id)(void *opaque), void *id_opaque,
                        struct manager_changes *changes)
{
    for (size_t i = 0; i < view->machine_count && changes->count < MANAGER_CHANGES; i++) {
        struct machine_entry *entry = &view->machines[i];
        if (entry->owner.mod && entry->machine.mod && !entry->tombstone.mod &&
            entry->machine.value.machine.wish == WISH_RUNNING &&
            !(moves_is_waiting(view, entry) &&
              can_receive(view, entry->machine.value.machine.move_to)))
            drain_machine(manager, view, entry, now, new_id, id_opaque, changes);
    }
}

// ---- after a restore ----

static bool is_accounted_for(const struct host_entry *host)
{
    const struct life_record *life = &host->life.value.life;
    return host->life.mod && (!life->unreported || life->declared_dead);
}

static bool all_are_accounted_for(const struct record_view *view)
{
    for (size_t i = 0; i < view->host_count; i++)
        if (view->hosts[i].life.mod && !is_accounted_for(&view->hosts[i]))
            return false;
    return true;
}

// None can become unreported again, so that the settings' own revision is all to be compared.
static void end_hold(const struct record_view *view, struct manager_changes *changes)
{
    struct change *change = next_change(changes, view);
    if (!change)
        return;
    change_compare(change, RECORD_SETTINGS, "", view->settings.mod);
    struct settings_record *settings = &change_put(change, RECORD_SETTINGS, "")->settings;
    *settings = view->settings.value.settings;
    settings->held = false;
}

// Leases that the old cluster gave just before it ended are over when this manager has waited for
// as long as one lasts.
static bool old_leases_are_over(struct manager *manager, const struct record_view *view,
                                uint64_t now)
{
    if (!manager->held_at)
        manager->held_at = now;
    return now - manager->held_at >= view->settings.value.settings.lease_ns;
}

// What can only ever have run on one host that has reported needn't wait for the others.
static void place_pinned(struct manager *manager, struct record_view *view,
                         struct manager_changes *changes)
{
    for (size_t i = 0; i < view->machine_count && changes->count < MANAGER_CHANGES; i++) {
        struct machine_entry *entry = &view->machines[i];
        const struct machine_record *machine = &entry->machine.value.machine;
        const struct host_entry *host =
            entry->machine.mod && machine->host[0] ? record_view_host(view, machine->host) : NULL;
        if (entry->owner.mod && entry->owner.value.owner.stage == OWNER_NONE &&
            !entry->tombstone.mod && machine->wish == WISH_RUNNING && host &&
            is_accounted_for(host))
            place_machine(manager, view, entry, changes);
    }
}

static void step_held(struct manager *manager, struct record_view *view, uint64_t now,
                      struct manager_changes *changes)
{
    if (!old_leases_are_over(manager, view, now))
        return;
    if (all_are_accounted_for(view))
        end_hold(view, changes);
    else
        place_pinned(manager, view, changes);
    show_all_as_before(changes);
}

void manager_step(struct manager *manager, struct record_view *view, uint64_t now,
                  const char *(*new_id)(void *opaque), void *id_opaque,
                  struct manager_changes *changes)
{
    changes->count = changes->shown_count = 0;
    if (!view->settings.mod || !view->manager.mod)
        return;
    fence_silent_hosts(manager, view, now, changes);
    if (moves_count(&manager->moves, view))
        return; // no memory: the next step
    if (view->settings.value.settings.held) {
        step_held(manager, view, now, changes);
        return;
    }
    for (size_t i = 0; i < view->machine_count && changes->count < MANAGER_CHANGES; i++) {
        struct machine_entry *entry = &view->machines[i];
        const struct owner_record *owner = &entry->owner.value.owner;
        bool wanted = entry->machine.mod && entry->machine.value.machine.wish == WISH_RUNNING;
        if (!entry->owner.mod) {
            if (entry->tombstone.mod)
                tend_tombstone(view, entry, changes);
            continue;
        }
        bool free = owner->stage == OWNER_NONE || record_view_owner_is_gone(view, owner);
        if (!free && record_view_owner_is_over(view, owner)) {
            say_lost(view, entry, changes);
            continue;
        }
        if (CLUSTER_IS_MUTANT(TAKE_FROM_LIVE_HOST) && !free) {
            const struct manager_watch *watch = find_watch(manager, owner->host);
            uint64_t lease = view->settings.value.settings.lease_ns;
            free = watch && now - watch->observed_at > lease / 2;
        }
        if (free && entry->tombstone.mod)
            remove_machine(view, entry, changes);
        else if (free && wanted)
            place_machine(manager, view, entry, changes);
        else if (free && owner->stage != OWNER_NONE)
            release_machine(view, entry, changes);
    }
    move_as_asked(manager, view, new_id, id_opaque, changes);
    drain_hosts(manager, view, now, new_id, id_opaque, changes);
    show_all_as_before(changes);
}
