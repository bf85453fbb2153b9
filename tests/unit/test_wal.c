// The write-ahead log: what it promises, and that no crash breaks it.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/wal/wal.h"
#include "tests/unit/model_disk.h"
#include "tests/unit/run_suite.h"

enum { SEGMENT = 8 * WAL_BLOCK, ENTRIES_MAX = 400, STEPS = 40 };

// What a log must hold, kept beside it.
struct expected {
    struct raft_hard_state hard_state;
    struct raft_position snapshot;
    uint64_t last;
    uint64_t term[ENTRIES_MAX];
    uint32_t length[ENTRIES_MAX];
};

static struct model_disk disk;
static struct files files;

// Writes that nobody waits for: they happen when their end is asked for.
static bool writes_are_begun; // commits go by them, where the log lets them
static struct {
    int file;
    uint64_t offset;
    const uint8_t *bytes;
    size_t length;
    unsigned polls;
    int outcome; // of the next one, if not 0: nothing is written
} begun;

static int model_write_descriptor(void *context)
{
    return 0; // nobody waits for it here
}

static int model_write_begin(void *context, int file, uint64_t offset, const void *bytes,
                             size_t length)
{
    begun.file = file;
    begun.offset = offset;
    begun.bytes = bytes;
    begun.length = length;
    begun.polls = 0;
    return 0;
}

static int model_write_poll(void *context, bool wait)
{
    int outcome = begun.outcome;
    if (begun.polls++ == 0 && !wait)
        return 1;
    begun.outcome = 0;
    return outcome ? outcome
                   : files.write(context, begun.file, begun.offset, begun.bytes, begun.length);
}

static void fresh_disk(uint64_t seed)
{
    model_disk_init(&disk, &files, seed);
    if (!writes_are_begun)
        return;
    files.write_descriptor = model_write_descriptor;
    files.write_begin = model_write_begin;
    files.write_poll = model_write_poll;
}

static int test_random(void *context, void *bytes, size_t length)
{
    static uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < length; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)bytes)[i] = (uint8_t)(state >> 56);
    }
    return 0;
}

static struct wal_options test_options(void)
{
    struct wal_options options;
    wal_options_default(&options, &files);
    options.segment_bytes = SEGMENT;
    options.cache_bytes = 4096;
    options.random = test_random;
    options.write_through = options.direct = writes_are_begun;
    return options;
}

static const struct wal_identity identity = {.cluster = {1, 2, 3}, .member = 77};

static struct raft_snapshot snapshot_at(uint64_t index, uint64_t term)
{
    return (struct raft_snapshot){
        .last = {index, term},
        .configuration = {.count = 1, .members = {{.id = 77, .roles = RAFT_VOTER}}},
    };
}

// The data of an entry is a function of its place, so that any mix-up shows.
static uint8_t data_byte(uint64_t index, uint64_t term, size_t at)
{
    return (uint8_t)(index * 31 + term * 17 + at * 7 + (at >> 8));
}

static int create(const struct wal_options *options)
{
    struct raft_snapshot first = snapshot_at(0, 0);
    return wal_create(options, &identity, &first, "first", 5, NULL);
}

static struct wal *open_log(const struct wal_options *options)
{
    struct wal *wal = NULL;
    struct error err = {0};
    int error = wal_open(&wal, options, &err);
    ck_assert_msg(error == 0, "%s", err.message);
    return wal;
}

static struct wal *create_and_open(const struct wal_options *options)
{
    fresh_disk(1);
    ck_assert_int_eq(create(options), 0);
    return open_log(options);
}

static struct raft_stored load(struct wal *wal)
{
    struct raft_stored stored;
    ck_assert_int_eq(wal_storage(wal)->load(wal_storage(wal)->context, &stored), 0);
    return stored;
}

struct script {
    struct expected now;
    uint64_t random;
    int step;
};

static uint64_t script_random(struct script *script, uint64_t bound)
{
    script->random = script->random * 6364136223846793005u + 1442695040888963407u;
    return (script->random >> 33) % bound;
}

struct planned {
    struct raft_write write;
    struct raft_entry entries[24];
    uint8_t data[24][3000];
    struct raft_snapshot_request chunk;
    struct raft_configuration configuration;
    uint8_t chunk_data[600];
    struct expected after;
    bool take_snapshot;
};

static struct planned plan; // too large for a stack

