// vCPUs: one thread each, a run loop that serves exits by a table, and the gate that parks them
// all.
//
// The gate: vcpus_close_gate() makes every vCPU leave the guest soon; a vCPU is parked when its
// pending exit is completed and it waits at the gate. A vCPU looks at the gate only after KVM_RUN
// returned EINTR: whoever closes the gate sets each vCPU's immediate_exit and sends the kick signal
// afterwards, so that the next KVM_RUN, whenever it comes, first completes the pending port or MMIO
// access and then returns EINTR. The run loop itself pays nothing for this.
//
// The lease: before each KVM_RUN its deadline is compared. Between that and the entry into the
// guest a thread can be stopped for any length of time, so each has a timer of its own for the
// deadline: the kernel delivers its signal before the thread goes on in user space, the handler
// sets immediate_exit, and KVM_RUN returns without having entered. A vCPU whose lease is lost waits
// at the gate without completing its pending exit, as even that runs part of an instruction.
//
// Threads: create, start, park, open, destroy on the main thread; close_gate on any, also inside an
// exit's handler. vcpus.lock guards parked and is never held across a call.
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/lease.h"
#include "base/witness.h"
#include "devices/bus.h"
#include "vmm/cpu_time.h"
#include "vmm/cpuid.h"
#include "vmm/kvm.h"
#include "vmm/vcpu_state.h"

enum { VCPU_EXIT_KINDS = 64, VCPU_LAST_EXITS = 16 };

// Why a vCPU can't go on.
enum vcpu_failure {
    VCPU_OK,
    VCPU_TRIPLE_FAULT,
    VCPU_EMULATION_FAILED, // KVM could not emulate an instruction
    VCPU_INTERNAL_ERROR,   // another KVM_EXIT_INTERNAL_ERROR
    VCPU_ENTRY_FAILED,     // the processor refused to enter the guest
    VCPU_UNKNOWN_EXIT,
    VCPU_RUN_FAILED, // KVM_RUN itself failed; error holds the errno
    VCPU_PANICKED,   // nothing of KVM's: the guest's own kernel said so
    VCPU_NO_TIMER,   // for the lease; error holds the errno
};

// One line of the crash report's history.
struct vcpu_exit_record {
    uint32_t reason; // KVM_EXIT_*
    uint8_t length;
    bool is_write;
    uint64_t address; // port or gpa
    uint64_t value;
};

struct vcpu {
    struct vcpus *all;
    unsigned index;
    int fd;
    struct kvm_run *run; // shared with KVM; only its thread uses it while it runs
    pthread_t thread;
    bool thread_started;
    timer_t lease_timer; // for the lease's deadline; made by the thread
    bool has_lease_timer;
    struct witness_slot *witness; // changed while it is parked; NULL for none
    bool unfinished;              // waits at the gate with a pending exit: the lease was lost
    enum vcpu_failure failure;    // written by the thread before it parks
    bool slicing_failed;          // it was said
    _Atomic pid_t tid;            // 0 before it runs
    int schedstat_fd;             // of its thread, -1 without
    int stats_fd;                 // KVM's of the vCPU, -1 without
    int error;
    uint64_t failure_data[4]; // of the internal error
    uint32_t failure_suberror;
    struct vcpu_exit_record last_exits[VCPU_LAST_EXITS];
    uint64_t exit_count; // last_exits[exit_count % VCPU_LAST_EXITS] is the next to be written
    _Atomic uint64_t exits[VCPU_EXIT_KINDS]; // by reason; written by the thread alone
    struct vcpu_state reset_state;           // as after power-on
};

enum vcpu_system_event { VCPU_SYSTEM_SHUTDOWN, VCPU_SYSTEM_RESET, VCPU_SYSTEM_CRASH };

struct vcpus_listener {
    // On the vCPU's thread, with the gate closed by the caller already; the vCPU parks afterwards.
    void (*failed)(void *opaque, struct vcpu *vcpu);
    void (*system_event)(void *opaque, enum vcpu_system_event event);
    void (*lease_lost)(void *opaque);
    void *opaque;
};

struct vcpus {
    const struct kvm *kvm;
    struct bus *ports, *mmio;
    struct lease *lease; // set between create and start
    struct vcpus_listener listener;
    struct vcpu *list;
    unsigned count;
    atomic_bool closed;     // the gate
    atomic_bool ending;     // threads leave instead of waiting
    pthread_mutex_t lock;   // guards parked, unfinished, and the lease timers against each other
    pthread_cond_t changed; // `closed`, `ending`, `parked`, or the lease is back
    unsigned parked, unfinished;
    struct cpu_time *cpu_time; // the machine's: whom withheld time is told to
    // Who decides when they may run; NULL: the host alone. Set once, and stays until the end.
    _Atomic(struct slicer *) slicer;
};

// Makes the vCPUs with their CPUID, takes their power-on state, and leaves the gate closed. `cpuid`
// is changed (APIC ids).
int vcpus_create(struct vcpus *vcpus, const struct kvm *kvm, unsigned count,
                 struct cpuid_table *cpuid, struct bus *ports, struct bus *mmio,
                 const struct vcpus_listener *listener, struct error *err);
// Starts the threads; they wait at the gate.
int vcpus_start(struct vcpus *vcpus, struct error *err);
// Any thread; returns at once.
void vcpus_close_gate(struct vcpus *vcpus);
// Closes the gate and waits until every vCPU is parked.
void vcpus_park(struct vcpus *vcpus);
void vcpus_open_gate(struct vcpus *vcpus);
// Sets the timers to a deadline that is about to be the lease's. Before the lease has it: a thread
// that compares with the later deadline must have a timer for it.
void vcpus_set_deadline(struct vcpus *vcpus, uint64_t deadline_ns);
// The lease was lost and is back: completes exits that were left pending. All are parked, before
// and afterwards.
void vcpus_finish_exits(struct vcpus *vcpus);
// Main thread, once: from now on vCPUs run when this slicer lets them. It is destroyed with them.
struct slicer_ops;
extern const struct slicer_ops vcpu_slicer_ops; // with the vCPUs of the list as their argument
void vcpus_set_slicer(struct vcpus *vcpus, struct slicer *slicer);
// CPU time that its thread has used, and time that the host kept it waiting for a CPU; 0 before it
// was started. Main thread.
uint64_t vcpu_cpu_time_ns(const struct vcpu *v);
uint64_t vcpu_run_delay_ns(const struct vcpu *v);
// Parks, ends the threads, closes everything.
void vcpus_destroy(struct vcpus *vcpus);
// All vCPUs to power-on state. They are parked.
int vcpus_reset(struct vcpus *vcpus, struct error *err);

// "io", "mmio", ... NULL for a reason that this version has no name for.
const char *vcpu_exit_name(uint32_t reason);
const char *vcpu_failure_name(enum vcpu_failure failure);
