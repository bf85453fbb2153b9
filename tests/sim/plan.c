#include "plan.h"

#include "machine.h"

#include <string.h>

#define PER_MILLION(percent) ((uint32_t)((percent)*10000))

// True in `percent` of all seeds.
static bool often(struct sim_random *random, uint32_t percent)
{
    return sim_random_chance(random, percent * 10000);
}

static void plan_draw_times(struct sim_plan *plan, struct sim_random *random)
{
    static const struct {
        sim_time tick;
        uint32_t heartbeat, election_min, election_max;
    } times[] = {
        {50 * SIM_MILLISECOND, 2, 20, 40}, // the design's defaults
        {50 * SIM_MILLISECOND, 2, 10, 20}, {25 * SIM_MILLISECOND, 2, 8, 16},
        {15 * SIM_MILLISECOND, 3, 10, 20}, // 150 to 300 ms
        {30 * SIM_MILLISECOND, 1, 5, 10},
    };
    unsigned pick = (unsigned)sim_random_below(random, sizeof(times) / sizeof(times[0]));

    plan->tick_length = times[pick].tick;
    plan->options.heartbeat_ticks = times[pick].heartbeat;
    plan->options.election_ticks_min = times[pick].election_min;
    plan->options.election_ticks_max = times[pick].election_max;
}

static void plan_draw_bounds(struct sim_plan *plan, struct sim_random *random)
{
    struct raft_options *options = &plan->options;

    raft_options_default(options);
    options->message_entries_max =
        (uint32_t)sim_random_between(random, 1, often(random, 50) ? 4 : 64);
    options->message_bytes_max = sim_random_between(random, 64, 4096);
    options->window_messages = (uint32_t)sim_random_between(random, 1, 16);
    options->window_bytes = sim_random_between(random, 256, 16384);
    options->snapshot_chunk_bytes = sim_random_between(random, 200, 2048);
    options->entry_bytes_max = 1024;
    options->unapplied_bytes_max = sim_random_between(random, 2048, 65536);
    options->unwritten_bytes_max = sim_random_between(random, 2048, 65536);
    options->committed_bytes_max = sim_random_between(random, 64, 8192);
    options->committed_entries_max = (uint32_t)sim_random_between(random, 1, 64);
    options->reads_max = (uint32_t)sim_random_between(random, 1, 16);
}

static void plan_draw_network(struct sim_plan *plan, struct sim_random *random)
{
    struct sim_network_faults *network = &plan->network;

    network->delay_min = sim_random_between(random, 100, 2000);
    network->delay_max = network->delay_min + sim_random_between(random, 100, 20000);
    network->loss_ppm = often(random, 60) ? (uint32_t)sim_random_below(random, PER_MILLION(15)) : 0;
    network->duplicate_ppm =
        often(random, 60) ? (uint32_t)sim_random_below(random, PER_MILLION(10)) : 0;
    network->spike_ppm = often(random, 60) ? (uint32_t)sim_random_below(random, PER_MILLION(8)) : 0;
    network->spike_max = sim_random_between(random, 50, 3000) * SIM_MILLISECOND;
}

static void plan_draw_disk(struct sim_plan *plan, struct sim_random *random)
{
    struct sim_disk_faults *disk = &plan->disk;

    disk->sync_min = sim_random_between(random, 50, 1000);
    disk->sync_max = disk->sync_min + sim_random_between(random, 50, 15000);
    disk->stall_ppm = often(random, 40) ? (uint32_t)sim_random_below(random, PER_MILLION(3)) : 0;
    disk->stall_max = sim_random_between(random, 20, 2000) * SIM_MILLISECOND;
    disk->sync_error_ppm = often(random, 20) ? (uint32_t)sim_random_below(random, 3000) : 0;
}

