// Clients of a store under test: registers that are read, written and compared-and-set while
// somebody breaks the cluster. Keeps what each client saw, and judges it at the end:
//
//   - the history is linearizable (so nothing acknowledged was lost, and nothing stale was read);
//   - watches told every change once, in order, as a second look at the past confirms;
//   - all members end up with the same state.
//
// An operation without an answer may have happened or not; a refused one has not.
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "cluster/store/client.h"
#include "tests/sim/linearize.h"

enum { CLIENTS_MAX = 64, OPERATIONS_MAX = 200000, EVENTS_MAX = 400000, STEPS_MAX = 50000000 };
enum { MEMBERS_MAX = 8, SAMPLES_MAX = 4096 };

static const char *addresses;
static uint64_t end_time;
static atomic_bool told_to_end; // by SIGTERM: what was seen so far is judged
static atomic_uint_fast64_t sequence, acknowledged, unknown, refused;
static struct sim_operation *operations;
static atomic_size_t operation_count;
static atomic_bool stopping;
static uint64_t pause_ns = 2000000;
// Registers of this run alone: they begin as nothing, which the checker takes for granted.
static char prefix[32], prefix_end[32];

struct worker {
    pthread_t thread;
    unsigned number;
    uint64_t random;
};

static uint64_t draw(struct worker *worker, uint64_t bound)
{
    worker->random ^= worker->random << 13;
    worker->random ^= worker->random >> 7;
    worker->random ^= worker->random << 17;
    return worker->random % bound;
}

static uint64_t value_of(const struct store_op_result *range)
{
    if (range->key_value_count == 0 || range->key_values[0].value.length != 8)
        return 0;
    return bytes_get_u64(range->key_values[0].value.data);
}

// Runs one operation; sets its result. The status.
static enum store_status run_operation(struct store_client *client, struct sim_operation *op)
{
    char name[64];
    uint8_t value[8], expected[8];
    snprintf(name, sizeof(name), "%s%" PRIu32, prefix, op->key);
    bytes_put_u64(value, op->argument);
    bytes_put_u64(expected, op->expected);
    struct store_op range = {.kind = STORE_RANGE, .key = store_string(name)};
    struct store_op both[2] = {range,
                               {.kind = STORE_PUT, .key = store_string(name), .value = {value, 8}}};
    struct store_compare compare = {
        .target = STORE_VALUE, .key = store_string(name), .value = {expected, 8}};
    if (op->expected == 0) // not there, which is what zero stands for
        compare.target = STORE_VERSION;
    struct store_txn txn = {.then = &range, .then_count = 1};
    if (op->kind != SIM_REGISTER_GET) {
        txn.then = both;
        txn.then_count = 2;
    }
    if (op->kind == SIM_REGISTER_COMPARE) {
        txn.compares = &compare;
        txn.compare_count = 1;
        txn.otherwise = &range;
        txn.otherwise_count = 1;
    }
    struct store_result result;
    struct error err;
    if (store_client_txn(client, &txn, false, &result, &err))
        return STORE_UNKNOWN;
    enum store_status status = result.status;
    if (status == STORE_OK)
        op->result = value_of(&result.ops[0]);
    store_result_free(&result);
    return status;
}

