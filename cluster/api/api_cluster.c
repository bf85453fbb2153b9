// cluster.init, status, hosts, token, drain, undrain, remove
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cluster/api/api.h"
#include "cluster/manager/moves.h"
#include "cluster/store/store_admin.h"

// ---- init ----

static int take_time(const json_t *params, const char *name, uint64_t *ns, struct error *err)
{
    const json_t *value = json_object_get(params, name);
    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) <= 0)
        return error_set(err, EINVAL, "\"%s\" must be a number of nanoseconds", name);
    *ns = (uint64_t)json_integer_value(value);
    return 0;
}

int api_take_settings(const json_t *params, uint64_t election_max_ns,
                      struct settings_record *settings, struct error *err)
{
    settings_default(settings);
    int r = take_time(params, "lease_ns", &settings->lease_ns, err);
    if (!r)
        r = take_time(params, "deadline_ns", &settings->deadline_ns, err);
    if (!r)
        r = take_time(params, "renew_ns", &settings->renew_ns, err);
    if (!r)
        r = take_time(params, "stop_ns", &settings->stop_ns, err);
    return r ? r : settings_check(settings, election_max_ns, err);
}

int api_cluster_init(struct api_call *call)
{
    struct settings_record settings;
    struct change change;
    struct uuid uuid;
    uint64_t revision;
    int r = api_take_settings(call->params, call->api->election_max_ns, &settings, &call->err);
    if (!r && uuid_generate_random(&uuid))
        r = error_set(&call->err, EIO, "this host gives no random bytes");
    if (r)
        return r;
    uuid_format(&uuid, settings.cluster);
    change_clear(&change);
    change_compare(&change, RECORD_SETTINGS, "", 0);
    change_put(&change, RECORD_SETTINGS, "")->settings = settings;
    switch (exchange_commit(&call->exchange, &change, &revision, &call->err)) {
    case CHANGE_COMMITTED:
        call->result = json_pack("{s:s}", "cluster", settings.cluster);
        return 0;
    case CHANGE_REFUSED:
        call->code = "wrong-state";
        return error_set(&call->err, EEXIST, "this cluster is set up already");
    default:
        return error_prefix(&call->err, "it isn't known whether it was done");
    }
}

// ---- looking ----

static json_t *settings_json(const struct settings_record *s)
{
    return json_pack("{s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:i}", "cluster", s->cluster,
                     "generation", (json_int_t)s->generation, "held", s->held, "lease_ns",
                     (json_int_t)s->lease_ns, "deadline_ns", (json_int_t)s->deadline_ns, "renew_ns",
                     (json_int_t)s->renew_ns, "stop_ns", (json_int_t)s->stop_ns, "drift_ppm",
                     (int)s->drift_ppm);
}

static const char *host_state(const struct host_entry *host)
{
    if (!host->life.mod)
        return "unknown";
    if (host->life.value.life.unreported && !host->life.value.life.declared_dead)
        return "unreported";
    if (host->life.value.life.fenced)
        return "dead";
    return host->host.value.host.draining ? "drained" : "alive";
}

// The hosts of before a restore that nobody has heard of since.
static json_t *unreported_json(const struct record_view *view)
{
    json_t *list = json_array();
    for (size_t i = 0; i < view->host_count; i++)
        if (strcmp(host_state(&view->hosts[i]), "unreported") == 0)
            json_array_append_new(list, json_string(view->hosts[i].name));
    return list;
}

// What the host's member of the store is: "leader", "voter", "learner", "leaving", "joining"; or
// "client" where it is a client host; or "" where nothing is known of it.
static const char *role_of(const json_t *members, const char *name)
{
    const json_t *member;
    size_t i;
    json_array_foreach(json_object_get(members, "members"), i, member)
    {
        const char *other = json_string_value(json_object_get(member, "name"));
        if (other && strcmp(other, name) == 0)
            return json_string_value(json_object_get(member, "role"));
    }
    json_array_foreach(json_object_get(members, "client_hosts"), i, member)
    {
        const char *other = json_string_value(json_object_get(member, "name"));
        if (other && strcmp(other, name) == 0)
            return "client";
    }
    return "";
}

