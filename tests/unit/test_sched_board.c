// The schedule board between processes: who is killed or stopped, wherever it was, holds nobody up.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/board_machine.h"
#include "tests/unit/run_suite.h"

static char path[64];

static struct board *open_board(void)
{
    return board_machine_open(path, 1);
}

static void setup(void)
{
    board_machine_make_file(path);
}

static void teardown(void)
{
    unlink(path);
}

// One vCPU of a new group that wants to run.
static uint32_t add_one(struct board *board)
{
    uint64_t generation;
    struct sched_policy *p = board_lock(board, &generation);
    struct sched_params params = {
        .weight = 100, .slice = SCHED_SLICE_DEFAULT, .affinity = *sched_policy_cpus(p)};
    uint32_t group = board_add_group(board);
    ck_assert_uint_ne(group, SCHED_NONE);
    uint32_t id = sched_policy_add(p, group, &params, clock_monotonic_ns());
    board_give(board, sched_policy_wake(p, id, clock_monotonic_ns()), id);
    board_unlock(board);
    return id;
}

static enum sched_state state_of(struct board *board, uint32_t id)
{
    uint64_t generation;
    enum sched_state state = sched_policy_state(board_lock(board, &generation), id);
    board_unlock(board);
    return state;
}

// A child that does `what` and then hangs; returns when it has.
static pid_t child_with(void (*what)(struct board *board))
{
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(ready[0]);
        what(open_board());
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void take_lock(struct board *board)
{
    uint64_t generation;
    board_lock(board, &generation);
}

static void take_cpu(struct board *board)
{
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
}

// Until the vCPU has the CPU, or a minute is over.
static bool gets_cpu(struct board *board, uint32_t id)
{
    uint64_t limit = clock_monotonic_ns() + 60 * NSEC_PER_SEC, generation;
    for (bool begins = true; clock_monotonic_ns() < limit; begins = false) {
        struct sched_policy *p = board_lock(board, &generation);
        uint64_t until = board_watch(board, id, begins, clock_monotonic_ns());
        uint32_t turn = board_turn(board, id);
        bool has = sched_policy_state(p, id) == SCHED_RUNNING;
        board_unlock(board);
        if (has)
            return true;
        board_wait(board, generation, id, turn, until);
    }
    return false;
}

START_TEST(killed_with_the_lock)
{
    struct board *board = open_board();
    uint32_t id = add_one(board);
    uint64_t before, after;
    board_lock(board, &before);
    board_unlock(board);
    end_child(child_with(take_lock));
    struct sched_policy *p = board_lock(board, &after);
    ck_assert_uint_ne(before, after);
    ck_assert_int_eq(sched_policy_state(p, id), SCHED_FREE); // a fresh board
    board_unlock(board);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    board_close(board);
}
END_TEST

START_TEST(stopped_with_the_lock)
{
    struct board *board = open_board();
    uint64_t before, after;
    board_lock(board, &before);
    board_unlock(board);
    pid_t pid = child_with(take_lock);
    kill(pid, SIGSTOP);
    board_lock(board, &after);
    ck_assert_uint_ne(before, after);
    board_unlock(board);
    // What it does when it goes on is done to the old board: here nothing changes.
    kill(pid, SIGCONT);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    end_child(pid);
    board_close(board);
}
END_TEST

// As often as there are areas and more, the former holders still stopped or dead.
START_TEST(stopped_and_killed_again_and_again)
{
    struct board *board = open_board();
    for (unsigned i = 0; i < 10; i++) {
        pid_t pid = child_with(take_lock);
        uint64_t generation;
        kill(pid, i % 2 ? SIGSTOP : SIGKILL);
        board_lock(board, &generation);
        board_unlock(board);
        end_child(pid);
    }
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    board_close(board);
}
END_TEST

static void holder_of_a_cpu(int signal_number)
{
    struct board *board = open_board();
    pid_t pid = child_with(take_cpu);
    uint32_t id = add_one(board);
    ck_assert_int_eq(state_of(board, id), SCHED_WAITING);
    kill(pid, signal_number);
    ck_assert(gets_cpu(board, id));
    end_child(pid);
    board_close(board);
}

START_TEST(killed_with_a_cpu)
{
    holder_of_a_cpu(SIGKILL);
}
END_TEST

START_TEST(stopped_with_a_cpu)
{
    holder_of_a_cpu(SIGSTOP);
}
END_TEST

// A machine that closes its board, or dies and has its number taken by another, leaves nothing.
START_TEST(nothing_stays_of_those_that_left)
{
    struct board *first = open_board(), *second = open_board();
    uint32_t mine = add_one(first), other = add_one(second);
    ck_assert_int_eq(state_of(second, other), SCHED_WAITING);
    board_close(first);
    ck_assert_int_eq(state_of(second, other), SCHED_RUNNING);
    ck_assert_int_eq(state_of(second, mine), SCHED_FREE);
    pid_t pid = child_with(take_lock); // gets the first one's number
    end_child(pid);
    struct board *third = open_board(); // and this one the child's
    ck_assert_int_eq(state_of(third, add_one(third)), SCHED_RUNNING);
    board_close(third);
    board_close(second);
}
END_TEST

// While machines of another version are alive, nobody joins them, and their file stays as long as
// it is. When they are gone the file is begun anew.
START_TEST(other_versions_are_refused)
{
    struct board *board = open_board(), *other;
    struct error err = {0};
    struct sched_cpus one = {.bits = {1}};
    struct stat before, after;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint64_t version = 99;
    ck_assert_int_eq(fstat(fd, &before), 0);
    ck_assert_int_eq(ftruncate(fd, before.st_size + 8192), 0);
    ck_assert_int_eq(pwrite(fd, &version, 8, 8), 8);
    ck_assert_int_eq(board_open(&other, dup(fd), &one, &err), -ENOTSUP);
    ck_assert(strstr(err.message, "another version") != NULL);
    ck_assert(strstr(err.message, "end them first") != NULL);
    ck_assert_int_eq(fstat(fd, &after), 0);
    ck_assert_int_eq(after.st_size, before.st_size + 8192);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    board_close(board);
    board = open_board();
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    board_close(board);
    close(fd);
}
END_TEST

START_TEST(alone_without_a_file)
{
    struct board *board;
    struct error err = {0};
    struct sched_cpus two = {.bits = {3}};
    ck_assert_int_eq(board_open(&board, -1, &two, &err), 0);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_RUNNING);
    ck_assert_int_eq(state_of(board, add_one(board)), SCHED_WAITING);
    board_close(board);
}
END_TEST