static void plan_entries(struct script *script, uint64_t first, size_t count)
{
    uint64_t term = plan.after.hard_state.term;
    for (size_t i = 0; i < count; i++) {
        uint64_t index = first + i;
        uint32_t length = (uint32_t)script_random(script, script_random(script, 4) ? 200 : 3000);
        for (size_t b = 0; b < length; b++)
            plan.data[i][b] = data_byte(index, term, b);
        plan.entries[i] = (struct raft_entry){
            .index = index,
            .term = term,
            .type = RAFT_ENTRY_COMMAND,
            .length = length,
            .data = length ? plan.data[i] : NULL,
        };
        plan.after.term[index] = term;
        plan.after.length[index] = length;
        plan.after.last = index;
    }
    plan.write.entries = plan.entries;
    plan.write.entry_count = count;
}

static void plan_chunk(uint64_t index, uint64_t term, uint64_t offset, bool done)
{
    struct raft_snapshot snapshot = snapshot_at(index, term);
    plan.configuration = snapshot.configuration;
    for (size_t i = 0; i < sizeof(plan.chunk_data); i++)
        plan.chunk_data[i] = data_byte(index, term, offset + i);
    plan.chunk = (struct raft_snapshot_request){
        .last = snapshot.last,
        .configuration = &plan.configuration,
        .offset = offset,
        .data = plan.chunk_data,
        .length = sizeof(plan.chunk_data),
        .done = done,
    };
    plan.write.chunk = &plan.chunk;
    if (done) {
        plan.after.snapshot = snapshot.last;
        plan.after.last = index;
        plan.after.term[index] = term;
    }
}

static void plan_new_term(struct script *script)
{
    plan.write.has_hard_state = true;
    plan.after.hard_state.term += 1 + script_random(script, 2);
    plan.after.hard_state.voted_for = script_random(script, 3);
    plan.write.hard_state = plan.after.hard_state;
}

// The next thing that a member does to its log: writes of all kinds, and snapshots.
static void plan_step(struct script *script)
{
    struct expected *now = &script->now;
    int step = script->step++;
    plan.write = (struct raft_write){.number = (uint64_t)step + 1};
    plan.after = *now;
    plan.take_snapshot = false;
    if (step == 17) { // a snapshot from the leader, far ahead, in two chunks
        plan_chunk(now->last + 5, now->hard_state.term, 0, false);
        return;
    }
    if (step == 18) {
        plan_chunk(plan.chunk.last.index, plan.chunk.last.term, 600, true);
        plan_new_term(script);
        plan_entries(script, plan.after.last + 1, 3);
        return;
    }
    if (step % 5 == 0)
        plan_new_term(script);
    if (step % 7 == 6) {
        plan.take_snapshot = true;
        plan.after = *now;
        return;
    }
    uint64_t first = now->last + 1;
    if (step % 9 == 5 && now->last > now->snapshot.index + 2) { // overwrites a suffix
        if (!plan.write.has_hard_state)
            plan_new_term(script);
        first = now->last - script_random(script, 2);
    }
    plan_entries(script, first, 1 + script_random(script, script_random(script, 3) ? 4 : 20));
}

static unsigned begun_commits;

static int commit_batch(struct wal *wal, struct wal_batch *batch)
{
    if (wal_commit_descriptor(wal) < 0 || wal_batch_commit_begin(batch))
        return wal_batch_commit(batch);
    begun_commits++;
    int state = 1;
    while (state == 1)
        state = wal_batch_commit_poll(batch, false);
    return state == -EAGAIN ? wal_batch_commit(batch) : state;
}

static int commit(struct wal *wal, const struct raft_write *write)
{
    struct wal_batch *batch;
    int error = wal_batch_prepare(wal, write, &batch);
    ck_assert_int_ne(error, -EINVAL);
    if (error)
        return error;
    error = commit_batch(wal, batch);
    if (error) {
        wal_batch_abandon(batch);
        return error;
    }
    return wal_batch_finish(batch);
}

static int take_snapshot(struct wal *wal, struct expected *now)
{
    struct wal_snapshot_writer *writer;
    struct raft_snapshot snapshot = snapshot_at(now->last, now->term[now->last]);
    if (now->last == now->snapshot.index)
        return 0;
    int error = wal_snapshot_begin(wal, &snapshot, &writer);
    if (error)
        return error;
    error = wal_snapshot_append(writer, "state", 5);
    if (!error)
        error = wal_snapshot_finish(writer);
    wal_snapshot_writer_free(writer);
    if (!error)
        error = wal_snapshot_adopt(wal, &snapshot);
    if (error)
        return error;
    now->snapshot = snapshot.last;
    wal_compact(wal, now->last > 3 ? now->last - 3 : 0);
    return wal_maintain(wal);
}

