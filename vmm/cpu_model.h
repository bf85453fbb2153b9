// CPU models: what CPUID features a machine has.
//
//   MODEL[,+FEATURE|,-FEATURE]...   MODEL = host | x86-64-v2 | x86-64-v3 | x86-64-v4
//
// `host` is everything that KVM supports here; the levels are those of the x86-64 psABI, the same
// on each host that has them, so a machine can move between these. Always off: SVM, VMX, PMU, SGX,
// processor trace, AMX, protection keys for supervisor pages: what a guest can't use here, or what
// can't be moved.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

enum { CPU_MODEL_HOST_LEVEL = 255, CPU_MODEL_CHANGES_LIMIT = 64 };

struct cpu_feature {
    const char *name;
    uint32_t leaf;
    uint32_t subleaf;
    enum cpuid_register reg;
    uint8_t bit;
    uint8_t level; // the lowest x86-64 level that has it (1 also for what every machine needs); 0 =
                   // none
};

// All features that have a name, ended by one without.
extern const struct cpu_feature cpu_features[];

struct cpu_model {
    uint8_t level; // 2, 3, 4, or CPU_MODEL_HOST_LEVEL
    struct {
        const struct cpu_feature *feature;
        bool on;
    } changes[CPU_MODEL_CHANGES_LIMIT];
    unsigned change_count;
};

// -EINVAL with a sentence that names what is unknown.
int cpu_model_parse(const char *text, struct cpu_model *model, struct error *err);
