// A host's daemon: the loops around the step functions, as ferryd has them, on simulated time.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

static uint64_t argument_of(const struct host *host, const struct part *part)
{
    return (uint64_t)part->generation * HOSTS + (uint64_t)host->index;
}

static struct host *find(struct world *world, uint64_t argument, bool manager)
{
    struct host *host = &world->hosts[argument % HOSTS];
    const struct part *part = manager ? &host->manager.part : &host->agent.part;
    return part->up && part->generation == argument / HOSTS ? host : NULL;
}

static void later(struct host *host, const struct part *part, sim_time delay, sim_event_run *run)
{
    sim_events_add(&host->world->events, delay, run, host->world, argument_of(host, part));
}

static bool waits(struct host *host, struct part *part, sim_event_run *run)
{
    if (part->paused_until <= host->world->events.now)
        return false;
    later(host, part, part->paused_until - host->world->events.now + 1, run);
    return true;
}

int machine_index(const struct world *world, const char *uuid)
{
    for (int i = 0; i < world->machine_count; i++)
        if (strcmp(world->machines[i].uuid, uuid) == 0)
            return i;
    return -1;
}

static void send_read(struct host *host, enum request_kind kind, const struct part *part)
{
    store_send(host, &(struct request){.kind = kind,
                                       .reads = true,
                                       .host = host->index,
                                       .generation = part->generation});
}

static void send_change(struct host *host, enum request_kind kind, const struct part *part,
                        const struct change *change, int machine)
{
    store_send(host, &(struct request){.kind = kind,
                                       .host = host->index,
                                       .machine = machine,
                                       .generation = part->generation,
                                       .change = *change});
}

// ---- renewals ----

static void boot_id_of(const struct host *host, char out[UUID_TEXT_SIZE])
{
    snprintf(out, UUID_TEXT_SIZE, "%s-boot-%lu", host->name, host->boots);
}

static void renew(void *owner, uint64_t argument)
{
    struct host *host = find(owner, argument, false);
    if (!host || waits(host, &host->agent.part, renew))
        return;
    struct sim_agent *agent = &host->agent;
    later(host, &agent->part, host->world->settings.renew_ns / 1000, renew);
    if (!agent->registered) {
        send_read(host, REQUEST_READ_REGISTER, &agent->part);
        return;
    }
    if (agent->renewing || agent->renewal.over)
        return;
    struct change change;
    agent->renewing = true;
    renewal_attempt(&agent->renewal, host_clock(host), &change);
    send_change(host, REQUEST_RENEWAL, &agent->part, &change, 0);
}

static void registered(struct host *host, const struct life_record *life, uint64_t mod)
{
    struct sim_agent *agent = &host->agent;
    renewal_init(&agent->renewal, host->name, life, mod, &host->world->settings);
    agent->self =
        (struct agent_self){.host = host->name, .incarnation = life->incarnation, .life_mod = mod};
    agent->registered = true;
}

static void take_registration(struct host *host, const struct record_view *view)
{
    struct sim_agent *agent = &host->agent;
    const struct host_entry *entry = record_view_host(view, host->name);
    struct record none = {0};
    char boot_id[UUID_TEXT_SIZE];
    struct change change;
    boot_id_of(host, boot_id);
    if (agent->registered || agent->committing_life)
        return;
    const struct record *life = entry ? &entry->life : &none;
    int r = renewal_register(life, host->name, host->name, boot_id, &change, NULL);
    if (r < 0)
        world_fail(host->world, "host %s can't register", host->name);
    if (r == 0) {
        registered(host, &life->value.life, life->mod);
        return;
    }
    agent->committing_life = true;
    send_change(host, REQUEST_REGISTER, &agent->part, &change, 0);
}

static void deadline_arrives(void *owner, uint64_t argument)
{
    struct world *world = owner;
    struct process *process = &world->processes[argument % PROCESSES];
    uint64_t number = argument / PROCESSES % (1u << 24);
    if (process->phase == PROCESS_FREE || process->number % (1u << 24) != number)
        return;
    if (process->paused) {
        sim_events_add(&world->events, process->paused_until - world->events.now + 2,
                       deadline_arrives, owner, argument);
        return;
    }
    struct host *host = &world->hosts[process->host];
    // The message says which deadline; those of later messages are larger anyway. In its place the
    // argument holds how long before D it was sent, in units of 10 ms.
    uint64_t sent = (argument / PROCESSES >> 24) * 10 * UINT64_C(1000000);
    process_renew(process, CLUSTER_IS_MUTANT(DEADLINE_RELATIVE)
                               ? host_clock(host) + world->settings.deadline_ns
                               : sent);
}

