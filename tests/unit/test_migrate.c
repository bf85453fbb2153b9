// A whole migration without KVM: the real source and target over TCP, between machines that are
// fakes with a "guest" which walks its memory as the test guest's pattern does; and each side
// against a peer that is scripted.
//
// What must hold whatever happens: at no time two machines run, and a page is never lost.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "migrate/source.h"
#include "migrate/target.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

enum { PAGES = 1024, WALKED = 512, WORDS = PAGES / 64, STATE_SIZE = 100 };
static const uint64_t state_magic = 0x5ea1ed57a7e;

// ---- machines ----

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

static atomic_int running; // machines, of all that there are
static atomic_bool two_ran;
static _Atomic(struct machine *) disk_owner;
static bool all_managed;           // by a cluster
static atomic_bool loading_stands; // a target takes its time over its state

static void *guest_main(void *opaque)
{
    struct machine *m = opaque;
    for (;;) {
        pthread_mutex_lock(&m->lock);
        bool ending = m->ending;
        if (m->state == MACHINE_RUNNING) {
            if (atomic_fetch_add(&running, 1) > 0)
                atomic_store(&two_ran, true);
            for (int i = 0; i < 16; i++) {
                m->ram[m->at * GUEST_PAGE_SIZE]++;
                m->dirty[m->at / 64] |= UINT64_C(1) << m->at % 64;
                m->at = (m->at + 1) % WALKED;
            }
            atomic_fetch_sub(&running, 1);
        }
        pthread_mutex_unlock(&m->lock);
        if (ending)
            return NULL;
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000}, NULL);
    }
}

static struct machine *new_machine(enum machine_state state)
{
    struct machine *m = calloc(1, sizeof(*m));
    size_t size = (size_t)PAGES * GUEST_PAGE_SIZE;
    m->ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    guest_memory_init(&m->memory);
    ck_assert_int_eq(guest_memory_add(&m->memory, 0, m->ram, size), 0);
    ck_assert_int_eq(machine_config_init(&m->config), 0);
    snprintf(m->config.name, sizeof(m->config.name), "fake");
    m->config.kernel = strdup("/fake/kernel");
    m->config.memory = 64 << 20;
    m->kvm.fd = -1;
    m->kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
    ck_assert_int_eq(write(m->kernel_fd, "kernel", 6), 6);
    m->state = state;
    pthread_mutex_init(&m->lock, NULL);
    pthread_create(&m->guest, NULL, guest_main, m);
    return m;
}

static void free_machine(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->ending = true;
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->guest, NULL);
    struct machine *self = m;
    atomic_compare_exchange_strong(&disk_owner, &self, NULL);
    guest_memory_destroy(&m->memory);
    munmap(m->ram, (size_t)PAGES * GUEST_PAGE_SIZE);
    machine_config_free(&m->config);
    close(m->kernel_fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void set_state(struct machine *m, enum machine_state state)
{
    pthread_mutex_lock(&m->lock);
    m->state = state;
    pthread_mutex_unlock(&m->lock);
}

// What migrate/ and the dirty log ask of vmm/, by the fakes.

const struct machine_config *machine_config(const struct machine *m)
{
    return &m->config;
}
const struct cpuid_table *machine_cpuid(const struct machine *m)
{
    return &m->cpuid;
}
const struct kvm *machine_kvm(const struct machine *m)
{
    return &m->kvm;
}
struct guest_memory *machine_memory(struct machine *m)
{
    return &m->memory;
}
int machine_image_fd(const struct machine *m, unsigned index)
{
    return index == 0 ? m->kernel_fd : -1;
}
void machine_net_mac(const struct machine_config *config, unsigned index, uint8_t mac[6])
{
    memcpy(mac, config->nets[index].mac, 6);
}
void machine_throttle(struct machine *m, unsigned thousandths)
{
}
void machine_hold(struct machine *m, bool on)
{
    m->holds += on ? 1u : -1u;
}
void machine_announce(struct machine *machine)
{
}
bool machine_is_managed(const struct machine *m)
{
    return all_managed;
}
bool machine_lease_holds(struct machine *m)
{
    return !atomic_load(&m->lease_lost);
}
int machine_freeze(struct machine *m, bool *was_running, struct error *err)
{
    *was_running = m->state == MACHINE_RUNNING;
    set_state(m, MACHINE_PAUSED);
    m->frozen = true;
    return 0;
}
void machine_thaw(struct machine *m, bool go_on)
{
    m->frozen = false;
    if (go_on && m->state == MACHINE_PAUSED)
        set_state(m, MACHINE_RUNNING);
}
void machine_moved(struct machine *m)
{
    m->moved = true;
    set_state(m, MACHINE_STOPPED);
}
void machine_set_doubt(struct machine *m, bool in_doubt)
{
    m->in_doubt = in_doubt;
}
int machine_disks_release(struct machine *m, struct error *err)
{
    struct machine *self = m;
    atomic_compare_exchange_strong(&disk_owner, &self, NULL);
    return 0;
}
int machine_disks_acquire(struct machine *m, struct error *err)
{
    struct machine *nobody = NULL;
    if (atomic_load(&m->lease_lost))
        return error_set(err, ETIMEDOUT, "the lease is lost");
    if (!atomic_compare_exchange_strong(&disk_owner, &nobody, m) && nobody != m)
        return error_set(err, EAGAIN, "the disk is locked");
    return 0;
}
int machine_start_loaded(struct machine *m, bool go, struct error *err)
{
    set_state(m, go ? MACHINE_RUNNING : MACHINE_PAUSED);
    return 0;
}
int machine_state_save(struct machine *m, struct byte_writer *w, struct error *err)
{
    byte_writer_u64(w, state_magic);
    byte_writer_u32(w, m->at);
    return 0;
}
int machine_state_load(struct machine *m, struct byte_reader *r, bool advance, struct error *err)
{
    while (atomic_load(&loading_stands))
        usleep(1000);
    if (byte_reader_u64(r) != state_magic)
        return error_set(err, EPROTO, "this is no state");
    m->at = byte_reader_u32(r) % WALKED;
    return 0;
}
int kvm_set_slot(const struct kvm *kvm, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva,
                 uint64_t size)
{
    struct machine *m = (struct machine *)((char *)kvm - offsetof(struct machine, kvm));
    pthread_mutex_lock(&m->lock);
    memset(m->dirty, 0, sizeof(m->dirty));
    pthread_mutex_unlock(&m->lock);
    return 0;
}
int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *argument)
{
    struct machine *m = (struct machine *)((char *)kvm - offsetof(struct machine, kvm));
    struct kvm_dirty_log *log = argument;
    ck_assert_uint_eq(request, KVM_GET_DIRTY_LOG);
    pthread_mutex_lock(&m->lock);
    memcpy(log->dirty_bitmap, m->dirty, sizeof(m->dirty));
    memset(m->dirty, 0, sizeof(m->dirty));
    pthread_mutex_unlock(&m->lock);
    return 0;
}

