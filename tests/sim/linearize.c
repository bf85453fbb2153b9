#include "linearize.h"

#include "events.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

// A call or a return in the list of what is still to be explained.
struct point {
    uint64_t when;
    uint32_t operation;
    bool is_return;
    struct point *previous, *next,
        *partner; // partner: the return of a call, NULL if it never returned
};

// A set of operations taken and the state that they led to. The set is a sum of random 128-bit
// marks: two different sets share a mark with a chance of 2^-128 a pair, which never happens.
struct configuration {
    uint64_t mark[2];
    uint64_t state;
};

struct taken {
    struct point *call;
    uint64_t state; // before it
};

struct sim_linearizer {
    struct point *points;
    struct taken *stack;
    uint64_t (*marks)[2];
    size_t room;
    struct configuration *seen; // open addressing; a mark of zeroes is a free slot
    size_t seen_count, seen_room;
};

struct sim_linearizer *sim_linearizer_create(void)
{
    struct sim_linearizer *l = sim_allocate(sizeof(*l));

    memset(l, 0, sizeof(*l));
    return l;
}

void sim_linearizer_destroy(struct sim_linearizer *l)
{
    free(l->points);
    free(l->stack);
    free(l->marks);
    free(l->seen);
    free(l);
}

static void linearizer_reserve(struct sim_linearizer *l, size_t count)
{
    struct sim_random random;

    if (count <= l->room)
        return;
    l->points = sim_reallocate(l->points, (2 * count + 1) * sizeof(*l->points));
    l->stack = sim_reallocate(l->stack, count * sizeof(*l->stack));
    l->marks = sim_reallocate(l->marks, count * sizeof(*l->marks));
    sim_random_seed(&random, 1, 0x77676c);
    for (size_t i = 0; i < count; i++) {
        l->marks[i][0] = sim_random_next(&random) | 1;
        l->marks[i][1] = sim_random_next(&random);
    }
    l->room = count;
}

static void seen_put(struct configuration *table, size_t room, const struct configuration *c)
{
    size_t slot = (c->mark[0] ^ c->state * 0x9e3779b97f4a7c15u) & (room - 1);

    while (table[slot].mark[0] | table[slot].mark[1])
        slot = (slot + 1) & (room - 1);
    table[slot] = *c;
}

// False if the configuration was there already.
static bool linearizer_remember(struct sim_linearizer *l, const struct configuration *c)
{
    size_t slot;

    if (l->seen_count * 2 >= l->seen_room) {
        size_t room = l->seen_room ? l->seen_room * 2 : 1024;
        struct configuration *table = sim_allocate(room * sizeof(*table));

        memset(table, 0, room * sizeof(*table));
        for (size_t i = 0; i < l->seen_room; i++)
            if (l->seen[i].mark[0] | l->seen[i].mark[1])
                seen_put(table, room, &l->seen[i]);
        free(l->seen);
        l->seen = table;
        l->seen_room = room;
    }
    slot = (c->mark[0] ^ c->state * 0x9e3779b97f4a7c15u) & (l->seen_room - 1);
    for (; l->seen[slot].mark[0] | l->seen[slot].mark[1]; slot = (slot + 1) & (l->seen_room - 1))
        if (memcmp(&l->seen[slot], c, sizeof(*c)) == 0)
            return false;
    l->seen[slot] = *c;
    l->seen_count++;
    return true;
}

// Empties the memory; a table that one hard search made huge is not cleared again and again.
static void linearizer_forget(struct sim_linearizer *l)
{
    if (l->seen_room > 1u << 16) {
        free(l->seen);
        l->seen = NULL;
        l->seen_room = 0;
    }
    if (l->seen_count > 0 && l->seen)
        memset(l->seen, 0, l->seen_room * sizeof(*l->seen));
    l->seen_count = 0;
}

static int point_compare(const void *left, const void *right)
{
    const struct point *a = left, *b = right;

    if (a->when != b->when)
        return a->when < b->when ? -1 : 1;
    // A call at the very moment of a return overlaps it: the weaker reading.
    return (int)a->is_return - (int)b->is_return;
}

