// The simulated disk behind the product's own file interface (cluster/wal/files.h), so that the
// real write-ahead log can be crashed on it.
//
// A file that is open stays what it is while its name goes away or to another file, as on a real
// disk. A crash ends all handles.
#pragma once

#include "cluster/wal/files.h"
#include "disk.h"

#define SIM_DISK_HANDLES 32

struct sim_disk_handle {
    bool used, through, direct;
    int file;
};

// What a disk may do wrong on purpose, to see that the tests notice.
enum sim_disk_lie {
    SIM_DISK_HONEST,
    SIM_DISK_LIES_SYNC,      // syncs of files do nothing
    SIM_DISK_LIES_THROUGH,   // nor are synchronous writes such
    SIM_DISK_LIES_DIRECTORY, // syncs of the directory do nothing
    SIM_DISK_LIES_MUTE,      // nothing is written while `mute` is set
};

struct sim_disk_files {
    struct sim_disk *disk;
    struct sim_disk_handle handles[SIM_DISK_HANDLES];
    enum sim_disk_lie lie;
    bool mute;
    // Called before each operation that changes something: other threads may run here. May be NULL.
    void (*between)(void *context);
    void *context;
};

void sim_disk_files_init(struct sim_disk_files *adapter, struct sim_disk *disk,
                         struct files *files);
// After sim_disk_crash() or sim_disk_killed(): nothing is open any more.
void sim_disk_files_forget(struct sim_disk_files *adapter);
