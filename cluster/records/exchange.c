#include "cluster/records/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const enum record_kind view_kinds[] = {RECORD_SETTINGS, RECORD_MANAGER, RECORD_HOST,
                                              RECORD_LIFE,     RECORD_RENEWAL, RECORD_MACHINE,
                                              RECORD_OWNER,    RECORD_STATE,   RECORD_TOMBSTONE};
enum { VIEW_KINDS = sizeof(view_kinds) / sizeof(view_kinds[0]), EXCHANGE_KEYS = 12 };

void exchange_close(struct exchange *exchange)
{
    store_client_destroy(exchange->client);
    exchange->client = NULL;
}

// This host's certificate is renewed now and then: a client keeps those that it was made with.
static void leave_old_certificate(struct exchange *exchange)
{
    struct stat st;
    if (!exchange->certificate || stat(exchange->certificate, &st) != 0)
        return;
    bool same = st.st_mtim.tv_sec == exchange->certificate_time.tv_sec &&
                st.st_mtim.tv_nsec == exchange->certificate_time.tv_nsec;
    if (exchange->client && !same) {
        store_client_destroy(exchange->client);
        exchange->client = NULL;
    }
    exchange->certificate_time = st.st_mtim;
}

static int open_client(struct exchange *exchange, struct error *err)
{
    leave_old_certificate(exchange);
    if (exchange->client)
        return 0;
    if (!exchange->addresses[0] && exchange->local)
        snprintf(exchange->addresses, sizeof(exchange->addresses), "%s", exchange->local);
    int r = store_client_create(&exchange->client, exchange->addresses, err);
    if (!r && exchange->ca)
        r = store_client_set_tls(exchange->client, exchange->certificate, exchange->key,
                                 exchange->ca, err);
    if (r) {
        exchange_close(exchange);
        return r;
    }
    store_client_set_timeout(exchange->client, exchange->timeout_ns);
    return 0;
}

int exchange_learn(struct exchange *exchange, const struct record_view *view, struct error *err)
{
    char list[sizeof(exchange->addresses)];
    int length = snprintf(list, sizeof(list), "%s", exchange->local ? exchange->local : "");
    unsigned count = exchange->local != NULL;
    for (size_t i = 0; i < view->host_count && count < 8; i++) {
        const struct record *host = &view->hosts[i].host;
        const char *address = host->value.host.address;
        if (!host->mod || host->value.host.client || !address[0] ||
            (size_t)length + strlen(address) + 2 > sizeof(list))
            continue;
        length += snprintf(list + length, sizeof(list) - (size_t)length, "%s%s", count ? "," : "",
                           address);
        count++;
    }
    if (!count || strcmp(list, exchange->addresses) == 0)
        return 0;
    exchange_close(exchange);
    strcpy(exchange->addresses, list);
    return open_client(exchange, err);
}

// ---- reading ----

int record_view_take(struct record_view *view, const struct store_key_value *kv, struct error *err)
{
    struct record record = {.mod = kv->mod_revision};
    if (record_key_parse(kv->key, &record.key))
        return 0; // of a later version
    int r = record_decode(record.key.kind, kv->value, &record.value, err);
    if (r)
        return error_prefix(err, "%s%s", record_kind_prefix(record.key.kind), record.key.name);
    r = record_view_add(view, &record);
    return r ? error_set(err, ENOMEM, "out of memory") : 0;
}

static int failed(const struct store_result *result, struct error *err)
{
    if (err && !err->code)
        error_set(err, EAGAIN, "store: %s", store_status_text(result->status));
    return -EAGAIN;
}

static struct store_op range_of(enum record_kind kind, uint8_t *end)
{
    const char *prefix = record_kind_prefix(kind);
    struct store_op op = {.kind = STORE_RANGE, .key = store_string(prefix)};
    if (prefix[strlen(prefix) - 1] != '/')
        return op;
    op.span = STORE_UNTIL;
    op.end = (struct store_bytes){end, store_prefix_end(op.key, end)};
    return op;
}

