// witness_check FILE...: what witness files prove (base/witness.h), one line a start or move of a
// machine, and what is wrong: two that ran or wrote to the disks at the same time, or in another
// order than that of their epochs; a process that went on after another had run, with the memory
// of before. The exit status is 1 then.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/witness.h"

// What one process did under one epoch.
struct tenure {
    uint64_t epoch, process;
    uint32_t pid;
    uint64_t ran_from, ran_to; // proven: the last time that a vCPU was about to enter the guest
    uint64_t wrote_from, wrote_to;
    uint64_t runs, writes;
};

enum { TENURES_LIMIT = WITNESS_SLOTS };

static struct tenure *find(struct tenure *list, unsigned *count, const struct witness_slot *slot)
{
    for (unsigned i = 0; i < *count; i++)
        if (list[i].epoch == slot->epoch && list[i].process == slot->process)
            return &list[i];
    list[*count] = (struct tenure){.epoch = slot->epoch,
                                   .process = slot->process,
                                   .pid = slot->pid,
                                   .ran_from = UINT64_MAX,
                                   .wrote_from = UINT64_MAX};
    return &list[(*count)++];
}

static void grow(uint64_t *from, uint64_t *to, uint64_t first, uint64_t last)
{
    *from = first < *from ? first : *from;
    *to = last > *to ? last : *to;
}

static void add(struct tenure *t, const struct witness_slot *slot, uint32_t kind)
{
    uint64_t first = atomic_load(&slot->first_ns), begun = atomic_load(&slot->last_begun_ns);
    uint64_t ended = atomic_load(&slot->last_ended_ns);
    if (first == 0)
        return;
    if (kind == WITNESS_VCPU) {
        grow(&t->ran_from, &t->ran_to, first, begun);
        t->runs += atomic_load(&slot->count);
    } else { // a write is under way until its end, and the lock is held for as long
        grow(&t->wrote_from, &t->wrote_to, first, ended > begun ? ended : begun);
        t->writes += atomic_load(&slot->count);
    }
}

static unsigned read_tenures(const struct witness_file *file, struct tenure *list)
{
    unsigned count = 0;
    for (unsigned i = 0; i < WITNESS_SLOTS; i++) {
        const struct witness_slot *slot = &file->slots[i];
        uint32_t kind = atomic_load_explicit(&slot->kind, memory_order_acquire);
        if (kind != WITNESS_NONE)
            add(find(list, &count, slot), slot, kind);
    }
    return count;
}

static bool overlap(uint64_t from_a, uint64_t to_a, uint64_t from_b, uint64_t to_b)
{
    return from_a <= to_b && from_b <= to_a;
}

static int compare_epochs(const void *a, const void *b)
{
    const struct tenure *x = a, *y = b;
    return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

static unsigned check_pair(const struct tenure *a, const struct tenure *b)
{
    unsigned wrong = 0;
    bool both_ran = a->runs && b->runs, both_wrote = a->writes && b->writes;
    if (a->epoch == b->epoch && both_ran)
        wrong += printf("  WRONG: two processes ran under epoch %" PRIu64 "\n", a->epoch) > 0;
    if (both_ran && overlap(a->ran_from, a->ran_to, b->ran_from, b->ran_to))
        wrong += printf("  WRONG: epochs %" PRIu64 " and %" PRIu64 " ran at the same time\n",
                        a->epoch, b->epoch) > 0;
    else if (both_ran && a->epoch < b->epoch && b->ran_from < a->ran_to)
        wrong +=
            printf("  WRONG: epoch %" PRIu64 " ran before %" PRIu64 "\n", b->epoch, a->epoch) > 0;
    if (both_wrote && overlap(a->wrote_from, a->wrote_to, b->wrote_from, b->wrote_to))
        wrong += printf("  WRONG: epochs %" PRIu64 " and %" PRIu64 " wrote at the same time\n",
                        a->epoch, b->epoch) > 0;
    return wrong;
}

// One process may run under several epochs, when its memory was given back to it: nothing ran in
// between.
static unsigned check_memory(const struct tenure *list, unsigned count)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct tenure *other = NULL;
        for (unsigned j = i + 1; list[i].runs && j < count; j++) {
            if (!list[j].runs)
                continue;
            if (list[j].process != list[i].process) {
                other = &list[j];
                continue;
            }
            if (other)
                wrong += printf("  WRONG: epoch %" PRIu64 " goes on with the memory of epoch "
                                "%" PRIu64 ", after epoch %" PRIu64 " ran\n",
                                list[j].epoch, list[i].epoch, other->epoch) > 0;
            break;
        }
    }
    return wrong;
}

static int check_file(const char *path)
{
    const struct witness_file *file;
    struct error err = {0};
    if (witness_open_path(&file, path, &err) < 0) {
        fprintf(stderr, "witness_check: %s\n", err.message);
        return 2;
    }
    struct tenure *list = calloc(TENURES_LIMIT, sizeof(*list));
    if (!list)
        return 2;
    unsigned count = read_tenures(file, list), wrong = 0;
    char uuid[UUID_TEXT_SIZE];
    qsort(list, count, sizeof(*list), compare_epochs);
    printf("%s\n", uuid_format(&file->uuid, uuid));
    for (unsigned i = 0; i < count; i++) {
        const struct tenure *t = &list[i];
        printf("  epoch %" PRIu64 " process %u: ", t->epoch, t->pid);
        if (t->runs)
            printf("ran %" PRIu64 " to %" PRIu64 " (%" PRIu64 " runs)", t->ran_from, t->ran_to,
                   t->runs);
        else
            printf("never ran");
        if (t->writes)
            printf(", wrote %" PRIu64 " to %" PRIu64 " (%" PRIu64 " writes)", t->wrote_from,
                   t->wrote_to, t->writes);
        printf("\n");
    }
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = i + 1; j < count; j++)
            wrong += check_pair(&list[i], &list[j]);
    wrong += check_memory(list, count);
    if (atomic_load(&file->used) >= WITNESS_SLOTS)
        wrong += printf("  WRONG: the file is full, so that not all is in it\n") > 0;
    printf("  %u starts, %u wrong\n", count, wrong);
    free(list);
    witness_close(file);
    return wrong ? 1 : 0;
}

int main(int argc, char **argv)
{
    int status = argc < 2 ? 2 : 0;
    if (argc < 2)
        fprintf(stderr, "usage: witness_check FILE...\n");
    for (int i = 1; i < argc; i++) {
        int one = check_file(argv[i]);
        status = one > status ? one : status;
    }
    return status;
}
