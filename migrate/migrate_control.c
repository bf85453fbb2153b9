#include "migrate/migrate_control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/control_server.h"
#include "base/filter/thread_filter.h"
#include "migrate/snapshot.h"
#include "migrate/source.h"
#include "migrate/target.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"

struct migrate_control {
    uv_loop_t *loop;
    struct machine *machine;
    struct control *control;
    struct control_service service;
    struct migrate_control_listener listener;
    struct migration_source *source; // the one under way, or the last
    bool busy;
    struct migration_target *target;  // this machine comes from elsewhere; NULL otherwise
    struct snapshot_writer *snapshot; // the one under way, or the last
    struct control_request *snapshot_request;
    int snapshot_fd;
};

// ---- parameters ----

// A whole number of `params`, or `otherwise` where it isn't there.
static int read_number(const json_t *params, const char *key, uint64_t otherwise, uint64_t least,
                       uint64_t most, uint64_t *value, struct error *err)
{
    const json_t *number = json_object_get(params, key);
    *value = otherwise;
    if (!number)
        return 0;
    json_int_t v = json_integer_value(number);
    if (!json_is_integer(number) || v < 0 || (uint64_t)v < least || (uint64_t)v > most)
        return error_set(err, EINVAL, "\"%s\" must be a number from %llu to %llu", key,
                         (unsigned long long)least, (unsigned long long)most);
    *value = (uint64_t)v;
    return 0;
}

static int read_params(const json_t *object, struct migration_params *params, struct error *err)
{
    const char *to = json_string_value(json_object_get(object, "to"));
    const char *token = json_string_value(json_object_get(object, "token"));
    uint64_t streams = 1, throttle = 0;
    const uint64_t any = INT64_MAX;
    if (!to)
        return error_set(err, EINVAL, "migrate.start wants \"to\": \"tcp://HOST:PORT\"");
    if (token && strlen(token) >= sizeof(params->token))
        return error_set(err, EINVAL, "\"token\" is too long");
    snprintf(params->token, sizeof(params->token), "%s", token ? token : "");
    params->force_on_timeout = json_is_true(json_object_get(object, "force_on_timeout"));
    int rc = read_number(object, "downtime_ns", 10000000, 0, any, &params->downtime_ns, err);
    if (rc == 0)
        rc = read_number(object, "timeout_ns", 0, 0, any, &params->timeout_ns, err);
    if (rc == 0)
        rc = read_number(object, "bandwidth", 0, 0, any, &params->bandwidth, err);
    if (rc == 0)
        rc = read_number(object, "streams", 1, 1, MIGRATE_STREAMS_LIMIT, &streams, err);
    if (rc == 0)
        rc = read_number(object, "throttle_limit", 0, 0, 990, &throttle, err);
    if (rc < 0)
        return rc;
    params->streams = (unsigned)streams;
    params->throttle_limit = (unsigned)throttle;
    return channel_address_parse_numeric(to, &params->target, err);
}

// Takes a descriptor of params["tls"] for `key`. -1 after a failure.
static int take_tls_fd(struct control_request *request, const json_t *tls, const char *key,
                       struct error *err)
{
    int fd = control_request_take_fd(request, json_object_get(tls, key), err);
    if (fd < 0)
        error_prefix(err, "\"tls\": \"%s\"", key);
    return fd;
}

static int read_tls(struct control_request *request, const json_t *object,
                    struct migration_params *params, struct error *err)
{
    const json_t *tls = json_object_get(object, "tls");
    const char *name = json_string_value(json_object_get(tls, "name"));
    if (!tls && !params->target.tls)
        return 0;
    if (!tls || !params->target.tls)
        return error_set(err, EINVAL,
                         tls ? "\"tls\" is for a target at tls://"
                             : "a target at tls:// wants \"tls\": certificate, key, ca");
    if (name && strlen(name) >= sizeof(params->tls_name))
        return error_set(err, EINVAL, "\"tls\": \"name\" is too long");
    snprintf(params->tls_name, sizeof(params->tls_name), "%s", name ? name : "");
    const char *peer = json_string_value(json_object_get(tls, "peer"));
    if (json_object_get(tls, "peer") && (!peer || !tls_subject_text_is_valid(peer)))
        return error_set(err, EINVAL, "\"tls\": \"peer\" must be \"sha256:...\" or \"id:...\"");
    snprintf(params->tls_peer, sizeof(params->tls_peer), "%s", peer ? peer : "");
    static const char *const keys[] = {"certificate", "key", "ca"};
    struct tls_source sources[3];
    int rc = 0;
    for (unsigned i = 0; i < 3; i++) {
        sources[i] = (struct tls_source){.name = keys[i], .fd = -1};
        if (rc == 0)
            sources[i].fd = take_tls_fd(request, tls, keys[i], err);
        if (rc == 0 && sources[i].fd < 0)
            rc = -err->code;
    }
    if (rc == 0)
        rc = tls_credentials_load(&params->tls, sources[0], sources[1], sources[2], err);
    for (unsigned i = 0; i < 3; i++)
        if (sources[i].fd >= 0)
            close(sources[i].fd);
    return rc;
}