// What follows the last key that an answer had room for, at the same revision.
static int read_rest(struct exchange *exchange, struct record_view *view, struct store_op op,
                     struct store_bytes last, struct error *err)
{
    uint8_t next[STORE_KEY_MAX];
    bool more = true;
    op.revision = view->revision;
    while (more) {
        struct store_txn txn = {.then = &op, .then_count = 1};
        struct store_result result;
        memmove(next, last.data, last.length);
        next[last.length] = 0; // the least key behind it
        op.key = (struct store_bytes){next, last.length + 1};
        int r = store_client_txn(exchange->client, &txn, false, &result, err);
        if (!r && result.status != STORE_OK)
            r = failed(&result, err);
        if (r)
            return r;
        const struct store_op_result *one = &result.ops[0];
        for (size_t i = 0; i < one->key_value_count && !r; i++)
            r = record_view_take(view, &one->key_values[i], err);
        more = one->more && one->key_value_count;
        if (more) {
            last = one->key_values[one->key_value_count - 1].key;
            memmove(next, last.data, last.length);
            last.data = next;
        }
        store_result_free(&result);
        if (r)
            return r;
    }
    return 0;
}

// All of some ranges, as of one revision; what an answer has no room for is asked for again.
static int read_ranges(struct exchange *exchange, struct record_view *view,
                       const struct store_op *ops, int count, struct error *err)
{
    struct store_txn txn = {.then = ops, .then_count = (size_t)count};
    struct store_result result;
    int r = store_client_txn(exchange->client, &txn, false, &result, err);
    if (r)
        return r;
    if (result.status != STORE_OK)
        return failed(&result, err);
    *err = (struct error){0};
    view->revision = result.revision;
    uint8_t last[VIEW_KINDS][RECORD_KEY_SIZE];
    size_t last_length[VIEW_KINDS] = {0};
    for (int k = 0; k < count && !r; k++) {
        const struct store_op_result *one = &result.ops[k];
        for (size_t i = 0; i < one->key_value_count && !r; i++)
            r = record_view_take(view, &one->key_values[i], err);
        if (one->more && one->key_value_count) {
            struct store_bytes key = one->key_values[one->key_value_count - 1].key;
            last_length[k] = key.length < RECORD_KEY_SIZE ? key.length : 0;
            memcpy(last[k], key.data, last_length[k]);
        }
    }
    // The answer's bytes are the client's, and go with its next request.
    store_result_free(&result);
    for (int k = 0; k < count && !r; k++)
        if (last_length[k])
            r = read_rest(exchange, view, ops[k], (struct store_bytes){last[k], last_length[k]},
                          err);
    return r;
}

int exchange_read(struct exchange *exchange, struct record_view *view, struct error *err)
{
    struct store_op ops[VIEW_KINDS];
    uint8_t ends[VIEW_KINDS][RECORD_KEY_SIZE];
    *err = (struct error){0};
    record_view_clear(view);
    if (open_client(exchange, err))
        return -err->code;
    for (int i = 0; i < VIEW_KINDS; i++)
        ops[i] = range_of(view_kinds[i], ends[i]);
    return read_ranges(exchange, view, ops, VIEW_KINDS, err);
}

// ---- parts of it ----

static bool is_by_uuid(enum record_kind kind)
{
    return kind == RECORD_MACHINE || kind == RECORD_OWNER || kind == RECORD_STATE ||
           kind == RECORD_TOMBSTONE;
}

// The key that follows that of `name`, and may be there or not. Returns its length.
static size_t key_behind(enum record_kind kind, const char *name, uint8_t out[RECORD_KEY_SIZE + 1])
{
    struct record_key key = record_key_of(kind, name);
    record_key_format(&key, (char *)out);
    return strlen((char *)out) + 1;
}

// The last of up to `limit` machines behind `after`, and whether there are more.
static int find_page(struct exchange *exchange, const char *after, unsigned limit,
                     char last[UUID_TEXT_SIZE], bool *more, struct error *err)
{
    uint8_t from[RECORD_KEY_SIZE + 1], end[RECORD_KEY_SIZE];
    struct store_op op = range_of(RECORD_MACHINE, end);
    struct store_txn txn = {.then = &op, .then_count = 1};
    struct store_result result;
    struct record_key key;
    if (after[0])
        op.key = (struct store_bytes){from, key_behind(RECORD_MACHINE, after, from)};
    op.limit = limit;
    op.flags = STORE_KEYS_ONLY;
    int r = store_client_txn(exchange->client, &txn, false, &result, err);
    if (r)
        return r;
    if (result.status != STORE_OK)
        return failed(&result, err);
    *err = (struct error){0};
    const struct store_op_result *one = &result.ops[0];
    *more = one->more && one->key_value_count;
    last[0] = 0;
    if (*more && record_key_parse(one->key_values[one->key_value_count - 1].key, &key) == 0)
        snprintf(last, UUID_TEXT_SIZE, "%.36s", key.name);
    store_result_free(&result);
    return 0;
}

