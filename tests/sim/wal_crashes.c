// The product's write-ahead log on the simulated disk: it is written, snapshotted, recycled, and
// crashed between any two operations of the disk, over and over; what each crash leaves is opened
// and compared with what was acknowledged.
//
//   wal_crashes --seed N [--trace]          one disk and its crashes
//   wal_crashes --suite [--seeds N] [--from N]   many, as TAP, and disks that lie must be noticed
//
// The log's two threads (wal_thread.h) are fibers here: which one goes on is drawn before each
// operation of the disk, so that a spare segment is being written, or a snapshot, at any point of a
// commit, and a seed is the same run every time.
#include "disk_files.h"
#include "tap.h"
#include "wal_model.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

enum { FIBER_STACK = 256 << 10, SEGMENT_BLOCKS = 8, LIVES_MAX = 12 };

// What must have happened somewhere in the suite.
#define COUNTERS(X)                                                                                \
    X(runs)                                                                                        \
    X(lives)                                                                                       \
    X(writes)                                                                                      \
    X(power_failures)                                                                              \
    X(processes_killed)                                                                            \
    X(crashes_in_creation)                                                                         \
    X(crashes_in_recovery)                                                                         \
    X(crashes_in_commit)                                                                           \
    X(crashes_beside_maintenance)                                                                  \
    X(crashes_beside_a_snapshot)                                                                   \
    X(write_lost)                                                                                  \
    X(write_kept)                                                                                  \
    X(write_kept_in_part)                                                                          \
    X(tails_cut)                                                                                   \
    X(syncs_failed)                                                                                \
    X(disks_full)                                                                                  \
    X(snapshots_taken)                                                                             \
    X(snapshots_received)                                                                          \
    X(segments_recycled)                                                                           \
    X(histories_overwritten)                                                                       \
    X(write_through)

struct counters {
#define COUNTER(name) uint64_t name;
    COUNTERS(COUNTER)
#undef COUNTER
};

struct world;

struct fiber {
    ucontext_t context;
    uint8_t *stack;
    bool active;
    int (*run)(struct world *world);
    int result;
};

struct world {
    struct sim_events events;
    struct sim_disk disk;
    struct sim_disk_files adapter;
    struct files files;
    struct sim_random random;
    struct wal_model model;
    struct wal_options options;
    struct wal_identity identity;
    struct wal *wal;
    struct wal_batch *batch;
    bool exists; // the log was created
    // Threads.
    ucontext_t main;
    struct fiber writer, keeper;
    struct fiber *current;
    bool taking; // what the keeper does
    struct raft_snapshot snapshot;
    struct counters counters;
    bool trace;
    char failure[700];
};

static uint64_t below(struct world *world, uint64_t bound)
{
    return sim_random_below(&world->random, bound);
}

static bool fail(struct world *world, const char *what, const char *why)
{
    if (!world->failure[0])
        snprintf(world->failure, sizeof(world->failure), "%s: %s", what, why);
    return false;
}

#define TRACE(world, ...)                                                                          \
    do {                                                                                           \
        if ((world)->trace)                                                                        \
            printf(__VA_ARGS__);                                                                   \
    } while (0)

// ---- fibers ----

static void fiber_between(void *context)
{
    struct world *world = context;
    struct fiber *fiber = world->current;

    if (!fiber)
        return;
    world->current = NULL;
    swapcontext(&fiber->context, &world->main);
}

static void fiber_main(unsigned low, unsigned high)
{
    struct world *world = (struct world *)((uintptr_t)high << 32 | low); // makecontext takes ints
    struct fiber *fiber = world->current;

    fiber->result = fiber->run(world);
    fiber->active = false;
    world->current = NULL;
    swapcontext(&fiber->context, &world->main);
}

static void fiber_start(struct world *world, struct fiber *fiber, int (*run)(struct world *))
{
    uintptr_t address = (uintptr_t)world;

    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = FIBER_STACK;
    fiber->context.uc_link = &world->main;
    fiber->run = run;
    fiber->active = true;
    makecontext(&fiber->context, (void (*)(void))(uintptr_t)fiber_main, 2, (unsigned)address,
                (unsigned)(address >> 32));
}

static void fiber_go_on(struct world *world, struct fiber *fiber)
{
    world->current = fiber;
    swapcontext(&world->main, &fiber->context);
}

// ---- what the threads do ----

static int commit(struct world *world)
{
    return wal_batch_commit(world->batch);
}

