#define GNUTLS_LIBRARY_ITSELF
#include "base/gnutls_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

struct gnutls_library gnutls_library;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool loaded; // written under `once`

static void load(void)
{
    // Stays for as long as the process: sessions may be open until its end.
    void *library = dlopen("libgnutls.so.30", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return;
#define FIND(name)                                                                                 \
    gnutls_library.name = (__typeof__(name) *)dlsym(library, #name);                               \
    if (!gnutls_library.name)                                                                      \
        return;
    GNUTLS_LIBRARY_FUNCTIONS(FIND)
#undef FIND
    loaded = true;
}

int gnutls_library_load(struct error *err)
{
    pthread_once(&once, load);
    return loaded ? 0
                  : error_set(err, ENOSYS,
                              "TLS needs GnuTLS (libgnutls.so.30), which this host doesn't have or "
                              "which is too old; install libgnutls30");
}
