// The runtime directory: one host's world of machines.
//
//   DIR/.lock            held for moments, while machines are added or removed
//   DIR/.cpu-board       shared memory: who runs when, of machines that ferry slices itself
//   DIR/NAME/lock        held by the machine's process for its life; this alone says that it lives
//   DIR/NAME/control.sock, console.sock, log, console.log
//   DIR/NAME/exit.json   how the last run ended; absent when a signal ended the process
//
// Locks are OFD locks: the kernel drops them with the process, however it ends, and they can be
// looked at without being taken. A directory whose lock nobody holds is a dead machine's, whatever
// else is in it. Taking NAME/lock and removing NAME both happen under DIR/.lock, so a directory
// is never removed below a process that has just locked it.
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/ids.h"

struct runtime_dir {
    int fd;
    char path[PATH_MAX];
};

// Opens `path`, or where that is NULL the directory of this user: $FERRY_RUNTIME_DIR, /run/ferry
// for root, $XDG_RUNTIME_DIR/ferry, /tmp/ferry-UID; it is made when it doesn't exist. Refused when
// it isn't this user's own or others may write to it. 0 or a sentence.
int runtime_dir_open(struct runtime_dir *dir, const char *path, struct error *err);
void runtime_dir_close(struct runtime_dir *dir);
// The board of the schedule that machines share (vmm/sched/sched_board.h): a descriptor, made when
// it doesn't exist; or -errno with a sentence.
int runtime_dir_open_board(const struct runtime_dir *dir, struct error *err);

// A machine's own directory, held by its process.
struct runtime_machine {
    int fd;      // the directory
    int lock_fd; // locked; closing it (or the end of the process) gives the name free
    char name[NAME_LIMIT + 1];
    char path[PATH_MAX];
};

// Makes the directory of `name` and locks it. What a dead machine of that name left is removed. An
// empty name is replaced by a new one ("vm-" and six letters or digits). -EEXIST when a machine of
// that name is running.
int runtime_machine_claim(const struct runtime_dir *dir, const char *name,
                          struct runtime_machine *machine, struct error *err);
// Opens a file of the machine; made with mode 0600. The descriptor, or -errno.
int runtime_machine_open(const struct runtime_machine *machine, const char *file, int flags,
                         struct error *err);
// Path of a file (a socket) of the machine, in `out` of PATH_MAX bytes.
char *runtime_machine_path(const struct runtime_machine *machine, const char *file, char *out);
// Writes exit.json (so that readers see all of it or none); on a full disk without its
// "crash_report", into a block that was set aside by the claim.
int runtime_machine_write_exit(const struct runtime_machine *machine, const json_t *status,
                               struct error *err);
// Removes the sockets and gives the name free; the rest stays for `ferry logs` and `ferry ps -a`.
// With `forget` nothing stays.
void runtime_machine_release(const struct runtime_dir *dir, struct runtime_machine *machine,
                             bool forget);

// ---- looking at machines from outside ----

// Whether its process lives: 1, 0, -ENOENT when there's no such machine; or another error, when
// that can't be told (no descriptors are left, say).
int runtime_dir_is_alive(const struct runtime_dir *dir, const char *name);
// Calls visit() for each machine, dead ones included, in the order of their names, until it returns
// non-zero. 0, what visit returned, or -errno with a sentence.
int runtime_dir_list(const struct runtime_dir *dir,
                     int (*visit)(const char *name, bool alive, void *opaque), void *opaque,
                     struct error *err);
// Path of a machine's file, in `out` of PATH_MAX bytes; -ENAMETOOLONG.
int runtime_dir_path(const struct runtime_dir *dir, const char *name, const char *file, char *out);
// What exit.json says: a new object, or NULL when there is none or it can't be read.
json_t *runtime_dir_read_exit(const struct runtime_dir *dir, const char *name);
// How a machine died that left no exit.json, in `out` of RUNTIME_DEATH_SIZE bytes: "died: " and the
// last word of its process (base/last_word.h), or what it means that there is none.
enum { RUNTIME_DEATH_SIZE = 400 };
void runtime_dir_read_death(const struct runtime_dir *dir, const char *name, char *out);
// Removes a dead machine. -ENOENT, or -EBUSY when it lives, with a sentence.
int runtime_dir_remove(const struct runtime_dir *dir, const char *name, struct error *err);

// Small facts about this host that are costly to find out, kept for the boot they were found in.
// `value` of `size` bytes is filled; false when nothing is known.
bool runtime_dir_recall(const struct runtime_dir *dir, const char *fact, char *value, size_t size);
void runtime_dir_remember(const struct runtime_dir *dir, const char *fact, const char *value);