// The walk leaves one edge of height one at most, at the page where it stands; the rest of memory
// is as it was.
static void check_pattern(const struct machine *m)
{
    unsigned edges = 0;
    for (unsigned i = 1; i < WALKED; i++) {
        uint8_t before = m->ram[(i - 1) * GUEST_PAGE_SIZE], now = m->ram[i * GUEST_PAGE_SIZE];
        if (before == now)
            continue;
        ck_assert_msg((uint8_t)(before - now) == 1, "page %u: %u after %u", i, now, before);
        ck_assert_uint_eq(i, m->at);
        edges++;
    }
    ck_assert_uint_le(edges, 1);
    for (unsigned i = WALKED; i < PAGES; i++)
        ck_assert_uint_eq(m->ram[i * GUEST_PAGE_SIZE + 7], i % 3 ? i % 251 : 0);
}

static void fill_rest(struct machine *m)
{
    for (unsigned i = WALKED; i < PAGES; i++)
        if (i % 3)
            m->ram[i * GUEST_PAGE_SIZE + 7] = (uint8_t)(i % 251);
}

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

static void on_started(void *opaque)
{
    atomic_store(&((struct target_side *)opaque)->started, true);
}
static void on_failed(void *opaque, const struct error *err)
{
    struct target_side *side = opaque;
    side->err = *err;
    atomic_store(&side->failed, true);
}
static void on_poll(uv_timer_t *timer)
{
    struct target_side *side = timer->data;
    if (atomic_load(&side->stop))
        uv_stop(&side->loop);
}

static void on_target_ask(void *opaque, enum arbiter_question question);

static void *target_side_main(void *opaque)
{
    struct target_side *side = opaque;
    struct migration_target *target;
    const struct migration_target_listener listener = {on_started, on_failed, on_target_ask, side};
    side->accepted = migration_target_accept(&target, side->listen_fd, &side->params, &side->err);
    if (side->accepted < 0)
        return NULL;
    side->machine = new_machine(MACHINE_CREATED);
    side->target = target;
    uv_loop_init(&side->loop);
    uv_timer_init(&side->loop, &side->poll);
    side->poll.data = side;
    uv_timer_start(&side->poll, on_poll, 5, 5);
    ck_assert_int_eq(
        migration_target_start(target, side->machine, &side->loop, &listener, &side->err), 0);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    migration_target_stop(target);
    migration_target_free(target);
    uv_close((uv_handle_t *)&side->poll, NULL);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&side->loop), 0);
    return NULL;
}

static void listen_here(struct channel_address *address, int *fd)
{
    struct error err = {0};
    ck_assert_int_eq(channel_address_parse("tcp://127.0.0.1:0", true, address, &err), 0);
    *fd = channel_listen(address, &err);
    ck_assert_int_ge(*fd, 0);
}

static void start_target(struct target_side *side)
{
    *side = (struct target_side){0};
    listen_here(&side->params.listen, &side->listen_fd);
    pthread_create(&side->thread, NULL, target_side_main, side);
}

static void end_target(struct target_side *side)
{
    atomic_store(&side->stop, true);
    pthread_join(side->thread, NULL);
    if (side->machine)
        free_machine(side->machine);
}

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

static void on_done(void *opaque, int result, const struct error *err)
{
    struct source_side *side = opaque;
    side->done = true;
    side->result = result;
    side->err = *err;
    uv_stop(&side->loop);
}

static void on_source_ask(void *opaque, enum arbiter_question question);

static void start_source(struct source_side *side, const struct channel_address *address,
                         unsigned streams)
{
    const struct migration_listener listener = {on_done, on_source_ask, side};
    struct machine *nobody = NULL;
    *side = (struct source_side){0};
    side->machine = new_machine(MACHINE_RUNNING);
    fill_rest(side->machine);
    ck_assert(atomic_compare_exchange_strong(&disk_owner, &nobody, side->machine));
    uv_loop_init(&side->loop);
    side->params = (struct migration_params){
        .target = *address, .streams = streams, .downtime_ns = NSEC_PER_SEC};
    ck_assert_int_eq(migration_source_start(&side->source, side->machine, &side->loop,
                                            &side->params, &listener, &side->err),
                     0);
}

static void run_source(struct source_side *side, const struct channel_address *address,
                       unsigned streams)
{
    start_source(side, address, streams);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    ck_assert(side->done);
    ck_assert_uint_eq(side->machine->holds, 0);
    ck_assert(!side->machine->frozen || side->machine->moved);
}

static void end_source(struct source_side *side)
{
    migration_source_free(side->source);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&side->loop), 0);
    free_machine(side->machine);
}

static void check_source_goes_on(const struct source_side *side)
{
    ck_assert_int_lt(side->result, 0);
    ck_assert(!side->machine->in_doubt);
    ck_assert_int_eq(side->machine->state, MACHINE_RUNNING);
    ck_assert_ptr_eq(atomic_load(&disk_owner), side->machine);
}

