// The guest's time over a move: kvmclock and each vCPU's TSC.
//
// Saved: kvmclock with, where KVM gives them, the host's real time and TSC of the same instant; and
// each vCPU's TSC offset to the host's. Put back by one rule for all vCPUs (Linux,
// Documentation/virt/kvm/devices/vcpu.rst, 4.1): kvmclock advances by the real time that passed,
// and the TSCs by the same time, so that neither goes backwards and they keep their distances.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm/machine_config.h"
#include "vmm/vcpu.h"

struct machine_clock {
    uint64_t kvmclock_ns;
    bool has_realtime, has_host_tsc;
    uint64_t realtime_ns; // of the host, when kvmclock was read
    uint64_t host_tsc;    // likewise
    uint32_t tsc_khz;     // of the guest's TSC; 0 = KVM doesn't say
    uint32_t vcpu_count;
    uint64_t tsc[MACHINE_CPUS_LIMIT];        // each vCPU's TSC when it was read
    uint64_t tsc_offset[MACHINE_CPUS_LIMIT]; // guest TSC - host TSC; valid when has_offsets
    bool has_offsets;
};

// The vCPUs are parked.
int machine_clock_get(struct machine_clock *clock, const struct vcpus *vcpus, struct error *err);
// `advance`: by the real time since (a move); otherwise time continues from the saved values (a
// restore). -ENOTSUP with a sentence when the TSC's frequency can't be kept.
int machine_clock_put(const struct machine_clock *clock, const struct vcpus *vcpus, bool advance,
                      struct error *err);
void machine_clock_save(const struct machine_clock *clock, struct byte_writer *w);
int machine_clock_load(struct machine_clock *clock, struct byte_reader *r, struct error *err);
