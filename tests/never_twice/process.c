// The processes of machines as their lease has them: a deadline that is absolute and only grows,
// looked at before every entry into the guest, final once passed; a disk that is locked until its
// last write has ended and that knows the epoch of its last user.
#include <stdio.h>
#include <string.h>

#include "world.h"

#define KEEP_LOST (20 * SIM_SECOND)

static uint64_t argument_of(const struct process *process)
{
    return (uint64_t)process->number * PROCESSES + (uint64_t)(process - process->world->processes);
}

static struct process *find(struct world *world, uint64_t argument)
{
    struct process *process = &world->processes[argument % PROCESSES];
    return process->phase != PROCESS_FREE && process->number == argument / PROCESSES ? process
                                                                                     : NULL;
}

static void later(struct process *process, sim_time delay, sim_event_run *run)
{
    sim_events_add(&process->world->events, delay, run, process->world, argument_of(process));
}

static struct host *host_of(const struct process *process)
{
    return &process->world->hosts[process->host];
}

static struct machine *machine_of(const struct process *process)
{
    return &process->world->machines[process->machine];
}

static int index_of(const struct process *process)
{
    return (int)(process - process->world->processes);
}

static bool is_paused(const struct process *process)
{
    return process->paused;
}

// Runs the event again when the process goes on. True: it is paused.
static bool waits(struct process *process, sim_event_run *run)
{
    if (!is_paused(process))
        return false;
    later(process, process->paused_until - process->world->events.now + 2, run);
    return true;
}

static void trace(struct process *process, const char *what)
{
    world_trace(process->world, "process %d m%d on %s epoch %lu: %s", index_of(process),
                process->machine, host_of(process)->name, process->epoch, what);
}

// ---- judging ----

void process_judge(struct world *world)
{
    int running[MACHINES] = {0}, writing[MACHINES] = {0};
    for (int i = 0; i < PROCESSES; i++) {
        struct process *process = &world->processes[i];
        if (process->phase == PROCESS_FREE)
            continue;
        running[process->machine] += process->in_guest && !is_paused(process);
        writing[process->machine] +=
            world->machines[process->machine].has_disk && process->writes_end > world->events.now;
    }
    for (int m = 0; m < world->machine_count; m++) {
        if (running[m] > 1)
            world_fail(world, "machine %d runs %d times", m, running[m]);
        if (writing[m] > 1)
            world_fail(world, "machine %d's disk has %d writers", m, writing[m]);
    }
}

static void use_epoch(struct process *process)
{
    struct machine *machine = machine_of(process);
    process->world->starts++;
    for (unsigned i = 0; i < machine->used_count; i++)
        if (machine->used_epochs[i] == process->epoch)
            world_fail(process->world, "machine %d was started twice in epoch %lu",
                       process->machine, process->epoch);
    if (machine->used_count < EPOCHS)
        machine->used_epochs[machine->used_count++] = process->epoch;
}

static bool was_replaced(const struct process *process)
{
    const struct world *world = process->world;
    const struct machine_entry *entry =
        record_view_machine(&world->store, world->machines[process->machine].uuid);
    const struct owner_record *owner = entry ? &entry->owner.value.owner : NULL;
    return owner && owner->stage == OWNER_STARTED && owner->epoch > process->epoch &&
           strcmp(owner->host, world->hosts[process->host].name) == 0;
}

static bool was_given(const struct process *process)
{
    const struct machine *machine = machine_of(process);
    for (unsigned i = 0; i < machine->given_count; i++)
        if (machine->given_epochs[i] == process->epoch && machine->given_hosts[i] == process->host)
            return true;
    return false;
}

// Memory may go on only if the machine ran nowhere else since.
static void judge_memory(struct process *process)
{
    if (machine_of(process)->last_ran > process->epoch)
        world_fail(process->world, "machine %d goes on with the memory of epoch %lu, after %lu ran",
                   process->machine, process->epoch, machine_of(process)->last_ran);
}

// ---- the disk ----

static void unlock_when_written(struct world *world, uint64_t argument);

static void unlock_event(void *owner, uint64_t argument)
{
    unlock_when_written(owner, argument);
}

static void drop_lock(struct process *process)
{
    struct machine *machine = machine_of(process);
    if (machine->lock_holder == index_of(process))
        machine->lock_holder = -1;
    process->has_lock = false;
}

