// Whether a kernel image can be expected to run on this host's KVM.
#pragma once

#include "base/error.h"
#include "base/runtime_dir.h"
#include "vmm/machine_config.h"

// Where KVM emulates ring 0 only images that live at CPL 3 get far. Another one is refused with a
// sentence, unless `force` is set; with debug_exit it is only a warning. 0 or -errno.
int image_check(const struct runtime_dir *dir, const struct machine_config *config, int kvm_fd,
                int kernel_fd, struct error *err);
