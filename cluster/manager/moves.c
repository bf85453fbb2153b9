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

int moves_count(struct moves *moves, const struct record_view *view)
{
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
    for (size_t i = 0; i < view->machine_count; i++) {
        const struct owner_record *owner = &view->machines[i].owner.value.owner;
        if (view->machines[i].owner.mod && moves_is_under_way(owner))
            moves_begin(moves, view, owner->host, owner->migration.target);
    }
    return 0;
}

void moves_free(struct moves *moves)
{
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
