// The store's state machine, against a plain model of it and in the cases that have names.
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cluster/store/machine.h"
#include "tests/unit/run_suite.h"

enum { KEYS = 12, REVISIONS = 700 };

static struct store_machine *machine;
static struct byte_writer answer;

static void setup(void)
{
    ck_assert_int_eq(store_machine_create(&machine), 0);
    byte_writer_init(&answer);
}

static void teardown(void)
{
    store_machine_destroy(machine);
    byte_writer_free(&answer);
}

static int apply_raw(struct store_machine *m, struct byte_writer *command)
{
    byte_writer_reset(&answer);
    int error = store_machine_apply(m, m->applied + 1, command->data, command->length, &answer);
    byte_writer_free(command);
    return error;
}

static struct store_result apply_txn(const struct store_txn *txn)
{
    struct byte_writer bytes, command;
    struct store_result result;
    byte_writer_init(&bytes);
    byte_writer_init(&command);
    store_txn_encode(&bytes, txn);
    store_command_txn(&command, bytes.data, bytes.length);
    byte_writer_free(&bytes);
    ck_assert_int_eq(apply_raw(machine, &command), 0);
    ck_assert_int_eq(store_result_decode(&result, answer.data, answer.length), 0);
    return result;
}

static enum store_status one(const struct store_op *op, uint64_t *revision)
{
    struct store_txn txn = {.then = op, .then_count = 1};
    struct store_result result = apply_txn(&txn);
    enum store_status status = result.status;
    if (revision)
        *revision = result.revision;
    store_result_free(&result);
    return status;
}

static uint64_t put(const char *key, const char *value, uint64_t lease)
{
    uint64_t revision;
    struct store_op op = {
        .kind = STORE_PUT, .key = store_string(key), .value = store_string(value), .lease = lease};
    ck_assert_int_eq(one(&op, &revision), STORE_OK);
    return revision;
}

static uint64_t erase(const char *key)
{
    uint64_t revision;
    struct store_op op = {.kind = STORE_DELETE, .key = store_string(key)};
    ck_assert_int_eq(one(&op, &revision), STORE_OK);
    return revision;
}

static struct store_result range(const char *from, const char *to, uint64_t revision,
                                 uint64_t limit)
{
    struct store_op op = {.kind = STORE_RANGE,
                          .key = store_string(from),
                          .span = to ? STORE_UNTIL : STORE_REST,
                          .end = store_string(to ? to : ""),
                          .revision = revision,
                          .limit = limit};
    struct store_txn txn = {.then = &op, .then_count = 1};
    struct store_result result;
    byte_writer_reset(&answer);
    ck_assert_int_eq(store_machine_read(machine, &txn, &answer), 0);
    ck_assert_int_eq(store_result_decode(&result, answer.data, answer.length), 0);
    return result;
}

static enum store_status lease_command(enum store_command_kind kind, uint64_t id, uint64_t number)
{
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_lease(&command, kind, id, number);
    ck_assert_int_eq(apply_raw(machine, &command), 0);
    return (enum store_status)answer.data[0];
}

static enum store_status compact(uint64_t revision)
{
    struct byte_writer command;
    byte_writer_init(&command);
    store_command_compact(&command, revision);
    ck_assert_int_eq(apply_raw(machine, &command), 0);
    return (enum store_status)answer.data[0];
}

static struct store_machine *copy_by_snapshot(struct store_machine *from, size_t piece)
{
    struct store_snapshot *snapshot;
    struct store_restore *restore;
    struct store_machine *copy = NULL;
    struct byte_writer w;
    bool done = false;
    byte_writer_init(&w);
    ck_assert_int_eq(store_snapshot_begin(&snapshot, from), 0);
    while (!done)
        ck_assert_int_eq(store_snapshot_encode(snapshot, &w, piece, &done), 0);
    store_snapshot_end(snapshot);
    ck_assert_int_eq(store_restore_begin(&restore), 0);
    for (size_t at = 0; at < w.length; at += piece)
        ck_assert_int_eq(
            store_restore_feed(restore, w.data + at, w.length - at < piece ? w.length - at : piece),
            0);
    ck_assert_int_eq(store_restore_finish(restore, &copy), 0);
    byte_writer_free(&w);
    return copy;
}

// --- The model: the whole store at each revision
// ----------------------------------------------------

struct model_key {
    bool there;
    uint32_t value;
    uint64_t create, mod, version;
};

static struct model_key model[REVISIONS + 2][KEYS];

static void key_name(char out[16], int key)
{
    snprintf(out, 16, "k%02d", key);
}