static void plan_draw_faults(struct sim_plan *plan, struct sim_random *random)
{
    static const struct {
        enum sim_fault fault;
        uint32_t percent; // of the seeds that have it at all
        uint32_t least_ms, most_ms;
    } rates[] = {
        {SIM_FAULT_CRASH, 50, 500, 8000},          {SIM_FAULT_KILL, 40, 500, 8000},
        {SIM_FAULT_WRITE_CRASH, 50, 300, 5000},    {SIM_FAULT_CRASH_ALL, 10, 3000, 15000},
        {SIM_FAULT_PAUSE, 30, 500, 6000},          {SIM_FAULT_PAUSE_LEADER, 30, 1000, 8000},
        {SIM_FAULT_PARTITION, 40, 1000, 8000},     {SIM_FAULT_ONE_WAY, 35, 1000, 8000},
        {SIM_FAULT_RING, 20, 2000, 10000},         {SIM_FAULT_HEAL, 95, 500, 4000},
        {SIM_FAULT_DISK_HANG, 20, 2000, 10000},    {SIM_FAULT_DISK_FULL, 10, 3000, 15000},
        {SIM_FAULT_DISK_LOST, 12, 3000, 15000},    {SIM_FAULT_MEMBERSHIP, 45, 300, 5000},
        {SIM_FAULT_REMOVE_LEADER, 12, 2000, 9000}, {SIM_FAULT_TRANSFER, 30, 500, 6000},
    };

    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        if (often(random, rates[i].percent))
            plan->every[rates[i].fault] =
                sim_random_between(random, rates[i].least_ms, rates[i].most_ms) * SIM_MILLISECOND;
    plan->drift_max_ppm = often(random, 50) ? (int32_t)sim_random_below(random, 100000) : 0;
    plan->down_max = sim_random_between(random, 100, 5000) * SIM_MILLISECOND;
    plan->pause_max = sim_random_between(random, 100, 5000) * SIM_MILLISECOND;
    plan->hang_max = sim_random_between(random, 200, 6000) * SIM_MILLISECOND;
    plan->missed_ticks_max = often(random, 50) ? 0 : (unsigned)sim_random_between(random, 1, 100);
    plan->memory_ppm = often(random, 8) ? (uint32_t)sim_random_below(random, 20000) : 0;
}

static void plan_draw_load(struct sim_plan *plan, struct sim_random *random)
{
    plan->think_max = sim_random_between(random, 5, 400) * SIM_MILLISECOND;
    plan->client_timeout = sim_random_between(random, 100, 1000) * SIM_MILLISECOND;
    plan->read_ppm = (uint32_t)sim_random_between(random, PER_MILLION(10), PER_MILLION(70));
    plan->read_log_ppm = PER_MILLION(15);
    plan->abandon_ppm = often(random, 30) ? PER_MILLION(5) : 0;
    plan->command_pad = often(random, 20) ? sim_random_below(random, 400) : 0;
    plan->snapshot_every =
        often(random, 70) ? (uint32_t)sim_random_between(random, 5, 100) : UINT32_MAX;
    plan->snapshot_keep = (uint32_t)sim_random_below(random, 30);
    plan->machine_pad = often(random, 20) ? sim_random_below(random, 8192) : 0;
    plan->keep_previous = often(random, 70);
    plan->write_first = often(random, 50);
    plan->drop_percent = often(random, 70) ? 8 : 40;
}

void sim_plan_draw(struct sim_plan *plan, uint64_t seed, const struct sim_profile *profile)
{
    static const unsigned sizes[] = {1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7};
    struct sim_random random;

    sim_random_seed(&random, seed, 0x706c616e);
    memset(plan, 0, sizeof(*plan));
    plan->voters = sizes[sim_random_below(&random, sizeof(sizes) / sizeof(sizes[0]))];
    plan->learners = often(&random, 15) ? 1 : 0;
    plan->clients = (unsigned)sim_random_between(&random, 1, 6);
    plan->duration = sim_random_between(&random, 3000, 14000) * SIM_MILLISECOND;
    plan_draw_bounds(plan, &random);
    plan_draw_times(plan, &random);
    plan_draw_network(plan, &random);
    plan_draw_disk(plan, &random);
    plan_draw_faults(plan, &random);
    plan_draw_load(plan, &random);
    if (profile && profile->change)
        profile->change(plan, &random);
}