int exchange_read_page(struct exchange *exchange, const char *after, unsigned limit,
                       struct record_view *view, char last[UUID_TEXT_SIZE], bool *more,
                       struct error *err)
{
    struct store_op ops[VIEW_KINDS];
    uint8_t froms[VIEW_KINDS][RECORD_KEY_SIZE + 1], ends[VIEW_KINDS][RECORD_KEY_SIZE + 1];
    *err = (struct error){0};
    record_view_clear(view);
    if (open_client(exchange, err))
        return -err->code;
    int r = find_page(exchange, after, limit, last, more, err);
    for (int i = 0; i < VIEW_KINDS; i++) {
        ops[i] = range_of(view_kinds[i], ends[i]);
        if (!is_by_uuid(view_kinds[i]))
            continue;
        if (after[0])
            ops[i].key = (struct store_bytes){froms[i], key_behind(view_kinds[i], after, froms[i])};
        if (*more)
            ops[i].end = (struct store_bytes){ends[i], key_behind(view_kinds[i], last, ends[i])};
    }
    return r ? r : read_ranges(exchange, view, ops, VIEW_KINDS, err);
}

// Of a transaction of whole keys that is read only.
static int read_keys(struct exchange *exchange, const struct record_key *keys, size_t count,
                     struct record_view *view, struct error *err)
{
    char names[EXCHANGE_KEYS][RECORD_KEY_SIZE];
    struct store_op ops[EXCHANGE_KEYS];
    struct store_txn txn = {.then = ops, .then_count = count};
    struct store_result result;
    for (size_t i = 0; i < count; i++) {
        record_key_format(&keys[i], names[i]);
        ops[i] = (struct store_op){.kind = STORE_RANGE, .key = store_string(names[i])};
    }
    int r = store_client_txn(exchange->client, &txn, false, &result, err);
    if (r)
        return r;
    if (result.status != STORE_OK)
        return failed(&result, err);
    *err = (struct error){0};
    view->revision = result.revision;
    for (size_t i = 0; i < count && !r; i++)
        if (result.ops[i].key_value_count)
            r = record_view_take(view, &result.ops[i].key_values[0], err);
    store_result_free(&result);
    return r;
}

int exchange_read_owner(struct exchange *exchange, const char *uuid, struct record_view *view,
                        struct error *err)
{
    struct record first;
    int r = exchange_get(exchange, RECORD_OWNER, uuid, &first, err);
    record_view_clear(view);
    if (r)
        return r;
    const struct owner_record *owner = &first.value.owner;
    const char *hosts[] = {owner->host, owner->migration.target, owner->migration.source};
    struct record_key keys[EXCHANGE_KEYS] = {record_key_of(RECORD_OWNER, uuid)};
    size_t count = 1;
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        if (hosts[i][0])
            keys[count++] = record_key_of(RECORD_LIFE, hosts[i]);
    r = read_keys(exchange, keys, count, view, err);
    const struct machine_entry *entry = r ? NULL : record_view_machine(view, uuid);
    if (!r && (entry ? entry->owner.mod : 0) != first.mod)
        return error_set(err, EAGAIN, "the machine's record is being changed");
    return r;
}

static size_t add_hosts(struct record_key *keys, size_t count, const struct owner_record *owner)
{
    const char *hosts[] = {owner->host, owner->migration.target, owner->migration.source};
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        if (!hosts[i][0])
            continue;
        keys[count++] = record_key_of(RECORD_LIFE, hosts[i]);
        keys[count++] = record_key_of(RECORD_HOST, hosts[i]);
    }
    return count;
}

int exchange_read_machine(struct exchange *exchange, const char *name, struct record_view *view,
                          struct error *err)
{
    struct record index, owner = {0};
    record_view_clear(view);
    if (!name || strlen(name) >= RECORD_NAME_SIZE || strchr(name, '/'))
        name = "-"; // nobody's
    int r = exchange_get(exchange, RECORD_NAME, name, &index, err);
    const char *uuid = index.mod ? index.value.uuid.uuid : name;
    if (!r)
        r = exchange_get(exchange, RECORD_OWNER, uuid, &owner, err);
    if (r)
        return r;
    struct record_key keys[EXCHANGE_KEYS] = {record_key_of(RECORD_SETTINGS, "")};
    size_t count = 1;
    if (strlen(uuid) < UUID_TEXT_SIZE) {
        keys[count++] = record_key_of(RECORD_MACHINE, uuid);
        keys[count++] = record_key_of(RECORD_OWNER, uuid);
        keys[count++] = record_key_of(RECORD_STATE, uuid);
        keys[count++] = record_key_of(RECORD_TOMBSTONE, uuid);
    }
    count = add_hosts(keys, count, &owner.value.owner);
    return read_keys(exchange, keys, count, view, err);
}

