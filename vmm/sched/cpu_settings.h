// What a machine's description says of its CPU time: weight, cap, slice and affinity, for the
// machine and for single vCPUs, and which backend shall enforce it.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/sched/sched_policy.h"

enum { CPU_SETTINGS_VCPUS = 64 };

enum cpu_backend {
    CPU_BACKEND_AUTO,
    CPU_BACKEND_NONE,
    CPU_BACKEND_OWN,
    CPU_BACKEND_CGROUP2,
    CPU_BACKEND_CGROUP1,
    CPU_BACKEND_SCHED, // nice values and slices by sched_setattr()
};
extern const char *const cpu_backend_names[];

// What can be said of one vCPU, or of all. 0 = not said.
struct cpu_setting {
    unsigned weight; // SCHED_WEIGHT_LEAST..MOST
    uint32_t cap;    // thousandths of a CPU
    uint64_t slice;  // ns
    bool has_affinity;
    struct sched_cpus affinity; // host CPUs
};

struct cpu_settings {
    enum cpu_backend backend;
    bool core_group;            // its vCPUs share a core with nobody else
    struct cpu_setting machine; // its cap holds for all vCPUs together, the rest for each
    struct cpu_setting vcpu[CPU_SETTINGS_VCPUS];
};

// Whether anything asks for control of CPU time.
bool cpu_settings_any(const struct cpu_settings *settings);
bool cpu_settings_are_default(const struct cpu_settings *settings);
// The ranges, for a machine with `cpus` vCPUs; 0 or a sentence.
int cpu_settings_check(const struct cpu_settings *settings, unsigned cpus, struct error *err);

// One option's text: "VALUE" for the machine, "N=VALUE" for vCPU N; "none" takes it back. `key` is
// "weight", "cap", "slice" or "affinity".
int cpu_settings_parse(struct cpu_settings *settings, const char *key, const char *text,
                       struct error *err);
// The one group there is: "own".
int cpu_settings_parse_group(struct cpu_settings *settings, const char *text, struct error *err);
// The object "cpu_time" of a machine's description. Reading overlays what it has; NULL without
// memory.
json_t *cpu_settings_to_json(const struct cpu_settings *settings);
int cpu_settings_from_json(struct cpu_settings *settings, const json_t *object, struct error *err);

// What holds for a vCPU: its own, else the machine's, else the default. Affinity: all, when nothing
// was said. The cap is the vCPU's alone; period SCHED_PERIOD.
void cpu_settings_resolve(const struct cpu_settings *settings, unsigned index,
                          struct sched_params *params);
// "0-1,4" and back; room for 1024 bytes is enough.
int cpu_list_parse(const char *text, struct sched_cpus *cpus);
char *cpu_list_format(const struct sched_cpus *cpus, char *out, size_t size);
// The CPUs on which this thread may run.
void cpu_list_allowed(struct sched_cpus *cpus);

// Caps are counted in periods of this.
#define CPU_CAP_PERIOD_NS UINT64_C(20000000)
struct sched_cap_limits cpu_cap_limits(uint32_t thousandths);