// ---- profiles: shifted weights, for what is rare otherwise ----

static void change_calm(struct sim_plan *plan, struct sim_random *random)
{
    memset(plan->every, 0, sizeof(plan->every));
    plan->network.loss_ppm = plan->network.duplicate_ppm = plan->network.spike_ppm = 0;
    plan->disk.stall_ppm = plan->disk.sync_error_ppm = 0;
    plan->memory_ppm = 0;
}

static void change_elections(struct sim_plan *plan, struct sim_random *random)
{
    if (plan->voters < 3)
        plan->voters = 3;
    plan->every[SIM_FAULT_CRASH] = 700 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_WRITE_CRASH] = 500 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_ONE_WAY] = 900 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_PARTITION] = 900 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_PAUSE_LEADER] = 900 * SIM_MILLISECOND;
    plan->down_max = 600 * SIM_MILLISECOND;
    plan->pause_max = 800 * SIM_MILLISECOND;
    plan->network.spike_ppm = PER_MILLION(10);
    plan->network.spike_max = 1500 * SIM_MILLISECOND;
    plan->network.duplicate_ppm = PER_MILLION(10);
    plan->tick_length = 15 * SIM_MILLISECOND;
    plan->options.heartbeat_ticks = 3;
    plan->options.election_ticks_min = 10;
    plan->options.election_ticks_max = 20;
}

static void change_membership(struct sim_plan *plan, struct sim_random *random)
{
    change_elections(plan, random);
    plan->every[SIM_FAULT_MEMBERSHIP] = 250 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_REMOVE_LEADER] = 2500 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_CRASH] = 1500 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_PAUSE_LEADER] = 2000 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_HEAL] = 800 * SIM_MILLISECOND;
}

static void change_snapshots(struct sim_plan *plan, struct sim_random *random)
{
    change_elections(plan, random);
    plan->snapshot_every = (uint32_t)sim_random_between(random, 3, 15);
    plan->snapshot_keep = (uint32_t)sim_random_below(random, 4);
    plan->options.snapshot_chunk_bytes = 300;
    plan->think_max = 20 * SIM_MILLISECOND;
    plan->read_ppm = PER_MILLION(10);
    plan->clients = 6;
    plan->every[SIM_FAULT_HEAL] = 1000 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_MEMBERSHIP] = 1500 * SIM_MILLISECOND;
}

static void change_reads(struct sim_plan *plan, struct sim_random *random)
{
    change_elections(plan, random);
    plan->read_ppm = PER_MILLION(60);
    plan->read_log_ppm = 0;
    plan->think_max = 10 * SIM_MILLISECOND;
    plan->clients = 6;
    plan->missed_ticks_max = 0;
    plan->every[SIM_FAULT_HEAL] = 1000 * SIM_MILLISECOND;
}

static void change_disks(struct sim_plan *plan, struct sim_random *random)
{
    if (plan->voters < 3)
        plan->voters = 3;
    plan->every[SIM_FAULT_DISK_HANG] = 1500 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_WRITE_CRASH] = 400 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_CRASH_ALL] = 2000 * SIM_MILLISECOND;
    plan->disk.sync_max = 100 * SIM_MILLISECOND;
    plan->disk.stall_ppm = PER_MILLION(5);
    plan->down_max = 600 * SIM_MILLISECOND;
}

static void change_transfers(struct sim_plan *plan, struct sim_random *random)
{
    change_calm(plan, random);
    if (plan->voters < 3)
        plan->voters = 3;
    plan->every[SIM_FAULT_TRANSFER] = 400 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_ONE_WAY] = 3000 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_HEAL] = 1500 * SIM_MILLISECOND;
    plan->think_max = 30 * SIM_MILLISECOND;
}

