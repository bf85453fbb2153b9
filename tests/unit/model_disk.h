// A disk in memory for tests, which forgets at a crash what was not synced.
//
// Every operation that changes something is counted; at operation number `crash_at` the machine
// loses power: of a write, `torn_bytes` still arrive; then everything fails until
// model_disk_restart() decides what is left. Names are kept up to some point of what happened since
// the last directory sync, writes by the rule asked for.
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/wal/files.h"

enum { MODEL_FILES = 96, MODEL_HISTORY = 24, MODEL_SECTOR = 512, MODEL_HANDLES = 32 };

struct model_write {
    struct model_write *next;
    uint64_t offset;
    size_t length;
    uint8_t bytes[];
};

struct model_bytes {
    uint8_t *data;
    size_t size;
};

struct model_file {
    struct model_bytes cache, durable;
    struct model_write *pending, **pending_end;
};

struct model_names {
    char name[MODEL_FILES][FILES_NAME_SIZE];
    int file[MODEL_FILES];
    int count;
};

struct model_handle {
    int file;
    bool used, through;
};

enum model_keep { MODEL_KEEP_NONE, MODEL_KEEP_ALL, MODEL_KEEP_SECTORS };

struct model_disk {
    struct model_file files[MODEL_FILES];
    struct model_names history[MODEL_HISTORY]; // [0] is durable, the last one is what is seen
    int history_count;
    struct model_handle handles[MODEL_HANDLES];
    uint64_t operations;
    uint64_t crash_at; // 0: never
    bool dead;
    size_t torn_bytes;
    bool last_was_write;   // the crash came at a write,
    size_t last_length;    // of this length
    uint64_t fail_sync_at; // this operation, if a sync, fails and loses what it should have kept
    uint64_t capacity;     // bytes in all files together; 0: no limit
    uint64_t random;
};

static inline uint64_t model_random(struct model_disk *disk)
{
    disk->random ^= disk->random << 13;
    disk->random ^= disk->random >> 7;
    disk->random ^= disk->random << 17;
    return disk->random;
}

static inline void model_store(struct model_bytes *bytes, uint64_t offset, const void *from,
                               size_t length)
{
    if (offset + length > bytes->size) {
        bytes->data = realloc(bytes->data, offset + length);
        memset(bytes->data + bytes->size, 0, offset + length - bytes->size);
        bytes->size = offset + length;
    }
    if (length)
        memcpy(bytes->data + offset, from, length);
}

static inline struct model_names *model_seen(struct model_disk *disk)
{
    return &disk->history[disk->history_count - 1];
}

// Counts an operation; true if the machine is alive after it.
static inline bool model_step(struct model_disk *disk)
{
    disk->operations++;
    if (!disk->dead && disk->operations == disk->crash_at) {
        disk->dead = true;
        disk->last_was_write = false;
    }
    return !disk->dead;
}

static inline struct model_names *model_change_names(struct model_disk *disk)
{
    if (disk->history_count == MODEL_HISTORY) // the oldest change becomes durable by itself
        memmove(&disk->history[0], &disk->history[1],
                (size_t)--disk->history_count * sizeof(disk->history[0]));
    disk->history[disk->history_count] = *model_seen(disk);
    disk->history_count++;
    return model_seen(disk);
}

static inline int model_find(const struct model_names *names, const char *name)
{
    for (int i = 0; i < names->count; i++)
        if (strcmp(names->name[i], name) == 0)
            return i;
    return -1;
}

static inline void model_name_remove(struct model_names *names, int at)
{
    names->count--;
    memmove(names->name[at], names->name[at + 1], (size_t)(names->count - at) * FILES_NAME_SIZE);
    memmove(&names->file[at], &names->file[at + 1],
            (size_t)(names->count - at) * sizeof(names->file[0]));
}

static inline bool model_file_in_use(const struct model_disk *disk, int file)
{
    for (int h = 0; h < MODEL_HANDLES; h++)
        if (disk->handles[h].used && disk->handles[h].file == file)
            return true;
    for (int h = 0; h < disk->history_count; h++)
        for (int i = 0; i < disk->history[h].count; i++)
            if (disk->history[h].file[i] == file)
                return true;
    return false;
}

