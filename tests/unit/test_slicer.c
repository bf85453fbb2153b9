// ferry's own slicer with threads that only spin in the place of vCPUs: turns, caps, leaving, and
// machines (processes) that are killed or stopped with a CPU. No time is asserted, but what CPU
// time says of others'.
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/run_suite.h"
#include "vmm/sched/slicer.h"

enum { SPINNERS = 4 };
#define MS UINT64_C(1000000)

// A thread that takes a vCPU's place: it works while it is allowed to.
struct spinner {
    struct machine *machine;
    unsigned index;
    pthread_t thread;
    _Atomic uint64_t used, withheld; // ns
    _Atomic bool left;
};

struct machine {
    struct slicer *slicer;
    struct spinner spinners[SPINNERS];
    unsigned count;
    _Atomic bool stop;
};

static char path[64];
static __thread volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static bool is_asleep(void *vcpu)
{
    (void)vcpu;
    return false;
}

static bool must_leave(void *vcpu)
{
    const struct spinner *s = vcpu;
    return atomic_load(&s->machine->stop);
}

static const struct slicer_ops ops = {is_asleep, must_leave, SIGUSR1};

static void *spin(void *argument)
{
    struct spinner *s = argument;
    for (;;) {
        uint64_t withheld;
        int failed;
        interrupted = 0;
        bool go = !must_leave(s) && slicer_enter(s->machine->slicer, s->index, &withheld, &failed);
        if (!go)
            break;
        ck_assert_int_eq(failed, 0);
        atomic_fetch_add(&s->withheld, withheld);
        while (!interrupted && !must_leave(s))
            atomic_store(&s->used, clock_read_ns(CLOCK_THREAD_CPUTIME_ID));
    }
    slicer_leave(s->machine->slicer, s->index);
    slicer_thread_end(s->machine->slicer, s->index);
    atomic_store(&s->left, true);
    return NULL;
}

// On CPU 0 and on a board in a file, or alone with a CPU each.
static struct machine *start(unsigned count, const unsigned weights[], bool alone)
{
    struct machine *m = calloc(1, sizeof(*m));
    struct cpu_settings settings = {0};
    struct sched_cpus cpus = {.bits = {alone ? (UINT64_C(1) << count) - 1 : 1}};
    struct error err = {0};
    struct board *board;
    void *vcpus[SPINNERS];
    ck_assert_int_eq(board_open(&board, alone ? -1 : open(path, O_RDWR | O_CLOEXEC), &cpus, &err),
                     0);
    m->count = count;
    for (unsigned i = 0; i < count; i++) {
        m->spinners[i] = (struct spinner){.machine = m, .index = i};
        vcpus[i] = &m->spinners[i];
        settings.vcpu[i].weight = weights[i];
    }
    ck_assert_int_eq(slicer_create(&m->slicer, count, vcpus, &ops, board, &settings, alone, &err),
                     0);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_eq(pthread_create(&m->spinners[i].thread, NULL, spin, &m->spinners[i]), 0);
    return m;
}

static void finish(struct machine *m)
{
    atomic_store(&m->stop, true);
    for (unsigned i = 0; i < m->count; i++)
        slicer_wake(m->slicer, i);
    for (unsigned i = 0; i < m->count; i++)
        pthread_join(m->spinners[i].thread, NULL);
    slicer_destroy(m->slicer);
    free(m);
}

// Until that spinner has used so much more CPU time.
static void await_use(struct spinner *s, uint64_t ns)
{
    uint64_t limit = clock_monotonic_ns() + 120 * NSEC_PER_SEC, from = atomic_load(&s->used);
    while (atomic_load(&s->used) - from < ns) {
        ck_assert_msg(clock_monotonic_ns() < limit, "spinner %u doesn't get on", s->index);
        usleep(1000);
    }
}