// All members do the same at the same time: only the randomness of their time-outs tells them
// apart.
static void change_lockstep(struct sim_plan *plan, struct sim_random *random)
{
    change_calm(plan, random);
    if (plan->voters < 2)
        plan->voters = 4;
    plan->network.delay_min = plan->network.delay_max = 2 * SIM_MILLISECOND;
    plan->disk.sync_min = plan->disk.sync_max = SIM_MILLISECOND;
    plan->drift_max_ppm = 0;
    plan->aligned = true;
    plan->every[SIM_FAULT_CRASH_ALL] = 2 * SIM_SECOND;
    plan->down_max = 1;
}

static void change_losses(struct sim_plan *plan, struct sim_random *random)
{
    change_membership(plan, random);
    plan->every[SIM_FAULT_DISK_LOST] = 1200 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_WRITE_CRASH] = 1500 * SIM_MILLISECOND;
    plan->network.loss_ppm = PER_MILLION(10);
}

// Whole sets of voters give way to others, while readers look at both sides of partitions.
static void change_replace(struct sim_plan *plan, struct sim_random *random)
{
    change_reads(plan, random);
    plan->voters = 3;
    plan->learners = 3;
    plan->drop_percent = 60;
    plan->every[SIM_FAULT_MEMBERSHIP] = 150 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_PARTITION] = 350 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_HEAL] = 500 * SIM_MILLISECOND;
    plan->every[SIM_FAULT_ONE_WAY] = plan->every[SIM_FAULT_RING] = 0;
    plan->every[SIM_FAULT_CRASH] = 3 * SIM_SECOND;
    plan->every[SIM_FAULT_WRITE_CRASH] = 3 * SIM_SECOND;
    plan->every[SIM_FAULT_PAUSE_LEADER] = 0;
}

// Snapshots in many chunks, begun again and again, with chunks of others arriving late and twice.
static void change_chunks(struct sim_plan *plan, struct sim_random *random)
{
    change_snapshots(plan, random);
    plan->snapshot_every = (uint32_t)sim_random_between(random, 2, 8);
    plan->snapshot_keep = 0;
    plan->machine_pad = sim_random_below(random, 1000);
    plan->keep_previous = false;
    plan->options.snapshot_chunk_bytes =
        often(random, 60) ? sim_random_between(random, 100, 400) : 2048;
    plan->network.delay_max = 3 * SIM_MILLISECOND;
    plan->network.duplicate_ppm = PER_MILLION(30);
    plan->network.spike_ppm = PER_MILLION(25);
    plan->network.spike_max = 60 * SIM_MILLISECOND;
    plan->disk.sync_max = plan->disk.sync_min + 500;
}

const struct sim_profile sim_profiles[] = {
    {"mixed", "everything, at rates drawn from the seed", NULL},
    {"calm", "nothing goes wrong", change_calm},
    {"elections", "leaders come and go quickly", change_elections},
    {"membership", "members change all the time", change_membership},
    {"snapshots", "short logs, small chunks", change_snapshots},
    {"reads", "many reads while leaders are cut off and paused", change_reads},
    {"disks", "slow, hung and crashing disks", change_disks},
    {"lockstep", "all members do the same at the same time", change_lockstep},
    {"losses", "members change and disks are lost", change_losses},
    {"replace", "whole sets of voters change, many reads", change_replace},
    {"chunks", "snapshots in many chunks that come late and twice", change_chunks},
    {"transfers", "leadership is handed over all the time", change_transfers},
};
const unsigned sim_profile_count = sizeof(sim_profiles) / sizeof(sim_profiles[0]);

const struct sim_profile *sim_profile_find(const char *name)
{
    for (unsigned i = 0; i < sim_profile_count; i++)
        if (strcmp(sim_profiles[i].name, name) == 0)
            return &sim_profiles[i];
    return NULL;
}