static void unlock_when_written(struct world *world, uint64_t argument)
{
    struct process *process = find(world, argument);
    if (!process)
        return;
    if (process->writes_end > world->events.now) {
        later(process, process->writes_end - world->events.now + 1, unlock_event);
        return;
    }
    if (process->phase != PROCESS_RUNNING && process->phase != PROCESS_WAITING)
        drop_lock(process);
    if (process->phase == PROCESS_ENDING) {
        trace(process, "is gone");
        process->phase = PROCESS_FREE;
    }
}

// No more writes begin; those under way end in their own time, and then the lock goes.
static void stop_writes(struct process *process)
{
    struct world *world = process->world;
    if (process->has_lock && process->writes_end > world->events.now) {
        sim_time most = world->faulty && sim_random_chance(&world->faults, 100000)
                            ? 15 * SIM_SECOND
                            : 20 * SIM_MILLISECOND;
        process->writes_end = world->events.now + sim_random_between(&world->random, 1, most);
        if (CLUSTER_IS_MUTANT(LOCK_BEFORE_LAST_WRITE))
            drop_lock(process);
    }
    unlock_when_written(world, argument_of(process));
}

// ---- the lease ----

static bool has_expired(const struct process *process)
{
    return !process->unbounded && host_clock(host_of(process)) >= process->deadline;
}

static void guest_out(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || process->phase == PROCESS_RUNNING)
        return;
    process->in_guest = false;
    if (process->phase == PROCESS_LOST)
        stop_writes(process);
}

static void keep_ends(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (process && process->phase == PROCESS_LOST &&
        process->world->events.now - process->lost_at >= KEEP_LOST)
        process_end(process, END_UNKNOWN);
}

// Latched: nothing new is submitted; the vCPUs are out within the time to stop.
static void expire(struct process *process)
{
    struct world *world = process->world;
    if (process->phase != PROCESS_RUNNING && process->phase != PROCESS_STANDING)
        return;
    trace(process, "deadline passed");
    process->phase = PROCESS_LOST;
    process->lost_at = world->events.now;
    later(process, KEEP_LOST, keep_ends);
    if (process->in_guest)
        later(process, sim_random_between(&world->random, 0, world->settings.stop_ns / 1000),
              guest_out);
    else
        stop_writes(process);
}

static void look_at_deadline(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || waits(process, look_at_deadline))
        return;
    if (has_expired(process))
        expire(process);
    else if (process->phase == PROCESS_RUNNING || process->phase == PROCESS_STANDING)
        process_rearm(process);
}

void process_rearm(struct process *process)
{
    if (process->unbounded)
        return;
    sim_time when = host_when(host_of(process), process->deadline);
    later(process, when - process->world->events.now, look_at_deadline);
}

static void writes_go_on(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || process->phase != PROCESS_RUNNING || is_paused(process))
        return;
    process->writes_end = process->world->events.now + 400 * SIM_MILLISECOND;
    later(process, 300 * SIM_MILLISECOND, writes_go_on);
}

static void enter_guest(struct process *process)
{
    struct world *world = process->world;
    if (has_expired(process)) {
        process->phase = PROCESS_RUNNING; // for the latch
        expire(process);
        return;
    }
    trace(process, "runs");
    if (!was_given(process))
        world_fail(world, "machine %d runs on %s in epoch %lu, which the store never gave it",
                   process->machine, host_of(process)->name, process->epoch);
    if (was_replaced(process))
        world_fail(world, "machine %d runs on %s in epoch %lu, which its agent took for ended",
                   process->machine, host_of(process)->name, process->epoch);
    machine_of(process)->last_ran = process->epoch;
    process->phase = PROCESS_RUNNING;
    process->in_guest = true;
    if (machine_of(process)->has_disk)
        writes_go_on(world, argument_of(process));
    process_rearm(process);
}

static void resumed(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || process->paused_until >= process->world->events.now)
        return; // was stopped again
    process->paused = false;
    if (process->phase == PROCESS_RUNNING && has_expired(process)) {
        // A stopped process looks before it enters the guest again.
        if (!CLUSTER_IS_MUTANT(NO_CHECK_BEFORE_RUN))
            process->in_guest = false;
        expire(process);
    } else if (process->phase == PROCESS_LOST && !CLUSTER_IS_MUTANT(NO_CHECK_BEFORE_RUN)) {
        process->in_guest = false;
    } else if (process->phase == PROCESS_RUNNING && machine_of(process)->has_disk) {
        writes_go_on(owner, argument);
    }
}

