// The store as its clients meet it: every request takes its time, may be lost on the way, may be
// done long after its client has given up, and its answer may be lost.
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { TIMEOUT_MS = 1500 };

void store_view_copy(struct record_view *to, const struct record_view *from)
{
    struct record record;
    record_view_clear(to);
    to->revision = from->revision;
    to->settings = from->settings;
    to->manager = from->manager;
    for (size_t i = 0; i < from->host_count; i++) {
        const struct host_entry *host = &from->hosts[i];
        const struct record *parts[] = {&host->host, &host->life, &host->renewal};
        for (int p = 0; p < 3; p++)
            if (parts[p]->mod && (record = *parts[p], record_view_add(to, &record)))
                abort();
    }
    for (size_t i = 0; i < from->machine_count; i++) {
        const struct machine_entry *machine = &from->machines[i];
        const struct record *parts[] = {&machine->machine, &machine->owner, &machine->state,
                                        &machine->tombstone};
        for (int p = 0; p < 4; p++)
            if (parts[p]->mod && (record = *parts[p], record_view_add(to, &record)))
                abort();
    }
}

static uint64_t mod_of(const struct record_view *view, const struct record_key *key)
{
    const struct host_entry *host;
    const struct machine_entry *machine;
    switch (key->kind) {
    case RECORD_MANAGER:
        return view->manager.mod;
    case RECORD_HOST:
        host = record_view_host(view, key->name);
        return host ? host->host.mod : 0;
    case RECORD_LIFE:
        host = record_view_host(view, key->name);
        return host ? host->life.mod : 0;
    case RECORD_RENEWAL:
        host = record_view_host(view, key->name);
        return host ? host->renewal.mod : 0;
    case RECORD_MACHINE:
        machine = record_view_machine(view, key->name);
        return machine ? machine->machine.mod : 0;
    case RECORD_OWNER:
        machine = record_view_machine(view, key->name);
        return machine ? machine->owner.mod : 0;
    case RECORD_TOMBSTONE:
        machine = record_view_machine(view, key->name);
        return machine ? machine->tombstone.mod : 0;
    default:
        return 0;
    }
}

static void trace_change(struct world *world, const struct change *change, bool done)
{
    for (unsigned i = 0; world->trace && i < change->put_count; i++) {
        const struct change_put *put = &change->puts[i];
        char key[RECORD_KEY_SIZE], *text;
        if (put->key.kind == RECORD_RENEWAL)
            continue;
        record_key_format(&put->key, key);
        text = put->remove ? NULL : record_encode(put->key.kind, &put->value);
        world_trace(world, "store %s %s %s", done ? "puts" : "refuses", key, text ? text : "-");
        free(text);
    }
}

static void note_given(struct world *world, const struct change *change)
{
    for (unsigned i = 0; i < change->put_count; i++) {
        const struct change_put *put = &change->puts[i];
        const struct owner_record *owner = &put->value.owner;
        if (put->key.kind != RECORD_OWNER || put->remove || owner->stage != OWNER_STARTED)
            continue;
        struct machine *machine = &world->machines[machine_index(world, put->key.name)];
        if (machine->given_count == EPOCHS)
            continue;
        machine->given_epochs[machine->given_count] = owner->epoch;
        machine->given_hosts[machine->given_count++] = owner->host[1] - '0';
    }
}

static bool is_declared_dead(const struct world *world, const struct host *host)
{
    const struct host_entry *entry = record_view_host(&world->store, host->name);
    return entry && entry->life.value.life.declared_dead;
}

// A deleted machine is forgotten only when no host has anything of it, but what never ran and can't
// any more: that ends by itself.
static void judge_forgotten(struct world *world, const char *uuid)
{
    int machine = machine_index(world, uuid);
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *process = &world->processes[i];
        if (process->phase == PROCESS_FREE || process->phase == PROCESS_INCOMING ||
            process->machine != machine || (process->phase != PROCESS_BEGUN && !process->on_host) ||
            is_declared_dead(world, &world->hosts[process->host]))
            continue;
        world_fail(world, "machine %d is forgotten while %s has a process of it (epoch %lu)",
                   machine, world->hosts[process->host].name, process->epoch);
    }
}

