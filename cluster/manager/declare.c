#include "cluster/manager/declare.h"

#include <stdio.h>
#include <string.h>

#include "base/cluster_mutant.h"
#include "cluster/records/left.h"

static int check_machine(const struct record_view *view, const struct owner_record *owner,
                         const char *name, struct error *err)
{
    if (owner->stage == OWNER_NONE)
        return error_set(err, EBUSY, "'%s' is on no host: there is nothing to declare dead", name);
    if (!record_view_owner_is_over(view, owner) && !CLUSTER_IS_MUTANT(DECLARE_ON_LIVE_HOST))
        return error_set(err, EBUSY,
                         "host '%s' of '%s' is alive, or not yet silent for long enough to count "
                         "as dead (`ferry cluster hosts`)",
                         owner->host, name);
    if (!owner->unbounded)
        return error_set(err, EBUSY,
                         "'%s' has a deadline, and so it has stopped: it starts elsewhere by "
                         "itself where it can (`ferry vm explain %s`)",
                         name, name);
    return 0;
}

int declare_machine_dead(const struct record_view *view, const struct machine_entry *entry,
                         const struct declaration *seen, struct change *change, struct error *err)
{
    const struct owner_record *old = &entry->owner.value.owner;
    const char *name = entry->machine.value.machine.name;
    const struct host_entry *host = record_view_host(view, old->host);
    bool wanted = entry->machine.mod && entry->machine.value.machine.wish == WISH_RUNNING;
    int r = check_machine(view, old, name, err);
    if (r)
        return r;
    if ((strcmp(old->host, seen->host) != 0 || old->incarnation != seen->incarnation ||
         old->epoch != seen->epoch) &&
        !CLUSTER_IS_MUTANT(DECLARE_WITHOUT_COMPARE))
        return error_set(err, ESTALE,
                         "'%s' was started or taken up since you looked at it (now: host '%s', "
                         "epoch %lu): look again",
                         name, old->host, old->epoch);
    change_clear(change);
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    change_compare(change, RECORD_LIFE, old->host, host->life.mod);
    struct owner_record *new = &change_put(change, RECORD_OWNER, entry->uuid)->owner;
    new->epoch = old->epoch + 1;
    new->ran = old->ran;
    left_hosts_add_owner(view, &new->left, old);
    snprintf(new->home, sizeof(new->home), "%s", old->host);
    struct state_record *state = &change_put(change, RECORD_STATE, entry->uuid)->state;
    state->restarts = entry->state.value.state.restarts;
    snprintf(state->state, sizeof(state->state), "%s", wanted ? "pending" : "stopped");
    snprintf(state->reason, sizeof(state->reason),
             "declared dead by a person: epoch %lu on host '%s'", old->epoch, old->host);
    return 0;
}

int declare_host_dead(const struct record_view *view, const struct declaration *seen,
                      struct change *change, struct error *err)
{
    const struct host_entry *host = record_view_host(view, seen->host);
    if (!host || !host->life.mod)
        return error_set(err, ENOENT, "there is no host '%s' (`ferry cluster hosts`)", seen->host);
    const struct life_record *old = &host->life.value.life;
    if (!old->fenced && !CLUSTER_IS_MUTANT(DECLARE_ON_LIVE_HOST))
        return error_set(err, EBUSY,
                         "host '%s' is alive, or not yet silent for long enough to count as dead: "
                         "switch it off first",
                         seen->host);
    if (old->incarnation != seen->incarnation && !CLUSTER_IS_MUTANT(DECLARE_WITHOUT_COMPARE))
        return error_set(err, ESTALE, "host '%s' was back since you looked at it: look again",
                         seen->host);
    if (old->declared_dead)
        return 1;
    change_clear(change);
    change_compare(change, RECORD_LIFE, seen->host, host->life.mod);
    struct life_record *new = &change_put(change, RECORD_LIFE, seen->host)->life;
    *new = *old;
    new->fenced = new->declared_dead = true;
    return 0;
}
