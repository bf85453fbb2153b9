// The judge is judged: histories known to be good and bad, and small random ones compared with
// trying all orders.
#include "linearize.h"

#include "random.h"
#include "tap.h"

#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define OPERATIONS    6

// Who, when, and what came back.
#define GET(who, from, to, value)                                                                  \
    {                                                                                              \
        .client = who, .kind = SIM_REGISTER_GET, .called = from, .returned = to, .result = value   \
    }
#define PUT(who, from, to, value, before)                                                          \
    {                                                                                              \
        .client = who, .kind = SIM_REGISTER_PUT, .called = from, .returned = to,                   \
        .argument = value, .result = before                                                        \
    }
#define COMPARE(who, from, to, old, value, before)                                                 \
    {                                                                                              \
        .client = who, .kind = SIM_REGISTER_COMPARE, .called = from, .returned = to,               \
        .expected = old, .argument = value, .result = before                                       \
    }

struct history {
    const char *name;
    enum sim_verdict verdict;
    struct sim_operation operations[OPERATIONS];
    size_t count;
};

static const struct history histories[] = {
    {"an empty history", SIM_LINEARIZABLE, {{0}}, 0},
    {"a read of the initial value", SIM_LINEARIZABLE, {GET(1, 1, 2, 0)}, 1},
    {"a read of a value never written", SIM_NOT_LINEARIZABLE, {GET(1, 1, 2, 7)}, 1},
    {"a read after a write sees it", SIM_LINEARIZABLE, {PUT(1, 1, 2, 5, 0), GET(2, 3, 4, 5)}, 2},
    {"a stale read after a write", SIM_NOT_LINEARIZABLE, {PUT(1, 1, 2, 5, 0), GET(2, 3, 4, 0)}, 2},
    {"a read beside a write may see the old value",
     SIM_LINEARIZABLE,
     {PUT(1, 1, 4, 5, 0), GET(2, 2, 3, 0)},
     2},
    {"a read beside a write may see the new value",
     SIM_LINEARIZABLE,
     {PUT(1, 1, 4, 5, 0), GET(2, 2, 3, 5)},
     2},
    {"reads beside one write must not go back",
     SIM_NOT_LINEARIZABLE,
     {PUT(1, 1, 10, 5, 0), GET(2, 2, 3, 5), GET(3, 4, 5, 0)},
     3},
    {"two readers that disagree on the order of two writes",
     SIM_NOT_LINEARIZABLE,
     {PUT(1, 1, 2, 1, 0), PUT(2, 3, 10, 2, 1), GET(3, 4, 5, 2), GET(4, 6, 7, 1)},
     4},
    {"a write that never returned was seen",
     SIM_LINEARIZABLE,
     {PUT(1, 1, SIM_NEVER, 5, 0), GET(2, 10, 11, 0), GET(2, 12, 13, 5)},
     3},
    {"a write that never returned was seen and then not",
     SIM_NOT_LINEARIZABLE,
     {PUT(1, 1, SIM_NEVER, 5, 0), GET(2, 10, 11, 5), GET(2, 12, 13, 0)},
     3},
    {"a lost update",
     SIM_NOT_LINEARIZABLE,
     {COMPARE(1, 1, 4, 0, 1, 0), COMPARE(2, 2, 5, 0, 2, 0)},
     2},
    {"one of two compare-and-sets wins",
     SIM_LINEARIZABLE,
     {COMPARE(1, 1, 4, 0, 1, 0), COMPARE(2, 2, 5, 0, 2, 1)},
     2},
    {"a retried write that took effect twice",
     SIM_NOT_LINEARIZABLE,
     {PUT(1, 1, 2, 1, 0), PUT(2, 3, 4, 2, 1), GET(1, 5, 6, 1)},
     3},
};

static void test_histories(struct tap *tap, struct sim_linearizer *linearizer)
{
    for (size_t i = 0; i < LENGTH(histories); i++) {
        struct sim_operation operations[OPERATIONS];
        uint32_t key;

        memcpy(operations, histories[i].operations, sizeof(operations));
        tap_ok(tap,
               sim_linearize(linearizer, operations, histories[i].count, 100000, &key) ==
                   histories[i].verdict,
               "%s is %slinearizable", histories[i].name,
               histories[i].verdict == SIM_LINEARIZABLE ? "" : "not ");
    }
}

