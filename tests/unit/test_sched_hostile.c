// Schedule boards whose file isn't what it should be, or becomes something else while machines use
// it: they neither die nor stand still. They go on with a fresh board, or each with one of its own.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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

static int open_file(void)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static int try_to_open(struct board **board, struct error *err)
{
    struct sched_cpus two = {.bits = {3}};
    return board_open(board, open_file(), &two, err);
}

static struct board *open_board(void)
{
    return board_machine_open(path, 3);
}

static void setup(void)
{
    board_machine_make_file(path);
}

static void teardown(void)
{
    unlink(path);
}

static uint64_t next_random(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static size_t file_size(void)
{
    struct stat status;
    ck_assert_int_eq(stat(path, &status), 0);
    return (size_t)status.st_size;
}

// ---- files that are no board ----

START_TEST(no_regular_file)
{
    struct board *board;
    struct error err = {0};
    unlink(path);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(try_to_open(&board, &err), -EPERM);
    ck_assert(strstr(err.message, "not a regular file") != NULL);
    ck_assert(strstr(err.message, "remove it") != NULL);
}
END_TEST

START_TEST(another_users_file)
{
    struct board *board;
    struct error err = {0};
    if (geteuid() != 0 || chown(path, 65534, 65534) != 0)
        return; // nobody here can give files away
    ck_assert_int_eq(try_to_open(&board, &err), -EPERM);
    ck_assert(strstr(err.message, "another user's") != NULL);
}
END_TEST

// What nobody uses is begun anew, whatever it held: shorter, longer, or full of anything.
static const struct {
    size_t length;
    int byte; // -1: random ones
} leftovers[] = {{1, 0x5a}, {4096, 0}, {10000, 0xff}, {1 << 20, -1}, {16 << 20, 0}};

START_TEST(what_nobody_uses)
{
    uint64_t random = 42;
    size_t length = leftovers[_i].length;
    uint8_t *bytes = malloc(length);
    int fd = open_file();
    for (size_t i = 0; i < length; i++)
        bytes[i] =
            leftovers[_i].byte < 0 ? (uint8_t)next_random(&random) : (uint8_t)leftovers[_i].byte;
    ck_assert_int_eq(write(fd, bytes, length), length);
    close(fd);
    free(bytes);
    struct board_machine m = {.board = open_board()};
    ck_assert(board_machine_runs(&m, 3));
    board_close(m.board);
}
END_TEST

// Somebody stopped while it joins: the others aren't stopped with it.
START_TEST(a_lock_that_nobody_gives_back)
{
    struct flock joining = {
        .l_type = F_WRLCK, .l_start = (INT64_C(1) << 40) + BOARD_MEMBERS, .l_len = 1};
    struct board *board;
    struct error err = {0};
    int fd = open_file();
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &joining), 0);
    ck_assert_int_eq(try_to_open(&board, &err), -EBUSY);
    ck_assert(strstr(err.message, "stopped") != NULL);
    close(fd);
}
END_TEST

// ---- files that change under their users ----

// Shortened to so many bytes: each access behind them is a SIGBUS.
static const long lengths[] = {0, 1, 4096, 100000};

START_TEST(a_file_made_shorter)
{
    struct board_machine a = {.board = open_board()}, b = {.board = open_board()};
    ck_assert(board_machine_runs(&a, 2));
    ck_assert(board_machine_runs(&b, 2));
    ck_assert_int_eq(truncate(path, lengths[_i]), 0);
    ck_assert(board_machine_runs(&a, 3));
    ck_assert(board_machine_runs(&b, 3));
    board_close(a.board);
    // One that comes later finds the file as it is, or makes it anew.
    struct board *board;
    struct error err = {0};
    if (try_to_open(&board, &err) == 0) {
        struct board_machine c = {.board = board};
        ck_assert(board_machine_runs(&c, 2));
        board_close(board);
    }
    board_close(b.board);
}
END_TEST

// While the lock is held, in the middle of a change.
START_TEST(a_file_made_shorter_in_mid_change)
{
    struct board_machine m = {.board = open_board()};
    struct sched_policy *p = board_machine_lock(&m);
    board_give(m.board, sched_policy_wake(p, m.id, clock_monotonic_ns()), m.id);
    ck_assert_int_eq(truncate(path, 0), 0);
    sched_policy_stop(p, m.id, 1000000, true, clock_monotonic_ns());
    board_give_all(m.board, SCHED_NONE);
    board_unlock(m.board);
    ck_assert(board_machine_runs(&m, 3));
    board_close(m.board);
}
END_TEST

static void *sleep_on_it(void *argument)
{
    struct board_machine *m = argument;
    uint64_t minute = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
    board_wait(m->board, m->generation - 1, m->id, 0, minute);
    board_wake(m->board, m->generation - 1, m->id); // a SIGBUS without the lock
    return NULL;
}

