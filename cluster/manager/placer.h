// Placement (cluster/placement) over what a view of the store shows: for the manager, which
// decides, and for `ferry vm explain`, which says why.
#pragma once

#include "cluster/placement/placement.h"
#include "cluster/records/view.h"

enum { PLACER_CPU_RATIO = 4000 }; // vCPUs for each CPU, in thousandths

// All hosts and machines of the view; NULL without memory. Names belong to it.
struct placement *placer_create(const struct record_view *view);
