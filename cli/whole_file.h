// A file that appears under its name only when all of it is on the disk, readable by its owner
// alone.
#pragma once

#include <limits.h>
#include <stdio.h>

#include "base/error.h"

struct whole_file {
    const char *path; // the caller's
    char partial[PATH_MAX];
    FILE *stream; // readable too
};

// 0 or a sentence, -EBUSY when somebody else is writing it. A signal (but SIGKILL) that ends the
// process before whole_file_end() removes it; what a killed attempt left is overwritten.
int whole_file_open(struct whole_file *file, const char *path, struct error *err);
// Ends it, one way or the other: with `error` 0 the file is there afterwards, unless this fails (a
// sentence); else nothing is left, and `error` is returned.
int whole_file_end(struct whole_file *file, int error, struct error *err);
