// ferry store get, put, del, txn, compact
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "cli/store.h"

static json_t *json_result(const struct store_result *result)
{
    json_t *list = json_array();
    for (size_t i = 0; i < result->op_count; i++) {
        const struct store_op_result *op = &result->ops[i];
        json_t *one = json_object();
        if (op->kind == STORE_RANGE) {
            json_t *keys = json_array();
            for (size_t k = 0; k < op->key_value_count; k++)
                json_array_append_new(keys, store_json_key_value(&op->key_values[k]));
            json_object_set_new(one, "keys", keys);
            json_object_set_new(one, "count", json_integer((json_int_t)op->count));
            json_object_set_new(one, "more", json_boolean(op->more));
        } else if (op->kind == STORE_DELETE) {
            json_object_set_new(one, "deleted", json_integer((json_int_t)op->count));
        }
        json_array_append_new(list, one);
    }
    return json_pack("{s:I, s:b, s:o}", "revision", (json_int_t)result->revision, "succeeded",
                     result->succeeded, "results", list);
}

static void print_keys(const struct store_options *o, const struct store_op_result *op)
{
    for (size_t i = 0; i < op->key_value_count; i++) {
        const struct store_key_value *kv = &op->key_values[i];
        if (o->keys_only || o->prefix || o->end) {
            store_print_bytes(kv->key);
            if (!o->keys_only)
                putchar('\t');
        }
        if (!o->keys_only)
            store_print_bytes(kv->value);
        putchar('\n');
    }
    if (o->count_only)
        printf("%lu\n", op->count);
    if (op->more && !o->limit)
        fprintf(stderr, "ferry: store get: there are more; go on with --end and the last key\n");
}

// One operation as a transaction, printed. The exit status.
static int run_one(const struct subcommand *command, struct store_client *client,
                   const struct store_options *o, const struct store_op *op)
{
    struct store_txn txn = {.then = op, .then_count = 1};
    struct store_result result;
    struct error err = {0};
    if (store_client_txn(client, &txn, o->stale, &result, &err))
        return store_fail(command, &err);
    if (result.status != STORE_OK)
        return store_fail_status(command, result.status, result.oldest, &err);
    int status = STATUS_OK;
    if (o->common.format == OUTPUT_JSON) {
        json_t *object = json_result(&result);
        output_json(object);
        json_decref(object);
    } else if (op->kind == STORE_RANGE) {
        print_keys(o, &result.ops[0]);
    } else if (op->kind == STORE_DELETE) {
        printf("%lu\n", result.ops[0].count);
    } else {
        printf("revision %lu\n", result.revision);
    }
    if (op->kind == STORE_RANGE && op->span == STORE_ONE && result.ops[0].count == 0)
        status = STATUS_FAILED; // nothing there, said by the status alone
    store_result_free(&result);
    return status;
}

static int get(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    uint8_t end[STORE_KEY_MAX];
    char **arguments;
    int status = store_begin(&store_get, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    struct store_op op = store_span_op(STORE_RANGE, &o, arguments[0], end);
    op.limit = o.limit;
    op.revision = o.revision;
    op.flags =
        (uint8_t)((o.keys_only ? STORE_KEYS_ONLY : 0) | (o.count_only ? STORE_COUNT_ONLY : 0));
    status = run_one(&store_get, client, &o, &op);
    store_client_destroy(client);
    return status;
}

static const struct option_spec get_options[] = {
    STORE_OPTION_PREFIX,
    STORE_OPTION_END,
    {.name = "limit",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct store_options, limit),
     .argument = "N",
     .help = "at most so many keys"},
    {.name = "revision",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct store_options, revision),
     .argument = "N",
     .help = "as it was then"},
    {.name = "stale",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct store_options, stale),
     .help = "what this member has, without asking the others"},
    {.name = "keys-only",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct store_options, keys_only),
     .help = "no values"},
    {.name = "count",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct store_options, count_only),
     .help = "only how many"},
    STORE_OPTIONS,
};

const struct subcommand store_get = {
    .name = "store get",
    .arguments = "KEY",
    .summary = "prints a key's value, or a range",
    .details = "Fails silently (status 1) if KEY isn't there.",
    .options = get_options,
    .least = 1,
    .most = 1,
    .run = get,
};

static uint8_t *read_all(FILE *in, size_t *length)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_stream(&w, in);
    *length = w.length;
    byte_writer_u8(&w, 0);
    return w.failed ? NULL : w.data;
}

