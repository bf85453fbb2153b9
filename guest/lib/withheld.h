// ferry's page of CPU time that it withheld from each vCPU (docs/scheduling.md), for guests that
// can't use KVM's steal-time record.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Whether the hypervisor has the page. Before withheld_ns(), on one vCPU.
bool withheld_start(void);
// Of this vCPU; 0 without the page.
uint64_t withheld_ns(void);
