// A cluster of hosts in simulated time, around the real step functions of agents, managers,
// renewals and arbiters. What isn't a step function stands here as a model: the store (which is
// linearizable, slow, and loses requests and answers), the machines' processes with their leases,
// their disks, the clocks of the hosts.
//
// The judge looks after every event: at most one process of a machine is in its guest, at most one
// has writes under way to its disk, and no two starts had the same epoch.
#pragma once

#include "base/cluster_mutant.h"
#include "cluster/agent/agent.h"
#include "cluster/agent/renewal.h"
#include "cluster/manager/manager.h"
#include "tests/sim/events.h"
#include "tests/sim/random.h"

enum { HOSTS = 4, MACHINES = 4, PROCESSES = 96, REQUESTS = 512, EPOCHS = 512 };

#define FOREVER UINT64_MAX

// A part of a host that can be stopped and continued; what comes meanwhile waits.
struct part {
    bool up;
    uint32_t generation; // grows when it ends: replies to an earlier one are dropped
    sim_time paused_until;
};

struct sim_agent {
    struct part part;
    struct record_view view;
    bool registered, reading, committing_life;
    struct agent_self self;
    struct renewal renewal;
    bool renewing;
    uint32_t renewal_number;
    struct agent_machine machines[MACHINES];
};

struct sim_manager {
    struct part part;
    struct manager core;
    struct record_view view;
    bool reading;
    unsigned committing;
    struct manager_changes changes;
    char instance[UUID_TEXT_SIZE];
    sim_time takes_over_at;
};

struct host {
    struct world *world;
    int index;
    char name[8];
    bool up, cut_to_store, cut_from_store;
    bool lagging, answers_lag;  // the latter: only what it hears does
    sim_time switch_lags_until; // what its machines ask of the arbiter
    uint64_t boots;
    // CLOCK_BOOTTIME: `offset` at `base`, then 1000 ns +- `ppm` a microsecond.
    sim_time clock_base;
    uint64_t clock_offset;
    int64_t ppm;
    struct sim_agent agent;
    struct sim_manager manager;
};

enum process_phase {
    PROCESS_FREE,
    PROCESS_BEGUN,   // between fork and its runtime lock
    PROCESS_WAITING, // for its disk
    PROCESS_RUNNING,
    PROCESS_INCOMING,
    PROCESS_STANDING, // a source that has to ask
    PROCESS_LOST,
    PROCESS_ENDING, // told to end, or dead with writes under way
};

struct process {
    enum process_phase phase;
    struct world *world;
    int host, machine;
    uint32_t number; // of this use of the slot
    uint64_t epoch, deadline;
    bool unbounded;            // without a deadline, whatever is in `deadline`
    uint32_t agent_generation; // of the agent that began it
    bool paused;
    sim_time paused_until; // when `paused` ends
    bool in_guest;
    bool has_lock;       // of the disk
    sim_time writes_end; // its last write so far ends then
    bool on_host;        // its runtime lock is held; false: only its last writes are left
    bool moving, asked_commit, answer_awaited, committed, loaded;
    char migration_id[UUID_TEXT_SIZE];
    int peer; // process index of the other side of a migration
    sim_time lost_at;
    enum local_end end;
};

struct machine {
    char uuid[UUID_TEXT_SIZE];
    bool no_ha;
    bool has_disk;
    uint64_t disk_epoch;
    int lock_holder; // process index, -1
    // By host: how the last process there ended.
    enum local_end end[HOSTS];
    uint64_t end_epoch[HOSTS];
    uint64_t used_epochs[EPOCHS];
    unsigned used_count;
    // What the store has said: which host was given which epoch, to be started.
    uint64_t given_epochs[EPOCHS];
    int given_hosts[EPOCHS];
    unsigned given_count;
    uint64_t last_ran; // epoch of the process that was in its guest last
};

enum request_kind {
    REQUEST_READ_AGENT,
    REQUEST_READ_MANAGER,
    REQUEST_READ_REGISTER,
    REQUEST_READ_ARBITER,
    REQUEST_RENEWAL,
    REQUEST_REGISTER,
    REQUEST_AGENT,
    REQUEST_MANAGER,
    REQUEST_MANAGER_TAKE,
    REQUEST_ARBITER
};

struct request {
    bool used, done, executed;
    enum request_kind kind;
    uint32_t number;
    int host, machine, process;
    uint32_t generation, process_number;
    enum arbiter_ask ask;
    bool reads;
    struct change change;
    enum change_outcome outcome;
    struct record_view view;
    uint64_t revision;
};

// What a run has most of; odd seeds have a bit of everything.
enum focus { FOCUS_MIXED, FOCUS_SWITCH, FOCUS_START, FOCUS_FENCE, FOCUS_COUNT };

struct waiting; // an answer that came while its receiver was paused
struct saying;  // what a person has seen and will say

struct world {
    enum focus focus;
    struct waiting *waiting;
    struct saying *sayings;
    struct sim_events events;
    struct sim_random random, faults;
    struct record_view store;
    uint64_t revision;
    sim_time store_stalled_until;
    struct host hosts[HOSTS];
    int host_count;
    struct machine machines[MACHINES];
    int machine_count;
    struct process processes[PROCESSES];
    struct request requests[REQUESTS];
    uint32_t next_number;
    bool faulty, trace;
    uint32_t slow_rate, loss_rate; // of messages to and from the store, in a million
    sim_time faults_end;
    struct settings_record settings;
    char failure[400];
    uint64_t starts, moves, continued, fences, declared; // to see that runs do something
};

// world.c
void world_run(struct world *world, uint64_t seed, bool trace);
void world_free(struct world *world);
void world_fail(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
void world_trace(struct world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
uint64_t host_clock(const struct host *host);
// When this host's clock will show `local`; not before now.
sim_time host_when(const struct host *host, uint64_t local);

// What it says to the store and hears takes long, and then it is cut off.
void host_lags(struct host *host, sim_time pause);

// store.c
void store_send(struct host *host, const struct request *what);
void store_view_copy(struct record_view *to, const struct record_view *from);
void store_client_change(struct world *world, const struct change *change);

// hosts.c
void host_boot(struct host *host);
void host_power_off(struct host *host);
// Of a run that has ended.
void hosts_forget_answers(struct world *world);
void agent_begin(struct host *host);
void agent_kill(struct host *host);
void manager_begin(struct host *host);
void manager_kill(struct host *host);
void host_answered(struct host *host, struct request *request);
int machine_index(const struct world *world, const char *uuid);

// people.c
void people_look(void *owner, uint64_t argument);
// Of a run that has ended.
void people_forget(struct world *world);

// process.c
void process_local_view(struct world *world, int host, int machine, struct local_view *local,
                        int *process);
int process_begin(struct host *host, int machine, uint64_t epoch, const char *migration_id);
void process_end(struct process *process, enum local_end end);
void process_continue(struct process *process, uint64_t epoch);
void process_renew(struct process *process, uint64_t deadline);
void process_move_out(struct process *process, const struct migration_record *migration);
void process_pause(struct process *process, sim_time until);
void process_power_off(struct process *process);
void process_rearm(struct process *process);
void process_answer(struct process *process, enum arbiter_ask ask, enum arbiter_decision decision);
void process_judge(struct world *world);