// Facts for people: all but the long list of the processor's features.
static void add_facts(json_t *object, const struct host_record *about)
{
    static const char *const shown[] = {"labels", "pools",     "nets",        "cpu_level",
                                        "cpu_id", "cpu_ratio", "memory_ratio"};
    json_t *facts = about->facts ? json_loads(about->facts, 0, NULL) : NULL;
    for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
        if (json_object_get(facts, shown[i]))
            json_object_set(object, shown[i], json_object_get(facts, shown[i]));
    json_decref(facts);
}

static json_t *host_json(const struct record_view *view, const struct host_entry *host,
                         const json_t *members)
{
    const struct host_record *about = &host->host.value.host;
    uint64_t used = 0, reserved = 0;
    int machines = 0, cpus = 0;
    for (size_t i = 0; i < view->machine_count; i++) {
        const struct machine_entry *entry = &view->machines[i];
        const struct migration_record *migration = &entry->owner.value.owner.migration;
        bool comes = migration->stage == MIGRATION_RESERVED ||
                     migration->stage == MIGRATION_INCOMING ||
                     migration->stage == MIGRATION_SWITCHING;
        if (entry->owner.mod && comes && strcmp(migration->target, host->name) == 0)
            reserved += entry->machine.value.machine.memory;
        if (!entry->owner.mod || strcmp(entry->owner.value.owner.host, host->name) != 0)
            continue;
        used += entry->machine.value.machine.memory;
        cpus += (int)entry->machine.value.machine.cpus;
        machines++;
    }
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:I, s:I, s:I, s:i, s:s, s:s}", "name",
                  host->name, "state", host_state(host), "role", role_of(members, host->name),
                  "incarnation", (json_int_t)host->life.value.life.incarnation, "cpus",
                  (int)about->cpus, "cpus_used", cpus, "memory", (json_int_t)about->memory,
                  "memory_used", (json_int_t)used, "memory_reserved", (json_int_t)reserved,
                  "machines", machines, "version", about->version, "address", about->address);
    add_facts(object, about);
    return object;
}

int api_cluster_hosts(struct api_call *call)
{
    json_t *members = api_store_json(call, REQUEST_MEMBERS), *list;
    if (!members)
        return -call->err.code;
    int r = api_read(call);
    list = json_array();
    for (size_t i = 0; !r && i < call->view.host_count; i++)
        json_array_append_new(list, host_json(&call->view, &call->view.hosts[i], members));
    json_decref(members);
    call->result = json_pack("{s:o}", "hosts", list);
    return r;
}

// A host that is a member has nothing to join.
int api_cluster_join(struct api_call *call)
{
    call->code = "wrong-state";
    return error_set(&call->err, EEXIST,
                     "this host is a %s of a cluster already (`ferry cluster status`)",
                     call->api->client_host ? "client" : "member");
}

int api_cluster_restore(struct api_call *call)
{
    call->code = "wrong-state";
    return error_set(
        &call->err, EEXIST,
        "this host belongs to a cluster: restore on one whose ferryd has an empty data "
        "directory");
}

int api_cluster_status(struct api_call *call)
{
    json_t *members = api_store_json(call, REQUEST_MEMBERS);
    if (!members)
        return -call->err.code;
    int r = api_read(call);
    const struct record_view *view = &call->view;
    int alive = 0, running = 0, voters = 0, machines = 0, deleted = 0;
    struct moves moves = {0};
    if (!r && moves_count(&moves, view))
        r = error_set(&call->err, ENOMEM, "out of memory");
    size_t i;
    const json_t *member;
    for (i = 0; i < view->host_count; i++)
        alive += view->hosts[i].life.mod && !view->hosts[i].life.value.life.fenced;
    for (i = 0; i < view->machine_count; i++) {
        const struct machine_entry *entry = &view->machines[i];
        machines += entry->machine.mod != 0;
        deleted += entry->tombstone.mod && !entry->machine.mod;
        running += strcmp(entry->state.value.state.state, "running") == 0;
    }
    json_array_foreach(json_object_get(members, "members"), i, member)
    {
        const char *role = json_string_value(json_object_get(member, "role"));
        voters += role && (strcmp(role, "voter") == 0 || strcmp(role, "leader") == 0);
    }
    if (!r) {
        call->result =
            json_pack("{s:o, s:o, s:I, s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}",
                      "unreported", unreported_json(view), "settings",
                      settings_json(&view->settings.value.settings), "revision",
                      (json_int_t)view->revision, "manager", view->manager.value.manager.host,
                      "members", json_incref(json_object_get(members, "members")), "client_hosts",
                      (int)json_array_size(json_object_get(members, "client_hosts")), "voters",
                      voters, "may_fail", voters ? (voters - 1) / 2 : 0, "hosts",
                      (int)view->host_count, "hosts_alive", alive, "machines", machines,
                      "machines_running", running, "machines_deleted", deleted, "moves",
                      (int)moves.all, "moves_waiting", (int)moves.waiting_count);
    }
    moves_free(&moves);
    json_decref(members);
    return r;
}

