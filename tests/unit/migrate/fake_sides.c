#include "tests/unit/migrate/fake_sides.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/machine_lease.h"
#include "vmm/machine_migration.h"
#include "vmm/machine_state.h"

static atomic_int running; // machines, of all that there are
atomic_bool two_ran;
_Atomic(struct machine *) disk_owner;
bool all_managed;           // by a cluster
atomic_bool loading_stands; // a target takes its time over its state
bool no_zero_pages;

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

struct machine *new_machine(enum machine_state state)
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

void free_machine(struct machine *m)
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

void set_state(struct machine *m, enum machine_state state)
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
unsigned machine_writers_share(struct machine *m)
{
    return 1000;
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
    byte_writer_u64(w, STATE_MAGIC);
    byte_writer_u32(w, m->at);
    return 0;
}
int machine_state_load(struct machine *m, struct byte_reader *r, bool advance, struct error *err)
{
    while (atomic_load(&loading_stands))
        usleep(1000);
    if (byte_reader_u64(r) != STATE_MAGIC)
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

void check_pattern(const struct machine *m)
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

// ---- sides ----

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

void (*on_target_ask)(struct target_side *side, enum arbiter_question question);

static void target_asks(void *opaque, enum arbiter_question question)
{
    ck_assert_ptr_nonnull(on_target_ask);
    on_target_ask(opaque, question);
}

static void *target_side_main(void *opaque)
{
    struct target_side *side = opaque;
    struct migration_target *target;
    const struct migration_target_listener listener = {on_started, on_failed, target_asks, side};
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

void listen_here(struct channel_address *address, int *fd)
{
    struct error err = {0};
    ck_assert_int_eq(channel_address_parse("tcp://127.0.0.1:0", true, address, &err), 0);
    *fd = channel_listen(address, &err);
    ck_assert_int_ge(*fd, 0);
}

void start_target(struct target_side *side)
{
    *side = (struct target_side){0};
    listen_here(&side->params.listen, &side->listen_fd);
    pthread_create(&side->thread, NULL, target_side_main, side);
}

void end_target(struct target_side *side)
{
    atomic_store(&side->stop, true);
    pthread_join(side->thread, NULL);
    if (side->machine)
        free_machine(side->machine);
}

static void on_done(void *opaque, int result, const struct error *err)
{
    struct source_side *side = opaque;
    side->done = true;
    side->result = result;
    side->err = *err;
    uv_stop(&side->loop);
}

void (*on_source_ask)(struct source_side *side, enum arbiter_question question);

static void source_asks(void *opaque, enum arbiter_question question)
{
    ck_assert_ptr_nonnull(on_source_ask);
    on_source_ask(opaque, question);
}

void start_source(struct source_side *side, const struct channel_address *address, unsigned streams)
{
    const struct migration_listener listener = {on_done, source_asks, side};
    struct machine *nobody = NULL;
    *side = (struct source_side){0};
    side->machine = new_machine(MACHINE_RUNNING);
    fill_rest(side->machine);
    for (unsigned i = 0; no_zero_pages && i < PAGES; i++)
        side->machine->ram[i * GUEST_PAGE_SIZE + 9] = 1;
    ck_assert(atomic_compare_exchange_strong(&disk_owner, &nobody, side->machine));
    uv_loop_init(&side->loop);
    side->params = (struct migration_params){
        .target = *address, .streams = streams, .downtime_ns = NSEC_PER_SEC};
    ck_assert_int_eq(migration_source_start(&side->source, side->machine, &side->loop,
                                            &side->params, &listener, &side->err),
                     0);
}

void run_source(struct source_side *side, const struct channel_address *address, unsigned streams)
{
    start_source(side, address, streams);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    ck_assert(side->done);
    ck_assert_uint_eq(side->machine->holds, 0);
    ck_assert(!side->machine->frozen || side->machine->moved);
}

void end_source(struct source_side *side)
{
    migration_source_free(side->source);
    uv_run(&side->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&side->loop), 0);
    free_machine(side->machine);
}

void check_source_goes_on(const struct source_side *side)
{
    ck_assert_int_lt(side->result, 0);
    ck_assert(!side->machine->in_doubt);
    ck_assert_int_eq(side->machine->state, MACHINE_RUNNING);
    ck_assert_ptr_eq(atomic_load(&disk_owner), side->machine);
}

void check_moved(const struct source_side *source, struct target_side *target)
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

void reset_evidence(void)
{
    atomic_store(&two_ran, false);
    atomic_store(&disk_owner, NULL);
}