START_TEST(a_file_made_shorter_under_a_sleeper)
{
    struct board_machine m = {.board = open_board()};
    pthread_t thread;
    board_machine_lock(&m);
    board_unlock(m.board);
    ck_assert_int_eq(pthread_create(&thread, NULL, sleep_on_it, &m), 0);
    board_wake(m.board, m.generation - 1, m.id);
    ck_assert_int_eq(truncate(path, 0), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert(board_machine_runs(&m, 3));
    board_close(m.board);
}
END_TEST

// A SIGBUS that has nothing to do with a board still ends the process.
START_TEST(other_bus_errors)
{
    struct board *board = open_board();
    (void)board;
    char other[] = "/tmp/ferry-other.XXXXXX";
    int fd = mkstemp(other), status;
    unlink(other);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGBUS, SIG_DFL);
        struct board_machine m = {.board = open_board()}; // its handler comes before that one
        board_machine_runs(&m, 1);
        if (_i)
            raise(SIGBUS);
        volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        _exit(*page);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    board_close(board);
    close(fd);
}
END_TEST

// ---- nonsense in it ----

enum damage { BYTES, WORDS, LOCKS, ZEROS, ONES, OFTEN, DAMAGES };
enum { SEEDS = 4 };

// Where one changes something: mostly where the first machines are, which is all that is used.
static off_t somewhere(uint64_t *random, size_t size)
{
    size_t used = next_random(random) % 3 ? 300000 : size;
    return (off_t)(next_random(random) % used);
}

static void damage(enum damage how, uint64_t *random, size_t size)
{
    static uint8_t block[65536];
    uint64_t word = next_random(random), small = next_random(random) % 64;
    uint32_t member = 1 + next_random(random) % 3;
    int fd = open_file();
    switch (how) {
    case BYTES:
    case ZEROS:
    case ONES:
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = how == BYTES ? (uint8_t)next_random(random) : how == ZEROS ? 0 : 0xff;
        for (off_t at = 4096; at + (off_t)sizeof(block) <= (off_t)size; at += sizeof(block))
            ck_assert_int_gt(pwrite(fd, block, sizeof(block), at), 0);
        break;
    case WORDS:
    case OFTEN:
        for (unsigned i = 0; i < 200; i++) {
            word = next_random(random) % 2 ? next_random(random) : small + i;
            ck_assert_int_gt(pwrite(fd, &word, 4, somewhere(random, size) & ~3), 0);
        }
        break;
    case LOCKS: // as if a living member held all that may be one
        for (off_t at = 4096; at < (off_t)size; at += 4096)
            ck_assert_int_gt(pwrite(fd, &member, 4, at), 0);
        break;
    case DAMAGES:
        break;
    }
    close(fd);
}

// In a process of its own: two machines of it and one that stays asleep, on a board of their own.
static int survive(enum damage how, uint64_t seed)
{
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
    setup();
    struct board_machine a = {.board = open_board()}, b = {.board = open_board()};
    struct board_machine c = {.board = open_board()};
    bool lives =
        board_machine_runs(&a, 1) && board_machine_runs(&b, 1) && board_machine_runs(&c, 1);
    size_t size = file_size();
    for (unsigned i = 0; i < (how == OFTEN ? 6 : 1) && lives; i++) {
        damage(how, &random, size);
        lives = board_machine_runs(&a, 2) && board_machine_runs(&b, 2);
    }
    board_close(a.board);
    lives = lives && board_machine_runs(&c, 2);
    board_close(b.board);
    board_close(c.board);
    unlink(path);
    return lives ? 0 : 1;
}

// All at once, as each may wait for a second until nonsense is found.
START_TEST(nonsense)
{
    pid_t pids[SEEDS];
    for (unsigned i = 0; i < SEEDS; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            _exit(survive((enum damage)_i, i + 1));
    }
    for (unsigned i = 0; i < SEEDS; i++) {
        int status;
        ck_assert_int_eq(waitpid(pids[i], &status, 0), pids[i]);
        ck_assert_msg(status == 0, "seed %u: %#x", i + 1, status);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sched_hostile");
    TCase *tc = tcase_create("hostile");
    tcase_set_timeout(tc, 300);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, no_regular_file);
    tcase_add_test(tc, another_users_file);
    tcase_add_loop_test(tc, what_nobody_uses, 0, sizeof(leftovers) / sizeof(leftovers[0]));
    tcase_add_test(tc, a_lock_that_nobody_gives_back);
    tcase_add_loop_test(tc, a_file_made_shorter, 0, sizeof(lengths) / sizeof(lengths[0]));
    tcase_add_test(tc, a_file_made_shorter_in_mid_change);
    tcase_add_test(tc, a_file_made_shorter_under_a_sleeper);
    tcase_add_loop_test(tc, other_bus_errors, 0, 2);
    tcase_add_loop_test(tc, nonsense, 0, DAMAGES);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
