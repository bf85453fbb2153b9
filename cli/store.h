// What the `ferry store ...` subcommands share.
#pragma once

#include <jansson.h>

#include "cli/options.h"
#include "cluster/store/client.h"

struct store_options {
    struct common_options common;
    const char *addresses, *certificate, *key, *ca, *tls_name;
    uint64_t timeout;
    bool prefix, stale, keys_only, count_only;
    uint64_t limit, revision, lease, ttl;
    const char *end;
    // restore and check
    const char *data, *name, *peer, *client;
};

#define STORE_OPTIONS                                                                              \
    {.name = "store",                                                                              \
     .kind = OPTION_TEXT,                                                                          \
     .offset = offsetof(struct store_options, addresses),                                          \
     .argument = "ADDRESS,...",                                                                    \
     .help = "members: HOST:PORT or unix:PATH (or FERRY_STORE)"},                                  \
        {.name = "timeout",                                                                        \
         .kind = OPTION_DURATION,                                                                  \
         .offset = offsetof(struct store_options, timeout),                                        \
         .argument = "TIME",                                                                       \
         .help = "how long to try (5s)"},                                                          \
        {.name = "tls-cert",                                                                       \
         .kind = OPTION_TEXT,                                                                      \
         .offset = offsetof(struct store_options, certificate),                                    \
         .argument = "FILE",                                                                       \
         .help = "certificate, with --tls-key and --tls-ca"},                                      \
        {.name = "tls-key",                                                                        \
         .kind = OPTION_TEXT,                                                                      \
         .offset = offsetof(struct store_options, key),                                            \
         .argument = "FILE",                                                                       \
         .help = "its key"},                                                                       \
        {.name = "tls-ca",                                                                         \
         .kind = OPTION_TEXT,                                                                      \
         .offset = offsetof(struct store_options, ca),                                             \
         .argument = "FILE",                                                                       \
         .help = "who must have signed"},                                                          \
        {.name = "tls-name",                                                                       \
         .kind = OPTION_TEXT,                                                                      \
         .offset = offsetof(struct store_options, tls_name),                                       \
         .argument = "NAME",                                                                       \
         .help = "what the member's certificate must be for (else any of the CA will do)"},        \
        OPTIONS_FORMAT,                                                                            \
    {                                                                                              \
        0                                                                                          \
    }

#define STORE_OPTION_PREFIX                                                                        \
    {                                                                                              \
        .name = "prefix", .letter = 'p', .kind = OPTION_FLAG,                                      \
        .offset = offsetof(struct store_options, prefix), .help = "all keys that begin with KEY"   \
    }
#define STORE_OPTION_END                                                                           \
    {                                                                                              \
        .name = "end", .kind = OPTION_TEXT, .offset = offsetof(struct store_options, end),         \
        .argument = "KEY", .help = "all keys from KEY to before this one"                          \
    }

extern const struct subcommand store_get, store_put, store_del, store_txn_command, store_compact,
    store_watch, store_lease, store_status, store_members, store_move_leader, store_snapshot,
    store_restore_command, store_check;

// Parses and connects. OPTIONS_GO or the status to end with.
int store_begin(const struct subcommand *command, int argc, char **argv, struct store_options *o,
                char ***arguments, struct store_client **client);
// "ferry: store get: ..." on stderr; STATUS_FAILED.
int store_fail(const struct subcommand *command, const struct error *err);
// Says what a status other than STORE_OK means.
int store_fail_status(const struct subcommand *command, enum store_status status, uint64_t oldest,
                      const struct error *err);
// A request whose answer carries a JSON text; NULL after having said why not.
json_t *store_ask_json(const struct subcommand *command, struct store_client *client,
                       enum protocol_request kind);

// The range that KEY and the options mean; `end` has room for the key.
struct store_op store_span_op(enum store_op_kind kind, const struct store_options *o,
                              const char *key, uint8_t *end);
// Adds bytes as a string, or as "NAME_hex" if they are no text.
void store_json_bytes(json_t *object, const char *name, struct store_bytes bytes);
json_t *store_json_key_value(const struct store_key_value *kv);
// Bytes as they are, if they are printable; else escaped.
void store_print_bytes(struct store_bytes bytes);
