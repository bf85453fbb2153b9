#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512

struct sim_disk_change {
    uint64_t number;
    size_t offset, size;
    bool truncation; // to `offset`
};

void sim_disk_init(struct sim_disk *disk, struct sim_events *events)
{
    memset(disk, 0, sizeof(*disk));
    disk->events = events;
}

void sim_disk_free(struct sim_disk *disk)
{
    for (int i = 0; i < SIM_DISK_FILES; i++) {
        free(disk->files[i].cache);
        free(disk->files[i].durable);
        free(disk->files[i].changes);
    }
    memset(disk, 0, sizeof(*disk));
}

void sim_disk_reset(struct sim_disk *disk, uint64_t seed, uint64_t stream)
{
    for (int i = 0; i < SIM_DISK_FILES; i++) {
        struct sim_disk_file *file = &disk->files[i];

        file->used = false;
        file->holders = 0;
        file->cache_size = file->durable_size = file->change_count = 0;
    }
    disk->directory.count = 0;
    disk->history[0].count = 0;
    disk->history_count = 1;
    memset(disk->waits, 0, sizeof(disk->waits));
    memset(&disk->faults, 0, sizeof(disk->faults));
    memset(&disk->counts, 0, sizeof(disk->counts));
    disk->change_number = 1;
    disk->capacity = UINT64_MAX;
    disk->used = 0;
    disk->generation++;
    disk->hung = disk->dead = false;
    disk->crash_after = 0;
    disk->busy = 0;
    sim_random_seed(&disk->random, seed, 0x6469736b00 + stream);
}

// Counts an operation that a crash may come right before. False if it came.
static bool disk_survives(struct sim_disk *disk)
{
    if (disk->dead)
        return false;
    if (disk->crash_after == 0 || --disk->crash_after > 0)
        return true;
    disk->dead = true;
    if (disk->crashed)
        disk->crashed(disk->context);
    return false;
}

static int directory_find(const struct sim_disk_directory *directory, const char *name)
{
    for (unsigned i = 0; i < directory->count; i++)
        if (strcmp(directory->names[i].name, name) == 0)
            return (int)i;
    return -1;
}

// Remembers the directory as it is now as one state that a crash may leave.
static void directory_changed(struct sim_disk *disk)
{
    if (disk->history_count == SIM_DISK_HISTORY) {
        memmove(&disk->history[1], &disk->history[2],
                (SIM_DISK_HISTORY - 2) * sizeof(disk->history[0]));
        disk->history_count--;
    }
    disk->history[disk->history_count++] = disk->directory;
}

static bool directory_names(const struct sim_disk_directory *directory, int file)
{
    for (unsigned i = 0; i < directory->count; i++)
        if (directory->names[i].file == file)
            return true;
    return false;
}

// Frees files that no directory state names any more.
static void disk_collect(struct sim_disk *disk)
{
    for (int i = 0; i < SIM_DISK_FILES; i++) {
        struct sim_disk_file *file = &disk->files[i];
        bool named = file->holders > 0 || directory_names(&disk->directory, i);

        for (unsigned h = 0; h < disk->history_count && !named; h++)
            named = directory_names(&disk->history[h], i);
        if (file->used && !named) {
            disk->used -= file->cache_size;
            file->used = false;
            file->cache_size = file->durable_size = file->change_count = 0;
        }
    }
}

int sim_disk_open(struct sim_disk *disk, const char *name, bool create)
{
    int at = directory_find(&disk->directory, name), file = 0;

    if (disk->dead)
        return -EIO;
    if (at >= 0)
        return disk->directory.names[at].file;
    if (!create)
        return -ENOENT;
    while (file < SIM_DISK_FILES && disk->files[file].used)
        file++;
    if (file == SIM_DISK_FILES || disk->directory.count == SIM_DISK_FILES ||
        strlen(name) >= SIM_DISK_NAME)
        return -ENOSPC;
    if (!disk_survives(disk))
        return -EIO;
    disk->files[file].used = true;
    strcpy(disk->directory.names[disk->directory.count].name, name);
    disk->directory.names[disk->directory.count++].file = file;
    directory_changed(disk);
    return file;
}

void sim_disk_hold(struct sim_disk *disk, int file)
{
    disk->files[file].holders++;
}

void sim_disk_release(struct sim_disk *disk, int file)
{
    if (--disk->files[file].holders == 0)
        disk_collect(disk);
}

static void bytes_grow(uint8_t **bytes, size_t *room, size_t size)
{
    if (size <= *room)
        return;
    *room = size * 2 < 4096 ? 4096 : size * 2;
    *bytes = sim_reallocate(*bytes, *room);
}

static void file_note(struct sim_disk *disk, struct sim_disk_file *file, size_t offset, size_t size,
                      bool truncation)
{
    if (file->change_count == file->change_room) {
        file->change_room = file->change_room ? file->change_room * 2 : 32;
        file->changes = sim_reallocate(file->changes, file->change_room * sizeof(*file->changes));
    }
    file->changes[file->change_count++] = (struct sim_disk_change){
        .number = disk->change_number++,
        .offset = offset,
        .size = size,
        .truncation = truncation,
    };
}