void process_pause(struct process *process, sim_time until)
{
    if (process->phase == PROCESS_FREE || process->phase == PROCESS_ENDING ||
        until <= process->paused_until)
        return;
    trace(process, "paused");
    process->paused_until = until;
    process->paused = true;
    later(process, until - process->world->events.now + 1, resumed);
}

void process_renew(struct process *process, uint64_t deadline)
{
    switch (process->phase) {
    case PROCESS_FREE:
    case PROCESS_ENDING:
        return;
    case PROCESS_LOST:
        if (!CLUSTER_IS_MUTANT(RENEWED_AFTER_EXPIRY) || deadline <= host_clock(host_of(process)) ||
            process->in_guest || (machine_of(process)->has_disk && !process->has_lock))
            return;
        process->deadline = deadline;
        enter_guest(process);
        return;
    default:
        break;
    }
    if (process->phase == PROCESS_RUNNING && has_expired(process)) {
        if (CLUSTER_IS_MUTANT(RENEWED_AFTER_EXPIRY) && deadline > process->deadline)
            process->deadline = deadline;
        else
            expire(process);
    } else if (deadline > process->deadline) {
        process->deadline = deadline;
    }
}

// ---- starting and ending ----

static void free_later(struct process *process)
{
    process->in_guest = false;
    process->phase = PROCESS_ENDING;
    stop_writes(process);
}

void process_end(struct process *process, enum local_end end)
{
    struct machine *machine = machine_of(process);
    if (process->phase == PROCESS_FREE || process->phase == PROCESS_ENDING)
        return;
    trace(process, "ends");
    machine->end[process->host] = end;
    machine->end_epoch[process->host] = process->epoch;
    free_later(process);
}

void process_power_off(struct process *process)
{
    if (process->phase == PROCESS_FREE)
        return;
    // What it had sent to the storage is written all the same, and until then its lock stands.
    process->on_host = false;
    process->paused = false;
    process->paused_until = 0;
    machine_of(process)->end[process->host] = END_UNKNOWN;
    if (process->phase != PROCESS_ENDING)
        free_later(process);
}

// Waits for the lock however long it takes, then compares epochs, and only then runs.
static void take_disk(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || process->phase != PROCESS_WAITING || waits(process, take_disk))
        return;
    struct machine *machine = machine_of(process);
    bool locked = machine->lock_holder >= 0 && machine->lock_holder != index_of(process);
    if (machine->has_disk && locked && !CLUSTER_IS_MUTANT(NO_DISK_LOCK)) {
        later(process, sim_random_between(&process->world->random, 1000, 100000), take_disk);
        return;
    }
    if (machine->has_disk) {
        machine->lock_holder = index_of(process);
        process->has_lock = true;
        if (machine->disk_epoch > process->epoch) {
            trace(process, "the disk has seen a later epoch");
            process_end(process, END_FAILED);
            return;
        }
        machine->disk_epoch = process->epoch;
    }
    enter_guest(process);
}

static void claim(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    struct world *world = owner;
    if (!process || process->phase != PROCESS_BEGUN || waits(process, claim))
        return;
    for (int i = 0; i < PROCESSES; i++) {
        struct process *other = &world->processes[i];
        if (other != process && other->phase > PROCESS_BEGUN && other->on_host &&
            other->host == process->host && other->machine == process->machine) {
            trace(process, "finds another in its place");
            process->phase = PROCESS_FREE;
            return;
        }
    }
    process->on_host = true;
    if (process->migration_id[0]) {
        process->phase = PROCESS_INCOMING;
        return;
    }
    process->phase = PROCESS_WAITING;
    take_disk(owner, argument);
}

static void incoming_gives_up(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (process && process->phase == PROCESS_INCOMING && !process->loaded)
        process_end(process, END_NOT_STARTED);
}