// Tries every order, by the definition: `taken` are the operations placed so far.
static bool orders_fit(const struct sim_operation *operations, size_t count, uint32_t taken,
                       uint64_t value)
{
    bool missing = false;

    for (size_t i = 0; i < count; i++) {
        bool early = true;
        uint64_t after = value, result;

        if (taken >> i & 1)
            continue;
        missing |= operations[i].returned != SIM_NEVER;
        for (size_t j = 0; j < count && early; j++)
            early = (taken >> j & 1) || operations[j].returned >= operations[i].called;
        if (!early)
            continue;
        result = sim_register_apply(&after, operations[i].kind, operations[i].argument,
                                    operations[i].expected);
        if ((operations[i].returned == SIM_NEVER || result == operations[i].result) &&
            orders_fit(operations, count, taken | 1u << i, after))
            return true;
    }
    return !missing;
}

static void random_history(struct sim_random *random, struct sim_operation *operations,
                           size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct sim_operation *operation = &operations[i];

        memset(operation, 0, sizeof(*operation));
        operation->client = (uint32_t)i;
        operation->kind = (enum sim_register_kind)sim_random_below(random, SIM_REGISTER_KINDS);
        if (operation->kind == SIM_REGISTER_APPEND)
            operation->kind = SIM_REGISTER_GET;
        operation->argument = sim_random_below(random, 3);
        operation->expected = sim_random_below(random, 3);
        operation->result = sim_random_below(random, 3);
        operation->called = sim_random_below(random, 12);
        operation->returned = operation->called + 1 + sim_random_below(random, 6);
        if (sim_random_chance(random, 100000))
            operation->returned = SIM_NEVER;
    }
}

static void test_all_orders(struct tap *tap, struct sim_linearizer *linearizer)
{
    struct sim_random random;
    unsigned good = 0, bad = 0, wrong = 0;

    sim_random_seed(&random, 1, 0);
    for (int i = 0; i < 200000; i++) {
        struct sim_operation operations[OPERATIONS];
        size_t count = sim_random_between(&random, 2, OPERATIONS);
        bool fits;
        uint32_t key;

        random_history(&random, operations, count);
        fits = orders_fit(operations, count, 0, 0);
        good += fits;
        bad += !fits;
        wrong += fits !=
                 (sim_linearize(linearizer, operations, count, 1000000, &key) == SIM_LINEARIZABLE);
    }
    tap_ok(tap, wrong == 0, "the verdict is that of trying all orders (%u good, %u bad, %u wrong)",
           good, bad, wrong);
    tap_ok(tap, good > 1000 && bad > 1000, "both verdicts were common");
}

// A long history by concurrent clients of a real register; then the same with one result changed.
static void test_long(struct tap *tap, struct sim_linearizer *linearizer)
{
    enum { LONG = 2000 };
    static struct sim_operation operations[LONG], changed[LONG];
    struct sim_random random;
    uint64_t values[SIM_KEYS] = {0};
    unsigned missed = 0;
    uint32_t key;

    sim_random_seed(&random, 2, 0);
    for (uint64_t i = 0; i < LONG; i++) {
        struct sim_operation *operation = &operations[i];

        operation->client = (uint32_t)(i % 8);
        operation->key = (uint32_t)sim_random_below(&random, SIM_KEYS);
        operation->kind = (enum sim_register_kind)sim_random_below(&random, SIM_REGISTER_KINDS);
        operation->argument = i + 1;
        operation->expected = sim_random_chance(&random, 500000) ? values[operation->key]
                                                                 : sim_random_below(&random, LONG);
        // Takes effect at 100 * i + 50; the call and the return are anywhere around it.
        operation->called = 100 * i + 50 - sim_random_below(&random, 50 + (i > 8 ? 500 : 0));
        operation->returned = 100 * i + 51 + sim_random_below(&random, 500);
        operation->result = sim_register_apply(&values[operation->key], operation->kind,
                                               operation->argument, operation->expected);
    }
    memcpy(changed, operations, sizeof(changed));
    tap_ok(tap, sim_linearize(linearizer, changed, LONG, 1000000, &key) == SIM_LINEARIZABLE,
           "a long history with much concurrency is linearizable");
    for (int i = 0; i < 100; i++) {
        memcpy(changed, operations, sizeof(changed));
        changed[sim_random_below(&random, LONG)].result ^= 1u << 20;
        missed += sim_linearize(linearizer, changed, LONG, 10000000, &key) != SIM_NOT_LINEARIZABLE;
    }
    tap_ok(tap, missed == 0, "one wrong result in it is always found (%u missed)", missed);
}

int main(void)
{
    struct tap tap = {0};
    struct sim_linearizer *linearizer = sim_linearizer_create();

    test_histories(&tap, linearizer);
    test_all_orders(&tap, linearizer);
    test_long(&tap, linearizer);
    sim_linearizer_destroy(linearizer);
    return tap_end(&tap);
}