// Builds the list; the head is points[2 * count]. Returns how many operations have a return.
static size_t linearizer_list(struct sim_linearizer *l, const struct sim_operation *operations,
                              size_t count, struct point *head)
{
    size_t points = 0, returned = 0;
    struct point *last = head;

    for (size_t i = 0; i < count; i++) {
        l->points[points++] =
            (struct point){.when = operations[i].called, .operation = (uint32_t)i};
        if (operations[i].returned == SIM_NEVER)
            continue;
        l->points[points++] = (struct point){
            .when = operations[i].returned, .operation = (uint32_t)i, .is_return = true};
        returned++;
    }
    qsort(l->points, points, sizeof(*l->points), point_compare);
    for (size_t i = 0; i < points; i++) {
        struct point *point = &l->points[i];

        point->previous = last;
        last->next = point;
        last = point;
        // The stack isn't in use yet: it remembers where the calls are.
        if (!point->is_return)
            l->stack[point->operation].call = point;
        else
            l->stack[point->operation].call->partner = point;
    }
    last->next = NULL;
    return returned;
}

static void point_unlink(struct point *point)
{
    point->previous->next = point->next;
    if (point->next)
        point->next->previous = point->previous;
}

static void point_relink(struct point *point)
{
    point->previous->next = point;
    if (point->next)
        point->next->previous = point;
}

// One key.
static enum sim_verdict linearize_register(struct sim_linearizer *l,
                                           const struct sim_operation *operations, size_t count,
                                           uint64_t *steps_left)
{
    struct configuration now = {0};
    struct point head = {0}, *at;
    size_t depth = 0, missing;

    linearizer_reserve(l, count);
    missing = linearizer_list(l, operations, count, &head);
    linearizer_forget(l);
    at = head.next;
    while (missing > 0) {
        const struct sim_operation *operation = &operations[at->operation];

        if ((*steps_left)-- == 0)
            return SIM_UNDECIDED;
        if (!at->is_return) {
            struct configuration after = now;
            uint64_t result = sim_register_apply(&after.state, operation->kind, operation->argument,
                                                 operation->expected);

            after.mark[0] += l->marks[at->operation][0];
            after.mark[1] += l->marks[at->operation][1];
            if ((!at->partner || result == operation->result) && linearizer_remember(l, &after)) {
                l->stack[depth++] = (struct taken){.call = at, .state = now.state};
                now = after;
                point_unlink(at);
                if (at->partner) {
                    point_unlink(at->partner);
                    missing--;
                }
                at = head.next;
                continue;
            }
            at = at->next; // there is one: a return is still to come
            continue;
        }
        // A return whose operation should have been taken before: the last choice was wrong.
        if (depth == 0)
            return SIM_NOT_LINEARIZABLE;
        at = l->stack[--depth].call;
        now.state = l->stack[depth].state;
        now.mark[0] -= l->marks[at->operation][0];
        now.mark[1] -= l->marks[at->operation][1];
        if (at->partner) {
            point_relink(at->partner);
            missing++;
        }
        point_relink(at);
        at = at->next;
    }
    return SIM_LINEARIZABLE;
}

static int operation_compare(const void *left, const void *right)
{
    const struct sim_operation *a = left, *b = right;

    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->called < b->called ? -1 : a->called > b->called;
}

enum sim_verdict sim_linearize(struct sim_linearizer *l, struct sim_operation *operations,
                               size_t count, uint64_t steps_max, uint32_t *bad_key)
{
    enum sim_verdict verdict = SIM_LINEARIZABLE;

    qsort(operations, count, sizeof(*operations), operation_compare);
    for (size_t first = 0, end; first < count; first = end) {
        uint64_t steps_left = steps_max;
        enum sim_verdict one;

        for (end = first; end < count && operations[end].key == operations[first].key; end++)
            ;
        one = linearize_register(l, operations + first, end - first, &steps_left);
        if (one == SIM_NOT_LINEARIZABLE) {
            *bad_key = operations[first].key;
            return one;
        }
        if (one == SIM_UNDECIDED)
            verdict = one;
    }
    return verdict;
}