// ---- after a restore ----

static int fill_release(struct api_call *call, struct change *change)
{
    const struct settings_record *old = &call->view.settings.value.settings;
    if (!old->held)
        return 1;
    change_compare(change, RECORD_SETTINGS, "", call->view.settings.mod);
    struct settings_record *new = &change_put(change, RECORD_SETTINGS, "")->settings;
    *new = *old;
    new->held = false;
    return 0;
}

// A person says that nothing of the old cluster runs. Leases that it gave just before it ended have
// to be over as well: this ferryd started after that.
int api_cluster_release(struct api_call *call)
{
    int r = api_read(call);
    if (r)
        return r;
    const struct settings_record *settings = &call->view.settings.value.settings;
    uint64_t up = clock_boottime_ns() - call->api->started_at;
    if (settings->held && up < settings->lease_ns) {
        call->code = "wrong-state";
        return error_set(&call->err, EAGAIN,
                         "leases of the old cluster may not be over yet: try again in %.1f s",
                         (double)(settings->lease_ns - up) / 1e9);
    }
    return api_change(call, fill_release);
}

// ---- members and drains ----

int api_cluster_token(struct api_call *call)
{
    char token[STORE_TOKEN_SIZE];
    uint64_t ttl = 3600 * NSEC_PER_SEC;
    struct record none;
    int r = take_time(call->params, "ttl_ns", &ttl, &call->err);
    if (!r)
        r = exchange_get(&call->exchange, RECORD_SETTINGS, "", &none, &call->err);
    if (r)
        return r;
    enum store_status status = store_admin_token(call->exchange.client, ttl / NSEC_PER_SEC,
                                                 call->api->ca, token, &call->err);
    if (status != STORE_OK)
        return call->err.code
                   ? -call->err.code
                   : error_set(&call->err, EAGAIN, "store: %s", store_status_text(status));
    call->result = json_pack("{s:s}", "token", token);
    return 0;
}

static int fill_drain(struct api_call *call, struct change *change, bool draining)
{
    const char *name = api_text(call, "host", true);
    const struct host_entry *host = name ? record_view_host(&call->view, name) : NULL;
    if (!name)
        return -call->err.code;
    if (!host || !host->host.mod)
        return error_set(&call->err, ENOENT, "there is no host '%s' (`ferry cluster hosts`)", name);
    if (host->host.value.host.draining == draining)
        return 1;
    change_compare(change, RECORD_HOST, name, host->host.mod);
    struct host_record *new = &change_put(change, RECORD_HOST, name)->host;
    *new = host->host.value.host;
    new->draining = draining;
    return 0;
}

static int fill_draining(struct api_call *call, struct change *change)
{
    return fill_drain(call, change, true);
}

static int fill_undraining(struct api_call *call, struct change *change)
{
    return fill_drain(call, change, false);
}

int api_cluster_drain(struct api_call *call)
{
    return api_change(call, fill_draining);
}

int api_cluster_undrain(struct api_call *call)
{
    return api_change(call, fill_undraining);
}

// ---- removing a host ----

// A certificate that the cluster hasn't made carries no id that could be refused. One that another
// host has as well stays good.
static void refuse_certificate(struct api_call *call, const struct host_entry *host,
                               struct change *change)
{
    static const char digest[] = "sha256:";
    const char *certificate = host->host.value.host.certificate;
    if (!host->host.mod || strncmp(certificate, digest, sizeof(digest) - 1) != 0)
        return;
    for (size_t i = 0; i < call->view.host_count; i++)
        if (&call->view.hosts[i] != host && call->view.hosts[i].host.mod &&
            strcmp(call->view.hosts[i].host.value.host.certificate, certificate) == 0)
            return;
    struct refused_record *refused =
        &change_put(change, RECORD_REFUSED, certificate + sizeof(digest) - 1)->refused;
    snprintf(refused->host, sizeof(refused->host), "%s", host->name);
}