static int maintain(struct world *world)
{
    return wal_needs_maintenance(world->wal) ? wal_maintain(world->wal) : 0;
}

static int take_snapshot(struct world *world)
{
    struct wal_snapshot_writer *writer;
    uint32_t length = wal_model_snapshot_length(world->snapshot.last);
    int error = wal_snapshot_begin(world->wal, &world->snapshot, &writer);

    if (error)
        return error;
    for (uint32_t at = 0; !error && at < length;) {
        uint8_t piece[3000];
        uint32_t part = 1 + (uint32_t)below(world, sizeof(piece));

        part = part < length - at ? part : length - at;
        for (uint32_t i = 0; i < part; i++)
            piece[i] = wal_model_snapshot_byte(world->snapshot.last, at + i);
        error = wal_snapshot_append(writer, piece, part);
        at += part;
    }
    if (!error)
        error = wal_snapshot_finish(writer);
    wal_snapshot_writer_free(writer);
    return error;
}

static void keeper_begin(struct world *world)
{
    struct wal_model *model = &world->model;

    world->taking = false;
    if (below(world, 6) == 0 && model->applied > model->sure.snapshot.index) {
        uint64_t index = model->sure.snapshot.index + 1 +
                         below(world, model->applied - model->sure.snapshot.index);

        world->taking = true;
        world->snapshot =
            wal_model_snapshot((struct raft_position){index, model->sure.terms[index]});
        fiber_start(world, &world->keeper, take_snapshot);
    } else if (wal_needs_maintenance(world->wal)) {
        fiber_start(world, &world->keeper, maintain);
    }
}

// On the member's own thread, after the keeper's end.
static void keeper_ended(struct world *world)
{
    struct wal_status before, after;
    uint64_t index = world->snapshot.last.index;

    if (!world->taking || world->keeper.result || world->disk.dead ||
        wal_snapshot_adopt(world->wal, &world->snapshot))
        return;
    world->taking = false;
    world->counters.snapshots_taken++;
    world->model.sure.snapshot = world->snapshot.last;
    if (world->model.under_way && world->model.after.snapshot.index < index)
        world->model.after.snapshot = world->snapshot.last;
    wal_inspect(world->wal, &before);
    wal_compact(world->wal, index - below(world, index < 20 ? index + 1 : 20));
    wal_inspect(world->wal, &after);
    world->counters.segments_recycled += after.first_segment - before.first_segment;
}

static bool keeper_step(struct world *world)
{
    if (world->keeper.active)
        fiber_go_on(world, &world->keeper);
    if (!world->keeper.active && world->keeper.run) {
        world->keeper.run = NULL;
        keeper_ended(world);
    }
    return world->keeper.active;
}

// Runs both threads until the writer has ended, with looks at the log between.
static bool run_writer(struct world *world)
{
    fiber_start(world, &world->writer, commit);
    while (world->writer.active) {
        if (!world->keeper.active && !world->disk.dead)
            keeper_begin(world);
        if (world->keeper.active && below(world, 2))
            keeper_step(world);
        else
            fiber_go_on(world, &world->writer);
        if (!world->disk.dead && below(world, 8) == 0 &&
            !wal_model_read_one(&world->model, world->wal) && !world->disk.dead)
            return fail(world, "while a write is under way", world->model.failure);
    }
    return true;
}

// ---- a life of the member: from its start to its end ----

static void note_crash(struct world *world)
{
    if (world->keeper.active && world->taking)
        world->counters.crashes_beside_a_snapshot++;
    else if (world->keeper.active)
        world->counters.crashes_beside_maintenance++;
}

static bool write_once(struct world *world)
{
    struct wal_model *model = &world->model;
    int error = wal_batch_prepare(world->wal, &model->write, &world->batch);

    if (error)
        return fail(world, "a write is refused", strerror(-error));
    for (;;) {
        if (!run_writer(world))
            return false;
        if (world->writer.result != -ENOSPC || world->disk.dead)
            break;
        world->counters.disks_full++; // and somebody makes room, after a while
        if (below(world, 3) == 0)
            world->disk.capacity = UINT64_MAX;
    }
    error = world->writer.result;
    world->counters.writes++;
    TRACE(world, "  write: %zu entries from %lu, chunk %d, term %lu: %d\n",
          model->write.entry_count, (unsigned long)model->entries[0].index, !!model->write.chunk,
          (unsigned long)model->after.hard_state.term, error);
    if (world->disk.dead) {
        world->counters.crashes_in_commit++;
        note_crash(world);
    } else if (error) {
        // Only a failed sync may end a member.
        if (world->disk.counts.sync_errors == 0)
            return fail(world, "a commit fails though the disk is well", strerror(-error));
        world->counters.syncs_failed++;
    }
    if (error)
        return false;
    if (wal_batch_finish(world->batch))
        return fail(world, "a durable write", "is refused by the log's own view");
    world->batch = NULL;
    world->counters.snapshots_received += model->write.chunk && model->chunk.done;
    world->counters.histories_overwritten +=
        model->write.entry_count && model->entries[0].index <= model->sure.last;
    wal_model_done(model);
    return true;
}