static void handle_end(int number)
{
    (void)number;
    atomic_store(&told_to_end, true);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct store_client *client;
    struct error err;
    uint64_t last[SIM_KEYS] = {0};
    uint64_t count = 0;
    if (store_client_create(&client, addresses, &err))
        return NULL;
    store_client_set_timeout(client, 2 * NSEC_PER_SEC);
    while (clock_monotonic_ns() < end_time && !atomic_load(&told_to_end)) {
        struct sim_operation op = {.client = worker->number,
                                   .key = (uint32_t)draw(worker, SIM_KEYS)};
        uint64_t kind = draw(worker, 10);
        op.kind = kind < 4 ? SIM_REGISTER_GET : kind < 7 ? SIM_REGISTER_PUT : SIM_REGISTER_COMPARE;
        if (op.kind != SIM_REGISTER_GET)
            op.argument = (uint64_t)(worker->number + 1) << 32 | ++count;
        if (op.kind == SIM_REGISTER_COMPARE)
            op.expected = last[op.key];
        op.called = atomic_fetch_add(&sequence, 1);
        enum store_status status = run_operation(client, &op);
        op.returned = atomic_fetch_add(&sequence, 1);
        if (status == STORE_OK) {
            atomic_fetch_add(&acknowledged, 1);
            bool wrote = op.kind == SIM_REGISTER_PUT ||
                         (op.kind == SIM_REGISTER_COMPARE && op.result == op.expected);
            last[op.key] = wrote ? op.argument : op.result;
        } else {
            atomic_fetch_add(status == STORE_UNKNOWN ? &unknown : &refused, 1);
            if (status != STORE_UNKNOWN || op.kind == SIM_REGISTER_GET)
                continue;
            op.returned = SIM_NEVER;
        }
        size_t place = atomic_fetch_add(&operation_count, 1);
        if (place >= OPERATIONS_MAX)
            break;
        operations[place] = op;
        usleep((unsigned)(pause_ns / 1000));
    }
    store_client_destroy(client);
    return NULL;
}

// --- Watches
// ----------------------------------------------------------------------------------------

struct event {
    uint64_t revision, value;
    uint32_t key;
};

struct watcher {
    pthread_t thread;
    struct event *events;
    size_t count;
    uint64_t from, through; // the last revision that was told
    uint64_t until;         // ends when this was reached; 0: when stopped
    bool wrong;
};

static bool watch_begin(struct store_client *client, uint64_t from)
{
    struct byte_writer body;
    struct byte_reader answer;
    struct error err;
    byte_writer_init(&body);
    byte_writer_string(&body, prefix);
    byte_writer_u8(&body, STORE_UNTIL);
    byte_writer_string(&body, prefix_end);
    byte_writer_u64(&body, from);
    enum store_status status =
        store_client_request(client, REQUEST_WATCH, body.data, body.length, &answer, &err);
    byte_writer_free(&body);
    return status == STORE_OK;
}

static bool take_events(struct watcher *watcher, struct byte_reader *r)
{
    enum store_status status = (enum store_status)byte_reader_u8(r);
    uint64_t through = byte_reader_u64(r);
    uint32_t count = byte_reader_u32(r);
    if (status != STORE_OK)
        return false;
    for (uint32_t i = 0; i < count && watcher->count < EVENTS_MAX; i++) {
        struct store_key_value kv;
        byte_reader_u8(r);
        if (!store_key_value_decode(r, &kv) || kv.mod_revision <= watcher->through)
            return false;
        watcher->through = kv.mod_revision; // a register is written alone in its revision
        watcher->events[watcher->count++] =
            (struct event){kv.mod_revision, bytes_get_u64(kv.value.data),
                           (uint32_t)(kv.key.data[kv.key.length - 1] - '0')};
    }
    watcher->through = through;
    return !r->failed;
}

static bool lost_touch(struct byte_reader r)
{
    return byte_reader_u8(&r) == STORE_NO_LEADER;
}

static void *watcher_main(void *argument)
{
    struct watcher *watcher = argument;
    struct store_client *client;
    struct error err;
    if (store_client_create(&client, addresses, &err))
        return NULL;
    store_client_set_timeout(client, NSEC_PER_SEC);
    watcher->through = watcher->from - 1;
    while (!atomic_load(&stopping) && !watcher->wrong) {
        struct byte_reader payload;
        uint16_t type;
        if (!watch_begin(client, watcher->through + 1))
            continue;
        for (;;) {
            int error = store_client_next(client, 200000000, &type, &payload, &err);
            if (error == -ETIMEDOUT && !atomic_load(&stopping))
                continue;
            if (error)
                break;
            if (type == PROTOCOL_EVENTS && lost_touch(payload))
                break; // that member was cut off: another one goes on
            if (type == PROTOCOL_EVENTS && !take_events(watcher, &payload)) {
                watcher->wrong = true;
                break;
            }
            if (watcher->until && watcher->through >= watcher->until)
                atomic_store(&stopping, true);
        }
        store_client_leave(client);
    }
    store_client_destroy(client);
    return NULL;
}

