#include "disk_files.h"

#include <errno.h>
#include <string.h>

static void between(struct sim_disk_files *adapter)
{
    if (adapter->between)
        adapter->between(adapter->context);
}

static bool mute(const struct sim_disk_files *adapter)
{
    return adapter->lie == SIM_DISK_LIES_MUTE && adapter->mute;
}

static int adapter_open(void *context, const char *name, unsigned flags, int *handle)
{
    struct sim_disk_files *adapter = context;
    int file;

    between(adapter);
    file = sim_disk_open(adapter->disk, name, flags & FILES_CREATE);
    if (file < 0)
        return file;
    for (int h = 0; h < SIM_DISK_HANDLES; h++) {
        if (adapter->handles[h].used)
            continue;
        adapter->handles[h] = (struct sim_disk_handle){
            .used = true,
            .through = flags & FILES_DSYNC,
            .direct = flags & FILES_DIRECT,
            .file = file,
        };
        sim_disk_hold(adapter->disk, file);
        *handle = h;
        return 0;
    }
    return -EMFILE;
}

static void adapter_close(void *context, int handle)
{
    struct sim_disk_files *adapter = context;

    if (!adapter->handles[handle].used)
        return;
    adapter->handles[handle].used = false;
    sim_disk_release(adapter->disk, adapter->handles[handle].file);
}

static int adapter_size(void *context, int handle, uint64_t *size)
{
    struct sim_disk_files *adapter = context;

    *size = sim_disk_size(adapter->disk, adapter->handles[handle].file);
    return 0;
}

static int adapter_read(void *context, int handle, uint64_t offset, void *bytes, size_t length,
                        size_t *got)
{
    struct sim_disk_files *adapter = context;
    long result =
        sim_disk_read(adapter->disk, adapter->handles[handle].file, offset, bytes, length);

    if (result < 0)
        return (int)result;
    *got = (size_t)result;
    return 0;
}

static int adapter_sync(void *context, int handle)
{
    struct sim_disk_files *adapter = context;

    between(adapter);
    if (adapter->lie == SIM_DISK_LIES_SYNC || mute(adapter))
        return 0;
    return sim_disk_sync(adapter->disk, adapter->handles[handle].file);
}

static int adapter_write(void *context, int handle, uint64_t offset, const void *bytes,
                         size_t length)
{
    struct sim_disk_files *adapter = context;
    int error;

    if (length == 0)
        return 0;
    if (adapter->handles[handle].direct &&
        ((offset | length | (uintptr_t)bytes) & (FILES_ALIGNMENT - 1)))
        return -EINVAL;
    between(adapter);
    if (mute(adapter))
        return 0;
    error = sim_disk_write(adapter->disk, adapter->handles[handle].file, offset, bytes, length);
    // Power may fail between the two: then the write is torn.
    if (!error && adapter->handles[handle].through && adapter->lie != SIM_DISK_LIES_THROUGH)
        error = sim_disk_sync(adapter->disk, adapter->handles[handle].file);
    return error;
}

static int adapter_rename(void *context, const char *from, const char *to)
{
    struct sim_disk_files *adapter = context;

    between(adapter);
    return sim_disk_rename(adapter->disk, from, to);
}

static int adapter_remove(void *context, const char *name)
{
    struct sim_disk_files *adapter = context;

    between(adapter);
    return sim_disk_remove(adapter->disk, name);
}

static int adapter_sync_directory(void *context)
{
    struct sim_disk_files *adapter = context;

    between(adapter);
    if (adapter->lie == SIM_DISK_LIES_DIRECTORY)
        return 0;
    return sim_disk_sync_directory(adapter->disk);
}

static int adapter_list(void *context, void (*each)(void *opaque, const char *name), void *opaque)
{
    struct sim_disk_files *adapter = context;
    const struct sim_disk_directory *directory = &adapter->disk->directory;

    for (unsigned i = 0; i < directory->count; i++)
        each(opaque, directory->names[i].name);
    return 0;
}

void sim_disk_files_init(struct sim_disk_files *adapter, struct sim_disk *disk, struct files *files)
{
    memset(adapter, 0, sizeof(*adapter));
    adapter->disk = disk;
    *files = (struct files){
        .context = adapter,
        .open = adapter_open,
        .close = adapter_close,
        .size = adapter_size,
        .read = adapter_read,
        .write = adapter_write,
        .sync = adapter_sync,
        .rename = adapter_rename,
        .remove = adapter_remove,
        .sync_directory = adapter_sync_directory,
        .list = adapter_list,
    };
}

void sim_disk_files_forget(struct sim_disk_files *adapter)
{
    memset(adapter->handles, 0, sizeof(adapter->handles));
}