int sim_disk_write(struct sim_disk *disk, int number, size_t offset, const void *bytes, size_t size)
{
    struct sim_disk_file *file = &disk->files[number];
    size_t end = offset + size;

    if (!disk_survives(disk))
        return -EIO;
    if (end > file->cache_size && disk->used + (end - file->cache_size) > disk->capacity) {
        disk->counts.full++;
        return -ENOSPC;
    }
    bytes_grow(&file->cache, &file->cache_room, end);
    if (offset > file->cache_size)
        memset(file->cache + file->cache_size, 0, offset - file->cache_size);
    memcpy(file->cache + offset, bytes, size);
    if (end > file->cache_size) {
        disk->used += end - file->cache_size;
        file->cache_size = end;
    }
    file_note(disk, file, offset, size, false);
    disk->counts.writes++;
    return 0;
}

long sim_disk_read(struct sim_disk *disk, int number, size_t offset, void *bytes, size_t size)
{
    struct sim_disk_file *file = &disk->files[number];

    if (disk->dead)
        return -EIO;
    if (offset >= file->cache_size)
        return 0;
    if (size > file->cache_size - offset)
        size = file->cache_size - offset;
    memcpy(bytes, file->cache + offset, size);
    return (long)size;
}

int sim_disk_truncate(struct sim_disk *disk, int number, size_t size)
{
    struct sim_disk_file *file = &disk->files[number];

    if (!disk_survives(disk))
        return -EIO;
    bytes_grow(&file->cache, &file->cache_room, size);
    if (size > file->cache_size)
        memset(file->cache + file->cache_size, 0, size - file->cache_size);
    disk->used += size - file->cache_size;
    file->cache_size = size;
    file_note(disk, file, size, 0, true);
    return 0;
}

size_t sim_disk_size(const struct sim_disk *disk, int file)
{
    return disk->files[file].cache_size;
}

const uint8_t *sim_disk_bytes(const struct sim_disk *disk, int file)
{
    return disk->files[file].cache;
}

int sim_disk_rename(struct sim_disk *disk, const char *from, const char *to)
{
    struct sim_disk_directory *directory = &disk->directory;
    int at = directory_find(directory, from), over;

    if (!disk_survives(disk))
        return -EIO;
    if (at < 0)
        return -ENOENT;
    over = directory_find(directory, to);
    strcpy(directory->names[at].name, to);
    if (over >= 0)
        directory->names[over] = directory->names[--directory->count];
    directory_changed(disk);
    return 0;
}

int sim_disk_remove(struct sim_disk *disk, const char *name)
{
    int at = directory_find(&disk->directory, name);

    if (!disk_survives(disk))
        return -EIO;
    if (at < 0)
        return -ENOENT;
    disk->directory.names[at] = disk->directory.names[--disk->directory.count];
    directory_changed(disk);
    return 0;
}

// Copies a change from the cache to the durable bytes; the first `size` bytes of it only.
static void file_apply(struct sim_disk_file *file, const struct sim_disk_change *change,
                       size_t size)
{
    size_t end = change->offset + size;

    if (change->truncation) {
        bytes_grow(&file->durable, &file->durable_room, change->offset);
        if (change->offset > file->durable_size)
            memset(file->durable + file->durable_size, 0, change->offset - file->durable_size);
        file->durable_size = change->offset;
        return;
    }
    // A later truncation may have taken the bytes away again.
    if (end > file->cache_size)
        end = file->cache_size > change->offset ? file->cache_size : change->offset;
    bytes_grow(&file->durable, &file->durable_room, end);
    if (change->offset > file->durable_size)
        memset(file->durable + file->durable_size, 0, change->offset - file->durable_size);
    memcpy(file->durable + change->offset, file->cache + change->offset, end - change->offset);
    if (end > file->durable_size)
        file->durable_size = end;
}

static void file_sync(struct sim_disk_file *file, uint64_t limit)
{
    uint32_t done = 0;

    while (done < file->change_count && file->changes[done].number < limit) {
        file_apply(file, &file->changes[done], file->changes[done].size);
        done++;
    }
    memmove(file->changes, file->changes + done,
            (file->change_count - done) * sizeof(*file->changes));
    file->change_count -= done;
}

// Power failed, or a sync did: what becomes of one change is chance.
static void file_gamble(struct sim_disk *disk, struct sim_disk_file *file,
                        const struct sim_disk_change *change)
{
    size_t size, from;

    switch (sim_random_below(&disk->random, change->truncation ? 2 : 5)) {
    case 0:
        disk->counts.lost++;
        break;
    case 1:
        disk->counts.kept++;
        file_apply(file, change, change->size);
        break;
    case 2: // the file grew, the bytes didn't arrive; what was there before doesn't turn to zeroes
        disk->counts.zeroed++;
        from = file->durable_size;
        size = sim_random_below(&disk->random, change->size + 1);
        size = size > SECTOR ? SECTOR : size;
        file_apply(file, change, size);
        if (from < change->offset)
            from = change->offset;
        if (file->durable_size > from)
            memset(file->durable + from, 0, file->durable_size - from);
        break;
    case 3: // cut anywhere
        disk->counts.torn++;
        file_apply(file, change, sim_random_below(&disk->random, change->size + 1));
        break;
    case 4: // cut at a sector's end
        disk->counts.torn++;
        size = SECTOR - change->offset % SECTOR;
        size += SECTOR * sim_random_below(&disk->random, change->size / SECTOR + 1);
        file_apply(file, change, size < change->size ? size : change->size);
        break;
    }
}

