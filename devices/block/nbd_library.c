#include "devices/block/nbd_library.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

struct nbd_library nbd_library;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool loaded; // written under `once`

static void load(void)
{
    // Stays for as long as the process, as its disks may.
    void *library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
#define FIND(name)                                                                                 \
    nbd_library.name = (__typeof__(name) *)dlsym(library, #name);                                  \
    if (!nbd_library.name)                                                                         \
        return;
    NBD_LIBRARY_FUNCTIONS(FIND)
#undef FIND
    loaded = true;
}

int nbd_library_load(struct error *err)
{
    pthread_once(&once, load);
    return loaded ? 0
                  : error_set(err, ENOSYS,
                              "disks of NBD servers need libnbd (libnbd.so.0), which this host "
                              "doesn't have or which is too old; install libnbd0");
}