// --- Judging
// ----------------------------------------------------------------------------------------

static bool check_watch(struct watcher *live, uint64_t from)
{
    struct watcher again = {.from = from, .until = live->through};
    size_t same = 0;
    again.events = malloc(EVENTS_MAX * sizeof(struct event));
    if (!again.events || live->wrong)
        return false;
    atomic_store(&stopping, live->count == 0);
    watcher_main(&again);
    // The second one may have gone on to later events.
    while (same < live->count && same < again.count &&
           memcmp(&live->events[same], &again.events[same], sizeof(struct event)) == 0)
        same++;
    bool right = same == live->count && !again.wrong;
    if (!right)
        printf("# watch: event %zu of %zu differs from what a later watch tells\n", same,
               live->count);
    free(again.events);
    return right;
}

static bool member_hash(const char *address, uint64_t *applied, uint64_t *hash)
{
    struct store_client *client;
    struct byte_reader answer;
    struct error err;
    bool fine = false;
    if (store_client_create(&client, address, &err))
        return false;
    store_client_set_sticky(client, true);
    store_client_set_timeout(client, NSEC_PER_SEC);
    if (store_client_request(client, REQUEST_HASH, NULL, 0, &answer, &err) == STORE_OK) {
        byte_reader_u8(&answer);
        byte_reader_u64(&answer);
        *applied = byte_reader_u64(&answer);
        byte_reader_u64(&answer);
        *hash = byte_reader_u64(&answer);
        fine = !answer.failed;
    }
    store_client_destroy(client);
    return fine;
}

// What a member's state was after each entry of the log that it was seen at.
struct seen_states {
    size_t count;
    struct {
        uint64_t applied, hash;
    } samples[SAMPLES_MAX];
};

static void see_member(struct seen_states *seen, const char *address)
{
    size_t place = seen->count % SAMPLES_MAX;
    if (member_hash(address, &seen->samples[place].applied, &seen->samples[place].hash))
        seen->count++;
}

// How many entries both were seen after; -1 when they weren't in the same state after one.
static int common_entries(const struct seen_states *a, const struct seen_states *b)
{
    int common = 0;
    for (size_t i = 0; i < a->count && i < SAMPLES_MAX; i++)
        for (size_t j = 0; j < b->count && j < SAMPLES_MAX; j++) {
            if (a->samples[i].applied != b->samples[j].applied)
                continue;
            if (a->samples[i].hash != b->samples[j].hash)
                return -1;
            common++;
        }
    return common;
}

// Within two minutes each member was seen after an entry that the first one was seen after, in the
// same state. Others may go on writing meanwhile.
static bool check_members(void)
{
    static struct seen_states members[MEMBERS_MAX];
    uint64_t deadline = clock_monotonic_ns() + 120 * NSEC_PER_SEC;
    while (clock_monotonic_ns() < deadline) {
        char list[1024], *save = NULL;
        unsigned count = 0, same = 1;
        snprintf(list, sizeof(list), "%s", addresses);
        for (char *one = strtok_r(list, ",", &save); one && count < MEMBERS_MAX;
             one = strtok_r(NULL, ",", &save))
            see_member(&members[count++], one);
        for (unsigned i = 1; i < count; i++) {
            int common = common_entries(&members[0], &members[i]);
            if (common < 0)
                return false;
            same += common > 0;
        }
        if (members[0].count && same == count)
            return true;
        usleep(50000);
    }
    return false;
}