// The sockets to reach the target by. A machine that is shut in has no others.
static int read_sockets(struct control_request *request, const json_t *object,
                        struct migration_params *params, struct error *err)
{
    const json_t *sockets = json_object_get(object, "sockets");
    size_t wanted = params->streams + MIGRATE_SOCKETS_BESIDE_DATA;
    if (!sockets && !thread_filter_is_armed())
        return 0;
    if (json_array_size(sockets) != wanted)
        return error_set(err, EINVAL,
                         "migrate.start wants \"sockets\": %zu unconnected TCP sockets, two more "
                         "than \"streams\" (this machine can open no connection by itself; the "
                         "ferry of its own version brings them)",
                         wanted);
    for (size_t i = 0; i < wanted; i++) {
        int fd = control_request_take_fd(request, json_array_get(sockets, i), err);
        if (fd < 0)
            return error_prefix(err, "\"sockets\"");
        params->sockets[params->socket_count++] = fd;
        int rc = channel_check_socket(fd, &params->target, err);
        if (rc < 0)
            return error_prefix(err, "\"sockets\"");
    }
    return 0;
}

// ---- methods ----

static void on_done(void *opaque, int result, const struct error *err)
{
    struct migrate_control *mc = opaque;
    (void)result;
    (void)err;
    mc->busy = false;
    control_event(mc->control, "migration", migration_source_status(mc->source));
    if (mc->listener.ended)
        mc->listener.ended(mc->listener.opaque);
}

static void ask_arbiter(struct migrate_control *mc, const char *role, const uint8_t *id,
                        enum arbiter_question question)
{
    char uuid[UUID_TEXT_SIZE], text[UUID_TEXT_SIZE];
    struct uuid migration;
    memcpy(migration.bytes, id, sizeof(migration.bytes));
    control_event(mc->control, "migration.ask",
                  json_pack("{s:s, s:I, s:s, s:s, s:s}", "uuid",
                            uuid_format(&machine_config(mc->machine)->uuid, uuid), "epoch",
                            (json_int_t)machine_lease_epoch(mc->machine), "migration_id",
                            uuid_format(&migration, text), "role", role, "ask",
                            arbiter_question_name(question)));
}

static void on_ask(void *opaque, enum arbiter_question question)
{
    struct migrate_control *mc = opaque;
    ask_arbiter(mc, "source", migration_source_id(mc->source), question);
}

void migrate_control_ask(struct migrate_control *mc, enum arbiter_question question)
{
    ask_arbiter(mc, "target", migration_target_id(mc->target), question);
}

void migrate_control_set_target(struct migrate_control *mc, struct migration_target *target)
{
    mc->target = target;
}

_Static_assert(MIGRATE_ID_SIZE == sizeof(struct uuid), "a migration's id is a UUID");

static int read_id(const json_t *params, uint8_t id[MIGRATE_ID_SIZE], struct error *err)
{
    const char *text = json_string_value(json_object_get(params, "migration_id"));
    struct uuid migration;
    bool wrong = !text || uuid_parse(text, &migration) < 0;
    if (!wrong)
        memcpy(id, migration.bytes, sizeof(migration.bytes));
    return wrong ? error_set(err, EINVAL, "\"migration_id\" must be a UUID") : 0;
}

static void decide(void *opaque, struct control_request *request, json_t *params)
{
    struct migrate_control *mc = opaque;
    struct error err = {0};
    uint8_t id[MIGRATE_ID_SIZE];
    enum arbiter_question question =
        arbiter_question_parse(json_string_value(json_object_get(params, "ask")));
    int decision = arbiter_decision_parse(json_string_value(json_object_get(params, "decision")));
    int rc = read_id(params, id, &err);
    if (rc == 0 && (question == ARBITER_NOTHING || decision < 0))
        rc = error_set(&err, EINVAL,
                       "migration.decide wants \"ask\": commit, abort or outcome, and "
                       "\"decision\": target, source or unknown");
    if (rc < 0) {
        control_request_fail_error(request, &err);
        return;
    }
    bool source = mc->busy && memcmp(id, migration_source_id(mc->source), sizeof(id)) == 0;
    bool target = mc->target && memcmp(id, migration_target_id(mc->target), sizeof(id)) == 0;
    if (source)
        migration_source_decide(mc->source, question, (enum arbiter_decision)decision);
    else if (target)
        migration_target_decide(mc->target, question, (enum arbiter_decision)decision);
    if (source || target)
        control_request_reply(request, json_object());
    else
        control_request_fail(request, "no-migration", "this machine has no such migration now");
}

