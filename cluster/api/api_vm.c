// vm.create, list, show, start, stop, delete, migrate, explain
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/api/api.h"
#include "cluster/api/api_waits.h"
#include "cluster/manager/placer.h"
#include "cluster/records/wishes.h"

enum { LIST_LIMIT = 1000 }; // of one answer, which is a line

// ---- finding ----

const struct machine_entry *api_find_machine(struct api_call *call)
{
    const char *name = api_text(call, "name", true);
    if (!name)
        return NULL;
    for (size_t i = 0; i < call->view.machine_count; i++) {
        const struct machine_entry *entry = &call->view.machines[i];
        if (entry->machine.mod && (strcmp(entry->machine.value.machine.name, name) == 0 ||
                                   strcmp(entry->uuid, name) == 0))
            return entry;
    }
    call->code = "not-found";
    error_set(&call->err, ENOENT, "there is no machine '%s' (`ferry vm ls` lists them)", name);
    return NULL;
}

// ---- looking ----

const char *api_machine_state(const struct record_view *view, const struct machine_entry *entry)
{
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct state_record *state = &entry->state.value.state;
    if (entry->tombstone.mod)
        return "deleting";
    if (record_view_owner_is_over(view, owner))
        return "lost";
    if (owner->stage == OWNER_NONE && entry->machine.value.machine.wish == WISH_RUNNING)
        return "pending";
    // Nobody's: what a host that is lost said last doesn't count any more.
    if (owner->stage == OWNER_NONE)
        return entry->state.mod && strcmp(state->state, "failed") == 0 ? "failed" : "stopped";
    return entry->state.mod && strcmp(state->host, owner->host) == 0 ? state->state : "starting";
}

static json_t *machine_json(struct waits *waits, const struct machine_entry *entry)
{
    char text[RECORD_TEXT_SIZE];
    bool stuck = waits_text(waits, entry, text);
    const struct machine_record *machine = &entry->machine.value.machine;
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct state_record *state = &entry->state.value.state;
    const char *now = api_machine_state(waits->view, entry);
    // Why it waited, before it was stopped, is nothing to look at any more.
    bool stale = strcmp(now, "stopped") == 0 && strcmp(state->state, "pending") == 0;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:I, s:s, s:b, s:s, s:i, s:s, s:b, s:i}", "name",
        machine->name, "uuid", entry->uuid, "wish", wish_name(machine->wish), "state", now, "host",
        owner->host, "incarnation", (json_int_t)owner->incarnation, "epoch",
        (json_int_t)owner->epoch, "cpus", (int)machine->cpus, "memory", (json_int_t)machine->memory,
        "restart", restart_policy_name(machine->restart), "ha", !machine->no_ha, "reason",
        stale ? "" : state->reason, "restarts", (int)state->restarts, "waits", text, "stuck", stuck,
        "place", (int)moves_place(&waits->moves, waits->view, entry));
}

// One that was deleted, of which hosts that are lost may have something yet.
static bool is_buried(const struct machine_entry *entry)
{
    return entry->tombstone.mod && !entry->machine.mod;
}

static json_t *buried_json(const struct machine_entry *entry)
{
    const struct tombstone_record *tombstone = &entry->tombstone.value.tombstone;
    json_t *left = json_array();
    char hosts[RECORD_TEXT_SIZE] = "";
    size_t length = 0;
    for (unsigned i = 0; i < tombstone->left.count; i++) {
        json_array_append_new(left, json_string(tombstone->left.hosts[i].host));
        if (length < sizeof(hosts))
            length += (size_t)snprintf(hosts + length, sizeof(hosts) - length, "%s'%s'",
                                       i ? ", " : "", tombstone->left.hosts[i].host);
    }
    char text[2 * RECORD_TEXT_SIZE];
    snprintf(text, sizeof(text), "for host %s to confirm that nothing of it is left there", hosts);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:s, s:s, s:b}", "name", tombstone->name,
                     "uuid", entry->uuid, "wish", "deleted", "state", "deleted", "host", "",
                     "epoch", (json_int_t)tombstone->epoch, "left", left, "reason",
                     tombstone->reason, "waits", text, "stuck", 0);
}

// Which machines are listed.
struct page {
    bool all, more;
    const char *host; // only those on it; NULL: wherever
    const char *after;
    char last[UUID_TEXT_SIZE]; // up to it, with `more`
    unsigned limit;            // 0: none
};

