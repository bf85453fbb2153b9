// What a move or a snapshot needs of a machine beyond its public face. Main thread, unless said
// otherwise.
#pragma once

#include "base/error.h"
#include "vmm/cpuid.h"
#include "vmm/dirty_log.h"
#include "vmm/machine.h"

// As machine_create(), but nothing is loaded: RAM and state come from elsewhere, and the images
// (whose descriptors may be filled later) are only for a reset. The vCPUs get `cpuid`, which is
// checked against what this host can do; NULL means the model of the configuration.
int machine_create_incoming(struct machine **machine, const struct machine_config *config,
                            const struct cpuid_table *cpuid, struct machine_files *files,
                            uv_loop_t *loop, struct console_hub *hub,
                            const struct machine_listener *listener, struct error *err);

// While a move or a snapshot is under way a reset is refused, naming it. Calls nest.
void machine_hold(struct machine *machine, bool on);
bool machine_is_held(const struct machine *machine);

// Halts the machine without telling anybody: vCPUs parked, I/O drained; until machine_thaw() nobody
// can resume it. *was_running says whether it has to go on then. -ECANCELED when the guest has
// asked for its end or reset, which comes first.
int machine_freeze(struct machine *machine, bool *was_running, struct error *err);
void machine_thaw(struct machine *machine, bool go_on);
// The machine runs elsewhere now: it stops here, for good.
void machine_moved(struct machine *machine);

// Everything the guest wrote is on stable storage, and the disks' locks are given up. The machine
// is halted.
int machine_disks_release(struct machine *machine, struct error *err);
// Locks them (again), all or none; -EAGAIN with a sentence that says who holds which. Of a managed
// machine only while its lease holds, and their epoch files are checked: -ESTALE when a later owner
// has used one.
int machine_disks_acquire(struct machine *machine, struct error *err);

// Size and time of the last change of a disk, after everything was flushed to it. The machine is
// halted.
int machine_disk_fingerprint(struct machine *machine, unsigned index, uint64_t *size,
                             uint64_t *changed_ns, struct error *err);
// The same of a descriptor: 0 or -errno. A block device has no time of change: 0.
int machine_file_fingerprint(int fd, uint64_t *size, uint64_t *changed_ns);

// The first run of a machine whose RAM and state were loaded; `running` false leaves it paused.
int machine_start_loaded(struct machine *machine, bool running, struct error *err);
// After a move: asks the guest to tell the network where its addresses are now, and tells it in the
// guest's place, several times within a second.
void machine_announce(struct machine *machine);

// The source of a move can't know whether the target runs: a resume is refused until a person
// forces it.
void machine_set_doubt(struct machine *machine, bool in_doubt);
bool machine_is_in_doubt(const struct machine *machine);

// Any thread: they don't change while the machine lives.
const struct kvm *machine_kvm(const struct machine *machine);
const struct cpuid_table *machine_cpuid(const struct machine *machine);
// The kernel (0) or initrd (1) image: a descriptor of the machine's, -1 for none.
int machine_image_fd(const struct machine *machine, unsigned index);

// The address of network `index`: the configured one, else the one made from the machine's name.
void machine_net_mac(const struct machine_config *config, unsigned index, uint8_t mac[6]);

// Any thread. How much of a CPU each of the vCPUs that wrote most used since the last call, or
// since the machine was held: thousandths, at least 1.
unsigned machine_writers_share(struct machine *machine);

// Any thread. Keeps those vCPUs out of the guest for `thousandths` of the time, to let a move
// keep up with them; 0 ends it.
void machine_throttle(struct machine *machine, unsigned thousandths);
