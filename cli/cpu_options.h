// The options about CPU time, of `ferry run` and `ferry cpu`.
#pragma once

#include "cli/options.h"
#include "vmm/sched/cpu_settings.h"

// Each sets struct cpu_settings at `settings` of the subcommand's values, through functions of the
// subcommand that find it there.
#define CPU_OPTIONS(weight, cap, slice, affinity, backend, group)                                  \
    {.name = "cpu-weight",                                                                         \
     .kind = OPTION_CALL,                                                                          \
     .argument = "[N=]WEIGHT",                                                                     \
     .call = (weight),                                                                             \
     .help = "share of CPU time, 1 to 10000, of each vCPU or of vCPU N (100)"},                    \
        {.name = "cpu-cap",                                                                        \
         .kind = OPTION_CALL,                                                                      \
         .argument = "[N=]PERCENT",                                                                \
         .call = (cap),                                                                            \
         .help = "most CPU time, 100% is one CPU, of all vCPUs together or of vCPU N"},            \
        {.name = "cpu-slice",                                                                      \
         .kind = OPTION_CALL,                                                                      \
         .argument = "[N=]TIME",                                                                   \
         .call = (slice),                                                                          \
         .help = "longest run while others wait, 100us to 100ms (3ms)"},                           \
        {.name = "cpu-affinity",                                                                   \
         .kind = OPTION_CALL,                                                                      \
         .argument = "[N=]CPUS",                                                                   \
         .call = (affinity),                                                                       \
         .help = "host CPUs to run on, as 0-1,4"},                                                 \
        {.name = "cpu-backend",                                                                    \
         .kind = OPTION_CALL,                                                                      \
         .argument = "BACKEND",                                                                    \
         .call = (backend),                                                                        \
         .help = "who enforces it: auto, own, cgroup2, cgroup1, sched, none (auto)"},              \
    {                                                                                              \
        .name = "cpu-group", .kind = OPTION_CALL, .argument = "own", .call = (group),              \
        .help = "share a core with no other machine's vCPUs (core scheduling)"                     \
    }

int cpu_options_backend(struct cpu_settings *settings, const char *text, struct error *err);
