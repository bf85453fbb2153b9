// People who say that something is gone for sure. Those who look speak the truth about what they
// saw, though it takes them a while to say it; those who don't are to be refused.
#include <stdlib.h>
#include <string.h>

#include "cluster/manager/declare.h"
#include "world.h"

struct saying {
    struct saying *next;
    struct world *world;
    int machine, host;
    bool whole_host;
    unsigned times; // that it will be said yet, if nobody listens
    struct declaration seen;
};

static bool has_process(const struct world *world, int host, int machine)
{
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *process = &world->processes[i];
        if (process->phase != PROCESS_FREE && process->host == host &&
            process->machine == machine && (process->on_host || process->phase == PROCESS_BEGUN))
            return true;
    }
    return false;
}

// True: it was heard.
static bool say(const struct saying *saying)
{
    struct world *world = saying->world;
    struct change change;
    struct error err;
    const struct machine_entry *entry =
        record_view_machine(&world->store, world->machines[saying->machine].uuid);
    int r = saying->whole_host ? declare_host_dead(&world->store, &saying->seen, &change, &err)
            : entry && entry->owner.mod
                ? declare_machine_dead(&world->store, entry, &saying->seen, &change, &err)
                : 1;
    if (r)
        return false;
    world_trace(world, "a person declares %s dead",
                saying->whole_host ? saying->seen.host : entry->uuid);
    world->declared++;
    store_client_change(world, &change);
    return true;
}

static void say_late(void *owner, uint64_t argument)
{
    struct saying *saying = owner, **at = &saying->world->sayings;
    (void)argument;
    if (!say(saying) && saying->times--) {
        sim_events_add(&saying->world->events,
                       sim_random_between(&saying->world->faults, SIM_SECOND, 3 * SIM_SECOND),
                       say_late, saying, 0);
        return;
    }
    while (*at != saying)
        at = &(*at)->next;
    *at = saying->next;
    free(saying);
}

static void plug_in(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (!host->up && host->boots == argument)
        host_boot(host);
}

// Who has to know switches a silent host off, or one is off for another reason; somebody else may
// switch it on again at any time.
static void pull_plug(struct host *host)
{
    struct world *world = host->world;
    world_trace(world, "a person switches %s off", host->name);
    host_power_off(host);
    sim_events_add(&world->events, sim_random_between(&world->faults, 1000, 15 * SIM_SECOND),
                   plug_in, host, host->boots);
}

static void look_at(struct world *world, int machine, const struct owner_record *owner)
{
    struct host *host = &world->hosts[owner->host[1] - '0'];
    if (host->up &&
        sim_random_chance(&world->faults,
                          record_view_owner_is_over(&world->store, owner) ? 700000 : 40000))
        pull_plug(host);
    struct saying saying = {
        .world = world,
        .machine = machine,
        .host = host->index,
        .seen = {.host = host->name, .incarnation = owner->incarnation, .epoch = owner->epoch}};
    bool gone = !host->up || (!host->agent.part.up && !has_process(world, host->index, machine));
    if (!gone) {
        // A slip: of a machine that is well, or of one whose host is silent for a moment.
        if (!record_view_owner_is_over(&world->store, owner))
            say(&saying);
        return;
    }
    saying.whole_host = !host->up && sim_random_chance(&world->faults, 500000);
    if (saying.whole_host) // the host as it is listed
        saying.seen.incarnation =
            record_view_host(&world->store, host->name)->life.value.life.incarnation;
    struct saying *late = sim_allocate(sizeof(*late));
    *late = saying;
    late->next = world->sayings;
    world->sayings = late;
    late->times = 15; // also when all has changed long since
    sim_events_add(&world->events, sim_random_between(&world->faults, 1000, 10 * SIM_SECOND),
                   say_late, late, 0);
}

void people_look(void *owner, uint64_t argument)
{
    struct world *world = owner;
    (void)argument;
    if (world->events.now >= world->faults_end)
        return;
    int machine = (int)sim_random_below(&world->faults, (uint64_t)world->machine_count);
    const struct machine_entry *entry =
        record_view_machine(&world->store, world->machines[machine].uuid);
    if (entry && entry->owner.mod && entry->owner.value.owner.unbounded)
        look_at(world, machine, &entry->owner.value.owner);
    sim_events_add(&world->events,
                   sim_random_between(&world->faults, 200 * SIM_MILLISECOND, 2 * SIM_SECOND),
                   people_look, world, 0);
}

void people_forget(struct world *world)
{
    while (world->sayings) {
        struct saying *saying = world->sayings;
        world->sayings = saying->next;
        free(saying);
    }
}