static void stop(struct world *world)
{
    while (keeper_step(world))
        ;
    wal_batch_abandon(world->batch);
    world->batch = NULL;
    wal_close(world->wal);
    world->wal = NULL;
    wal_model_ended(&world->model);
}

static bool create(struct world *world)
{
    struct raft_snapshot first = wal_model_snapshot((struct raft_position){0, 0});
    struct error err = {0};
    int error = wal_create(&world->options, &world->identity, &first, NULL, 0, &err);

    if (error == 0)
        return world->exists = true;
    if (world->disk.dead)
        world->counters.crashes_in_creation++;
    else if (world->disk.counts.sync_errors == 0)
        fail(world, "creation", err.message);
    return false;
}

static bool open_log(struct world *world)
{
    struct error err = {0};
    int error;

    world->adapter.mute = true;
    error = wal_open(&world->wal, &world->options, &err);
    world->adapter.mute = false;
    if (error == -ENOENT && !world->exists)
        return create(world) && open_log(world);
    if (error == 0) {
        world->exists = true;
        if (!world->disk.dead)
            return true;
        wal_close(world->wal); // it died while it was tidying up
    }
    world->wal = NULL;
    if (world->disk.dead)
        world->counters.crashes_in_recovery++;
    else if (world->disk.counts.sync_errors == 0 || error == -EBADMSG)
        fail(world, "opening", err.message);
    return false;
}

static void judge_start(struct world *world)
{
    bool under_way = world->model.under_way;
    uint64_t before = world->model.sure.last;
    struct wal_status status;

    if (!wal_model_judge(&world->model, world->wal)) {
        fail(world, "after a restart", world->model.failure);
        return;
    }
    wal_inspect(world->wal, &status);
    world->counters.tails_cut += status.cut_bytes > 0;
    if (under_way && world->model.sure.last == world->model.after.last)
        world->counters.write_kept++;
    else if (under_way && world->model.sure.last != before)
        world->counters.write_kept_in_part++;
    else
        world->counters.write_lost += under_way;
    TRACE(world, "  there: term %lu, entries up to %lu, snapshot %lu\n",
          (unsigned long)world->model.sure.hard_state.term, (unsigned long)world->model.sure.last,
          (unsigned long)world->model.sure.snapshot.index);
}

// False: no more lives.
static bool live(struct world *world)
{
    struct sim_disk *disk = &world->disk;
    uint64_t writes = below(world, 40);

    world->counters.lives++;
    disk->counts.sync_errors = 0;
    disk->faults.sync_error_ppm = below(world, 4) ? 0 : 20000;
    disk->crash_after =
        below(world, 8) ? 1 + (uint32_t)below(world, below(world, 3) ? 60 : 400) : 0;
    disk->capacity = UINT64_MAX;
    world->options.write_through = below(world, 2);
    world->options.direct = below(world, 2);
    world->counters.write_through += world->options.write_through;
    if (!open_log(world))
        return !world->failure[0];
    judge_start(world);
    if (below(world, 4) == 0)
        disk->capacity = disk->used + below(world, 4) * SEGMENT_BLOCKS * WAL_BLOCK;
    bool more = true;
    while (!world->failure[0] && !disk->dead && writes-- && (more = wal_model_plan(&world->model)))
        if (!write_once(world))
            break;
    stop(world);
    return !world->failure[0] && more;
}

static void after_life(struct world *world)
{
    sim_disk_files_forget(&world->adapter);
    if (below(world, 3)) {
        world->counters.power_failures++;
        TRACE(world, "power fails\n");
        sim_disk_crash(&world->disk);
    } else {
        world->counters.processes_killed++;
        TRACE(world, "the process is killed\n");
        sim_disk_killed(&world->disk);
    }
}

static int world_salt(void *context, void *bytes, size_t length)
{
    struct world *world = context;

    for (size_t i = 0; i < length; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)sim_random_next(&world->random);
    return 0;
}