// Hands the deadline on to the processes that may have it; the messages take their time.
static void forward(struct host *host)
{
    struct world *world = host->world;
    struct sim_agent *agent = &host->agent;
    for (int m = 0; m < world->machine_count; m++) {
        struct local_view local;
        int index;
        process_local_view(world, host->index, m, &local, &index);
        const struct machine_entry *entry =
            record_view_machine(&agent->view, world->machines[m].uuid);
        if (index < 0 || !agent_machine_is_renewed(&agent->self, entry, &local))
            continue;
        if (world->faulty && sim_random_chance(&world->faults, 50000))
            continue;
        bool slow = world->faulty && sim_random_chance(&world->faults, 50000);
        sim_time delay = sim_random_between(&world->random, 50, slow ? 5 * SIM_SECOND : 1000);
        uint64_t units = agent->self.deadline / (10 * UINT64_C(1000000));
        uint64_t number = world->processes[index].number % (1u << 24);
        sim_events_add(&world->events, delay, deadline_arrives, world,
                       ((units << 24) | number) * PROCESSES + (uint64_t)index);
    }
}

static void renewal_answered(struct host *host, const struct request *request)
{
    struct sim_agent *agent = &host->agent;
    agent->renewing = false;
    renewal_outcome(&agent->renewal, request->outcome, host_clock(host));
    agent->self.deadline = agent->renewal.deadline;
    agent->self.over = agent->renewal.over;
    if (agent->renewal.over)
        agent->registered = false;
    else
        forward(host);
}

// ---- the agent ----

static void end_politely(void *owner, uint64_t argument)
{
    struct world *world = owner;
    struct process *process = &world->processes[argument % PROCESSES];
    if (process->phase != PROCESS_FREE && process->number == argument / PROCESSES)
        process_end(process, END_CLEAN);
}

static void agent_comes_back(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (host->up && !host->agent.part.up && host->boots == argument)
        agent_begin(host);
}

static void agent_dies(void *owner, uint64_t argument)
{
    struct host *host = owner;
    if (!host->agent.part.up || host->agent.part.generation != argument)
        return;
    agent_kill(host);
    sim_events_add(&host->world->events, 10 * SIM_MILLISECOND, agent_comes_back, host, host->boots);
}

static void act(struct host *host, int machine, enum agent_action action, int index,
                const struct machine_entry *entry)
{
    struct world *world = host->world;
    struct sim_agent *agent = &host->agent;
    struct agent_machine *memory = &agent->machines[machine];
    struct process *process = index >= 0 ? &world->processes[index] : NULL;
    switch (action) {
    case AGENT_SPAWN:
        process_begin(host, machine, memory->to_start, "");
        agent_machine_started(memory, host_clock(host));
        // The worst moment to die is with a process on its way.
        if (world->faulty &&
            sim_random_chance(&world->faults, world->focus == FOCUS_START ? 500000 : 50000))
            sim_events_add(&world->events, sim_random_between(&world->faults, 0, 100000),
                           agent_dies, host, host->agent.part.generation);
        break;
    case AGENT_CONTINUE:
        process_continue(process, memory->to_start);
        agent_machine_started(memory, host_clock(host));
        break;
    case AGENT_SPAWN_INCOMING:
        process_begin(host, machine, entry->owner.value.owner.epoch + 1,
                      entry->owner.value.owner.migration.id);
        break;
    case AGENT_MOVE_OUT:
        process_move_out(process, &entry->owner.value.owner.migration);
        break;
    case AGENT_SHUT_DOWN:
        sim_events_add(&world->events, sim_random_between(&world->random, 1000, 200000),
                       end_politely, world,
                       (uint64_t)process->number * PROCESSES + (uint64_t)index);
        break;
    case AGENT_DESTROY:
        process_end(process, process->phase == PROCESS_INCOMING ? END_NOT_STARTED : END_UNKNOWN);
        break;
    case AGENT_ORPHAN:
        // Of a deleted machine whose last owner was another host; it ends by itself.
        if (process->phase == PROCESS_RUNNING && process->in_guest && entry)
            world_fail(world, "machine %d on %s is taken for an orphan", machine, host->name);
        break;
    default:
        break;
    }
}

