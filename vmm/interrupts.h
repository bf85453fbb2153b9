// Interrupt lines, MSI vectors and doorbells on KVM: routes, irqfd, ioeventfd.
//
// The route table holds the 24 IOAPIC pins (the first 16 also at the PIC), and one MSI route for
// each vector that the guest has programmed, at GSI 24 + vector. KVM takes the table only as a
// whole, which waits for a grace period in the kernel, so it is written when an unmasked vector's
// message changed and at no other time.
//
// Threads: any; the mutex guards the vectors and the table.
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/machine_ops.h"
#include "vmm/kvm.h"

enum { INTERRUPT_VECTORS = 1024 };

struct msi_vector {
    bool used;
    bool attached; // the irqfd is registered: KVM delivers
    bool routed;   // the table has a route for it, with the message below
    int event_fd;
    uint64_t address;
    uint32_t data;
};

struct interrupts {
    const struct kvm *kvm;
    pthread_mutex_t lock;
    struct msi_vector *vectors; // grows up to INTERRUPT_VECTORS
    unsigned vector_count;
};

// Sets the pins' routes. 0 or a sentence.
int interrupts_init(struct interrupts *irqs, const struct kvm *kvm, struct error *err);
void interrupts_destroy(struct interrupts *irqs);

void interrupts_line(struct interrupts *irqs, uint32_t gsi, bool level);
int interrupts_msi_new(struct interrupts *irqs, int *event_fd);
int interrupts_msi_update(struct interrupts *irqs, int vector, uint64_t address, uint32_t data,
                          bool masked);
void interrupts_msi_free(struct interrupts *irqs, int vector);
int interrupts_doorbell(struct interrupts *irqs, const struct doorbell *doorbell, bool add);
