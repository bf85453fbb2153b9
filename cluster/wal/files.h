// The few file operations that the write-ahead log needs, in one flat directory. The real disk, the
// simulator's and the fault-injecting ones of the tests stand behind them.
//
// Every call returns 0 or -errno and never does half of what was asked without saying so. What is
// durable when:
//   - bytes of a file: after sync(), or on the return of write() to a file opened with FILES_DSYNC;
//   - names (create, rename, remove): after sync_directory().
// Calls on different files may come from different threads at once; a file has one writer.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FILES_NAME_SIZE = 40 }; // with the terminating zero
enum { FILES_ALIGNMENT = 4096 };

enum files_flag {
    FILES_CREATE = 1, // make it if it isn't there
    FILES_DSYNC = 2,  // each write is durable when it returns
    // Writes go past the page cache, where the file system can do that: offsets, lengths and memory
    // are multiples of FILES_ALIGNMENT.
    FILES_DIRECT = 4
};

struct files {
    void *context;
    // *file is a number for the calls below. -ENOENT without FILES_CREATE.
    int (*open)(void *context, const char *name, unsigned flags, int *file);
    void (*close)(void *context, int file);
    int (*size)(void *context, int file, uint64_t *size);
    // *got < length only at the end of the file.
    int (*read)(void *context, int file, uint64_t offset, void *bytes, size_t length, size_t *got);
    int (*write)(void *context, int file, uint64_t offset, const void *bytes, size_t length);
    int (*sync)(void *context, int file);
    int (*rename)(void *context, const char *from, const char *to);
    int (*remove)(void *context, const char *name);
    int (*sync_directory)(void *context);
    // Calls each(opaque, name) for every file there is, in any order. `each` changes nothing.
    int (*list)(void *context, void (*each)(void *opaque, const char *name), void *opaque);
    // The rest may be NULL: a write to a file opened with FILES_DSYNC that nobody waits for, one at
    // a time, all from one thread. Its memory stays as it is until its end was told.
    // A descriptor that becomes readable with the end of one; -errno: the host can't do that.
    int (*write_descriptor)(void *context);
    // -errno: nothing was begun.
    int (*write_begin)(void *context, int file, uint64_t offset, const void *bytes, size_t length);
    // 0: durable; 1: under way; -EAGAIN: not done, or in part: write it anew. Else it failed.
    int (*write_poll)(void *context, bool wait);
};

// A directory of the host. `path` exists. Takes an exclusive lock on it, so that no two processes
// use one log: -EWOULDBLOCK if another one does. 0 or -errno.
int files_posix_open(struct files *files, const char *path);
void files_posix_close(struct files *files);