static void check_range_against_model(uint64_t revision)
{
    struct store_result result = range("", NULL, revision, 0);
    ck_assert_int_eq(result.status, STORE_OK);
    size_t seen = 0;
    for (int key = 0; key < KEYS; key++) {
        const struct model_key *m = &model[revision][key];
        if (!m->there)
            continue;
        char name[16];
        ck_assert_uint_lt(seen, result.ops[0].key_value_count);
        const struct store_key_value *kv = &result.ops[0].key_values[seen++];
        key_name(name, key);
        ck_assert(store_bytes_equal(kv->key, store_string(name)));
        ck_assert_uint_eq(kv->value.length, 4);
        ck_assert_uint_eq(bytes_get_u32(kv->value.data), m->value);
        ck_assert_uint_eq(kv->create_revision, m->create);
        ck_assert_uint_eq(kv->mod_revision, m->mod);
        ck_assert_uint_eq(kv->version, m->version);
    }
    ck_assert_uint_eq(seen, result.ops[0].key_value_count);
    ck_assert_uint_eq(seen, result.ops[0].count);
    store_result_free(&result);
}

static void check_events_against_model(void)
{
    const struct mvcc *mvcc = &machine->mvcc;
    size_t number = mvcc_event_find(mvcc, mvcc->compacted + 1);
    for (uint64_t revision = mvcc->compacted + 1; revision <= mvcc->revision; revision++) {
        size_t changes = 0, events = 0;
        for (int key = 0; key < KEYS; key++)
            changes += model[revision][key].mod == revision;
        for (; number < mvcc->event_count && mvcc_event_at(mvcc, number)->revision == revision;
             number++)
            events++;
        ck_assert_uint_eq(events, changes);
    }
    ck_assert_uint_eq(number, mvcc->event_count);
}

static uint64_t state = 1;
static uint32_t random_below(uint32_t bound)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % bound;
}

static void random_txn(void)
{
    struct store_op ops[4];
    uint8_t values[4][4];
    char names[4][16];
    uint64_t revision = machine->mvcc.revision + 1;
    size_t count = 1 + random_below(4);
    bool changed = false;
    memcpy(model[revision], model[revision - 1], sizeof(model[revision]));
    for (size_t i = 0; i < count; i++) {
        int key = (int)(i * 3 + random_below(3)) % KEYS; // no key twice
        struct model_key *m = &model[revision][key];
        key_name(names[i], key);
        if (random_below(3)) {
            uint32_t value = random_below(1000000);
            bytes_put_u32(values[i], value);
            ops[i] = (struct store_op){
                .kind = STORE_PUT, .key = store_string(names[i]), .value = {values[i], 4}};
            *m = (struct model_key){true, value, m->there ? m->create : revision, revision,
                                    m->there ? m->version + 1 : 1};
            changed = true;
        } else {
            ops[i] = (struct store_op){.kind = STORE_DELETE, .key = store_string(names[i])};
            if (m->there) {
                *m = (struct model_key){.mod = revision};
                changed = true;
            }
        }
    }
    struct store_txn txn = {.then = ops, .then_count = count};
    struct store_result result = apply_txn(&txn);
    ck_assert_int_eq(result.status, STORE_OK);
    ck_assert_uint_eq(result.revision, changed ? revision : revision - 1);
    store_result_free(&result);
}

START_TEST(test_against_model)
{
    state = (uint64_t)_i + 1;
    memset(model, 0, sizeof(model));
    while (machine->mvcc.revision < REVISIONS) {
        random_txn();
        uint64_t now = machine->mvcc.revision, oldest = machine->mvcc.compacted;
        if (random_below(20) == 0)
            check_range_against_model(oldest + random_below((uint32_t)(now - oldest) + 1) ?: now);
        if (random_below(60) == 0 && now > oldest + 10)
            ck_assert_int_eq(compact(now - random_below(10)), STORE_OK);
        if (random_below(4) == 0)
            store_machine_idle(machine, 1 + random_below(30));
        if (random_below(50) == 0) {
            struct store_machine *copy = copy_by_snapshot(machine, 1 + random_below(500));
            ck_assert_uint_eq(store_machine_hash(copy), store_machine_hash(machine));
            if (random_below(2)) { // go on with the copy
                struct store_machine *swap = machine;
                machine = copy;
                copy = swap;
            }
            store_machine_destroy(copy);
        }
    }
    while (store_machine_idle(machine, 100))
        continue;
    check_events_against_model();
    check_range_against_model(machine->mvcc.revision);
}
END_TEST