static void file_gamble_all(struct sim_disk *disk, struct sim_disk_file *file, uint64_t limit)
{
    uint32_t done = 0;

    while (done < file->change_count && file->changes[done].number < limit)
        file_gamble(disk, file, &file->changes[done++]);
    memmove(file->changes, file->changes + done,
            (file->change_count - done) * sizeof(*file->changes));
    file->change_count -= done;
}

static sim_time disk_sync_time(struct sim_disk *disk)
{
    const struct sim_disk_faults *faults = &disk->faults;
    sim_time longest = faults->sync_max;

    if (sim_random_chance(&disk->random, faults->stall_ppm)) {
        longest = faults->stall_max;
        disk->counts.stalls++;
    }
    return sim_random_between(&disk->random, faults->sync_min,
                              longest > faults->sync_min ? longest : faults->sync_min);
}

static int disk_sync_end(struct sim_disk *disk, int number, uint64_t limit)
{
    struct sim_disk_file *file = &disk->files[number];

    disk->counts.syncs++;
    if (sim_random_chance(&disk->random, disk->faults.sync_error_ppm)) {
        disk->counts.sync_errors++;
        file_gamble_all(disk, file, limit);
        return -EIO;
    }
    file_sync(file, limit);
    return 0;
}

int sim_disk_sync(struct sim_disk *disk, int file)
{
    if (!disk_survives(disk))
        return -EIO;
    disk->busy += disk_sync_time(disk);
    return disk_sync_end(disk, file, disk->change_number);
}

int sim_disk_sync_directory(struct sim_disk *disk)
{
    if (!disk_survives(disk))
        return -EIO;
    disk->busy += disk_sync_time(disk);
    disk->history[0] = disk->directory;
    disk->history_count = 1;
    disk_collect(disk);
    return 0;
}

static void disk_wait_over(void *owner, uint64_t argument)
{
    struct sim_disk *disk = owner;
    struct sim_disk_sync_wait *slot = &disk->waits[argument & 0xff], wait = *slot;
    int error;

    if (!wait.used || disk->generation != (uint32_t)(argument >> 8))
        return;
    if (disk->hung) // sim_disk_unhang() will look at it again
        return;
    slot->used = false;
    error = disk_sync_end(disk, wait.file, wait.limit);
    wait.done(wait.owner, wait.argument, error);
}

int sim_disk_sync_later(struct sim_disk *disk, int file, sim_disk_done *done, void *owner,
                        uint64_t argument)
{
    unsigned slot = 0;

    if (!disk_survives(disk))
        return -EIO;
    while (slot < SIM_DISK_SYNCS && disk->waits[slot].used)
        slot++;
    if (slot == SIM_DISK_SYNCS)
        return -EBUSY;
    disk->waits[slot] = (struct sim_disk_sync_wait){
        .used = true,
        .file = file,
        .limit = disk->change_number,
        .done = done,
        .owner = owner,
        .argument = argument,
        .generation = disk->generation,
    };
    sim_events_add(disk->events, disk_sync_time(disk), disk_wait_over, disk,
                   (uint64_t)disk->generation << 8 | slot);
    return 0;
}

void sim_disk_unhang(struct sim_disk *disk)
{
    if (!disk->hung)
        return;
    disk->hung = false;
    for (unsigned slot = 0; slot < SIM_DISK_SYNCS; slot++)
        if (disk->waits[slot].used)
            sim_events_add(disk->events, disk_sync_time(disk), disk_wait_over, disk,
                           (uint64_t)disk->generation << 8 | slot);
}

void sim_disk_killed(struct sim_disk *disk)
{
    memset(disk->waits, 0, sizeof(disk->waits));
    for (int i = 0; i < SIM_DISK_FILES; i++)
        disk->files[i].holders = 0;
    disk->generation++;
    disk->hung = disk->dead = false;
    disk->crash_after = 0;
}

void sim_disk_crash(struct sim_disk *disk)
{
    unsigned kept = (unsigned)sim_random_below(&disk->random, disk->history_count);

    if (kept + 1 < disk->history_count)
        disk->counts.renames_lost++;
    disk->directory = disk->history[kept];
    disk->history[0] = disk->directory;
    disk->history_count = 1;
    disk->used = 0;
    for (int i = 0; i < SIM_DISK_FILES; i++) {
        struct sim_disk_file *file = &disk->files[i];

        if (!file->used)
            continue;
        file_gamble_all(disk, file, UINT64_MAX);
        bytes_grow(&file->cache, &file->cache_room, file->durable_size);
        memcpy(file->cache, file->durable, file->durable_size);
        file->cache_size = file->durable_size;
        disk->used += file->cache_size;
    }
    sim_disk_killed(disk);
    disk_collect(disk);
}
