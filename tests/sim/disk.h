// A simulated disk: a flat directory of files behind a page cache that a crash loses.
//
// Reads see what was written; a crash keeps only what was synced, and of the rest by chance all,
// nothing, a torn part, or zeroes in its place. Names are as careless: creating, renaming and
// removing files is durable only after a sync of the directory, of what came later a crash keeps a
// prefix. A failed sync loses unsynced writes for good while the cache still shows them, as kernels
// do: who tries again and succeeds has lost data without knowing.
//
// Operations act at once and return 0 or -errno. sim_disk_sync_later() takes simulated time and
// then tells its caller; a program written with blocking calls uses sim_disk_sync() and may look at
// `busy` for the time that it would have waited. Nothing here knows what the bytes mean.
#pragma once

#include "events.h"
#include "random.h"

#define SIM_DISK_FILES 64
#define SIM_DISK_NAME  40

struct sim_disk_faults {
    sim_time sync_min, sync_max; // how long a sync takes
    uint32_t stall_ppm;          // syncs that take up to stall_max
    sim_time stall_max;
    uint32_t sync_error_ppm; // syncs that fail
};

struct sim_disk_counts {
    uint64_t writes, syncs, stalls, sync_errors, full, torn, lost, zeroed, kept, renames_lost;
};

struct sim_disk_change; // a write or truncation that isn't durable yet

struct sim_disk_file {
    bool used;
    uint32_t holders; // as long as there are some it stays, even without a name
    uint8_t *cache, *durable;
    size_t cache_size, durable_size, cache_room, durable_room;
    struct sim_disk_change *changes;
    uint32_t change_count, change_room;
};

struct sim_disk_name {
    char name[SIM_DISK_NAME];
    int file;
};

struct sim_disk_directory {
    struct sim_disk_name names[SIM_DISK_FILES];
    unsigned count;
};

// What became of a sync: 0, or -EIO.
typedef void sim_disk_done(void *owner, uint64_t argument, int error);

struct sim_disk_sync_wait {
    bool used;
    int file;
    uint64_t limit; // changes numbered below this are covered
    sim_disk_done *done;
    void *owner;
    uint64_t argument;
    uint32_t generation;
};

#define SIM_DISK_SYNCS   8
#define SIM_DISK_HISTORY 16 // directory changes since the last directory sync

struct sim_disk {
    struct sim_events *events;
    struct sim_random random;
    struct sim_disk_faults faults;
    struct sim_disk_counts counts;
    struct sim_disk_file files[SIM_DISK_FILES];
    struct sim_disk_directory directory;                 // as seen
    struct sim_disk_directory history[SIM_DISK_HISTORY]; // [0] is durable, later ones may be
    unsigned history_count;
    struct sim_disk_sync_wait waits[SIM_DISK_SYNCS];
    uint64_t change_number;
    uint64_t capacity; // bytes in all files; writes beyond it fail with -ENOSPC
    uint64_t used;
    uint32_t generation; // counts crashes: completions of an earlier life are stale
    bool hung;           // syncs never end
    bool dead;           // every operation fails until the crash that follows
    uint32_t
        crash_after; // counts down with each write and sync; at 1 the machine dies there. 0: off
    void (*crashed)(void *context);
    void *context;
    sim_time busy; // time that blocking calls would have taken so far
};

void sim_disk_init(struct sim_disk *disk, struct sim_events *events);
void sim_disk_free(struct sim_disk *disk);
// An empty, healthy disk.
void sim_disk_reset(struct sim_disk *disk, uint64_t seed, uint64_t stream);

// The file of that name, made if asked and absent; a number to use below, or -ENOENT, -ENOSPC,
// -EIO.
int sim_disk_open(struct sim_disk *disk, const char *name, bool create);
int sim_disk_write(struct sim_disk *disk, int file, size_t offset, const void *bytes, size_t size);
// How many bytes were read, less than `size` at the end of the file.
long sim_disk_read(struct sim_disk *disk, int file, size_t offset, void *bytes, size_t size);
// The file's bytes as seen, valid until the next call that changes the file.
const uint8_t *sim_disk_bytes(const struct sim_disk *disk, int file);
int sim_disk_truncate(struct sim_disk *disk, int file, size_t size);
size_t sim_disk_size(const struct sim_disk *disk, int file);
int sim_disk_rename(struct sim_disk *disk, const char *from, const char *to);
int sim_disk_remove(struct sim_disk *disk, const char *name);
int sim_disk_sync(struct sim_disk *disk, int file);
int sim_disk_sync_directory(struct sim_disk *disk);

// An open file keeps its bytes when its name goes. A crash forgets all holders.
void sim_disk_hold(struct sim_disk *disk, int file);
void sim_disk_release(struct sim_disk *disk, int file);

// Starts a sync of what was written to `file` up to now; `done` is called when it ended, never from
// within this call. -EBUSY when SIM_DISK_SYNCS are under way.
int sim_disk_sync_later(struct sim_disk *disk, int file, sim_disk_done *done, void *owner,
                        uint64_t argument);

// The machine lost power: decides what became of everything unsynced. Then the disk can be used
// again.
void sim_disk_crash(struct sim_disk *disk);
// The process died, the machine lives on: what was written stays in the page cache. Syncs under way
// are forgotten.
void sim_disk_killed(struct sim_disk *disk);
// A hung disk works again: its syncs end soon.
void sim_disk_unhang(struct sim_disk *disk);
