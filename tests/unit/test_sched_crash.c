// A machine that is killed in the middle of a change of the schedule board, at one instruction
// after the other of all that it does there: the others go on, on this board or a fresh one, and
// nobody hangs. The process counts its own instructions and kills itself after the chosen one.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/board_machine.h"
#include "tests/unit/run_suite.h"

// A child's whole life on the board, some 15,000 instructions, is cut at so many places.
#ifdef __SANITIZE_ADDRESS__
enum { CUTS = 8 }; // has several times as many
#else
enum { CUTS = 32 };
#endif

static char path[64];

// Shared with the child, whose signal handler counts.
static struct {
    unsigned long made, last; // instructions; killed after the last one
} * steps;

static struct board *open_board(void)
{
    return board_machine_open(path, 1);
}

static void setup(void)
{
    steps = mmap(NULL, sizeof(*steps), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(steps, MAP_FAILED);
    board_machine_make_file(path);
}

static void teardown(void)
{
    unlink(path);
    munmap(steps, sizeof(*steps));
}

// All that one does there, from joining to leaving. Its weight changes on the way.
static void live(struct board *board)
{
    struct board_machine m = {.board = board};
    struct sched_cap_limits cap = {.quota = 19000000, .period = 20000000};
    board_machine_runs(&m, 2);
    struct sched_policy *p = board_machine_lock(&m);
    struct sched_params params = {
        .weight = 300, .slice = 1000000, .affinity = *sched_policy_cpus(p)};
    sched_policy_set(p, m.id, &params, clock_monotonic_ns());
    sched_policy_set_group_cap(p, m.group, &cap, clock_monotonic_ns());
    board_unlock(board);
    board_machine_runs(&m, 1);
    board_close(board);
}

// ---- a child that dies at a chosen instruction ----

static void after_instruction(int number)
{
    (void)number;
    if (++steps->made >= steps->last)
        kill(getpid(), SIGKILL);
}

// With the processor's trap flag set there is a SIGTRAP after each instruction.
static void begin_to_count(void)
{
    // Below what the compiler may keep under the stack pointer.
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
                     "leaq 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

static void end_to_count(void)
{
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\t"
                     "leaq 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

// A child lives on the board until so many instructions are made, or its life is over: returns how
// many they were. `to_run`, if any, asks for the CPU before it begins.
static unsigned long child_lives(unsigned long last, struct board_machine *to_run)
{
    int gate[2], status;
    ck_assert_int_eq(pipe(gate), 0);
    *steps = (typeof(*steps)){.last = last};
    pid_t pid = fork();
    if (pid == 0) {
        struct sigaction action = {.sa_handler = after_instruction};
        struct board *board = open_board();
        char byte;
        sigaction(SIGTRAP, &action, NULL);
        close(gate[1]);
        while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
            continue;
        begin_to_count();
        live(board);
        end_to_count();
        _exit(0);
    }
    close(gate[0]);
    if (to_run) {
        struct sched_policy *p = board_machine_lock(to_run);
        uint32_t cpu = sched_policy_wake(p, to_run->id, clock_monotonic_ns());
        board_give(to_run->board, cpu, to_run->id);
        board_unlock(to_run->board);
    }
    close(gate[1]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return steps->made;
}

// With the board's other machine as one that sleeps, or one that has the CPU when the child begins.
START_TEST(killed_at_each_step)
{
    struct board_machine other = {.board = open_board()};
    unsigned long all = child_lives(ULONG_MAX, NULL), fresh = 0;
    ck_assert_uint_gt(all, CUTS);
    for (unsigned cut = 0; cut < CUTS; cut++) {
        ck_assert(board_machine_runs(&other, 1));
        uint64_t before = other.generation;
        // Not the same distance each time: a loop's rounds would be cut at one place only.
        child_lives(all * cut / CUTS + cut % 7 + 1, cut % 2 ? &other : NULL);
        ck_assert(board_machine_runs(&other, 4));
        fresh += other.generation != before;
        // Somebody who comes after that, and takes the dead one's number, lives as well.
        struct board_machine next = {.board = open_board()};
        ck_assert(board_machine_runs(&next, 2));
        ck_assert(board_machine_runs(&other, 2));
        board_close(next.board);
    }
    ck_assert_uint_gt(fresh, 0); // it was met with the lock, too
    board_close(other.board);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_crash");
    TCase *tc = tcase_create("crash");
    tcase_set_timeout(tc, 300);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, killed_at_each_step);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
