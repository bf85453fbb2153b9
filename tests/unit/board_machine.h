// A machine of one vCPU on a schedule board, for tests: what the slicer does there, without a
// thread.
#pragma once

#include "vmm/sched/sched_board.h"

struct board_machine {
    struct board *board;
    uint64_t generation; // + 1, of the board that knows it
    uint32_t group, id;
};

// A file for a board, of a new name in `path`.
void board_machine_make_file(char path[64]);
// The board in a file, on the CPUs of these bits. Asserts that there is one.
struct board *board_machine_open(const char *path, uint64_t cpus);

// board_lock(); on a board that doesn't know it, it adds itself.
struct sched_policy *board_machine_lock(struct board_machine *m);
// Asks for the CPU again and again, until so many whole slices are over. True when it got them
// within a minute.
bool board_machine_runs(struct board_machine *m, unsigned runs);
