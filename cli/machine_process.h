// The process that is a machine: from a description to its end.
#pragma once

#include <stdbool.h>

#include "migrate/snapshot.h"
#include "migrate/target.h"
#include "vmm/machine_config.h"
#include "vmm/machine_lease.h"

struct process_options {
    const char *runtime_dir; // NULL: the default
    bool foreground;         // standard input and output are the guest's console
    // Called once the machine runs; NULL for nobody.
    void (*started)(void *opaque, const char *name);
    void *opaque;
    // The machine comes from another host; `config` is this target's. NULL for a start from images.
    struct migration_target *incoming;
    // The machine comes from a snapshot; `config` is its own. NULL otherwise.
    struct snapshot_file *snapshot;
    bool load_whole; // rather than map it
    bool force;      // also when a disk has changed since
    // The machine is managed by a cluster. NULL otherwise.
    const struct machine_lease_params *lease;
    bool sandbox_off;
};

// --sandbox, for each command that becomes a machine: an int, index into the names.
enum sandbox_choice { SANDBOX_ON, SANDBOX_OFF };
extern const char *const sandbox_choice_names[];
#define OPTION_SANDBOX(type, member)                                                               \
    {                                                                                              \
        .name = "sandbox", .kind = OPTION_CHOICE, .offset = offsetof(type, member),                \
        .argument = "on|off", .choices = sandbox_choice_names,                                     \
        .help = "off: the process isn't shut in, for debugging (on)"                               \
    }

// Runs the machine and returns its exit status (enum exit_status, or the guest's own with
// debug_exit). When ferry itself fails, `err` has the sentence and the status is that of a failure.
// An empty name in `config` is replaced by a new one.
int machine_process_run(struct machine_config *config, const struct process_options *options,
                        struct error *err);
// The status of a failure of ferry's own: with debug_exit, odd statuses belong to the guest.
int machine_process_failure_status(const struct machine_config *config);
