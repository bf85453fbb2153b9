// Machines that are fakes, with a "guest" which walks its memory as the test guest's pattern does,
// and the two sides of a migration between them: the real source and target over TCP, without KVM.
// What migrate/ asks of vmm/ is answered here.
//
// What must hold whatever happens: at no time two machines run, and a page is never lost.
#pragma once

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <uv.h>

#include "migrate/source.h"
#include "migrate/target.h"

enum { PAGES = 1024, WALKED = 512, WORDS = PAGES / 64, STATE_SIZE = 100 };
#define STATE_MAGIC UINT64_C(0x5ea1ed57a7e)

struct machine {
    struct machine_config config;
    struct cpuid_table cpuid;
    struct kvm kvm;
    struct guest_memory memory;
    uint8_t *ram;
    int kernel_fd;

    pthread_t guest;
    pthread_mutex_t lock; // guards what follows
    enum machine_state state;
    bool ending, frozen, in_doubt, moved, has_disk;
    uint64_t dirty[WORDS]; // as KVM's log
    unsigned holds, at;    // at: the next page of the walk
    atomic_bool lease_lost;
};

extern atomic_bool two_ran;
extern _Atomic(struct machine *) disk_owner;
extern bool all_managed;           // by a cluster
extern atomic_bool loading_stands; // a target takes its time over its state
extern bool no_zero_pages;         // in a source's memory

struct machine *new_machine(enum machine_state state);
void free_machine(struct machine *m);
void set_state(struct machine *m, enum machine_state state);
// The walk leaves one edge of height one at most, at the page where it stands; the rest of memory
// is as it was.
void check_pattern(const struct machine *m);

// ---- the target in a thread of its own, as it is a process of its own ----

struct target_side {
    pthread_t thread;
    int listen_fd;
    struct migration_target_params params;
    struct machine *machine;
    uv_loop_t loop;
    uv_timer_t poll;
    atomic_bool stop, started, failed;
    struct migration_target *target;
    int accepted;
    struct error err;
};

void listen_here(struct channel_address *address, int *fd);
void start_target(struct target_side *side);
void end_target(struct target_side *side);

// ---- the source, on the test's own thread ----

struct source_side {
    struct machine *machine;
    uv_loop_t loop;
    struct migration_params params;
    struct migration_source *source;
    bool done;
    int result;
    struct error err;
};

void start_source(struct source_side *side, const struct channel_address *address,
                  unsigned streams);
// To its end.
void run_source(struct source_side *side, const struct channel_address *address, unsigned streams);
void end_source(struct source_side *side);

// What the cluster does when a side asks; NULL where nobody may ask.
extern void (*on_source_ask)(struct source_side *side, enum arbiter_question question);
extern void (*on_target_ask)(struct target_side *side, enum arbiter_question question);

void check_source_goes_on(const struct source_side *side);
void check_moved(const struct source_side *source, struct target_side *target);
void reset_evidence(void);