static bool check_history(void)
{
    struct sim_linearizer *linearizer = sim_linearizer_create();
    uint32_t bad_key = 0;
    enum sim_verdict verdict =
        sim_linearize(linearizer, operations, operation_count, STEPS_MAX, &bad_key);
    sim_linearizer_destroy(linearizer);
    if (verdict == SIM_NOT_LINEARIZABLE)
        printf("# register %" PRIu32 " was seen as no single register can be\n", bad_key);
    if (verdict == SIM_UNDECIDED)
        printf("# the search was given up: fewer clients or a shorter run would do\n");
    return verdict == SIM_LINEARIZABLE;
}

static uint64_t current_revision(void)
{
    struct store_client *client;
    struct store_result result = {0};
    struct error err;
    struct store_op op = {.kind = STORE_RANGE, .key = store_string("none")};
    struct store_txn txn = {.then = &op, .then_count = 1};
    if (store_client_create(&client, addresses, &err))
        return 0;
    // An election may be under way, or the member that was asked dies just then.
    uint64_t revision = 0, deadline = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
    store_client_set_timeout(client, 5 * NSEC_PER_SEC);
    while (!revision && clock_monotonic_ns() < deadline) {
        result = (struct store_result){0};
        if (store_client_txn(client, &txn, false, &result, &err) == 0 && result.status == STORE_OK)
            revision = result.revision;
        else
            usleep(50000);
        store_result_free(&result);
    }
    store_client_destroy(client);
    return revision;
}

static int report(const char *what, bool fine)
{
    printf("%s - %s\n", fine ? "ok" : "not ok", what);
    fflush(stdout);
    return fine ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct worker workers[CLIENTS_MAX];
    struct watcher live = {0};
    unsigned clients = argc > 3 ? (unsigned)atoi(argv[3]) : 6;
    uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    if (argc < 3 || clients > CLIENTS_MAX) {
        fprintf(stderr, "usage: history ADDRESSES SECONDS [CLIENTS [SEED [PAUSE-MS]]]\n");
        return 2;
    }
    if (argc > 5)
        pause_ns = strtoull(argv[5], NULL, 10) * NSEC_PER_MSEC;
    signal(SIGTERM, handle_end);
    addresses = argv[1];
    operations = malloc(OPERATIONS_MAX * sizeof(*operations));
    live.events = malloc(EVENTS_MAX * sizeof(struct event));
    uint64_t from = current_revision();
    if (!operations || !live.events || !from)
        return report("the cluster answers", false);
    live.from = from + 1;
    snprintf(prefix, sizeof(prefix), "reg/%" PRIu64 "/", from);
    snprintf(prefix_end, sizeof(prefix_end), "reg/%" PRIu64 "0", from); // '0' follows '/'
    end_time = clock_monotonic_ns() + strtoull(argv[2], NULL, 10) * NSEC_PER_SEC;
    pthread_create(&live.thread, NULL, watcher_main, &live);
    printf("# begins at revision %" PRIu64 "\n", from + 1);
    fflush(stdout);
    for (unsigned i = 0; i < clients; i++) {
        workers[i].number = i;
        workers[i].random = (seed + i + 1) * 0x9e3779b97f4a7c15u;
        pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
    }
    for (unsigned i = 0; i < clients; i++)
        pthread_join(workers[i].thread, NULL);
    bool same = check_members();
    atomic_store(&stopping, true);
    pthread_join(live.thread, NULL);
    printf("# %" PRIu64 " operations acknowledged, %" PRIu64 " unknown, %" PRIu64
           " refused; %zu events watched\n",
           (uint64_t)acknowledged, (uint64_t)unknown, (uint64_t)refused, live.count);
    int failures = report("something was done while the cluster was broken",
                          acknowledged > 50 || atomic_load(&told_to_end));
    failures += report("the history is linearizable", check_history());
    failures += report("all members end in the same state", same);
    failures += report("a watch told every change once and in order", check_watch(&live, from + 1));
    free(operations);
    free(live.events);
    return failures ? 1 : 0;
}