static inline void model_forget_pending(struct model_file *file)
{
    while (file->pending) {
        struct model_write *write = file->pending;
        file->pending = write->next;
        free(write);
    }
    file->pending_end = &file->pending;
}

static inline void model_file_clear(struct model_file *file)
{
    model_forget_pending(file);
    free(file->cache.data);
    free(file->durable.data);
    *file = (struct model_file){0};
    file->pending_end = &file->pending;
}

static inline int model_file_new(struct model_disk *disk)
{
    for (int i = 0; i < MODEL_FILES; i++) {
        if (!model_file_in_use(disk, i)) {
            model_file_clear(&disk->files[i]);
            return i;
        }
    }
    return -1;
}

static inline int model_open(void *context, const char *name, unsigned flags, int *handle)
{
    struct model_disk *disk = context;
    int at = model_find(model_seen(disk), name);
    if (at < 0) {
        if (!(flags & FILES_CREATE))
            return -ENOENT;
        if (!model_step(disk))
            return -EIO;
        int file = model_file_new(disk);
        struct model_names *names = model_change_names(disk);
        if (file < 0 || names->count == MODEL_FILES)
            return -ENFILE;
        at = names->count++;
        strcpy(names->name[at], name);
        names->file[at] = file;
    }
    for (int h = 0; h < MODEL_HANDLES; h++) {
        if (disk->handles[h].used)
            continue;
        disk->handles[h] = (struct model_handle){
            .file = model_seen(disk)->file[at], .used = true, .through = flags & FILES_DSYNC};
        *handle = h;
        return 0;
    }
    return -EMFILE;
}

static inline void model_close(void *context, int handle)
{
    struct model_disk *disk = context;
    disk->handles[handle].used = false;
}

static inline int model_size(void *context, int handle, uint64_t *size)
{
    struct model_disk *disk = context;
    *size = disk->files[disk->handles[handle].file].cache.size;
    return 0;
}

static inline int model_read(void *context, int handle, uint64_t offset, void *bytes, size_t length,
                             size_t *got)
{
    struct model_disk *disk = context;
    struct model_bytes *cache = &disk->files[disk->handles[handle].file].cache;
    *got = offset < cache->size ? cache->size - offset : 0;
    if (*got > length)
        *got = length;
    if (*got)
        memcpy(bytes, cache->data + offset, *got);
    return 0;
}

static inline void model_sync_file(struct model_file *file)
{
    for (struct model_write *write = file->pending; write; write = write->next)
        model_store(&file->durable, write->offset, write->bytes, write->length);
    model_forget_pending(file);
}

static inline void model_add_pending(struct model_file *file, uint64_t offset, const void *bytes,
                                     size_t length)
{
    struct model_write *write = malloc(sizeof(*write) + length);
    *write = (struct model_write){.offset = offset, .length = length};
    memcpy(write->bytes, bytes, length);
    *file->pending_end = write;
    file->pending_end = &write->next;
    model_store(&file->cache, offset, bytes, length);
}

static inline uint64_t model_used(const struct model_disk *disk)
{
    uint64_t used = 0;
    for (int i = 0; i < MODEL_FILES; i++)
        if (model_file_in_use(disk, i))
            used += disk->files[i].cache.size;
    return used;
}

static inline int model_write(void *context, int handle, uint64_t offset, const void *bytes,
                              size_t length)
{
    struct model_disk *disk = context;
    struct model_file *file = &disk->files[disk->handles[handle].file];
    bool was_dead = disk->dead;
    if (length == 0)
        return 0;
    if (!model_step(disk)) {
        if (was_dead)
            return -EIO;
        disk->last_was_write = true;
        disk->last_length = length;
        model_add_pending(file, offset, bytes,
                          disk->torn_bytes < length ? disk->torn_bytes : length);
        return -EIO;
    }
    if (disk->capacity && offset + length > file->cache.size &&
        model_used(disk) + offset + length - file->cache.size > disk->capacity)
        return -ENOSPC;
    model_add_pending(file, offset, bytes, length);
    if (disk->handles[handle].through)
        model_sync_file(file);
    return 0;
}

static inline int model_sync(void *context, int handle)
{
    struct model_disk *disk = context;
    struct model_file *file = &disk->files[disk->handles[handle].file];
    if (!model_step(disk))
        return -EIO;
    if (disk->operations == disk->fail_sync_at) {
        // As kernels do: the cache shows the bytes, is clean, and they never reach the disk.
        model_forget_pending(file);
        return -EIO;
    }
    model_sync_file(file);
    return 0;
}