int process_begin(struct host *host, int machine, uint64_t epoch, const char *migration_id)
{
    struct world *world = host->world;
    for (int i = 0; i < PROCESSES; i++) {
        struct process *process = &world->processes[i];
        if (process->phase != PROCESS_FREE)
            continue;
        *process = (struct process){.phase = PROCESS_BEGUN,
                                    .world = world,
                                    .host = host->index,
                                    .machine = machine,
                                    .epoch = epoch,
                                    .unbounded = world->machines[machine].no_ha,
                                    .peer = -1,
                                    .number = ++world->next_number,
                                    .deadline = host->agent.self.deadline,
                                    .agent_generation = host->agent.part.generation};
        strcpy(process->migration_id, migration_id);
        if (!migration_id[0])
            use_epoch(process);
        else
            later(process, 30 * SIM_SECOND, incoming_gives_up);
        trace(process, migration_id[0] ? "begins, to wait for a migration" : "begins");
        bool slow =
            world->faulty &&
            sim_random_chance(&world->faults, world->focus == FOCUS_START ? 600000 : 100000);
        later(
            process,
            sim_random_between(&world->random, 1000, slow ? 3 * SIM_SECOND : 50 * SIM_MILLISECOND),
            claim);
        return i;
    }
    return -1;
}

void process_continue(struct process *process, uint64_t epoch)
{
    process->deadline = host_of(process)->agent.self.deadline;
    if (!has_expired(process)) // else it goes on for the record alone
        judge_memory(process);
    process->epoch = epoch;
    process->migration_id[0] = 0;
    process->moving = process->asked_commit = process->answer_awaited = false;
    process->phase = PROCESS_WAITING;
    process->world->continued++;
    use_epoch(process);
    trace(process, "goes on");
    take_disk(process->world, argument_of(process));
}

// ---- migration ----

static void ask(struct process *process, enum arbiter_ask ask)
{
    struct host *host = host_of(process);
    process->answer_awaited = true;
    if (!host->agent.part.up)
        return; // asks again
    store_send(host, &(struct request){.kind = REQUEST_READ_ARBITER,
                                       .reads = true,
                                       .host = host->index,
                                       .process = index_of(process),
                                       .process_number = process->number,
                                       .ask = ask,
                                       .generation = host->agent.part.generation});
}

static void ask_again(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || waits(process, ask_again))
        return;
    bool source = process->phase == PROCESS_STANDING;
    if (!source && !(process->phase == PROCESS_INCOMING && process->loaded))
        return;
    struct world *world = process->world;
    if (source && !process->asked_commit) {
        process->asked_commit = true;
        ask(process, ASK_COMMIT);
    } else {
        ask(process, !source                                     ? ASK_OUTCOME
                     : sim_random_chance(&world->random, 500000) ? ASK_ABORT
                                                                 : ASK_COMMIT);
    }
    later(process, sim_random_between(&world->random, SIM_SECOND / 2, 3 * SIM_SECOND), ask_again);
}

static void target_starts(struct process *process)
{
    struct world *world = process->world;
    if (process->phase != PROCESS_INCOMING)
        return;
    if (sim_random_chance(&world->random, 150000)) {
        process_end(process, END_NOT_STARTED); // its disks couldn't be had
        return;
    }
    use_epoch(process);
    process->phase = PROCESS_WAITING;
    process->migration_id[0] = 0;
    take_disk(world, argument_of(process));
    world->moves++;
}

static void commit_arrives(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || waits(process, commit_arrives))
        return;
    target_starts(process);
}

static void source_resumes(struct process *process)
{
    process->migration_id[0] = 0;
    process->moving = process->asked_commit = false;
    process->phase = PROCESS_WAITING;
    trace(process, "resumes here");
    judge_memory(process);
    take_disk(process->world, argument_of(process));
}

static void source_ends(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (process && process->phase == PROCESS_STANDING)
        process_end(process, END_CLEAN);
}

