// The method and the event "balloon" of a machine's control socket (docs/control.md).
#pragma once

#include <uv.h>

#include "base/error.h"
#include "vmm/control.h"
#include "vmm/machine.h"

struct control_balloon;

int control_balloon_create(struct control_balloon **balloon, uv_loop_t *loop,
                           struct control *control, struct machine *machine, struct error *err);
// After the control's server. Its handle is gone when the loop has run once more. NULL is allowed.
void control_balloon_destroy(struct control_balloon *balloon);
// MACHINE_EVENT_BALLOON came.
void control_balloon_changed(struct control_balloon *balloon);