static int take_page(struct api_call *call, struct page *page)
{
    const json_t *limit = json_object_get(call->params, "limit");
    json_int_t number = limit ? json_integer_value(limit) : 0;
    page->host = api_text(call, "host", false);
    page->after = api_text(call, "after", false);
    page->all = json_is_true(json_object_get(call->params, "all"));
    if (limit && (!json_is_integer(limit) || number < 1))
        error_set(&call->err, EINVAL, "\"limit\" must be a number from 1 on");
    if (page->after && strlen(page->after) >= UUID_TEXT_SIZE)
        error_set(&call->err, EINVAL, "\"after\" must be a UUID");
    page->after = page->after ? page->after : "";
    page->limit = number < LIST_LIMIT ? (unsigned)number : LIST_LIMIT;
    return -call->err.code;
}

static bool is_in_page(const struct page *page, const struct machine_entry *entry)
{
    if (strcmp(entry->uuid, page->after) <= 0 ||
        (page->more && strcmp(entry->uuid, page->last) > 0))
        return false;
    if (!entry->machine.mod)
        return page->all && !page->host && is_buried(entry);
    return !page->host || strcmp(entry->owner.value.owner.host, page->host) == 0;
}

// A page needs little of the store, unless one of its machines waits for others.
static int read_page(struct api_call *call, struct page *page)
{
    if (!page->limit || page->host)
        return api_read(call);
    int r = exchange_read_page(&call->exchange, page->after, page->limit, &call->view, page->last,
                               &page->more, &call->err);
    if (!r && !call->view.settings.mod)
        return api_read(call); // which says what is wrong
    for (size_t i = 0; i < call->view.machine_count && !r; i++)
        if (waits_may(&call->view, &call->view.machines[i]))
            return api_read(call);
    return r;
}

// With the last machine of one that is full, to go on behind.
static json_t *list_page(struct api_call *call, struct page *page, struct waits *waits)
{
    json_t *list = json_array();
    for (size_t i = 0; i < call->view.machine_count; i++) {
        const struct machine_entry *entry = &call->view.machines[i];
        if (!is_in_page(page, entry))
            continue;
        if (page->host && page->limit && json_array_size(list) == page->limit) {
            page->more = true;
            break;
        }
        json_array_append_new(list,
                              entry->machine.mod ? machine_json(waits, entry) : buried_json(entry));
        if (page->host)
            snprintf(page->last, sizeof(page->last), "%s", entry->uuid);
    }
    return list;
}

int api_vm_list(struct api_call *call)
{
    struct waits waits = {0};
    struct page page = {0};
    int r = take_page(call, &page);
    if (!r)
        r = read_page(call, &page);
    if (!r && waits_init(&waits, &call->view))
        r = error_set(&call->err, ENOMEM, "out of memory");
    if (!r)
        call->result = json_pack("{s:o, s:I, s:b, s:s}", "machines", list_page(call, &page, &waits),
                                 "revision", (json_int_t)call->view.revision, "more", page.more,
                                 "last", page.more ? page.last : "");
    waits_free(&waits);
    return r;
}

// A deleted one has its UUID alone: its name may be another's.
static const struct machine_entry *find_buried(struct api_call *call)
{
    const char *uuid = api_text(call, "name", true);
    const struct machine_entry *entry = uuid ? record_view_machine(&call->view, uuid) : NULL;
    return entry && is_buried(entry) ? entry : NULL;
}

int api_vm_show(struct api_call *call)
{
    int r = api_read_machine(call);
    // Places in the queue are among all.
    if (!r && call->view.machine_count && waits_may(&call->view, &call->view.machines[0]))
        r = api_read(call);
    const struct machine_entry *entry = r ? NULL : find_buried(call);
    if (entry) {
        call->result = buried_json(entry);
        return 0;
    }
    entry = r ? NULL : api_find_machine(call);
    if (!entry)
        return -call->err.code;
    struct waits waits;
    if (waits_init(&waits, &call->view) == 0)
        call->result = machine_json(&waits, entry);
    waits_free(&waits);
    if (!call->result)
        return error_set(&call->err, ENOMEM, "out of memory");
    const char *description = entry->machine.value.machine.description;
    const char *placement = entry->machine.value.machine.placement;
    if (description)
        json_object_set_new(call->result, "description", json_loads(description, 0, NULL));
    if (placement)
        json_object_set_new(call->result, "placement", json_loads(placement, 0, NULL));
    const struct migration_record *migration = &entry->owner.value.owner.migration;
    if (migration->stage != MIGRATION_NONE)
        json_object_set_new(call->result, "migration",
                            json_pack("{s:s, s:s, s:s}", "stage",
                                      migration_stage_name(migration->stage), "id", migration->id,
                                      "target", migration->target));
    const struct host_entry *host = record_view_host(&call->view, entry->owner.value.owner.host);
    if (host && host->host.mod)
        json_object_set_new(call->result, "address", json_string(host->host.value.host.address));
    // Whether its process, console and logs are this host's.
    json_object_set_new(call->result, "here",
                        json_boolean(strcmp(entry->owner.value.owner.host, call->api->host) == 0));
    if (entry->machine.value.machine.move_to[0])
        json_object_set_new(call->result, "move_to",
                            json_string(entry->machine.value.machine.move_to));
    if (entry->machine.value.machine.host[0])
        json_object_set_new(call->result, "only_host",
                            json_string(entry->machine.value.machine.host));
    return 0;
}

