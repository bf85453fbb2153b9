// A machine's methods on its control socket (docs/control.md): the table of them, and the events.
// The transport is control_server.h.
#pragma once

#include <jansson.h>
#include <uv.h>

#include "base/error.h"
#include "vmm/machine.h"

struct control;

// `listen_fd` is the bound control.sock and belongs to the control once this succeeded; `machine`
// outlives it. 0 or -errno with a sentence.
int control_create(struct control **control, uv_loop_t *loop, int listen_fd,
                   struct machine *machine, struct error *err);
// Methods of another part, answered as the machine's own; `service` outlives the control, which
// links it into its list (service->more).
struct control_service;
void control_add_service(struct control *control, struct control_service *service);
// Sends an event of another room. Takes `data` over.
void control_event(struct control *control, const char *event, json_t *data);
// NULL is allowed.
void control_destroy(struct control *control);

// Tells subscribers; to be called from the machine's listener.
void control_machine_event(struct control *control, enum machine_event event);
void control_device_event(struct control *control, const char *event, const char *id);
// Calls `done` when what is queued for clients was sent, or after a second.
void control_drain(struct control *control, void (*done)(void *opaque), void *opaque);

// For methods that change who runs the machine: a managed one's epoch must be in `params`
// ("epoch"). 0, or -EPERM with a sentence.
int control_check_epoch(const struct machine *machine, const json_t *params, struct error *err);

// Why and how a machine ended, as the event "stopped" and exit.json have it: a new object.
json_t *control_exit_status(const struct machine *machine);