// Several processes at once: what they do under the lock is never mixed while one board
// counts.
START_TEST(one_at_a_time)
{
    enum { CHILDREN = 3, ROUNDS = 3000 };
    struct shared {
        uint64_t generation, first, second;
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[CHILDREN];
    for (unsigned i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        if (pids[i])
            continue;
        struct board *board = open_board();
        for (unsigned round = 0; round < ROUNDS; round++) {
            uint64_t generation;
            board_lock(board, &generation);
            // Only those of one generation exclude each other.
            bool same = __atomic_load_n(&shared->generation, __ATOMIC_SEQ_CST) == generation;
            if (same && shared->first != shared->second)
                _exit(1);
            __atomic_store_n(&shared->generation, generation, __ATOMIC_SEQ_CST);
            if (generation == 0) {
                shared->first++;
                shared->second++;
            }
            board_unlock(board);
        }
        board_close(board);
        _exit(0);
    }
    for (unsigned i = 0; i < CHILDREN; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_int_eq(status, 0);
    }
    munmap(shared, 4096);
}
END_TEST

// ---- leases ----

#define MS    NSEC_PER_MSEC
#define GRACE (5 * MS)

static struct board *lone_board(struct sched_policy **p)
{
    struct board *board;
    struct error err = {0};
    struct sched_cpus one = {.bits = {1}};
    uint64_t generation;
    ck_assert_int_eq(board_open(&board, -1, &one, &err), 0);
    *p = NULL;
    add_one(board);
    add_one(board);
    *p = board_lock(board, &generation);
    return board;
}

// The CPU, which the first has and the second waits for, is taken back at `end` and not before.
static void lease_is_over_at(struct board *board, const struct sched_policy *p, uint64_t end)
{
    uint32_t holder = sched_policy_current(p, 0);
    uint64_t again = board_watch(board, !holder, true, end - 1);
    ck_assert_uint_eq(again, end);
    ck_assert_uint_eq(sched_policy_current(p, 0), holder);
    board_watch(board, !holder, false, end);
    ck_assert_uint_ne(sched_policy_current(p, 0), holder);
    ck_assert_int_eq(sched_policy_state(p, holder), SCHED_LATE);
}

// Runs, oldest first: ns used and passed; then the lease of so much CPU time is so long.
static const struct {
    uint64_t runs[12][2];
    uint64_t left, length;
} leases[] = {
    {{{0}}, 3 * MS, 3 * MS},              // nothing known
    {{{3 * MS, 3 * MS}}, 3 * MS, 3 * MS}, // all it asked for
    {{{3 * MS, 2 * MS}}, 3 * MS, 3 * MS}, // clocks that disagree
    {{{4 * MS, 6 * MS}}, 4 * MS, 8 * MS}, // half as long again: allowed twice that
    {{{3 * MS, 6 * MS}}, 3 * MS, 9 * MS},
    {{{400000, 100 * MS}}, 3 * MS, 3 * MS},  // too short to tell
    {{{MS, 1000 * MS}}, 2 * MS, 66 * MS},    // bounded ...
    {{{MS, 1000 * MS}}, 50 * MS, 100 * MS},  // ... and in all
    {{{MS, 1000 * MS}}, 200 * MS, 200 * MS}, // but never less than the CPU time itself
    {{{3 * MS, 6 * MS}, {3 * MS, 3 * MS}}, 4 * MS, 11 * MS},  // slowly down
    {{{3 * MS, 6 * MS}, {4 * MS, 6 * MS}}, 4 * MS, 11500000}, // to where it is now
    {{{4 * MS, 6 * MS},
      {MS, MS},
      {MS, MS},
      {MS, MS},
      {MS, MS},
      {MS, MS},
      {MS, MS},
      {MS, MS},
      {MS, MS}},
     3 * MS,
     3 * MS}, // and to nothing in the end
};

START_TEST(leases_by_what_was_seen)
{
    struct sched_policy *p;
    struct board *board = lone_board(&p);
    uint64_t now = clock_monotonic_ns();
    for (unsigned i = 0; i < 12 && leases[_i].runs[i][0]; i++)
        board_ran(board, 0, leases[_i].runs[i][0], leases[_i].runs[i][1]);
    board_extend(board, 0, leases[_i].left, now);
    lease_is_over_at(board, p, now + leases[_i].length + GRACE);
    board_unlock(board);
    board_close(board);
}
END_TEST

// A grant's lease begins when it's given, and is as long.
START_TEST(leases_of_grants)
{
    struct sched_policy *p;
    struct board *board = lone_board(&p);
    uint32_t holder = sched_policy_current(p, 0);
    board_ran(board, 0, 3 * MS, 6 * MS);
    uint64_t before = clock_monotonic_ns();
    sched_policy_stop(p, holder, SCHED_SLICE_DEFAULT, true, before);
    board_give(board, 0, SCHED_NONE);
    uint64_t after = clock_monotonic_ns();
    holder = sched_policy_current(p, 0);
    ck_assert_uint_ne(holder, SCHED_NONE);
    uint64_t length = sched_policy_budget(p, holder) * 3 + GRACE;
    board_watch(board, !holder, true, before + length - 1);
    ck_assert_uint_eq(sched_policy_current(p, 0), holder);
    board_watch(board, !holder, false, after + length);
    ck_assert_uint_ne(sched_policy_current(p, 0), holder);
    board_unlock(board);
    board_close(board);
}
END_TEST

// What was seen on one CPU says nothing of another.
START_TEST(leases_are_of_one_cpu)
{
    struct sched_policy *p;
    struct board *board = lone_board(&p);
    uint64_t now = clock_monotonic_ns();
    board_ran(board, 1, 3 * MS, 30 * MS);
    board_extend(board, 0, 3 * MS, now);
    lease_is_over_at(board, p, now + 3 * MS + GRACE);
    board_unlock(board);
    board_close(board);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_board");
    TCase *tc = tcase_create("board");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, killed_with_the_lock);
    tcase_add_test(tc, stopped_with_the_lock);
    tcase_add_test(tc, stopped_and_killed_again_and_again);
    tcase_add_test(tc, killed_with_a_cpu);
    tcase_add_test(tc, stopped_with_a_cpu);
    tcase_add_test(tc, nothing_stays_of_those_that_left);
    tcase_add_test(tc, other_versions_are_refused);
    tcase_add_test(tc, alone_without_a_file);
    tcase_add_test(tc, one_at_a_time);
    tcase_add_loop_test(tc, leases_by_what_was_seen, 0, sizeof(leases) / sizeof(leases[0]));
    tcase_add_test(tc, leases_of_grants);
    tcase_add_test(tc, leases_are_of_one_cpu);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