// A snapshot shows the state as of its beginning, whatever is applied while it is taken.
START_TEST(test_snapshot_while_writing)
{
    struct store_snapshot *snapshot;
    struct store_restore *restore;
    struct store_machine *copy;
    struct byte_writer w;
    char name[16];
    bool done = false;
    byte_writer_init(&w);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "key%03d", i);
        put(name, "before", 0);
    }
    ck_assert_int_eq(lease_command(STORE_COMMAND_GRANT, 5, 60), STORE_OK);
    put("leased", "x", 5);
    ck_assert_int_eq(compact(100), STORE_OK);
    uint64_t hash = store_machine_hash(machine);
    ck_assert_int_eq(store_snapshot_begin(&snapshot, machine), 0);
    struct store_snapshot *second;
    ck_assert_int_eq(store_snapshot_begin(&second, machine), -EBUSY);
    for (int i = 0; !done; i++) {
        ck_assert_int_eq(store_snapshot_encode(snapshot, &w, 200, &done), 0);
        snprintf(name, sizeof(name), "key%03d", (i * 37) % 320);
        if (i % 3)
            put(name, "after", 0);
        else
            erase(name);
        if (i == 20)
            ck_assert_int_eq(compact(310), STORE_OK);
        ck_assert(!store_machine_idle(machine, 10));
    }
    ck_assert_int_eq(lease_command(STORE_COMMAND_REVOKE, 5, 0), STORE_OK);
    store_snapshot_end(snapshot);
    ck_assert_int_eq(store_restore_begin(&restore), 0);
    ck_assert_int_eq(store_restore_feed(restore, w.data, w.length), 0);
    ck_assert_int_eq(store_restore_finish(restore, &copy), 0);
    ck_assert_uint_eq(store_machine_hash(copy), hash);
    store_machine_destroy(copy);
    byte_writer_free(&w);
}
END_TEST

START_TEST(test_compare_and_branches)
{
    uint64_t revision = put("a", "one", 0);
    static const struct {
        struct store_compare compare;
        bool holds;
    } cases[] = {
        {{STORE_VERSION, STORE_EQUAL, {(const uint8_t *)"a", 1}, 1, {0}}, true},
        {{STORE_VERSION, STORE_GREATER, {(const uint8_t *)"a", 1}, 1, {0}}, false},
        {{STORE_VERSION, STORE_EQUAL, {(const uint8_t *)"b", 1}, 0, {0}}, true},
        {{STORE_CREATE, STORE_NOT_EQUAL, {(const uint8_t *)"a", 1}, 0, {0}}, true},
        {{STORE_MOD, STORE_LESS, {(const uint8_t *)"a", 1}, 100, {0}}, true},
        {{STORE_LEASE, STORE_EQUAL, {(const uint8_t *)"a", 1}, 0, {0}}, true},
        {{STORE_VALUE, STORE_EQUAL, {(const uint8_t *)"a", 1}, 0, {(const uint8_t *)"one", 3}},
         true},
        {{STORE_VALUE, STORE_LESS, {(const uint8_t *)"a", 1}, 0, {(const uint8_t *)"onf", 3}},
         true},
        {{STORE_VALUE, STORE_NOT_EQUAL, {(const uint8_t *)"b", 1}, 0, {(const uint8_t *)"x", 1}},
         false},
    };
    struct store_op then = {.kind = STORE_PUT, .key = store_string("then")};
    struct store_op otherwise = {.kind = STORE_PUT, .key = store_string("else")};
    struct store_txn txn = {.compares = &cases[_i].compare,
                            .compare_count = 1,
                            .then = &then,
                            .then_count = 1,
                            .otherwise = &otherwise,
                            .otherwise_count = 1};
    struct store_result result = apply_txn(&txn);
    ck_assert_int_eq(result.status, STORE_OK);
    ck_assert_int_eq(result.succeeded, cases[_i].holds);
    ck_assert_uint_eq(result.revision, revision + 1);
    store_result_free(&result);
    result = range(cases[_i].holds ? "then" : "else", NULL, 0, 1);
    ck_assert_uint_eq(result.ops[0].key_value_count, 1);
    store_result_free(&result);
}
END_TEST