// ---- creating ----

// What a create asks for; the texts it owns are to be freed, also after an error.
static int read_wish(struct api_call *call, struct machine_record *machine)
{
    const json_t *description = json_object_get(call->params, "description");
    const json_t *placement = json_object_get(call->params, "placement");
    const char *name = api_text(call, "name", true), *host = api_text(call, "host", false);
    const char *restart = api_text(call, "restart", false);
    const json_t *cpus = json_object_get(description, "cpus");
    const json_t *memory = json_object_get(description, "memory");
    if (call->err.code)
        return -call->err.code;
    if (!name_is_valid(name))
        return error_set(&call->err, EINVAL,
                         "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})", name);
    if (!json_is_integer(cpus) || !json_is_integer(memory) || json_integer_value(cpus) < 1 ||
        json_integer_value(cpus) > 1024 || json_integer_value(memory) < 1)
        return error_set(&call->err, EINVAL,
                         "\"description\" must have \"cpus\" and \"memory\" as numbers");
    *machine = (struct machine_record){
        .restart = RESTART_ON_FAILURE,
        .wish = json_is_false(json_object_get(call->params, "start")) ? WISH_STOPPED : WISH_RUNNING,
        .cpus = (uint32_t)json_integer_value(cpus),
        .memory = (uint64_t)json_integer_value(memory),
    };
    const json_t *ha = json_object_get(call->params, "ha");
    machine->no_ha = json_is_false(ha);
    int r = ha && !json_is_boolean(ha)
                ? error_set(&call->err, EINVAL, "\"ha\" must be true or false")
                : wishes_check(placement, description, &call->err);
    if (r)
        return r;
    if (restart && restart_policy_parse(restart, &machine->restart))
        return error_set(&call->err, EINVAL, "\"restart\" is always, on-failure or never");
    if (host && !name_is_valid(host))
        return error_set(&call->err, EINVAL, "'%s' is not the name of a host", host);
    snprintf(machine->name, sizeof(machine->name), "%s", name);
    snprintf(machine->host, sizeof(machine->host), "%s", host ? host : "");
    machine->description = json_dumps(description, JSON_COMPACT);
    machine->placement = placement ? json_dumps(placement, JSON_COMPACT) : NULL;
    return machine->description && (machine->placement || !placement)
               ? 0
               : error_set(&call->err, ENOMEM, "out of memory");
}

// A request of before has made `uuid`: 1, or an error when that is another machine than is asked
// for.
static int check_name(struct api_call *call, const char *request, const char *name,
                      const char *uuid)
{
    struct record record;
    int r = exchange_get(&call->exchange, RECORD_MACHINE, uuid, &record, &call->err);
    if (r)
        return r;
    if (record.mod && strcmp(record.value.machine.name, name) != 0) {
        call->code = "exists";
        r = error_set(&call->err, EEXIST,
                      "the request '%s' has made '%s', not '%s': take another id", request,
                      record.value.machine.name, name);
    }
    record_free(RECORD_MACHINE, &record.value);
    return r ? r : 1;
}

// Looks at what is there under the request's id and the name: 1 when the request was done before
// (by whomever), 0 when it can be tried, or an error.
static int look_for_earlier(struct api_call *call, const char *request, const char *name,
                            char uuid[UUID_TEXT_SIZE])
{
    struct record record;
    int r =
        request ? exchange_get(&call->exchange, RECORD_REQUEST, request, &record, &call->err) : 0;
    if (!r && request && record.mod) {
        snprintf(uuid, UUID_TEXT_SIZE, "%s", record.value.uuid.uuid);
        return check_name(call, request, name, uuid);
    }
    if (!r)
        r = exchange_get(&call->exchange, RECORD_NAME, name, &record, &call->err);
    if (!r && record.mod) {
        call->code = "exists";
        r = error_set(&call->err, EEXIST, "there is a machine named '%s'", name);
    }
    return r;
}