static void check_moved(const struct source_side *source, struct target_side *target)
{
    ck_assert_msg(source->result == 0, "%s", source->err.message);
    ck_assert(source->machine->moved);
    for (int i = 0; i < 10000 && !atomic_load(&target->started); i++)
        usleep(1000);
    ck_assert(atomic_load(&target->started));
    ck_assert_ptr_eq(atomic_load(&disk_owner), target->machine);
    usleep(2000);
    set_state(target->machine, MACHINE_PAUSED);
    check_pattern(target->machine);
}

static void reset_evidence(void)
{
    atomic_store(&two_ran, false);
    atomic_store(&disk_owner, NULL);
}

START_TEST(test_moves)
{
    struct target_side target;
    struct source_side source;
    reset_evidence();
    start_target(&target);
    run_source(&source, &target.params.listen, (unsigned)_i);
    check_moved(&source, &target);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// Every place where a connection can be lost. What must come out is in the table: the outcome isn't
// luck.
enum expected { GOES_ON, MOVES };
static const struct {
    const char *point;
    enum expected expected;
} cuts[] = {
    {"source-preparing", GOES_ON},     {"source-ready", GOES_ON},
    {"source-first-round", GOES_ON},   {"source-before-freeze", GOES_ON},
    {"source-frozen", GOES_ON},        {"source-state", GOES_ON},
    {"source-loaded", GOES_ON},        {"source-before-commit", GOES_ON},
    {"target-accepting", GOES_ON},     {"target-building", GOES_ON},
    {"target-round", GOES_ON},         {"target-state", GOES_ON},
    {"target-before-loaded", GOES_ON}, {"target-before-start", MOVES},
    {"target-locked", MOVES},          {"target-after-start", MOVES},
    {"target-started", MOVES},         {"source-started", MOVES},
    {"source-ended", MOVES},
};

START_TEST(test_cut)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:cut", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000); // the last ones come after the source's end
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    if (cuts[_i].expected == MOVES) {
        check_moved(&source, &target);
    } else {
        check_source_goes_on(&source);
        usleep(20000);
        ck_assert(!atomic_load(&target.started));
    }
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// At each of these places something comes late: it only takes longer.
START_TEST(test_delay)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:delay", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000);
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    check_moved(&source, &target);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// At each of these places a side sends what is no frame. Before COMMIT that ends the attempt; after
// it the question finds out what became of the machine. Behind LOADED it may come before or after
// COMMIT, so it is left out here.
START_TEST(test_garbage)
{
    struct target_side target;
    struct source_side source;
    char variable[64];
    reset_evidence();
    snprintf(variable, sizeof(variable), "%s:garbage", cuts[_i].point);
    setenv("FERRY_FAILURE_POINT", variable, 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 2);
    for (int i = 0; i < 10000 && getenv("FERRY_FAILURE_POINT"); i++)
        usleep(1000);
    ck_assert_msg(!getenv("FERRY_FAILURE_POINT"), "%s was never reached", cuts[_i].point);
    if (cuts[_i].expected == MOVES) {
        check_moved(&source, &target);
    } else {
        check_source_goes_on(&source);
        usleep(20000);
        ck_assert(!atomic_load(&target.started));
    }
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// Cut when COMMIT is on its way, and when LOADED is: either outcome is right, but it must be one.
START_TEST(test_cut_either_way)
{
    static const char *const points[] = {"source-after-commit:cut",     "target-loaded:cut",
                                         "source-after-commit:garbage", "target-loaded:garbage",
                                         "source-after-commit:delay",   "target-loaded:delay"};
    struct target_side target;
    struct source_side source;
    reset_evidence();
    setenv("FERRY_FAILURE_POINT", points[_i], 1);
    start_target(&target);
    run_source(&source, &target.params.listen, 1);
    if (source.result == 0)
        check_moved(&source, &target);
    else
        check_source_goes_on(&source);
    usleep(20000);
    ck_assert(atomic_load(&target.started) == (source.result == 0));
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// ---- an arbiter with a record, and a script of what goes wrong ----

enum record { RECORD_SWITCHING, RECORD_DONE, RECORD_ABORTED };
enum end { END_MOVED, END_GOES_ON, END_IN_DOUBT };

struct arbitration {
    const char *name, *point; // a failure point
    unsigned unknown;         // so many of the source's questions are answered by unknown
    unsigned lost;            // so many answers to commit are lost, after they were decided
    bool aborted;             // the cluster called it off before anybody asked
    bool silent, target_silent;
    bool cancel;        // by a person, while the first question stands
    bool thief;         // another process takes the disk when it is free
    unsigned leases_ms; // then both leases are lost; 0: never
    enum end end;
};

static const struct arbitration arbitrations[] = {
    {"at once", .end = END_MOVED},
    {"unknown at first", .unknown = 3, .end = END_MOVED},
    {"answers are lost", .lost = 2, .end = END_MOVED},
    {"called off", .aborted = true, .end = END_GOES_ON},
    {"cut before it is asked", "source-before-ask:cut", .end = END_GOES_ON},
    {"cut, decided already", "source-asked:cut", .end = END_MOVED},
    {"cut, decided, but the answer is lost", "source-asked:cut", .lost = 1, .end = END_MOVED},
    {"cut, not decided", "source-asked:cut", .unknown = 1, .end = END_GOES_ON},
    {"cut, and unknown for a while", "source-asked:cut", .unknown = 4, .end = END_GOES_ON},
    {"cut after COMMIT", "source-after-commit:cut", .end = END_MOVED},
    {"cut before the start", "target-before-start:cut", .end = END_MOVED},
    {"cut after the start", "target-after-start:cut", .end = END_MOVED},
    {"cancelled while asked", .unknown = 1, .cancel = true, .end = END_GOES_ON},
    {"cancelled, but decided", .lost = 1, .cancel = true, .end = END_MOVED},
    {"silence", .silent = true, .target_silent = true, .leases_ms = 1500, .end = END_IN_DOUBT},
    {"silence for the source", .silent = true, .leases_ms = 1500, .end = END_IN_DOUBT},
    {"cut, then silence", "source-asked:cut", .silent = true, .target_silent = true,
     .leases_ms = 1500, .end = END_IN_DOUBT},
    {"given away, not started", .thief = true, .leases_ms = 1500, .end = END_IN_DOUBT},
};

static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows
static struct arbitration script_of;
static enum record record;
static struct machine thief;

// What the record says to a question, and what it becomes by it. -1: silence.
static int answer_source(enum arbiter_question question)
{
    struct arbitration *a = &script_of;
    if (a->silent)
        return -1;
    if (a->unknown > 0) {
        a->unknown--;
        return ARBITER_UNKNOWN;
    }
    if (record == RECORD_SWITCHING)
        record = question == ARBITER_COMMIT ? RECORD_DONE : RECORD_ABORTED;
    if (question == ARBITER_COMMIT && a->lost > 0) {
        a->lost--;
        return -1;
    }
    return record == RECORD_DONE ? ARBITER_TARGET : ARBITER_SOURCE;
}

static void on_source_ask(void *opaque, enum arbiter_question question)
{
    struct source_side *side = opaque;
    struct error ignored;
    // It stands, and its disk is free: only then it may ask.
    ck_assert_int_eq(side->machine->state, MACHINE_PAUSED);
    ck_assert_ptr_ne(atomic_load(&disk_owner), side->machine);
    pthread_mutex_lock(&record_lock);
    int answer = answer_source(question);
    bool cancel = script_of.cancel;
    script_of.cancel = false;
    if (script_of.thief)
        atomic_store(&disk_owner, &thief);
    pthread_mutex_unlock(&record_lock);
    if (cancel)
        ck_assert_int_eq(migration_source_cancel(side->source, &ignored), 0);
    if (answer >= 0)
        migration_source_decide(side->source, question, (enum arbiter_decision)answer);
    // An answer to something else is nobody's.
    migration_source_decide(side->source, ARBITER_OUTCOME, ARBITER_SOURCE);
}

static void on_target_ask(void *opaque, enum arbiter_question question)
{
    struct target_side *side = opaque;
    ck_assert_int_eq(question, ARBITER_OUTCOME);
    pthread_mutex_lock(&record_lock);
    enum arbiter_decision decision = record == RECORD_DONE      ? ARBITER_TARGET
                                     : record == RECORD_ABORTED ? ARBITER_SOURCE
                                                                : ARBITER_UNKNOWN;
    bool silent = script_of.target_silent;
    pthread_mutex_unlock(&record_lock);
    if (!silent)
        migration_target_decide(side->target, question, decision);
}

struct leases {
    struct source_side *source;
    struct target_side *target;
    unsigned after_ms;
};

static void *end_leases(void *opaque)
{
    const struct leases *l = opaque;
    usleep(l->after_ms * 1000);
    atomic_store(&l->source->machine->lease_lost, true);
    atomic_store(&l->target->machine->lease_lost, true);
    return NULL;
}

static void settle_record(const struct source_side *source)
{
    pthread_mutex_lock(&record_lock);
    // What the cluster does when the source reports that it goes on without having asked.
    if (record == RECORD_SWITCHING && source->machine->state == MACHINE_RUNNING)
        record = RECORD_ABORTED;
    pthread_mutex_unlock(&record_lock);
}

static void check_end(const struct source_side *source, struct target_side *target, enum end end)
{
    if (end == END_MOVED) {
        check_moved(source, target);
        ck_assert_int_eq(record, RECORD_DONE);
        return;
    }
    for (int i = 0; i < 10000 && !atomic_load(&target->failed); i++)
        usleep(1000);
    ck_assert_msg(atomic_load(&target->failed), "the target is still there");
    ck_assert(!atomic_load(&target->started));
    if (end == END_GOES_ON) {
        check_source_goes_on(source);
        ck_assert_int_eq(record, RECORD_ABORTED);
    } else {
        ck_assert_int_eq(source->result, -EOWNERDEAD);
        ck_assert(source->machine->in_doubt);
        ck_assert_int_eq(source->machine->state, MACHINE_PAUSED);
    }
}

START_TEST(test_arbiter)
{
    const struct arbitration *a = &arbitrations[_i];
    struct target_side target;
    struct source_side source;
    struct leases leases = {&source, &target, a->leases_ms};
    pthread_t thread;
    reset_evidence();
    all_managed = true;
    script_of = *a;
    record = a->aborted ? RECORD_ABORTED : RECORD_SWITCHING;
    if (a->point)
        setenv("FERRY_FAILURE_POINT", a->point, 1);
    start_target(&target);
    start_source(&source, &target.params.listen, 1);
    if (a->leases_ms)
        pthread_create(&thread, NULL, end_leases, &leases);
    uv_run(&source.loop, UV_RUN_DEFAULT);
    ck_assert_msg(source.done, "%s", a->name);
    if (a->leases_ms)
        pthread_join(thread, NULL);
    settle_record(&source);
    check_end(&source, &target, a->end);
    ck_assert_msg(!a->point || !getenv("FERRY_FAILURE_POINT"), "%s: never came there", a->name);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// A machine that ends while nobody answers doesn't wait for the answer.
START_TEST(test_abandoned)
{
    struct target_side target;
    struct source_side source;
    reset_evidence();
    all_managed = true;
    script_of = (struct arbitration){.silent = true};
    record = RECORD_ABORTED;
    start_target(&target);
    start_source(&source, &target.params.listen, 1);
    for (int i = 0; i < 20000 && source.machine->state != MACHINE_PAUSED; i++) {
        uv_run(&source.loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    migration_source_abandon(source.source);
    uv_run(&source.loop, UV_RUN_DEFAULT);
    ck_assert(source.done);
    end_source(&source);
    end_target(&target);
    ck_assert(!atomic_load(&two_ran));
}
END_TEST

// ---- a scripted source against the real target ----

struct script {
    struct target_side target;
    struct channel control, data;
    uint8_t id[MIGRATE_ID_SIZE];
    struct channel_address data_address;
};

// A machine that is shut in has one socket for all its questions: it connects again after a refusal
// and after a connection that is still open.
START_TEST(test_given_socket_connects_again)
{
    struct channel_address address, nobody;
    struct channel channel;
    struct error err = {0};
    int listener, closed, given = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    listen_here(&address, &listener);
    listen_here(&nobody, &closed);
    close(closed);
    ck_assert_int_eq(channel_check_socket(given, &address, &err), 0);
    for (int i = 0; i < 6; i++) {
        bool refused = i % 3 == 0;
        ck_assert_int_eq(channel_renew_socket(given), 0);
        int rc = channel_connect(&channel, fcntl(given, F_DUPFD_CLOEXEC, 0),
                                 refused ? &nobody : &address, 10 * NSEC_PER_SEC, NULL, &err);
        ck_assert_int_eq(rc, refused ? -ECONNREFUSED : 0);
        if (rc == 0)
            ck_assert_int_eq(channel_send_frame(&channel, MIGRATE_COMMIT, NULL), 0);
        channel_close(&channel);
    }
    close(given);
    close(listener);
    given = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(channel_check_socket(given, &address, &err), -EINVAL);
    ck_assert_int_eq(channel_check_socket(STDIN_FILENO, &address, &err), -EINVAL);
    close(given);
}
END_TEST

// An interface has a number in what a machine is given: it can't look names up.
START_TEST(test_link_local_addresses)
{
    struct channel_address address;
    struct error err = {0};
    char text[sizeof(address.text)];
    ck_assert_int_eq(channel_address_parse_numeric("tcp://[fe80::1%7]:9", &address, &err), 0);
    ck_assert_uint_eq(((struct sockaddr_in6 *)&address.address)->sin6_scope_id, 7);
    static const char *const wrong[] = {"tcp://[fe80::1%lo]:9", "tcp://[fe80::1%]:9",
                                        "tcp://[fe80::1%0]:9", "tcp://[fe80::1%4294967296]:9",
                                        "tcp://[fe80::1%1%2]:9"};
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_int_eq(channel_address_parse_numeric(wrong[i], &address, &err), -EINVAL);
    // The command line takes names, and hands numbers on: the loopback interface is the first.
    ck_assert_int_eq(channel_address_parse("tls://[fe80::1%lo]:9", false, &address, &err), 0);
    channel_address_format(&address, text, sizeof(text));
    ck_assert_str_eq(text, "tls://[fe80::1%1]:9");
}
END_TEST

static void say_hello(struct channel *channel, const struct channel_address *address,
                      const uint8_t *id, int role)
{
    struct error err = {0};
    struct migrate_hello hello = {.major = MIGRATE_VERSION_MAJOR, .role = (uint8_t)role};
    struct byte_writer w;
    memcpy(hello.id, id, sizeof(hello.id));
    byte_writer_init(&w);
    migrate_hello_encode(&hello, &w);
    ck_assert_int_eq(channel_connect(channel, -1, address, 10 * NSEC_PER_SEC, NULL, &err), 0);
    ck_assert_int_eq(channel_send_frame(channel, MIGRATE_HELLO, &w), 0);
    byte_writer_free(&w);
}

static uint32_t next_frame(struct channel *channel, struct byte_writer *frame)
{
    uint32_t type;
    return channel_receive_frame(channel, 1 << 20, &type, frame) < 0 ? 0 : type;
}

static void send_bytes(struct channel *channel, uint32_t type, const void *bytes, size_t length)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_bytes(&w, bytes, length);
    channel_send_frame(channel, type, &w);
    byte_writer_free(&w);
}

static void send_number(struct channel *channel, uint32_t type, uint32_t number)
{
    uint8_t bytes[4];
    bytes_put_u32(bytes, number);
    send_bytes(channel, type, bytes, sizeof(bytes));
}

static void describe(struct byte_writer *w)
{
    struct migrate_description *d = calloc(1, sizeof(*d));
    struct error err = {0};
    machine_config_init(&d->config);
    snprintf(d->config.name, sizeof(d->config.name), "fake");
    d->config.kernel = strdup("/fake/kernel");
    d->config.memory = 64 << 20;
    d->image_size[0] = 6;
    d->streams = 1;
    ck_assert_int_eq(migrate_description_encode(d, w, &err), 0);
    machine_config_free(&d->config);
    free(d);
}

// Up to a first round, without pages.
static void begin_script(struct script *s)
{
    struct byte_writer w;
    byte_writer_init(&w);
    memset(s->id, 7, sizeof(s->id));
    start_target(&s->target);
    s->data_address = s->target.params.listen;
    say_hello(&s->control, &s->data_address, s->id, MIGRATE_ROLE_CONTROL);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_WELCOME);
    byte_writer_reset(&w);
    describe(&w);
    channel_send_frame(&s->control, MIGRATE_DESCRIBE, &w);
    send_bytes(&s->control, MIGRATE_IMAGE, "\0\0\0\0\0\0\0\0\0kernel", 15);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_READY);
    say_hello(&s->data, &s->data_address, s->id, MIGRATE_ROLE_DATA);
    send_number(&s->data, MIGRATE_ROUND, 1);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_ROUND_DONE);
    byte_writer_free(&w);
}

static void send_state(struct script *s, uint32_t round, uint64_t magic)
{
    uint8_t state[17] = {0};
    bytes_put_u32(state, round);
    state[4] = 1;
    bytes_put_u64(state + 5, magic);
    send_bytes(&s->control, MIGRATE_STATE, state, sizeof(state));
}

static void load_script(struct script *s)
{
    struct byte_writer w;
    byte_writer_init(&w);
    begin_script(s);
    send_state(s, 1, state_magic);
    ck_assert_uint_eq(next_frame(&s->control, &w), MIGRATE_LOADED);
    byte_writer_free(&w);
}

static void end_script(struct script *s)
{
    channel_close(&s->control);
    channel_close(&s->data);
    end_target(&s->target);
}

static uint32_t ask(struct script *s, const uint8_t *id)
{
    struct channel query;
    struct byte_writer w;
    byte_writer_init(&w);
    say_hello(&query, &s->data_address, id, MIGRATE_ROLE_QUERY);
    uint32_t answer = next_frame(&query, &w);
    channel_close(&query);
    byte_writer_free(&w);
    return answer;
}

// Who was told NOT_STARTED goes on by itself: a COMMIT that comes late must not start the machine.
START_TEST(test_not_started_is_final)
{
    struct script s;
    reset_evidence();
    load_script(&s);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_NOT_STARTED);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_NOT_STARTED);
    usleep(50000);
    ck_assert(!atomic_load(&s.target.started));
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    end_script(&s);
}
END_TEST

