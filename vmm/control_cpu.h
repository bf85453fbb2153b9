// The control method "cpu": a machine's shares of CPU time, while it runs.
#pragma once

#include <jansson.h>

#include "base/control_server.h"
#include "vmm/machine.h"

void control_cpu(struct machine *machine, struct control_request *request, json_t *params);