static bool entries_match(struct wal *wal, const struct raft_stored *stored,
                          const struct expected *expected)
{
    const struct raft_storage *storage = wal_storage(wal);
    bool match = true;
    for (uint64_t index = stored->before.index + 1; match && index <= stored->last_index; index++) {
        struct raft_entry entry;
        size_t one = 1;
        // Plain comparisons: an assertion of check's is a system call, and these are many.
        if (storage->read(storage->context, index, index, 1, &entry, &one) != 0 ||
            entry.index != index)
            ck_abort_msg("entry %lu can't be read", index);
        match = entry.term == expected->term[index] && entry.length == expected->length[index];
        for (size_t b = 0; b < entry.length; b++)
            if (entry.data[b] != data_byte(index, entry.term, b))
                ck_abort_msg("entry %lu has other data", index);
        storage->release(storage->context);
    }
    return match;
}

static bool same_state(struct raft_hard_state a, struct raft_hard_state b)
{
    return a.term == b.term && a.voted_for == b.voted_for;
}

// The log shows `before`, or that with a prefix of the planned write done to it.
static void judge(struct wal *wal, const struct expected *before, bool planned)
{
    const struct expected *after = &plan.after;
    struct raft_stored stored = load(wal);
    bool unchanged = same_state(stored.hard_state, before->hard_state) &&
                     stored.last_index == before->last && entries_match(wal, &stored, before);
    ck_assert(unchanged || planned);
    if (!unchanged) {
        size_t count = plan.write.entry_count;
        uint64_t first = count ? plan.write.entries[0].index : after->last + 1;
        ck_assert(same_state(stored.hard_state, after->hard_state));
        if (!plan.write.has_hard_state || plan.write.chunk || count)
            ck_assert_uint_ge(stored.last_index, first - (plan.write.chunk || count == 0));
        ck_assert_uint_le(stored.last_index, after->last);
        ck_assert(entries_match(wal, &stored, after));
    }
    ck_assert_uint_le(stored.before.index, stored.snapshot.last.index);
    ck_assert_uint_le(stored.snapshot.last.index, stored.last_index);
    ck_assert_uint_ge(stored.snapshot.last.index, before->snapshot.index);
    struct wal_snapshot_reader *reader;
    ck_assert_int_eq(wal_snapshot_load(wal, stored.snapshot.last, &reader, NULL), 0);
    wal_snapshot_reader_free(reader);
}

static int run_step(struct wal *wal, struct script *script)
{
    plan_step(script);
    int error = plan.take_snapshot ? take_snapshot(wal, &plan.after) : commit(wal, &plan.write);
    if (error)
        return error;
    script->now = plan.after;
    return wal_maintain(wal);
}

// Runs the script on a new disk until the crash, if there is one.
static bool run_until_crash(uint64_t crash_at, size_t torn, struct script *script, bool *created)
{
    struct wal_options options = test_options();
    struct wal *wal = NULL;

    fresh_disk(crash_at + torn * 7919);
    disk.crash_at = crash_at;
    disk.torn_bytes = torn;
    *script = (struct script){.random = 42};
    plan = (struct planned){0};
    *created = create(&options) == 0;
    if (!*created || wal_open(&wal, &options, NULL))
        return true;
    bool crashed = false;
    while (script->step < STEPS && !crashed)
        crashed = run_step(wal, script) != 0;
    if (!crashed)
        judge(wal, &script->now, false);
    wal_close(wal);
    return crashed;
}