static enum change_outcome commit(struct world *world, const struct change *change)
{
    bool holds = true;
    for (unsigned i = 0; i < change->compare_count; i++)
        holds = holds && mod_of(&world->store, &change->compares[i].key) == change->compares[i].mod;
    trace_change(world, change, holds);
    if (!holds)
        return CHANGE_REFUSED;
    for (unsigned i = 0; i < change->put_count; i++)
        world->fences +=
            change->puts[i].key.kind == RECORD_LIFE && change->puts[i].value.life.fenced;
    for (unsigned i = 0; i < change->put_count; i++)
        if (change->puts[i].key.kind == RECORD_TOMBSTONE && change->puts[i].remove)
            judge_forgotten(world, change->puts[i].key.name);
    note_given(world, change);
    if (record_view_apply(&world->store, change, ++world->revision))
        abort();
    return CHANGE_COMMITTED;
}

void store_client_change(struct world *world, const struct change *change)
{
    commit(world, change);
}

static sim_time delay(struct world *world, const struct host *host, enum request_kind kind,
                      bool is_answer)
{
    bool arbiter = kind == REQUEST_READ_ARBITER || kind == REQUEST_ARBITER;
    if (arbiter && host->switch_lags_until > world->events.now)
        return sim_random_between(&world->faults, 0, 2 * SIM_SECOND);
    if (host->lagging && host->answers_lag && is_answer)
        return sim_random_between(&world->faults, SIM_SECOND / 2, 14 * SIM_SECOND / 10);
    if (host->lagging && !host->answers_lag)
        return sim_random_between(&world->faults, 0,
                                  sim_random_chance(&world->faults, 300000) ? 4 * SIM_SECOND
                                                                            : SIM_SECOND / 2);
    if (world->faulty && sim_random_chance(&world->faults, world->slow_rate))
        return sim_random_between(&world->faults, 0, 6 * SIM_SECOND);
    return sim_random_between(&world->random, 100, 3000);
}

static bool is_lost(struct world *world, bool cut)
{
    return cut || (world->faulty && sim_random_chance(&world->faults, world->loss_rate));
}

static struct request *find(struct world *world, uint64_t argument)
{
    struct request *request = &world->requests[argument % REQUESTS];
    return request->used && request->number == argument / REQUESTS ? request : NULL;
}

static uint64_t argument_of(const struct world *world, const struct request *request)
{
    return (uint64_t)request->number * REQUESTS + (uint64_t)(request - world->requests);
}

static void forget(struct request *request)
{
    record_view_free(&request->view);
    request->used = false;
}

// The answer arrives, or the time-out: whichever is first, once.
static void answer(void *owner, uint64_t argument)
{
    struct request *request = find(owner, argument);
    if (!request || request->done)
        return;
    request->done = true;
    host_answered(&((struct world *)owner)->hosts[request->host], request);
    if (request->executed)
        forget(request);
}

static void time_out(void *owner, uint64_t argument)
{
    struct request *request = find(owner, argument);
    if (!request || request->done)
        return;
    request->done = true;
    request->outcome = CHANGE_UNKNOWN;
    request->revision = 0;
    host_answered(&((struct world *)owner)->hosts[request->host], request);
    if (request->executed)
        forget(request);
}

static void execute(void *owner, uint64_t argument)
{
    struct world *world = owner;
    struct request *request = find(world, argument);
    struct host *host = &world->hosts[request->host];
    if (world->store_stalled_until > world->events.now) {
        sim_events_add(&world->events, world->store_stalled_until - world->events.now + 1, execute,
                       world, argument);
        return;
    }
    enum change_outcome outcome = CHANGE_COMMITTED;
    if (!request->reads)
        outcome = commit(world, &request->change);
    request->executed = true;
    if (request->done) {
        forget(request);
        return;
    }
    request->outcome = outcome;
    request->revision = world->revision;
    if (request->reads)
        store_view_copy(&request->view, &world->store);
    if (is_lost(world, host->cut_from_store))
        return; // the time-out comes
    sim_events_add(&world->events, delay(world, host, request->kind, true), answer, world,
                   argument);
}

void store_send(struct host *host, const struct request *what)
{
    struct world *world = host->world;
    struct request *request = NULL;
    for (int i = 0; i < REQUESTS && !request; i++)
        if (!world->requests[i].used)
            request = &world->requests[i];
    if (!request)
        abort(); // the table is for far more than can be under way
    *request = *what;
    request->used = true;
    request->number = ++world->next_number;
    uint64_t argument = argument_of(world, request);
    sim_events_add(&world->events, TIMEOUT_MS * SIM_MILLISECOND, time_out, world, argument);
    if (is_lost(world, host->cut_to_store))
        request->executed = true; // never will be
    else
        sim_events_add(&world->events, delay(world, host, request->kind, false), execute, world,
                       argument);
}