static enum change_outcome put_machine(struct api_call *call, const struct machine_record *machine,
                                       const char *request, const char *uuid)
{
    struct change change;
    uint64_t revision;
    change_clear(&change);
    change_compare(&change, RECORD_NAME, machine->name, 0);
    change_compare(&change, RECORD_MACHINE, uuid, 0);
    if (request) {
        change_compare(&change, RECORD_REQUEST, request, 0);
        snprintf(change_put(&change, RECORD_REQUEST, request)->uuid.uuid, UUID_TEXT_SIZE, "%s",
                 uuid);
    }
    snprintf(change_put(&change, RECORD_NAME, machine->name)->uuid.uuid, UUID_TEXT_SIZE, "%s",
             uuid);
    change_put(&change, RECORD_MACHINE, uuid)->machine = *machine;
    change_put(&change, RECORD_OWNER, uuid);
    return exchange_commit(&call->exchange, &change, &revision, &call->err);
}

static int create(struct api_call *call, const struct machine_record *machine, const char *request,
                  char uuid[UUID_TEXT_SIZE])
{
    struct uuid random;
    if (uuid_generate_random(&random))
        return error_set(&call->err, EIO, "this host gives no random bytes");
    char mine[UUID_TEXT_SIZE];
    uuid_format(&random, mine);
    for (int tries = 0; tries < 5; tries++) {
        int r = look_for_earlier(call, request, machine->name, uuid);
        if (r > 0)
            return 0;
        if (r == -EEXIST && tries) { // perhaps by the try before, of unknown outcome
            struct record record;
            struct error said = call->err;
            if (exchange_get(&call->exchange, RECORD_NAME, machine->name, &record, &call->err) ==
                    0 &&
                strcmp(record.value.uuid.uuid, mine) == 0) {
                call->code = NULL;
                snprintf(uuid, UUID_TEXT_SIZE, "%s", mine);
                return 0;
            }
            call->err = said;
        }
        if (r)
            return r;
        if (put_machine(call, machine, request, mine) == CHANGE_COMMITTED) {
            snprintf(uuid, UUID_TEXT_SIZE, "%s", mine);
            return 0;
        }
    }
    return error_prefix(&call->err, "it isn't known whether '%s' was created", machine->name);
}

int api_vm_create(struct api_call *call)
{
    struct machine_record machine = {0};
    char uuid[UUID_TEXT_SIZE];
    const char *request = api_text(call, "request", false);
    if (request && (!*request || strlen(request) >= RECORD_NAME_SIZE || strchr(request, '/')))
        return error_set(&call->err, EINVAL,
                         "\"request\" must be 1 to %d characters without a slash",
                         RECORD_NAME_SIZE - 1);
    int r = api_read_machine(call);
    if (!r)
        r = read_wish(call, &machine);
    if (!r)
        r = create(call, &machine, request, uuid);
    free(machine.description);
    free(machine.placement);
    if (!r)
        call->result = json_pack("{s:s, s:s}", "uuid", uuid, "name", machine.name);
    return r;
}

// ---- changing ----