// The target was stopped for a while: it finds COMMIT and a question at once. Whatever it answers,
// it does.
START_TEST(test_commit_and_question_together)
{
    struct script s;
    struct channel query;
    struct byte_writer w;
    byte_writer_init(&w);
    reset_evidence();
    begin_script(&s);
    atomic_store(&loading_stands, true);
    send_state(&s, 1, state_magic);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    say_hello(&query, &s.data_address, s.id, MIGRATE_ROLE_QUERY);
    atomic_store(&loading_stands, false);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_LOADED);
    uint32_t answer = next_frame(&query, &w);
    ck_assert(answer == MIGRATE_STARTED || answer == MIGRATE_NOT_STARTED);
    usleep(100000);
    ck_assert_int_eq(s.target.machine->state == MACHINE_RUNNING, answer == MIGRATE_STARTED);
    ck_assert_uint_eq(next_frame(&s.control, &w), answer);
    channel_close(&query);
    byte_writer_free(&w);
    end_script(&s);
}
END_TEST

// A disk that somebody else holds keeps the machine from starting, and the answer waits for it.
START_TEST(test_start_waits_for_disk)
{
    struct script s;
    reset_evidence();
    load_script(&s);
    struct machine *other = (struct machine *)&s, *nobody = NULL;
    ck_assert(atomic_compare_exchange_strong(&disk_owner, &nobody, other));
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    usleep(50000);
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    atomic_store(&disk_owner, NULL);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_STARTED);
    ck_assert_int_eq(s.target.machine->state, MACHINE_RUNNING);
    end_script(&s);
}
END_TEST

