// A machine that a cluster manages: it runs only under a lease, which its host's agent renews
// (base/lease.h; docs/never-twice.md has the argument). Who it is, the epoch of this start and the
// first deadline come with the start; a managed machine doesn't run without them.
//
// Past the deadline the machine is lease-lost: vCPUs are stopped, nothing is submitted any more,
// I/O that is in flight is awaited, what was written is flushed, and only then the disks' locks are
// given up. Its memory stays for `keep_ns`; then it stops for good. machine_lease_reinstate() with
// a larger epoch makes it go on.
//
// Lease and epoch are not part of the machine's description or state: they never travel.
// Main thread, unless said otherwise.
#pragma once

#include "base/error.h"
#include "base/ids.h"
#include "base/lease.h"
#include "base/witness.h"
#include "vmm/machine.h"

enum { LEASE_BOOT_ID_SIZE = 64, LEASE_WITNESS_SIZE = 256 };

struct machine_lease_params {
    struct uuid uuid;
    uint64_t epoch;                   // of this start; larger than that of any before
    char boot_id[LEASE_BOOT_ID_SIZE]; // deadlines mean nothing under another
    uint64_t deadline_ns;             // CLOCK_BOOTTIME; LEASE_UNBOUNDED for none
    uint64_t keep_ns;
    bool new_disks; // the machine's first start: disks without an epoch file get one
    char witness[LEASE_WITNESS_SIZE]; // a directory for base/witness.h; "" for none. The caller's
                                      // to open
};

#define LEASE_KEEP_DEFAULT (600 * NSEC_PER_SEC)

// Whose lease a call is about; each field is compared.
struct machine_lease_name {
    struct uuid uuid;
    uint64_t epoch;
    const char *boot_id;
};

// This boot's id, as /proc/sys/kernel/random/boot_id has it. 0 or -errno.
int machine_lease_boot_id(char *out, size_t size);

// Before the machine's first run. The witness file, NULL for none, outlives the machine. -EINVAL
// when the uuid isn't the machine's, -ETIMEDOUT when the deadline has passed.
int machine_manage(struct machine *machine, const struct machine_lease_params *params,
                   struct witness_file *witness, struct error *err);
bool machine_is_managed(const struct machine *machine);
// Of a managed machine.
uint64_t machine_lease_epoch(const struct machine *machine);
uint64_t machine_lease_deadline(const struct machine *machine); // LEASE_LOST when it is
bool machine_lease_has_new_disks(const struct machine *machine);
// Any thread. True for a machine that nobody manages.
bool machine_lease_holds(struct machine *machine);
// An action that changes who runs the machine must name its epoch when the machine is managed
// (`given` false: none was named). 0, or -EPERM with a sentence.
int machine_lease_check_epoch(const struct machine *machine, bool given, uint64_t epoch,
                              struct error *err);

// A later deadline; an earlier one is ignored, as calls may overtake each other. -ENOTSUP for a
// machine that nobody manages, -EXDEV (uuid), -ESTALE (epoch) or -EREMCHG (boot) when another lease
// is meant, -ETIMEDOUT when this one is lost.
int machine_lease_renew(struct machine *machine, const struct machine_lease_name *name,
                        uint64_t deadline_ns, struct error *err);
// Gives a machine that is lease-lost, or in doubt after a move, back to this process, under a
// larger epoch. The disks are locked again first, and must not have been used by anybody since;
// `not_started` is an epoch of which the caller knows that it never ran (0 for none), whose mark on
// the disks is no harm. Errors as above; -EAGAIN when a disk is locked by another, -EBUSY in
// another state.
int machine_lease_reinstate(struct machine *machine, const struct machine_lease_name *name,
                            uint64_t deadline_ns, uint64_t not_started, struct error *err);