// After the restart: the log opens, shows what it must, and works on.
static void check_recovery(struct script *script, bool created)
{
    struct wal_options options = test_options();
    struct error err = {0};
    struct wal *wal;
    int error = wal_open(&wal, &options, &err);
    if (!created && error == -ENOENT) {
        ck_assert_int_eq(create(&options), 0);
        error = wal_open(&wal, &options, &err);
    }
    ck_assert_msg(error == 0, "%s", err.message);
    judge(wal, &script->now, true);

    // It can be written again, and a second crash right then loses nothing.
    struct raft_stored stored = load(wal);
    struct raft_write write = {.number = 1, .has_hard_state = true, .entry_count = 1};
    write.hard_state = (struct raft_hard_state){stored.hard_state.term + 1, 9};
    struct raft_entry entry = {
        .index = stored.last_index + 1,
        .term = write.hard_state.term,
        .length = 5,
        .data = (const uint8_t *)"again",
    };
    write.entries = &entry;
    ck_assert_int_eq(commit(wal, &write), 0);
    wal_close(wal);
    model_disk_restart(&disk, MODEL_KEEP_NONE);
    wal = open_log(&options);
    stored = load(wal);
    ck_assert_uint_eq(stored.last_index, entry.index);
    ck_assert(same_state(stored.hard_state, write.hard_state));
    wal_close(wal);
    model_disk_free(&disk);
}

static uint64_t operations_of_script(void)
{
    struct script script;
    bool created;
    ck_assert(!run_until_crash(0, 0, &script, &created));
    uint64_t operations = disk.operations;
    model_disk_free(&disk);
    return operations;
}

START_TEST(test_crash_between_any_two_operations)
{
    writes_are_begun = _i;
    struct script script;
    bool created;
    uint64_t operations = operations_of_script();
    ck_assert_uint_gt(operations, writes_are_begun ? 100 : 150);
    for (uint64_t at = 1; at <= operations; at++) {
        for (int way = 0; way < 7; way++) {
            run_until_crash(at, SIZE_MAX, &script, &created);
            disk.random += (uint64_t)way * 104729;
            model_disk_restart(&disk, way < 2 ? (enum model_keep)way : MODEL_KEEP_SECTORS);
            check_recovery(&script, created);
        }
    }
}
END_TEST

START_TEST(test_torn_write_at_every_sector)
{
    writes_are_begun = _i;
    struct script script;
    bool created;
    uint64_t operations = operations_of_script();
    for (uint64_t at = 1; at <= operations; at++) {
        size_t length = 1;
        for (size_t torn = 0; torn < length; torn += MODEL_SECTOR) {
            run_until_crash(at, torn, &script, &created);
            length = disk.last_was_write ? disk.last_length : 0;
            model_disk_restart(&disk, MODEL_KEEP_ALL);
            check_recovery(&script, created);
        }
    }
}
END_TEST

START_TEST(test_crash_in_recovery)
{
    struct wal_options options = test_options();
    struct script script;
    bool created;
    uint64_t operations = operations_of_script();
    for (uint64_t at = 3; at <= operations; at += 7) {
        for (uint64_t again = 1; again < 10; again++) {
            struct wal *wal;
            run_until_crash(at, 600, &script, &created);
            model_disk_restart(&disk, MODEL_KEEP_SECTORS);
            disk.crash_at = again;
            if (wal_open(&wal, &options, NULL) == 0)
                wal_close(wal);
            model_disk_restart(&disk, MODEL_KEEP_SECTORS);
            check_recovery(&script, created);
        }
    }
}
END_TEST

// One frame, cut at every byte of it.
START_TEST(test_torn_write_at_every_byte)
{
    struct wal_options options = test_options();
    uint8_t data[700];
    memset(data, 0xa5, sizeof(data));
    struct raft_entry entry = {.index = 1, .term = 1, .length = sizeof(data), .data = data};
    struct raft_write write = {.number = 1,
                               .has_hard_state = true,
                               .hard_state = {1, 77},
                               .entries = &entry,
                               .entry_count = 1};
    for (size_t torn = 0; torn < WAL_BLOCK; torn++) {
        struct wal *wal = create_and_open(&options);
        disk.torn_bytes = torn;
        disk.crash_at = disk.operations + 1;
        ck_assert_int_ne(commit(wal, &write), 0);
        wal_close(wal);
        model_disk_restart(&disk, MODEL_KEEP_ALL);
        wal = open_log(&options);
        bool whole = torn >= WAL_FRAME_HEADER + WAL_HARD_STATE_BYTES + WAL_ENTRY_HEADER + 700;
        ck_assert_uint_eq(load(wal).last_index, whole ? 1 : 0);
        ck_assert_uint_eq(load(wal).hard_state.term, whole ? 1 : 0);
        wal_close(wal);
        model_disk_free(&disk);
    }
}
END_TEST