// "I don't know it" isn't "it doesn't run": another process may have listened there before.
START_TEST(test_stranger_is_no_answer)
{
    struct script s;
    uint8_t other[MIGRATE_ID_SIZE] = {1};
    reset_evidence();
    load_script(&s);
    ck_assert_uint_eq(ask(&s, other), MIGRATE_REFUSE);
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    struct byte_writer w;
    byte_writer_init(&w);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_STARTED);
    ck_assert_uint_eq(ask(&s, s.id), MIGRATE_STARTED);
    byte_writer_free(&w);
    end_script(&s);
}
END_TEST

// Connections that say nothing, or a part of a greeting, keep nobody waiting for long.
START_TEST(test_silent_connections)
{
    struct script s;
    struct channel silent, slow;
    struct error err = {0};
    reset_evidence();
    load_script(&s);
    ck_assert_int_eq(channel_connect(&silent, -1, &s.data_address, NSEC_PER_SEC, NULL, &err), 0);
    ck_assert_int_eq(channel_connect(&slow, -1, &s.data_address, NSEC_PER_SEC, NULL, &err), 0);
    struct iovec iov = {(void *)"xx", 2};
    channel_send(&slow, &iov, 1);
    usleep(10000);
    uint64_t start = clock_monotonic_ns();
    channel_send_frame(&s.control, MIGRATE_COMMIT, NULL);
    struct byte_writer w;
    byte_writer_init(&w);
    ck_assert_uint_eq(next_frame(&s.control, &w), MIGRATE_STARTED);
    ck_assert_uint_lt(clock_monotonic_ns() - start, 9 * NSEC_PER_SEC);
    byte_writer_free(&w);
    channel_close(&silent);
    channel_close(&slow);
    end_script(&s);
}
END_TEST