static void step_machines(struct host *host)
{
    struct world *world = host->world;
    struct sim_agent *agent = &host->agent;
    for (int m = 0; m < world->machine_count; m++) {
        struct local_view local;
        struct change change;
        int index;
        const struct machine_entry *entry =
            record_view_machine(&agent->view, world->machines[m].uuid);
        process_local_view(world, host->index, m, &local, &index);
        // After the deletion of a machine nothing of it is left to be found.
        if (!entry && index < 0)
            continue;
        enum agent_action action =
            agent_machine_step(&agent->self, &agent->view, entry, &local, &agent->machines[m],
                               host_clock(host), &change);
        if (action == AGENT_COMMIT)
            send_change(host, REQUEST_AGENT, &agent->part, &change, m);
        else if (action != AGENT_WAIT)
            act(host, m, action, index, entry);
    }
}

static void look(void *owner, uint64_t argument)
{
    struct host *host = find(owner, argument, false);
    if (!host || waits(host, &host->agent.part, look))
        return;
    struct sim_agent *agent = &host->agent;
    later(host, &agent->part, sim_random_between(&host->world->random, 150000, 350000), look);
    if (!agent->registered || agent->reading)
        return;
    agent->reading = true;
    send_read(host, REQUEST_READ_AGENT, &agent->part);
}

static void agent_sees(struct host *host, const struct request *request)
{
    struct sim_agent *agent = &host->agent;
    agent->reading = false;
    // A view that was read before a change of its own was answered would go back.
    if (request->outcome != CHANGE_COMMITTED || request->view.revision < agent->view.revision)
        return;
    store_view_copy(&agent->view, &request->view);
    if (agent->registered)
        step_machines(host);
}

static void agent_committed(struct host *host, const struct request *request)
{
    struct sim_agent *agent = &host->agent;
    agent_machine_outcome(&agent->machines[request->machine], request->outcome);
    if (request->outcome == CHANGE_COMMITTED &&
        record_view_apply(&agent->view, &request->change, request->revision))
        abort();
    if (request->outcome == CHANGE_UNKNOWN && CLUSTER_IS_MUTANT(START_UNKNOWN_SPAWNS)) {
        // What it believes that the store has.
        if (record_view_apply(&agent->view, &request->change, agent->view.revision))
            abort();
        step_machines(host);
    }
    if (agent->registered && request->outcome == CHANGE_COMMITTED)
        step_machines(host);
}

void agent_begin(struct host *host)
{
    struct sim_agent *agent = &host->agent;
    uint32_t generation = agent->part.generation + 1;
    record_view_free(&agent->view);
    *agent = (struct sim_agent){.part = {.up = true, .generation = generation}};
    later(host, &agent->part, 1000, renew);
    later(host, &agent->part, 2000, look);
}

void agent_kill(struct host *host)
{
    host->agent.part.up = false;
    host->agent.part.generation++;
}

// ---- the arbiter ----

static void arbiter_sees(struct host *host, const struct request *request)
{
    struct world *world = host->world;
    struct process *process = &world->processes[request->process];
    if (request->outcome != CHANGE_COMMITTED || process->number != request->process_number)
        return;
    const char *uuid = world->machines[process->machine].uuid;
    const struct machine_entry *entry = record_view_machine(&request->view, uuid);
    enum arbiter_role role = process->phase == PROCESS_STANDING ? ARBITER_SOURCE : ARBITER_TARGET;
    struct request next = {.kind = REQUEST_ARBITER,
                           .host = host->index,
                           .process = request->process,
                           .ask = request->ask,
                           .process_number = request->process_number,
                           .generation = host->agent.part.generation};
    enum arbiter_decision decision =
        arbiter_step(&request->view, entry, process->epoch, process->migration_id, role,
                     request->ask, &next.change);
    if (decision == DECIDE_COMMIT)
        store_send(host, &next);
    else
        process_answer(process, request->ask, decision);
}

static void arbiter_committed(struct host *host, const struct request *request)
{
    struct process *process = &host->world->processes[request->process];
    if (process->number != request->process_number)
        return;
    process_answer(process, request->ask, arbiter_outcome(request->ask, request->outcome));
}

// ---- the manager ----