// Only a dead one, which no record names any more: none can come to name it, since whoever would
// write that compares that it isn't fenced.
static int fill_removal(struct api_call *call, struct change *change)
{
    const char *name = api_text(call, "host", true);
    const struct host_entry *host = name ? record_view_host(&call->view, name) : NULL;
    if (!name)
        return -call->err.code;
    if (!host || (!host->host.mod && !host->life.mod))
        return 1;
    call->code = "wrong-state";
    if (host->life.value.life.unreported && !host->life.value.life.declared_dead)
        return error_set(&call->err, EBUSY,
                         "host '%s' hasn't joined since the restore: `ferry cluster declare-dead "
                         "%s` says that it never will",
                         name, name);
    if (host->life.mod && !host->life.value.life.fenced)
        return error_set(&call->err, EBUSY,
                         "host '%s' is alive: drain it, switch its ferryd off, and wait until it "
                         "counts as dead",
                         name);
    for (size_t i = 0; i < call->view.machine_count; i++) {
        const struct owner_record *owner = &call->view.machines[i].owner.value.owner;
        if (call->view.machines[i].owner.mod && strcmp(owner->host, name) == 0)
            return error_set(&call->err, EBUSY,
                             "host '%s' still has a machine, '%s', which fits nowhere else", name,
                             call->view.machines[i].machine.value.machine.name);
    }
    call->code = NULL;
    change_compare(change, RECORD_LIFE, name, host->life.mod);
    change_remove(change, RECORD_LIFE, name);
    change_remove(change, RECORD_RENEWAL, name);
    change_remove(change, RECORD_HOST, name);
    refuse_certificate(call, host, change);
    return 0;
}

enum { REMOVED_AT_ONCE = 16 };

// Those of that name, of one list of what the store says of its members.
static unsigned ids_of(const json_t *list, const char *name, uint64_t *ids, unsigned count)
{
    const json_t *member;
    size_t i;
    json_array_foreach(list, i, member)
    {
        const char *other = json_string_value(json_object_get(member, "name"));
        const char *hex = json_string_value(json_object_get(member, "id"));
        if (other && hex && strcmp(other, name) == 0 && count < REMOVED_AT_ONCE)
            ids[count++] = strtoull(hex, NULL, 16);
    }
    return count;
}

// When the removal was last looked at: what it has removed is still in the view.
static bool host_was_there(const struct api_call *call, const char *name)
{
    const struct host_entry *host = record_view_host(&call->view, name);
    return host && (host->host.mod || host->life.mod);
}

// Its member of the store goes too, so that the majority is one of those that are left.
static int remove_member(struct api_call *call, const char *name)
{
    struct byte_writer body;
    struct byte_reader answer;
    uint64_t ids[REMOVED_AT_ONCE];
    json_t *members = api_store_json(call, REQUEST_MEMBERS);
    if (!members)
        return -call->err.code;
    unsigned count = ids_of(json_object_get(members, "members"), name, ids, 0);
    count = ids_of(json_object_get(members, "client_hosts"), name, ids, count);
    json_decref(members);
    if (!count && !host_was_there(call, name)) {
        call->code = "not-found";
        return error_set(&call->err, ENOENT, "there is no host '%s' (`ferry cluster hosts`)", name);
    }
    if (!count)
        return 0;
    byte_writer_init(&body);
    byte_writer_u16(&body, (uint16_t)count);
    for (unsigned i = 0; i < count; i++)
        byte_writer_u64(&body, ids[i]);
    enum store_status status = store_client_request(call->exchange.client, REQUEST_MEMBER_REMOVE,
                                                    body.data, body.length, &answer, &call->err);
    byte_writer_free(&body);
    if (status == STORE_OK || status == STORE_MEMBER_NOT_FOUND)
        return 0;
    return error_set(&call->err, EAGAIN,
                     "the host is removed, its member of the store not yet (%s): try again",
                     store_status_text(status));
}

int api_cluster_remove(struct api_call *call)
{
    int r = api_change(call, fill_removal);
    return r ? r : remove_member(call, api_text(call, "host", true));
}