static int fill_wish(struct api_call *call, struct change *change, enum machine_wish wish)
{
    const struct machine_entry *entry = api_find_machine(call);
    if (!entry)
        return -call->err.code;
    if (entry->tombstone.mod) {
        call->code = "wrong-state";
        return error_set(&call->err, EBUSY, "it is being deleted");
    }
    if (entry->machine.value.machine.wish == wish)
        return 1;
    change_compare(change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    struct machine_record *machine = &change_put(change, RECORD_MACHINE, entry->uuid)->machine;
    *machine = entry->machine.value.machine;
    machine->wish = wish;
    machine->wish_number++;
    if (wish == WISH_STOPPED)
        machine->move_to[0] = 0; // or it would move, long after, when it is started
    return 0;
}

static int fill_start(struct api_call *call, struct change *change)
{
    return fill_wish(call, change, WISH_RUNNING);
}

static int fill_stop(struct api_call *call, struct change *change)
{
    return fill_wish(call, change, WISH_STOPPED);
}

static int fill_delete(struct api_call *call, struct change *change)
{
    const struct machine_entry *entry = api_find_machine(call);
    if (!entry)
        return -call->err.code;
    if (entry->tombstone.mod)
        return 1;
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    change_compare(change, RECORD_TOMBSTONE, entry->uuid, 0);
    struct tombstone_record *tombstone =
        &change_put(change, RECORD_TOMBSTONE, entry->uuid)->tombstone;
    tombstone->epoch = entry->owner.value.owner.epoch;
    snprintf(tombstone->name, sizeof(tombstone->name), "%s", entry->machine.value.machine.name);
    return 0;
}

int api_vm_start(struct api_call *call)
{
    call->read = api_read_machine;
    return api_change(call, fill_start);
}

int api_vm_stop(struct api_call *call)
{
    call->read = api_read_machine;
    return api_change(call, fill_stop);
}

int api_vm_delete(struct api_call *call)
{
    call->read = api_read_machine;
    return api_change(call, fill_delete);
}

static int refuse_move(struct api_call *call, const struct machine_entry *entry, const char *to)
{
    const struct machine_record *machine = &entry->machine.value.machine;
    const struct owner_record *owner = &entry->owner.value.owner;
    const struct host_entry *target = record_view_host(&call->view, to);
    enum migration_stage stage = owner->migration.stage;
    call->code = "wrong-state";
    if (!target || !target->host.mod)
        return error_set(&call->err, ENOENT, "there is no host '%s' (`ferry cluster hosts`)", to);
    if (target->life.value.life.fenced || target->host.value.host.draining)
        return error_set(&call->err, EINVAL, "host '%s' is %s", to,
                         target->life.value.life.fenced ? "dead" : "drained");
    if (entry->tombstone.mod || machine->wish != WISH_RUNNING || owner->stage != OWNER_STARTED)
        return error_set(&call->err, EINVAL, "'%s' doesn't run", machine->name);
    if (machine->host[0] && strcmp(machine->host, to) != 0)
        return error_set(&call->err, EINVAL, "'%s' may run on '%s' only", machine->name,
                         machine->host);
    if (stage != MIGRATION_NONE && stage != MIGRATION_ABORTED)
        return error_set(&call->err, EBUSY, "'%s' is being moved to '%s'", machine->name,
                         owner->migration.target);
    call->code = NULL;
    return 0;
}

// Where the machine can go: `to`, if placement lets it, or with NULL the best host. The result is
// in `chosen`.
static int choose_target(struct api_call *call, const struct machine_entry *entry, const char *to,
                         char chosen[NAME_LIMIT + 1])
{
    struct placement *placement = placer_create(&call->view);
    struct placement_decision decision = {0};
    struct placement_verdict verdict = {0};
    char summary[RECORD_TEXT_SIZE];
    int r = !placement ? -ENOMEM
            : to       ? placement_explain_host(placement, entry->uuid, to, &verdict)
                       : placement_decide(placement, entry->uuid, &decision);
    snprintf(chosen, NAME_LIMIT + 1, "%s", to ? to : decision.host ? decision.host : "");
    if (r) {
        error_set_errno(&call->err, -r, "placement");
    } else if (to && verdict.reason != PLACEMENT_FITS) {
        waits_name_machine(&call->view, verdict.text, sizeof(verdict.text));
        call->code = "wrong-state";
        r = error_set(&call->err, EINVAL, "'%s' can't go to host '%s': %s",
                      entry->machine.value.machine.name, to, verdict.text);
    } else if (!to && !decision.host) {
        call->code = "wrong-state";
        r = error_set(&call->err, EINVAL, "'%s' can go nowhere: %s",
                      entry->machine.value.machine.name,
                      placement_summary(&decision, summary, sizeof(summary)));
    }
    placement_destroy(placement);
    return r;
}

// It is where it is asked to go; what was asked for before isn't wanted any more.
static int fill_stay(const struct machine_entry *entry, struct change *change)
{
    change_compare(change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    struct machine_record *machine = &change_put(change, RECORD_MACHINE, entry->uuid)->machine;
    *machine = entry->machine.value.machine;
    machine->move_to[0] = 0;
    return 0;
}

// Notes the wish; the manager begins, once.
static int fill_migrate(struct api_call *call, struct change *change)
{
    char chosen[NAME_LIMIT + 1];
    const char *to = api_text(call, "to", false);
    const struct machine_entry *entry = call->err.code ? NULL : api_find_machine(call);
    if (!entry)
        return -call->err.code;
    if (to && to[0] && strcmp(entry->owner.value.owner.host, to) == 0)
        return entry->machine.value.machine.move_to[0] ? fill_stay(entry, change) : 1;
    int r = to ? refuse_move(call, entry, to) : 0;
    if (!r)
        r = choose_target(call, entry, to, chosen);
    if (!r && !to)
        r = refuse_move(call, entry, chosen);
    if (r)
        return r;
    change_compare(change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    change_compare(change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    struct machine_record *machine = &change_put(change, RECORD_MACHINE, entry->uuid)->machine;
    *machine = entry->machine.value.machine;
    // Who asks for the same once more keeps the place in the queue.
    if (strcmp(machine->move_to, chosen) != 0)
        machine->move_asked = call->view.revision;
    snprintf(machine->move_to, sizeof(machine->move_to), "%s", chosen);
    json_decref(call->result);
    call->result = json_pack("{s:s}", "to", chosen);
    return 0;
}

int api_vm_migrate(struct api_call *call)
{
    return api_change(call, fill_migrate);
}

// A wish, as the move: the source's agent calls it off, if the switch isn't made yet.
static int fill_cancel(struct api_call *call, struct change *change)
{
    const struct machine_entry *entry = api_find_machine(call);
    if (!entry)
        return -call->err.code;
    const struct machine_record *machine = &entry->machine.value.machine;
    const struct migration_record *migration = &entry->owner.value.owner.migration;
    bool moves = migration->stage == MIGRATION_RESERVED || migration->stage == MIGRATION_INCOMING ||
                 migration->stage == MIGRATION_SWITCHING;
    if (!moves && !machine->move_to[0]) {
        call->code = "wrong-state";
        return error_set(&call->err, EINVAL, "'%s' isn't on the move", machine->name);
    }
    if (!machine->move_to[0] && strcmp(machine->cancel, migration->id) == 0)
        return 1;
    change_compare(change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    struct machine_record *after = &change_put(change, RECORD_MACHINE, entry->uuid)->machine;
    *after = *machine;
    after->move_to[0] = 0;
    if (moves)
        memcpy(after->cancel, migration->id, sizeof(after->cancel));
    return 0;
}

int api_vm_cancel_move(struct api_call *call)
{
    call->read = api_read_machine;
    return api_change(call, fill_cancel);
}

// ---- why it is where it is ----

struct verdicts {
    const struct record_view *view;
    json_t *list;
};

static int add_verdict(void *opaque, const struct placement_verdict *verdict)
{
    const struct verdicts *verdicts = opaque;
    char text[PLACEMENT_REASON_SIZE];
    snprintf(text, sizeof(text), "%s", verdict->text);
    waits_name_machine(verdicts->view, text, sizeof(text));
    json_t *one = json_pack("{s:s, s:s, s:s, s:I}", "host", verdict->host, "reason",
                            placement_reason_name(verdict->reason), "text", text, "score",
                            (json_int_t)verdict->score);
    return one && json_array_append_new(verdicts->list, one) == 0 ? 0 : -ENOMEM;
}

int api_vm_explain(struct api_call *call)
{
    struct placement_decision decision;
    char summary[RECORD_TEXT_SIZE] = "";
    int r = api_read(call);
    const struct machine_entry *entry = r ? NULL : api_find_machine(call);
    if (!entry)
        return -call->err.code;
    struct placement *placement = placer_create(&call->view);
    json_t *hosts = json_array();
    struct verdicts verdicts = {.view = &call->view, .list = hosts};
    r = placement ? placement_explain(placement, entry->uuid, add_verdict, &verdicts) : -ENOMEM;
    if (!r)
        r = placement_decide(placement, entry->uuid, &decision);
    if (r) {
        json_decref(hosts);
        placement_destroy(placement);
        return error_set_errno(&call->err, -r, "placement");
    }
    if (!decision.host)
        placement_summary(&decision, summary, sizeof(summary));
    struct waits waits;
    char text[RECORD_TEXT_SIZE] = "";
    if (waits_init(&waits, &call->view) == 0)
        waits_text(&waits, entry, text);
    waits_free(&waits);
    call->result =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "waits", text, "name",
                  entry->machine.value.machine.name, "host", entry->owner.value.owner.host, "best",
                  decision.host ? decision.host : "", "why_not", summary, "hosts", hosts);
    placement_destroy(placement);
    return 0;
}
