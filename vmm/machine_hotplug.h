// Devices that come and go while the machine runs. Main thread.
//
// All of it is refused while a move or a snapshot is under way, and by a machine that has ended. A
// device that goes is gone whole before its memory is: no vCPU in a handler of its, doorbells,
// vectors and address ranges given back, its thread ended, its disk unlocked.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "devices/block/block_backend.h"
#include "vmm/machine.h"

enum { MACHINE_ID_SIZE = 24 };

// Whether devices may be changed now; else a sentence.
int machine_devices_may_change(const struct machine *machine, struct error *err);
// Adds a disk as an element of the description's "disks" has it; `fd` is its open image, which is
// locked here, or a descriptor of a connected disk's control socket. `connected` is an NBD disk's
// backend, so that nothing here waits for its server, NULL for files. The guest is told. On success
// descriptor and backend are the machine's.
int machine_add_disk(struct machine *machine, json_t *disk, int fd, struct block_backend *connected,
                     char id[MACHINE_ID_SIZE], struct error *err);
// The same for a network: a descriptor a queue pair.
int machine_add_net(struct machine *machine, json_t *net, const int *fds, unsigned fd_count,
                    uint16_t mtu, char id[MACHINE_ID_SIZE], struct error *err);
// Asks the guest to give a disk or network up: "device-removed" tells that it has. With `force` it
// is removed now, which the guest may take badly: *gone says whether it is.
int machine_remove_device(struct machine *machine, const char *id, bool force, bool *gone,
                          struct error *err);
// Makes a disk's image larger (0: only looks how large it is) and tells the guest. *size is what it
// is then.
int machine_resize_disk(struct machine *machine, const char *id, uint64_t *size, struct error *err);
// Changes what the object has of the limits of a disk or a network, for good: the description has
// them from now on. *now is what they are then.
int machine_set_limits(struct machine *machine, const char *id, const json_t *limits, json_t **now,
                       struct error *err);
// Plugs a network's cable in or out, as the guest sees it; a reset or a move leaves it so.
int machine_set_link(struct machine *machine, const char *id, bool up, struct error *err);
// A new array with an object a device on the PCI bus; NULL without memory.
json_t *machine_list_devices(struct machine *machine);