void process_answer(struct process *process, enum arbiter_ask asked, enum arbiter_decision decision)
{
    struct world *world = process->world;
    (void)asked;
    if (process->phase == PROCESS_INCOMING && decision == DECIDE_TARGET)
        target_starts(process);
    else if (process->phase == PROCESS_INCOMING && decision == DECIDE_SOURCE)
        process_end(process, END_NOT_STARTED);
    if (process->phase != PROCESS_STANDING)
        return;
    if (decision == DECIDE_SOURCE)
        source_resumes(process);
    if (decision != DECIDE_TARGET || process->peer < 0)
        return;
    struct process *peer = &world->processes[process->peer];
    // Its place may be another process's by now.
    bool same = strcmp(peer->migration_id, process->migration_id) == 0;
    if (peer->phase == PROCESS_INCOMING && same && !sim_random_chance(&world->random, 100000))
        later(peer, sim_random_between(&world->random, 100, 10000), commit_arrives);
    if (sim_random_chance(&world->random, 700000)) // STARTED comes back
        later(process, sim_random_between(&world->random, 20000, 900000), source_ends);
}

static void switch_over(void *owner, uint64_t argument)
{
    struct process *process = find(owner, argument);
    if (!process || !process->moving || process->phase != PROCESS_RUNNING ||
        waits(process, switch_over))
        return;
    struct process *peer = process->peer >= 0 ? &process->world->processes[process->peer] : NULL;
    if (!peer || peer->phase != PROCESS_INCOMING || !peer->on_host || has_expired(process) ||
        strcmp(peer->migration_id, process->migration_id) != 0 ||
        sim_random_chance(&process->world->random, 150000)) {
        process->moving = false; // the migration has failed, the guest runs on
        trace(process, "can't migrate");
        return;
    }
    trace(process, "stands still for the switch");
    process->phase = PROCESS_STANDING;
    process->in_guest = false;
    process->writes_end = process->world->events.now;
    if (process->has_lock)
        drop_lock(process);
    peer->loaded = true;
    // The worst moment for the store to be far away.
    if (process->world->faulty && sim_random_chance(&process->world->faults, 700000))
        host_of(process)->switch_lags_until = process->world->events.now + 6 * SIM_SECOND;
    later(peer, SIM_SECOND, ask_again);
    later(process, sim_random_between(&process->world->random, 1000, 5000), ask_again);
}

void process_move_out(struct process *process, const struct migration_record *migration)
{
    struct world *world = process->world;
    strcpy(process->migration_id, migration->id);
    process->moving = true;
    process->asked_commit = false;
    process->peer = -1;
    for (int i = 0; i < PROCESSES; i++)
        if (world->processes[i].phase == PROCESS_INCOMING &&
            strcmp(world->processes[i].migration_id, migration->id) == 0)
            process->peer = i;
    trace(process, "migrates");
    later(process, sim_random_between(&world->random, 10000, 3 * SIM_SECOND), switch_over);
}

// ---- what an agent sees ----

void process_local_view(struct world *world, int host, int machine, struct local_view *local,
                        int *index)
{
    *local = (struct local_view){.end = world->machines[machine].end[host],
                                 .epoch = world->machines[machine].end_epoch[host]};
    *index = -1;
    uint32_t generation = world->hosts[host].agent.part.generation;
    for (int i = 0; i < PROCESSES; i++) {
        const struct process *process = &world->processes[i];
        if (process->phase == PROCESS_FREE || process->host != host || process->machine != machine)
            continue;
        if (process->phase == PROCESS_ENDING && !process->on_host)
            continue;
        if (process->phase == PROCESS_BEGUN && CLUSTER_IS_MUTANT(SPAWN_FORGOTTEN) &&
            process->agent_generation != generation)
            continue;
        // What has its lock counts before what is only on its way.
        if (*index >= 0 && process->phase == PROCESS_BEGUN)
            continue;
        *index = i;
        local->epoch = process->epoch;
        snprintf(local->migration_id, sizeof(local->migration_id), "%s", process->migration_id);
        local->moving = process->moving;
        local->ran = process->phase == PROCESS_RUNNING;
        switch (process->phase) {
        case PROCESS_BEGUN:
        case PROCESS_ENDING:
            local->process = LOCAL_STARTING;
            break;
        case PROCESS_LOST:
            local->process = process->writes_end > world->events.now || process->in_guest
                                 ? LOCAL_STARTING
                                 : LOCAL_LOST;
            break;
        case PROCESS_STANDING:
            local->process = LOCAL_STANDING;
            break;
        case PROCESS_INCOMING:
            local->process = LOCAL_INCOMING;
            strcpy(local->address, "there");
            break;
        default:
            local->process = LOCAL_LIVE;
            break;
        }
    }
}
