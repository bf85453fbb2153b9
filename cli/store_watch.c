// ferry store watch, lease
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/output.h"
#include "cli/store.h"

static void print_event(const struct store_options *o, uint8_t kind,
                        const struct store_key_value *kv)
{
    if (o->common.format == OUTPUT_JSON) {
        json_t *object = store_json_key_value(kv);
        json_object_set_new(object, "event", json_string(kind == STORE_PUT ? "put" : "del"));
        output_json_line(object);
        json_decref(object);
        return;
    }
    printf("%" PRIu64 "\t%s\t", kv->mod_revision, kind == STORE_PUT ? "put" : "del");
    store_print_bytes(kv->key);
    if (kind == STORE_PUT) {
        putchar('\t');
        store_print_bytes(kv->value);
    }
    putchar('\n');
}

enum { STATUS_ELSEWHERE = -1 }; // the member lost touch with the others

// One frame of events. STATUS_OK: the watch goes on.
static int print_events(const struct store_options *o, struct byte_reader *r, uint64_t *through)
{
    enum store_status status = (enum store_status)byte_reader_u8(r);
    uint64_t revision = byte_reader_u64(r);
    uint64_t oldest = status == STORE_COMPACTED ? byte_reader_u64(r) : 0;
    uint32_t count = byte_reader_u32(r);
    if (status == STORE_NO_LEADER)
        return STATUS_ELSEWHERE;
    if (status != STORE_OK)
        return store_fail_status(&store_watch, status, oldest, NULL);
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        struct store_key_value kv;
        uint8_t kind = byte_reader_u8(r);
        if (store_key_value_decode(r, &kv))
            print_event(o, kind, &kv);
    }
    fflush(stdout);
    *through = revision;
    return r->failed || ferror(stdout) ? STATUS_FAILED : STATUS_OK;
}

static int begin_watch(struct store_client *client, const struct store_op *op, uint64_t from,
                       uint64_t *through, struct error *err)
{
    struct byte_writer body;
    struct byte_reader answer;
    byte_writer_init(&body);
    byte_writer_blob(&body, op->key.data, op->key.length);
    byte_writer_u8(&body, (uint8_t)op->span);
    byte_writer_blob(&body, op->end.data, op->end.length);
    byte_writer_u64(&body, from);
    enum store_status status =
        store_client_request(client, REQUEST_WATCH, body.data, body.length, &answer, err);
    byte_writer_free(&body);
    if (status != STORE_OK)
        return store_fail_status(&store_watch, status, 0, err);
    byte_reader_u8(&answer);
    uint64_t now = byte_reader_u64(&answer);
    if (!from)
        *through = now;
    return STATUS_OK;
}

// Goes on with another member where a connection breaks, from the revision it had got to.
static int follow(const struct store_options *o, struct store_client *client,
                  const struct store_op *op)
{
    uint64_t through = o->revision ? o->revision - 1 : 0;
    for (;;) {
        struct error err = {0};
        struct byte_reader payload;
        uint16_t type;
        int status = begin_watch(client, op, through ? through + 1 : 0, &through, &err);
        if (status != STATUS_OK)
            return status;
        for (;;) {
            int error = store_client_next(client, 3600 * NSEC_PER_SEC, &type, &payload, &err);
            if (error == -ETIMEDOUT)
                continue;
            if (error)
                break;
            if (type == PROTOCOL_EVENTS) {
                status = print_events(o, &payload, &through);
                if (status == STATUS_ELSEWHERE)
                    break;
                if (status != STATUS_OK)
                    return status;
            }
        }
        store_client_leave(client);
    }
}

