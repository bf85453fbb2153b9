#include "cluster/agent/renewal.h"

#include <stdio.h>
#include <string.h>

#include "base/cluster_mutant.h"

void renewal_init(struct renewal *renewal, const char *host, const struct life_record *life,
                  uint64_t life_mod, const struct settings_record *settings)
{
    *renewal = (struct renewal){
        .incarnation = life->incarnation,
        .life_mod = life_mod,
        .deadline_ns = settings->deadline_ns,
        .over = life->fenced,
    };
    snprintf(renewal->host, sizeof(renewal->host), "%s", host);
}

void renewal_attempt(struct renewal *renewal, uint64_t now, struct change *change)
{
    renewal->began = now;
    change_clear(change);
    // Not fenced, and still this incarnation: a fence or a registration would have changed it.
    if (!CLUSTER_IS_MUTANT(RENEWAL_WITHOUT_COMPARE))
        change_compare(change, RECORD_LIFE, renewal->host, renewal->life_mod);
    struct renewal_record *record = &change_put(change, RECORD_RENEWAL, renewal->host)->renewal;
    record->incarnation = renewal->incarnation;
    record->count = ++renewal->count;
}

void renewal_outcome(struct renewal *renewal, enum change_outcome outcome, uint64_t now)
{
    if (outcome == CHANGE_REFUSED)
        renewal->over = true;
    if (CLUSTER_IS_MUTANT(UNKNOWN_RENEWS) && outcome == CHANGE_UNKNOWN)
        outcome = CHANGE_COMMITTED;
    if (CLUSTER_IS_MUTANT(DEADLINE_FROM_REPLY))
        renewal->began = now;
    if (outcome == CHANGE_COMMITTED && renewal->began + renewal->deadline_ns > renewal->deadline)
        renewal->deadline = renewal->began + renewal->deadline_ns;
}

int renewal_register(const struct record *life, const char *host, const char *identity,
                     const char *boot_id, struct change *change, struct error *err)
{
    const struct life_record *old = &life->value.life;
    // Of a host from before a restore only the name counts: whoever joins by it, reports for it.
    if (life->mod && !old->unreported && strcmp(old->identity, identity) != 0)
        return error_set(err, EEXIST,
                         "the name '%s' belongs to another host (or this one has lost its data "
                         "directory): choose another name, or `ferry cluster remove %s` first",
                         host, host);
    if (life->mod && !old->unreported && !old->fenced && strcmp(old->boot_id, boot_id) == 0)
        return 0;
    change_clear(change);
    change_compare(change, RECORD_LIFE, host, life->mod);
    struct life_record *new = &change_put(change, RECORD_LIFE, host)->life;
    new->incarnation = (life->mod ? old->incarnation : 0) + 1;
    snprintf(new->identity, sizeof(new->identity), "%s", identity);
    snprintf(new->boot_id, sizeof(new->boot_id), "%s", boot_id);
    return 1;
}
