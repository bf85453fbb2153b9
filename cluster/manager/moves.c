#include "cluster/manager/moves.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool moves_is_under_way(const struct owner_record *owner)
{
    enum migration_stage stage = owner->migration.stage;
    return stage == MIGRATION_RESERVED || stage == MIGRATION_INCOMING ||
           stage == MIGRATION_SWITCHING;
}

static unsigned *count_of(const struct moves *moves, const struct record_view *view,
                          const char *host)
{
    const struct host_entry *entry = record_view_host(view, host);
    return entry ? &moves->of_host[entry - view->hosts] : NULL;
}

void moves_begin(struct moves *moves, const struct record_view *view, const char *from,
                 const char *to)
{
    unsigned *source = count_of(moves, view, from), *target = count_of(moves, view, to);
    moves->all++;
    if (source)
        ++*source;
    if (target)
        ++*target;
}

bool moves_is_waiting(const struct record_view *view, const struct machine_entry *entry)
{
    const struct machine_record *machine = &entry->machine.value.machine;
    const struct owner_record *owner = &entry->owner.value.owner;
    return entry->machine.mod && entry->owner.mod && !entry->tombstone.mod && machine->move_to[0] &&
           machine->wish == WISH_RUNNING && owner->stage == OWNER_STARTED &&
           (owner->migration.stage == MIGRATION_NONE ||
            owner->migration.stage == MIGRATION_ABORTED) &&
           strcmp(machine->move_to, owner->host) != 0 && !record_view_owner_is_over(view, owner);
}

// The view has its machines by UUID, so that the place there decides between requests of one time.
static int compare_requests(const void *a, const void *b, void *opaque)
{
    const struct record_view *view = opaque;
    size_t one = *(const size_t *)a, other = *(const size_t *)b;
    uint64_t first = view->machines[one].machine.value.machine.move_asked,
             second = view->machines[other].machine.value.machine.move_asked;
    return first != second ? (first > second) - (first < second) : (one > other) - (one < other);
}

static int add_waiting(struct moves *moves, size_t at)
{
    if (moves->waiting_count == moves->waiting_room) {
        size_t room = moves->waiting_room ? 2 * moves->waiting_room : 16;
        size_t *grown = realloc(moves->waiting, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        moves->waiting = grown;
        moves->waiting_room = room;
    }
    moves->waiting[moves->waiting_count++] = at;
    return 0;
}

size_t moves_place(const struct moves *moves, const struct record_view *view,
                   const struct machine_entry *entry)
{
    if (!moves_is_waiting(view, entry))
        return 0;
    for (size_t i = 0; i < moves->waiting_count; i++)
        if (&view->machines[moves->waiting[i]] == entry)
            return i + 1;
    return 0;
}

int moves_count(struct moves *moves, const struct record_view *view)
{
    int r = 0;
    if (moves->room < view->host_count) {
        unsigned *grown = realloc(moves->of_host, view->host_count * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        moves->of_host = grown;
        moves->room = view->host_count;
    }
    moves->all = 0;
    if (view->host_count)
        memset(moves->of_host, 0, view->host_count * sizeof(*moves->of_host));
    moves->waiting_count = 0;
    for (size_t i = 0; i < view->machine_count && !r; i++) {
        const struct owner_record *owner = &view->machines[i].owner.value.owner;
        if (view->machines[i].owner.mod && moves_is_under_way(owner))
            moves_begin(moves, view, owner->host, owner->migration.target);
        if (moves_is_waiting(view, &view->machines[i]))
            r = add_waiting(moves, i);
    }
    if (moves->waiting_count)
        qsort_r(moves->waiting, moves->waiting_count, sizeof(*moves->waiting), compare_requests,
                (void *)(uintptr_t)view);
    return r;
}

void moves_free(struct moves *moves)
{
    free(moves->waiting);
    free(moves->of_host);
    *moves = (struct moves){0};
}

bool moves_may_begin(const struct moves *moves, const struct record_view *view, const char *from,
                     const char *to, char reason[RECORD_TEXT_SIZE])
{
    const char *hosts[] = {from, to};
    if (moves->all >= MOVES_OF_CLUSTER) {
        snprintf(reason, RECORD_TEXT_SIZE, "%u moves are under way, as many as may be at a time",
                 moves->all);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        const unsigned *count = hosts[i] ? count_of(moves, view, hosts[i]) : NULL;
        if (!count || *count < MOVES_OF_HOST)
            continue;
        snprintf(reason, RECORD_TEXT_SIZE,
                 "%u moves from or to host '%s' are under way, as many as may be at a time", *count,
                 hosts[i]);
        return false;
    }
    return true;
}
