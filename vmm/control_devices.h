// The methods "device.add", "device.remove", "device.list" and "device.resize" of a machine's
// control socket (docs/control.md).
#pragma once

#include "base/control_server.h"

// Their table; the service's opaque is the machine.
extern const struct control_method control_device_methods[];
extern const char *const control_device_features[];