static int watch(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    uint8_t end[STORE_KEY_MAX];
    char **arguments;
    int status = store_begin(&store_watch, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    struct store_op op = store_span_op(STORE_RANGE, &o, arguments[0], end);
    status = follow(&o, client, &op);
    store_client_destroy(client);
    return status;
}

static const struct option_spec watch_options[] = {
    STORE_OPTION_PREFIX,
    STORE_OPTION_END,
    {.name = "revision",
     .kind = OPTION_NUMBER,
     .offset = offsetof(struct store_options, revision),
     .argument = "N",
     .help = "from that one on, also if it is past (else from now on)"},
    STORE_OPTIONS,
};

const struct subcommand store_watch = {
    .name = "store watch",
    .arguments = "KEY",
    .summary = "prints changes of a key or a range as they come",
    .details =
        "A line an event: revision, put or del, key, value. Each change comes once, in order.",
    .options = watch_options,
    .least = 1,
    .most = 1,
    .run = watch,
};

// --- Leases
// -----------------------------------------------------------------------------------------

static int lease_request(const struct store_options *o, struct store_client *client,
                         enum protocol_request kind, uint64_t id, bool print)
{
    struct error err = {0};
    struct byte_reader answer;
    uint8_t body[16];
    bytes_put_u64(body, id);
    bytes_put_u64(body + 8, o->ttl / NSEC_PER_SEC);
    size_t length = kind == REQUEST_GRANT ? 16 : 8;
    enum store_status status = store_client_request(client, kind, body, length, &answer, &err);
    if (status != STORE_OK)
        return store_fail_status(&store_lease, status, 0, &err);
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    id = byte_reader_u64(&answer);
    uint64_t ttl = byte_reader_u64(&answer);
    if (!print)
        return STATUS_OK;
    if (o->common.format == OUTPUT_JSON) {
        json_t *object = json_pack("{s:I, s:I}", "lease", (json_int_t)id, "ttl", (json_int_t)ttl);
        output_json(object);
        json_decref(object);
    } else {
        printf("lease %" PRIu64 " ttl %" PRIu64 "s\n", id, ttl);
    }
    return STATUS_OK;
}

static int lease_list(const struct store_options *o, struct store_client *client)
{
    size_t i;
    json_t *lease, *object = store_ask_json(&store_lease, client, REQUEST_LEASES);
    if (!object)
        return STATUS_FAILED;
    if (o->common.format == OUTPUT_JSON) {
        output_json(object);
    } else {
        printf("%-20s %10s %10s %6s\n", "LEASE", "TTL", "LEFT", "KEYS");
        json_array_foreach(json_object_get(object, "leases"), i, lease)
            printf("%-20llu %10lld %10.1f %6lld\n",
                   strtoull(json_string_value(json_object_get(lease, "id")), NULL, 16),
                   json_integer_value(json_object_get(lease, "ttl")),
                   json_real_value(json_object_get(lease, "left")),
                   json_integer_value(json_object_get(lease, "keys")));
    }
    json_decref(object);
    return STATUS_OK;
}

static int lease_main(int argc, char **argv)
{
    static const struct {
        const char *name;
        enum protocol_request kind;
    } verbs[] = {{"grant", REQUEST_GRANT}, {"revoke", REQUEST_REVOKE}, {"renew", REQUEST_RENEW}};
    struct store_options o = {.ttl = 60 * NSEC_PER_SEC};
    struct store_client *client;
    char **arguments;
    int status = store_begin(&store_lease, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    status = STATUS_USAGE;
    if (strcmp(arguments[0], "list") == 0)
        status = lease_list(&o, client);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(arguments[0], verbs[i].name) == 0 &&
            (verbs[i].kind == REQUEST_GRANT || arguments[1]))
            status = lease_request(&o, client, verbs[i].kind,
                                   arguments[1] ? strtoull(arguments[1], NULL, 10) : 0,
                                   verbs[i].kind != REQUEST_REVOKE);
    if (status == STATUS_USAGE)
        options_print_help(&store_lease);
    store_client_destroy(client);
    return status;
}

static const struct option_spec lease_options[] = {
    {.name = "ttl",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct store_options, ttl),
     .argument = "TIME",
     .help = "grant: how long it lives without renewal (60s; whole seconds)"},
    STORE_OPTIONS,
};

const struct subcommand store_lease = {
    .name = "store lease",
    .arguments = "grant|revoke|renew|list [ID]",
    .summary = "keys that go when nobody renews their lease",
    .options = lease_options,
    .least = 1,
    .most = 2,
    .run = lease_main,
};
