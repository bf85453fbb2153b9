// What a source says of its machine before it sends a page, as JSON: the machine's description, its
// CPUID, the sizes of its images and how many data connections it wants. Hostile when it arrives.
#pragma once

#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm/cpuid.h"
#include "vmm/machine_config.h"

struct migrate_description {
    struct machine_config config;
    struct cpuid_table cpuid;
    uint64_t image_size[2]; // kernel, initrd; 0 for none
    unsigned streams;
    char version[32]; // of the source's ferry
};

// 0 or a sentence.
int migrate_description_encode(const struct migrate_description *description, struct byte_writer *w,
                               struct error *err);
// The configuration in it is then the caller's to free. Checked as a command line's would be.
int migrate_description_decode(struct migrate_description *description, const void *data,
                               size_t length, struct error *err);