static int put(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    char **arguments;
    int status = store_begin(&store_put, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    struct store_op op = {.kind = STORE_PUT, .key = store_string(arguments[0]), .lease = o.lease};
    uint8_t *from_input = NULL;
    if (arguments[1] && strcmp(arguments[1], "-") != 0)
        op.value = store_string(arguments[1]);
    else
        op.value.data = from_input = read_all(stdin, &op.value.length);
    status = run_one(&store_put, client, &o, &op);
    free(from_input);
    store_client_destroy(client);
    return status;
}

static const struct option_spec put_options[] = {
    {.name = "lease",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct store_options, lease),
     .argument = "ID",
     .help = "goes when that lease ends (decimal)"},
    STORE_OPTIONS,
};

const struct subcommand store_put = {
    .name = "store put",
    .arguments = "KEY [VALUE]",
    .summary = "writes a key",
    .details = "Without VALUE, or with -, the value is read from the standard input.",
    .options = put_options,
    .least = 1,
    .most = 2,
    .run = put,
};

static int del(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    uint8_t end[STORE_KEY_MAX];
    char **arguments;
    int status = store_begin(&store_del, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    struct store_op op = store_span_op(STORE_DELETE, &o, arguments[0], end);
    status = run_one(&store_del, client, &o, &op);
    store_client_destroy(client);
    return status;
}

static const struct option_spec del_options[] = {
    STORE_OPTION_PREFIX,
    STORE_OPTION_END,
    STORE_OPTIONS,
};

const struct subcommand store_del = {
    .name = "store del",
    .arguments = "KEY",
    .summary = "deletes a key or a range, prints how many",
    .options = del_options,
    .least = 1,
    .most = 1,
    .run = del,
};

// --- Transactions
// -----------------------------------------------------------------------------------

static struct store_bytes json_bytes(const json_t *value)
{
    return (struct store_bytes){(const uint8_t *)json_string_value(value),
                                json_string_length(value)};
}

static int name_index(const char *name, const char *const *names, int count)
{
    for (int i = 0; name && i < count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

// Whether it is an object without any other fields: a misspelt condition must not become none.
static bool has_only(const json_t *object, const char *const *names, int count)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return false;
    json_object_foreach((json_t *)object, name, value)
    {
        if (name_index(name, names, count) < 0)
            return false;
    }
    return true;
}

static bool is_list(const json_t *value)
{
    return !value || json_is_array(value);
}

static bool parse_compare(const json_t *object, struct store_compare *compare)
{
    static const char *const fields[] = {"key", "target", "is", "to"};
    static const char *const targets[] = {"version", "create", "mod", "value", "lease"};
    static const char *const relations[] = {"=", "!=", ">", "<"};
    const json_t *to = json_object_get(object, "to");
    int target = name_index(json_string_value(json_object_get(object, "target")), targets, 5);
    int relation = name_index(json_string_value(json_object_get(object, "is")), relations, 4);
    *compare = (struct store_compare){.key = json_bytes(json_object_get(object, "key"))};
    if (target < 0 || relation < 0 || !has_only(object, fields, 4) || !compare->key.data)
        return false;
    compare->target = (enum store_target)target;
    compare->relation = (enum store_relation)relation;
    if (compare->target == STORE_VALUE)
        compare->value = json_bytes(to);
    else
        compare->number = (uint64_t)json_integer_value(to);
    return compare->target == STORE_VALUE ? json_is_string(to) : json_is_integer(to);
}

static bool parse_op(const json_t *object, struct store_op *op)
{
    static const char *const puts[] = {"put", "value", "lease"};
    static const char *const gets[] = {"get", "end", "limit"};
    static const char *const dels[] = {"del", "end"};
    const json_t *put_key = json_object_get(object, "put");
    const json_t *get_key = json_object_get(object, "get");
    const json_t *del_key = json_object_get(object, "del");
    const json_t *end = json_object_get(object, "end");
    *op = (struct store_op){.kind = STORE_PUT, .key = json_bytes(put_key)};
    if (put_key ? !has_only(object, puts, 3)
                : !has_only(object, gets, 3) && !has_only(object, dels, 2))
        return false;
    if (end && !json_is_string(end))
        return false;
    if (get_key || del_key) {
        op->kind = get_key ? STORE_RANGE : STORE_DELETE;
        op->key = json_bytes(get_key ? get_key : del_key);
        op->span = end ? STORE_UNTIL : STORE_ONE;
        op->end = json_bytes(end);
        op->limit = (uint64_t)json_integer_value(json_object_get(object, "limit"));
        return op->key.data != NULL;
    }
    op->value = json_bytes(json_object_get(object, "value"));
    op->lease = (uint64_t)json_integer_value(json_object_get(object, "lease"));
    return json_is_string(put_key);
}

static bool parse_ops(const json_t *list, struct store_op *ops, size_t *count)
{
    size_t i;
    json_t *object;
    *count = json_array_size(list);
    if (*count > STORE_OPS_MAX || !is_list(list))
        return false;
    json_array_foreach(list, i, object)
    {
        if (!parse_op(object, &ops[i]))
            return false;
    }
    return true;
}

static bool parse_txn(const json_t *object, struct store_txn_decoded *into)
{
    static const char *const fields[] = {"if", "then", "else"};
    const json_t *compares = json_object_get(object, "if");
    struct store_txn *txn = &into->txn;
    size_t i;
    json_t *one;
    txn->compares = into->compares;
    txn->then = into->ops;
    txn->otherwise = into->ops + STORE_OPS_MAX;
    txn->compare_count = json_array_size(compares);
    if (txn->compare_count > STORE_OPS_MAX || !is_list(compares) || !has_only(object, fields, 3))
        return false;
    json_array_foreach(compares, i, one)
    {
        if (!parse_compare(one, &into->compares[i]))
            return false;
    }
    return parse_ops(json_object_get(object, "then"), into->ops, &txn->then_count) &&
           parse_ops(json_object_get(object, "else"), into->ops + STORE_OPS_MAX,
                     &txn->otherwise_count);
}

static int run_txn(const struct store_options *o, struct store_client *client,
                   struct store_txn_decoded *parsed)
{
    struct error err = {0};
    struct store_result result;
    json_t *object = json_loadf(stdin, JSON_ALLOW_NUL, NULL);
    int status;
    if (!object || !parse_txn(object, parsed)) {
        json_decref(object);
        error_set(&err, EINVAL, "the standard input is no transaction (see --help)");
        return store_fail(&store_txn_command, &err);
    }
    if (store_client_txn(client, &parsed->txn, o->stale, &result, &err)) {
        status = store_fail(&store_txn_command, &err);
    } else if (result.status != STORE_OK) {
        status = store_fail_status(&store_txn_command, result.status, result.oldest, &err);
    } else {
        json_t *printed = json_result(&result);
        output_json(printed);
        json_decref(printed);
        store_result_free(&result);
        status = STATUS_OK;
    }
    json_decref(object);
    return status;
}

static int txn_main(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    char **arguments;
    int status = store_begin(&store_txn_command, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    struct store_txn_decoded *parsed = calloc(1, sizeof(*parsed));
    status = parsed ? run_txn(&o, client, parsed) : STATUS_FAILED;
    free(parsed);
    store_client_destroy(client);
    return status;
}

static const struct option_spec plain_options[] = {STORE_OPTIONS};

const struct subcommand store_txn_command = {
    .name = "store txn",
    .arguments = "",
    .summary = "runs a transaction that it reads as JSON",
    .details = "{\"if\": [{\"key\": \"a\", \"target\": \"version|create|mod|value|lease\",\n"
               "         \"is\": \"=|!=|>|<\", \"to\": 1}],\n"
               " \"then\": [{\"put\": \"a\", \"value\": \"1\", \"lease\": 0},\n"
               "          {\"get\": \"a\", \"end\": \"b\", \"limit\": 10}, {\"del\": \"c\"}],\n"
               " \"else\": []}\n"
               "Prints JSON; \"succeeded\" tells which branch was done.",
    .options = plain_options,
    .run = txn_main,
};

static int compact(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    struct byte_reader answer;
    struct error err = {0};
    char **arguments, *rest;
    uint8_t body[8];
    int status = store_begin(&store_compact, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    bytes_put_u64(body, strtoull(arguments[0], &rest, 10));
    enum store_status done = STORE_INVALID;
    if (*rest == 0)
        done = store_client_request(client, REQUEST_COMPACT, body, sizeof(body), &answer, &err);
    status = done == STORE_OK ? STATUS_OK : store_fail_status(&store_compact, done, 0, &err);
    store_client_destroy(client);
    return status;
}

const struct subcommand store_compact = {
    .name = "store compact",
    .arguments = "REVISION",
    .summary = "forgets what was before that revision",
    .options = plain_options,
    .least = 1,
    .most = 1,
    .run = compact,
};
