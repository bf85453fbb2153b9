// vm.events: what happened to machines since a revision of the store, from its history
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "cluster/api/api.h"

enum { EVENTS_LIMIT = 1000, QUIET_MS = 300 };

// An answer under way.
struct history {
    struct api_call *call;
    const char *uuid; // of the only machine that is asked for; NULL: all
    json_t *events;
    uint64_t through; // everything up to this revision is in it
};

// A machine that is gone by now has its name in an earlier event only; its UUID is in each.
static const char *name_of(const struct history *history, const struct record *record)
{
    const struct machine_entry *entry = record_view_machine(&history->call->view, record->key.name);
    if (record->key.kind == RECORD_MACHINE && record->value.machine.name[0])
        return record->value.machine.name;
    if (record->key.kind == RECORD_TOMBSTONE && record->value.tombstone.name[0])
        return record->value.tombstone.name;
    return entry && entry->machine.mod ? entry->machine.value.machine.name : "";
}

// It is written anew when the other records go, and with each host that is waited for no longer.
static json_t *describe_tombstone(const struct tombstone_record *tombstone)
{
    if (!tombstone->left.count && !tombstone->reason[0])
        return json_pack("{s:s}", "event", "delete");
    json_t *hosts = json_array();
    for (unsigned i = 0; i < tombstone->left.count; i++)
        json_array_append_new(hosts, json_string(tombstone->left.hosts[i].host));
    return json_pack("{s:s, s:o, s:s}", "event", "left", "hosts", hosts, "reason",
                     tombstone->reason);
}

// What there is to say of it; NULL: nothing that concerns people. A migration's token is a secret.
static json_t *describe(const struct record *record, bool gone)
{
    const union record_value *value = &record->value;
    const struct migration_record *migration = &value->owner.migration;
    switch (record->key.kind) {
    case RECORD_MACHINE:
        return gone ? json_pack("{s:s}", "event", "gone")
                    : json_pack("{s:s, s:s, s:s}", "event", "wish", "wish",
                                wish_name(value->machine.wish), "move_to", value->machine.move_to);
    case RECORD_OWNER:
        return gone ? NULL
                    : json_pack("{s:s, s:s, s:s, s:I, s:s, s:s}", "event", "owner", "stage",
                                owner_stage_name(value->owner.stage), "host", value->owner.host,
                                "epoch", (json_int_t)value->owner.epoch, "migration",
                                migration->stage ? migration_stage_name(migration->stage) : "",
                                "target", migration->target);
    case RECORD_STATE:
        return gone ? NULL
                    : json_pack("{s:s, s:s, s:s, s:s}", "event", "state", "state",
                                value->state.state, "host", value->state.host, "reason",
                                value->state.reason);
    case RECORD_LIFE:
        return gone || !value->life.declared_dead
                   ? NULL
                   : json_pack("{s:s, s:s}", "event", "declared-dead", "host", record->key.name);
    case RECORD_TOMBSTONE:
        return gone ? json_pack("{s:s}", "event", "forgotten")
                    : describe_tombstone(&value->tombstone);
    default:
        return NULL;
    }
}

static int add_event(struct history *history, bool gone, const struct store_key_value *kv)
{
    struct record record = {.mod = kv->mod_revision};
    struct error err;
    if (record_key_parse(kv->key, &record.key) ||
        (history->uuid && strcmp(history->uuid, record.key.name) != 0) ||
        (!gone && record_decode(record.key.kind, kv->value, &record.value, &err)))
        return 0;
    json_t *event = describe(&record, gone);
    int r = 0;
    if (event) {
        json_object_set_new(event, "revision", json_integer((json_int_t)record.mod));
        json_object_set_new(event, "uuid",
                            json_string(record.key.kind == RECORD_LIFE ? "" : record.key.name));
        json_object_set_new(event, "name", json_string(name_of(history, &record)));
        r = json_array_append_new(history->events, event) ? -ENOMEM : 0;
    }
    record_free(record.key.kind, &record.value);
    return r;
}