// What a hostile source can send where RAM or state is due: the attempt ends, with words, and
// nothing runs.
static void hostile_pages(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {0};
    bytes_put_u64(run, (uint64_t)PAGES * GUEST_PAGE_SIZE);
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_wrap(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {0};
    bytes_put_u64(run, -(uint64_t)GUEST_PAGE_SIZE);
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_misaligned(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE] = {1};
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_length(struct script *s)
{
    uint8_t run[8 + GUEST_PAGE_SIZE / 2] = {0};
    send_bytes(&s->data, MIGRATE_PAGES, run, sizeof(run));
}
static void hostile_zero(struct script *s)
{
    uint8_t run[16] = {0};
    bytes_put_u64(run + 8, UINT64_MAX);
    send_bytes(&s->data, MIGRATE_ZERO, run, sizeof(run));
}
static void hostile_coming(struct script *s)
{
    uint8_t range[16] = {0};
    bytes_put_u64(range + 8, PAGES + 1);
    send_bytes(&s->data, MIGRATE_COMING, range, sizeof(range));
}
static void hostile_short_coming(struct script *s)
{
    send_bytes(&s->data, MIGRATE_COMING, "12345678", 8);
}
static void hostile_round(struct script *s)
{
    send_number(&s->data, MIGRATE_ROUND, 3);
}
static void hostile_type(struct script *s)
{
    send_bytes(&s->data, MIGRATE_STATE, "x", 1);
}
static void hostile_early_state(struct script *s)
{
    send_state(s, 1000, state_magic);
}
static void hostile_state(struct script *s)
{
    send_state(s, 1, 1);
}
static void hostile_short_state(struct script *s)
{
    send_bytes(&s->control, MIGRATE_STATE, "abc", 3);
}
static void hostile_huge_state(struct script *s)
{
    uint8_t header[8];
    bytes_put_u32(header, MIGRATE_STATE);
    bytes_put_u32(header + 4, UINT32_MAX);
    struct iovec iov = {header, sizeof(header)};
    channel_send(&s->control, &iov, 1);
}
static void hostile_commit(struct script *s)
{
    channel_send_frame(&s->control, MIGRATE_COMMIT, NULL);
}
static void hostile_abort(struct script *s)
{
    send_bytes(&s->control, MIGRATE_ABORT, "\xff\xff\xff\xff", 4);
}
static void hostile_close_data(struct script *s)
{
    channel_shutdown(&s->data);
}
static void hostile_close_control(struct script *s)
{
    channel_shutdown(&s->control);
}
static void (*const hostilities[])(struct script *) = {
    hostile_pages,         hostile_wrap,         hostile_misaligned, hostile_length,
    hostile_coming,        hostile_short_coming, hostile_zero,       hostile_round,
    hostile_type,          hostile_early_state,  hostile_state,      hostile_short_state,
    hostile_huge_state,    hostile_commit,       hostile_abort,      hostile_close_data,
    hostile_close_control,
};

START_TEST(test_hostile_source)
{
    struct script s;
    reset_evidence();
    begin_script(&s);
    hostilities[_i](&s);
    for (int i = 0; i < 20000 && !atomic_load(&s.target.failed); i++)
        usleep(1000);
    ck_assert(atomic_load(&s.target.failed));
    ck_assert(s.target.err.message[0] != 0);
    ck_assert(!atomic_load(&s.target.started));
    ck_assert_int_eq(s.target.machine->state, MACHINE_CREATED);
    end_script(&s);
}
END_TEST

// A description cut off at every length, and greetings that are none: the target only says no.
START_TEST(test_hostile_greeting)
{
    struct byte_writer whole, w;
    struct target_side target;
    struct channel channel;
    uint8_t id[MIGRATE_ID_SIZE] = {0};
    byte_writer_init(&whole);
    byte_writer_init(&w);
    describe(&whole);
    for (size_t length = 0; length < whole.length; length += 41) {
        start_target(&target);
        say_hello(&channel, &target.params.listen, id, MIGRATE_ROLE_CONTROL);
        ck_assert_uint_eq(next_frame(&channel, &w), MIGRATE_WELCOME);
        send_bytes(&channel, MIGRATE_DESCRIBE, whole.data, length);
        ck_assert_uint_eq(next_frame(&channel, &w), MIGRATE_REFUSE);
        channel_close(&channel);
        end_target(&target);
        ck_assert_int_lt(target.accepted, 0);
        close(target.listen_fd);
    }
    byte_writer_free(&whole);
    byte_writer_free(&w);
}
END_TEST

// ---- a scripted target against the real source ----

enum target_trick {
    TRICK_REFUSE,         // instead of READY
    TRICK_GARBAGE_READY,  // a READY without a port
    TRICK_WRONG_ROUND,    // confirms another round
    TRICK_EARLY_STARTED,  // STARTED where ROUND_DONE is due
    TRICK_HUGE_FRAME,     // a length of 4 GiB
    TRICK_CLOSE_AT_STATE, // after STATE
    TRICK_REFUSE_STATE,   // REFUSE for LOADED
    TRICK_LATE_REFUSAL,   // NOT_STARTED right behind LOADED: before COMMIT
    TRICK_NOT_STARTED,    // for COMMIT
    TRICKS,
};

struct trickster {
    pthread_t thread;
    int listen_fd;
    enum target_trick trick;
    bool committed;
};

static void say(struct channel *channel, uint32_t type, const char *text)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_string(&w, text);
    channel_send_frame(channel, type, &w);
    byte_writer_free(&w);
}

static void *drain_main(void *opaque)
{
    struct channel *channel = opaque;
    uint8_t bytes[4096];
    while (recv(channel->fd, bytes, sizeof(bytes), 0) > 0)
        continue;
    return NULL;
}

static void play(struct trickster *t, struct channel *control, struct channel *data)
{
    struct byte_writer frame;
    pthread_t drain;
    uint8_t port[2];
    byte_writer_init(&frame);
    next_frame(control, &frame); // HELLO
    send_bytes(control, MIGRATE_WELCOME, "\1\0\0\0", 4);
    next_frame(control, &frame); // DESCRIBE
    next_frame(control, &frame); // IMAGE
    struct sockaddr_in name;
    socklen_t size = sizeof(name);
    getsockname(t->listen_fd, (struct sockaddr *)&name, &size);
    bytes_put_u16(port, ntohs(name.sin_port));
    if (t->trick == TRICK_REFUSE)
        say(control, MIGRATE_REFUSE, "no\x1b[2J");
    else
        send_bytes(control, MIGRATE_READY, port, t->trick == TRICK_GARBAGE_READY ? 1 : 2);
    if (t->trick <= TRICK_GARBAGE_READY)
        goto out;
    channel_adopt(data, accept(t->listen_fd, NULL, NULL));
    pthread_create(&drain, NULL, drain_main, data);
    if (t->trick == TRICK_EARLY_STARTED)
        channel_send_frame(control, MIGRATE_STARTED, NULL);
    else if (t->trick == TRICK_HUGE_FRAME)
        send_bytes(control, MIGRATE_ROUND_DONE, &t, 0),
            hostile_huge_state(&(struct script){.control = *control});
    else
        send_number(control, MIGRATE_ROUND_DONE, t->trick == TRICK_WRONG_ROUND ? 7 : 1);
    if (t->trick > TRICK_HUGE_FRAME) {
        send_number(control, MIGRATE_ROUND_DONE,
                    2);              // with a second of downtime allowed one round is enough
        next_frame(control, &frame); // STATE
        if (t->trick == TRICK_REFUSE_STATE)
            say(control, MIGRATE_REFUSE, "bad state");
        if (t->trick >= TRICK_LATE_REFUSAL)
            channel_send_frame(control, MIGRATE_LOADED, NULL);
        if (t->trick == TRICK_LATE_REFUSAL)
            say(control, MIGRATE_NOT_STARTED, "changed my mind");
        if (t->trick != TRICK_CLOSE_AT_STATE)
            t->committed = next_frame(control, &frame) == MIGRATE_COMMIT;
        if (t->trick == TRICK_NOT_STARTED)
            say(control, MIGRATE_NOT_STARTED, "no such luck");
    }
    channel_shutdown(control);
    channel_shutdown(data);
    pthread_join(drain, NULL);
out:
    byte_writer_free(&frame);
}

static void *trickster_main(void *opaque)
{
    struct trickster *t = opaque;
    struct channel control, data = {.fd = -1};
    channel_adopt(&control, accept(t->listen_fd, NULL, NULL));
    play(t, &control, &data);
    channel_close(&data);
    channel_close(&control);
    return NULL;
}

START_TEST(test_hostile_target)
{
    struct trickster t = {.trick = (enum target_trick)_i};
    struct channel_address address;
    struct source_side source;
    reset_evidence();
    listen_here(&address, &t.listen_fd);
    pthread_create(&t.thread, NULL, trickster_main, &t);
    run_source(&source, &address, 1);
    pthread_join(t.thread, NULL);
    check_source_goes_on(&source);
    for (const char *p = source.err.message; *p; p++)
        ck_assert_msg((unsigned char)*p >= ' ', "control characters of a peer: %s",
                      source.err.message);
    if (t.trick != TRICK_NOT_STARTED && t.trick != TRICK_LATE_REFUSAL)
        ck_assert(!t.committed);
    end_source(&source);
    close(t.listen_fd);
}
END_TEST

// A target that doesn't answer the connection: a cancel isn't kept waiting by it.
static void cancel_soon(uv_timer_t *timer)
{
    struct source_side *side = timer->data;
    struct error err = {0};
    ck_assert_int_eq(migration_source_cancel(side->source, &err), 0);
    uv_close((uv_handle_t *)timer, NULL);
}

START_TEST(test_cancel_while_connecting)
{
    struct channel_address address;
    struct source_side source;
    uv_timer_t timer = {.data = &source};
    int listen_fd, others[4];
    reset_evidence();
    // With its queue full a listening socket answers nobody.
    listen_here(&address, &listen_fd);
    ck_assert_int_eq(listen(listen_fd, 0), 0);
    int seconds = 0;
    setsockopt(listen_fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds));
    for (int i = 0; i < 4; i++) {
        others[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(others[i], (struct sockaddr *)&address.address, address.length);
    }
    uint64_t start = clock_monotonic_ns();
    start_source(&source, &address, 1);
    uv_timer_init(&source.loop, &timer);
    uv_timer_start(&timer, cancel_soon, 50, 0);
    while (!source.done)
        uv_run(&source.loop, UV_RUN_ONCE);
    ck_assert_uint_lt(clock_monotonic_ns() - start, 15 * NSEC_PER_SEC);
    check_source_goes_on(&source);
    ck_assert_int_eq(source.result, -ECANCELED);
    end_source(&source);
    for (int i = 0; i < 4; i++)
        close(others[i]);
    close(listen_fd);
}
END_TEST

START_TEST(test_addresses)
{
    static const char *const wrong[] = {"",
                                        "tcp://",
                                        "tcp://1.2.3.4",
                                        "tcp://1.2.3.4:",
                                        "tcp://[::1:7",
                                        "udp://1.2.3.4:7",
                                        "tcp://localhost:7",
                                        "1.2.3.4:7"};
    static const char *const right[] = {"tcp://127.0.0.1:7", "tcp://[::1]:65535",
                                        "tcp://192.0.2.1:1"};
    struct channel_address address;
    struct error err = {0};
    char text[96];
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_int_lt(channel_address_parse_numeric(wrong[i], &address, &err), 0);
        ck_assert(err.message[0] != 0);
    }
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        ck_assert_int_eq(channel_address_parse_numeric(right[i], &address, &err), 0);
        channel_address_format(&address, text, sizeof(text));
        ck_assert_str_eq(text, right[i]);
        ck_assert(channel_address_is_loopback(&address) == (i < 2));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("migrate");
    TCase *tc = tcase_create("migrate");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_moves, 1, 5);
    tcase_add_loop_test(tc, test_cut, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_delay, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_garbage, 0, sizeof(cuts) / sizeof(cuts[0]));
    tcase_add_loop_test(tc, test_cut_either_way, 0, 6);
    tcase_add_loop_test(tc, test_arbiter, 0, sizeof(arbitrations) / sizeof(arbitrations[0]));
    tcase_add_test(tc, test_abandoned);
    tcase_add_test(tc, test_given_socket_connects_again);
    tcase_add_test(tc, test_link_local_addresses);
    tcase_add_test(tc, test_not_started_is_final);
    tcase_add_test(tc, test_commit_and_question_together);
    tcase_add_test(tc, test_start_waits_for_disk);
    tcase_add_test(tc, test_stranger_is_no_answer);
    tcase_add_test(tc, test_silent_connections);
    tcase_add_loop_test(tc, test_hostile_source, 0, sizeof(hostilities) / sizeof(hostilities[0]));
    tcase_add_test(tc, test_hostile_greeting);
    tcase_add_loop_test(tc, test_hostile_target, 0, TRICKS);
    tcase_add_test(tc, test_addresses);
    tcase_add_test(tc, test_cancel_while_connecting);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_tap(runner, "-");
    srunner_run_all(runner, CK_SILENT);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