START_TEST(test_failed_sync_ends_the_member)
{
    struct wal_options options = test_options();
    struct raft_entry entry = {.index = 1, .term = 1, .length = 4, .data = (const uint8_t *)"lost"};
    struct raft_write write = {.number = 1,
                               .has_hard_state = true,
                               .hard_state = {1, 77},
                               .entries = &entry,
                               .entry_count = 1};
    struct wal *wal = create_and_open(&options);
    disk.fail_sync_at = disk.operations + 2;
    ck_assert_int_eq(commit(wal, &write), -EIO);
    ck_assert_int_eq(commit(wal, &write), -EIO); // no second try may seem to succeed
    wal_close(wal);

    // The process starts again while the page cache still shows the lost frame, as if it were good.
    model_disk_process_died(&disk);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 1);
    wal_close(wal);
    // So it must be on the disk now.
    model_disk_restart(&disk, MODEL_KEEP_NONE);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 1);
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

static struct model_file *file_named(const char *name)
{
    int at = model_find(model_seen(&disk), name);
    ck_assert_int_ge(at, 0);
    return &disk.files[model_seen(&disk)->file[at]];
}

static void write_many(struct wal *wal, uint64_t from, uint64_t to)
{
    for (uint64_t index = from; index <= to; index++) {
        struct raft_entry entry = {
            .index = index, .term = 1, .length = 8, .data = (const uint8_t *)"recorded"};
        struct raft_write write = {.number = index,
                                   .has_hard_state = index == 1,
                                   .hard_state = {1, 77},
                                   .entries = &entry,
                                   .entry_count = 1};
        ck_assert_int_eq(commit(wal, &write), 0);
        ck_assert_int_eq(wal_maintain(wal), 0);
    }
}

// Frames are at blocks 1 to 7 of a segment; the fourth frame of segment 2 is the last one.
static const struct {
    const char *name;
    size_t offset;
    bool refused;
} damage_cases[] = {
    {"wal-0000000000000001", 20, true},                  // header
    {"wal-0000000000000001", WAL_BLOCK + 40, true},      // first frame
    {"wal-0000000000000001", 7 * WAL_BLOCK + 40, true},  // last frame of a full segment
    {"wal-0000000000000002", 100, true},                 // header
    {"wal-0000000000000002", 3 * WAL_BLOCK + 8, true},   // salt of a frame before the last
    {"wal-0000000000000002", 3 * WAL_BLOCK + 4, true},   // its length
    {"wal-0000000000000002", 4 * WAL_BLOCK + 40, false}, // the very last: as if torn
    {"wal-0000000000000002", 5 * WAL_BLOCK + 40, false}, // nothing there
};

START_TEST(test_damage_in_the_middle_is_refused)
{
    struct wal_options options = test_options();
    size_t offset = damage_cases[_i].offset;
    struct error err = {0};
    char where[64];
    struct wal *wal = create_and_open(&options);
    write_many(wal, 1, 11);
    wal_close(wal);
    file_named(damage_cases[_i].name)->cache.data[offset] ^= 0x10;
    int error = wal_open(&wal, &options, &err);
    ck_assert_int_eq(error, damage_cases[_i].refused ? -EBADMSG : 0);
    if (error) {
        snprintf(where, sizeof(where), "offset %zu",
                 offset < WAL_BLOCK ? 0 : offset / WAL_BLOCK * WAL_BLOCK);
        ck_assert_msg(strstr(err.message, damage_cases[_i].name) != NULL, "%s", err.message);
        ck_assert_msg(strstr(err.message, where) != NULL, "%s", err.message);
    } else {
        wal_close(wal);
    }
    model_disk_free(&disk);
}
END_TEST

START_TEST(test_missing_segment_is_refused)
{
    struct wal_options options = test_options();
    struct wal *wal = create_and_open(&options);
    write_many(wal, 1, 20);
    wal_close(wal);
    ck_assert_int_eq(model_remove(&disk, "wal-0000000000000002"), 0);
    ck_assert_int_eq(wal_open(&wal, &options, NULL), -EBADMSG);
    model_disk_free(&disk);
}
END_TEST

// What a recycled file held before never counts, even though its frames are whole.
START_TEST(test_recycled_segment_holds_no_old_frames)
{
    struct wal_options options = test_options();
    struct wal_status status;
    struct wal *wal = create_and_open(&options);
    struct expected now = {0};
    for (uint64_t round = 0; round < 6; round++) {
        write_many(wal, round * 20 + 1, round * 20 + 20);
        now.last = round * 20 + 20;
        now.term[now.last] = 1;
        ck_assert_int_eq(take_snapshot(wal, &now), 0);
    }
    wal_inspect(wal, &status);
    ck_assert_uint_gt(status.first_segment, 10);
    wal_close(wal);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 120);
    ck_assert_uint_eq(load(wal).snapshot.last.index, 120);
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