static void start(void *opaque, struct control_request *request, json_t *object)
{
    struct migrate_control *mc = opaque;
    struct migration_params params = {0};
    struct error err = {0};
    const struct migration_listener listener = {on_done, on_ask, mc};
    int rc = 0;
    enum machine_state state = machine_state(mc->machine);
    if (mc->busy || machine_is_held(mc->machine))
        rc = error_set(&err, EBUSY, "a migration or snapshot of this machine is under way");
    else if (state != MACHINE_RUNNING && state != MACHINE_PAUSED)
        rc = error_set(&err, EBUSY, "can't migrate: the machine is %s", machine_state_name(state));
    else if (machine_is_in_doubt(mc->machine))
        rc = error_set(&err, EBUSY,
                       "can't migrate: the machine may be running where it was moved to before");
    if (rc == 0)
        rc = control_check_epoch(mc->machine, object, &err);
    if (rc == 0)
        rc = read_params(object, &params, &err);
    params.has_id = json_object_get(object, "migration_id") != NULL;
    if (rc == 0 && params.has_id)
        rc = read_id(object, params.id, &err);
    if (rc == 0)
        rc = read_sockets(request, object, &params, &err);
    if (rc == 0)
        rc = read_tls(request, object, &params, &err);
    if (rc == 0) {
        migration_source_free(mc->source);
        mc->source = NULL;
        rc = migration_source_start(&mc->source, mc->machine, mc->loop, &params, &listener, &err);
    } else {
        migration_params_free(&params);
    }
    if (rc < 0) {
        control_request_fail_error(request, &err);
        return;
    }
    mc->busy = true;
    control_request_reply(request, migration_source_status(mc->source));
}

static void status(void *opaque, struct control_request *request, json_t *params)
{
    struct migrate_control *mc = opaque;
    (void)params;
    if (!mc->source)
        control_request_fail(request, "no-migration", "this machine has not been migrated");
    else
        control_request_reply(request, migration_source_status(mc->source));
}

static void cancel(void *opaque, struct control_request *request, json_t *params)
{
    struct migrate_control *mc = opaque;
    struct error err = {0};
    (void)params;
    if (!mc->busy)
        control_request_fail(request, "no-migration", "no migration of this machine is under way");
    else if (migration_source_cancel(mc->source, &err) < 0)
        control_request_fail_error(request, &err);
    else
        control_request_reply(request, json_object());
}

static void on_snapshot_done(void *opaque, int result, uint64_t bytes, const struct error *err)
{
    struct migrate_control *mc = opaque;
    struct control_request *request = mc->snapshot_request;
    mc->snapshot_request = NULL;
    close(mc->snapshot_fd);
    if (result < 0)
        control_request_fail_error(request, err);
    else
        control_request_reply(request, json_pack("{s:I}", "bytes", (json_int_t)bytes));
    if (mc->listener.ended)
        mc->listener.ended(mc->listener.opaque);
}

static void snapshot(void *opaque, struct control_request *request, json_t *params)
{
    struct migrate_control *mc = opaque;
    const struct snapshot_listener listener = {on_snapshot_done, mc};
    struct error err = {0};
    int fd = control_request_take_fd(request, json_object_get(params, "file"), &err);
    int rc = fd < 0 ? fd : 0;
    if (rc == 0 && machine_is_held(mc->machine))
        rc = error_set(&err, EBUSY, "a migration or snapshot of this machine is under way");
    if (rc == 0) {
        snapshot_writer_free(mc->snapshot);
        mc->snapshot = NULL;
        rc = snapshot_start(&mc->snapshot, mc->machine, mc->loop, fd, &listener, &err);
    }
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        control_request_fail_error(request, &err);
        return;
    }
    mc->snapshot_fd = fd;
    mc->snapshot_request = request;
}

static const struct control_method methods[] = {
    {"snapshot", snapshot},     {"migrate.start", start},     {"migrate.status", status},
    {"migrate.cancel", cancel}, {"migration.decide", decide}, {NULL, NULL},
};
static const char *const features[] = {"migrate", "migrate-sockets", "snapshot", NULL};

// ---- life ----

int migrate_control_create(struct migrate_control **out, uv_loop_t *loop, struct machine *machine,
                           struct control *control, const struct migrate_control_listener *listener,
                           struct error *err)
{
    struct migrate_control *mc = calloc(1, sizeof(*mc));
    if (!mc)
        return error_set_errno(err, ENOMEM, "preparing for migrations");
    mc->loop = loop;
    mc->machine = machine;
    mc->control = control;
    mc->listener = *listener;
    mc->service = (struct control_service){.methods = methods, .features = features, .opaque = mc};
    control_add_service(control, &mc->service);
    *out = mc;
    return 0;
}

bool migrate_control_is_busy(const struct migrate_control *mc)
{
    return mc && (mc->busy || mc->snapshot_request);
}

void migrate_control_machine_stopped(struct migrate_control *mc)
{
    if (mc && mc->busy) // a snapshot ends by itself: the machine stands until then
        migration_source_abandon(mc->source);
}

void migrate_control_destroy(struct migrate_control *mc)
{
    if (!mc)
        return;
    migration_source_free(mc->source);
    snapshot_writer_free(mc->snapshot);
    if (mc->snapshot_request) { // its answer was left out
        close(mc->snapshot_fd);
        control_request_fail(mc->snapshot_request, "failed", "the machine ended");
    }
    free(mc);
}