static int take_frame(struct history *history, struct byte_reader *r)
{
    struct api_call *call = history->call;
    enum store_status status = (enum store_status)byte_reader_u8(r);
    uint64_t revision = byte_reader_u64(r);
    if (status == STORE_COMPACTED) {
        call->code = "compacted";
        return error_set(&call->err, ENODATA,
                         "the store doesn't know any more what happened since that revision: it "
                         "keeps them from %lu on",
                         byte_reader_u64(r));
    }
    if (status != STORE_OK)
        return error_set(&call->err, EAGAIN, "store: %s", store_status_text(status));
    uint32_t count = byte_reader_u32(r);
    int error = 0;
    for (uint32_t i = 0; i < count && !r->failed && !error; i++) {
        struct store_key_value kv;
        uint8_t kind = byte_reader_u8(r);
        if (store_key_value_decode(r, &kv))
            error = add_event(history, kind != STORE_PUT, &kv);
    }
    if (error || r->failed)
        return error_set(&call->err, EBADMSG, "the store's events can't be understood");
    history->through = revision;
    return 0;
}

static int begin(struct store_client *client, uint64_t from, struct error *err)
{
    struct store_bytes prefix = store_string(RECORD_PREFIX);
    uint8_t end[STORE_KEY_MAX];
    size_t end_length = store_prefix_end(prefix, end);
    struct byte_writer body;
    struct byte_reader answer;
    byte_writer_init(&body);
    byte_writer_blob(&body, prefix.data, prefix.length);
    byte_writer_u8(&body, STORE_UNTIL);
    byte_writer_blob(&body, end, end_length);
    byte_writer_u64(&body, from);
    enum store_status status =
        store_client_request(client, REQUEST_WATCH, body.data, body.length, &answer, err);
    byte_writer_free(&body);
    return status == STORE_OK ? 0 : error_set(err, EAGAIN, "store: %s", store_status_text(status));
}

// Reads until it has what there was when the view was taken. A pause ends it too: a request holds
// one of few threads, and whoever asked comes again.
static int read_history(struct history *history)
{
    struct api_call *call = history->call;
    struct store_client *client = call->exchange.client;
    int r = begin(client, history->through + 1, &call->err);
    while (!r && history->through < call->view.revision &&
           json_array_size(history->events) < EVENTS_LIMIT) {
        struct byte_reader payload;
        uint16_t type;
        r = store_client_next(client, QUIET_MS * NSEC_PER_MSEC, &type, &payload, &call->err);
        if (r == -ETIMEDOUT) {
            call->err = (struct error){0};
            return 0;
        }
        if (!r && type == PROTOCOL_EVENTS)
            r = take_frame(history, &payload);
    }
    return r;
}

// NULL with a sentence: neither a machine nor a UUID.
static const char *uuid_of(struct api_call *call, const char *name)
{
    struct uuid uuid;
    for (size_t i = 0; i < call->view.machine_count; i++) {
        const struct machine_entry *entry = &call->view.machines[i];
        if (entry->machine.mod && strcmp(entry->machine.value.machine.name, name) == 0)
            return entry->uuid;
    }
    if (uuid_parse(name, &uuid) == 0)
        return name; // perhaps of one that is gone
    call->code = "not-found";
    error_set(&call->err, ENOENT,
              "there is no machine '%s' (`ferry vm ls` lists them; what was deleted has its UUID)",
              name);
    return NULL;
}

int api_vm_events(struct api_call *call)
{
    const char *name = api_text(call, "name", false);
    const json_t *since = json_object_get(call->params, "since");
    if (call->err.code)
        return -call->err.code;
    if (since && (!json_is_integer(since) || json_integer_value(since) < 0))
        return error_set(&call->err, EINVAL, "\"since\" must be a revision");
    int r = name ? api_read_machine(call) : api_read(call);
    if (r)
        return r;
    const char *uuid = name ? uuid_of(call, name) : NULL;
    if (name && !uuid)
        return -call->err.code;
    struct history history = {
        .call = call,
        .uuid = uuid,
        .events = json_array(),
        .through = since ? (uint64_t)json_integer_value(since) : call->view.revision,
    };
    if (history.through < call->view.revision)
        r = read_history(&history);
    call->result =
        json_pack("{s:o, s:I}", "events", history.events, "revision", (json_int_t)history.through);
    return r;
}