START_TEST(test_full_disk_does_no_damage)
{
    struct wal_options options = test_options();
    struct wal_batch *batch = NULL;
    uint64_t index = 0;
    int error = 0;
    bool warned = false;
    struct wal *wal = create_and_open(&options);
    disk.capacity = 4 * SEGMENT;
    while (!error) {
        struct raft_entry entry = {
            .index = ++index, .term = 1, .length = 8, .data = (const uint8_t *)"recorded"};
        struct raft_write write = {.entries = &entry, .entry_count = 1};
        ck_assert_uint_lt(index, 100);
        wal_maintain(wal);
        warned |= wal_is_full(wal, WAL_BLOCK * 2);
        ck_assert_int_eq(wal_batch_prepare(wal, &write, &batch), 0);
        error = wal_batch_commit(batch);
        if (!error)
            ck_assert_int_eq(wal_batch_finish(batch), 0);
    }
    ck_assert_int_eq(error, -ENOSPC);
    ck_assert(warned);
    ck_assert_int_eq(wal_batch_commit(batch), -ENOSPC);
    disk.capacity = 0; // someone made room
    ck_assert_int_eq(wal_batch_commit(batch), 0);
    ck_assert_int_eq(wal_batch_finish(batch), 0);
    wal_close(wal);
    model_disk_restart(&disk, MODEL_KEEP_NONE);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, index);
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

// Nothing can be measured on a full disk, and that is no reason not to start.
START_TEST(test_opened_on_a_full_disk)
{
    struct wal_options options = test_options();
    struct wal *wal = create_and_open(&options);
    write_many(wal, 1, 3);
    wal_close(wal);
    disk.capacity = model_used(&disk);
    ck_assert_int_eq(wal_options_measure(&options, NULL), 0);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 3);
    struct raft_entry entry = {.index = 4, .term = 1, .length = 1, .data = (const uint8_t *)"x"};
    struct raft_write write = {.number = 4, .entries = &entry, .entry_count = 1};
    ck_assert_int_eq(commit(wal, &write), 0); // the segment has room
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

START_TEST(test_creation)
{
    struct wal_options options = test_options();
    struct wal *wal;
    fresh_disk(1);
    ck_assert_int_eq(wal_open(&wal, &options, NULL), -ENOENT);
    ck_assert_int_eq(create(&options), 0);
    ck_assert_int_eq(create(&options), -EEXIST);
    wal = open_log(&options);
    ck_assert_uint_eq(wal_identity(wal)->member, 77);
    ck_assert_int_eq(wal_identity(wal)->cluster[2], 3);
    wal_close(wal);
    options.segment_bytes = WAL_BLOCK;
    ck_assert_int_eq(wal_open(&wal, &options, NULL), -EINVAL);
    model_disk_free(&disk);
}
END_TEST

static void write_snapshot(struct wal *wal, const struct raft_snapshot *snapshot, size_t total)
{
    struct wal_snapshot_writer *writer;
    uint8_t piece[1000];
    ck_assert_int_eq(wal_snapshot_begin(wal, snapshot, &writer), 0);
    for (size_t at = 0; at < total; at += sizeof(piece)) {
        for (size_t i = 0; i < sizeof(piece); i++)
            piece[i] = data_byte(snapshot->last.index, snapshot->last.term, at + i);
        ck_assert_int_eq(wal_snapshot_append(writer, piece, sizeof(piece)), 0);
    }
    ck_assert_int_eq(wal_snapshot_finish(writer), 0);
    wal_snapshot_writer_free(writer);
    ck_assert_int_eq(wal_snapshot_adopt(wal, snapshot), 0);
}