static bool place(void *opaque, const struct record_view *view, const struct machine_entry *machine,
                  char host[NAME_LIMIT + 1], char reason[RECORD_TEXT_SIZE])
{
    const struct host_entry *best = NULL;
    unsigned least = UINT32_MAX;
    (void)opaque;
    for (size_t i = 0; i < view->host_count; i++) {
        const struct host_entry *entry = &view->hosts[i];
        if (!entry->life.mod || entry->life.value.life.fenced)
            continue;
        unsigned load = 0;
        for (size_t m = 0; m < view->machine_count; m++)
            load += strcmp(view->machines[m].owner.value.owner.host, entry->name) == 0;
        load = load * 8 + (unsigned)((i + machine->owner.value.owner.epoch) % 8);
        if (load < least) {
            least = load;
            best = entry;
        }
    }
    if (!best) {
        snprintf(reason, RECORD_TEXT_SIZE, "no host");
        return false;
    }
    snprintf(host, NAME_LIMIT + 1, "%s", best->name);
    return true;
}

static const char *new_id(void *opaque)
{
    struct world *world = opaque;
    static char id[UUID_TEXT_SIZE];
    snprintf(id, sizeof(id), "move-%u", ++world->next_number);
    return id;
}

static void manage(void *owner, uint64_t argument)
{
    struct host *host = find(owner, argument, true);
    if (!host || waits(host, &host->manager.part, manage))
        return;
    struct sim_manager *manager = &host->manager;
    later(host, &manager->part, sim_random_between(&host->world->random, 80000, 200000), manage);
    if (manager->reading || manager->committing)
        return;
    manager->reading = true;
    send_read(host, REQUEST_READ_MANAGER, &manager->part);
}

// Whoever finds no manager, or feels like it, takes its place: nothing rests on there being one.
static void take_over(struct host *host)
{
    struct sim_manager *manager = &host->manager;
    struct change change;
    change_clear(&change);
    change_compare(&change, RECORD_MANAGER, "", manager->view.manager.mod);
    struct manager_record *record = &change_put(&change, RECORD_MANAGER, "")->manager;
    snprintf(record->host, sizeof(record->host), "%s", host->name);
    snprintf(record->instance, sizeof(record->instance), "%s", manager->instance);
    manager->takes_over_at =
        host->world->events.now +
        sim_random_between(&host->world->random, 8 * SIM_SECOND, 60 * SIM_SECOND);
    send_change(host, REQUEST_MANAGER_TAKE, &manager->part, &change, 0);
}

// A manager may have been stopped between its decision and its request.
static void send_changes(void *owner, uint64_t argument)
{
    struct host *host = find(owner, argument, true);
    if (!host || waits(host, &host->manager.part, send_changes))
        return;
    for (unsigned i = 0; i < host->manager.changes.count; i++)
        send_change(host, REQUEST_MANAGER, &host->manager.part, &host->manager.changes.changes[i],
                    0);
}

static void manager_sees(struct host *host, const struct request *request)
{
    struct sim_manager *manager = &host->manager;
    struct world *world = host->world;
    manager->reading = false;
    if (request->outcome != CHANGE_COMMITTED || request->view.revision < manager->view.revision)
        return;
    store_view_copy(&manager->view, &request->view);
    if (manager_observe(&manager->core, &manager->view, host_clock(host)))
        abort();
    if (strcmp(manager->view.manager.value.manager.instance, manager->instance) != 0) {
        if (world->events.now >= manager->takes_over_at)
            take_over(host);
        return;
    }
    manager_step(&manager->core, &manager->view, host_clock(host), new_id, world,
                 &manager->changes);
    manager->committing = manager->changes.count;
    if (manager->committing) {
        sim_time pause = world->faulty && sim_random_chance(&world->faults, 200000)
                             ? sim_random_between(&world->faults, 0, 8 * SIM_SECOND)
                             : 1;
        later(host, &manager->part, pause, send_changes);
    }
}

void manager_begin(struct host *host)
{
    struct sim_manager *manager = &host->manager;
    uint32_t generation = manager->part.generation + 1;
    record_view_free(&manager->view);
    manager_free(&manager->core);
    *manager = (struct sim_manager){.part = {.up = true, .generation = generation}};
    snprintf(manager->instance, sizeof(manager->instance), "%s-%u", host->name, generation);
    manager->takes_over_at =
        host->world->events.now + sim_random_between(&host->world->random, 0, 20 * SIM_SECOND);
    manager_init(&manager->core, place, NULL);
    later(host, &manager->part, 3000, manage);
}

