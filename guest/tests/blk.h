#pragma once

#include <stdbool.h>

#include "guest/drivers/virtio_blk.h"

// mode=bench of the blk test, on a disk that's open but has no queues yet.
bool blk_bench(struct blk *blk);
