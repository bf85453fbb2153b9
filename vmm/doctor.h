// What this host offers to machines, and what follows from it.
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/runtime_dir.h"

enum doctor_verdict {
    DOCTOR_GOOD,    // as it should be
    DOCTOR_NOTE,    // a fact; something is slower or not offered
    DOCTOR_WARNING, // something that people commonly want doesn't work
    DOCTOR_BAD,     // no machine can run
};

struct doctor_finding {
    enum doctor_verdict verdict;
    const char *subject;   // "kvm", "ring 0", "huge pages": a short key, static
    char fact[200];        // what was found
    char consequence[240]; // what follows from it
};

// The few answers that programs want.
struct doctor_summary {
    enum doctor_verdict worst;
    bool kvm_usable;
    bool ring0_known, ring0_native;
};

// Examines the host and calls report() for each finding, in a fixed order. `dir` may be NULL: then
// nothing is cached.
void doctor_examine(const struct runtime_dir *dir,
                    void (*report)(const struct doctor_finding *finding, void *opaque),
                    void *opaque, struct doctor_summary *summary);
const char *doctor_verdict_name(enum doctor_verdict verdict);

// Whether guest code at CPL 0 runs on the CPU rather than in KVM's emulator: found out by timing a
// short loop in a throw-away VM, and kept in `dir` (may be NULL) for this boot. 0 or a sentence.
int doctor_ring0_is_native(int kvm_fd, const struct runtime_dir *dir, bool *native,
                           struct error *err);
// The speed of ring 0 in a throw-away VM, in millions of instructions a second.
int doctor_ring0_measure(int kvm_fd, double *mips, struct error *err);
