// The inside of a machine, for the files of vmm/ that make it up.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/io_thread.h"
#include "base/lease.h"
#include "base/log.h"
#include "devices/acpi_pm.h"
#include "devices/block/block_backend.h"
#include "devices/bus.h"
#include "devices/device.h"
#include "devices/machine_ops.h"
#include "devices/pci.h"
#include "devices/pci_hotplug.h"
#include "devices/serial.h"
#include "devices/virtio/virtio.h"
#include "vmm/console_hub.h"
#include "vmm/cpu_control.h"
#include "vmm/cpu_time.h"
#include "vmm/cpuid.h"
#include "vmm/interrupts.h"
#include "vmm/irqchip.h"
#include "vmm/machine.h"
#include "vmm/ram.h"
#include "vmm/vcpu.h"

// One for the slow devices, one for vsock, one for each disk and network.
enum { MACHINE_IO_THREADS = 2 + MACHINE_DISKS_LIMIT + MACHINE_NETS_LIMIT };

struct mapped_slot {
    uint64_t gpa, size; // size 0 = free
};

// Which console the hub's input goes to: the one that printed last.
enum console_port { CONSOLE_SERIAL, CONSOLE_VIRTIO };

struct machine_lease;

struct machine {
    struct machine_config config;
    struct machine_files files;
    struct machine_listener listener;
    enum machine_state state;
    enum machine_stop_reason stop_reason;
    int exit_code;
    unsigned panic; // what the guest's kernel last said (devices/pvpanic.h)
    char *crash_report;

    uv_loop_t *loop;
    uv_async_t *wake_up;                 // requests of vCPU threads; freed by its close callback
    struct machine_announcer *announcer; // after a move, for a second; machine_announce.c

    struct kvm kvm;
    struct ram ram;
    struct interrupts interrupts;
    struct bus ports, mmio;
    struct machine_bus bus;
    struct pci_bus pci;
    struct cpuid_table *cpuid; // what the vCPUs were given, but for the APIC ids
    struct vcpus vcpus;
    struct cpu_time cpu_time;
    struct cpu_control cpu;
    struct irqchip_state reset_irqchip;

    struct device *devices; // in order of creation
    struct acpi_pm *acpi_pm;
    struct pci_hotplug *hotplug;
    struct serial *serial;
    struct device *virtio_console; // NULL without
    struct device *balloon;        // NULL without
    struct console_hub *hub;
    atomic_int console_port;                          // enum console_port
    struct io_thread *io_threads[MACHINE_IO_THREADS]; // [0] is shared by the slow devices
    unsigned io_thread_count;

    // The first request that nobody has served yet: 0 = none, else (kind + 1) | value << 8. vCPU
    // threads set it, the main thread takes it.
    _Atomic uint64_t request;
    _Atomic(struct vcpu *) failed_vcpu;
    atomic_bool eject_waits;                   // the guest ejected, which closed the gate
    atomic_bool balloon_changed;               // set by its I/O thread, taken by the main thread
    struct log_limit panics_told, resets_told; // on the main thread

    pthread_mutex_t slots_lock; // guards slots
    struct mapped_slot slots[MAPPED_SLOTS];

    struct block_backend *disks[MACHINE_DISKS_LIMIT]; // the devices'
    // Second descriptors of the disks' open files, for their locks (which belong to the open file).
    int lock_fds[MACHINE_DISKS_LIMIT];
    unsigned holds;      // moves and snapshots under way: no reset
    bool incoming;       // RAM and state come from elsewhere
    bool frozen;         // by a move or a snapshot: nobody else may resume it
    bool frozen_running; // it ran before
    bool in_doubt;       // it may be running at the target of a move

    struct lease lease;            // unbounded while nobody manages the machine
    struct machine_lease *managed; // NULL when nobody does

    int stats_fd; // KVM's statistics of the VM, -1 without
    int statm_fd; // /proc/self/statm
};

// machine.c
void machine_emit(struct machine *machine, enum machine_event event);
// vCPUs out of the guest, then I/O threads idle with nothing in flight.
void machine_halt(struct machine *machine);
// Opens the gate that a vCPU closed for something that is served by now; not over somebody's
// request for the machine's end, also one that came meanwhile: that one is served next.
void machine_let_go_on(struct machine *machine);
// The other way round, for one that stood.
void machine_continue(struct machine *machine);
void machine_end(struct machine *machine, enum machine_stop_reason reason);

// machine_lease.c
// Main thread: whether the lease has been lost meanwhile, and if so what follows.
void machine_announce_stop(struct machine *machine);
void machine_lease_look(struct machine *machine);
// Its handles are gone when the loop has run once more.
void machine_lease_close(struct machine *machine);

// machine_disks.c
// Locks the images, all or none.
int machine_disks_lock(struct machine *machine, struct error *err);
void machine_disks_unlock(struct machine *machine);
// Flushes, however that goes, and unlocks.
void machine_disks_give_up(struct machine *machine);
// Of a managed machine whose disks are locked: no epoch above `most` has used them, and from now on
// `epoch` does (vmm/disk_epoch.h).
int machine_disks_claim(struct machine *machine, uint64_t epoch, uint64_t most, struct error *err);

// machine_devices.c: buses, devices and their I/O threads, in the fixed order that gives them their
// places.
int machine_devices_create(struct machine *machine, struct error *err);
void machine_devices_destroy(struct machine *machine);
// The last disk (network) of m->config, whose descriptors are in m->files; also while vCPUs run. On
// failure nothing is left, descriptors stay the caller's.
// `connected`: the backend of an NBD disk, the device's from success on; NULL: made of the file.
int machine_devices_add_disk(struct machine *machine, unsigned index,
                             struct block_backend *connected, struct error *err);
int machine_devices_add_net(struct machine *machine, unsigned index, struct error *err);
// Removes a virtio device with its thread. The vCPUs are parked.
void machine_devices_remove(struct machine *machine, struct device *device);
struct device *machine_devices_find(struct machine *machine, const char *id);

// machine_hotplug.c: removes what the guest has ejected, if nothing stands against it now.
void machine_hotplug_serve(struct machine *machine);

// machine_balloon.c: makes m->balloon.
int machine_balloon_create(struct machine *machine, const struct virtio_environment *env,
                           struct error *err);

// machine_bus.c: what the devices may ask of the machine.
extern const struct machine_ops machine_bus_ops;
// Any thread: closes the gate and tells the main thread. The first one counts.
void machine_request(struct machine *machine, enum machine_request request, int value);

// machine_boot.c: puts images and tables into RAM and the first vCPU at their entry.
int machine_boot(struct machine *machine, struct error *err);

// crash_report.c: text for people, allocated; NULL without memory. The vCPUs are parked.
char *crash_report_format(struct machine *machine, const struct vcpu *vcpu);