static inline int model_rename(void *context, const char *from, const char *to)
{
    struct model_disk *disk = context;
    if (!model_step(disk))
        return -EIO;
    struct model_names *names = model_change_names(disk);
    int old = model_find(names, to);
    if (old >= 0)
        model_name_remove(names, old);
    int at = model_find(names, from);
    if (at < 0)
        return -ENOENT;
    strcpy(names->name[at], to);
    return 0;
}

static inline int model_remove(void *context, const char *name)
{
    struct model_disk *disk = context;
    if (model_find(model_seen(disk), name) < 0)
        return -ENOENT;
    if (!model_step(disk))
        return -EIO;
    struct model_names *names = model_change_names(disk);
    model_name_remove(names, model_find(names, name));
    return 0;
}

static inline int model_sync_directory(void *context)
{
    struct model_disk *disk = context;
    if (!model_step(disk))
        return -EIO;
    disk->history[0] = *model_seen(disk);
    disk->history_count = 1;
    return 0;
}

static inline int model_list(void *context, void (*each)(void *opaque, const char *name),
                             void *opaque)
{
    struct model_disk *disk = context;
    const struct model_names *names = model_seen(disk);
    for (int i = 0; i < names->count; i++)
        each(opaque, names->name[i]);
    return 0;
}

static inline void model_disk_init(struct model_disk *disk, struct files *files, uint64_t seed)
{
    memset(disk, 0, sizeof(*disk));
    disk->history_count = 1;
    disk->random = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < MODEL_FILES; i++)
        disk->files[i].pending_end = &disk->files[i].pending;
    *files = (struct files){
        .context = disk,
        .open = model_open,
        .close = model_close,
        .size = model_size,
        .read = model_read,
        .write = model_write,
        .sync = model_sync,
        .rename = model_rename,
        .remove = model_remove,
        .sync_directory = model_sync_directory,
        .list = model_list,
    };
}

static inline void model_disk_free(struct model_disk *disk)
{
    for (int i = 0; i < MODEL_FILES; i++)
        model_file_clear(&disk->files[i]);
}

static inline void model_keep_sectors(struct model_disk *disk, struct model_file *file,
                                      const struct model_write *write)
{
    size_t at = 0;
    while (at < write->length) {
        size_t part = MODEL_SECTOR - (write->offset + at) % MODEL_SECTOR;
        if (part > write->length - at)
            part = write->length - at;
        if (model_random(disk) & 1)
            model_store(&file->durable, write->offset + at, write->bytes + at, part);
        at += part;
    }
}

// The power is back: this is left of what was not synced.
static inline void model_disk_restart(struct model_disk *disk, enum model_keep keep)
{
    int names = disk->history_count - 1;
    if (keep == MODEL_KEEP_NONE)
        names = 0;
    else if (keep == MODEL_KEEP_SECTORS)
        names = (int)(model_random(disk) % (uint64_t)disk->history_count);
    disk->history[0] = disk->history[names];
    disk->history_count = 1;
    for (int i = 0; i < MODEL_FILES; i++) {
        struct model_file *file = &disk->files[i];
        for (struct model_write *write = file->pending; write; write = write->next) {
            if (keep == MODEL_KEEP_ALL)
                model_store(&file->durable, write->offset, write->bytes, write->length);
            else if (keep == MODEL_KEEP_SECTORS)
                model_keep_sectors(disk, file, write);
        }
        model_forget_pending(file);
        free(file->cache.data);
        file->cache = (struct model_bytes){0};
        if (file->durable.size)
            model_store(&file->cache, 0, file->durable.data, file->durable.size);
    }
    memset(disk->handles, 0, sizeof(disk->handles));
    disk->dead = false;
    disk->crash_at = 0;
    disk->fail_sync_at = 0;
    disk->operations = 0;
}

// The process died, the machine didn't: the cache is as it was.
static inline void model_disk_process_died(struct model_disk *disk)
{
    memset(disk->handles, 0, sizeof(disk->handles));
    disk->dead = false;
    disk->crash_at = 0;
    disk->fail_sync_at = 0;
}