static bool run(struct world *world, uint64_t seed, enum sim_disk_lie lie)
{
    sim_random_seed(&world->random, seed, 0x63726173);
    sim_events_reset(&world->events);
    sim_disk_reset(&world->disk, seed, 1);
    wal_model_reset(&world->model, seed);
    sim_disk_files_forget(&world->adapter);
    world->adapter.lie = lie;
    world->exists = false;
    world->failure[0] = 0;
    world->counters.runs++;
    wal_options_default(&world->options, &world->files);
    world->options.segment_bytes = SEGMENT_BLOCKS * WAL_BLOCK;
    world->options.cache_bytes = below(world, 2) ? 4096 : 1 << 20;
    world->options.spares = (unsigned)below(world, 3);
    world->options.random = world_salt;
    world->options.random_context = world;
    world->identity.member = seed;
    for (int lives = 0; lives < LIVES_MAX && live(world); lives++)
        after_life(world);
    return !world->failure[0];
}

static struct world *world_create(void)
{
    struct world *world = calloc(1, sizeof(*world));

    if (!world)
        abort();
    sim_events_init(&world->events);
    sim_disk_init(&world->disk, &world->events);
    sim_disk_files_init(&world->adapter, &world->disk, &world->files);
    world->adapter.between = fiber_between;
    world->adapter.context = world;
    world->writer.stack = sim_allocate(FIBER_STACK);
    world->keeper.stack = sim_allocate(FIBER_STACK);
    return world;
}

static void world_destroy(struct world *world)
{
    sim_disk_free(&world->disk);
    sim_events_free(&world->events);
    free(world->writer.stack);
    free(world->keeper.stack);
    free(world);
}

// ---- programs ----

static const struct {
    enum sim_disk_lie lie;
    const char *what;
} lies[] = {
    {SIM_DISK_LIES_SYNC, "syncs that do nothing"},
    {SIM_DISK_LIES_THROUGH, "synchronous writes that aren't"},
    {SIM_DISK_LIES_DIRECTORY, "directory syncs that do nothing"},
    {SIM_DISK_LIES_MUTE, "a recovery that writes nothing"},
};

static void suite(struct tap *tap, struct world *world, uint64_t from, uint64_t count)
{
    uint64_t failures = 0, seed;
    clock_t begin = clock();

    for (seed = from; seed < from + count && failures < 5; seed++) {
        if (run(world, seed, SIM_DISK_HONEST))
            continue;
        failures++;
        printf("# %s\n# replay: build/tests/sim/wal_crashes --seed %lu --trace\n", world->failure,
               (unsigned long)seed);
    }
    tap_ok(tap, failures == 0, "seeds %lu to %lu: %lu crashes, %lu writes, in %.1f s",
           (unsigned long)from, (unsigned long)seed - 1, (unsigned long)world->counters.lives,
           (unsigned long)world->counters.writes,
           (double)(clock() - begin) / (double)CLOCKS_PER_SEC);
#define CHECK(name)                                                                                \
    tap_ok(tap, world->counters.name > 0, "it happened: %s (%lu)", #name,                          \
           (unsigned long)world->counters.name);
    COUNTERS(CHECK)
#undef CHECK
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        for (seed = 1; seed < 2000 && run(world, seed, lies[i].lie); seed++)
            ;
        tap_ok(tap, seed < 2000, "noticed: %s (seed %lu: %s)", lies[i].what, (unsigned long)seed,
               world->failure);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'}, {"seeds", required_argument, NULL, 'n'},
        {"from", required_argument, NULL, 'f'}, {"trace", no_argument, NULL, 't'},
        {"suite", no_argument, NULL, 'u'},      {0},
    };
    struct world *world = world_create();
    uint64_t seed = 0, from = 1, count = 1000;
    bool all = false;
    int option, result = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'n':
            count = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            from = strtoull(optarg, NULL, 10);
            break;
        case 't':
            world->trace = true;
            break;
        case 'u':
            all = true;
            break;
        default:
            world_destroy(world);
            return 2;
        }
    }
    if (all) {
        struct tap tap = {0};

        suite(&tap, world, from, count);
        result = tap_end(&tap);
    } else {
        bool good = run(world, seed, SIM_DISK_HONEST);

        printf("seed %lu: %s\n", (unsigned long)seed, good ? "good" : world->failure);
        result = !good;
    }
    world_destroy(world);
    return result;
}
