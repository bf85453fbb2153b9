// The board: one schedule for all machines of a runtime directory, in a file that they map.
//
// There is no process that decides. Whoever has something to say (its run has ended, it wants to
// run) takes the board's lock, tells the policy, finds out who is next, and wakes that one: a few
// microseconds in all.
//
// Nobody may hold the others up, however it ends:
// - Each member holds a lock on a byte of the file (an OFD lock: the kernel gives it up when the
//   process dies). A member whose byte is free is dead, and its entities are removed by whoever
//   notices.
// - A CPU is granted until a moment, its lease. Who has not ended its run by then (killed, or
//   stopped by SIGSTOP) loses the CPU, and its machine's other vCPUs lose their places until they
//   ask again. The one who had the CPU before watches over the lease. Where the host gives the CPU
//   to other programs too, runs take longer than what they use: leases are longer by what was seen
//   of that, as each one that is over lets somebody run out of turn.
// - Who dies or is stopped while it holds the board's lock leaves it half-changed. Then the others
//   leave the whole board to it and go on with a fresh one, another area of the file; the stopped
//   one finishes its change where nobody looks any more, and follows them. Lags are forgotten by
//   that; it takes a stop within the few microseconds that the lock is held.
//
// A board of its own, without a file, serves a machine that shares with nobody.
//
// Nobody relies on what is in the file either, as any member may write anything there at any moment
// (sched_policy.h says what the policy does about it). Numbers are masked; who takes the lock looks
// whether nonsense was met, and who waits looks through the whole once a second: then the board is
// left like one whose holder has died. A machine that has left a few, that finds every area locked
// for seconds, or whose file was made shorter under it (SIGBUS, which is handled here) goes on with
// memory of its own in the file's place, for good.
//
// Threads: any. A machine's calls are made by one thread at a time (it has a lock of its own for
// that, taken before the board's).
#pragma once

#include <stdatomic.h>

#include "base/error.h"
#include "vmm/sched/sched_policy.h"

enum { BOARD_ENTITIES = 1024, BOARD_MEMBERS = 256 };

struct board;

// Maps the file (opened for reading and writing; the board's from then on, also on failure) and
// becomes a member; -1: a board of its own. A file that has no living member is begun anew. -EPERM
// for one that isn't a regular file of this user's, -ENOTSUP when members of another version use
// it, -ENOSPC when there are too many, -EBUSY when somebody is stopped while joining.
int board_open(struct board **board, int fd, const struct sched_cpus *cpus, struct error *err);
// Removes what is left of this member, which nobody uses any more.
void board_close(struct board *board);

// Takes the lock. Returns the policy; *generation says which board this is: after a change
// everything has to be added again.
struct sched_policy *board_lock(struct board *board, uint64_t *generation);
// Gives the lock back and wakes who got a CPU meanwhile.
void board_unlock(struct board *board);

// With the lock held, as all up to board_turn(). Gives a CPU that is idle to who is next, unless
// nobody is; `self` needs no waking. SCHED_NONE as the CPU: nothing.
void board_give(struct board *board, uint32_t cpu, uint32_t self);
void board_give_all(struct board *board, uint32_t self);
// A group that belongs to this member; SCHED_NONE when there's no room.
uint32_t board_add_group(struct board *board);
// A run on that CPU used so much in so much time, which tells how long the next leases must be.
void board_ran(struct board *board, uint32_t cpu, uint64_t used, uint64_t passed);
// Who has that CPU has so much of its grant left: a new lease.
void board_extend(struct board *board, uint32_t cpu, uint64_t left, uint64_t now);
// Takes CPUs back whose lease is over. Returns when to look again: soon for the one that watches
// over a CPU it waits for, which is the last that began to wait (`begins`).
uint64_t board_watch(struct board *board, uint32_t id, bool begins, uint64_t now);
// The word that changes when there's something new for an entity. Read it before the policy.
uint32_t board_turn(struct board *board, uint32_t id);

// Without the lock. Sleeps until the word isn't `turn` any more, `until` (CLOCK_MONOTONIC), or a
// signal.
void board_wait(struct board *board, uint64_t generation, uint32_t id, uint32_t turn,
                uint64_t until);
// Wakes whoever waits for that entity.
void board_wake(struct board *board, uint64_t generation, uint32_t id);