static void setup(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    strcpy(path, "/tmp/ferry-slicer.XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static void teardown(void)
{
    unlink(path);
}

static const unsigned weights[] = {100, 300, 100, 100};

START_TEST(turns_by_weight)
{
    struct machine *m = start(2, weights, false);
    struct slicer_numbers n;
    await_use(&m->spinners[0], 30 * MS);
    uint64_t light = atomic_load(&m->spinners[0].used), heavy = atomic_load(&m->spinners[1].used);
    await_use(&m->spinners[0], 150 * MS);
    light = atomic_load(&m->spinners[0].used) - light;
    heavy = atomic_load(&m->spinners[1].used) - heavy;
    // Three times as much; each within a few slices.
    ck_assert_msg(heavy > 2 * light && heavy < 4 * light, "%llu and %llu ns",
                  (unsigned long long)light, (unsigned long long)heavy);
    slicer_numbers(m->slicer, 0, &n);
    ck_assert_uint_gt(n.runs, 10);
    ck_assert_uint_eq(n.share, 250);
    ck_assert_uint_gt(atomic_load(&m->spinners[0].withheld), 0);
    finish(m);
}
END_TEST

// Who waits for its turn leaves when it must, and who has one gives it back.
START_TEST(all_leave_when_they_must)
{
    for (unsigned round = 0; round < 20; round++)
        finish(start(SPINNERS, weights, false));
}
END_TEST

START_TEST(a_throttle_holds_only_whom_it_is_for)
{
    struct machine *m = start(2, weights, true);
    await_use(&m->spinners[0], 5 * MS);
    slicer_throttle(m->slicer, 1, 100);
    await_use(&m->spinners[0], 5 * MS); // what was granted before is over
    uint64_t since = clock_monotonic_ns(), used = atomic_load(&m->spinners[0].used);
    uint64_t others = atomic_load(&m->spinners[1].withheld);
    await_use(&m->spinners[0], 30 * MS);
    uint64_t passed = clock_monotonic_ns() - since;
    used = atomic_load(&m->spinners[0].used) - used;
    // A tenth of the time, and what one period of 20 ms may bring on top; runs are measured late by
    // a slice where the host is busy, which the next periods pay.
    ck_assert_uint_le(used, passed / 10 + 10 * MS);
    ck_assert_uint_eq(atomic_load(&m->spinners[1].withheld), others);
    slicer_throttle(m->slicer, 0, 1000);
    await_use(&m->spinners[0], 50 * MS);
    finish(m);
}
END_TEST

// A machine of another process, which has the CPU some of the time. The process is there before any
// thread is: what threads hold at a fork is held for ever in the child.
struct other {
    pid_t pid;
    int go, ready;
};

static void prepare_other(struct other *other)
{
    int go[2], ready[2];
    char byte;
    ck_assert_int_eq(pipe(go), 0);
    ck_assert_int_eq(pipe(ready), 0);
    other->pid = fork();
    if (other->pid == 0) {
        if (read(go[0], &byte, 1) != 1)
            _exit(1);
        struct machine *m = start(2, weights, false);
        await_use(&m->spinners[0], 5 * MS);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    other->go = go[1];
    other->ready = ready[0];
    close(go[0]);
    close(ready[1]);
}

// Killed and stopped at any moment, with a CPU or without: this one goes on.
START_TEST(others_that_end_or_stand_still_hold_nobody_up)
{
    enum { OTHERS = 6 };
    struct other others[OTHERS];
    char byte;
    for (unsigned i = 0; i < OTHERS; i++)
        prepare_other(&others[i]);
    struct machine *m = start(1, weights, false);
    for (unsigned i = 0; i < OTHERS; i++) {
        ck_assert_int_eq(write(others[i].go, "x", 1), 1);
        ck_assert_int_eq(read(others[i].ready, &byte, 1), 1);
        usleep(1000 * (i % 3)); // anywhere in a slice
        kill(others[i].pid, i % 2 ? SIGSTOP : SIGKILL);
        await_use(&m->spinners[0], 50 * MS);
        kill(others[i].pid, SIGCONT);
        await_use(&m->spinners[0], 10 * MS);
        kill(others[i].pid, SIGKILL);
        waitpid(others[i].pid, NULL, 0);
    }
    finish(m);
}
END_TEST

// Other settings while they run, from another thread.
START_TEST(settings_change_at_any_time)
{
    struct machine *m = start(3, weights, false);
    for (unsigned round = 0; round < 50; round++) {
        struct cpu_settings settings = {.machine.weight = 1 + round * 37 % 500};
        settings.machine.slice = (1 + round % 5) * MS;
        settings.vcpu[round % 3].cap = round % 2 ? 200 : 0;
        slicer_configure(m->slicer, &settings);
        usleep(500);
    }
    slicer_configure(m->slicer, &(struct cpu_settings){0});
    for (unsigned i = 0; i < 3; i++)
        await_use(&m->spinners[i], 20 * MS);
    finish(m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("slicer");
    TCase *tc = tcase_create("slicer");
    tcase_set_timeout(tc, 280);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, turns_by_weight);
    tcase_add_test(tc, all_leave_when_they_must);
    tcase_add_test(tc, a_throttle_holds_only_whom_it_is_for);
    tcase_add_test(tc, others_that_end_or_stand_still_hold_nobody_up);
    tcase_add_test(tc, settings_change_at_any_time);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
