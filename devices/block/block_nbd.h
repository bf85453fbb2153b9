// Disks of an NBD server, through libnbd: nbd://HOST[:PORT][/EXPORT], or
// nbd+unix:///[EXPORT]?socket=PATH.
//
// The connection comes from somebody else, as a network's (devices/net/net_stream.h): on a control
// socket (SOCK_SEQPACKET) a message with a descriptor is a new connection, one without says in
// words why there is none. So a machine that is shut in connects to nobody by itself.
//
// When the connection ends, what is in flight fails with EIO (whether the server did it isn't
// known), and so does everything until the next one: the guest gets I/O errors, never a dead
// machine. A server that comes back with a smaller disk, or a read-only one, isn't taken.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/error.h"
#include "devices/block/block_backend.h"

enum { BLOCK_NBD_TEXT = 200 }; // a message's limit, with its terminating zero

struct block_nbd_place {
    char host[256], port[8]; // or
    char path[108];          // of a Unix socket; "" for none
    char export_name[256];
};

// Whether a disk's path is such an address.
bool block_nbd_is_address(const char *path);
// 0 or a sentence that names the address.
int block_nbd_parse(const char *address, struct block_nbd_place *place, struct error *err);

// Waits for the first connection and the server's greeting, some seconds at most, and no longer
// once *cancelled is true (NULL: for nobody to say so); any thread may, which needn't be that of
// the disk. The control socket belongs to the backend from success on. 0 or a sentence that names
// the address.
int block_nbd_create(struct block_backend **backend, int control_fd, const char *address,
                     const struct block_file_config *config, const atomic_bool *cancelled,
                     struct error *err);