START_TEST(test_checks)
{
    struct store_op ops[STORE_OPS_MAX + 1];
    for (int i = 0; i <= STORE_OPS_MAX; i++) {
        static char names[STORE_OPS_MAX + 1][16];
        snprintf(names[i], sizeof(names[i]), "n%d", i);
        ops[i] = (struct store_op){.kind = STORE_PUT, .key = store_string(names[i])};
    }
    struct store_txn txn = {.then = ops, .then_count = STORE_OPS_MAX};
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_OK);
    txn.then_count++;
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_TOO_LARGE);
    txn.then_count = 2;
    ops[1].key = ops[0].key;
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_DUPLICATE_KEY);
    ops[1] = (struct store_op){.kind = STORE_DELETE, .key = store_string("n"), .span = STORE_REST};
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_DUPLICATE_KEY);
    ops[1].span = STORE_UNTIL;
    ops[1].end = store_string("n0");
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_OK);
    ops[0].key.length = 0;
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_INVALID);
    ops[0].key = (struct store_bytes){(const uint8_t *)"\0member/", 8};
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_INVALID);
    ck_assert_int_eq(store_txn_check(&txn, true), STORE_OK);
    static uint8_t large[STORE_TXN_BYTES_MAX];
    ops[0] = (struct store_op){
        .kind = STORE_PUT, .key = store_string("k"), .value = {large, sizeof(large) - 4}};
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_OK);
    ops[0].value.length++;
    ck_assert_int_eq(store_txn_check(&txn, false), STORE_TOO_LARGE);
}
END_TEST

START_TEST(test_compaction)
{
    uint64_t first = put("a", "1", 0);
    put("a", "2", 0);
    uint64_t gone = erase("a");
    uint64_t last = put("b", "3", 0);
    ck_assert_int_eq(compact(last + 1), STORE_FUTURE);
    ck_assert_int_eq(compact(gone), STORE_OK);
    ck_assert_int_eq(compact(gone), STORE_COMPACTED);
    ck_assert_uint_eq(bytes_get_u64(answer.data + 9), gone);
    struct store_result result = range("", NULL, first, 0);
    ck_assert_int_eq(result.status, STORE_COMPACTED);
    ck_assert_uint_eq(result.oldest, gone);
    store_result_free(&result);
    result = range("", NULL, gone, 0);
    ck_assert_int_eq(result.status, STORE_OK);
    ck_assert_uint_eq(result.ops[0].count, 0);
    store_result_free(&result);
    ck_assert_uint_eq(machine->mvcc.keys, 2);
    while (store_machine_idle(machine, 1))
        continue;
    ck_assert_uint_eq(machine->mvcc.keys, 1);
    result = range("", NULL, last + 1, 0);
    ck_assert_int_eq(result.status, STORE_FUTURE);
    store_result_free(&result);
}
END_TEST

START_TEST(test_leases)
{
    struct store_op op = {.kind = STORE_PUT, .key = store_string("x"), .lease = 9};
    ck_assert_int_eq(one(&op, NULL), STORE_LEASE_NOT_FOUND);
    ck_assert_int_eq(lease_command(STORE_COMMAND_GRANT, 9, 0), STORE_INVALID);
    ck_assert_int_eq(lease_command(STORE_COMMAND_GRANT, 9, 10), STORE_OK);
    ck_assert_int_eq(lease_command(STORE_COMMAND_GRANT, 9, 10), STORE_LEASE_EXISTS);
    put("x", "1", 9);
    put("y", "1", 9);
    put("z", "1", 9);
    put("y", "2", 0); // no longer the lease's
    ck_assert_int_eq(lease_command(STORE_COMMAND_RENEW, 9, 0), STORE_OK);
    ck_assert_uint_eq(bytes_get_u64(answer.data + 17), 10);
    // Decided before that renewal: does nothing.
    uint64_t before = machine->mvcc.revision;
    ck_assert_int_eq(lease_command(STORE_COMMAND_EXPIRE, 9, 0), STORE_OK);
    ck_assert_uint_eq(machine->mvcc.revision, before);
    ck_assert_int_eq(lease_command(STORE_COMMAND_EXPIRE, 9, 1), STORE_OK);
    ck_assert_uint_eq(machine->mvcc.revision, before + 1);
    struct store_result result = range("", NULL, 0, 0);
    ck_assert_uint_eq(result.ops[0].count, 1);
    ck_assert(store_bytes_equal(result.ops[0].key_values[0].key, store_string("y")));
    store_result_free(&result);
    ck_assert_int_eq(lease_command(STORE_COMMAND_RENEW, 9, 0), STORE_LEASE_NOT_FOUND);
    ck_assert_uint_eq(machine->lease_count, 0);
}
END_TEST

