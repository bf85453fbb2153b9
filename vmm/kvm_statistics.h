// KVM's binary statistics (Linux Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).
#pragma once

#include <stdint.h>

// One value by its name, 0 when it isn't there.
uint64_t kvm_statistic(int fd, const char *name);
