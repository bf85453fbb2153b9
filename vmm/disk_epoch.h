// Which machine a disk belongs to, and under which epoch it was used last: a small file beside the
// image, IMAGE.epoch. It is the second barrier against two users of a disk: whoever has the image's
// lock looks here before its first read or write, and an owner that was replaced finds an epoch
// larger than its own.
//
// The file has two slots of 4096 bytes, written in turn and synced, so that a loss of power in the
// middle of a write leaves the slot before: magic "ferryEP1", 16 bytes uuid, u64 epoch, u32 CRC-32C
// of these, little-endian. The larger epoch of the valid ones counts.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/ids.h"

// Opens the file beside the image `path`, which is open as `image_fd`. `create` makes one that
// isn't there (durably): for the first start of a machine only, since an image without the file
// isn't the machine's, but perhaps an empty directory where a file system should be mounted. A
// block device has no place beside it: refused. The descriptor, or -errno with a sentence.
int disk_epoch_open(int image_fd, const char *path, bool create, struct error *err);
// Whether there is one.
bool disk_epoch_exists(const char *path);
// The image's lock is held: checks that the disk is the machine's and that no epoch above `most`
// used it
// (`most` <= `epoch`), then stores `epoch`, on stable storage. `create` as above. 0; -ESTALE when a
// later owner has used the disk; -EPERM when it is another machine's or nobody's; -errno.
int disk_epoch_claim(int fd, const char *path, const struct uuid *uuid, uint64_t epoch,
                     uint64_t most, bool create, struct error *err);
