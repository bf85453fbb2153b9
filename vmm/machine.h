// A machine: KVM, RAM, vCPUs and devices, and its states.
//
//   created --start--> running <--pause/resume--> paused
//   running/paused --reset--> the same state with the images loaded again
//   running/paused --lease lost--> lease-lost --reinstated--> as before (vmm/machine_lease.h)
//   any --power-off, exit, crash, kill--> stopped (for good)
//
// Threads: everything here is called on the main thread (the one whose loop was handed in). The
// listener is called there as well. A pause returns after every vCPU has left KVM_RUN with its
// pending exit completed and every I/O thread is idle.
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "base/error.h"
#include "base/guest_memory.h"
#include "vmm/machine_config.h"

struct machine;
struct console_hub;

enum machine_state {
    MACHINE_CREATED,
    MACHINE_RUNNING,
    MACHINE_PAUSED,
    MACHINE_STOPPED,
    MACHINE_LEASE_LOST,
};

enum machine_stop_reason {
    MACHINE_STOP_NONE,
    MACHINE_STOP_POWER_OFF, // the guest switched itself off
    MACHINE_STOP_REBOOT,    // the guest rebooted and on_reboot is exit
    MACHINE_STOP_EXIT,      // debug-exit port; code = (value << 1) | 1
    MACHINE_STOP_CRASH,  // triple fault, emulation failure, internal error; the report was printed
    MACHINE_STOP_KILLED, // by machine_kill()
    MACHINE_STOP_FAILED, // ferry could not go on; the log says why
    MACHINE_STOP_MOVED,  // it runs on another host now
    MACHINE_STOP_LEASE_LOST, // and nobody gave it back in time
};

enum machine_event {
    MACHINE_EVENT_RUNNING,
    MACHINE_EVENT_PAUSED,
    MACHINE_EVENT_RESUMED,
    MACHINE_EVENT_RESET,
    MACHINE_EVENT_POWER_BUTTON,
    MACHINE_EVENT_GUEST_CRASHED, // its kernel said so; what follows is on_panic's
    MACHINE_EVENT_CRASHED,       // before stopped
    MACHINE_EVENT_BALLOON,       // its size, or its statistics, have changed
    MACHINE_EVENT_STOPPED,
    MACHINE_EVENT_LEASE_LOST,
    MACHINE_EVENT_REINSTATED, // paused or running again, as before
};

struct machine_listener {
    void (*event)(void *opaque, enum machine_event event);
    // Something became of one device: "device-added", "device-removed", "device-resized". May be
    // NULL.
    void (*device_event)(void *opaque, const char *event, const char *id);
    void *opaque;
};

// What was opened for the machine before its start; after that it opens no path by name. The
// descriptors belong to the machine once machine_create() succeeded.
struct machine_files {
    int kvm_fd;
    int kernel_fd, initrd_fd; // initrd -1 for none
    int disk_fds[MACHINE_DISKS_LIMIT];
    int epoch_fds[MACHINE_DISKS_LIMIT]; // beside writable disks of a managed machine, else -1
    // Taps, a descriptor a queue pair; else one, of the helper that brings connections.
    int net_fds[MACHINE_NETS_LIMIT][MACHINE_NET_QUEUES_LIMIT];
    uint16_t net_mtus[MACHINE_NETS_LIMIT]; // of taps; 0 when unknown
    int vsock_fd, vsock_helper_fd; // its listening socket, and who connects for the guest; or -1
};

// Opens /dev/kvm and what the configuration names (locks disks), each failure a sentence. On
// failure nothing stays open.
int machine_files_open(struct machine_files *files, const struct machine_config *config,
                       struct error *err);
// The same for a machine whose disks may be in use for a while yet: they are not locked.
int machine_files_open_unlocked(struct machine_files *files, const struct machine_config *config,
                                struct error *err);
// The same for a machine that comes from another host: no images, and disks are not locked yet.
int machine_files_open_incoming(struct machine_files *files, const struct machine_config *config,
                                struct error *err);
// For a managed machine: the epoch files of its writable disks as well (vmm/disk_epoch.h).
int machine_files_open_epochs(struct machine_files *files, const struct machine_config *config,
                              bool new_disks, struct error *err);
// For a machine that isn't managed: -EPERM when a disk has an epoch file, so is a cluster's.
int machine_files_check_unmanaged(const struct machine_config *config, struct error *err);
void machine_files_close(struct machine_files *files);
// One disk's file, not locked; for an NBD disk the socket on which its connections come.
int machine_files_open_disk(const struct disk_config *disk, struct error *err);
// What one network needs: fills `fds`, with as many as net->queues. 0 or a sentence, nothing open.
int machine_files_open_net(const struct net_config *net, int fds[MACHINE_NET_QUEUES_LIMIT],
                           struct error *err);

// Builds the machine, loads the images, and stops before the first instruction. `config` is copied.
// `hub` takes the serial console and outlives the machine. On failure nothing is left, files stay
// the caller's.
int machine_create(struct machine **machine, const struct machine_config *config,
                   struct machine_files *files, uv_loop_t *loop, struct console_hub *hub,
                   const struct machine_listener *listener, struct error *err);
// Ends vCPU and I/O threads and frees everything. NULL is allowed.
void machine_destroy(struct machine *machine);

// The first run. 0 or a sentence.
int machine_start(struct machine *machine, struct error *err);
// -EBUSY with a sentence when the state doesn't allow it. Pausing a paused machine is no error.
int machine_pause(struct machine *machine, struct error *err);
// After a move whose outcome nobody could tell only with `force`, by which a person answers for it
// that the machine doesn't run elsewhere.
int machine_resume(struct machine *machine, bool force, struct error *err);
// Resets devices and vCPUs and loads the images again.
int machine_reset(struct machine *machine, struct error *err);
// Presses the ACPI power button.
int machine_power_button(struct machine *machine, struct error *err);
// Stops the machine now; the listener hears of it before the return.
void machine_kill(struct machine *machine);
// The same for one that can't go on, for a reason that was logged.
void machine_fail(struct machine *machine);

// How its vCPUs share CPU time from now on; also before the start. What was prepared is taken over
// in any case (vmm/cpu_control.h).
struct cpu_prepared;
int machine_set_cpu_time(struct machine *machine, const struct cpu_settings *settings,
                         struct cpu_prepared *prepared, struct error *err);

enum machine_state machine_state(const struct machine *machine);
enum machine_stop_reason machine_stop_reason(const struct machine *machine);
int machine_exit_code(const struct machine *machine); // of MACHINE_STOP_EXIT
const char *machine_state_name(enum machine_state state);
const char *machine_stop_reason_name(enum machine_stop_reason reason);
// What the guest's kernel last said of its crash (events of devices/pvpanic.h), 0 for nothing.
unsigned machine_panic(const struct machine *machine);
// The crash report's text after a crash, else NULL. Belongs to the machine.
const char *machine_crash_report(const struct machine *machine);
const struct machine_config *machine_config(const struct machine *machine);
struct guest_memory *machine_memory(struct machine *machine);

// New JSON objects (NULL without memory): exits by reason a vCPU, KVM's page counts, RSS, I/O
// counters.
json_t *machine_stats(struct machine *machine);