void manager_kill(struct host *host)
{
    host->manager.part.up = false;
    host->manager.part.generation++;
}

// ---- whole hosts ----

void host_boot(struct host *host)
{
    struct world *world = host->world;
    int64_t most = world->settings.drift_ppm;
    if (CLUSTER_IS_MUTANT(DRIFT_ABOVE_RHO))
        most = 200000;
    host->up = true;
    host->boots++;
    host->clock_base = world->events.now;
    host->clock_offset = sim_random_between(&world->random, 1, 1000) * UINT64_C(1000000000);
    host->ppm = (int64_t)sim_random_between(&world->random, 0, (uint64_t)(2 * most)) - most;
    if (sim_random_chance(&world->random, 400000))
        host->ppm = sim_random_chance(&world->random, 500000) ? most : -most;
    agent_begin(host);
    manager_begin(host);
}

void host_power_off(struct host *host)
{
    struct world *world = host->world;
    host->up = false;
    agent_kill(host);
    manager_kill(host);
    for (int i = 0; i < PROCESSES; i++)
        if (world->processes[i].phase != PROCESS_FREE && world->processes[i].host == host->index)
            process_power_off(&world->processes[i]);
}

// ---- answers ----

static struct part *part_of(struct host *host, enum request_kind kind)
{
    return kind == REQUEST_READ_MANAGER || kind == REQUEST_MANAGER || kind == REQUEST_MANAGER_TAKE
               ? &host->manager.part
               : &host->agent.part;
}

static void deliver(struct host *host, struct request *request)
{
    switch (request->kind) {
    case REQUEST_READ_AGENT:
        agent_sees(host, request);
        break;
    case REQUEST_READ_MANAGER:
        manager_sees(host, request);
        break;
    case REQUEST_READ_REGISTER:
        if (request->outcome == CHANGE_COMMITTED)
            take_registration(host, &request->view);
        break;
    case REQUEST_READ_ARBITER:
        arbiter_sees(host, request);
        break;
    case REQUEST_RENEWAL:
        renewal_answered(host, request);
        break;
    case REQUEST_REGISTER:
        host->agent.committing_life = false;
        if (request->outcome == CHANGE_COMMITTED)
            registered(host, &request->change.puts[0].value.life, request->revision);
        break;
    case REQUEST_AGENT:
        agent_committed(host, request);
        break;
    case REQUEST_MANAGER:
        host->manager.committing--;
        break;
    case REQUEST_ARBITER:
        arbiter_committed(host, request);
        break;
    default:
        break;
    }
}

// An answer that came while its receiver was paused; kept until it goes on.
struct waiting {
    struct waiting *next;
    struct world *world;
    struct request request;
};

static void deliver_late(void *owner, uint64_t argument)
{
    struct waiting *waiting = owner;
    struct host *host = &waiting->world->hosts[waiting->request.host];
    struct part *part = part_of(host, waiting->request.kind);
    (void)argument;
    if (part->up && part->generation == waiting->request.generation) {
        if (part->paused_until > waiting->world->events.now) {
            sim_events_add(&waiting->world->events,
                           part->paused_until - waiting->world->events.now + 1, deliver_late,
                           waiting, 0);
            return;
        }
        deliver(host, &waiting->request);
    }
    struct waiting **at = &waiting->world->waiting;
    while (*at != waiting)
        at = &(*at)->next;
    *at = waiting->next;
    record_view_free(&waiting->request.view);
    free(waiting);
}

void hosts_forget_answers(struct world *world)
{
    while (world->waiting) {
        struct waiting *waiting = world->waiting;
        world->waiting = waiting->next;
        record_view_free(&waiting->request.view);
        free(waiting);
    }
}

void host_answered(struct host *host, struct request *request)
{
    struct part *part = part_of(host, request->kind);
    if (!part->up || part->generation != request->generation)
        return;
    if (part->paused_until <= host->world->events.now) {
        deliver(host, request);
        return;
    }
    struct waiting *waiting = sim_allocate(sizeof(*waiting));
    waiting->world = host->world;
    waiting->next = host->world->waiting;
    host->world->waiting = waiting;
    waiting->request = *request;
    record_view_init(&waiting->request.view);
    store_view_copy(&waiting->request.view, &request->view);
    sim_events_add(&host->world->events, part->paused_until - host->world->events.now + 1,
                   deliver_late, waiting, 0);
}