int exchange_revision(struct exchange *exchange, uint64_t *revision, struct error *err)
{
    struct store_op op = {.kind = STORE_RANGE,
                          .key = store_string(record_kind_prefix(RECORD_SETTINGS)),
                          .flags = STORE_COUNT_ONLY};
    struct store_txn txn = {.then = &op, .then_count = 1};
    struct store_result result;
    *err = (struct error){0};
    if (open_client(exchange, err))
        return -err->code;
    int r = store_client_txn(exchange->client, &txn, false, &result, err);
    if (r)
        return r;
    if (result.status != STORE_OK)
        return failed(&result, err);
    *err = (struct error){0};
    *revision = result.revision;
    store_result_free(&result);
    return 0;
}

int exchange_get(struct exchange *exchange, enum record_kind kind, const char *name,
                 struct record *record, struct error *err)
{
    char key[RECORD_KEY_SIZE];
    struct store_result result;
    *record = (struct record){.key = record_key_of(kind, name)};
    *err = (struct error){0};
    if (open_client(exchange, err))
        return -err->code;
    record_key_format(&record->key, key);
    struct store_op op = {.kind = STORE_RANGE, .key = store_string(key)};
    struct store_txn txn = {.then = &op, .then_count = 1};
    int r = store_client_txn(exchange->client, &txn, false, &result, err);
    if (r)
        return r;
    if (result.status != STORE_OK)
        return failed(&result, err);
    *err = (struct error){0};
    if (result.ops[0].key_value_count) {
        record->mod = result.ops[0].key_values[0].mod_revision;
        r = record_decode(kind, result.ops[0].key_values[0].value, &record->value, err);
        if (r)
            error_prefix(err, "%s", key);
    }
    store_result_free(&result);
    return r;
}

// ---- writing ----

enum change_outcome exchange_commit(struct exchange *exchange, const struct change *change,
                                    uint64_t *revision, struct error *err)
{
    char compare_keys[CHANGE_COMPARES][RECORD_KEY_SIZE], put_keys[CHANGE_PUTS][RECORD_KEY_SIZE];
    char *values[CHANGE_PUTS] = {NULL};
    struct store_compare compares[CHANGE_COMPARES];
    struct store_op ops[CHANGE_PUTS];
    struct store_txn txn = {.compares = compares,
                            .compare_count = change->compare_count,
                            .then = ops,
                            .then_count = change->put_count};
    struct store_result result;
    enum change_outcome outcome = CHANGE_UNKNOWN;
    bool complete = true;
    *err = (struct error){0};
    if (open_client(exchange, err))
        return CHANGE_UNKNOWN;
    for (unsigned i = 0; i < change->compare_count; i++) {
        record_key_format(&change->compares[i].key, compare_keys[i]);
        compares[i] = (struct store_compare){.target = STORE_MOD,
                                             .relation = STORE_EQUAL,
                                             .key = store_string(compare_keys[i]),
                                             .number = change->compares[i].mod};
    }
    for (unsigned i = 0; i < change->put_count; i++) {
        const struct change_put *put = &change->puts[i];
        record_key_format(&put->key, put_keys[i]);
        ops[i] = (struct store_op){.kind = put->remove ? STORE_DELETE : STORE_PUT,
                                   .key = store_string(put_keys[i])};
        if (put->remove)
            continue;
        values[i] = record_encode(put->key.kind, &put->value);
        complete = complete && values[i];
        if (values[i])
            ops[i].value = store_string(values[i]);
    }
    if (!complete) {
        error_set(err, ENOMEM, "out of memory, or a value that is no JSON");
    } else if (store_client_txn(exchange->client, &txn, false, &result, err) == 0) {
        if (result.status == STORE_OK) {
            outcome = result.succeeded ? CHANGE_COMMITTED : CHANGE_REFUSED;
            *revision = result.revision;
            *err = (struct error){0};
        } else {
            failed(&result, err);
        }
        store_result_free(&result);
    }
    for (unsigned i = 0; i < change->put_count; i++)
        free(values[i]);
    return outcome;
}