START_TEST(test_unknown_commands_stop_the_member)
{
    static const struct {
        uint8_t bytes[11];
        size_t length;
        int error;
    } cases[] = {
        {{2, 0, 1}, 3, -EPROTONOSUPPORT},             // a later version
        {{1, 0, 99}, 3, -EPROTONOSUPPORT},            // a kind that there isn't
        {{1, 0, 7, 2, 0, 0, 0}, 7, -EPROTONOSUPPORT}, // the cluster moves on without this member
        {{1, 0, 1, 255}, 4, -EBADMSG},
        {{1, 0, 6, 1}, 4, -EBADMSG},
    };
    uint64_t applied = machine->applied;
    ck_assert_int_eq(
        store_machine_apply(machine, applied + 1, cases[_i].bytes, cases[_i].length, NULL),
        cases[_i].error);
    ck_assert_uint_eq(machine->applied, applied);
    ck_assert_int_eq(store_machine_apply(machine, applied + 2, NULL, 0, NULL), -EINVAL);
    ck_assert_int_eq(store_machine_apply(machine, applied + 1, NULL, 0, NULL), 0);
}
END_TEST

// Callers take results by number, so an answer to another question must be told apart.
START_TEST(test_results_fit_the_question)
{
    struct store_op then[] = {{.kind = STORE_RANGE, .key = store_string("a")},
                              {.kind = STORE_PUT, .key = store_string("b")}};
    struct store_compare compare = {.key = store_string("a"), .target = STORE_VERSION};
    struct store_txn txn = {.then = then, .then_count = 2};
    struct store_result result = apply_txn(&txn);
    ck_assert(store_result_fits(&result, &txn));
    txn.then_count = 1; // more than was asked for
    ck_assert(!store_result_fits(&result, &txn));
    txn =
        (struct store_txn){.then = then, .then_count = 2, .otherwise = then, .otherwise_count = 1};
    ck_assert(store_result_fits(&result, &txn));
    result.succeeded = false; // nothing was compared
    ck_assert(!store_result_fits(&result, &txn));
    txn.compares = &compare;
    txn.compare_count = 1; // the other list is shorter
    ck_assert(!store_result_fits(&result, &txn));
    result.succeeded = true;
    ck_assert(store_result_fits(&result, &txn));
    then[1].kind = STORE_DELETE;
    ck_assert(!store_result_fits(&result, &txn));
    result.status = STORE_BUSY; // has no results
    ck_assert(store_result_fits(&result, &txn));
    result.status = STORE_OK;
    store_result_free(&result);

    uint8_t unheard_of[9] = {STORE_STATUS_LAST + 1};
    ck_assert_int_eq(store_result_decode(&result, unheard_of, sizeof(unheard_of)), -EBADMSG);
    unheard_of[0] = STORE_STATUS_LAST;
    ck_assert_int_eq(store_result_decode(&result, unheard_of, sizeof(unheard_of)), 0);
}
END_TEST

START_TEST(test_limits_of_a_range)
{
    static char value[400001];
    memset(value, 'v', 400000);
    put("a", value, 0);
    put("b", value, 0);
    put("c", value, 0);
    struct store_result result = range("", NULL, 0, 2);
    ck_assert_uint_eq(result.ops[0].key_value_count, 2);
    ck_assert_uint_eq(result.ops[0].count, 3);
    ck_assert(result.ops[0].more);
    store_result_free(&result);
    result = range("", NULL, 0, 0); // cut by its bytes
    ck_assert_uint_eq(result.ops[0].key_value_count, 2);
    ck_assert(result.ops[0].more);
    store_result_free(&result);
    result = range("b", "c", 0, 0);
    ck_assert_uint_eq(result.ops[0].key_value_count, 1);
    ck_assert(!result.ops[0].more);
    store_result_free(&result);
}
END_TEST

START_TEST(test_prefix_end)
{
    uint8_t end[8];
    ck_assert_uint_eq(store_prefix_end(store_string("ab"), end), 2);
    ck_assert_int_eq(memcmp(end, "ac", 2), 0);
    ck_assert_uint_eq(store_prefix_end(store_string("a\xff"), end), 1);
    ck_assert_int_eq(end[0], 'b');
    ck_assert_uint_eq(store_prefix_end(store_string("\xff"), end), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store");
    TCase *tests = tcase_create("store");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, test_against_model, 0, 8);
    tcase_add_test(tests, test_snapshot_while_writing);
    tcase_add_loop_test(tests, test_compare_and_branches, 0, 9);
    tcase_add_test(tests, test_checks);
    tcase_add_test(tests, test_compaction);
    tcase_add_test(tests, test_leases);
    tcase_add_loop_test(tests, test_unknown_commands_stop_the_member, 0, 5);
    tcase_add_test(tests, test_limits_of_a_range);
    tcase_add_test(tests, test_results_fit_the_question);
    tcase_add_test(tests, test_prefix_end);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