START_TEST(test_snapshot_in_pieces)
{
    struct wal_options options = test_options();
    struct wal *wal = create_and_open(&options);
    const struct raft_storage *storage = wal_storage(wal);
    struct raft_snapshot snapshot = snapshot_at(3, 1);
    uint8_t back[777];
    size_t at = 0, length;
    bool done = false;
    write_many(wal, 1, 3);
    write_snapshot(wal, &snapshot, 150000);
    for (; !done; at += length) {
        ck_assert_int_eq(storage->read_snapshot(storage->context, snapshot.last, at, back,
                                                sizeof(back), &length, &done),
                         0);
        for (size_t i = 0; i < length; i++)
            ck_assert_uint_eq(back[i], data_byte(3, 1, at + i));
    }
    ck_assert_uint_eq(at, 150000);
    ck_assert_int_eq(storage->read_snapshot(storage->context, (struct raft_position){2, 1}, 0, back,
                                            sizeof(back), &length, &done),
                     -ENOENT);
    // Rot in the payload shows when it is read, and only there.
    char name[FILES_NAME_SIZE];
    struct wal_snapshot_reader *reader;
    wal_snapshot_name(name, snapshot.last);
    file_named(name)->cache.data[WAL_BLOCK + 70000] ^= 1;
    ck_assert_int_eq(wal_snapshot_open(&reader, &files, name, NULL), 0);
    ck_assert_int_eq(wal_snapshot_read(reader, 0, back, sizeof(back), &length), 0);
    ck_assert_int_eq(wal_snapshot_read(reader, 70000, back, sizeof(back), &length), -EIO);
    wal_snapshot_reader_free(reader);
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

// What the disk may say at the end of a write that was begun.
START_TEST(test_commits_that_are_begun)
{
    writes_are_begun = true;
    struct wal_options options = test_options();
    struct wal *wal = create_and_open(&options);
    write_many(wal, 1, 20); // segments follow each other: not all commits can be begun
    ck_assert_uint_gt(begun_commits, 10);
    ck_assert_uint_lt(begun_commits, 20);
    begun.outcome = -EAGAIN; // it is committed anew
    write_many(wal, 21, 21);
    ck_assert_uint_eq(load(wal).last_index, 21);
    wal_close(wal);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 21);
    write_many(wal, 22, 22);
    struct raft_entry entry = {.index = 23, .term = 1, .length = 1, .data = (const uint8_t *)"x"};
    struct raft_write write = {.number = 1, .entries = &entry, .entry_count = 1};
    begun.outcome = -ENOSPC; // of room that was there before: the disk is broken
    ck_assert_int_eq(commit(wal, &write), -EIO);
    ck_assert_int_eq(commit(wal, &write), -EIO); // for good
    wal_close(wal);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 22);
    wal_close(wal);
    model_disk_free(&disk);
}
END_TEST

// The real files, with writes that are begun where this host can do that.
START_TEST(test_a_real_disk)
{
    char path[] = "/tmp/ferry-wal.XXXXXX", command[64];
    ck_assert_ptr_nonnull(mkdtemp(path));
    ck_assert_int_eq(files_posix_open(&files, path), 0);
    struct wal_options options = test_options();
    options.write_through = options.direct = true;
    ck_assert_int_eq(create(&options), 0);
    struct wal *wal = open_log(&options);
    write_many(wal, 1, 30);
    wal_close(wal);
    files_posix_close(&files);
    ck_assert_int_eq(files_posix_open(&files, path), 0);
    ck_assert_int_eq(wal_options_measure(&options, NULL), 0);
    wal = open_log(&options);
    ck_assert_uint_eq(load(wal).last_index, 30);
    wal_close(wal);
    files_posix_close(&files);
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal");
    TCase *tests = tcase_create("wal");
    tcase_set_timeout(tests, 240);
    tcase_add_test(tests, test_creation);
    tcase_add_loop_test(tests, test_crash_between_any_two_operations, 0, 2);
    tcase_add_loop_test(tests, test_torn_write_at_every_sector, 0, 2);
    tcase_add_test(tests, test_commits_that_are_begun);
    tcase_add_test(tests, test_a_real_disk);
    tcase_add_test(tests, test_torn_write_at_every_byte);
    tcase_add_test(tests, test_crash_in_recovery);
    tcase_add_test(tests, test_failed_sync_ends_the_member);
    tcase_add_loop_test(tests, test_damage_in_the_middle_is_refused, 0,
                        sizeof(damage_cases) / sizeof(damage_cases[0]));
    tcase_add_test(tests, test_missing_segment_is_refused);
    tcase_add_test(tests, test_recycled_segment_holds_no_old_frames);
    tcase_add_test(tests, test_full_disk_does_no_damage);
    tcase_add_test(tests, test_opened_on_a_full_disk);
    tcase_add_test(tests, test_snapshot_in_pieces);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
