#include "events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim_allocate(size_t size)
{
    return sim_reallocate(NULL, size);
}

void *sim_reallocate(void *memory, size_t size)
{
    void *fresh = realloc(memory, size ? size : 1);

    if (!fresh) {
        fprintf(stderr, "simulator: out of memory for %zu bytes\n", size);
        exit(1);
    }
    return fresh;
}

void sim_events_init(struct sim_events *events)
{
    memset(events, 0, sizeof(*events));
}

void sim_events_free(struct sim_events *events)
{
    free(events->heap);
    memset(events, 0, sizeof(*events));
}

void sim_events_reset(struct sim_events *events)
{
    events->count = 0;
    events->now = 0;
    events->added = 0;
    events->done = 0;
}

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

void sim_events_add(struct sim_events *events, sim_time delay, sim_event_run *run, void *owner,
                    uint64_t argument)
{
    struct sim_event event = {
        .when = events->now + delay,
        .order = events->added++,
        .run = run,
        .owner = owner,
        .argument = argument,
    };
    size_t at = events->count++;

    if (events->count > events->room) {
        events->room = events->room ? events->room * 2 : 256;
        events->heap = sim_reallocate(events->heap, events->room * sizeof(*events->heap));
    }
    while (at > 0) {
        size_t parent = (at - 1) / 4;

        if (!event_before(&event, &events->heap[parent]))
            break;
        events->heap[at] = events->heap[parent];
        at = parent;
    }
    events->heap[at] = event;
}

/* Puts `last` where the root was and lets it sink. */
static void events_sink(struct sim_events *events, struct sim_event last)
{
    struct sim_event *heap = events->heap;
    size_t at = 0;

    for (;;) {
        size_t first = at * 4 + 1, best = first;

        if (first >= events->count)
            break;
        for (size_t child = first + 1; child < first + 4 && child < events->count; child++)
            if (event_before(&heap[child], &heap[best]))
                best = child;
        if (!event_before(&heap[best], &last))
            break;
        heap[at] = heap[best];
        at = best;
    }
    heap[at] = last;
}

bool sim_events_step(struct sim_events *events)
{
    struct sim_event event;

    if (events->count == 0)
        return false;
    event = events->heap[0];
    events->count--;
    if (events->count > 0)
        events_sink(events, events->heap[events->count]);
    events->now = event.when;
    events->done++;
    event.run(event.owner, event.argument);
    return true;
}
