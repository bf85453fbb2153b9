// The methods "device.add", "device.remove", "device.list", "device.resize" and "device.set" of a
// machine's control socket (docs/control.md).
//
// An NBD disk's server may take seconds for its greeting, or for ever: it is waited for by a
// thread, and the machine goes on. Whatever else is asked meanwhile is answered first.
#pragma once

#include <uv.h>

#include "base/error.h"
#include "vmm/control.h"
#include "vmm/machine.h"

struct control_devices;

int control_devices_create(struct control_devices **devices, uv_loop_t *loop,
                           struct control *control, struct machine *machine, struct error *err);
// After the control's server, before the machine. Who waits for a server is given up. Its memory is
// gone when the loop has run once more. NULL is allowed.
void control_devices_destroy(struct control_devices *devices);
