// libnbd, loaded with the first disk of an NBD server, for the reasons of base/gnutls_library.h: it
// brings a dozen libraries, and hardly any machine has such a disk.
//
// Calls go through the table: nbd_library.nbd_create(). A function that is used for the first time
// needs a line below.
#pragma once

#include <libnbd.h>

#include "base/error.h"

#define NBD_LIBRARY_FUNCTIONS(X)                                                                   \
    X(nbd_aio_connect_socket)                                                                      \
    X(nbd_aio_flush)                                                                               \
    X(nbd_aio_get_direction)                                                                       \
    X(nbd_aio_get_fd)                                                                              \
    X(nbd_aio_is_closed)                                                                           \
    X(nbd_aio_is_dead)                                                                             \
    X(nbd_aio_is_processing)                                                                       \
    X(nbd_aio_is_ready)                                                                            \
    X(nbd_aio_pread)                                                                               \
    X(nbd_aio_pwrite)                                                                              \
    X(nbd_aio_trim)                                                                                \
    X(nbd_aio_zero)                                                                                \
    X(nbd_can_flush)                                                                               \
    X(nbd_can_trim)                                                                                \
    X(nbd_can_zero)                                                                                \
    X(nbd_close)                                                                                   \
    X(nbd_create)                                                                                  \
    X(nbd_get_error)                                                                               \
    X(nbd_get_size)                                                                                \
    X(nbd_is_read_only)                                                                            \
    X(nbd_poll)                                                                                    \
    X(nbd_set_export_name)

struct nbd_library {
#define NBD_LIBRARY_MEMBER(name) __typeof__(name) *name;
    NBD_LIBRARY_FUNCTIONS(NBD_LIBRARY_MEMBER)
#undef NBD_LIBRARY_MEMBER
};

// Written once, by the first call of nbd_library_load(); only read afterwards.
extern struct nbd_library nbd_library;

// 0, or -ENOSYS with a sentence when this host has no libnbd. Not from a thread that may open
// nothing.
int nbd_library_load(struct error *err);
