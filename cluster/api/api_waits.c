#include "cluster/api/api_waits.h"

#include <stdio.h>
#include <string.h>

#include "cluster/manager/placer.h"

int waits_init(struct waits *waits, const struct record_view *view)
{
    *waits = (struct waits){.view = view};
    return moves_count(&waits->moves, view);
}

void waits_free(struct waits *waits)
{
    moves_free(&waits->moves);
    placement_destroy(waits->placement);
    waits->placement = NULL;
}

static bool have_placement(struct waits *waits)
{
    if (!waits->placement)
        waits->placement = placer_create(waits->view);
    return waits->placement != NULL;
}

void waits_name_machine(const struct record_view *view, char *text, size_t size)
{
    enum { UUID_LENGTH = UUID_TEXT_SIZE - 1 };
    char uuid[UUID_TEXT_SIZE], after[PLACEMENT_REASON_SIZE];
    size_t length = strlen(text);
    for (size_t at = 0; at + UUID_LENGTH <= length; at++) {
        memcpy(uuid, text + at, UUID_LENGTH);
        uuid[UUID_LENGTH] = 0;
        const struct machine_entry *entry = record_view_machine(view, uuid);
        if (!entry || !entry->machine.mod)
            continue;
        snprintf(after, sizeof(after), "%s", text + at + UUID_LENGTH);
        snprintf(text + at, size - at, "'%s'%s", entry->machine.value.machine.name, after);
        return;
    }
}

// A move that a person has asked for.
static void say_queued(struct waits *waits, const struct machine_entry *entry,
                       char text[RECORD_TEXT_SIZE])
{
    const char *to = entry->machine.value.machine.move_to;
    struct placement_verdict verdict;
    char reason[RECORD_TEXT_SIZE], turn[48] = "";
    size_t place = moves_place(&waits->moves, waits->view, entry);
    if (waits->moves.waiting_count > 1 && place)
        snprintf(turn, sizeof(turn), " (%u of %u that wait)", (unsigned)place,
                 (unsigned)waits->moves.waiting_count);
    if (!moves_may_begin(&waits->moves, waits->view, entry->owner.value.owner.host, to, reason))
        snprintf(text, RECORD_TEXT_SIZE, "to move to '%s'%s: %.90s", to, turn, reason);
    else if (have_placement(waits) &&
             placement_explain_host(waits->placement, entry->uuid, to, &verdict) == 0 &&
             verdict.reason != PLACEMENT_FITS) {
        waits_name_machine(waits->view, verdict.text, sizeof(verdict.text));
        snprintf(text, RECORD_TEXT_SIZE, "to move to '%s'%s, where it can't go now: %.70s", to,
                 turn, verdict.text);
    } else {
        snprintf(text, RECORD_TEXT_SIZE, "to move to '%s'%s", to, turn);
    }
}

// Its host is drained.
static bool say_draining(struct waits *waits, const struct machine_entry *entry,
                         char text[RECORD_TEXT_SIZE])
{
    const struct owner_record *owner = &entry->owner.value.owner;
    struct placement_decision decision;
    char reason[RECORD_TEXT_SIZE];
    bool again = owner->migration.stage == MIGRATION_ABORTED;
    if (again && owner->migration.tries >= MOVES_DRAIN_TRIES) {
        snprintf(text, RECORD_TEXT_SIZE,
                 "it doesn't leave '%s': %u moves were called off (the logs say why); `ferry vm "
                 "migrate` tries again",
                 owner->host, owner->migration.tries);
        return true;
    }
    if (!moves_may_begin(&waits->moves, waits->view, owner->host, NULL, reason)) {
        snprintf(text, RECORD_TEXT_SIZE, "to leave '%s': %.140s", owner->host, reason);
        return false;
    }
    if (have_placement(waits) && placement_decide(waits->placement, entry->uuid, &decision) == 0 &&
        !decision.host) {
        placement_summary(&decision, reason, sizeof(reason));
        snprintf(text, RECORD_TEXT_SIZE, "it can't leave '%s': %.140s", owner->host, reason);
        return true;
    }
    snprintf(text, RECORD_TEXT_SIZE, "to leave '%s'%s", owner->host,
             again ? ": its last move was called off, it is tried again" : "");
    return false;
}

bool waits_may(const struct record_view *view, const struct machine_entry *entry)
{
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct host_entry *host = record_view_host(view, owner->host);
    return entry->machine.mod && owner->stage == OWNER_STARTED &&
           (entry->machine.value.machine.move_to[0] || (host && host->host.value.host.draining));
}

bool waits_text(struct waits *waits, const struct machine_entry *entry, char text[RECORD_TEXT_SIZE])
{
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct host_entry *host = record_view_host(waits->view, owner->host);
    text[0] = 0;
    if (entry->tombstone.mod || !entry->machine.mod || owner->stage != OWNER_STARTED ||
        moves_is_under_way(owner) || owner->migration.stage == MIGRATION_DONE ||
        record_view_owner_is_over(waits->view, owner))
        return false;
    if (entry->machine.value.machine.move_to[0]) {
        say_queued(waits, entry, text);
        return false;
    }
    return host && host->host.value.host.draining &&
           entry->machine.value.machine.wish == WISH_RUNNING && say_draining(waits, entry, text);
}
