// ferry store: the subcommands of the cluster's key-value store.
#include "cli/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cluster/store/store_admin.h"

static const struct subcommand *const subcommands[] = {
    &store_get,     &store_put,         &store_del,      &store_txn_command,
    &store_compact, &store_watch,       &store_lease,    &store_status,
    &store_members, &store_move_leader, &store_snapshot, &store_restore_command,
    &store_check,
};
enum { SUBCOMMANDS = sizeof(subcommands) / sizeof(subcommands[0]), SKIP = sizeof("store ") - 1 };

int store_fail(const struct subcommand *command, const struct error *err)
{
    fprintf(stderr, "ferry: %s: %s\n", command->name, err->message);
    return STATUS_FAILED;
}

int store_fail_status(const struct subcommand *command, enum store_status status, uint64_t oldest,
                      const struct error *err)
{
    if (err && err->code && (status == STORE_UNKNOWN || status == STORE_NO_LEADER))
        return store_fail(command, err);
    fprintf(stderr, "ferry: %s: %s", command->name, store_status_text(status));
    if (status == STORE_COMPACTED && oldest)
        fprintf(stderr, "; the oldest revision is %lu", oldest);
    fputc('\n', stderr);
    return STATUS_FAILED;
}

int store_begin(const struct subcommand *command, int argc, char **argv, struct store_options *o,
                char ***arguments, struct store_client **client)
{
    struct error err = {0};
    int status = options_parse(command, argc, argv, o, arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *addresses = o->addresses ? o->addresses : getenv("FERRY_STORE");
    if (!addresses || !addresses[0]) {
        error_set(&err, EINVAL, "which store? Give --store HOST:PORT or set FERRY_STORE");
        store_fail(command, &err);
        return STATUS_USAGE;
    }
    if (store_client_create(client, addresses, &err))
        return store_fail(command, &err);
    if (o->timeout)
        store_client_set_timeout(*client, o->timeout);
    if ((o->ca || o->certificate || o->key) &&
        (!o->ca || !o->certificate || !o->key ||
         store_client_set_tls(*client, o->certificate, o->key, o->ca, &err) ||
         (o->tls_name && store_client_set_tls_name(*client, o->tls_name, &err)))) {
        if (!err.code)
            error_set(&err, EINVAL, "--tls-cert, --tls-key and --tls-ca belong together");
        store_client_destroy(*client);
        return store_fail(command, &err);
    }
    return OPTIONS_GO;
}

json_t *store_ask_json(const struct subcommand *command, struct store_client *client,
                       enum protocol_request kind)
{
    struct error err = {0};
    struct byte_reader answer;
    enum store_status status = store_client_request(client, kind, NULL, 0, &answer, &err);
    if (status != STORE_OK) {
        store_fail_status(command, status, 0, &err);
        return NULL;
    }
    json_t *object = store_admin_json(&answer, &err);
    if (!object)
        store_fail(command, &err);
    return object;
}

struct store_op store_span_op(enum store_op_kind kind, const struct store_options *o,
                              const char *key, uint8_t *end)
{
    struct store_op op = {.kind = kind, .key = store_string(key)};
    if (o->end) {
        op.span = STORE_UNTIL;
        op.end = store_string(o->end);
    } else if (o->prefix) {
        op.end = (struct store_bytes){end, store_prefix_end(op.key, end)};
        op.span = op.end.length ? STORE_UNTIL : STORE_REST;
    }
    return op;
}

void store_json_bytes(json_t *object, const char *name, struct store_bytes bytes)
{
    json_t *text = json_stringn(bytes.length ? (const char *)bytes.data : "", bytes.length);
    if (text) {
        json_object_set_new(object, name, text);
        return;
    }
    char field[32];
    char *hex = malloc(2 * bytes.length + 1);
    if (!hex)
        return;
    for (size_t i = 0; i < bytes.length; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes.data[i]);
    snprintf(field, sizeof(field), "%s_hex", name);
    json_object_set_new(object, field, json_string(hex));
    free(hex);
}

json_t *store_json_key_value(const struct store_key_value *kv)
{
    json_t *object = json_object();
    store_json_bytes(object, "key", kv->key);
    store_json_bytes(object, "value", kv->value);
    json_object_set_new(object, "create_revision", json_integer((json_int_t)kv->create_revision));
    json_object_set_new(object, "mod_revision", json_integer((json_int_t)kv->mod_revision));
    json_object_set_new(object, "version", json_integer((json_int_t)kv->version));
    if (kv->lease)
        json_object_set_new(object, "lease", json_sprintf("%016lx", kv->lease));
    return object;
}

void store_print_bytes(struct store_bytes bytes)
{
    for (size_t i = 0; i < bytes.length; i++) {
        uint8_t c = bytes.data[i];
        if ((c < 32 && c != '\n' && c != '\t') || c == 127)
            printf("\\x%02x", c);
        else
            putchar(c);
    }
}

static void print_help(FILE *out)
{
    fprintf(out, "Usage: ferry store COMMAND [ARGUMENT]... [OPTION]...\n"
                 "The cluster's key-value store.\n\n");
    for (int i = 0; i < SUBCOMMANDS; i++)
        fprintf(out, "  %-12s%s\n", subcommands[i]->name + SKIP, subcommands[i]->summary);
    fprintf(out, "\n`ferry store COMMAND --help` tells more.\n");
}

static int store(int argc, char **argv)
{
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help(stdout);
        return STATUS_OK;
    }
    for (int i = 0; argc >= 2 && i < SUBCOMMANDS; i++)
        if (strcmp(subcommands[i]->name + SKIP, argv[1]) == 0)
            return subcommands[i]->run(argc - 1, argv + 1);
    if (argc >= 2)
        fprintf(stderr, "ferry: store: '%s' is not a command of it\n", argv[1]);
    print_help(stderr);
    return STATUS_USAGE;
}

const struct subcommand command_store = {
    .name = "store",
    .arguments = "COMMAND ...",
    .summary = "reads and writes the cluster's key-value store",
    .run = store,
};
