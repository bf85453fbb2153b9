#include "tests/unit/board_machine.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

void board_machine_make_file(char path[64])
{
    strcpy(path, "/tmp/ferry-board.XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

struct board *board_machine_open(const char *path, uint64_t cpus)
{
    struct board *board;
    struct error err = {0};
    struct sched_cpus set = {.bits = {cpus}};
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_msg(board_open(&board, fd, &set, &err) == 0, "%s", err.message);
    return board;
}

struct sched_policy *board_machine_lock(struct board_machine *m)
{
    uint64_t generation, now = clock_monotonic_ns();
    struct sched_policy *p = board_lock(m->board, &generation);
    if (m->generation == generation + 1)
        return p;
    struct sched_params params = {
        .weight = 100, .slice = SCHED_SLICE_DEFAULT, .affinity = *sched_policy_cpus(p)};
    m->generation = generation + 1;
    m->group = board_add_group(m->board);
    m->id = sched_policy_add(p, m->group, &params, now);
    return p;
}

bool board_machine_runs(struct board_machine *m, unsigned runs)
{
    uint64_t limit = clock_monotonic_ns() + 60 * NSEC_PER_SEC;
    for (bool begins = true; clock_monotonic_ns() < limit;) {
        struct sched_policy *p = board_machine_lock(m);
        uint64_t now = clock_monotonic_ns(), until = 0;
        board_give(m->board, sched_policy_wake(p, m->id, now), m->id);
        bool runs_now = sched_policy_state(p, m->id) == SCHED_RUNNING;
        if (runs_now) {
            uint32_t cpu = sched_policy_cpu(p, m->id);
            board_ran(m->board, cpu, SCHED_SLICE_DEFAULT, SCHED_SLICE_DEFAULT);
            sched_policy_stop(p, m->id, SCHED_SLICE_DEFAULT, runs > 1, now);
            board_give(m->board, cpu, m->id);
        } else {
            until = board_watch(m->board, m->id, begins, now);
        }
        uint32_t turn = board_turn(m->board, m->id);
        board_unlock(m->board);
        if (runs_now && --runs == 0)
            return true;
        if (!runs_now)
            board_wait(m->board, m->generation - 1, m->id, turn, until);
        begins = runs_now;
    }
    return false;
}
