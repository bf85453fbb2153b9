// A run: what goes wrong and when, what people want of the machines, and the end, by which all that
// is wanted must run.
#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_fail(struct world *world, const char *format, ...)
{
    va_list arguments;
    if (world->failure[0])
        return;
    int n = snprintf(world->failure, sizeof(world->failure),
                     "at %lu.%06lu s: ", world->events.now / SIM_SECOND,
                     world->events.now % SIM_SECOND);
    va_start(arguments, format);
    vsnprintf(world->failure + n, sizeof(world->failure) - (size_t)n, format, arguments);
    va_end(arguments);
}

void world_trace(struct world *world, const char *format, ...)
{
    va_list arguments;
    if (!world->trace)
        return;
    printf("%4lu.%06lu ", world->events.now / SIM_SECOND, world->events.now % SIM_SECOND);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

// ---- clocks ----

uint64_t host_clock(const struct host *host)
{
    int64_t passed = (int64_t)(host->world->events.now - host->clock_base);
    return host->clock_offset + (uint64_t)(passed * 1000 + passed * host->ppm / 1000);
}

sim_time host_when(const struct host *host, uint64_t local)
{
    sim_time now = host->world->events.now;
    if (local <= host_clock(host))
        return now;
    uint64_t from_base = (local - host->clock_offset) * 1000 / (uint64_t)(1000000 + host->ppm) + 1;
    sim_time when = host->clock_base + from_base;
    return when > now ? when : now + 1;
}

static void change_rate(struct host *host)
{
    struct world *world = host->world;
    int64_t most = CLUSTER_IS_MUTANT(DRIFT_ABOVE_RHO) ? 200000 : world->settings.drift_ppm;
    host->clock_offset = host_clock(host);
    host->clock_base = world->events.now;
    host->ppm = (int64_t)sim_random_between(&world->faults, 0, (uint64_t)(2 * most)) - most;
    for (int i = 0; i < PROCESSES; i++)
        if (world->processes[i].phase != PROCESS_FREE && world->processes[i].host == host->index)
            process_rearm(&world->processes[i]);
}

// ---- faults ----

static struct host *any_host(struct world *world)
{
    return &world->hosts[sim_random_below(&world->faults, (uint64_t)world->host_count)];
}

// Mostly short, sometimes longer than any time-out.
static sim_time any_pause(struct world *world)
{
    return sim_random_chance(&world->faults, 600000)
               ? sim_random_between(&world->faults, 3 * SIM_SECOND, 12 * SIM_SECOND)
               : sim_random_between(&world->faults, 1000, 3 * SIM_SECOND);
}

static void pause_part(struct world *world, struct part *part, sim_time pause)
{
    if (part->up && part->paused_until < world->events.now + pause)
        part->paused_until = world->events.now + pause;
}

static void pause_processes(struct world *world, int host, sim_time pause, bool all)
{
    for (int i = 0; i < PROCESSES; i++)
        if (world->processes[i].phase != PROCESS_FREE && world->processes[i].host == host &&
            (all || sim_random_chance(&world->faults, 500000)))
            process_pause(&world->processes[i], world->events.now + pause);
}

static void agent_returns(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (host->up && !host->agent.part.up && host->boots == argument)
        agent_begin(host);
}

static void manager_returns(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (host->up && !host->manager.part.up && host->boots == argument)
        manager_begin(host);
}

static void host_returns(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (!host->up && host->boots == argument)
        host_boot(host);
}

static void heal_link(void *owner, uint64_t argument)
{
    struct host *host = owner;
    (void)argument;
    host->cut_to_store = host->cut_from_store = false;
}

static void cut(struct world *world, struct host *host)
{
    sim_time pause = any_pause(world);
    host->lagging = false;
    host->cut_to_store = sim_random_chance(&world->faults, 700000);
    host->cut_from_store = sim_random_chance(&world->faults, 700000);
    world_trace(world, "%s is cut off: to %d, from %d, for %lu ms", host->name, host->cut_to_store,
                host->cut_from_store, pause / 1000);
    sim_events_add(&world->events, pause, heal_link, host, 0);
}

static void lag_ends(void *owner, uint64_t argument)
{
    struct host *host = owner;
    (void)argument;
    if (host->lagging)
        cut(host->world, host);
}

void host_lags(struct host *host, sim_time pause)
{
    world_trace(host->world, "%s lags", host->name);
    host->lagging = true;
    host->answers_lag = sim_random_chance(&host->world->faults, 500000);
    sim_events_add(&host->world->events, pause, lag_ends, host, 0);
}

static void kill_process(struct world *world)
{
    struct process *process = &world->processes[sim_random_below(&world->faults, PROCESSES)];
    if (process->phase != PROCESS_FREE)
        process_end(process, END_UNKNOWN);
}

static void end_process(struct world *world)
{
    struct process *process = &world->processes[sim_random_below(&world->faults, PROCESSES)];
    if (process->phase == PROCESS_RUNNING && !process->paused)
        process_end(process, sim_random_chance(&world->faults, 500000) ? END_CLEAN : END_FAILED);
}

static void one_fault(struct world *world)
{
    struct host *host = any_host(world);
    sim_time pause = any_pause(world);
    if (!host->up)
        return;
    uint64_t kind = sim_random_below(&world->faults, 16);
    if (world->focus == FOCUS_FENCE && sim_random_chance(&world->faults, 600000))
        kind = sim_random_between(&world->faults, 7, 13);
    switch (kind) {
    case 0:
        world_trace(world, "%s loses power", host->name);
        host_power_off(host);
        sim_events_add(&world->events, pause, host_returns, host, host->boots);
        break;
    case 1:
    case 2:
        world_trace(world, "%s's agent is killed", host->name);
        agent_kill(host);
        sim_events_add(&world->events, pause / 2, agent_returns, host, host->boots);
        break;
    case 3:
        manager_kill(host);
        sim_events_add(&world->events, pause, manager_returns, host, host->boots);
        break;
    case 4:
        world_trace(world, "%s's agent is paused for %lu ms", host->name, pause / 1000);
        pause_part(world, &host->agent.part, pause);
        break;
    case 5:
        pause_part(world, &host->manager.part, pause);
        break;
    case 6:
        pause_processes(world, host->index, pause, false);
        break;
    case 7: // the host is suspended; its clock goes on
        world_trace(world, "%s is suspended for %lu ms", host->name, pause / 1000);
        pause_part(world, &host->agent.part, pause);
        pause_part(world, &host->manager.part, pause);
        pause_processes(world, host->index, pause, true);
        break;
    case 8:
    case 9:
        cut(world, host);
        break;
    case 10:
        kill_process(world);
        end_process(world);
        break;
    case 11:
        change_rate(host);
        break;
    case 12:
    case 13:
        host_lags(host, pause);
        break;
    default: // the store's leader changes
        world->store_stalled_until = world->events.now + pause / 3;
        break;
    }
}

static void faults(void *owner, uint64_t argument)
{
    struct world *world = owner;
    (void)argument;
    if (world->events.now >= world->faults_end)
        return;
    one_fault(world);
    sim_time most = world->focus == FOCUS_SWITCH ? 15 * SIM_SECOND : 4 * SIM_SECOND;
    sim_events_add(&world->events, sim_random_between(&world->faults, 100 * SIM_MILLISECOND, most),
                   faults, world, 0);
}

// ---- what people want ----

static void wish(struct world *world, const struct machine_entry *entry)
{
    struct change change;
    change_clear(&change);
    change_compare(&change, RECORD_MACHINE, entry->uuid, entry->machine.mod);
    struct machine_record *machine = &change_put(&change, RECORD_MACHINE, entry->uuid)->machine;
    *machine = entry->machine.value.machine;
    machine->wish = sim_random_chance(&world->faults, world->focus == FOCUS_SWITCH ? 50000 : 250000)
                        ? WISH_STOPPED
                        : WISH_RUNNING;
    machine->wish_number++;
    if (sim_random_chance(&world->faults, world->focus == FOCUS_SWITCH ? 900000 : 600000))
        snprintf(machine->move_to, sizeof(machine->move_to), "%s", any_host(world)->name);
    store_client_change(world, &change);
}

static void create(struct world *world, int index)
{
    struct change change;
    const char *uuid = world->machines[index].uuid;
    change_clear(&change);
    change_compare(&change, RECORD_MACHINE, uuid, 0);
    struct machine_record *machine = &change_put(&change, RECORD_MACHINE, uuid)->machine;
    snprintf(machine->name, sizeof(machine->name), "m%d", index);
    machine->wish = WISH_RUNNING;
    machine->restart =
        sim_random_chance(&world->random, 600000) ? RESTART_ALWAYS : RESTART_ON_FAILURE;
    machine->no_ha = world->machines[index].no_ha;
    change_put(&change, RECORD_OWNER, uuid);
    store_client_change(world, &change);
}

static void delete (struct world *world, const struct machine_entry *entry)
{
    struct change change;
    change_clear(&change);
    change_compare(&change, RECORD_OWNER, entry->uuid, entry->owner.mod);
    struct tombstone_record *tombstone =
        &change_put(&change, RECORD_TOMBSTONE, entry->uuid)->tombstone;
    tombstone->epoch = entry->owner.value.owner.epoch;
    snprintf(tombstone->name, sizeof(tombstone->name), "%s", entry->machine.value.machine.name);
    store_client_change(world, &change);
}

static void wishes(void *owner, uint64_t argument)
{
    struct world *world = owner;
    (void)argument;
    if (world->events.now >= world->faults_end)
        return;
    int index = (int)sim_random_below(&world->faults, (uint64_t)world->machine_count);
    const struct machine_entry *entry =
        record_view_machine(&world->store, world->machines[index].uuid);
    if (entry && entry->owner.mod && !entry->tombstone.mod) {
        if (sim_random_chance(&world->faults, 40000))
            delete (world, entry);
        else
            wish(world, entry);
    }
    sim_time most =
        world->focus == FOCUS_MIXED || world->focus == FOCUS_FENCE ? 6 * SIM_SECOND : SIM_SECOND;
    sim_events_add(&world->events, sim_random_between(&world->faults, 200 * SIM_MILLISECOND, most),
                   wishes, world, 0);
}

// ---- the run ----

static void choose_settings(struct world *world)
{
    struct settings_record *s = &world->settings;
    settings_default(s);
    s->lease_ns = 4 * UINT64_C(1000000000);
    s->stop_ns = UINT64_C(400000000);
    s->renew_ns = UINT64_C(400000000);
    // As close to the limit as the rule allows, mostly; and with worse clocks.
    if (sim_random_chance(&world->random, 400000)) {
        s->drift_ppm = 10000;
        s->deadline_ns = UINT64_C(3520000000);
    } else {
        s->deadline_ns =
            sim_random_chance(&world->random, 700000) ? UINT64_C(3590000000) : UINT64_C(3000000000);
    }
    // Messages that dawdle or get lost now and then, in some runs.
    static const uint32_t rates[] = {0, 2000, 20000};
    world->slow_rate = rates[sim_random_below(&world->random, 3)];
    world->loss_rate = rates[sim_random_below(&world->random, 3)] / 2;
    struct error err = {0};
    if (settings_check(s, UINT64_C(1000000000), &err))
        world_fail(world, "settings: %s", err.message);
}

static void set_up(struct world *world, uint64_t seed, bool trace)
{
    world->trace = trace;
    sim_random_seed(&world->random, seed, 1);
    sim_random_seed(&world->faults, seed, 2);
    sim_events_reset(&world->events);
    choose_settings(world);
    world->revision = 1;
    world->store.settings = (struct record){.key = {.kind = RECORD_SETTINGS}, .mod = 1};
    world->store.settings.value.settings = world->settings;
    world->host_count = (int)sim_random_between(&world->random, 2, HOSTS);
    world->machine_count = (int)sim_random_between(&world->random, 1, MACHINES);
    world->faulty = true;
    world->focus = seed % 2 ? FOCUS_MIXED : (enum focus)(seed / 2 % FOCUS_COUNT);
    world->faults_end = 100 * SIM_SECOND;
    for (int i = 0; i < world->machine_count; i++) {
        struct machine *machine = &world->machines[i];
        snprintf(machine->uuid, sizeof(machine->uuid), "uuid-%d", i);
        // Those without one have nothing but the lease between them and a second start.
        machine->has_disk = sim_random_chance(&world->random, 400000);
        machine->lock_holder = -1;
        machine->no_ha = seed % 5 == 0 && i % 2 == 0;
        create(world, i);
    }
    for (int i = 0; i < world->host_count; i++) {
        struct host *host = &world->hosts[i];
        host->world = world;
        host->index = i;
        snprintf(host->name, sizeof(host->name), "h%c", (char)(0x30 + i));
        host_boot(host);
    }
    sim_events_add(&world->events, 5 * SIM_SECOND, faults, world, 0);
    sim_events_add(&world->events, 3 * SIM_SECOND, wishes, world, 0);
    if (world->machines[0].no_ha)
        sim_events_add(&world->events, 4 * SIM_SECOND, people_look, world, 0);
}

static bool step(struct world *world)
{
    if (!sim_events_step(&world->events))
        return false;
    process_judge(world);
    return !world->failure[0];
}

static void heal(struct world *world)
{
    world_trace(world, "all is healed");
    world->faulty = false;
    for (int i = 0; i < world->host_count; i++) {
        struct host *host = &world->hosts[i];
        host->cut_to_store = host->cut_from_store = host->lagging = false;
        if (!host->up)
            host_boot(host);
        if (!host->agent.part.up)
            agent_begin(host);
        if (!host->manager.part.up)
            manager_begin(host);
    }
}

static int running_processes(const struct world *world, int machine)
{
    int count = 0;
    for (int i = 0; i < PROCESSES; i++)
        count += world->processes[i].phase == PROCESS_RUNNING &&
                 world->processes[i].machine == machine && world->processes[i].in_guest;
    return count;
}

static bool is_as_wanted(const struct world *world, int machine, const char **what)
{
    const struct machine_entry *entry =
        record_view_machine(&world->store, world->machines[machine].uuid);
    int running = running_processes(world, machine);
    if (entry && entry->tombstone.mod) {
        *what = "isn't deleted";
        return false;
    }
    if (!entry || !entry->machine.mod) {
        *what = "runs though it is deleted";
        return running == 0;
    }
    bool wanted = entry->machine.value.machine.wish == WISH_RUNNING;
    *what = wanted ? "doesn't run" : "runs though it should have stopped";
    return running == wanted;
}

static bool is_host_back(const struct world *world, const struct host *host)
{
    const struct host_entry *entry = record_view_host(&world->store, host->name);
    return entry && entry->life.mod && !entry->life.value.life.fenced && host->agent.registered;
}

static void await_wishes(struct world *world)
{
    sim_time limit = world->events.now + 150 * SIM_SECOND;
    const char *what = "";
    int machine = 0;
    while (world->events.now < limit) {
        sim_time until = world->events.now + SIM_SECOND;
        while (world->events.now < until && step(world))
            ;
        if (world->failure[0])
            return;
        for (machine = 0; machine < world->machine_count; machine++)
            if (!is_as_wanted(world, machine, &what))
                break;
        int back = 0;
        while (back < world->host_count && is_host_back(world, &world->hosts[back]))
            back++;
        if (machine == world->machine_count && back == world->host_count)
            return;
    }
    if (machine == world->machine_count)
        world_fail(world, "long after all was healed, a host isn't back");
    world_fail(world, "long after all was healed, machine %d %s", machine, what);
}

void world_run(struct world *world, uint64_t seed, bool trace)
{
    world_free(world);
    struct sim_events events = world->events;
    memset(world, 0, sizeof(*world));
    world->events = events;
    set_up(world, seed, trace);
    while (world->events.now < world->faults_end && step(world))
        ;
    if (world->failure[0])
        return;
    heal(world);
    await_wishes(world);
}

void world_free(struct world *world)
{
    record_view_free(&world->store);
    hosts_forget_answers(world);
    people_forget(world);
    for (int i = 0; i < HOSTS; i++) {
        record_view_free(&world->hosts[i].agent.view);
        record_view_free(&world->hosts[i].manager.view);
        manager_free(&world->hosts[i].manager.core);
    }
    for (int i = 0; i < REQUESTS; i++)
        if (world->requests[i].used)
            record_view_free(&world->requests[i].view);
}
