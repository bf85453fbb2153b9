// The scheduling policy in simulated time, beside an ideal machine that runs everybody at once.
#pragma once

#include "vmm/sched/sched_policy.h"

#define MS    UINT64_C(1000000)
#define SEC   UINT64_C(1000000000)
#define NEVER UINT64_MAX

enum { SIM_TASKS = 64, SIM_CPUS = 8 };

struct sim_task {
    uint32_t id;
    unsigned weight;
    uint64_t slice;
    struct sched_cpus affinity;
    uint64_t burst_mean, sleep_mean; // ns; 0 = works for ever
    uint64_t work;                   // left until it sleeps
    uint64_t wake_at;                // while it sleeps
    uint64_t waiting_since, worst_wait;
    uint64_t wakes;
    double served, ideal;
    bool active; // counts in the ideal machine
    double kept; // lag while it doesn't
};

struct sim_cpu {
    struct sim_task *task;
    uint64_t started, ends;
    uint64_t run; // ns of CPU that it is to use
};

struct sim {
    struct sched_policy *p;
    struct sim_task tasks[SIM_TASKS];
    unsigned count, cpus;
    struct sim_cpu cpu[SIM_CPUS];
    double speed[SIM_CPUS]; // below 1: the host gives the rest of that CPU to other programs
    uint64_t now, idle;     // idle: CPU time that nobody used
    uint64_t random;
    double worst_lag, worst_lead; // in slices of the largest
    // Beside an ideal machine of the test's own; else the policy's word for lags is taken, since
    // two calculations that each spread the lag of who comes and goes drift apart.
    unsigned checks;
    bool reference;
};

uint64_t sim_random(struct sim *s);
// Between an eighth of it and 15 eighths.
uint64_t sim_around(struct sim *s, uint64_t mean);
struct sched_cpus sim_cpus(unsigned count);
// Up to 8 groups; number 0 is there, and everybody's.
void sim_init(struct sim *s, unsigned cpus, uint64_t seed);
void sim_free(struct sim *s);
struct sched_params sim_params(const struct sim_task *t);
// Sleeps so long after each burst; no burst: works for ever. Means, in ns.
struct sim_task *sim_add(struct sim *s, unsigned weight, uint64_t slice, uint64_t burst,
                         uint64_t sleep);
// A CPU that may have become idle by what the test did.
void sim_give(struct sim *s, uint32_t cpu);
void sim_run(struct sim *s, uint64_t until);
double sim_served_ms(const struct sim_task *t);
